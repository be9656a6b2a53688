/*
 * How the work set grows and shrinks: a model of the guest's writing
 *
 * Theory of operation: a group's *active* pages are each written at the rate
 * r = dirty_per_ms / active, at random times.  A page that is clean is dirty
 * after t ms with the probability 1 - exp(-r t).  Groups of like r (within a
 * factor of two) are put together in buckets, so that looking ahead costs the
 * same for any size of guest.  A round sends from cold to hot; a page is
 * collected right before it is read, so what is written before its turn goes
 * along, and only what is written after it is left.
 *
 * All in wire bytes and ms.  The shape of the model is after Nathan et al.,
 * SoCC'15: writable working set, and new pages dirtied in a unit of time.
 */
#pragma once

#include "policy/convergence.h"

#define WORK_SET_BUCKETS 48

typedef struct {
    double active;     /* cost of all of its active pages, sent again */
    double pending;    /* cost of those pending now */
    double rate;       /* r, mean over the active pages, 1/ms, free */
    double rate_bytes; /* sum of r * active */
} WorkSetBucket;

typedef struct {
    WorkSetBucket buckets[WORK_SET_BUCKETS]; /* cold to hot */
    double cold;                             /* pending, and not active */
} WorkSetModel;

/* W of one group. */
double work_set_group_bytes(const ConvergenceGroup *group);

/* Of the groups whose score is below *defer_rate* (INFINITY: all). */
WorkSetModel work_set_model_make(const ConvergenceGroup *groups, guint count, double defer_rate);

/* W. */
double work_set_model_pending(const WorkSetModel *model);

/* Wire bytes that *ms* of the guest's running make dirty, if all were clean. */
double work_set_model_dirtied(const WorkSetModel *model, double run_share, double ms);

/* W after *ms* of sending rounds. */
double work_set_model_after(WorkSetModel model, double run_share, double bytes_per_ms, double ms);

/* Plays one round; *model* is then as the round leaves it.  Returns its length. */
double work_set_model_round(WorkSetModel *model, double run_share, double bytes_per_ms);

/* The throttle, at most 1, at which a round leaves at most *share* of what it
 * carries; CONVERGENCE_LEAST_RUN_SHARE if none does. */
double work_set_model_run_share(const WorkSetModel *model, double share, double bytes_per_ms);
