#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <math.h>
#include <string.h>

#include "sim/simulator.h"

#define MIB (1ULL << 20)
#define GIGABIT 117000.0
#define FAST_ETHERNET 12000.0
#define SEEDS 20
/* Pages of the usual set, 512 MiB. */
#define SET_PAGES (512 * MIB / 4096)

/* A page goes out once per round, so what sending it again costs is learnt in the second round at
 * the earliest.  Until then a guest is not known to be memory-intensive, and the first round sends
 * what is hot, too, in vain (docs/convergence.md, "Limits"). */

static SimOptions options_make(SimWorkloadKind kind)
{
    return (SimOptions){
        .workload = {.kind = kind, .seed = 1},
        .bytes_per_ms = GIGABIT,
        .device_ms = 12,
        .limit_ms = 120000,
        .limits = {.max_downtime_ms = 300, .downtime_cap_ms = 2000},
    };
}

static void assert_done(const SimResult *result, const char *reason)
{
    assert_true(result->done);
    assert_string_equal(result->reason, reason);
}

/* Known and stopped in the second round; every seed, every rate. */
static void test_intensive(void **state)
{
    static const double rates[] = {150e6, 300e6, 600e6, 1000e6};

    for (guint seed = 1; seed <= SEEDS; seed++) {
        SimOptions options = options_make(SIM_INTENSIVE);
        SimResult result;

        options.workload.seed = seed;
        options.workload.bytes_per_second = rates[seed % G_N_ELEMENTS(rates)];
        options.limits.downtime_cap_ms = 5000;
        result = sim_run(&options);
        assert_done(&result, "memory-intensive");
        assert_true(result.memory_intensive);
        /* The cold memory, a few probes, the pause. */
        assert_true(result.rounds <= 5);
        assert_true(result.hot_pages_sent <= 0.1 * SET_PAGES);
        assert_true(result.sent_bytes <= 1.1 * result.populated_bytes);
        assert_true(result.downtime_ms <= 5000);
        assert_true(result.least_run_share == 1);
    }
}

/* There is hardly anything cold: the first round is over before the hot is sent. */
static void test_intensive_alone(void **state)
{
    SimOptions options = options_make(SIM_INTENSIVE);
    SimResult result;

    options.workload.ram_bytes = 530 * MIB;
    options.limits.downtime_cap_ms = 5000;
    result = sim_run(&options);
    assert_done(&result, "memory-intensive");
    /* Until a few syncs have told, a small sample is all that is known. */
    assert_true(result.hot_pages_sent <= 20000);
    assert_true(result.sent_bytes <= 1.06 * result.populated_bytes);
}

/* However dear a fault is: the guest is known for what it is by what it would write without
 * them, and nothing hot is sent twice. */
static void test_dear_faults(void **state)
{
    static const double fault_ms[] = {0.002, 0.02, 0.08};

    for (guint i = 0; i < G_N_ELEMENTS(fault_ms); i++) {
        SimOptions options = options_make(SIM_INTENSIVE);
        SimResult result;

        options.workload.bytes_per_second = 2000e6;
        options.limits.downtime_cap_ms = 5000;
        options.fault_ms = fault_ms[i];
        result = sim_run(&options);
        assert_done(&result, "memory-intensive");
        assert_true(result.memory_intensive);
        assert_true(result.sent_bytes <= 1.9 * result.populated_bytes);
        assert_true(result.lost_ms < 0.8 * (result.total_ms - result.downtime_ms));
    }
}

/* A page costs a fault for each time it is sent, not for each dirty sync. */
static void test_few_faults(void **state)
{
    SimOptions options = options_make(SIM_SPARSE);
    SimResult result;

    options.fault_ms = 0.02;
    result = sim_run(&options);
    assert_done(&result, "converged");
    /* It writes 20,000 pages a second. */
    assert_true(result.faults < 0.6 * 20 * result.total_ms);
}

/* A link that changes by a fifth all the time. */
static void test_unsteady_link(void **state)
{
    for (guint seed = 1; seed <= SEEDS; seed++) {
        SimOptions options = options_make(SIM_INTENSIVE);
        SimResult result;

        options.workload.seed = seed;
        options.jitter = 0.2;
        options.limits.downtime_cap_ms = 6000;
        result = sim_run(&options);
        assert_done(&result, "memory-intensive");
        assert_true(result.sent_bytes <= 1.65 * result.populated_bytes);
        options.limits.downtime_cap_ms = 2000;
        options.limits.means = CONVERGENCE_MEANS_THROTTLE;
        result = sim_run(&options);
        assert_true(result.done);
        assert_true(result.downtime_ms <= 2000 * 1.2);
        assert_true(result.sent_bytes <= 1.85 * result.populated_bytes);
    }
}

