#include "base/page.h"
#include "sim/memory.h"

enum {
    POPULATED = 1 << 0,
    DIRTY = 1 << 1, /* written since it was collected, or never collected */
    SEEN = 1 << 2,  /* ever found written while it was protected */
    PENDING = 1 << 3,
    SENT = 1 << 4,
    WATCHED = 1 << 5, /* protected, or... */
    CAUGHT = 1 << 6,  /* ...was until it was written since the last sync */
    NEXT = 1 << 7,    /* pending for the next round */
};

/* Pages are given out in whole words of the work set's bitmaps. */
#define WORD_PAGES 64u

static double cost(const SimMemory *memory, guint page)
{
    return sim_workload_cost(memory->workload, page, memory->flags[page] & SENT);
}

static void add_pending(SimMemory *memory, guint page)
{
    if (memory->flags[page] & (PENDING | NEXT))
        return;
    memory->flags[page] |= NEXT;
    memory->pending_pages++;
    memory->pending_bytes += cost(memory, page);
}

/* Tells the account what is pending. */
static void publish(SimMemory *memory)
{
    for (guint group = 0; group < memory->groups; group++) {
        guint first = group * GROUP_PAGES;
        guint end = MIN(first + GROUP_PAGES, memory->pages);
        guint pages = 0, pending = 0, unsent = 0;

        for (guint i = first; i < end; i++) {
            gboolean is_pending = memory->flags[i] & (PENDING | NEXT);

            pages += memory->flags[i] & POPULATED ? 1 : 0;
            pending += is_pending ? 1 : 0;
            unsent += is_pending && !(memory->flags[i] & SENT) ? 1 : 0;
        }
        group_account_set_pages(memory->account, group, pages);
        group_account_set_pending(memory->account, group, pending, unsent);
    }
}

SimMemory *sim_memory_new(const SimWorkload *workload)
{
    SimMemory *memory = g_new0(SimMemory, 1);

    memory->workload = workload;
    memory->pages = sim_workload_get_pages(workload);
    memory->groups = (memory->pages + GROUP_PAGES - 1) / GROUP_PAGES;
    memory->flags = g_new0(guint8, MAX(memory->pages, 1));
    memory->plan = watch_plan_make();
    memory->watched = g_new0(guint, MAX(memory->groups, 1));
    memory->account = group_account_new(memory->groups, sim_workload_cost(workload, 0, FALSE));
    for (guint i = 0; i < memory->pages; i++)
        if (sim_workload_is_populated(workload, i)) {
            memory->flags[i] = POPULATED | DIRTY;
            add_pending(memory, i);
        }
    memory->order = send_order_new(memory->account, memory->groups);
    sim_memory_begin_round(memory);
    publish(memory);
    return memory;
}

void sim_memory_free(SimMemory *memory)
{
    if (!memory)
        return;
    send_order_free(memory->order);
    group_account_free(memory->account);
    g_free(memory->flags);
    g_free(memory->watched);
    g_free(memory);
}

void sim_memory_write(gpointer user, guint page)
{
    SimMemory *memory = user;

    memory->flags[page] |= DIRTY | POPULATED;
    if (memory->flags[page] & WATCHED) {
        memory->flags[page] = (memory->flags[page] & ~WATCHED) | CAUGHT;
        memory->faults++;
    }
}

static void note_page(GroupSync *sync, guint8 flags)
{
    gboolean caught = flags & CAUGHT, seen = flags & SEEN;

    sync->pages_asked += flags & (WATCHED | CAUGHT) ? 1 : 0;
    sync->pages_marked += flags & (WATCHED | CAUGHT) && seen ? 1 : 0;
    sync->pages_dirty += caught ? 1 : 0;
    sync->pages_new += caught && !seen ? 1 : 0;
}

static void visit(SimMemory *memory, double now_ms, guint first, guint count, gboolean collect)
{
    guint group = first / GROUP_PAGES, added = 0;
    GroupSync sync = {.now_ms = now_ms};

    for (guint i = first; i < first + count; i++) {
        guint8 *flags = &memory->flags[i];

        note_page(&sync, *flags);
        if (*flags & DIRTY)
            add_pending(memory, i);
        if (*flags & CAUGHT)
            *flags = (*flags & ~CAUGHT) | SEEN;
        if (!collect || !(*flags & DIRTY))
            continue;
        *flags = (*flags & ~DIRTY) | WATCHED;
        added++;
    }
    memory->watched[group] += added - sync.pages_dirty;
    group_account_note_dirty(memory->account, group, &sync);
    group_account_note_watched(memory->account, group, now_ms, added);
}

