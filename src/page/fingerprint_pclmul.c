#include "base/page.h"
#include "page/fingerprint_ways.h"

#include <immintrin.h>

#define LANES_128 __attribute__((target("sse2,pclmul")))

LANES_128 static __m128i sum_block(const uint64_t *key_words, const uint8_t *block,
                                   guint block_bytes)
{
    __m128i sum = _mm_setzero_si128();

    for (guint at = 0; at < block_bytes; at += 16) {
        __m128i words = _mm_loadu_si128((const __m128i *)(block + at));
        __m128i key = _mm_loadu_si128((const __m128i *)(key_words + at / 8));

        words = _mm_xor_si128(words, key);
        sum = _mm_xor_si128(sum, _mm_clmulepi64_si128(words, words, 0x01));
    }
    return sum;
}

LANES_128 void fingerprint_page_pclmul(const uint64_t *key_words, const uint8_t *page,
                                       guint block_bytes, uint64_t *ret)
{
    __m128i polynomial = _mm_set1_epi64x(FINGERPRINT_POLYNOMIAL);

    for (guint at = 0; at < PAGE_BYTES; at += block_bytes) {
        __m128i sum = sum_block(key_words, page + at, block_bytes);
        /* The high half times the polynomial, twice: the second is short. */
        __m128i once = _mm_clmulepi64_si128(sum, polynomial, 0x01);
        __m128i twice = _mm_clmulepi64_si128(once, polynomial, 0x01);

        sum = _mm_xor_si128(sum, _mm_xor_si128(once, twice));
        *ret++ = (uint64_t)_mm_cvtsi128_si64(sum);
    }
}
