/* Where content lies in memory that the peer has. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "base/page.h"
#include "transfer/page_index.h"

#define REGIONS 2u

static uint64_t pages[REGIONS] = {100, 7};
static const PageRegions regions = {.count = REGIONS, .pages = pages};

static void fill(uint8_t *content, uint8_t value)
{
    memset(content, 0, PAGE_BYTES);
    content[17] = value;
}

static void expect(const PageIndex *index, uint8_t value, guint region, uint64_t page)
{
    uint8_t content[PAGE_BYTES];
    uint64_t got_page;
    guint got_region;

    fill(content, value);
    assert_true(page_index_find(index, content, &got_region, &got_page));
    assert_int_equal(got_region, region);
    assert_int_equal(got_page, page);
}

static void expect_none(const PageIndex *index, uint8_t value)
{
    uint8_t content[PAGE_BYTES];
    uint64_t page;
    guint region;

    fill(content, value);
    assert_false(page_index_find(index, content, &region, &page));
}

static void note(PageIndex *index, guint region, uint64_t page, uint8_t value)
{
    uint8_t content[PAGE_BYTES];

    fill(content, value);
    page_index_note(index, region, page, content);
}

static void test_what_was_sent_last_counts(void **state)
{
    g_autoptr(PageIndex) index = page_index_new(&regions);

    expect_none(index, 1);
    note(index, 0, 99, 1);
    note(index, 1, 6, 2);
    expect(index, 1, 0, 99);
    expect(index, 2, 1, 6);
    /* It holds something else there now. */
    note(index, 0, 99, 3);
    expect_none(index, 1);
    expect(index, 3, 0, 99);
    page_index_note(index, 1, 6, NULL);
    expect_none(index, 2);
}

/* Of pages with the same content the later one is found, and none where that has changed. */
static void test_equal_pages(void **state)
{
    g_autoptr(PageIndex) index = page_index_new(&regions);

    note(index, 0, 3, 5);
    note(index, 0, 4, 5);
    expect(index, 5, 0, 4);
    note(index, 0, 4, 6);
    expect_none(index, 5);
}

static void test_too_large(void **state)
{
    uint64_t many[] = {PAGE_INDEX_MOST_PAGES + 1};

    assert_null(page_index_new(&(PageRegions){.count = 1, .pages = many}));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_was_sent_last_counts),
        cmocka_unit_test(test_equal_pages),
        cmocka_unit_test(test_too_large),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
