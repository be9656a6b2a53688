#include "collect/host_figures.h"

#define NS 1e-9
#define US 1e-6
/* CPU time is told in ticks, and read a little after the clock. */
#define CPU_SLACK 1.25
/* Where nobody says how many there are. */
#define MOST_CPUS 65536.0

void host_reading_clear(HostReading *reading)
{
    g_clear_pointer(&reading->links, g_array_unref);
}

void host_figures_clear(HostFigures *figures)
{
    g_clear_pointer(&figures->links, g_array_unref);
}

HostReading host_reading_empty(void)
{
    return (HostReading){
        .cpus = FIGURE_UNKNOWN,
        .cpu_ns = COUNTER_UNKNOWN,
        .run_queue = COUNTER_UNKNOWN,
        .pressure = {COUNTER_UNKNOWN, COUNTER_UNKNOWN, COUNTER_UNKNOWN, COUNTER_UNKNOWN,
                     COUNTER_UNKNOWN},
        .memory_bytes = COUNTER_UNKNOWN,
        .memory_available_bytes = COUNTER_UNKNOWN,
        .swap_bytes = COUNTER_UNKNOWN,
        .swap_free_bytes = COUNTER_UNKNOWN,
        .swap_in_bytes = COUNTER_UNKNOWN,
        .swap_out_bytes = COUNTER_UNKNOWN,
        .moves = {COUNTER_UNKNOWN, COUNTER_UNKNOWN, COUNTER_UNKNOWN},
    };
}

double host_most_cpus(const HostReading *reading)
{
    return reading->machine_cpus > 0 ? reading->machine_cpus * CPU_SLACK : MOST_CPUS;
}

/* A share of the time cannot be more than all of it; the two clocks may differ a little. */
static double find_share(uint64_t before_us, uint64_t now_us, double interval_ms)
{
    double share = figure_rate(before_us, now_us, interval_ms, US, CPU_SLACK);

    return MIN(share, 1.0);
}

/* ---- links ---- */

GPtrArray *links_list_outer(const GArray *links)
{
    static const LinkKind kinds[] = {LINK_PHYSICAL, LINK_LEADS_OUT};
    GPtrArray *outer = g_ptr_array_new();

    for (guint k = 0; k < G_N_ELEMENTS(kinds) && outer->len == 0; k++)
        for (guint i = 0; links && i < links->len; i++) {
            Link *link = &g_array_index(links, Link, i);

            if (link->kind == kinds[k] && link->up)
                g_ptr_array_add(outer, link);
        }
    return outer;
}

static LinkFigures find_link(const Link *before, const Link *now, double interval_ms)
{
    LinkFigures figures = {.speed = now->speed,
                           .received = FIGURE_UNKNOWN,
                           .sent = FIGURE_UNKNOWN,
                           .drops = FIGURE_UNKNOWN};

    g_strlcpy(figures.name, now->name, sizeof figures.name);
    /* Another one of the same name counts anew. */
    if (!before || before->index != now->index)
        return figures;
    figures.received =
        figure_rate(before->received_bytes, now->received_bytes, interval_ms, 1, FIGURE_MOST_BYTES);
    figures.sent =
        figure_rate(before->sent_bytes, now->sent_bytes, interval_ms, 1, FIGURE_MOST_BYTES);
    figures.drops = figure_rate(before->dropped, now->dropped, interval_ms, 1, FIGURE_MOST_EVENTS);
    return figures;
}

static GArray *find_links(const HostReading *before, const HostReading *now, double interval_ms)
{
    GArray *all = g_array_new(FALSE, FALSE, sizeof(LinkFigures));
    g_autoptr(GPtrArray) outer = links_list_outer(now->links);

    for (guint i = 0; i < outer->len; i++) {
        const Link *link = outer->pdata[i];
        LinkFigures figures =
            find_link(before ? links_find(before->links, link->name) : NULL, link, interval_ms);

        g_array_append_val(all, figures);
    }
    return all;
}

/* ---- all ---- */

static void find_rates(const HostReading *before, const HostReading *now, HostFigures *ret)
{
    double ms = ret->interval_ms, most = host_most_cpus(now);

    ret->cpu_used = figure_rate(before->cpu_ns, now->cpu_ns, ms, NS, most);
    ret->pressure.cpu_some =
        find_share(before->pressure.cpu_some_us, now->pressure.cpu_some_us, ms);
    ret->pressure.memory_some =
        find_share(before->pressure.memory_some_us, now->pressure.memory_some_us, ms);
    ret->pressure.memory_full =
        find_share(before->pressure.memory_full_us, now->pressure.memory_full_us, ms);
    ret->pressure.io_some = find_share(before->pressure.io_some_us, now->pressure.io_some_us, ms);
    ret->pressure.io_full = find_share(before->pressure.io_full_us, now->pressure.io_full_us, ms);
    ret->swap_in = figure_rate(before->swap_in_bytes, now->swap_in_bytes, ms, 1, FIGURE_MOST_BYTES);
    ret->swap_out =
        figure_rate(before->swap_out_bytes, now->swap_out_bytes, ms, 1, FIGURE_MOST_BYTES);
    ret->moves.received = figure_rate(before->moves.received_bytes, now->moves.received_bytes, ms,
                                      1, FIGURE_MOST_BYTES);
    ret->moves.sent =
        figure_rate(before->moves.sent_bytes, now->moves.sent_bytes, ms, 1, FIGURE_MOST_BYTES);
    ret->moves.cpu_used = figure_rate(before->moves.cpu_ns, now->moves.cpu_ns, ms, NS, most);
}

void host_figures_find(const HostReading *before, const HostReading *now, HostFigures *ret)
{
    /* One with nothing in it gives nothing. */
    const HostReading nothing = host_reading_empty();

    *ret = (HostFigures){.interval_ms = before ? look_time_interval_ms(&before->time, &now->time)
                                               : FIGURE_UNKNOWN};
    find_rates(before ? before : &nothing, now, ret);
    ret->links = find_links(before, now, ret->interval_ms);
}
