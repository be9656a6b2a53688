#include "sim/memory.h"

enum {
    POPULATED = 1 << 0,
    DIRTY = 1 << 1, /* written since it was collected */
    SEEN = 1 << 2,  /* ever collected as dirty */
    PENDING = 1 << 3,
    SENT = 1 << 4,
};

static double cost(const SimMemory *memory, guint page)
{
    return sim_workload_cost(memory->workload, page, memory->flags[page] & SENT);
}

static void add_pending(SimMemory *memory, guint page)
{
    if (memory->flags[page] & PENDING)
        return;
    memory->flags[page] |= PENDING;
    memory->pending_pages++;
    memory->pending_bytes += cost(memory, page);
}

SimMemory *sim_memory_new(const SimWorkload *workload)
{
    SimMemory *memory = g_new0(SimMemory, 1);

    memory->workload = workload;
    memory->pages = sim_workload_get_pages(workload);
    memory->groups = (memory->pages + CONVERGENCE_GROUP_PAGES - 1) / CONVERGENCE_GROUP_PAGES;
    memory->flags = g_new0(guint8, MAX(memory->pages, 1));
    memory->account = group_account_new(memory->groups, sim_workload_cost(workload, 0, FALSE));
    for (guint i = 0; i < memory->pages; i++)
        if (sim_workload_is_populated(workload, i)) {
            memory->flags[i] = POPULATED;
            add_pending(memory, i);
        }
    sim_memory_publish(memory);
    return memory;
}

void sim_memory_free(SimMemory *memory)
{
    if (!memory)
        return;
    group_account_free(memory->account);
    g_free(memory->flags);
    g_free(memory);
}

void sim_memory_write(gpointer user, guint page)
{
    SimMemory *memory = user;

    memory->flags[page] |= DIRTY | POPULATED;
}

void sim_memory_collect(SimMemory *memory, double now_ms, guint first, guint count)
{
    GroupCollect collected = {.now_ms = now_ms, .pages_collected = count};

    for (guint i = first; i < first + count; i++) {
        if (!(memory->flags[i] & DIRTY))
            continue;
        collected.pages_dirty++;
        collected.pages_new += memory->flags[i] & SEEN ? 0 : 1;
        memory->flags[i] = (memory->flags[i] & ~DIRTY) | SEEN;
        add_pending(memory, i);
    }
    group_account_note_dirty(memory->account, first / CONVERGENCE_GROUP_PAGES, &collected);
}

void sim_memory_look(SimMemory *memory, double now_ms)
{
    for (guint group = 0; group < memory->groups; group++) {
        guint first = group * CONVERGENCE_GROUP_PAGES;

        sim_memory_collect(memory, now_ms, first,
                           MIN(CONVERGENCE_GROUP_PAGES, memory->pages - first));
    }
    sim_memory_publish(memory);
}

guint sim_memory_next_pending(const SimMemory *memory, guint from, guint end)
{
    while (from < end && !(memory->flags[from] & PENDING))
        from++;
    return from;
}

double sim_memory_send(SimMemory *memory, guint page)
{
    double bytes = cost(memory, page);

    group_account_note_sent(memory->account, page / CONVERGENCE_GROUP_PAGES, 1, bytes,
                            memory->flags[page] & SENT);
    memory->pending_pages--;
    memory->pending_bytes -= bytes;
    memory->flags[page] = (memory->flags[page] & ~PENDING) | SENT;
    return bytes;
}

void sim_memory_publish(SimMemory *memory)
{
    for (guint group = 0; group < memory->groups; group++) {
        guint first = group * CONVERGENCE_GROUP_PAGES;
        guint end = MIN(first + CONVERGENCE_GROUP_PAGES, memory->pages);
        guint pages = 0, pending = 0, unsent = 0;

        for (guint i = first; i < end; i++) {
            gboolean is_pending = memory->flags[i] & PENDING;

            pages += memory->flags[i] & POPULATED ? 1 : 0;
            pending += is_pending ? 1 : 0;
            unsent += is_pending && !(memory->flags[i] & SENT) ? 1 : 0;
        }
        group_account_set_pages(memory->account, group, pages);
        group_account_set_pending(memory->account, group, pending, unsent);
    }
}
