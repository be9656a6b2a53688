/* DEVICE_STATE, DIGESTS and seals: their bytes, round trips, and everything malformed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <string.h>

#include "base/error.h"
#include "wire/epoch_frame.h"

static const uint64_t regions[] = {1000, UINT64_C(1) << 40, 0};

static void expect_invalid(gboolean ok, GError *error, const char *words)
{
    assert_false(ok);
    if (!error_is(error, VMFERRY_ERROR_INVALID) || !strstr(error->message, words))
        fail_msg("expected \"%s\", got \"%s\"", words, error->message);
    g_error_free(error);
}

/* ---- DEVICE_STATE ---- */

static GByteArray *make_state(uint64_t total, uint64_t offset, guint bytes)
{
    GByteArray *frame = g_byte_array_new();

    state_frame_encode_head(frame, total, offset);
    g_byte_array_set_size(frame, frame->len + bytes);
    return frame;
}

static void test_state(void **state)
{
    static const uint8_t golden[] = {5, 1, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0};
    g_autoptr(GByteArray) frame = make_state(0x105, 3, 0x102);
    StatePiece piece;

    assert_memory_equal(frame->data, golden, sizeof golden);
    assert_true(state_frame_decode(frame->data, frame->len, &piece, NULL));
    assert_int_equal(piece.total, 0x105);
    assert_int_equal(piece.offset, 3);
    assert_int_equal(piece.length, 0x102);
    assert_ptr_equal(piece.bytes, frame->data + FRAME_DEVICE_STATE_HEADER_BYTES);
}

static void test_bad_state(void **state)
{
    static const struct {
        uint64_t total, offset;
        guint bytes;
        const char *words;
    } bad[] = {
        {10, 0, 0, "malformed frame of 16 bytes"},
        {FRAME_DEVICE_STATE_MAX_BYTES, 0, FRAME_DEVICE_STATE_PIECE_BYTES + 1, "malformed frame"},
        {10, 0, 11, "11 bytes at 0 of 10"},
        {10, 10, 1, "1 bytes at 10 of 10"},
        {10, 11, 1, "1 bytes at 11 of 10"},
        {10, UINT64_MAX, 2, "2 bytes at 18446744073709551615 of 10"},
        {FRAME_DEVICE_STATE_MAX_BYTES + 1, 0, 1, "of 67108865; at most 67108864"},
        {UINT64_MAX, 0, 1, "of 18446744073709551615"},
    };

    for (guint i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autoptr(GByteArray) frame = make_state(bad[i].total, bad[i].offset, bad[i].bytes);
        GError *error = NULL;
        StatePiece piece;
        gboolean ok = state_frame_decode(frame->data, frame->len, &piece, &error);

        expect_invalid(ok, error, bad[i].words);
        assert_false(state_frame_decode(frame->data, 15, &piece, NULL));
        assert_false(state_frame_decode(frame->data, 0, &piece, NULL));
    }
}

/* ---- DIGESTS ---- */

static GByteArray *make_digests(uint32_t region, uint64_t first, guint count)
{
    GByteArray *frame = g_byte_array_new();

    digest_frame_encode_head(frame, region, first);
    for (guint i = 0; i < count; i++)
        digest_frame_append(frame, UINT64_MAX - i);
    return frame;
}

static void test_digests(void **state)
{
    static const uint8_t golden[] = {1, 0,    0,    0,    7,    2,    0,    0,    0,    0,    0,
                                     0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe, 0xff};
    g_autoptr(GByteArray) frame = make_digests(1, 0x207, FRAME_DIGESTS_MAX_PAGES);
    DigestFrame walk;

    assert_memory_equal(frame->data, golden, sizeof golden);
    assert_int_equal(frame->len, frame_payload_limit(FRAME_DIGESTS));
    assert_true(digest_frame_decode(frame->data, frame->len, regions, 3, &walk, NULL));
    assert_int_equal(walk.region, 1);
    assert_int_equal(walk.first, 0x207);
    assert_int_equal(walk.count, FRAME_DIGESTS_MAX_PAGES);
    for (guint i = 0; i < walk.count; i++)
        assert_true(digest_frame_next(&walk) == UINT64_MAX - i);
}

static void test_bad_digests(void **state)
{
    static const struct {
        uint32_t region;
        uint64_t first;
        guint count;
        const char *words;
    } bad[] = {
        {0, 0, 0, "malformed frame of 12 bytes"},
        {1, 0, FRAME_DIGESTS_MAX_PAGES + 1, "malformed frame"},
        {3, 0, 1, "region 3 of 3"},
        {UINT32_MAX, 0, 1, "region 4294967295 of 3"},
        {2, 0, 1, "1 pages from page 0 are outside their region of 0 pages"},
        {0, 1000, 1, "1 pages from page 1000 are outside"},
        {0, 998, 3, "3 pages from page 998 are outside"},
        {0, UINT64_MAX, 2, "outside"},
    };

    for (guint i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autoptr(GByteArray) frame = make_digests(bad[i].region, bad[i].first, bad[i].count);
        GError *error = NULL;
        DigestFrame walk;
        gboolean ok = digest_frame_decode(frame->data, frame->len, regions, 3, &walk, &error);

        expect_invalid(ok, error, bad[i].words);
        for (guint length = 0; length < 12; length++)
            assert_false(digest_frame_decode(frame->data, length, regions, 3, &walk, NULL));
        g_byte_array_set_size(frame, frame->len + 7); /* most of another one */
        assert_false(digest_frame_decode(frame->data, frame->len, regions, 3, &walk, NULL));
    }
}

