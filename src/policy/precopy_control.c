#include "policy/precopy_control.h"

#include <math.h>

#include "policy/trace.h"

/* Sent within no time at all. */
#define LEAST_ROUND_MS 0.001

void precopy_control_init(PrecopyControl *control, GroupAccount *account,
                          const PrecopyOptions *options)
{
    *control = (PrecopyControl){
        .options = *options,
        .account = account,
        .link = {.limit = options->link_limit_bytes_per_ms},
        .step = PRECOPY_BEGIN_ROUND,
        .rounds = g_array_new(FALSE, FALSE, sizeof(ConvergenceRound)),
        .decision = {.verdict = CONVERGENCE_CONTINUE, .defer_rate = INFINITY, .run_share = 1},
    };
}

void precopy_control_clear(PrecopyControl *control)
{
    g_clear_pointer(&control->rounds, g_array_unref);
}

PrecopyStep precopy_control_get_step(const PrecopyControl *control)
{
    return control->step;
}

/* --- traces ------------------------------------------------------------------ */

static void emit(const PrecopyControl *control, char *line)
{
    control->options.trace(line, control->options.user);
    g_free(line);
}

void precopy_control_trace_begin(PrecopyControl *control, double link_bytes_per_ms,
                                 const char *guest)
{
    ConvergenceFacts facts = {0};
    g_autofree guint16 *pages = NULL;

    if (!control->options.trace)
        return;
    group_account_fill_facts(control->account, &facts);
    pages = g_new0(guint16, facts.group_count + 1);
    for (guint i = 0; i < facts.group_count; i++)
        pages[i] = (guint16)facts.groups[i].pages;
    control->traced = TRUE;
    emit(control, trace_header_line(pages, facts.group_count, link_bytes_per_ms, guest));
}

static void trace_sync(PrecopyControl *control, double now_ms)
{
    g_autoptr(GArray) dirty = NULL;

    if (!control->traced)
        return;
    dirty = g_array_new(FALSE, FALSE, sizeof(TraceDirty));
    group_account_take_dirty(control->account, dirty);
    emit(control, trace_sync_line(now_ms, (const TraceDirty *)dirty->data, dirty->len));
}

static void trace_round(PrecopyControl *control, double now_ms)
{
    double pages = (double)control->round_pages;
    TraceRound line = {
        .ms = now_ms,
        .round = control->rounds->len - 1,
        .sent_bytes = control->round.sent_bytes,
        .wire_per_page = pages > 0 ? control->round.sent_bytes / pages : 0,
        .left_bytes = control->round.left_bytes,
    };

    if (control->traced)
        emit(control, trace_round_line(&line));
}

void precopy_control_trace_end(PrecopyControl *control, double total_ms, double downtime_ms,
                               const char *reason)
{
    if (control->traced)
        emit(control, trace_end_line(total_ms, downtime_ms, reason ? reason : ""));
}

/* --- what is measured ---------------------------------------------------------- */

void precopy_control_note_link(PrecopyControl *control, double now_ms, uint64_t sent_bytes,
                               uint64_t backlog_bytes, gboolean buffered)
{
    if (buffered) {
        control->link.started = FALSE;
        return;
    }
    if (!control->link.started)
        link_rate_start(&control->link, now_ms, sent_bytes, backlog_bytes);
    link_rate_note(&control->link, now_ms, sent_bytes, backlog_bytes);
}

void precopy_control_note_sync(PrecopyControl *control, double now_ms, double fault_share)
{
    double window_ms = now_ms - control->window_start_ms;

    if (fault_share >= 0)
        group_account_set_fault_share(control->account, now_ms, fault_share);
    trace_sync(control, now_ms);
    if (window_ms < CONVERGENCE_WINDOW_MS || control->link.bytes_per_ms <= 0)
        return;
    group_account_end_window(control->account, now_ms, window_ms * control->link.bytes_per_ms);
    control->window_start_ms = now_ms;
}

/* --- rounds -------------------------------------------------------------------- */

void precopy_control_set_link_limit(PrecopyControl *control, double bytes_per_ms)
{
    control->options.link_limit_bytes_per_ms = bytes_per_ms;
    link_rate_set_limit(&control->link, bytes_per_ms);
}

void precopy_control_begin_round(PrecopyControl *control, double now_ms, uint64_t sent_bytes)
{
    control->in_round = TRUE;
    control->round_start_ms = now_ms;
    control->round_start_bytes = sent_bytes;
    control->step = PRECOPY_SEND;
}

