#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <math.h>

#include "policy/path_forecast.h"

static gboolean near(double value, double wanted)
{
    return value > 0.99 * wanted && value < 1.01 * wanted;
}

/* A connection that begins slowly is as fast as it has become. */
static void test_slow_start(void **state)
{
    PathSample samples[31];
    uint64_t carried = 0;

    for (guint i = 0; i < G_N_ELEMENTS(samples); i++) {
        samples[i] = (PathSample){100.0 * i, carried};
        carried += i < 10 ? 1000u << i : 1000000;
    }
    assert_true(near(path_forecast_rate(samples, G_N_ELEMENTS(samples)), 1e7));
}

static void test_few_samples(void **state)
{
    PathSample samples[] = {{0, 0}, {10, 1000000}, {10, 1000000}, {20, 500000}};

    assert_true(path_forecast_rate(samples, 0) <= 0);
    assert_true(path_forecast_rate(samples, 1) <= 0);
    assert_true(near(path_forecast_rate(samples, 2), 1e8));
    assert_true(path_forecast_rate(samples + 1, 2) <= 0); /* no time */
    assert_true(path_forecast_rate(samples + 2, 2) <= 0); /* nothing */
}

static void test_times(void **state)
{
    assert_true(isinf(path_forecast_move_ms(1e9, 0, 10)));
    assert_true(isinf(path_forecast_pause_ms(0, 10)));
    assert_true(near(path_forecast_move_ms(1e9, 1e7, 100), 1e5 + 700 + 12 + 150 + 13.1));
    assert_true(near(path_forecast_pause_ms(1e8, 0), 12 + 1.31));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_slow_start),
        cmocka_unit_test(test_few_samples),
        cmocka_unit_test(test_times),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
