/*
 * What a move of a guest would cost, from a short look at it
 *
 * Theory of operation: the look is the beginning of a move without a destination.  Dirty tracking
 * runs as in a first round (tracker.h, work_set.h), pre-copy's clockwork and its model judge what is
 * found (policy/precopy_control.h, convergence.h), with a link that is said to carry *bandwidth*.
 * Nothing is sent: what pages cost on the wire is learnt from a sample, which is encoded as it
 * would be sent (page_encoder.h).  Some words of 64 pages are drawn from all of RAM, some from what
 * is written most, as a move's probes are; what was written of them since is encoded again, which
 * tells what sending again costs.  At the end the model forecasts the move, as if all of RAM were
 * still to be sent.
 *
 * What it costs the guest: faults on the sample and on what work_set_peek() protects (watch_plan.h
 * keeps these below a few percent of its time); ESTIMATE_SAMPLE_WORDS words are read for each dirty
 * sync.  Nothing of it stays in the guest, also where this process is killed (userfault.h).
 *
 * Limits: memory only.  Disks that would be copied come on top, as does a link that carries less
 * than was said.
 *
 * Threads: that of the caller, who has the guest for himself.
 */
#pragma once

#include <gio/gio.h>

#include "migrate/options.h"
#include "vmm/vmm.h"

#define ESTIMATE_DEFAULT_MS 2000u
#define ESTIMATE_LEAST_MS 200u
#define ESTIMATE_MOST_MS 10000u
#define ESTIMATE_SAMPLE_WORDS 8u
/* A gigabit's payload: for a guest and an agent without any limit. */
#define ESTIMATE_ASSUMED_BANDWIDTH UINT64_C(117000000)

typedef struct {
    Vmm *vmm;
    MigrateOptions options; /* of the move; its bandwidth: bytes per second, 0: assumed */
    guint look_ms;
} EstimateJob;

typedef enum { ESTIMATE_POOR, ESTIMATE_FAIR, ESTIMATE_GOOD } EstimateConfidence;

/* "poor", "fair", "good" */
const char *estimate_confidence_name(EstimateConfidence confidence);

typedef struct {
    double ms; /* of the whole move, its pause included */
    double pause_ms;
    uint64_t bytes; /* on the wire */
    uint64_t populated_bytes;
    double dirty_bytes_per_second; /* of distinct pages, within a second */
    uint64_t bandwidth;            /* that was counted on, bytes per second */
    gboolean bandwidth_assumed;
    gboolean memory_intensive;
    gboolean fits; /* the pause is within the cap of the options */
    double
        run_share; /* the guest's least share of its time on the way there: it is slowed below 1 */
    double look_ms;
    EstimateConfidence confidence;
    const char *why; /* that confidence; static */
} Estimate;

/* Looks; FALSE with *error*: it cannot, or *cancellable* was cancelled. */
gboolean estimate_run(const EstimateJob *job, GCancellable *cancellable, Estimate *ret,
                      GError **error);

/* How far to believe it.  *cost_known*: what sending again costs was seen; *dirtied_share*: of what
 * the link carries, is dirtied. */
EstimateConfidence estimate_judge(const Estimate *estimate, gboolean cost_known,
                                  double dirtied_share, const char **ret_why);
