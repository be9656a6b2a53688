/*
 * A cluster as the control engine sees it: hosts, guests, their figures, rules
 *
 * Theory of operation: agents tell figures (`GET /v1/load`), the engine keeps the last ones of each host and
 * guest, and lays them out as one ClusterView: arrays that refer to each other by index.  What follows
 * is pure, and the simulator runs it too:
 *
 *     ClusterView ──► cluster_hotspots.h ──► cluster_placement.h ──► ClusterMove + why
 *      (figures,        what suffers,          who goes where,         (engine/: checks again, asks the
 *       rules)          for how long           or why nobody           source's agent, moves)
 *          │                                                                     │
 *          ├──► cluster_rules.h: which rules contradict each other               ▼ while it runs
 *          └──► cluster_drain.h: how a host becomes empty               cluster_govern.h: how fast, or off
 *
 * Figures are shares and rates, never counters: whoever reads counters (collect/) has turned them into these
 * and marked what cannot be trusted.  A figure that is not known is CLUSTER_UNKNOWN (negative); a host whose
 * figures are old, absurd or of another version is not `usable`: nothing is decided on it, neither for nor
 * against, and nothing is moved to it.
 *
 * Units: CPU in CPUs (1.5: one and a half), memory in bytes, networks and disks in bytes per second, times in
 * ms of one clock of the engine's, shares from 0 to 1.
 */
#pragma once

#include <glib.h>
#include <stdint.h>

#define CLUSTER_UNKNOWN (-1.0)
#define CLUSTER_NONE G_MAXUINT /* no such host or guest */
#define CLUSTER_SAMPLES 24     /* the most that are kept of each figure: of 5 s each, two minutes */

/* The last readings of one figure. */
typedef struct {
    float values[CLUSTER_SAMPLES];
    uint8_t first, length;
} ClusterSeries;

/* NaN, infinite and negative readings are kept as CLUSTER_UNKNOWN. */
void cluster_series_add(ClusterSeries *series, double value);

/* The *i*th of series->length, the oldest first. */
double cluster_series_get(const ClusterSeries *series, guint i);

/* The newest; CLUSTER_UNKNOWN where there is none. */
double cluster_series_last(const ClusterSeries *series);

/* The mean of the *n* newest that are known; CLUSTER_UNKNOWN where none is. */
double cluster_series_mean(const ClusterSeries *series, guint n);

/* The median of the *n* newest that are known (the lower one of two), so that what is shorter than half of them does not count;
 * CLUSTER_UNKNOWN where none is. */
double cluster_series_median(const ClusterSeries *series, guint n);

/* ---- what was at this time of the day ----
 *
 * The newest two minutes do not tell what a guest will need in ten.  So the mean of each hour of the day is kept,
 * and how its readings vary around it; days before fade.
 * Some 300 bytes a figure. */

#define CLUSTER_HISTORY_HOURS 24

typedef struct {
    float mean[CLUSTER_HISTORY_HOURS], variance[CLUSTER_HISTORY_HOURS];
    uint16_t count[CLUSTER_HISTORY_HOURS]; /* readings; 0: nothing known */
    uint32_t hour;                         /* since the clock's begin, of the newest reading */
} ClusterHistory;

/* A reading at *now_ms* (any clock that does not jump); readings that cannot be are passed over. */
void cluster_history_add(ClusterHistory *history, double now_ms, double value);

/* The highest mean of the hours that lie in the next *ahead_ms* as they were on the days before (0 where they are
 * not known yet), and the standard deviation from the hour's mean, over all hours that are known.  FALSE where nothing is known. */
gboolean cluster_history_expect(const ClusterHistory *history, double now_ms, double ahead_ms,
                                double *ret_mean, double *ret_deviation);

/* What a guest was promised; 0: nothing. */
typedef struct {
    double cpu_wait;  /* the largest share of its time that its vCPUs may wait for a CPU */
    double network;   /* bytes/s, both ways together */
    gboolean no_swap; /* none of its memory may be swapped out */
} ClusterSla;

