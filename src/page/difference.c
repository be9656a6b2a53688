#include "page/difference.h"

#include <immintrin.h>
#include <string.h>

#define LOW_SEVEN UINT64_C(0x7f7f7f7f7f7f7f7f)

/* One bit for each byte of *word* that is not zero. */
static uint64_t nonzero_bytes(uint64_t word)
{
    /* Each byte's top bit: is any of its bits set? (No carry leaves a byte.) */
    uint64_t tops = (((word & LOW_SEVEN) + LOW_SEVEN) | word) & ~LOW_SEVEN;

    /* Moves the top bits of its eight bytes into the top byte. */
    return (tops >> 7) * UINT64_C(0x0102040810204080) >> 56;
}

static gboolean difference_page_portable(const uint8_t *old_page, const uint8_t *new_page,
                                         uint64_t ret[DIFFERENCE_WORDS])
{
    uint64_t any = 0;

    for (guint word = 0; word < DIFFERENCE_WORDS; word++) {
        uint64_t old_words[8], new_words[8], bits = 0;

        memcpy(old_words, old_page + 64 * word, sizeof old_words);
        memcpy(new_words, new_page + 64 * word, sizeof new_words);
        for (guint i = 0; i < 8; i++)
            bits |= old_words[i] == new_words[i]
                        ? 0
                        : nonzero_bytes(old_words[i] ^ new_words[i]) << (8 * i);
        ret[word] = bits;
        any |= bits;
    }
    return any != 0;
}

__attribute__((target("avx2"))) static uint32_t equal_bytes(const uint8_t *left,
                                                            const uint8_t *right)
{
    __m256i a = _mm256_loadu_si256((const __m256i *)left);
    __m256i b = _mm256_loadu_si256((const __m256i *)right);

    return (uint32_t)_mm256_movemask_epi8(_mm256_cmpeq_epi8(a, b));
}

__attribute__((target("avx2"))) static gboolean difference_page_avx2(const uint8_t *old_page,
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

__attribute__((target("avx512f,avx512bw"))) static gboolean
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

static gboolean always(void)
{
    return TRUE;
}

static gboolean has_avx2(void)
{
    return __builtin_cpu_supports("avx2") != 0;
}

static gboolean has_avx512(void)
{
    return __builtin_cpu_supports("avx512bw") != 0;
}

const DifferenceWay *difference_way(guint index)
{
    static const DifferenceWay ways[] = {
        {"portable", always, difference_page_portable},
        {"avx2", has_avx2, difference_page_avx2},
        {"avx512", has_avx512, difference_page_avx512},
    };

    return index < G_N_ELEMENTS(ways) ? &ways[index] : NULL;
}

gboolean difference_page(const uint8_t *old_page, const uint8_t *new_page,
                         uint64_t ret[DIFFERENCE_WORDS])
{
    if (has_avx512())
        return difference_page_avx512(old_page, new_page, ret);
    if (has_avx2())
        return difference_page_avx2(old_page, new_page, ret);
    return difference_page_portable(old_page, new_page, ret);
}
