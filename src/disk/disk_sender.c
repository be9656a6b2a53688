#include "disk/disk_sender.h"

#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/lock_guard.h"
#include "base/page.h"
#include "base/thread.h"
#include "disk/granule_digest.h"
#include "disk/peer_digests.h"
#include "page/zero.h"
#include "page/zstd_block.h"
#include "wire/disk_frame.h"

#define TICK_MS 100
/* In one frame: what arrives shows that the link carries something, also where that is little (and
 * what is waited for is told in time). */
#define PIECE_BYTES ((size_t)128 << 10)
/* Zeros are looked for in pieces of this size, and what was written is remembered by it. */
#define GRANULE_BYTES DISK_GRANULE_BYTES
#define WINDOW_LEAST_BYTES ((uint64_t)256 << 10)
#define WINDOW_MOST_BYTES ((uint64_t)16 << 20)
#define WINDOW_FIRST_BYTES ((uint64_t)1 << 20)
#define WINDOW_SECONDS 0.25
/* Who writes behind a break waits until what was kept has gone. */
#define AHEAD_SECONDS 1.0
#define AHEAD_LEAST_BYTES ((uint64_t)4 << 20)
#define AHEAD_MOST_BYTES ((uint64_t)256 << 20)
#define RATE_INTERVAL_NS 200000000ULL
#define ZSTD_LEVEL 1
/* Small writes are not worth a context's run. */
#define PACK_LEAST_BYTES 512u
/* After content that did not become smaller so many times its size is not tried: a guest's small
 * writes do not keep the bulk from being packed. */
#define PACK_PAUSE 8u

typedef struct {
    uint64_t bytes;
    gboolean covers;
    uint8_t *written; /* a bit for each granule */
    DiskCounts counts;
    ZSTD_CCtx *zstd;
    uint8_t *packed; /* PIECE_BYTES */
    uint64_t pack_pause_bytes;
    PeerDigests *there;    /* of the old file; NULL: there is none.  Guarded by the sender's lock */
    GranuleDigest *digest; /* of who gives content */
} SenderFile;

typedef struct {
    guint file;
    uint64_t id;
    uint64_t sent_bytes; /* up to it */
} PendingAnswer;

struct DiskSender {
    Session *session;
    DiskSenderOptions options;
    SenderFile *files;
    GThread *thread;
    gint ending; /* atomic */

    GMutex send_lock; /* keeps the order of frames and of their numbers the same */
    uint64_t flushes;

    GMutex lock;     /* protects all below, and the counts */
    GCond quiet;     /* no answer is being given */
    GCond told;      /* digests have come, or none will */
    GError *failure; /* of the channel */
    gboolean silent; /* no more answers */
    guint answering; /* so many threads are giving one */
    uint64_t applied_bytes, flushed, sent_by_now;
    uint64_t progress_ns; /* when something was applied, or begun to wait for */
    uint64_t window_bytes, ahead_bytes;
    uint64_t rate_ns, rate_bytes; /* the beginning of the interval */
    double rate;                  /* bytes per second */
    GQueue pending;               /* of PendingAnswer */
};

/* ---- sending ---- */

static gboolean send_frame(DiskSender *sender, FrameType type, const struct iovec *payload,
                           int count, GError **error)
{
    size_t bytes = 0;
    lock_guard(&sender->send_lock);

    for (int i = 0; i < count; i++)
        bytes += payload[i].iov_len;
    /* Counted first: an answer may come before the call returns. */
    g_mutex_lock(&sender->lock);
    if (sender->sent_by_now == sender->applied_bytes)
        sender->progress_ns = clock_now_ns();
    sender->sent_by_now += bytes;
    g_mutex_unlock(&sender->lock);
    return session_send(sender->session, type, payload, count, error);
}

static gboolean is_worth_packing(SenderFile *file, const DiskSender *sender, size_t length)
{
    if (!sender->options.pack || length < PACK_LEAST_BYTES)
        return FALSE;
    if (file->pack_pause_bytes < length)
        return TRUE;
    file->pack_pause_bytes -= length;
    return FALSE;
}

