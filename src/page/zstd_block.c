#include "page/zstd_block.h"

#include <string.h>

#include "base/error.h"

size_t zstd_bound(size_t length)
{
    return ZSTD_compressBound(length);
}

size_t zstd_pack(ZSTD_CCtx *context, int level, const uint8_t *in, size_t length, uint8_t *out,
                 size_t out_capacity)
{
    size_t packed;

    if (length == 0)
        return 0;
    /* With less room than the input, zstd gives up where nothing is gained. */
    packed = ZSTD_compressCCtx(context, out, MIN(out_capacity, length - 1), in, length, level);
    return ZSTD_isError(packed) ? 0 : packed;
}

/* One frame of today's format and nothing behind it.  zstd itself would also
 * take several, skippable ones, and those of versions before 0.8, for which it
 * has decoders that nobody needs here. */
static gboolean is_one_frame(const uint8_t *in, size_t packed_length, size_t length)
{
    uint32_t magic;

    if (packed_length < sizeof magic)
        return FALSE;
    memcpy(&magic, in, sizeof magic);
    return GUINT32_FROM_LE(magic) == ZSTD_MAGICNUMBER &&
           ZSTD_getFrameContentSize(in, packed_length) == length &&
           ZSTD_findFrameCompressedSize(in, packed_length) == packed_length;
}

gboolean zstd_unpack(ZSTD_DCtx *context, const uint8_t *in, size_t packed_length, uint8_t *out,
                     size_t length, GError **error)
{
    if (is_one_frame(in, packed_length, length) &&
        ZSTD_decompressDCtx(context, out, length, in, packed_length) == length)
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "zstd frame of %zu bytes does not make %zu bytes",
              packed_length, length);
    return FALSE;
}
