#include "engine/store_private.h"

#include <sqlite3.h>
#include <stdarg.h>
#include <string.h>

#include "base/error.h"
#include "base/lock_guard.h"

#define APPLICATION_ID 0x766d6665 /* "vmfe" */
#define JSON_LIMIT (1u << 20)

typedef struct {
    EngineStore base;
    GMutex lock; /* of all below */
    sqlite3 *database;
    char *path;
    char *failure;
} StoreSqlite;

#define DAILY_TABLE                                                                                \
    "CREATE TABLE daily (guest TEXT PRIMARY KEY, time_s INTEGER NOT NULL, figures TEXT NOT NULL);"
#define SET_VERSION "PRAGMA user_version = " G_STRINGIFY(ENGINE_STORE_VERSION) ";"

static const char schema[] =
    "CREATE TABLE rules (id INTEGER PRIMARY KEY AUTOINCREMENT, rule TEXT NOT NULL);"
    "CREATE TABLE slas (guest TEXT PRIMARY KEY, sla TEXT NOT NULL);"
    "CREATE TABLE frozen (guest TEXT PRIMARY KEY, reason TEXT NOT NULL);"
    "CREATE TABLE drained (host TEXT PRIMARY KEY);"
    "CREATE TABLE moves (id INTEGER PRIMARY KEY AUTOINCREMENT, guest TEXT NOT NULL, guest_id TEXT,"
    " term INTEGER NOT NULL, source TEXT, destination TEXT, ordered_by TEXT NOT NULL,"
    " state TEXT NOT NULL, activity TEXT, last_event INTEGER NOT NULL, made_ms INTEGER NOT NULL,"
    " ordered_ms INTEGER NOT NULL, ended_ms INTEGER NOT NULL, problem TEXT, forecast TEXT,"
    " outcome TEXT, explanation TEXT, hit INTEGER NOT NULL);"
    "CREATE INDEX moves_by_state ON moves (state);"
    "CREATE TABLE history (host TEXT NOT NULL, time_s INTEGER NOT NULL, cpu REAL NOT NULL,"
    " memory REAL NOT NULL, network REAL NOT NULL, pressure REAL NOT NULL,"
    " PRIMARY KEY (host, time_s)) WITHOUT ROWID;" DAILY_TABLE
    "PRAGMA application_id = " G_STRINGIFY(APPLICATION_ID) ";" SET_VERSION;

#define MOVE_COLUMNS                                                                               \
    "id, guest, guest_id, term, source, destination, ordered_by, state, activity, last_event, "    \
    "made_ms, ordered_ms, ended_ms, problem, forecast, outcome, explanation, hit"

static void set_error(StoreSqlite *store, int code, GError **error)
{
    const char *said = store->database ? sqlite3_errmsg(store->database) : sqlite3_errstr(code);

    switch (code & 0xff) {
    case SQLITE_FULL:
        error_set(error, VMFERRY_ERROR_NO_SPACE,
                  "%s: the disk is full; no move starts until there is room", store->path);
        break;
    case SQLITE_READONLY:
    case SQLITE_PERM:
        error_set(error, VMFERRY_ERROR_PERMISSION,
                  "%s cannot be written to; the engine needs a store of its own (--store)",
                  store->path);
        break;
    case SQLITE_CANTOPEN:
        error_set(error, VMFERRY_ERROR_PERMISSION,
                  "%s cannot be opened or made; does its folder exist?", store->path);
        break;
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
        error_set(error, VMFERRY_ERROR_INVALID,
                  "%s is damaged, or not a database (%s); move it aside to begin with an empty one",
                  store->path, said);
        break;
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
        error_set(error, VMFERRY_ERROR_BUSY, "%s: another engine has it", store->path);
        break;
    default:
        error_set(error, VMFERRY_ERROR_FAILED, "%s: %s", store->path, said);
    }
}

/* ---- statements: 's' text or NULL, 'i' gint64, 'd' double ---- */