static gboolean send_content(DiskSender *sender, guint number, uint64_t offset, const uint8_t *data,
                             size_t length, GError **error)
{
    SenderFile *file = &sender->files[number];
    uint8_t head[FRAME_DISK_WRITE_HEAD_BYTES];
    DiskWrite write = {.file = number, .bytes = (uint32_t)length, .offset = offset};
    struct iovec payload[2] = {{head, sizeof head}, {(void *)data, length}};
    size_t packed = 0;

    if (is_worth_packing(file, sender, length)) {
        packed = zstd_pack(file->zstd, ZSTD_LEVEL, data, length, file->packed, length - length / 8);
        if (packed == 0)
            file->pack_pause_bytes = PACK_PAUSE * (uint64_t)length;
        else
            payload[1] = (struct iovec){file->packed, packed};
    }
    write.packing = packed > 0 ? DISK_PACKING_ZSTD : DISK_PACKING_NONE;
    disk_write_encode_head(&write, head);
    g_mutex_lock(&sender->lock);
    file->counts.data_bytes += length;
    file->counts.wire_bytes += payload[0].iov_len + payload[1].iov_len;
    g_mutex_unlock(&sender->lock);
    return send_frame(sender, FRAME_DISK_WRITE, payload, 2, error);
}

static gboolean send_zeros(DiskSender *sender, guint number, uint64_t offset, uint64_t length,
                           GError **error)
{
    uint8_t head[FRAME_DISK_ZERO_BYTES];
    struct iovec payload = {head, sizeof head};

    disk_zero_encode(&(DiskZero){number, offset, length}, head);
    g_mutex_lock(&sender->lock);
    sender->files[number].counts.wire_bytes += sizeof head;
    g_mutex_unlock(&sender->lock);
    return send_frame(sender, FRAME_DISK_ZERO, &payload, 1, error);
}

/* ---- what was written ---- */

static gboolean is_written(const SenderFile *file, uint64_t granule)
{
    return file->covers || (file->written[granule / 8] & (1u << (granule % 8)));
}

static void note_written(SenderFile *file, uint64_t offset, uint64_t length)
{
    for (uint64_t i = offset / GRANULE_BYTES; i <= (offset + length - 1) / GRANULE_BYTES; i++)
        file->written[i / 8] |= (uint8_t)(1u << (i % 8));
}

/* The part of offset … end that lies in the granule of *offset*. */
static uint64_t end_of_piece(uint64_t offset, uint64_t end)
{
    return MIN(end, (offset / GRANULE_BYTES + 1) * GRANULE_BYTES);
}

/* Zeros that need not be sent would go well for ever. */
static gboolean check_alive(DiskSender *sender, GError **error)
{
    lock_guard(&sender->lock);

    if (!sender->failure)
        return TRUE;
    if (error)
        *error = g_error_copy(sender->failure);
    return FALSE;
}

static gboolean check_place(const SenderFile *file, uint64_t offset, uint64_t length,
                            GError **error)
{
    if (length > 0 && offset <= file->bytes && length <= file->bytes - offset)
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID,
              "%" G_GUINT64_FORMAT " bytes at %" G_GUINT64_FORMAT " of a disk of %" G_GUINT64_FORMAT
              " bytes",
              length, offset, file->bytes);
    return FALSE;
}

/* Zeros: sent only where something else may be. */
gboolean disk_sender_zero(DiskSender *sender, guint number, uint64_t offset, uint64_t length,
                          GError **error)
{
    SenderFile *file = &sender->files[number];
    uint64_t end = offset + length, at = offset;

    if (!check_place(file, offset, length, error) || !check_alive(sender, error))
        return FALSE;
    g_mutex_lock(&sender->lock);
    file->counts.zero_bytes += length;
    g_mutex_unlock(&sender->lock);
    while (at < end) {
        gboolean written = is_written(file, at / GRANULE_BYTES);
        uint64_t begin = at;

        while (at < end && is_written(file, at / GRANULE_BYTES) == written)
            at = end_of_piece(at, end);
        if (written && !send_zeros(sender, number, begin, at - begin, error))
            return FALSE;
    }
    return TRUE;
}

static gboolean is_zero(const uint8_t *data, size_t length)
{
    if (length == 0 || length % PAGE_BYTES != 0)
        return FALSE;
    for (size_t i = 0; i < length; i += PAGE_BYTES)
        if (!zero_is_page(data + i))
            return FALSE;
    return TRUE;
}

static gboolean send_data(DiskSender *sender, guint number, uint64_t offset, const uint8_t *data,
                          uint64_t length, GError **error)
{
    note_written(&sender->files[number], offset, length);
    while (length > 0) {
        size_t piece = MIN(length, PIECE_BYTES);

        if (!send_content(sender, number, offset, data, piece, error))
            return FALSE;
        offset += piece;
        data += piece;
        length -= piece;
    }
    return TRUE;
}

