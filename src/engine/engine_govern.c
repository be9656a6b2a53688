/* What a move under way may take; see engine.h and policy/cluster_govern.h. */
#include <math.h>
#include <string.h>

#include "base/lock_guard.h"
#include "engine/engine_private.h"

/* Bursts of a sender are shorter. */
#define MEASURE_MS 1000

static gboolean misses_sla(const ClusterGuest *guest)
{
    g_autoptr(json_t) met = planner_sla_met(guest);

    return json_is_false(met);
}

/* Guests on either host that miss what they were promised; with *missed*: and are not in it. */
static guint count_missing(const EngineView *view, guint from, guint to, GHashTable *missed,
                           gboolean add)
{
    guint count = 0;

    for (guint i = 0; i < view->cluster.n_guests; i++) {
        const ClusterGuest *guest = &view->cluster.guests[i];

        if ((guest->host != from && guest->host != to) || !misses_sla(guest) ||
            g_hash_table_contains(missed, guest->name))
            continue;
        count++;
        if (add)
            g_hash_table_add(missed, g_strdup(guest->name));
    }
    return count;
}

static EngineGoverned *find_governed(Engine *engine, const EngineView *view,
                                     const MoveRecord *record, guint from, guint to)
{
    EngineGoverned *governed = g_hash_table_lookup(engine->governed, &record->id);
    json_t *expected = json_object_get(record->forecast, "ms");
    double hot = 0;

    if (governed)
        return governed;
    for (guint i = 0; engine->plan && i < engine->plan->hotspots->len; i++)
        hot += g_array_index(engine->plan->hotspots, ClusterHotspot, i).host == from;
    governed = g_new0(EngineGoverned, 1);
    governed->since_ms = governed->since_bytes = CLUSTER_UNKNOWN;
    governed->missed = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    governed->governor =
        cluster_governor_new(engine_bandwidth(engine, from, to),
                             json_is_number(expected) ? json_number_value(expected) : 60e3,
                             fmax(hot, 1) * 600, view->cluster.now_ms);
    /* It may have begun before this engine. */
    if (record->ordered_ms > 0)
        governed->governor.started_ms -= fmax((double)(engine_wall_ms() - record->ordered_ms), 0);
    count_missing(view, from, to, governed->missed, TRUE);
    g_hash_table_insert(engine->governed, g_memdup2(&record->id, sizeof record->id), governed);
    return governed;
}

static ClusterGovernLink link_of(const EngineView *view, guint host)
{
    const ClusterHost *entry = &view->cluster.hosts[host];

    return (ClusterGovernLink){.link = entry->link_bytes_per_s,
                               .guests = cluster_series_last(&entry->network),
                               .moves = MAX(entry->moves, 1)};
}

double engine_first_rate(Engine *engine, guint from, guint to)
{
    double cap = engine_bandwidth(engine, from, to);
    ClusterGovernLink links[2];
    const guint hosts[2] = {from, to};

    if (cap <= 0)
        return 0;
    for (guint i = 0; i < 2; i++) {
        const ModelHost *host = engine->model->hosts->pdata[hosts[i]];

        links[i] =
            (ClusterGovernLink){.link = host->load ? host->load->link_speed : CLUSTER_UNKNOWN,
                                .guests = model_get_newest_network(host),
                                .moves = 1};
    }
    return cluster_govern_first_rate(cap, &links[0], &links[1]);
}

static double progress_number(json_t *progress, const char *key)
{
    json_t *value = json_object_get(progress, key);

    return json_is_number(value) ? json_number_value(value) : CLUSTER_UNKNOWN;
}

static double left_bytes(json_t *progress)
{
    double all = progress_number(progress, "round_bytes");
    double done = progress_number(progress, "round_bytes_done");

    return all >= 0 && done >= 0 ? fmax(all - done, 0) : CLUSTER_UNKNOWN;
}

/* What it has taken since its rate was made lower, over a second at least.  ("bytes_per_second" is what the link could
 * carry.) */
static double measure(EngineGoverned *governed, json_t *progress)
{
    double ms = progress_number(progress, "elapsed_ms");
    double bytes = progress_number(progress, "wire_bytes");
    double took = ms - governed->since_ms, more = bytes - governed->since_bytes;
    gboolean begun = governed->since_ms >= 0 && took >= 0 && more >= 0;

    if (ms < 0 || bytes < 0 || (begun && took < MEASURE_MS))
        return CLUSTER_UNKNOWN;
    governed->since_ms = ms;
    governed->since_bytes = bytes;
    return begun ? more / took * 1000 : CLUSTER_UNKNOWN;
}

/* What a person wants is needed as long as they want it.  A host that its moves fill, too, is not relieved: they take CPUs
 * from its guests, which then seem to need less.  An engine that has just started does not know yet whether the source is
 * hot, and a move that goes on meanwhile was worth it to the one before. */
static gboolean is_needed(const Engine *engine, const MoveRecord *record, guint from)
{
    const ModelHost *source = engine->model->hosts->pdata[from];
    const Load *load = source->load;
    const ClusterThresholds *thresholds = &engine->settings->thresholds;

    return record->by != MOVE_BY_ENGINE || !engine->plan || source->cpu.length < thresholds->n ||
           planner_is_hot(engine->plan, from) ||
           (load && load->cpu_used > load->cpus * thresholds->cpu);
}

static gboolean can_stop(json_t *progress)
{
    static const char *const early[] = {"connect", "disks", "precopy", "store", NULL};

    return g_strv_contains(early, json_text_or(progress, "phase", "connect"));
}

void engine_govern_move(const MoveRecord *record, json_t *progress, ExecutorWord *word,
                        gpointer user)
{
    Engine *engine = user;
    g_autoptr(EngineView) view = NULL;
    EngineGoverned *governed;
    ClusterGovernInput input;
    ClusterGovernOutput output;
    double before;
    guint from, to;

    lock_guard(&engine->lock);
    from = model_find_host(engine->model, record->from);
    to = model_find_host(engine->model, record->to);
    if (from == CLUSTER_NONE || to == CLUSTER_NONE)
        return;
    view = engine_make_view(engine, 0, FALSE);
    engine_view_add_looks(view, engine->model);
    governed = find_governed(engine, view, record, from, to);
    input = (ClusterGovernInput){.now_ms = view->cluster.now_ms,
                                 .source = link_of(view, from),
                                 .destination = link_of(view, to),
                                 .measured = measure(governed, progress),
                                 .hurt = count_missing(view, from, to, governed->missed, FALSE),
                                 .left_bytes = left_bytes(progress),
                                 .still_needed = is_needed(engine, record, from),
                                 .can_stop = can_stop(progress)};
    before = governed->governor.rate;
    output = cluster_govern(&governed->governor, &input);
    if (governed->governor.rate < before)
        governed->since_ms = CLUSTER_UNKNOWN;
    word->rate = output.rate;
    word->why = output.why;
    word->cancel = output.verdict == CLUSTER_GOVERN_CALL_OFF && record->by == MOVE_BY_ENGINE;
}
