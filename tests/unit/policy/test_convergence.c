#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <math.h>
#include <string.h>

#include "policy/convergence.h"

#define MB 1e6
#define GROUPS 256u
/* 1 Gbit/s. */
#define LINK 117000.0

static ConvergenceFacts facts_make(ConvergenceGroup *groups, guint count)
{
    return (ConvergenceFacts){
        .groups = groups,
        .group_count = count,
        .at_round_end = TRUE,
        .cost_known = TRUE,
        .bytes_per_ms = LINK,
        .device_ms = 12,
        .elapsed_ms = 5000,
        .run_share = 1,
        .limits = {.max_downtime_ms = 300, .downtime_cap_ms = 2000},
    };
}

/* Rounds that left so many MB; the groups hold the last. */
static ConvergenceDecision decide_rounds(const double *left_mb, guint count,
                                         ConvergenceLimits limits)
{
    ConvergenceRound rounds[64] = {0};
    ConvergenceGroup groups[GROUPS] = {0};
    ConvergenceFacts facts = facts_make(groups, GROUPS);

    for (guint i = 0; i < count; i++)
        rounds[i] = (ConvergenceRound){.left_bytes = left_mb[i] * MB, .ms = 1000};
    for (guint i = 0; i < GROUPS; i++) {
        groups[i] = (ConvergenceGroup){.pages = 512, .pending = 512, .active = 512};
        groups[i].resend_per_page = (float)(left_mb[count - 1] * MB / GROUPS / 512);
        groups[i].dirty_per_ms = 0.01F;
    }
    facts.rounds = rounds;
    facts.round_count = count;
    facts.limits = limits;
    return convergence_decide(&facts);
}

static const ConvergenceLimits usual = {.max_downtime_ms = 300, .downtime_cap_ms = 2000};
static const ConvergenceLimits strict = {.max_downtime_ms = 300, .downtime_cap_ms = 300};

static void test_converged(void **state)
{
    ConvergenceDecision decision = decide_rounds((double[]){0.04}, 1, usual);

    assert_int_equal(decision.verdict, CONVERGENCE_STOP);
    assert_string_equal(decision.reason, "converged");
    assert_true(decision.pause_ms > 12 && decision.pause_ms < 13);
    assert_true(decision.expected_downtime_ms == decision.pause_ms);
    assert_true(decision.defer_rate == INFINITY && decision.run_share == 1);
    assert_false(decision.probe);
}

/* The target is a goal, not a budget: 30 ms would do, 1 ms is better. */
static void test_goes_on_while_it_helps(void **state)
{
    assert_int_equal(decide_rounds((double[]){4}, 1, usual).verdict, CONVERGENCE_CONTINUE);
    assert_int_equal(decide_rounds((double[]){4, 1}, 2, usual).verdict, CONVERGENCE_CONTINUE);
    assert_int_equal(decide_rounds((double[]){4, 1, 0.25}, 3, usual).verdict, CONVERGENCE_CONTINUE);
    assert_string_equal(decide_rounds((double[]){4, 1, 0.25, 0.05}, 4, usual).reason, "converged");
    assert_string_equal(decide_rounds((double[]){8, 2, 2}, 3, usual).reason, "no-gain");
}

/* Never an endless row of rounds that each gain a little. */
static void test_bounded(void **state)
{
    double left[64];
    guint rounds = 0;

    for (guint i = 0; i < G_N_ELEMENTS(left); i++)
        left[i] = i == 0 ? 32 : left[i - 1] * 0.74;
    while (decide_rounds(left, ++rounds, usual).verdict == CONVERGENCE_CONTINUE)
        assert_true(rounds < 60);
    assert_true(rounds <= CONVERGENCE_ROUNDS_WITHIN_TARGET + 8);
}

/* First the longer pause that the user allows, then no more. */
static void test_patience(void **state)
{
    double left[64];

    for (guint i = 0; i < G_N_ELEMENTS(left); i++)
        left[i] = 100;
    assert_int_equal(decide_rounds(left, 4, usual).verdict, CONVERGENCE_CONTINUE);
    assert_string_equal(decide_rounds(left, 5, usual).reason, "within-cap");
    assert_int_equal(decide_rounds(left, 24, strict).verdict, CONVERGENCE_CONTINUE);
    assert_int_equal(decide_rounds(left, 25, strict).verdict, CONVERGENCE_GIVE_UP);
    assert_string_equal(decide_rounds(left, 25, strict).reason, "not-converging");
    /* A new best renews hope. */
    left[24] = 90;
    assert_int_equal(decide_rounds(left, 25, strict).verdict, CONVERGENCE_CONTINUE);
}

