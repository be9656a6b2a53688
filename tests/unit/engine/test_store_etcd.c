/* The store of several engines, with a real etcd: who leads, whose writes count, and what an evil one may answer. */
#include "etcd_server.h"
#include "scratch.h"

#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "engine/etcd_keys.h"
#include "engine/store.h"
#include "migrate/etcd.h"

#define LEASE_MS 2000
#define ETCD_ELECTION_MS 2000
#define WAIT_MS 15000
#define NS_PER_MS UINT64_C(1000000)

/* ---- engines ---- */

typedef struct {
    char *folder;
    EngineStore *store;
} Engine;

static void engine_start(Engine *e, const char *name, const char *prefix)
{
    g_autofree char *path = NULL;
    const StoreEtcdOptions options = {
        .address = etcd_server_address(), .prefix = prefix, .name = name, .lease_ms = LEASE_MS};

    e->folder = scratch_new();
    path = g_build_filename(e->folder, "engine.db", NULL);
    e->store = engine_store_open_etcd(&options, engine_store_open(path, NULL), NULL);
    assert_non_null(e->store);
}

static void engine_end(Engine *e)
{
    engine_store_close(e->store);
    scratch_remove(e->folder);
}

static gint64 term_of(const Engine *e)
{
    g_auto(StoreLeadership) leadership = {0};

    engine_store_get_leadership(e->store, &leadership);
    return leadership.is_held ? leadership.term : 0;
}

typedef gboolean (*Condition)(const Engine *e);

static gboolean leads(const Engine *e)
{
    return term_of(e) != 0;
}

static gboolean does_not_lead(const Engine *e)
{
    return term_of(e) == 0;
}

static gboolean answers(const Engine *e)
{
    gboolean changed;

    return engine_store_refresh(e->store, &changed, NULL);
}

static gboolean does_not_answer(const Engine *e)
{
    return !answers(e);
}

/* Returns how long it took, in ms. */
static guint await(const Engine *e, Condition condition)
{
    uint64_t start = clock_now_ns();

    while (!condition(e)) {
        assert_true(clock_now_ns() - start < WAIT_MS * NS_PER_MS);
        clock_sleep_ns(20 * NS_PER_MS);
    }
    return (guint)((clock_now_ns() - start) / NS_PER_MS);
}

static gboolean refresh(const Engine *e)
{
    gboolean changed = FALSE;

    assert_true(engine_store_refresh(e->store, &changed, NULL));
    return changed;
}

static MoveRecord *make_move(const char *guest, gint64 term)
{
    MoveRecord *record = move_record_new(guest, "hosta", "hostb", MOVE_BY_ENGINE);

    record->guest_id = g_strdup("0123");
    record->term = 4;
    record->lead_term = term;
    record->explanation = json_pack("{s:s}", "text", "it was hot");
    return record;
}

/* ---- the journal ---- */

static void test_one_writes_and_both_read(void **state)
{
    Engine one, two;
    g_autoptr(MoveRecord) move = NULL;
    g_autoptr(MoveRecord) found = NULL;
    g_autoptr(MoveRecord) foreign = NULL;
    g_autoptr(GError) error = NULL;

    etcd_server_need();
    engine_start(&one, "one", "/journal/");
    await(&one, leads);
    engine_start(&two, "two", "/journal/");
    await(&two, answers);
    await(&one, answers);
    move = make_move("web1", term_of(&one));
    assert_true(engine_store_write_move(one.store, move, NULL));
    assert_int_equal(move->id, 1);
    assert_true(refresh(&two));
    assert_false(refresh(&two));
    found = engine_store_find_move(two.store, 1, NULL);
    assert_string_equal(found->guest, "web1");
    assert_string_equal(found->guest_id, "0123");
    assert_int_equal(found->term, 4);
    assert_int_equal(found->hit, -1);
    assert_int_equal(found->state, MOVE_INTENDED);
    assert_string_equal(json_text_or(found->explanation, "text", ""), "it was hot");
    /* The other one may not, and says who may. */
    foreign = make_move("web2", term_of(&one));
    assert_false(engine_store_write_move(two.store, foreign, &error));
    assert_true(error_is(error, VMFERRY_ERROR_BUSY));
    assert_non_null(strstr(error->message, "engine one leads"));
    assert_int_equal(foreign->id, 0);
    move->state = MOVE_COMPLETED;
    move->hit = 1;
    assert_true(engine_store_write_move(one.store, move, NULL));
    assert_true(refresh(&two));
    {
        g_autoptr(GPtrArray) open = engine_store_list_moves(two.store, TRUE, 10, NULL);
        g_autoptr(GPtrArray) all = engine_store_list_moves(two.store, FALSE, 10, NULL);
        guint hits, of;

        assert_int_equal(open->len, 0);
        assert_int_equal(all->len, 1);
        assert_true(engine_store_count_hits(two.store, &hits, &of, NULL));
        assert_true(hits == 1 && of == 1);
    }
    engine_end(&one);
    engine_end(&two);
}

