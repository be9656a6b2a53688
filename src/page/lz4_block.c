#include "page/lz4_block.h"

#include <lz4.h>

#include "base/error.h"

/* What can't be packed is recognised sooner, at a few percent of the gain. */
#define ACCELERATION 2

size_t lz4_bound(size_t length)
{
    return (size_t)LZ4_compressBound((int)length);
}

size_t lz4_pack(const uint8_t *in, size_t length, uint8_t *out)
{
    /* With less room than the input, LZ4 gives up where nothing is gained. */
    int packed = LZ4_compress_fast((const char *)in, (char *)out, (int)length, (int)length - 1,
                                   ACCELERATION);

    return packed > 0 ? (size_t)packed : 0;
}

gboolean lz4_unpack(const uint8_t *in, size_t packed_length, uint8_t *out, size_t length,
                    GError **error)
{
    if (packed_length <= G_MAXINT && length <= G_MAXINT &&
        LZ4_decompress_safe((const char *)in, (char *)out, (int)packed_length, (int)length) ==
            (int)length)
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "LZ4 block of %zu bytes does not make %zu bytes",
              packed_length, length);
    return FALSE;
}
