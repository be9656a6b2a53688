/* What the engine shows; see engine.h. */
#include <string.h>

#include "base/error.h"
#include "base/lock_guard.h"
#include "engine/engine_private.h"

#define MOVES_SHOWN 200u
#define RING_MINUTES (ENGINE_RING_STEP_S * ENGINE_RING_LENGTH / 60)

static json_t *number_or_null(double value)
{
    return value >= 0 ? json_real(value) : json_null();
}

static json_t *count_or_null(double value)
{
    return value >= 0 ? json_integer((json_int_t)value) : json_null();
}

static json_t *text_or_null(const char *text)
{
    return text ? json_string(text) : json_null();
}

/* ---- the cluster ---- */

static guint count_hot(const Engine *engine)
{
    guint count = 0;

    for (size_t i = 0; i < json_array_size(engine->hot); i++)
        count += json_array_size(json_array_get(engine->hot, i)) > 0;
    return count;
}

static json_t *show_hit_rate(Engine *engine)
{
    guint hits = 0, all = 0;

    engine_store_count_hits(engine->store, &hits, &all, NULL);
    return json_pack("{s:i, s:i, s:o}", "hits", (int)hits, "of", (int)all, "rate",
                     all ? json_real((double)hits / all) : json_null());
}

json_t *engine_show_cluster(Engine *engine)
{
    json_t *hit_rate = show_hit_rate(engine), *object;
    g_autoptr(GPtrArray) open = NULL;
    guint usable = 0;

    lock_guard(&engine->lock);
    open = engine_list_open(engine);
    for (guint i = 0; i < engine->model->hosts->len; i++)
        usable += !((ModelHost *)engine->model->hosts->pdata[i])->problem;
    object = json_pack("{s:s, s:b, s:b, s:f, s:i, s:i, s:i, s:i, s:i, s:f, s:o}", "engine",
                       engine->settings->name, "leader", engine->leader, "automatic",
                       engine->settings->automatic, "since", engine->since_wall, "hosts",
                       (int)engine->model->hosts->len, "usable", (int)usable, "guests",
                       (int)engine->model->guests->len, "hot", (int)count_hot(engine), "moves",
                       (int)open->len, "last_look_ms", engine->thought_ms, "hit_rate", hit_rate);
    json_object_set_new(object, "led_by", text_or_null(engine->led_by));
    json_object_set_new(object, "lease_ms",
                        engine->lease_left_ms > 0 ? json_integer((json_int_t)engine->lease_left_ms)
                                                  : json_null());
    json_object_set_new(object, "store", json_string(engine->settings->etcd ? "etcd" : "sqlite"));
    json_object_set_new(object, "store_problem", text_or_null(engine->broken));
    json_object_set_new(object, "frozen", json_boolean(engine_is_frozen(engine)));
    json_object_set_new(object, "hold", text_or_null(engine_find_hold(engine)));
    return object;
}

/* ---- hosts ---- */

static guint count_guests(const Engine *engine, guint host)
{
    guint count = 0;

    for (guint i = 0; i < engine->model->guests->len; i++)
        count += ((ModelGuest *)engine->model->guests->pdata[i])->host == host;
    return count;
}

static json_t *show_host(const Engine *engine, guint index)
{
    const ModelHost *host = engine->model->hosts->pdata[index];
    const Load *load = host->load;
    json_t *hot = json_array_get(engine->hot, index);
    json_t *object =
        json_pack("{s:s, s:s, s:b, s:s?, s:b, s:i}", "name", host->name, "address", host->address,
                  "usable", !host->problem, "problem", host->problem, "drained", host->drained,
                  "guests", (int)count_guests(engine, index));

    json_object_set_new(object, "stale", json_boolean(host->problem != NULL));
    json_object_set_new(object, "cpus", number_or_null(load ? load->cpus : -1));
    json_object_set_new(object, "cpu_used", number_or_null(load ? load->cpu_used : -1));
    json_object_set_new(object, "cpu_pressure", number_or_null(load ? load->cpu_pressure : -1));
    json_object_set_new(object, "memory_pressure",
                        number_or_null(load ? load->memory_pressure : -1));
    json_object_set_new(object, "memory_bytes", count_or_null(load ? load->memory_bytes : -1));
    json_object_set_new(object, "memory_available_bytes",
                        count_or_null(load ? load->memory_available_bytes : -1));
    json_object_set_new(object, "network_bytes_per_s", count_or_null(load ? load->network : -1));
    json_object_set_new(object, "link_bytes_per_s", count_or_null(load ? load->link_speed : -1));
    json_object_set_new(object, "swap_out_bytes_per_s", count_or_null(load ? load->swap_out : -1));
    json_object_set_new(object, "age_ms",
                        count_or_null(host->seen_ms < 0 ? -1 : engine_now_ms() - host->seen_ms));
    json_object_set_new(object, "notes", text_or_null(load ? load->problems : NULL));
    json_object_set_new(object, "hot", hot ? json_incref(hot) : json_array());
    return object;
}