static void bind(sqlite3_stmt *statement, const char *types, va_list values)
{
    for (int i = 1; *types; types++, i++) {
        if (*types == 's')
            sqlite3_bind_text(statement, i, va_arg(values, const char *), -1, SQLITE_TRANSIENT);
        else if (*types == 'i')
            sqlite3_bind_int64(statement, i, va_arg(values, gint64));
        else
            sqlite3_bind_double(statement, i, va_arg(values, double));
    }
}

static sqlite3_stmt *prepare(StoreSqlite *store, const char *sql, GError **error)
{
    sqlite3_stmt *statement = NULL;
    int code = sqlite3_prepare_v2(store->database, sql, -1, &statement, NULL);

    if (code != SQLITE_OK)
        set_error(store, code, error);
    return statement;
}

static void note_outcome(StoreSqlite *store, const GError *failure)
{
    g_free(store->failure);
    store->failure = failure ? g_strdup(failure->message) : NULL;
}

/* One that changes something; with the lock held. */
static gboolean change(StoreSqlite *store, GError **error, const char *sql, const char *types, ...)
{
    g_autoptr(GError) failure = NULL;
    sqlite3_stmt *statement = prepare(store, sql, &failure);
    va_list values;
    int code = SQLITE_DONE;

    if (statement) {
        va_start(values, types);
        bind(statement, types, values);
        va_end(values);
        code = sqlite3_step(statement);
        if (code != SQLITE_DONE && code != SQLITE_ROW)
            set_error(store, code, &failure);
        sqlite3_finalize(statement);
    }
    note_outcome(store, failure);
    if (!failure)
        return TRUE;
    g_propagate_error(error, g_steal_pointer(&failure));
    return FALSE;
}

typedef void (*OnRow)(sqlite3_stmt *row, gpointer user);

/* With the lock held. */
static gboolean query(StoreSqlite *store, OnRow on_row, gpointer user, GError **error,
                      const char *sql, const char *types, ...)
{
    sqlite3_stmt *statement = prepare(store, sql, error);
    va_list values;
    int code;

    if (!statement)
        return FALSE;
    va_start(values, types);
    bind(statement, types, values);
    va_end(values);
    while ((code = sqlite3_step(statement)) == SQLITE_ROW)
        on_row(statement, user);
    if (code != SQLITE_DONE)
        set_error(store, code, error);
    sqlite3_finalize(statement);
    return code == SQLITE_DONE;
}

static const char *text_of(sqlite3_stmt *row, int column)
{
    return (const char *)sqlite3_column_text(row, column);
}

static void take_number(sqlite3_stmt *row, gpointer user)
{
    *(gint64 *)user = sqlite3_column_int64(row, 0);
}

static void take_text(sqlite3_stmt *row, gpointer user)
{
    char **ret = user;

    if (!*ret)
        *ret = g_strdup(text_of(row, 0));
}

static void take_nothing(sqlite3_stmt *row, gpointer user)
{
}

/* ---- opening ---- */

static gboolean run_script(StoreSqlite *store, const char *script, GError **error)
{
    int code = sqlite3_exec(store->database, script, NULL, NULL, NULL);

    if (code != SQLITE_OK)
        set_error(store, code, error);
    return code == SQLITE_OK;
}

static gboolean check_sound(StoreSqlite *store, GError **error)
{
    g_autofree char *verdict = NULL;

    if (!query(store, take_text, &verdict, error, "PRAGMA quick_check(1)", ""))
        return FALSE;
    if (g_strcmp0(verdict, "ok") == 0)
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID,
              "%s is damaged (%s); move it aside to begin with an empty one", store->path, verdict);
    return FALSE;
}

static gboolean make_schema(StoreSqlite *store, GError **error)
{
    g_autofree char *script = g_strconcat("BEGIN IMMEDIATE;", schema, "COMMIT;", NULL);

    return run_script(store, script, error);
}

