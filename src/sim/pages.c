/* Usual pre-copy: whole pages in the order of their addresses, dirty pages
 * collected after each pass; the guest is stopped as soon as what is dirty takes
 * at most max_downtime_ms. */
#include "base/page.h"
#include "sim/simulator_private.h"

/* What would have to be sent in the pause: a dirty sync, as soon as the pages known
 * to be pending would fit. */
static gboolean fits(Simulation *sim)
{
    double limit = sim->options->limits.max_downtime_ms * sim->options->bytes_per_ms / PAGE_BYTES;

    if (sim->memory->pending_pages > limit)
        return FALSE;
    sim_memory_sync(sim->memory, sim->now_ms);
    sim_memory_begin_round(sim->memory);
    return sim->memory->pending_pages <= limit;
}

static void send_whole(Simulation *sim, guint page)
{
    sim_memory_send(sim->memory, page);
    sim_queue(sim, PAGE_BYTES);
    if (sim_workload_is_hot(sim->workload, page))
        sim->result.hot_pages_sent++;
}

void sim_run_pages(Simulation *sim)
{
    guint pages = sim->memory->pages, page = 0;

    /* All is protected from the start: what is not written after that is sent once. */
    sim_memory_sync(sim->memory, sim->now_ms);
    sim->result.rounds = 1;
    while (!sim_is_time_up(sim)) {
        sim_step(sim);
        /* What the link carries until the next step. */
        while (sim->queued_bytes < sim->bytes_per_ms * SIM_STEP_MS) {
            page = sim_memory_next_pending(sim->memory, page, pages);
            if (page < pages) {
                send_whole(sim, page);
                continue;
            }
            if (fits(sim)) {
                sim_finish(sim, sim->memory->pending_pages * PAGE_BYTES, "converged");
                return;
            }
            page = 0;
            sim->result.rounds++;
        }
        if (fits(sim))
            page = pages;
    }
}
