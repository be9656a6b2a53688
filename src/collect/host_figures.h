/*
 * A host: what was read of it, and its figures
 *
 * Pure.  A HostReading holds counters and amounts of one moment; two of them make HostFigures.
 */
#pragma once

#include "collect/link_messages.h"

/* What moves and protection have cost so far, apart from all else: bytes on this agent's connections to others,
 * and the CPU time of the agent itself. */
typedef struct {
    uint64_t received_bytes, sent_bytes;
    uint64_t cpu_ns;
} MoveCounters;

typedef struct {
    LookTime time;
    double cpus;        /* that it has; FIGURE_UNKNOWN */
    guint machine_cpus; /* of the whole machine, which may have several such hosts; 0: unknown */
    uint64_t cpu_ns;    /* used by all */
    uint64_t run_queue; /* tasks that run or want to */
    struct {
        uint64_t cpu_some_us, memory_some_us, memory_full_us, io_some_us, io_full_us;
    } pressure;
    uint64_t memory_bytes, memory_available_bytes, swap_bytes, swap_free_bytes;
    uint64_t swap_in_bytes, swap_out_bytes;
    GArray *links; /* of Link, all of them; NULL: unknown */
    MoveCounters moves;
} HostReading;

void host_reading_clear(HostReading *reading);

/* With everything unknown. */
HostReading host_reading_empty(void);

typedef struct {
    char name[IFNAMSIZ];
    double speed;          /* bytes/s; FIGURE_UNKNOWN */
    double received, sent; /* bytes/s */
    double drops;          /* /s */
} LinkFigures;

typedef struct {
    double interval_ms; /* FIGURE_UNKNOWN: there are no rates */
    double cpu_used;    /* CPUs */
    struct {
        double cpu_some, memory_some, memory_full, io_some, io_full; /* shares */
    } pressure;
    double swap_in, swap_out; /* bytes/s */
    GArray *links;            /* of LinkFigures: those that lead out of the host */
    struct {
        double received, sent; /* bytes/s */
        double cpu_used;       /* CPUs */
    } moves;
} HostFigures;

void host_figures_clear(HostFigures *figures);

/* *before* may be NULL: then there are no rates. */
void host_figures_find(const HostReading *before, const HostReading *now, HostFigures *ret);

/* CPUs that can be in use at most, a little more for the clocks' sake: what is beyond is no reading. */
double host_most_cpus(const HostReading *reading);

/* Of Link*, borrowed: those that lead out of the host, which are its cards, or, where there are none (a
 * container), what it has in their place.  Free with g_ptr_array_unref(). */
GPtrArray *links_list_outer(const GArray *links);
