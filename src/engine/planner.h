/*
 * What would be done, and why
 *
 * Theory of operation: a view goes in, a plan comes out (policy/cluster_hotspots.h, cluster_placement.h,
 * cluster_drain.h), told in words and figures.  Nothing here can do anything: this part of the engine is a library
 * of its own (engine_plan) that links neither the agents' client nor the store, and is given neither.  Whoever
 * wants a plan performed takes it to the executor (executor.h), which checks each step again.
 */
#pragma once

#include "engine/model.h"
#include "policy/cluster_drain.h"
#include "policy/cluster_placement.h"

typedef struct {
    EngineView *view;
    ClusterThresholds thresholds;
    GArray *hotspots; /* of ClusterHotspot */
    ClusterPlan *plan;
} EnginePlan;

/* Takes *view*. */
EnginePlan *planner_make(EngineView *view, const ClusterThresholds *thresholds,
                         const ClusterLimits *limits);
void engine_plan_free(EnginePlan *plan);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(EnginePlan, engine_plan_free)

/* As GET /v1/plan shows it. *wall*: seconds since 1970, as it was made. */
json_t *planner_plan_to_json(const EnginePlan *plan, double wall);

/* One move of it: what is kept as its explanation. */
json_t *planner_move_to_json(const EnginePlan *plan, guint move);

/* {"ms", "bytes", "pause_ms", "guessed"} */
json_t *planner_cost_to_json(const ClusterCost *cost);

/* Why a host is hot: a list of texts, empty where it is not. */
json_t *planner_list_hot(const EnginePlan *plan, guint host);

/* Something of the host, or of a guest on it, is hot. */
gboolean planner_is_hot(const EnginePlan *plan, guint host);

/* {"cannot_leave": [{"guest", "why"}], "moves": [{"guest", "from", "to", "cost", "destination_after"}]} */
json_t *planner_drain_to_json(const EngineView *view, const ClusterDrain *drain, guint host);

/* Why the view's guest does not go to that host, in words; free with g_free(). */
char *planner_describe_why(const EngineView *view, guint guest, guint to, ClusterWhy why,
                           guint rule);

/* Whether a guest has what it was promised, by its newest reading; null where nothing was, or it is not known. */
json_t *planner_sla_met(const ClusterGuest *guest);
