/*
 * Taps of disks: a mirror job of QEMU that copies nothing but what the guest writes
 *
 * Theory of operation: the job (sync=none, copy-mode=write-blocking) puts a filter above the disk's
 * root node, which writes to the disk first, then to the NBD server, and then tells the guest.  It is
 * made while the guest is paused: a job that is made while it writes may lose what comes before it
 * is ready.  Where the server fails, the job stands still with the changed pieces of the disk marked,
 * and goes on with those when it is resumed.  The guest is not held up by that.
 */
#include <string.h>

#include "base/error.h"
#include "base/json.h"
#include "vmm/qemu/block_job.h"

static const QemuCopy *need_tap(QemuVmm *qemu, const char *name, GError **error)
{
    const QemuCopy *tap = qemu_copy_find(qemu->copies, name);

    if (tap && tap->tap)
        return tap;
    error_set(error, VMFERRY_ERROR_NOT_FOUND, "no disk is tapped as \"%s\"", name);
    return NULL;
}

/* FALSE with what QEMU says where the job has failed, or was ended by somebody else. */
static gboolean check_job(json_t *job, const char *name, GError **error)
{
    const char *failure = json_text_or(job, "error", NULL);

    if (failure)
        error_set(error, VMFERRY_ERROR_FAILED, "the tap of the disk has ended: %s", failure);
    else if (block_job_is_over(job) || strcmp(json_text_or(job, "status", ""), "aborting") == 0)
        error_set(error, VMFERRY_ERROR_FAILED, "another program has ended the tap \"%s\"", name);
    else
        return TRUE;
    return FALSE;
}

/* ---- start ---- */

static gboolean check_start(QemuVmm *qemu, const VmmTap *wanted, GError **error)
{
    if (!g_str_has_prefix(wanted->name, QEMU_TAP_PREFIX)) {
        error_set(error, VMFERRY_ERROR_INVALID,
                  "the name of a tap must begin with \"" QEMU_TAP_PREFIX "\", and \"%s\" does not",
                  wanted->name);
        return FALSE;
    }
    return block_job_check_free(qemu, wanted->name, wanted->node, error) &&
           block_job_check_no_other(qemu, wanted->node, error) &&
           block_job_check_paused(qemu->qmp, "a disk can only be tapped", error);
}

/* Without a name the filter is implicit: `query-block` looks through it. */
static gboolean add_job(Qmp *qmp, const VmmTap *wanted, GError **error)
{
    json_t *arguments =
        json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:i, s:b}", "job-id", wanted->name, "device",
                  wanted->node, "target", wanted->name, "sync", "none", "copy-mode",
                  "write-blocking", "on-source-error", "stop", "on-target-error", "stop",
                  "buf-size", BLOCK_JOB_BUFFER_BYTES, "auto-dismiss", 0);

    return qmp_run(qmp, "blockdev-mirror", arguments, BLOCK_JOB_START_MS, error);
}

static gboolean await_ready(QemuVmm *qemu, const char *name, GError **error)
{
    gint64 deadline = g_get_monotonic_time() + (gint64)BLOCK_JOB_START_MS * 1000;

    do {
        gint changes = g_atomic_int_get(&qemu->job_changes);
        g_autoptr(json_t) job = NULL;

        if (!block_job_query(qemu->qmp, name, &job, error) || !check_job(job, name, error))
            return FALSE;
        if (json_flag_or(job, "ready", FALSE))
            return TRUE;
        block_job_wait_for_change(qemu, changes);
    } while (g_get_monotonic_time() < deadline);
    error_set(error, VMFERRY_ERROR_TIMEOUT, "QEMU did not begin to tap the disk within %d ms",
              BLOCK_JOB_START_MS);
    return FALSE;
}

static void add_tap(QemuVmm *qemu, const VmmTap *wanted)
{
    QemuCopy *tap = g_new0(QemuCopy, 1);

    tap->name = g_strdup(wanted->name);
    tap->node = g_strdup(wanted->node);
    tap->tap = tap->blocking = TRUE;
    g_ptr_array_add(qemu->copies, tap);
}