/* More than fit into one answer; the newest first, and numbers go on after a change. */
static void test_a_long_journal(void **state)
{
    enum { MOVES = 150 };
    Engine one, two;
    g_autoptr(GPtrArray) moves = NULL;
    g_autoptr(MoveRecord) next = NULL;

    etcd_server_need();
    engine_start(&one, "one", "/long/");
    await(&one, leads);
    assert_true(refresh(&one));
    for (guint i = 0; i < MOVES; i++) {
        g_autoptr(MoveRecord) move = make_move("web1", term_of(&one));

        assert_true(engine_store_write_move(one.store, move, NULL));
        assert_int_equal(move->id, i + 1);
    }
    engine_start(&two, "two", "/long/");
    engine_end(&one);
    await(&two, leads);
    refresh(&two);
    moves = engine_store_list_moves(two.store, TRUE, MOVES * 2, NULL);
    assert_int_equal(moves->len, MOVES);
    assert_int_equal(((MoveRecord *)moves->pdata[0])->id, MOVES);
    next = make_move("web2", term_of(&two));
    assert_true(engine_store_write_move(two.store, next, NULL));
    assert_int_equal(next->id, MOVES + 1);
    engine_end(&two);
}

/* What is old goes, but what is open. */
static void test_prune(void **state)
{
    Engine one, two;
    g_autoptr(GPtrArray) moves = NULL;
    gint64 now_ms = g_get_real_time() / 1000;

    etcd_server_need();
    engine_start(&one, "one", "/prune/");
    await(&one, leads);
    refresh(&one);
    for (guint i = 0; i < 3; i++) {
        g_autoptr(MoveRecord) move = make_move("web1", term_of(&one));

        move->state = i == 1 ? MOVE_ORDERED : MOVE_COMPLETED;
        if (i < 2)
            move->made_ms = now_ms - (ENGINE_STORE_KEPT_DAYS + 1) * INT64_C(86400000);
        assert_true(engine_store_write_move(one.store, move, NULL));
    }
    assert_true(engine_store_prune(one.store, now_ms / 1000, NULL));
    engine_start(&two, "two", "/prune/");
    await(&two, answers);
    moves = engine_store_list_moves(two.store, FALSE, 10, NULL);
    assert_int_equal(moves->len, 2);
    assert_int_equal(((MoveRecord *)moves->pdata[0])->id, 3);
    assert_int_equal(((MoveRecord *)moves->pdata[1])->id, 2);
    engine_end(&one);
    engine_end(&two);
}

/* A term that is over does not come again, and nothing is written in it. */
static void test_a_term_that_is_over(void **state)
{
    Engine one;
    g_autoptr(MoveRecord) move = NULL;
    g_autoptr(GError) error = NULL;
    gint64 first;

    etcd_server_need();
    engine_start(&one, "one", "/term/");
    await(&one, leads);
    refresh(&one);
    first = term_of(&one);
    engine_end(&one);
    engine_start(&one, "one", "/term/");
    await(&one, leads);
    refresh(&one);
    assert_true(term_of(&one) > first);
    move = make_move("web1", first);
    assert_false(engine_store_write_move(one.store, move, &error));
    assert_true(error_is(error, VMFERRY_ERROR_BUSY));
    {
        g_autoptr(GPtrArray) all = NULL;

        refresh(&one);
        all = engine_store_list_moves(one.store, FALSE, 10, NULL);
        assert_int_equal(all->len, 0);
    }
    engine_end(&one);
}

