/* Who leads, and what others have written; see engine.h. */
#include "base/error.h"
#include "base/log.h"
#include "engine/engine_private.h"

#define RECENT_LIMIT 4096u
#define DAY_MS 86400000
#define PRUNE_EVERY_S 3600

/* ---- what the store has, with the lock held ---- */

static void replace_table(GHashTable **table, GHashTable *with)
{
    g_clear_pointer(table, g_hash_table_unref);
    *table = with;
}

static gboolean read_wishes(Engine *engine, GError **error)
{
    GPtrArray *rules = engine_store_list_rules(engine->store, error);
    GHashTable *slas = rules ? engine_store_list_slas(engine->store, error) : NULL;
    GHashTable *frozen = slas ? engine_store_list_frozen(engine->store, error) : NULL;
    GHashTable *drained = frozen ? engine_store_list_drained(engine->store, error) : NULL;

    if (!drained) {
        g_clear_pointer(&rules, g_ptr_array_unref);
        g_clear_pointer(&slas, g_hash_table_unref);
        g_clear_pointer(&frozen, g_hash_table_unref);
        return FALSE;
    }
    g_clear_pointer(&engine->rules, g_ptr_array_unref);
    engine->rules = rules;
    replace_table(&engine->slas, slas);
    replace_table(&engine->frozen, frozen);
    replace_table(&engine->drained, drained);
    return TRUE;
}

static gboolean read_recent(Engine *engine, GError **error)
{
    g_autoptr(GPtrArray) moves = engine_store_list_moves(engine->store, FALSE, RECENT_LIMIT, error);
    gint64 oldest = engine_wall_ms() - DAY_MS;

    g_ptr_array_set_size(engine->recent, 0);
    while (moves && moves->len > 0) {
        MoveRecord *record = g_ptr_array_steal_index(moves, moves->len - 1);

        if (!move_state_is_open(record->state) && record->ended_ms >= oldest)
            g_ptr_array_add(engine->recent, record);
        else
            move_record_free(record);
    }
    return moves != NULL;
}

gboolean engine_reload(Engine *engine, GError **error)
{
    /* One that leads knows its moves better than the store does. */
    return read_wishes(engine, error) && (engine->lead_term != 0 || read_recent(engine, error));
}

GPtrArray *engine_list_open(Engine *engine)
{
    GPtrArray *open = engine->lead_term == 0
                          ? engine_store_list_moves(engine->store, TRUE, G_MAXINT32, NULL)
                          : NULL;

    return open ? open : executor_list(engine->executor);
}

/* ---- who leads ---- */

static void note_failure(Engine *engine, char *broken)
{
    if (broken && !engine->broken)
        event_log_add(engine->events, NULL, "store-failed", NULL, "%s", broken);
    g_free(engine->broken);
    engine->broken = broken;
}

/* Without the lock held: a write that is under way is waited for. */
static void stand_down(Engine *engine)
{
    event_log_add(engine->events, NULL, "stand-by", NULL, "this engine does not lead any more");
    log_info("this engine does not lead any more");
    executor_stand_down(engine->executor);
    g_mutex_lock(&engine->lock);
    engine->lead_term = 0;
    engine->leader = FALSE;
    g_ptr_array_set_size(engine->pending, 0);
    g_hash_table_remove_all(engine->governed);
    g_mutex_unlock(&engine->lock);
}

static void note_leadership(Engine *engine, StoreLeadership *leadership)
{
    engine->leader = leadership->is_held && engine->lead_term == leadership->term;
    g_clear_pointer(&engine->standing, g_free);
    if (!engine->leader)
        engine->standing = leadership->is_held ? g_strdup("it has just come to lead")
                                               : store_leadership_describe(leadership);
    g_free(engine->led_by);
    engine->led_by = g_steal_pointer(&leadership->name);
    engine->lease_left_ms = leadership->left_ms;
}

static gboolean take_up(Engine *engine, gint64 term, GError **error)
{
    gboolean anew = engine->lead_term != term;

    if (!executor_lead(engine->executor, term, error))
        return FALSE;
    if (anew && engine->settings->etcd) {
        event_log_add(engine->events, NULL, "lead", NULL, "this engine leads");
        log_info("this engine leads");
    }
    g_mutex_lock(&engine->lock);
    engine->lead_term = term;
    g_mutex_unlock(&engine->lock);
    return TRUE;
}

static void prune(Engine *engine)
{
    gint64 now_s = engine_wall_ms() / 1000;
    g_autoptr(GError) error = NULL;

    if (now_s - engine->pruned_s < PRUNE_EVERY_S)
        return;
    engine->pruned_s = now_s;
    if (!engine_store_prune(engine->store, now_s, &error))
        log_warning("what is old stays in the store: %s", error->message);
}

gboolean engine_follow_store(Engine *engine, GError **error)
{
    g_auto(StoreLeadership) leadership = {0};
    g_autoptr(GError) problem = NULL;
    gboolean changed, refreshed, is_read;

    /* First who leads, then what there is: so nothing of an earlier term comes after it was read. */
    engine_store_get_leadership(engine->store, &leadership);
    refreshed = engine_store_refresh(engine->store, &changed, &problem);
    if (!refreshed)
        log_debug("%s", problem->message);
    if (engine->lead_term != 0 && engine->lead_term != leadership.term)
        stand_down(engine);
    /* In a new term its predecessor's moves count, too. */
    changed |= engine->lead_term != leadership.term;
    g_mutex_lock(&engine->lock);
    note_failure(engine, engine_store_get_failure(engine->store, TRUE));
    is_read = !changed || engine_reload(engine, error);
    g_mutex_unlock(&engine->lock);
    if (!is_read)
        return FALSE;
    if (refreshed && changed && leadership.term != 0 && !take_up(engine, leadership.term, error))
        return FALSE;
    if (refreshed)
        prune(engine);
    /* As it is by now: all that may have taken a while. */
    store_leadership_clear(&leadership);
    engine_store_get_leadership(engine->store, &leadership);
    g_mutex_lock(&engine->lock);
    note_leadership(engine, &leadership);
    g_mutex_unlock(&engine->lock);
    return TRUE;
}
