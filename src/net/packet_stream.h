/*
 * The stream of a guest's packets that its VMM hands over, and takes back
 *
 * Theory of operation: a frame is
 *
 *     be32  length of what follows the next field
 *     be32  of that, length of the virtio-net header in front of the packet
 *     header, packet
 *
 * one after the other (QEMU's filter-redirector with vnet_hdr_support).  They are given back as
 * they came, so all that has to be known of one is where it ends.  The VMM's process may have been
 * taken over by its guest: lengths are checked, and the reader's memory is fixed.  Pure.
 */
#pragma once

#include <glib.h>
#include <stddef.h>
#include <stdint.h>

#define PACKET_FRAME_HEADER_BYTES 8u
/* What QEMU takes (NET_BUFSIZE): it gives up a stream with a longer one. */
#define PACKET_MAX_BYTES (4096u + 65536u)
#define PACKET_MAX_FRAME_BYTES (PACKET_FRAME_HEADER_BYTES + PACKET_MAX_BYTES)
/* The longest virtio-net header by now has 24 bytes. */
#define PACKET_MAX_VNET_BYTES 64u

/* Bytes of the frame that *data* begins with, in *ret_length: 0 where it is not all there yet.
 * FALSE (INVALID) where these bytes are no frame. */
gboolean packet_frame_measure(const uint8_t *data, size_t available, size_t *ret_length,
                              GError **error);

/* QEMU's own announcement of a card (a reverse ARP) comes without the virtio-net header that its
 * frame tells, since QEMU marks it otherwise, and would be sent as rubbish.  Where a whole frame is
 * one: the bytes of the header that it lacks behind the frame's own; 0 for all others. */
size_t packet_frame_lacks(const uint8_t *frame, size_t length);

/* Cuts what comes in pieces of any size into frames. */
typedef struct PacketReader PacketReader;

PacketReader *packet_reader_new(void);
void packet_reader_free(PacketReader *reader);

/* Where the next bytes go, and how many there is room for: at least one where
 * packet_reader_next() has given all frames that were there. */
uint8_t *packet_reader_get_room(PacketReader *reader, size_t *ret_bytes);

/* So many were put there. */
void packet_reader_add(PacketReader *reader, size_t bytes);

/* The next whole frame, borrowed until packet_reader_get_room(); *ret_frame is NULL where there is
 * none.  After FALSE the stream cannot be read any further. */
gboolean packet_reader_next(PacketReader *reader, const uint8_t **ret_frame, size_t *ret_length,
                            GError **error);
