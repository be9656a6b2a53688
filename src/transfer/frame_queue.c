#include "transfer/frame_queue.h"

#include "base/error.h"
#include "base/lock_guard.h"
#include "wire/epoch_frame.h"
#include "wire/messages.h"

/* How often the receiving thread checks whether it shall stop. */
#define STOP_CHECK_MS 100
/* Buffers of free slots that are kept: they are warm in the cache. */
#define WARM_SLOTS 16

/* A further channel for bulk. */
typedef struct {
    FrameQueue *queue;
    Channel *channel; /* until the thread ends it */
    guint number;
    GThread *thread;
    /* under the queue's lock */
    gboolean begun;   /* it has said where it begins */
    uint32_t barrier; /* it is behind that one */
    gboolean dropped; /* nothing of it counts any more */
    gboolean ended;
    GError *failure; /* by which it has ended */
} Further;

struct FrameQueue {
    Channel *channel;
    Session *session; /* with further channels; NULL: without */
    GThread *thread;
    GMutex lock; /* protects all below */
    GCond changed;
    GQueue free_slots, full_slots; /* of FrameSlot */
    guint warm;                    /* free slots with a buffer */
    size_t queued_bytes;           /* of frames that were received and not released */
    gboolean stopping;
    GError *failure;    /* the channel's end */
    GPtrArray *further; /* of Further */
    uint32_t barrier;   /* the first channel is behind that one */
};

static FrameSlot *take_free_slot(FrameQueue *queue)
{
    FrameSlot *slot = NULL;

    g_mutex_lock(&queue->lock);
    while (!queue->stopping && !queue->failure &&
           (queue->queued_bytes >= FRAME_QUEUE_MOST_BYTES ||
            !(slot = g_queue_pop_head(&queue->free_slots))))
        g_cond_wait(&queue->changed, &queue->lock);
    if (slot && slot->buffer)
        queue->warm--;
    g_mutex_unlock(&queue->lock);
    return slot;
}

/* With the lock held. */
static void put_full(FrameQueue *queue, FrameSlot *slot)
{
    queue->queued_bytes += slot->frame.length;
    g_queue_push_tail(&queue->full_slots, slot);
    g_cond_broadcast(&queue->changed);
}

/* The one used last comes first: it is warm in the cache.  Those without a
 * buffer are last. */
static void put_free(FrameQueue *queue, FrameSlot *slot)
{
    lock_guard(&queue->lock);

    if (slot->buffer && queue->warm < WARM_SLOTS) {
        queue->warm++;
        g_queue_push_head(&queue->free_slots, slot);
    } else {
        g_clear_pointer(&slot->buffer, g_free);
        slot->capacity = 0;
        g_queue_push_tail(&queue->free_slots, slot);
    }
    g_cond_broadcast(&queue->changed);
}

/* No more comes, by any channel. */
static void end_with(FrameQueue *queue, GError *failure)
{
    lock_guard(&queue->lock);

    if (queue->failure)
        g_error_free(failure);
    else
        queue->failure = failure;
    g_cond_broadcast(&queue->changed);
}

/* ---- barriers ---- */

/* With the lock held. */
static Further *find_further(FrameQueue *queue, guint number)
{
    for (guint i = 0; i < queue->further->len; i++) {
        Further *further = g_ptr_array_index(queue->further, i);

        if (further->number == number)
            return further;
    }
    return NULL;
}

/* With the lock held, which is given back meanwhile: waits a little.  FALSE with *error* where the peer
 * has ended the session, or given it up: nobody else reads on the first channel, and one that is waited
 * for may be broken. */
static gboolean wait_at_barrier(FrameQueue *queue, GError **error)
{
    gboolean lives;

    if (g_cond_wait_until(&queue->changed, &queue->lock,
                          g_get_monotonic_time() + STOP_CHECK_MS * 1000))
        return TRUE;
    g_mutex_unlock(&queue->lock);
    lives = channel_look_ahead(queue->channel, error);
    g_mutex_lock(&queue->lock);
    return lives;
}

/* With the lock held: waits until all is in the ring that one of them brought before the barrier. */
static gboolean await_further(FrameQueue *queue, guint channel, uint32_t number, GError **error)
{
    Further *further = find_further(queue, channel);

    while (further && !queue->stopping && !queue->failure && !further->ended &&
           !(further->begun && further->barrier >= number))
        if (!wait_at_barrier(queue, error))
            return FALSE;
    if (further && further->begun && further->barrier >= number)
        return TRUE;
    error_set(error, VMFERRY_ERROR_DISCONNECTED,
              "%s: one of the connections for pages was lost, and pages with it%s%s",
              channel_get_peer_name(queue->channel), further && further->failure ? ": " : "",
              further && further->failure ? further->failure->message : "");
    return FALSE;
}

/* With the lock held: what the sender has given up must not come late. */
static void drop_others(FrameQueue *queue, const BulkBarrier *barrier)
{
    for (guint i = 0; i < queue->further->len; i++) {
        Further *further = g_ptr_array_index(queue->further, i);

        if (!(barrier->channels & (1ULL << further->number)) && further->begun &&
            further->barrier < barrier->number)
            further->dropped = TRUE;
    }
}

