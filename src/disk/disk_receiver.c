#include "disk/disk_receiver.h"

#include "base/error.h"
#include "base/lock_guard.h"
#include "base/thread.h"
#include "page/zstd_block.h"
#include "wire/disk_frame.h"

#define SLICE_MS 200
/* It is told how far we are at least that often. */
#define REPORT_BYTES ((uint64_t)1 << 20)
#define END_MS 2000

struct DiskReceiver {
    Session *session;
    DiskReceiverOptions options;
    DiskTarget **targets;
    OldFile **old;
    ZSTD_DCtx *zstd;
    uint8_t *unpacked; /* FRAME_DISK_WRITE_MAX_BYTES */
    GThread *thread;
    gint ending; /* atomic */

    /* Of the thread. */
    DiskDone done, told;
    gboolean last; /* the last flush is done */

    GMutex lock; /* protects all below */
    GCond changed;
    GError *failure;
    gboolean ended, complete;
};

static gboolean check_number(const DiskReceiver *receiver, guint file, GError **error)
{
    if (file < receiver->options.files)
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "content of file %u of %u", file,
              receiver->options.files);
    return FALSE;
}

static DiskTarget *find_target(DiskReceiver *receiver, guint file, GError **error)
{
    if (!check_number(receiver, file, error))
        return NULL;
    if (!receiver->targets[file])
        receiver->targets[file] = receiver->options.open(file, receiver->options.user, error);
    return receiver->targets[file];
}

static OldFile *find_old(DiskReceiver *receiver, guint file, GError **error)
{
    if (!check_number(receiver, file, error))
        return NULL;
    if (!receiver->options.open_old) {
        error_set(error, VMFERRY_ERROR_INVALID, "file %u is not to be compared", file);
        return NULL;
    }
    if (!receiver->old[file])
        receiver->old[file] = receiver->options.open_old(file, receiver->options.user, error);
    return receiver->old[file];
}

static gboolean apply_write(DiskReceiver *receiver, const Frame *frame, GError **error)
{
    const uint8_t *content;
    DiskTarget *target;
    DiskWrite write;

    if (!disk_write_decode(frame->payload, frame->length, &write, error))
        return FALSE;
    target = find_target(receiver, write.file, error);
    content = write.content;
    if (target && write.packing == DISK_PACKING_ZSTD) {
        content = receiver->unpacked;
        if (!zstd_unpack(receiver->zstd, write.content, write.content_bytes, receiver->unpacked,
                         write.bytes, error))
            return FALSE;
    }
    return target && disk_target_write(target, write.offset, content, write.bytes, error);
}

static gboolean apply_zero(DiskReceiver *receiver, const Frame *frame, GError **error)
{
    DiskTarget *target;
    DiskZero zero;

    if (!disk_zero_decode(frame->payload, frame->length, &zero, error))
        return FALSE;
    target = find_target(receiver, zero.file, error);
    return target && disk_target_zero(target, zero.offset, zero.length, error);
}

static gboolean tell_digests(DiskReceiver *receiver, const DiskCompare *compare,
                             const GByteArray *bytes, GError **error)
{
    uint8_t head[FRAME_DISK_DIGESTS_HEAD_BYTES];
    struct iovec payload[2] = {{head, sizeof head}, {bytes->data, bytes->len}};

    disk_digests_encode_head(&(DiskDigests){.file = compare->file, .offset = compare->offset},
                             head);
    return session_send(receiver->session, FRAME_DISK_DIGESTS, payload, bytes->len > 0 ? 2 : 1,
                        error);
}

static gboolean apply_compare(DiskReceiver *receiver, const Frame *frame, GError **error)
{
    g_autoptr(GByteArray) bytes = g_byte_array_new();
    DiskCompare compare;
    OldFile *old;

    if (!disk_compare_decode(frame->payload, frame->length, &compare, error))
        return FALSE;
    old = find_old(receiver, compare.file, error);
    return old && old_file_digest(old, &compare, bytes, error) &&
           tell_digests(receiver, &compare, bytes, error);
}

