#include "wire/disk_frame.h"

#include <inttypes.h>
#include <string.h>

#include "base/bytes.h"
#include "base/error.h"

G_STATIC_ASSERT(FRAME_DISK_WRITE_HEAD_BYTES == 4 + 4 + 4 + 8);
G_STATIC_ASSERT(FRAME_DISK_ZERO_BYTES == 4 + 8 + 8);
G_STATIC_ASSERT(FRAME_DISK_COMPARE_BYTES == 4 + 8 + 8 + DISK_KEY_BYTES);
G_STATIC_ASSERT(FRAME_DISK_DIGESTS_HEAD_BYTES == 4 + 8 && FRAME_DISK_SAME_HEAD_BYTES == 4 + 8 + 8);
G_STATIC_ASSERT(FRAME_DISK_FLUSH_BYTES == 8 + 1 && FRAME_DISK_DONE_BYTES == 8 + 8);

static uint8_t *put(uint8_t *out, uint64_t value, guint bytes)
{
    for (guint i = 0; i < bytes; i++)
        out[i] = (uint8_t)(value >> (8 * i));
    return out + bytes;
}

static gboolean refuse(const char *frame, size_t length, GError **error)
{
    error_set(error, VMFERRY_ERROR_INVALID, "%s: malformed frame of %zu bytes", frame, length);
    return FALSE;
}

/* What no file can have; sums of two such numbers do not overflow. */
static gboolean is_place(uint64_t offset, uint64_t length)
{
    return offset <= G_MAXINT64 && length <= G_MAXINT64 - offset;
}

void disk_write_encode_head(const DiskWrite *write, uint8_t ret[FRAME_DISK_WRITE_HEAD_BYTES])
{
    uint8_t *at = put(ret, write->file, 4);

    at = put(at, write->packing, 4);
    at = put(at, write->bytes, 4);
    put(at, write->offset, 8);
}

gboolean disk_write_decode(const uint8_t *payload, size_t length, DiskWrite *ret, GError **error)
{
    ByteReader reader = byte_reader_make(payload, length);
    DiskWrite write = {.file = byte_read_le32(&reader)};
    uint32_t packing = byte_read_le32(&reader);

    write.bytes = byte_read_le32(&reader);
    write.offset = byte_read_le64(&reader);
    write.content = reader.at;
    write.content_bytes = (uint32_t)reader.left;
    if (!byte_reader_ok(&reader) || reader.left == 0 || packing > DISK_PACKING_ZSTD ||
        write.bytes == 0 || write.bytes > FRAME_DISK_WRITE_MAX_BYTES ||
        (packing == DISK_PACKING_NONE && write.bytes != write.content_bytes) ||
        !is_place(write.offset, write.bytes))
        return refuse("DISK_WRITE", length, error);
    write.packing = (DiskPacking)packing;
    *ret = write;
    return TRUE;
}

void disk_zero_encode(const DiskZero *zero, uint8_t ret[FRAME_DISK_ZERO_BYTES])
{
    uint8_t *at = put(ret, zero->file, 4);

    at = put(at, zero->offset, 8);
    put(at, zero->length, 8);
}

gboolean disk_zero_decode(const uint8_t *payload, size_t length, DiskZero *ret, GError **error)
{
    ByteReader reader = byte_reader_make(payload, length);
    DiskZero zero = {.file = byte_read_le32(&reader)};

    zero.offset = byte_read_le64(&reader);
    zero.length = byte_read_le64(&reader);
    if (!byte_reader_ok(&reader) || reader.left > 0 || zero.length == 0 ||
        !is_place(zero.offset, zero.length))
        return refuse("DISK_ZERO", length, error);
    *ret = zero;
    return TRUE;
}

void disk_flush_encode(const DiskFlush *flush, uint8_t ret[FRAME_DISK_FLUSH_BYTES])
{
    put(put(ret, flush->number, 8), flush->last ? 1 : 0, 1);
}

gboolean disk_flush_decode(const uint8_t *payload, size_t length, DiskFlush *ret, GError **error)
{
    ByteReader reader = byte_reader_make(payload, length);
    uint64_t number = byte_read_le64(&reader);
    uint8_t last = byte_read_u8(&reader);

    if (!byte_reader_ok(&reader) || reader.left > 0 || number == 0 || last > 1)
        return refuse("DISK_FLUSH", length, error);
    *ret = (DiskFlush){number, last == 1};
    return TRUE;
}