gboolean disk_sender_write(DiskSender *sender, guint number, uint64_t offset, const uint8_t *data,
                           size_t length, GError **error)
{
    SenderFile *file = &sender->files[number];
    uint64_t end = offset + length, at = offset;

    if (!check_place(file, offset, length, error) || !check_alive(sender, error))
        return FALSE;
    while (at < end) {
        uint64_t begin = at;
        gboolean zero = is_zero(data + (at - offset), end_of_piece(at, end) - at);

        do
            at = end_of_piece(at, end);
        while (at < end && is_zero(data + (at - offset), end_of_piece(at, end) - at) == zero);
        if (zero ? !disk_sender_zero(sender, number, begin, at - begin, error)
                 : !send_data(sender, number, begin, data + (begin - offset), at - begin, error))
            return FALSE;
    }
    return TRUE;
}

/* ---- what an old file has ---- */

static gboolean ask(DiskSender *sender, DiskCompare *question, GError **error)
{
    uint8_t payload[FRAME_DISK_COMPARE_BYTES];
    SenderFile *file = &sender->files[question->file];
    lock_guard(&sender->send_lock);

    memcpy(question->key, granule_digest_get_key(file->digest), DISK_KEY_BYTES);
    disk_compare_encode(question, payload);
    return session_send_bytes(sender->session, FRAME_DISK_COMPARE, payload, sizeof payload, error);
}

/* TRUE with the next question. */
static gboolean choose_question(DiskSender *sender, guint number, uint64_t offset, DiskCompare *ret)
{
    lock_guard(&sender->lock);

    return peer_digests_ask(sender->files[number].there, offset, ret);
}

static gboolean await_told(DiskSender *sender, guint number, uint64_t offset, guint wait_ms)
{
    gint64 end = g_get_monotonic_time() + wait_ms * G_TIME_SPAN_MILLISECOND;
    const PeerDigests *there = sender->files[number].there;
    lock_guard(&sender->lock);

    while (!peer_digests_knows(there, offset) && !sender->failure)
        if (!g_cond_wait_until(&sender->told, &sender->lock, end))
            return FALSE;
    return peer_digests_knows(there, offset);
}

uint64_t disk_sender_end_of_range(uint64_t offset)
{
    return (offset / PEER_DIGESTS_RANGE_BYTES + 1) * PEER_DIGESTS_RANGE_BYTES;
}

gboolean disk_sender_await_digests(DiskSender *sender, guint number, uint64_t offset, guint wait_ms,
                                   gboolean *ret_known, GError **error)
{
    DiskCompare question;

    *ret_known = TRUE;
    if (!sender->files[number].there)
        return TRUE;
    while (choose_question(sender, number, offset, &question))
        if (!ask(sender, &question, error))
            return FALSE;
    *ret_known = await_told(sender, number, offset, wait_ms);
    return *ret_known || check_alive(sender, error);
}

static gboolean find_there(DiskSender *sender, guint number, uint64_t offset,
                           uint8_t ret[FRAME_DISK_DIGEST_BYTES])
{
    const uint8_t *there;
    lock_guard(&sender->lock);

    there = peer_digests_find(sender->files[number].there, offset);
    if (there)
        memcpy(ret, there, FRAME_DISK_DIGEST_BYTES);
    return there != NULL;
}

/* TRUE where the old file has the granule, with its digest. */
static gboolean is_same(DiskSender *sender, guint number, uint64_t offset, const uint8_t *data,
                        size_t length, uint8_t ret[FRAME_DISK_DIGEST_BYTES])
{
    uint8_t there[FRAME_DISK_DIGEST_BYTES];

    return find_there(sender, number, offset, there) &&
           granule_digest_compute(sender->files[number].digest, data, length, ret, NULL) &&
           memcmp(ret, there, sizeof there) == 0;
}

/* So many granules from *offset* on are the same. */
static guint count_same(DiskSender *sender, guint number, uint64_t offset, const uint8_t *data,
                        uint64_t length, uint8_t *ret_digests)
{
    guint count = 0;

    for (uint64_t at = 0; at < length && count < FRAME_DISK_SAME_MOST; at += GRANULE_BYTES) {
        if (!is_same(sender, number, offset + at, data + at, MIN(GRANULE_BYTES, length - at),
                     ret_digests + (size_t)count * FRAME_DISK_DIGEST_BYTES))
            break;
        count++;
    }
    return count;
}