typedef enum {
    CLUSTER_CAN_MOVE = 0,
    CLUSTER_PINNED,     /* by a rule: never move */
    CLUSTER_IN_MOTION,  /* counts at both hosts */
    CLUSTER_NOT_MOVABLE /* its agent says why */
} ClusterMobility;

typedef struct {
    const char *name; /* borrowed; names are unique within the cluster */
    guint host;       /* index */
    guint to;         /* the host it is moving to, or CLUSTER_NONE */
    ClusterMobility mobility;
    ClusterSla sla;
    double memory_bytes;   /* that it may use */
    double resident_bytes; /* that it has; CLUSTER_UNKNOWN: all that it may use */
    guint vcpus;
    ClusterSeries cpu;      /* CPUs used */
    ClusterSeries cpu_wait; /* share of its time that a vCPU waited for a CPU, mean of its vCPUs */
    ClusterSeries network;  /* bytes/s, both ways */
    ClusterSeries backlog;  /* bytes that wait in its tap devices */
    ClusterSeries swapped;  /* bytes */
    const ClusterHistory *cpu_history,
        *network_history; /* of cluster_guest_demand(), of network; or NULL */
    /* What a move would cost; CLUSTER_UNKNOWN where nobody has asked yet. */
    double move_ms, move_bytes, move_pause_ms;
    double moved_at_ms; /* when it arrived here last; CLUSTER_UNKNOWN: never by the engine */
    guint returns;      /* how often lately it came back to a host that it had left */
    const guint *
        destinations; /* indexes of hosts that can take it (CPU model, machine type, storage), sorted */
    guint n_destinations; /* 0 with destinations NULL: all hosts can */
} ClusterGuest;

/* CPUs that it would use if it never waited for one, by its *n* newest readings: what it used and what it waited
 * for, at most all its vCPUs.  CLUSTER_UNKNOWN where its use is. */
double cluster_guest_demand(const ClusterGuest *guest, guint n);

typedef struct {
    const char *name;                          /* borrowed */
    gboolean usable;                           /* its figures are fresh and make sense */
    gboolean accepts;                          /* neither drained, nor full by its own word */
    gboolean drained;                          /* is to become empty */
    double cpus;                               /* that it has */
    double memory_bytes, memory_reserve_bytes; /* all of it; what guests may not take */
    double link_bytes_per_s;        /* of its slowest link that guests use; CLUSTER_UNKNOWN */
    ClusterSeries cpu;              /* CPUs used by all but moves */
    ClusterSeries cpu_pressure;     /* PSI some, share */
    ClusterSeries network;          /* bytes/s by all but moves, the busier way */
    ClusterSeries memory_available; /* bytes */
    ClusterSeries memory_pressure;  /* PSI some, share */
    ClusterSeries swap_out;         /* bytes/s */
    guint moves;                    /* under way, to or from it */
    guint moves_lately;             /* within the last hour */
} ClusterHost;

typedef enum {
    CLUSTER_RULE_TOGETHER, /* affinity: these guests on one host */
    CLUSTER_RULE_APART,    /* anti-affinity: no two of these on one host */
    CLUSTER_RULE_HOSTS     /* these guests on these hosts only */
} ClusterRuleKind;

typedef struct {
    const char *id;
    ClusterRuleKind kind;
    gboolean strict; /* else preferred: costs, and does not forbid */
    const guint *guests;
    guint n_guests;
    const guint *hosts; /* CLUSTER_RULE_HOSTS */
    guint n_hosts;
} ClusterRule;

typedef struct {
    double now_ms; /* may be any clock; histories' hours of the day are counted by it */
    ClusterHost *hosts;
    guint n_hosts;
    ClusterGuest *guests; /* in any order: nothing depends on it, nor on that of the hosts */
    guint n_guests;
    const ClusterRule *rules;
    guint n_rules;
} ClusterView;
