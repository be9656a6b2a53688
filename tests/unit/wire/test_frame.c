/* Frame headers and PAGES frames: round trips, and everything malformed. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "base/error.h"
#include "base/page.h"
#include "wire/frame.h"
#include "wire/messages.h"
#include "wire/page_frame.h"

#define PROPERTY_ROUNDS 500

static void expect_invalid(gboolean ok, GError **error, const char *words)
{
    assert_false(ok);
    assert_non_null(*error);
    if (!error_is(*error, VMFERRY_ERROR_INVALID) || !strstr((*error)->message, words))
        fail_msg("expected \"%s\", got \"%s\"", words, (*error)->message);
    g_clear_error(error);
}

/* ---- headers ---- */

static void test_header_is_little_endian(void **state)
{
    static const uint8_t golden[] = {'V', 'M', 'F', '1', 4, 0, 0, 0, 0x08, 0x10, 0x01, 0};
    FrameHeader header = {FRAME_PAGES, 0x11008};
    uint8_t bytes[FRAME_HEADER_BYTES];

    frame_header_encode(&header, bytes);
    assert_memory_equal(bytes, golden, sizeof golden);
}

static void test_headers_round_trip_to_their_limits(void **state)
{
    for (guint type = FRAME_HELLO; type <= FRAME_MEASURED; type++) {
        FrameHeader header = {(FrameType)type, frame_payload_limit((FrameType)type)};
        uint8_t bytes[FRAME_HEADER_BYTES];
        FrameHeader back;
        GError *error = NULL;

        if (strcmp(frame_type_name((FrameType)type), "unknown") == 0)
            continue;
        frame_header_encode(&header, bytes);
        assert_true(frame_header_decode(bytes, &back, &error));
        assert_int_equal(back.type, header.type);
        assert_int_equal(back.length, header.length);
        header.length++;
        frame_header_encode(&header, bytes);
        expect_invalid(frame_header_decode(bytes, &back, &error), &error,
                       frame_type_name((FrameType)type));
    }
}

static void test_limits(void **state)
{
    assert_int_equal(frame_payload_limit(FRAME_GUEST), 4 << 20);
    assert_int_equal(frame_payload_limit(FRAME_PAGES), 8 + 4096 * 16 + 256 * 4096);
    assert_int_equal(frame_payload_limit(FRAME_DEVICE_STATE), (1 << 20) + 16);
    assert_int_equal(frame_payload_limit(FRAME_DIGESTS), 12 + 8 * 16384);
    assert_int_equal(frame_payload_limit(FRAME_HELLO), 65536);
    assert_int_equal(frame_payload_limit(FRAME_START), START_MESSAGE_BYTES);
    assert_int_equal(frame_payload_limit((FrameType)0), 0);
    assert_int_equal(frame_payload_limit(FRAME_PAGES_LZ4), frame_payload_limit(FRAME_PAGES));
    assert_int_equal(frame_payload_limit(FRAME_PAGES_ZSTD), frame_payload_limit(FRAME_PAGES));
    assert_int_equal(frame_payload_limit(FRAME_PAGES_WINDOW),
                     frame_payload_limit(FRAME_PAGES) + 4352);
    assert_int_equal(frame_payload_limit(FRAME_SEGMENTS), 16 + (1 << 20) + 8192);
    assert_int_equal(frame_payload_limit(FRAME_COPIES), 8 + 256 * 24);
    assert_int_equal(frame_payload_limit((FrameType)63), 0);
    assert_string_equal(frame_type_name((FrameType)63), "unknown");
    assert_int_equal(frame_payload_limit(FRAME_OUTSTANDING), 8 + 65535 * 16);
    assert_int_equal(frame_payload_limit(FRAME_WANT), 16);
    assert_int_equal(frame_payload_limit(FRAME_SEED_DIGESTS), 5 + 16384 * 6);
    assert_int_equal(frame_payload_limit(FRAME_SEED_PAGES), 40 + 256 * 11);
}

static void test_which_carry_pages(void **state)
{
    guint count = 0;

    for (guint type = 0; type <= FRAME_MEASURED + 1; type++)
        count += frame_type_carries_pages((FrameType)type) ? 1 : 0;
    assert_int_equal(count, 7);
    assert_true(frame_type_carries_pages(FRAME_PAGES));
    assert_true(frame_type_carries_pages(FRAME_PAGES_LZ4));
    assert_true(frame_type_carries_pages(FRAME_PAGES_ZSTD));
    assert_true(frame_type_carries_pages(FRAME_SEGMENTS));
    assert_true(frame_type_carries_pages(FRAME_COPIES));
    assert_true(frame_type_carries_pages(FRAME_PAGES_WINDOW));
    assert_true(frame_type_carries_pages(FRAME_SEED_PAGES));
}

