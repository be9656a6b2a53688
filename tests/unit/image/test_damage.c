/* Saved images that are damaged, cut off, foreign, of a newer version, or made by an enemy. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <fcntl.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/fd.h"
#include "base/page.h"
#include "image/image_index.h"
#include "model.h"

#define MAX_FILE_BYTES (64u << 20)

/* ---- bytes of an image ---- */

static GByteArray *read_file(const Model *model, const char *name)
{
    g_autofree char *path = model_path(model, name);
    size_t length;
    char *bytes = file_read(path, MAX_FILE_BYTES, &length, NULL);

    assert_non_null(bytes);
    return g_byte_array_new_take((guint8 *)bytes, length);
}

static void write_file(const Model *model, const char *name, const GByteArray *bytes)
{
    g_autofree char *path = model_path(model, name);

    assert_true(file_replace(path, bytes->data, bytes->len, FALSE, NULL));
}

/* An image "a"; its bytes. */
static GByteArray *save(Model *model)
{
    g_autoptr(ImageWriter) writer = model_create(model, "a", NULL, NULL, NULL);

    memset(model_page(model, 0, 4), 'x', 3 * PAGE_BYTES);
    memset(model_page(model, 1, 9), 'y', PAGE_BYTES);
    model_write_span(model, writer, 0, (PageSpan){4, 3}, PACK_NONE);
    model_write_span(model, writer, 1, (PageSpan){9, 1}, PACK_ZSTD);
    model_commit(writer);
    return read_file(model, "a");
}

static void get_ends(const GByteArray *bytes, ImageHeader *header, ImageFooter *footer)
{
    uint64_t place = bytes->len - IMAGE_FOOTER_BYTES;

    assert_true(image_header_decode(bytes->data, header, NULL));
    assert_true(image_footer_decode(bytes->data + place, place, header, footer, NULL));
}

/* Makes all digests right but those of extents, as an enemy does: of an image whose index, as long as
 * it may be now, begins at *index_place*. */
static void seal(GByteArray *bytes, const ImageHeader *header, uint64_t index_place)
{
    g_autoptr(ImageDigester) digester = image_digester_new(header->digest, NULL, NULL);
    ImageFooter footer = {.index_place = index_place,
                          .index_bytes = bytes->len - index_place,
                          .place = bytes->len,
                          .id = header->id};
    uint8_t end[IMAGE_FOOTER_BYTES];

    image_header_encode(header, bytes->data);
    assert_true(image_digester_seal(digester, bytes->data, bytes->data + index_place,
                                    footer.index_bytes, footer.digest, NULL));
    image_footer_encode(&footer, end);
    g_byte_array_append(bytes, end, sizeof end);
}

/* ---- damage ---- */

static void assert_flip_refused(Model *model, const GByteArray *good, size_t place,
                                const char *words)
{
    g_autoptr(GByteArray) bad = g_byte_array_new();

    g_byte_array_append(bad, good->data, good->len);
    bad->data[place] ^= 0x10;
    write_file(model, "bad", bad);
    model_assert_refused(model, "bad", NULL, VMFERRY_ERROR_INVALID, words);
}

static void test_flipped_in_each_section(void **state)
{
    static const char *const names[] = {"regions", "extents", "map",  "machine",
                                        "state",   "note",    "order"};
    Model *model = *state;
    g_autoptr(GByteArray) good = save(model);
    ImageHeader header;
    ImageFooter footer;
    ByteReader reader;

    get_ends(good, &header, &footer);
    reader = byte_reader_make(good->data + footer.index_place, footer.index_bytes);
    for (guint i = 0; i < G_N_ELEMENTS(names); i++) {
        g_autofree char *words = g_strdup_printf("section %s (at ", names[i]);
        uint64_t length;

        assert_int_equal(byte_read_le32(&reader), i + 1);
        byte_read_le32(&reader);
        length = byte_read_le64(&reader);
        byte_read_span(&reader, IMAGE_DIGEST_BYTES);
        assert_flip_refused(model, good, (size_t)(reader.at - good->data), words);
        byte_read_span(&reader, (length + 7) / 8 * 8);
    }
    assert_int_equal(reader.left, 0);
}

