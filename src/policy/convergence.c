#include "policy/convergence.h"

#include <math.h>

#include "base/error.h"
#include "policy/convergence_private.h"

/* Windows until the pattern can be known. */
#define EARLY_WINDOWS 3
/* Less is not worth a round while others are deferred. */
#define WAIT_BELOW_MS 10.0
/* A memory-intensive guest's target is tried for up to REACH times the time in which it could be
 * moved with a longer pause, and for REACH_ROUNDS rounds. */
#define REACH 1.5
#define REACH_ROUNDS 16
/* Probing is worth it where this share of what the link carries is dirtied. */
#define PROBE_SHARE 0.5
/* The first and, after it, those that send the probes only: no page goes out twice in one. */
#define PROBE_ROUNDS 6

static guint rounds_within_target(const PolicyState *state)
{
    const ConvergenceFacts *facts = state->facts;
    guint count = 0;

    while (count < facts->round_count) {
        double left = facts->rounds[facts->round_count - 1 - count].left_bytes;

        if (ms_for(state, left) + facts->device_ms > facts->limits.max_downtime_ms)
            break;
        count++;
    }
    return count;
}

static gboolean last_round_gained(const ConvergenceFacts *facts)
{
    guint last = facts->round_count - 1;

    /* Every round carries what was left before it; the first carries all. */
    return facts->round_count < 2 ||
           facts->rounds[last].left_bytes <
               CONVERGENCE_GAIN_SHARE * facts->rounds[last - 1].left_bytes;
}

static void stop(PolicyState *state, const char *reason)
{
    state->decision.verdict = CONVERGENCE_STOP;
    state->decision.reason = reason;
}

static void give_up(PolicyState *state, const char *reason)
{
    state->decision.verdict = CONVERGENCE_GIVE_UP;
    state->decision.reason = reason;
}

/* At the end of a round, within the target. */
static void judge_within_target(PolicyState *state)
{
    if (ms_for(state, state->work_set) <= CONVERGENCE_SMALL_REST_MS)
        stop(state, "converged");
    else if (!last_round_gained(state->facts))
        stop(state, "no-gain");
    else if (rounds_within_target(state) >= CONVERGENCE_ROUNDS_WITHIN_TARGET)
        stop(state, "enough-rounds");
}

gboolean convergence_is_worth_waiting(const PolicyState *state)
{
    const ConvergencePattern *pattern = &state->pattern;

    return pattern->quiet_seen &&
           pattern->run_ms < MAX(2 * pattern->longest_run_ms, state->decision.pause_ms);
}

/* There are no means left. */
static gboolean is_at_its_end(const PolicyState *state)
{
    return !may_throttle(state) || state->run_share <= 2 * CONVERGENCE_LEAST_RUN_SHARE;
}

static void judge_patience(PolicyState *state)
{
    if (convergence_is_stuck(state->facts) && fits_cap(state))
        stop(state, "within-cap");
    else if (is_at_its_end(state) &&
             convergence_stuck_for(state->facts, CONVERGENCE_ROUNDS_BEFORE_GIVING_UP,
                                   CONVERGENCE_MS_BEFORE_GIVING_UP))
        give_up(state, "not-converging");
}

gboolean convergence_rest_is_worth_a_round(const PolicyState *state)
{
    WorkSetModel model = state->rest;
    double after;

    work_set_model_round(&model, state->run_share, state->link_rate);
    after =
        ms_for(state, state->deferred + work_set_model_pending(&model)) + state->facts->device_ms;
    return after < CONVERGENCE_GAIN_SHARE * state->decision.pause_ms;
}

static void judge_intensive(PolicyState *state)
{
    gboolean in_target = state->decision.pause_ms <= state->facts->limits.max_downtime_ms;

    if (!fits_cap(state))
        judge_patience(state);
    else if (!convergence_rest_is_worth_a_round(state) &&
             (in_target || !convergence_is_worth_waiting(state)))
        stop(state, "memory-intensive");
}

static void judge_round_end(PolicyState *state)
{
    if (state->suspect && state->deferred > 0)
        return; /* wait for the windows */
    if (state->pattern.intensive)
        judge_intensive(state);
    else if (state->decision.pause_ms <= state->facts->limits.max_downtime_ms)
        judge_within_target(state);
    else
        judge_patience(state);
}

/* A guest is slowed until the pause fits, and no longer. */
static void judge_slowed(PolicyState *state)
{
    if (state->run_share < 1 && fits_cap(state))
        stop(state, state->pattern.intensive ? "memory-intensive" : "throttled");
}

/* Whatever the round: is it time? */
static void judge_deadline(PolicyState *state)
{
    const ConvergenceFacts *facts = state->facts;
    double left = facts->limits.deadline_ms - facts->elapsed_ms;

    if (facts->limits.deadline_ms == 0 || state->decision.verdict != CONVERGENCE_CONTINUE)
        return;
    if (fits_cap(state) && left <= state->decision.pause_ms + CONVERGENCE_DEADLINE_MARGIN_MS)
        stop(state, "deadline");
    else if (left <= 0 && !may_throttle(state))
        give_up(state, "deadline");
}

/* Would plain rounds reach the target, in a time not much longer than that of
 * sending all that is pending once? */
