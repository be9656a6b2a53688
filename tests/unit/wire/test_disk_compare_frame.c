/* DISK_COMPARE, DISK_DIGESTS and DISK_SAME: their bytes, every bound, and everything malformed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <string.h>

#include "base/error.h"
#include "wire/disk_frame.h"

#define GRANULE ((uint64_t)DISK_GRANULE_BYTES)
#define LAST_PLACE ((uint64_t)G_MAXINT64 / GRANULE * GRANULE) /* of a granule, which is cut */

/* A buffer of exactly that size, so that reads beyond are seen. */
static uint8_t *exactly(const uint8_t *bytes, size_t length, size_t wanted)
{
    uint8_t *exact = wanted > 0 ? g_malloc0(wanted) : NULL;

    if (exact)
        memcpy(exact, bytes, MIN(length, wanted));
    return exact;
}

static void check_refused(const GError *error, const char *words)
{
    assert_true(error_is(error, VMFERRY_ERROR_INVALID));
    assert_non_null(strstr(error->message, words));
}

/* ---- COMPARE ---- */

static void test_compare_bytes(void **state)
{
    static const uint8_t head[] = {3, 2, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0x40, 1, 0, 1, 0, 0, 0, 0, 0};
    DiskCompare compare = {0x203, 0x4000000000050000, 0x10001, {0}}, back;
    uint8_t payload[FRAME_DISK_COMPARE_BYTES];

    memset(compare.key, 0x5a, DISK_KEY_BYTES);
    disk_compare_encode(&compare, payload);
    assert_memory_equal(payload, head, sizeof head);
    assert_memory_equal(payload + sizeof head, compare.key, DISK_KEY_BYTES);
    assert_true(disk_compare_decode(payload, sizeof payload, &back, NULL));
    assert_true(back.file == 0x203 && back.offset == compare.offset && back.length == 0x10001);
    assert_memory_equal(back.key, compare.key, DISK_KEY_BYTES);
}

static void test_compare_bounds(void **state)
{
    static const struct {
        uint64_t offset, length;
        gboolean good;
    } cases[] = {
        {0, 1, TRUE},
        {GRANULE, FRAME_DISK_DIGESTS_MOST * GRANULE, TRUE},
        {LAST_PLACE, GRANULE - 1, TRUE},
        {0, 0, FALSE},
        {1, 1, FALSE},
        {GRANULE - 1, GRANULE, FALSE},
        {0, FRAME_DISK_DIGESTS_MOST * GRANULE + 1, FALSE},
        {LAST_PLACE, GRANULE, FALSE},
        {LAST_PLACE + GRANULE, 1, FALSE},
        {0, UINT64_MAX, FALSE},
        {UINT64_MAX - GRANULE + 1, GRANULE, FALSE},
    };

    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        uint8_t payload[FRAME_DISK_COMPARE_BYTES];
        g_autoptr(GError) error = NULL;
        DiskCompare back;

        disk_compare_encode(&(DiskCompare){1, cases[i].offset, cases[i].length, {0}}, payload);
        assert_int_equal(disk_compare_decode(payload, sizeof payload, &back, &error),
                         cases[i].good);
        if (!cases[i].good)
            check_refused(error, "DISK_COMPARE: malformed");
    }
}

static void test_compare_lengths(void **state)
{
    uint8_t payload[FRAME_DISK_COMPARE_BYTES];

    disk_compare_encode(&(DiskCompare){1, 0, 1, {0}}, payload);
    for (size_t length = 0; length <= sizeof payload + 1; length++) {
        g_autofree uint8_t *exact = exactly(payload, sizeof payload, length);
        DiskCompare back;

        assert_int_equal(disk_compare_decode(exact, length, &back, NULL), length == sizeof payload);
    }
}

/* ---- DIGESTS ---- */

static GByteArray *encode_digests(uint64_t offset, size_t bytes)
{
    GByteArray *frame = g_byte_array_new();

    g_byte_array_set_size(frame, (guint)(FRAME_DISK_DIGESTS_HEAD_BYTES + bytes));
    memset(frame->data, 0, frame->len);
    disk_digests_encode_head(&(DiskDigests){.file = 0x102, .offset = offset}, frame->data);
    return frame;
}

static void test_digests_bytes(void **state)
{
    static const uint8_t head[] = {2, 1, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0x20};
    g_autoptr(GByteArray) frame = encode_digests(0x2000000000040000, 32);
    DiskDigests back;

    assert_memory_equal(frame->data, head, sizeof head);
    assert_true(disk_digests_decode(frame->data, frame->len, &back, NULL));
    assert_true(back.file == 0x102 && back.offset == 0x2000000000040000 && back.count == 2);
    assert_ptr_equal(back.digests, frame->data + sizeof head);
}

