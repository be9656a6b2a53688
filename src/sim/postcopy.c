/* After a switchover: the guest runs, and its pages follow, pushed or on demand. */
#include "policy/postcopy_model.h"
#include "sim/simulator_private.h"

static gboolean is_missing(const SimMemory *memory, guint page)
{
    return sim_memory_next_pending(memory, page, page + 1) == page;
}

/* A PushOrderNextRun. */
static gboolean next_run(guint region, uint64_t from, uint64_t max, uint64_t *ret_first,
                         uint64_t *ret_count, gpointer user)
{
    const SimMemory *memory = user;
    guint first = sim_memory_next_pending(memory, (guint)from, memory->pages);
    guint end = first;

    while (end < memory->pages && end - first < max && is_missing(memory, end))
        end++;
    *ret_first = first;
    *ret_count = end - first;
    return end > first;
}

static PushOrder *make_order(SimMemory *memory)
{
    uint64_t pages = memory->pages;
    g_autofree float *heat = g_new(float, MAX(memory->groups, 1));

    for (guint i = 0; i < memory->groups; i++)
        heat[i] = (float)group_account_get_heat(memory->account, i);
    return push_order_new(&pages, 1, heat, next_run, memory);
}

/* Whatever the destination had of it is gone. */
static void send_new(Simulation *sim, guint page)
{
    sim_memory_send(sim->memory, page);
    sim_queue(sim, sim_workload_cost(sim->workload, page, FALSE));
}

static void write_page(gpointer user, guint page)
{
    Simulation *sim = user;

    if (!is_missing(sim->memory, page))
        return;
    sim->result.postcopy_faults++;
    sim->owed_ms += postcopy_model_fault_ms(sim->bytes_per_ms);
    push_order_note_fault(sim->order, 0, page);
    send_new(sim, page);
}

/* What the link carries until the next step. */
static void push(Simulation *sim)
{
    PushRun run;

    while (sim->queued_bytes < sim->bytes_per_ms * SIM_STEP_MS &&
           push_order_next(sim->order, 1, &run))
        send_new(sim, (guint)run.first);
}

static void push_all(Simulation *sim)
{
    while (sim->memory->pending_pages > 0 && !sim_is_time_up(sim)) {
        push(sim);
        sim_step(sim);
    }
}

void sim_switch_over(Simulation *sim, const char *reason)
{
    SimResult *result = &sim->result;
    double lost_before, begin_ms;

    sim_memory_sync(sim->memory, sim->now_ms);
    sim_memory_begin_round(sim->memory);
    result->switched = TRUE;
    result->downtime_ms = sim->queued_bytes / sim->bytes_per_ms + sim->options->device_ms;
    sim->now_ms += result->downtime_ms;
    sim->queued_bytes = 0;
    sim->control.decision.run_share = 1;
    sim->write = write_page;
    sim->owed_ms = 0;
    sim->order = make_order(sim->memory);
    lost_before = result->lost_ms;
    begin_ms = sim->now_ms;
    push_all(sim);
    g_clear_pointer(&sim->order, push_order_free);
    result->done = sim->memory->pending_pages == 0;
    if (result->done)
        result->reason = reason;
    result->total_ms = sim->now_ms + sim->queued_bytes / sim->bytes_per_ms;
    result->postcopy_ms = result->total_ms - begin_ms;
    result->lost_ms += sim->owed_ms;
    result->postcopy_lost_ms = result->lost_ms - lost_before;
}
