#include "migrate/source_move.h"

#include "base/clock.h"
#include "base/error.h"
#include "base/fault.h"
#include "transfer/digest.h"

#define READY_TIMEOUT_MS 60000
#define STARTED_TIMEOUT_MS 15000
#define SETTLE_ATTEMPTS 5
#define SETTLE_PAUSE_NS 500000000ULL
#define RESUME_ATTEMPTS 50
#define RESUME_PAUSE_NS 200000000ULL

double source_lap_ms(SourceMove *move)
{
    uint64_t now = clock_now_ns();
    double ms = clock_ns_to_ms(now - move->lap_ns);

    move->lap_ns = now;
    return ms;
}

/* Not while it is slowed in turns: then a pause may be ours. */
static gboolean check_user_pause(SourceMove *move, GError **error)
{
    VmmRunState state;

    if (move->throttle)
        return TRUE;
    if (!vmm_get_run_state(move->job->vmm, &state, error))
        return FALSE;
    move->stays_paused = state == VMM_RUN_STATE_PAUSED;
    if (move->stays_paused || state == VMM_RUN_STATE_RUNNING)
        return TRUE;
    error_set(error, VMFERRY_ERROR_REFUSED, "the guest does not run any more: it is %s",
              vmm_run_state_name(state));
    return FALSE;
}

/* From now on, if we die, the guard and the restarted agent resume the guest:
 * before it is paused by us, and never one that its user has paused. */
static gboolean arm(SourceMove *move, GError **error)
{
    if (move->stays_paused)
        return TRUE;
    return source_journal(move, SOURCE_JOURNAL_PAUSING, error) &&
           guard_arm(move->guard, GUARD_SLOT_GUEST, &move->resume_action, error);
}

/* Its user was quicker than we. */
gboolean source_note_user_pause(SourceMove *move, GError **error)
{
    move->stays_paused = TRUE;
    return guard_disarm(move->guard, GUARD_SLOT_GUEST, error) &&
           source_journal(move, SOURCE_JOURNAL_MOVING, error);
}

gboolean source_pause(SourceMove *move, GError **error)
{
    gboolean was_running = FALSE;
    uint64_t since_ns = 0;

    if (!source_not_cancelled(move, error) || fault_point("source.decided", error) ||
        !vmm_check_unchanged(move->job->vmm, move->machine, error) ||
        !check_user_pause(move, error))
        return FALSE;
    if (!source_shorten_breaks(move, error))
        return FALSE;
    move->paused_ns = move->lap_ns = clock_now_ns();
    move->paused = TRUE;
    if (move->bulk)
        bulk_sender_set_steady(move->bulk, TRUE);
    /* A guest that is slowed in turns may be paused already: that counts as pause. */
    if (move->throttle && !throttle_end_for_pause(move->throttle, &since_ns, error))
        return FALSE;
    /* Only then: the turns arm and disarm, too. */
    if (!arm(move, error))
        return FALSE;
    if (since_ns > 0)
        move->paused_ns = MIN(move->paused_ns, since_ns);
    if (!vmm_pause(move->job->vmm, &was_running, error))
        return FALSE;
    if (!was_running && since_ns == 0 && !move->stays_paused &&
        !source_note_user_pause(move, error))
        return FALSE;
    /* Its user has resumed it since its state was asked for. */
    if (was_running && move->stays_paused) {
        move->stays_paused = FALSE;
        if (!arm(move, error))
            return FALSE;
    }
    /* QEMU's own migration pauses its guest, too; its user did not. */
    if (move->stays_paused && !vmm_check_paused(move->job->vmm, error))
        return FALSE;
    move->report->arrives_paused = move->stays_paused;
    if (fault_point("source.paused", error) || !source_find_moment(move, error))
        return FALSE;
    move->report->pause_ms = source_lap_ms(move);
    return source_deadline_start(move, error);
}

