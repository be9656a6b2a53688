#include "engine/engine.h"

#include <sys/stat.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/lock_guard.h"
#include "base/log.h"
#include "base/thread.h"
#include "client/client.h"
#include "engine/agent_link.h"
#include "engine/engine_private.h"
#include "vmferry-config.h"

#define THINK_MS 1000u
#define ESTIMATORS 2

double engine_now_ms(void)
{
    static gsize known;
    static double began; /* when CLOCK_BOOTTIME was 0 */

    if (g_once_init_enter(&known)) {
        began = (double)engine_wall_ms() - clock_ns_to_ms(clock_boot_ns());
        g_once_init_leave(&known, 1);
    }
    return began + clock_ns_to_ms(clock_boot_ns());
}

gint64 engine_wall_ms(void)
{
    return g_get_real_time() / 1000;
}

/* ---- what the poller has seen ---- */

static void note_status(ModelHost *host, json_t *status)
{
    const char *listening = json_text_or(status, "listening", NULL);

    /* A wildcard address is no place to move to; then its name is, as its users know it. */
    if (!listening || g_str_has_prefix(listening, "0.0.0.0:") ||
        g_str_has_prefix(listening, "[::]:"))
        return;
    if (!host->moves_to)
        host->moves_to = g_strdup(listening);
}

static void on_look(guint index, PollerLook *look, gpointer user)
{
    Engine *engine = user;

    lock_guard(&engine->lock);
    if (look->status)
        note_status(engine->model->hosts->pdata[index], look->status);
    model_take_look(engine->model, index, look->load, look->guests, engine_now_ms(),
                    (double)g_get_real_time() / 1e6);
    look->load = NULL;
}

static void on_failure(guint index, const GError *error, gpointer user)
{
    Engine *engine = user;

    lock_guard(&engine->lock);
    model_take_failure(engine->model, index, error->message);
}

/* ---- the thread that thinks ---- */

static gboolean wait_for_next(Engine *engine)
{
    gint64 until = g_get_monotonic_time() +
                   MIN(THINK_MS, engine->settings->interval_ms) * (gint64)G_TIME_SPAN_MILLISECOND;

    lock_guard(&engine->lock);
    while (!engine->stopping)
        if (!g_cond_wait_until(&engine->wake, &engine->lock, until))
            break;
    return !engine->stopping;
}

static gpointer think(gpointer user)
{
    Engine *engine = user;

    while (wait_for_next(engine))
        engine_think(engine);
    return NULL;
}

/* ---- what a move would cost, asked of the source's agent ---- */

typedef struct {
    char *id, *name, *address, *destination;
    double bandwidth;
} EstimateJob;

static void estimate_job_free(EstimateJob *job)
{
    g_free(job->id);
    g_free(job->name);
    g_free(job->address);
    g_free(job->destination);
    g_free(job);
}

static double known(json_t *object, const char *key)
{
    json_t *value = json_object_get(object, key);

    return json_is_number(value) && json_number_value(value) >= 0 ? json_number_value(value)
                                                                  : CLUSTER_UNKNOWN;
}

static json_t *make_question(const EstimateJob *job)
{
    json_t *body = json_object();

    if (job->destination)
        json_object_set_new(body, "destination", json_string(job->destination));
    if (job->bandwidth > 0)
        json_object_set_new(body, "bandwidth", json_integer((json_int_t)job->bandwidth));
    return body;
}

static void estimate(gpointer data, gpointer user)
{
    EstimateJob *job = data;
    Engine *engine = user;
    g_autofree char *path = g_strdup_printf("/v1/guests/%s/estimate", job->name);
    g_autoptr(GError) error = NULL;
    g_autoptr(Client) client =
        agent_link_open(job->address, engine->settings->pki_dir, engine->stop, &error);
    g_autoptr(json_t) answer = NULL;
    EngineEstimate *entry;

    if (client)
        answer = client_call(client, "POST", path, make_question(job), &error);
    if (error)
        log_debug("guest %s: what its move would cost: %s", job->name, error->message);
    g_mutex_lock(&engine->lock);
    entry = g_hash_table_lookup(engine->estimates, job->id);
    if (entry) {
        entry->pending = FALSE;
        entry->ms = known(answer, "ms");
        entry->bytes = known(answer, "bytes");
        entry->pause_ms = known(answer, "pause_ms");
    }
    g_mutex_unlock(&engine->lock);
    estimate_job_free(job);
}

void engine_ask_estimate(Engine *engine, const ModelGuest *guest, guint to)
{
    const ModelHost *host = engine->model->hosts->pdata[guest->host];
    EngineEstimate *entry = g_hash_table_lookup(engine->estimates, guest->id);
    EstimateJob *job;

    if (entry && entry->pending)
        return;
    entry = g_new0(EngineEstimate, 1);
    *entry = (EngineEstimate){.ms = CLUSTER_UNKNOWN,
                              .bytes = CLUSTER_UNKNOWN,
                              .pause_ms = CLUSTER_UNKNOWN,
                              .asked_ms = engine_now_ms(),
                              .pending = TRUE};
    g_hash_table_replace(engine->estimates, g_strdup(guest->id), entry);
    job = g_new0(EstimateJob, 1);
    job->id = g_strdup(guest->id);
    job->name = g_strdup(guest->name);
    job->address = g_strdup(host->address);
    job->destination = g_strdup(((ModelHost *)engine->model->hosts->pdata[to])->moves_to);
    job->bandwidth = engine_bandwidth(engine, guest->host, to);
    g_thread_pool_push(engine->estimators, job, NULL);
}

/* ---- life ---- */