/* As somebody else who has the key's lease revoked. */
static void remove_leader(const char *prefix)
{
    g_autoptr(Etcd) etcd = etcd_new(etcd_server_address(), NULL);
    g_autofree char *key = g_strconcat(prefix, "leader", NULL);
    g_autoptr(json_t) body =
        etcd_transaction(json_array(), json_pack("[o]", etcd_delete(key)), NULL);
    g_autoptr(json_t) answer = NULL;
    uint64_t sent_ns;

    answer = etcd_request(etcd, ETCD_KEYS_TXN, body, 4096, clock_now_ns() + WAIT_MS * NS_PER_MS,
                          &sent_ns, NULL);
    assert_non_null(answer);
}

/* What an engine that does not know better yet sends is refused by etcd itself. */
static void test_etcd_refuses(void **state)
{
    Engine one;
    gboolean refused = FALSE;

    etcd_server_need();
    engine_start(&one, "one", "/refuse/");
    for (guint i = 0; i < 20 && !refused; i++) {
        g_autoptr(MoveRecord) move = NULL;
        g_autoptr(GPtrArray) all = NULL;
        g_autoptr(GError) error = NULL;

        await(&one, leads);
        refresh(&one);
        move = make_move("web1", term_of(&one));
        remove_leader("/refuse/");
        assert_false(engine_store_write_move(one.store, move, &error));
        assert_true(error_is(error, VMFERRY_ERROR_BUSY));
        /* Else it had seen that just before. */
        refused = strstr(error->message, "nothing was written") != NULL;
        refresh(&one);
        all = engine_store_list_moves(one.store, FALSE, 10, NULL);
        assert_int_equal(all->len, 0);
    }
    assert_true(refused);
    engine_end(&one);
}

/* ---- what users have said: by any engine ---- */

