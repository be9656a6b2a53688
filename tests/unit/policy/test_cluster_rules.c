/* Rules that contradict each other are found, both named; others are not. */
#include "cluster_fixture.h"

#include "policy/cluster_rules.h"

typedef struct {
    Fixture *f;
    GArray *conflicts;
} Case;

static Case begin(guint hosts, guint guests)
{
    Case c = {fixture_new(hosts), g_array_new(FALSE, FALSE, sizeof(ClusterConflict))};

    for (guint g = 0; g < guests; g++)
        add_guest(c.f, 0, 0.1, 1);
    return c;
}

static void add_rule(Case *c, const char *id, ClusterRuleKind kind, const guint *guests,
                     guint n_guests, const guint *hosts, guint n_hosts)
{
    c->f->rules[c->f->view.n_rules++] =
        (ClusterRule){id, kind, TRUE, guests, n_guests, hosts, n_hosts};
}

static void end(Case *c, guint n, const char *first)
{
    cluster_rules_find_conflicts(&c->f->view, c->conflicts);
    assert_int_equal(c->conflicts->len, n);
    if (first) {
        g_autofree char *text = cluster_conflict_describe(
            &c->f->view, &g_array_index(c->conflicts, ClusterConflict, 0));

        assert_string_equal(text, first);
    }
    g_array_unref(c->conflicts);
    g_free(c->f);
}

static const guint g01[] = {0, 1}, g12[] = {1, 2}, g02[] = {0, 2}, g34[] = {3, 4},
                   g012[] = {0, 1, 2};
static const guint h01[] = {0, 1}, h23[] = {2, 3}, h12[] = {1, 2};

static void test_rules_that_agree(void **state)
{
    Case c = begin(4, 5);

    add_rule(&c, "t", CLUSTER_RULE_TOGETHER, g01, 2, NULL, 0);
    add_rule(&c, "a", CLUSTER_RULE_APART, g12, 2, NULL, 0);
    add_rule(&c, "x", CLUSTER_RULE_HOSTS, g01, 2, h01, 2);
    add_rule(&c, "y", CLUSTER_RULE_HOSTS, g01, 2, h12, 2);
    add_rule(&c, "z", CLUSTER_RULE_HOSTS, g34, 2, h23, 2);
    end(&c, 0, NULL);
}

static void test_together_and_apart(void **state)
{
    Case c = begin(4, 5);

    add_rule(&c, "t", CLUSTER_RULE_TOGETHER, g01, 2, NULL, 0);
    add_rule(&c, "a", CLUSTER_RULE_APART, g01, 2, NULL, 0);
    end(&c, 1, "rules t and a contradict each other: both bind guest g001");
}

static void test_together_over_two_rules(void **state)
{
    Case c = begin(4, 5);

    add_rule(&c, "t1", CLUSTER_RULE_TOGETHER, g01, 2, NULL, 0);
    add_rule(&c, "t2", CLUSTER_RULE_TOGETHER, g12, 2, NULL, 0);
    add_rule(&c, "a", CLUSTER_RULE_APART, g02, 2, NULL, 0);
    end(&c, 1, "rules t2 and a contradict each other: both bind guest g002");
}

static void test_no_common_host(void **state)
{
    Case c = begin(4, 5);

    add_rule(&c, "x", CLUSTER_RULE_HOSTS, g01, 2, h01, 2);
    add_rule(&c, "y", CLUSTER_RULE_HOSTS, g12, 2, h23, 2);
    end(&c, 1, "rules x and y contradict each other: both bind guest g001");
}

static void test_no_common_host_for_guests_together(void **state)
{
    Case c = begin(4, 5);

    add_rule(&c, "t", CLUSTER_RULE_TOGETHER, g02, 2, NULL, 0);
    add_rule(&c, "x", CLUSTER_RULE_HOSTS, g01, 1, h01, 2);
    add_rule(&c, "y", CLUSTER_RULE_HOSTS, g02 + 1, 1, h23, 2);
    end(&c, 1, "rules x and y contradict each other: both bind guest g002");
}

static void test_more_apart_than_hosts(void **state)
{
    Case c = begin(4, 5);

    add_rule(&c, "a", CLUSTER_RULE_APART, g012, 3, NULL, 0);
    add_rule(&c, "x", CLUSTER_RULE_HOSTS, g012, 3, h01, 2);
    end(&c, 1, "rules a and x contradict each other: both bind guest g000");
    c = begin(2, 5);
    add_rule(&c, "a", CLUSTER_RULE_APART, g012, 3, NULL, 0);
    end(&c, 1, "rule a keeps 3 guests apart, and there are 2 hosts");
}

static void test_empty_rules(void **state)
{
    Case c = begin(4, 5);

    add_rule(&c, "e", CLUSTER_RULE_TOGETHER, NULL, 0, NULL, 0);
    add_rule(&c, "x", CLUSTER_RULE_HOSTS, g01, 2, NULL, 0);
    end(&c, 2, "rule e names no guest");
}

static void test_preferred_rules_may_disagree(void **state)
{
    Case c = begin(4, 5);

    add_rule(&c, "t", CLUSTER_RULE_TOGETHER, g01, 2, NULL, 0);
    add_rule(&c, "a", CLUSTER_RULE_APART, g01, 2, NULL, 0);
    c.f->rules[1].strict = FALSE;
    end(&c, 0, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rules_that_agree),
        cmocka_unit_test(test_together_and_apart),
        cmocka_unit_test(test_together_over_two_rules),
        cmocka_unit_test(test_no_common_host),
        cmocka_unit_test(test_no_common_host_for_guests_together),
        cmocka_unit_test(test_more_apart_than_hosts),
        cmocka_unit_test(test_empty_rules),
        cmocka_unit_test(test_preferred_rules_may_disagree),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
