/* Saved images above each other, merged, with keys, and read by many threads. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <glib/gstdio.h>
#include <string.h>

#include "base/page.h"
#include "image/image_merge.h"
#include "model.h"

static ImageId id_of(const Model *model, const char *name)
{
    g_autofree char *path = model_path(model, name);
    const SavedImageOptions alone = {.alone = TRUE};
    g_autoptr(SavedImage) image = saved_image_open(path, &alone, NULL);

    assert_non_null(image);
    return *saved_image_get_id(image);
}

/* "a", "b" above that, "c" above that. */
static void save_three(Model *model)
{
    ImageId id;

    model_save(model, "a", NULL, NULL, 40);
    id = id_of(model, "a");
    model_save(model, "b", &id, "a", 5);
    id = id_of(model, "b");
    model_save(model, "c", &id, "b", 5);
}

static void test_three(void **state)
{
    Model *model = *state;
    g_autoptr(SavedImage) image = NULL;
    g_autofree char *path = model_path(model, "a");

    save_three(model);
    image = model_open(model, "c");
    model_assert_content(model, image);
    assert_int_equal(saved_image_get_depth(image), 3);
    assert_string_equal(saved_image_get_chain_path(image, 2), path);
}

/* Pages that became zero hide those of the base. */
static void test_zeroes_above(void **state)
{
    Model *model = *state;
    g_autoptr(ImageWriter) writer = NULL;
    g_autoptr(SavedImage) image = NULL;
    ImageId id;

    model_save(model, "a", NULL, NULL, 40);
    id = id_of(model, "a");
    writer = model_create(model, "b", &id, "a", NULL);
    memset(model_page(model, 0, 100), 0, 2000 * PAGE_BYTES);
    assert_true(image_writer_add_zero(writer, 0, (PageSpan){100, 2000}, NULL));
    memset(model_page(model, 0, 500), 'z', 3 * PAGE_BYTES);
    model_write_span(model, writer, 0, (PageSpan){500, 3}, PACK_LZ4);
    model_commit(writer);
    image = model_open(model, "b");
    model_assert_content(model, image);
}

static void test_bases_that_are_given(void **state)
{
    Model *model = *state;
    g_autofree char *a = model_path(model, "a"), *b = model_path(model, "b");
    g_autofree char *c = model_path(model, "c"), *moved = model_path(model, "moved");
    const char *bases[] = {c, b, moved, NULL}, *foreign[] = {"/proc/self/maps", NULL};
    const SavedImageOptions options = {.bases = bases}, wrong = {.bases = foreign};
    g_autoptr(SavedImage) image = NULL;

    save_three(model);
    assert_int_equal(g_rename(a, moved), 0);
    model_assert_refused(model, "c", NULL, VMFERRY_ERROR_NOT_FOUND, "b: its base: ");
    model_assert_refused(model, "c", &wrong, VMFERRY_ERROR_INVALID, "/proc/self/maps");
    image = saved_image_open(c, &options, NULL);
    assert_non_null(image);
    model_assert_content(model, image);
}

/* Another image in the base's place is not taken for it. */
static void test_wrong_base(void **state)
{
    Model *model = *state;
    ImageId id;

    model_save(model, "a", NULL, NULL, 5);
    assert_true(image_id_make(&id, NULL));
    model_save(model, "b", &id, "a", 5);
    model_save(model, "c", &id, NULL, 5);
    model_assert_refused(model, "b", NULL, VMFERRY_ERROR_INVALID, "and the base has");
    model_assert_refused(model, "c", NULL, VMFERRY_ERROR_NOT_FOUND, "the file with the id");
}

static void test_base_of_itself(void **state)
{
    Model *model = *state;
    g_autoptr(ImageWriter) writer = NULL;
    g_autofree char *path = model_path(model, "a");
    ImageHead head = model_head(model);

    head.base = head.id;
    head.base_name = "a";
    writer = image_writer_create(path, &head, NULL);
    model_commit(writer);
    model_assert_refused(model, "a", NULL, VMFERRY_ERROR_INVALID, "base of itself");
}

