/* What users want of the engine; see engine.h. */
#include <string.h>

#include "base/error.h"
#include "base/lock_guard.h"
#include "base/name.h"
#include "engine/engine_private.h"

static gboolean find_host(Engine *engine, const char *name, guint *ret, GError **error)
{
    *ret = model_find_host(engine->model, name);
    if (*ret != CLUSTER_NONE)
        return TRUE;
    error_set(error, VMFERRY_ERROR_NOT_FOUND, "there is no host %.64s", name);
    return FALSE;
}

/* ---- drain ---- */

/* Everything that leaves, and first what cannot. */
static json_t *plan_drain(Engine *engine, guint host)
{
    ClusterLimits limits = engine_limits(engine, MOVE_BY_DRAIN);
    g_autoptr(EngineView) view = NULL;
    g_autoptr(ClusterDrain) drain = NULL;

    engine_apply_wishes(engine);
    model_check(engine->model, engine_now_ms());
    view = engine_make_view(engine, 0, FALSE);
    /* It is asked what would be, also while nothing may be begun. */
    limits.frozen = FALSE;
    drain = cluster_drain_plan(&view->cluster, &engine->settings->thresholds, &limits, host);
    return planner_drain_to_json(view, drain, host);
}

json_t *engine_drain(Engine *engine, const char *name, gboolean dry_run, GError **error)
{
    json_t *answer;
    guint host;

    lock_guard(&engine->lock);
    if (!find_host(engine, name, &host, error) ||
        (!dry_run && !engine_store_set_drained(engine->store, name, TRUE, error)))
        return NULL;
    if (!dry_run && !g_hash_table_contains(engine->drained, name)) {
        g_hash_table_insert(engine->drained, g_strdup(name), g_strdup(name));
        event_log_add(engine->events, NULL, "drain", NULL, "host %s is drained", name);
    }
    answer = plan_drain(engine, host);
    json_object_set_new(answer, "host", json_string(name));
    json_object_set_new(answer, "dry_run", json_boolean(dry_run));
    json_object_set_new(answer, "problem",
                        ((ModelHost *)engine->model->hosts->pdata[host])->problem
                            ? json_string(((ModelHost *)engine->model->hosts->pdata[host])->problem)
                            : json_null());
    return answer;
}

json_t *engine_undrain(Engine *engine, const char *name, GError **error)
{
    guint host;

    lock_guard(&engine->lock);
    if (!find_host(engine, name, &host, error) ||
        !engine_store_set_drained(engine->store, name, FALSE, error))
        return NULL;
    g_hash_table_remove(engine->drained, name);
    engine_apply_wishes(engine);
    event_log_add(engine->events, NULL, "undrain", NULL, "host %s takes guests again", name);
    return json_pack("{s:s, s:b}", "host", name, "drained", FALSE);
}

/* ---- freezing ---- */

static json_t *set_frozen(Engine *engine, const char *guest, const char *reason, GError **error)
{
    const char *key = guest ? guest : "";

    if (guest && !guest_name_check(guest, error))
        return NULL;
    lock_guard(&engine->lock);
    if (!engine_store_set_frozen(engine->store, key, reason, error))
        return NULL;
    if (reason)
        g_hash_table_insert(engine->frozen, g_strdup(key), g_strdup(reason));
    else
        g_hash_table_remove(engine->frozen, key);
    engine_apply_wishes(engine);
    event_log_add(engine->events, guest, reason ? "freeze" : "thaw", NULL, "%s %s",
                  guest ? guest : "the engine", reason ? "is frozen" : "is not frozen any more");
    return json_pack("{s:s?, s:b}", "guest", guest, "frozen", reason != NULL);
}

json_t *engine_freeze(Engine *engine, const char *guest, GError **error)
{
    return set_frozen(engine, guest, "a user has frozen it", error);
}

json_t *engine_thaw(Engine *engine, const char *guest, GError **error)
{
    return set_frozen(engine, guest, NULL, error);
}

/* ---- moves by users ---- */

static guint find_in_view(const EngineView *view, const ModelGuest *guest)
{
    for (guint i = 0; i < view->cluster.n_guests; i++)
        if (view->guests[i] == guest)
            return i;
    return CLUSTER_NONE;
}

/* What is wrong with the host that *why* is about; NULL: it is about none, or nothing is.  Borrowed. */
static const char *find_problem(const Engine *engine, ClusterWhy why, guint from, guint to)
{
    const ModelHost *host = NULL;

    if (why == CLUSTER_WHY_SOURCE_UNUSABLE)
        host = engine->model->hosts->pdata[from];
    else if (why == CLUSTER_WHY_DESTINATION_UNUSABLE)
        host = engine->model->hosts->pdata[to];
    return host ? host->problem : NULL;
}