json_t *engine_show_hosts(Engine *engine)
{
    json_t *list = json_array();

    lock_guard(&engine->lock);
    for (guint i = 0; i < engine->model->hosts->len; i++)
        json_array_append_new(list, show_host(engine, i));
    return json_pack("{s:o}", "hosts", list);
}

/* ---- guests ---- */

static json_t *rules_of(const Engine *engine, const char *name)
{
    json_t *list = json_array();

    for (guint i = 0; i < engine->rules->len; i++) {
        const Rule *rule = engine->rules->pdata[i];

        if (g_strv_contains((const char *const *)rule->guests, name))
            json_array_append_new(list, json_string(rule->id));
    }
    return list;
}

static json_t *show_guest(Engine *engine, const EngineView *view, guint index)
{
    const ClusterGuest *guest = &view->cluster.guests[index];
    const ModelGuest *known = view->guests[index];
    const ModelHost *host = engine->model->hosts->pdata[guest->host];
    double ends_ms = cluster_cool_down_ends_ms(guest, &engine->settings->limits);
    json_t *object = json_pack("{s:s, s:s, s:s?, s:s?, s:i, s:o, s:o}", "name", guest->name, "host",
                               host->name, "id", known->id, "state", known->state, "vcpus",
                               (int)guest->vcpus, "sla", sla_to_json(&guest->sla), "sla_met",
                               host->problem ? json_null() : planner_sla_met(guest));

    json_object_set_new(object, "memory_bytes", count_or_null(guest->memory_bytes));
    json_object_set_new(object, "cpu_used", number_or_null(cluster_series_last(&guest->cpu)));
    json_object_set_new(object, "cpu_wait", number_or_null(cluster_series_last(&guest->cpu_wait)));
    json_object_set_new(object, "network_bytes_per_s",
                        count_or_null(cluster_series_last(&guest->network)));
    json_object_set_new(object, "swapped_bytes",
                        count_or_null(cluster_series_last(&guest->swapped)));
    json_object_set_new(object, "stale", json_boolean(host->problem != NULL));
    json_object_set_new(object, "rules", rules_of(engine, guest->name));
    json_object_set_new(object, "frozen", json_boolean(known->frozen != NULL));
    json_object_set_new(object, "frozen_why", text_or_null(known->frozen));
    json_object_set_new(object, "stuck", text_or_null(known->stuck));
    json_object_set_new(object, "moving", json_boolean(guest->mobility == CLUSTER_IN_MOTION));
    json_object_set_new(object, "cooldown_ms",
                        json_integer((json_int_t)MAX(ends_ms - view->cluster.now_ms, 0)));
    return object;
}

json_t *engine_show_guests(Engine *engine)
{
    json_t *list = json_array();
    g_autoptr(EngineView) view = NULL;

    lock_guard(&engine->lock);
    engine_apply_wishes(engine);
    view = engine_make_view(engine, 0, FALSE);
    for (guint i = 0; i < view->cluster.n_guests; i++)
        json_array_append_new(list, show_guest(engine, view, i));
    return json_pack("{s:o}", "guests", list);
}

/* ---- the plan ---- */

json_t *engine_show_plan(Engine *engine)
{
    lock_guard(&engine->lock);
    if (engine->plan_json)
        return json_incref(engine->plan_json);
    return json_pack("{s:n, s:n, s:[], s:[], s:s}", "made_at", "expires_at", "moves", "hot",
                     "nothing", "nothing is known yet");
}

/* ---- moves ---- */

