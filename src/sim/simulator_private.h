/* What the simulator's policies share (private to it). */
#pragma once

#include "policy/work_set_model.h"
#include "sim/memory.h"
#include "sim/simulator.h"

#define SIM_STEP_MS 1.0

typedef struct {
    const SimOptions *options;
    SimWorkload *workload;
    SimMemory *memory;
    double now_ms;
    GRand *rand;
    double bytes_per_ms; /* now */
    double owed_ms;      /* that faults take from the guest's next steps */
    uint64_t synced_faults;
    double credit_bytes; /* what the link may carry by now */
    double synced_ms, sync_bytes;
    double window_ms, window_bytes;
    double measured_bytes_per_ms;
    gboolean idled; /* since the last look the link had nothing to carry */
    ConvergenceDecision decision;
    gboolean probing;

    GArray *rounds; /* ConvergenceRound */
    GArray *order;  /* groups, cold to hot */
    guint turn;     /* in *order* */
    guint page, span_end;
    double round_ms, round_bytes;
    guint round_pages;
    SimResult result;
} Simulation;

void sim_step(Simulation *sim);
void sim_note_page(Simulation *sim, guint page, double bytes);
/* Pauses the guest, sends the rest, ends the move. */
void sim_finish(Simulation *sim, const char *reason);
/* Usual pre-copy (pages.c). */
void sim_run_pages(Simulation *sim);
