#include "disk/disk_target.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/lock_guard.h"
#include "base/page.h"
#include "disk/nbd_export.h"
#include "page/zero.h"

#define FLUSH_PERIOD_US G_USEC_PER_SEC

/* What every NBD server takes at least in one request, and how much is made zero by one. */
#define NBD_PAYLOAD_BYTES (32u << 20)
#define NBD_ZERO_BYTES ((uint64_t)1 << 30)

/* Where a file system cannot make holes. */
#define ZERO_PIECE_BYTES 65536u

/* Of one kind of target.  *flush* is called in two threads, never at the same time; the others in
 * one thread, also during a flush. */
typedef struct {
    gboolean (*write)(DiskTarget *target, uint64_t offset, const uint8_t *data, size_t length,
                      GError **error);
    gboolean (*zero)(DiskTarget *target, uint64_t offset, uint64_t length, GError **error);
    gboolean (*flush)(DiskTarget *target, GError **error);
} TargetOps;

struct DiskTarget {
    const TargetOps *ops;
    uint64_t bytes;
    int fd;                   /* of a file, or -1 */
    NbdHandle *nbd, *flusher; /* of an export: two connections */
    size_t payload_bytes;     /* of one request of it */
    uint8_t *touched;         /* a bit for each page that may hold data; NULL: holes are not kept */
    GThread *thread;
    GMutex flush_lock; /* held during a flush */

    GMutex lock;      /* guards all below */
    GCond changed;    /* written or stop */
    gboolean written; /* since the last flush began */
    gboolean stop;
    GError
        *failure; /* of a flush: what was written before may be lost, so all fails from then on */
};

/* ---- an export ---- */

static gboolean write_export(DiskTarget *target, uint64_t offset, const uint8_t *data,
                             size_t length, GError **error)
{
    while (length > 0) {
        size_t piece = MIN(length, target->payload_bytes);

        if (nbd_pwrite(target->nbd, data, piece, offset, 0) < 0) {
            nbd_export_set_error(target->nbd, "write", error);
            return FALSE;
        }
        data += piece;
        offset += piece;
        length -= piece;
    }
    return TRUE;
}

static gboolean zero_export(DiskTarget *target, uint64_t offset, uint64_t length, GError **error)
{
    while (length > 0) {
        uint64_t piece = MIN(length, NBD_ZERO_BYTES);

        if (nbd_zero(target->nbd, piece, offset, 0) < 0) {
            nbd_export_set_error(target->nbd, "make zero", error);
            return FALSE;
        }
        offset += piece;
        length -= piece;
    }
    return TRUE;
}

/* Covers what any connection has written, since the server has the image open once. */
static gboolean flush_export(DiskTarget *target, GError **error)
{
    if (nbd_flush(target->flusher, 0) == 0)
        return TRUE;
    nbd_export_set_error(target->flusher, "flush", error);
    return FALSE;
}

static const TargetOps export_ops = {write_export, zero_export, flush_export};

/* ---- a file ---- */

static gboolean write_file(DiskTarget *target, uint64_t offset, const uint8_t *data, size_t length,
                           GError **error)
{
    while (length > 0) {
        ssize_t put = pwrite(target->fd, data, length, (off_t)offset);

        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0) {
            error_set_errno(error, errno, "write");
            return FALSE;
        }
        data += put;
        offset += (uint64_t)put;
        length -= (size_t)put;
    }
    return TRUE;
}

static gboolean write_zeros(DiskTarget *target, uint64_t offset, uint64_t length, GError **error)
{
    static const uint8_t zeros[ZERO_PIECE_BYTES];

    while (length > 0) {
        size_t piece = (size_t)MIN(length, sizeof zeros);

        if (!write_file(target, offset, zeros, piece, error))
            return FALSE;
        offset += piece;
        length -= piece;
    }
    return TRUE;
}

static gboolean zero_file(DiskTarget *target, uint64_t offset, uint64_t length, GError **error)
{
    int done;

    do
        done = fallocate(target->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset,
                         (off_t)length);
    while (done < 0 && errno == EINTR);
    if (done == 0)
        return TRUE;
    if (errno == EOPNOTSUPP || errno == ENOSYS)
        return write_zeros(target, offset, length, error);
    error_set_errno(error, errno, "make zero");
    return FALSE;
}

