#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <string.h>

#include "base/page.h"
#include "page/fingerprint.h"

#define BYTES PAGE_BYTES

static void fill_random(GRand *random, void *out, size_t length)
{
    uint8_t *at = out;

    for (size_t i = 0; i < length; i++)
        at[i] = (uint8_t)g_rand_int(random);
}

/* The definition in the header, a bit at a time: shift and subtract. */
static uint64_t multiply(uint64_t left, uint64_t right)
{
    uint64_t product = 0;

    for (guint bit = 64; bit > 0; bit--) {
        product = product << 1 ^ (product >> 63 ? 0x1b : 0);
        if (right >> (bit - 1) & 1)
            product ^= left;
    }
    return product;
}

static uint64_t fingerprint_by_definition(const uint64_t *key, const uint8_t *block,
                                          guint block_bytes)
{
    uint64_t sum = 0;

    for (guint i = 0; i < block_bytes / 8; i += 2) {
        uint64_t words[2];

        memcpy(words, block + (size_t)i * 8, sizeof words);
        sum ^= multiply(words[0] ^ key[i], words[1] ^ key[i + 1]);
    }
    return sum;
}

static void check_ways(const uint64_t *key_words, const uint8_t *page, guint block_bytes)
{
    uint64_t expected[FINGERPRINT_PAGE_MAX], got[FINGERPRINT_PAGE_MAX + 1];
    guint blocks = BYTES / block_bytes;
    const FingerprintWay *way;

    for (guint i = 0; i < blocks; i++)
        expected[i] =
            fingerprint_by_definition(key_words, page + (size_t)i * block_bytes, block_bytes);
    for (guint i = 0; (way = fingerprint_way(i)); i++) {
        g_autoptr(FingerprintKey) key = NULL;

        if (!way->is_available())
            continue;
        key = fingerprint_key_new_known(key_words, way);
        memset(got, 0x55, sizeof got);
        fingerprint_page(key, page, block_bytes, got);
        assert_memory_equal(got, expected, blocks * 8);
        assert_true(got[blocks] == UINT64_C(0x5555555555555555)); /* writes no more */
    }
}

static void test_ways_give_the_definition(void **state)
{
    g_autoptr(GRand) random = g_rand_new_with_seed(1);
    uint64_t key[FINGERPRINT_KEY_WORDS];
    uint8_t page[BYTES + 64];

    for (int step = 0; step < 20; step++) {
        guint shift = step ? (guint)g_rand_int_range(random, 0, 64) : 0;

        fill_random(random, key, sizeof key);
        fill_random(random, page, sizeof page);
        for (guint block_bytes = FINGERPRINT_BLOCK_MIN; block_bytes <= FINGERPRINT_BLOCK_MAX;
             block_bytes *= 2)
            check_ways(key, page + shift, block_bytes);
    }
}

/* All bits set, and none: where carries and the reduction go wrong first. */
static void test_extremes(void **state)
{
    uint64_t key[FINGERPRINT_KEY_WORDS];
    uint8_t page[BYTES];

    for (int bits = 0; bits < 4; bits++) {
        memset(key, bits & 1 ? 0xff : 0, sizeof key);
        memset(page, bits & 2 ? 0xff : 0, sizeof page);
        for (guint block_bytes = FINGERPRINT_BLOCK_MIN; block_bytes <= FINGERPRINT_BLOCK_MAX;
             block_bytes *= 2)
            check_ways(key, page, block_bytes);
    }
}

/* A known product: x^63 * x^2 = x^65 = x * (x^4 + x^3 + x + 1). */
static void test_known_product(void **state)
{
    static const uint64_t key[FINGERPRINT_KEY_WORDS];
    g_autoptr(FingerprintKey) known = fingerprint_key_new_known(key, fingerprint_way(0));
    uint64_t words[BYTES / 8] = {UINT64_C(1) << 63, 4}, got[BYTES / 64];

    fingerprint_page(known, (const uint8_t *)words, 64, got);
    assert_true(got[0] == 0x36);
    assert_true(got[1] == 0);
}

/* Each bit of a page shows in its own block's fingerprint, and nowhere else. */
static void test_each_bit(void **state)
{
    g_autoptr(GRand) random = g_rand_new_with_seed(2);
    g_autoptr(FingerprintKey) key = fingerprint_key_new();
    uint64_t before[BYTES / 256], after[BYTES / 256];
    uint8_t page[BYTES];

    fill_random(random, page, sizeof page);
    fingerprint_page(key, page, 256, before);
    for (guint bit = 0; bit < BYTES * 8; bit++) {
        page[bit / 8] ^= (uint8_t)(1u << bit % 8);
        fingerprint_page(key, page, 256, after);
        page[bit / 8] ^= (uint8_t)(1u << bit % 8);
        for (guint i = 0; i < G_N_ELEMENTS(after); i++)
            assert_int_equal(before[i] != after[i], i == bit / 8 / 256);
    }
}

/* Words that change places, and pairs that do, are seen: keys differ by place. */
static void test_order_matters(void **state)
{
    g_autoptr(FingerprintKey) key = fingerprint_key_new();
    uint64_t words[BYTES / 8], before[BYTES / 128], after[BYTES / 128];

    for (guint i = 0; i < G_N_ELEMENTS(words); i++)
        words[i] = i;
    fingerprint_page(key, (const uint8_t *)words, 128, before);
    for (guint distance = 1; distance < 16; distance++) {
        words[0] = distance;
        words[distance] = 0;
        fingerprint_page(key, (const uint8_t *)words, 128, after);
        assert_true(before[0] != after[0]);
        words[0] = 0;
        words[distance] = distance;
    }
}

static void test_keys_are_random(void **state)
{
    g_autoptr(FingerprintKey) one = fingerprint_key_new(), other = fingerprint_key_new();
    uint8_t page[BYTES] = {0};
    uint64_t by_one[4], by_other[4];

    assert_non_null(one);
    assert_non_null(other);
    fingerprint_page(one, page, 1024, by_one);
    fingerprint_page(other, page, 1024, by_other);
    assert_true(by_one[0] == by_one[3]);
    assert_true(by_one[0] != by_other[0]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ways_give_the_definition),
        cmocka_unit_test(test_extremes),
        cmocka_unit_test(test_known_product),
        cmocka_unit_test(test_each_bit),
        cmocka_unit_test(test_order_matters),
        cmocka_unit_test(test_keys_are_random),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