static void test_wishes(void **state)
{
    Engine one, two;
    g_autoptr(json_t) object = json_pack("{s:s, s:[s, s]}", "kind", "apart", "guests", "a", "b");
    g_autoptr(Rule) rule = rule_from_json(object, NULL);
    g_autoptr(Rule) late = rule_from_json(object, NULL);
    ClusterSla sla = {.cpu_wait = 0.05}, none = {0};
    g_autoptr(GError) error = NULL;

    etcd_server_need();
    engine_start(&one, "one", "/wishes/");
    await(&one, leads);
    /* Before anything was read nothing is written. */
    assert_false(engine_store_set_frozen(one.store, "web2", "why", &error));
    assert_non_null(strstr(error->message, "has not answered yet"));
    g_clear_error(&error);
    engine_start(&two, "two", "/wishes/");
    await(&one, answers);
    await(&two, answers);
    assert_true(engine_store_add_rule(two.store, rule, NULL));
    assert_string_equal(rule->id, "1");
    /* Given at the same time to the other one, who has not seen that. */
    assert_false(engine_store_add_rule(one.store, late, &error));
    assert_true(error_is(error, VMFERRY_ERROR_BUSY));
    assert_true(engine_store_set_sla(two.store, "web1", &sla, NULL));
    assert_true(engine_store_set_frozen(two.store, "", "all", NULL));
    assert_true(engine_store_set_frozen(two.store, "web2", "why", NULL));
    assert_true(engine_store_set_drained(two.store, "hostc", TRUE, NULL));
    assert_true(refresh(&one));
    assert_false(refresh(&one));
    for (guint i = 0; i < 2; i++) {
        EngineStore *store = i == 0 ? one.store : two.store;
        g_autoptr(GPtrArray) rules = engine_store_list_rules(store, NULL);
        g_autoptr(GHashTable) slas = engine_store_list_slas(store, NULL);
        g_autoptr(GHashTable) frozen = engine_store_list_frozen(store, NULL);
        g_autoptr(GHashTable) drained = engine_store_list_drained(store, NULL);

        assert_int_equal(rules->len, 1);
        assert_string_equal(((Rule *)rules->pdata[0])->id, "1");
        assert_true(((ClusterSla *)g_hash_table_lookup(slas, "web1"))->cpu_wait == 0.05);
        assert_string_equal(g_hash_table_lookup(frozen, ""), "all");
        assert_string_equal(g_hash_table_lookup(frozen, "web2"), "why");
        assert_true(g_hash_table_contains(drained, "hostc"));
    }
    assert_true(engine_store_add_rule(one.store, late, NULL));
    assert_string_equal(late->id, "2");
    g_clear_error(&error);
    assert_false(engine_store_remove_rule(one.store, "7", &error));
    assert_true(error_is(error, VMFERRY_ERROR_NOT_FOUND));
    assert_true(engine_store_remove_rule(one.store, "1", NULL));
    assert_true(engine_store_set_sla(one.store, "web1", &none, NULL));
    assert_true(engine_store_set_frozen(one.store, "", NULL, NULL));
    assert_true(engine_store_set_drained(one.store, "hostc", FALSE, NULL));
    assert_true(refresh(&two));
    {
        g_autoptr(GPtrArray) rules = engine_store_list_rules(two.store, NULL);
        g_autoptr(GHashTable) slas = engine_store_list_slas(two.store, NULL);
        g_autoptr(GHashTable) frozen = engine_store_list_frozen(two.store, NULL);
        g_autoptr(GHashTable) drained = engine_store_list_drained(two.store, NULL);

        assert_int_equal(rules->len, 1);
        assert_string_equal(((Rule *)rules->pdata[0])->id, "2");
        assert_int_equal(g_hash_table_size(slas) + g_hash_table_size(drained), 0);
        assert_int_equal(g_hash_table_size(frozen), 1);
    }
    engine_end(&one);
    engine_end(&two);
}

/* ---- a member that has lost the majority ---- */

static void test_a_partition(void **state)
{
    Engine one;
    g_autoptr(MoveRecord) move = NULL;
    g_autoptr(GError) error = NULL;
    g_autofree char *failure = NULL;
    g_autofree char *after = NULL;
    gint64 term;

    etcd_server_need();
    engine_start(&one, "one", "/partition/");
    await(&one, leads);
    refresh(&one);
    term = term_of(&one);
    move = make_move("web1", term);
    assert_true(engine_store_write_move(one.store, move, NULL));
    etcd_server_kill(1);
    etcd_server_kill(2);
    /* It is not sure to lead for longer than its lease, and can write nothing.  etcd's own leader grants leases until it
     * misses its majority. */
    assert_true(await(&one, does_not_lead) <= LEASE_MS + ETCD_ELECTION_MS);
    move->state = MOVE_COMPLETED;
    assert_false(engine_store_write_move(one.store, move, &error));
    assert_non_null(strstr(error->message, "etcd"));
    await(&one, does_not_answer);
    failure = engine_store_get_failure(one.store, TRUE);
    assert_non_null(strstr(failure, "etcd"));
    g_clear_error(&error);
    assert_false(engine_store_set_frozen(one.store, "", "all", &error));
    assert_non_null(error);
    etcd_server_start(1);
    etcd_server_start(2);
    await(&one, leads);
    await(&one, answers);
    after = engine_store_get_failure(one.store, TRUE);
    assert_null(after);
    move->lead_term = term_of(&one);
    assert_true(engine_store_write_move(one.store, move, NULL));
    engine_end(&one);
}

/* ---- without a network: what may come ---- */

#define HEADER "\"header\":{\"revision\":\"9\"}"
#define KV(rest)                                                                                   \
    "{" HEADER ",\"succeeded\":true,\"responses\":[{\"response_range\":{\"kvs\":[{" rest "}]}}]}"
#define GOOD "\"key\":\"YQ==\",\"create_revision\":\"3\",\"mod_revision\":\"4\",\"value\":\"Y2Q=\""

