/* SEED, SEED_DIGESTS and SEED_PAGES frames: their bytes, round trips, and everything malformed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <string.h>

#include "base/error.h"
#include "wire/messages.h"
#include "wire/seed_frame.h"

#define DIGESTS 5000u

static const uint64_t regions[] = {1000, UINT64_C(1) << 34, 0};
static const uint8_t proof[FRAME_SEED_PROOF_BYTES] = {0xaa, 0xbb, [31] = 0xcc};

static gboolean decode(const GByteArray *frame, SeedPagesFrame *ret, GError **error)
{
    return seed_pages_decode(frame->data, frame->len, regions, G_N_ELEMENTS(regions), DIGESTS, ret,
                             error);
}

static void assert_invalid(GError *error, const char *words)
{
    if (!error_is(error, VMFERRY_ERROR_INVALID) || !strstr(error->message, words))
        fail_msg("expected \"%s\", got \"%s\"", words, error ? error->message : "no error");
}

/* ---- SEED_PAGES ---- */

static void test_bytes(void **state)
{
    static const uint8_t tail[] = {0x87, 0x04, 3, 0x80, 0x01, 2, 1, 5};
    g_autoptr(GByteArray) frame = g_byte_array_new();
    const SeedRun runs[] = {{0x207, 3, 128}, {0x20c, 1, 5}};

    seed_pages_encode(frame, 1, runs, 2, proof);
    assert_int_equal(frame->len, FRAME_SEED_PAGES_HEAD_BYTES + sizeof tail);
    assert_memory_equal(frame->data, "\1\0\0\0\2\0\0\0", 8);
    assert_memory_equal(frame->data + 8, proof, sizeof proof);
    assert_memory_equal(frame->data + FRAME_SEED_PAGES_HEAD_BYTES, tail, sizeof tail);
}

static void test_round_trip(void **state)
{
    const SeedRun runs[] = {
        {0, 1, 4999}, {5, 200, 0}, {205, 4, 17}, {(UINT64_C(1) << 34) - 51, 51, 4949}};
    g_autoptr(GByteArray) frame = g_byte_array_new();
    SeedPagesFrame back;

    seed_pages_encode(frame, 1, runs, G_N_ELEMENTS(runs), proof);
    assert_true(decode(frame, &back, NULL));
    assert_int_equal(back.region, 1);
    assert_int_equal(back.run_count, G_N_ELEMENTS(runs));
    assert_int_equal(back.pages, 256);
    assert_memory_equal(back.runs, runs, sizeof runs);
    assert_memory_equal(back.proof, proof, sizeof proof);
}

static void test_malformed(void **state)
{
    static const struct {
        uint32_t region;
        SeedRun runs[2];
        const char *words;
    } bad[] = {
        {3, {{0, 1, 0}, {1, 1, 0}}, "region 3 of 3"},
        {2, {{0, 1, 0}, {1, 1, 0}}, "outside"},
        {0, {{0, 0, 0}, {1, 1, 0}}, "are none"},
        {0, {{0, 1, 0}, {1000, 1, 0}}, "outside"},
        {0, {{0, 1, 0}, {999, 2, 0}}, "outside"},
        {0, {{0, 1, 0}, {0, 1, 0}}, "outside"}, /* a gap of -1 */
        {0, {{0, 1, 0}, {UINT64_MAX, 2, 0}}, "outside"},
        {0, {{0, 257, 0}, {300, 1, 0}}, "outside"},
        {0, {{0, 1, DIGESTS}, {1, 1, 0}}, "of 5000"},
        {0, {{0, 1, 0}, {1, 2, DIGESTS - 1}}, "of 5000"},
        {0, {{0, 1, 0}, {1, 2, UINT32_MAX}}, "of 5000"},
        {0, {{0, 200, 0}, {300, 57, 0}}, "257 pages"},
    };

    for (guint i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autoptr(GByteArray) frame = g_byte_array_new();
        g_autoptr(GError) error = NULL;
        SeedPagesFrame back;

        seed_pages_encode(frame, bad[i].region, bad[i].runs, 2, proof);
        assert_false(decode(frame, &back, &error));
        assert_invalid(error, bad[i].words);
    }
}

static void test_lengths(void **state)
{
    const SeedRun run = {0, 1, 300};
    g_autoptr(GByteArray) frame = g_byte_array_new();
    SeedPagesFrame back;

    seed_pages_encode(frame, 0, &run, 1, proof);
    for (guint length = 0; length < frame->len; length++)
        assert_false(seed_pages_decode(frame->data, length, regions, 3, DIGESTS, &back, NULL));
    g_byte_array_append(frame, (const guint8 *)"", 1);
    assert_false(decode(frame, &back, NULL));
    memset(frame->data + 4, 0, 4); /* no runs */
    assert_false(decode(frame, &back, NULL));
    memset(frame->data + 4, 0xff, 4);
    assert_false(decode(frame, &back, NULL));
}

/* ---- SEED_DIGESTS ---- */

