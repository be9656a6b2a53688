/*
 * A move in simulated time: a guest that writes, a link, a policy
 *
 * Theory of operation: time goes in steps of a millisecond.  In each the
 * workload writes pages, and the link carries what fits.  The sending loop is
 * the source's: rounds over the pending pages from cold groups to hot ones,
 * each span collected right before it is read, a look at all of memory every
 * SIM_SYNC_MS, and convergence_decide() after each look and round.  SIM_PAGES
 * is the usual pre-copy instead: whole pages in the order of their addresses,
 * until what is dirty takes at most max_downtime_ms.
 *
 * A word to stop within a round ends it once the queue has been sent, with the guest
 * running on; what it wrote by then may change that word.
 *
 * A write to a protected page takes fault_ms from what the guest runs, which is taken for always
 * busy.  With SIM_PAGES all memory is protected anew after each pass.
 *
 * Not simulated: latency, connections, other CPU time.
 */
#pragma once

#include "policy/convergence.h"
#include "sim/workload.h"

#define SIM_SYNC_MS 100.0
#define SIM_FORECAST_MS 1000.0

typedef enum { SIM_WORK_SET, SIM_PAGES } SimPolicy;

typedef struct {
    SimWorkloadOptions workload;
    SimPolicy policy;
    double bytes_per_ms; /* of the link */
    double jitter;       /* which is by up to this share more or less, anew every SIM_SYNC_MS */
    double device_ms;
    double fault_ms; /* that a write to a protected page takes from the guest's running */
    double queue_ms; /* from a word to stop within a round to the pause; only that is played */
    double limit_ms; /* given up after; 0: 300 s */
    ConvergenceLimits promise;
    /* May be NULL: told of each decision, and of the lines of a trace. */
    void (*decided)(double ms, const ConvergenceDecision *decision, gpointer user);
    void (*trace)(const char *line, gpointer user);
    gpointer user;
} SimOptions;

typedef struct {
    gboolean done;
    const char *reason; /* static; "time-limit" where limit_ms was over */
    double total_ms, downtime_ms;
    double sent_bytes;
    double populated_bytes; /* what sending each page once would be */
    guint rounds;
    gboolean memory_intensive; /* at any time */
    gboolean probed;
    guint hot_pages_sent; /* of the workload's set, before the pause; not counting the probe */
    double least_run_share, throttled_ms;
    uint64_t faults; /* writes to protected pages */
    double lost_ms;  /* of the guest's running, by faults */
    /* As forecast SIM_FORECAST_MS into the move. */
    double predicted_downtime_ms, predicted_total_ms;
} SimResult;

SimResult sim_run(const SimOptions *options);
