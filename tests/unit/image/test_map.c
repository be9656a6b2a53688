/* Laying maps over each other, against a model of single pages. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "image/image_map.h"

#define PAGES 400u

/* Where each page is: extent and offset; extent 0: in no run. */
typedef struct {
    uint32_t extent[PAGES], offset[PAGES];
} Model;

static GArray *make_map(GRand *random, guint first_extent, Model *model)
{
    GArray *map = g_array_new(FALSE, FALSE, sizeof(ImageMapRun));
    uint64_t at = (uint64_t)g_rand_int_range(random, 0, 20);

    while (at < PAGES) {
        ImageMapRun run = {at, (uint64_t)g_rand_int_range(random, 1, 20), first_extent++,
                           (uint32_t)g_rand_int_range(random, 0, 100)};

        run.count = MIN(run.count, PAGES - at);
        if (g_rand_int_range(random, 0, 4) == 0) {
            run.extent = IMAGE_EXTENT_ZERO;
            run.offset = 0;
        }
        g_array_append_val(map, run);
        for (uint64_t i = 0; i < run.count; i++) {
            model->extent[at + i] = run.extent;
            model->offset[at + i] = run.extent == IMAGE_EXTENT_ZERO ? 0 : run.offset + (uint32_t)i;
        }
        at += run.count + (uint64_t)g_rand_int_range(random, 0, 30);
    }
    return map;
}

static void assert_page(const GArray *map, const Model *model, uint64_t page)
{
    PageSpan hole;
    const ImageMapRun *run = image_map_find(map, page, PAGES, &hole);

    if (!run) {
        assert_int_equal(model->extent[page], 0);
        assert_true(page >= hole.first && page < hole.first + hole.count);
        for (uint64_t i = hole.first; i < hole.first + hole.count; i++)
            assert_int_equal(model->extent[i], 0);
        assert_true(hole.first == 0 || model->extent[hole.first - 1] != 0);
        assert_true(hole.first + hole.count == PAGES ||
                    model->extent[hole.first + hole.count] != 0);
        return;
    }
    assert_int_equal(run->extent, model->extent[page]);
    if (run->extent != IMAGE_EXTENT_ZERO)
        assert_int_equal(run->offset + (page - run->first), model->offset[page]);
}

static void test_overlay(void **state)
{
    g_autoptr(GRand) random = g_rand_new_with_seed(3);

    for (guint i = 0; i < 2000; i++) {
        Model below = {0}, above = {0};
        g_autoptr(GArray) lower = make_map(random, 1, &below);
        g_autoptr(GArray) upper = make_map(random, 1000, &above);
        g_autoptr(GArray) both = image_map_overlay(upper, lower);
        uint64_t from = 0;

        for (guint k = 0; k < PAGES; k++)
            if (above.extent[k] != 0) {
                below.extent[k] = above.extent[k];
                below.offset[k] = above.offset[k];
            }
        for (guint k = 0; k < both->len; k++) {
            const ImageMapRun *run = &g_array_index(both, ImageMapRun, k);

            assert_true(run->count > 0 && run->first >= from);
            from = run->first + run->count;
        }
        for (guint k = 0; k < PAGES; k++)
            assert_page(both, &below, k);
    }
}

static void test_empty(void **state)
{
    g_autoptr(GArray) none = g_array_new(FALSE, FALSE, sizeof(ImageMapRun));
    g_autoptr(GArray) both = image_map_overlay(none, none);
    PageSpan hole;

    assert_int_equal(both->len, 0);
    assert_null(image_map_find(both, 7, 100, &hole));
    assert_int_equal(hole.first, 0);
    assert_int_equal(hole.count, 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_overlay),
                                       cmocka_unit_test(test_empty)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