static gboolean send_same(DiskSender *sender, const DiskSame *same, GError **error)
{
    SenderFile *file = &sender->files[same->file];
    size_t bytes = (size_t)disk_count_granules(same->length) * FRAME_DISK_DIGEST_BYTES;
    uint8_t head[FRAME_DISK_SAME_HEAD_BYTES];
    struct iovec payload[2] = {{head, sizeof head}, {(void *)same->digests, bytes}};

    disk_same_encode_head(same, head);
    note_written(file, same->offset, same->length);
    g_mutex_lock(&sender->lock);
    file->counts.same_bytes += same->length;
    file->counts.wire_bytes += sizeof head + bytes;
    g_mutex_unlock(&sender->lock);
    return send_frame(sender, FRAME_DISK_SAME, payload, 2, error);
}

/* Up to the next granule that is the same, or *length*. */
static uint64_t end_of_new(DiskSender *sender, guint number, uint64_t offset, const uint8_t *data,
                           uint64_t length)
{
    uint8_t digest[FRAME_DISK_DIGEST_BYTES];
    uint64_t at = 0;

    do
        at += MIN(GRANULE_BYTES, length - at);
    while (at < length && !is_same(sender, number, offset + at, data + at,
                                   MIN(GRANULE_BYTES, length - at), digest));
    return at;
}

static gboolean is_whole(const SenderFile *file, uint64_t offset, uint64_t length)
{
    return offset % GRANULE_BYTES == 0 &&
           (length % GRANULE_BYTES == 0 || offset + length == file->bytes);
}

gboolean disk_sender_write_compared(DiskSender *sender, guint number, uint64_t offset,
                                    const uint8_t *data, size_t length, GError **error)
{
    SenderFile *file = &sender->files[number];
    uint8_t digests[FRAME_DISK_SAME_MOST * FRAME_DISK_DIGEST_BYTES];
    uint64_t at = 0;

    if (!file->there || !is_whole(file, offset, length))
        return disk_sender_write(sender, number, offset, data, length, error);
    if (!check_place(file, offset, length, error) || !check_alive(sender, error))
        return FALSE;
    while (at < length) {
        uint64_t count = count_same(sender, number, offset + at, data + at, length - at, digests);
        DiskSame same = {number, offset + at, MIN(count * GRANULE_BYTES, length - at), digests};
        uint64_t new =
            count > 0 ? 0 : end_of_new(sender, number, offset + at, data + at, length - at);

        if (count > 0 ? !send_same(sender, &same, error)
                      : !disk_sender_write(sender, number, offset + at, data + at, new, error))
            return FALSE;
        at += count > 0 ? same.length : new;
    }
    return TRUE;
}

gboolean disk_sender_flush(DiskSender *sender, gboolean last, uint64_t *ret, GError **error)
{
    uint8_t payload[FRAME_DISK_FLUSH_BYTES];
    lock_guard(&sender->send_lock);

    *ret = ++sender->flushes;
    disk_flush_encode(&(DiskFlush){*ret, last}, payload);
    return session_send_bytes(sender->session, FRAME_DISK_FLUSH, payload, sizeof payload, error);
}

/* ---- answers ---- */

/* Takes the first answer that may be given; with the lock. */
static PendingAnswer *take_answer(DiskSender *sender)
{
    PendingAnswer *first = g_queue_peek_head(&sender->pending);

    if (sender->silent || !first ||
        first->sent_bytes > sender->applied_bytes + MAX(sender->window_bytes, sender->ahead_bytes))
        return NULL;
    sender->answering++;
    return g_queue_pop_head(&sender->pending);
}

static void note_answered(DiskSender *sender)
{
    lock_guard(&sender->lock);

    if (--sender->answering == 0)
        g_cond_broadcast(&sender->quiet);
}

static void give_answers(DiskSender *sender)
{
    for (;;) {
        g_autofree PendingAnswer *answer = NULL;

        g_mutex_lock(&sender->lock);
        answer = take_answer(sender);
        g_mutex_unlock(&sender->lock);
        if (!answer)
            return;
        sender->options.answer(answer->file, answer->id, sender->options.user);
        note_answered(sender);
    }
}

