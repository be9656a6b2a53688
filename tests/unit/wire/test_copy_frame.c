/* COPIES frames: their bytes, round trips, and everything malformed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <string.h>

#include "base/error.h"
#include "wire/copy_frame.h"

static const uint64_t regions[] = {1000, UINT64_C(1) << 40, 0};

static gboolean decode(const GByteArray *frame, CopyFrame *ret, GError **error)
{
    return copy_frame_decode(frame->data, frame->len, regions, G_N_ELEMENTS(regions), ret, error);
}

static void test_bytes(void **state)
{
    static const uint8_t golden[] = {1, 0, 0, 0, 1, 0, 0, 0, 7, 2, 0, 0, 0, 0, 0, 0,
                                     9, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0};
    g_autoptr(GByteArray) frame = g_byte_array_new();

    copy_frame_encode(frame, 1, &(CopyRun){0x207, 9, 3, 0}, 1);
    assert_int_equal(frame->len, sizeof golden);
    assert_memory_equal(frame->data, golden, sizeof golden);
}

static void test_round_trip(void **state)
{
    const CopyRun runs[] = {{0, 999, 1, 0}, {5, 10, 4, 1}, {9, (UINT64_C(1) << 40) - 250, 250, 1}};
    g_autoptr(GByteArray) frame = g_byte_array_new();
    CopyFrame back;

    copy_frame_encode(frame, 0, runs, G_N_ELEMENTS(runs));
    assert_true(decode(frame, &back, NULL));
    assert_int_equal(back.region, 0);
    assert_int_equal(back.run_count, G_N_ELEMENTS(runs));
    assert_memory_equal(back.runs, runs, sizeof runs);
}

static void test_malformed(void **state)
{
    static const struct {
        uint32_t region;
        CopyRun runs[2];
        const char *words;
    } bad[] = {
        {3, {{0, 0, 1, 0}, {1, 0, 1, 0}}, "region 3 of 3"},
        {0, {{0, 0, 1, 3}, {1, 0, 1, 0}}, "from region 3 of 3"},
        {2, {{0, 0, 1, 0}, {1, 0, 1, 0}}, "outside"},
        {0, {{0, 0, 1, 2}, {1, 0, 1, 0}}, "outside"},
        {0, {{0, 0, 0, 0}, {1, 0, 1, 0}}, "are none"},
        {0, {{0, 0, 1, 0}, {1000, 0, 1, 0}}, "outside"},
        {0, {{0, 0, 1, 0}, {999, 0, 2, 0}}, "outside"},
        {0, {{0, 0, 1, 0}, {1, 999, 2, 0}}, "outside"},
        {0, {{0, 0, 1, 0}, {UINT64_MAX, 0, 2, 0}}, "outside"},
        {0, {{0, 0, 1, 0}, {1, UINT64_MAX, 2, 0}}, "outside"},
        {0, {{0, 0, 2, 0}, {1, 0, 1, 0}}, "overlap"},
        {0, {{5, 0, 2, 0}, {1, 0, 1, 0}}, "overlap"},
        {0, {{0, 0, 200, 0}, {300, 0, 57, 0}}, "257 pages in one frame"},
    };

    for (guint i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autoptr(GByteArray) frame = g_byte_array_new();
        g_autoptr(GError) error = NULL;
        CopyFrame back;

        copy_frame_encode(frame, bad[i].region, bad[i].runs, 2);
        assert_false(decode(frame, &back, &error));
        if (!error_is(error, VMFERRY_ERROR_INVALID) || !strstr(error->message, bad[i].words))
            fail_msg("expected \"%s\", got \"%s\"", bad[i].words, error->message);
    }
}

static void test_lengths(void **state)
{
    const CopyRun run = {0, 1, 1, 0};
    g_autoptr(GByteArray) frame = g_byte_array_new();
    CopyFrame back;

    copy_frame_encode(frame, 0, &run, 1);
    for (guint length = 0; length < frame->len; length++)
        assert_false(copy_frame_decode(frame->data, length, regions, 3, &back, NULL));
    g_byte_array_append(frame, (const guint8 *)"", 1);
    assert_false(decode(frame, &back, NULL));
    memset(frame->data + 4, 0, 4); /* no runs */
    assert_false(copy_frame_decode(frame->data, 8, regions, 3, &back, NULL));
    memset(frame->data + 4, 0xff, 4);
    assert_false(decode(frame, &back, NULL));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bytes),
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_malformed),
        cmocka_unit_test(test_lengths),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