static void test_base_of_another_machine(void **state)
{
    Model *model = *state;
    uint64_t pages[] = {3000, 71};
    PageRegions larger = {2, pages, model->regions.names};
    ImageHead head = {.regions = &larger, .base_name = "a"};
    g_autofree char *path = model_path(model, "b");
    g_autoptr(ImageWriter) writer = NULL;

    model_save(model, "a", NULL, NULL, 5);
    assert_true(image_id_make(&head.id, NULL));
    head.base = id_of(model, "a");
    writer = image_writer_create(path, &head, NULL);
    model_commit(writer);
    model_assert_refused(model, "b", NULL, VMFERRY_ERROR_INVALID, "of another machine");
}

/* By itself, an increment has its facts and its own pages. */
static void test_alone(void **state)
{
    Model *model = *state;
    g_autofree char *path = model_path(model, "b");
    const SavedImageOptions alone = {.alone = TRUE};
    g_autofree uint8_t *buffer = g_malloc(PAGE_BYTES);
    g_autoptr(ImageWriter) writer = NULL;
    g_autoptr(SavedImage) image = NULL;
    g_autoptr(GError) error = NULL;
    ImageNeighbours found;
    ImageId id;

    model_save(model, "a", NULL, NULL, 5);
    id = id_of(model, "a");
    writer = model_create(model, "b", &id, NULL, NULL);
    memset(model_page(model, 0, 10), 'b', PAGE_BYTES);
    model_write_span(model, writer, 0, (PageSpan){10, 1}, PACK_NONE);
    model_commit(writer);
    image = saved_image_open(path, &alone, NULL);
    assert_true(
        page_source_read(saved_image_get_source(image), 0, &(PageSpan){10, 1}, 1, buffer, NULL));
    assert_memory_equal(buffer, model_page(model, 0, 10), PAGE_BYTES);
    assert_false(
        page_source_read(saved_image_get_source(image), 0, &(PageSpan){11, 1}, 1, buffer, &error));
    assert_true(error_is(error, VMFERRY_ERROR_NOT_FOUND));
    assert_false(saved_image_find_neighbours(image, 0, 9, &found, NULL));
    assert_false(saved_image_find_neighbours(image, 0, 3000, &found, NULL));
    assert_false(saved_image_find_neighbours(image, 2, 0, &found, NULL));
}

/* ---- merging ---- */

static void test_merge(void **state)
{
    Model *model = *state;
    g_autofree char *path = model_path(model, "m");
    g_autoptr(SavedImage) chain = NULL, merged = NULL;
    g_autoptr(GError) error = NULL;
    SavedImageTotals totals;
    ImageId id;

    save_three(model);
    chain = model_open(model, "c");
    assert_true(image_merge(chain, path, NULL, FALSE, &id, NULL));
    merged = model_open(model, "m");
    assert_int_equal(saved_image_get_depth(merged), 1);
    assert_memory_equal(saved_image_get_id(merged)->bytes, id.bytes, IMAGE_ID_BYTES);
    model_assert_content(model, merged);
    assert_string_equal(saved_image_get_note(merged), MODEL_NOTE);
    assert_int_equal(saved_image_get_order(merged)->len, 2);
    /* Nothing that is of no use. */
    saved_image_get_totals(merged, &totals);
    for (guint i = 0; i < totals.extents; i++) {
        ImageExtentFacts facts;

        saved_image_get_extent(merged, i, &facts);
        assert_int_equal(facts.used, facts.pages);
    }
    assert_false(image_merge(chain, path, NULL, FALSE, NULL, &error));
    assert_true(error_is(error, VMFERRY_ERROR_EXISTS));
    assert_true(image_merge(chain, path, NULL, TRUE, NULL, NULL));
}

