/*
 * Guests that write memory, for the simulator
 *
 * A workload writes pages as simulated time passes; all but *idle* and
 * *read-heavy* do so within a set of pages at the end of memory, and all do
 * the little writing of an idle guest besides.  Same seed, same writes.
 */
#pragma once

#include <glib.h>
#include <stdint.h>

#include "policy/trace.h"

typedef enum {
    SIM_IDLE,
    SIM_SPARSE,     /* a few bytes in each of many pages, random order */
    SIM_DENSE,      /* whole pages, random order, slower than the link */
    SIM_INTENSIVE,  /* whole pages, random order, faster than the link */
    SIM_SEQUENTIAL, /* whole pages, one after the other, round and round */
    SIM_SKEWED,     /* whole pages; nine tenths of the writes to a tenth of the set */
    SIM_PHASES,     /* a burst of random writes, then quiet, and again */
    SIM_TEXT,       /* whole pages that compress to a third */
    SIM_READ_HEAVY, /* as idle: reading dirties nothing */
    SIM_TRACE,      /* what a recorded guest did */
} SimWorkloadKind;

const char *sim_workload_name(SimWorkloadKind kind);
gboolean sim_workload_from_name(const char *name, SimWorkloadKind *ret);

/* 0 in any: the kind's usual one. */
typedef struct {
    SimWorkloadKind kind;
    uint64_t ram_bytes;      /* populated; default 640 MiB */
    uint64_t set_bytes;      /* default 256 or 512 MiB, at most ram_bytes */
    double bytes_per_second; /* bytes of the pages written */
    double burst_ms, quiet_ms;
    guint64 seed;
    const Trace *trace; /* for SIM_TRACE, borrowed */
} SimWorkloadOptions;

typedef struct SimWorkload SimWorkload;
typedef void (*SimWrite)(gpointer user, guint page);

SimWorkload *sim_workload_new(const SimWorkloadOptions *options);
void sim_workload_free(SimWorkload *workload);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(SimWorkload, sim_workload_free)

guint sim_workload_get_pages(const SimWorkload *workload);
/* The guest runs for *ms*. */
void sim_workload_run(SimWorkload *workload, double ms, SimWrite write, gpointer user);
/* Wire bytes of a page's first and of its later sendings. */
double sim_workload_cost(const SimWorkload *workload, guint page, gboolean again);
/* At the start. */
gboolean sim_workload_is_populated(const SimWorkload *workload, guint page);
/* Of the set? */
gboolean sim_workload_is_hot(const SimWorkload *workload, guint page);