static void test_which_have_an_order(void **state)
{
    for (guint type = 0; type <= FRAME_MEASURED + 1; type++)
        assert_int_equal(frame_type_has_order((FrameType)type),
                         type == FRAME_COPIES || type == FRAME_PAGES_WINDOW);
}

/* All of an epoch goes by one channel, in order, and all content of disks by another one; nothing
 * else waits behind them. */
static void test_classes(void **state)
{
    TrafficClass traffic;

    for (guint type = 0; type <= FRAME_MEASURED + 1; type++) {
        TrafficClass wanted = TRAFFIC_CONTROL;

        if (frame_type_carries_pages((FrameType)type) || type == FRAME_DEVICE_STATE ||
            type == FRAME_EPOCH_SEAL || type == FRAME_OUTSTANDING || type == FRAME_BULK_BARRIER ||
            type == FRAME_MEASURE)
            wanted = TRAFFIC_BULK;
        else if ((type >= FRAME_DISK_WRITE && type <= FRAME_DISK_DONE) ||
                 (type >= FRAME_DISK_COMPARE && type <= FRAME_DISK_SAME))
            wanted = TRAFFIC_DISK;
        else if (type == FRAME_WANT)
            wanted = TRAFFIC_FAULT;
        else if (type == FRAME_EPOCH_WRITES || type == FRAME_EPOCH_BARRIER ||
                 type == FRAME_EPOCH_EVENTS)
            wanted = TRAFFIC_CHECKPOINT;
        assert_int_equal(frame_type_traffic((FrameType)type), wanted);
    }
    for (guint i = 0; i < TRAFFIC_CLASSES; i++) {
        assert_true(traffic_class_from_name(traffic_class_name((TrafficClass)i), &traffic));
        assert_int_equal(traffic, i);
    }
    assert_false(traffic_class_from_name("urgent", &traffic));
    assert_false(traffic_class_from_name(NULL, &traffic));
}

/* A page that a thread waits for does not wait for the bulk's turn. */
static void test_pacing(void **state)
{
    assert_true(frame_type_is_paced(FRAME_PAGES, TRAFFIC_BULK));
    assert_true(frame_type_is_paced(FRAME_PAGES_ZSTD, TRAFFIC_BULK));
    assert_false(frame_type_is_paced(FRAME_PAGES, TRAFFIC_FAULT));
    assert_false(frame_type_is_paced(FRAME_WANT, TRAFFIC_FAULT));
    assert_false(frame_type_is_paced(FRAME_OUTSTANDING, TRAFFIC_BULK));
}

static void test_bad_headers(void **state)
{
    static const struct {
        uint8_t bytes[FRAME_HEADER_BYTES];
        const char *words;
    } bad[] = {
        {{'V', 'M', 'F', '2', 1, 0, 0, 0, 2, 0, 0, 0}, "magic"},
        {{'V', 'M', 'F', '1', 0, 0, 0, 0, 2, 0, 0, 0}, "unknown type 0"},
        {{'V', 'M', 'F', '1', 63, 0, 0, 0, 2, 0, 0, 0}, "unknown type 63"},
        {{'V', 'M', 'F', '1', 1, 1, 0, 0, 2, 0, 0, 0}, "unknown type 257"},
        {{'V', 'M', 'F', '1', 1, 0, 1, 0, 2, 0, 0, 0}, "flags 0x0001"},
        {{'V', 'M', 'F', '1', 5, 0, 0, 0, 3, 0, 0, 0}, "EPOCH_SEAL frame of 3 bytes"},
        {{'V', 'M', 'F', '1', 4, 0, 0, 0, 23, 0, 0, 0}, "PAGES frame of 23 bytes"},
        {{'V', 'M', 'F', '1', 20, 0, 0, 0, 16, 0, 0, 0}, "SEGMENTS frame of 16 bytes"},
        {{'V', 'M', 'F', '1', 7, 0, 0, 0, 16, 0, 0, 0}, "DEVICE_STATE frame of 16 bytes"},
        {{'V', 'M', 'F', '1', 1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff}, "HELLO frame of 4294967295"},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        FrameHeader header;
        GError *error = NULL;

        expect_invalid(frame_header_decode(bad[i].bytes, &header, &error), &error, bad[i].words);
    }
}

/* ---- PAGES ---- */

