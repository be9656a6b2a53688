/* Pages in files: written, zeroed, dropped, read, opened again, damaged. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <glib/gstdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/page.h"
#include "transfer/stored_pages.h"

#define TRANSACTION "0123456789abcdef0123456789abcdef"

static char *const names[] = {(char *)"pc.ram", (char *)"vga.vram"};
static const uint64_t bytes[] = {1000 * PAGE_BYTES, 3 * PAGE_BYTES};

typedef struct {
    char *folder;
    StoredPages *pages;
    PageSink *sink;
    PageSource *source;
} Fixture;

static void open_ends(Fixture *fixture)
{
    fixture->sink = stored_pages_new_sink(fixture->pages);
    fixture->source = stored_pages_new_source(fixture->pages);
}

static void close_all(Fixture *fixture)
{
    g_clear_pointer(&fixture->sink, page_sink_free);
    g_clear_pointer(&fixture->source, page_source_free);
    g_clear_pointer(&fixture->pages, stored_pages_free);
}

static int setup(void **state)
{
    Fixture *fixture = g_new0(Fixture, 1);

    fixture->folder = g_dir_make_tmp("vmferry-store-XXXXXX", NULL);
    fixture->pages = stored_pages_create(fixture->folder, TRANSACTION, 2, names, bytes, NULL);
    assert_non_null(fixture->pages);
    open_ends(fixture);
    *state = fixture;
    return 0;
}

static char *path_of(const Fixture *fixture, const char *name)
{
    return g_build_filename(fixture->folder, name, NULL);
}

static int teardown(void **state)
{
    Fixture *fixture = *state;
    g_autofree char *pages = path_of(fixture, "pages"), *covered = path_of(fixture, "covered");

    close_all(fixture);
    g_unlink(pages);
    g_unlink(covered);
    assert_int_equal(g_rmdir(fixture->folder), 0);
    g_free(fixture->folder);
    g_free(fixture);
    return 0;
}

static void fill(uint8_t *buffer, uint64_t page, uint8_t version)
{
    memset(buffer, version, PAGE_BYTES);
    memcpy(buffer, &page, sizeof page);
}

static void put(Fixture *fixture, guint region, PageSpan span, uint8_t version)
{
    g_autofree uint8_t *buffer = g_malloc(span.count * PAGE_BYTES);

    for (uint64_t i = 0; i < span.count; i++)
        fill(buffer + i * PAGE_BYTES, span.first + i, version);
    assert_true(page_sink_write(fixture->sink, region, &span, 1, buffer, NULL));
}

/* *version* 0: it is zero. */
static void expect(Fixture *fixture, guint region, uint64_t page, uint8_t version)
{
    uint8_t wanted[PAGE_BYTES] = {0}, found[PAGE_BYTES];
    PageSpan span = {page, 1};

    if (version)
        fill(wanted, page, version);
    assert_true(page_source_read(fixture->source, region, &span, 1, found, NULL));
    assert_memory_equal(found, wanted, PAGE_BYTES);
}

static void expect_none(Fixture *fixture, guint region, PageSpan span)
{
    g_autofree uint8_t *buffer = g_malloc(span.count * PAGE_BYTES);
    g_autoptr(GError) error = NULL;

    assert_false(page_source_read(fixture->source, region, &span, 1, buffer, &error));
    assert_true(error_is(error, VMFERRY_ERROR_NOT_FOUND));
}

static void test_what_is_covered(void **state)
{
    Fixture *fixture = *state;

    expect_none(fixture, 0, (PageSpan){0, 1});
    put(fixture, 0, (PageSpan){10, 5}, 1);
    put(fixture, 1, (PageSpan){2, 1}, 2);
    assert_int_equal(stored_pages_count(fixture->pages), 6);
    expect(fixture, 0, 14, 1);
    expect(fixture, 1, 2, 2);
    /* One page of several is not there. */
    expect_none(fixture, 0, (PageSpan){13, 3});
    expect_none(fixture, 1, (PageSpan){1, 1});
}

static void test_stale_pages_come_anew(void **state)
{
    Fixture *fixture = *state;
    g_autoptr(GPtrArray) sets = NULL;

    put(fixture, 0, (PageSpan){0, 100}, 1);
    stored_pages_drop(fixture->pages, 0, (PageSpan){20, 10});
    expect_none(fixture, 0, (PageSpan){20, 1});
    expect(fixture, 0, 19, 1);
    put(fixture, 0, (PageSpan){25, 1}, 2);
    /* What was there is not there any more, though it is not written. */
    assert_true(page_sink_zero(fixture->sink, 0, (PageSpan){26, 4}, NULL));
    expect(fixture, 0, 25, 2);
    expect(fixture, 0, 29, 0);
    sets = stored_pages_list(fixture->pages);
    assert_int_equal(page_set_count(sets->pdata[0]), 95);
    assert_false(page_set_has(sets->pdata[0], 24));
    assert_int_equal(page_set_count(sets->pdata[1]), 0);
}