/* Whoever resumed the guest meanwhile may have made it lose writes to the tap. */
static gboolean begin(QemuVmm *qemu, const VmmTap *wanted, GError **error)
{
    return block_node_add_nbd(qemu->qmp, wanted->name, wanted->address, wanted->export_name,
                              error) &&
           block_node_check_size(qemu->qmp, wanted->name, "the NBD server", wanted->bytes, error) &&
           add_job(qemu->qmp, wanted, error) && await_ready(qemu, wanted->name, error) &&
           block_job_read_filter(qemu->qmp, qemu_copy_find(qemu->copies, wanted->name), error) &&
           block_job_check_paused(qemu->qmp, "a disk can only be tapped", error);
}

gboolean qemu_start_tap(QemuVmm *qemu, const VmmTap *wanted, GError **error)
{
    if (!check_start(qemu, wanted, error))
        return FALSE;
    add_tap(qemu, wanted);
    if (begin(qemu, wanted, error))
        return TRUE;
    g_prefix_error(error, "tap a disk: ");
    (void)qemu_stop_tap(qemu, wanted->name, NULL);
    return FALSE;
}

/* ---- state, end ---- */

gboolean qemu_get_tap(QemuVmm *qemu, const char *name, VmmTapState *ret, GError **error)
{
    g_autoptr(json_t) job = NULL;

    if (!need_tap(qemu, name, error) || !block_job_query(qemu->qmp, name, &job, error))
        return FALSE;
    *ret = VMM_TAP_ACTIVE;
    if (!check_job(job, name, error)) {
        *ret = VMM_TAP_ENDED;
    } else if (block_job_is_broken(job)) {
        *ret = VMM_TAP_BROKEN;
        error_set(error, VMFERRY_ERROR_DISCONNECTED, "the NBD server of the tap \"%s\" has failed",
                  name);
    }
    return TRUE;
}

gboolean qemu_stop_tap(QemuVmm *qemu, const char *name, GError **error)
{
    QemuCopy *tap = qemu_copy_find(qemu->copies, name);

    if (!g_str_has_prefix(name, QEMU_TAP_PREFIX))
        return TRUE;
    if (!block_job_remove_all(qemu, name, error)) {
        g_prefix_error(error, "end the tap of a disk: ");
        return FALSE;
    }
    if (tap)
        g_ptr_array_remove(qemu->copies, tap);
    return TRUE;
}

/* ---- a server that is there again ---- */

/* Bytes that are marked as changed in this node; other programs' bitmaps have names. */
static gboolean add_marked(Qmp *qmp, const char *node_name, uint64_t *bytes, GError **error)
{
    g_autoptr(json_t) node = NULL;
    json_t *bitmap;
    size_t i;

    if (!block_node_query(qmp, node_name, &node, error))
        return FALSE;
    json_array_foreach(json_object_get(node, "dirty-bitmaps"), i, bitmap)
    {
        if (!json_object_get(bitmap, "name"))
            *bytes += json_count_or(bitmap, "count", 0);
    }
    return TRUE;
}

/* The marks are gone when the pieces are being written, and the job's work that is left (which was
 * counted before the first mark went) when they have been. */
static gboolean is_complete(QemuVmm *qemu, const QemuCopy *tap, gboolean *ret, GError **error)
{
    g_autoptr(json_t) job = NULL;
    uint64_t marked = 0;

    if (!add_marked(qemu->qmp, tap->node, &marked, error) ||
        (tap->filter && !add_marked(qemu->qmp, tap->filter, &marked, error)) ||
        !block_job_query(qemu->qmp, tap->name, &job, error) || !check_job(job, tap->name, error))
        return FALSE;
    *ret = marked == 0 && !block_job_is_broken(job) &&
           json_count_or(job, "len", 1) == json_count_or(job, "offset", 0);
    return TRUE;
}

/* QEMU looks for a server that is gone after 1, 2, 4, 8, 16, 16, … seconds, in a thread of its own,
 * and each request fails at once until that has found it.  So a job that is resumed stands still
 * again, time after time. */
gboolean qemu_resync_tap(QemuVmm *qemu, const char *name, gboolean *ret_done, GError **error)
{
    const QemuCopy *tap = need_tap(qemu, name, error);
    g_autoptr(json_t) job = NULL;

    *ret_done = FALSE;
    if (!tap || !block_job_query(qemu->qmp, name, &job, error) || !check_job(job, name, error))
        return FALSE;
    if (json_flag_or(job, "paused", FALSE))
        return qmp_run(qemu->qmp, "block-job-resume", json_pack("{s:s}", "device", name),
                       BLOCK_JOB_START_MS, error);
    return is_complete(qemu, tap, ret_done, error);
}
