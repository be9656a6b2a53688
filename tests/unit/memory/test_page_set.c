#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "memory/page_set.h"
#include "page/zero.h"

#define PAGES 1000u

static void assert_equals(const PageSet *set, const gboolean *model)
{
    uint64_t count = 0;

    for (uint64_t i = 0; i < PAGES; i++) {
        assert_int_equal(page_set_has(set, i), model[i]);
        count += (uint64_t)model[i];
    }
    assert_int_equal(page_set_count(set), count);
}

/* Random operations on a set and on an array of flags give the same. */
static void test_against_model(void **state)
{
    g_autoptr(PageSet) set = page_set_new(PAGES);
    g_autoptr(GRand) random = g_rand_new_with_seed(7);
    gboolean model[PAGES] = {0};

    for (int step = 0; step < 2000; step++) {
        uint64_t first = (uint64_t)g_rand_int_range(random, 0, PAGES + 20);
        uint64_t count = (uint64_t)g_rand_int_range(random, 0, 200);
        gboolean add = g_rand_boolean(random);

        if (add)
            page_set_add(set, first, count);
        else
            page_set_remove(set, first, count);
        for (uint64_t i = first; i < first + count && i < PAGES; i++)
            model[i] = add;
        if (step % 20 == 0)
            assert_equals(set, model);
    }
}

static void test_runs_cover_exactly(void **state)
{
    g_autoptr(PageSet) set = page_set_new(PAGES);
    g_autoptr(PageSet) copy = page_set_new(PAGES);
    uint64_t first, count, at = 0;

    page_set_add(set, 0, 3);
    page_set_add(set, 63, 2);
    page_set_add(set, 128, 300);
    page_set_add(set, PAGES - 1, 1);
    for (; page_set_next_run(set, at, 100, &first, &count); at = first + count) {
        assert_true(first >= at && count >= 1 && count <= 100);
        page_set_add(copy, first, count);
    }
    assert_memory_equal(set->words, copy->words, (PAGES + 63) / 64 * 8);
    page_set_remove_all(copy, set);
    assert_int_equal(page_set_count(copy), 0);
    page_set_add_all(copy, set);
    assert_int_equal(page_set_count(copy), page_set_count(set));
    page_set_clear(copy);
    page_set_add_span(copy, set, (PageSpan){0, UINT64_MAX});
    assert_memory_equal(set->words, copy->words, (PAGES + 63) / 64 * 8);
    page_set_clear(copy);
    page_set_add_span(copy, set, (PageSpan){3, 70});
    for (uint64_t page = 0; page < PAGES; page++)
        assert_int_equal(page_set_has(copy, page),
                         page >= 3 && page < 73 && page_set_has(set, page));
    page_set_clear(copy);
    assert_false(page_set_next_run(copy, 0, 1, &first, &count));
}

static void test_hostile_ranges(void **state)
{
    g_autoptr(PageSet) set = page_set_new(10);
    g_autoptr(PageSet) none = page_set_new(0);

    page_set_add(set, 5, UINT64_MAX);
    assert_int_equal(page_set_count(set), 5);
    page_set_add(set, UINT64_MAX, UINT64_MAX);
    assert_int_equal(page_set_count(set), 5);
    page_set_add(none, 0, 1);
    assert_int_equal(page_set_count(none), 0);
    assert_false(page_set_has(set, UINT64_MAX));
}

static void test_zero_page(void **state)
{
    uint8_t page[4096] __attribute__((aligned(8))) = {0};

    assert_true(zero_is_page(page));
    for (unsigned i = 0; i < sizeof page; i++) {
        page[i] = 1;
        assert_false(zero_is_page(page));
        page[i] = 0;
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_against_model),
        cmocka_unit_test(test_runs_cover_exactly),
        cmocka_unit_test(test_hostile_ranges),
        cmocka_unit_test(test_zero_page),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