static gboolean check_schema(StoreSqlite *store, GError **error)
{
    gint64 application = 0, version = 0, tables = 0;

    if (!query(store, take_number, &application, error, "PRAGMA application_id", "") ||
        !query(store, take_number, &version, error, "PRAGMA user_version", "") ||
        !query(store, take_number, &tables, error, "SELECT count(*) FROM sqlite_schema", ""))
        return FALSE;
    if (tables == 0 && application == 0)
        return make_schema(store, error);
    if (application != APPLICATION_ID)
        error_set(error, VMFERRY_ERROR_INVALID, "%s is not the store of an engine", store->path);
    else if (version > ENGINE_STORE_VERSION)
        error_set(error, VMFERRY_ERROR_UNSUPPORTED,
                  "%s was written by a newer version (format %d, this one knows %d)", store->path,
                  (int)version, ENGINE_STORE_VERSION);
    else
        return version == ENGINE_STORE_VERSION ||
               run_script(store, "BEGIN IMMEDIATE;" DAILY_TABLE SET_VERSION "COMMIT;", error);
    return FALSE;
}

/* A read-only one opens without an error and fails at the first write: try one. */
static gboolean try_write(StoreSqlite *store, GError **error)
{
    return run_script(store,
                      "BEGIN IMMEDIATE;"
                      "UPDATE rules SET id = id WHERE id = 0;"
                      "INSERT OR REPLACE INTO frozen VALUES ('?', 'a write was tried');"
                      "DELETE FROM frozen WHERE guest = '?';"
                      "COMMIT;",
                      error);
}

static gboolean prepare_database(StoreSqlite *store, GError **error)
{
    int code = sqlite3_open_v2(store->path, &store->database,
                               SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_FULLMUTEX |
                                   SQLITE_OPEN_NOFOLLOW,
                               NULL);

    if (code != SQLITE_OK) {
        set_error(store, code, error);
        return FALSE;
    }
    if (sqlite3_db_readonly(store->database, "main") == 1) {
        set_error(store, SQLITE_READONLY, error);
        return FALSE;
    }
    sqlite3_extended_result_codes(store->database, 0);
    /* The lock is kept until the end, so a second engine is told at once. */
    return run_script(store, "PRAGMA locking_mode = EXCLUSIVE", error) &&
           query(store, take_nothing, NULL, error, "PRAGMA journal_mode = WAL", "") &&
           run_script(store, "PRAGMA synchronous = FULL", error) && check_sound(store, error) &&
           check_schema(store, error) && try_write(store, error);
}

static void sqlite_close(EngineStore *base)
{
    StoreSqlite *store = (StoreSqlite *)base;

    sqlite3_close(store->database);
    g_mutex_clear(&store->lock);
    g_free(store->failure);
    g_free(store->path);
    g_free(store);
}

static void roll_back(StoreSqlite *store)
{
    if (!sqlite3_get_autocommit(store->database))
        sqlite3_exec(store->database, "ROLLBACK", NULL, NULL, NULL);
}

static char *sqlite_get_failure(EngineStore *base, gboolean retry)
{
    StoreSqlite *store = (StoreSqlite *)base;
    lock_guard(&store->lock);
    g_autoptr(GError) failure = NULL;

    if (retry && store->failure) {
        if (!try_write(store, &failure))
            roll_back(store);
        note_outcome(store, failure);
    }
    return g_strdup(store->failure);
}

void engine_store_limit_pages(EngineStore *base, gboolean full)
{
    StoreSqlite *store = (StoreSqlite *)base;
    lock_guard(&store->lock);

    query(store, take_nothing, NULL, NULL,
          full ? "PRAGMA max_page_count = 1" : "PRAGMA max_page_count = 4294967294", "");
}

/* ---- what users have said ---- */

static char *dump(json_t *object)
{
    char *text = object ? json_dumps(object, JSON_COMPACT) : NULL;
    char *copy = g_strdup(text);

    free(text);
    return copy;
}

