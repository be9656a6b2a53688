/* OUTSTANDING and WANT frames: their bytes, round trips, and everything malformed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <string.h>

#include "base/error.h"
#include "wire/postcopy_frame.h"

static const uint64_t regions[] = {1000, UINT64_C(1) << 40, 0};

static gboolean decode(const GByteArray *frame, OutstandingFrame *ret, GError **error)
{
    return outstanding_frame_decode(frame->data, frame->len, regions, G_N_ELEMENTS(regions), ret,
                                    error);
}

static void expect_invalid(gboolean ok, GError **error, const char *words)
{
    assert_false(ok);
    assert_non_null(*error);
    if (!error_is(*error, VMFERRY_ERROR_INVALID) || !strstr((*error)->message, words))
        fail_msg("expected \"%s\", got \"%s\"", words, (*error)->message);
}

/* ---- OUTSTANDING ---- */

static void test_outstanding_bytes(void **state)
{
    static const uint8_t golden[] = {1, 0, 0, 0, 1, 0, 0, 0, 7, 2, 0, 0,
                                     0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0};
    g_autoptr(GByteArray) frame = g_byte_array_new();

    outstanding_frame_encode_head(frame, 1, 1);
    outstanding_frame_append(frame, 0x207, 3);
    assert_int_equal(frame->len, sizeof golden);
    assert_memory_equal(frame->data, golden, sizeof golden);
}

static void test_outstanding_round_trip(void **state)
{
    g_autoptr(GByteArray) frame = g_byte_array_new();
    uint64_t first, pages;
    OutstandingFrame back;

    outstanding_frame_encode_head(frame, 1, FRAME_OUTSTANDING_MAX_RUNS);
    for (uint64_t i = 0; i < FRAME_OUTSTANDING_MAX_RUNS - 1; i++)
        outstanding_frame_append(frame, 3 * i, 1 + i % 3);
    outstanding_frame_append(frame, 1 << 20, (UINT64_C(1) << 40) - (1 << 20));
    assert_int_equal(frame->len, frame_payload_limit(FRAME_OUTSTANDING));
    assert_true(decode(frame, &back, NULL));
    assert_int_equal(back.region, 1);
    assert_int_equal(back.runs, FRAME_OUTSTANDING_MAX_RUNS);
    for (uint64_t i = 0; i < FRAME_OUTSTANDING_MAX_RUNS - 1; i++) {
        outstanding_frame_next(&back, &first, &pages);
        assert_int_equal(first, 3 * i);
        assert_int_equal(pages, 1 + i % 3);
    }
    outstanding_frame_next(&back, &first, &pages);
    assert_int_equal(first + pages, UINT64_C(1) << 40);
    assert_true(byte_reader_ok(&back.reader));
    assert_int_equal(back.reader.left, 0);
}

static void test_outstanding_malformed(void **state)
{
    static const struct {
        uint32_t region;
        struct {
            uint64_t first, pages;
        } runs[2];
        const char *words;
    } bad[] = {
        {3, {{0, 1}, {1, 1}}, "region 3 of 3"},    {2, {{0, 1}, {1, 1}}, "outside"},
        {0, {{0, 0}, {1, 1}}, "are none"},         {0, {{0, 1}, {1000, 1}}, "outside"},
        {0, {{0, 1}, {999, 2}}, "outside"},        {0, {{0, 1}, {UINT64_MAX, 2}}, "outside"},
        {0, {{0, 1}, {2, UINT64_MAX}}, "outside"}, {0, {{0, 2}, {1, 1}}, "overlap"},
        {0, {{5, 2}, {1, 1}}, "overlap"},
    };

    for (guint i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autoptr(GByteArray) frame = g_byte_array_new();
        g_autoptr(GError) error = NULL;
        OutstandingFrame back;

        outstanding_frame_encode_head(frame, bad[i].region, 2);
        for (guint k = 0; k < 2; k++)
            outstanding_frame_append(frame, bad[i].runs[k].first, bad[i].runs[k].pages);
        expect_invalid(decode(frame, &back, &error), &error, bad[i].words);
    }
}

