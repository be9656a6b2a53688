/* Rules and promises as users give them. */
#include "cluster.h"

#include "base/error.h"

static const char *const hosts[] = {"hosta", "hostb", "hostc", NULL};

static Rule *make(const char *text, GError **error)
{
    g_autoptr(json_t) object = json_loads(text, 0, NULL);

    assert_non_null(object);
    return rule_from_json(object, error);
}

static void refuse(const char *text, const char *words)
{
    g_autoptr(Rule) rule = NULL;
    GError *error = NULL;

    rule = make(text, &error);
    assert_null(rule);
    expect_error(error, words);
}

static void test_reads(void **state)
{
    g_autoptr(Rule) rule = make("{\"kind\": \"hosts\", \"guests\": [\"a\"], \"hosts\": "
                                "[\"hosta\"], \"strict\": false}",
                                NULL);
    g_autoptr(json_t) object = rule_to_json(rule);

    assert_int_equal(rule->kind, RULE_HOSTS);
    assert_false(rule->strict);
    assert_string_equal(json_text_or(object, "kind", ""), "hosts");
    assert_int_equal(json_array_size(json_object_get(object, "hosts")), 1);
}

static void test_refuses(void **state)
{
    refuse("{\"kind\": \"near\", \"guests\": [\"a\"]}", "together, apart, hosts or never");
    refuse("{\"kind\": \"apart\", \"guests\": [\"a\"]}", "at least two guests");
    refuse("{\"kind\": \"never\", \"guests\": []}", "at least one guest");
    refuse("{\"kind\": \"hosts\", \"guests\": [\"a\"]}", "at least one host");
    refuse("{\"kind\": \"never\", \"guests\": [\"a\"], \"hosts\": [\"h\"]}", "names no hosts");
    refuse("{\"kind\": \"apart\", \"guests\": [\"a\", \"a\"]}", "twice");
    refuse("{\"kind\": \"apart\", \"guests\": [\"a\", \"../b\"]}", "../b");
    refuse("{\"kind\": \"apart\", \"guests\": [\"a\", 5]}", "not a text");
    refuse("{\"kind\": \"apart\", \"guests\": [\"a\", \"b\"], \"strikt\": true}", "strikt");
    refuse("{\"kind\": \"apart\", \"guests\": [\"a\", \"b\"], \"strict\": 1}", "neither true");
}

/* Adds *second* to *first*; *words* NULL: they agree. */
static void expect(const char *first, const char *second, const char *words)
{
    g_autoptr(GPtrArray) rules = g_ptr_array_new_with_free_func((GDestroyNotify)rule_free);
    g_autoptr(Rule) rule = make(second, NULL);
    GError *error = NULL;

    g_ptr_array_add(rules, make(first, NULL));
    assert_non_null(rule);
    if (!words) {
        assert_true(rules_agree(rules, rule, hosts, NULL));
        return;
    }
    assert_false(rules_agree(rules, rule, hosts, &error));
    expect_error(error, words);
}

#define APART "{\"id\": \"1\", \"kind\": \"apart\", \"guests\": [\"a\", \"b\"]}"
#define ON_A "{\"id\": \"7\", \"kind\": \"hosts\", \"guests\": [\"a\"], \"hosts\": [\"hosta\"]}"

static void test_contradictions(void **state)
{
    expect(APART, "{\"kind\": \"together\", \"guests\": [\"a\", \"b\", \"c\"]}", "contradict");
    expect(APART, "{\"kind\": \"together\", \"guests\": [\"a\", \"b\"], \"strict\": false}", NULL);
    expect(APART, "{\"kind\": \"together\", \"guests\": [\"a\", \"c\"]}", NULL);
    expect(ON_A, "{\"kind\": \"hosts\", \"guests\": [\"a\", \"b\"], \"hosts\": [\"hostb\"]}",
           "contradict");
    expect(ON_A, "{\"kind\": \"hosts\", \"guests\": [\"b\"], \"hosts\": [\"hostb\"]}", NULL);
    expect(ON_A, "{\"kind\": \"hosts\", \"guests\": [\"b\"], \"hosts\": [\"hostx\"]}",
           "no host hostx");
    expect(ON_A, "{\"kind\": \"apart\", \"guests\": [\"a\", \"b\", \"c\", \"d\"]}", "");
}

/* Both are named, so that a user knows which one to take away. */
static void test_names_both(void **state)
{
    expect(ON_A, "{\"kind\": \"hosts\", \"guests\": [\"a\"], \"hosts\": [\"hostb\"]}", "7");
    expect(ON_A, "{\"kind\": \"hosts\", \"guests\": [\"a\"], \"hosts\": [\"hostb\"]}",
           "that is new");
}

static void test_sla(void **state)
{
    g_autoptr(json_t) good = json_loads("{\"cpu_wait\": 0.05, \"no_swap\": true}", 0, NULL);
    g_autoptr(json_t) bad = json_loads("{\"cpu_wait\": 5}", 0, NULL);
    g_autoptr(json_t) odd = json_loads("{\"cpu\": 5}", 0, NULL);
    GError *error = NULL;
    ClusterSla sla;

    assert_true(sla_from_json(good, &sla, NULL));
    assert_true(sla.cpu_wait == 0.05 && sla.no_swap && sla.network == 0);
    assert_false(sla_from_json(bad, &sla, &error));
    expect_error(error, "\"cpu_wait\" is not a number from 0 to 1");
    error = NULL;
    assert_false(sla_from_json(odd, &sla, &error));
    expect_error(error, "unknown key \"cpu\"");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reads),
        cmocka_unit_test(test_refuses),
        cmocka_unit_test(test_contradictions),
        cmocka_unit_test(test_names_both),
        cmocka_unit_test(test_sla),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
