/* What is taken stays as it was, and what was not taken reads as zero. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/page.h"
#include "protect/captured_pages.h"

#define PAGES 4096u

/* Each page holds its region, its number and the version of all. */
static uint32_t version = 1;
static uint64_t sizes[] = {PAGES, 8};
static PageRegions regions = {.count = 2, .pages = sizes};

static void fill(uint8_t *page, guint region, uint64_t number, uint32_t of)
{
    uint64_t words[] = {region, number, of};

    memset(page, (int)(number & 0xff), PAGE_BYTES);
    memcpy(page, words, sizeof words);
}

static gboolean read_pages(PageSource *source, guint region, const PageSpan *spans, guint count,
                           uint8_t *buffer, GError **error)
{
    for (guint i = 0; i < count; i++)
        for (uint64_t j = 0; j < spans[i].count; j++, buffer += PAGE_BYTES)
            fill(buffer, region, spans[i].first + j, version);
    return TRUE;
}

static gboolean add_all(PageSource *source, guint region, PageSet *set, GError **error)
{
    page_set_add(set, 0, sizes[region]);
    return TRUE;
}

static void free_none(PageSource *source)
{
}

static const PageSourceMethods methods = {read_pages, add_all, free_none};
static PageSource guest = {&methods, &regions};

static void assert_page(PageSource *source, guint region, uint64_t number, uint32_t of)
{
    uint8_t seen[PAGE_BYTES], wanted[PAGE_BYTES] = {0};

    assert_true(page_source_read(source, region, &(PageSpan){number, 1}, 1, seen, NULL));
    if (of > 0)
        fill(wanted, region, number, of);
    assert_memory_equal(seen, wanted, PAGE_BYTES);
}

static void take(CapturedPages *captured, GPtrArray *sets)
{
    assert_true(captured_pages_take(captured, sets, NULL));
}

/* Many runs, more than are read by one call. */
static void test_taken_stay(void **state)
{
    g_autoptr(CapturedPages) captured = captured_pages_new(&guest);
    g_autoptr(GPtrArray) sets = page_regions_new_sets(&regions);
    PageSource *source = captured_pages_get_source(captured);

    for (uint64_t i = 0; i < PAGES; i += 3)
        page_set_add(sets->pdata[0], i, 2);
    page_set_add(sets->pdata[1], 7, 1);
    take(captured, sets);
    version = 2;
    for (uint64_t i = 0; i < PAGES; i++)
        assert_page(source, 0, i, i % 3 == 2 ? 0 : 1);
    assert_page(source, 1, 7, 1);
    assert_page(source, 1, 6, 0);
    assert_int_equal(captured_pages_count(captured),
                     page_set_count(sets->pdata[0]) + page_set_count(sets->pdata[1]));
}

static void test_next_epoch_replaces(void **state)
{
    g_autoptr(CapturedPages) captured = captured_pages_new(&guest);
    g_autoptr(GPtrArray) sets = page_regions_new_sets(&regions);
    PageSource *source = captured_pages_get_source(captured);

    version = 1;
    page_set_add(sets->pdata[0], 10, 5);
    take(captured, sets);
    page_set_clear(sets->pdata[0]);
    page_set_add(sets->pdata[0], 12, 100);
    version = 2;
    take(captured, sets);
    assert_page(source, 0, 10, 0);
    assert_page(source, 0, 12, 2);
    assert_page(source, 0, 111, 2);
}

/* A span that begins in one run and ends behind it. */
static void test_span_over_runs(void **state)
{
    g_autoptr(CapturedPages) captured = captured_pages_new(&guest);
    g_autoptr(GPtrArray) sets = page_regions_new_sets(&regions);
    uint8_t seen[6 * PAGE_BYTES], wanted[6 * PAGE_BYTES] = {0};

    version = 3;
    page_set_add(sets->pdata[0], 100, 2);
    page_set_add(sets->pdata[0], 104, 2);
    take(captured, sets);
    for (guint i = 0; i < 6; i++)
        if (i != 2 && i != 3)
            fill(wanted + i * PAGE_BYTES, 0, 100 + i, 3);
    assert_true(page_source_read(captured_pages_get_source(captured), 0, &(PageSpan){100, 6}, 1,
                                 seen, NULL));
    assert_memory_equal(seen, wanted, sizeof seen);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_taken_stay),
        cmocka_unit_test(test_next_epoch_replaces),
        cmocka_unit_test(test_span_over_runs),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
