/* What one move may cost while it runs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>

#include "policy/cluster.h"
#include "policy/cluster_govern.h"

#define STEP_MS 500

static ClusterGovernInput usual(void)
{
    return (ClusterGovernInput){.source = {125e6, 10e6, 1},
                                .destination = {125e6, 5e6, 1},
                                .measured = CLUSTER_UNKNOWN,
                                .left_bytes = 1e9,
                                .still_needed = TRUE,
                                .can_stop = TRUE};
}

static ClusterGovernOutput run(ClusterGovernor *governor, ClusterGovernInput *input, double ms)
{
    ClusterGovernOutput output = {0};

    for (double t = 0; t < ms; t += STEP_MS) {
        input->now_ms += STEP_MS;
        output = cluster_govern(governor, input);
    }
    return output;
}

static void test_takes_what_is_left(void **state)
{
    ClusterGovernor governor = cluster_governor_new(200e6, 20000, 1000, 0);
    ClusterGovernInput input = usual();

    assert_true(fabs(run(&governor, &input, STEP_MS).rate - (125e6 * 0.95 - 10e6)) < 1);
    input.destination.guests = 100e6; /* falls at once */
    assert_true(fabs(run(&governor, &input, STEP_MS).rate - (125e6 * 0.95 - 100e6)) < 1);
    input.destination.guests = 5e6; /* and rises slowly */
    assert_true(run(&governor, &input, 1000).rate < 40e6);
    assert_true(run(&governor, &input, 20000).rate > 100e6);
    input.source.moves = 2;
    assert_true(fabs(run(&governor, &input, STEP_MS).rate - (125e6 * 0.95 - 10e6) / 2) < 1);
    governor = cluster_governor_new(30e6, 20000, 1000, input.now_ms);
    assert_true(run(&governor, &input, STEP_MS).rate <= 30e6);
    input.source.link = input.destination.link = CLUSTER_UNKNOWN;
    assert_true(fabs(run(&governor, &input, STEP_MS).rate - 30e6) < 1);
}

/* What is set is made smaller by what it takes beyond it. */
static void test_keeps_to_its_cap(void **state)
{
    ClusterGovernor governor = cluster_governor_new(50e6, 60000, 1000, 0);
    ClusterGovernInput input = usual();
    ClusterGovernOutput output = run(&governor, &input, STEP_MS);

    for (guint i = 0; i < 20; i++) {
        input.measured = output.rate * 1.12;
        output = run(&governor, &input, STEP_MS);
        if (i > 0)
            assert_true(output.rate * 1.12 <= 50e6 * 1.05);
    }
    assert_true(output.rate > 40e6);
}

/* A reading that was made before the rate fell says nothing that would slow it for minutes. */
static void test_does_not_take_itself_back_for_good(void **state)
{
    ClusterGovernor governor = cluster_governor_new(50e6, 60000, 1000, 0);
    ClusterGovernInput input = usual();

    run(&governor, &input, STEP_MS);
    input.measured = 500e6;
    run(&governor, &input, 30000);
    input.measured = CLUSTER_UNKNOWN;
    assert_true(run(&governor, &input, STEP_MS).rate >= 50e6 * 0.8 - 1);
}

static void test_begins_with_what_is_free(void **state)
{
    const ClusterGovernLink idle = {125e6, 0, 1}, busy = {125e6, 100e6, 1},
                            full = {125e6, 125e6, 1},
                            unknown = {CLUSTER_UNKNOWN, CLUSTER_UNKNOWN, 1};

    assert_true(cluster_govern_first_rate(50e6, &idle, &idle) == 50e6);
    assert_true(fabs(cluster_govern_first_rate(50e6, &idle, &busy) - (125e6 * 0.95 - 100e6)) < 1);
    assert_true(cluster_govern_first_rate(50e6, &full, &idle) == 1e6);
    assert_true(cluster_govern_first_rate(50e6, &unknown, &idle) == 50e6);
}

/* Where the link's speed is not known it still yields. */
static void test_without_a_cap(void **state)
{
    ClusterGovernor governor = cluster_governor_new(0, 60000, 1000, 0);
    ClusterGovernInput input = usual();

    input.source.link = input.destination.link = CLUSTER_UNKNOWN;
    assert_true(run(&governor, &input, 2000).rate > 1e9);
    input.hurt = 1;
    assert_true(run(&governor, &input, STEP_MS).rate == 1e6);
    input.hurt = 0;
    assert_true(run(&governor, &input, 7000).rate > 1e9);
}