/* Every byte but those of extents counts. */
static void test_flipped_anywhere(void **state)
{
    Model *model = *state;
    g_autoptr(GByteArray) good = save(model);
    ImageHeader header;
    ImageFooter footer;

    get_ends(good, &header, &footer);
    assert_flip_refused(model, good, 0, "is not a saved image");
    assert_flip_refused(model, good, 40, "its header is damaged");
    assert_flip_refused(model, good, 3000, "its header is damaged");
    assert_flip_refused(model, good, footer.place + 2, "its end is missing");
    assert_flip_refused(model, good, footer.place + 20, "its footer is damaged");
    for (size_t at = footer.index_place; at < footer.place; at++)
        assert_flip_refused(model, good, at, "its index is damaged");
}

static void test_damaged_extent(void **state)
{
    Model *model = *state;
    g_autoptr(GByteArray) bytes = save(model);
    g_autoptr(SavedImage) image = NULL;
    uint8_t page[PAGE_BYTES];
    g_autofree uint8_t *stored = g_malloc(IMAGE_MAX_EXTENT_BYTES);
    /* Raw: the second page of three.  Packed. */
    static const struct {
        size_t extent, byte;
        guint region;
        uint64_t first;
        const char *words;
    } rows[] = {{4096, 5000, 0, 6, "page 6 of pc.ram: "}, {16384, 3, 1, 9, "of vga.vram: "}};

    for (guint i = 0; i < G_N_ELEMENTS(rows); i++)
        bytes->data[rows[i].extent + rows[i].byte] ^= 1;
    write_file(model, "bad", bytes);
    image = model_open(model, "bad");
    for (guint i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autoptr(GError) error = NULL;
        g_autofree char *place =
            g_strdup_printf("bytes at %zu: its bytes are damaged", rows[i].extent);

        assert_false(page_source_read(saved_image_get_source(image), rows[i].region,
                                      &(PageSpan){rows[i].first, 1}, 1, page, &error));
        assert_true(error_is(error, VMFERRY_ERROR_INVALID));
        assert_non_null(strstr(error->message, rows[i].words));
        assert_non_null(strstr(error->message, place));
        assert_false(saved_image_read_extent(image, i, stored, NULL, NULL));
    }
    /* All others can be read. */
    assert_true(
        page_source_read(saved_image_get_source(image), 0, &(PageSpan){7, 1}, 1, page, NULL));
}

static void test_cut_off(void **state)
{
    Model *model = *state;
    g_autoptr(GByteArray) good = save(model);
    g_autoptr(GByteArray) longer = g_byte_array_new();
    ImageHeader header;
    ImageFooter footer;

    get_ends(good, &header, &footer);
    for (size_t length = 0; length < good->len; length += length < 4300 ? 61 : 509) {
        g_autoptr(GByteArray) bad = g_byte_array_new();

        g_byte_array_append(bad, good->data, (guint)length);
        write_file(model, "bad", bad);
        model_assert_refused(model, "bad", NULL, VMFERRY_ERROR_INVALID,
                             length < 8 ? "is not a saved image"
                             : length < IMAGE_HEADER_BYTES + IMAGE_FOOTER_BYTES
                                 ? "is cut off after"
                                 : "its end is missing");
    }
    g_byte_array_append(longer, good->data, good->len);
    byte_write_u8(longer, 0);
    write_file(model, "bad", longer);
    model_assert_refused(model, "bad", NULL, VMFERRY_ERROR_INVALID, "its end is missing");
    /* A piece was taken out in front of the footer. */
    g_byte_array_set_size(longer, good->len);
    g_byte_array_remove_range(longer, (guint)footer.index_place, 8);
    write_file(model, "bad", longer);
    model_assert_refused(model, "bad", NULL, VMFERRY_ERROR_INVALID, "its end is at");
}