static gboolean apply_same(DiskReceiver *receiver, const Frame *frame, GError **error)
{
    DiskTarget *target;
    OldFile *old;
    DiskSame same;

    if (!disk_same_decode(frame->payload, frame->length, &same, error))
        return FALSE;
    old = find_old(receiver, same.file, error);
    target = old ? find_target(receiver, same.file, error) : NULL;
    return target && old_file_copy(old, &same, target, error);
}

static gboolean apply_flush(DiskReceiver *receiver, const Frame *frame, GError **error)
{
    DiskFlush flush;

    if (!disk_flush_decode(frame->payload, frame->length, &flush, error))
        return FALSE;
    if (flush.number != receiver->done.flushed + 1) {
        error_set(error, VMFERRY_ERROR_INVALID, "flush %" G_GUINT64_FORMAT " out of turn",
                  flush.number);
        return FALSE;
    }
    for (guint i = 0; i < receiver->options.files; i++)
        if (receiver->targets[i] && !disk_target_flush(receiver->targets[i], error))
            return FALSE;
    receiver->done.flushed = flush.number;
    receiver->last = flush.last;
    return TRUE;
}

static gboolean apply(DiskReceiver *receiver, const Frame *frame, GError **error)
{
    switch (frame->type) {
    case FRAME_DISK_WRITE:
        receiver->done.applied_bytes += frame->length;
        return apply_write(receiver, frame, error);
    case FRAME_DISK_ZERO:
        receiver->done.applied_bytes += frame->length;
        return apply_zero(receiver, frame, error);
    case FRAME_DISK_COMPARE:
        return apply_compare(receiver, frame, error);
    case FRAME_DISK_SAME:
        receiver->done.applied_bytes += frame->length;
        return apply_same(receiver, frame, error);
    case FRAME_DISK_FLUSH:
        return apply_flush(receiver, frame, error);
    default:
        error_set(error, VMFERRY_ERROR_INVALID, "unexpected %s frame about disks",
                  frame_type_name(frame->type));
        return FALSE;
    }
}

static gboolean tell(DiskReceiver *receiver, GError **error)
{
    uint8_t payload[FRAME_DISK_DONE_BYTES];

    if (receiver->done.applied_bytes == receiver->told.applied_bytes &&
        receiver->done.flushed == receiver->told.flushed)
        return TRUE;
    receiver->told = receiver->done;
    disk_done_encode(&receiver->done, payload);
    return session_send_bytes(receiver->session, FRAME_DISK_DONE, payload, sizeof payload, error);
}

static gboolean is_due(const DiskReceiver *receiver)
{
    return receiver->done.applied_bytes - receiver->told.applied_bytes >= REPORT_BYTES ||
           receiver->done.flushed != receiver->told.flushed;
}

/* The next frame; what was done is told before it waits.  *ret_none*: none came for a while. */
static gboolean receive(DiskReceiver *receiver, Frame *ret, gboolean *ret_none, GError **error)
{
    g_autoptr(GError) quiet = NULL;
    gboolean came =
        !is_due(receiver) && session_receive(receiver->session, TRAFFIC_DISK, 0, ret, &quiet);

    *ret_none = FALSE;
    if (came)
        return TRUE;
    if (quiet && !error_is(quiet, VMFERRY_ERROR_TIMEOUT)) {
        g_propagate_error(error, g_steal_pointer(&quiet));
        return FALSE;
    }
    g_clear_error(&quiet);
    if (!tell(receiver, error))
        return FALSE;
    if (session_receive(receiver->session, TRAFFIC_DISK, SLICE_MS, ret, &quiet))
        return TRUE;
    *ret_none = error_is(quiet, VMFERRY_ERROR_TIMEOUT);
    if (*ret_none)
        return TRUE;
    g_propagate_error(error, g_steal_pointer(&quiet));
    return FALSE;
}

