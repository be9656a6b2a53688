#include "base/page.h"
#include "page/fingerprint_ways.h"

#include <immintrin.h>

#define LANES_256 __attribute__((target("avx2,pclmul,vpclmulqdq")))
#define INLINE_256 __attribute__((target("avx2,pclmul,vpclmulqdq"), always_inline)) static inline

/* Two partial sums of products: of the even and of the odd pairs of words. */
INLINE_256 __m256i sum_block(const uint64_t *key_words, const uint8_t *block, guint block_bytes)
{
    __m256i sum = _mm256_setzero_si256();

#pragma GCC unroll 16
    for (guint at = 0; at < block_bytes; at += 32) {
        __m256i words = _mm256_loadu_si256((const __m256i *)(block + at));
        __m256i key = _mm256_loadu_si256((const __m256i *)(key_words + at / 8));

        words = _mm256_xor_si256(words, key);
        sum = _mm256_xor_si256(sum, _mm256_clmulepi64_epi128(words, words, 0x01));
    }
    return sum;
}

/* Two blocks at a time, so that both lanes are used to the end. */
INLINE_256 void fingerprint_blocks(const uint64_t *key_words, const uint8_t *page,
                                   guint block_bytes, uint64_t *ret)
{
    __m256i polynomial = _mm256_set1_epi64x(FINGERPRINT_POLYNOMIAL);

    for (guint at = 0; at < PAGE_BYTES; at += 2 * block_bytes) {
        __m256i left = sum_block(key_words, page + at, block_bytes);
        __m256i right = sum_block(key_words, page + at + block_bytes, block_bytes);
        __m256i sum = _mm256_xor_si256(_mm256_permute2x128_si256(left, right, 0x20),
                                       _mm256_permute2x128_si256(left, right, 0x31));
        /* The high half times the polynomial, twice: the second is short. */
        __m256i once = _mm256_clmulepi64_epi128(sum, polynomial, 0x01);
        __m256i twice = _mm256_clmulepi64_epi128(once, polynomial, 0x01);

        sum = _mm256_xor_si256(sum, _mm256_xor_si256(once, twice));
        sum = _mm256_permute4x64_epi64(sum, 0x08); /* the low halves side by side */
        _mm_storeu_si128((__m128i *)ret, _mm256_castsi256_si128(sum));
        ret += 2;
    }
}

/* Large blocks one by one: what is left to do at the end is little beside them. */
LANES_256 static void fingerprint_large_blocks(const uint64_t *key_words, const uint8_t *page,
                                               guint block_bytes, uint64_t *ret)
{
    for (guint at = 0; at < PAGE_BYTES; at += block_bytes) {
        __m256i sum = sum_block(key_words, page + at, block_bytes);
        __m128i lane = _mm_xor_si128(_mm256_castsi256_si128(sum), _mm256_extracti128_si256(sum, 1));

        *ret++ = fingerprint_reduce((uint64_t)_mm_cvtsi128_si64(lane),
                                    (uint64_t)_mm_cvtsi128_si64(_mm_unpackhi_epi64(lane, lane)));
    }
}

/* The compiler makes one loop for each size. */
LANES_256 void fingerprint_page_avx2(const uint64_t *key_words, const uint8_t *page,
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
