#include "policy/convergence_private.h"

#include <string.h>

/* A guest that is slow still answers: time that it stands still counts for so much more. */
#define PAUSE_WEIGHT (4.0 / 3)

static void switch_over(PolicyState *state, const char *reason)
{
    state->decision.verdict = CONVERGENCE_SWITCH;
    state->decision.reason = reason;
    /* As before a stop: a guest set free now would write anew what was read. */
    state->decision.run_share = state->run_share;
}

static gboolean within_target(const PolicyState *state)
{
    return state->decision.pause_ms <= state->facts->limits.max_downtime_ms;
}

void convergence_weigh_postcopy(PolicyState *state)
{
    const ConvergenceFacts *facts = state->facts;
    guint means = facts->limits.means;

    if (!(means & CONVERGENCE_MEANS_ANY_POSTCOPY))
        return;
    state->postcopy = postcopy_model_forecast(facts->groups, facts->group_count, state->link_rate);
    state->decision.postcopy_lost_ms = facts->device_ms + state->postcopy.lost_ms;
    state->prefers_postcopy =
        !(means & CONVERGENCE_MEANS_POSTCOPY_IF_CHEAPER) ||
        state->decision.postcopy_lost_ms <= PAUSE_WEIGHT * state->decision.pause_ms;
}

/* Pages are pushed until the end of the move. */
static gboolean deadline_calls(const PolicyState *state)
{
    const ConvergenceFacts *facts = state->facts;

    return facts->limits.deadline_ms > 0 &&
           facts->limits.deadline_ms - facts->elapsed_ms <=
               facts->device_ms + state->postcopy.push_ms + CONVERGENCE_DEADLINE_MARGIN_MS;
}

/* The guest has dirtied nearly as much as the last round has sent, which was all there was. */
static gboolean round_was_in_vain(const ConvergenceFacts *facts)
{
    guint last = facts->round_count - 1;
    double sent = facts->rounds[last].sent_bytes;

    return facts->at_round_end &&
           (last == 0 || sent >= CONVERGENCE_GAIN_SHARE * facts->rounds[last - 1].left_bytes) &&
           facts->rounds[last].left_bytes >= CONVERGENCE_GAIN_SHARE * sent;
}

/* Hybrid: what costs are known tells that another round, or the rest of this one, gains little. */
static gboolean rounds_are_over(const PolicyState *state)
{
    const ConvergenceFacts *facts = state->facts;

    if (facts->round_count == 0 || (state->suspect && state->deferred > 0))
        return FALSE;
    if (facts->at_round_end && convergence_is_stuck(facts))
        return TRUE;
    return facts->cost_known &&
           (round_was_in_vain(facts) || !convergence_rest_is_worth_a_round(state));
}

/* Where pre-copy would have to slow the guest, or go on in vain until it gives up. */
static gboolean precopy_is_at_a_loss(const PolicyState *state)
{
    if (!state->facts->at_round_end || fits_cap(state))
        return FALSE;
    return convergence_is_stuck(state->facts) ||
           (state->pattern.intensive && !convergence_rest_is_worth_a_round(state) &&
            !convergence_is_worth_waiting(state));
}

static const char *reason_to_switch(const PolicyState *state)
{
    const char *reason = state->decision.reason;

    if (reason && strcmp(reason, "deadline") == 0)
        return "switch-deadline";
    return state->pattern.intensive ? "switch-memory-intensive" : "switch-not-converging";
}

/* Pre-copy would go on: is it time all the same? */
static void judge_going_on(PolicyState *state)
{
    gboolean is_choice = state->facts->limits.means & CONVERGENCE_MEANS_POSTCOPY_IF_CHEAPER;

    if (deadline_calls(state))
        switch_over(state, "switch-deadline");
    else if (is_choice ? precopy_is_at_a_loss(state) : rounds_are_over(state))
        switch_over(state, reason_to_switch(state));
}

/* Does post-copy take the place of what pre-copy has decided?  Giving up is the last resort. */
static gboolean takes_the_place(const PolicyState *state)
{
    ConvergenceVerdict verdict = state->decision.verdict;

    return verdict == CONVERGENCE_GIVE_UP ||
           (verdict == CONVERGENCE_STOP && state->prefers_postcopy && !within_target(state));
}

void convergence_judge_postcopy(PolicyState *state)
{
    guint means = state->facts->limits.means;

    if (!(means & CONVERGENCE_MEANS_ANY_POSTCOPY))
        return;
    if (means & CONVERGENCE_MEANS_POSTCOPY_NOW)
        switch_over(state, "postcopy");
    else if (takes_the_place(state))
        switch_over(state, reason_to_switch(state));
    else if (state->decision.verdict == CONVERGENCE_CONTINUE && state->prefers_postcopy &&
             !within_target(state))
        judge_going_on(state);
}