static gboolean serve(DiskReceiver *receiver, GError **error)
{
    gboolean none;
    Frame frame;

    while (!receiver->last) {
        if (g_atomic_int_get(&receiver->ending)) {
            error_set(error, VMFERRY_ERROR_CANCELLED, "cancelled");
            return FALSE;
        }
        if (!receive(receiver, &frame, &none, error) || (!none && !apply(receiver, &frame, error)))
            return FALSE;
    }
    return TRUE;
}

static void close_targets(DiskReceiver *receiver)
{
    for (guint i = 0; i < receiver->options.files; i++)
        g_clear_pointer(&receiver->targets[i], disk_target_free);
    for (guint i = 0; i < receiver->options.files; i++)
        g_clear_pointer(&receiver->old[i], old_file_free);
}

/* The last flush is told only once the targets are closed: who hears of it may open the images. */
static gpointer run(gpointer data)
{
    DiskReceiver *receiver = data;
    GError *failure = NULL;
    gboolean complete = serve(receiver, &failure);

    close_targets(receiver);
    complete = complete && tell(receiver, &failure);
    if (failure && !error_is(failure, VMFERRY_ERROR_CANCELLED)) {
        g_prefix_error(&failure, "disks: ");
        session_send_error(receiver->session, failure);
    }
    g_mutex_lock(&receiver->lock);
    receiver->ended = TRUE;
    receiver->complete = complete;
    receiver->failure = failure;
    g_cond_signal(&receiver->changed);
    g_mutex_unlock(&receiver->lock);
    return NULL;
}

DiskReceiver *disk_receiver_start(Session *session, const DiskReceiverOptions *options,
                                  GError **error)
{
    DiskReceiver *receiver = g_new0(DiskReceiver, 1);

    receiver->session = session;
    receiver->options = *options;
    receiver->targets = g_new0(DiskTarget *, options->files + 1);
    receiver->old = g_new0(OldFile *, options->files + 1);
    receiver->zstd = ZSTD_createDCtx();
    receiver->unpacked = g_malloc(FRAME_DISK_WRITE_MAX_BYTES);
    g_mutex_init(&receiver->lock);
    g_cond_init(&receiver->changed);
    receiver->thread = thread_start("disk-receiver", run, receiver, error);
    if (receiver->thread)
        return receiver;
    disk_receiver_free(receiver);
    return NULL;
}

gboolean disk_receiver_check(DiskReceiver *receiver, GError **error)
{
    lock_guard(&receiver->lock);

    if (!receiver->failure)
        return TRUE;
    if (error)
        *error = g_error_copy(receiver->failure);
    return FALSE;
}

/* The peer may have heard of the last flush before the thread has ended. */
static gboolean await_end(DiskReceiver *receiver)
{
    gint64 end = g_get_monotonic_time() + END_MS * G_TIME_SPAN_MILLISECOND;
    lock_guard(&receiver->lock);

    while (!receiver->ended && g_cond_wait_until(&receiver->changed, &receiver->lock, end))
        ;
    return receiver->ended && receiver->complete;
}

gboolean disk_receiver_finish(DiskReceiver *receiver, GError **error)
{
    gboolean complete = await_end(receiver);

    if (!disk_receiver_check(receiver, error))
        return FALSE;
    if (!complete)
        error_set(error, VMFERRY_ERROR_INVALID, "the disks are not complete");
    return complete;
}

void disk_receiver_free(DiskReceiver *receiver)
{
    if (!receiver)
        return;
    g_atomic_int_set(&receiver->ending, 1);
    if (receiver->thread)
        g_thread_join(receiver->thread);
    close_targets(receiver);
    g_free(receiver->targets);
    g_free(receiver->old);
    g_free(receiver->unpacked);
    ZSTD_freeDCtx(receiver->zstd);
    g_clear_error(&receiver->failure);
    g_mutex_clear(&receiver->lock);
    g_cond_clear(&receiver->changed);
    g_free(receiver);
}
