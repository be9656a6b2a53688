#include "engine/store_private.h"

#include "base/error.h"

void engine_store_close(EngineStore *store)
{
    if (store)
        store->ops->close(store);
}

gboolean engine_store_refresh(EngineStore *store, gboolean *ret_changed, GError **error)
{
    return store->ops->refresh(store, ret_changed, error);
}

/* ---- who leads ---- */

void engine_store_get_leadership(EngineStore *store, StoreLeadership *ret)
{
    store->ops->get_leadership(store, ret);
}

void store_leadership_clear(StoreLeadership *leadership)
{
    g_free(leadership->name);
    g_free(leadership->problem);
    *leadership = (StoreLeadership){0};
}

char *store_leadership_describe(const StoreLeadership *leadership)
{
    if (leadership->problem)
        return g_strdup_printf("it is not known which engine leads: %s", leadership->problem);
    if (leadership->term > 0 && !leadership->is_held)
        return g_strdup("the lease by which this engine leads has run out");
    if (leadership->name)
        return g_strdup_printf("engine %s leads", leadership->name);
    return g_strdup("no engine leads at the moment");
}

gboolean engine_store_check_term(EngineStore *store, gint64 term, GError **error)
{
    g_auto(StoreLeadership) leadership = {0};
    g_autofree char *text = NULL;

    engine_store_get_leadership(store, &leadership);
    if (leadership.is_held && leadership.term == term)
        return TRUE;
    text = leadership.is_held ? g_strdup("this engine leads anew")
                              : store_leadership_describe(&leadership);
    error_set(error, VMFERRY_ERROR_BUSY, "%s", text);
    return FALSE;
}

/* ---- what is kept ---- */

char *engine_store_get_failure(EngineStore *store, gboolean retry)
{
    return store->ops->get_failure(store, retry);
}

gboolean engine_store_add_rule(EngineStore *store, Rule *rule, GError **error)
{
    return store->ops->add_rule(store, rule, error);
}

gboolean engine_store_remove_rule(EngineStore *store, const char *id, GError **error)
{
    return store->ops->remove_rule(store, id, error);
}

GPtrArray *engine_store_list_rules(EngineStore *store, GError **error)
{
    return store->ops->list_rules(store, error);
}

gboolean engine_store_set_sla(EngineStore *store, const char *guest, const ClusterSla *sla,
                              GError **error)
{
    return store->ops->set_sla(store, guest, sla, error);
}

GHashTable *engine_store_list_slas(EngineStore *store, GError **error)
{
    return store->ops->list_slas(store, error);
}

gboolean engine_store_set_frozen(EngineStore *store, const char *guest, const char *reason,
                                 GError **error)
{
    return store->ops->set_frozen(store, guest, reason, error);
}

GHashTable *engine_store_list_frozen(EngineStore *store, GError **error)
{
    return store->ops->list_frozen(store, error);
}

gboolean engine_store_set_drained(EngineStore *store, const char *host, gboolean drained,
                                  GError **error)
{
    return store->ops->set_drained(store, host, drained, error);
}

GHashTable *engine_store_list_drained(EngineStore *store, GError **error)
{
    return store->ops->list_drained(store, error);
}

gboolean engine_store_write_move(EngineStore *store, MoveRecord *record, GError **error)
{
    return store->ops->write_move(store, record, error);
}

GPtrArray *engine_store_list_moves(EngineStore *store, gboolean only_open, guint limit,
                                   GError **error)
{
    return store->ops->list_moves(store, only_open, limit, error);
}

MoveRecord *engine_store_find_move(EngineStore *store, gint64 id, GError **error)
{
    return store->ops->find_move(store, id, error);
}

gboolean engine_store_count_hits(EngineStore *store, guint *ret_hits, guint *ret_all,
                                 GError **error)
{
    return store->ops->count_hits(store, ret_hits, ret_all, error);
}

gboolean engine_store_add_history(EngineStore *store, const char *host, const HistoryPoint *point,
                                  GError **error)
{
    return store->ops->add_history(store, host, point, error);
}

GArray *engine_store_read_history(EngineStore *store, const char *host, gint64 since_s,
                                  GError **error)
{
    return store->ops->read_history(store, host, since_s, error);
}

gboolean engine_store_write_daily(EngineStore *store, GHashTable *daily, GError **error)
{
    return store->ops->write_daily(store, daily, error);
}

GHashTable *engine_store_read_daily(EngineStore *store, GError **error)
{
    return store->ops->read_daily(store, error);
}

gboolean engine_store_prune(EngineStore *store, gint64 now_s, GError **error)
{
    return store->ops->prune(store, now_s, error);
}
