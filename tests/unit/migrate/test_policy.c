#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <string.h>

#include "migrate/policy.h"

#define MIB (1u << 20)

/* 1 Gbit/s is about 120,000 bytes a millisecond. */
static PolicyDecision decide(const uint64_t *left, guint count, guint max_downtime_ms)
{
    PolicyRound rounds[64] = {0};
    PolicyFacts facts = {rounds, count, 120000, 12, max_downtime_ms};

    for (guint i = 0; i < count; i++)
        rounds[i].left_bytes = left[i];
    return policy_decide(&facts);
}

static void test_converged(void **state)
{
    PolicyDecision decision = decide((uint64_t[]){40000}, 1, 300);

    assert_int_equal(decision.verdict, POLICY_STOP);
    assert_string_equal(decision.reason, "converged");
    assert_true(decision.expected_downtime_ms > 12 && decision.expected_downtime_ms < 13);
}

/* The target is a promise, not a budget: 30 ms would do, 1 ms is better. */
static void test_goes_on_while_it_helps(void **state)
{
    assert_int_equal(decide((uint64_t[]){4 * MIB}, 1, 300).verdict, POLICY_CONTINUE);
    assert_int_equal(decide((uint64_t[]){4 * MIB, MIB}, 2, 300).verdict, POLICY_CONTINUE);
    assert_int_equal(decide((uint64_t[]){4 * MIB, MIB, MIB / 4}, 3, 300).verdict, POLICY_CONTINUE);
    assert_int_equal(decide((uint64_t[]){4 * MIB, MIB, MIB / 4, 50000}, 4, 300).verdict,
                     POLICY_STOP);
}

static void test_stops_without_gain(void **state)
{
    PolicyDecision decision = decide((uint64_t[]){8 * MIB, 2 * MIB, 2 * MIB}, 3, 300);

    assert_int_equal(decision.verdict, POLICY_STOP);
    assert_string_equal(decision.reason, "no-gain");
}

static void test_not_within_target(void **state)
{
    uint64_t left[64];

    for (guint i = 0; i < G_N_ELEMENTS(left); i++)
        left[i] = 100 * MIB;
    assert_int_equal(decide(left, 2, 300).verdict, POLICY_CONTINUE);
    assert_int_equal(decide(left, POLICY_ROUNDS_WITHOUT_PROGRESS, 300).verdict, POLICY_CONTINUE);
    assert_string_equal(decide(left, POLICY_ROUNDS_WITHOUT_PROGRESS + 1, 300).reason,
                        "not-converging");
    /* A user who allows a longer pause gets it. */
    assert_string_equal(decide(left, 2, 1000).reason, "no-gain");
    /* A new best renews hope. */
    left[POLICY_ROUNDS_WITHOUT_PROGRESS] = 90 * MIB;
    assert_int_equal(decide(left, POLICY_ROUNDS_WITHOUT_PROGRESS + 1, 300).verdict,
                     POLICY_CONTINUE);
}

/* Never an endless row of rounds that each gain a little. */
static void test_bounded(void **state)
{
    uint64_t left[64];
    guint rounds = 0;

    for (guint i = 0; i < G_N_ELEMENTS(left); i++)
        left[i] = i == 0 ? 32 * MIB : (uint64_t)((double)left[i - 1] * 0.74);
    while (decide(left, ++rounds, 300).verdict == POLICY_CONTINUE)
        assert_true(rounds < 60);
    assert_true(rounds <= POLICY_ROUNDS_WITHIN_TARGET + 8);
}

static void test_odd_facts(void **state)
{
    PolicyRound round = {.left_bytes = 4096};
    PolicyFacts facts = {&round, 1, 0, 0, 0};

    /* No bandwidth known: counts as one byte a millisecond. */
    assert_int_equal(policy_decide(&facts).verdict, POLICY_CONTINUE);
    round.left_bytes = 0;
    assert_int_equal(policy_decide(&facts).verdict, POLICY_STOP);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_converged),
        cmocka_unit_test(test_goes_on_while_it_helps),
        cmocka_unit_test(test_stops_without_gain),
        cmocka_unit_test(test_not_within_target),
        cmocka_unit_test(test_bounded),
        cmocka_unit_test(test_odd_facts),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
