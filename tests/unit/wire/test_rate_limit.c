/* The token bucket in simulated time: no clock, no sleeping. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>

#include <cmocka.h>

#include "wire/rate_limit.h"

#define NS_PER_S 1000000000ULL
#define TOLERANCE 0.05

/* What was sent when. */
typedef struct {
    GArray *at_ns, *bytes;
} Log;

/* A greedy sender that wakes up late by up to *late_ns* and sends pieces with
 * *overhead* more bytes than it asked for. */
static uint64_t run_sender(uint64_t rate, uint64_t span_ns, int late_ns, size_t overhead, Log *log)
{
    g_autoptr(GRand) random = g_rand_new_with_seed((guint32)rate);
    uint64_t start = 5 * NS_PER_S, now = start, total = 0;
    RateLimit limit;

    rate_limit_init(&limit, rate, now);
    while (now < start + span_ns) {
        size_t piece = rate_limit_piece(&limit);
        uint64_t delay = rate_limit_delay_ns(&limit, piece, now);
        uint64_t bytes = piece + overhead;

        if (delay > 0) {
            now += delay + (late_ns ? (uint64_t)g_rand_int_range(random, 0, late_ns) : 0);
            continue;
        }
        rate_limit_charge(&limit, bytes, now);
        total += bytes;
        if (log) {
            g_array_append_val(log->at_ns, now);
            g_array_append_val(log->bytes, bytes);
        }
    }
    return total;
}

static const uint64_t rates[] = {100000, 1000000, 12500000, 125000000, 1250000000, 10000000000};

static void test_long_run_is_within_five_percent(void **state)
{
    for (size_t i = 0; i < G_N_ELEMENTS(rates); i++) {
        double total = (double)run_sender(rates[i], 10 * NS_PER_S, 200000, 22, NULL);
        double wanted = 10.0 * (double)rates[i];

        assert_true(total < wanted * (1 + TOLERANCE));
        assert_true(total > wanted * (1 - TOLERANCE));
    }
}

/* Slides a window of one second over all that was sent. */
static void check_every_second(const Log *log, uint64_t rate)
{
    uint64_t in_window = 0;
    guint first = 0;

    for (guint last = 0; last < log->at_ns->len; last++) {
        in_window += g_array_index(log->bytes, uint64_t, last);
        while (g_array_index(log->at_ns, uint64_t, last) -
                   g_array_index(log->at_ns, uint64_t, first) >=
               NS_PER_S)
            in_window -= g_array_index(log->bytes, uint64_t, first++);
        assert_true((double)in_window <= (double)rate * (1 + TOLERANCE));
    }
}

static void test_any_second_is_within_five_percent(void **state)
{
    for (size_t i = 0; i < 4; i++) {
        Log log = {g_array_new(FALSE, FALSE, sizeof(uint64_t)),
                   g_array_new(FALSE, FALSE, sizeof(uint64_t))};

        run_sender(rates[i], 5 * NS_PER_S, 10000000, 22, &log);
        check_every_second(&log, rates[i]);
        g_array_unref(log.at_ns);
        g_array_unref(log.bytes);
    }
}

static void test_idle_time_saves_only_a_burst(void **state)
{
    uint64_t now = NS_PER_S, burst = 0;
    RateLimit limit;

    rate_limit_init(&limit, 1000000, now);
    now += 3600 * NS_PER_S;
    while (rate_limit_delay_ns(&limit, 1000, now) == 0) {
        rate_limit_charge(&limit, 1000, now);
        burst += 1000;
    }
    assert_int_equal(burst, 1000000 * RATE_LIMIT_BURST_MS / 1000);
}

static void test_debt_is_paid_back(void **state)
{
    uint64_t now = NS_PER_S;
    RateLimit limit;

    rate_limit_init(&limit, 1000000, now);
    rate_limit_charge(&limit, 500000, now);
    assert_int_equal(rate_limit_delay_ns(&limit, 1000, now), 501 * 1000000);
    assert_int_equal(rate_limit_delay_ns(&limit, 1000, now + 501 * 1000000), 0);
}

static void test_small_pieces_are_not_free(void **state)
{
    uint64_t now = NS_PER_S;
    RateLimit limit;

    /* One byte takes a third of a nanosecond. */
    rate_limit_init(&limit, 3 * NS_PER_S, now);
    for (int i = 0; i < 3000000; i++)
        rate_limit_charge(&limit, 1, now);
    assert_int_equal(rate_limit_delay_ns(&limit, 0, now), 1000000);
}

static void test_no_limit(void **state)
{
    RateLimit limit;

    rate_limit_init(&limit, 0, NS_PER_S);
    rate_limit_charge(&limit, 1 << 30, NS_PER_S);
    assert_int_equal(rate_limit_delay_ns(&limit, 1 << 30, NS_PER_S), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_long_run_is_within_five_percent),
        cmocka_unit_test(test_any_second_is_within_five_percent),
        cmocka_unit_test(test_idle_time_saves_only_a_burst),
        cmocka_unit_test(test_debt_is_paid_back),
        cmocka_unit_test(test_small_pieces_are_not_free),
        cmocka_unit_test(test_no_limit),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
