#include "sim/simulator.h"

#include <math.h>

#include "base/page.h"
#include "sim/simulator_private.h"

#define DEFAULT_LIMIT_MS 300000.0
/* Batches, as transfer/page_sender.c makes them: a page's share in the mean of their cost. */
#define LEAST_BATCH_PAGES 64.0
#define BATCH_PAGES 256.0
#define COST_WEIGHT 0.25
/* Beyond what its pages take, a round takes so long to be confirmed. */
#define CONFIRM_MS 1.0
/* The cost of faults is a mean over this time, as in memory/guest_cost.c. */
#define LEAST_COST_MS 80.0
#define JITTER_MS 100.0

static void write_page(gpointer user, guint page)
{
    Simulation *sim = user;

    sim_memory_write(sim->memory, page);
}

/* The guest runs, for so long; its faults make up for a part of that. */
static void run_guest(Simulation *sim, double ms)
{
    double lost = MIN(sim->owed_ms, ms);
    uint64_t before = sim->memory->faults;

    sim->owed_ms -= lost;
    sim->result.lost_ms += lost;
    sim_workload_run(sim->workload, ms - lost, sim->write, sim);
    sim->owed_ms += (double)(sim->memory->faults - before) * sim->options->fault_ms;
    sim->result.faults = sim->memory->faults;
}

void sim_step(Simulation *sim)
{
    double run_share = sim->control.decision.run_share;

    sim->now_ms += SIM_STEP_MS;
    if (fmod(sim->now_ms, JITTER_MS) < SIM_STEP_MS)
        sim->bytes_per_ms = sim->options->bytes_per_ms *
                            (1 + sim->options->jitter * g_rand_double_range(sim->rand, -1, 1));
    sim->queued_bytes = MAX(sim->queued_bytes - sim->bytes_per_ms * SIM_STEP_MS, 0);
    if (run_share < 1) {
        sim->result.throttled_ms += SIM_STEP_MS;
        sim->result.least_run_share = MIN(sim->result.least_run_share, run_share);
    }
    run_guest(sim, SIM_STEP_MS * run_share);
}

gboolean sim_is_time_up(Simulation *sim)
{
    double limit = sim->options->limit_ms > 0 ? sim->options->limit_ms : DEFAULT_LIMIT_MS;

    if (sim->now_ms < limit)
        return FALSE;
    sim->result.reason = "time-limit";
    return TRUE;
}

void sim_queue(Simulation *sim, double bytes)
{
    sim->sent_bytes += bytes;
    sim->queued_bytes += bytes;
}

void sim_finish(Simulation *sim, double pending_bytes, const char *reason)
{
    SimResult *result = &sim->result;

    result->done = TRUE;
    result->reason = reason;
    result->downtime_ms =
        (sim->queued_bytes + pending_bytes) / sim->options->bytes_per_ms + sim->options->device_ms;
    result->total_ms = sim->now_ms + result->downtime_ms;
    sim_queue(sim, pending_bytes);
}

/* --- the driver of pre-copy's clockwork (policy/precopy_control.h) ------------- */

static void measure_link(Simulation *sim)
{
    precopy_control_note_link(&sim->control, sim->now_ms, (uint64_t)sim->sent_bytes,
                              (uint64_t)sim->queued_bytes, FALSE);
}

/* The share of the guest's time that faults took; negative: it is too early to say. */
static double note_faults(Simulation *sim)
{
    double ms = sim->now_ms - sim->cost_ms, share;

    if (ms < LEAST_COST_MS)
        return -1;
    share = (double)(sim->memory->faults - sim->cost_faults) * sim->options->fault_ms / ms;
    sim->cost_ms = sim->now_ms;
    sim->cost_faults = sim->memory->faults;
    watch_plan_adjust(&sim->memory->plan, share);
    return share;
}

static void sync_dirty(Simulation *sim)
{
    measure_link(sim);
    sim_memory_peek(sim->memory, sim->now_ms);
    precopy_control_note_sync(&sim->control, sim->now_ms, note_faults(sim));
}

static void note_decision(Simulation *sim, const ConvergenceDecision *decision)
{
    SimResult *result = &sim->result;

    result->memory_intensive |= decision->memory_intensive;
    result->probed |= decision->probe;
    if (sim->now_ms <= SIM_FORECAST_MS) {
        result->predicted_downtime_ms = decision->expected_downtime_ms;
        result->predicted_total_ms = decision->expected_total_ms;
    }
    if (sim->options->decided)
        sim->options->decided(sim->now_ms, decision, sim->options->user);
}

static void decide(Simulation *sim)
{
    PrecopyFacts facts = {
        .now_ms = sim->now_ms, .device_ms = sim->options->device_ms, .can_pause = TRUE};
    guint groups[GROUP_ACCOUNT_PROBES];

    if (!precopy_control_decide(&sim->control, &facts))
        return;
    send_order_set_probes(sim->memory->order, groups,
                          group_account_get_probes(sim->memory->account, groups));
    note_decision(sim, &sim->control.decision);
}

