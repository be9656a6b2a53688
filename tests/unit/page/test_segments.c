#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <string.h>

#include "base/error.h"
#include "base/page.h"
#include "page/segments.h"

#define BYTES PAGE_BYTES

static void fill_random(GRand *random, uint8_t *out, guint length)
{
    for (guint i = 0; i < length; i++)
        out[i] = (uint8_t)g_rand_int(random);
}

/* Ascending, apart, within the page; the sum is right. */
static void assert_well_formed(const SegmentList *list)
{
    guint end = 0, sum = 0;

    assert_true(list->count <= SEGMENTS_MAX);
    for (guint i = 0; i < list->count; i++) {
        assert_true(list->items[i].length >= 1);
        assert_true(i == 0 || list->items[i].offset > end);
        end = (guint)list->items[i].offset + list->items[i].length;
        assert_true(end <= BYTES);
        sum += list->items[i].length;
    }
    assert_int_equal(sum, list->bytes);
}

static void assert_same_list(const SegmentList *left, const SegmentList *right)
{
    assert_int_equal(left->count, right->count);
    assert_int_equal(left->bytes, right->bytes);
    assert_memory_equal(left->items, right->items, left->count * sizeof(Segment));
}

/* Encodes, decodes and applies a list: *page* becomes *content*. */
static void assert_patches(const SegmentList *list, const uint8_t *old_page, const uint8_t *content)
{
    g_autoptr(GByteArray) out = g_byte_array_new();
    g_autoptr(GError) error = NULL;
    uint8_t page[BYTES];
    SegmentList decoded;
    const uint8_t *bytes;
    ByteReader reader;

    byte_write_u8(out, 0xaa); /* it appends */
    segments_encode(out, list, content);
    assert_int_equal(out->len, 1 + segments_encoded_bytes(list));
    assert_true(segments_encoded_bytes(list) <= SEGMENTS_WORTH_BYTES);
    byte_write_u8(out, 0xbb); /* and reads no more than its own */
    reader = byte_reader_make(out->data + 1, out->len - 1);
    assert_true(segments_decode(&reader, &decoded, &bytes, &error));
    assert_int_equal(reader.left, 1);
    assert_same_list(list, &decoded);
    memcpy(page, old_page, BYTES);
    segments_apply(&decoded, bytes, page);
    assert_memory_equal(page, content, BYTES);
}

/* Returns the verdict of the difference, with everything checked. */
static gboolean check_difference(const uint8_t *before, const uint8_t *after)
{
    SegmentList list;

    if (!segments_from_difference(before, after, &list))
        return FALSE;
    assert_well_formed(&list);
    assert_int_equal(list.count == 0, memcmp(before, after, BYTES) == 0);
    if (list.count > 0)
        assert_patches(&list, before, after);
    return TRUE;
}

static void test_equal(void **state)
{
    uint8_t page[BYTES] = {1, 2, 3};
    SegmentList list;

    assert_true(segments_from_difference(page, page, &list));
    assert_int_equal(list.count, 0);
    assert_int_equal(list.bytes, 0);
}

static void test_one_byte_at_each_offset(void **state)
{
    g_autoptr(GRand) random = g_rand_new_with_seed(1);
    uint8_t before[BYTES], after[BYTES];
    SegmentList list;

    fill_random(random, before, BYTES);
    memcpy(after, before, BYTES);
    for (guint i = 0; i < BYTES; i++) {
        after[i] ^= 0x10;
        assert_true(check_difference(before, after));
        assert_true(segments_from_difference(before, after, &list));
        assert_int_equal(list.count, 1);
        assert_int_equal(list.items[0].offset, i);
        assert_int_equal(list.items[0].length, 1);
        after[i] = before[i];
    }
}

/* Each run within the page that starts or ends near an edge of a word. */
static void test_runs(void **state)
{
    g_autoptr(GRand) random = g_rand_new_with_seed(2);
    uint8_t before[BYTES], after[BYTES];
    SegmentList list;

    fill_random(random, before, BYTES);
    for (guint start = 0; start < 200; start++) {
        for (guint length = 1; length < 200; length += 7) {
            memcpy(after, before, BYTES);
            for (guint i = 0; i < length; i++)
                after[BYTES - start - length + i] ^= 0xff;
            assert_true(check_difference(before, after));
            assert_true(segments_from_difference(before, after, &list));
            assert_int_equal(list.count, 1);
            assert_int_equal(list.bytes, length);
        }
    }
}

