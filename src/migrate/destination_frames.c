#include "migrate/destination_move.h"

#include "base/bytes.h"
#include "base/error.h"
#include "base/fault.h"
#include "wire/messages.h"

gboolean destination_end_round(DestinationMove *move, const Frame *frame, GError **error)
{
    if (fault_point("destination.round-applied", error))
        return FALSE;
    return channel_send_bytes(move->channel, FRAME_ROUND_APPLIED, frame->payload, frame->length,
                              error);
}

gboolean destination_take_state(DestinationMove *move, const Frame *frame, GError **error)
{
    ByteReader reader = byte_reader_make(frame->payload, frame->length);
    uint64_t total = byte_read_le64(&reader);
    uint64_t offset = byte_read_le64(&reader);
    size_t piece = reader.left;

    if (!move->state) {
        move->state = g_byte_array_new();
        move->state_bytes = total;
    }
    if (!byte_reader_ok(&reader) || total > MESSAGE_MAX_DEVICE_STATE_BYTES ||
        total != move->state_bytes || offset != move->state->len || piece > total - offset) {
        error_set(error, VMFERRY_ERROR_INVALID, "malformed DEVICE_STATE frame");
        return FALSE;
    }
    byte_write_span(move->state, reader.at, piece);
    return TRUE;
}
