#include "sim/cluster_demand.h"

#include <math.h>
#include <string.h>

#define GIB 1073741824.0
#define HOUR_MS 3600000.0
#define MINUTE_MS 60000.0
/* From step to step; of what is new so much that it varies as if a fifth of it came each 10 s. */
#define NOISE_KEPT 0.894
#define NOISE_NEW 0.149
#define SPIKE_MS 10000.0
#define SPIKE_REST_MS 60000.0
#define BURST_SHARE 0.95

static const struct {
    const char *name;
    double hours;
} traces[CLUSTER_TRACES] = {
    [CLUSTER_TRACE_DIURNAL] = {"diurnal", 48},  [CLUSTER_TRACE_BURSTS] = {"bursts", 12},
    [CLUSTER_TRACE_FLAPPING] = {"flapping", 6}, [CLUSTER_TRACE_HOT_GUEST] = {"hot-guest", 3},
    [CLUSTER_TRACE_LEAK] = {"leak", 12},        [CLUSTER_TRACE_OSCILLATION] = {"oscillation", 72},
    [CLUSTER_TRACE_LOSS] = {"loss", 4},         [CLUSTER_TRACE_SPIKES] = {"spikes", 6},
    [CLUSTER_TRACE_IDLE] = {"idle", 6},
};

const char *cluster_trace_name(ClusterTraceKind kind)
{
    return kind < CLUSTER_TRACES ? traces[kind].name : "recorded";
}

gboolean cluster_trace_from_name(const char *name, ClusterTraceKind *ret)
{
    for (guint kind = 0; kind < CLUSTER_TRACES; kind++)
        if (strcmp(traces[kind].name, name) == 0) {
            *ret = (ClusterTraceKind)kind;
            return TRUE;
        }
    return FALSE;
}

double cluster_demand_hours(ClusterTraceKind kind)
{
    return kind < CLUSTER_TRACES ? traces[kind].hours : 0;
}

static void draw_size(ClusterDemandGuest *guest, GRand *rand)
{
    static const guint vcpus[] = {1, 2, 2, 2, 4, 4, 4, 8};
    double draw = g_rand_double(rand);

    guest->vcpus = vcpus[g_rand_int_range(rand, 0, G_N_ELEMENTS(vcpus))];
    guest->memory_bytes = guest->vcpus * (draw < 0.5 ? 1 : draw < 0.9 ? 2 : 4) * GIB;
    guest->base_memory = g_rand_double_range(rand, 0.4, 0.8);
    guest->base_network = exp(g_rand_double_range(rand, log(1e5), log(3e7)));
}

void cluster_demand_init(ClusterDemandGuest *guest, ClusterTraceKind kind, guint index, GRand *rand)
{
    double draw, base;

    *guest = (ClusterDemandGuest){0};
    draw_size(guest, rand);
    draw = g_rand_double(rand);
    base = g_rand_double_range(rand, 0.1, 0.6);
    guest->base_cpu = base;
    guest->phase_h = draw < 0.75 ? 14 + 4 * (draw - 0.4) : 24 * draw;
    guest->busy_ms = g_rand_double_range(rand, 4, 25) * MINUTE_MS;
    switch (kind) {
    case CLUSTER_TRACE_DIURNAL:
        guest->amplitude = g_rand_double_range(rand, 0.3, 0.9);
        guest->base_cpu = base * 0.8;
        break;
    case CLUSTER_TRACE_BURSTS:
        guest->busy_rate = 0.15;
        guest->base_cpu = base * 0.7;
        break;
    case CLUSTER_TRACE_FLAPPING:
        guest->special = draw < 0.3;
        break;
    case CLUSTER_TRACE_HOT_GUEST:
        guest->special = index % 400 == 7;
        break;
    case CLUSTER_TRACE_LEAK:
        guest->special = draw < 0.3;
        guest->leak_per_h = guest->special ? g_rand_double_range(rand, 0.05, 0.15) : 0;
        guest->base_memory = guest->special ? 0.3 : g_rand_double_range(rand, 0.4, 0.6);
        guest->memory_bytes *= 1.5;
        guest->base_cpu = base * 0.6;
        break;
    case CLUSTER_TRACE_OSCILLATION:
        guest->amplitude = 1;
        guest->phase_h = draw < 0.5 ? 0 : 12;
        break;
    case CLUSTER_TRACE_LOSS:
        guest->base_cpu = base * 1.1;
        break;
    case CLUSTER_TRACE_SPIKES:
        guest->base_cpu = base * 0.5;
        break;
    case CLUSTER_TRACE_IDLE:
        guest->base_cpu = index % 20 == 0 ? 0.2 : base * 0.1;
        break;
    case CLUSTER_TRACE_RECORDED:
        break;
    }
}

