/*
 * What our write protection costs the guest
 *
 * Theory of operation: /proc gives of each vCPU thread its user and system
 * time, its page faults, and how long it was able to run but had no core.  The
 * system time beyond what was usual before, by the faults of that time, is what a
 * fault costs; times the faults of the protection, which the tracker's user
 * counts, that is the time the guest has lost.  A guest that sleeps part of the time has lost
 * nothing but that sleep: its writing is slowed only as far as its threads had
 * no time left.
 *
 * Limits: the usual system time is the mean since the threads began.
 */
#pragma once

#include <glib.h>
#include <stdint.h>
#include <sys/types.h>

/* Of all vCPU threads together, since they began. */
typedef struct {
    double user_ms, system_ms, waited_ms;
    uint64_t faults;
} VcpuTimes;

typedef struct {
    pid_t pid;
    GArray *threads; /* of pid_t */
    VcpuTimes since; /* when a fault's cost was last found, at *since_ms* */
    double since_ms;
    double usual_system; /* ms a ms */
    double fault_ms;     /* mean; 0: not known yet */
} GuestCost;

/* Takes *threads* over (of pid_t); *now_ms* as for the rest, on any clock. */
void guest_cost_start(GuestCost *cost, pid_t pid, GArray *threads, double now_ms);
void guest_cost_clear(GuestCost *cost);

/* The share of the time since the last call that *faults* of the protection have taken from what
 * the guest would have done: 0 to 1; negative: too early to say. */
double guest_cost_note(GuestCost *cost, double now_ms, uint64_t faults);

/* What a fault costs, and what share that makes, from two readings *ms* apart. */
double guest_cost_find_fault_ms(const VcpuTimes *difference, double ms, double usual_system);
double guest_cost_find_share(const VcpuTimes *difference, double ms, guint threads, double fault_ms,
                             uint64_t faults);