static void test_yields_at_once_and_comes_back(void **state)
{
    ClusterGovernor governor = cluster_governor_new(100e6, 60000, 1000, 0);
    ClusterGovernInput input = usual();
    ClusterGovernOutput output;

    run(&governor, &input, 2000);
    input.hurt = 1;
    output = run(&governor, &input, STEP_MS);
    assert_int_equal(output.verdict, CLUSTER_GOVERN_YIELD);
    assert_true(output.rate <= 2e6);
    input.hurt = 0;
    assert_int_equal(run(&governor, &input, 4000).verdict, CLUSTER_GOVERN_YIELD);
    output = run(&governor, &input, 2000);
    assert_int_equal(output.verdict, CLUSTER_GOVERN_GO);
    assert_true(output.rate <= 60e6);
    /* The second time it waits longer. */
    input.hurt = 1;
    run(&governor, &input, STEP_MS);
    input.hurt = 0;
    assert_int_equal(run(&governor, &input, 8000).verdict, CLUSTER_GOVERN_YIELD);
    assert_int_equal(run(&governor, &input, 4000).verdict, CLUSTER_GOVERN_GO);
}

static void test_does_not_yield_to_what_it_does_not_cause(void **state)
{
    ClusterGovernor governor = cluster_governor_new(100e6, 60000, 1000, 0);
    ClusterGovernInput input = usual();

    run(&governor, &input, 2000);
    input.hurt = 1; /* and stays so while it yields */
    assert_int_equal(run(&governor, &input, 8000).verdict, CLUSTER_GOVERN_YIELD);
    assert_int_equal(run(&governor, &input, 8000).verdict, CLUSTER_GOVERN_GO);
    input.hurt = 2; /* another one is */
    assert_int_equal(run(&governor, &input, STEP_MS).verdict, CLUSTER_GOVERN_YIELD);
}

static void test_is_called_off_where_it_harms_more_than_it_helps(void **state)
{
    ClusterGovernor governor = cluster_governor_new(100e6, 60000, 3, 0);
    ClusterGovernInput input = usual();

    run(&governor, &input, 2000);
    input.hurt = 4;
    assert_int_equal(run(&governor, &input, 2000).verdict, CLUSTER_GOVERN_CALL_OFF);
    input.can_stop = FALSE;
    assert_int_equal(run(&governor, &input, 2000).verdict, CLUSTER_GOVERN_YIELD);
}

/* One reading of one guest, a second after a large guest's move has begun. */
static void test_yields_before_it_is_called_off(void **state)
{
    ClusterGovernor governor = cluster_governor_new(60e6, 60000, 600, 0);
    ClusterGovernInput input = usual();

    input.left_bytes = 4e9;
    run(&governor, &input, 1000);
    input.hurt = 1;
    assert_int_equal(run(&governor, &input, STEP_MS).verdict, CLUSTER_GOVERN_YIELD);
    input.hurt = 0;
    assert_int_equal(run(&governor, &input, 7000).verdict, CLUSTER_GOVERN_GO);
}

static void test_is_called_off_where_nothing_is_left_to_gain(void **state)
{
    ClusterGovernor governor = cluster_governor_new(100e6, 60000, 1000, 0);
    ClusterGovernInput input = usual();

    run(&governor, &input, 2000);
    input.still_needed = FALSE;
    input.left_bytes = 1e10;
    /* For a moment it says nothing. */
    assert_int_equal(run(&governor, &input, 29000).verdict, CLUSTER_GOVERN_GO);
    input.still_needed = TRUE;
    run(&governor, &input, STEP_MS);
    input.still_needed = FALSE;
    assert_int_equal(run(&governor, &input, 29000).verdict, CLUSTER_GOVERN_GO);
    assert_int_equal(run(&governor, &input, 2000).verdict, CLUSTER_GOVERN_CALL_OFF);
    input.left_bytes = 1e7; /* nearly done: it may as well end */
    assert_int_equal(run(&governor, &input, STEP_MS).verdict, CLUSTER_GOVERN_GO);
    input.still_needed = TRUE;
    assert_int_equal(run(&governor, &input, 310000).verdict, CLUSTER_GOVERN_CALL_OFF);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_takes_what_is_left),
        cmocka_unit_test(test_keeps_to_its_cap),
        cmocka_unit_test(test_does_not_take_itself_back_for_good),
        cmocka_unit_test(test_begins_with_what_is_free),
        cmocka_unit_test(test_without_a_cap),
        cmocka_unit_test(test_yields_before_it_is_called_off),
        cmocka_unit_test(test_yields_at_once_and_comes_back),
        cmocka_unit_test(test_does_not_yield_to_what_it_does_not_cause),
        cmocka_unit_test(test_is_called_off_where_it_harms_more_than_it_helps),
        cmocka_unit_test(test_is_called_off_where_nothing_is_left_to_gain),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
