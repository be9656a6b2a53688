/*
 * The content of disks: DISK_WRITE, DISK_ZERO, DISK_FLUSH and DISK_DONE
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
 *     DISK_DONE    0   u64  bytes of the payloads of WRITE and ZERO frames that are applied, since
 *                           the start
 *                  8   u64  number of the last flush that is done; 0: none
 *
 * Theory of operation: frames about disks go by a channel of their own and are applied in order.  A
 * flush is done when all before it is on the storage.  Encoders make heads; decoders check
 * everything that can be known from the frame alone, borrow from the payload, and allocate nothing.
 */
#pragma once

#include <glib.h>
#include <stdint.h>

#include "wire/frame.h"

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

/* The head alone; the content follows. */
void disk_write_encode_head(const DiskWrite *write, uint8_t ret[FRAME_DISK_WRITE_HEAD_BYTES]);
gboolean disk_write_decode(const uint8_t *payload, size_t length, DiskWrite *ret, GError **error);

void disk_zero_encode(const DiskZero *zero, uint8_t ret[FRAME_DISK_ZERO_BYTES]);
gboolean disk_zero_decode(const uint8_t *payload, size_t length, DiskZero *ret, GError **error);

void disk_flush_encode(const DiskFlush *flush, uint8_t ret[FRAME_DISK_FLUSH_BYTES]);
gboolean disk_flush_decode(const uint8_t *payload, size_t length, DiskFlush *ret, GError **error);

void disk_done_encode(const DiskDone *done, uint8_t ret[FRAME_DISK_DONE_BYTES]);
gboolean disk_done_decode(const uint8_t *payload, size_t length, DiskDone *ret, GError **error);
