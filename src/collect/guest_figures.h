/*
 * A guest: what was read of its process, and its figures
 *
 * Pure.  A GuestReading holds counters and amounts of one moment; two of the same process make GuestFigures.
 */
#pragma once

#include "collect/figure.h"

#include <net/if.h>
#include <sys/types.h>

/* A thread that runs vCPUs. */
typedef struct {
    pid_t thread;
    uint64_t ran_ns, waited_ns; /* COUNTER_UNKNOWN */
} VcpuReading;

/* A tap device, from the guest's side: what the interface receives is what the guest sends. */
typedef struct {
    char name[IFNAMSIZ];
    guint index; /* of the interface; 0: not known */
    uint64_t received_bytes, sent_bytes, dropped, backlog_bytes;
} TapReading;

/* Of all its disks; read later than the rest, or not at all. */
typedef struct {
    LookTime time;
    uint64_t read_bytes, written_bytes, flushes;
} DiskReading;

typedef struct {
    LookTime time;
    pid_t pid; /* 0: there is no process */
    uint64_t start_time;
    uint64_t cpu_ns; /* of the whole process */
    uint64_t major_faults;
    uint64_t resident_bytes, swapped_bytes;
    GArray *vcpus; /* of VcpuReading; NULL: not known */
    GArray *taps;  /* of TapReading; NULL: it has none, or they cannot be seen */
    DiskReading disk;
} GuestReading;

void guest_reading_clear(GuestReading *reading);

/* With everything unknown. */
GuestReading guest_reading_empty(void);

typedef struct {
    double cpu_used;     /* CPUs, by the whole process */
    double vcpu_used;    /* CPUs, by the threads of its vCPUs */
    double cpu_wait;     /* share of the time that the worst of these waited for a CPU */
    double major_faults; /* /s */
    struct {
        double received, sent; /* bytes/s */
        double drops;          /* /s */
        uint64_t backlog_bytes;
    } network;
    struct {
        double read, written; /* bytes/s */
        double flushes;       /* /s */
    } disk;
} GuestFigures;

/* *before* may be NULL, or of another process: then there are no rates.  *most_cpus*: host_most_cpus(). */
void guest_figures_find(const GuestReading *before, const GuestReading *now, double most_cpus,
                        GuestFigures *ret);