/* Single ones: a guest that had one rests.  Many at once, so that hosts have spikes, too. */
static gboolean has_spike(ClusterDemandGuest *guest, double now_ms, double draw)
{
    double most = fmod(now_ms, 17 * MINUTE_MS) < SPIKE_MS ? 0.7 : 0.004;

    if (fmod(now_ms, SPIKE_MS) >= CLUSTER_STEP_MS)
        return guest->special;
    guest->special = now_ms >= guest->rests_until_ms && draw < most;
    if (guest->special)
        guest->rests_until_ms = now_ms + SPIKE_REST_MS;
    return guest->special;
}

/* What the trace makes of the guest's usual share. */
static double shape(ClusterDemandGuest *guest, ClusterTraceKind kind, double now_ms, double draw)
{
    double hours = now_ms / HOUR_MS, base = guest->base_cpu;

    switch (kind) {
    case CLUSTER_TRACE_DIURNAL:
        return base * (1 + guest->amplitude * cos(2 * M_PI * (hours - guest->phase_h) / 24));
    case CLUSTER_TRACE_OSCILLATION:
        return fmod(hours + guest->phase_h, 24) < 12 ? base * 1.7 : base * 0.3;
    case CLUSTER_TRACE_BURSTS:
        if (now_ms >= guest->busy_until_ms && draw < guest->busy_rate * CLUSTER_STEP_MS / HOUR_MS)
            guest->busy_until_ms = now_ms + guest->busy_ms;
        return now_ms < guest->busy_until_ms ? BURST_SHARE : base;
    case CLUSTER_TRACE_FLAPPING:
        return guest->special &&
                       fmod(now_ms + guest->phase_h * MINUTE_MS, 2 * MINUTE_MS) < MINUTE_MS
                   ? BURST_SHARE
                   : base;
    case CLUSTER_TRACE_HOT_GUEST:
        return guest->special && now_ms > 10 * MINUTE_MS ? 1 : base;
    case CLUSTER_TRACE_SPIKES:
        return has_spike(guest, now_ms, draw) ? 1 : base;
    case CLUSTER_TRACE_LEAK:
    case CLUSTER_TRACE_LOSS:
    case CLUSTER_TRACE_IDLE:
    case CLUSTER_TRACE_RECORDED:
        break;
    }
    return base;
}

ClusterDemand cluster_demand_next(ClusterDemandGuest *guest, ClusterTraceKind kind, double now_ms,
                                  GRand *rand)
{
    double draw = g_rand_double(rand), share;
    double memory = guest->base_memory + guest->leak_per_h * now_ms / HOUR_MS;

    guest->noise = NOISE_KEPT * guest->noise + NOISE_NEW * g_rand_double_range(rand, -1, 1);
    share = shape(guest, kind, now_ms, draw) * (1 + 0.3 * guest->noise);
    return (ClusterDemand){.cpu = CLAMP(share, 0.005, 1) * guest->vcpus,
                           .network = guest->base_network * (1 + 0.5 * guest->noise),
                           .memory = MIN(memory, 1) * guest->memory_bytes};
}
