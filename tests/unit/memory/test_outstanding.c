/*
 * The file of outstanding pages: as a set, across a restart, by several threads, and damaged
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <glib/gstdio.h>

#include "base/error.h"
#include "base/page.h"
#include "memory/outstanding.h"

#define ADDRESS 0x7f0000000000ULL
#define FIRST_PAGES 1000u
#define SECOND_PAGES 64u
#define HEAD_BYTES 160u
#define REGION_BYTES 272u
#define THREADS 4u

typedef struct {
    char *folder, *path;
    GuestMemory memory;
} Scene;

static void add_region(GuestMemory *memory, const char *name, uint64_t address, uint64_t pages)
{
    GuestRegion *region = g_new0(GuestRegion, 1);

    region->name = (char *)name;
    region->host_address = address;
    region->pages = pages;
    region->backing_page_bytes = PAGE_BYTES;
    g_ptr_array_add(memory->regions, region);
}

static int setup(void **state)
{
    Scene *scene = g_new0(Scene, 1);

    scene->folder = g_dir_make_tmp("outstanding-XXXXXX", NULL);
    scene->path = g_build_filename(scene->folder, "pages", NULL);
    scene->memory.regions = g_ptr_array_new_with_free_func(g_free);
    add_region(&scene->memory, "pc.ram", ADDRESS, FIRST_PAGES);
    add_region(&scene->memory, "vga.vram", ADDRESS + 0x10000000, SECOND_PAGES);
    *state = scene;
    return 0;
}

static int teardown(void **state)
{
    Scene *scene = *state;

    g_unlink(scene->path);
    g_rmdir(scene->folder);
    g_ptr_array_unref(scene->memory.regions);
    g_free(scene->path);
    g_free(scene->folder);
    g_free(scene);
    return 0;
}

static OutstandingPages *create(Scene *scene)
{
    g_autoptr(GError) error = NULL;
    OutstandingPages *pages = outstanding_create(scene->path, "move-1", &scene->memory, &error);

    if (!pages)
        fail_msg("%s", error->message);
    return pages;
}

static OutstandingPages *reopen(Scene *scene)
{
    g_autoptr(GError) error = NULL;
    OutstandingPages *pages = outstanding_open(scene->path, &error);

    if (!pages)
        fail_msg("%s", error->message);
    return pages;
}

/* The same calls on a PageSet say the same. */
static void test_as_a_set(void **state)
{
    g_autoptr(OutstandingPages) pages = create(*state);
    g_autoptr(PageSet) model = page_set_new(FIRST_PAGES);
    g_autoptr(GRand) rand = g_rand_new_with_seed(14);

    for (int round = 0; round < 2000; round++) {
        PageSpan span = {(uint64_t)g_rand_int_range(rand, 0, FIRST_PAGES), 0};
        uint64_t from = (uint64_t)g_rand_int_range(rand, 0, FIRST_PAGES + 1);
        uint64_t max = (uint64_t)g_rand_int_range(rand, 1, 300), before = page_set_count(model);
        uint64_t first = 0, count = 0, model_first = 0, model_count = 0;

        span.count =
            (uint64_t)g_rand_int_range(rand, 0, (int)MIN(FIRST_PAGES - span.first, 200) + 1);
        if (g_rand_boolean(rand)) {
            page_set_add(model, span.first, span.count);
            assert_true(outstanding_add(pages, 0, span, NULL));
        } else {
            page_set_remove(model, span.first, span.count);
            assert_int_equal(outstanding_remove(pages, 0, span), before - page_set_count(model));
        }
        assert_int_equal(outstanding_count(pages), page_set_count(model));
        assert_int_equal(outstanding_has(pages, 0, from), page_set_has(model, from));
        assert_int_equal(outstanding_next_run(pages, 0, from, max, &first, &count),
                         page_set_next_run(model, from, max, &model_first, &model_count));
        assert_int_equal(first, model_first);
        assert_int_equal(count, model_count);
    }
    assert_int_equal(outstanding_remove(pages, 0, (PageSpan){0, UINT64_MAX}),
                     page_set_count(model));
    assert_int_equal(outstanding_count(pages), 0);
}

