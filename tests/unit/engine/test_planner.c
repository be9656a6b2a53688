/* From what agents say to a plan with its reasons. */
#include "cluster.h"

#include <string.h>

#include "engine/planner.h"

static const TestGuest none[] = {{0}};
static const TestGuest busy[] = {
    {"web1", 1.0, 0.2, 512, 1}, {"web2", 0.6, 0.2, 512, 1}, {"web3", 0.3, 0.2, 512, 1}, {0}};

static Model *make_model(double cpu, const TestGuest *guests, guint looks)
{
    Model *model = model_new("0.1.0");

    model_add_host(model, "hosta", "unix:/a", NULL);
    model_add_host(model, "hostb", "unix:/b", NULL);
    model_add_host(model, "hostc", "unix:/c", NULL);
    for (guint i = 1; i <= looks; i++) {
        test_look(model, 0, i * 2000, 2, cpu, guests);
        test_look(model, 1, i * 2000, 2, 0.1, none);
        test_look(model, 2, i * 2000, 2, 0.4, none);
    }
    return model;
}

static EnginePlan *plan_of(Model *model, const GPtrArray *rules, double now_ms)
{
    ClusterThresholds thresholds = cluster_thresholds_default();
    ClusterLimits limits = cluster_limits_default();

    return planner_make(test_view(model, rules, now_ms), &thresholds, &limits);
}

static void test_a_hot_host(void **state)
{
    g_autoptr(Model) model = make_model(1.95, busy, 8);
    g_autoptr(EnginePlan) plan = plan_of(model, NULL, 16000);
    g_autoptr(json_t) object = planner_plan_to_json(plan, 5000);
    json_t *move = json_array_get(json_object_get(object, "moves"), 0);
    const char *text = json_text_or(move, "text", "");

    assert_int_equal(json_array_size(json_object_get(object, "moves")), 1);
    assert_string_equal(json_text_or(move, "from", ""), "hosta");
    assert_string_equal(json_text_or(json_object_get(move, "trigger"), "kind", ""), "cpu");
    assert_true(json_is_null(json_object_get(object, "nothing")));
    assert_true(json_is_number(json_object_get(json_object_get(move, "destination_after"), "cpu")));
    assert_true(json_is_number(json_object_get(json_object_get(move, "cost"), "bytes")));
    assert_true(json_array_size(json_object_get(move, "runners_up")) > 0);
    assert_non_null(strstr(text, "hosta"));
    assert_true(planner_is_hot(plan, 0));
    assert_false(planner_is_hot(plan, 1));
}

static void test_nothing_to_do(void **state)
{
    g_autoptr(Model) model = make_model(0.8, busy, 8);
    g_autoptr(EnginePlan) plan = plan_of(model, NULL, 16000);
    g_autoptr(json_t) object = planner_plan_to_json(plan, 5000);

    assert_int_equal(json_array_size(json_object_get(object, "moves")), 0);
    assert_non_null(strstr(json_text_or(object, "nothing", ""), "nothing is hot"));
}

static void test_a_single_spike(void **state)
{
    g_autoptr(Model) model = make_model(0.5, busy, 7);
    g_autoptr(EnginePlan) plan = NULL;

    test_look(model, 0, 16000, 2, 2, busy);
    plan = plan_of(model, NULL, 16000);
    assert_int_equal(plan->plan->moves->len, 0);
}

/* Nothing is decided on figures that are old, and that is said. */
static void test_stale(void **state)
{
    g_autoptr(Model) model = make_model(1.95, busy, 8);
    g_autoptr(EnginePlan) plan = plan_of(model, NULL, 60000);
    g_autoptr(json_t) object = planner_plan_to_json(plan, 5000);

    assert_int_equal(json_array_size(json_object_get(object, "moves")), 0);
    assert_non_null(strstr(json_text_or(object, "nothing", ""), "of no host anything is known"));
}

static void test_frozen_guests(void **state)
{
    g_autoptr(Model) model = make_model(1.95, busy, 8);
    g_autoptr(EnginePlan) plan = NULL;
    g_autoptr(ClusterDrain) drain = NULL;
    ClusterThresholds thresholds = cluster_thresholds_default();
    ClusterLimits limits = cluster_limits_default();
    g_autoptr(json_t) object = NULL;

    for (guint i = 0; i < model->guests->len; i++)
        ((ModelGuest *)model->guests->pdata[i])->frozen = g_strdup("a user has frozen it");
    plan = plan_of(model, NULL, 16000);
    assert_int_equal(plan->plan->moves->len, 0);
    drain = cluster_drain_plan(&plan->view->cluster, &thresholds, &limits, 0);
    object = planner_drain_to_json(plan->view, drain, 0);
    assert_int_equal(json_array_size(json_object_get(object, "cannot_leave")), 3);
    assert_non_null(
        strstr(json_text_or(json_array_get(json_object_get(object, "cannot_leave"), 0), "why", ""),
               "a user has frozen it"));
}

static void test_sla_met(void **state)
{
    ClusterGuest guest = {.sla = {.cpu_wait = 0.05}};
    g_autoptr(json_t) unknown = planner_sla_met(&guest);
    g_autoptr(json_t) missed = NULL;
    g_autoptr(json_t) met = NULL;

    assert_true(json_is_null(unknown));
    cluster_series_add(&guest.cpu_wait, 0.06);
    missed = planner_sla_met(&guest);
    assert_true(json_is_false(missed));
    cluster_series_add(&guest.cpu_wait, 0.04);
    met = planner_sla_met(&guest);
    assert_true(json_is_true(met));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_hot_host),     cmocka_unit_test(test_nothing_to_do),
        cmocka_unit_test(test_a_single_spike), cmocka_unit_test(test_stale),
        cmocka_unit_test(test_frozen_guests),  cmocka_unit_test(test_sla_met),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
