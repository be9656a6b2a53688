/* What placement's files share (private): the plan as it is made. */
#pragma once

#include "policy/cluster_coolest.h"

typedef struct {
    ClusterModel *model;
    ClusterCoolest *coolest;
    const ClusterThresholds *thresholds;
    const GArray *hotspots;
    ClusterPlan *plan;
} ClusterPlanner;

/* A hot host, and its hot spots: count of them from the first on. */
typedef struct {
    guint host, first, count;
    double pain;
    gboolean early; /* no hot spot yet */
} ClusterHotHost;

typedef struct {
    ClusterUnit unit;
    guint to;
    double gain, cost;
} ClusterCandidate;

typedef struct {
    ClusterCandidate best;
    double profit;                                      /* −INFINITY: nothing can work */
    ClusterRunnerUp runners_up[CLUSTER_RUNNERS_UP + 1]; /* the best first, it among them */
    guint n_runners_up;
} ClusterChoice;

/* How much hurts on a host, beside its loads, with *unit* (may be NULL) gone to *to*: guests that miss their SLA, and swapping. */
double cluster_pain(const ClusterPlanner *planner, const ClusterHotHost *hot,
                    const ClusterUnit *unit, const ClusterLoad *before, const ClusterLoad *after,
                    const ClusterLoad *there);

/* In pressure: a minute of moving, or a second of pause, is 1; so is half a preferred rule. */
double cluster_cost(const ClusterModel *model, const ClusterUnit *unit, guint to);

/* Two guests that change places; FALSE where no pair profits enough. */
gboolean cluster_swap(ClusterPlanner *planner, const ClusterHotHost *hot);

/* One move for each guest of the candidate, applied to the model.  Returns the first. */
ClusterMove *cluster_planner_take(ClusterPlanner *planner, const ClusterHotHost *hot,
                                  const ClusterCandidate *candidate);