/* Round and round: known once it has come back. */
static void test_sequential(void **state)
{
    SimOptions options = options_make(SIM_SEQUENTIAL);
    SimResult result;

    options.limits.downtime_cap_ms = 5000;
    result = sim_run(&options);
    assert_done(&result, "memory-intensive");
    assert_true(result.sent_bytes <= 1.7 * result.populated_bytes);
}

/* The cap does not hold all that is hot: the guest is slowed, then set free. */
static void test_throttle(void **state)
{
    static const double rates[] = {150e6, 300e6, 1000e6};

    for (guint i = 0; i < G_N_ELEMENTS(rates); i++) {
        SimOptions options = options_make(SIM_INTENSIVE);
        SimResult result;

        options.workload.bytes_per_second = rates[i];
        options.limits.means = CONVERGENCE_MEANS_THROTTLE;
        result = sim_run(&options);
        assert_done(&result, "memory-intensive");
        assert_true(result.downtime_ms <= 2000);
        assert_true(result.sent_bytes <= 2.1 * result.populated_bytes);
        assert_true(result.least_run_share < 1 && result.least_run_share >= 0.03);
        /* Not while there was something cold to send. */
        assert_true(result.throttled_ms < 0.7 * result.total_ms);
        if (i == 0)
            continue; /* what is not deferred converges without */
        options.limits.means = 0;
        result = sim_run(&options);
        assert_false(result.done);
        assert_string_equal(result.reason, "not-converging");
        assert_true(result.total_ms < 100000 && result.least_run_share == 1);
    }
}

/* Between the decision to stop and the pause what was read is sent.  A guest set free in that
 * time writes all of it anew: it was never stopped. */
static void test_throttle_with_queue(void **state)
{
    static const double rates[] = {20e6, 60e6, 300e6};

    for (guint i = 0; i < G_N_ELEMENTS(rates); i++) {
        SimOptions options = options_make(SIM_INTENSIVE);
        SimResult result;

        options.workload.ram_bytes = 56 * MIB;
        options.workload.set_bytes = 12 * MIB;
        options.workload.bytes_per_second = rates[i];
        options.bytes_per_ms = 2000;
        options.queue_ms = 300;
        options.limits.means = CONVERGENCE_MEANS_THROTTLE;
        result = sim_run(&options);
        assert_done(&result, "memory-intensive");
        assert_true(result.downtime_ms <= 2000);
        assert_true(result.sent_bytes <= 1.35 * result.populated_bytes);
    }
}

/* Beside the guest's own few cheap pages, and over links that take seconds for little: the cap
 * is kept, and the move ends. */
static void test_cap_on_slow_links(void **state)
{
    static const struct {
        SimWorkloadKind kind;
        unsigned ram_mib, set_mib, cap_ms;
        double link, jitter;
    } cases[] = {
        {SIM_DENSE, 288, 32, 5000, 2000, 0},       {SIM_INTENSIVE, 384, 128, 300, 2000, 0.2},
        {SIM_SKEWED, 576, 512, 500, 2000, 0},      {SIM_SEQUENTIAL, 144, 128, 2000, 2000, 0},
        {SIM_SEQUENTIAL, 384, 128, 300, 12000, 0},
    };

    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        SimOptions options = options_make(cases[i].kind);
        SimResult result;

        options.workload.ram_bytes = cases[i].ram_mib * MIB;
        options.workload.set_bytes = cases[i].set_mib * MIB;
        options.workload.bytes_per_second = 5e6;
        options.bytes_per_ms = cases[i].link;
        options.jitter = cases[i].jitter;
        options.queue_ms = 150;
        options.limit_ms = 3000000;
        options.limits.downtime_cap_ms = cases[i].cap_ms;
        options.limits.means = CONVERGENCE_MEANS_THROTTLE;
        result = sim_run(&options);
        assert_true(result.done);
        assert_true(result.downtime_ms <= (1 + cases[i].jitter) * cases[i].cap_ms);
    }
}

static void test_slow_link(void **state)
{
    SimOptions options = options_make(SIM_DENSE);
    SimResult result;

    options.bytes_per_ms = FAST_ETHERNET;
    options.limits.means = CONVERGENCE_MEANS_THROTTLE;
    result = sim_run(&options);
    assert_true(result.done && result.least_run_share < 0.5);
    assert_true(result.downtime_ms <= 2000);
    assert_true(result.total_ms <= 1.55 * result.populated_bytes / FAST_ETHERNET);
}

