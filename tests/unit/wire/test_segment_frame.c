/* SEGMENTS frames: round trips, one form only, and everything malformed. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "base/error.h"
#include "base/page.h"
#include "wire/segment_frame.h"

#define PROPERTY_ROUNDS 300
#define REGION_PAGES 5000000000ULL

static void expect_invalid(gboolean ok, GError **error, const char *words)
{
    assert_false(ok);
    assert_non_null(*error);
    if (!error_is(*error, VMFERRY_ERROR_INVALID) || !strstr((*error)->message, words))
        fail_msg("expected \"%s\", got \"%s\"", words, (*error)->message);
    g_clear_error(error);
}

/* ---- the head ---- */

static GByteArray *make_head(const SegmentFrameHead *head, guint body_bytes)
{
    GByteArray *out = g_byte_array_new();

    segment_frame_encode_head(out, head);
    g_byte_array_set_size(out, FRAME_SEGMENTS_HEAD_BYTES + body_bytes);
    return out;
}

static void test_head_is_little_endian(void **state)
{
    static const uint8_t golden[] = {2, 0, 0, 0, 0, 16, 0, 0, 1, 0, 0, 0, 0x21, 0x43, 0x05, 0};
    g_autoptr(GByteArray) out = make_head(&(SegmentFrameHead){2, 4096, 1, 0x54321}, 0);

    assert_int_equal(out->len, sizeof golden);
    assert_memory_equal(out->data, golden, sizeof golden);
}

static void test_good_heads(void **state)
{
    static const struct {
        SegmentFrameHead head;
        guint body; /* bytes in the frame */
    } good[] = {
        {{0, 1, PACK_NONE, 5}, 5},
        {{2, 4096, PACK_NONE, 4096 * 5}, 4096 * 5},
        {{1, 7, PACK_LZ4, FRAME_SEGMENTS_MAX_BODY_BYTES}, 1},
        {{1, 7, PACK_ZSTD, 100}, 30},
        {{0, 1, PACK_NONE, FRAME_SEGMENTS_MAX_BODY_BYTES}, FRAME_SEGMENTS_MAX_BODY_BYTES},
    };

    for (guint i = 0; i < G_N_ELEMENTS(good); i++) {
        g_autoptr(GByteArray) frame = make_head(&good[i].head, good[i].body);
        SegmentFrameHead back;
        const uint8_t *body;
        size_t length;

        assert_true(
            segment_frame_decode_head(frame->data, frame->len, 3, &back, &body, &length, NULL));
        assert_memory_equal(&back, &good[i].head, sizeof back);
        assert_ptr_equal(body, frame->data + FRAME_SEGMENTS_HEAD_BYTES);
        assert_int_equal(length, good[i].body);
    }
}

static void test_bad_heads(void **state)
{
    static const struct {
        SegmentFrameHead head;
        guint body;
        const char *words;
    } bad[] = {
        {{3, 1, 0, 5}, 5, "region 3 of 3"},
        {{UINT32_MAX, 1, 0, 5}, 5, "region 4294967295 of 3"},
        {{0, 0, 0, 5}, 5, "0 pages; from 1 to 4096"},
        {{0, 4097, 0, 4097 * 5}, 4097 * 5, "4097 pages"},
        {{0, UINT32_MAX, 1, 5}, 5, "4294967295 pages"},
        {{0, 1, 3, 5}, 5, "unknown method 3"},
        {{0, 1, 0, 4}, 4, "body of 4 bytes for 1 pages; from 5"},
        {{0, 2, 2, 9}, 9, "body of 9 bytes for 2 pages; from 10"},
        {{0, 1, 1, FRAME_SEGMENTS_MAX_BODY_BYTES + 1}, 9, "body of 1056769 bytes"},
        {{0, 1, 2, UINT32_MAX}, 9, "body of 4294967295 bytes"},
        {{0, 1, 0, 6}, 5, "body of 5 bytes where the head says 6"},
        {{0, 1, 0, 5}, 6, "body of 6 bytes where the head says 5"},
        {{0, 1, 1, 5}, 0, "16 bytes is cut short"},
    };

    for (guint i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autoptr(GByteArray) frame = make_head(&bad[i].head, bad[i].body);
        SegmentFrameHead back;
        const uint8_t *body;
        size_t length;
        GError *error = NULL;

        expect_invalid(
            segment_frame_decode_head(frame->data, frame->len, 3, &back, &body, &length, &error),
            &error, bad[i].words);
        expect_invalid(segment_frame_decode_head(frame->data, 15, 3, &back, &body, &length, &error),
                       &error, "15 bytes is cut short");
    }
}

/* ---- the body ---- */

