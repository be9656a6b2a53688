/* What the engine believes of its hosts. */
#include "cluster.h"

#include <string.h>

static const TestGuest none[] = {{0}};
static const TestGuest web[] = {{"web1", 0.5, 0.01, 512, 1}, {0}};

static Model *two_hosts(void)
{
    Model *model = model_new("0.1.0");

    model_add_host(model, "hosta", "unix:/a", "10.0.0.1:4747");
    model_add_host(model, "hostb", "unix:/b", NULL);
    return model;
}

static const ModelHost *host_at(const Model *model, guint index)
{
    return model->hosts->pdata[index];
}

static void expect_problem(Model *model, guint host, double now_ms, const char *words)
{
    const char *problem;

    model_check(model, now_ms);
    problem = host_at(model, host)->problem;
    if (!words) {
        if (problem)
            fail_msg("has a problem: %s", problem);
        return;
    }
    assert_non_null(problem);
    if (!strstr(problem, words))
        fail_msg("\"%s\" does not say \"%s\"", problem, words);
}

/* A load with one field changed. */
static void look_changed(Model *model, guint host, double time_ms, json_t *change)
{
    g_autoptr(json_t) object = test_load(host_at(model, host)->name, time_ms, 4, 1, web);
    Load *load;

    json_object_update_new(object, change);
    load = load_parse(object, NULL);
    assert_non_null(load);
    model_take_look(model, host, load, NULL, time_ms, 1000 + time_ms / 1e3);
}

static void test_fresh_and_stale(void **state)
{
    g_autoptr(Model) model = two_hosts();

    expect_problem(model, 0, 0, "not been reached");
    model_take_failure(model, 1, "cannot reach the agent");
    expect_problem(model, 1, 0, "cannot reach the agent");
    test_look(model, 0, 1000, 4, 1, web);
    expect_problem(model, 0, 1000, NULL);
    expect_problem(model, 0, 1000 + MODEL_STALE_MS, NULL);
    expect_problem(model, 0, 1001 + MODEL_STALE_MS, "10 s old");
    test_look(model, 0, 20000, 4, 1, web);
    expect_problem(model, 0, 20000, NULL);
    /* An agent that answers, and has not looked again. */
    for (guint i = 0; i < 20; i++) {
        g_autoptr(json_t) object = test_load("hosta", 20000, 4, 1, web);

        model_take_look(model, 0, load_parse(object, NULL), NULL, 20000 + i * 1000, 1000 + 20 + i);
    }
    expect_problem(model, 0, 39000, "19 s old");
}

/* Agents are asked more often than readings are made. */
static void test_readings_are_means_of_looks(void **state)
{
    g_autoptr(Model) model = two_hosts();
    const ModelHost *host = host_at(model, 0);
    const ModelGuest *guest;

    model->reading_ms = 5000;
    test_look(model, 0, 102000, 4, 1, web);
    assert_int_equal(host->cpu.length, 1); /* the first one at once */
    test_look(model, 0, 104000, 4, 2, web);
    test_look(model, 0, 106000, 4, 3, web);
    assert_int_equal(host->cpu.length, 1);
    test_look(model, 0, 108000, 4, 1, web);
    assert_int_equal(host->cpu.length, 2);
    assert_true(cluster_series_last(&host->cpu) == 2);
    guest = model_find_guest(model, web[0].name);
    assert_int_equal(guest->cpu.length, 2);
    assert_true(cluster_series_last(&guest->cpu) == (float)web[0].cpu);
    /* The next one is due at 112 s: by the first one's clock. */
    test_look(model, 0, 110000, 4, 1, web);
    test_look(model, 0, 112000, 4, 2, web);
    assert_int_equal(host->cpu.length, 3);
    assert_true(cluster_series_last(&host->cpu) == 1.5);
    /* None came for a while. */
    test_look(model, 0, 160000, 4, 4, web);
    test_look(model, 0, 162000, 4, 4, web);
    assert_int_equal(host->cpu.length, 4);
}

static void test_clock(void **state)
{
    g_autoptr(Model) model = two_hosts();

    test_look(model, 0, 10000, 4, 1, web);
    test_look(model, 0, 8000, 4, 1, web);
    expect_problem(model, 0, 10000, "clock went back");
    test_look(model, 0, 12000, 4, 1, web);
    expect_problem(model, 0, 12000, NULL);
    look_changed(model, 0, 14000, json_pack("{s:f}", "wall", 1014 + 100.0));
    expect_problem(model, 0, 14000, "100 s ahead of ours");
    look_changed(model, 0, 16000, json_pack("{s:f}", "wall", 1016 - 40.0));
    expect_problem(model, 0, 16000, "40 s behind ours");
    /* A host that has booted anew may begin at zero. */
    look_changed(model, 0, 500, json_pack("{s:s}", "boot_id", "other"));
    expect_problem(model, 0, 500, NULL);
}

