/*
 * Placement: which guest goes where, or why none does
 *
 * Theory of operation: for each hot host, the worst first, all pairs (guest, destination) that can work are
 * compared, and the best one is taken if it gains enough:
 *
 *     gain   = relief at the source − burden at the destination, as it will be after the move
 *     profit = gain − cost                                  taken where profit ≥ least_profit
 *
 * Relief and burden are differences of *pressure*: for CPUs, link and memory of a host, u / (1 − u) of the share u
 * in use, which is how long work waits in a queue (M/M/1) in multiples of what it takes.  So taking a quarter of a
 * host from 95 % is worth a lot, and from 50 % next to nothing; a cluster that is idle has nothing to gain, however uneven
 * it is.  An SLA that is not met counts besides, by how far it is missed.
 *
 * The source's load is what its guests need now, what they wait for included.  The destination's is what is to be
 * expected there for the next hour: means of guests add up, and their standard deviations by squares,
 * as those of independent bursts do (cluster_history_expect(); Chen et al., "Effective VM sizing in virtualized data
 * centers", IM 2011).  It must stay below destination_share.
 *
 * Guests in motion count at both hosts, in memory and load; one that leaves a hot host already counts as relief.
 * The load of the moves themselves is in no figure (ClusterHost.cpu, .network are without it).
 *
 * What binds: memory with its reserve, the guest's list of destinations, strict rules, mobility, moves per
 * host, per hour and in the cluster, the guest's cool-down, quiet hours, frozen; and only figures that are usable.  Preferred rules
 * cost.  Guests that strict rules keep together move together.  Where no single move works, two guests are
 * swapped: two moves, the second one after the first.
 *
 * The outcome depends on names and figures only, not on the order of hosts, guests or rules in the view, and is
 * the same for the same view.  Time n log n for n hosts and guests, and next to nothing where nothing is hot:
 * destinations are looked at coolest first, and of those that have room the first CLUSTER_COMPARE that can work.
 *
 * Pure.  Indexes are of the view; whoever acts on a plan later asks cluster_move_check() again, with a view of then.
 */
#pragma once

#include "policy/cluster_hotspots.h"

#define CLUSTER_LOOK_AT 64
#define CLUSTER_COMPARE 16
#define CLUSTER_RUNNERS_UP 3
#define CLUSTER_MOVE_RULES 4

/* Why a guest does not go to a host. */
typedef enum {
    CLUSTER_WHY_NOTHING = 0, /* it can */
    CLUSTER_WHY_FROZEN,
    CLUSTER_WHY_QUIET_HOURS,
    CLUSTER_WHY_CLUSTER_MOVES, /* as many under way as there may be */
    /* of the source */
    CLUSTER_WHY_SOURCE_UNUSABLE, /* its figures are */
    CLUSTER_WHY_SOURCE_MOVES,
    CLUSTER_WHY_SOURCE_HOUR,
    /* of the guest */
    CLUSTER_WHY_PINNED,
    CLUSTER_WHY_IN_MOTION,
    CLUSTER_WHY_NOT_MOVABLE,
    CLUSTER_WHY_COOL_DOWN,
    CLUSTER_WHY_GUEST_UNKNOWN, /* what it needs is not known */
    /* of the destination */
    CLUSTER_WHY_THERE_ALREADY,
    CLUSTER_WHY_DESTINATION_UNUSABLE,
    CLUSTER_WHY_DRAINED,
    CLUSTER_WHY_NOT_ACCEPTING,
    CLUSTER_WHY_DESTINATION_MOVES,
    CLUSTER_WHY_DESTINATION_HOUR,
    CLUSTER_WHY_DESTINATION_HOT,
    CLUSTER_WHY_NOT_A_DESTINATION, /* CPU model, machine type, storage */
    CLUSTER_WHY_RULE,              /* a strict one */
    CLUSTER_WHY_MEMORY,
    CLUSTER_WHY_CPU, /* it would be too full */
    CLUSTER_WHY_LINK,
    /* of the pair */
    CLUSTER_WHY_NO_GAIN,   /* it can work, and gains too little */
    CLUSTER_WHY_OUTBIDDEN, /* another one gains more */
    CLUSTER_WHYS
} ClusterWhy;

/* "cool-down", for JSON; "it moved a short while ago", for people. */
const char *cluster_why_name(ClusterWhy why);
const char *cluster_why_text(ClusterWhy why);

typedef struct {
    gboolean frozen;
    gboolean quiet;            /* these are quiet hours; cluster_is_quiet() */
    guint moves_per_host;      /* at a time, to and from it together */
    guint moves_per_host_hour; /* 0: no limit */
    guint moves;               /* at a time in the cluster, those of a plan included; 0: no limit */
    double cool_down_ms; /* twice that with each return to a host that it had left, at most a day */
    double plan_ms;      /* for how long a plan holds */
    double least_profit;
    double destination_cpu, destination_link; /* shares, the most that is expected after a move */
    double memory_overcommit;                 /* guests may be promised so many times the memory */
    double ahead_ms;                          /* what is expected at the destination: for so long */
} ClusterLimits;