static gboolean target_within_reach(const PolicyState *state)
{
    const ConvergenceFacts *facts = state->facts;
    double limit = REACH * (facts->elapsed_ms + ms_for(state, state->work_set));
    double ms = facts->elapsed_ms;
    WorkSetModel model = state->rest;

    for (guint i = 0; i < REACH_ROUNDS && ms <= limit; i++) {
        double left = work_set_model_pending(&model);

        if (ms_for(state, left) + facts->device_ms <= facts->limits.max_downtime_ms)
            return TRUE;
        ms += work_set_model_round(&model, 1, state->link_rate);
    }
    return FALSE;
}

/* What seems intensive need not be sent before probes have told: if it is not sent at all, it makes
 * no pause. */
static gboolean is_left_to_probes(const PolicyState *state)
{
    const ConvergenceFacts *facts = state->facts;

    return !facts->cost_known && facts->round_count < PROBE_ROUNDS;
}

static void choose_deferred(PolicyState *state)
{
    const ConvergenceFacts *facts = state->facts;
    ConvergenceDecision *decision = &state->decision;
    WorkSetModel all = work_set_model_make(facts->groups, facts->group_count, INFINITY);
    double dirtied = work_set_model_dirtied(&all, 1, CONVERGENCE_WINDOW_MS) / CONVERGENCE_WINDOW_MS;
    double cap = MAX(CONVERGENCE_CAP_SHARE * facts->limits.downtime_cap_ms - facts->device_ms, 0);
    double budget = cap * state->link_rate;

    state->work_set = work_set_model_pending(&all);
    state->rest = all;
    decision->pause_ms = ms_for(state, state->work_set) + facts->device_ms;
    decision->defer_rate = INFINITY;
    if (facts->bytes_per_ms <= 0)
        return;
    convergence_weigh_postcopy(state);
    /* What is still deferred at the switchover makes no pause. */
    if (state->prefers_postcopy)
        budget = INFINITY;
    state->pattern =
        convergence_find_pattern(facts->windows, facts->window_count, state->link_rate);
    if (state->pattern.intensive && target_within_reach(state))
        state->pattern.intensive = FALSE;
    state->suspect = (facts->window_count < EARLY_WINDOWS || is_left_to_probes(state)) &&
                     dirtied >= CONVERGENCE_INTENSIVE_RATIO * state->link_rate;
    decision->probe = !facts->cost_known && dirtied >= PROBE_SHARE * state->link_rate;
    decision->memory_intensive = state->pattern.intensive;
    if (!state->pattern.intensive && !state->suspect)
        return;
    decision->defer_rate = convergence_choose_deferral(facts, budget);
    state->rest = work_set_model_make(facts->groups, facts->group_count, decision->defer_rate);
    state->deferred = state->work_set - work_set_model_pending(&state->rest);
}

ConvergenceDecision convergence_decide(const ConvergenceFacts *facts)
{
    PolicyState state = {.facts = facts,
                         .link_rate = facts->bytes_per_ms > 0 ? facts->bytes_per_ms : 1,
                         .run_share = facts->run_share > 0 ? facts->run_share : 1,
                         .decision = {.verdict = CONVERGENCE_CONTINUE, .run_share = 1}};

    choose_deferred(&state);
    if (facts->at_round_end)
        judge_round_end(&state);
    judge_slowed(&state);
    judge_deadline(&state);
    convergence_choose_throttle(&state);
    convergence_judge_postcopy(&state);
    convergence_forecast(&state);
    state.decision.wait = facts->at_round_end && state.deferred > 0 &&
                          state.decision.verdict == CONVERGENCE_CONTINUE &&
                          ms_for(&state, work_set_model_pending(&state.rest)) < WAIT_BELOW_MS;
    state.decision.probe_alone = state.decision.wait && state.suspect && is_left_to_probes(&state);
    if (state.decision.probe_alone)
        state.decision.wait = FALSE;
    return state.decision;
}

gboolean convergence_check_limits(const ConvergenceLimits *limits, uint64_t ram_bytes,
                                  double bytes_per_ms, double device_ms, GError **error)
{
    double least_downtime = ceil(MAX(device_ms, 1)), least_total;

    if (limits->max_downtime_ms < least_downtime) {
        error_set(error, VMFERRY_ERROR_REFUSED,
                  "a pause of at most %u ms can't be promised: the device state and the switchover "
                  "alone take about %.0f ms (--max-downtime %.0f or more)",
                  limits->max_downtime_ms, least_downtime, least_downtime);
        return FALSE;
    }
    if (limits->downtime_cap_ms < limits->max_downtime_ms) {
        error_set(error, VMFERRY_ERROR_REFUSED,
                  "the longest pause, %u ms, is shorter than the aim, %u ms (--downtime-cap %u or "
                  "more, or a smaller --max-downtime)",
                  limits->downtime_cap_ms, limits->max_downtime_ms, limits->max_downtime_ms);
        return FALSE;
    }
    if (limits->deadline_ms == 0)
        return TRUE;
    least_total = least_downtime + (bytes_per_ms > 0 ? ceil((double)ram_bytes / bytes_per_ms) : 0);
    if (limits->deadline_ms < least_total) {
        error_set(error, VMFERRY_ERROR_REFUSED,
                  "%u ms are too short: %.0f MB of memory at %.1f MB/s, the device state and the "
                  "switchover take at least %.0f ms (--deadline %.0f or more, or more --bandwidth)",
                  limits->deadline_ms, (double)ram_bytes / 1e6, bytes_per_ms / 1e3, least_total,
                  least_total);
        return FALSE;
    }
    return TRUE;
}
