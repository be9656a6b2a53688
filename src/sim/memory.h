/*
 * Simulated RAM: what is dirty, pending, sent; accounted in groups
 *
 * Theory of operation: the work set (transfer/work_set.h) without a guest.  A page is given out in
 * the same order (send_order.h), collected right before that, and what is written to a page that
 * had its turn is for the next round.  Its wire bytes are the workload's.
 */
#pragma once

#include "policy/group_account.h"
#include "policy/send_order.h"
#include "policy/watch_plan.h"
#include "sim/workload.h"

typedef struct {
    const SimWorkload *workload; /* borrowed */
    guint pages, groups;
    guint8 *flags;
    GroupAccount *account;
    SendOrder *order;
    double pending_bytes; /* as it would really cost; with what is for the next round */
    guint pending_pages;
    WatchPlan plan;
    guint *watched;  /* protected pages of each group */
    uint64_t faults; /* writes to protected pages so far */
} SimMemory;

/* What was given out to be sent. */
typedef struct {
    guint pages;
    guint hot_pages; /* of them: of the workload's set, and not of a probe */
    double bytes;    /* on the wire */
} SimBatch;

SimMemory *sim_memory_new(const SimWorkload *workload);
void sim_memory_free(SimMemory *memory);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(SimMemory, sim_memory_free)

/* A SimWrite. */
void sim_memory_write(gpointer memory, guint page);
/* Finds what was written, lifts the protection of deferred groups, protects a sample, orders the
 * groups anew: as the work set does. */
void sim_memory_peek(SimMemory *memory, double now_ms);
/* Collects all. */
void sim_memory_sync(SimMemory *memory, double now_ms);
/* What was found dirty since its turn becomes pending. */
void sim_memory_begin_round(SimMemory *memory);
/* Gives out the next pages of the round, at most *most* (a probe is a batch of its own size);
 * none at its end. */
void sim_memory_take(SimMemory *memory, double now_ms, guint most, SimBatch *ret);
/* The next pending page of [from, end); *end* if there is none. */
guint sim_memory_next_pending(const SimMemory *memory, guint from, guint end);
/* Sends a page; returns its wire bytes. */
double sim_memory_send(SimMemory *memory, guint page);