static void test_digests(void **state)
{
    g_autoptr(GByteArray) frame = g_byte_array_new();
    SeedDigestsFrame back;

    seed_digests_encode_head(frame, 7, TRUE);
    seed_digests_append(frame, UINT64_C(0x060504030201));
    seed_digests_append(frame, SEED_DIGEST_MASK);
    assert_int_equal(frame->len, 17);
    assert_memory_equal(frame->data, "\7\0\0\0\1\1\2\3\4\5\6\xff\xff\xff\xff\xff\xff", 17);
    assert_true(seed_digests_decode(frame->data, frame->len, 7, 9, &back, NULL));
    assert_int_equal(back.count, 2);
    assert_true(back.last);
    assert_true(seed_digests_next(&back) == UINT64_C(0x060504030201));
    assert_true(seed_digests_next(&back) == SEED_DIGEST_MASK);
}

static void test_malformed_digests(void **state)
{
    static const struct {
        uint32_t have, most, first;
        guint bytes;
        uint8_t last;
        const char *words;
    } bad[] = {
        {0, 100, 0, 5, 0, "malformed"},     {0, 100, 0, 6, 2, "malformed"},
        {0, 100, 1, 6, 0, "from number 1"}, {8, 100, 7, 6, 0, "from number 7"},
        {8, 8, 8, 6, 1, "8 may"},           {99, 100, 99, 12, 1, "100 may"},
        {9, 8, 9, 0, 1, "8 may"},
    };

    for (guint i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autoptr(GByteArray) frame = g_byte_array_new();
        g_autoptr(GError) error = NULL;
        SeedDigestsFrame back;

        seed_digests_encode_head(frame, bad[i].first, FALSE);
        frame->data[4] = bad[i].last;
        g_byte_array_set_size(frame, FRAME_SEED_DIGESTS_HEAD_BYTES + bad[i].bytes);
        assert_false(
            seed_digests_decode(frame->data, frame->len, bad[i].have, bad[i].most, &back, &error));
        assert_invalid(error, bad[i].words);
    }
}

/* ---- SEED ---- */

static void test_messages(void **state)
{
    g_autofree char *text =
        seed_message_encode(&(SeedMessage){.path = (char *)"/srv/a.image", .most = 77});
    g_autofree char *said = seed_answer_encode(
        &(SeedAnswer){.id = (char *)"00112233445566778899aabbccddeeff", .pages = 9, .key = 0xfe});
    g_auto(SeedMessage) message = {0};
    g_auto(SeedAnswer) answer = {0};

    assert_true(seed_message_decode(text, strlen(text), &message, NULL));
    assert_string_equal(message.path, "/srv/a.image");
    assert_int_equal(message.most, 77);
    assert_true(seed_answer_decode(said, strlen(said), &answer, NULL));
    assert_string_equal(answer.id, "00112233445566778899aabbccddeeff");
    assert_int_equal(answer.pages, 9);
    assert_int_equal(answer.key, 0xfe);
}

static void test_malformed_messages(void **state)
{
    static const char *const questions[] = {
        "{}",
        "{\"path\": \"/a\"}",
        "{\"path\": \"a\", \"most\": 1}",
        "{\"path\": \"\", \"most\": 1}",
        "{\"path\": \"/a\", \"most\": 0}",
        "{\"path\": \"/a\", \"most\": 16777217}",
        "{\"path\": \"/a\\n\", \"most\": 1}",
        "{\"path\": 1, \"most\": 1}",
    };
    static const char *const answers[] = {
        "{}",
        "{\"id\": \"00112233445566778899aabbccddeeff\", \"pages\": 1, \"key\": \"00112233445566\"}",
        "{\"id\": \"00112233445566778899aabbccddeeff\", \"pages\": 1, \"key\": "
        "\"001122334455667g\"}",
        "{\"id\": \"00112233445566778899aabbccddeeff\", \"pages\": 17179869185, "
        "\"key\": \"0011223344556677\"}",
        "{\"id\": \"0011\", \"pages\": 1, \"key\": \"0011223344556677\"}",
    };

    for (guint i = 0; i < G_N_ELEMENTS(questions); i++) {
        g_autoptr(GError) error = NULL;
        SeedMessage message;

        assert_false(seed_message_decode(questions[i], strlen(questions[i]), &message, &error));
        assert_invalid(error, "SEED: ");
        assert_null(message.path);
    }
    for (guint i = 0; i < G_N_ELEMENTS(answers); i++) {
        g_autoptr(GError) error = NULL;
        SeedAnswer answer;

        assert_false(seed_answer_decode(answers[i], strlen(answers[i]), &answer, &error));
        assert_invalid(error, "SEED: ");
        assert_null(answer.id);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bytes),     cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_malformed), cmocka_unit_test(test_lengths),
        cmocka_unit_test(test_digests),   cmocka_unit_test(test_malformed_digests),
        cmocka_unit_test(test_messages),  cmocka_unit_test(test_malformed_messages),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