static guint group_pages(const SimMemory *memory, guint group)
{
    return MIN(GROUP_PAGES, memory->pages - group * GROUP_PAGES);
}

void sim_memory_sync(SimMemory *memory, double now_ms)
{
    for (guint i = 0; i < memory->groups; i++)
        visit(memory, now_ms, i * GROUP_PAGES, group_pages(memory, i), TRUE);
    send_order_sort(memory->order);
    publish(memory);
}

void sim_memory_begin_round(SimMemory *memory)
{
    for (guint i = 0; i < memory->pages; i++)
        if (memory->flags[i] & NEXT)
            memory->flags[i] = (memory->flags[i] & ~NEXT) | PENDING;
    send_order_rewind(memory->order);
}

static void release_deferred(SimMemory *memory, guint group)
{
    guint first = group * GROUP_PAGES;

    if (!watch_plan_releases(&memory->plan, memory->account, group, memory->watched[group]))
        return;
    for (guint i = first; i < first + group_pages(memory, group); i++)
        if (memory->flags[i] & WATCHED)
            memory->flags[i] = (memory->flags[i] & ~WATCHED) | DIRTY;
    memory->watched[group] = 0;
    group_account_note_released(memory->account, group);
}

static void watch_sample(SimMemory *memory, double now_ms)
{
    guint visits = MIN(memory->plan.groups, memory->groups);

    for (guint i = 0; i < visits; i++) {
        guint group = watch_plan_next(&memory->plan, memory->groups);
        PageSpan sample = watch_plan_get_sample(&memory->plan, group, group_pages(memory, group));

        if (watch_plan_wants(&memory->plan, memory->watched[group]) && sample.count > 0)
            visit(memory, now_ms, group * GROUP_PAGES + (guint)sample.first, (guint)sample.count,
                  TRUE);
    }
    watch_plan_end_sync(&memory->plan);
}

void sim_memory_peek(SimMemory *memory, double now_ms)
{
    for (guint i = 0; i < memory->groups; i++)
        visit(memory, now_ms, i * GROUP_PAGES, group_pages(memory, i), FALSE);
    send_order_sort(memory->order);
    for (guint i = 0; i < memory->groups; i++)
        release_deferred(memory, i);
    watch_sample(memory, now_ms);
    publish(memory);
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

    group_account_note_sent(memory->account, page / GROUP_PAGES, 1, bytes,
                            memory->flags[page] & SENT);
    memory->pending_pages--;
    memory->pending_bytes -= bytes;
    memory->flags[page] = (memory->flags[page] & ~PENDING) | SENT;
    return bytes;
}

static guint count_pending(const SimMemory *memory, guint from, guint end)
{
    guint pages = 0;

    for (guint i = from; i < end; i++)
        pages += memory->flags[i] & PENDING ? 1 : 0;
    return pages;
}

/* Collects and sends what fits of one group; FALSE: the batch is full, and the group goes on. */
static gboolean take_group(SimMemory *memory, double now_ms, guint group, guint most,
                           gboolean is_probe, SimBatch *batch)
{
    guint first = group * GROUP_PAGES, end = first + group_pages(memory, group);
    guint from = end, to = first, pages = batch->pages, word = first;

    for (; word < end; word += WORD_PAGES) {
        guint stop = MIN(word + WORD_PAGES, end), pending = count_pending(memory, word, stop);

        if (pages + pending > most)
            break;
        if (pending > 0) {
            from = MIN(from, word);
            to = stop;
            pages += pending;
        }
    }
    if (from < to)
        visit(memory, now_ms, from, to - from, TRUE);
    for (guint i = sim_memory_next_pending(memory, from, to); i < to;
         i = sim_memory_next_pending(memory, i, to)) {
        batch->bytes += sim_memory_send(memory, i);
        batch->hot_pages += !is_probe && sim_workload_is_hot(memory->workload, i) ? 1 : 0;
    }
    batch->pages = pages;
    return word >= end;
}

void sim_memory_take(SimMemory *memory, double now_ms, guint most, SimBatch *ret)
{
    guint group, last_group = 0;

    *ret = (SimBatch){0};
    while (ret->pages == 0 && send_order_take_probe(memory->order, &group))
        take_group(memory, now_ms, group, GROUP_ACCOUNT_PROBE_PAGES, TRUE, ret);
    if (ret->pages > 0)
        return;
    while (ret->pages < most && send_order_get_next(memory->order, FALSE, &group)) {
        if (ret->pages > 0 && group < last_group)
            return;
        last_group = group;
        if (!take_group(memory, now_ms, group, most, FALSE, ret))
            return;
        send_order_pass(memory->order);
    }
}
