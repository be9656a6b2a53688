#include "base/page.h"
#include "page/fingerprint_ways.h"

#include <immintrin.h>

#define LANES_512 __attribute__((target("avx512f,pclmul,vpclmulqdq")))
#define INLINE_512 __attribute__((target("avx512f,pclmul,vpclmulqdq"), always_inline)) static inline

/* Four partial sums of products, one a lane. */
INLINE_512 __m512i sum_block(const uint64_t *key_words, const uint8_t *block, guint block_bytes)
{
    __m512i sum = _mm512_setzero_si512();

#pragma GCC unroll 16
    for (guint at = 0; at < block_bytes; at += 64) {
        __m512i words = _mm512_loadu_si512(block + at);

        words = _mm512_xor_si512(words, _mm512_loadu_si512(key_words + at / 8));
        sum = _mm512_xor_si512(sum, _mm512_clmulepi64_epi128(words, words, 0x01));
    }
    return sum;
}

/* Lanes 0 + 2 and 1 + 3 of two sums: left's in the low half, right's in the high. */
INLINE_512 __m512i add_halves(__m512i left, __m512i right)
{
    return _mm512_xor_si512(_mm512_shuffle_i64x2(left, right, 0x44),
                            _mm512_shuffle_i64x2(left, right, 0xee));
}

/* Four blocks at a time, so that all lanes are used to the end. */
INLINE_512 void fingerprint_blocks(const uint64_t *key_words, const uint8_t *page,
                                   guint block_bytes, uint64_t *ret)
{
    __m512i polynomial = _mm512_set1_epi64(FINGERPRINT_POLYNOMIAL);
    __m512i low_halves = _mm512_setr_epi64(0, 2, 4, 6, 0, 2, 4, 6);

    for (guint at = 0; at < PAGE_BYTES; at += 4 * block_bytes) {
        const uint8_t *from = page + at;
        __m512i first = add_halves(sum_block(key_words, from, block_bytes),
                                   sum_block(key_words, from + block_bytes, block_bytes));
        __m512i second = add_halves(sum_block(key_words, from + 2 * block_bytes, block_bytes),
                                    sum_block(key_words, from + 3 * block_bytes, block_bytes));
        __m512i sum = _mm512_xor_si512(_mm512_shuffle_i64x2(first, second, 0x88),
                                       _mm512_shuffle_i64x2(first, second, 0xdd));
        /* The high half times the polynomial, twice: the second is short. */
        __m512i once = _mm512_clmulepi64_epi128(sum, polynomial, 0x01);
        __m512i twice = _mm512_clmulepi64_epi128(once, polynomial, 0x01);

        sum = _mm512_xor_si512(sum, _mm512_xor_si512(once, twice));
        sum = _mm512_permutexvar_epi64(low_halves, sum);
        _mm256_storeu_si256((__m256i *)ret, _mm512_castsi512_si256(sum));
        ret += 4;
    }
}

/* Large blocks one by one: what is left to do at the end is little beside them. */
LANES_512 static void fingerprint_large_blocks(const uint64_t *key_words, const uint8_t *page,
                                               guint block_bytes, uint64_t *ret)
{
    for (guint at = 0; at < PAGE_BYTES; at += block_bytes) {
        __m512i sum = sum_block(key_words, page + at, block_bytes);
        __m256i half =
            _mm256_xor_si256(_mm512_castsi512_si256(sum), _mm512_extracti64x4_epi64(sum, 1));
        __m128i lane =
            _mm_xor_si128(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));

        *ret++ = fingerprint_reduce((uint64_t)_mm_cvtsi128_si64(lane),
                                    (uint64_t)_mm_cvtsi128_si64(_mm_unpackhi_epi64(lane, lane)));
    }
}

/* The compiler makes one loop for each size. */
LANES_512 void fingerprint_page_avx512(const uint64_t *key_words, const uint8_t *page,
                                       guint block_bytes, uint64_t *ret)
{
    switch (block_bytes) {
    case 64:
        fingerprint_blocks(key_words, page, 64, ret);
        break;
    case 128:
        fingerprint_blocks(key_words, page, 128, ret);
        break;
    case 256:
        fingerprint_blocks(key_words, page, 256, ret);
        break;
    case 512:
        fingerprint_blocks(key_words, page, 512, ret);
        break;
    case 1024:
        fingerprint_blocks(key_words, page, 1024, ret);
        break;
    default:
        fingerprint_large_blocks(key_words, page, block_bytes, ret);
    }
}
