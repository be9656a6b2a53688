#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "base/page.h"
#include "page/zero.h"

static void check_way(const ZeroWay *way)
{
    uint8_t room[PAGE_BYTES + 2] = {0}, *page = room + 1; /* not aligned */

    room[0] = room[PAGE_BYTES + 1] = 1; /* beside the page: not looked at */
    assert_true(way->is_zero(page));
    for (guint i = 0; i < PAGE_BYTES; i++) {
        page[i] = (uint8_t)(1u << i % 8);
        assert_false(way->is_zero(page));
        page[i] = 0;
    }
}

static void test_ways(void **state)
{
    const ZeroWay *way;

    assert_true(zero_way(0)->is_available());
    for (guint i = 0; (way = zero_way(i)); i++)
        if (way->is_available())
            check_way(way);
}

static void test_choice(void **state)
{
    uint8_t page[PAGE_BYTES] = {0};

    assert_true(zero_is_page(page));
    page[PAGE_BYTES - 1] = 1;
    assert_false(zero_is_page(page));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ways),
        cmocka_unit_test(test_choice),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