static uint64_t blocks_of(const Fixture *fixture)
{
    g_autofree char *path = path_of(fixture, "pages");
    struct stat file;

    assert_int_equal(stat(path, &file), 0);
    return (uint64_t)file.st_blocks;
}

static void test_zeroes_take_no_room(void **state)
{
    Fixture *fixture = *state;
    uint64_t before = blocks_of(fixture);

    assert_true(page_sink_zero(fixture->sink, 0, (PageSpan){0, 1000}, NULL));
    assert_int_equal(stored_pages_count(fixture->pages), 1000);
    assert_int_equal(blocks_of(fixture), before);
    expect(fixture, 0, 999, 0);
}

static void test_outside(void **state)
{
    static const uint8_t page[PAGE_BYTES] = {1};
    static const struct {
        guint region;
        PageSpan span;
    } wrong[] = {{0, {1000, 1}}, {1, {3, 1}}, {2, {0, 1}}, {0, {UINT64_MAX, 1}}};
    Fixture *fixture = *state;

    for (guint i = 0; i < G_N_ELEMENTS(wrong); i++) {
        g_autoptr(GError) error = NULL;

        assert_false(
            page_sink_write(fixture->sink, wrong[i].region, &wrong[i].span, 1, page, &error));
        assert_true(error_is(error, VMFERRY_ERROR_INVALID));
        assert_false(page_sink_zero(fixture->sink, wrong[i].region, wrong[i].span, NULL));
    }
    assert_int_equal(stored_pages_count(fixture->pages), 0);
    assert_false(page_sink_seal(fixture->sink, 0, NULL));
}

static void test_no_more_than_was_promised(void **state)
{
    static const uint8_t page[PAGE_BYTES] = {1};
    Fixture *fixture = *state;
    PageSpan last = {5, 1};
    g_autoptr(GError) error = NULL;

    stored_pages_set_limit(fixture->pages, 5);
    put(fixture, 0, (PageSpan){0, 5}, 1);
    put(fixture, 0, (PageSpan){3, 2}, 2); /* the same ones */
    assert_false(page_sink_write(fixture->sink, 0, &last, 1, page, &error));
    assert_true(error_is(error, VMFERRY_ERROR_NO_SPACE));
    stored_pages_drop(fixture->pages, 0, (PageSpan){0, 6});
    assert_true(page_sink_zero(fixture->sink, 0, (PageSpan){10, 5}, NULL));
    assert_false(page_sink_zero(fixture->sink, 0, (PageSpan){20, 1}, NULL));
}

static void test_opened_again(void **state)
{
    Fixture *fixture = *state;

    put(fixture, 0, (PageSpan){7, 3}, 5);
    put(fixture, 1, (PageSpan){0, 3}, 6);
    stored_pages_drop(fixture->pages, 1, (PageSpan){1, 1});
    close_all(fixture);
    fixture->pages = stored_pages_open(fixture->folder, NULL);
    assert_non_null(fixture->pages);
    open_ends(fixture);
    assert_int_equal(stored_pages_count(fixture->pages), 5);
    assert_int_equal(fixture->source->regions->count, 2);
    assert_string_equal(fixture->source->regions->names[1], "vga.vram");
    assert_int_equal(fixture->source->regions->pages[0], 1000);
    expect(fixture, 0, 9, 5);
    expect(fixture, 1, 2, 6);
    expect_none(fixture, 1, (PageSpan){1, 1});
}

static void test_damaged(void **state)
{
    Fixture *fixture = *state;
    g_autofree char *pages = path_of(fixture, "pages"), *covered = path_of(fixture, "covered");
    g_autoptr(GError) error = NULL;

    assert_null(stored_pages_create(fixture->folder, TRANSACTION, 2, names, bytes, NULL));
    close_all(fixture);
    assert_int_equal(truncate(pages, 4096), 0);
    assert_null(stored_pages_open(fixture->folder, &error));
    assert_true(error_is(error, VMFERRY_ERROR_INVALID));
    g_clear_error(&error);
    assert_int_equal(truncate(covered, 100), 0);
    assert_null(stored_pages_open(fixture->folder, &error));
    assert_true(error_is(error, VMFERRY_ERROR_INVALID));
    g_unlink(covered);
    assert_null(stored_pages_open(fixture->folder, NULL));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_what_is_covered, setup, teardown),
        cmocka_unit_test_setup_teardown(test_stale_pages_come_anew, setup, teardown),
        cmocka_unit_test_setup_teardown(test_zeroes_take_no_room, setup, teardown),
        cmocka_unit_test_setup_teardown(test_outside, setup, teardown),
        cmocka_unit_test_setup_teardown(test_no_more_than_was_promised, setup, teardown),
        cmocka_unit_test_setup_teardown(test_opened_again, setup, teardown),
        cmocka_unit_test_setup_teardown(test_damaged, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
