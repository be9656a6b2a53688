/* A host becomes empty: what stays, in which order, and the same again after an interruption. */
#include "cluster_fixture.h"

#include "policy/cluster_drain.h"

static ClusterDrain *drain_of(const Fixture *f, guint host)
{
    return cluster_drain_plan(&f->view, &f->thresholds, &f->limits, host);
}

static const ClusterDrainStep *step_of(const ClusterDrain *drain, guint i)
{
    assert_true(i < drain->steps->len);
    return &g_array_index(drain->steps, ClusterDrainStep, i);
}

static void move_guest(Fixture *f, guint g, guint to)
{
    ClusterGuest *guest = &f->guests[g];
    double cpu = cluster_series_last(&guest->cpu), network = cluster_series_last(&guest->network);

    add_to(&f->hosts[guest->host].cpu, -cpu);
    add_to(&f->hosts[guest->host].network, -network);
    add_to(&f->hosts[guest->host].memory_available, guest->memory_bytes);
    guest->host = to;
    add_to(&f->hosts[to].cpu, cpu);
    add_to(&f->hosts[to].network, network);
    add_to(&f->hosts[to].memory_available, -guest->memory_bytes);
}

static void test_names_what_stays(void **state)
{
    g_autofree Fixture *f = fixture_new(3);
    g_autoptr(ClusterDrain) drain = NULL;
    const ClusterStays *stays;

    for (guint i = 0; i < 4; i++)
        add_guest(f, 0, 0.5, 4 + i);
    f->guests[1].mobility = CLUSTER_PINNED;
    add_guest(f, 0, 0.5, 63);                      /* fits nowhere */
    f->guests[0].moved_at_ms = f->view.now_ms - 1; /* cool-down is no matter */
    f->limits.quiet = TRUE;
    f->hosts[0].drained = TRUE;
    drain = drain_of(f, 0);
    assert_int_equal(drain->stays->len, 2);
    stays = &g_array_index(drain->stays, ClusterStays, 0);
    assert_int_equal(stays->guest, 1);
    assert_int_equal(stays->why, CLUSTER_WHY_PINNED);
    stays = &g_array_index(drain->stays, ClusterStays, 1);
    assert_int_equal(stays->guest, 4);
    assert_int_equal(stays->why, CLUSTER_WHY_MEMORY);
    assert_int_equal(drain->steps->len, 3);
    assert_int_equal(step_of(drain, 0)->guest, 3); /* the largest first */
}

/* Done to any point and planned again: the same rest.  What is on its way is not planned twice. */
static void test_goes_on_where_it_was(void **state)
{
    g_autofree Fixture *f = fixture_new(5);
    g_autoptr(ClusterDrain) all = NULL;

    for (guint i = 0; i < 12; i++)
        add_guest(f, 0, 0.3 + 0.25 * (i % 4), 1 + i % 5);
    for (guint i = 0; i < 6; i++)
        add_guest(f, 1 + i % 4, 1 + i % 3, 8);
    f->hosts[0].drained = TRUE;
    all = drain_of(f, 0);
    assert_int_equal(all->steps->len, 12);
    for (guint done = 0; done < 12; done++) {
        g_autoptr(ClusterDrain) rest = drain_of(f, 0);
        const ClusterDrainStep *next = step_of(rest, 0);

        assert_int_equal(rest->steps->len, 12 - done);
        for (guint i = 0; i < rest->steps->len; i++) {
            assert_int_equal(step_of(rest, i)->guest, step_of(all, done + i)->guest);
            assert_int_equal(step_of(rest, i)->to, step_of(all, done + i)->to);
        }
        f->guests[next->guest].to = next->to;
        {
            g_autoptr(ClusterDrain) meanwhile = drain_of(f, 0);

            assert_int_equal(meanwhile->under_way, 1);
            assert_int_equal(meanwhile->stays->len, 0);
            assert_int_equal(meanwhile->steps->len, 12 - done - 1);
        }
        f->guests[next->guest].to = CLUSTER_NONE;
        move_guest(f, next->guest, next->to);
    }
}

static void test_keeps_rules(void **state)
{
    static const guint pair[] = {0, 1}, apart[] = {2, 3};
    g_autofree Fixture *f = fixture_new(2);
    g_autoptr(ClusterDrain) drain = NULL;

    for (guint i = 0; i < 3; i++)
        add_guest(f, 0, 0.5, 4);
    add_guest(f, 1, 0.5, 4);
    f->rules[0] = (ClusterRule){"t", CLUSTER_RULE_TOGETHER, TRUE, pair, 2, NULL, 0};
    f->rules[1] = (ClusterRule){"a", CLUSTER_RULE_APART, TRUE, apart, 2, NULL, 0};
    f->view.n_rules = 2;
    drain = drain_of(f, 0);
    assert_int_equal(drain->steps->len, 2);
    assert_int_equal(step_of(drain, 1)->group, 0);
    assert_int_equal(drain->stays->len, 1);
    assert_int_equal(g_array_index(drain->stays, ClusterStays, 0).why, CLUSTER_WHY_RULE);
    assert_int_equal(g_array_index(drain->stays, ClusterStays, 0).rule, 1);
}

static void test_does_not_make_others_hot(void **state)
{
    g_autofree Fixture *f = fixture_new(2);
    g_autoptr(ClusterDrain) drain = NULL;

    add_guest(f, 0, 5, 4);
    add_guest(f, 0, 5, 4);
    add_guest(f, 1, 7, 4);
    drain = drain_of(f, 0);
    assert_int_equal(drain->steps->len, 1);
    assert_int_equal(g_array_index(drain->stays, ClusterStays, 0).why, CLUSTER_WHY_CPU);
}

/* No guest is given to a host that is drained, too, by either. */
static void test_keeps_it_empty(void **state)
{
    g_autofree Fixture *f = fixture_new(3);
    g_autoptr(ClusterDrain) drain = NULL;
    g_autoptr(ClusterPlan) plan = NULL;

    for (guint i = 0; i < 4; i++)
        add_guest(f, 0, 3.9, 4);
    f->hosts[1].drained = TRUE;
    drain = drain_of(f, 0);
    assert_true(drain->steps->len > 0);
    for (guint i = 0; i < drain->steps->len; i++)
        assert_int_equal(step_of(drain, i)->to, 2);
    plan = plan_of(f);
    assert_int_equal(move_of(plan, 0)->to, 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names_what_stays), cmocka_unit_test(test_goes_on_where_it_was),
        cmocka_unit_test(test_keeps_rules),      cmocka_unit_test(test_does_not_make_others_hot),
        cmocka_unit_test(test_keeps_it_empty),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
