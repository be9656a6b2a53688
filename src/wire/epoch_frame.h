/*
 * What an epoch has besides its pages: DEVICE_STATE, DIGESTS and its seal
 *
 *     DEVICE_STATE    0   u64  bytes of the whole device state
 *                     8   u64  offset of this piece
 *                     16  …    1 to FRAME_DEVICE_STATE_PIECE_BYTES
 *
 *     DIGESTS         0   u32  region (index in the GUEST message)
 *                     4   u64  first page
 *                     12  …    u64 XXH3-64 of each page, 1 to FRAME_DIGESTS_MAX_PAGES
 *
 *     EPOCH_SEAL      0   u32  number of the epoch
 *                     4   u64  bytes of the device state in it, 0 for none
 *
 *     EPOCH_APPLIED   0   u32  number of the epoch
 *
 *     BULK_BARRIER    0   u32  number of the barrier
 *                     4   u64  on the first channel: which further ones have it, bit n for number n
 *
 * Theory of operation: encoders append to *out*; decoders check everything that can be known from the frame
 * alone, borrow from the payload, and allocate nothing.  Whether pieces and
 * numbers follow each other is for who receives the epoch (transfer/epoch.h).
 */
#pragma once

#include <glib.h>
#include <stdint.h>

#include "base/bytes.h"
#include "wire/frame.h"

typedef struct {
    uint64_t total, offset;
    const uint8_t *bytes; /* borrowed */
    size_t length;
} StatePiece;

/* Appends the head; the piece's bytes are sent behind it. */
void state_frame_encode_head(GByteArray *out, uint64_t total, uint64_t offset);

/* INVALID where it is empty or goes beyond the total, or that beyond
 * FRAME_DEVICE_STATE_MAX_BYTES. */
gboolean state_frame_decode(const uint8_t *payload, size_t length, StatePiece *ret, GError **error);

/* A walk over the digests of one frame. */
typedef struct {
    uint32_t region;
    uint64_t first, count; /* pages */
    ByteReader reader;
} DigestFrame;

void digest_frame_encode_head(GByteArray *out, uint32_t region, uint64_t first_page);
void digest_frame_append(GByteArray *out, uint64_t digest);

/* INVALID where it has no digest or half of one, or names pages outside a region
 * (0 pages: one that is not to be read). */
gboolean digest_frame_decode(const uint8_t *payload, size_t length, const uint64_t *region_pages,
                             size_t region_count, DigestFrame *ret, GError **error);

/* The next page's; called *count* times. */
uint64_t digest_frame_next(DigestFrame *frame);

typedef struct {
    uint32_t number;
    uint64_t state_bytes;
} EpochSeal;

void seal_frame_encode(GByteArray *out, const EpochSeal *seal);
/* INVALID where the state is longer than FRAME_DEVICE_STATE_MAX_BYTES. */
gboolean seal_frame_decode(const uint8_t *payload, size_t length, EpochSeal *ret, GError **error);

typedef struct {
    uint32_t number;
    uint64_t channels;
} BulkBarrier;

void barrier_frame_encode(GByteArray *out, const BulkBarrier *barrier);
/* INVALID where it names a channel that is no further one. */
gboolean barrier_frame_decode(const uint8_t *payload, size_t length, BulkBarrier *ret,
                              GError **error);

void applied_frame_encode(GByteArray *out, uint32_t number);
gboolean applied_frame_decode(const uint8_t *payload, size_t length, uint32_t *ret_number,
                              GError **error);
