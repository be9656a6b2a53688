/*
 * The dirty data inside one page
 *
 * Theory of operation: a page that changed a little is sent as *segments*,
 * runs of bytes (Cheng and Tan 2016 call them offset segments) that turn what
 * the destination holds into what it must hold.  A list is found either by
 * comparing two contents byte by byte or from a bitmap of dirty blocks, where
 * only fingerprints of the old content are known.  Neighbours are merged where
 * the bytes between them cost no more than one more header; a list too long
 * for SEGMENTS_MAX is merged over wider gaps before it is given up.
 *
 * Encoded form: varint count (1..SEGMENTS_MAX); for each segment a varint gap
 * (bytes from the end of the one before; the first: its offset) and a varint
 * length - 1; then the bytes of all segments.  Gaps are at least 1, but for
 * the first segment's, so each list has one form only.
 *
 * Pure functions; any number of threads.
 */
#pragma once

#include <glib.h>
#include <stdint.h>

#include "base/bytes.h"

#define SEGMENTS_MAX 128u

/* Longer lists are not worth their trouble: the page is sent whole. */
#define SEGMENTS_WORTH_BYTES 3072u

typedef struct {
    uint16_t offset, length; /* length 1..4096, offset + length <= 4096 */
} Segment;

/* Ascending, with gaps of at least one byte.  *bytes*: sum of the lengths. */
typedef struct {
    guint count;
    guint bytes;
    Segment items[SEGMENTS_MAX];
} SegmentList;

/* What turns *old_page* into *new_page*; count 0: they are equal.  FALSE: the
 * list would be longer than SEGMENTS_WORTH_BYTES or SEGMENTS_MAX, send the page
 * whole (*ret* is undefined then). */
gboolean segments_from_difference(const uint8_t *old_page, const uint8_t *new_page,
                                  SegmentList *ret);

/* The same from dirty blocks: bit i of the bitmap (of 4096 / block_bytes bits,
 * 64 a word) stands for block i.  *block_bytes*: a power of two, 32..1024. */
gboolean segments_from_blocks(const uint64_t *dirty_blocks, guint block_bytes, SegmentList *ret);

/* Bytes that segments_encode() appends. */
guint segments_encoded_bytes(const SegmentList *list);

/* Appends the encoded form of a list of at least one segment, with the bytes
 * taken from *page*. */
void segments_encode(GByteArray *out, const SegmentList *list, const uint8_t *page);

/* Reads one list and points *ret_bytes at its ret->bytes bytes, which lie in
 * the reader's buffer.  Refuses (VMFERRY_ERROR_INVALID, and the reader fails)
 * what segments_encode() does not make: a count or a segment out of bounds, gaps
 * of 0, over-long varints, data cut short. */
gboolean segments_decode(ByteReader *reader, SegmentList *ret, const uint8_t **ret_bytes,
                         GError **error);

/* Copies a list's *bytes* (one segment's after the other's) into *page*. */
void segments_apply(const SegmentList *list, const uint8_t *bytes, uint8_t *page);