/* A memory-intensive guest: half of the groups are hot and never sent. */
typedef struct {
    ConvergenceGroup groups[GROUPS];
    ConvergenceWindow windows[16];
    ConvergenceFacts facts;
} Intensive;

static void intensive_make(Intensive *guest, double dirty_mb_per_s, guint windows)
{
    memset(guest, 0, sizeof *guest);
    guest->facts = facts_make(guest->groups, GROUPS);
    for (guint i = 0; i < GROUPS; i++)
        guest->groups[i] =
            (ConvergenceGroup){.pages = 512, .first_send_per_page = 4096, .resend_per_page = 4096};
    for (guint i = GROUPS / 2; i < GROUPS; i++) {
        ConvergenceGroup *group = &guest->groups[i];

        group->pending = group->unsent = group->active = 512;
        group->dirty_per_ms = (float)(dirty_mb_per_s * 1000 / 4096 / (GROUPS / 2.0));
    }
    for (guint i = 0; i < windows; i++)
        guest->windows[i] = (ConvergenceWindow){.ms = 250,
                                                .carried_bytes = LINK * 250,
                                                .dirtied_bytes = dirty_mb_per_s * 1000 * 250,
                                                .similarity = 0.95,
                                                .run_share = 1,
                                                .cost_known = TRUE};
    guest->facts.windows = guest->windows;
    guest->facts.window_count = windows;
    guest->facts.limits.downtime_cap_ms = 5000;
}

static guint count_deferred(const Intensive *guest, const ConvergenceDecision *decision)
{
    ConvergenceGroup groups[GROUPS];
    guint deferred = 0;

    memcpy(groups, guest->groups, sizeof groups);
    convergence_apply_deferral(groups, GROUPS, decision->defer_rate);
    for (guint i = 0; i < GROUPS; i++)
        deferred += groups[i].deferred ? 1 : 0;
    return deferred;
}

static void test_intensive(void **state)
{
    Intensive guest;
    ConvergenceDecision decision;

    intensive_make(&guest, 200, 4);
    decision = convergence_decide(&guest.facts);
    assert_true(decision.memory_intensive);
    assert_int_equal(decision.verdict, CONVERGENCE_STOP);
    assert_string_equal(decision.reason, "memory-intensive");
    assert_int_equal(count_deferred(&guest, &decision), GROUPS / 2);
    assert_true(decision.run_share == 1);
    /* While there is something cold to send: defer, and go on. */
    for (guint i = 0; i < GROUPS / 2; i++)
        guest.groups[i].pending = guest.groups[i].unsent = 512;
    guest.facts.at_round_end = FALSE;
    decision = convergence_decide(&guest.facts);
    assert_int_equal(decision.verdict, CONVERGENCE_CONTINUE);
    assert_int_equal(count_deferred(&guest, &decision), GROUPS / 2);
    assert_true(fabs(decision.expected_downtime_ms - (134.2 * 2 / 117 * 1000 / 2 + 12)) < 1200);
}

/* Two of the last three windows, and the first is not counted. */
static void test_pattern(void **state)
{
    Intensive guest;

    intensive_make(&guest, 200, 2);
    assert_false(convergence_decide(&guest.facts).memory_intensive);
    intensive_make(&guest, 200, 3);
    assert_true(convergence_decide(&guest.facts).memory_intensive);
    guest.windows[2].dirtied_bytes = 0.7 * LINK * 250;
    assert_false(convergence_decide(&guest.facts).memory_intensive);
    intensive_make(&guest, 200, 4);
    guest.windows[1].similarity = guest.windows[2].similarity = 0.5;
    assert_false(convergence_decide(&guest.facts).memory_intensive);
    /* Whole pages are only guessed. */
    intensive_make(&guest, 200, 4);
    for (guint i = 0; i < 4; i++)
        guest.windows[i].cost_known = FALSE;
    assert_false(convergence_decide(&guest.facts).memory_intensive);
    /* One window less does not end it, two quiet ones do. */
    intensive_make(&guest, 200, 6);
    guest.windows[5].dirtied_bytes = 0;
    assert_true(convergence_decide(&guest.facts).memory_intensive);
    guest.windows[4].dirtied_bytes = 0;
    assert_false(convergence_decide(&guest.facts).memory_intensive);
    /* Slowed to a fifth, it is the same guest. */
    intensive_make(&guest, 200, 6);
    for (guint i = 0; i < 6; i++) {
        guest.windows[i].run_share = 0.2;
        guest.windows[i].dirtied_bytes /= 5;
    }
    assert_true(convergence_decide(&guest.facts).memory_intensive);
}

