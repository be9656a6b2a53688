#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <string.h>

#include "policy/push_order.h"

#define REGIONS 3u
#define MOST_PAGES 20000u
/* 19.5, 1 and 10 groups, the last ones of some cut short. */
static const uint64_t region_pages[REGIONS] = {10000, 100, 5000};
#define GROUPS (20u + 1u + 10u)

/* What is outstanding, a byte a page, and what asking cost. */
typedef struct {
    guint8 pages[REGIONS][MOST_PAGES];
    const uint64_t *region_pages;
    uint64_t scanned, calls;
} Sets;

static gboolean next_run(guint region, uint64_t from, uint64_t max, uint64_t *ret_first,
                         uint64_t *ret_count, gpointer user)
{
    Sets *sets = user;
    const guint8 *pages = sets->pages[region];
    uint64_t end = sets->region_pages[region], first = from, last;

    assert_true(region < REGIONS && from < end);
    sets->calls++;
    while (first < end && !pages[first])
        first++;
    sets->scanned += first - from;
    if (first == end)
        return FALSE;
    for (last = first; last < end && last - first < max && pages[last]; last++)
        ;
    *ret_first = first;
    *ret_count = last - first;
    return TRUE;
}

static Sets *sets_new(void)
{
    Sets *sets = g_new0(Sets, 1);

    sets->region_pages = region_pages;
    for (guint i = 0; i < REGIONS; i++)
        memset(sets->pages[i], 1, region_pages[i]);
    return sets;
}

static uint64_t count_left(const Sets *sets)
{
    uint64_t left = 0;

    for (guint i = 0; i < REGIONS; i++)
        for (uint64_t k = 0; k < sets->region_pages[i]; k++)
            left += sets->pages[i][k];
    return left;
}

/* Asks, checks that all of it is outstanding, and takes it. */
static gboolean take(PushOrder *order, Sets *sets, uint64_t max, PushRun *ret)
{
    if (!push_order_next(order, max, ret))
        return FALSE;
    assert_true(ret->region < REGIONS && ret->count > 0 && ret->count <= max);
    assert_true(ret->first + ret->count <= sets->region_pages[ret->region]);
    for (uint64_t i = ret->first; i < ret->first + ret->count; i++)
        assert_true(sets->pages[ret->region][i]);
    memset(&sets->pages[ret->region][ret->first], 0, ret->count);
    return TRUE;
}

static void assert_next(PushOrder *order, Sets *sets, guint region, uint64_t first, uint64_t count)
{
    PushRun run;

    assert_true(take(order, sets, 4096, &run));
    assert_int_equal(run.region, region);
    assert_int_equal(run.first, first);
    assert_int_equal(run.count, count);
}

/* Nothing known: in ascending order, all of it. */
static void test_ascending(void **state)
{
    g_autofree Sets *sets = sets_new();
    g_autoptr(PushOrder) order = push_order_new(region_pages, REGIONS, NULL, next_run, sets);
    uint64_t before = 0, pages = 0;
    PushRun run;

    while (take(order, sets, 100, &run)) {
        uint64_t at = run.region * (uint64_t)MOST_PAGES + run.first;

        assert_true(at >= before);
        before = at;
        pages += run.count;
    }
    assert_int_equal(pages, 10000 + 100 + 5000);
    assert_int_equal(count_left(sets), 0);
    assert_false(push_order_next(order, 100, &run));
}

/* The hottest groups first, as hot ones by address, then what was not written. */
static void test_hottest_first(void **state)
{
    g_autofree Sets *sets = sets_new();
    float heat[GROUPS] = {[2] = 1, [19] = 2, [20] = 5, [21] = 2, [30] = 0.5F};
    g_autoptr(PushOrder) order = push_order_new(region_pages, REGIONS, heat, next_run, sets);
    PushRun run;

    assert_next(order, sets, 1, 0, 100);
    assert_next(order, sets, 0, 19 * 512, 10000 - 19 * 512);
    assert_next(order, sets, 2, 0, 512);
    assert_next(order, sets, 0, 2 * 512, 512);
    assert_next(order, sets, 2, 9 * 512, 5000 - 9 * 512);
    assert_next(order, sets, 0, 0, 512);
    assert_next(order, sets, 0, 512, 512);
    assert_next(order, sets, 0, 3 * 512, 512);
    while (take(order, sets, 256, &run))
        ;
    assert_int_equal(count_left(sets), 0);
}

