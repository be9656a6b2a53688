#include "base/page.h"
#include "page/zero.h"

#include <immintrin.h>
#include <string.h>

/* Most pages that are not zero show it in the first 128 bytes. */
#define STEP_BYTES 128u

static gboolean is_zero_portable(const uint8_t *page)
{
    for (guint at = 0; at < PAGE_BYTES; at += STEP_BYTES) {
        uint64_t words[STEP_BYTES / 8], sum = 0;

        memcpy(words, page + at, sizeof words);
        for (guint i = 0; i < G_N_ELEMENTS(words); i++)
            sum |= words[i];
        if (sum)
            return FALSE;
    }
    return TRUE;
}

__attribute__((target("avx2"))) static gboolean is_zero_avx2(const uint8_t *page)
{
    for (guint at = 0; at < PAGE_BYTES; at += STEP_BYTES) {
        const __m256i *from = (const __m256i *)(page + at);
        __m256i low = _mm256_or_si256(_mm256_loadu_si256(from), _mm256_loadu_si256(from + 1));
        __m256i high = _mm256_or_si256(_mm256_loadu_si256(from + 2), _mm256_loadu_si256(from + 3));
        __m256i sum = _mm256_or_si256(low, high);

        if (!_mm256_testz_si256(sum, sum))
            return FALSE;
    }
    return TRUE;
}

static gboolean always(void)
{
    return TRUE;
}

static gboolean has_avx2(void)
{
    return __builtin_cpu_supports("avx2") != 0;
}

const ZeroWay *zero_way(guint index)
{
    static const ZeroWay ways[] = {
        {"portable", always, is_zero_portable},
        {"avx2", has_avx2, is_zero_avx2},
    };

    return index < G_N_ELEMENTS(ways) ? &ways[index] : NULL;
}

gboolean zero_is_page(const uint8_t *page)
{
    return has_avx2() ? is_zero_avx2(page) : is_zero_portable(page);
}
