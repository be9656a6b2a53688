/*
 * A seed: an image here whose pages need not travel (transfer/seed_reader.h)
 *
 * SEED comes before anything else of a move and is answered when the image is open: one that is missing or
 * damaged ends the move before anything was done to the guest.  A thread reads its pages meanwhile, and
 * sends their digests once GUEST has come, since frames survive breaks from there on.  With the first epoch's
 * seal the image is done with; pages that it did not have after all are named to the source then.
 */
#include "migrate/destination_move.h"

#include <inttypes.h>
#include <string.h>
#include <sys/random.h>

#include "base/error.h"
#include "base/lock_guard.h"
#include "base/log.h"
#include "image/saved_image.h"
#include "wire/postcopy_frame.h"

struct DestinationSeed {
    Session *session; /* borrowed */
    SavedImage *image;
    SeedReader *reader;
    GThread *thread;
    uint32_t sent; /* digests */
    GMutex lock;   /* protects all below */
    GCond changed;
    gboolean may_send, stops;
};

/* ---- the list ---- */

static gboolean stops(DestinationSeed *seed)
{
    lock_guard(&seed->lock);
    return seed->stops;
}

static gboolean may_send(DestinationSeed *seed)
{
    lock_guard(&seed->lock);
    return seed->may_send;
}

static gboolean send_some(DestinationSeed *seed, gboolean complete)
{
    const SeedIndex *list = seed_reader_get_list(seed->reader);
    uint32_t end = MIN(seed_index_get_count(list), seed->sent + FRAME_SEED_DIGESTS_MOST);
    gboolean last = complete && end == seed_index_get_count(list);
    g_autoptr(GByteArray) frame = g_byte_array_new();

    seed_digests_encode_head(frame, seed->sent, last);
    while (seed->sent < end)
        seed_digests_append(frame, seed_index_get(list, seed->sent++));
    return session_send_bytes(seed->session, FRAME_SEED_DIGESTS, frame->data, frame->len, NULL);
}

/* A frame at least: the source sees that it goes on. */
static gboolean send_list(DestinationSeed *seed, gboolean complete)
{
    do {
        if (!send_some(seed, complete))
            return FALSE;
    } while (seed->sent < seed_index_get_count(seed_reader_get_list(seed->reader)));
    return TRUE;
}

/* FALSE where the move ends. */
static gboolean await_guest(DestinationSeed *seed)
{
    lock_guard(&seed->lock);

    while (!seed->may_send && !seed->stops)
        g_cond_wait(&seed->changed, &seed->lock);
    return !seed->stops;
}

static void tell_unread(const DestinationSeed *seed)
{
    const GError *why;
    uint64_t pages = seed_reader_count_unread(seed->reader, &why);

    if (pages > 0)
        log_warning("seed %s: %" PRIu64 " pages cannot be read: %s",
                    saved_image_get_path(seed->image), pages, why->message);
}

/* Where sending fails the session has, which the move itself notices. */
static gpointer run(gpointer data)
{
    DestinationSeed *seed = data;
    gboolean more = TRUE;

    while (more) {
        if (stops(seed))
            return NULL;
        more = seed_reader_read_some(seed->reader);
        if (more && may_send(seed) && !send_list(seed, FALSE))
            return NULL;
    }
    tell_unread(seed);
    if (await_guest(seed) && send_list(seed, TRUE))
        seed_reader_drop_list(seed->reader);
    return NULL;
}

static void end_thread(DestinationSeed *seed)
{
    g_mutex_lock(&seed->lock);
    seed->stops = TRUE;
    g_cond_signal(&seed->changed);
    g_mutex_unlock(&seed->lock);
    if (seed->thread)
        g_thread_join(g_steal_pointer(&seed->thread));
}

/* ---- the sequence ---- */

void destination_seed_free(DestinationSeed *seed)
{
    if (!seed)
        return;
    end_thread(seed);
    seed_reader_free(seed->reader);
    saved_image_free(seed->image);
    g_mutex_clear(&seed->lock);
    g_cond_clear(&seed->changed);
    g_free(seed);
}

static gboolean open_image(DestinationSeed *seed, const char *path, const SeedMessage *message,
                           uint64_t key, GError **error)
{
    if (!g_path_is_absolute(path)) {
        error_set(error, VMFERRY_ERROR_INVALID, "\"%s\" is not an absolute path", path);
        return FALSE;
    }
    seed->image = saved_image_open(path, NULL, error);
    seed->reader = seed->image ? seed_reader_new(saved_image_get_source(seed->image), message->most,
                                                 key, error)
                               : NULL;
    return seed->reader != NULL;
}

static gboolean make_key(uint64_t *ret, GError **error)
{
    if (getrandom(ret, sizeof *ret, 0) == (ssize_t)sizeof *ret)
        return TRUE;
    error_set(error, VMFERRY_ERROR_FAILED, "there are no random bytes");
    return FALSE;
}

static gboolean start(DestinationSeed *seed, GError **error)
{
    g_autoptr(GError) failure = NULL;

    seed->thread = g_thread_try_new("seed", run, seed, &failure);
    if (seed->thread)
        return TRUE;
    error_set(error, VMFERRY_ERROR_FAILED, "no thread to read it: %s", failure->message);
    return FALSE;
}

