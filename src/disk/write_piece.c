#include "disk/write_piece.h"

#include <string.h>

#include "base/error.h"
#include "page/lz4_block.h"

enum { PACKING_NONE, PACKING_LZ4 };

static void put_head(GByteArray *out, uint32_t packing, uint32_t bytes)
{
    byte_write_le32(out, packing);
    byte_write_le32(out, bytes);
}

/* FALSE where it would not become smaller. */
static gboolean put_packed(GByteArray *out, const GByteArray *records)
{
    g_autofree uint8_t *packed = g_malloc(lz4_bound(records->len));
    size_t length = lz4_pack(records->data, records->len, packed);

    if (length == 0)
        return FALSE;
    put_head(out, PACKING_LZ4, records->len);
    byte_write_span(out, packed, length);
    return TRUE;
}

gboolean write_piece_encode(WriteBatchWalk *walk, gboolean pack, GByteArray *out)
{
    g_autoptr(GByteArray) records = g_byte_array_new();

    g_byte_array_set_size(out, 0);
    if (!write_batch_encode(walk, WRITE_PIECE_MAX_BYTES, records))
        return FALSE;
    if (pack && put_packed(out, records))
        return TRUE;
    put_head(out, PACKING_NONE, records->len);
    byte_write_span(out, records->data, records->len);
    return TRUE;
}

static gboolean take_records(ByteReader *reader, uint32_t packing, uint32_t bytes,
                             GByteArray *records)
{
    g_byte_array_set_size(records, bytes);
    if (packing == PACKING_LZ4)
        return lz4_unpack(reader->at, reader->left, records->data, bytes, NULL);
    if (packing != PACKING_NONE || reader->left != bytes)
        return FALSE;
    memcpy(records->data, reader->at, bytes);
    return TRUE;
}

gboolean write_piece_decode(const void *payload, size_t length, GByteArray *records, GError **error)
{
    ByteReader reader = byte_reader_make(payload, length);
    uint32_t packing = byte_read_le32(&reader), bytes = byte_read_le32(&reader);

    if (!byte_reader_ok(&reader) || bytes == 0 || bytes > WRITE_PIECE_MAX_BYTES ||
        !take_records(&reader, packing, bytes, records)) {
        error_set(error, VMFERRY_ERROR_INVALID, "a malformed piece of disk writes, of %zu bytes",
                  length);
        return FALSE;
    }
    return TRUE;
}
