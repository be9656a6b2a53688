/* Block codecs: round trips, what does not shrink, and everything hostile. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>
#include <zstd.h>

#include "base/error.h"
#include "page/pack.h"

#define LONGEST (1u << 20)

typedef struct {
    PackContext *context;
    GRand *random;
    uint8_t *in, *packed, *out;
    size_t packed_capacity;
} Fixture;

static int setup(void **state)
{
    Fixture *fixture = g_new0(Fixture, 1);

    fixture->context = pack_context_new();
    fixture->random = g_rand_new_with_seed(11);
    fixture->packed_capacity = MAX(pack_bound(PACK_LZ4, LONGEST), pack_bound(PACK_ZSTD, LONGEST));
    fixture->in = g_malloc(LONGEST);
    fixture->packed = g_malloc(fixture->packed_capacity);
    fixture->out = g_malloc(LONGEST);
    *state = fixture;
    return 0;
}

static int teardown(void **state)
{
    Fixture *fixture = *state;

    pack_context_free(fixture->context);
    g_rand_free(fixture->random);
    g_free(fixture->in);
    g_free(fixture->packed);
    g_free(fixture->out);
    g_free(fixture);
    return 0;
}

/* Text-like: few words in random order. */
static void fill_text(Fixture *fixture, size_t length)
{
    static const char *const words[] = {"ferry ",   "carries ",   "a ",         "running ",
                                        "machine ", "and never ", "forgets a ", "page "};
    size_t at = 0;

    while (at < length) {
        const char *word = words[g_rand_int_range(fixture->random, 0, G_N_ELEMENTS(words))];
        size_t bytes = MIN(strlen(word), length - at);

        memcpy(fixture->in + at, word, bytes);
        at += bytes;
    }
}

static void fill_random(Fixture *fixture, size_t length)
{
    for (size_t i = 0; i < length; i++)
        fixture->in[i] = (uint8_t)g_rand_int(fixture->random);
}

static size_t pack_all(Fixture *fixture, PackMethod method, int level, size_t length)
{
    return pack(fixture->context, method, level, fixture->in, length, fixture->packed,
                fixture->packed_capacity);
}

static gboolean unpack_all(Fixture *fixture, PackMethod method, size_t packed, size_t length,
                           GError **error)
{
    return unpack(fixture->context, method, fixture->packed, packed, fixture->out, length, error);
}

static void check_round_trip(Fixture *fixture, PackMethod method, int level, size_t length)
{
    size_t packed;

    fill_text(fixture, length);
    packed = pack_all(fixture, method, level, length);
    assert_true(packed > 0 && packed < length);
    assert_true(unpack_all(fixture, method, packed, length, NULL));
    assert_memory_equal(fixture->in, fixture->out, length);
}

static void test_round_trips(void **state)
{
    static const size_t lengths[] = {200, 4096, 8192 + 1, 300000, LONGEST};
    static const int levels[] = {0, 1, 3, -5};

    for (guint i = 0; i < G_N_ELEMENTS(lengths); i++) {
        check_round_trip(*state, PACK_LZ4, 0, lengths[i]);
        for (guint k = 0; k < G_N_ELEMENTS(levels); k++)
            check_round_trip(*state, PACK_ZSTD, levels[k], lengths[i]);
    }
}

static void test_no_gain(void **state)
{
    Fixture *fixture = *state;

    fill_random(fixture, 65536);
    assert_int_equal(pack_all(fixture, PACK_LZ4, 0, 65536), 0);
    assert_int_equal(pack_all(fixture, PACK_ZSTD, 0, 65536), 0);
    fill_text(fixture, 65536);
    assert_int_equal(pack_all(fixture, PACK_NONE, 0, 65536), 0);
    for (size_t length = 0; length <= 2; length++) {
        assert_int_equal(pack_all(fixture, PACK_LZ4, 0, length), 0);
        assert_int_equal(pack_all(fixture, PACK_ZSTD, 0, length), 0);
    }
}

