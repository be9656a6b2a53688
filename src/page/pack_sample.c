#include "page/pack_sample.h"

#include <math.h>

#define PAGE_BYTES 4096u
#define SAMPLE_PAGES 4u
#define WORTH_RATIO 0.95

static size_t packed_length(PackContext *context, const uint8_t *page)
{
    uint8_t packed[PAGE_BYTES];
    size_t bytes = pack(context, PACK_LZ4, 0, page, PAGE_BYTES, packed, sizeof packed);

    return bytes > 0 ? bytes : PAGE_BYTES;
}

static void add_to_histogram(guint counts[256], const uint8_t *page)
{
    for (guint i = 0; i < PAGE_BYTES; i++)
        counts[page[i]]++;
}

/* Bits a byte. */
static double get_entropy(const guint counts[256], guint total)
{
    double bits = 0;

    for (guint i = 0; i < 256; i++)
        if (counts[i] > 0)
            bits += counts[i] * log2((double)total / counts[i]);
    return bits / total;
}

gboolean pack_sample_shrinks(PackContext *context, PackMethod method, const uint8_t *bytes,
                             size_t length)
{
    size_t step = length / SAMPLE_PAGES / PAGE_BYTES * PAGE_BYTES;
    guint counts[256] = {0};
    size_t total = 0;

    if (step == 0)
        return TRUE;
    for (size_t i = 0; i < SAMPLE_PAGES; i++) {
        total += packed_length(context, bytes + i * step);
        add_to_histogram(counts, bytes + i * step);
    }
    return (double)total < WORTH_RATIO * SAMPLE_PAGES * PAGE_BYTES ||
           (method == PACK_ZSTD &&
            get_entropy(counts, SAMPLE_PAGES * PAGE_BYTES) < 8 * WORTH_RATIO);
}