/* Ahead of a fault, behind it, in growing steps; then what is hot again. */
static void test_around_a_fault(void **state)
{
    g_autofree Sets *sets = sets_new();
    float heat[GROUPS] = {[25] = 1};
    g_autoptr(PushOrder) order = push_order_new(region_pages, REGIONS, heat, next_run, sets);
    PushRun run;
    guint runs = 0;

    sets->pages[0][5000] = 0; /* it was answered */
    push_order_note_fault(order, 0, 5000);
    assert_next(order, sets, 0, 5001, 31);
    assert_next(order, sets, 0, 4968, 32);
    assert_next(order, sets, 0, 5032, 64);
    assert_next(order, sets, 0, 4904, 64);
    assert_next(order, sets, 0, 5096, 128);
    /* What is near, 16 MiB, comes before what is hot; nothing farther does. */
    while (take(order, sets, 512, &run) && run.region == 0 && runs++ < 100)
        assert_true(run.first >= 5000 - 4096 && run.first + run.count <= 5000 + 4096);
    assert_int_equal(run.region, 2);
    assert_int_equal(run.first, 4 * 512);
    for (uint64_t i = 0; i < 10000; i++)
        assert_int_equal(sets->pages[0][i], i < 5000 - 4096 || i >= 5000 + 4096);
}

/* A window has holes; runs are within it, and short ones where few may be given. */
static void test_holes(void **state)
{
    g_autofree Sets *sets = sets_new();
    g_autoptr(PushOrder) order = push_order_new(region_pages, REGIONS, NULL, next_run, sets);
    PushRun run;

    memset(&sets->pages[2][1000], 0, 20);
    memset(&sets->pages[2][1024], 0, 4);
    push_order_note_fault(order, 2, 1000);
    assert_next(order, sets, 2, 1020, 4);
    assert_next(order, sets, 2, 1028, 4);
    assert_true(take(order, sets, 8, &run));
    assert_true(run.first == 968 && run.count == 8);
    assert_true(take(order, sets, 8, &run));
    assert_true(run.first == 976 && run.count == 8);
    assert_next(order, sets, 2, 984, 16);
    assert_next(order, sets, 2, 1032, 64);
}

/* At the ends of a region nothing else is taken for its neighbour. */
static void test_ends(void **state)
{
    g_autofree Sets *sets = sets_new();
    g_autoptr(PushOrder) order = push_order_new(region_pages, REGIONS, NULL, next_run, sets);

    push_order_note_fault(order, 1, 0);
    assert_next(order, sets, 1, 0, 32);
    assert_next(order, sets, 1, 32, 64);
    assert_next(order, sets, 1, 96, 4);
    push_order_note_fault(order, 0, 9999);
    assert_next(order, sets, 0, 9999, 1);
    assert_next(order, sets, 0, 9967, 32);
    /* Not in the guest. */
    push_order_note_fault(order, 0, 10000);
    push_order_note_fault(order, REGIONS, 0);
    assert_next(order, sets, 0, 9903, 64);
}

/* Each has its turn, the newest first. */
static void test_several_pivots(void **state)
{
    g_autofree Sets *sets = sets_new();
    g_autoptr(PushOrder) order = push_order_new(region_pages, REGIONS, NULL, next_run, sets);

    push_order_note_fault(order, 0, 1000);
    push_order_note_fault(order, 2, 2000);
    assert_next(order, sets, 2, 2000, 32);
    assert_next(order, sets, 0, 1000, 32);
    assert_next(order, sets, 2, 1968, 32);
    push_order_note_fault(order, 0, 6000);
    assert_next(order, sets, 0, 6000, 32);
    assert_next(order, sets, 2, 2032, 64);
    assert_next(order, sets, 0, 968, 32);
    assert_next(order, sets, 0, 5968, 32);
    /* Going on from there, the guest has one pivot, not two. */
    push_order_note_fault(order, 0, 6100);
    assert_next(order, sets, 0, 6100, 32);
    assert_next(order, sets, 2, 1904, 64);
    assert_next(order, sets, 0, 1032, 64);
    assert_next(order, sets, 0, 6068, 32);
}