static gboolean flush_file(DiskTarget *target, GError **error)
{
    if (fdatasync(target->fd) == 0)
        return TRUE;
    error_set_errno(error, errno, "flush");
    return FALSE;
}

static const TargetOps file_ops = {write_file, zero_file, flush_file};

/* ---- flushing ---- */

static gboolean check_failure(DiskTarget *target, GError **error)
{
    lock_guard(&target->lock);
    if (!target->failure)
        return TRUE;
    if (error)
        *error = g_error_copy(target->failure);
    return FALSE;
}

static void set_failure(DiskTarget *target, const GError *failure)
{
    lock_guard(&target->lock);
    if (!target->failure)
        target->failure = g_error_copy(failure);
}

static void set_written(DiskTarget *target, gboolean written)
{
    lock_guard(&target->lock);
    if (written && !target->written)
        g_cond_signal(&target->changed);
    target->written = written;
}

/* An error of the storage is told once, so it is kept for who asks next. */
static gboolean flush_now(DiskTarget *target, GError **error)
{
    g_autoptr(GError) failure = NULL;

    lock_guard(&target->flush_lock);
    if (!check_failure(target, error))
        return FALSE;
    set_written(target, FALSE);
    if (target->ops->flush(target, &failure))
        return TRUE;
    set_failure(target, failure);
    g_propagate_error(error, g_steal_pointer(&failure));
    return FALSE;
}

/* Waits until it is time for a flush; FALSE: for the end. */
static gboolean await_flush(DiskTarget *target)
{
    gint64 due = 0;

    lock_guard(&target->lock);
    while (!target->stop) {
        if (!target->written) {
            due = 0;
            g_cond_wait(&target->changed, &target->lock);
            continue;
        }
        if (!due)
            due = g_get_monotonic_time() + FLUSH_PERIOD_US;
        if (!g_cond_wait_until(&target->changed, &target->lock, due))
            return TRUE;
    }
    return FALSE;
}

static gpointer flush_regularly(gpointer data)
{
    DiskTarget *target = data;

    while (await_flush(target))
        if (!flush_now(target, NULL))
            break;
    return NULL;
}

/* ---- the target ---- */

static gboolean start_thread(DiskTarget *target, GError **error)
{
    target->thread = g_thread_try_new("flush", flush_regularly, target, error);
    return target->thread != NULL;
}

static DiskTarget *target_new(const TargetOps *ops, uint64_t bytes)
{
    DiskTarget *target = g_new0(DiskTarget, 1);

    target->ops = ops;
    target->bytes = bytes;
    target->fd = -1;
    g_mutex_init(&target->flush_lock);
    g_mutex_init(&target->lock);
    g_cond_init(&target->changed);
    return target;
}

static gboolean check_export(DiskTarget *target, const char *name, GError **error)
{
    int64_t bytes = nbd_get_size(target->nbd);
    int64_t payload = nbd_get_block_size(target->nbd, LIBNBD_SIZE_MAXIMUM);

    if (bytes < 0 || payload < 0) {
        nbd_export_set_error(target->nbd, "size", error);
        return FALSE;
    }
    target->payload_bytes =
        payload ? (size_t)MIN(payload, (int64_t)NBD_PAYLOAD_BYTES) : NBD_PAYLOAD_BYTES;
    if ((uint64_t)bytes == target->bytes)
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID,
              "export \"%s\" has %" G_GINT64_FORMAT " bytes instead of %" G_GUINT64_FORMAT, name,
              (gint64)bytes, (guint64)target->bytes);
    return FALSE;
}

DiskTarget *disk_target_open_export(const char *socket_path, const char *name, uint64_t bytes,
                                    GError **error)
{
    g_autoptr(DiskTarget) target = target_new(&export_ops, bytes);

    target->nbd = nbd_export_connect(socket_path, name, FALSE, error);
    if (!target->nbd || !check_export(target, name, error))
        return NULL;
    target->flusher = nbd_export_connect(socket_path, name, FALSE, error);
    if (!target->flusher || !start_thread(target, error))
        return NULL;
    return g_steal_pointer(&target);
}