static void test_outstanding_lengths(void **state)
{
    g_autoptr(GByteArray) frame = g_byte_array_new();
    OutstandingFrame back;

    outstanding_frame_encode_head(frame, 0, 1);
    outstanding_frame_append(frame, 0, 1);
    assert_true(decode(frame, &back, NULL));
    for (guint length = 0; length < frame->len; length++)
        assert_false(outstanding_frame_decode(frame->data, length, regions, 3, &back, NULL));
    g_byte_array_append(frame, (const guint8 *)"", 1);
    assert_false(decode(frame, &back, NULL));
    memset(frame->data + 4, 0, 4); /* no runs */
    assert_false(outstanding_frame_decode(frame->data, 8, regions, 3, &back, NULL));
    memset(frame->data + 4, 0xff, 4);
    assert_false(decode(frame, &back, NULL));
}

static void test_outstanding_too_many(void **state)
{
    g_autoptr(GByteArray) frame = g_byte_array_new();
    g_autoptr(GError) error = NULL;
    OutstandingFrame back;

    outstanding_frame_encode_head(frame, 1, FRAME_OUTSTANDING_MAX_RUNS + 1);
    for (uint64_t i = 0; i <= FRAME_OUTSTANDING_MAX_RUNS; i++)
        outstanding_frame_append(frame, i, 1);
    expect_invalid(decode(frame, &back, &error), &error, "with 65536 runs");
}

/* ---- WANT ---- */

static void test_want_bytes(void **state)
{
    static const uint8_t golden[] = {1, 0, 0, 0, 0, 2, 0, 0, 7, 2, 0, 0, 0, 1, 0, 0};
    const WantFrame want = {.region = 1, .count = 512, .first = 0x10000000207};
    uint8_t bytes[FRAME_WANT_BYTES];

    want_frame_encode(&want, bytes);
    assert_memory_equal(bytes, golden, sizeof golden);
}

static void test_want_round_trip(void **state)
{
    static const WantFrame wants[] = {
        {0, 1, 0}, {0, 1, 999}, {0, 512, 488}, {1, 512, (UINT64_C(1) << 40) - 512}};

    for (guint i = 0; i < G_N_ELEMENTS(wants); i++) {
        uint8_t bytes[FRAME_WANT_BYTES];
        WantFrame back;

        want_frame_encode(&wants[i], bytes);
        assert_true(want_frame_decode(bytes, sizeof bytes, regions, 3, &back, NULL));
        assert_int_equal(back.region, wants[i].region);
        assert_int_equal(back.count, wants[i].count);
        assert_int_equal(back.first, wants[i].first);
        for (guint length = 0; length < sizeof bytes; length++)
            assert_false(want_frame_decode(bytes, length, regions, 3, &back, NULL));
    }
}

static void test_want_malformed(void **state)
{
    static const struct {
        WantFrame want;
        const char *words;
    } bad[] = {
        {{3, 1, 0}, "region 3 of 3"},   {{2, 1, 0}, "outside"},
        {{0, 0, 0}, "are none"},        {{0, 1, 1000}, "outside"},
        {{0, 512, 489}, "outside"},     {{0, 2, UINT64_MAX}, "outside"},
        {{1, 513, 0}, "for 513 pages"}, {{1, UINT32_MAX, 0}, "for 4294967295 pages"},
    };
    uint8_t bytes[FRAME_WANT_BYTES + 1] = {0};
    WantFrame back;

    for (guint i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autoptr(GError) error = NULL;

        want_frame_encode(&bad[i].want, bytes);
        expect_invalid(want_frame_decode(bytes, FRAME_WANT_BYTES, regions, 3, &back, &error),
                       &error, bad[i].words);
    }
    want_frame_encode(&(WantFrame){0, 1, 0}, bytes);
    assert_false(want_frame_decode(bytes, sizeof bytes, regions, 3, &back, NULL));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_outstanding_bytes),     cmocka_unit_test(test_outstanding_round_trip),
        cmocka_unit_test(test_outstanding_malformed), cmocka_unit_test(test_outstanding_lengths),
        cmocka_unit_test(test_outstanding_too_many),  cmocka_unit_test(test_want_bytes),
        cmocka_unit_test(test_want_round_trip),       cmocka_unit_test(test_want_malformed),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
