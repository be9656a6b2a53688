#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "arena.h"
#include "console.h"
#include "touch.h"

enum { MOST = 1000 };

/* A clock on which a touch takes as long as 1/1024 ms for each page before its own. */
static double clock_ms = 100;

double now_ms(void)
{
    return clock_ms;
}

void arena_touch_page(uint64_t page)
{
    clock_ms += (double)page / 1024;
}

static void test_a_pass_touches_each_page_once(void **state)
{
    static const uint64_t counts[] = {1, 2, 3, 4, 5, 255, 256, 257, MOST};

    for (size_t i = 0; i < sizeof(counts) / sizeof(*counts); i++) {
        char seen[MOST] = {0};

        for (uint64_t index = 0; index < counts[i]; index++) {
            uint64_t page = touch_permute(index, counts[i], i);

            assert_true(page < counts[i]);
            assert_int_equal(seen[page]++, 0);
        }
    }
}

/* Nothing that sends neighbours along gains by it. */
static void test_neighbours_are_not_touched_one_after_the_other(void **state)
{
    unsigned near = 0;

    for (uint64_t index = 1; index < MOST; index++) {
        uint64_t a = touch_permute(index - 1, MOST, 7), b = touch_permute(index, MOST, 7);

        near += (a > b ? a - b : b - a) <= 8;
    }
    assert_in_range(near, 0, 3 * 16); /* by chance: 16 */
}

static void test_passes_differ(void **state)
{
    unsigned same = 0;

    for (uint64_t index = 0; index < MOST; index++)
        same += touch_permute(index, MOST, 0) == touch_permute(index, MOST, 1);
    assert_in_range(same, 0, 10);
}

static void test_long_touches_are_kept(void **state)
{
    char line[64];
    uint64_t first;

    touch_page(49);
    touch_page(20480);
    touch_page(1);
    touch_page(64);
    assert_int_equal(touch_list_long(1, &first, line, sizeof(line)), 3);
    assert_int_equal(first, 1);
    assert_string_equal(line, "120:20000,120:62,");
    assert_int_equal(touch_list_long(3, &first, line, sizeof(line)), 3);
    assert_string_equal(line, "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_pass_touches_each_page_once),
        cmocka_unit_test(test_neighbours_are_not_touched_one_after_the_other),
        cmocka_unit_test(test_passes_differ),
        cmocka_unit_test(test_long_touches_are_kept),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
