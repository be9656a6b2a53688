/*
 * The store of several engines: etcd; see store.h
 *
 *     PREFIX/leader               who leads (leader.h): the key whose revision is the term
 *     PREFIX/1/last-rule          the number that was given last, so that none is given twice
 *     PREFIX/1/rules/NUMBER       a rule
 *     PREFIX/1/slas/GUEST         a promise
 *     PREFIX/1/frozen/[GUEST]     why it is frozen; without a name: all of them
 *     PREFIX/1/drained/HOST
 *     PREFIX/1/last-move
 *     PREFIX/1/moves/NUMBER       the journal: each write compares the term
 *
 * "1" is the format: another one is in another place, and yet only one engine leads.
 *
 * All is kept here, too: a refresh reads it, the journal only as far as it was written since, and a write that was done
 * goes there at once.  One request at a time (*asking*), so a refresh never brings back what a write has replaced.
 */
#include "engine/store_private.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/lock_guard.h"
#include "base/log.h"
#include "engine/etcd_keys.h"
#include "engine/leader.h"
#include "migrate/etcd.h"

#define FORMAT "1/"
#define NS_PER_MS ((uint64_t)1000000)
#define ANSWER_LIMIT (48u << 20)
#define SHORTEST_WAIT_MS 500u
#define LONGEST_WAIT_MS 3000u
/* Moves in one answer. */
#define PAGE 64u
/* What of a record is longer than that is its explanation. */
#define RECORD_LIMIT (128u << 10)
/* Of the journal; older ones go. */
#define MOVES_KEPT 2000u
/* Operations in one transaction; etcd takes 128. */
#define DELETES 100u

/* The lists of one refresh, in their order. */
enum {
    READ_RULES,
    READ_SLAS,
    READ_FROZEN,
    READ_DRAINED,
    READ_LAST_RULE,
    READ_LAST_MOVE,
    READ_MOVES,
    READS_OF_WISHES = READ_LAST_MOVE
};

typedef struct {
    EngineStore base;
    EngineStore *figures;
    Leader *leader;
    char *leader_key, *folder; /* where the rest is */
    guint wait_ms;

    GMutex asking; /* held for a request and for what follows from its answer; before *lock* */
    Etcd *etcd;

    GMutex lock; /* of all below */
    char *failure;
    gboolean is_known; /* it was read once */
    gint64 revision;   /* of the newest answer */
    gint64 seen;       /* of the newest entry of the journal that was read */
    char *wishes;      /* tells one state of rules, …, drained from another */
    GPtrArray *rules;
    GHashTable *slas, *frozen, *drained;
    gint64 last_rule, last_rule_written; /* the second: a revision */
    GPtrArray *moves;                    /* of MoveRecord, by number */
    gint64 last_move;
} StoreEtcd;

static char *key_of(const StoreEtcd *store, const char *folder, const char *name)
{
    return g_strconcat(store->folder, folder, name, NULL);
}

static char *numbered_key(const StoreEtcd *store, const char *folder, gint64 number)
{
    return g_strdup_printf("%s%s%020" G_GINT64_FORMAT, store->folder, folder, number);
}

/* What stands behind the folder. */
static const char *name_in(const StoreEtcd *store, const char *folder, const char *key)
{
    size_t length = strlen(store->folder);

    if (!g_str_has_prefix(key, store->folder) || !g_str_has_prefix(key + length, folder))
        return NULL;
    return key + length + strlen(folder);
}

static gboolean number_in(const StoreEtcd *store, const char *folder, const char *key, gint64 *ret)
{
    const char *name = name_in(store, folder, key);

    return name && g_ascii_string_to_signed(name, 10, 1, G_MAXINT64, ret, NULL);
}

static char *dump(json_t *object)
{
    char *text = json_dumps(object, JSON_COMPACT);
    char *copy = g_strdup(text ? text : "{}");

    free(text);
    return copy;
}

static json_t *parse(const EtcdFound *found)
{
    return json_parse_object(found->value, strlen(found->value), ETCD_KEYS_MAX_VALUE_BYTES, NULL);
}