static void make_list(GRand *random, SegmentList *list)
{
    guint at = (guint)g_rand_int_range(random, 0, 4000);

    list->count = list->bytes = 0;
    while (list->count < SEGMENTS_MAX && at < PAGE_BYTES) {
        guint length = (guint)g_rand_int_range(random, 1, 60);

        length = MIN(length, PAGE_BYTES - at);
        list->items[list->count++] = (Segment){(uint16_t)at, (uint16_t)length};
        list->bytes += length;
        at += length + (guint)g_rand_int_range(random, 1, 300);
    }
}

typedef struct {
    GByteArray *body;
    SegmentFrameHead head;
    uint64_t pages[64];
    SegmentList lists[64];
    uint8_t content[PAGE_BYTES];
} Made;

static void make_body(GRand *random, Made *made)
{
    uint64_t last = UINT64_MAX, page = 0;

    made->body = g_byte_array_new();
    made->head = (SegmentFrameHead){.page_count = (uint32_t)g_rand_int_range(random, 1, 64)};
    for (guint i = 0; i < PAGE_BYTES; i++)
        made->content[i] = (uint8_t)g_rand_int(random);
    for (guint i = 0; i < made->head.page_count; i++) {
        page += (uint64_t)g_rand_int_range(random, i ? 1 : 0, 1 << 20);
        make_list(random, &made->lists[i]);
        made->pages[i] = page;
        segment_frame_append(made->body, &last, page, &made->lists[i], made->content);
        assert_int_equal(last, page);
    }
    made->head.body_bytes = made->body->len;
}

static void check_page(const Made *made, guint i, uint64_t page, const SegmentList *list,
                       const uint8_t *bytes)
{
    assert_int_equal(page, made->pages[i]);
    assert_int_equal(list->count, made->lists[i].count);
    for (guint k = 0; k < list->count; k++) {
        assert_int_equal(list->items[k].offset, made->lists[i].items[k].offset);
        assert_int_equal(list->items[k].length, made->lists[i].items[k].length);
        assert_memory_equal(bytes, made->content + list->items[k].offset, list->items[k].length);
        bytes += list->items[k].length;
    }
}

static void test_bodies_round_trip(void **state)
{
    g_autoptr(GRand) random = g_rand_new_with_seed(2018);

    for (guint round = 0; round < PROPERTY_ROUNDS; round++) {
        Made made;
        SegmentFrameBody walk;
        SegmentList list;
        const uint8_t *bytes;
        uint64_t page;
        GError *error = NULL;
        guint count = 0;

        make_body(random, &made);
        walk = segment_frame_body(&made.head, made.body->data, made.body->len, REGION_PAGES);
        while (segment_frame_next(&walk, &page, &list, &bytes, &error))
            check_page(&made, count++, page, &list, bytes);
        assert_null(error);
        assert_int_equal(count, made.head.page_count);
        g_byte_array_unref(made.body);
    }
}

/* Walks over all of it; FALSE with *error* where it is malformed. */
static gboolean walk_all(const SegmentFrameHead *head, const uint8_t *body, size_t bytes,
                         uint64_t region_pages, GError **error)
{
    SegmentFrameBody walk = segment_frame_body(head, body, bytes, region_pages);
    GError *failure = NULL;
    SegmentList list;
    const uint8_t *content;
    uint64_t page;

    while (segment_frame_next(&walk, &page, &list, &content, &failure))
        assert_true(page < region_pages);
    if (!failure)
        return TRUE;
    g_propagate_error(error, failure);
    return FALSE;
}

/* A body that ends anywhere else is refused. */
static void test_cut_bodies(void **state)
{
    g_autoptr(GRand) random = g_rand_new_with_seed(7);
    Made made;
    GError *error = NULL;

    make_body(random, &made);
    assert_true(walk_all(&made.head, made.body->data, made.body->len, REGION_PAGES, &error));
    for (guint length = 0; length < made.body->len; length++) {
        g_autofree uint8_t *copy = g_memdup2(made.body->data, length);

        expect_invalid(walk_all(&made.head, copy, length, REGION_PAGES, &error), &error,
                       "SEGMENTS: ");
    }
    g_byte_array_append(made.body, (const guint8 *)"", 1);
    expect_invalid(walk_all(&made.head, made.body->data, made.body->len, REGION_PAGES, &error),
                   &error, "1 bytes behind the last page");
    g_byte_array_unref(made.body);
}

