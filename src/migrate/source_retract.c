/*
 * A pause that comes to nothing, and the way back to pre-copy's rounds
 *
 * Theory of operation: up to START the source decides alone.  Where the connection breaks in the pause, or carries so
 * little that the cap would be exceeded, the guest goes on here at once, and the move goes on with it: what was sent in
 * the pause and has not arrived goes by the next connection, in its order, as all else does.  What was sent is what the
 * destination has to take back (RETRACT): a device state, digests, perhaps PREPARE.
 *
 *     pause, pages, device state, PREPARE    ──►
 *     (the connection is no good)
 *     the guest goes on
 *     RETRACT, EPOCH_SEAL                    ──►   drops the state and digests; what came of pages stays
 *                                            ◄──   EPOCH_APPLIED …, RETRACT
 *     rounds, and the next pause
 *
 * A PREPARE that has not arrived by then is taken out of what is sent again (channel_revoke()).
 *
 * A destination that has loaded the machine cannot take that back: what its VMM has written to memory is not known.  It
 * answers ERROR, and the move has failed, with the guest running here.  That takes a break between PREPARE's arrival
 * and READY's, which is half a round trip and the time to load.
 *
 * The next pause waits for some rounds, longer each time; there are only so many.
 *
 * Not where the pause has ended more than memory's rounds: with disks that are copied while the guest writes, whose
 * copies it ends, or where post-copy has begun.
 */
#include "migrate/source_move.h"

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"

#define MOST_RETRACTIONS 5u
#define FIRST_WAIT_MS 1000.0
#define ANSWER_MS 60000

gboolean source_may_retract(const SourceMove *move)
{
    return move->retry_for_ms > 0 && !move->image && !move->switches && !move->stays_paused &&
           !move->start_sent && move->report->retractions < MOST_RETRACTIONS &&
           !source_disks_end_in_pause(move);
}

/* What has not arrived by then must not be acted on: the destination would load the machine. */
static void revoke_prepare(SourceMove *move, const GError *problem)
{
    g_autoptr(GError) cause = NULL;

    if (move->prepare_position == 0)
        return;
    error_set(&cause, VMFERRY_ERROR_DISCONNECTED, "%s", problem->message);
    session_renew(move->session, cause);
    channel_revoke(session_get_channel(move->session, TRAFFIC_CONTROL), move->prepare_position,
                   FRAME_PREPARE, FRAME_RETRACT);
    move->prepare_position = 0;
}

gboolean source_begin_retracting(SourceMove *move, const GError *problem)
{
    gboolean failed = move->pause_failed;

    move->pause_failed = FALSE;
    if (!failed || !move->paused || !source_may_retract(move) ||
        g_cancellable_is_cancelled(move->cancellable))
        return FALSE;
    g_free(move->retracted);
    move->retracted = g_strdup(problem->message);
    log_info("guest %s: %s; it goes on here, and is moved later", move->job->guest,
             problem->message);
    revoke_prepare(move, problem);
    return TRUE;
}

/* Pages that were sent in the pause end an epoch of their own. */
static gboolean take_back(SourceMove *move, GError **error)
{
    static const uint8_t payload[FRAME_RETRACT_BYTES] = {1};
    Frame frame;

    move->epochs.state_bytes = 0;
    return session_send_bytes(move->session, FRAME_RETRACT, payload, sizeof payload, error) &&
           epoch_sender_seal(&move->epochs, error) &&
           source_await(move, FRAME_RETRACT, ANSWER_MS, &frame, error);
}

static gboolean await_applied(SourceMove *move, GError **error)
{
    Frame frame;

    while (!epoch_sender_is_applied(&move->epochs))
        if (!source_await(move, FRAME_EPOCH_APPLIED, ANSWER_MS, &frame, error) ||
            !epoch_sender_take_applied(&move->epochs, &frame, error))
            return FALSE;
    if (move->bulk)
        bulk_sender_note_applied(move->bulk);
    return TRUE;
}

/* The guest runs. */
static gboolean tell(SourceMove *move, GError **error)
{
    if (take_back(move, error) && await_applied(move, error) && source_images_retract(move, error))
        return TRUE;
    /* What began it is what a user can do something about. */
    g_prefix_error(error, "%s; then the move could not go on: ", move->retracted);
    return FALSE;
}

gboolean source_retract(SourceMove *move, GError **error)
{
    MigrateReport *report = move->report;

    if (report->unresumed) {
        error_set(error, VMFERRY_ERROR_FAILED, "%s", move->retracted);
        return FALSE;
    }
    move->pause_failed = FALSE; /* of that pause, as its undoing has found once more */
    report->retractions++;
    report->retracted_ms += report->downtime_ms;
    report->downtime_ms = 0;
    if (!source_end_throttle(move)) {
        error_set(error, VMFERRY_ERROR_FAILED, "%s; and the guest is still slowed",
                  move->retracted);
        return FALSE;
    }
    if (!source_journal(move, SOURCE_JOURNAL_MOVING, error) || !tell(move, error))
        return FALSE;
    g_clear_pointer(&move->retracted, g_free);
    move->not_before_ms = source_now_ms(move) + FIRST_WAIT_MS * (1u << (report->retractions - 1));
    return TRUE;
}
