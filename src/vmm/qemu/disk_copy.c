/* Copies of disks: a mirror job of QEMU onto an NBD server. */
#include <string.h>

#include "base/error.h"
#include "base/json.h"
#include "base/log.h"
#include "vmm/qemu/block_job.h"

#define FINISH_MS 30000 /* the rest of a READY copy, the guest being paused */
#define YANK_MS 2000

static const QemuCopy *need_copy(QemuVmm *qemu, const char *name, GError **error)
{
    const QemuCopy *copy = qemu_copy_find(qemu->copies, name);

    if (!copy)
        error_set(error, VMFERRY_ERROR_NOT_FOUND, "no copy \"%s\" of a disk is under way", name);
    return copy;
}

/* ---- jobs ---- */

/* FALSE with what QEMU says where the job has failed, or was ended by somebody else. */
static gboolean check_job(json_t *job, const char *name, GError **error)
{
    const char *status = json_text_or(job, "status", "");
    const char *failure = json_text_or(job, "error", NULL);

    if (failure)
        error_set(error, VMFERRY_ERROR_FAILED, "QEMU could not copy the disk: %s", failure);
    else if (block_job_is_broken(job))
        error_set(error, VMFERRY_ERROR_FAILED, "QEMU could not copy the disk: %s",
                  strcmp(json_text_or(job, "io-status", ""), "nospace") == 0
                      ? "no space is left"
                      : "reading it, or writing the copy, has failed");
    else if (block_job_is_over(job) || strcmp(status, "aborting") == 0)
        error_set(error, VMFERRY_ERROR_FAILED, "another program has ended the copy \"%s\"", name);
    else
        return TRUE;
    return FALSE;
}

/* Past the scan with which it starts: there is progress. */
static gboolean check_begun(Qmp *qmp, const char *name, GError **error)
{
    g_autoptr(json_t) job = NULL;

    if (!block_job_query(qmp, name, &job, error) || !check_job(job, name, error))
        return FALSE;
    if (json_flag_or(job, "ready", FALSE) || json_count_or(job, "offset", 0) > 0)
        return TRUE;
    error_set(error, VMFERRY_ERROR_BUSY, "the copy \"%s\" has not copied anything yet", name);
    return FALSE;
}

static gboolean check_ready(Qmp *qmp, const char *name, GError **error)
{
    g_autoptr(json_t) job = NULL;

    if (!block_job_query(qmp, name, &job, error) || !check_job(job, name, error))
        return FALSE;
    if (json_flag_or(job, "ready", FALSE))
        return TRUE;
    error_set(error, VMFERRY_ERROR_FAILED, "the copy \"%s\" is not complete yet", name);
    return FALSE;
}

/* ---- removing ---- */

static void forget(QemuVmm *qemu, const char *name)
{
    QemuCopy *copy = qemu_copy_find(qemu->copies, name);

    if (copy)
        g_ptr_array_remove(qemu->copies, copy);
}

void qemu_yank_copy(QemuVmm *qemu, const char *name)
{
    json_t *arguments =
        json_pack("{s:[{s:s, s:s}]}", "instances", "type", "block-node", "node-name", name);

    (void)qmp_run_oob(qemu->qmp, "yank", arguments, YANK_MS, NULL);
}

gboolean qemu_abort_copy(QemuVmm *qemu, const char *name, GError **error)
{
    if (!g_str_has_prefix(name, QEMU_COPY_PREFIX))
        return TRUE;
    if (!block_job_remove_all(qemu, name, error)) {
        g_prefix_error(error, "end the copy of a disk: ");
        return FALSE;
    }
    forget(qemu, name);
    return TRUE;
}

/* Entries of *command*'s answer whose *key* begins as names of copies or taps do. */
static void find_left(Qmp *qmp, const char *command, json_t *arguments, const char *key,
                      GHashTable *names)
{
    g_autoptr(json_t) list = qmp_execute(qmp, command, arguments, QMP_COMMAND_MS, NULL);
    json_t *entry;
    size_t i;

    json_array_foreach(list, i, entry)
    {
        const char *name = json_text_or(entry, key, "");

        if (g_str_has_prefix(name, QEMU_COPY_PREFIX) || g_str_has_prefix(name, QEMU_TAP_PREFIX))
            g_hash_table_add(names, g_strdup(name));
    }
}