/* 1 move a host at a time, 20 an hour; 8 in the cluster; 15 minutes of cool-down; plans hold for 2 minutes; profit of
 * 1; destinations at most 80 % of CPUs and 60 % of the link, for the next hour; no more memory than there is. */
ClusterLimits cluster_limits_default(void);

/* FALSE with *error* (VMFERRY_ERROR_INVALID), which names the limit, where one is empty, NaN or out of range. */
gboolean cluster_limits_check(const ClusterLimits *limits, GError **error);

/* Quiet hours, in minutes of the local day; from > to: over midnight. */
typedef struct {
    guint from_minute, to_minute;
} ClusterQuietHours;

gboolean cluster_is_quiet(const ClusterQuietHours *hours, guint n, guint minute_of_day);

/* When a guest may move again, by its cool-down; 0: now. */
double cluster_cool_down_ends_ms(const ClusterGuest *guest, const ClusterLimits *limits);

/* What a move takes. */
typedef struct {
    double ms, bytes, pause_ms;
    gboolean guessed; /* from the guest's memory: its agent has not been asked yet */
} ClusterCost;

typedef struct {
    guint guest, to;
    ClusterWhy why;
    double profit; /* 0 where it cannot work */
} ClusterRunnerUp;

/* The load of a host, as shares of what it has; 1.2: a fifth more is wanted than there is. */
typedef struct {
    double cpu, link, memory;
} ClusterLoad;

typedef struct {
    guint guest, from, to;
    guint hotspot; /* the index of what triggered it */
    guint after;   /* the index of a move that has to be done first, or CLUSTER_NONE */
    guint group; /* moves of one group belong together: all or none; the index of its first move */
    gboolean swap;                       /* the group is a swap */
    double gain, cost;                   /* of the whole group, in pressure */
    ClusterLoad from_before, from_after; /* now, and with the group done */
    ClusterLoad to_before, to_after;     /* to be expected */
    ClusterCost price;                   /* of this one */
    guint rules[CLUSTER_MOVE_RULES];     /* that were considered: indexes */
    guint n_rules;                       /* of all that were, also beyond CLUSTER_MOVE_RULES */
    ClusterRunnerUp runners_up[CLUSTER_RUNNERS_UP];
    guint n_runners_up;
} ClusterMove;

/* What became of a hot host: all its hot spots have one answer. */
typedef struct {
    guint host;
    guint hotspot;      /* its first */
    guint n_moves;      /* of the plan for it */
    gboolean under_way; /* moves that are under way relieve it already */
    ClusterWhy why;     /* where there is none: what stopped most, or the best that was there */
    double best_profit; /* where why is CLUSTER_WHY_NO_GAIN */
    guint stopped[CLUSTER_WHYS]; /* guests, and pairs that were looked at, by what stopped them */
} ClusterAnswer;

typedef struct {
    double made_ms, expires_ms;
    GArray *moves;   /* of ClusterMove, in the order to be done */
    GArray *answers; /* of ClusterAnswer, the worst host first */
} ClusterPlan;

ClusterPlan *cluster_plan_make(const ClusterView *view, const ClusterThresholds *thresholds,
                               const ClusterLimits *limits, const GArray *hotspots);
void cluster_plan_free(ClusterPlan *plan);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(ClusterPlan, cluster_plan_free)

gboolean cluster_plan_has_expired(const ClusterPlan *plan, double now_ms);

/* Can this guest go there, by all that binds?  To be asked again right before a move is started.  *ret_rule*
 * (may be NULL): the rule, where it is CLUSTER_WHY_RULE.  Costs a pass over the view. */
ClusterWhy cluster_move_check(const ClusterView *view, const ClusterLimits *limits, guint guest,
                              guint to, guint *ret_rule);

/* The same for half of a swap: *with* is the other guest, whose load does not count where it is at *to* yet; each
 * host may be as full as one that is not hot. */
ClusterWhy cluster_swap_check(const ClusterView *view, const ClusterLimits *limits,
                              const ClusterThresholds *thresholds, guint guest, guint to,
                              guint with, guint *ret_rule);

/* The guest's price as its agent has told it, or guessed. */
ClusterCost cluster_move_price(const ClusterView *view, guint guest, guint to);

/* Several lines for people: the trigger, loads before and after, cost, rules, and why the runners-up lost.  Free with
 * g_free(). */
char *cluster_move_explain(const ClusterView *view, const ClusterThresholds *thresholds,
                           const GArray *hotspots, const ClusterPlan *plan, guint move);

/* One line: what is done about a hot host, or why nothing.  Free with g_free(). */
char *cluster_answer_explain(const ClusterView *view, const ClusterAnswer *answer);
