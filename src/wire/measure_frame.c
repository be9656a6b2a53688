#include "wire/measure_frame.h"

#include <string.h>

#include "base/bytes.h"
#include "base/error.h"

G_STATIC_ASSERT(FRAME_MEASURED_BYTES == sizeof(uint64_t) + sizeof(uint64_t));

void measure_frame_encode_head(uint64_t number, uint8_t out[FRAME_MEASURE_HEAD_BYTES])
{
    uint64_t little = GUINT64_TO_LE(number);

    memcpy(out, &little, sizeof little);
}

gboolean measure_frame_decode(const uint8_t *payload, size_t length, uint64_t *ret_number,
                              GError **error)
{
    ByteReader reader = byte_reader_make(payload, length);
    uint64_t number = byte_read_le64(&reader);

    if (!byte_reader_ok(&reader)) {
        error_set(error, VMFERRY_ERROR_INVALID, "MEASURE: malformed frame of %zu bytes", length);
        return FALSE;
    }
    *ret_number = number;
    return TRUE;
}

void measured_frame_encode(const MeasuredFrame *frame, uint8_t out[FRAME_MEASURED_BYTES])
{
    uint64_t number = GUINT64_TO_LE(frame->number);
    uint64_t bytes = GUINT64_TO_LE(frame->bytes);

    memcpy(out, &number, sizeof number);
    memcpy(out + sizeof number, &bytes, sizeof bytes);
}

gboolean measured_frame_decode(const uint8_t *payload, size_t length, MeasuredFrame *ret,
                               GError **error)
{
    ByteReader reader = byte_reader_make(payload, length);
    MeasuredFrame frame = {.number = byte_read_le64(&reader)};

    frame.bytes = byte_read_le64(&reader);
    if (!byte_reader_ok(&reader) || reader.left > 0) {
        error_set(error, VMFERRY_ERROR_INVALID, "MEASURED: malformed frame of %zu bytes", length);
        return FALSE;
    }
    *ret = frame;
    return TRUE;
}
