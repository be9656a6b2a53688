/* The series of readings of a figure. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>

#include "policy/cluster.h"

static void test_series_keeps_the_last(void **state)
{
    ClusterSeries series = {0};

    assert_true(cluster_series_last(&series) == CLUSTER_UNKNOWN);
    for (guint i = 0; i < 2 * CLUSTER_SAMPLES + 3; i++) {
        cluster_series_add(&series, i);
        assert_true(cluster_series_last(&series) == i);
    }
    assert_int_equal(series.length, CLUSTER_SAMPLES);
    for (guint i = 0; i < CLUSTER_SAMPLES; i++)
        assert_true(cluster_series_get(&series, i) == CLUSTER_SAMPLES + 3 + i);
}

static void test_series_marks_what_cannot_be(void **state)
{
    static const double absurd[] = {NAN, INFINITY, -INFINITY, -0.5, 1e300};

    for (guint i = 0; i < G_N_ELEMENTS(absurd); i++) {
        ClusterSeries series = {0};

        cluster_series_add(&series, 1);
        cluster_series_add(&series, absurd[i]);
        assert_true(cluster_series_last(&series) == CLUSTER_UNKNOWN);
        assert_true(cluster_series_get(&series, 0) == 1);
    }
}

static void test_median_forgets_what_is_short(void **state)
{
    ClusterSeries series = {0};

    assert_true(cluster_series_median(&series, 5) == CLUSTER_UNKNOWN);
    for (guint i = 0; i < 5; i++)
        cluster_series_add(&series, 2);
    cluster_series_add(&series, 9);
    cluster_series_add(&series, NAN);
    cluster_series_add(&series, 8);
    assert_true(cluster_series_median(&series, 5) == 2);
    cluster_series_add(&series, 8);
    assert_true(cluster_series_median(&series, 5) == 8);
    assert_true(cluster_series_median(&series, 2 * CLUSTER_SAMPLES) == 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_series_keeps_the_last),
        cmocka_unit_test(test_series_marks_what_cannot_be),
        cmocka_unit_test(test_median_forgets_what_is_short),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
