#include "wire/store_frame.h"

#include <string.h>

#include "base/bytes.h"
#include "base/error.h"

/* No guest has as many: sums of them fit. */
#define MOST_PAGES (1ULL << 40)

static void put_number(uint64_t value, uint8_t *out)
{
    uint64_t little = GUINT64_TO_LE(value);

    memcpy(out, &little, sizeof little);
}

void stored_frame_encode(const StoredFrame *frame, uint8_t out[FRAME_STORED_BYTES])
{
    out[0] = frame->sealed ? 1 : 0;
    put_number(frame->pages, out + 1);
}

gboolean stored_frame_decode(const uint8_t *payload, size_t length, StoredFrame *ret,
                             GError **error)
{
    ByteReader reader = byte_reader_make(payload, length);
    uint8_t sealed = byte_read_u8(&reader);
    uint64_t pages = byte_read_le64(&reader);

    if (!byte_reader_ok(&reader) || reader.left > 0 || sealed > 1 || pages > MOST_PAGES) {
        error_set(error, VMFERRY_ERROR_INVALID, "malformed STORED frame");
        return FALSE;
    }
    *ret = (StoredFrame){sealed == 1, pages};
    return TRUE;
}

void uncovered_frame_encode(uint64_t pages, uint8_t out[FRAME_UNCOVERED_BYTES])
{
    put_number(pages, out);
}

gboolean uncovered_frame_decode(const uint8_t *payload, size_t length, uint64_t *ret,
                                GError **error)
{
    ByteReader reader = byte_reader_make(payload, length);
    uint64_t pages = byte_read_le64(&reader);

    if (!byte_reader_ok(&reader) || reader.left > 0 || pages > MOST_PAGES) {
        error_set(error, VMFERRY_ERROR_INVALID, "malformed UNCOVERED frame");
        return FALSE;
    }
    *ret = pages;
    return TRUE;
}