void qemu_remove_left_copies(QemuVmm *qemu)
{
    g_autoptr(GHashTable) names = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    GHashTableIter iter;
    gpointer name;

    find_left(qemu->qmp, "query-jobs", NULL, "id", names);
    find_left(qemu->qmp, "query-named-block-nodes", json_pack("{s:b}", "flat", 1), "node-name",
              names);
    g_hash_table_iter_init(&iter, names);
    while (g_hash_table_iter_next(&iter, &name, NULL)) {
        g_autoptr(GError) failure = NULL;

        qemu_yank_copy(qemu, name);
        if (!block_job_remove_all(qemu, name, &failure))
            log_debug("pid %d keeps copy %s: %s", (int)qemu->pid, (char *)name, failure->message);
    }
}

/* ---- starting ---- */

static gboolean has_command(json_t *commands, const char *name)
{
    json_t *command;
    size_t i;

    json_array_foreach(commands, i, command)
    {
        if (strcmp(json_text_or(command, "name", ""), name) == 0)
            return TRUE;
    }
    return FALSE;
}

/* Versions of QEMU that have this command can make a job wait for each write of the guest later
 * on; older ones only from the start. */
static gboolean query_changes_jobs(QemuVmm *qemu, gboolean *ret, GError **error)
{
    g_autoptr(json_t) commands =
        qmp_execute(qemu->qmp, "query-commands", NULL, QMP_COMMAND_MS, error);

    *ret = has_command(commands, "block-job-change");
    return commands != NULL;
}

static gboolean check_start(QemuVmm *qemu, const VmmCopy *wanted, GError **error)
{
    if (!g_str_has_prefix(wanted->name, QEMU_COPY_PREFIX)) {
        error_set(error, VMFERRY_ERROR_INVALID,
                  "the name of a copy must begin with \"" QEMU_COPY_PREFIX
                  "\", and \"%s\" does not",
                  wanted->name);
        return FALSE;
    }
    return block_job_check_free(qemu, wanted->name, wanted->node, error);
}

/* With an error of the target (or of the source) the job stands still, and the guest is not
 * disturbed.  Without a name the filter is implicit. */
static gboolean add_job(Qmp *qmp, const VmmCopy *wanted, gboolean blocking, GError **error)
{
    json_t *arguments = json_pack(
        "{s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:i, s:b}", "job-id", wanted->name, "device",
        wanted->node, "target", wanted->name, "sync", wanted->top ? "top" : "full", "copy-mode",
        blocking ? "write-blocking" : "background", "on-source-error", "stop", "on-target-error",
        "stop", "buf-size", BLOCK_JOB_BUFFER_BYTES, "auto-dismiss", 0);

    return qmp_run(qmp, "blockdev-mirror", arguments, BLOCK_JOB_START_MS, error);
}

/* A job that copies less than all first looks for what is allocated, and since QEMU 8.2 (seen in
 * 10.0, in both modes) it loses what the guest writes meanwhile to where it has looked already.  A
 * job that copies all takes everything for changed, and looks for nothing. */
static gboolean loses_early_writes(const VmmCopy *wanted, gboolean changes_jobs)
{
    return wanted->top && changes_jobs;
}

static gboolean check_no_early_writes(Qmp *qmp, GError **error)
{
    g_autofree char *status = qemu_query_status(qmp, QMP_COMMAND_MS, error);

    if (status && qemu_run_state_from_status(status) == VMM_RUN_STATE_RUNNING) {
        error_set(error, VMFERRY_ERROR_UNSUPPORTED,
                  "this QEMU loses writes of a running guest when it begins to copy an overlay "
                  "without its backing files: pause the guest for the start of the copy, or copy "
                  "the disk as a whole");
        return FALSE;
    }
    return status != NULL;
}

/* Until the job knows what it has to copy. */
static gboolean await_begin(QemuVmm *qemu, const char *name, GError **error)
{
    gint64 deadline = g_get_monotonic_time() + (gint64)BLOCK_JOB_START_MS * 1000;

    do {
        g_autoptr(json_t) job = NULL;

        if (!block_job_query(qemu->qmp, name, &job, error) || !check_job(job, name, error))
            return FALSE;
        if (json_count_or(job, "len", 0) > 0 || json_flag_or(job, "ready", FALSE))
            return TRUE;
        g_usleep(BLOCK_JOB_RETRY_US);
    } while (g_get_monotonic_time() < deadline);
    error_set(error, VMFERRY_ERROR_TIMEOUT, "QEMU did not find within %d ms what there is to copy",
              BLOCK_JOB_START_MS);
    return FALSE;
}