static void test_packed_pages(void **state)
{
    static const uint64_t pages[] = {1000};
    const PageRun runs[] = {{2, 3, PAGE_RUN_RAW}, {9, 1, PAGE_RUN_ZERO}};
    g_autoptr(GByteArray) payload = g_byte_array_new();
    g_autofree PageFrame *frame = g_new(PageFrame, 1);
    GError *error = NULL;
    uint32_t raw_pages;
    size_t packed;

    page_frame_encode(payload, 0, runs, 2);
    expect_invalid(page_frame_decode_packed(payload->data, payload->len, pages, 1, frame, &packed,
                                            &raw_pages, &error),
                   &error, "no pages");
    g_byte_array_append(payload, (const guint8 *)"block", 5);
    assert_true(page_frame_decode_packed(payload->data, payload->len, pages, 1, frame, &packed,
                                         &raw_pages, NULL));
    assert_int_equal(packed, 5);
    assert_int_equal(raw_pages, 3);
    assert_memory_equal(frame->raw, "block", 5);
    /* As PAGES it is wrong: the length does not fit the runs. */
    expect_invalid(page_frame_decode(payload->data, payload->len, pages, 1, frame, &error), &error,
                   "5 bytes of pages");
}

static const uint64_t regions[] = {1000, 5000000000ULL, 1};

/* Random runs in order; returns their number. */
static uint32_t make_runs(GRand *random, uint32_t region, PageRun *runs, uint32_t max,
                          uint64_t *ret_raw_pages)
{
    uint64_t at = 0;
    uint32_t n = 0;

    *ret_raw_pages = 0;
    while (n < max) {
        PageRun run = {.first = at + (uint64_t)g_rand_int_range(random, 0, 40),
                       .count = (uint32_t)g_rand_int_range(random, 1, 20),
                       .kind = g_rand_boolean(random) ? PAGE_RUN_ZERO : PAGE_RUN_RAW};

        if (run.first + run.count > regions[region] ||
            (run.kind == PAGE_RUN_RAW && *ret_raw_pages + run.count > PAGE_FRAME_MAX_RAW_PAGES))
            break;
        if (run.kind == PAGE_RUN_RAW)
            *ret_raw_pages += run.count;
        runs[n++] = run;
        at = run.first + run.count;
    }
    return n;
}

static void check_round_trip(GRand *random, PageFrame *back)
{
    g_autoptr(GByteArray) bytes = g_byte_array_new();
    uint32_t region = (uint32_t)g_rand_int_range(random, 0, 2);
    PageRun runs[64];
    uint64_t raw_pages;
    uint32_t n =
        make_runs(random, region, runs, (uint32_t)g_rand_int_range(random, 1, 64), &raw_pages);
    GError *error = NULL;
    size_t raw_at;

    if (n == 0)
        return;
    page_frame_encode(bytes, region, runs, n);
    raw_at = bytes->len;
    assert_int_equal(raw_at, PAGE_FRAME_HEADER_BYTES + n * PAGE_FRAME_RUN_BYTES);
    g_byte_array_set_size(bytes, (guint)(raw_at + raw_pages * PAGE_BYTES));
    assert_true(page_frame_decode(bytes->data, bytes->len, regions, 3, back, &error));
    assert_int_equal(back->region, region);
    assert_int_equal(back->run_count, n);
    for (uint32_t i = 0; i < n; i++) {
        assert_int_equal(back->runs[i].first, runs[i].first);
        assert_int_equal(back->runs[i].count, runs[i].count);
        assert_int_equal(back->runs[i].kind, runs[i].kind);
    }
    assert_ptr_equal(back->raw, bytes->data + raw_at);
    /* One byte less or more is noticed. */
    expect_invalid(page_frame_decode(bytes->data, bytes->len - 1, regions, 3, back, &error), &error,
                   "PAGES: ");
    g_byte_array_append(bytes, (const guint8 *)"", 1);
    expect_invalid(page_frame_decode(bytes->data, bytes->len, regions, 3, back, &error), &error,
                   "PAGES: ");
}

static void test_random_pages_round_trip(void **state)
{
    g_autoptr(GRand) random = g_rand_new_with_seed(4747);
    g_autofree PageFrame *back = g_new(PageFrame, 1);

    for (int i = 0; i < PROPERTY_ROUNDS; i++)
        check_round_trip(random, back);
}

/* Whatever bytes come, the decoder survives, and what it accepts keeps its rules. */
static void test_random_bytes(void **state)
{
    g_autoptr(GRand) random = g_rand_new_with_seed(1);
    g_autofree PageFrame *back = g_new(PageFrame, 1);

    for (int i = 0; i < 20 * PROPERTY_ROUNDS; i++) {
        uint8_t bytes[80];
        size_t length = (size_t)g_rand_int_range(random, 0, sizeof bytes);

        for (size_t k = 0; k < length; k++)
            bytes[k] = (uint8_t)(g_rand_int_range(random, 0, 4) ? 0 : g_rand_int(random));
        if (page_frame_decode(bytes, length, regions, 3, back, NULL))
            for (uint32_t k = 0; k < back->run_count; k++)
                assert_true(back->runs[k].first + back->runs[k].count <= regions[back->region]);
    }
}

