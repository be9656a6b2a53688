#include "transfer/frame_queue.h"

#include "base/error.h"
#include "base/lock_guard.h"

/* How often the receiving thread checks whether it shall stop. */
#define STOP_CHECK_MS 100
/* Buffers of free slots that are kept: they are warm in the cache. */
#define WARM_SLOTS 16

struct FrameQueue {
    Channel *channel;
    GThread *thread;
    GMutex lock; /* protects all below */
    GCond changed;
    GQueue free_slots, full_slots; /* of FrameSlot */
    guint warm;                    /* free slots with a buffer */
    size_t queued_bytes;           /* of frames that were received and not released */
    gboolean stopping;
    GError *failure; /* the channel's end */
};

static FrameSlot *take_free_slot(FrameQueue *queue)
{
    FrameSlot *slot = NULL;

    g_mutex_lock(&queue->lock);
    while (!queue->stopping && (queue->queued_bytes >= FRAME_QUEUE_MOST_BYTES ||
                                !(slot = g_queue_pop_head(&queue->free_slots))))
        g_cond_wait(&queue->changed, &queue->lock);
    if (slot && slot->buffer)
        queue->warm--;
    g_mutex_unlock(&queue->lock);
    return slot;
}

static void put_full(FrameQueue *queue, FrameSlot *slot)
{
    lock_guard(&queue->lock);

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

/* FALSE: no more will come. */
static gboolean receive_one(FrameQueue *queue, FrameSlot *slot)
{
    g_autoptr(GError) error = NULL;

    if (channel_receive_swap(queue->channel, STOP_CHECK_MS, &slot->frame, &slot->buffer,
                             &slot->capacity, &error)) {
        put_full(queue, slot);
        return TRUE;
    }
    put_free(queue, slot);
    if (error_is(error, VMFERRY_ERROR_TIMEOUT))
        return TRUE;
    g_mutex_lock(&queue->lock);
    queue->failure = g_steal_pointer(&error);
    g_cond_broadcast(&queue->changed);
    g_mutex_unlock(&queue->lock);
    return FALSE;
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

void frame_queue_free(FrameQueue *queue)
{
    if (!queue)
        return;
    g_mutex_lock(&queue->lock);
    queue->stopping = TRUE;
    g_cond_broadcast(&queue->changed);
    g_mutex_unlock(&queue->lock);
    if (queue->thread)
        g_thread_join(queue->thread);
    g_queue_clear_full(&queue->free_slots, slot_free);
    g_queue_clear_full(&queue->full_slots, slot_free);
    g_clear_error(&queue->failure);
    g_cond_clear(&queue->changed);
    g_mutex_clear(&queue->lock);
    g_free(queue);
}
