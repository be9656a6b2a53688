#include "transfer/epoch.h"

#include <inttypes.h>

#include "base/error.h"
#include "wire/epoch_frame.h"

/* --- sender ------------------------------------------------------------ */

EpochSender epoch_sender_make(Channel *channel, PageSender *pages)
{
    return (EpochSender){.channel = channel, .pages = pages};
}

gboolean epoch_sender_add_state(EpochSender *sender, GBytes *state, GError **error)
{
    size_t total;
    const uint8_t *bytes = g_bytes_get_data(state, &total);
    g_autoptr(GByteArray) head = g_byte_array_new();

    for (size_t at = 0; at < total;) {
        size_t piece = MIN(FRAME_DEVICE_STATE_PIECE_BYTES, total - at);
        struct iovec parts[2];

        g_byte_array_set_size(head, 0);
        state_frame_encode_head(head, total, at);
        parts[0] = (struct iovec){head->data, head->len};
        parts[1] = (struct iovec){(void *)(bytes + at), piece};
        if (!channel_send(sender->channel, FRAME_DEVICE_STATE, parts, 2, error))
            return FALSE;
        at += piece;
    }
    sender->state_bytes = total;
    return TRUE;
}

gboolean epoch_sender_add_barrier(EpochSender *sender, GError **error)
{
    return page_sender_flush(sender->pages, error) &&
           channel_send_bytes(sender->channel, FRAME_EPOCH_BARRIER, NULL, 0, error);
}

gboolean epoch_sender_seal(EpochSender *sender, GError **error)
{
    EpochSeal seal = {sender->number, sender->state_bytes};
    g_autoptr(GByteArray) payload = g_byte_array_new();

    seal_frame_encode(payload, &seal);
    if (!page_sender_flush(sender->pages, error) ||
        !channel_send_bytes(sender->channel, FRAME_EPOCH_SEAL, payload->data, payload->len, error))
        return FALSE;
    sender->number++;
    sender->state_bytes = 0;
    return TRUE;
}

gboolean epoch_sender_take_applied(EpochSender *sender, const Frame *frame, GError **error)
{
    uint32_t number;

    if (!applied_frame_decode(frame->payload, frame->length, &number, error))
        return FALSE;
    if (number != sender->applied || number == sender->number) {
        error_set(error, VMFERRY_ERROR_INVALID,
                  "EPOCH_APPLIED %u where %u were sealed and %u applied before", number,
                  sender->number, sender->applied);
        return FALSE;
    }
    sender->applied++;
    return TRUE;
}

gboolean epoch_sender_is_applied(const EpochSender *sender)
{
    return sender->applied == sender->number;
}

/* --- receiver ---------------------------------------------------------- */

struct EpochReceiver {
    PageSink *sink;
    PageApplier *applier;
    uint32_t number;   /* of the epoch that is being filled */
    gboolean begun;    /* something of it has come */
    GByteArray *state; /* of this epoch as far as it came; NULL: nothing of it */
    uint64_t state_bytes;
    GBytes *sealed_state; /* of the epoch before; NULL: there was none */
};

EpochReceiver *epoch_receiver_new(PageSink *sink, PageApplier *applier)
{
    EpochReceiver *receiver = g_new0(EpochReceiver, 1);

    receiver->sink = sink;
    receiver->applier = applier;
    return receiver;
}

void epoch_receiver_free(EpochReceiver *receiver)
{
    if (!receiver)
        return;
    g_clear_pointer(&receiver->state, g_byte_array_unref);
    g_clear_pointer(&receiver->sealed_state, g_bytes_unref);
    g_free(receiver);
}

gboolean epoch_receiver_take_pages(EpochReceiver *receiver, const Frame *frame, gpointer owner,
                                   GError **error)
{
    receiver->begun = TRUE;
    return page_applier_push(receiver->applier, frame, owner, error);
}

gboolean epoch_receiver_take_state(EpochReceiver *receiver, const Frame *frame, GError **error)
{
    StatePiece piece;

    if (!state_frame_decode(frame->payload, frame->length, &piece, error))
        return FALSE;
    if (!receiver->state) {
        receiver->state = g_byte_array_new();
        receiver->state_bytes = piece.total;
        receiver->begun = TRUE;
    }
    if (piece.total != receiver->state_bytes || piece.offset != receiver->state->len) {
        error_set(error, VMFERRY_ERROR_INVALID,
                  "DEVICE_STATE: %" PRIu64 " of %" PRIu64 " bytes where %u of %" PRIu64
                  " have come",
                  piece.offset, piece.total, receiver->state->len, receiver->state_bytes);
        return FALSE;
    }
    g_byte_array_append(receiver->state, piece.bytes, (guint)piece.length);
    return TRUE;
}

void epoch_receiver_drop_state(EpochReceiver *receiver)
{
    g_clear_pointer(&receiver->state, g_byte_array_unref);
    g_clear_pointer(&receiver->sealed_state, g_bytes_unref);
}

gboolean epoch_receiver_take_barrier(EpochReceiver *receiver, GError **error)
{
    receiver->begun = TRUE;
    return page_applier_drain(receiver->applier, error);
}

static gboolean check_seal(const EpochReceiver *receiver, const EpochSeal *seal, GError **error)
{
    guint came = receiver->state ? receiver->state->len : 0;
    uint64_t announced = receiver->state ? receiver->state_bytes : 0;

    if (seal->number != receiver->number) {
        error_set(error, VMFERRY_ERROR_INVALID, "EPOCH_SEAL %u where %u was expected", seal->number,
                  receiver->number);
        return FALSE;
    }
    if (seal->state_bytes != came || announced != came) {
        error_set(error, VMFERRY_ERROR_INVALID,
                  "EPOCH_SEAL: device state of %" PRIu64 " bytes, of which %u have come",
                  MAX(seal->state_bytes, announced), came);
        return FALSE;
    }
    return TRUE;
}

gboolean epoch_receiver_seal(EpochReceiver *receiver, const Frame *frame, GError **error)
{
    EpochSeal seal;

    if (!seal_frame_decode(frame->payload, frame->length, &seal, error) ||
        !check_seal(receiver, &seal, error) ||
        (receiver->applier && (!page_applier_drain(receiver->applier, error) ||
                               !page_sink_seal(receiver->sink, seal.number, error))))
        return FALSE;
    g_clear_pointer(&receiver->sealed_state, g_bytes_unref);
    if (receiver->state)
        receiver->sealed_state = g_byte_array_free_to_bytes(g_steal_pointer(&receiver->state));
    receiver->number++;
    receiver->begun = FALSE;
    return TRUE;
}

gboolean epoch_receiver_confirm(EpochReceiver *receiver, Channel *channel, GError **error)
{
    g_autoptr(GByteArray) payload = g_byte_array_new();

    applied_frame_encode(payload, receiver->number - 1);
    return channel_send_bytes(channel, FRAME_EPOCH_APPLIED, payload->data, payload->len, error);
}

GBytes *epoch_receiver_get_state(EpochReceiver *receiver, GError **error)
{
    if (receiver->sealed_state && !receiver->begun)
        return g_bytes_ref(receiver->sealed_state);
    error_set(error, VMFERRY_ERROR_INVALID, "there is no sealed epoch with a device state");
    return NULL;
}
