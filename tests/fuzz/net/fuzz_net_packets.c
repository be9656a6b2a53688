/* The stream of a guest's packets: the frames that are cut from it are those that it has, whatever
 * the pieces in which it comes.  The first byte says how long these are. */
#include <stdlib.h>
#include <string.h>

#include "net/packet_stream.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* All that the reader has; the frames that came out are *data* up to *at*.  FALSE at a broken one. */
static gboolean take_frames(PacketReader *reader, const uint8_t *data, size_t size, size_t *at)
{
    const uint8_t *frame;
    size_t length;

    do {
        if (!packet_reader_next(reader, &frame, &length, NULL))
            return FALSE;
        if (!frame)
            return TRUE;
        if (length <= PACKET_FRAME_HEADER_BYTES || length > PACKET_MAX_FRAME_BYTES ||
            length > size - *at || memcmp(frame, data + *at, length) != 0)
            abort();
        if (packet_frame_lacks(frame, length) > PACKET_MAX_VNET_BYTES)
            abort();
        *at += length;
    } while (TRUE);
}

/* Returns how far the frames go; *ret_broken: what comes then is none. */
static size_t read_in_pieces(const uint8_t *data, size_t size, size_t piece, gboolean *ret_broken)
{
    PacketReader *reader = packet_reader_new();
    size_t at = 0, given = 0;

    *ret_broken = FALSE;
    while (given < size && !*ret_broken) {
        size_t room;
        uint8_t *to = packet_reader_get_room(reader, &room);
        size_t bytes = MIN(MIN(room, piece), size - given);

        if (room == 0)
            abort();
        memcpy(to, data + given, bytes);
        packet_reader_add(reader, bytes);
        given += bytes;
        *ret_broken = !take_frames(reader, data, size, &at);
    }
    packet_reader_free(reader);
    return at;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    gboolean whole_broken, pieces_broken;
    size_t whole, pieces;

    if (size == 0)
        return 0;
    whole = read_in_pieces(data + 1, size - 1, size, &whole_broken);
    pieces = read_in_pieces(data + 1, size - 1, (size_t)data[0] + 1, &pieces_broken);
    if (whole != pieces || whole_broken != pieces_broken)
        abort();
    return 0;
}