/* Quiet guests: as few rounds as ever, never taken for another kind. */
static void test_quiet(void **state)
{
    static const SimWorkloadKind kinds[] = {SIM_IDLE, SIM_READ_HEAVY};
    static const double links[] = {FAST_ETHERNET, GIGABIT, 1200000};

    for (guint seed = 1; seed <= SEEDS; seed++) {
        SimOptions options = options_make(kinds[seed % G_N_ELEMENTS(kinds)]);
        SimResult result;

        options.workload.seed = seed;
        options.bytes_per_ms = links[seed % G_N_ELEMENTS(links)];
        options.limits.means = CONVERGENCE_MEANS_THROTTLE;
        result = sim_run(&options);
        assert_done(&result, "converged");
        assert_false(result.memory_intensive || result.probed);
        assert_true(result.rounds >= 2 && result.rounds <= 4);
        assert_true(result.downtime_ms < 13 && result.least_run_share == 1);
        assert_true(result.sent_bytes <= 1.001 * result.populated_bytes);
    }
}

/* Faster than the link in pages, far slower in bytes. */
static void test_sparse(void **state)
{
    for (guint seed = 1; seed <= SEEDS; seed++) {
        SimOptions options = options_make(SIM_SPARSE);
        SimResult result;

        options.workload.seed = seed;
        options.workload.bytes_per_second = seed % 2 ? 20000 * 4096.0 : 100000 * 4096.0;
        options.limits.means = CONVERGENCE_MEANS_THROTTLE;
        result = sim_run(&options);
        assert_done(&result, "converged");
        assert_false(result.memory_intensive);
        assert_true(result.downtime_ms < 13 && result.least_run_share == 1);
        assert_true(result.sent_bytes <= 1.03 * result.populated_bytes);
    }
}

static void test_converging(void **state)
{
    static const SimWorkloadKind kinds[] = {SIM_DENSE, SIM_TEXT};

    for (guint i = 0; i < G_N_ELEMENTS(kinds); i++) {
        SimOptions options = options_make(kinds[i]);
        SimResult ours, pages;

        ours = sim_run(&options);
        options.policy = SIM_PAGES;
        pages = sim_run(&options);
        assert_true(ours.done && pages.done);
        assert_false(ours.memory_intensive);
        assert_true(ours.downtime_ms <= 300);
        assert_true(ours.downtime_ms < pages.downtime_ms / 2);
        assert_true(ours.total_ms < pages.total_ms && ours.sent_bytes < pages.sent_bytes);
    }
}

/* A tenth of 512 MiB takes most of the writes.  Where rounds can still reach
 * the target, they do; where not, the hottest are deferred, the rest is sent. */
static void test_skewed(void **state)
{
    SimOptions options = options_make(SIM_SKEWED);
    SimResult result = sim_run(&options);

    assert_true(result.done && result.downtime_ms <= 300);
    assert_false(result.memory_intensive);
    assert_true(result.sent_bytes < 1.35 * result.populated_bytes);
    options.workload.bytes_per_second = 400e6;
    result = sim_run(&options);
    assert_done(&result, "memory-intensive");
    /* The tenth takes 459 ms. */
    assert_true(result.downtime_ms < 700);
    assert_true(result.sent_bytes < 1.25 * result.populated_bytes);
}

/* A burst, then quiet: waiting is better than a long pause.  Not always: the fourth is taken for
 * one that goes on. */
static void test_phases(void **state)
{
    for (guint seed = 1; seed <= 5; seed++) {
        SimOptions options = options_make(SIM_PHASES);
        SimResult result;

        options.workload.seed = seed;
        options.workload.burst_ms = 400.0 * seed;
        result = sim_run(&options);
        assert_done(&result, seed == 4 ? "memory-intensive" : "converged");
        assert_true(result.downtime_ms < (seed == 4 ? 1300 : 20));
        assert_true(result.total_ms < 12000);
    }
}

/* A deadline that a shorter pause would miss: the pause is longer. */
static void test_deadline(void **state)
{
    SimOptions options = options_make(SIM_INTENSIVE);
    SimResult free_run, result;

    options.workload.bytes_per_second = 90e6;
    free_run = sim_run(&options);
    assert_true(free_run.done && free_run.downtime_ms < 300 && free_run.total_ms > 9000);
    options.limits.deadline_ms = 8000;
    result = sim_run(&options);
    assert_done(&result, "deadline");
    assert_true(result.total_ms <= 8000);
    assert_true(result.downtime_ms > free_run.downtime_ms && result.downtime_ms <= 2000);
}