gboolean source_hold(SourceMove *move, GError **error)
{
    gboolean was_running = FALSE;

    if (!check_user_pause(move, error))
        return FALSE;
    move->paused_ns = clock_now_ns();
    move->paused = TRUE;
    return arm(move, error) && vmm_pause(move->job->vmm, &was_running, error) &&
           (was_running || move->stays_paused || source_note_user_pause(move, error));
}

void source_let_go(SourceMove *move)
{
    source_resume(move);
    move->report->downtime_ms = 0;
    move->stays_paused = FALSE;
    if (!move->report->unresumed)
        source_journal(move, SOURCE_JOURNAL_MOVING, NULL);
}

/* TRUE where there is nothing left that could be resumed. */
static gboolean has_ended(SourceMove *move)
{
    VmmRunState state;

    return vmm_get_run_state(move->job->vmm, &state, NULL) &&
           (state == VMM_RUN_STATE_GONE || state == VMM_RUN_STATE_ENDED);
}

/* It must run again, whatever it takes: another process may hold its image
 * locks for a moment (a destination that is being ended).  Not one that QEMU's
 * own migration has taken away meanwhile. */
static void resume_again(SourceMove *move)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *so_far = NULL;

    for (int i = 0; i < RESUME_ATTEMPTS; i++) {
        g_clear_error(&error);
        if (vmm_resume(move->job->vmm, &error) || error_is(error, VMFERRY_ERROR_REFUSED) ||
            has_ended(move))
            break;
        clock_sleep_ns(RESUME_PAUSE_NS);
    }
    if (!error || has_ended(move))
        return;
    move->report->unresumed = !error_is(error, VMFERRY_ERROR_REFUSED);
    so_far = g_steal_pointer(&move->report->error);
    move->report->error = g_strdup_printf(
        "%s; and the guest could not be resumed here: %s (it is paused: look at it)",
        so_far ? so_far : "the move failed", error->message);
}

void source_resume(SourceMove *move)
{
    gboolean in_time = source_deadline_end(move, NULL);

    if (!move->paused)
        return;
    if (!move->stays_paused)
        resume_again(move);
    else
        (void)vmm_take_images(move->job->vmm, NULL);
    /* What is still on its way through a slow link is not waited for. */
    if (!in_time && !move->retracted && session_get_backlog_bytes(move->session) > 0)
        session_shutdown(move->session);
    move->paused = FALSE;
    if (move->bulk)
        bulk_sender_set_steady(move->bulk, FALSE);
    source_lengthen_breaks(move);
    move->report->downtime_ms = clock_ns_to_ms(clock_now_ns() - move->paused_ns);
    if (!move->report->unresumed)
        guard_disarm(move->guard, GUARD_SLOT_GUEST, NULL);
}

/* What was given back since it was sent reads as zero over there too.  Finding
 * it takes some ms a GiB, so only where somebody relies on it. */
static gboolean add_discarded(SourceMove *move, GError **error)
{
    if (!move->description->discards_memory && !move->job->options.verify)
        return TRUE;
    return page_sender_add_discarded(move->sender, work_set_get_next(move->work), error);
}

/* Saving device state must not touch guest RAM; the second dirty sync makes sure
 * that whatever did is on the way too. */
static gboolean send_late_pages(SourceMove *move, GError **error)
{
    if (!work_set_sync(move->work, source_now_ms(move), error) ||
        (move->job->options.verify && !add_discarded(move, error)))
        return FALSE;
    work_set_begin_round(move->work);
    return source_send_paused_pass(move, error);
}

/* On top of what was dirty or deferred when the decision fell. */
static gboolean find_dirty(SourceMove *move, GError **error)
{
    if (!work_set_sync(move->work, source_now_ms(move), error) || !add_discarded(move, error))
        return FALSE;
    work_set_begin_round(move->work);
    source_recheck_paused(move);
    return TRUE;
}

/* What was sent is there; nothing more is sent before START.  One dirty sync is enough, behind all
 * that may write. */