/* As much is dirtied, but always the same few: the target is met anyway. */
static void test_within_reach(void **state)
{
    Intensive guest;
    ConvergenceDecision decision;

    intensive_make(&guest, 200, 4);
    for (guint i = GROUPS / 2; i < GROUPS; i++)
        guest.groups[i].dirty_per_ms = i < GROUPS / 2 + 10 ? 25.0F : 0.001F;
    decision = convergence_decide(&guest.facts);
    assert_false(decision.memory_intensive);
    assert_int_equal(decision.verdict, CONVERGENCE_CONTINUE);
    assert_true(decision.expected_downtime_ms <= 300);
    guest.facts.limits.max_downtime_ms = 100;
    assert_true(convergence_decide(&guest.facts).memory_intensive);
}

/* More than the cap carries is hot: the hottest that fit, and the same ones
 * the next time, although all are about as hot. */
static void test_part_is_held(void **state)
{
    Intensive guest;
    ConvergenceDecision decision;
    ConvergenceGroup before[GROUPS];
    guint deferred, changed = 0;

    intensive_make(&guest, 400, 4);
    guest.facts.limits.downtime_cap_ms = 1000;
    decision = convergence_decide(&guest.facts);
    deferred = count_deferred(&guest, &decision);
    /* 2.1 MB each at 117 MB/s: 18 ms. */
    assert_true(deferred > 40 && deferred * 18 < 1000);
    assert_int_equal(decision.verdict, CONVERGENCE_CONTINUE);
    assert_true(decision.run_share == 1 && !decision.wait);
    convergence_apply_deferral(guest.groups, GROUPS, decision.defer_rate);
    for (guint i = GROUPS / 2; i < GROUPS; i++)
        guest.groups[i].dirty_per_ms *= i % 2 ? 0.95F : 1.05F;
    decision = convergence_decide(&guest.facts);
    memcpy(before, guest.groups, sizeof before);
    convergence_apply_deferral(guest.groups, GROUPS, decision.defer_rate);
    for (guint i = 0; i < GROUPS; i++)
        changed += guest.groups[i].deferred != before[i].deferred ? 1 : 0;
    assert_true(changed <= deferred / 8);
}

/* What is not deferred is dirtied too fast: slowed, in proportion, and undone. */
static void test_slows(void **state)
{
    Intensive guest;
    ConvergenceDecision decision;
    double faster;

    intensive_make(&guest, 400, 4);
    guest.facts.limits.downtime_cap_ms = 1000;
    guest.facts.limits.means = CONVERGENCE_MEANS_THROTTLE;
    guest.facts.at_round_end = FALSE;
    faster = convergence_decide(&guest.facts).run_share;
    assert_true(faster < 0.9 && faster > 0.05);
    intensive_make(&guest, 1600, 4);
    guest.facts.limits.downtime_cap_ms = 1000;
    guest.facts.limits.means = CONVERGENCE_MEANS_THROTTLE;
    assert_true(convergence_decide(&guest.facts).run_share < 0.4 * faster);
    /* Small differences are not followed. */
    guest.facts.run_share = 0.02;
    guest.facts.run_share = convergence_decide(&guest.facts).run_share * 1.1;
    assert_true(convergence_decide(&guest.facts).run_share == guest.facts.run_share);
    /* Cold pages come first: nothing to be gained yet. */
    for (guint i = 0; i < GROUPS / 2; i++)
        guest.groups[i].pending = guest.groups[i].unsent = 512;
    guest.facts.run_share = 1;
    assert_true(convergence_decide(&guest.facts).run_share == 1);
    for (guint i = 0; i < GROUPS / 2; i++)
        guest.groups[i].pending = guest.groups[i].unsent = 0;
    /* Slowed, and the pause fits: at once, even within a round; slow until it is paused. */
    guest.facts.at_round_end = FALSE;
    guest.facts.run_share = 0.2;
    guest.facts.limits.downtime_cap_ms = 5000;
    decision = convergence_decide(&guest.facts);
    assert_string_equal(decision.reason, "memory-intensive");
    assert_true(decision.run_share == 0.2);
}

/* A guest that was quiet before may become so again. */
static void test_waits_for_quiet(void **state)
{
    Intensive guest;
    ConvergenceDecision decision;

    intensive_make(&guest, 200, 8);
    for (guint i = 2; i < 6; i++)
        guest.windows[i].dirtied_bytes = 0;
    decision = convergence_decide(&guest.facts);
    assert_true(decision.memory_intensive && decision.wait);
    assert_int_equal(decision.verdict, CONVERGENCE_CONTINUE);
    /* But not for longer than the pause would be. */
    guest.windows[7].ms *= 20;
    guest.windows[7].carried_bytes *= 20;
    guest.windows[7].dirtied_bytes *= 20;
    decision = convergence_decide(&guest.facts);
    assert_string_equal(decision.reason, "memory-intensive");
}