void disk_done_encode(const DiskDone *done, uint8_t ret[FRAME_DISK_DONE_BYTES])
{
    put(put(ret, done->applied_bytes, 8), done->flushed, 8);
}

gboolean disk_done_decode(const uint8_t *payload, size_t length, DiskDone *ret, GError **error)
{
    ByteReader reader = byte_reader_make(payload, length);
    DiskDone done = {.applied_bytes = byte_read_le64(&reader)};

    done.flushed = byte_read_le64(&reader);
    if (!byte_reader_ok(&reader) || reader.left > 0)
        return refuse("DISK_DONE", length, error);
    *ret = done;
    return TRUE;
}

/* ---- what an old file has ---- */

guint disk_count_granules(uint64_t length)
{
    return (guint)((length + DISK_GRANULE_BYTES - 1) / DISK_GRANULE_BYTES);
}

/* Whole granules, but for the last one. */
static gboolean is_run(uint64_t offset, uint64_t length, guint most)
{
    return is_place(offset, length) && offset % DISK_GRANULE_BYTES == 0 && length > 0 &&
           length <= (uint64_t)most * DISK_GRANULE_BYTES;
}

void disk_compare_encode(const DiskCompare *compare, uint8_t ret[FRAME_DISK_COMPARE_BYTES])
{
    uint8_t *at = put(ret, compare->file, 4);

    at = put(at, compare->offset, 8);
    at = put(at, compare->length, 8);
    memcpy(at, compare->key, DISK_KEY_BYTES);
}

gboolean disk_compare_decode(const uint8_t *payload, size_t length, DiskCompare *ret,
                             GError **error)
{
    ByteReader reader = byte_reader_make(payload, length);
    DiskCompare compare = {.file = byte_read_le32(&reader)};

    compare.offset = byte_read_le64(&reader);
    compare.length = byte_read_le64(&reader);
    if (!byte_reader_ok(&reader) || reader.left != DISK_KEY_BYTES ||
        !is_run(compare.offset, compare.length, FRAME_DISK_DIGESTS_MOST))
        return refuse("DISK_COMPARE", length, error);
    memcpy(compare.key, reader.at, DISK_KEY_BYTES);
    *ret = compare;
    return TRUE;
}

void disk_digests_encode_head(const DiskDigests *digests,
                              uint8_t ret[FRAME_DISK_DIGESTS_HEAD_BYTES])
{
    put(put(ret, digests->file, 4), digests->offset, 8);
}

gboolean disk_digests_decode(const uint8_t *payload, size_t length, DiskDigests *ret,
                             GError **error)
{
    ByteReader reader = byte_reader_make(payload, length);
    DiskDigests digests = {.file = byte_read_le32(&reader)};
    uint64_t covered;

    digests.offset = byte_read_le64(&reader);
    digests.digests = reader.at;
    digests.count = (guint)(reader.left / FRAME_DISK_DIGEST_BYTES);
    covered = (uint64_t)digests.count * DISK_GRANULE_BYTES;
    if (!byte_reader_ok(&reader) || reader.left % FRAME_DISK_DIGEST_BYTES != 0 ||
        digests.count > FRAME_DISK_DIGESTS_MOST || !is_place(digests.offset, covered) ||
        digests.offset % DISK_GRANULE_BYTES != 0)
        return refuse("DISK_DIGESTS", length, error);
    *ret = digests;
    return TRUE;
}

void disk_same_encode_head(const DiskSame *same, uint8_t ret[FRAME_DISK_SAME_HEAD_BYTES])
{
    uint8_t *at = put(ret, same->file, 4);

    at = put(at, same->offset, 8);
    put(at, same->length, 8);
}

gboolean disk_same_decode(const uint8_t *payload, size_t length, DiskSame *ret, GError **error)
{
    ByteReader reader = byte_reader_make(payload, length);
    DiskSame same = {.file = byte_read_le32(&reader)};

    same.offset = byte_read_le64(&reader);
    same.length = byte_read_le64(&reader);
    same.digests = reader.at;
    if (!byte_reader_ok(&reader) || !is_run(same.offset, same.length, FRAME_DISK_SAME_MOST) ||
        reader.left != (size_t)disk_count_granules(same.length) * FRAME_DISK_DIGEST_BYTES)
        return refuse("DISK_SAME", length, error);
    *ret = same;
    return TRUE;
}
