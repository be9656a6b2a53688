/*
 * Hot spots: what in a cluster suffers, and for how long
 *
 * Theory of operation: three sources make a hot spot:
 *
 *   (a) a guest whose SLA is not met: its vCPUs wait for a CPU longer than promised; packets wait in its tap devices
 *       while it has less network than promised; memory is swapped out that must not be;
 *   (b) a host's CPUs or its link above a threshold;
 *   (c) a host that swaps out again and again, or whose tasks wait for memory (PSI).
 *
 * A reading alone says nothing.  A hot spot is one where at least `k` of the newest `n` readings are above the
 * threshold, the newest one among them, and the forecast of the next reading is above it, too.  That is the rule of
 * Sandpiper (Wood et al., "Black-box and Gray-box Strategies for Virtual Machine Migration", NSDI 2007, section 4),
 * with its forecast, AR(1), fitted by least squares over the readings that are kept: a step up is then expected to
 * stay, a spike is expected to go, and what falls to the threshold is not waited for.
 *
 * What one guest uses for a moment only, its newest reading beyond the median of its newest n, does not count: guests
 * that have a spike each, one after the other, keep a host busy, and to move one of them helps nobody.
 *
 * A host between cpu_early and cpu, also on the whole of the kept readings, is told as `early`: it may give guests away to
 * hosts that stay well below, and may still take some.
 *
 * A reading that is not known is not above anything, and where the newest one is not known, or the host is not
 * usable, there is no hot spot: nothing is done on bad figures.  A threshold that is not above 0 is off.
 *
 * Pure, and linear in hosts and guests.
 */
#pragma once

#include "policy/cluster.h"

typedef enum {
    CLUSTER_HOT_CPU_WAIT = 0, /* (a): share of time; of a guest, as the next two */
    CLUSTER_HOT_NETWORK,  /* (a): bytes/s that it gets, with others waiting: below the threshold */
    CLUSTER_HOT_SWAPPED,  /* (a): bytes */
    CLUSTER_HOT_CPU,      /* (b): share; of a host, as all that follow */
    CLUSTER_HOT_LINK,     /* (b): share */
    CLUSTER_HOT_SWAP_OUT, /* (c): bytes/s */
    CLUSTER_HOT_MEMORY,   /* (c): PSI some, share */
    CLUSTER_HOT_KINDS
} ClusterHotKind;

/* "cpu-wait", "network", "swapped", "cpu", "link", "swap-out", "memory" */
const char *cluster_hot_kind_name(ClusterHotKind kind);

typedef struct {
    guint k, n;             /* k of the newest n readings; n at most CLUSTER_SAMPLES */
    double cpu;             /* share of a host's CPUs */
    double cpu_early;       /* the same, from which on it is relieved where that is easy; 0: off */
    double link;            /* share of a host's link */
    double swap_out;        /* bytes/s */
    double memory_pressure; /* share of time */
} ClusterThresholds;

/* 3 of 5; 85 % of the CPUs (70 % early), 80 % of the link, 1 MiB/s swapped out, 10 % of the time waiting for memory
 * (docs/engine-policy.md says where they come from). */
ClusterThresholds cluster_thresholds_default(void);

/* FALSE with *error* (VMFERRY_ERROR_INVALID), which names the threshold, where one is empty, NaN or out of range. */
gboolean cluster_thresholds_check(const ClusterThresholds *thresholds, GError **error);

typedef struct {
    ClusterHotKind kind;
    guint host;
    guint guest;  /* CLUSTER_NONE: the host itself */
    double value; /* the newest reading */
    double threshold;
    double forecast; /* of the next reading */
    guint above;     /* readings beyond the threshold, of the newest n */
    gboolean early;  /* not a hot spot yet: above cpu_early only */
    guint since;     /* readings in a row up to the newest one, of all that are kept */
} ClusterHotspot;

/* Appends to *hotspots* (of ClusterHotspot), by hosts as they stand in the view: the host's own, then its guests'. */
void cluster_find_hotspots(const ClusterView *view, const ClusterThresholds *thresholds,
                           GArray *hotspots);

/* The next reading by AR(1) over what is known of the series; CLUSTER_UNKNOWN where that is nothing. */
double cluster_series_forecast(const ClusterSeries *series);

/* "guest web1 waits for a CPU 12 % of its time, promised are 5 %; 4 of 5 readings, 11 % expected next".  Free with g_free(). */
char *cluster_hotspot_describe(const ClusterView *view, const ClusterThresholds *thresholds,
                               const ClusterHotspot *hotspot);
