/* What the simulator's policies share (private to it). */
#pragma once

#include "policy/precopy_control.h"
#include "policy/push_order.h"
#include "sim/memory.h"
#include "sim/simulator.h"

#define SIM_STEP_MS 1.0

typedef struct {
    const SimOptions *options;
    SimWorkload *workload;
    SimMemory *memory;
    PrecopyControl control;
    double now_ms;
    GRand *rand;
    double bytes_per_ms; /* of the link, now */
    double sent_bytes;   /* handed to the link */
    double queued_bytes; /* of them: not carried yet */
    double page_bytes;   /* on the wire, of late */
    SimWrite write;      /* what a write of the workload does; gets the Simulation */
    PushOrder *order;    /* after a switchover */
    double owed_ms;      /* that faults take from the guest's next steps */
    double cost_ms;      /* when the cost of faults was noted, and how many there were */
    uint64_t cost_faults;
    uint64_t round_pages;
    SimResult result;
} Simulation;

/* A millisecond passes. */
void sim_step(Simulation *sim);
/* Hands *bytes* to the link. */
void sim_queue(Simulation *sim, double bytes);
gboolean sim_is_time_up(Simulation *sim);
/* Pauses the guest, sends the rest, *pending_bytes* and what is queued, and ends the move. */
void sim_finish(Simulation *sim, double pending_bytes, const char *reason);
/* Pauses the guest for the device state, lets it run and sends what is pending meanwhile, and ends
 * the move (postcopy.c). */
void sim_switch_over(Simulation *sim, const char *reason);
/* Usual pre-copy (pages.c). */
void sim_run_pages(Simulation *sim);
