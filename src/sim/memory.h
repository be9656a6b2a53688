/*
 * Simulated RAM: what is dirty, pending, sent; accounted in groups
 */
#pragma once

#include "policy/group_account.h"
#include "policy/watch_plan.h"
#include "sim/workload.h"

typedef struct {
    const SimWorkload *workload; /* borrowed */
    guint pages, groups;
    guint8 *flags;
    GroupAccount *account;
    double pending_bytes; /* as it would really cost */
    guint pending_pages;
    WatchPlan plan;
    guint *watched;  /* protected pages of each group */
    uint64_t faults; /* writes to protected pages so far */
} SimMemory;

SimMemory *sim_memory_new(const SimWorkload *workload);
void sim_memory_free(SimMemory *memory);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(SimMemory, sim_memory_free)

/* A SimWrite. */
void sim_memory_write(gpointer memory, guint page);
/* Collects pages [first, first + count) of one group: dirty ones are pending, all are
 * protected. */
void sim_memory_collect(SimMemory *memory, double now_ms, guint first, guint count);
/* Finds what was written, lets go of held groups, protects a sample: as the work set does. */
void sim_memory_peek(SimMemory *memory, double now_ms);
/* Collects all. */
void sim_memory_sync(SimMemory *memory, double now_ms);
/* The next pending page of [from, end); *end* if there is none. */
guint sim_memory_next_pending(const SimMemory *memory, guint from, guint end);
/* Sends a page; returns its wire bytes. */
double sim_memory_send(SimMemory *memory, guint page);
/* Tells the account what is pending. */
void sim_memory_publish(SimMemory *memory);
