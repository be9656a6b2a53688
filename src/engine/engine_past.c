/* Figures of hosts as time goes by: of the last hour, and by the minute in the store; see engine.h. */
#include "engine/engine_private.h"

static double share(double part, double whole)
{
    return part >= 0 && whole > 0 ? part / whole : CLUSTER_UNKNOWN;
}

static void read_figures(const ModelHost *host, double *figures)
{
    const Load *load = host->load;

    figures[0] = share(cluster_series_last(&host->cpu), load->cpus);
    figures[1] = load->memory_available_bytes < 0
                     ? CLUSTER_UNKNOWN
                     : share(load->memory_bytes - load->memory_available_bytes, load->memory_bytes);
    figures[2] = load->network;
    figures[3] = load->cpu_pressure;
}

static HistoryPoint mean_of(const EngineMinute *minute)
{
    double mean[4];

    for (guint i = 0; i < 4; i++)
        mean[i] = minute->count[i] ? minute->sum[i] / minute->count[i] : CLUSTER_UNKNOWN;
    return (HistoryPoint){.time_s = minute->minute * 60,
                          .cpu = mean[0],
                          .memory = mean[1],
                          .network = mean[2],
                          .pressure = mean[3]};
}

static void add_to_ring(EngineRing *ring, gint64 now_s, const double *figures)
{
    HistoryPoint point = {.time_s = now_s,
                          .cpu = figures[0],
                          .memory = figures[1],
                          .network = figures[2],
                          .pressure = figures[3]};

    if (ring->length > 0 &&
        now_s - ring->points[(ring->first + ring->length - 1) % ENGINE_RING_LENGTH].time_s <
            ENGINE_RING_STEP_S)
        return;
    ring->points[(ring->first + ring->length) % ENGINE_RING_LENGTH] = point;
    if (ring->length < ENGINE_RING_LENGTH)
        ring->length++;
    else
        ring->first = (ring->first + 1) % ENGINE_RING_LENGTH;
}

void engine_note_history(Engine *engine, guint index)
{
    const ModelHost *host = engine->model->hosts->pdata[index];
    EngineMinute *minute = &engine->minutes[index];
    gint64 now_s = engine_wall_ms() / 1000;
    double figures[4];

    if (minute->minute != now_s / 60) {
        HistoryPoint point = mean_of(minute);

        if (minute->minute > 0)
            engine_store_add_history(engine->store, host->name, &point, NULL);
        *minute = (EngineMinute){.minute = now_s / 60};
    }
    if (host->problem || !host->load)
        return;
    read_figures(host, figures);
    for (guint i = 0; i < 4; i++) {
        if (figures[i] < 0)
            continue;
        minute->sum[i] += figures[i];
        minute->count[i]++;
    }
    add_to_ring(&engine->rings[index], now_s, figures);
}