/* Never a byte behind the capacity. */
static void test_little_room(void **state)
{
    Fixture *fixture = *state;

    fill_text(fixture, 4096);
    for (guint method = PACK_LZ4; method <= PACK_ZSTD; method++) {
        for (size_t capacity = 0; capacity < 4096; capacity += 63) {
            size_t packed;

            memset(fixture->packed, 0x5a, 4096);
            packed = pack(fixture->context, (PackMethod)method, 0, fixture->in, 4096,
                          fixture->packed, capacity);
            assert_true(packed <= capacity);
            for (size_t i = capacity; i < 4096; i++)
                assert_int_equal(fixture->packed[i], 0x5a);
        }
    }
}

static void test_plain_copies(void **state)
{
    Fixture *fixture = *state;
    g_autoptr(GError) error = NULL;

    memcpy(fixture->packed, "abcdef", 6);
    assert_true(unpack_all(fixture, PACK_NONE, 6, 6, NULL));
    assert_memory_equal(fixture->out, "abcdef", 6);
    assert_false(unpack_all(fixture, PACK_NONE, 5, 6, &error));
    assert_non_null(strstr(error->message, "5 bytes where 6 were announced"));
    g_clear_error(&error);
    assert_false(unpack_all(fixture, (PackMethod)3, 6, 6, &error));
    assert_non_null(strstr(error->message, "unknown method 3"));
}

/* Refused, and nothing behind *length* is written. */
static void expect_refused(Fixture *fixture, PackMethod method, size_t packed, size_t length)
{
    g_autoptr(GError) error = NULL;

    memset(fixture->out, 0x5a, LONGEST);
    assert_false(unpack_all(fixture, method, packed, length, &error));
    assert_true(error_is(error, VMFERRY_ERROR_INVALID));
    assert_non_null(strstr(error->message, method == PACK_LZ4 ? "LZ4 block of" : "zstd frame of"));
    for (size_t i = length; i < LONGEST; i++)
        if (fixture->out[i] != 0x5a)
            fail_msg("byte %zu behind the output was written", i - length);
}

static void test_other_sizes(void **state)
{
    Fixture *fixture = *state;

    for (guint method = PACK_LZ4; method <= PACK_ZSTD; method++) {
        size_t packed;

        fill_text(fixture, 8192);
        packed = pack_all(fixture, (PackMethod)method, 0, 8192);
        assert_true(packed > 0);
        expect_refused(fixture, (PackMethod)method, packed, 8191);
        expect_refused(fixture, (PackMethod)method, packed, 8193);
        expect_refused(fixture, (PackMethod)method, packed, 4096);
        expect_refused(fixture, (PackMethod)method, packed, 0);
        expect_refused(fixture, (PackMethod)method, packed - 1, 8192);
        expect_refused(fixture, (PackMethod)method, 0, 8192);
    }
}

/* A frame of 1 MiB of zeroes for one page: known by its header, or not at all. */
static void test_zstd_bomb(void **state)
{
    Fixture *fixture = *state;
    g_autofree uint8_t *zeroes = g_malloc0(LONGEST);
    ZSTD_CCtx *context = ZSTD_createCCtx();
    size_t packed;

    packed = ZSTD_compress(fixture->packed, fixture->packed_capacity, zeroes, LONGEST, 1);
    assert_true(packed < 200);
    expect_refused(fixture, PACK_ZSTD, packed, 4096);
    /* The same with a header that does not say its size: refused even where it fits. */
    ZSTD_CCtx_setParameter(context, ZSTD_c_contentSizeFlag, 0);
    packed = ZSTD_compress2(context, fixture->packed, fixture->packed_capacity, zeroes, LONGEST);
    expect_refused(fixture, PACK_ZSTD, packed, 4096);
    expect_refused(fixture, PACK_ZSTD, packed, LONGEST);
    ZSTD_freeCCtx(context);
}

