/* Samples of protected pages, and what their faults cost */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <unistd.h>

#include "memory/guest_cost.h"
#include "policy/watch_plan.h"

/* Dear faults make samples small, then rare; cheap ones make them whole groups again. */
static void test_sample_follows_cost(void **state)
{
    WatchPlan plan = watch_plan_make();

    watch_plan_end_sync(&plan);
    assert_int_equal(plan.groups, WATCH_MOST_GROUPS);
    watch_plan_adjust(&plan, 4 * WATCH_MOST_SHARE);
    assert_int_equal(plan.pages, WATCH_FIRST_PAGES / 4);
    watch_plan_adjust(&plan, WATCH_MOST_SHARE);
    assert_int_equal(plan.pages, WATCH_FIRST_PAGES / 4);
    for (guint i = 0; i < 20; i++)
        watch_plan_adjust(&plan, 1);
    assert_int_equal(plan.pages, 1);
    assert_int_equal(plan.groups, WATCH_LEAST_GROUPS);
    for (guint i = 0; i < 20; i++)
        watch_plan_adjust(&plan, 0);
    assert_int_equal(plan.pages, WATCH_MOST_PAGES);
    assert_int_equal(plan.groups, WATCH_MOST_GROUPS);
}

/* Every group has its turn, and every page of it comes into a sample. */
static void test_sample_changes(void **state)
{
    WatchPlan plan = watch_plan_make();
    gboolean seen[512] = {FALSE};

    for (guint i = 0; i < 7 * 64; i++) {
        guint group = watch_plan_next(&plan, 7);
        PageSpan span = watch_plan_get_sample(&plan, group, 512);

        assert_int_equal(group, i % 7);
        assert_true(span.first + span.count <= 512 && span.count == WATCH_FIRST_PAGES);
        for (uint64_t page = span.first; group == 3 && page < span.first + span.count; page++)
            seen[page] = TRUE;
    }
    for (guint i = 0; i < 512; i++)
        assert_true(seen[i]);
    assert_true(watch_plan_wants(&plan, 0) && !watch_plan_wants(&plan, WATCH_FIRST_PAGES));
    assert_int_equal(watch_plan_get_sample(&plan, 1, 5).count, 5);
    assert_int_equal(watch_plan_get_sample(&plan, 1, 0).count, 0);
}

static void test_share(void **state)
{
    VcpuTimes busy = {.user_ms = 60, .system_ms = 30, .waited_ms = 10, .faults = 1000};
    VcpuTimes idle = {.user_ms = 10, .system_ms = 30, .faults = 1000};

    assert_true(guest_cost_find_fault_ms(&busy, 100, 0) == 0.03);
    assert_true(guest_cost_find_fault_ms(&busy, 100, 0.1) == 0.02);
    assert_true(guest_cost_find_fault_ms(&busy, 100, 1) > 0);
    assert_true(guest_cost_find_share(&busy, 100, 1, 0.02, 500) == 0.1);
    assert_true(guest_cost_find_share(&busy, 100, 1, 0.02, 500000) == 1);
    /* It has time to spare. */
    assert_true(guest_cost_find_share(&idle, 100, 1, 0.02, 500) == 0);
}

static void test_own_threads(void **state)
{
    g_autoptr(GArray) threads = g_array_new(FALSE, FALSE, sizeof(pid_t));
    GuestCost cost;
    pid_t self = getpid();

    g_array_append_val(threads, self);
    guest_cost_start(&cost, self, g_array_ref(threads), 0);
    assert_true(cost.since.faults > 0);
    assert_true(guest_cost_note(&cost, 1, 5) < 0);
    assert_true(guest_cost_note(&cost, 1000, 5) >= 0);
    assert_true(guest_cost_note(&cost, 2000, 0) == 0);
    guest_cost_clear(&cost);
    guest_cost_clear(&cost);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sample_follows_cost),
        cmocka_unit_test(test_sample_changes),
        cmocka_unit_test(test_share),
        cmocka_unit_test(test_own_threads),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