/* What cannot work is refused before anything is written down. */
static MoveRecord *make_user_move(Engine *engine, const char *name, const char *to, GError **error)
{
    const ModelGuest *guest = model_find_guest(engine->model, name);
    ClusterLimits limits = engine_limits(engine, MOVE_BY_USER);
    g_autoptr(EngineView) view = NULL;
    g_autofree char *text = NULL;
    guint host, index, rule = CLUSTER_NONE;
    const char *problem;
    MoveRecord *record;
    ClusterCost price;
    ClusterWhy why;

    if (!find_host(engine, to, &host, error))
        return NULL;
    if (!guest) {
        error_set(error, VMFERRY_ERROR_NOT_FOUND, "there is no guest %.64s on any host", name);
        return NULL;
    }
    model_check(engine->model, engine_now_ms());
    view = engine_make_view(engine, 0, TRUE);
    index = find_in_view(view, guest);
    why = cluster_move_check(&view->cluster, &limits, index, host, &rule);
    if (why != CLUSTER_WHY_NOTHING) {
        problem = find_problem(engine, why, guest->host, host);
        text = planner_describe_why(view, index, host, why, rule);
        error_set(error, VMFERRY_ERROR_REFUSED, "guest %s does not go to %s: %s%s%s", name, to,
                  text, problem ? "; " : "", problem ? problem : "");
        return NULL;
    }
    price = cluster_move_price(&view->cluster, index, host);
    record = engine_make_record(engine, guest, host, MOVE_BY_USER);
    record->forecast = planner_cost_to_json(&price);
    record->explanation = json_pack("{s:s}", "text", "a user has ordered it");
    return record;
}

/* One plan at a time: moves are for the engine that leads. */
static gboolean check_leads(const Engine *engine, GError **error)
{
    if (!engine->standing)
        return TRUE;
    error_set(error, VMFERRY_ERROR_BUSY,
              "this engine does not lead (%s); moves are ordered of the one that does",
              engine->standing);
    return FALSE;
}

json_t *engine_order_move(Engine *engine, const char *guest, const char *to, GError **error)
{
    MoveRecord *record;
    double bandwidth = 0;
    gint64 id = 0;

    g_mutex_lock(&engine->lock);
    record = check_leads(engine, error) ? make_user_move(engine, guest, to, error) : NULL;
    if (record)
        bandwidth = engine_first_rate(engine, model_find_host(engine->model, record->from),
                                      model_find_host(engine->model, record->to));
    g_mutex_unlock(&engine->lock);
    if (!record || !executor_begin(engine->executor, record, bandwidth, &id, error))
        return NULL;
    return json_pack("{s:I, s:s, s:s}", "id", (json_int_t)id, "guest", guest, "to", to);
}

json_t *engine_cancel_move(Engine *engine, gint64 id, GError **error)
{
    gboolean leads;

    g_mutex_lock(&engine->lock);
    /* What it follows it can call off, whether or not its store answers. */
    leads = engine->lead_term != 0 || check_leads(engine, error);
    g_mutex_unlock(&engine->lock);
    if (!leads || !executor_cancel(engine->executor, id, error))
        return NULL;
    return json_pack("{s:I, s:s}", "id", (json_int_t)id, "state", "cancelling");
}

/* ---- rules and promises ---- */

static char **list_hosts(const Engine *engine)
{
    GPtrArray *names = g_ptr_array_new();

    for (guint i = 0; i < engine->model->hosts->len; i++)
        g_ptr_array_add(names, g_strdup(((ModelHost *)engine->model->hosts->pdata[i])->name));
    g_ptr_array_add(names, NULL);
    return (char **)g_ptr_array_free(names, FALSE);
}

json_t *engine_add_rule(Engine *engine, json_t *object, GError **error)
{
    g_autoptr(Rule) rule = rule_from_json(object, error);
    g_auto(GStrv) hosts = NULL;
    json_t *answer;

    if (!rule)
        return NULL;
    lock_guard(&engine->lock);
    hosts = list_hosts(engine);
    if (engine->rules->len >= RULES_MAX) {
        error_set(error, VMFERRY_ERROR_REFUSED, "there are %u rules, as many as there may be",
                  RULES_MAX);
        return NULL;
    }
    g_clear_pointer(&rule->id, g_free);
    if (!rules_agree(engine->rules, rule, (const char *const *)hosts, error) ||
        !engine_store_add_rule(engine->store, rule, error))
        return NULL;
    answer = rule_to_json(rule);
    g_ptr_array_add(engine->rules, g_steal_pointer(&rule));
    return answer;
}

json_t *engine_remove_rule(Engine *engine, const char *id, GError **error)
{
    lock_guard(&engine->lock);

    if (!engine_store_remove_rule(engine->store, id, error))
        return NULL;
    for (guint i = engine->rules->len; i-- > 0;)
        if (g_strcmp0(((Rule *)engine->rules->pdata[i])->id, id) == 0)
            g_ptr_array_remove_index(engine->rules, i);
    return json_pack("{s:s}", "removed", id);
}

json_t *engine_set_sla(Engine *engine, const char *guest, json_t *object, GError **error)
{
    ClusterSla sla = {0};

    if (!guest_name_check(guest, error) || !sla_from_json(object, &sla, error))
        return NULL;
    lock_guard(&engine->lock);
    if (!engine_store_set_sla(engine->store, guest, &sla, error))
        return NULL;
    g_hash_table_insert(engine->slas, g_strdup(guest), g_memdup2(&sla, sizeof sla));
    return json_pack("{s:s, s:o}", "guest", guest, "sla", sla_to_json(&sla));
}
