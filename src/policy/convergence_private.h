/* What convergence.c's parts share. */
#pragma once

#include "policy/convergence_deferral.h"
#include "policy/work_set_model.h"

/* Two looks before the deadline. */
#define CONVERGENCE_DEADLINE_MARGIN_MS 200.0

typedef struct {
    const ConvergenceFacts *facts;
    double path, run_share;
    double work_set; /* W */
    double held;     /* of it, in groups held from now on */
    ConvergencePattern pattern;
    gboolean suspect;  /* too early to know, but it looks intensive */
    WorkSetModel rest; /* the groups not held */
    ConvergenceDecision decision;
} Judge;

static inline double ms_for(const Judge *judge, double bytes)
{
    return bytes / judge->path;
}

static inline gboolean may_throttle(const Judge *judge)
{
    return judge->facts->promise.means & CONVERGENCE_MEANS_THROTTLE;
}

static inline gboolean fits_cap(const Judge *judge)
{
    return judge->decision.pause_ms <=
           CONVERGENCE_CAP_SHARE * judge->facts->promise.downtime_cap_ms;
}

/* The last rounds, so many and for so long, brought no new best. */
gboolean convergence_stuck_for(const ConvergenceFacts *facts, guint rounds, double ms);

static inline gboolean convergence_is_stuck(const ConvergenceFacts *facts)
{
    return convergence_stuck_for(facts, CONVERGENCE_ROUNDS_BEFORE_CAP, CONVERGENCE_MS_BEFORE_CAP);
}

/* Sets the decision's run_share, or what is expected (convergence_throttle.c). */
void convergence_choose_throttle(Judge *judge);
void convergence_forecast(Judge *judge);