void precopy_control_note_batch(PrecopyControl *control, double now_ms, uint64_t pages)
{
    control->step = pages == 0 ? PRECOPY_END_ROUND : PRECOPY_SEND;
    if (pages == 0 || now_ms < control->next_sync_ms)
        return;
    control->sync_interval_ms =
        CLAMP(2 * control->sync_interval_ms, PRECOPY_FIRST_SYNC_MS, PRECOPY_SYNC_MS);
    control->next_sync_ms = now_ms + control->sync_interval_ms;
    control->step = PRECOPY_SYNC;
}

void precopy_control_note_round(PrecopyControl *control, double now_ms, uint64_t sent_bytes,
                                uint64_t pages)
{
    ConvergenceRound *round = &control->round;

    control->in_round = FALSE;
    control->round_pages = pages;
    *round = (ConvergenceRound){
        .sent_bytes = (double)(sent_bytes - control->round_start_bytes),
        .ms = now_ms - control->round_start_ms,
    };
    /* Better than nothing, where the round was too short to measure within. */
    if (control->link.bytes_per_ms <= 0)
        control->link.bytes_per_ms = round->sent_bytes / MAX(round->ms, LEAST_ROUND_MS);
}

void precopy_control_end_round(PrecopyControl *control, double now_ms)
{
    GArray *rounds = control->rounds;

    control->round.left_bytes = group_account_count_bytes(control->account);
    if (rounds->len > 0 && control->deferred_bytes == 0)
        g_array_index(rounds, ConvergenceRound, rounds->len - 1).left_bytes =
            control->round.sent_bytes;
    g_array_append_val(rounds, control->round);
    trace_round(control, now_ms);
}

/* --- decisions ----------------------------------------------------------------- */

static void wait_for_sync(PrecopyControl *control, double now_ms)
{
    control->next_sync_ms = now_ms + PRECOPY_SYNC_MS;
    control->step = PRECOPY_WAIT;
}

static PrecopyStep step_at_end(ConvergenceVerdict verdict)
{
    if (verdict == CONVERGENCE_STOP)
        return PRECOPY_STOP;
    return verdict == CONVERGENCE_SWITCH ? PRECOPY_SWITCH : PRECOPY_GIVE_UP;
}

/* What the decision means for the next step. */
static void choose_step(PrecopyControl *control, double now_ms)
{
    const ConvergenceDecision *decision = &control->decision;
    gboolean goes_on = decision->verdict == CONVERGENCE_CONTINUE;

    if (control->in_round)
        control->step = goes_on ? PRECOPY_SEND : PRECOPY_END_ROUND;
    else if (!goes_on)
        control->step = step_at_end(decision->verdict);
    else if (!decision->probe_alone &&
             (decision->wait || group_account_is_all_deferred(control->account)))
        wait_for_sync(control, now_ms);
    else
        control->step = PRECOPY_BEGIN_ROUND;
}

static gboolean ends_in_pause(const ConvergenceDecision *decision)
{
    return decision->verdict == CONVERGENCE_STOP || decision->verdict == CONVERGENCE_SWITCH;
}

/* The guest runs, freely, and what it writes is sent when that is over. */
static void hold_stop(ConvergenceDecision *decision)
{
    decision->verdict = CONVERGENCE_CONTINUE;
    decision->wait = TRUE;
    decision->run_share = 1;
}

static void ask_policy(PrecopyControl *control, const PrecopyFacts *facts)
{
    ConvergenceDecision *decision = &control->decision;
    ConvergenceFacts all = {
        .rounds = (const ConvergenceRound *)control->rounds->data,
        .round_count = control->rounds->len,
        .at_round_end = !control->in_round,
        .bytes_per_ms = control->link.bytes_per_ms,
        .device_ms = facts->device_ms,
        .elapsed_ms = facts->now_ms,
        .limits = control->options.limits,
    };

    group_account_fill_facts(control->account, &all);
    *decision = convergence_decide(&all);
    if (ends_in_pause(decision) && facts->must_run)
        hold_stop(decision);
    control->deferred_bytes = group_account_apply(control->account, decision);
    group_account_set_run_share(control->account, facts->now_ms, decision->run_share);
}

gboolean precopy_control_decide(PrecopyControl *control, const PrecopyFacts *facts)
{
    /* To switch over at once, nothing needs to be known. */
    gboolean known = control->link.bytes_per_ms > 0 ||
                     control->options.limits.means & CONVERGENCE_MEANS_POSTCOPY_NOW;
    gboolean asked = known && facts->can_pause;

    if (asked)
        ask_policy(control, facts);
    choose_step(control, facts->now_ms);
    return asked;
}

void precopy_control_postpone(PrecopyControl *control, double now_ms)
{
    control->decision.verdict = CONVERGENCE_CONTINUE;
    control->decision.wait = TRUE;
    control->in_round = FALSE; /* one that was sent in a pause, and not to its end */
    wait_for_sync(control, now_ms);
}
