/* Percentiles of a histogram: never too small, and at most an eighth too large. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "memory/fault_latency.h"

static void test_none(void **state)
{
    FaultLatency latency = {0};

    assert_true(fault_latency_get_ms(&latency, 0.5) == 0);
}

static void test_percentiles(void **state)
{
    FaultLatency latency = {0};
    double p50, p99;

    for (uint64_t i = 1; i <= 1000; i++)
        fault_latency_add(&latency, i * 1000);
    p50 = fault_latency_get_ms(&latency, 0.5);
    p99 = fault_latency_get_ms(&latency, 0.99);
    assert_true(p50 >= 0.5 && p50 <= 0.5 * 1.125);
    assert_true(p99 >= 0.99 && p99 <= 1.0);
    assert_true(fault_latency_get_ms(&latency, 1) == 1.0);
    assert_int_equal(latency.max_ns, 1000000);
}

static void test_extremes(void **state)
{
    static const uint64_t times[] = {0, 1, 7, 8, 9, 15, 16, 17, 1ULL << 40, UINT64_MAX};

    for (guint i = 0; i < G_N_ELEMENTS(times); i++) {
        FaultLatency latency = {0};

        fault_latency_add(&latency, times[i]);
        assert_true(fault_latency_get_ms(&latency, 0.5) == (double)times[i] / 1e6);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_none),
        cmocka_unit_test(test_percentiles),
        cmocka_unit_test(test_extremes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
