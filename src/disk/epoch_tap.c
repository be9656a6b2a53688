#include "disk/epoch_tap.h"

#include "base/error.h"
#include "base/lock_guard.h"
#include "disk/tap_sink.h"

struct EpochTap {
    TapSink *sink;
    GThread *thread;
    guint count;
    uint64_t limit;

    GMutex lock;   /* protects all below */
    GCond changed; /* any of it */
    gboolean stop;
    WriteBatch *batch;  /* of the epoch under way */
    WriteBatch *cut;    /* of the barrier that came; NULL: none did */
    uint64_t barriers;  /* sent so far */
    uint64_t awaited;   /* number of the barrier that is waited for; 0: none is */
    gboolean *unmarked; /* of each disk: its last event was a write */
    GError *failure;    /* for ever */
};

/* ---- events, in the thread, with the lock held ---- */

static void fail(EpochTap *tap, GError *why)
{
    if (tap->failure)
        g_error_free(why);
    else
        tap->failure = why;
}

static void take_end(EpochTap *tap, const TapEvent *event)
{
    GError *why = NULL;

    error_set(&why, VMFERRY_ERROR_DISCONNECTED, "the tap of disk %u has ended: %s", event->disk,
              event->reason ? event->reason : "the VMM has closed it");
    fail(tap, why);
}

static void take_barrier(EpochTap *tap, const TapEvent *event)
{
    if (event->offset != tap->awaited)
        return;
    tap->awaited = 0;
    tap->cut = tap->batch;
    tap->batch = write_batch_new(tap->count);
}

/* A trimmed range may read as anything, so it may stay as it is. */
static void take_event(EpochTap *tap, const TapEvent *event)
{
    switch (event->kind) {
    case TAP_EVENT_WRITE:
    case TAP_EVENT_ZERO:
        write_batch_add(tap->batch, event->disk, event->offset, event->length, event->data);
        tap->unmarked[event->disk] = TRUE;
        break;
    case TAP_EVENT_FLUSH:
        tap->unmarked[event->disk] = FALSE;
        break;
    case TAP_EVENT_END:
        take_end(tap, event);
        break;
    case TAP_EVENT_BARRIER:
        take_barrier(tap, event);
        break;
    case TAP_EVENT_TRIM:
        break;
    }
}

/* Nobody waits for the barrier: the guest can. */
static gboolean wait_for_room(EpochTap *tap)
{
    while (!tap->stop && tap->awaited == 0 && write_batch_get_cost(tap->batch) >= tap->limit)
        g_cond_wait(&tap->changed, &tap->lock);
    return !tap->stop;
}

static gboolean take_next(EpochTap *tap, const TapEvent *event)
{
    lock_guard(&tap->lock);

    take_event(tap, event);
    g_cond_broadcast(&tap->changed);
    return wait_for_room(tap);
}

static gpointer read_events(gpointer data)
{
    EpochTap *tap = data;
    GError *error = NULL;
    TapEvent event;

    while (tap_sink_read(tap->sink, -1, &event, &error) == 1)
        if (!take_next(tap, &event))
            return NULL;
    g_mutex_lock(&tap->lock);
    fail(tap, error);
    g_cond_broadcast(&tap->changed);
    g_mutex_unlock(&tap->lock);
    return NULL;
}

/* ---- beginning and end ---- */

static TapSink *start_sink(const EpochTapOptions *options, GError **error)
{
    g_autofree TapDisk *disks = g_new0(TapDisk, options->count);

    for (guint i = 0; i < options->count; i++)
        disks[i].bytes = options->bytes[i];
    return tap_sink_start(&(TapSinkOptions){.client = options->client,
                                            .buffer_bytes = TAP_BUFFER_BYTES,
                                            .stall_ms = TAP_STALL_MS,
                                            .wait_ms = TAP_WAIT_MS,
                                            .disks = disks,
                                            .count = options->count},
                          error);
}

