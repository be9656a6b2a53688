/* What counts as a hot spot, and what does not. */
#include "cluster_fixture.h"

#include <math.h>

#include "base/error.h"

static void set(ClusterSeries *series, const double *values, guint n)
{
    memset(series, 0, sizeof(*series));
    for (guint i = 0; i < n; i++)
        cluster_series_add(series, values[i]);
}

static guint count(const Fixture *f)
{
    g_autoptr(GArray) hotspots = hotspots_of(f);

    return hotspots->len;
}

static void test_nothing_is_hot_in_an_idle_cluster(void **state)
{
    g_autofree Fixture *f = fixture_new(5);

    add_guest(f, 0, 4, 4);
    assert_int_equal(count(f), 0);
}

static void test_cpu_that_lasts(void **state)
{
    g_autofree Fixture *f = fixture_new(2);
    g_autoptr(GArray) hotspots = NULL;
    g_autofree char *text = NULL;
    const ClusterHotspot *h;

    set(&f->hosts[1].cpu, (const double[]){4, 4, 15, 15, 15}, 5);
    hotspots = hotspots_of(f);
    assert_int_equal(hotspots->len, 1);
    h = &g_array_index(hotspots, ClusterHotspot, 0);
    assert_int_equal(h->kind, CLUSTER_HOT_CPU);
    assert_int_equal(h->host, 1);
    assert_true(h->guest == CLUSTER_NONE);
    assert_int_equal(h->above, 3);
    assert_int_equal(h->since, 3);
    assert_false(h->early);
    assert_true(fabs(h->forecast - 15.0 / 16) < 0.001);
    text = cluster_hotspot_describe(&f->view, &f->thresholds, h);
    assert_string_equal(text, "host h1 uses 93.8 % of its CPUs, more than 85 %; so in 3 of 5 "
                              "readings, 93.8 % expected next");
}

/* One reading never counts, wherever it stands; nor do two. */
static void test_spikes_never_count(void **state)
{
    for (guint at = 0; at < CLUSTER_SAMPLES; at++) {
        g_autofree Fixture *f = fixture_new(1);
        double values[CLUSTER_SAMPLES];

        for (guint i = 0; i < CLUSTER_SAMPLES; i++)
            values[i] = i == at || i + 1 == at ? 16 : 3;
        set(&f->hosts[0].cpu, values, CLUSTER_SAMPLES);
        assert_int_equal(count(f), 0);
    }
}

static void test_what_falls_is_not_waited_for(void **state)
{
    g_autofree Fixture *f = fixture_new(1);

    fill(&f->hosts[0].cpu, 16);
    for (guint i = 0; i < 7; i++)
        cluster_series_add(&f->hosts[0].cpu, 15.7 - 0.33 * i);
    assert_int_equal(count(f), 1); /* early */
    f->thresholds.cpu_early = 0;
    assert_int_equal(count(f), 0);
}

static void test_every_other_reading_is_expected_to_fall(void **state)
{
    g_autofree Fixture *f = fixture_new(1);

    set(&f->hosts[0].cpu, (const double[]){16, 3, 16, 3, 16, 3, 16, 3, 16}, 9);
    assert_int_equal(count(f), 0);
}

static void test_bad_figures_are_no_hot_spot(void **state)
{
    static const double absurd[] = {NAN, -1, INFINITY};
    g_autofree Fixture *f = fixture_new(1);

    fill(&f->hosts[0].cpu, 16);
    assert_int_equal(count(f), 1);
    f->hosts[0].usable = FALSE;
    assert_int_equal(count(f), 0);
    f->hosts[0].usable = TRUE;
    for (guint i = 0; i < G_N_ELEMENTS(absurd); i++) {
        fill(&f->hosts[0].cpu, 16);
        cluster_series_add(&f->hosts[0].cpu, absurd[i]);
        assert_int_equal(count(f), 0);
    }
    f->hosts[0].cpus = 0;
    fill(&f->hosts[0].cpu, 16);
    assert_int_equal(count(f), 0);
}

static void test_slas(void **state)
{
    g_autofree Fixture *f = fixture_new(1);
    guint g = add_guest(f, 0, 1, 4);
    ClusterGuest *guest = &f->guests[g];

    fill(&guest->cpu_wait, 0.2);
    fill(&guest->backlog, 1000);
    fill(&guest->swapped, 1e6);
    assert_int_equal(count(f), 0); /* nothing is promised */
    guest->sla = (ClusterSla){.cpu_wait = 0.05, .network = 2e6, .no_swap = TRUE};
    assert_int_equal(count(f), 3);
    fill(&guest->backlog, 0); /* it does not want more */
    assert_int_equal(count(f), 2);
    fill(&guest->backlog, 1000);
    fill(&guest->network, 3e6); /* it has what was promised */
    assert_int_equal(count(f), 2);
}

static void test_memory(void **state)
{
    g_autofree Fixture *f = fixture_new(1);

    fill(&f->hosts[0].swap_out, 5e6);
    assert_int_equal(count(f), 1);
    fill(&f->hosts[0].memory_pressure, 0.3);
    assert_int_equal(count(f), 2);
}