static EngineStore *open_store(const EngineSettings *settings, GError **error)
{
    EngineStore *store = engine_store_open(settings->store, error);
    const StoreEtcdOptions options = {.address = settings->etcd,
                                      .prefix = settings->etcd_prefix,
                                      .name = settings->name,
                                      .lease_ms = (guint)settings->etcd_lease_ms};

    return store && settings->etcd ? engine_store_open_etcd(&options, store, error) : store;
}

static EventLog *open_events(const EngineSettings *settings)
{
    g_autofree char *directory = g_strconcat(settings->store, ".events", NULL);

    mkdir(directory, 0755);
    return event_log_open(directory);
}

static gboolean start_poller(Engine *engine, GError **error)
{
    const GPtrArray *hosts = engine->settings->hosts;
    g_autoptr(GPtrArray) addresses = g_ptr_array_new();
    PollerHandlers handlers = {.on_look = on_look, .on_failure = on_failure, .user = engine};

    for (guint i = 0; i < hosts->len; i++) {
        const EngineHostSetting *host = hosts->pdata[i];

        model_add_host(engine->model, host->name, host->address, host->moves);
        g_ptr_array_add(addresses, host->address);
    }
    g_ptr_array_add(addresses, NULL);
    engine_apply_wishes(engine);
    engine->minutes = g_new0(EngineMinute, hosts->len + 1);
    engine->rings = g_new0(EngineRing, hosts->len + 1);
    engine->poller = poller_new((const char *const *)addresses->pdata, engine->settings->pki_dir,
                                engine->settings->interval_ms, engine->stop, &handlers, error);
    return engine->poller != NULL;
}

static void closed_free(gpointer data)
{
    g_array_unref(data);
}

void engine_pending_free(gpointer data)
{
    EnginePending *pending = data;

    while (pending) {
        EnginePending *next = pending->next;

        move_record_free(pending->record);
        g_free(pending);
        pending = next;
    }
}

static void governed_free(gpointer data)
{
    EngineGoverned *governed = data;

    g_hash_table_unref(governed->missed);
    g_free(governed);
}

static Engine *allocate(const EngineSettings *settings)
{
    Engine *engine = g_new0(Engine, 1);

    engine->settings = settings;
    engine->stop = g_cancellable_new();
    engine->since_wall = (double)g_get_real_time() / 1e6;
    g_mutex_init(&engine->lock);
    g_cond_init(&engine->wake);
    engine->model = model_new(VMFERRY_VERSION);
    engine->model->reading_ms = engine->settings->reading_ms;
    engine->recent = g_ptr_array_new_with_free_func((GDestroyNotify)move_record_free);
    engine->estimates = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    engine->closed = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, closed_free);
    engine->governed = g_hash_table_new_full(g_int64_hash, g_int64_equal, g_free, governed_free);
    engine->pending = g_ptr_array_new_with_free_func(engine_pending_free);
    engine->estimators = g_thread_pool_new(estimate, engine, ESTIMATORS, FALSE, NULL);
    return engine;
}

Engine *engine_new(const EngineSettings *settings, GError **error)
{
    g_autoptr(Engine) engine = allocate(settings);
    ExecutorHooks hooks = {.find_host = engine_find_host,
                           .check = engine_check_move,
                           .govern = engine_govern_move,
                           .on_change = engine_note_move,
                           .user = engine};

    client_prepare();
    engine->store = open_store(settings, error);
    if (!engine->store || !engine_reload(engine, error) || !engine_read_daily(engine, error))
        return NULL;
    engine->events = open_events(settings);
    engine->executor = executor_new(engine->store, settings->pki_dir, engine->stop, &hooks);
    if (!start_poller(engine, error) || !engine_follow_store(engine, error))
        return NULL;
    engine->thinker = thread_start("think", think, engine, error);
    return engine->thinker ? g_steal_pointer(&engine) : NULL;
}

static void stop_threads(Engine *engine)
{
    g_mutex_lock(&engine->lock);
    engine->stopping = TRUE;
    g_cond_broadcast(&engine->wake);
    g_mutex_unlock(&engine->lock);
    g_cancellable_cancel(engine->stop);
    if (engine->thinker)
        g_thread_join(engine->thinker);
    g_thread_pool_free(engine->estimators, FALSE, TRUE);
    poller_free(engine->poller);
    executor_free(engine->executor);
}

void engine_free(Engine *engine)
{
    if (!engine)
        return;
    stop_threads(engine);
    if (engine->thinker)
        engine_keep_daily(engine, TRUE);
    engine_plan_free(engine->plan);
    json_decref(engine->plan_json);
    json_decref(engine->hot);
    g_clear_pointer(&engine->rules, g_ptr_array_unref);
    g_clear_pointer(&engine->slas, g_hash_table_unref);
    g_clear_pointer(&engine->frozen, g_hash_table_unref);
    g_clear_pointer(&engine->drained, g_hash_table_unref);
    g_ptr_array_unref(engine->recent);
    g_ptr_array_unref(engine->pending);
    g_hash_table_unref(engine->estimates);
    g_hash_table_unref(engine->closed);
    g_hash_table_unref(engine->governed);
    model_free(engine->model);
    g_object_unref(engine->stop);
    engine_store_close(engine->store);
    g_clear_pointer(&engine->events, event_log_close);
    g_mutex_clear(&engine->lock);
    g_cond_clear(&engine->wake);
    g_free(engine->minutes);
    g_free(engine->rings);
    g_free(engine->broken);
    g_free(engine->standing);
    g_free(engine->led_by);
    g_free(engine);
}

EventLog *engine_get_events(Engine *engine)
{
    return engine->events;
}
