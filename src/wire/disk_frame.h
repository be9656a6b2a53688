/*
 * The content of disks: DISK_WRITE, DISK_ZERO, DISK_FLUSH, DISK_DONE; and what an old file has of it
 * already: DISK_COMPARE, DISK_DIGESTS, DISK_SAME
 *
 *     DISK_WRITE   0   u32  number of the file in DISKS
 *                  4   u32  packing: 0 none, 1 a zstd frame
 *                  8   u32  bytes when unpacked, 1 to FRAME_DISK_WRITE_MAX_BYTES
 *                  12  u64  offset in bytes
 *                  20  …    the content
 *
 *     DISK_ZERO    0   u32  number of the file
 *                  4   u64  offset in bytes
 *                  12  u64  length in bytes
 *
 *     DISK_FLUSH   0   u64  number, one more each time, from 1
 *                  8   u8   1: the last frame about disks, 0: not
 *
 *     DISK_DONE    0   u64  bytes of the payloads of WRITE, ZERO and SAME frames that are applied,
 *                           since the start
 *                  8   u64  number of the last flush that is done; 0: none
 *
 *     DISK_COMPARE 0   u32  number of the file
 *                  4   u64  offset in bytes, a multiple of DISK_GRANULE_BYTES
 *                  12  u64  length in bytes, of 1 to FRAME_DISK_DIGESTS_MOST granules
 *                  20  …    the key of the digests, DISK_KEY_BYTES
 *
 *     DISK_DIGESTS 0   u32  number of the file
 *                  4   u64  offset, as it was asked
 *                  12  …    16 bytes for each granule from there on; zeros: it has none
 *
 *     DISK_SAME    0   u32  number of the file
 *                  4   u64  offset in bytes, a multiple of DISK_GRANULE_BYTES
 *                  12  u64  length in bytes, of 1 to FRAME_DISK_SAME_MOST granules
 *                  20  …    16 bytes for each granule, its digest
 *
 * Theory of operation: frames about disks go by a channel of their own and are applied in order.  A
 * flush is done when all before it is on the storage.  Encoders make heads; decoders check
 * everything that can be known from the frame alone, borrow from the payload, and allocate nothing.
 *
 * Where a file is made in place of another one, a source may ask which of its granules are as the
 * old one's, and the destination takes them from there.  Digests (disk/granule_digest.h) have a
 * key, since a guest chooses what its disk holds.
 */
#pragma once

#include <glib.h>
#include <stdint.h>

#include "wire/frame.h"

#define DISK_GRANULE_BYTES 65536u
#define DISK_KEY_BYTES 32u

typedef enum { DISK_PACKING_NONE, DISK_PACKING_ZSTD } DiskPacking;

typedef struct {
    guint file;
    DiskPacking packing;
    uint32_t bytes; /* when unpacked */
    uint64_t offset;
    const uint8_t *content;
    uint32_t content_bytes; /* as packed */
} DiskWrite;

typedef struct {
    guint file;
    uint64_t offset, length;
} DiskZero;

typedef struct {
    uint64_t number;
    gboolean last;
} DiskFlush;

typedef struct {
    uint64_t applied_bytes, flushed;
} DiskDone;

typedef struct {
    guint file;
    uint64_t offset, length;
    uint8_t key[DISK_KEY_BYTES];
} DiskCompare;

typedef struct {
    guint file;
    uint64_t offset;
    const uint8_t *digests; /* FRAME_DISK_DIGEST_BYTES each */
    guint count;
} DiskDigests;

typedef struct {
    guint file;
    uint64_t offset, length;
    const uint8_t *digests; /* one for each granule, the last of which may be cut */
} DiskSame;

/* So many granules begin in that many bytes. */
guint disk_count_granules(uint64_t length);

/* The head alone; the content follows. */
void disk_write_encode_head(const DiskWrite *write, uint8_t ret[FRAME_DISK_WRITE_HEAD_BYTES]);
gboolean disk_write_decode(const uint8_t *payload, size_t length, DiskWrite *ret, GError **error);

void disk_zero_encode(const DiskZero *zero, uint8_t ret[FRAME_DISK_ZERO_BYTES]);
gboolean disk_zero_decode(const uint8_t *payload, size_t length, DiskZero *ret, GError **error);

void disk_flush_encode(const DiskFlush *flush, uint8_t ret[FRAME_DISK_FLUSH_BYTES]);
gboolean disk_flush_decode(const uint8_t *payload, size_t length, DiskFlush *ret, GError **error);

void disk_done_encode(const DiskDone *done, uint8_t ret[FRAME_DISK_DONE_BYTES]);
gboolean disk_done_decode(const uint8_t *payload, size_t length, DiskDone *ret, GError **error);

void disk_compare_encode(const DiskCompare *compare, uint8_t ret[FRAME_DISK_COMPARE_BYTES]);
gboolean disk_compare_decode(const uint8_t *payload, size_t length, DiskCompare *ret,
                             GError **error);

/* The heads alone; the digests follow. */
void disk_digests_encode_head(const DiskDigests *digests,
                              uint8_t ret[FRAME_DISK_DIGESTS_HEAD_BYTES]);
gboolean disk_digests_decode(const uint8_t *payload, size_t length, DiskDigests *ret,
                             GError **error);

void disk_same_encode_head(const DiskSame *same, uint8_t ret[FRAME_DISK_SAME_HEAD_BYTES]);
gboolean disk_same_decode(const uint8_t *payload, size_t length, DiskSame *ret, GError **error);
