#include "page/difference_ways.h"

#include <immintrin.h>

__attribute__((target("avx2"))) static uint32_t equal_bytes(const uint8_t *left,
                                                            const uint8_t *right)
{
    __m256i a = _mm256_loadu_si256((const __m256i *)left);
    __m256i b = _mm256_loadu_si256((const __m256i *)right);

    return (uint32_t)_mm256_movemask_epi8(_mm256_cmpeq_epi8(a, b));
}

__attribute__((target("avx2"))) gboolean difference_page_avx2(const uint8_t *old_page,
                                                              const uint8_t *new_page,
                                                              uint64_t ret[DIFFERENCE_WORDS])
{
    uint64_t any = 0;

    for (guint word = 0; word < DIFFERENCE_WORDS; word++) {
        uint64_t low = equal_bytes(old_page + 64 * word, new_page + 64 * word);
        uint64_t high = equal_bytes(old_page + 64 * word + 32, new_page + 64 * word + 32);

        ret[word] = ~(high << 32 | low);
        any |= ret[word];
    }
    return any != 0;
}