static void test_outside(void **state)
{
    g_autoptr(OutstandingPages) pages = create(*state);
    static const PageSpan outside[] = {
        {0, FIRST_PAGES + 1}, {FIRST_PAGES, 1}, {UINT64_MAX, 2}, {1, UINT64_MAX}};
    uint64_t first, count;

    for (guint i = 0; i < G_N_ELEMENTS(outside); i++) {
        g_autoptr(GError) error = NULL;

        assert_false(outstanding_add(pages, 0, outside[i], &error));
        assert_true(error_is(error, VMFERRY_ERROR_INVALID));
    }
    assert_false(outstanding_add(pages, 2, (PageSpan){0, 1}, NULL));
    assert_true(outstanding_add(pages, 1, (PageSpan){SECOND_PAGES, 0}, NULL));
    assert_false(outstanding_has(pages, 2, 0));
    assert_false(outstanding_has(pages, 0, UINT64_MAX));
    assert_int_equal(outstanding_remove(pages, 2, (PageSpan){0, 1}), 0);
    assert_int_equal(outstanding_remove(pages, 0, (PageSpan){UINT64_MAX, 1}), 0);
    assert_false(outstanding_next_run(pages, 2, 0, 1, &first, &count));
    assert_false(outstanding_next_run(pages, 0, UINT64_MAX, 1, &first, &count));
    assert_int_equal(outstanding_count(pages), 0);
}

/* Whoever opens it finds what was there when the other died; nothing is flushed for that. */
static void test_restart(void **state)
{
    Scene *scene = *state;
    g_autoptr(OutstandingPages) pages = create(scene);
    g_autoptr(OutstandingPages) again = NULL;
    const RamRegion *region;

    assert_true(outstanding_add(pages, 0, (PageSpan){0, FIRST_PAGES}, NULL));
    assert_true(outstanding_add(pages, 1, (PageSpan){SECOND_PAGES - 1, 1}, NULL));
    assert_int_equal(outstanding_remove(pages, 0, (PageSpan){63, 2}), 2);
    again = reopen(scene);
    assert_string_equal(outstanding_get_transaction(again), "move-1");
    assert_int_equal(outstanding_get_regions(again)->len, 2);
    region = g_ptr_array_index(outstanding_get_regions(again), 1);
    assert_string_equal(region->name, "vga.vram");
    assert_int_equal(region->host_address, ADDRESS + 0x10000000);
    assert_int_equal(region->bytes, SECOND_PAGES * PAGE_BYTES);
    assert_int_equal(outstanding_count(again), FIRST_PAGES - 1);
    assert_true(outstanding_has(again, 0, 62) && outstanding_has(again, 0, 65));
    assert_false(outstanding_has(again, 0, 63) || outstanding_has(again, 0, 64));
    assert_true(outstanding_has(again, 1, SECOND_PAGES - 1));
}

/* An old one is replaced, with nothing of it left. */
static void test_create_replaces(void **state)
{
    Scene *scene = *state;
    g_autoptr(OutstandingPages) old = create(scene);
    g_autoptr(OutstandingPages) pages = NULL;

    assert_true(outstanding_add(old, 0, (PageSpan){0, 10}, NULL));
    pages = create(scene);
    assert_int_equal(outstanding_count(pages), 0);
    assert_int_equal(outstanding_count(old), 10);
    outstanding_free(g_steal_pointer(&pages));
    pages = reopen(scene);
    assert_int_equal(outstanding_count(pages), 0);
}

typedef struct {
    OutstandingPages *pages;
    uint64_t removed;
} Remover;

static gpointer remove_all(gpointer data)
{
    Remover *remover = data;

    for (uint64_t i = 0; i < FIRST_PAGES; i++)
        remover->removed += outstanding_remove(remover->pages, 0, (PageSpan){i, 1});
    return NULL;
}

/* Each page is removed by exactly one of those who try. */
static void test_threads(void **state)
{
    g_autoptr(OutstandingPages) pages = create(*state);
    Remover removers[THREADS];
    GThread *threads[THREADS];
    uint64_t removed = 0;

    assert_true(outstanding_add(pages, 0, (PageSpan){0, FIRST_PAGES}, NULL));
    for (guint i = 0; i < THREADS; i++) {
        removers[i] = (Remover){.pages = pages};
        threads[i] = g_thread_new("remover", remove_all, &removers[i]);
    }
    for (guint i = 0; i < THREADS; i++) {
        g_thread_join(threads[i]);
        removed += removers[i].removed;
    }
    assert_int_equal(removed, FIRST_PAGES);
    assert_int_equal(outstanding_count(pages), 0);
}

