/*
 * A cluster's loads, as placement and drain change them while they plan (private to these)
 *
 * Theory of operation: made once from a view: what each guest needs, now and as is to be expected; what
 * that comes to on each host; who is where; which rules bind whom.  Planned moves are applied to it, so that the next choice
 * sees them.  Guests of a host are summed up in the order of their names, so that sums, and all that
 * follows from them, do not depend on the order in the view.
 */
#pragma once

#include "policy/cluster_placement.h"

/* Now: what is used and waited for.  Expected: mean and variance. */
typedef struct {
    double cpu, link;
    double cpu_mean, cpu_variance, link_mean, link_variance;
    double memory;   /* promised */
    double resident; /* that it will take elsewhere */
    gboolean known;
} ClusterNeed;

typedef struct {
    ClusterNeed all;     /* guests that are here or coming, and what else runs here */
    ClusterNeed leaving; /* of these: about to be gone */
    double memory_used;  /* measured, what is coming and what is swapped out included */
    double memory_free;  /* measured, without the reserve; less what is coming */
    guint moves, moves_lately;
    gboolean known;
} ClusterHostLoad;

typedef struct {
    const ClusterView *view;
    const ClusterLimits *limits;
    double cpu_share, link_share; /* of a destination, the most that is expected there */
    gboolean ordered;             /* by a person: no cool-down, quiet hours, limits of moves */
    guint moves;                  /* under way and planned, in the cluster */
    ClusterNeed *needs;           /* of each guest */
    ClusterHostLoad *loads;       /* of each host */
    guint *host, *to;             /* of each guest: as ClusterGuest, planned moves included */
    guint *by_host,
        *first; /* guests of host h: by_host[first[h]] to by_host[first[h + 1] - 1], by name */
    guint *rules_of, *first_rule; /* rules of guest g, in the same way */
    guint *together; /* of each guest: the first by name of those that have to be with it */
    guint *members,
        *first_member; /* guests with the same `together` as guest g, where there are others */
    gboolean *hot;     /* of each host: a hot spot, so nothing is moved there */
    guint *marks;      /* of each host: see cluster_unit_begin() */
    guint mark;
} ClusterModel;

ClusterModel *cluster_model_new(const ClusterView *view, const ClusterLimits *limits);
void cluster_model_free(ClusterModel *model);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(ClusterModel, cluster_model_free)

/* u / (1 − u), and a steep line from 90 % on. */
double cluster_pressure(double share);

/* Memory is no matter until it is nearly full. */
double cluster_memory_pressure(double share);

double cluster_load_pressure(const ClusterLoad *load);

/* What the source has now, with *less* (may be NULL) gone and *more* come; guests that are leaving do not count. */
ClusterLoad cluster_model_now(const ClusterModel *model, guint host, const ClusterNeed *less,
                              const ClusterNeed *more);

/* What is to be expected of a destination, all that come and go counted. */
ClusterLoad cluster_model_expected(const ClusterModel *model, guint host, const ClusterNeed *less,
                                   const ClusterNeed *more);

void cluster_need_add(ClusterNeed *sum, const ClusterNeed *need);

/* ---- units: a guest, and those of its host that have to be with it ---- */

#define CLUSTER_UNIT_MOST 16

typedef struct {
    guint guests[CLUSTER_UNIT_MOST]; /* by name */
    guint n;
    guint host;
    ClusterNeed need;
    guint only_to; /* where others are that have to be with it; CLUSTER_NONE: anywhere */
    guint avoided; /* preferred rules that are broken where it is */
    gboolean has_rules;
} ClusterUnit;

/* FALSE with *ret_why* where it cannot leave, whatever the destination.  From here to the next call the checks below are
 * about this unit. */
gboolean cluster_unit_begin(ClusterModel *model, guint guest, ClusterUnit *ret,
                            ClusterWhy *ret_why);

/* *without*: a guest of the destination that will have left, in load but not in memory, or CLUSTER_NONE. */
ClusterWhy cluster_unit_check(const ClusterModel *model, const ClusterUnit *unit, guint to,
                              guint without, guint *ret_rule);

/* How many more preferred rules are broken if it goes there; negative: fewer. */
gint cluster_unit_broken(const ClusterModel *model, const ClusterUnit *unit, guint to);

ClusterCost cluster_unit_price(const ClusterModel *model, const ClusterUnit *unit, guint to);

/* It goes there: counts at both hosts from now on. */
void cluster_model_apply(ClusterModel *model, const ClusterUnit *unit, guint to);

/* It is there: no longer counts at its host.  For drain, which plans one step after the other. */
void cluster_model_complete(ClusterModel *model, const ClusterUnit *unit, guint to);