static void test_random_changes(void **state)
{
    g_autoptr(GRand) random = g_rand_new_with_seed(3);
    uint8_t before[BYTES], after[BYTES];
    guint kept = 0, refused = 0;

    for (int step = 0; step < 3000; step++) {
        gint changes = g_rand_int_range(random, 0, 1 << g_rand_int_range(random, 1, 10));
        gint most = 1 << g_rand_int_range(random, 0, 8);

        fill_random(random, before, BYTES);
        memcpy(after, before, BYTES);
        for (gint i = 0; i < changes; i++) {
            guint length = (guint)g_rand_int_range(random, 0, most) + 1;
            guint start = (guint)g_rand_int_range(random, 0, (gint)(BYTES - length + 1));

            fill_random(random, after + start, length);
        }
        if (check_difference(before, after))
            kept++;
        else
            refused++;
    }
    assert_true(kept > 500 && refused > 100);
}

/* No page is refused for changes that are few and cheap to name. */
static void test_what_is_refused(void **state)
{
    uint8_t before[BYTES] = {0}, after[BYTES] = {0};
    SegmentList list;

    for (guint i = 0; i < SEGMENTS_MAX; i++)
        after[i * 32] = 1;
    assert_true(check_difference(before, after));
    after[16] = 1; /* one more than SEGMENTS_MAX: the nearest are joined */
    assert_true(check_difference(before, after));
    memset(after, 0, BYTES);
    memset(after, 1, SEGMENTS_WORTH_BYTES - 3); /* 1 count, 1 gap, 2 length: too long by one */
    assert_false(segments_from_difference(before, after, &list));
    after[0] = 0;
    assert_true(check_difference(before, after));
    memset(after, 1, BYTES);
    assert_false(segments_from_difference(before, after, &list));
}

static void test_small_gaps_are_bridged(void **state)
{
    uint8_t before[BYTES] = {0}, after[BYTES] = {0};
    SegmentList list;

    after[100] = after[103] = 1; /* two bytes between: a header costs as much */
    assert_true(segments_from_difference(before, after, &list));
    assert_int_equal(list.count, 1);
    assert_int_equal(list.bytes, 4);
    after[107] = 1;
    assert_true(segments_from_difference(before, after, &list));
    assert_int_equal(list.count, 2);
    assert_int_equal(list.items[1].offset, 107);
    assert_true(check_difference(before, after));
    /* A half page of eight-byte integers of which three bytes change. */
    memset(after, 0, BYTES);
    for (guint i = 0; i < BYTES / 2; i += 8)
        memset(after + i, 1, 3);
    assert_true(check_difference(before, after));
}

static void check_blocks(GRand *random, guint block_bytes)
{
    guint blocks = BYTES / block_bytes;
    uint8_t before[BYTES], after[BYTES];
    uint64_t bits[2] = {0};
    gint percent = g_rand_int_range(random, 0, 101);
    guint dirty = 0;
    SegmentList list;

    fill_random(random, before, BYTES);
    memcpy(after, before, BYTES);
    for (guint i = 0; i < blocks; i++) {
        if (g_rand_int_range(random, 0, 100) >= percent)
            continue;
        bits[i / 64] |= UINT64_C(1) << i % 64;
        fill_random(random, after + i * block_bytes, block_bytes);
        dirty++;
    }
    if (blocks < 64)
        bits[0] |= ~UINT64_C(0) << blocks; /* bits behind the last block are not looked at */
    if (!segments_from_blocks(bits, block_bytes, &list)) {
        assert_true(dirty * block_bytes > SEGMENTS_WORTH_BYTES - 300);
        return;
    }
    assert_well_formed(&list);
    assert_int_equal(list.bytes, dirty * block_bytes);
    if (dirty > 0)
        assert_patches(&list, before, after);
}

static void test_blocks(void **state)
{
    g_autoptr(GRand) random = g_rand_new_with_seed(4);

    for (guint block_bytes = 32; block_bytes <= 1024; block_bytes *= 2)
        for (int step = 0; step < 200; step++)
            check_blocks(random, block_bytes);
}