/* Pages are never made up: not in an extent that is read the first time, nor in one that was. */
static void test_cut_off_while_open(void **state)
{
    Model *model = *state;
    g_autoptr(GByteArray) good = save(model);
    g_autofree char *path = model_path(model, "a");
    g_autoptr(SavedImage) image = model_open(model, "a");
    uint8_t page[PAGE_BYTES];

    assert_true(
        page_source_read(saved_image_get_source(image), 0, &(PageSpan){4, 1}, 1, page, NULL));
    /* In the third of its first extent, which was right; the second extent begins behind it. */
    assert_int_equal(truncate(path, 4096 + 5000), 0);
    for (guint i = 0; i < 2; i++) {
        g_autoptr(GError) error = NULL;

        assert_false(page_source_read(saved_image_get_source(image), i, &(PageSpan){i ? 9 : 6, 1},
                                      1, page, &error));
        assert_true(error_is(error, VMFERRY_ERROR_INVALID));
        assert_non_null(strstr(error->message, "become shorter"));
        assert_non_null(strstr(error->message, path));
    }
}

/* ---- versions ---- */

static void test_versions(void **state)
{
    Model *model = *state;
    g_autoptr(GByteArray) bytes = save(model);
    ImageHeader header;
    ImageFooter footer;

    get_ends(bytes, &header, &footer);
    bytes->data[8] = 2;
    write_file(model, "bad", bytes);
    model_assert_refused(model, "bad", NULL, VMFERRY_ERROR_UNSUPPORTED, "is of version 2; ");
    header.critical_features = 6;
    g_byte_array_set_size(bytes, (guint)footer.place);
    seal(bytes, &header, footer.index_place);
    write_file(model, "bad", bytes);
    model_assert_refused(model, "bad", NULL, VMFERRY_ERROR_UNSUPPORTED, "(bits 0x6)");
    header.critical_features = 0;
    header.digest = (ImageDigestKind)3;
    g_byte_array_set_size(bytes, (guint)footer.place);
    seal(bytes, &header, footer.index_place);
    write_file(model, "bad", bytes);
    model_assert_refused(model, "bad", NULL, VMFERRY_ERROR_UNSUPPORTED, "digests of kind 3");
}

static void test_optional_feature(void **state)
{
    Model *model = *state;
    g_autoptr(GByteArray) bytes = save(model);
    g_autoptr(SavedImage) image = NULL;
    SavedImageTotals totals;
    ImageHeader header;
    ImageFooter footer;

    get_ends(bytes, &header, &footer);
    header.optional_features = UINT64_C(1) << 63;
    g_byte_array_set_size(bytes, (guint)footer.place);
    seal(bytes, &header, footer.index_place);
    write_file(model, "a", bytes);
    image = model_open(model, "a");
    model_assert_content(model, image);
    saved_image_get_totals(image, &totals);
    assert_true(totals.optional_features == header.optional_features);
}

static void append_section(GByteArray *bytes, uint32_t type, uint32_t flags)
{
    static const uint8_t digest[IMAGE_DIGEST_BYTES];

    byte_write_le32(bytes, type);
    byte_write_le32(bytes, flags);
    byte_write_le64(bytes, 8);
    byte_write_span(bytes, digest, sizeof digest);
    byte_write_le64(bytes, 77);
}

static void test_unknown_sections(void **state)
{
    Model *model = *state;
    g_autoptr(GByteArray) bytes = save(model);
    ImageHeader header;
    ImageFooter footer;

    get_ends(bytes, &header, &footer);
    for (guint critical = 0; critical < 2; critical++) {
        g_byte_array_set_size(bytes, (guint)footer.place);
        append_section(bytes, 99, critical);
        seal(bytes, &header, footer.index_place);
        write_file(model, "a", bytes);
        if (critical) {
            model_assert_refused(model, "a", NULL, VMFERRY_ERROR_UNSUPPORTED, "needs section 99");
        } else {
            g_autoptr(SavedImage) image = model_open(model, "a");

            model_assert_content(model, image);
        }
    }
}

/* ---- an enemy's ---- */

/* An image of one section's content, all others as they are. */
typedef struct {
    ImageSection type;
    const char *words;
    uint8_t bytes[48];
    size_t length;
} Forgery;

/* Where section *type* of the index begins; its length with head and padding. */
static size_t find_section(const GByteArray *bytes, const ImageFooter *footer, uint32_t type,
                           size_t *ret_length)
{
    size_t at = footer->index_place;

    for (;;) {
        ByteReader reader = byte_reader_make(bytes->data + at, footer->place - at);
        uint32_t found = byte_read_le32(&reader);
        uint64_t length;

        byte_read_le32(&reader);
        length = byte_read_le64(&reader);
        assert_true(byte_reader_ok(&reader));
        *ret_length = IMAGE_SECTION_HEAD_BYTES + (length + 7) / 8 * 8;
        if (found == type)
            return at;
        at += *ret_length;
    }
}

