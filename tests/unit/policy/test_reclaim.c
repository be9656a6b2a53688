/* How much a balloon is asked for, and for how long it is waited for. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "policy/reclaim.h"

#define MIB ((uint64_t)1 << 20)
#define GIB ((uint64_t)1 << 30)

static void test_target(void **state)
{
    static const struct {
        uint64_t now, free, target;
    } cases[] = {
        /* Nothing where little or nothing is free: 64 MiB stay, 16 are too few. */
        {GIB, 0, GIB},
        {GIB, 64 * MIB, GIB},
        {GIB, 80 * MIB - 1, GIB},
        {GIB, 80 * MIB, GIB - 16 * MIB},
        /* 64 MiB are a fourth of 256. */
        {GIB, 255 * MIB, GIB - 191 * MIB},
        {GIB, 256 * MIB, GIB - 192 * MIB},
        {GIB, 512 * MIB, GIB - 384 * MIB},
        {64 * GIB, 40 * GIB, 34 * GIB},
        /* Whole MiB, downwards. */
        {GIB, 512 * MIB + 4096, GIB - 384 * MIB},
        {GIB + 4096, 512 * MIB, GIB + 4096 - 384 * MIB},
        /* A guest that boasts has no more to give than it has. */
        {128 * MIB, GIB, 64 * MIB},
        {128 * MIB, UINT64_MAX, 64 * MIB},
        {UINT64_MAX, UINT64_MAX, UINT64_MAX - (UINT64_MAX - UINT64_MAX / 4) / MIB * MIB},
        {0, GIB, 0},
        {8 * MIB, 8 * MIB, 8 * MIB},
    };

    for (guint i = 0; i < G_N_ELEMENTS(cases); i++)
        assert_int_equal(reclaim_get_target(cases[i].now, cases[i].free), cases[i].target);
}

static void test_waits_while_it_moves(void **state)
{
    ReclaimWait wait;

    reclaim_wait_begin(&wait, GIB, GIB / 2, RECLAIM_FIRST_MS, 5000);
    assert_true(reclaim_wait_note(&wait, GIB, 5000));
    assert_true(reclaim_wait_note(&wait, GIB, 5999));
    assert_true(reclaim_wait_note(&wait, GIB - MIB, 5999.5));
    assert_true(reclaim_wait_note(&wait, GIB - MIB, 6299));
    assert_true(reclaim_wait_note(&wait, GIB - 2 * MIB, 6299.4));
    assert_true(reclaim_wait_note(&wait, GIB / 2 + 1, 6599));
    assert_false(reclaim_wait_note(&wait, GIB / 2, 6600));
}

static void test_stands_still(void **state)
{
    ReclaimWait wait;

    /* It never begins. */
    reclaim_wait_begin(&wait, GIB, GIB / 2, RECLAIM_FIRST_MS, 0);
    assert_true(reclaim_wait_note(&wait, GIB, 999));
    assert_false(reclaim_wait_note(&wait, GIB, 1000));
    /* It stops half way. */
    reclaim_wait_begin(&wait, GIB, GIB / 2, RECLAIM_FIRST_MS, 0);
    assert_true(reclaim_wait_note(&wait, GIB - MIB, 100));
    assert_true(reclaim_wait_note(&wait, GIB - MIB, 399));
    assert_false(reclaim_wait_note(&wait, GIB - MIB, 400));
    /* It goes on for ever, and up and down. */
    reclaim_wait_begin(&wait, GIB, GIB / 2, RECLAIM_FIRST_MS, 0);
    for (guint ms = 0; ms < 3000; ms += 100)
        assert_true(reclaim_wait_note(&wait, GIB - (ms / 100 % 2) * MIB, ms));
    assert_false(reclaim_wait_note(&wait, GIB, 3000));
}

/* One that is let go is waited for until it stands, whatever its size. */
static void test_without_target(void **state)
{
    ReclaimWait wait;

    reclaim_wait_begin(&wait, GIB, 0, RECLAIM_STILL_MS, 0);
    assert_true(reclaim_wait_note(&wait, GIB, 299));
    assert_false(reclaim_wait_note(&wait, GIB, 300));
    reclaim_wait_begin(&wait, GIB, 0, RECLAIM_STILL_MS, 0);
    assert_true(reclaim_wait_note(&wait, 2 * GIB, 200));
    assert_true(reclaim_wait_note(&wait, 3 * GIB, 499));
    assert_true(reclaim_wait_note(&wait, 3 * GIB, 798));
    assert_false(reclaim_wait_note(&wait, 3 * GIB, 799));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_target),
        cmocka_unit_test(test_waits_while_it_moves),
        cmocka_unit_test(test_stands_still),
        cmocka_unit_test(test_without_target),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