static void refuse_list(const uint8_t *raw, size_t length, const char *reason)
{
    g_autoptr(GError) error = NULL;
    ByteReader reader = byte_reader_make(raw, length);
    const uint8_t *bytes;
    SegmentList list;

    assert_false(segments_decode(&reader, &list, &bytes, &error));
    assert_true(error_is(error, VMFERRY_ERROR_INVALID));
    assert_non_null(strstr(error->message, reason));
    assert_false(byte_reader_ok(&reader));
    assert_null(bytes);
}

#define REFUSE(reason, ...)                                                                        \
    refuse_list((const uint8_t[]){__VA_ARGS__}, sizeof((uint8_t[]){__VA_ARGS__}), reason)

static void test_malformed(void **state)
{
    static const uint8_t many[3 + 2 * 129 + 129] = {0x81, 0x01};

    refuse_list(NULL, 0, "cut short");
    REFUSE("count is out", 0);
    refuse_list(many, sizeof many, "count is out");
    REFUSE("over-long", 0x81, 0x00, 0, 0, 9);         /* count */
    REFUSE("over-long", 1, 0x80, 0x00, 0, 9);         /* gap */
    REFUSE("over-long", 1, 0, 0x80, 0x00, 9);         /* length */
    REFUSE("cut short", 1);                           /* no head */
    REFUSE("cut short", 1, 0);                        /* half a head */
    REFUSE("data is cut short", 1, 0, 0);             /* no data */
    REFUSE("data is cut short", 1, 0, 2, 9, 9);       /* a byte less */
    REFUSE("touch", 2, 0, 0, 0, 0, 9, 9);             /* gap 0 */
    REFUSE("leaves", 1, 0x80, 0x20, 0, 9);            /* starts at 4096 */
    REFUSE("leaves", 1, 0xff, 0x1f, 1, 9, 9);         /* 4095 + 2 */
    REFUSE("leaves", 2, 0, 0, 0xff, 0x1f, 0, 9, 9);   /* 1 + 4095 + 1 */
    REFUSE("leaves", 1, 0, 0x80, 0x20, 9);            /* 4097 long */
    REFUSE("leaves", 1, 0xff, 0xff, 0xff, 0xff, 0xff, /* wraps around */
           0xff, 0xff, 0xff, 0xff, 0x01, 0, 9);
}

/* The last byte of the page, and all of it, are within bounds. */
static void test_edges_are_taken(void **state)
{
    static const uint8_t last[] = {1, 0xff, 0x1f, 0, 9};
    static const uint8_t all[4 + BYTES] = {1, 0, 0xff, 0x1f};
    ByteReader reader = byte_reader_make(last, sizeof last);
    const uint8_t *bytes;
    SegmentList list;

    assert_true(segments_decode(&reader, &list, &bytes, NULL));
    assert_int_equal(list.items[0].offset, 4095);
    assert_int_equal(bytes[0], 9);
    reader = byte_reader_make(all, sizeof all);
    assert_true(segments_decode(&reader, &list, &bytes, NULL));
    assert_int_equal(list.bytes, BYTES);
    assert_int_equal(reader.left, 0);
}

/* Random bytes are refused or make a well-formed list within the buffer. */
static void test_garbage(void **state)
{
    g_autoptr(GRand) random = g_rand_new_with_seed(5);
    uint8_t raw[64];

    for (int step = 0; step < 100000; step++) {
        guint length = (guint)g_rand_int_range(random, 0, sizeof raw);
        ByteReader reader = byte_reader_make(raw, length);
        const uint8_t *bytes;
        SegmentList list;

        for (guint i = 0; i < length; i++)
            raw[i] = (uint8_t)(g_rand_int(random) & (step % 2 ? 0x07 : 0xff));
        if (!segments_decode(&reader, &list, &bytes, NULL))
            continue;
        assert_well_formed(&list);
        assert_true(list.count > 0 && bytes >= raw && bytes + list.bytes <= raw + length);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_equal),
        cmocka_unit_test(test_one_byte_at_each_offset),
        cmocka_unit_test(test_runs),
        cmocka_unit_test(test_random_changes),
        cmocka_unit_test(test_what_is_refused),
        cmocka_unit_test(test_small_gaps_are_bridged),
        cmocka_unit_test(test_blocks),
        cmocka_unit_test(test_malformed),
        cmocka_unit_test(test_edges_are_taken),
        cmocka_unit_test(test_garbage),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
