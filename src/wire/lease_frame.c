#include "wire/lease_frame.h"

#include <string.h>

#include "base/bytes.h"
#include "base/error.h"
#include "wire/witness_message.h"

void lease_frame_encode(const LeaseFrame *frame, uint8_t out[FRAME_LEASE_BYTES])
{
    uint64_t number = GUINT64_TO_LE(frame->number);
    uint32_t length_ms = GUINT32_TO_LE(frame->length_ms);

    memcpy(out, &number, sizeof number);
    memcpy(out + sizeof number, &length_ms, sizeof length_ms);
}

gboolean lease_frame_decode(const uint8_t *payload, size_t length, LeaseFrame *ret, GError **error)
{
    ByteReader reader = byte_reader_make(payload, length);
    uint64_t number = byte_read_le64(&reader);
    uint32_t length_ms = byte_read_le32(&reader);

    if (!byte_reader_ok(&reader) || reader.left > 0 || length_ms > WITNESS_MAX_LEASE_MS) {
        error_set(error, VMFERRY_ERROR_INVALID, "malformed LEASE frame");
        return FALSE;
    }
    *ret = (LeaseFrame){number, length_ms};
    return TRUE;
}
