/* DISK_ frames: their bytes, round trips, every bound, and everything malformed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <string.h>

#include "base/error.h"
#include "wire/disk_frame.h"

#define MOST_OFFSET ((uint64_t)G_MAXINT64)

/* A buffer of exactly that size, so that reads beyond are seen. */
static uint8_t *copy_of(const uint8_t *bytes, size_t length)
{
    return length > 0 ? g_memdup2(bytes, length) : NULL;
}

/* ---- WRITE ---- */

/* Head and content; *content* of *bytes* zeros. */
static GByteArray *encode_write(const DiskWrite *write, guint content_bytes)
{
    GByteArray *frame = g_byte_array_new();
    uint8_t head[FRAME_DISK_WRITE_HEAD_BYTES];

    disk_write_encode_head(write, head);
    g_byte_array_append(frame, head, sizeof head);
    g_byte_array_set_size(frame, FRAME_DISK_WRITE_HEAD_BYTES + content_bytes);
    memset(frame->data + FRAME_DISK_WRITE_HEAD_BYTES, 0, content_bytes);
    return frame;
}

static void test_write_bytes(void **state)
{
    static const uint8_t golden[] = {3,    2, 0,    0,    1,    0,    0,    0,    0,    1,
                                     0x10, 0, 0xef, 0xcd, 0xab, 0x89, 0x67, 0x45, 0x23, 0x01};
    uint8_t head[FRAME_DISK_WRITE_HEAD_BYTES];

    G_STATIC_ASSERT(sizeof golden == sizeof head);
    disk_write_encode_head(
        &(DiskWrite){0x203, DISK_PACKING_ZSTD, 0x100100, 0x123456789abcdef, NULL, 0}, head);
    assert_memory_equal(head, golden, sizeof golden);
}

static void assert_write(const DiskWrite *write, guint content_bytes, gboolean good)
{
    g_autoptr(GByteArray) frame = encode_write(write, content_bytes);
    g_autofree uint8_t *exact = copy_of(frame->data, frame->len);
    DiskWrite back;
    g_autoptr(GError) error = NULL;

    assert_int_equal(disk_write_decode(exact, frame->len, &back, &error), good);
    if (!good) {
        assert_true(error_is(error, VMFERRY_ERROR_INVALID));
        assert_non_null(strstr(error->message, "DISK_WRITE: malformed frame of"));
        return;
    }
    assert_int_equal(back.file, write->file);
    assert_int_equal(back.packing, write->packing);
    assert_int_equal(back.bytes, write->bytes);
    assert_true(back.offset == write->offset);
    assert_ptr_equal(back.content, exact + FRAME_DISK_WRITE_HEAD_BYTES);
    assert_int_equal(back.content_bytes, content_bytes);
}

static void test_write_bounds(void **state)
{
    static const struct {
        DiskWrite write;
        guint content_bytes;
        gboolean good;
    } cases[] = {
        {{0, DISK_PACKING_NONE, 1, 0, NULL, 0}, 1, TRUE},
        {{UINT32_MAX, DISK_PACKING_NONE, 512, MOST_OFFSET - 512, NULL, 0}, 512, TRUE},
        {{0, DISK_PACKING_NONE, FRAME_DISK_WRITE_MAX_BYTES, 0, NULL, 0},
         FRAME_DISK_WRITE_MAX_BYTES,
         TRUE},
        {{0, DISK_PACKING_ZSTD, FRAME_DISK_WRITE_MAX_BYTES, 0, NULL, 0}, 1, TRUE},
        {{0, DISK_PACKING_ZSTD, 1, 0, NULL, 0}, 9, TRUE},
        {{0, DISK_PACKING_NONE, 0, 0, NULL, 0}, 0, FALSE},
        {{0, DISK_PACKING_NONE, 0, 0, NULL, 0}, 1, FALSE},
        {{0, DISK_PACKING_NONE, 1, 0, NULL, 0}, 0, FALSE},
        {{0, DISK_PACKING_NONE, 1, 0, NULL, 0}, 2, FALSE},
        {{0, DISK_PACKING_NONE, 2, 0, NULL, 0}, 1, FALSE},
        {{0, DISK_PACKING_ZSTD, 0, 0, NULL, 0}, 1, FALSE},
        {{0, DISK_PACKING_ZSTD, 1, 0, NULL, 0}, 0, FALSE},
        {{0, DISK_PACKING_ZSTD, FRAME_DISK_WRITE_MAX_BYTES + 1, 0, NULL, 0}, 1, FALSE},
        {{0, DISK_PACKING_ZSTD, UINT32_MAX, 0, NULL, 0}, 1, FALSE},
        {{0, (DiskPacking)2, 1, 0, NULL, 0}, 1, FALSE},
        {{0, (DiskPacking)UINT32_MAX, 1, 0, NULL, 0}, 1, FALSE},
        {{0, DISK_PACKING_NONE, 512, MOST_OFFSET - 511, NULL, 0}, 512, FALSE},
        {{0, DISK_PACKING_NONE, 1, UINT64_MAX, NULL, 0}, 1, FALSE},
        {{0, DISK_PACKING_NONE, 2, UINT64_MAX - 1, NULL, 0}, 2, FALSE},
    };

    for (guint i = 0; i < G_N_ELEMENTS(cases); i++)
        assert_write(&cases[i].write, cases[i].content_bytes, cases[i].good);
}

