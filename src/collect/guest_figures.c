#include "collect/guest_figures.h"

#include <string.h>

#define NS 1e-9

void guest_reading_clear(GuestReading *reading)
{
    g_clear_pointer(&reading->vcpus, g_array_unref);
    g_clear_pointer(&reading->taps, g_array_unref);
}

GuestReading guest_reading_empty(void)
{
    return (GuestReading){
        .cpu_ns = COUNTER_UNKNOWN,
        .major_faults = COUNTER_UNKNOWN,
        .resident_bytes = COUNTER_UNKNOWN,
        .swapped_bytes = COUNTER_UNKNOWN,
        .disk = {.read_bytes = COUNTER_UNKNOWN,
                 .written_bytes = COUNTER_UNKNOWN,
                 .flushes = COUNTER_UNKNOWN},
    };
}

static const VcpuReading *find_vcpu(const GArray *vcpus, pid_t thread)
{
    for (guint i = 0; vcpus && i < vcpus->len; i++)
        if (g_array_index(vcpus, VcpuReading, i).thread == thread)
            return &g_array_index(vcpus, VcpuReading, i);
    return NULL;
}

/* All its vCPUs, or nothing: half of the sum would be a lie. */
static void find_vcpus(const GuestReading *before, const GuestReading *now, double ms,
                       double most_cpus, GuestFigures *ret)
{
    double used = 0, wait = 0;

    if (!now->vcpus || now->vcpus->len == 0)
        return;
    for (guint i = 0; i < now->vcpus->len; i++) {
        const VcpuReading *vcpu = &g_array_index(now->vcpus, VcpuReading, i);
        const VcpuReading *was = find_vcpu(before->vcpus, vcpu->thread);
        double ran =
            was ? figure_rate(was->ran_ns, vcpu->ran_ns, ms, NS, most_cpus) : FIGURE_UNKNOWN;
        double waited = was ? figure_rate(was->waited_ns, vcpu->waited_ns, ms, NS, G_MAXDOUBLE)
                            : FIGURE_UNKNOWN;

        if (ran < 0 || waited < 0)
            return;
        used += ran;
        wait = MAX(wait, waited);
    }
    ret->vcpu_used = used;
    /* The kernel tells of a wait when it is over, so it may have begun before. */
    ret->cpu_wait = MIN(wait, 1.0);
}

static const TapReading *find_tap(const GArray *taps, const TapReading *like)
{
    for (guint i = 0; taps && i < taps->len; i++) {
        const TapReading *tap = &g_array_index(taps, TapReading, i);

        if (tap->index == like->index && strcmp(tap->name, like->name) == 0)
            return tap;
    }
    return NULL;
}

static void find_backlog(const GuestReading *now, GuestFigures *ret)
{
    ret->network.backlog_bytes = now->taps && now->taps->len > 0 ? 0 : COUNTER_UNKNOWN;
    for (guint i = 0; now->taps && i < now->taps->len; i++)
        ret->network.backlog_bytes = counter_add(
            ret->network.backlog_bytes, g_array_index(now->taps, TapReading, i).backlog_bytes);
}

/* Of all its taps, one of which may have come or gone: then there is nothing to compare. */
static void find_network(const GuestReading *before, const GuestReading *now, double ms,
                         GuestFigures *ret)
{
    double received = 0, sent = 0, drops = 0;

    if (!now->taps || now->taps->len == 0 || !before->taps || before->taps->len != now->taps->len)
        return;
    for (guint i = 0; i < now->taps->len; i++) {
        const TapReading *tap = &g_array_index(now->taps, TapReading, i);
        const TapReading *was = find_tap(before->taps, tap);
        double in, out, lost;

        if (!was)
            return;
        in = figure_rate(was->sent_bytes, tap->sent_bytes, ms, 1, FIGURE_MOST_BYTES);
        out = figure_rate(was->received_bytes, tap->received_bytes, ms, 1, FIGURE_MOST_BYTES);
        lost = figure_rate(was->dropped, tap->dropped, ms, 1, FIGURE_MOST_EVENTS);
        received = in < 0 || received < 0 ? FIGURE_UNKNOWN : received + in;
        sent = out < 0 || sent < 0 ? FIGURE_UNKNOWN : sent + out;
        drops = lost < 0 || drops < 0 ? FIGURE_UNKNOWN : drops + lost;
    }
    ret->network.received = received;
    ret->network.sent = sent;
    ret->network.drops = drops;
}

static void find_disk(const DiskReading *before, const DiskReading *now, GuestFigures *ret)
{
    double ms = look_time_interval_ms(&before->time, &now->time);

    ret->disk.read = figure_rate(before->read_bytes, now->read_bytes, ms, 1, FIGURE_MOST_BYTES);
    ret->disk.written =
        figure_rate(before->written_bytes, now->written_bytes, ms, 1, FIGURE_MOST_BYTES);
    ret->disk.flushes = figure_rate(before->flushes, now->flushes, ms, 1, FIGURE_MOST_EVENTS);
}

void guest_figures_find(const GuestReading *before, const GuestReading *now, double most_cpus,
                        GuestFigures *ret)
{
    double ms;

    *ret = (GuestFigures){
        .cpu_used = FIGURE_UNKNOWN,
        .vcpu_used = FIGURE_UNKNOWN,
        .cpu_wait = FIGURE_UNKNOWN,
        .major_faults = FIGURE_UNKNOWN,
        .network = {FIGURE_UNKNOWN, FIGURE_UNKNOWN, FIGURE_UNKNOWN, COUNTER_UNKNOWN},
        .disk = {FIGURE_UNKNOWN, FIGURE_UNKNOWN, FIGURE_UNKNOWN},
    };
    find_backlog(now, ret);
    if (!before || now->pid == 0 || before->pid != now->pid ||
        before->start_time != now->start_time)
        return;
    ms = look_time_interval_ms(&before->time, &now->time);
    ret->cpu_used = figure_rate(before->cpu_ns, now->cpu_ns, ms, NS, most_cpus);
    ret->major_faults =
        figure_rate(before->major_faults, now->major_faults, ms, 1, FIGURE_MOST_EVENTS);
    find_vcpus(before, now, ms, most_cpus, ret);
    find_network(before, now, ms, ret);
    find_disk(&before->disk, &now->disk, ret);
}