static gboolean sqlite_add_rule(EngineStore *base, Rule *rule, GError **error)
{
    StoreSqlite *store = (StoreSqlite *)base;
    lock_guard(&store->lock);
    g_autoptr(json_t) object = rule_to_json(rule);
    g_autofree char *text = NULL;

    json_object_del(object, "id");
    text = dump(object);
    if (!change(store, error, "INSERT INTO rules (rule) VALUES (?)", "s", text))
        return FALSE;
    g_free(rule->id);
    rule->id = g_strdup_printf("%lld", (long long)sqlite3_last_insert_rowid(store->database));
    return TRUE;
}

/* Of a statement that must have changed one row. */
static gboolean check_changed(StoreSqlite *store, const char *what, const char *name,
                              GError **error)
{
    if (sqlite3_changes(store->database) > 0)
        return TRUE;
    error_set(error, VMFERRY_ERROR_NOT_FOUND, "there is no %s %.64s", what, name);
    return FALSE;
}

static gboolean sqlite_remove_rule(EngineStore *base, const char *id, GError **error)
{
    StoreSqlite *store = (StoreSqlite *)base;
    lock_guard(&store->lock);

    return change(store, error, "DELETE FROM rules WHERE CAST(id AS TEXT) = ?", "s", id) &&
           check_changed(store, "rule", id, error);
}

static void add_rule(sqlite3_stmt *row, gpointer user)
{
    const char *text = text_of(row, 1);
    g_autoptr(json_t) object =
        text ? json_parse_object(text, strlen(text), JSON_LIMIT, NULL) : NULL;
    Rule *rule = object ? rule_from_json(object, NULL) : NULL;

    if (!rule)
        return;
    g_free(rule->id);
    rule->id = g_strdup(text_of(row, 0));
    g_ptr_array_add(user, rule);
}

static GPtrArray *sqlite_list_rules(EngineStore *base, GError **error)
{
    StoreSqlite *store = (StoreSqlite *)base;
    lock_guard(&store->lock);
    g_autoptr(GPtrArray) rules = g_ptr_array_new_with_free_func((GDestroyNotify)rule_free);

    return query(store, add_rule, rules, error, "SELECT id, rule FROM rules ORDER BY id", "")
               ? g_steal_pointer(&rules)
               : NULL;
}

static gboolean sqlite_set_sla(EngineStore *base, const char *guest, const ClusterSla *sla,
                               GError **error)
{
    StoreSqlite *store = (StoreSqlite *)base;
    lock_guard(&store->lock);
    g_autoptr(json_t) object = sla_to_json(sla);
    g_autofree char *text = dump(object);

    if (sla->cpu_wait <= 0 && sla->network <= 0 && !sla->no_swap)
        return change(store, error, "DELETE FROM slas WHERE guest = ?", "s", guest);
    return change(store, error, "INSERT OR REPLACE INTO slas VALUES (?, ?)", "ss", guest, text);
}

static void add_sla(sqlite3_stmt *row, gpointer user)
{
    const char *text = text_of(row, 1);
    g_autoptr(json_t) object =
        text ? json_parse_object(text, strlen(text), JSON_LIMIT, NULL) : NULL;
    ClusterSla sla;

    if (object && sla_from_json(object, &sla, NULL))
        g_hash_table_insert(user, g_strdup(text_of(row, 0)), g_memdup2(&sla, sizeof sla));
}

static GHashTable *list_table(StoreSqlite *store, OnRow on_row, const char *sql, GError **error)
{
    lock_guard(&store->lock);
    g_autoptr(GHashTable) table = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);

    return query(store, on_row, table, error, sql, "") ? g_steal_pointer(&table) : NULL;
}

static GHashTable *sqlite_list_slas(EngineStore *base, GError **error)
{
    StoreSqlite *store = (StoreSqlite *)base;
    return list_table(store, add_sla, "SELECT guest, sla FROM slas", error);
}

