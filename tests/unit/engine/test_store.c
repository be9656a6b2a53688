/* The engine's memory: what it keeps, and what it refuses to open. */
#include "scratch.h"

#include <sqlite3.h>
#include <string.h>

#include "base/error.h"
#include "base/fd.h"
#include "engine/store.h"

static char *path_in(const char *folder)
{
    return g_build_filename(folder, "engine.db", NULL);
}

static void run_sql(const char *path, const char *sql)
{
    sqlite3 *database = NULL;

    assert_int_equal(sqlite3_open(path, &database), SQLITE_OK);
    assert_int_equal(sqlite3_exec(database, sql, NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(database);
}

static void expect_refusal(const char *path, int code, const char *words)
{
    GError *error = NULL;

    assert_null(engine_store_open(path, &error));
    assert_error_says(error, code, words);
}

static MoveRecord *make_move(const char *guest, MoveState state)
{
    MoveRecord *record = move_record_new(guest, "hosta", "hostb", MOVE_BY_ENGINE);

    record->guest_id = g_strdup("0123");
    record->term = 4;
    record->state = state;
    record->explanation = json_pack("{s:s}", "text", "it was hot");
    return record;
}

static void test_keeps(void **state)
{
    char *folder = scratch_new();
    g_autofree char *path = path_in(folder);
    g_autoptr(EngineStore) store = engine_store_open(path, NULL);
    g_autoptr(MoveRecord) move = make_move("web1", MOVE_INTENDED);
    g_autoptr(json_t) object = json_pack("{s:s, s:[s, s]}", "kind", "apart", "guests", "a", "b");
    g_autoptr(Rule) rule = rule_from_json(object, NULL);
    ClusterSla sla = {.cpu_wait = 0.05};
    HistoryPoint point = {.time_s = 60, .cpu = 0.5, .memory = -1, .network = 7, .pressure = 0};

    assert_non_null(store);
    assert_true(engine_store_write_move(store, move, NULL));
    assert_int_equal(move->id, 1);
    assert_true(engine_store_add_rule(store, rule, NULL));
    assert_true(engine_store_set_sla(store, "web1", &sla, NULL));
    assert_true(engine_store_set_frozen(store, "web2", "why", NULL));
    assert_true(engine_store_set_drained(store, "hostc", TRUE, NULL));
    assert_true(engine_store_add_history(store, "hosta", &point, NULL));
    engine_store_close(g_steal_pointer(&store));

    store = engine_store_open(path, NULL);
    assert_non_null(store);
    {
        g_autoptr(GPtrArray) open = engine_store_list_moves(store, TRUE, 10, NULL);
        g_autoptr(GPtrArray) rules = engine_store_list_rules(store, NULL);
        g_autoptr(GHashTable) slas = engine_store_list_slas(store, NULL);
        g_autoptr(GHashTable) frozen = engine_store_list_frozen(store, NULL);
        g_autoptr(GHashTable) drained = engine_store_list_drained(store, NULL);
        g_autoptr(GArray) points = engine_store_read_history(store, "hosta", 0, NULL);
        const MoveRecord *found = open->pdata[0];

        assert_int_equal(open->len, 1);
        assert_string_equal(found->guest_id, "0123");
        assert_int_equal(found->term, 4);
        assert_int_equal(found->hit, -1);
        assert_string_equal(json_text_or(found->explanation, "text", ""), "it was hot");
        assert_int_equal(rules->len, 1);
        assert_string_equal(((Rule *)rules->pdata[0])->id, "1");
        assert_true(((ClusterSla *)g_hash_table_lookup(slas, "web1"))->cpu_wait == 0.05);
        assert_string_equal(g_hash_table_lookup(frozen, "web2"), "why");
        assert_true(g_hash_table_contains(drained, "hostc"));
        assert_int_equal(points->len, 1);
        assert_true(g_array_index(points, HistoryPoint, 0).memory == -1);
    }
    engine_store_close(g_steal_pointer(&store));
    scratch_remove(folder);
}

static Daily make_daily(void)
{
    Daily daily = {0};

    for (guint i = 0; i < 10; i++) {
        cluster_history_add(&daily.cpu, (24 * 100 + 5) * 3600e3 + i * 1000, 0.5);
        cluster_history_add(&daily.network, (24 * 100 + 5) * 3600e3 + i * 1000, i % 2 ? 2e6 : 3e6);
    }
    return daily;
}

static GHashTable *make_dailies(const char *guest, const char *other)
{
    GHashTable *table = g_hash_table_new_full(g_str_hash, g_str_equal, NULL, g_free);
    Daily daily = make_daily();

    g_hash_table_insert(table, (gpointer)guest, g_memdup2(&daily, sizeof daily));
    if (other)
        g_hash_table_insert(table, (gpointer)other, g_memdup2(&daily, sizeof daily));
    return table;
}

static void test_keeps_hours_of_the_day(void **state)
{
    char *folder = scratch_new();
    g_autofree char *path = path_in(folder);
    g_autoptr(EngineStore) store = engine_store_open(path, NULL);
    g_autoptr(GHashTable) first = make_dailies("0123", "4567");
    g_autoptr(GHashTable) later = make_dailies("0123", NULL);
    g_autoptr(GHashTable) found = NULL;
    Daily daily = make_daily();
    const Daily *seen;

    cluster_history_add(&daily.cpu, (24 * 100 + 6) * 3600e3, 0.75);
    *(Daily *)g_hash_table_lookup(later, "0123") = daily;
    assert_true(engine_store_write_daily(store, first, NULL));
    assert_true(engine_store_write_daily(store, later, NULL));
    engine_store_close(g_steal_pointer(&store));
    store = engine_store_open(path, NULL);
    found = engine_store_read_daily(store, NULL);
    assert_int_equal(g_hash_table_size(found), 2);
    seen = g_hash_table_lookup(found, "0123");
    assert_int_equal(seen->cpu.hour, 24 * 100 + 6);
    assert_int_equal(seen->cpu.count[5], 10);
    assert_true(seen->cpu.mean[6] == 0.75f &&
                seen->network.variance[5] == make_daily().network.variance[5] &&
                seen->network.variance[5] > 1e11f);
    /* What nobody has seen for a month goes. */
    g_clear_pointer(&found, g_hash_table_unref);
    assert_true(engine_store_prune(store, (24 * 100 + 5) * INT64_C(3600) + 1 + 30 * 86400, NULL));
    found = engine_store_read_daily(store, NULL);
    assert_int_equal(g_hash_table_size(found), 1);
    assert_non_null(g_hash_table_lookup(found, "0123"));
    engine_store_close(g_steal_pointer(&store));
    scratch_remove(folder);
}

/* As the first version wrote it: without that table. */
static void test_takes_over_an_older_one(void **state)
{
    char *folder = scratch_new();
    g_autofree char *path = path_in(folder);
    g_autoptr(EngineStore) store = engine_store_open(path, NULL);
    g_autoptr(GHashTable) daily = make_dailies("0123", NULL);
    g_autoptr(GHashTable) frozen = NULL;

    assert_true(engine_store_set_frozen(store, "web2", "why", NULL));
    engine_store_close(g_steal_pointer(&store));
    run_sql(path, "DROP TABLE daily; PRAGMA user_version = 1");
    store = engine_store_open(path, NULL);
    assert_non_null(store);
    frozen = engine_store_list_frozen(store, NULL);
    assert_string_equal(g_hash_table_lookup(frozen, "web2"), "why");
    assert_true(engine_store_write_daily(store, daily, NULL));
    engine_store_close(g_steal_pointer(&store));
    store = engine_store_open(path, NULL);
    assert_non_null(store);
    engine_store_close(g_steal_pointer(&store));
    scratch_remove(folder);
}

static void test_hours_that_make_no_sense(void **state)
{
    static const char sick[] =
        "{\"cpu\": {\"hour\": 5, \"hours\": [[0, 1, 1], [1, -1, 1], [70000, 1, 1], [3, 1e300, 1],"
        " [1, 2], 7, \"x\", {}, null, [2, \"a\", 3], [4, 0.5, 0.75], [1.5, 1, 1], null, null, null,"
        " null, null, null, null, null, null, null, null, null]},"
        " \"network\": {\"hour\": -1, \"hours\": []}}";
    g_autoptr(json_t) object = json_parse_object(sick, strlen(sick), 4096, NULL);
    g_autoptr(json_t) nothing = json_object();
    Daily daily;

    assert_non_null(object);
    assert_true(daily_from_json(object, &daily));
    for (guint i = 0; i < CLUSTER_HISTORY_HOURS; i++)
        assert_int_equal(daily.cpu.count[i], i == 10 ? 4 : 0);
    assert_true(daily.cpu.variance[10] == 0.75f && daily.network.hour == 0);
    assert_false(daily_from_json(nothing, &daily));
    assert_int_equal(daily.cpu.count[10], 0);
}

static void test_moves_are_settled(void **state)
{
    char *folder = scratch_new();
    g_autofree char *path = path_in(folder);
    g_autoptr(EngineStore) store = engine_store_open(path, NULL);
    g_autoptr(MoveRecord) move = make_move("web1", MOVE_INTENDED);
    g_autoptr(GPtrArray) open = NULL;
    g_autoptr(GPtrArray) all = NULL;
    guint hits, of;
    GError *error = NULL;

    assert_true(engine_store_write_move(store, move, NULL));
    move->state = MOVE_COMPLETED;
    move->hit = 1;
    assert_true(engine_store_write_move(store, move, NULL));
    open = engine_store_list_moves(store, TRUE, 10, NULL);
    assert_int_equal(open->len, 0);
    all = engine_store_list_moves(store, FALSE, 10, NULL);
    assert_int_equal(all->len, 1);
    assert_true(engine_store_count_hits(store, &hits, &of, NULL));
    assert_int_equal(hits, 1);
    assert_int_equal(of, 1);
    assert_null(engine_store_find_move(store, 77, &error));
    assert_error_says(error, VMFERRY_ERROR_NOT_FOUND, "no move 77");
    error = NULL;
    assert_false(engine_store_remove_rule(store, "5", &error));
    assert_error_says(error, VMFERRY_ERROR_NOT_FOUND, "no rule 5");
    engine_store_close(g_steal_pointer(&store));
    scratch_remove(folder);
}

/* Numbers are not given twice: whoever has noted one means that move. */
static void test_numbers_only_grow(void **state)
{
    char *folder = scratch_new();
    g_autofree char *path = path_in(folder);
    g_autoptr(EngineStore) store = engine_store_open(path, NULL);
    g_autoptr(MoveRecord) old = make_move("web1", MOVE_COMPLETED);
    g_autoptr(MoveRecord) next = make_move("web1", MOVE_INTENDED);

    old->made_ms = 1;
    assert_true(engine_store_write_move(store, old, NULL));
    assert_true(engine_store_prune(store, g_get_real_time() / G_USEC_PER_SEC, NULL));
    assert_true(engine_store_write_move(store, next, NULL));
    assert_int_equal(next->id, 2);
    engine_store_close(g_steal_pointer(&store));
    scratch_remove(folder);
}

static void test_one_engine(void **state)
{
    char *folder = scratch_new();
    g_autofree char *path = path_in(folder);
    g_autoptr(EngineStore) store = engine_store_open(path, NULL);

    assert_non_null(store);
    expect_refusal(path, VMFERRY_ERROR_BUSY, "another engine has it");
    engine_store_close(g_steal_pointer(&store));
    store = engine_store_open(path, NULL);
    assert_non_null(store);
    engine_store_close(g_steal_pointer(&store));
    scratch_remove(folder);
}

static void test_damaged(void **state)
{
    char *folder = scratch_new();
    g_autofree char *path = path_in(folder);
    g_autoptr(EngineStore) store = engine_store_open(path, NULL);
    g_autofree char *content = NULL;
    size_t length;

    for (guint i = 0; i < 200; i++) {
        g_autoptr(MoveRecord) move = make_move("web1", MOVE_COMPLETED);

        assert_true(engine_store_write_move(store, move, NULL));
    }
    engine_store_close(g_steal_pointer(&store));
    content = file_read(path, 64u << 20, &length, NULL);
    assert_non_null(content);
    /* Half of it, noise in the middle, and something else altogether. */
    assert_true(file_replace(path, content, length / 2, FALSE, NULL));
    expect_refusal(path, VMFERRY_ERROR_INVALID, "is damaged");
    memset(content + length / 4, 0x5a, length / 2);
    assert_true(file_replace(path, content, length, FALSE, NULL));
    expect_refusal(path, VMFERRY_ERROR_INVALID, "is damaged");
    scratch_write(folder, "engine.db",
                  "this is a text, and one that is longer than a header of "
                  "SQLite, which has a hundred bytes or so at its begin.");
    expect_refusal(path, VMFERRY_ERROR_INVALID, "is damaged, or not a database");
    scratch_remove(folder);
}

static void test_strange(void **state)
{
    char *folder = scratch_new();
    g_autofree char *path = path_in(folder);
    g_autofree char *other = g_build_filename(folder, "other.db", NULL);
    g_autofree char *nowhere = g_build_filename(folder, "no", "such", "folder.db", NULL);

    engine_store_close(engine_store_open(path, NULL));
    run_sql(path, "PRAGMA user_version = 3");
    expect_refusal(path, VMFERRY_ERROR_UNSUPPORTED, "newer version");
    run_sql(other, "CREATE TABLE t (a)");
    expect_refusal(other, VMFERRY_ERROR_INVALID, "is not the store of an engine");
    expect_refusal(nowhere, VMFERRY_ERROR_PERMISSION, "does its folder exist");
    scratch_remove(folder);
}

/* The disk is full, in the middle of things: writes fail and say so; once there is room, they work. */
static void test_full(void **state)
{
    char *folder = scratch_new();
    g_autofree char *path = path_in(folder);
    g_autoptr(EngineStore) store = engine_store_open(path, NULL);
    g_autofree char *failure = NULL;
    GError *error = NULL;

    engine_store_limit_pages(store, TRUE);
    for (guint i = 0; i < 1000 && !error; i++) {
        g_autoptr(MoveRecord) move = make_move("web1", MOVE_INTENDED);

        engine_store_write_move(store, move, &error);
    }
    assert_error_says(error, VMFERRY_ERROR_NO_SPACE, "the disk is full; no move starts");
    failure = engine_store_get_failure(store, FALSE);
    assert_non_null(failure);
    engine_store_limit_pages(store, FALSE);
    g_clear_pointer(&failure, g_free);
    failure = engine_store_get_failure(store, TRUE);
    assert_null(failure);
    engine_store_close(g_steal_pointer(&store));
    scratch_remove(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_keeps),
        cmocka_unit_test(test_keeps_hours_of_the_day),
        cmocka_unit_test(test_takes_over_an_older_one),
        cmocka_unit_test(test_hours_that_make_no_sense),
        cmocka_unit_test(test_moves_are_settled),
        cmocka_unit_test(test_numbers_only_grow),
        cmocka_unit_test(test_one_engine),
        cmocka_unit_test(test_damaged),
        cmocka_unit_test(test_strange),
        cmocka_unit_test(test_full),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