/* ---- EPOCH_SEAL, EPOCH_APPLIED ---- */

static void test_seals(void **state)
{
    static const uint8_t golden[] = {4, 3, 2, 1, 0, 0, 0, 4, 0, 0, 0, 0};
    g_autoptr(GByteArray) frame = g_byte_array_new();
    const EpochSeal seal = {0x01020304, FRAME_DEVICE_STATE_MAX_BYTES};
    EpochSeal back;

    seal_frame_encode(frame, &seal);
    assert_int_equal(frame->len, sizeof golden);
    assert_memory_equal(frame->data, golden, sizeof golden);
    assert_true(seal_frame_decode(frame->data, frame->len, &back, NULL));
    assert_int_equal(back.number, seal.number);
    assert_int_equal(back.state_bytes, seal.state_bytes);
    for (guint length = 0; length < sizeof golden; length++) {
        GError *error = NULL;
        gboolean ok = seal_frame_decode(frame->data, length, &back, &error);

        expect_invalid(ok, error, "EPOCH_SEAL: malformed frame");
    }
}

static void test_bad_seals(void **state)
{
    static const uint64_t lengths[] = {FRAME_DEVICE_STATE_MAX_BYTES + 1, UINT64_MAX};

    for (guint i = 0; i < G_N_ELEMENTS(lengths); i++) {
        g_autoptr(GByteArray) frame = g_byte_array_new();
        GError *error = NULL;
        EpochSeal back;
        gboolean ok;

        seal_frame_encode(frame, &(EpochSeal){0, lengths[i]});
        ok = seal_frame_decode(frame->data, frame->len, &back, &error);
        expect_invalid(ok, error, "at most 67108864 are allowed");
        byte_write_u8(frame, 0);
        assert_false(seal_frame_decode(frame->data, frame->len, &back, NULL));
    }
}

static void test_barriers(void **state)
{
    static const BulkBarrier good[] = {{0, 0}, {1, 1 << 1 | 1 << 7}, {UINT32_MAX, 1ULL << 63}};
    g_autoptr(GByteArray) frame = g_byte_array_new();
    BulkBarrier back;
    GError *error = NULL;

    for (guint i = 0; i < G_N_ELEMENTS(good); i++) {
        g_byte_array_set_size(frame, 0);
        barrier_frame_encode(frame, &good[i]);
        assert_int_equal(frame->len, FRAME_BULK_BARRIER_BYTES);
        assert_true(barrier_frame_decode(frame->data, frame->len, &back, NULL));
        assert_int_equal(back.number, good[i].number);
        assert_true(back.channels == good[i].channels);
    }
    assert_false(barrier_frame_decode(frame->data, frame->len - 1, &back, NULL));
    byte_write_le32(frame, 0);
    assert_false(barrier_frame_decode(frame->data, frame->len, &back, NULL));
    g_byte_array_set_size(frame, 0);
    barrier_frame_encode(frame, &(BulkBarrier){1, 1});
    assert_false(barrier_frame_decode(frame->data, frame->len, &back, &error));
    assert_true(error && error->code == VMFERRY_ERROR_INVALID);
    g_error_free(error);
}

static void test_applied(void **state)
{
    static const uint8_t golden[] = {4, 3, 2, 1};
    g_autoptr(GByteArray) frame = g_byte_array_new();
    GError *error = NULL;
    uint32_t number = 0;
    gboolean ok;

    applied_frame_encode(frame, 0x01020304);
    assert_int_equal(frame->len, sizeof golden);
    assert_memory_equal(frame->data, golden, sizeof golden);
    assert_true(applied_frame_decode(frame->data, frame->len, &number, NULL));
    assert_int_equal(number, 0x01020304);
    assert_false(applied_frame_decode(frame->data, 3, &number, NULL));
    byte_write_u8(frame, 0);
    ok = applied_frame_decode(frame->data, frame->len, &number, &error);
    expect_invalid(ok, error, "EPOCH_APPLIED: malformed frame of 5 bytes");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_state),    cmocka_unit_test(test_bad_state),
        cmocka_unit_test(test_digests),  cmocka_unit_test(test_bad_digests),
        cmocka_unit_test(test_seals),    cmocka_unit_test(test_bad_seals),
        cmocka_unit_test(test_barriers), cmocka_unit_test(test_applied),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