static void expect_bad_pages(uint32_t region, const PageRun *runs, uint32_t n, size_t raw_bytes,
                             const char *words)
{
    g_autoptr(GByteArray) bytes = g_byte_array_new();
    g_autofree PageFrame *back = g_new(PageFrame, 1);
    GError *error = NULL;

    page_frame_encode(bytes, region, runs, n);
    g_byte_array_set_size(bytes, (guint)(bytes->len + raw_bytes));
    expect_invalid(page_frame_decode(bytes->data, bytes->len, regions, 3, back, &error), &error,
                   words);
}

static void test_bad_runs(void **state)
{
    const PageRun outside = {990, 11, PAGE_RUN_ZERO};
    const PageRun far_outside = {UINT64_MAX, 1, PAGE_RUN_ZERO};
    const PageRun wraps = {UINT64_MAX - 1, UINT32_MAX, PAGE_RUN_ZERO};
    const PageRun huge = {0, UINT32_MAX, PAGE_RUN_ZERO};
    const PageRun empty = {0, 0, PAGE_RUN_ZERO};
    const PageRun too_many = {0, PAGE_FRAME_MAX_RAW_PAGES + 1, PAGE_RUN_RAW};
    const PageRun unknown = {0, 1, (PageRunKind)2};
    const PageRun padding = {0, 1, (PageRunKind)0x100};
    const PageRun overlap[] = {{5, 2, PAGE_RUN_ZERO}, {6, 1, PAGE_RUN_ZERO}};
    const PageRun disorder[] = {{5, 2, PAGE_RUN_ZERO}, {3, 1, PAGE_RUN_ZERO}};
    const PageRun twice[] = {{5, 1, PAGE_RUN_RAW}, {5, 1, PAGE_RUN_ZERO}};
    const PageRun raw = {0, 2, PAGE_RUN_RAW};

    expect_bad_pages(0, &outside, 1, 0, "outside its region of 1000 pages");
    expect_bad_pages(0, &far_outside, 1, 0, "outside its region");
    expect_bad_pages(1, &wraps, 1, 0, "outside its region");
    expect_bad_pages(0, &huge, 1, 0, "outside its region");
    expect_bad_pages(0, &empty, 1, 0, "empty, overlap or not in order");
    expect_bad_pages(0, &too_many, 1, PAGE_BYTES, "257 pages in one frame");
    expect_bad_pages(0, &unknown, 1, 0, "unknown kind 0x2");
    expect_bad_pages(0, &padding, 1, PAGE_BYTES, "unknown kind 0x100");
    expect_bad_pages(0, overlap, 2, 0, "empty, overlap or not in order");
    expect_bad_pages(0, disorder, 2, 0, "empty, overlap or not in order");
    expect_bad_pages(0, twice, 2, PAGE_BYTES, "empty, overlap or not in order");
    expect_bad_pages(0, &raw, 1, PAGE_BYTES, "the runs say 2 pages");
    expect_bad_pages(3, &raw, 1, 2 * PAGE_BYTES, "region 3 of 3");
    expect_bad_pages(0, NULL, 0, 0, "cut short");
}

static void test_bad_counts(void **state)
{
    g_autoptr(GByteArray) bytes = g_byte_array_new();
    g_autofree PageFrame *back = g_new(PageFrame, 1);
    GError *error = NULL;

    byte_write_le32(bytes, 0);
    byte_write_le32(bytes, PAGE_FRAME_MAX_RUNS + 1);
    g_byte_array_set_size(bytes, PAGE_FRAME_RUN_BYTES * (PAGE_FRAME_MAX_RUNS + 2));
    expect_invalid(page_frame_decode(bytes->data, bytes->len, regions, 3, back, &error), &error,
                   "cut short");
    expect_invalid(page_frame_decode(bytes->data, 7, regions, 3, back, &error), &error,
                   "cut short");
    /* 256 runs of which only the first fits in. */
    bytes->data[4] = 0;
    bytes->data[5] = 1;
    expect_invalid(page_frame_decode(bytes->data, 24, regions, 3, back, &error), &error,
                   "cut short");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_header_is_little_endian),
        cmocka_unit_test(test_headers_round_trip_to_their_limits),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_which_carry_pages),
        cmocka_unit_test(test_which_have_an_order),
        cmocka_unit_test(test_classes),
        cmocka_unit_test(test_packed_pages),
        cmocka_unit_test(test_pacing),
        cmocka_unit_test(test_bad_headers),
        cmocka_unit_test(test_random_pages_round_trip),
        cmocka_unit_test(test_random_bytes),
        cmocka_unit_test(test_bad_runs),
        cmocka_unit_test(test_bad_counts),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