static void test_versions(void **state)
{
    g_autoptr(Model) model = two_hosts();

    look_changed(model, 0, 1000, json_pack("{s:s}", "version", "0.1.9"));
    expect_problem(model, 0, 1000, NULL);
    look_changed(model, 0, 2000, json_pack("{s:s}", "version", "0.2.0"));
    expect_problem(model, 0, 2000, "version 0.2.0, this engine of 0.1.0");
    look_changed(model, 0, 3000, json_pack("{s:s}", "version", "0.10.0"));
    expect_problem(model, 0, 3000, "version 0.10.0");
}

static void test_lies_about_memory(void **state)
{
    static const TestGuest large[] = {{"web1", 0.5, 0, 5000, 1}, {"web2", 0.5, 0, 5000, 1}, {0}};
    g_autoptr(Model) model = two_hosts();

    test_look(model, 0, 1000, 4, 1, large);
    expect_problem(model, 0, 1000, "10000 MiB in memory, of 8192 MiB");
}

static void test_same_guest_twice(void **state)
{
    static const TestGuest newer[] = {{"web1", 0.5, 0, 512, 2}, {0}};
    g_autoptr(Model) model = two_hosts();

    test_look(model, 0, 1000, 4, 1, web);
    test_look(model, 1, 1000, 4, 1, web);
    expect_problem(model, 0, 1000, "has guest web1, and so has hostb");
    expect_problem(model, 1, 1000, "has guest web1, and so has hosta");
    /* The one with the higher term is right, and the other one is not to be trusted. */
    test_look(model, 1, 3000, 4, 1, newer);
    expect_problem(model, 0, 3000, "has guest web1, and so has hostb");
    expect_problem(model, 1, 3000, NULL);
    assert_int_equal(model_find_guest(model, "web1")->host, 1);
    test_look(model, 0, 5000, 4, 1, none);
    expect_problem(model, 0, 5000, NULL);
}

static void test_same_agent_twice(void **state)
{
    g_autoptr(Model) model = two_hosts();

    test_look(model, 0, 1000, 4, 1, none);
    look_changed(model, 1, 1000, json_pack("{s:s}", "agent_id", "agent-hosta"));
    expect_problem(model, 1, 1000, "is the same agent as hosta");
    expect_problem(model, 0, 1000, NULL);
}

static void test_a_guest_moves(void **state)
{
    static const TestGuest moved[] = {{"web1", 0.5, 0.3, 512, 2}, {0}};
    g_autoptr(Model) model = two_hosts();
    ModelGuest *guest;

    test_look(model, 0, 1000, 4, 1, web);
    test_look(model, 0, 3000, 4, 1, web);
    guest = model_find_guest(model, "web1");
    assert_int_equal(guest->came_from, CLUSTER_NONE);
    assert_int_equal(guest->cpu_wait.length, 2);
    test_look(model, 1, 4000, 4, 1, moved);
    assert_ptr_equal(model_find_guest(model, "web1"), guest);
    assert_int_equal(guest->host, 1);
    assert_int_equal(guest->came_from, 0);
    assert_true(guest->came_from_term == 1);
    /* What it used goes with it, what it waited for does not. */
    assert_int_equal(guest->cpu.length, 3);
    assert_int_equal(guest->cpu_wait.length, 1);
    /* The source's next look is not the guest's end. */
    test_look(model, 0, 5000, 4, 1, none);
    assert_ptr_equal(model_find_guest(model, "web1"), guest);
    test_look(model, 1, 6000, 4, 1, none);
    assert_null(model_find_guest(model, "web1"));
    /* Seen nowhere for a moment, it has come from there nevertheless. */
    test_look(model, 0, 7000, 4, 1, web);
    assert_int_equal(model_find_guest(model, "web1")->came_from, 1);
    assert_true(model_find_guest(model, "web1")->came_from_term == 2);
}

static void test_activities(void **state)
{
    g_autoptr(Model) model = two_hosts();
    g_autoptr(json_t) moving =
        json_pack("[{s:s, s:s, s:{s:s, s:s, s:s}}]", "name", "web1", "id", "id-web1", "activity",
                  "id", "act", "kind", "migrate", "destination", "10.0.0.1");
    g_autoptr(json_t) idle =
        json_pack("[{s:s, s:s, s:n, s:n}]", "name", "web1", "id", "id-web1", "activity", "problem");
    g_autoptr(json_t) object = test_load("hosta", 1000, 4, 1, web);
    g_autoptr(EngineView) view = NULL;
    const ModelGuest *guest;

    model_take_look(model, 0, load_parse(object, NULL), moving, 1000, 1001);
    guest = model_find_guest(model, "web1");
    assert_string_equal(guest->activity_id, "act");
    view = test_view(model, NULL, 1000);
    assert_int_equal(view->cluster.guests[0].mobility, CLUSTER_IN_MOTION);
    assert_int_equal(view->cluster.guests[0].to, 0); /* by its agent's address */
    g_clear_pointer(&view, engine_view_free);
    json_object_set_new(object, "time_ms", json_real(2000));
    model_take_look(model, 0, load_parse(object, NULL), idle, 2000, 1002);
    assert_null(guest->activity_id);
    view = test_view(model, NULL, 2000);
    assert_int_equal(view->cluster.guests[0].mobility, CLUSTER_CAN_MOVE);
}