static void test_bad_bodies(void **state)
{
    static const struct {
        uint32_t pages;
        uint8_t length, bytes[24];
        const char *words; /* NULL: it is good */
    } bodies[] = {
        /* page delta, count, gap, length - 1, content */
        {1, 5, {0, 1, 0, 0, 'a'}, NULL},
        {1, 6, {0xe7, 0x07, 1, 0, 0, 'a'}, NULL}, /* page 999, the last */
        {1, 6, {0xe8, 0x07, 1, 0, 0, 'a'}, "page 1000 behind page 0 is outside its region of 1000"},
        {2, 11, {0xe7, 0x07, 1, 0, 0, 'a', 0, 1, 0, 0, 'a'}, "page 0 behind page 1000 is outside"},
        {1, 14, {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 1, 0, 0, 'a'}, "outside"},
        {2,
         19,
         {5, 1, 0, 0, 'a', 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 1, 0, 0, 'a'},
         "outside"},
        {1, 6, {0x80, 0x00, 1, 0, 0, 'a'}, "page number is cut short or malformed"},
        {1, 5, {0, 0, 0, 0, 0}, "SEGMENTS: page 0: "},                  /* no segments */
        {1, 8, {3, 2, 0, 0, 0, 0, 'a', 'b'}, "SEGMENTS: page 3: "},     /* they touch */
        {1, 6, {0, 1, 0xff, 0x1f, 1, 'a'}, "SEGMENTS: page 0: "},       /* leaves the page */
        {1, 5, {0, 0x81, 0x01, 0, 0}, "SEGMENTS: page 0: "},            /* 129 segments */
        {1, 6, {0, 1, 0, 2, 'a', 'b'}, "SEGMENTS: page 0: "},           /* a byte missing */
        {1, 6, {0, 1, 0, 0, 'a', 'b'}, "1 bytes behind the last page"}, /* one too many */
        {2, 5, {0, 1, 0, 0, 'a'}, "page number is cut short"},          /* a page missing */
    };

    for (guint i = 0; i < G_N_ELEMENTS(bodies); i++) {
        SegmentFrameHead head = {.page_count = bodies[i].pages, .body_bytes = bodies[i].length};
        GError *error = NULL;
        gboolean good = walk_all(&head, bodies[i].bytes, bodies[i].length, 1000, &error);

        if (bodies[i].words)
            expect_invalid(good, &error, bodies[i].words);
        else
            assert_true(good);
    }
}

/* Nothing fits into a region that must not be written. */
static void test_no_region(void **state)
{
    static const uint8_t body[] = {0, 1, 0, 0, 'a'};
    SegmentFrameHead head = {.page_count = 1, .body_bytes = sizeof body};
    GError *error = NULL;

    expect_invalid(walk_all(&head, body, sizeof body, 0, &error), &error, "region of 0 pages");
}

/* The longest page there can be stays within what the sender counts on. */
static void test_longest_page(void **state)
{
    g_autoptr(GByteArray) body = g_byte_array_new();
    static uint8_t content[PAGE_BYTES];
    uint64_t last = UINT64_MAX;
    SegmentList list = {0};

    for (guint i = 0; i < SEGMENTS_MAX; i++) {
        list.items[i] = (Segment){(uint16_t)(32 * i), i + 1 < SEGMENTS_MAX ? 31 : 32};
        list.bytes += list.items[i].length;
    }
    list.count = SEGMENTS_MAX;
    segment_frame_append(body, &last, UINT64_MAX - 1, &list, content);
    assert_true(body->len > list.bytes + 2 * SEGMENTS_MAX);
    assert_true(body->len <= SEGMENT_FRAME_PAGE_MAX_BYTES);
}

/* Whatever bytes come, the walk ends, and what it gives out lies in the region. */
static void test_random_bodies(void **state)
{
    g_autoptr(GRand) random = g_rand_new_with_seed(5);

    for (int i = 0; i < 20 * PROPERTY_ROUNDS; i++) {
        SegmentFrameHead head = {.page_count = (uint32_t)g_rand_int_range(random, 1, 9)};
        uint8_t bytes[60];
        size_t length = (size_t)g_rand_int_range(random, 0, sizeof bytes);

        for (size_t k = 0; k < length; k++)
            bytes[k] =
                (uint8_t)g_rand_int_range(random, 0, g_rand_int_range(random, 0, 4) ? 3 : 256);
        walk_all(&head, bytes, length, 20, NULL);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_head_is_little_endian),
        cmocka_unit_test(test_good_heads),
        cmocka_unit_test(test_bad_heads),
        cmocka_unit_test(test_bodies_round_trip),
        cmocka_unit_test(test_cut_bodies),
        cmocka_unit_test(test_bad_bodies),
        cmocka_unit_test(test_no_region),
        cmocka_unit_test(test_longest_page),
        cmocka_unit_test(test_random_bodies),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
