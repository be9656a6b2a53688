/*
 * Images that an earlier vmferry has written must stay readable.  $1: the folder with them.
 *
 *     full.vmfi       raw, lz4 and zstd extents, one of them superseded in part
 *     increment.vmfi  above it, found by its recorded name; zero runs
 *     keyed.vmfi      as full.vmfi, with a key
 *
 * Never write them anew: add others for a newer version.  (`test_image_golden DIR write` made these.)
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <string.h>

#include "base/page.h"
#include "image/image_writer.h"
#include "image/saved_image.h"

#define PAGES 600u
#define KEY "golden key, 26 bytes long."

static const char *folder;
static uint64_t pages[] = {PAGES, 2};
static char *names[] = {(char *)"pc.ram", (char *)"0000:00:02.0/vga.vram", NULL};
static const PageRegions regions = {2, pages, names};

/* What page 0 of a span of *seed* has; it packs well. */
static void fill(uint8_t *page, uint64_t number, guint seed)
{
    for (guint i = 0; i < PAGE_BYTES; i++)
        page[i] = (uint8_t)(number * 7 + seed + i / 64);
}

static uint8_t expected_seed(uint64_t page, gboolean increment)
{
    if (increment && page >= 4 && page < 8)
        return 0;
    if (increment && page >= 300 && page < 303)
        return 90;
    if (page >= 2 && page < 6)
        return 20;
    if (page < 10)
        return 10;
    return page >= 300 && page < 310 ? 30 : 0;
}

/* ---- writing them ---- */

static void add(ImageWriter *writer, PackContext *codec, PageSpan span, guint seed,
                PackMethod method)
{
    g_autofree uint8_t *raw = g_malloc(span.count * PAGE_BYTES);
    g_autofree uint8_t *packed = g_malloc(span.count * PAGE_BYTES);
    size_t length = span.count * PAGE_BYTES;

    for (uint64_t i = 0; i < span.count; i++)
        fill(raw + i * PAGE_BYTES, span.first + i, seed);
    if (method != PACK_NONE)
        length = pack(codec, method, 0, raw, length, packed, length);
    assert_true(image_writer_add_pages(writer, 0, &span, 1, method,
                                       method == PACK_NONE ? raw : packed, length, NULL));
}

static void commit(ImageWriter *writer)
{
    g_autoptr(GBytes) device_state = g_bytes_new("QEVM golden", 11);
    const ImageTail tail = {"{\"name\":\"golden\"}", "{\"time\":1790000000}", device_state};
    const ImageRun order[] = {{0, {300, 2}}, {1, {1, 1}}};

    assert_true(image_writer_set_order(writer, order, 2, NULL));
    assert_true(image_writer_commit(writer, &tail, FALSE, NULL));
}

static ImageWriter *begin(const char *name, uint8_t id, gboolean increment, GBytes *key)
{
    g_autofree char *path = g_build_filename(folder, name, NULL);
    ImageHead head = {.regions = &regions, .key = key};

    memset(head.id.bytes, id, IMAGE_ID_BYTES);
    if (increment) {
        memset(head.base.bytes, 1, IMAGE_ID_BYTES);
        head.base_name = "full.vmfi";
    }
    return image_writer_create(path, &head, NULL);
}

static void write_full(const char *name, uint8_t id, GBytes *key)
{
    g_autoptr(ImageWriter) writer = begin(name, id, FALSE, key);
    g_autoptr(PackContext) codec = pack_context_new();

    add(writer, codec, (PageSpan){0, 10}, 10, PACK_LZ4);
    add(writer, codec, (PageSpan){2, 4}, 20, PACK_NONE);
    add(writer, codec, (PageSpan){300, 10}, 30, PACK_ZSTD);
    commit(writer);
}

static void write_all(void)
{
    g_autoptr(GBytes) key = g_bytes_new(KEY, strlen(KEY));
    g_autoptr(PackContext) codec = pack_context_new();
    g_autoptr(ImageWriter) writer = begin("increment.vmfi", 2, TRUE, NULL);

    write_full("full.vmfi", 1, NULL);
    write_full("keyed.vmfi", 3, key);
    add(writer, codec, (PageSpan){300, 3}, 90, PACK_ZSTD);
    assert_true(image_writer_add_zero(writer, 0, (PageSpan){4, 4}, NULL));
    commit(writer);
}

/* ---- reading them ---- */

static void check(const char *name, gboolean increment, GBytes *key)
{
    g_autofree char *path = g_build_filename(folder, name, NULL);
    const SavedImageOptions options = {.key = key};
    g_autoptr(GError) error = NULL;
    g_autoptr(SavedImage) image = saved_image_open(path, &options, &error);
    uint8_t page[PAGE_BYTES], expected[PAGE_BYTES];

    if (!image)
        fail_msg("%s", error->message);
    assert_true(page_regions_are_equal(saved_image_get_regions(image), &regions, NULL));
    assert_string_equal(saved_image_get_machine(image), "{\"name\":\"golden\"}");
    assert_string_equal(saved_image_get_note(image), "{\"time\":1790000000}");
    assert_memory_equal(g_bytes_get_data(saved_image_get_state(image), NULL), "QEVM golden", 11);
    assert_int_equal(saved_image_get_order(image)->len, 2);
    assert_int_equal(g_array_index(saved_image_get_order(image), ImageRun, 1).region, 1);
    for (uint64_t i = 0; i < PAGES; i++) {
        uint8_t seed = expected_seed(i, increment);

        memset(expected, 0, sizeof expected);
        if (seed != 0)
            fill(expected, i, seed);
        assert_true(
            page_source_read(saved_image_get_source(image), 0, &(PageSpan){i, 1}, 1, page, NULL));
        assert_memory_equal(page, expected, PAGE_BYTES);
    }
}

static void test_full(void **state)
{
    check("full.vmfi", FALSE, NULL);
}

static void test_increment(void **state)
{
    check("increment.vmfi", TRUE, NULL);
}

static void test_keyed(void **state)
{
    g_autoptr(GBytes) key = g_bytes_new(KEY, strlen(KEY));

    check("keyed.vmfi", FALSE, key);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_full),
                                       cmocka_unit_test(test_increment),
                                       cmocka_unit_test(test_keyed)};

    folder = argc > 1 ? argv[1] : ".";
    if (argc > 2)
        write_all();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
