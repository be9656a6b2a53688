#include "migrate/source_move.h"

#include "base/clock.h"
#include "base/error.h"

#define AWAIT_SLICE_MS 100
#define APPLIED_TIMEOUT_MS 60000

gboolean source_not_cancelled(SourceMove *move, GError **error)
{
    if (!g_cancellable_is_cancelled(move->cancellable))
        return TRUE;
    error_set(error, VMFERRY_ERROR_CANCELLED, "cancelled");
    return FALSE;
}

/* ---- connections that break ---- */

void source_allow_breaks(SourceMove *move)
{
    guint patience_ms = move->job->options.retry_for_ms;

    /* Once, by DISKS or by GUEST. */
    if (move->retry_for_ms == 0 && patience_ms > 0 &&
        peer_has_feature(&move->peer, FEATURE_RECONNECT) &&
        session_allow_reconnect(move->session, &move->job->channel, patience_ms))
        move->retry_for_ms = patience_ms;
}

void source_lengthen_breaks(SourceMove *move)
{
    if (!move->switches)
        session_set_patience(move->session, move->retry_for_ms);
}

void source_end_breaks(SourceMove *move)
{
    session_set_patience(move->session, 0);
}

/* Nothing is gained from slowing it while nothing can be sent; the next decision slows it again. */
static gboolean let_run(SourceMove *move, GError **error)
{
    return !move->throttle || throttle_set(move->throttle, 1, error);
}

gboolean source_note_break(SourceMove *move, gboolean disconnected, GError **error)
{
    if (!disconnected && !move->progress.disconnected)
        return TRUE;
    move->progress.disconnected = disconnected;
    source_report_progress(move);
    return !disconnected || let_run(move, error);
}

gboolean source_await_connection(SourceMove *move, GError **error)
{
    while (session_is_broken(move->session)) {
        if (!source_not_cancelled(move, error) || !source_note_break(move, TRUE, error) ||
            !source_hear_peer(move, error))
            return FALSE;
        clock_sleep_ns(AWAIT_SLICE_MS * 1000000ULL);
    }
    return source_note_break(move, FALSE, error);
}

/* One that begins just then has the short limit. */
gboolean source_shorten_breaks(SourceMove *move, GError **error)
{
    if (move->switches)
        return TRUE;
    for (;;) {
        /* A guest whose user has paused it waits for nothing. */
        if (!source_may_retract(move) && !move->stays_paused)
            session_set_patience(move->session, MIN(move->retry_for_ms, SESSION_PAUSE_PATIENCE_MS));
        if (!session_is_broken(move->session))
            return TRUE;
        source_lengthen_breaks(move);
        if (!source_await_connection(move, error))
            return FALSE;
    }
}

/* ---- what the peer says ---- */

static gboolean unexpected(SourceMove *move, const Frame *frame, GError **error)
{
    if (frame->type == FRAME_ERROR || frame->type == FRAME_ABORT)
        session_error_from_frame(move->session, frame, error);
    else
        error_set(error, VMFERRY_ERROR_INVALID, "%s sent an unexpected %s frame",
                  session_get_peer_name(move->session), frame_type_name(frame->type));
    return FALSE;
}

/* What may come while something else is awaited. */
static gboolean take_other(SourceMove *move, const Frame *frame, GError **error)
{
    if (frame->type == FRAME_ACCEPTED && !move->accepted) {
        move->accepted = TRUE;
        if (move->bulk)
            bulk_sender_begin(move->bulk);
        return source_images_ask(move, error);
    }
    if (frame->type == FRAME_SEED_DIGESTS)
        return source_seed_take(move, frame, error);
    if (frame->type == FRAME_OUTSTANDING)
        return source_seed_take_lacking(move, frame, error);
    if (frame->type == FRAME_IMAGES_SEEN)
        return source_images_take(move, frame, error);
    /* In the pause epochs are confirmed behind everything else. */
    if (frame->type == FRAME_EPOCH_APPLIED)
        return epoch_sender_take_applied(&move->epochs, frame, error);
    /* The answer to RETRACT says what comes of it. */
    if (frame->type == FRAME_READY && move->retracted)
        return TRUE;
    return unexpected(move, frame, error);
}

gboolean source_hear_peer(SourceMove *move, GError **error)
{
    g_autoptr(GError) quiet = NULL;
    Frame frame;

    if (!source_disks_check(move, error))
        return FALSE;
    if (session_receive(move->session, TRAFFIC_CONTROL, 0, &frame, &quiet))
        return take_other(move, &frame, error);
    if (error_is(quiet, VMFERRY_ERROR_TIMEOUT))
        return TRUE;
    g_propagate_error(error, g_steal_pointer(&quiet));
    return FALSE;
}

gboolean source_await(SourceMove *move, FrameType type, int timeout_ms, Frame *ret, GError **error)
{
    uint64_t end = clock_now_ns() + (uint64_t)timeout_ms * 1000000;

    for (;;) {
        g_autoptr(GError) quiet = NULL;

        if (!move->start_sent &&
            (!source_not_cancelled(move, error) || !source_deadline_check(move, error) ||
             (move->bulk && !bulk_sender_check(move->bulk, error))))
            return FALSE;
        if (session_receive(move->session, TRAFFIC_CONTROL, AWAIT_SLICE_MS, ret, &quiet)) {
            if (ret->type == type)
                return source_note_break(move, FALSE, error);
            if (!take_other(move, ret, error))
                return FALSE;
        } else if (!error_is(quiet, VMFERRY_ERROR_TIMEOUT)) {
            g_propagate_error(error, g_steal_pointer(&quiet));
            return FALSE;
        } else if ((!move->paused || move->stays_paused) &&
                   (session_is_broken(move->session) || session_has_broken_bulk(move->session))) {
            /* What is awaited comes here, and to nobody else. */
            if (!source_note_break(move, TRUE, error))
                return FALSE;
            end = clock_now_ns() + (uint64_t)timeout_ms * 1000000;
        } else if (clock_now_ns() > end) {
            error_set(error, VMFERRY_ERROR_TIMEOUT, "%s did not send %s within %d s",
                      session_get_peer_name(move->session), frame_type_name(type),
                      timeout_ms / 1000);
            return FALSE;
        }
    }
}

gboolean source_confirm_round(SourceMove *move, GError **error)
{
    Frame frame;

    if (!epoch_sender_seal(&move->epochs, error))
        return FALSE;
    if (move->paused) /* READY will tell that all of it has arrived */
        return TRUE;
    if (!source_await(move, FRAME_EPOCH_APPLIED, APPLIED_TIMEOUT_MS, &frame, error) ||
        !epoch_sender_take_applied(&move->epochs, &frame, error))
        return FALSE;
    if (move->bulk)
        bulk_sender_note_applied(move->bulk);
    return TRUE;
}
