#include "vmm/qemu/block_job.h"

#include <string.h>

#include "base/error.h"
#include "base/json.h"
#include "base/log.h"
#include "guard/guard.h"

#define ORDERLY_MS 1000 /* until a job that can end in order has ended */
#define RESUME_ATTEMPTS 3u
#define LOOK_MS 50   /* between two looks at a job that says nothing */
#define FREE_MS 2000 /* until the ended job has let go of its node */

/* ---- jobs ---- */

gboolean block_job_query(Qmp *qmp, const char *name, json_t **ret, GError **error)
{
    g_autoptr(json_t) jobs = qmp_execute(qmp, "query-block-jobs", NULL, QMP_COMMAND_MS, error);
    json_t *job;
    size_t i;

    *ret = NULL;
    if (!jobs)
        return FALSE;
    json_array_foreach(jobs, i, job)
    {
        if (!*ret && strcmp(json_text_or(job, "device", ""), name) == 0)
            *ret = json_incref(job);
    }
    return TRUE;
}

gboolean block_job_is_over(json_t *job)
{
    static const char *const ends[] = {"concluded", "null", NULL};

    return !job || g_strv_contains(ends, json_text_or(job, "status", ""));
}

gboolean block_job_is_broken(json_t *job)
{
    return (json_flag_or(job, "paused", FALSE) && !json_flag_or(job, "busy", FALSE)) ||
           strcmp(json_text_or(job, "io-status", "ok"), "ok") != 0;
}

void block_job_wait_for_change(QemuVmm *qemu, gint changes)
{
    g_mutex_lock(&qemu->event_lock);
    if (g_atomic_int_get(&qemu->job_changes) == changes)
        g_cond_wait_until(&qemu->event_came, &qemu->event_lock,
                          g_get_monotonic_time() + LOOK_MS * 1000);
    g_mutex_unlock(&qemu->event_lock);
}

gboolean block_job_await_end(QemuVmm *qemu, const char *name, int timeout_ms, BlockJobCheck check,
                             json_t **ret, GError **error)
{
    gint64 deadline = g_get_monotonic_time() + (gint64)timeout_ms * 1000;

    for (;;) {
        gint changes = g_atomic_int_get(&qemu->job_changes);

        if (!block_job_query(qemu->qmp, name, ret, error))
            return FALSE;
        if (block_job_is_over(*ret))
            return TRUE;
        if (check && !check(*ret, name, error))
            return FALSE;
        g_clear_pointer(ret, json_decref);
        if (g_get_monotonic_time() >= deadline)
            break;
        block_job_wait_for_change(qemu, changes);
    }
    error_set(error, VMFERRY_ERROR_TIMEOUT, "QEMU did not end the job \"%s\" within %d ms", name,
              timeout_ms);
    return FALSE;
}

/* ---- removing ---- */

gboolean block_node_query(Qmp *qmp, const char *name, json_t **ret, GError **error)
{
    g_autoptr(json_t) nodes = qmp_execute(qmp, "query-named-block-nodes",
                                          json_pack("{s:b}", "flat", 1), QMP_COMMAND_MS, error);
    json_t *node;
    size_t i;

    *ret = NULL;
    json_array_foreach(nodes, i, node)
    {
        if (!*ret && strcmp(json_text_or(node, "node-name", ""), name) == 0)
            *ret = json_incref(node);
    }
    return nodes != NULL;
}

/* A job that has just ended may still have requests on the node. */
gboolean block_node_remove(Qmp *qmp, const char *name, GError **error)
{
    gint64 deadline = g_get_monotonic_time() + FREE_MS * 1000;

    for (;;) {
        g_autoptr(GError) failure = NULL;

        if (qmp_run(qmp, "blockdev-del", json_pack("{s:s}", "node-name", name), BLOCK_JOB_END_MS,
                    &failure))
            return TRUE;
        if (!error_is(failure, VMFERRY_ERROR_FAILED) || g_get_monotonic_time() >= deadline) {
            g_propagate_error(error, g_steal_pointer(&failure));
            return FALSE;
        }
        g_usleep(BLOCK_JOB_RETRY_US);
    }
}