/* ---- the others, which have one length ---- */

static void test_zero_bytes(void **state)
{
    static const uint8_t golden[] = {7, 0, 0, 0, 8, 9, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0x40};
    uint8_t payload[FRAME_DISK_ZERO_BYTES];

    G_STATIC_ASSERT(sizeof golden == sizeof payload);
    disk_zero_encode(&(DiskZero){7, 0x908, 0x4000000000000001}, payload);
    assert_memory_equal(payload, golden, sizeof golden);
}

static void test_zero_bounds(void **state)
{
    static const struct {
        DiskZero zero;
        gboolean good;
    } cases[] = {
        {{0, 0, 1}, TRUE},
        {{UINT32_MAX, 1, MOST_OFFSET - 1}, TRUE},
        {{1, MOST_OFFSET - 1, 1}, TRUE},
        {{1, 0, 0}, FALSE},
        {{1, MOST_OFFSET, 1}, FALSE},
        {{1, 1, MOST_OFFSET}, FALSE},
        {{1, 2, UINT64_MAX - 1}, FALSE},
        {{1, UINT64_MAX, 2}, FALSE},
    };

    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        uint8_t payload[FRAME_DISK_ZERO_BYTES];
        g_autoptr(GError) error = NULL;
        DiskZero back;

        disk_zero_encode(&cases[i].zero, payload);
        assert_int_equal(disk_zero_decode(payload, sizeof payload, &back, &error), cases[i].good);
        if (!cases[i].good) {
            assert_true(error_is(error, VMFERRY_ERROR_INVALID));
            continue;
        }
        assert_int_equal(back.file, cases[i].zero.file);
        assert_true(back.offset == cases[i].zero.offset && back.length == cases[i].zero.length);
    }
}

static void test_flush(void **state)
{
    static const uint8_t golden[] = {2, 1, 0, 0, 0, 0, 0, 0x80, 1};
    uint8_t payload[FRAME_DISK_FLUSH_BYTES];
    DiskFlush back;

    G_STATIC_ASSERT(sizeof golden == sizeof payload);
    disk_flush_encode(&(DiskFlush){0x8000000000000102, TRUE}, payload);
    assert_memory_equal(payload, golden, sizeof golden);
    assert_true(disk_flush_decode(payload, sizeof payload, &back, NULL));
    assert_true(back.number == 0x8000000000000102 && back.last);
    disk_flush_encode(&(DiskFlush){1, FALSE}, payload);
    assert_true(disk_flush_decode(payload, sizeof payload, &back, NULL));
    assert_true(back.number == 1 && !back.last);
    payload[8] = 2;
    assert_false(disk_flush_decode(payload, sizeof payload, &back, NULL));
    disk_flush_encode(&(DiskFlush){0, TRUE}, payload);
    assert_false(disk_flush_decode(payload, sizeof payload, &back, NULL));
}

static void test_done(void **state)
{
    static const uint8_t golden[] = {1, 2, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 4};
    uint8_t payload[FRAME_DISK_DONE_BYTES];
    DiskDone back;

    G_STATIC_ASSERT(sizeof golden == sizeof payload);
    disk_done_encode(&(DiskDone){0x201, 0x0400000000000003}, payload);
    assert_memory_equal(payload, golden, sizeof golden);
    assert_true(disk_done_decode(payload, sizeof payload, &back, NULL));
    assert_true(back.applied_bytes == 0x201 && back.flushed == 0x0400000000000003);
    disk_done_encode(&(DiskDone){UINT64_MAX, UINT64_MAX}, payload);
    assert_true(disk_done_decode(payload, sizeof payload, &back, NULL));
    assert_true(back.applied_bytes == UINT64_MAX && back.flushed == UINT64_MAX);
}