/* Whoever gives content gives answers, too: for all files. */
static void stop_answers(DiskSender *sender)
{
    lock_guard(&sender->lock);

    sender->silent = TRUE;
    while (sender->answering > 0)
        g_cond_wait(&sender->quiet, &sender->lock);
}

void disk_sender_answer(DiskSender *sender, guint file, uint64_t id)
{
    PendingAnswer *answer = g_new(PendingAnswer, 1);

    g_mutex_lock(&sender->lock);
    *answer = (PendingAnswer){file, id, sender->sent_by_now};
    g_queue_push_tail(&sender->pending, answer);
    g_mutex_unlock(&sender->lock);
    give_answers(sender);
}

void disk_sender_run_ahead(DiskSender *sender)
{
    g_mutex_lock(&sender->lock);
    /* Behind what is on its way already. */
    sender->ahead_bytes =
        sender->sent_by_now - sender->applied_bytes +
        CLAMP((uint64_t)(sender->rate * AHEAD_SECONDS), AHEAD_LEAST_BYTES, AHEAD_MOST_BYTES);
    g_mutex_unlock(&sender->lock);
    give_answers(sender);
}

gboolean disk_sender_is_ahead(DiskSender *sender)
{
    lock_guard(&sender->lock);

    return sender->ahead_bytes > 0;
}

/* The window follows what was taken while something waited; with the lock. */
static void note_rate(DiskSender *sender, uint64_t now_ns)
{
    uint64_t elapsed_ns = now_ns - sender->rate_ns;
    double rate;

    if (elapsed_ns < RATE_INTERVAL_NS)
        return;
    rate = (double)(sender->applied_bytes - sender->rate_bytes) * 1e9 / (double)elapsed_ns;
    if (rate > sender->rate || !g_queue_is_empty(&sender->pending))
        sender->rate = sender->rate > 0 ? (sender->rate + rate) / 2 : rate;
    sender->rate_ns = now_ns;
    sender->rate_bytes = sender->applied_bytes;
    sender->window_bytes =
        CLAMP((uint64_t)(sender->rate * WINDOW_SECONDS), WINDOW_LEAST_BYTES, WINDOW_MOST_BYTES);
}

static gboolean take_done(DiskSender *sender, const Frame *frame, GError **error)
{
    lock_guard(&sender->lock);
    uint64_t now_ns = clock_now_ns();
    DiskDone done;

    if (!disk_done_decode(frame->payload, frame->length, &done, error))
        return FALSE;
    if (done.applied_bytes < sender->applied_bytes || done.applied_bytes > sender->sent_by_now ||
        done.flushed < sender->flushed) {
        error_set(error, VMFERRY_ERROR_INVALID, "DISK_DONE of more than was sent");
        return FALSE;
    }
    if (done.applied_bytes > sender->applied_bytes || done.flushed > sender->flushed)
        sender->progress_ns = now_ns;
    sender->applied_bytes = done.applied_bytes;
    sender->flushed = done.flushed;
    note_rate(sender, now_ns);
    if (sender->sent_by_now - sender->applied_bytes <= sender->window_bytes)
        sender->ahead_bytes = 0;
    return TRUE;
}

static gboolean take_digests(DiskSender *sender, const Frame *frame, GError **error)
{
    lock_guard(&sender->lock);
    DiskDigests digests;

    if (!disk_digests_decode(frame->payload, frame->length, &digests, error))
        return FALSE;
    if (digests.file >= sender->options.files || !sender->files[digests.file].there) {
        error_set(error, VMFERRY_ERROR_INVALID, "digests of file %u, which is not compared",
                  digests.file);
        return FALSE;
    }
    g_cond_broadcast(&sender->told);
    return peer_digests_take(sender->files[digests.file].there, &digests, error);
}

gboolean disk_sender_is_flushed(DiskSender *sender, uint64_t number)
{
    lock_guard(&sender->lock);

    return sender->flushed >= number;
}

uint64_t disk_sender_get_stall_ns(DiskSender *sender)
{
    lock_guard(&sender->lock);

    return sender->sent_by_now > sender->applied_bytes ? clock_now_ns() - sender->progress_ns : 0;
}

void disk_sender_get_counts(DiskSender *sender, guint file, DiskCounts *ret)
{
    lock_guard(&sender->lock);

    *ret = sender->files[file].counts;
}

/* ---- its thread ---- */