static void forge(GByteArray *bytes, const Forgery *forgery)
{
    g_autoptr(GByteArray) index = g_byte_array_new();
    static const uint8_t digest[IMAGE_DIGEST_BYTES];
    ImageHeader header;
    ImageFooter footer;
    size_t length, at;

    get_ends(bytes, &header, &footer);
    at = find_section(bytes, &footer, forgery->type, &length);
    g_byte_array_append(index, bytes->data + footer.index_place, (guint)(at - footer.index_place));
    byte_write_le32(index, forgery->type);
    byte_write_le32(index, IMAGE_SECTION_CRITICAL);
    byte_write_le64(index, forgery->length);
    byte_write_span(index, digest, sizeof digest);
    byte_write_span(index, forgery->bytes, forgery->length);
    while (index->len % 8 != 0)
        byte_write_u8(index, 0);
    g_byte_array_append(index, bytes->data + at + length, (guint)(footer.place - at - length));
    g_byte_array_set_size(bytes, (guint)footer.index_place);
    g_byte_array_append(bytes, index->data, index->len);
    seal(bytes, &header, footer.index_place);
}

#define EXTENT(gap, low, high, pages, method)                                                      \
    gap, (low) | 0x80, high, pages, method, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0
#define ROW(type, words, ...)                                                                      \
    {                                                                                              \
        type, words, {__VA_ARGS__}, sizeof((uint8_t[]){__VA_ARGS__})                               \
    }

/* The image has 3000 and 70 pages, extents of 3 raw pages and of 1 packed one, and room for 4 pages
 * in front of its index. */
static void test_forged_index(void **state)
{
    static const Forgery rows[] = {
        ROW(IMAGE_SECTION_REGIONS, "number of RAM blocks", 0),
        ROW(IMAGE_SECTION_REGIONS, "number of RAM blocks", 0x81, 2),
        ROW(IMAGE_SECTION_REGIONS, "is cut off", 2, 5, 1, 'a'),
        ROW(IMAGE_SECTION_REGIONS, "is cut off", 1, 5, 0xff, 0xff, 3, 'a'),
        ROW(IMAGE_SECTION_REGIONS, "RAM block a of 0 pages", 1, 0, 1, 'a'),
        ROW(IMAGE_SECTION_REGIONS, "no valid name", 1, 5, 1, 7),
        ROW(IMAGE_SECTION_REGIONS, "no valid name", 1, 5, 0),
        ROW(IMAGE_SECTION_REGIONS, "its length is wrong", 1, 5, 1, 'a', 0),
        ROW(IMAGE_SECTION_REGIONS, "RAM block b of", 2, 5, 1, 'a', 0x80, 0x80, 0x80, 0x80, 0x40, 1,
            'b'),
        ROW(IMAGE_SECTION_EXTENTS, "is cut off", 1),
        ROW(IMAGE_SECTION_EXTENTS, "number of extents", 0x81, 0x80, 0x80, 0x80, 1),
        ROW(IMAGE_SECTION_EXTENTS, "begins behind the index", 1, EXTENT(5, 0, 32, 1, 0)),
        ROW(IMAGE_SECTION_EXTENTS, "reaches into the index", 1, EXTENT(4, 0, 32, 1, 0)),
        ROW(IMAGE_SECTION_EXTENTS, "cannot have its pages", 1, EXTENT(0, 0, 32, 2, 0)),
        ROW(IMAGE_SECTION_EXTENTS, "cannot have its pages", 1, EXTENT(0, 1, 32, 1, 2)),
        ROW(IMAGE_SECTION_EXTENTS, "cannot have its pages", 1, EXTENT(0, 0, 32, 1, 3)),
        ROW(IMAGE_SECTION_EXTENTS, "empty or too long", 1, EXTENT(0, 0, 32, 0, 0)),
        ROW(IMAGE_SECTION_MAP, "is cut off", 1),
        ROW(IMAGE_SECTION_MAP, "not in its RAM block", 1, 0, 0, 0),
        ROW(IMAGE_SECTION_MAP, "not in its RAM block", 0, 1, 0x46, 1, 0),
        ROW(IMAGE_SECTION_MAP, "not in its RAM block", 0, 1, 0x45, 2, 0),
        ROW(IMAGE_SECTION_MAP, "not in its RAM block", 0, 2, 0x44, 1, 0, 1, 1, 0),
        ROW(IMAGE_SECTION_MAP, "in no extent", 1, 0, 1, 3, 0),
        ROW(IMAGE_SECTION_MAP, "not in its extent", 1, 0, 3, 1, 1),
        ROW(IMAGE_SECTION_MAP, "not in its extent", 1, 0, 1, 2, 1),
        ROW(IMAGE_SECTION_MAP, "named twice", 2, 0, 2, 1, 0, 5, 1, 1, 1),
        ROW(IMAGE_SECTION_MAP, "or an extent by two", 1, 0, 1, 1, 0, 1, 0, 1, 1, 1),
        ROW(IMAGE_SECTION_MAP, "its length is wrong", 0, 0, 0),
        ROW(IMAGE_SECTION_MACHINE, "machine: ", '{'),
        ROW(IMAGE_SECTION_NOTE, "not an object", '[', ']'),
        ROW(IMAGE_SECTION_ORDER, "not in its RAM block", 1, 2, 0, 1),
        ROW(IMAGE_SECTION_ORDER, "not in its RAM block", 1, 1, 0x46, 1),
        ROW(IMAGE_SECTION_ORDER, "not in its RAM block", 1, 1, 0, 0),
        ROW(IMAGE_SECTION_ORDER, "too many", 0x81, 0x80, 0x80, 0x80, 1),
    };
    Model *model = *state;
    g_autoptr(GByteArray) good = save(model);

    for (guint i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autoptr(GByteArray) bad = g_byte_array_new();

        g_byte_array_append(bad, good->data, good->len);
        forge(bad, &rows[i]);
        write_file(model, "bad", bad);
        model_assert_refused(model, "bad", NULL, VMFERRY_ERROR_INVALID, rows[i].words);
    }
}