/* Before the windows can tell, what seems intensive is not sent, but probed. */
static void test_suspects(void **state)
{
    Intensive guest;
    ConvergenceDecision decision;

    intensive_make(&guest, 200, 1);
    guest.facts.cost_known = FALSE;
    decision = convergence_decide(&guest.facts);
    assert_int_equal(decision.verdict, CONVERGENCE_CONTINUE);
    assert_false(decision.memory_intensive);
    assert_true(decision.probe && decision.probe_alone);
    assert_int_equal(count_deferred(&guest, &decision), GROUPS / 2);
    /* Cheap to send again: neither. */
    for (guint i = 0; i < GROUPS; i++)
        guest.groups[i].resend_per_page = 140;
    guest.facts.cost_known = TRUE;
    decision = convergence_decide(&guest.facts);
    assert_true(decision.defer_rate == INFINITY && !decision.probe);
}

static void test_deadline(void **state)
{
    Intensive guest;

    intensive_make(&guest, 20, 4);
    guest.facts.at_round_end = FALSE;
    guest.facts.limits.deadline_ms = 20000;
    assert_int_equal(convergence_decide(&guest.facts).verdict, CONVERGENCE_CONTINUE);
    /* 2.3 s of sending are left. */
    guest.facts.limits.deadline_ms = 7400;
    assert_string_equal(convergence_decide(&guest.facts).reason, "deadline");
    guest.facts.limits.downtime_cap_ms = 1000;
    assert_int_equal(convergence_decide(&guest.facts).verdict, CONVERGENCE_CONTINUE);
    guest.facts.elapsed_ms = 7401;
    assert_int_equal(convergence_decide(&guest.facts).verdict, CONVERGENCE_GIVE_UP);
    assert_string_equal(convergence_decide(&guest.facts).reason, "deadline");
    /* Late, but it will end. */
    guest.facts.limits.means = CONVERGENCE_MEANS_THROTTLE;
    assert_int_equal(convergence_decide(&guest.facts).verdict, CONVERGENCE_CONTINUE);
    assert_true(convergence_decide(&guest.facts).run_share < 0.05);
}

static void test_odd_facts(void **state)
{
    ConvergenceFacts facts = {.at_round_end = TRUE};
    ConvergenceDecision decision = convergence_decide(&facts);

    assert_string_equal(decision.reason, "converged");
    facts.at_round_end = FALSE;
    decision = convergence_decide(&facts);
    assert_int_equal(decision.verdict, CONVERGENCE_CONTINUE);
    assert_true(isfinite(decision.expected_total_ms) && decision.run_share == 1);
}

static void assert_refused(ConvergenceLimits limits, uint64_t ram, double bytes_per_ms,
                           const char *words)
{
    g_autoptr(GError) error = NULL;

    assert_false(convergence_check_limits(&limits, ram, bytes_per_ms, 12, &error));
    assert_non_null(strstr(error->message, words));
}

static void test_promises(void **state)
{
    ConvergenceLimits limits = usual;

    assert_true(convergence_check_limits(&limits, 1 << 30, 0, 12, NULL));
    limits.deadline_ms = 10000;
    assert_true(convergence_check_limits(&limits, 1 << 30, 0, 12, NULL));
    assert_true(convergence_check_limits(&limits, 1 << 30, LINK, 12, NULL));
    assert_refused(limits, 1 << 30, LINK / 10, "--deadline 91785 or more");
    limits.deadline_ms = 5;
    assert_refused(limits, 1 << 30, 0, "--deadline 12 or more");
    assert_refused((ConvergenceLimits){.downtime_cap_ms = 2000}, 1, 0, "--max-downtime 12 or more");
    assert_refused((ConvergenceLimits){.max_downtime_ms = 11, .downtime_cap_ms = 2000}, 1, 0,
                   "--max-downtime 12 or more");
    assert_refused((ConvergenceLimits){.max_downtime_ms = 300, .downtime_cap_ms = 200}, 1, 0,
                   "--downtime-cap 300 or more");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_converged),    cmocka_unit_test(test_goes_on_while_it_helps),
        cmocka_unit_test(test_bounded),      cmocka_unit_test(test_patience),
        cmocka_unit_test(test_intensive),    cmocka_unit_test(test_pattern),
        cmocka_unit_test(test_within_reach), cmocka_unit_test(test_part_is_held),
        cmocka_unit_test(test_slows),        cmocka_unit_test(test_waits_for_quiet),
        cmocka_unit_test(test_suspects),     cmocka_unit_test(test_deadline),
        cmocka_unit_test(test_odd_facts),    cmocka_unit_test(test_promises),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