static gboolean sqlite_set_frozen(EngineStore *base, const char *guest, const char *reason,
                                  GError **error)
{
    StoreSqlite *store = (StoreSqlite *)base;
    lock_guard(&store->lock);

    if (!reason)
        return change(store, error, "DELETE FROM frozen WHERE guest = ?", "s", guest);
    return change(store, error, "INSERT OR REPLACE INTO frozen VALUES (?, ?)", "ss", guest, reason);
}

static void add_pair(sqlite3_stmt *row, gpointer user)
{
    g_hash_table_insert(user, g_strdup(text_of(row, 0)), g_strdup(text_of(row, 1)));
}

static GHashTable *sqlite_list_frozen(EngineStore *base, GError **error)
{
    StoreSqlite *store = (StoreSqlite *)base;
    return list_table(store, add_pair, "SELECT guest, reason FROM frozen", error);
}

static gboolean sqlite_set_drained(EngineStore *base, const char *host, gboolean drained,
                                   GError **error)
{
    StoreSqlite *store = (StoreSqlite *)base;
    lock_guard(&store->lock);

    return change(store, error,
                  drained ? "INSERT OR REPLACE INTO drained VALUES (?)"
                          : "DELETE FROM drained WHERE host = ?",
                  "s", host);
}

static GHashTable *sqlite_list_drained(EngineStore *base, GError **error)
{
    StoreSqlite *store = (StoreSqlite *)base;
    return list_table(store, add_pair, "SELECT host, host FROM drained", error);
}

/* ---- the journal ---- */

static gboolean sqlite_write_move(EngineStore *base, MoveRecord *m, GError **error)
{
    StoreSqlite *store = (StoreSqlite *)base;
    lock_guard(&store->lock);
    g_autofree char *forecast = dump(m->forecast);
    g_autofree char *outcome = dump(m->outcome);
    g_autofree char *explanation = dump(m->explanation);

    if (!change(store, error,
                "INSERT OR REPLACE INTO moves (" MOVE_COLUMNS ") VALUES"
                " (NULLIF(?, 0), ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                "ississsssiiiissssi", m->id, m->guest, m->guest_id, m->term, m->from, m->to,
                move_by_name(m->by), move_state_name(m->state), m->activity, m->last_event,
                m->made_ms, m->ordered_ms, m->ended_ms, m->problem, forecast, outcome, explanation,
                (gint64)m->hit))
        return FALSE;
    if (m->id == 0)
        m->id = sqlite3_last_insert_rowid(store->database);
    return TRUE;
}

static json_t *read_json(sqlite3_stmt *row, int column)
{
    const char *text = text_of(row, column);

    return text ? json_parse_object(text, strlen(text), JSON_LIMIT, NULL) : NULL;
}

static void add_move(sqlite3_stmt *row, gpointer user)
{
    MoveRecord *m = g_new0(MoveRecord, 1);

    m->id = sqlite3_column_int64(row, 0);
    m->guest = g_strdup(text_of(row, 1));
    m->guest_id = g_strdup(text_of(row, 2));
    m->term = sqlite3_column_int64(row, 3);
    m->from = g_strdup(text_of(row, 4));
    m->to = g_strdup(text_of(row, 5));
    if (!move_by_from_name(text_of(row, 6), &m->by))
        m->by = MOVE_BY_OTHER;
    /* Of a state that nobody knows nothing is expected any more. */
    if (!move_state_from_name(text_of(row, 7), &m->state))
        m->state = MOVE_LOST;
    m->activity = g_strdup(text_of(row, 8));
    m->last_event = sqlite3_column_int64(row, 9);
    m->made_ms = sqlite3_column_int64(row, 10);
    m->ordered_ms = sqlite3_column_int64(row, 11);
    m->ended_ms = sqlite3_column_int64(row, 12);
    m->problem = g_strdup(text_of(row, 13));
    m->forecast = read_json(row, 14);
    m->outcome = read_json(row, 15);
    m->explanation = read_json(row, 16);
    m->hit = (int)CLAMP(sqlite3_column_int64(row, 17), -1, 1);
    g_ptr_array_add(user, m);
}

static GPtrArray *new_moves(void)
{
    return g_ptr_array_new_with_free_func((GDestroyNotify)move_record_free);
}