/* A header that is whole, but not the one that it was written with. */
static void test_exchanged_header(void **state)
{
    Model *model = *state;
    g_autoptr(GByteArray) bytes = save(model);
    ImageHeader header;
    ImageFooter footer;

    get_ends(bytes, &header, &footer);
    assert_true(image_id_make(&header.base, NULL));
    image_header_encode(&header, bytes->data);
    write_file(model, "bad", bytes);
    model_assert_refused(model, "bad", NULL, VMFERRY_ERROR_INVALID, "its index is damaged (at");
    assert_true(image_id_make(&header.id, NULL));
    image_header_encode(&header, bytes->data);
    write_file(model, "bad", bytes);
    model_assert_refused(model, "bad", NULL, VMFERRY_ERROR_INVALID, "of two images");
}

/* An index that is not what lies between the last extent and the footer. */
static void test_forged_footer(void **state)
{
    Model *model = *state;
    g_autoptr(GByteArray) bytes = save(model);
    ImageHeader header;
    ImageFooter good;

    get_ends(bytes, &header, &good);
    for (guint i = 0; i < 5; i++) {
        ImageFooter bad = good;

        if (i == 0)
            bad.index_bytes -= 8;
        if (i == 1)
            bad.index_bytes = UINT64_MAX - 7;
        if (i == 2)
            bad.index_place = 0;
        if (i == 3)
            bad.index_place += 8;
        if (i == 4)
            bad.index_place = UINT64_MAX / 4096 * 4096;
        if (i >= 2)
            bad.index_bytes = bad.place - bad.index_place;
        image_footer_encode(&bad, bytes->data + good.place);
        write_file(model, "bad", bytes);
        model_assert_refused(model, "bad", NULL, VMFERRY_ERROR_INVALID, "its index cannot be");
    }
}