gboolean block_job_dismiss(Qmp *qmp, const char *name, GError **error)
{
    return qmp_run(qmp, "job-dismiss", json_pack("{s:s}", "id", name), QMP_COMMAND_MS, error);
}

/* Refused where it has just ended by itself. */
static void cancel(QemuVmm *qemu, const char *name, gboolean force)
{
    (void)qmp_run(qemu->qmp, "block-job-cancel",
                  json_pack("{s:s, s:b}", "device", name, "force", force), BLOCK_JOB_END_MS, NULL);
}

/* A READY job, whose target serves: it holds the guest's writes up before it frees anything. */
static gboolean cancel_in_order(QemuVmm *qemu, const char *name, GError **error)
{
    gint64 deadline = g_get_monotonic_time() + (gint64)ORDERLY_MS * 1000;

    cancel(qemu, name, FALSE);
    for (;;) {
        gint changes = g_atomic_int_get(&qemu->job_changes);
        g_autoptr(json_t) job = NULL;

        if (!block_job_query(qemu->qmp, name, &job, error))
            return FALSE;
        if (block_job_is_over(job) || block_job_is_broken(job) ||
            g_get_monotonic_time() >= deadline)
            return TRUE;
        block_job_wait_for_change(qemu, changes);
    }
}

/* Where QEMU does not answer the guard tries it, too, once nobody holds the monitor. */
static gboolean resume(QemuVmm *qemu, Guard **guard, GError **error)
{
    for (guint i = 0; i < RESUME_ATTEMPTS; i++) {
        g_clear_error(error);
        if (qemu_resume(qemu, error))
            return TRUE;
        g_usleep(BLOCK_JOB_RETRY_US);
    }
    guard_leave(g_steal_pointer(guard));
    return FALSE;
}

/* Once it is cancelled, no write of the guest that begins waits for it.  A `stop` that was not answered
 * may come true all the same. */
static gboolean cancel_in_pause(QemuVmm *qemu, const char *name, GError **error)
{
    g_autoptr(GError) problem = NULL;
    g_autoptr(Guard) guard = NULL;
    GuardAction action;
    gboolean was_running;

    if (qemu_get_resume_action(qemu, &action, &problem))
        guard = guard_start(qemu->pid, &action, &problem);
    if (!guard)
        log_debug("pid %d is paused for a moment without a guard: %s", (int)qemu->pid,
                  problem->message);
    if (!qemu_pause(qemu, &was_running, error)) {
        (void)resume(qemu, &guard, NULL);
        return FALSE;
    }
    cancel(qemu, name, TRUE);
    return !was_running || resume(qemu, &guard, error);
}

static gboolean cancel_by_force(QemuVmm *qemu, const char *name, GError **error)
{
    g_autofree char *status = qemu_query_status(qemu->qmp, QMP_COMMAND_MS, error);

    if (!status)
        return FALSE;
    if (qemu_run_state_from_status(status) == VMM_RUN_STATE_RUNNING)
        return cancel_in_pause(qemu, name, error);
    cancel(qemu, name, TRUE);
    return TRUE;
}

static gboolean end_job(QemuVmm *qemu, const char *name, json_t *job, GError **error)
{
    g_autoptr(json_t) now = NULL;

    if (block_job_is_over(job))
        return TRUE;
    if (json_flag_or(job, "ready", FALSE) && !block_job_is_broken(job) &&
        !cancel_in_order(qemu, name, error))
        return FALSE;
    return block_job_query(qemu->qmp, name, &now, error) &&
           (block_job_is_over(now) || cancel_by_force(qemu, name, error));
}

