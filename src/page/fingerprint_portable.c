#include "base/page.h"
#include "page/fingerprint_ways.h"

#include <string.h>

/* A polynomial of degree below 128. */
typedef struct {
    uint64_t low, high;
} Wide;

static Wide wide_shift(Wide value, guint bits)
{
    return (Wide){value.low << bits, value.high << bits | value.low >> (64 - bits)};
}

static Wide wide_add(Wide left, Wide right)
{
    return (Wide){left.low ^ right.low, left.high ^ right.high};
}

/* Four bits of *right* at a time, by a table of *left*'s sixteen multiples. */
static Wide multiply(uint64_t left, uint64_t right)
{
    Wide table[16] = {{0}, {left, 0}}, product = {0};

    for (guint i = 2; i < 16; i += 2) {
        table[i] = wide_shift(table[i / 2], 1);
        table[i + 1] = wide_add(table[i], table[1]);
    }
    for (guint bit = 64; bit > 0; bit -= 4)
        product = wide_add(wide_shift(product, 4), table[right >> (bit - 4) & 15]);
    return product;
}

/* Times x^4 + x^3 + x + 1. */
static Wide fold(uint64_t word)
{
    Wide value = {word, 0};

    return wide_add(wide_add(value, wide_shift(value, 1)),
                    wide_add(wide_shift(value, 3), wide_shift(value, 4)));
}

uint64_t fingerprint_reduce(uint64_t low, uint64_t high)
{
    Wide once = fold(high);

    return low ^ once.low ^ fold(once.high).low;
}

static uint64_t fingerprint_block(const uint64_t *key_words, const uint8_t *block,
                                  guint block_bytes)
{
    Wide sum = {0};

    for (guint at = 0; at < block_bytes; at += 16) {
        const uint64_t *key = key_words + at / 8;
        uint64_t words[2];

        memcpy(words, block + at, sizeof words);
        sum = wide_add(sum, multiply(words[0] ^ key[0], words[1] ^ key[1]));
    }
    return fingerprint_reduce(sum.low, sum.high);
}

void fingerprint_page_portable(const uint64_t *key_words, const uint8_t *page, guint block_bytes,
                               uint64_t *ret)
{
    for (guint at = 0; at < PAGE_BYTES; at += block_bytes)
        *ret++ = fingerprint_block(key_words, page + at, block_bytes);
}