static gboolean pass_locked(FrameQueue *queue, const BulkBarrier *barrier, GError **error)
{
    lock_guard(&queue->lock);

    if (barrier->number != queue->barrier + 1) {
        error_set(error, VMFERRY_ERROR_INVALID, "BULK_BARRIER %u where %u was expected",
                  barrier->number, queue->barrier + 1);
        return FALSE;
    }
    for (guint i = 1; i <= HELLO_MOST_NUMBER; i++)
        if ((barrier->channels & (1ULL << i)) && !await_further(queue, i, barrier->number, error))
            return FALSE;
    drop_others(queue, barrier);
    queue->barrier = barrier->number;
    g_cond_broadcast(&queue->changed);
    return TRUE;
}

/* On the first channel. */
static gboolean pass_barrier(FrameQueue *queue, const Frame *frame)
{
    g_autoptr(GError) error = NULL;
    BulkBarrier barrier;

    if (barrier_frame_decode(frame->payload, frame->length, &barrier, &error) &&
        pass_locked(queue, &barrier, &error))
        return TRUE;
    /* A peer that gives up closes all of them, and has said why on the first one. */
    if (error_is(error, VMFERRY_ERROR_DISCONNECTED))
        session_prefer_final_error(queue->session, &error);
    end_with(queue, g_steal_pointer(&error));
    return FALSE;
}

/* With the lock held.  FALSE: the peer breaks the rules. */
static gboolean note_barrier(Further *further, uint32_t number, GError **error)
{
    if (further->begun && number != further->barrier + 1) {
        error_set(error, VMFERRY_ERROR_INVALID,
                  "BULK_BARRIER %u on channel %u where %u was expected", number, further->number,
                  further->barrier + 1);
        return FALSE;
    }
    /* A barrier has been passed that left it out: the sender had given it up before it began. */
    if (!further->begun && number < further->queue->barrier)
        further->dropped = TRUE;
    further->begun = TRUE;
    further->barrier = number;
    g_cond_broadcast(&further->queue->changed);
    return TRUE;
}

/* On a further channel: waits until the first one is there, too. */
static gboolean meet_barrier(Further *further, const Frame *frame, GError **error)
{
    FrameQueue *queue = further->queue;
    BulkBarrier barrier;
    lock_guard(&queue->lock);

    if (!barrier_frame_decode(frame->payload, frame->length, &barrier, error) ||
        !note_barrier(further, barrier.number, error))
        return FALSE;
    while (queue->barrier < further->barrier && !further->dropped && !queue->stopping &&
           !queue->failure)
        g_cond_wait(&queue->changed, &queue->lock);
    return TRUE;
}

/* ---- receiving ---- */

static gboolean takes_further(FrameQueue *queue)
{
    lock_guard(&queue->lock);

    return queue->session != NULL;
}

/* FALSE: no more will come. */
static gboolean receive_one(FrameQueue *queue, FrameSlot *slot)
{
    g_autoptr(GError) error = NULL;

    if (!channel_receive_swap(queue->channel, STOP_CHECK_MS, &slot->frame, &slot->buffer,
                              &slot->capacity, &error)) {
        put_free(queue, slot);
        if (error_is(error, VMFERRY_ERROR_TIMEOUT))
            return TRUE;
        end_with(queue, g_steal_pointer(&error));
        return FALSE;
    }
    if (slot->frame.type == FRAME_BULK_BARRIER && takes_further(queue)) {
        gboolean passed = pass_barrier(queue, &slot->frame);

        put_free(queue, slot);
        return passed;
    }
    g_mutex_lock(&queue->lock);
    put_full(queue, slot);
    g_mutex_unlock(&queue->lock);
    return TRUE;
}

static gpointer receive_thread(gpointer data)
{
    FrameQueue *queue = data;
    FrameSlot *slot;

    while ((slot = take_free_slot(queue)) && receive_one(queue, slot))
        ;
    return NULL;
}

FrameQueue *frame_queue_start(Channel *channel, guint slots, GError **error)
{
    FrameQueue *queue = g_new0(FrameQueue, 1);

    queue->channel = channel;
    queue->further = g_ptr_array_new();
    g_mutex_init(&queue->lock);
    g_cond_init(&queue->changed);
    for (guint i = 0; i < slots; i++)
        g_queue_push_tail(&queue->free_slots, g_new0(FrameSlot, 1));
    queue->thread = g_thread_try_new("receive", receive_thread, queue, error);
    if (queue->thread)
        return queue;
    frame_queue_free(queue);
    return NULL;
}

/* ---- further channels ---- */

/* Pages, and what lies between two epochs of them; but what has an order comes on the first. */
static gboolean check_further(const Further *further, const Frame *frame, GError **error)
{
    if (frame_type_carries_pages(frame->type) && !frame_type_has_order(frame->type) &&
        further->begun)
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "%s sent %s on further channel %u for bulk%s",
              channel_get_peer_name(further->channel), frame_type_name(frame->type),
              further->number, further->begun ? "" : ", before BULK_BARRIER");
    return FALSE;
}

