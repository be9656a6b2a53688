/*
 * Drain: how a host becomes empty
 *
 * Theory of operation: a person wants the host empty, so cool-downs, quiet hours and gain do not matter; what
 * binds a move otherwise does (cluster_placement.h), and a destination may become as full as just below the threshold of a
 * hot spot.  First all guests that cannot leave are named, with the reason; then the others in the order in which they are to go: the
 * one with most memory first, to the host that is then least busy (in steps of 5 %), has most room, and comes first by its name.
 *
 * Each choice depends on the state alone that the steps before it have made.  So a drain that was interrupted and
 * planned again has the same rest, as long as figures stay what they were (as Ganeti's hbal).  A
 * host that is drained takes no guest; what comes to it nevertheless is in the next plan.
 *
 * Moves per host are no matter of the plan: whoever performs it takes the first steps, as many as there may be at a time.
 */
#pragma once

#include "policy/cluster_placement.h"

typedef struct {
    guint guest;
    ClusterWhy why; /* CLUSTER_WHY_MEMORY and the like: of the host that came closest */
    guint rule;     /* where that is CLUSTER_WHY_RULE; else CLUSTER_NONE */
} ClusterStays;

typedef struct {
    guint guest, to;
    guint group; /* steps of one group belong together: the index of its first step */
    ClusterLoad to_after;
    ClusterCost price;
} ClusterDrainStep;

typedef struct {
    GArray *stays;   /* of ClusterStays */
    GArray *steps;   /* of ClusterDrainStep */
    guint under_way; /* guests that are leaving already */
} ClusterDrain;

ClusterDrain *cluster_drain_plan(const ClusterView *view, const ClusterThresholds *thresholds,
                                 const ClusterLimits *limits, guint host);
void cluster_drain_free(ClusterDrain *drain);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(ClusterDrain, cluster_drain_free)