static void test_empty_thresholds(void **state)
{
    const double bad[] = {0, -1, NAN, INFINITY, 1.5};
    ClusterThresholds t = cluster_thresholds_default();

    assert_true(cluster_thresholds_check(&t, NULL));
    for (guint i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autoptr(GError) error = NULL;
        g_autofree Fixture *f = fixture_new(1);

        t = cluster_thresholds_default();
        t.cpu = bad[i];
        assert_false(cluster_thresholds_check(&t, &error));
        assert_true(error_is(error, VMFERRY_ERROR_INVALID));
        assert_non_null(strstr(error->message, "threshold cpu"));
        /* And whoever does not check gets no hot spot of it. */
        f->thresholds.cpu = bad[i];
        f->thresholds.cpu_early = 0;
        fill(&f->hosts[0].cpu, 16);
        assert_int_equal(count(f), 0);
    }
    t = cluster_thresholds_default();
    t.k = 0;
    assert_false(cluster_thresholds_check(&t, NULL));
    t.k = 6;
    assert_false(cluster_thresholds_check(&t, NULL));
}

static void test_history(void **state)
{
    ClusterHistory history = {0};
    double mean, deviation;

    assert_false(cluster_history_expect(&history, 0, 3600000, &mean, &deviation));
    for (guint i = 0; i < 24 * 360;
         i++) /* busy from 12:00 on; one spike a minute, and a minute at 6:00 */
        cluster_history_add(&history, i * 10000.0,
                            i % 60 == 30                      ? 9
                            : i >= 6 * 360 && i < 6 * 360 + 6 ? 5
                            : i >= 12 * 360                   ? 2
                                                              : 1);
    assert_true(cluster_history_expect(&history, 24 * 3600000.0 + 11.5 * 3600000, 3600000, &mean,
                                       &deviation));
    assert_true(mean > 2 && mean < 2.2);
    assert_true(deviation > 0.9 && deviation < 1.05); /* of spikes, not of day and night */
    assert_true(
        cluster_history_expect(&history, 24 * 3600000.0 + 2 * 3600000, 3600000, &mean, &deviation));
    assert_true(mean < 1.2);
}

static double expected_after(const double *hours, guint n)
{
    ClusterHistory history = {0};
    double mean, deviation;

    for (guint hour = 0; hour < n; hour++)
        for (guint i = 0; i < 720; i++)
            cluster_history_add(&history, hour * 3600000.0 + i * 5000.0, hours[hour]);
    assert_true(cluster_history_expect(&history, n * 3600000.0 - 1, 3600000, &mean, &deviation));
    assert_true(deviation < 0.01);
    return mean;
}

/* A step has come to its end; what rises hour by hour goes on. */
static void test_the_first_day(void **state)
{
    assert_true(fabs(expected_after((const double[]){1, 1, 4}, 3) - 4) < 0.01);
    assert_true(fabs(expected_after((const double[]){1, 2, 3}, 3) - 4) < 0.01);
    assert_true(fabs(expected_after((const double[]){1, 4}, 2) - 4) < 0.01);
    assert_true(fabs(expected_after((const double[]){3, 2, 1}, 3) - 1) < 0.01);
}

/* Guests of h0 that are busy one after the other, two readings each, the others idle meanwhile. */
static void take_turns(Fixture *f, gboolean same)
{
    for (guint g = 0; g < 5; g++) {
        add_guest(f, 0, 1, 4);
        f->guests[g].vcpus = 16;
        memset(&f->guests[g].cpu, 0, sizeof(f->guests[g].cpu));
    }
    for (guint i = 0; i < CLUSTER_SAMPLES; i++)
        for (guint g = 0; g < 5; g++)
            cluster_series_add(&f->guests[g].cpu, g == (same ? 0 : i / 2 % 5) ? 14 : 0.2);
    fill(&f->hosts[0].cpu, 14.8);
}

static void test_spikes_one_after_the_other_do_not_count(void **state)
{
    g_autofree Fixture *f = fixture_new(1), *other = fixture_new(1);

    take_turns(f, TRUE);
    f->guests[1].sla.cpu_wait = 0.05;
    fill(&f->guests[1].cpu_wait, 0.2);
    assert_int_equal(count(f), 2);
    take_turns(other, FALSE);
    other->guests[1].sla.cpu_wait = 0.05;
    fill(&other->guests[1].cpu_wait, 0.2);
    assert_int_equal(count(other), 0);
}

/* What is not hot yet has to be so on the whole of two minutes. */
static void test_early(void **state)
{
    g_autofree Fixture *f = fixture_new(1);
    g_autoptr(GArray) hotspots = NULL;
    double values[CLUSTER_SAMPLES];

    for (guint i = 0; i < CLUSTER_SAMPLES; i++)
        values[i] = i < CLUSTER_SAMPLES / 2 ? 4 : 12.5;
    set(&f->hosts[0].cpu, values, CLUSTER_SAMPLES);
    assert_int_equal(count(f), 0);
    fill(&f->hosts[0].cpu, 12.5);
    hotspots = hotspots_of(f);
    assert_int_equal(hotspots->len, 1);
    assert_true(g_array_index(hotspots, ClusterHotspot, 0).early);
    set(&f->hosts[0].cpu, (const double[]){12.5, 12.5, 12.5, 12.5, 12.5, 12.5}, 6);
    assert_int_equal(count(f), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nothing_is_hot_in_an_idle_cluster),
        cmocka_unit_test(test_cpu_that_lasts),
        cmocka_unit_test(test_spikes_never_count),
        cmocka_unit_test(test_what_falls_is_not_waited_for),
        cmocka_unit_test(test_every_other_reading_is_expected_to_fall),
        cmocka_unit_test(test_bad_figures_are_no_hot_spot),
        cmocka_unit_test(test_slas),
        cmocka_unit_test(test_memory),
        cmocka_unit_test(test_empty_thresholds),
        cmocka_unit_test(test_history),
        cmocka_unit_test(test_the_first_day),
        cmocka_unit_test(test_spikes_one_after_the_other_do_not_count),
        cmocka_unit_test(test_early),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
