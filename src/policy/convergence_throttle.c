#include "policy/convergence_private.h"

#include <math.h>

/* The share of what it carried that a round may leave before the guest is slowed, and while it is
 * slowed.  Differences below STEP are not followed. */
#define THROTTLE_ABOVE 0.5
#define THROTTLE_TO 0.4
#define THROTTLE_STEP 0.15
#define THROTTLE_CORRECTION 0.6
/* While the link has other, colder pages to carry for this long, slowing the guest gains
 * nothing. */
#define COLD_FIRST_MS 250.0
#define DEADLINE_BUDGET 0.9
#define SOLVER_STEPS 10
#define FORECAST_ROUNDS 16

static guint find_best_round(const ConvergenceFacts *facts)
{
    guint best = 0;

    for (guint i = 1; i < facts->round_count; i++)
        if (facts->rounds[i].left_bytes <
            CONVERGENCE_NEW_BEST_SHARE * facts->rounds[best].left_bytes)
            best = i;
    return best;
}

gboolean convergence_stuck_for(const ConvergenceFacts *facts, guint rounds, double ms)
{
    guint best = find_best_round(facts);
    double waited = 0;

    for (guint i = best + 1; i < facts->round_count; i++)
        waited += facts->rounds[i].ms;
    return facts->round_count > best + rounds && waited >= ms;
}

/* The throttle at which the work set fits the cap when the deadline asks for
 * the pause. */
static double share_for_deadline(const PolicyState *state)
{
    const ConvergenceFacts *facts = state->facts;
    double cap = CONVERGENCE_CAP_SHARE * facts->limits.downtime_cap_ms - facts->device_ms;
    double ms = facts->limits.deadline_ms - facts->elapsed_ms - CONVERGENCE_DEADLINE_MARGIN_MS -
                facts->limits.downtime_cap_ms;
    double room = DEADLINE_BUDGET * cap * state->link_rate - state->deferred;
    double least = CONVERGENCE_LEAST_RUN_SHARE, most = 1;

    /* While there is something cold to carry, slowing the guest gains nothing. */
    if (facts->limits.deadline_ms == 0 || ms_for(state, state->rest.cold) > COLD_FIRST_MS ||
        work_set_model_after(state->rest, most, state->link_rate, ms) <= room)
        return most;
    for (guint i = 0; i < SOLVER_STEPS; i++) {
        double middle = sqrt(least * most);

        if (work_set_model_after(state->rest, middle, state->link_rate, ms) <= room)
            least = middle;
        else
            most = middle;
    }
    return least;
}

/* A guest that writes all of a group between two dirty syncs is faster than can be seen:
 * while slowing it brings no new best, it is slowed more.  So is one that is stuck though
 * its rounds should converge (one that comes back to what it wrote after a long time). */
static double correction(const PolicyState *state, gboolean stuck)
{
    guint rounds = state->facts->round_count;

    if (rounds == 0 || (state->run_share >= 1 && !stuck))
        return 1;
    if (state->run_share >= 1)
        return THROTTLE_CORRECTION;
    return pow(THROTTLE_CORRECTION, rounds - 1 - find_best_round(state->facts));
}

/* The throttle with which the groups that are sent converge. */
static double share_for_rounds(const PolicyState *state)
{
    const ConvergenceFacts *facts = state->facts;
    gboolean stuck = convergence_is_stuck(facts);
    double share = state->run_share < 1 ? THROTTLE_TO : THROTTLE_ABOVE;

    if (fits_cap(state) || !(state->pattern.intensive || stuck || state->run_share < 1))
        return 1;
    if (ms_for(state, state->rest.cold) > COLD_FIRST_MS)
        return 1;
    return MAX(work_set_model_run_share(&state->rest, share, state->link_rate) *
                   correction(state, stuck),
               CONVERGENCE_LEAST_RUN_SHARE);
}

void convergence_choose_throttle(PolicyState *state)
{
    double current = state->run_share, needed;

    state->decision.run_share = 1;
    if (!may_throttle(state) || state->link_rate <= 0)
        return;
    /* What was read has to be sent before the pause.  A guest set free until then would
     * write all of it anew. */
    if (state->decision.verdict == CONVERGENCE_STOP)
        state->decision.run_share = current;
    if (state->decision.verdict != CONVERGENCE_CONTINUE)
        return;
    needed = MIN(share_for_rounds(state), share_for_deadline(state));
    if (needed < 1 && current < 1 && fabs(needed - current) <= THROTTLE_STEP * current)
        needed = current;
    state->decision.run_share = needed;
}

static double pause_with(const PolicyState *state, double left)
{
    return ms_for(state, state->deferred + left) + state->facts->device_ms;
}

/* Is a pause with *left* of the groups not deferred what these rules would stop
 * at?  *before*: what the round began with. */
static gboolean would_stop(const PolicyState *state, double left, double before, double run_share)
{
    const ConvergenceLimits *limits = &state->facts->limits;
    double pause = pause_with(state, left);

    if (ms_for(state, left) <= CONVERGENCE_SMALL_REST_MS)
        return TRUE;
    if (state->deferred > 0 || run_share < 1)
        return pause <= CONVERGENCE_CAP_SHARE * limits->downtime_cap_ms;
    return pause <= limits->max_downtime_ms && left >= CONVERGENCE_GAIN_SHARE * before;
}

/* A switchover with *left* of the groups not deferred: what is pending now takes as long to push,
 * for its work set, as what will be. */
static void expect_switch(PolicyState *state, double ms, double left)
{
    double push_ms = state->postcopy.push_ms;
    const ConvergenceFacts *facts = state->facts;

    if (state->work_set > 0)
        push_ms *= (state->deferred + left) / state->work_set;
    state->decision.expected_downtime_ms = facts->device_ms;
    state->decision.expected_total_ms = facts->elapsed_ms + ms + facts->device_ms + push_ms;
}

/* Where it goes on: would it end in a switchover? */
static gboolean would_switch(const PolicyState *state, double left)
{
    return state->prefers_postcopy && state->decision.verdict == CONVERGENCE_CONTINUE &&
           pause_with(state, left) > state->facts->limits.max_downtime_ms;
}

/* Plays the rounds that these rules would make. */
void convergence_forecast(PolicyState *state)
{
    ConvergenceDecision *decision = &state->decision;
    WorkSetModel model = state->rest;
    double ms = 0, left = work_set_model_pending(&model), run_share = decision->run_share;

    for (guint i = 0; i < FORECAST_ROUNDS && decision->verdict == CONVERGENCE_CONTINUE; i++) {
        double before = left;

        ms += work_set_model_round(&model, run_share, state->link_rate);
        left = work_set_model_pending(&model);
        if (would_stop(state, left, before, run_share) ||
            (would_switch(state, left) && left >= CONVERGENCE_GAIN_SHARE * before))
            break;
        if (may_throttle(state) &&
            pause_with(state, left) > CONVERGENCE_CAP_SHARE * state->facts->limits.downtime_cap_ms)
            run_share = work_set_model_run_share(&model, THROTTLE_TO, state->link_rate);
    }
    if (decision->verdict == CONVERGENCE_SWITCH || would_switch(state, left)) {
        expect_switch(state, ms, left);
        return;
    }
    decision->expected_downtime_ms = pause_with(state, left);
    decision->expected_total_ms = state->facts->elapsed_ms + ms + decision->expected_downtime_ms;
}