/* One frame, or a tick. */
static gboolean hear(DiskSender *sender, GError **error)
{
    g_autoptr(GError) quiet = NULL;
    Frame frame;

    if (!session_receive(sender->session, TRAFFIC_DISK, TICK_MS, &frame, &quiet)) {
        if (error_is(quiet, VMFERRY_ERROR_TIMEOUT))
            return TRUE;
        g_propagate_error(error, g_steal_pointer(&quiet));
        return FALSE;
    }
    if (frame.type == FRAME_DISK_DONE)
        return take_done(sender, &frame, error);
    if (frame.type == FRAME_DISK_DIGESTS)
        return take_digests(sender, &frame, error);
    error_set(error, VMFERRY_ERROR_INVALID, "unexpected %s frame about disks",
              frame_type_name(frame.type));
    return FALSE;
}

static void fail(DiskSender *sender, const GError *why)
{
    g_mutex_lock(&sender->lock);
    sender->failure = g_error_copy(why);
    g_cond_broadcast(&sender->told);
    g_mutex_unlock(&sender->lock);
    stop_answers(sender);
    sender->options.failed(why, sender->options.user);
}

static gpointer run(gpointer data)
{
    DiskSender *sender = data;
    g_autoptr(GError) failure = NULL;
    uint64_t ticked_ns = 0;

    while (!g_atomic_int_get(&sender->ending) && hear(sender, &failure)) {
        give_answers(sender);
        if (clock_now_ns() - ticked_ns < (uint64_t)TICK_MS * 1000000)
            continue;
        ticked_ns = clock_now_ns();
        sender->options.tick(sender, sender->options.user);
    }
    if (failure)
        fail(sender, failure);
    return NULL;
}

/* ---- making one ---- */

DiskSender *disk_sender_start(Session *session, const DiskSenderOptions *options, GError **error)
{
    DiskSender *sender = g_new0(DiskSender, 1);

    sender->session = session;
    sender->options = *options;
    sender->files = g_new0(SenderFile, options->files);
    sender->window_bytes = WINDOW_FIRST_BYTES;
    sender->rate_ns = clock_now_ns();
    g_mutex_init(&sender->send_lock);
    g_mutex_init(&sender->lock);
    g_cond_init(&sender->quiet);
    g_cond_init(&sender->told);
    g_queue_init(&sender->pending);
    sender->thread = thread_start("disk-sender", run, sender, error);
    if (sender->thread)
        return sender;
    disk_sender_free(sender);
    return NULL;
}

void disk_sender_begin_file(DiskSender *sender, guint number, uint64_t bytes, gboolean covers)
{
    SenderFile *file = &sender->files[number];

    file->bytes = bytes;
    file->covers = covers;
    file->written = g_malloc0(bytes / GRANULE_BYTES / 8 + 1);
    file->zstd = ZSTD_createCCtx();
    file->packed = g_malloc(PIECE_BYTES);
}

gboolean disk_sender_compare_file(DiskSender *sender, guint number, uint64_t old_bytes,
                                  GError **error)
{
    SenderFile *file = &sender->files[number];
    uint8_t key[DISK_KEY_BYTES];

    if (!granule_digest_make_key(key, error))
        return FALSE;
    file->digest = granule_digest_new(key, error);
    if (!file->digest)
        return FALSE;
    g_mutex_lock(&sender->lock);
    file->there = peer_digests_new(number, old_bytes, file->bytes);
    g_mutex_unlock(&sender->lock);
    return TRUE;
}

void disk_sender_stop(DiskSender *sender)
{
    g_atomic_int_set(&sender->ending, 1);
    if (sender->thread)
        g_thread_join(g_steal_pointer(&sender->thread));
    stop_answers(sender);
}

void disk_sender_free(DiskSender *sender)
{
    if (!sender)
        return;
    disk_sender_stop(sender);
    for (guint i = 0; i < sender->options.files; i++) {
        ZSTD_freeCCtx(sender->files[i].zstd);
        granule_digest_free(sender->files[i].digest);
        peer_digests_free(sender->files[i].there);
        g_free(sender->files[i].written);
        g_free(sender->files[i].packed);
    }
    g_free(sender->files);
    g_queue_clear_full(&sender->pending, g_free);
    g_mutex_clear(&sender->send_lock);
    g_mutex_clear(&sender->lock);
    g_cond_clear(&sender->quiet);
    g_cond_clear(&sender->told);
    g_clear_error(&sender->failure);
    g_free(sender);
}