/* Neither does the cap: slowed, or given up. */
static void test_deadline_beyond_cap(void **state)
{
    SimOptions options = options_make(SIM_INTENSIVE);
    SimResult result;

    options.workload.bytes_per_second = 110e6;
    options.limits.downtime_cap_ms = 400;
    options.limits.deadline_ms = 7000;
    result = sim_run(&options);
    assert_false(result.done);
    assert_string_equal(result.reason, "deadline");
    options.limits.means = CONVERGENCE_MEANS_THROTTLE;
    result = sim_run(&options);
    assert_true(result.done && result.least_run_share < 1);
    assert_true(result.total_ms <= 7000 && result.downtime_ms <= 400);
}

static void collect_line(const char *line, gpointer user)
{
    g_string_append_printf(user, "%s\n", line);
}

/* A recorded guest, replayed, moves as it did. */
static void test_replay(void **state)
{
    static const SimWorkloadKind kinds[] = {SIM_DENSE, SIM_INTENSIVE, SIM_SPARSE, SIM_IDLE};

    for (guint i = 0; i < G_N_ELEMENTS(kinds); i++) {
        g_autoptr(GString) text = g_string_new(NULL);
        g_autoptr(Trace) trace = NULL;
        SimOptions options = options_make(kinds[i]);
        SimResult first, again;

        options.limits.downtime_cap_ms = 5000;
        options.trace = collect_line;
        options.user = text;
        first = sim_run(&options);
        trace = trace_parse(text->str, text->len, NULL);
        assert_non_null(trace);
        assert_true(trace->ended && trace->total_ms > 0.99 * first.total_ms);
        assert_string_equal(trace->reason, first.reason);
        options.trace = NULL;
        options.workload = (SimWorkloadOptions){.kind = SIM_TRACE, .trace = trace, .seed = 2};
        again = sim_run(&options);
        /* There is more than one reason for a pause within the target. */
        if (strcmp(first.reason, "memory-intensive") == 0)
            assert_string_equal(again.reason, first.reason);
        else
            assert_false(again.memory_intensive);
        assert_true(again.total_ms > 0.8 * first.total_ms && again.total_ms < 1.1 * first.total_ms);
        assert_true(again.downtime_ms < 1.2 * first.downtime_ms + 5);
    }
}

/* Same seed, same move. */
static void test_repeatable(void **state)
{
    SimOptions options = options_make(SIM_PHASES);
    SimResult first = sim_run(&options), second = sim_run(&options);

    assert_true(first.total_ms == second.total_ms && first.sent_bytes == second.sent_bytes);
}

/* All of it once, and no pause but the device state's, whatever the guest does. */
static void test_postcopy(void **state)
{
    static const SimWorkloadKind kinds[] = {SIM_IDLE, SIM_SPARSE, SIM_INTENSIVE, SIM_SEQUENTIAL};

    for (guint i = 0; i < G_N_ELEMENTS(kinds); i++) {
        SimOptions options = options_make(kinds[i]);
        SimResult result;

        options.limits.means = CONVERGENCE_MEANS_POSTCOPY_NOW;
        result = sim_run(&options);
        assert_done(&result, "postcopy");
        assert_true(result.switched && result.rounds == 1);
        assert_true(result.downtime_ms <= 12 + SIM_LEAST_QUEUE_MS);
        assert_true(result.sent_bytes <= 1.01 * result.populated_bytes);
        assert_true(result.total_ms <= 1.01 * (12 + result.populated_bytes / GIGABIT));
        assert_true(result.postcopy_lost_ms < result.postcopy_ms);
        if (kinds[i] == SIM_IDLE)
            assert_true(result.postcopy_lost_ms < 0.01 * result.postcopy_ms);
    }
}

typedef struct {
    ConvergenceDecision decision; /* the last one */
} Decided;

static void note_decision(double ms, const ConvergenceDecision *decision, gpointer user)
{
    ((Decided *)user)->decision = *decision;
}

