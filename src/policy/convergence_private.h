/* What convergence.c's parts share. */
#pragma once

#include "policy/convergence_deferral.h"
#include "policy/postcopy_model.h"
#include "policy/work_set_model.h"

/* Two dirty syncs before the deadline. */
#define CONVERGENCE_DEADLINE_MARGIN_MS 200.0

typedef struct {
    const ConvergenceFacts *facts;
    double link_rate; /* wire bytes per ms */
    double run_share;
    double work_set; /* W */
    double deferred; /* of it, in groups deferred from now on */
    ConvergencePattern pattern;
    gboolean suspect;          /* too early to know, but by its rates it is intensive */
    WorkSetModel rest;         /* the groups not deferred */
    PostcopyForecast postcopy; /* if it were switched over now; zeroes where that is not allowed */
    gboolean prefers_postcopy; /* to a pause beyond the target, and to slowing the guest */
    ConvergenceDecision decision;
} PolicyState;

static inline double ms_for(const PolicyState *state, double bytes)
{
    return bytes / state->link_rate;
}

static inline gboolean may_throttle(const PolicyState *state)
{
    return state->facts->limits.means & CONVERGENCE_MEANS_THROTTLE && !state->prefers_postcopy;
}

static inline gboolean fits_cap(const PolicyState *state)
{
    return state->decision.pause_ms <= CONVERGENCE_CAP_SHARE * state->facts->limits.downtime_cap_ms;
}

/* The last *rounds*, and *ms* of them, brought no new best. */
gboolean convergence_stuck_for(const ConvergenceFacts *facts, guint rounds, double ms);

static inline gboolean convergence_is_stuck(const ConvergenceFacts *facts)
{
    return convergence_stuck_for(facts, CONVERGENCE_ROUNDS_BEFORE_CAP, CONVERGENCE_MS_BEFORE_CAP);
}

/* A guest that was seen quiet may become so again: wait for twice as long as
 * it was ever busy, or as long as the pause would be. */
gboolean convergence_is_worth_waiting(const PolicyState *state);

/* Would a round of the groups not deferred make the pause notably shorter? */
gboolean convergence_rest_is_worth_a_round(const PolicyState *state);

/* What post-copy would cost, and whether that is preferred; then, whether it is time for it
 * (convergence_postcopy.c). */
void convergence_weigh_postcopy(PolicyState *state);
void convergence_judge_postcopy(PolicyState *state);

/* Sets the decision's run_share, or what is expected (convergence_throttle.c). */
void convergence_choose_throttle(PolicyState *state);
void convergence_forecast(PolicyState *state);
