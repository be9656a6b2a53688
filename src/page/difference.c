#include "page/difference.h"

#include "page/difference_ways.h"

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