/* As short as pre-copy with its long pause, with any limits, and what the guest loses is what was expected. */
static void test_hybrid(void **state)
{
    static const double rates[] = {150e6, 300e6, 600e6, 1000e6};

    for (guint i = 0; i < G_N_ELEMENTS(rates); i++) {
        SimOptions options = options_make(SIM_INTENSIVE);
        Decided decided;
        SimResult stopped, result;

        options.workload.bytes_per_second = rates[i];
        options.limits.downtime_cap_ms = 5000;
        stopped = sim_run(&options);
        options.limits.means = CONVERGENCE_MEANS_POSTCOPY;
        options.decided = note_decision;
        options.user = &decided;
        result = sim_run(&options);
        assert_true(result.done && result.switched);
        assert_int_equal(decided.decision.verdict, CONVERGENCE_SWITCH);
        assert_true(result.downtime_ms <= 12 + SIM_LEAST_QUEUE_MS);
        assert_true(result.total_ms <= 1.05 * stopped.total_ms);
        assert_true(result.sent_bytes <= 1.03 * result.populated_bytes);
        assert_true(result.postcopy_lost_ms < 512 * MIB / GIGABIT);
        assert_true(fabs(result.postcopy_lost_ms - decided.decision.postcopy_lost_ms) <
                    0.1 * decided.decision.postcopy_lost_ms);
        assert_true(fabs(result.total_ms - decided.decision.expected_total_ms) <
                    0.02 * result.total_ms);
    }
}

/* Where rounds reach the target, post-copy changes nothing. */
static void test_converging_with_postcopy(void **state)
{
    static const SimWorkloadKind kinds[] = {SIM_IDLE, SIM_SPARSE, SIM_DENSE, SIM_TEXT};
    static const guint means[] = {CONVERGENCE_MEANS_POSTCOPY,
                                  CONVERGENCE_MEANS_POSTCOPY_IF_CHEAPER};

    for (guint i = 0; i < G_N_ELEMENTS(kinds) * G_N_ELEMENTS(means); i++) {
        SimOptions options = options_make(kinds[i / 2]);
        SimResult without = sim_run(&options), with;

        options.limits.means = means[i % 2];
        with = sim_run(&options);
        assert_done(&with, without.reason);
        assert_false(with.switched);
        assert_true(with.total_ms == without.total_ms);
        assert_true(with.downtime_ms == without.downtime_ms);
    }
}

/* Instead of a long pause, or of slowing the guest; not where it costs more than a pause. */
static void test_auto(void **state)
{
    SimOptions options = options_make(SIM_INTENSIVE);
    SimResult result;

    for (guint cap = 2000; cap <= 5000; cap += 3000) {
        options.limits.downtime_cap_ms = cap;
        options.limits.means = CONVERGENCE_MEANS_POSTCOPY_IF_CHEAPER | CONVERGENCE_MEANS_THROTTLE;
        result = sim_run(&options);
        assert_done(&result, "switch-memory-intensive");
        assert_true(result.least_run_share == 1);
    }
    options = options_make(SIM_SPARSE);
    options.workload.bytes_per_second = 4000e6;
    options.limits.max_downtime_ms = 15;
    options.limits.means = CONVERGENCE_MEANS_POSTCOPY_IF_CHEAPER;
    result = sim_run(&options);
    assert_true(result.done && !result.switched && result.downtime_ms < 200);
}

/* All pages are there in time, if the link can do it at all. */
static void test_postcopy_deadline(void **state)
{
    for (guint deadline_ms = 6500; deadline_ms <= 9500; deadline_ms += 1500) {
        SimOptions options = options_make(SIM_INTENSIVE);
        SimResult result;

        options.limits.deadline_ms = deadline_ms;
        options.limits.means = CONVERGENCE_MEANS_POSTCOPY;
        result = sim_run(&options);
        assert_true(result.done && result.switched);
        assert_true(result.total_ms <= deadline_ms);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_intensive),
        cmocka_unit_test(test_intensive_alone),
        cmocka_unit_test(test_dear_faults),
        cmocka_unit_test(test_few_faults),
        cmocka_unit_test(test_sequential),
        cmocka_unit_test(test_unsteady_link),
        cmocka_unit_test(test_throttle),
        cmocka_unit_test(test_throttle_with_queue),
        cmocka_unit_test(test_cap_on_slow_links),
        cmocka_unit_test(test_slow_link),
        cmocka_unit_test(test_quiet),
        cmocka_unit_test(test_sparse),
        cmocka_unit_test(test_converging),
        cmocka_unit_test(test_skewed),
        cmocka_unit_test(test_phases),
        cmocka_unit_test(test_deadline),
        cmocka_unit_test(test_deadline_beyond_cap),
        cmocka_unit_test(test_replay),
        cmocka_unit_test(test_repeatable),
        cmocka_unit_test(test_postcopy),
        cmocka_unit_test(test_hybrid),
        cmocka_unit_test(test_converging_with_postcopy),
        cmocka_unit_test(test_auto),
        cmocka_unit_test(test_postcopy_deadline),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