static guint get_batch_pages(const Simulation *sim)
{
    return (guint)CLAMP(link_rate_count_pages_ahead(&sim->control.link, sim->page_bytes),
                        LEAST_BATCH_PAGES, BATCH_PAGES);
}

/* What is queued waits for the link as long as there is more than *queue_ms* of it. */
static void send_batch(Simulation *sim)
{
    double queue_ms = MAX(sim->options->queue_ms, SIM_LEAST_QUEUE_MS);
    SimBatch batch;

    measure_link(sim);
    sim_memory_take(sim->memory, sim->now_ms, get_batch_pages(sim), &batch);
    if (batch.pages > 0) {
        sim_queue(sim, batch.bytes);
        sim->page_bytes += COST_WEIGHT * (batch.bytes / batch.pages - sim->page_bytes);
        sim->round_pages += batch.pages;
        sim->result.hot_pages_sent += batch.hot_pages;
    }
    while (sim->queued_bytes > queue_ms * sim->bytes_per_ms)
        sim_step(sim);
    precopy_control_note_batch(&sim->control, sim->now_ms, batch.pages);
}

/* What was found dirty is pending now. */
static void renew(Simulation *sim)
{
    sim_memory_begin_round(sim->memory);
    decide(sim);
}

static void end_round(Simulation *sim)
{
    while (sim->queued_bytes > 0)
        sim_step(sim);
    for (guint i = 0; i < (guint)(CONFIRM_MS / SIM_STEP_MS); i++)
        sim_step(sim);
    precopy_control_note_round(&sim->control, sim->now_ms, (uint64_t)sim->sent_bytes,
                               sim->round_pages);
    sim->result.rounds++;
    sync_dirty(sim);
    precopy_control_end_round(&sim->control, sim->now_ms);
    renew(sim);
}

static void await_sync(Simulation *sim)
{
    while (sim->now_ms < sim->control.next_sync_ms)
        sim_step(sim);
    sync_dirty(sim);
    renew(sim);
}

static void run_work_set(Simulation *sim)
{
    PrecopyControl *control = &sim->control;

    sim_memory_peek(sim->memory, sim->now_ms);
    while (!sim_is_time_up(sim)) {
        switch (precopy_control_get_step(control)) {
        case PRECOPY_BEGIN_ROUND:
            sim->round_pages = 0;
            precopy_control_begin_round(control, sim->now_ms, (uint64_t)sim->sent_bytes);
            break;
        case PRECOPY_SEND:
            send_batch(sim);
            break;
        case PRECOPY_SYNC:
            sync_dirty(sim);
            decide(sim);
            break;
        case PRECOPY_END_ROUND:
            end_round(sim);
            break;
        case PRECOPY_WAIT:
            await_sync(sim);
            break;
        case PRECOPY_STOP:
            sim_memory_sync(sim->memory, sim->now_ms);
            sim_finish(sim, sim->memory->pending_bytes, control->decision.reason);
            return;
        case PRECOPY_SWITCH:
            sim_switch_over(sim, control->decision.reason);
            return;
        case PRECOPY_GIVE_UP:
            sim->result.reason = control->decision.reason;
            return;
        }
    }
}

SimResult sim_run(const SimOptions *options)
{
    g_autoptr(SimWorkload) workload = sim_workload_new(&options->workload);
    g_autoptr(SimMemory) memory = sim_memory_new(workload);
    g_autoptr(GRand) rand = g_rand_new_with_seed((guint32)options->workload.seed);
    Simulation sim = {
        .options = options,
        .workload = workload,
        .memory = memory,
        .rand = rand,
        .bytes_per_ms = options->bytes_per_ms,
        .write = write_page,
        .page_bytes = PAGE_BYTES,
        .result = {.least_run_share = 1, .populated_bytes = memory->pending_bytes},
    };

    precopy_control_init(&sim.control, memory->account,
                         &(PrecopyOptions){.limits = options->limits,
                                           .trace = options->trace,
                                           .user = options->user});
    precopy_control_trace_begin(&sim.control, options->bytes_per_ms,
                                sim_workload_name(options->workload.kind));
    if (options->policy == SIM_PAGES)
        sim_run_pages(&sim);
    else
        run_work_set(&sim);
    if (!sim.result.done)
        sim.result.total_ms = sim.now_ms;
    sim.result.sent_bytes = sim.sent_bytes;
    precopy_control_trace_end(&sim.control, sim.result.total_ms, sim.result.downtime_ms,
                              sim.result.reason);
    precopy_control_clear(&sim.control);
    return sim.result;
}