/* ---- asking, with *asking* held ---- */

static void note_failure(StoreEtcd *store, const GError *error)
{
    lock_guard(&store->lock);

    g_clear_pointer(&store->failure, g_free);
    if (error)
        store->failure = g_strdup_printf("the store does not answer: etcd: %s", error->message);
}

/* Takes *transaction*. */
static gboolean commit(StoreEtcd *store, json_t *transaction, EtcdOutcome *ret, GError **error)
{
    g_autoptr(json_t) owned = transaction;
    g_autoptr(GError) failure = NULL;
    g_autoptr(json_t) answer = NULL;
    uint64_t sent_ns;

    answer = etcd_request(store->etcd, ETCD_KEYS_TXN, owned, ANSWER_LIMIT,
                          clock_now_ns() + store->wait_ms * NS_PER_MS, &sent_ns, &failure);
    if (answer)
        etcd_outcome_read(answer, ret, &failure);
    note_failure(store, failure);
    if (!failure)
        return TRUE;
    g_propagate_prefixed_error(error, g_steal_pointer(&failure), "etcd: ");
    return FALSE;
}

static gboolean check_known(StoreEtcd *store, GError **error)
{
    lock_guard(&store->lock);

    if (store->is_known)
        return TRUE;
    error_set(error, VMFERRY_ERROR_TIMEOUT, "etcd has not answered yet");
    return FALSE;
}

/* ---- reading: what is there, into new tables ---- */

static GPtrArray *new_rules(void)
{
    return g_ptr_array_new_with_free_func((GDestroyNotify)rule_free);
}

static GHashTable *new_table(void)
{
    return g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
}

static GPtrArray *new_moves(void)
{
    return g_ptr_array_new_with_free_func((GDestroyNotify)move_record_free);
}

static gint compare_rules(gconstpointer a, gconstpointer b)
{
    const Rule *first = *(Rule *const *)a, *second = *(Rule *const *)b;
    gint64 difference = atoll(first->id) - atoll(second->id);

    return (difference > 0) - (difference < 0);
}

static GPtrArray *read_rules(const StoreEtcd *store, const EtcdFoundList *list)
{
    GPtrArray *rules = new_rules();

    for (guint i = 0; list && i < list->entries->len && rules->len < RULES_MAX; i++) {
        const EtcdFound *found = list->entries->pdata[i];
        g_autoptr(json_t) object = parse(found);
        Rule *rule = object ? rule_from_json(object, NULL) : NULL;
        gint64 number;

        if (rule && number_in(store, "rules/", found->key, &number)) {
            g_free(rule->id);
            rule->id = g_strdup_printf("%" G_GINT64_FORMAT, number);
            g_ptr_array_add(rules, rule);
        } else {
            rule_free(rule);
        }
    }
    g_ptr_array_sort(rules, compare_rules);
    return rules;
}

static GHashTable *read_slas(const StoreEtcd *store, const EtcdFoundList *list)
{
    GHashTable *slas = new_table();

    for (guint i = 0; list && i < list->entries->len; i++) {
        const EtcdFound *found = list->entries->pdata[i];
        const char *guest = name_in(store, "slas/", found->key);
        g_autoptr(json_t) object = parse(found);
        ClusterSla sla;

        if (guest && object && sla_from_json(object, &sla, NULL))
            g_hash_table_insert(slas, g_strdup(guest), g_memdup2(&sla, sizeof sla));
    }
    return slas;
}

/* Of names in a folder to their values. */
static GHashTable *read_texts(const StoreEtcd *store, const EtcdFoundList *list, const char *folder)
{
    GHashTable *texts = new_table();

    for (guint i = 0; list && i < list->entries->len; i++) {
        const EtcdFound *found = list->entries->pdata[i];
        const char *name = name_in(store, folder, found->key);

        if (name)
            g_hash_table_insert(texts, g_strdup(name), g_strdup(found->value));
    }
    return texts;
}