/* Of many faults, the last ones count. */
static void test_old_pivots_give_way(void **state)
{
    g_autofree Sets *sets = sets_new();
    g_autoptr(PushOrder) order = push_order_new(region_pages, REGIONS, NULL, next_run, sets);

    for (guint i = 0; i < 20; i++)
        push_order_note_fault(order, 0, 9900 - i * 400);
    for (guint turn = 0; turn < 2; turn++)
        for (guint i = 0; i < 8; i++)
            assert_next(order, sets, 0, 9900 - (19 - i) * 400 - turn * 32, 32);
}

/* Whatever happens in between: each page once, by the order or by a fault's answer. */
static void test_each_page_once(void **state)
{
    for (guint32 seed = 1; seed <= 30; seed++) {
        g_autofree Sets *sets = sets_new();
        g_autoptr(GRand) rand = g_rand_new_with_seed(seed);
        float heat[GROUPS];
        g_autoptr(PushOrder) order = NULL;
        PushRun run;

        for (guint i = 0; i < GROUPS; i++)
            heat[i] = (float)g_rand_int_range(rand, 0, 4);
        for (guint i = 0; i < 10000; i++)
            sets->pages[0][i] = g_rand_int_range(rand, 0, 8) < (gint)(i / 512 % 9);
        order = push_order_new(region_pages, REGIONS, heat, next_run, sets);
        while (take(order, sets, (uint64_t)g_rand_int_range(rand, 1, 700), &run)) {
            guint region = (guint)g_rand_int_range(rand, 0, REGIONS);
            gint page = g_rand_int_range(rand, 0, (gint)region_pages[region]);

            if (seed % 3 == 0 || g_rand_int_range(rand, 0, 4) != 0)
                continue;
            sets->pages[region][page] = 0;
            push_order_note_fault(order, region, (uint64_t)page);
        }
        assert_int_equal(count_left(sets), 0);
    }
}

/* Hardly anything is left, and a guest that faults all over: what was found empty is not searched
 * again for each call. */
static void test_cost(void **state)
{
    static const uint64_t large[REGIONS] = {MOST_PAGES, MOST_PAGES, MOST_PAGES};
    g_autofree Sets *sets = g_new0(Sets, 1);
    g_autoptr(GRand) rand = g_rand_new_with_seed(1);
    g_autoptr(PushOrder) order = push_order_new(large, REGIONS, NULL, next_run, sets);
    PushRun run;
    guint runs = 0;

    sets->region_pages = large;
    for (guint i = 0; i < REGIONS; i++)
        for (guint k = 0; k < 20; k++)
            sets->pages[i][k * 20] = sets->pages[i][MOST_PAGES - 1 - k * 20] = 1;
    do {
        push_order_note_fault(order, runs % REGIONS,
                              (uint64_t)g_rand_int_range(rand, 0, (gint)MOST_PAGES));
        runs++;
    } while (take(order, sets, 256, &run));
    assert_int_equal(count_left(sets), 0);
    assert_int_equal(runs, 1 + REGIONS * 40);
    assert_true(sets->scanned < 15 * REGIONS * (uint64_t)MOST_PAGES);
    assert_true(sets->calls < runs * 12);
    /* And nothing is searched when all is gone. */
    sets->calls = 0;
    assert_false(push_order_next(order, 256, &run));
    assert_true(sets->calls == 0);
}

static void test_empty(void **state)
{
    g_autofree Sets *sets = g_new0(Sets, 1);
    g_autoptr(PushOrder) order = push_order_new(NULL, 0, NULL, next_run, sets);
    PushRun run;

    push_order_note_fault(order, 0, 0);
    assert_false(push_order_next(order, 256, &run));
    push_order_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ascending),
        cmocka_unit_test(test_hottest_first),
        cmocka_unit_test(test_around_a_fault),
        cmocka_unit_test(test_holes),
        cmocka_unit_test(test_ends),
        cmocka_unit_test(test_several_pivots),
        cmocka_unit_test(test_old_pivots_give_way),
        cmocka_unit_test(test_each_page_once),
        cmocka_unit_test(test_cost),
        cmocka_unit_test(test_empty),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