/* Who has no key can make all digests right but one. */
static void test_forged_without_key(void **state)
{
    Model *model = *state;
    g_autoptr(GBytes) key = g_bytes_new("0123456789abcdef", 16);
    const SavedImageOptions options = {.key = key};
    g_autoptr(ImageWriter) writer = model_create(model, "a", NULL, NULL, key);
    g_autoptr(GByteArray) bytes = NULL;
    ImageHeader header;
    ImageFooter footer;
    uint8_t *section;
    size_t length;

    model_commit(writer);
    bytes = read_file(model, "a");
    get_ends(bytes, &header, &footer);
    section = bytes->data + find_section(bytes, &footer, IMAGE_SECTION_STATE, &length);
    section[IMAGE_SECTION_HEAD_BYTES] ^= 1;
    write_file(model, "bad", bytes);
    model_assert_refused(model, "bad", &options, VMFERRY_ERROR_INVALID, "section state");
    image_digest_compute(IMAGE_DIGEST_HMAC, section + IMAGE_SECTION_HEAD_BYTES, strlen(MODEL_STATE),
                         section + 16);
    write_file(model, "bad", bytes);
    model_assert_refused(model, "bad", &options, VMFERRY_ERROR_REFUSED, "has been changed since");
}

/* Sections that are missing, twice, or not in their order. */
static void test_forged_sections(void **state)
{
    Model *model = *state;
    g_autoptr(GByteArray) good = save(model);
    ImageHeader header;
    ImageFooter footer;

    get_ends(good, &header, &footer);
    for (uint32_t type = IMAGE_SECTION_REGIONS; type <= IMAGE_SECTION_STATE; type++) {
        g_autoptr(GByteArray) bad = g_byte_array_new();
        size_t length, at = find_section(good, &footer, type, &length);

        g_byte_array_append(bad, good->data, (guint)at);
        g_byte_array_append(bad, good->data + at + length, (guint)(footer.place - at - length));
        seal(bad, &header, footer.index_place);
        write_file(model, "bad", bad);
        model_assert_refused(model, "bad", NULL, VMFERRY_ERROR_INVALID, "a section is missing");
    }
    g_byte_array_set_size(good, (guint)footer.place);
    append_section(good, IMAGE_SECTION_NOTE, 0);
    seal(good, &header, footer.index_place);
    write_file(model, "bad", good);
    model_assert_refused(model, "bad", NULL, VMFERRY_ERROR_INVALID, "not in their order");
    /* No more than a header and a footer. */
    g_byte_array_set_size(good, IMAGE_HEADER_BYTES);
    seal(good, &header, IMAGE_HEADER_BYTES);
    write_file(model, "bad", good);
    model_assert_refused(model, "bad", NULL, VMFERRY_ERROR_INVALID, "a section is missing");
}

/* ---- foreign ones ---- */

static void test_foreign(void **state)
{
    Model *model = *state;
    g_autofree char *folder = model_path(model, "folder"), *fifo = model_path(model, "fifo");
    g_autoptr(GByteArray) text = g_byte_array_new();

    model_assert_refused(model, "none", NULL, VMFERRY_ERROR_NOT_FOUND, "No such file");
    assert_int_equal(mkfifo(fifo, 0600), 0);
    model_assert_refused(model, "fifo", NULL, VMFERRY_ERROR_INVALID, "is not a regular file");
    assert_int_equal(g_mkdir(folder, 0700), 0);
    model_assert_refused(model, "folder", NULL, VMFERRY_ERROR_INVALID, "is not a regular file");
    assert_int_equal(g_rmdir(folder), 0);
    byte_write_span(text, "QEVM", 4);
    g_byte_array_set_size(text, 10000);
    write_file(model, "bad", text);
    model_assert_refused(model, "bad", NULL, VMFERRY_ERROR_INVALID, "is not a saved image");
}

int main(void)
{
#define scene(function) cmocka_unit_test_setup_teardown(function, model_setup, model_teardown)
    const struct CMUnitTest tests[] = {
        scene(test_flipped_in_each_section),
        scene(test_flipped_anywhere),
        scene(test_damaged_extent),
        scene(test_cut_off),
        scene(test_cut_off_while_open),
        scene(test_versions),
        scene(test_optional_feature),
        scene(test_unknown_sections),
        scene(test_forged_index),
        scene(test_forged_sections),
        scene(test_exchanged_header),
        scene(test_forged_without_key),
        scene(test_forged_footer),
        scene(test_foreign),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