static gboolean name_outstanding(SourceMove *move, GError **error)
{
    return find_dirty(move, error) && page_sender_flush(move->sender, error) &&
           source_send_outstanding(move, error);
}

/* Where somebody changed the machine in the last moment, that is the reason. */
static GBytes *save_state(SourceMove *move, VmmSavePurpose purpose, GError **error)
{
    g_autoptr(GError) failure = NULL;
    GBytes *state = move->neutral
                        ? vmm_save_neutral(move->job->vmm, purpose, move->neutral, &failure)
                        : vmm_save_device_state(move->job->vmm, purpose, &failure);

    if (!state && vmm_check_unchanged(move->job->vmm, move->machine, error))
        g_propagate_error(error, g_steal_pointer(&failure));
    return state;
}

gboolean source_send_rest(SourceMove *move, VmmSavePurpose purpose, GBytes **ret_state,
                          GError **error)
{
    g_autoptr(GBytes) state = NULL;

    if (!find_dirty(move, error) || !source_send_paused_round(move, error))
        return FALSE;
    move->report->pages_ms = source_lap_ms(move);
    state = save_state(move, purpose, error);
    if (!state || fault_point("source.device-state-saved", error) || !send_late_pages(move, error))
        return FALSE;
    move->report->save_ms = source_lap_ms(move);
    *ret_state = g_steal_pointer(&state);
    return TRUE;
}

static gboolean send_prepare(SourceMove *move, GError **error)
{
    move->prepare_position =
        channel_get_position(session_get_channel(move->session, TRAFFIC_CONTROL));
    return source_deadline_check(move, error) &&
           session_send_bytes(move->session, FRAME_PREPARE, NULL, 0, error);
}

gboolean source_last_round(SourceMove *move, GError **error)
{
    g_autoptr(GBytes) state = NULL;

    source_set_phase(move, MIGRATE_PHASE_STOPPED);
    if (!source_disks_finish(move, error))
        return FALSE;
    move->report->disks_ms = source_lap_ms(move);
    if (!move->switches && (!find_dirty(move, error) || !source_send_paused_round(move, error)))
        return FALSE;
    move->report->pages_ms = source_lap_ms(move);
    state = save_state(move, VMM_SAVE_SWITCHOVER, error);
    if (!state || !source_deadline_check(move, error) ||
        fault_point("source.device-state-saved", error) ||
        !(move->switches ? name_outstanding : send_late_pages)(move, error))
        return FALSE;
    move->report->save_ms = source_lap_ms(move);
    if (move->job->options.verify) {
        if (!digest_send_all(move->pages, session_get_channel(move->session, TRAFFIC_CONTROL),
                             error))
            return FALSE;
        move->report->verify_ms = source_lap_ms(move);
    }
    return source_images_finish(move, error) && source_disks_await(move, error) &&
           source_keep_state(move, state, error) &&
           epoch_sender_add_state(&move->epochs, state, error) &&
           epoch_sender_seal(&move->epochs, error) && send_prepare(move, error);
}

gboolean source_await_ready(SourceMove *move, GError **error)
{
    ReadyMessage ready;
    Frame frame;

    /* While the destination loads.  The last EPOCH_APPLIED comes before READY. */
    if (!vmm_check_unchanged(move->job->vmm, move->machine, error) ||
        !source_await(move, FRAME_READY, READY_TIMEOUT_MS, &frame, error) ||
        !ready_message_decode((const char *)frame.payload, frame.length, &ready, error))
        return FALSE;
    if (!epoch_sender_is_applied(&move->epochs)) {
        error_set(error, VMFERRY_ERROR_INVALID, "READY before the last EPOCH_APPLIED");
        return FALSE;
    }
    if (move->bulk)
        bulk_sender_note_applied(move->bulk);
    if (move->job->options.verify) {
        move->report->verified = ready.verified;
        if (!ready.verified) {
            error_set(error, VMFERRY_ERROR_FAILED, "the destination did not verify the memory");
            return FALSE;
        }
    }
    /* It answers what was said before PREPARE, so this waits for nothing as a rule. */
    source_store_await_sealed(move);
    move->report->prepare_ms = source_lap_ms(move);
    return TRUE;
}

