/*
 * A piece of an epoch's disk writes, as it is sent
 *
 *     0   le32  packing: 0 none, 1 one LZ4 block
 *     4   le32  bytes of the records when unpacked, 1 to WRITE_PIECE_MAX_BYTES
 *     8   …     whole records (write_batch.h)
 */
#pragma once

#include <glib.h>
#include <stdint.h>

#include "disk/write_batch.h"

#define WRITE_PIECE_HEAD_BYTES 8u
#define WRITE_PIECE_MAX_BYTES (256u << 10)

/* Puts the next piece in place of what *out* has; *pack*: smaller, where that can be.  FALSE where
 * nothing of the batch is left. */
gboolean write_piece_encode(WriteBatchWalk *walk, gboolean pack, GByteArray *out);

/* Puts the records in place of what *records* has; they are checked by who reads them.  INVALID where
 * it is malformed. */
gboolean write_piece_decode(const void *payload, size_t length, GByteArray *records,
                            GError **error);
