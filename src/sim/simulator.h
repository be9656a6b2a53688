/*
 * A move in simulated time: a guest that writes, a link, a policy
 *
 * Theory of operation: time goes in steps of a millisecond.  In each the workload writes pages, and
 * the link carries what is queued.  SIM_WORK_SET runs pre-copy's clockwork
 * (policy/precopy_control.h), the very code that a move runs: dirty syncs, windows, the link's
 * rate, decisions, rounds and the order of sending are its own, and the simulator does what it
 * says, with memory that is simulated. SIM_PAGES is the usual pre-copy instead: whole pages in the
 * order of their addresses, until what is dirty takes at most max_downtime_ms.
 *
 * Batches of pages go into a queue that holds queue_ms of the link's time, SIM_LEAST_QUEUE_MS at
 * least (socket buffers); a round ends once it is empty, with the guest running on, and so does a
 * decision to stop within a round.
 *
 * A write to a protected page takes fault_ms from what the guest runs, which is taken for always
 * busy.  With SIM_PAGES all memory is protected anew after each pass.
 *
 * After a switchover (postcopy.c) pages are pushed in the order of policy/push_order.h.  A write to
 * one that is not there yet fetches it, and takes from the guest's running what the policy's model
 * says that an answer takes; only writes are simulated.
 *
 * Not simulated: latency, connections, other CPU time.
 */
#pragma once

#include "policy/convergence.h"
#include "sim/workload.h"

#define SIM_FORECAST_MS 1000.0
#define SIM_LEAST_QUEUE_MS 10.0

typedef enum { SIM_WORK_SET, SIM_PAGES } SimPolicy;

typedef struct {
    SimWorkloadOptions workload;
    SimPolicy policy;
    double bytes_per_ms; /* of the link */
    double jitter;       /* which is by up to this share more or less, anew every 100 ms */
    double device_ms;
    double fault_ms; /* that a write to a protected page takes from the guest's running */
    double queue_ms; /* what was read waits for the link for so long; 0: SIM_LEAST_QUEUE_MS */
    double limit_ms; /* given up after; 0: 300 s */
    ConvergenceLimits limits;
    /* May be NULL: gets each decision, and the lines of a trace. */
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
    double lost_ms;  /* of the guest's running, by faults, those of post-copy too */
    gboolean switched;
    double postcopy_ms, postcopy_lost_ms; /* the phase after the pause; what it took of running */
    guint postcopy_faults;
    /* As forecast SIM_FORECAST_MS into the move. */
    double predicted_downtime_ms, predicted_total_ms;
} SimResult;

SimResult sim_run(const SimOptions *options);
