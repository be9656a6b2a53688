/*
 * Overlays of disks: blockdev-snapshot, and block-commit of the topmost image
 *
 * Theory of operation: node and job bear the overlay's name, and all that there is to know is asked
 * of QEMU, so that a restarted agent can go on.  The job tells how it has ended until it is
 * dismissed, which is the last step: an overlay without a job has not been committed.  (One that has
 * must not be committed again: it would undo what the guest wrote since.)
 */
#include <string.h>

#include "base/error.h"
#include "base/json.h"
#include "vmm/qemu/block_job.h"

#define PREFIX "vmferry-over-"

static gboolean check_name(const char *name, GError **error)
{
    if (g_str_has_prefix(name, PREFIX))
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID,
              "the name of an overlay must begin with \"" PREFIX "\", and \"%s\" does not", name);
    return FALSE;
}

/* ---- begin ---- */

static gboolean add_node(Qmp *qmp, const VmmOverlay *overlay, GError **error)
{
    json_t *file = json_pack("{s:s, s:s}", "driver", "file", "filename", overlay->path);

    return qmp_run(qmp, "blockdev-add",
                   json_pack("{s:s, s:s, s:o, s:n}", "driver", "qcow2", "node-name", overlay->name,
                             "file", file, "backing"),
                   BLOCK_JOB_START_MS, error);
}

static gboolean put_above(Qmp *qmp, const VmmOverlay *overlay, GError **error)
{
    return qmp_run(qmp, "blockdev-snapshot",
                   json_pack("{s:s, s:s}", "node", overlay->node, "overlay", overlay->name),
                   BLOCK_JOB_START_MS, error);
}

gboolean qemu_check_overlay(QemuVmm *qemu, const VmmOverlay *overlay, GError **error)
{
    Qmp *qmp = qemu->qmp;
    gboolean right;

    if (!check_name(overlay->name, error) || !add_node(qmp, overlay, error))
        return FALSE;
    right = block_node_check_size(qmp, overlay->name, "the overlay", overlay->bytes, error);
    return block_node_remove(qmp, overlay->name, right ? error : NULL) && right;
}

gboolean qemu_begin_overlay(QemuVmm *qemu, const VmmOverlay *overlay, GError **error)
{
    Qmp *qmp = qemu->qmp;

    if (!check_name(overlay->name, error) ||
        !block_job_check_free(qemu, overlay->name, overlay->node, error) ||
        !add_node(qmp, overlay, error))
        return FALSE;
    if (block_node_check_size(qmp, overlay->name, "the overlay", overlay->bytes, error) &&
        put_above(qmp, overlay, error))
        return TRUE;
    (void)block_node_remove(qmp, overlay->name, NULL);
    return FALSE;
}

/* ---- commit ---- */

static gboolean start_job(Qmp *qmp, const char *name, GError **error)
{
    return qmp_run(qmp, "block-commit",
                   json_pack("{s:s, s:s, s:b}", "job-id", name, "device", name, "auto-dismiss", 0),
                   BLOCK_JOB_START_MS, error);
}

/* The image below takes the overlay's place. */
static gboolean complete_job(QemuVmm *qemu, const char *name, json_t **ret_ended, GError **error)
{
    return qmp_run(qemu->qmp, "block-job-complete", json_pack("{s:s}", "device", name),
                   BLOCK_JOB_END_MS, error) &&
           block_job_await_end(qemu, name, BLOCK_JOB_END_MS, NULL, ret_ended, error);
}

/* TRUE in *ret* where the image below is in the overlay's place.  A job that has ended without an
 * error has not done that where somebody has cancelled it. */
static gboolean is_replaced(Qmp *qmp, const char *name, json_t *job, gboolean *ret, GError **error)
{
    g_autoptr(json_t) graph =
        qmp_execute(qmp, "x-debug-query-block-graph", NULL, QMP_COMMAND_MS, error);

    *ret = !json_object_get(job, "error") && !qemu_copy_is_used(graph, name);
    return graph != NULL;
}

static void set_failure(Qmp *qmp, const char *name, json_t *job, GError **error)
{
    const char *failure = json_text_or(job, "error", NULL);

    if (failure)
        error_set(error, VMFERRY_ERROR_FAILED, "QEMU could not commit the overlay: %s", failure);
    else
        error_set(error, VMFERRY_ERROR_FAILED, "another program has ended the job \"%s\"", name);
    (void)block_job_dismiss(qmp, name, NULL);
}

/* *job* has ended. */
static gboolean clean_up(Qmp *qmp, const char *name, json_t *job, GError **error)
{
    g_autoptr(json_t) node = NULL;
    gboolean replaced;

    if (!is_replaced(qmp, name, job, &replaced, error))
        return FALSE;
    if (!replaced) {
        set_failure(qmp, name, job, error);
        return FALSE;
    }
    return block_node_query(qmp, name, &node, error) &&
           (!node || block_node_remove(qmp, name, error)) && block_job_dismiss(qmp, name, error);
}

static gboolean go_on(QemuVmm *qemu, const char *name, json_t *job, gboolean *ret_done,
                      GError **error)
{
    g_autoptr(json_t) ended = NULL;

    if (!block_job_is_over(job) && !json_flag_or(job, "ready", FALSE))
        return TRUE;
    if (block_job_is_over(job))
        ended = json_incref(job);
    else if (!complete_job(qemu, name, &ended, error))
        return FALSE;
    if (!ended) {
        error_set(error, VMFERRY_ERROR_FAILED, "another program has dismissed the job \"%s\"",
                  name);
        return FALSE;
    }
    *ret_done = clean_up(qemu->qmp, name, ended, error);
    return *ret_done;
}

gboolean qemu_commit_overlay(QemuVmm *qemu, const char *name, gboolean *ret_done, GError **error)
{
    g_autoptr(json_t) job = NULL, node = NULL;

    *ret_done = FALSE;
    if (!check_name(name, error) || !block_job_query(qemu->qmp, name, &job, error) ||
        !block_node_query(qemu->qmp, name, &node, error))
        return FALSE;
    if (job)
        return go_on(qemu, name, job, ret_done, error);
    *ret_done = !node;
    return !node || start_job(qemu->qmp, name, error);
}
