#include "page/difference_ways.h"

#include <immintrin.h>

__attribute__((target("avx512f,avx512bw"))) gboolean
difference_page_avx512(const uint8_t *old_page, const uint8_t *new_page,
                       uint64_t ret[DIFFERENCE_WORDS])
{
    uint64_t any = 0;

    for (guint word = 0; word < DIFFERENCE_WORDS; word++) {
        __m512i a = _mm512_loadu_si512(old_page + 64 * word);
        __m512i b = _mm512_loadu_si512(new_page + 64 * word);

        ret[word] = _mm512_cmpneq_epi8_mask(a, b);
        any |= ret[word];
    }
    return any != 0;
}