static gboolean answer(const DestinationSeed *seed, uint64_t key, GError **error)
{
    g_autofree char *id = image_id_format(saved_image_get_id(seed->image));
    g_autofree char *text = seed_answer_encode(
        &(SeedAnswer){.id = id, .pages = seed_reader_count_pages(seed->reader), .key = key});

    return session_send_bytes(seed->session, FRAME_SEED, text, strlen(text), error);
}

static void advise(const char *path, GError **error)
{
    g_autoptr(GError) why = *error;

    *error = NULL;
    error_set(
        error, (VmferryErrorCode)why->code,
        "the seed %s cannot be used: %s (name a saved image that is on this host, save one here "
        "with `vmferry save NAME HOST:FILE`, or move without --seed)",
        path, why->message);
}

gboolean destination_take_seed(DestinationMove *move, const Frame *frame, GError **error)
{
    g_auto(SeedMessage) message = {0};
    g_autofree char *path = NULL;
    DestinationSeed *seed;
    uint64_t key;

    if (!seed_message_decode((const char *)frame->payload, frame->length, &message, error) ||
        !make_key(&key, error))
        return FALSE;
    path = move->host->map(message.path, move->host->user);
    seed = move->seed = g_new0(DestinationSeed, 1);
    g_mutex_init(&seed->lock);
    g_cond_init(&seed->changed);
    seed->session = move->session;
    if (open_image(seed, path, &message, key, error) && start(seed, error))
        return answer(seed, key, error);
    if (error)
        advise(path, error);
    return FALSE;
}

void destination_seed_send_list(DestinationMove *move)
{
    DestinationSeed *seed = move->seed;

    if (!seed)
        return;
    g_mutex_lock(&seed->lock);
    seed->may_send = TRUE;
    g_cond_signal(&seed->changed);
    g_mutex_unlock(&seed->lock);
}

SeedReader *destination_seed_get_reader(const DestinationMove *move)
{
    return move->seed ? move->seed->reader : NULL;
}

/* ---- what it did not have ---- */

static gboolean send_frame(DestinationMove *move, guint region, const GByteArray *runs, guint count,
                           GError **error)
{
    g_autoptr(GByteArray) head = g_byte_array_new();
    struct iovec parts[2];

    outstanding_frame_encode_head(head, region, count);
    parts[0] = (struct iovec){head->data, head->len};
    parts[1] = (struct iovec){runs->data, runs->len};
    return session_send_as(move->session, TRAFFIC_CONTROL, FRAME_OUTSTANDING, parts, 2, error);
}

static gboolean send_lacking_of(DestinationMove *move, guint region, const PageSet *set,
                                GError **error)
{
    g_autoptr(GByteArray) runs = g_byte_array_new();
    PageSpan run;
    guint count = 0;

    for (uint64_t at = 0; page_set_next_run(set, at, UINT64_MAX, &run.first, &run.count);
         at = run.first + run.count) {
        outstanding_frame_append(runs, run.first, run.count);
        if (++count < FRAME_OUTSTANDING_MAX_RUNS)
            continue;
        if (!send_frame(move, region, runs, count, error))
            return FALSE;
        g_byte_array_set_size(runs, 0);
        count = 0;
    }
    return count == 0 || send_frame(move, region, runs, count, error);
}

static gboolean send_lacking(DestinationMove *move, GError **error)
{
    GPtrArray *lacking = seed_reader_get_lacking(move->seed->reader);

    for (guint i = 0; lacking && i < lacking->len; i++)
        if (!send_lacking_of(move, i, lacking->pdata[i], error))
            return FALSE;
    return TRUE;
}

gboolean destination_seed_end(DestinationMove *move, GError **error)
{
    DestinationSeed *seed = move->seed;
    uint64_t lacking;

    if (!seed || !seed->image)
        return TRUE;
    end_thread(seed);
    lacking = seed_reader_count_lacking(seed->reader);
    if (lacking > 0)
        log_warning("guest %s: seed %s: %" PRIu64
                    " pages are not what they were when it was read; they are sent again",
                    move->guest->guest, saved_image_get_path(seed->image), lacking);
    seed_reader_close(seed->reader);
    g_clear_pointer(&seed->image, saved_image_free);
    return send_lacking(move, error);
}

void destination_seed_note_outstanding(DestinationMove *move, const Frame *frame)
{
    const PageRegions *regions = move->sink->regions;
    OutstandingFrame runs;

    if (!move->seed || !outstanding_frame_decode(frame->payload, frame->length, regions->pages,
                                                 regions->count, &runs, NULL))
        return;
    for (uint32_t i = 0; i < runs.runs; i++) {
        PageSpan span;

        outstanding_frame_next(&runs, &span.first, &span.count);
        seed_reader_note_written(move->seed->reader, runs.region, &span, 1);
    }
}

gboolean destination_seed_check(DestinationMove *move, GError **error)
{
    uint64_t lacking = move->seed ? seed_reader_count_lacking(move->seed->reader) : 0;

    if (lacking == 0)
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID,
              "PREPARE: %" PRIu64 " pages that the seed did not have were not sent again", lacking);
    return FALSE;
}