static void test_digests_bounds(void **state)
{
    static const struct {
        uint64_t offset;
        size_t bytes;
        gboolean good;
    } cases[] = {
        {0, 0, TRUE},
        {0, 16, TRUE},
        {GRANULE, FRAME_DISK_DIGESTS_MOST * 16, TRUE},
        {LAST_PLACE - GRANULE, 16, TRUE},
        {LAST_PLACE, 0, TRUE},
        {0, 1, FALSE},
        {0, 15, FALSE},
        {0, 17, FALSE},
        {1, 16, FALSE},
        {GRANULE, (FRAME_DISK_DIGESTS_MOST + 1) * 16, FALSE},
        {LAST_PLACE, 16, FALSE},
        {LAST_PLACE + GRANULE, 0, FALSE},
        {UINT64_MAX, 0, FALSE},
    };

    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(GByteArray) frame = encode_digests(cases[i].offset, cases[i].bytes);
        g_autofree uint8_t *exact = exactly(frame->data, frame->len, frame->len);
        g_autoptr(GError) error = NULL;
        DiskDigests back;

        assert_int_equal(disk_digests_decode(exact, frame->len, &back, &error), cases[i].good);
        if (!cases[i].good)
            check_refused(error, "DISK_DIGESTS: malformed");
    }
    for (size_t length = 0; length < FRAME_DISK_DIGESTS_HEAD_BYTES; length++) {
        g_autoptr(GByteArray) frame = encode_digests(0, 0);
        g_autofree uint8_t *exact = exactly(frame->data, frame->len, length);
        DiskDigests back;

        assert_false(disk_digests_decode(exact, length, &back, NULL));
    }
}

/* ---- SAME ---- */

static GByteArray *encode_same(uint64_t offset, uint64_t length, size_t bytes)
{
    GByteArray *frame = g_byte_array_new();

    g_byte_array_set_size(frame, (guint)(FRAME_DISK_SAME_HEAD_BYTES + bytes));
    memset(frame->data, 0, frame->len);
    disk_same_encode_head(&(DiskSame){7, offset, length, NULL}, frame->data);
    return frame;
}

static void test_same_bytes(void **state)
{
    static const uint8_t head[] = {7, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0x10, 1, 0, 2, 0, 0, 0, 0, 0};
    g_autoptr(GByteArray) frame = encode_same(0x1000000000010000, 0x20001, 48);
    DiskSame back;

    assert_memory_equal(frame->data, head, sizeof head);
    assert_true(disk_same_decode(frame->data, frame->len, &back, NULL));
    assert_true(back.file == 7 && back.offset == 0x1000000000010000 && back.length == 0x20001);
    assert_ptr_equal(back.digests, frame->data + sizeof head);
}

static void test_same_bounds(void **state)
{
    static const struct {
        uint64_t offset, length;
        size_t bytes;
        gboolean good;
    } cases[] = {
        {0, 1, 16, TRUE},
        {0, GRANULE, 16, TRUE},
        {0, GRANULE + 1, 32, TRUE},
        {GRANULE, FRAME_DISK_SAME_MOST * GRANULE, FRAME_DISK_SAME_MOST * 16, TRUE},
        {LAST_PLACE, GRANULE - 1, 16, TRUE},
        {0, 0, 0, FALSE},
        {0, 0, 16, FALSE},
        {0, 1, 0, FALSE},
        {0, 1, 15, FALSE},
        {0, 1, 17, FALSE},
        {0, 1, 32, FALSE},
        {0, GRANULE + 1, 16, FALSE},
        {1, 1, 16, FALSE},
        {GRANULE, FRAME_DISK_SAME_MOST * GRANULE + 1, FRAME_DISK_SAME_MOST * 16 + 16, FALSE},
        {LAST_PLACE, GRANULE, 16, FALSE},
        {0, UINT64_MAX, 0, FALSE},
        {0, (uint64_t)G_MAXUINT32 * GRANULE + GRANULE + 1, 16, FALSE},
        {UINT64_MAX - GRANULE + 1, GRANULE, 16, FALSE},
    };

    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(GByteArray) frame = encode_same(cases[i].offset, cases[i].length, cases[i].bytes);
        g_autofree uint8_t *exact = exactly(frame->data, frame->len, frame->len);
        g_autoptr(GError) error = NULL;
        DiskSame back;

        assert_int_equal(disk_same_decode(exact, frame->len, &back, &error), cases[i].good);
        if (!cases[i].good)
            check_refused(error, "DISK_SAME: malformed");
    }
}

/* ---- headers ---- */

static void test_header_limits(void **state)
{
    static const struct {
        FrameType type;
        uint32_t least, most;
    } limits[] = {
        {FRAME_DISK_COMPARE, 52, 52},
        {FRAME_DISK_DIGESTS, 12, 12 + 16 * FRAME_DISK_DIGESTS_MOST},
        {FRAME_DISK_SAME, 36, 20 + 16 * FRAME_DISK_SAME_MOST},
    };

    for (guint i = 0; i < G_N_ELEMENTS(limits); i++) {
        FrameType type = limits[i].type;

        assert_false(frame_header_check(&(FrameHeader){type, limits[i].least - 1}, NULL));
        assert_true(frame_header_check(&(FrameHeader){type, limits[i].least}, NULL));
        assert_true(frame_header_check(&(FrameHeader){type, limits[i].most}, NULL));
        assert_false(frame_header_check(&(FrameHeader){type, limits[i].most + 1}, NULL));
        assert_int_equal(frame_type_traffic(type), TRAFFIC_DISK);
        assert_false(frame_type_is_paced(type, TRAFFIC_DISK));
        assert_false(frame_type_carries_pages(type));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_compare_bytes),   cmocka_unit_test(test_compare_bounds),
        cmocka_unit_test(test_compare_lengths), cmocka_unit_test(test_digests_bytes),
        cmocka_unit_test(test_digests_bounds),  cmocka_unit_test(test_same_bytes),
        cmocka_unit_test(test_same_bounds),     cmocka_unit_test(test_header_limits),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