EpochTap *epoch_tap_start(const EpochTapOptions *options, GError **error)
{
    TapSink *sink = start_sink(options, error);
    EpochTap *tap;

    if (!sink)
        return NULL;
    tap = g_new0(EpochTap, 1);
    tap->sink = sink;
    tap->count = options->count;
    tap->limit = options->limit_bytes;
    g_mutex_init(&tap->lock);
    g_cond_init(&tap->changed);
    tap->batch = write_batch_new(tap->count);
    tap->unmarked = g_new0(gboolean, tap->count);
    tap->thread = g_thread_new("epoch-tap", read_events, tap);
    return tap;
}

void epoch_tap_free(EpochTap *tap)
{
    if (!tap)
        return;
    g_mutex_lock(&tap->lock);
    tap->stop = TRUE;
    g_cond_broadcast(&tap->changed);
    g_mutex_unlock(&tap->lock);
    tap_sink_close(tap->sink);
    g_thread_join(tap->thread);
    tap_sink_free(tap->sink);
    write_batch_free(tap->batch);
    write_batch_free(tap->cut);
    g_clear_error(&tap->failure);
    g_free(tap->unmarked);
    g_mutex_clear(&tap->lock);
    g_cond_clear(&tap->changed);
    g_free(tap);
}

const char *epoch_tap_get_address(const EpochTap *tap, guint disk)
{
    return tap_sink_get_address(tap->sink, disk);
}

pid_t epoch_tap_get_pid(const EpochTap *tap)
{
    return tap_sink_get_pid(tap->sink);
}

/* ---- its owner ---- */

uint64_t epoch_tap_get_cost(EpochTap *tap)
{
    lock_guard(&tap->lock);

    return write_batch_get_cost(tap->batch);
}

static gboolean check_locked(EpochTap *tap, GError **error)
{
    if (tap->failure && error)
        *error = g_error_copy(tap->failure);
    return tap->failure == NULL;
}

gboolean epoch_tap_check(EpochTap *tap, GError **error)
{
    lock_guard(&tap->lock);

    return check_locked(tap, error);
}

static gboolean check_marks(const EpochTap *tap, GError **error)
{
    for (guint i = 0; i < tap->count; i++) {
        if (!tap->unmarked[i])
            continue;
        error_set(error, VMFERRY_ERROR_FAILED,
                  "disk %u was written after the end of the epoch: the guest is not paused", i);
        return FALSE;
    }
    return TRUE;
}

static void give_back_locked(EpochTap *tap, WriteBatch *batch)
{
    write_batch_add_all(batch, tap->batch);
    write_batch_free(tap->batch);
    tap->batch = batch;
}

/* NULL where the barrier has not come, or what came cannot be used. */
static WriteBatch *take_cut(EpochTap *tap, GError **error)
{
    WriteBatch *cut = g_steal_pointer(&tap->cut);

    tap->awaited = 0;
    if (!check_locked(tap, error) || (cut && !check_marks(tap, error))) {
        if (cut)
            give_back_locked(tap, cut);
        return NULL;
    }
    if (!cut)
        error_set(error, VMFERRY_ERROR_TIMEOUT,
                  "the block tap did not give the writes of an epoch in time");
    return cut;
}

static gboolean ask(EpochTap *tap, GError **error)
{
    lock_guard(&tap->lock);

    if (!check_locked(tap, error) || !tap_sink_send_barrier(tap->sink, tap->barriers + 1, error))
        return FALSE;
    tap->awaited = ++tap->barriers;
    g_cond_broadcast(&tap->changed);
    return TRUE;
}

WriteBatch *epoch_tap_cut(EpochTap *tap, int timeout_ms, GError **error)
{
    gint64 deadline = g_get_monotonic_time() + (gint64)timeout_ms * 1000;

    if (!ask(tap, error))
        return NULL;
    lock_guard(&tap->lock);
    while (!tap->cut && !tap->failure)
        if (!g_cond_wait_until(&tap->changed, &tap->lock, deadline))
            break;
    return take_cut(tap, error);
}

WriteBatch *epoch_tap_take(EpochTap *tap)
{
    lock_guard(&tap->lock);
    WriteBatch *taken = tap->batch;

    tap->batch = write_batch_new(tap->count);
    g_cond_broadcast(&tap->changed);
    return taken;
}

void epoch_tap_give_back(EpochTap *tap, WriteBatch *batch)
{
    lock_guard(&tap->lock);

    give_back_locked(tap, batch);
    g_cond_broadcast(&tap->changed);
}
