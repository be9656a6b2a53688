#include "net/packet_stream.h"

#include <string.h>

#include "base/bytes.h"
#include "base/error.h"

/* Some packets of a busy guest come at once. */
#define READER_BYTES (2u * PACKET_MAX_FRAME_BYTES)

struct PacketReader {
    size_t start, end; /* of what has not been given out */
    uint8_t bytes[READER_BYTES];
};

gboolean packet_frame_measure(const uint8_t *data, size_t available, size_t *ret_length,
                              GError **error)
{
    ByteReader reader = byte_reader_make(data, available);
    uint32_t length = byte_read_be32(&reader), vnet = byte_read_be32(&reader);

    *ret_length = 0;
    if (!byte_reader_ok(&reader))
        return TRUE;
    if (length == 0 || length > PACKET_MAX_BYTES || vnet > PACKET_MAX_VNET_BYTES || vnet > length) {
        error_set(error, VMFERRY_ERROR_INVALID,
                  "the VMM's stream of packets is broken: a packet of %u bytes, %u of them its "
                  "virtio-net header",
                  length, vnet);
        return FALSE;
    }
    if (reader.left >= length)
        *ret_length = PACKET_FRAME_HEADER_BYTES + length;
    return TRUE;
}

/* Broadcast to all; no virtio-net header begins so. */
static const uint8_t everybody[6] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
#define ANNOUNCEMENT_BYTES 60u
#define TYPE_AT 12u
#define TYPE_REVERSE_ARP 0x8035u

size_t packet_frame_lacks(const uint8_t *frame, size_t length)
{
    ByteReader reader = byte_reader_make(frame, length);
    uint32_t bytes = byte_read_be32(&reader), vnet = byte_read_be32(&reader);
    const uint8_t *packet = byte_read_span(&reader, TYPE_AT);
    uint16_t type = byte_read_be16(&reader);

    return byte_reader_ok(&reader) && bytes == ANNOUNCEMENT_BYTES && type == TYPE_REVERSE_ARP &&
                   memcmp(packet, everybody, sizeof everybody) == 0
               ? vnet
               : 0;
}

PacketReader *packet_reader_new(void)
{
    return g_new0(PacketReader, 1);
}

void packet_reader_free(PacketReader *reader)
{
    g_free(reader);
}

uint8_t *packet_reader_get_room(PacketReader *reader, size_t *ret_bytes)
{
    memmove(reader->bytes, reader->bytes + reader->start, reader->end - reader->start);
    reader->end -= reader->start;
    reader->start = 0;
    *ret_bytes = READER_BYTES - reader->end;
    return reader->bytes + reader->end;
}

void packet_reader_add(PacketReader *reader, size_t bytes)
{
    g_assert(bytes <= READER_BYTES - reader->end);
    reader->end += bytes;
}

gboolean packet_reader_next(PacketReader *reader, const uint8_t **ret_frame, size_t *ret_length,
                            GError **error)
{
    const uint8_t *at = reader->bytes + reader->start;

    *ret_frame = NULL;
    if (!packet_frame_measure(at, reader->end - reader->start, ret_length, error))
        return FALSE;
    if (*ret_length == 0)
        return TRUE;
    *ret_frame = at;
    reader->start += *ret_length;
    return TRUE;
}