static GPtrArray *sqlite_list_moves(EngineStore *base, gboolean only_open, guint limit,
                                    GError **error)
{
    StoreSqlite *store = (StoreSqlite *)base;
    lock_guard(&store->lock);
    g_autoptr(GPtrArray) moves = new_moves();
    const char *sql = only_open ? "SELECT " MOVE_COLUMNS " FROM moves WHERE state IN"
                                  " ('intended', 'under-way') ORDER BY id DESC LIMIT ?"
                                : "SELECT " MOVE_COLUMNS " FROM moves ORDER BY id DESC LIMIT ?";

    return query(store, add_move, moves, error, sql, "i", (gint64)limit) ? g_steal_pointer(&moves)
                                                                         : NULL;
}

static MoveRecord *sqlite_find_move(EngineStore *base, gint64 id, GError **error)
{
    StoreSqlite *store = (StoreSqlite *)base;
    lock_guard(&store->lock);
    g_autoptr(GPtrArray) moves = new_moves();

    if (!query(store, add_move, moves, error, "SELECT " MOVE_COLUMNS " FROM moves WHERE id = ?",
               "i", id))
        return NULL;
    if (moves->len > 0)
        return g_ptr_array_steal_index(moves, 0);
    error_set(error, VMFERRY_ERROR_NOT_FOUND, "there is no move %lld", (long long)id);
    return NULL;
}

static gboolean sqlite_count_hits(EngineStore *base, guint *ret_hits, guint *ret_all,
                                  GError **error)
{
    StoreSqlite *store = (StoreSqlite *)base;
    lock_guard(&store->lock);
    gint64 hits = 0, all = 0;

    if (!query(store, take_number, &hits, error, "SELECT count(*) FROM moves WHERE hit = 1", "") ||
        !query(store, take_number, &all, error, "SELECT count(*) FROM moves WHERE hit >= 0", ""))
        return FALSE;
    *ret_hits = (guint)hits;
    *ret_all = (guint)all;
    return TRUE;
}

/* ---- figures of the past ---- */

static gboolean sqlite_add_history(EngineStore *base, const char *host, const HistoryPoint *point,
                                   GError **error)
{
    StoreSqlite *store = (StoreSqlite *)base;
    lock_guard(&store->lock);

    return change(store, error, "INSERT OR REPLACE INTO history VALUES (?, ?, ?, ?, ?, ?)",
                  "sidddd", host, point->time_s, point->cpu, point->memory, point->network,
                  point->pressure);
}

static void add_point(sqlite3_stmt *row, gpointer user)
{
    HistoryPoint point = {.time_s = sqlite3_column_int64(row, 0),
                          .cpu = sqlite3_column_double(row, 1),
                          .memory = sqlite3_column_double(row, 2),
                          .network = sqlite3_column_double(row, 3),
                          .pressure = sqlite3_column_double(row, 4)};

    g_array_append_val((GArray *)user, point);
}

static GArray *sqlite_read_history(EngineStore *base, const char *host, gint64 since_s,
                                   GError **error)
{
    StoreSqlite *store = (StoreSqlite *)base;
    lock_guard(&store->lock);
    g_autoptr(GArray) points = g_array_new(FALSE, FALSE, sizeof(HistoryPoint));

    return query(store, add_point, points, error,
                 "SELECT time_s, cpu, memory, network, pressure FROM history"
                 " WHERE host = ? AND time_s >= ? ORDER BY time_s",
                 "si", host, since_s)
               ? g_steal_pointer(&points)
               : NULL;
}

/* ---- what was at this time of the day ---- */

static gboolean write_daily(StoreSqlite *store, const char *guest, const Daily *daily,
                            GError **error)
{
    g_autoptr(json_t) object = daily_to_json(daily);
    g_autofree char *text = dump(object);

    return change(store, error, "INSERT OR REPLACE INTO daily VALUES (?, ?, ?)", "sis", guest,
                  (gint64)MAX(daily->cpu.hour, daily->network.hour) * 3600, text);
}