DiskTarget *disk_target_open_file(int fd, uint64_t bytes, GError **error)
{
    g_autoptr(DiskTarget) target = target_new(&file_ops, bytes);

    target->fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (bytes > (uint64_t)G_MAXINT64) {
        error_set_errno(error, EFBIG, "set its length");
        return NULL;
    }
    if (target->fd < 0 || ftruncate(target->fd, (off_t)bytes) < 0) {
        error_set_errno(error, errno, "set its length");
        return NULL;
    }
    return start_thread(target, error) ? g_steal_pointer(&target) : NULL;
}

static void stop_thread(DiskTarget *target)
{
    g_mutex_lock(&target->lock);
    target->stop = TRUE;
    g_cond_signal(&target->changed);
    g_mutex_unlock(&target->lock);
    g_thread_join(target->thread);
}

void disk_target_free(DiskTarget *target)
{
    if (!target)
        return;
    if (target->thread)
        stop_thread(target);
    fd_close(&target->fd);
    nbd_close(target->nbd);
    nbd_close(target->flusher);
    g_clear_error(&target->failure);
    g_mutex_clear(&target->flush_lock);
    g_mutex_clear(&target->lock);
    g_cond_clear(&target->changed);
    g_free(target->touched);
    g_free(target);
}

static gboolean check_range(const DiskTarget *target, uint64_t offset, uint64_t length,
                            GError **error)
{
    if (offset <= target->bytes && length <= target->bytes - offset)
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID,
              "%" G_GUINT64_FORMAT " bytes at %" G_GUINT64_FORMAT
              " are beyond the disk's %" G_GUINT64_FORMAT,
              (guint64)length, (guint64)offset, (guint64)target->bytes);
    return FALSE;
}

/* ---- holes ---- */

void disk_target_keep_holes(DiskTarget *target)
{
    target->touched = g_malloc0(target->bytes / PAGE_BYTES / 8 + 1);
}

static gboolean is_touched(const DiskTarget *target, uint64_t page)
{
    return target->touched[page / 8] & (1u << (page % 8));
}

static void touch(DiskTarget *target, uint64_t offset, uint64_t length)
{
    for (uint64_t i = offset / PAGE_BYTES; i <= (offset + length - 1) / PAGE_BYTES; i++)
        target->touched[i / 8] |= (uint8_t)(1u << (i % 8));
}

/* A whole page of zeros where nothing was written yet. */
static gboolean is_hole(const DiskTarget *target, uint64_t offset, const uint8_t *data,
                        uint64_t length)
{
    return offset % PAGE_BYTES == 0 && length >= PAGE_BYTES &&
           !is_touched(target, offset / PAGE_BYTES) && zero_is_page(data);
}

static gboolean write_around_holes(DiskTarget *target, uint64_t offset, const uint8_t *data,
                                   uint64_t length, GError **error)
{
    uint64_t at = 0;

    while (at < length) {
        uint64_t begin;

        while (at < length && is_hole(target, offset + at, data + at, length - at))
            at += PAGE_BYTES;
        begin = at;
        while (at < length && !is_hole(target, offset + at, data + at, length - at))
            at = MIN(length, at + PAGE_BYTES - (offset + at) % PAGE_BYTES);
        if (at == begin)
            continue;
        touch(target, offset + begin, at - begin);
        if (!target->ops->write(target, offset + begin, data + begin, at - begin, error))
            return FALSE;
    }
    return TRUE;
}

gboolean disk_target_write(DiskTarget *target, uint64_t offset, const uint8_t *data, size_t length,
                           GError **error)
{
    if (!check_range(target, offset, length, error) || !check_failure(target, error))
        return FALSE;
    if (length == 0)
        return TRUE;
    if (target->touched ? !write_around_holes(target, offset, data, length, error)
                        : !target->ops->write(target, offset, data, length, error))
        return FALSE;
    set_written(target, TRUE);
    return TRUE;
}

gboolean disk_target_zero(DiskTarget *target, uint64_t offset, uint64_t length, GError **error)
{
    if (!check_range(target, offset, length, error) || !check_failure(target, error))
        return FALSE;
    if (length == 0)
        return TRUE;
    if (!target->ops->zero(target, offset, length, error))
        return FALSE;
    set_written(target, TRUE);
    return TRUE;
}

gboolean disk_target_flush(DiskTarget *target, GError **error)
{
    return flush_now(target, error);
}