/* What zstd itself would take, but is not one frame. */
static void test_zstd_not_one_frame(void **state)
{
    static const uint8_t skippable[] = {0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 1, 2, 3, 4};
    static const uint8_t old[] = {0x27, 0xb5, 0x2f, 0xfd, 0x00, 0x00, 0x00, 0x00, 0x01};
    Fixture *fixture = *state;
    size_t packed;

    fill_text(fixture, 4096);
    packed = pack_all(fixture, PACK_ZSTD, 0, 4096);
    memcpy(fixture->packed + packed, skippable, sizeof skippable);
    expect_refused(fixture, PACK_ZSTD, packed + sizeof skippable, 4096);
    memcpy(fixture->packed + packed, fixture->packed, packed); /* two frames */
    expect_refused(fixture, PACK_ZSTD, 2 * packed, 8192);
    memmove(fixture->packed + sizeof skippable, fixture->packed, packed);
    memcpy(fixture->packed, skippable, sizeof skippable);
    expect_refused(fixture, PACK_ZSTD, packed + sizeof skippable, 4096);
    memcpy(fixture->packed, old, sizeof old); /* zstd 0.7's */
    expect_refused(fixture, PACK_ZSTD, sizeof old, 4096);
}

/* One bit wrong: refused, or something else of the same size; never more. */
static void test_damaged(void **state)
{
    Fixture *fixture = *state;

    for (guint method = PACK_LZ4; method <= PACK_ZSTD; method++) {
        size_t packed;

        fill_text(fixture, 4096);
        packed = pack_all(fixture, (PackMethod)method, 0, 4096);
        assert_true(packed > 0);
        for (size_t i = 0; i < packed * 8; i += 3) {
            fixture->packed[i / 8] ^= (uint8_t)(1u << i % 8);
            memset(fixture->out + 4096, 0x5a, 4096);
            unpack_all(fixture, (PackMethod)method, packed, 4096, NULL);
            for (size_t k = 4096; k < 8192; k++)
                assert_int_equal(fixture->out[k], 0x5a);
            fixture->packed[i / 8] ^= (uint8_t)(1u << i % 8);
        }
    }
}

/* Numbers at random: nothing repeats, but zstd's literals are shorter. */
static void fill_digits(Fixture *fixture, size_t length)
{
    for (size_t i = 0; i < length; i++)
        fixture->in[i] = (uint8_t)('0' + g_rand_int_range(fixture->random, 0, 100));
}

static void test_sample(void **state)
{
    Fixture *fixture = *state;

    fill_text(fixture, LONGEST);
    assert_true(pack_sample_shrinks(fixture->context, PACK_LZ4, fixture->in, LONGEST));
    assert_true(pack_sample_shrinks(fixture->context, PACK_ZSTD, fixture->in, LONGEST));
    fill_digits(fixture, LONGEST);
    assert_false(pack_sample_shrinks(fixture->context, PACK_LZ4, fixture->in, LONGEST));
    assert_true(pack_sample_shrinks(fixture->context, PACK_ZSTD, fixture->in, LONGEST));
    fill_random(fixture, LONGEST);
    assert_false(pack_sample_shrinks(fixture->context, PACK_LZ4, fixture->in, LONGEST));
    assert_false(pack_sample_shrinks(fixture->context, PACK_ZSTD, fixture->in, LONGEST));
    assert_false(pack_sample_shrinks(fixture->context, PACK_ZSTD, fixture->in, 4 * 4096));
    assert_true(pack_sample_shrinks(fixture->context, PACK_ZSTD, fixture->in, 3 * 4096));
}

#define PACK_TEST(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        PACK_TEST(test_round_trips),
        PACK_TEST(test_no_gain),
        PACK_TEST(test_little_room),
        PACK_TEST(test_plain_copies),
        PACK_TEST(test_other_sizes),
        PACK_TEST(test_zstd_bomb),
        PACK_TEST(test_zstd_not_one_frame),
        PACK_TEST(test_damaged),
        PACK_TEST(test_sample),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