static void test_rules_in_the_view(void **state)
{
    static const TestGuest two[] = {{"web1", 0.5, 0, 512, 1}, {"web2", 0.5, 0, 512, 1}, {0}};
    g_autoptr(Model) model = two_hosts();
    g_autoptr(GPtrArray) rules = g_ptr_array_new_with_free_func((GDestroyNotify)rule_free);
    g_autoptr(json_t) never =
        json_pack("{s:s, s:s, s:[s]}", "id", "1", "kind", "never", "guests", "web2");
    g_autoptr(json_t) hosts =
        json_pack("{s:s, s:s, s:[s, s], s:[s, s]}", "id", "2", "kind", "hosts", "guests", "web1",
                  "gone", "hosts", "hostb", "nowhere");
    g_autoptr(EngineView) view = NULL;

    g_ptr_array_add(rules, rule_from_json(never, NULL));
    g_ptr_array_add(rules, rule_from_json(hosts, NULL));
    test_look(model, 0, 1000, 4, 1, two);
    view = test_view(model, rules, 1000);
    assert_int_equal(view->cluster.n_rules, 1);
    assert_int_equal(view->cluster.rules[0].n_guests, 1);
    assert_int_equal(view->cluster.rules[0].n_hosts, 1);
    assert_int_equal(view->cluster.rules[0].hosts[0], 1);
    assert_string_equal(view->cluster.guests[1].name, "web2");
    assert_int_equal(view->cluster.guests[1].mobility, CLUSTER_PINNED);
    assert_int_equal(view->cluster.guests[0].mobility, CLUSTER_CAN_MOVE);
}

static void test_destinations(void **state)
{
    assert_true(model_is_destination("10.0.0.1:4747", "10.0.0.1"));
    assert_true(model_is_destination("10.0.0.1:4747", "10.0.0.1:4747"));
    assert_true(model_is_destination("hostb", "hostb:4747"));
    assert_false(model_is_destination("10.0.0.1:4747", "10.0.0.1:4748"));
    assert_false(model_is_destination("10.0.0.12:4747", "10.0.0.1"));
    assert_false(model_is_destination("hostb", "hostbb"));
    assert_false(model_is_destination(NULL, "hostb"));
}

/* What is known of a guest outlives its absence, and a restart (whoever restarts hands it in). */
static void test_remembers_hours_of_the_day(void **state)
{
    g_autoptr(Model) model = two_hosts();
    g_autoptr(GHashTable) list = NULL;
    Daily before = {0};
    const Daily *daily;

    for (guint i = 0; i < 7; i++)
        cluster_history_add(&before.cpu, 3600e3 + i, 0.5);
    test_look(model, 0, 1000, 4, 1, none);
    list = model_list_daily(model);
    assert_int_equal(g_hash_table_size(list), 0);
    model_remember(model, "id-web1", &before);
    test_look(model, 0, 3600e3 + 4000, 4, 1, web);
    test_look(model, 0, 3600e3 + 6000, 4, 1, none);
    test_look(model, 1, 3600e3 + 6000, 4, 1, web);
    test_look(model, 1, 3600e3 + 8000, 4, 1, none);
    g_clear_pointer(&list, g_hash_table_unref);
    list = model_list_daily(model);
    assert_int_equal(g_hash_table_size(list), 1);
    daily = g_hash_table_lookup(list, "id-web1");
    assert_non_null(daily);
    assert_int_equal(daily->cpu.count[1], 9);
    model_forget(model, 3600e3);
    g_clear_pointer(&list, g_hash_table_unref);
    list = model_list_daily(model);
    assert_int_equal(g_hash_table_size(list), 1);
    model_forget(model, 2 * 3600e3);
    g_clear_pointer(&list, g_hash_table_unref);
    list = model_list_daily(model);
    assert_int_equal(g_hash_table_size(list), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fresh_and_stale),
        cmocka_unit_test(test_readings_are_means_of_looks),
        cmocka_unit_test(test_clock),
        cmocka_unit_test(test_versions),
        cmocka_unit_test(test_lies_about_memory),
        cmocka_unit_test(test_same_guest_twice),
        cmocka_unit_test(test_same_agent_twice),
        cmocka_unit_test(test_a_guest_moves),
        cmocka_unit_test(test_activities),
        cmocka_unit_test(test_rules_in_the_view),
        cmocka_unit_test(test_destinations),
        cmocka_unit_test(test_remembers_hours_of_the_day),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