static gboolean read_answer(const char *text, EtcdOutcome *ret)
{
    g_autoptr(json_t) answer = json_parse_object(text, strlen(text), 4096, NULL);

    assert_non_null(answer);
    return etcd_outcome_read(answer, ret, NULL);
}

static void test_what_may_come(void **state)
{
    static const char *const wrong[] = {
        "{}",
        "{\"header\":7}",
        "{\"header\":{\"revision\":\"-1\"}}",
        "{\"header\":{\"revision\":9}}",
        "{" HEADER ",\"succeeded\":\"yes\"}",
        "{" HEADER ",\"responses\":7}",
        "{" HEADER ",\"responses\":[{\"response_range\":{\"kvs\":7}}]}",
        KV("\"key\":\"YQ==\""),
        KV("\"key\":\"YQ\",\"create_revision\":\"3\",\"mod_revision\":\"4\""),
        /* A value with a NUL, one that is no UTF-8, a lease that is none. */
        KV("\"key\":\"YQ==\",\"create_revision\":\"3\",\"mod_revision\":\"4\",\"value\":\"AA==\""),
        KV("\"key\":\"YQ==\",\"create_revision\":\"3\",\"mod_revision\":\"4\",\"value\":\"/w==\""),
        KV(GOOD ",\"lease\":\"-5\""),
    };
    g_auto(EtcdOutcome) outcome = {0};
    const EtcdFound *found;

    for (guint i = 0; i < G_N_ELEMENTS(wrong); i++)
        if (read_answer(wrong[i], &outcome))
            fail_msg("%s was taken", wrong[i]);
    assert_true(read_answer(KV(GOOD ",\"lease\":\"5\""), &outcome));
    found = etcd_outcome_first(&outcome, 0);
    assert_string_equal(found->key, "a");
    assert_string_equal(found->value, "cd");
    assert_true(found->made == 3 && found->written == 4 && found->lease == 5);
    assert_true(outcome.done && outcome.revision == 9);
    assert_null(etcd_outcome_first(&outcome, 1));
}

static void test_a_record_there_and_back(void **state)
{
    g_autoptr(MoveRecord) move = make_move("web1", 5);
    g_autoptr(MoveRecord) back = NULL;
    g_autoptr(MoveRecord) strange = NULL;
    g_autoptr(json_t) object = NULL;
    g_autoptr(json_t) first = NULL;
    g_autoptr(json_t) second = NULL;

    move->id = 3;
    move->state = MOVE_FAILED;
    move->problem = g_strdup("no room");
    move->activity = g_strdup("abc");
    move->last_event = 17;
    move->ordered_ms = 5;
    move->ended_ms = 6;
    move->hit = 0;
    object = move_record_encode(move);
    back = move_record_decode(object, NULL);
    first = move_record_to_json(move);
    second = move_record_to_json(back);
    assert_true(json_equal(first, second));
    assert_string_equal(back->guest_id, "0123");
    assert_true(back->term == 4 && back->last_event == 17 && back->by == MOVE_BY_ENGINE);
    json_object_set_new(object, "state", json_string("dreaming"));
    strange = move_record_decode(object, NULL);
    assert_int_equal(strange->state, MOVE_LOST);
    json_object_del(object, "guest");
    assert_null(move_record_decode(object, NULL));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_writes_and_both_read),
        cmocka_unit_test(test_a_long_journal),
        cmocka_unit_test(test_a_term_that_is_over),
        cmocka_unit_test(test_etcd_refuses),
        cmocka_unit_test(test_prune),
        cmocka_unit_test(test_wishes),
        cmocka_unit_test(test_what_may_come),
        cmocka_unit_test(test_a_record_there_and_back),
    };
    const struct CMUnitTest with_three[] = {cmocka_unit_test(test_a_partition)};
    int failed = cmocka_run_group_tests(tests, etcd_server_set_up, etcd_server_tear_down);

    return failed +
           cmocka_run_group_tests(with_three, etcd_server_set_up_three, etcd_server_tear_down);
}