gboolean qemu_start_copy(QemuVmm *qemu, const VmmCopy *wanted, GError **error)
{
    gboolean changes;
    QemuCopy *copy;

    if (!check_start(qemu, wanted, error) || !query_changes_jobs(qemu, &changes, error) ||
        (loses_early_writes(wanted, changes) && !check_no_early_writes(qemu->qmp, error)))
        return FALSE;
    copy = g_new0(QemuCopy, 1);
    copy->name = g_strdup(wanted->name);
    copy->node = g_strdup(wanted->node);
    copy->blocking = !changes;
    g_ptr_array_add(qemu->copies, copy);
    if (block_node_add_nbd(qemu->qmp, wanted->name, wanted->address, wanted->export_name, error) &&
        block_node_check_size(qemu->qmp, wanted->name, "the NBD server", wanted->bytes, error) &&
        add_job(qemu->qmp, wanted, !changes, error) &&
        block_job_read_filter(qemu->qmp, copy, error) &&
        (!loses_early_writes(wanted, changes) ||
         (await_begin(qemu, wanted->name, error) && check_no_early_writes(qemu->qmp, error))))
        return TRUE;
    g_prefix_error(error, "copy a disk: ");
    qemu_yank_copy(qemu, wanted->name);
    (void)qemu_abort_copy(qemu, wanted->name, NULL);
    return FALSE;
}

/* ---- looking, ending ---- */

gboolean qemu_get_copy(QemuVmm *qemu, const char *name, VmmCopyState *ret, GError **error)
{
    const QemuCopy *copy = need_copy(qemu, name, error);
    g_autoptr(json_t) job = NULL;

    if (!copy || !block_job_query(qemu->qmp, name, &job, error))
        return FALSE;
    if (!check_job(job, name, error))
        *ret = VMM_COPY_FAILED;
    else if (!json_flag_or(job, "ready", FALSE))
        *ret = VMM_COPY_RUNNING;
    else
        /* Where QEMU does not tell it (before 8.2), a READY job in this mode is in sync. */
        *ret = copy->blocking && json_flag_or(job, "actively-synced", TRUE) ? VMM_COPY_IN_SYNC
                                                                            : VMM_COPY_READY;
    return TRUE;
}

gboolean qemu_sync_copy(QemuVmm *qemu, const char *name, GError **error)
{
    QemuCopy *copy = qemu_copy_find(qemu->copies, name);

    if (!need_copy(qemu, name, error) || !check_begun(qemu->qmp, name, error))
        return FALSE;
    if (!copy->blocking)
        copy->blocking = qmp_run(qemu->qmp, "block-job-change",
                                 json_pack("{s:s, s:s, s:s}", "id", name, "type", "mirror",
                                           "copy-mode", "write-blocking"),
                                 QMP_COMMAND_MS, error);
    return copy->blocking;
}

/* Its speed counts for what the job itself copies, not for writes of the guest that it is given. */
gboolean qemu_hold_copy(QemuVmm *qemu, const char *name, gboolean held, GError **error)
{
    return need_copy(qemu, name, error) &&
           qmp_run(qemu->qmp, "block-job-set-speed",
                   json_pack("{s:s, s:i}", "device", name, "speed", held ? 1 : 0), QMP_COMMAND_MS,
                   error);
}

/* A READY job that is cancelled without force first writes what is left, flushes the target, and
 * ends without an error only where all of that succeeded. */
static gboolean complete(QemuVmm *qemu, const char *name, GError **error)
{
    g_autoptr(json_t) ended = NULL;

    if (!qmp_run(qemu->qmp, "block-job-cancel", json_pack("{s:s}", "device", name), FINISH_MS,
                 error) ||
        !block_job_await_end(qemu, name, FINISH_MS, check_job, &ended, error))
        return FALSE;
    if (!ended) {
        error_set(error, VMFERRY_ERROR_FAILED, "another program has dismissed the copy \"%s\"",
                  name);
        return FALSE;
    }
    return !json_object_get(ended, "error") || check_job(ended, name, error);
}

gboolean qemu_finish_copy(QemuVmm *qemu, const char *name, GError **error)
{
    if (!need_copy(qemu, name, error) ||
        !block_job_check_paused(qemu->qmp, "the copy of a disk can only be finished", error) ||
        !check_ready(qemu->qmp, name, error) || !complete(qemu, name, error) ||
        !block_job_dismiss(qemu->qmp, name, error) || !block_node_remove(qemu->qmp, name, error))
        return FALSE;
    forget(qemu, name);
    return TRUE;
}