static gint64 read_number(const EtcdFound *found)
{
    gint64 number;

    return found && g_ascii_string_to_signed(found->value, 10, 0, G_MAXINT64, &number, NULL)
               ? number
               : 0;
}

/* What is added has a newer revision than all before, what is removed is one less. */
static char *tell_wishes(const EtcdOutcome *outcome)
{
    GString *text = g_string_new(NULL);

    for (guint i = 0; i < READS_OF_WISHES; i++) {
        const EtcdFoundList *list = etcd_outcome_list(outcome, i);
        gint64 newest = 0;

        for (guint j = 0; list && j < list->entries->len; j++)
            newest = MAX(newest, ((EtcdFound *)list->entries->pdata[j])->written);
        g_string_append_printf(text, "%u:%" G_GINT64_FORMAT " ", list ? list->entries->len : 0,
                               newest);
    }
    return g_string_free(text, FALSE);
}

/* ---- with the lock held ---- */

/* Where it is, or is to be. */
static guint find_place(const StoreEtcd *store, gint64 id)
{
    guint low = 0, high = store->moves->len;

    while (low < high) {
        guint middle = low + (high - low) / 2;

        if (((MoveRecord *)store->moves->pdata[middle])->id < id)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static const MoveRecord *find_move(const StoreEtcd *store, gint64 id)
{
    guint place = find_place(store, id);
    const MoveRecord *record = place < store->moves->len ? store->moves->pdata[place] : NULL;

    return record && record->id == id ? record : NULL;
}

/* Takes *record*. */
static void keep_move(StoreEtcd *store, MoveRecord *record)
{
    guint place = find_place(store, record->id);

    if (find_move(store, record->id))
        g_ptr_array_remove_index(store->moves, place);
    g_ptr_array_insert(store->moves, (gint)place, record);
}

static void take_wishes(StoreEtcd *store, const EtcdOutcome *outcome, char *wishes)
{
    const EtcdFound *last = etcd_outcome_first(outcome, READ_LAST_RULE);

    g_free(store->wishes);
    store->wishes = wishes;
    g_ptr_array_unref(store->rules);
    store->rules = read_rules(store, etcd_outcome_list(outcome, READ_RULES));
    g_hash_table_unref(store->slas);
    store->slas = read_slas(store, etcd_outcome_list(outcome, READ_SLAS));
    g_hash_table_unref(store->frozen);
    store->frozen = read_texts(store, etcd_outcome_list(outcome, READ_FROZEN), "frozen/");
    g_hash_table_unref(store->drained);
    store->drained = read_texts(store, etcd_outcome_list(outcome, READ_DRAINED), "drained/");
    store->last_rule = read_number(last);
    store->last_rule_written = last ? last->written : 0;
}

static void take_move(StoreEtcd *store, const EtcdFound *found)
{
    g_autoptr(json_t) object = parse(found);
    MoveRecord *record = object ? move_record_decode(object, NULL) : NULL;
    gint64 number;

    store->seen = MAX(store->seen, found->written);
    if (!record || !number_in(store, "moves/", found->key, &number)) {
        log_warning("etcd: %s: not a move's record", found->key);
        move_record_free(record);
        return;
    }
    record->id = number;
    keep_move(store, record);
}

/* All of it anew: etcd is another one, or was put back to an older state. */
static void forget(StoreEtcd *store)
{
    g_ptr_array_set_size(store->moves, 0);
    store->seen = 0;
    store->last_move = 0;
    store->revision = 0;
}

/* TRUE: something has changed. */
static gboolean take(StoreEtcd *store, const EtcdOutcome *outcome)
{
    lock_guard(&store->lock);
    const EtcdFoundList *moves = etcd_outcome_list(outcome, READ_MOVES);
    char *wishes = tell_wishes(outcome);
    gboolean changed = !store->is_known || g_strcmp0(wishes, store->wishes) != 0;

    store->revision = outcome->revision;
    if (changed)
        take_wishes(store, outcome, wishes);
    else
        g_free(wishes);
    store->last_move =
        MAX(store->last_move, read_number(etcd_outcome_first(outcome, READ_LAST_MOVE)));
    for (guint i = 0; moves && i < moves->entries->len; i++)
        take_move(store, moves->entries->pdata[i]);
    return changed || (moves && moves->entries->len > 0);
}

/* ---- refreshing ---- */

static json_t *read_folder(const StoreEtcd *store, const char *folder, gint64 since, guint limit)
{
    g_autofree char *prefix = key_of(store, folder, "");

    return etcd_read_all(prefix, since, limit);
}

static json_t *make_question(StoreEtcd *store, gint64 since)
{
    g_autofree char *last_rule = key_of(store, "last-rule", "");
    g_autofree char *last_move = key_of(store, "last-move", "");

    return etcd_transaction(
        json_array(),
        json_pack("[o, o, o, o, o, o, o]", read_folder(store, "rules/", 0, 0),
                  read_folder(store, "slas/", 0, 0), read_folder(store, "frozen/", 0, 0),
                  read_folder(store, "drained/", 0, 0), etcd_read(last_rule), etcd_read(last_move),
                  read_folder(store, "moves/", since, PAGE)),
        NULL);
}

/* FALSE: etcd has gone back. */
static gboolean is_later(StoreEtcd *store, const EtcdOutcome *outcome)
{
    lock_guard(&store->lock);

    if (outcome->revision >= store->revision)
        return TRUE;
    forget(store);
    return FALSE;
}

static gint64 next_unseen(StoreEtcd *store)
{
    lock_guard(&store->lock);

    return store->seen + 1;
}

static gboolean etcd_refresh(EngineStore *base, gboolean *ret_changed, GError **error)
{
    StoreEtcd *store = (StoreEtcd *)base;
    gboolean more = TRUE;
    lock_guard(&store->asking);

    *ret_changed = FALSE;
    while (more) {
        g_auto(EtcdOutcome) outcome = {0};

        if (!commit(store, make_question(store, next_unseen(store)), &outcome, error))
            return FALSE;
        if (!is_later(store, &outcome))
            continue;
        *ret_changed |= take(store, &outcome);
        more = etcd_outcome_list(&outcome, READ_MOVES) &&
               etcd_outcome_list(&outcome, READ_MOVES)->more;
    }
    g_mutex_lock(&store->lock);
    store->is_known = TRUE;
    g_mutex_unlock(&store->lock);
    return TRUE;
}

static char *etcd_get_failure(EngineStore *base, gboolean retry)
{
    StoreEtcd *store = (StoreEtcd *)base;
    lock_guard(&store->lock);

    return g_strdup(store->failure);
}

/* ---- who leads ---- */

static void etcd_get_leadership(EngineStore *base, StoreLeadership *ret)
{
    StoreEtcd *store = (StoreEtcd *)base;
    g_auto(LeaderState) state = {0};

    leader_get(store->leader, &state);
    *ret = (StoreLeadership){.term = state.term,
                             .is_held = state.left_ms > 0,
                             .left_ms = state.left_ms,
                             .name = g_steal_pointer(&state.name),
                             .problem = g_steal_pointer(&state.problem)};
}

/* ---- what users have said ---- */

/* With *asking* held: done whoever leads.  FALSE with *error*: it is not known to be done. */
static gboolean write_all(StoreEtcd *store, json_t *operations, GError **error)
{
    g_auto(EtcdOutcome) outcome = {0};

    return commit(store, etcd_transaction(json_array(), operations, NULL), &outcome, error);
}

static void keep_rule(StoreEtcd *store, const Rule *rule, json_t *object, gint64 number,
                      gint64 revision)
{
    lock_guard(&store->lock);
    Rule *copy = rule_from_json(object, NULL);

    store->last_rule = number;
    store->last_rule_written = revision;
    if (!copy)
        return;
    g_free(copy->id);
    copy->id = g_strdup(rule->id);
    g_ptr_array_add(store->rules, copy);
}

static gboolean etcd_add_rule(EngineStore *base, Rule *rule, GError **error)
{
    StoreEtcd *store = (StoreEtcd *)base;
    lock_guard(&store->asking);
    g_autoptr(json_t) object = rule_to_json(rule);
    g_autofree char *last = key_of(store, "last-rule", "");
    g_autofree char *key = NULL;
    g_autofree char *number = NULL;
    g_autofree char *text = NULL;
    g_auto(EtcdOutcome) outcome = {0};

    if (!check_known(store, error))
        return FALSE;
    json_object_del(object, "id");
    text = dump(object);
    number = g_strdup_printf("%" G_GINT64_FORMAT, store->last_rule + 1);
    key = numbered_key(store, "rules/", store->last_rule + 1);
    if (!commit(store,
                etcd_transaction(
                    json_pack("[o]", etcd_compare_written(last, store->last_rule_written)),
                    json_pack("[o, o]", etcd_put(key, text, 0), etcd_put(last, number, 0)), NULL),
                &outcome, error))
        return FALSE;
    if (!outcome.done) {
        error_set(error, VMFERRY_ERROR_BUSY,
                  "another engine has just been given a rule; look at the rules, and try again");
        return FALSE;
    }
    g_free(rule->id);
    rule->id = g_steal_pointer(&number);
    keep_rule(store, rule, object, store->last_rule + 1, outcome.revision);
    return TRUE;
}

/* Its place, with the lock held; its length where there is none. */
static guint find_rule(const StoreEtcd *store, const char *id)
{
    guint place = 0;

    while (place < store->rules->len && strcmp(((Rule *)store->rules->pdata[place])->id, id) != 0)
        place++;
    return place;
}

static gboolean has_rule(StoreEtcd *store, const char *id)
{
    lock_guard(&store->lock);

    return find_rule(store, id) < store->rules->len;
}

static gboolean etcd_remove_rule(EngineStore *base, const char *id, GError **error)
{
    StoreEtcd *store = (StoreEtcd *)base;
    lock_guard(&store->asking);
    g_autofree char *key = NULL;

    if (!check_known(store, error))
        return FALSE;
    if (!has_rule(store, id)) {
        error_set(error, VMFERRY_ERROR_NOT_FOUND, "there is no rule %.64s", id);
        return FALSE;
    }
    key = numbered_key(store, "rules/", atoll(id));
    if (!write_all(store, json_pack("[o]", etcd_delete(key)), error))
        return FALSE;
    g_mutex_lock(&store->lock);
    g_ptr_array_remove_index(store->rules, find_rule(store, id));
    g_mutex_unlock(&store->lock);
    return TRUE;
}

static GPtrArray *etcd_list_rules(EngineStore *base, GError **error)
{
    StoreEtcd *store = (StoreEtcd *)base;
    GPtrArray *rules = new_rules();
    lock_guard(&store->lock);

    for (guint i = 0; i < store->rules->len; i++) {
        g_autoptr(json_t) object = rule_to_json(store->rules->pdata[i]);
        Rule *copy = NULL;

        json_object_del(object, "id");
        copy = rule_from_json(object, NULL);
        g_free(copy->id);
        copy->id = g_strdup(((Rule *)store->rules->pdata[i])->id);
        g_ptr_array_add(rules, copy);
    }
    return rules;
}

/* One key of a table: *text* NULL: removed.  *kept* (taken): what it is in the table. */
static gboolean set_entry(StoreEtcd *store, GHashTable **table, const char *folder,
                          const char *name, const char *text, gpointer kept, GError **error)
{
    g_autofree gpointer owned = kept;
    lock_guard(&store->asking);
    g_autofree char *key = key_of(store, folder, name);

    if (!check_known(store, error) ||
        !write_all(store, json_pack("[o]", text ? etcd_put(key, text, 0) : etcd_delete(key)),
                   error))
        return FALSE;
    g_mutex_lock(&store->lock);
    if (text)
        g_hash_table_insert(*table, g_strdup(name), g_steal_pointer(&owned));
    else
        g_hash_table_remove(*table, name);
    g_mutex_unlock(&store->lock);
    return TRUE;
}

static gboolean etcd_set_sla(EngineStore *base, const char *guest, const ClusterSla *sla,
                             GError **error)
{
    StoreEtcd *store = (StoreEtcd *)base;
    g_autoptr(json_t) object = sla_to_json(sla);
    g_autofree char *text = dump(object);
    gboolean is_none = sla->cpu_wait <= 0 && sla->network <= 0 && !sla->no_swap;

    return set_entry(store, &store->slas, "slas/", guest, is_none ? NULL : text,
                     g_memdup2(sla, sizeof *sla), error);
}

static gboolean etcd_set_frozen(EngineStore *base, const char *guest, const char *reason,
                                GError **error)
{
    StoreEtcd *store = (StoreEtcd *)base;

    return set_entry(store, &store->frozen, "frozen/", guest, reason, g_strdup(reason), error);
}

static gboolean etcd_set_drained(EngineStore *base, const char *host, gboolean drained,
                                 GError **error)
{
    StoreEtcd *store = (StoreEtcd *)base;

    return set_entry(store, &store->drained, "drained/", host, drained ? host : NULL,
                     g_strdup(host), error);
}

static GHashTable *copy_table(StoreEtcd *store, GHashTable *const *table, gsize size)
{
    lock_guard(&store->lock);
    GHashTable *copy = new_table();
    GHashTableIter iter;
    gpointer name, value;

    g_hash_table_iter_init(&iter, *table);
    while (g_hash_table_iter_next(&iter, &name, &value))
        g_hash_table_insert(copy, g_strdup(name),
                            size > 0 ? g_memdup2(value, size) : g_strdup(value));
    return copy;
}

static GHashTable *etcd_list_slas(EngineStore *base, GError **error)
{
    StoreEtcd *store = (StoreEtcd *)base;

    return copy_table(store, &store->slas, sizeof(ClusterSla));
}

static GHashTable *etcd_list_frozen(EngineStore *base, GError **error)
{
    StoreEtcd *store = (StoreEtcd *)base;

    return copy_table(store, &store->frozen, 0);
}

static GHashTable *etcd_list_drained(EngineStore *base, GError **error)
{
    StoreEtcd *store = (StoreEtcd *)base;

    return copy_table(store, &store->drained, 0);
}

/* ---- the journal ---- */

static char *encode_move(const MoveRecord *record, gint64 id, GError **error)
{
    g_autoptr(json_t) object = move_record_encode(record);
    char *text;

    if (!object) {
        error_set(error, VMFERRY_ERROR_INVALID, "a name in it is no UTF-8");
        return NULL;
    }
    json_object_set_new(object, "id", json_integer(id));
    text = dump(object);
    if (strlen(text) <= RECORD_LIMIT)
        return text;
    g_free(text);
    json_object_del(object, "explanation");
    return dump(object);
}

/* In this term, or not at all. */
static gboolean commit_in_term(StoreEtcd *store, gint64 term, json_t *compares, json_t *operations,
                               GError **error)
{
    g_auto(EtcdOutcome) outcome = {0};

    json_array_append_new(compares, etcd_compare_made(store->leader_key, term));
    if (!commit(store, etcd_transaction(compares, operations, NULL), &outcome, error))
        return FALSE;
    if (outcome.done)
        return TRUE;
    leader_look(store->leader);
    error_set(error, VMFERRY_ERROR_BUSY, "another engine leads by now; nothing was written");
    return FALSE;
}

/* The next number is used up even where it is not known whether it was written. */
static gint64 choose_number(StoreEtcd *store)
{
    lock_guard(&store->lock);

    return ++store->last_move;
}

static gboolean write_new(StoreEtcd *store, MoveRecord *record, GError **error)
{
    gint64 id = choose_number(store);
    g_autofree char *key = numbered_key(store, "moves/", id);
    g_autofree char *last = key_of(store, "last-move", "");
    g_autofree char *number = g_strdup_printf("%" G_GINT64_FORMAT, id);
    g_autofree char *text = encode_move(record, id, error);

    if (!text || !commit_in_term(
                     store, record->lead_term, json_pack("[o]", etcd_compare_made(key, 0)),
                     json_pack("[o, o]", etcd_put(key, text, 0), etcd_put(last, number, 0)), error))
        return FALSE;
    record->id = id;
    return TRUE;
}

static gboolean write_again(StoreEtcd *store, const MoveRecord *record, GError **error)
{
    g_autofree char *key = numbered_key(store, "moves/", record->id);
    g_autofree char *text = encode_move(record, record->id, error);

    return text && commit_in_term(store, record->lead_term, json_array(),
                                  json_pack("[o]", etcd_put(key, text, 0)), error);
}

static gboolean etcd_write_move(EngineStore *base, MoveRecord *record, GError **error)
{
    StoreEtcd *store = (StoreEtcd *)base;

    if (!engine_store_check_term(base, record->lead_term, error))
        return FALSE;
    lock_guard(&store->asking);
    if (!(record->id == 0 ? write_new(store, record, error) : write_again(store, record, error)))
        return FALSE;
    g_mutex_lock(&store->lock);
    keep_move(store, move_record_copy(record));
    g_mutex_unlock(&store->lock);
    return TRUE;
}

static GPtrArray *etcd_list_moves(EngineStore *base, gboolean only_open, guint limit,
                                  GError **error)
{
    StoreEtcd *store = (StoreEtcd *)base;
    GPtrArray *moves = new_moves();
    lock_guard(&store->lock);

    for (guint i = store->moves->len; i-- > 0 && moves->len < limit;) {
        const MoveRecord *record = store->moves->pdata[i];

        if (!only_open || move_state_is_open(record->state))
            g_ptr_array_add(moves, move_record_copy(record));
    }
    return moves;
}

static MoveRecord *etcd_find_move(EngineStore *base, gint64 id, GError **error)
{
    StoreEtcd *store = (StoreEtcd *)base;
    lock_guard(&store->lock);
    const MoveRecord *record = find_move(store, id);

    if (record)
        return move_record_copy(record);
    error_set(error, VMFERRY_ERROR_NOT_FOUND, "there is no move %lld", (long long)id);
    return NULL;
}

static gboolean etcd_count_hits(EngineStore *base, guint *ret_hits, guint *ret_all, GError **error)
{
    StoreEtcd *store = (StoreEtcd *)base;
    lock_guard(&store->lock);

    *ret_hits = *ret_all = 0;
    for (guint i = 0; i < store->moves->len; i++) {
        const MoveRecord *record = store->moves->pdata[i];

        *ret_hits += record->hit == 1;
        *ret_all += record->hit >= 0;
    }
    return TRUE;
}

/* ---- figures of the past ---- */

static gboolean etcd_add_history(EngineStore *base, const char *host, const HistoryPoint *point,
                                 GError **error)
{
    return engine_store_add_history(((StoreEtcd *)base)->figures, host, point, error);
}

static GArray *etcd_read_history(EngineStore *base, const char *host, gint64 since_s,
                                 GError **error)
{
    return engine_store_read_history(((StoreEtcd *)base)->figures, host, since_s, error);
}

static gboolean etcd_write_daily(EngineStore *base, GHashTable *daily, GError **error)
{
    return engine_store_write_daily(((StoreEtcd *)base)->figures, daily, error);
}

static GHashTable *etcd_read_daily(EngineStore *base, GError **error)
{
    return engine_store_read_daily(((StoreEtcd *)base)->figures, error);
}

/* Takes what is old out of the copy; returns operations that remove it from etcd, as many as go into one transaction. */
static json_t *forget_old(StoreEtcd *store, gint64 oldest_ms)
{
    lock_guard(&store->lock);
    json_t *operations = json_array();

    for (guint i = 0; i < store->moves->len && json_array_size(operations) < DELETES;) {
        const MoveRecord *record = store->moves->pdata[i];
        g_autofree char *key = numbered_key(store, "moves/", record->id);

        if (move_state_is_open(record->state) ||
            (record->made_ms >= oldest_ms && store->moves->len <= MOVES_KEPT)) {
            i++;
            continue;
        }
        json_array_append_new(operations, etcd_delete(key));
        g_ptr_array_remove_index(store->moves, i);
    }
    return operations;
}

static gboolean etcd_prune(EngineStore *base, gint64 now_s, GError **error)
{
    StoreEtcd *store = (StoreEtcd *)base;
    gint64 oldest_ms = (now_s - ENGINE_STORE_KEPT_DAYS * INT64_C(86400)) * 1000;
    g_auto(StoreLeadership) leadership = {0};
    json_t *operations;

    if (!engine_store_prune(store->figures, now_s, error))
        return FALSE;
    engine_store_get_leadership(base, &leadership);
    lock_guard(&store->asking);
    operations = forget_old(store, oldest_ms);
    if (leadership.is_held && json_array_size(operations) > 0)
        return commit_in_term(store, leadership.term, json_array(), operations, error);
    json_decref(operations);
    return TRUE;
}

/* ---- life ---- */

static void etcd_close(EngineStore *base)
{
    StoreEtcd *store = (StoreEtcd *)base;

    leader_free(store->leader);
    engine_store_close(store->figures);
    etcd_free(store->etcd);
    g_ptr_array_unref(store->rules);
    g_hash_table_unref(store->slas);
    g_hash_table_unref(store->frozen);
    g_hash_table_unref(store->drained);
    g_ptr_array_unref(store->moves);
    g_mutex_clear(&store->asking);
    g_mutex_clear(&store->lock);
    g_free(store->leader_key);
    g_free(store->folder);
    g_free(store->failure);
    g_free(store->wishes);
    g_free(store);
}

static StoreEtcd *allocate(const StoreEtcdOptions *options, EngineStore *figures)
{
    StoreEtcd *store = g_new0(StoreEtcd, 1);

    store->figures = figures;
    store->leader_key = g_strconcat(options->prefix, "leader", NULL);
    store->folder = g_strconcat(options->prefix, FORMAT, NULL);
    store->wait_ms = CLAMP(options->lease_ms / 3, SHORTEST_WAIT_MS, LONGEST_WAIT_MS);
    store->failure = g_strdup("etcd has not answered yet");
    store->rules = new_rules();
    store->slas = new_table();
    store->frozen = new_table();
    store->drained = new_table();
    store->moves = new_moves();
    g_mutex_init(&store->asking);
    g_mutex_init(&store->lock);
    return store;
}

EngineStore *engine_store_open_etcd(const StoreEtcdOptions *options, EngineStore *figures,
                                    GError **error)
{
    static const EngineStoreOps ops = {
        .close = etcd_close,
        .refresh = etcd_refresh,
        .get_leadership = etcd_get_leadership,
        .get_failure = etcd_get_failure,
        .add_rule = etcd_add_rule,
        .remove_rule = etcd_remove_rule,
        .list_rules = etcd_list_rules,
        .set_sla = etcd_set_sla,
        .list_slas = etcd_list_slas,
        .set_frozen = etcd_set_frozen,
        .list_frozen = etcd_list_frozen,
        .set_drained = etcd_set_drained,
        .list_drained = etcd_list_drained,
        .write_move = etcd_write_move,
        .list_moves = etcd_list_moves,
        .find_move = etcd_find_move,
        .count_hits = etcd_count_hits,
        .add_history = etcd_add_history,
        .read_history = etcd_read_history,
        .write_daily = etcd_write_daily,
        .read_daily = etcd_read_daily,
        .prune = etcd_prune,
    };
    StoreEtcd *store = allocate(options, figures);

    store->base.ops = &ops;
    store->etcd = etcd_new(options->address, error);
    if (store->etcd)
        store->leader = leader_new(options->address, store->leader_key, options->name,
                                   options->lease_ms, error);
    if (store->leader)
        return &store->base;
    etcd_close(&store->base);
    return NULL;
}
