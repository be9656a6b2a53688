/* Figures of hosts as time goes by: of the last hour, and by the minute in the store; and what guests needed at which
 * hour of the day; see engine.h. */
#include "base/lock_guard.h"
#include "base/log.h"
#include "engine/engine_private.h"

#define HOUR_MS 3600e3
#define KEPT_MS (ENGINE_STORE_KEPT_DAYS * 24 * HOUR_MS)

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

/* ---- what was at this time of the day ---- */

gboolean engine_read_daily(Engine *engine, GError **error)
{
    g_autoptr(GHashTable) daily = engine_store_read_daily(engine->store, error);
    GHashTableIter at;
    gpointer id, figures;

    if (!daily)
        return FALSE;
    g_hash_table_iter_init(&at, daily);
    while (g_hash_table_iter_next(&at, &id, &figures))
        model_remember(engine->model, id, figures);
    engine->kept_ms = engine_now_ms();
    return TRUE;
}

/* NULL: it is not time yet. */
static GHashTable *list_daily(Engine *engine, gboolean at_once)
{
    lock_guard(&engine->lock);
    double now_ms = engine_now_ms();

    if (!at_once && now_ms - engine->kept_ms < HOUR_MS)
        return NULL;
    engine->kept_ms = now_ms;
    model_forget(engine->model, now_ms - KEPT_MS);
    return model_list_daily(engine->model);
}

void engine_keep_daily(Engine *engine, gboolean at_once)
{
    g_autoptr(GHashTable) daily = list_daily(engine, at_once);
    g_autoptr(GError) error = NULL;

    if (daily && !engine_store_write_daily(engine->store, daily, &error))
        log_warning("what guests needed at which hour of the day is not kept: %s", error->message);
}
