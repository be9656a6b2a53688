#include "page/pack.h"

#include <math.h>
#include <string.h>

#include "base/error.h"
#include "base/page.h"
#include "page/lz4_block.h"
#include "page/zstd_block.h"

struct PackContext {
    ZSTD_CCtx *packer;   /* NULL until it is needed */
    ZSTD_DCtx *unpacker; /* NULL until it is needed */
};

PackContext *pack_context_new(void)
{
    return g_new0(PackContext, 1);
}

void pack_context_free(PackContext *context)
{
    if (!context)
        return;
    ZSTD_freeCCtx(context->packer);
    ZSTD_freeDCtx(context->unpacker);
    g_free(context);
}

const char *pack_method_name(PackMethod method)
{
    static const char *const names[] = {
        [PACK_NONE] = "none",
        [PACK_LZ4] = "lz4",
        [PACK_ZSTD] = "zstd",
    };

    return (guint)method < G_N_ELEMENTS(names) ? names[method] : "unknown";
}

size_t pack_bound(PackMethod method, size_t length)
{
    switch (method) {
    case PACK_LZ4:
        return lz4_bound(length);
    case PACK_ZSTD:
        return zstd_bound(length);
    case PACK_NONE:
        break;
    }
    return length;
}

static size_t pack_lz4(const uint8_t *in, size_t length, uint8_t *out, size_t out_capacity)
{
    /* LZ4's front writes up to length - 1 bytes. */
    return out_capacity >= length - 1 ? lz4_pack(in, length, out) : 0;
}

static size_t pack_zstd(PackContext *context, int level, const uint8_t *in, size_t length,
                        uint8_t *out, size_t out_capacity)
{
    if (!context->packer)
        context->packer = ZSTD_createCCtx();
    /* Without the memory for it, things are sent as they are. */
    return context->packer ? zstd_pack(context->packer, level ? level : PACK_DEFAULT_LEVEL, in,
                                       length, out, out_capacity)
                           : 0;
}

size_t pack(PackContext *context, PackMethod method, int level, const void *in, size_t length,
            void *out, size_t out_capacity)
{
    if (length == 0 || length > PACK_MAX_BYTES)
        return 0;
    switch (method) {
    case PACK_LZ4:
        return pack_lz4(in, length, out, out_capacity);
    case PACK_ZSTD:
        return pack_zstd(context, level, in, length, out, out_capacity);
    case PACK_NONE:
        break;
    }
    return 0;
}

static gboolean unpack_zstd(PackContext *context, const uint8_t *in, size_t packed_length,
                            uint8_t *out, size_t length, GError **error)
{
    if (!context->unpacker)
        context->unpacker = ZSTD_createDCtx();
    if (!context->unpacker) {
        error_set(error, VMFERRY_ERROR_NO_SPACE, "no memory to unpack a zstd frame");
        return FALSE;
    }
    return zstd_unpack(context->unpacker, in, packed_length, out, length, error);
}

static gboolean copy(const uint8_t *in, size_t packed_length, uint8_t *out, size_t length,
                     GError **error)
{
    if (packed_length != length) {
        error_set(error, VMFERRY_ERROR_INVALID, "%zu bytes where %zu were announced", packed_length,
                  length);
        return FALSE;
    }
    if (length > 0)
        memcpy(out, in, length);
    return TRUE;
}

gboolean unpack(PackContext *context, PackMethod method, const void *in, size_t packed_length,
                void *out, size_t length, GError **error)
{
    switch (method) {
    case PACK_NONE:
        return copy(in, packed_length, out, length, error);
    case PACK_LZ4:
        return lz4_unpack(in, packed_length, out, length, error);
    case PACK_ZSTD:
        return unpack_zstd(context, in, packed_length, out, length, error);
    }
    error_set(error, VMFERRY_ERROR_INVALID, "packed by unknown method %u", (guint)method);
    return FALSE;
}

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
