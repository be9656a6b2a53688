/* Usual pre-copy: whole pages in the order of their addresses, dirty pages
 * collected after each pass; the guest is stopped as soon as what is dirty takes
 * at most max_downtime_ms. */
#include "base/page.h"
#include "sim/simulator_private.h"

/* What would have to be sent in the pause: a look, as soon as the pages known
 * to be pending would fit. */
static gboolean fits(Simulation *sim)
{
    double limit = sim->options->promise.max_downtime_ms * sim->options->bytes_per_ms / PAGE_BYTES;

    if (sim->memory->pending_pages > limit)
        return FALSE;
    sim_memory_sync(sim->memory, sim->now_ms);
    return sim->memory->pending_pages <= limit;
}

static double send_whole(SimMemory *memory, guint page)
{
    sim_memory_send(memory, page);
    return PAGE_BYTES;
}

void sim_run_pages(Simulation *sim)
{
    double limit = sim->options->limit_ms > 0 ? sim->options->limit_ms : 300000;
    guint pages = sim->memory->pages;

    sim->result.rounds = 1;
    while (sim->now_ms < limit) {
        sim_step(sim);
        while (sim->credit_bytes > 0) {
            sim->page = sim_memory_next_pending(sim->memory, sim->page, pages);
            if (sim->page < pages) {
                sim_note_page(sim, sim->page, send_whole(sim->memory, sim->page));
                continue;
            }
            if (fits(sim)) {
                sim_finish(sim, "converged");
                sim->result.sent_bytes +=
                    sim->memory->pending_pages * PAGE_BYTES - sim->memory->pending_bytes;
                sim->result.total_ms -= sim->result.downtime_ms;
                sim->result.downtime_ms =
                    sim->memory->pending_pages * PAGE_BYTES / sim->options->bytes_per_ms +
                    sim->options->device_ms;
                sim->result.total_ms += sim->result.downtime_ms;
                return;
            }
            sim->page = 0;
            sim->result.rounds++;
        }
        if (fits(sim))
            sim->page = pages;
    }
    sim->result.reason = "time-limit";
}