/* FALSE: nothing of it counts any more, and the slot is free. */
static gboolean put_pages(Further *further, FrameSlot *slot)
{
    FrameQueue *queue = further->queue;

    g_mutex_lock(&queue->lock);
    if (!further->dropped) {
        put_full(queue, slot);
        g_mutex_unlock(&queue->lock);
        return TRUE;
    }
    g_mutex_unlock(&queue->lock);
    put_free(queue, slot);
    return FALSE;
}

static void note_end(Further *further, GError *failure)
{
    lock_guard(&further->queue->lock);

    further->ended = TRUE;
    further->failure = failure;
    g_cond_broadcast(&further->queue->changed);
}

static gboolean is_dropped(Further *further)
{
    lock_guard(&further->queue->lock);

    return further->dropped;
}

/* FALSE: no more will come by it. */
static gboolean receive_further(Further *further, FrameSlot *slot)
{
    FrameQueue *queue = further->queue;
    GError *error = NULL;
    gboolean valid;

    if (!channel_receive_swap(further->channel, STOP_CHECK_MS, &slot->frame, &slot->buffer,
                              &slot->capacity, &error)) {
        put_free(queue, slot);
        if (!error_is(error, VMFERRY_ERROR_TIMEOUT)) {
            note_end(further, error);
            return FALSE;
        }
        g_error_free(error);
        return !is_dropped(further);
    }
    if (slot->frame.type == FRAME_BULK_BARRIER) {
        valid = meet_barrier(further, &slot->frame, &error);
        put_free(queue, slot);
    } else {
        valid = check_further(further, &slot->frame, &error);
        if (valid)
            return put_pages(further, slot);
        put_free(queue, slot);
    }
    if (!valid)
        end_with(queue, error);
    return valid;
}

static gpointer further_thread(gpointer data)
{
    Further *further = data;
    FrameSlot *slot;

    while ((slot = take_free_slot(further->queue)) && receive_further(further, slot))
        ;
    if (!further->ended)
        note_end(further, NULL);
    session_end_bulk(further->queue->session, further->number);
    return NULL;
}

/* A SessionBulkTaker. */
static gboolean add_further(Channel *channel, guint number, gpointer user, GError **error)
{
    FrameQueue *queue = user;
    Further *further = g_new0(Further, 1);

    *further = (Further){.queue = queue, .channel = channel, .number = number};
    g_mutex_lock(&queue->lock);
    further->thread = g_thread_try_new("receive-more", further_thread, further, error);
    if (further->thread)
        g_ptr_array_add(queue->further, further);
    g_mutex_unlock(&queue->lock);
    if (further->thread)
        return TRUE;
    g_free(further);
    return FALSE;
}

void frame_queue_take_further(FrameQueue *queue, Session *session)
{
    g_mutex_lock(&queue->lock);
    queue->session = session;
    g_mutex_unlock(&queue->lock);
    session_take_bulk(session, add_further, queue);
}

/* ---- giving out ---- */

FrameSlot *frame_queue_pop(FrameQueue *queue, int timeout_ms, GError **error)
{
    gint64 end = g_get_monotonic_time() + (gint64)timeout_ms * 1000;
    lock_guard(&queue->lock);
    FrameSlot *slot;

    while (!(slot = g_queue_pop_head(&queue->full_slots)) && !queue->failure) {
        if (timeout_ms < 0) {
            g_cond_wait(&queue->changed, &queue->lock);
        } else if (!g_cond_wait_until(&queue->changed, &queue->lock, end)) {
            error_set(error, VMFERRY_ERROR_TIMEOUT, "%s: no answer in time",
                      channel_get_peer_name(queue->channel));
            return NULL;
        }
    }
    if (!slot)
        g_propagate_error(error, g_error_copy(queue->failure));
    return slot;
}

void frame_queue_release(FrameQueue *queue, FrameSlot *slot)
{
    g_mutex_lock(&queue->lock);
    queue->queued_bytes -= slot->frame.length;
    g_mutex_unlock(&queue->lock);
    put_free(queue, slot);
}

static void slot_free(gpointer data)
{
    FrameSlot *slot = data;

    g_free(slot->buffer);
    g_free(slot);
}

static void further_free(Further *further)
{
    g_thread_join(further->thread);
    g_clear_error(&further->failure);
    g_free(further);
}

void frame_queue_free(FrameQueue *queue)
{
    if (!queue)
        return;
    if (queue->session)
        session_take_bulk(queue->session, NULL, NULL);
    g_mutex_lock(&queue->lock);
    queue->stopping = TRUE;
    g_cond_broadcast(&queue->changed);
    g_mutex_unlock(&queue->lock);
    if (queue->thread)
        g_thread_join(queue->thread);
    for (guint i = 0; i < queue->further->len; i++)
        further_free(g_ptr_array_index(queue->further, i));
    g_ptr_array_unref(queue->further);
    g_queue_clear_full(&queue->free_slots, slot_free);
    g_queue_clear_full(&queue->full_slots, slot_free);
    g_clear_error(&queue->failure);
    g_cond_clear(&queue->changed);
    g_mutex_clear(&queue->lock);
    g_free(queue);
}