static gboolean write_all_daily(StoreSqlite *store, GHashTable *daily, GError **error)
{
    GHashTableIter at;
    gpointer guest, figures;

    g_hash_table_iter_init(&at, daily);
    while (g_hash_table_iter_next(&at, &guest, &figures))
        if (!write_daily(store, guest, figures, error))
            return FALSE;
    return TRUE;
}

static gboolean sqlite_write_daily(EngineStore *base, GHashTable *daily, GError **error)
{
    StoreSqlite *store = (StoreSqlite *)base;
    lock_guard(&store->lock);

    if (!change(store, error, "BEGIN IMMEDIATE", ""))
        return FALSE;
    if (write_all_daily(store, daily, error) && change(store, error, "COMMIT", ""))
        return TRUE;
    roll_back(store);
    return FALSE;
}

static void add_daily(sqlite3_stmt *row, gpointer user)
{
    const char *text = text_of(row, 1);
    g_autoptr(json_t) object =
        text ? json_parse_object(text, strlen(text), JSON_LIMIT, NULL) : NULL;
    Daily daily;

    if (object && daily_from_json(object, &daily))
        g_hash_table_insert(user, g_strdup(text_of(row, 0)), g_memdup2(&daily, sizeof daily));
}

static GHashTable *sqlite_read_daily(EngineStore *base, GError **error)
{
    return list_table((StoreSqlite *)base, add_daily, "SELECT guest, figures FROM daily", error);
}

static gboolean sqlite_prune(EngineStore *base, gint64 now_s, GError **error)
{
    StoreSqlite *store = (StoreSqlite *)base;
    lock_guard(&store->lock);
    gint64 oldest = now_s - ENGINE_STORE_KEPT_DAYS * INT64_C(86400);

    return change(store, error, "DELETE FROM history WHERE time_s < ?", "i", oldest) &&
           change(store, error, "DELETE FROM daily WHERE time_s < ?", "i", oldest) &&
           change(store, error,
                  "DELETE FROM moves WHERE made_ms < ? AND state NOT IN ('intended', 'under-way')",
                  "i", oldest * 1000);
}

/* ---- opening, the last step ---- */

static gboolean sqlite_refresh(EngineStore *base, gboolean *ret_changed, GError **error)
{
    *ret_changed = FALSE;
    return TRUE;
}

/* Whoever has the lock leads. */
static void sqlite_get_leadership(EngineStore *base, StoreLeadership *ret)
{
    *ret = (StoreLeadership){.term = 1, .is_held = TRUE};
}

EngineStore *engine_store_open(const char *path, GError **error)
{
    static const EngineStoreOps ops = {
        .close = sqlite_close,
        .refresh = sqlite_refresh,
        .get_leadership = sqlite_get_leadership,
        .get_failure = sqlite_get_failure,
        .add_rule = sqlite_add_rule,
        .remove_rule = sqlite_remove_rule,
        .list_rules = sqlite_list_rules,
        .set_sla = sqlite_set_sla,
        .list_slas = sqlite_list_slas,
        .set_frozen = sqlite_set_frozen,
        .list_frozen = sqlite_list_frozen,
        .set_drained = sqlite_set_drained,
        .list_drained = sqlite_list_drained,
        .write_move = sqlite_write_move,
        .list_moves = sqlite_list_moves,
        .find_move = sqlite_find_move,
        .count_hits = sqlite_count_hits,
        .add_history = sqlite_add_history,
        .read_history = sqlite_read_history,
        .write_daily = sqlite_write_daily,
        .read_daily = sqlite_read_daily,
        .prune = sqlite_prune,
    };
    StoreSqlite *store = g_new0(StoreSqlite, 1);

    store->base.ops = &ops;
    g_mutex_init(&store->lock);
    store->path = g_strdup(path);
    if (prepare_database(store, error))
        return &store->base;
    sqlite_close(&store->base);
    return NULL;
}