/* Ends the job, whatever it does, and forgets it. */
static gboolean remove_job(QemuVmm *qemu, const char *name, GError **error)
{
    g_autoptr(json_t) job = NULL, ended = NULL;

    if (!block_job_query(qemu->qmp, name, &job, error))
        return FALSE;
    if (!job)
        return TRUE;
    return end_job(qemu, name, job, error) &&
           block_job_await_end(qemu, name, BLOCK_JOB_END_MS, NULL, &ended, error) &&
           (!ended || block_job_dismiss(qemu->qmp, name, error));
}

gboolean block_job_remove_all(QemuVmm *qemu, const char *name, GError **error)
{
    g_autoptr(json_t) node = NULL;

    return remove_job(qemu, name, error) && block_node_query(qemu->qmp, name, &node, error) &&
           (!node || block_node_remove(qemu->qmp, name, error));
}

gboolean block_node_add_nbd(Qmp *qmp, const char *name, const char *address,
                            const char *export_name, GError **error)
{
    json_t *server = json_pack("{s:s, s:s, s:b}", "type", "unix", "path", address, "abstract", 1);

    return qmp_run(qmp, "blockdev-add",
                   json_pack("{s:s, s:s, s:o, s:s}", "driver", "nbd", "node-name", name, "server",
                             server, "export", export_name),
                   BLOCK_JOB_START_MS, error);
}

gboolean block_node_check_size(Qmp *qmp, const char *name, const char *what, uint64_t wanted,
                               GError **error)
{
    g_autoptr(json_t) node = NULL;
    uint64_t bytes;

    if (!block_node_query(qmp, name, &node, error))
        return FALSE;
    bytes = json_count_or(json_object_get(node, "image"), "virtual-size", 0);
    if (bytes == wanted)
        return TRUE;
    error_set(error, VMFERRY_ERROR_REFUSED,
              "%s offers %" G_GUINT64_FORMAT " bytes for a disk of %" G_GUINT64_FORMAT " bytes",
              what, bytes, wanted);
    return FALSE;
}

gboolean block_job_read_filter(Qmp *qmp, QemuCopy *copy, GError **error)
{
    g_autoptr(json_t) graph =
        qmp_execute(qmp, "x-debug-query-block-graph", NULL, QMP_COMMAND_MS, error);

    if (graph)
        copy->filter = qemu_copy_find_filter(graph, copy->name);
    return graph != NULL;
}

gboolean block_job_check_paused(Qmp *qmp, const char *what, GError **error)
{
    g_autofree char *status = qemu_query_status(qmp, QMP_COMMAND_MS, error);

    if (status && qemu_run_state_from_status(status) == VMM_RUN_STATE_RUNNING) {
        error_set(error, VMFERRY_ERROR_FAILED, "%s while the guest is paused", what);
        return FALSE;
    }
    return status != NULL;
}

/* ---- others that are at work ---- */

gboolean block_job_check_free(QemuVmm *qemu, const char *name, const char *node, GError **error)
{
    for (guint i = 0; i < qemu->copies->len; i++) {
        const QemuCopy *copy = qemu->copies->pdata[i];

        if (strcmp(copy->name, name) != 0 && strcmp(copy->node, node) != 0)
            continue;
        error_set(error, VMFERRY_ERROR_EXISTS, "disk %s is being %s already (\"%s\")", copy->node,
                  copy->tap ? "tapped" : "copied", copy->name);
        return FALSE;
    }
    return TRUE;
}

gboolean block_job_check_no_other(QemuVmm *qemu, const char *node, GError **error)
{
    g_autoptr(json_t) graph =
        qmp_execute(qemu->qmp, "x-debug-query-block-graph", NULL, QMP_COMMAND_MS, error);
    g_autofree char *job = graph ? qemu_copy_find_job(graph, node) : NULL;

    if (job)
        error_set(error, VMFERRY_ERROR_BUSY, "block job \"%s\" works on disk %s", job, node);
    return graph && !job;
}