/* Extents of which all is of use are copied as they are. */
static void test_merge_copies(void **state)
{
    Model *model = *state;
    g_autofree char *path = model_path(model, "m");
    g_autofree uint8_t *stored = g_malloc(IMAGE_MAX_EXTENT_BYTES);
    g_autofree uint8_t *copied = g_malloc(IMAGE_MAX_EXTENT_BYTES);
    g_autoptr(ImageWriter) writer = model_create(model, "a", NULL, NULL, NULL);
    g_autoptr(SavedImage) image = NULL, merged = NULL;
    ImageExtentFacts facts, again;

    memset(model_page(model, 0, 0), 'q', 100 * PAGE_BYTES);
    model_write_span(model, writer, 0, (PageSpan){0, 100}, PACK_LZ4);
    model_commit(writer);
    image = model_open(model, "a");
    assert_true(image_merge(image, path, NULL, FALSE, NULL, NULL));
    merged = model_open(model, "m");
    saved_image_get_extent(image, 0, &facts);
    saved_image_get_extent(merged, 0, &again);
    assert_int_equal(again.method, PACK_LZ4);
    assert_int_equal(again.stored_bytes, facts.stored_bytes);
    assert_true(saved_image_read_extent(image, 0, stored, NULL, NULL));
    assert_true(saved_image_read_extent(merged, 0, copied, NULL, NULL));
    assert_memory_equal(stored, copied, facts.stored_bytes);
}

/* ---- keys ---- */

static void test_key(void **state)
{
    Model *model = *state;
    g_autofree char *path = model_path(model, "a");
    g_autoptr(GBytes) key = g_bytes_new("0123456789abcdef", 16);
    g_autoptr(GBytes) other = g_bytes_new("0123456789abcdeg", 16);
    const SavedImageOptions right = {.key = key}, wrong = {.key = other};
    g_autoptr(ImageWriter) writer = model_create(model, "a", NULL, NULL, key);
    g_autoptr(SavedImage) image = NULL;
    SavedImageTotals totals;

    model_write(model, writer, 20);
    model_commit(writer);
    image = saved_image_open(path, &right, NULL);
    assert_non_null(image);
    model_assert_content(model, image);
    saved_image_get_totals(image, &totals);
    assert_int_equal(totals.digest, IMAGE_DIGEST_HMAC);
    model_assert_refused(model, "a", &wrong, VMFERRY_ERROR_REFUSED, "not written with this key");
    model_assert_refused(model, "a", NULL, VMFERRY_ERROR_REFUSED, "key is needed");
    model_save(model, "b", NULL, NULL, 1);
    model_assert_refused(model, "b", &right, VMFERRY_ERROR_REFUSED, "no keyed digest");
}

/* ---- threads ---- */

typedef struct {
    const Model *model;
    SavedImage *image;
    guint seed;
} Reader;

static gpointer read_any(gpointer data)
{
    const Reader *reader = data;
    g_autoptr(GRand) random = g_rand_new_with_seed(reader->seed);
    g_autofree uint8_t *buffer = g_malloc(64 * PAGE_BYTES);

    for (guint i = 0; i < 400; i++) {
        const PageSpan span = {(uint64_t)g_rand_int_range(random, 0, 2936),
                               (uint64_t)g_rand_int_range(random, 1, 65)};

        if (!page_source_read(saved_image_get_source(reader->image), 0, &span, 1, buffer, NULL) ||
            memcmp(buffer, model_page(reader->model, 0, span.first), span.count * PAGE_BYTES) != 0)
            return GINT_TO_POINTER(1);
    }
    return NULL;
}

/* More of them than extents are kept, so that each waits for others. */
static void test_threads(void **state)
{
    Model *model = *state;
    g_autoptr(SavedImage) image = NULL;
    GThread *threads[SAVED_IMAGE_CACHED_EXTENTS + 4];
    Reader readers[G_N_ELEMENTS(threads)];

    model_save(model, "a", NULL, NULL, 100);
    image = model_open(model, "a");
    for (guint i = 0; i < G_N_ELEMENTS(threads); i++) {
        readers[i] = (Reader){model, image, i};
        threads[i] = g_thread_new("read", read_any, &readers[i]);
    }
    for (guint i = 0; i < G_N_ELEMENTS(threads); i++)
        assert_null(g_thread_join(threads[i]));
}

int main(void)
{
#define scene(function) cmocka_unit_test_setup_teardown(function, model_setup, model_teardown)
    const struct CMUnitTest tests[] = {
        scene(test_three),          scene(test_zeroes_above),
        scene(test_wrong_base),     scene(test_bases_that_are_given),
        scene(test_base_of_itself), scene(test_base_of_another_machine),
        scene(test_alone),          scene(test_merge),
        scene(test_merge_copies),   scene(test_key),
        scene(test_threads),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