/* --- damage ------------------------------------------------------------------ */

static void assert_refused(Scene *scene, const char *data, gsize length, const char *what)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(OutstandingPages) pages = NULL;

    assert_true(g_file_set_contents(scene->path, data, (gssize)length, NULL));
    pages = outstanding_open(scene->path, &error);
    if (pages || !error_is(error, VMFERRY_ERROR_INVALID) || !strstr(error->message, what))
        fail_msg("%s: %s", what, error ? error->message : "taken");
}

static void assert_refused_with(Scene *scene, const char *data, gsize length, gsize at,
                                uint64_t value, gsize bytes, const char *what)
{
    g_autofree char *copy = g_memdup2(data, length);

    memcpy(copy + at, &value, bytes);
    assert_refused(scene, copy, length, what);
}

static void test_damaged(void **state)
{
    Scene *scene = *state;
    g_autofree char *data = NULL;
    g_autofree char *longer = NULL;
    gsize length, second = HEAD_BYTES + REGION_BYTES;

    outstanding_free(create(scene));
    assert_true(g_file_get_contents(scene->path, &data, &length, NULL));
    assert_int_equal(length, HEAD_BYTES + 2 * REGION_BYTES + 16 * 8 + 8);

    assert_refused(scene, data, 0, "its size");
    assert_refused(scene, data, HEAD_BYTES - 1, "its size");
    assert_refused(scene, data, HEAD_BYTES, "the number of RAM blocks");
    assert_refused(scene, data, length - 8, "its size");
    longer = g_malloc0(length + 8);
    memcpy(longer, data, length);
    assert_refused(scene, longer, length + 8, "its size");
    assert_refused_with(scene, longer, length + 8, 16, length + 8, 8, "something stands behind");

    assert_refused_with(scene, data, length, 0, 'x', 1, "no such file");
    assert_refused_with(scene, data, length, 8, 2, 4, "version 2");
    assert_refused_with(scene, data, length, 12, 1u << 31, 4, "the number of RAM blocks");
    assert_refused_with(scene, data, length, 12, 3, 4, "the number of RAM blocks");
    assert_refused_with(scene, data, length, 12, 1, 4, "something stands behind");
    assert_refused_with(scene, data, length, second, 0, 1, "the name of a RAM block");
    assert_refused_with(scene, data, length, second + 256, 1, 8, "the address of a RAM block");
    assert_refused_with(scene, data, length, second + 256, UINT64_MAX - 4095, 8, "the address");
    assert_refused_with(scene, data, length, second + 256, ADDRESS + 4096, 8, "in one place");
    assert_refused_with(scene, data, length, second + 264, 0, 8, "the size of a RAM block");
    assert_refused_with(scene, data, length, second + 264, 4097, 8, "the size of a RAM block");
    assert_refused_with(scene, data, length, second + 264, 1ULL << 63, 8, "the size");
    assert_refused_with(scene, data, length, second + 264, 65 * 4096, 8, "cut short");
    assert_refused_with(scene, data, length, second + 264, 1ULL << 40, 8, "cut short");
    assert_refused_with(scene, data, length, length - 16, ~0ULL, 8, "behind the end of a RAM");
    memset(data + 24, 'x', 128);
    assert_refused(scene, data, length, "the transaction");
}

static void test_not_there(void **state)
{
    Scene *scene = *state;
    g_autoptr(GError) error = NULL;
    g_autoptr(GError) folder_error = NULL;
    g_autofree char *long_text = g_strnfill(128, 'x');

    assert_null(outstanding_open(scene->path, &error));
    assert_true(error_is(error, VMFERRY_ERROR_NOT_FOUND));
    assert_null(outstanding_create("/nowhere/pages", "t", &scene->memory, &folder_error));
    assert_true(error_is(folder_error, VMFERRY_ERROR_NOT_FOUND));
    assert_null(outstanding_create(scene->path, long_text, &scene->memory, NULL));
    assert_false(g_file_test(scene->path, G_FILE_TEST_EXISTS));
    outstanding_free(NULL);
}

#define ONE(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        ONE(test_as_a_set), ONE(test_outside), ONE(test_restart),   ONE(test_create_replaces),
        ONE(test_threads),  ONE(test_damaged), ONE(test_not_there),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
