#include "wire/epoch_frame.h"

#include <inttypes.h>

#include "base/error.h"

G_STATIC_ASSERT(FRAME_DEVICE_STATE_HEADER_BYTES == 8 + 8);
G_STATIC_ASSERT(FRAME_DIGESTS_HEADER_BYTES == 4 + 8);
G_STATIC_ASSERT(FRAME_EPOCH_SEAL_BYTES == 4 + 8 && FRAME_EPOCH_APPLIED_BYTES == 4);
G_STATIC_ASSERT(FRAME_BULK_BARRIER_BYTES == 4 + 8);

static gboolean cut_short(const char *name, size_t length, GError **error)
{
    error_set(error, VMFERRY_ERROR_INVALID, "%s: malformed frame of %zu bytes", name, length);
    return FALSE;
}

void state_frame_encode_head(GByteArray *out, uint64_t total, uint64_t offset)
{
    byte_write_le64(out, total);
    byte_write_le64(out, offset);
}

gboolean state_frame_decode(const uint8_t *payload, size_t length, StatePiece *ret, GError **error)
{
    ByteReader reader = byte_reader_make(payload, length);
    StatePiece piece;

    piece.total = byte_read_le64(&reader);
    piece.offset = byte_read_le64(&reader);
    piece.bytes = reader.at;
    piece.length = reader.left;
    if (!byte_reader_ok(&reader) || piece.length == 0 ||
        piece.length > FRAME_DEVICE_STATE_PIECE_BYTES)
        return cut_short("DEVICE_STATE", length, error);
    /* Written so that no sum can overflow. */
    if (piece.total > FRAME_DEVICE_STATE_MAX_BYTES || piece.offset > piece.total ||
        piece.length > piece.total - piece.offset) {
        error_set(error, VMFERRY_ERROR_INVALID,
                  "DEVICE_STATE: %zu bytes at %" PRIu64 " of %" PRIu64 "; at most %u are allowed",
                  piece.length, piece.offset, piece.total, FRAME_DEVICE_STATE_MAX_BYTES);
        return FALSE;
    }
    *ret = piece;
    return TRUE;
}

void digest_frame_encode_head(GByteArray *out, uint32_t region, uint64_t first_page)
{
    byte_write_le32(out, region);
    byte_write_le64(out, first_page);
}

void digest_frame_append(GByteArray *out, uint64_t digest)
{
    byte_write_le64(out, digest);
}

gboolean digest_frame_decode(const uint8_t *payload, size_t length, const uint64_t *region_pages,
                             size_t region_count, DigestFrame *ret, GError **error)
{
    DigestFrame frame = {.reader = byte_reader_make(payload, length)};

    frame.region = byte_read_le32(&frame.reader);
    frame.first = byte_read_le64(&frame.reader);
    frame.count = frame.reader.left / 8;
    if (!byte_reader_ok(&frame.reader) || frame.count == 0 || frame.reader.left % 8 ||
        frame.count > FRAME_DIGESTS_MAX_PAGES)
        return cut_short("DIGESTS", length, error);
    if (frame.region >= region_count) {
        error_set(error, VMFERRY_ERROR_INVALID, "DIGESTS: region %u of %zu", frame.region,
                  region_count);
        return FALSE;
    }
    if (frame.first > region_pages[frame.region] ||
        frame.count > region_pages[frame.region] - frame.first) {
        error_set(error, VMFERRY_ERROR_INVALID,
                  "DIGESTS: %" PRIu64 " pages from page %" PRIu64
                  " are outside their region of %" PRIu64 " pages",
                  frame.count, frame.first, region_pages[frame.region]);
        return FALSE;
    }
    *ret = frame;
    return TRUE;
}

uint64_t digest_frame_next(DigestFrame *frame)
{
    return byte_read_le64(&frame->reader);
}

void seal_frame_encode(GByteArray *out, const EpochSeal *seal)
{
    byte_write_le32(out, seal->number);
    byte_write_le64(out, seal->state_bytes);
}

gboolean seal_frame_decode(const uint8_t *payload, size_t length, EpochSeal *ret, GError **error)
{
    ByteReader reader = byte_reader_make(payload, length);
    EpochSeal seal;

    seal.number = byte_read_le32(&reader);
    seal.state_bytes = byte_read_le64(&reader);
    if (!byte_reader_ok(&reader) || reader.left > 0)
        return cut_short("EPOCH_SEAL", length, error);
    if (seal.state_bytes > FRAME_DEVICE_STATE_MAX_BYTES) {
        error_set(error, VMFERRY_ERROR_INVALID,
                  "EPOCH_SEAL: device state of %" PRIu64 " bytes; at most %u are allowed",
                  seal.state_bytes, FRAME_DEVICE_STATE_MAX_BYTES);
        return FALSE;
    }
    *ret = seal;
    return TRUE;
}

void applied_frame_encode(GByteArray *out, uint32_t number)
{
    byte_write_le32(out, number);
}

gboolean applied_frame_decode(const uint8_t *payload, size_t length, uint32_t *ret_number,
                              GError **error)
{
    ByteReader reader = byte_reader_make(payload, length);
    uint32_t number = byte_read_le32(&reader);

    if (!byte_reader_ok(&reader) || reader.left > 0)
        return cut_short("EPOCH_APPLIED", length, error);
    *ret_number = number;
    return TRUE;
}

void barrier_frame_encode(GByteArray *out, const BulkBarrier *barrier)
{
    byte_write_le32(out, barrier->number);
    byte_write_le64(out, barrier->channels);
}

gboolean barrier_frame_decode(const uint8_t *payload, size_t length, BulkBarrier *ret,
                              GError **error)
{
    ByteReader reader = byte_reader_make(payload, length);
    BulkBarrier barrier;

    barrier.number = byte_read_le32(&reader);
    barrier.channels = byte_read_le64(&reader);
    /* Bit 0 would be the first channel. */
    if (!byte_reader_ok(&reader) || reader.left > 0 || (barrier.channels & 1))
        return cut_short("BULK_BARRIER", length, error);
    *ret = barrier;
    return TRUE;
}
