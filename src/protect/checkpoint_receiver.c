#include "protect/checkpoint_receiver.h"

#include <string.h>

#include "base/error.h"
#include "base/fault.h"
#include "base/log.h"
#include "base/thread.h"
#include "transfer/epoch.h"
#include "transfer/frame_queue.h"

#define RECEIVE_AHEAD_FRAMES 32

struct CheckpointReceiver {
    Session *session;
    DeltaStore *store;
    CheckpointPart parts[CHECKPOINT_MOST_PARTS];
    guint part_count;
    gboolean bears_lack;
    FrameQueue *queue;
    PageApplier *applier;
    EpochReceiver *epochs;
    uint64_t epoch; /* that is being staged */
    GThread *thread;
};

static void release_slot(gpointer owner, gpointer user)
{
    frame_queue_release(user, owner);
}

static gboolean begin_stage(CheckpointReceiver *receiver, GError **error)
{
    uint64_t committed = 0;

    delta_store_get_epoch(receiver->store, &committed);
    receiver->epoch = committed + 1;
    return delta_stage_begin(receiver->store, receiver->epoch, error);
}

static gboolean seal_parts(CheckpointReceiver *receiver, GError **error)
{
    for (guint i = 0; i < receiver->part_count; i++)
        if (!receiver->parts[i].seal(receiver->epoch, receiver->parts[i].user, error))
            return FALSE;
    return TRUE;
}

static void tell_parts(CheckpointReceiver *receiver)
{
    for (guint i = 0; i < receiver->part_count; i++)
        receiver->parts[i].committed(receiver->epoch, receiver->parts[i].user);
}

static gboolean commit_pages(CheckpointReceiver *receiver, GBytes *state, GError **error)
{
    if (!delta_stage_commit(receiver->store, state, NULL, error))
        return FALSE;
    tell_parts(receiver);
    return !fault_point("checkpoint.committed", error);
}

/* The parts first: what they have of an epoch that is not committed does not count. */
static gboolean commit(CheckpointReceiver *receiver, GError **error)
{
    g_autoptr(GBytes) state = epoch_receiver_get_state(receiver->epochs, error);

    return state && !fault_point("checkpoint.commit", error) && seal_parts(receiver, error) &&
           commit_pages(receiver, state, error) &&
           epoch_receiver_confirm(receiver->epochs,
                                  session_get_channel(receiver->session, TRAFFIC_CONTROL), error) &&
           begin_stage(receiver, error);
}

static const CheckpointPart *find_part(const CheckpointReceiver *receiver, FrameType type)
{
    for (guint i = 0; i < receiver->part_count; i++)
        if (receiver->parts[i].takes(type))
            return &receiver->parts[i];
    return NULL;
}

static gboolean take_frame(CheckpointReceiver *receiver, const Frame *frame, GError **error)
{
    const CheckpointPart *part;

    switch (frame->type) {
    case FRAME_DEVICE_STATE:
        return epoch_receiver_take_state(receiver->epochs, frame, error);
    case FRAME_EPOCH_BARRIER:
        return epoch_receiver_take_barrier(receiver->epochs, error);
    case FRAME_EPOCH_SEAL:
        return epoch_receiver_seal(receiver->epochs, frame, error) && commit(receiver, error);
    case FRAME_ERROR:
    case FRAME_ABORT:
        session_error_from_frame(receiver->session, frame, error);
        return FALSE;
    default:
        part = find_part(receiver, frame->type);
        /* It may read what pages of this epoch are. */
        if (part)
            return page_applier_drain(receiver->applier, error) &&
                   part->take(frame, receiver->epoch, part->user, error);
        error_set(error, VMFERRY_ERROR_INVALID, "%s sent an unexpected %s frame",
                  session_get_peer_name(receiver->session), frame_type_name(frame->type));
        return FALSE;
    }
}

static gboolean take_slot(CheckpointReceiver *receiver, FrameSlot *slot, GError **error)
{
    gboolean taken;

    if (page_applier_takes(slot->frame.type))
        return epoch_receiver_take_pages(receiver->epochs, &slot->frame, slot, error);
    taken = take_frame(receiver, &slot->frame, error);
    frame_queue_release(receiver->queue, slot);
    return taken;
}

/* NOT_FOUND would say that the guest's VMM here is gone, and no epoch is needed any more: that is for
 * others to say. */
static void tell_failure(CheckpointReceiver *receiver, const GError *failure)
{
    g_autoptr(GError) said = NULL;

    error_set(&said, VMFERRY_ERROR_FAILED, "checkpoints: %s", failure->message);
    session_send_error(receiver->session,
                       error_is(failure, VMFERRY_ERROR_NOT_FOUND) ? said : failure);
}

/* There is no room for an epoch, and there would be none in the next session: the last one stays good,
 * nothing more is confirmed, and pages go on to come.  TRUE where the session has ended. */
static gboolean bear_lack(CheckpointReceiver *receiver, GError **failure)
{
    FrameSlot *slot;

    if (!receiver->bears_lack || !error_is(*failure, VMFERRY_ERROR_NO_SPACE))
        return FALSE;
    log_warning(
        "no more epochs of the guest are kept, and what it sends waits until it has all of its "
        "memory: %s",
        (*failure)->message);
    g_clear_error(failure);
    while ((slot = frame_queue_pop(receiver->queue, -1, failure)))
        frame_queue_release(receiver->queue, slot);
    return TRUE;
}

static gpointer receive_main(gpointer data)
{
    CheckpointReceiver *receiver = data;
    g_autoptr(GError) failure = NULL;
    FrameSlot *slot;

    while (!failure && (slot = frame_queue_pop(receiver->queue, -1, &failure)))
        if (!take_slot(receiver, slot, &failure) && !bear_lack(receiver, &failure))
            tell_failure(receiver, failure);
    session_fail(receiver->session, failure);
    return NULL;
}

CheckpointReceiver *checkpoint_receiver_start(Session *session, DeltaStore *store,
                                              const CheckpointPart *parts, guint part_count,
                                              gboolean bears_lack, GError **error)
{
    g_autoptr(CheckpointReceiver) receiver = g_new0(CheckpointReceiver, 1);
    PageSink *sink = delta_stage_get_sink(store);

    g_assert(part_count <= CHECKPOINT_MOST_PARTS);
    receiver->session = session;
    receiver->store = store;
    if (part_count > 0)
        memcpy(receiver->parts, parts, part_count * sizeof *parts);
    receiver->part_count = part_count;
    receiver->bears_lack = bears_lack;
    if (!begin_stage(receiver, error))
        return NULL;
    receiver->queue = frame_queue_start(session_get_channel(session, TRAFFIC_CHECKPOINT),
                                        RECEIVE_AHEAD_FRAMES, error);
    if (!receiver->queue)
        return NULL;
    receiver->applier = page_applier_new(sink, release_slot, receiver->queue);
    receiver->epochs = epoch_receiver_new(sink, receiver->applier);
    receiver->thread = thread_start("epochs", receive_main, receiver, error);
    return receiver->thread ? g_steal_pointer(&receiver) : NULL;
}

void checkpoint_receiver_free(CheckpointReceiver *receiver)
{
    if (!receiver)
        return;
    if (receiver->thread)
        g_thread_join(receiver->thread);
    epoch_receiver_free(receiver->epochs);
    page_applier_free(receiver->applier);
    frame_queue_free(receiver->queue);
    delta_stage_abort(receiver->store);
    for (guint i = 0; i < receiver->part_count; i++)
        receiver->parts[i].forget(receiver->parts[i].user);
    g_free(receiver);
}