static json_t *show_record(Engine *engine, const MoveRecord *record)
{
    json_t *object = move_record_to_json(record);
    json_t *progress = move_state_is_open(record->state)
                           ? executor_get_progress(engine->executor, record->id)
                           : NULL;

    if (progress)
        json_object_set_new(object, "progress", progress);
    return object;
}

json_t *engine_show_moves(Engine *engine, GError **error)
{
    g_autoptr(GPtrArray) moves = engine_store_list_moves(engine->store, FALSE, MOVES_SHOWN, error);
    json_t *list;

    if (!moves)
        return NULL;
    list = json_array();
    for (guint i = 0; i < moves->len; i++)
        json_array_append_new(list, show_record(engine, moves->pdata[i]));
    return json_pack("{s:o}", "moves", list);
}

json_t *engine_show_move(Engine *engine, gint64 id, GError **error)
{
    g_autoptr(MoveRecord) record = engine_store_find_move(engine->store, id, error);

    return record ? show_record(engine, record) : NULL;
}

/* ---- the past ---- */

static void add_point(json_t *object, const HistoryPoint *point)
{
    json_array_append_new(json_object_get(object, "time"), json_integer(point->time_s));
    json_array_append_new(json_object_get(object, "cpu"), number_or_null(point->cpu));
    json_array_append_new(json_object_get(object, "memory"), number_or_null(point->memory));
    json_array_append_new(json_object_get(object, "network"), count_or_null(point->network));
    json_array_append_new(json_object_get(object, "pressure"), number_or_null(point->pressure));
}

/* The last hour in short steps, as far as it is known. */
static json_t *show_ring(Engine *engine, guint index, const char *host, gint64 since_s)
{
    const EngineRing *ring = &engine->rings[index];
    json_t *object =
        json_pack("{s:s, s:i, s:[], s:[], s:[], s:[], s:[]}", "host", host, "step_ms",
                  ENGINE_RING_STEP_S * 1000, "time", "cpu", "memory", "network", "pressure");

    for (guint i = 0; i < ring->length; i++) {
        const HistoryPoint *point = &ring->points[(ring->first + i) % ENGINE_RING_LENGTH];

        if (point->time_s >= since_s)
            add_point(object, point);
    }
    return object;
}

json_t *engine_show_history(Engine *engine, const char *host, guint minutes, GError **error)
{
    gint64 since_s = g_get_real_time() / G_USEC_PER_SEC - minutes * INT64_C(60);
    g_autoptr(GArray) points = NULL;
    json_t *object;
    guint index;

    g_mutex_lock(&engine->lock);
    index = model_find_host(engine->model, host);
    object = index != CLUSTER_NONE && minutes <= RING_MINUTES
                 ? show_ring(engine, index, host, since_s)
                 : NULL;
    g_mutex_unlock(&engine->lock);
    if (index == CLUSTER_NONE)
        error_set(error, VMFERRY_ERROR_NOT_FOUND, "there is no host %.64s", host);
    if (index == CLUSTER_NONE || object)
        return object;
    points = engine_store_read_history(engine->store, host, since_s, error);
    if (!points)
        return NULL;
    object = json_pack("{s:s, s:i, s:[], s:[], s:[], s:[], s:[]}", "host", host, "step_ms", 60000,
                       "time", "cpu", "memory", "network", "pressure");
    for (guint i = 0; i < points->len; i++)
        add_point(object, &g_array_index(points, HistoryPoint, i));
    return object;
}

/* ---- what users have said ---- */

json_t *engine_show_rules(Engine *engine)
{
    json_t *list = json_array();

    lock_guard(&engine->lock);
    for (guint i = 0; i < engine->rules->len; i++)
        json_array_append_new(list, rule_to_json(engine->rules->pdata[i]));
    return json_pack("{s:o}", "rules", list);
}

json_t *engine_show_slas(Engine *engine)
{
    json_t *object = json_object();
    GHashTableIter iter;
    gpointer name, sla;

    lock_guard(&engine->lock);
    g_hash_table_iter_init(&iter, engine->slas);
    while (g_hash_table_iter_next(&iter, &name, &sla))
        json_object_set_new(object, name, sla_to_json(sla));
    return json_pack("{s:o}", "slas", object);
}