/* START must not wait for a new connection. */
static gboolean check_connection(SourceMove *move, GError **error)
{
    if (!session_is_broken(move->session))
        return TRUE;
    move->pause_failed = TRUE;
    error_set(error, VMFERRY_ERROR_DISCONNECTED, "%s: the connection is broken",
              session_get_peer_name(move->session));
    return FALSE;
}

/* The point of no return.  First the journal, by which a restarted agent asks the
 * destination before it touches the guest, then the guard: if we die in between,
 * it still resumes a guest for which START was never sent. */
gboolean source_send_start(SourceMove *move, GError **error)
{
    StartMessage start = {.run = !move->stays_paused, .term = move->job->term + 1};
    uint8_t payload[START_MESSAGE_BYTES];

    if (!source_not_cancelled(move, error) || fault_point("source.before-start", error) ||
        !vmm_check_paused(move->job->vmm, error) || !source_deadline_end(move, error) ||
        !check_connection(move, error))
        return FALSE;
    if (!source_journal(move,
                        move->switches ? SOURCE_JOURNAL_SWITCHING_OVER_SPLIT
                                       : SOURCE_JOURNAL_SWITCHING_OVER,
                        error)) {
        g_prefix_error(error, "the switchover cannot be written down: ");
        return FALSE;
    }
    if (fault_point("source.switching-over", error) ||
        !guard_disarm(move->guard, GUARD_SLOT_GUEST, error))
        return FALSE;
    source_set_phase(move, MIGRATE_PHASE_SWITCHOVER);
    move->start_sent = TRUE;
    /* Whether it has come is asked for, not tried again. */
    source_end_breaks(move);
    /* Its first lease, by the answer to READY. */
    if (move->gate)
        takeover_gate_grant(move->gate, 0);
    /* A send that fails may have been received all the same. */
    start_message_encode(&start, payload);
    session_send_bytes(move->session, FRAME_START, payload, sizeof payload, NULL);
    fault_point("source.start-sent", NULL);
    return TRUE;
}

/* The connection failed after START: asks on new ones for a few seconds. */
static TransactionOutcome ask_outcome(SourceMove *move, GError **error)
{
    const MigrateSourceJob *job = move->job;
    ResolveMessage question = {move->transaction, (char *)job->guest_id, job->term + 1};
    OutcomeMessage answer;

    session_shutdown(move->session); /* so that the destination stops waiting for START */
    for (int i = 0; i < SETTLE_ATTEMPTS; i++) {
        g_clear_error(error);
        if (migrate_source_resolve(job->destination, &job->channel, &question, move->peer.agent,
                                   &answer, error) &&
            answer.outcome != OUTCOME_PENDING &&
            (answer.outcome != OUTCOME_COMMITTED || outcome_takes_guest(&answer, job->term)))
            return answer.outcome;
        if (move->switches && source_is_asked_for_pages(move))
            return OUTCOME_COMMITTED;
        clock_sleep_ns(SETTLE_PAUSE_NS);
    }
    return OUTCOME_PENDING;
}

TransactionOutcome source_settle(SourceMove *move, gboolean *ret_connected, GError **error)
{
    g_autoptr(GError) lost = NULL;
    TransactionOutcome outcome;
    Frame frame;

    *ret_connected = FALSE;
    if (source_await(move, FRAME_STARTED, STARTED_TIMEOUT_MS, &frame, &lost)) {
        fault_point("source.after-started", NULL);
        *ret_connected = TRUE;
        return OUTCOME_COMMITTED;
    }
    outcome = ask_outcome(move, error);
    /* Where it said why it gave up, that is the reason. */
    if (outcome == OUTCOME_ABORTED) {
        g_clear_error(error);
        g_propagate_error(error, g_steal_pointer(&lost));
    }
    return outcome;
}