/* ---- lengths ---- */

typedef gboolean (*Decoder)(const uint8_t *payload, size_t length, GError **error);

static gboolean decode_write(const uint8_t *payload, size_t length, GError **error)
{
    DiskWrite write;

    return disk_write_decode(payload, length, &write, error);
}

static gboolean decode_zero(const uint8_t *payload, size_t length, GError **error)
{
    DiskZero zero;

    return disk_zero_decode(payload, length, &zero, error);
}

static gboolean decode_flush(const uint8_t *payload, size_t length, GError **error)
{
    DiskFlush flush;

    return disk_flush_decode(payload, length, &flush, error);
}

static gboolean decode_done(const uint8_t *payload, size_t length, GError **error)
{
    DiskDone done;

    return disk_done_decode(payload, length, &done, error);
}

static void check_lengths(Decoder decode, const uint8_t *good, size_t length, const char *words)
{
    for (size_t other = 0; other <= length + 1; other++) {
        g_autofree uint8_t *bytes = g_malloc0(other + 1);
        g_autofree uint8_t *exact = NULL;
        g_autoptr(GError) error = NULL;

        memcpy(bytes, good, MIN(other, length));
        exact = copy_of(bytes, other);
        assert_int_equal(decode(exact, other, &error), other == length);
        if (other != length)
            assert_non_null(strstr(error->message, words));
    }
}

static void test_lengths(void **state)
{
    g_autoptr(GByteArray) write =
        encode_write(&(DiskWrite){1, DISK_PACKING_NONE, 3, 4, NULL, 0}, 3);
    uint8_t zero[FRAME_DISK_ZERO_BYTES], flush[FRAME_DISK_FLUSH_BYTES], done[FRAME_DISK_DONE_BYTES];

    disk_zero_encode(&(DiskZero){1, 2, 3}, zero);
    disk_flush_encode(&(DiskFlush){1, FALSE}, flush);
    disk_done_encode(&(DiskDone){1, 2}, done);
    check_lengths(decode_write, write->data, write->len, "DISK_WRITE: malformed");
    check_lengths(decode_zero, zero, sizeof zero, "DISK_ZERO: malformed");
    check_lengths(decode_flush, flush, sizeof flush, "DISK_FLUSH: malformed");
    check_lengths(decode_done, done, sizeof done, "DISK_DONE: malformed");
}

/* What headers allow is what the decoders do. */
static void test_header_limits(void **state)
{
    static const struct {
        FrameType type;
        uint32_t least, most;
    } limits[] = {
        {FRAME_DISK_WRITE, FRAME_DISK_WRITE_HEAD_BYTES + 1,
         FRAME_DISK_WRITE_HEAD_BYTES + FRAME_DISK_WRITE_MAX_BYTES},
        {FRAME_DISK_ZERO, FRAME_DISK_ZERO_BYTES, FRAME_DISK_ZERO_BYTES},
        {FRAME_DISK_FLUSH, FRAME_DISK_FLUSH_BYTES, FRAME_DISK_FLUSH_BYTES},
        {FRAME_DISK_DONE, FRAME_DISK_DONE_BYTES, FRAME_DISK_DONE_BYTES},
    };

    for (guint i = 0; i < G_N_ELEMENTS(limits); i++) {
        FrameType type = limits[i].type;

        assert_false(frame_header_check(&(FrameHeader){type, limits[i].least - 1}, NULL));
        assert_true(frame_header_check(&(FrameHeader){type, limits[i].least}, NULL));
        assert_true(frame_header_check(&(FrameHeader){type, limits[i].most}, NULL));
        assert_false(frame_header_check(&(FrameHeader){type, limits[i].most + 1}, NULL));
        assert_int_equal(frame_type_traffic(type), TRAFFIC_DISK);
        assert_int_equal(frame_type_is_paced(type, TRAFFIC_DISK), type == FRAME_DISK_WRITE);
        assert_false(frame_type_carries_pages(type));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_write_bytes), cmocka_unit_test(test_write_bounds),
        cmocka_unit_test(test_zero_bytes),  cmocka_unit_test(test_zero_bounds),
        cmocka_unit_test(test_flush),       cmocka_unit_test(test_done),
        cmocka_unit_test(test_lengths),     cmocka_unit_test(test_header_limits),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
