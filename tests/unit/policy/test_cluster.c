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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_series_keeps_the_last),
        cmocka_unit_test(test_series_marks_what_cannot_be),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
