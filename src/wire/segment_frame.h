/*
 * SEGMENTS: what changed inside pages of one RAM region
 *
 *     0   u32  region (index in the GUEST message)
 *     4   u32  number of pages, 1 to 4096
 *     8   u32  method: 0 the body as it is, 1 one LZ4 block, 2 one zstd frame
 *     12  u32  bytes of the body when unpacked
 *     16  …    the body, packed as the method says
 *
 * The body has for each page, in ascending order: a ULEB128 page delta (the
 * first: the page number; then the distance from the page before, less 1) and
 * its segment list (page/segments.h).  Nothing follows the last page.
 *
 * Theory of operation: the sender appends pages to a body until it is
 * SEGMENT_FRAME_FULL_BYTES long or holds SEGMENT_FRAME_MAX_PAGES; one more page
 * may make it longer by SEGMENT_FRAME_PAGE_MAX_BYTES at most, and that is the
 * limit.  The receiver decodes the head, unpacks the body into a buffer of
 * FRAME_SEGMENTS_MAX_BODY_BYTES and walks over its pages; nothing is allocated.
 *
 * Limits: a body has one form only (varints are minimal), so that decoding and
 * encoding it again gives the same bytes.
 */
#pragma once

#include <glib.h>
#include <stdint.h>

#include "base/bytes.h"
#include "page/pack.h"
#include "page/segments.h"
#include "wire/frame.h"

#define SEGMENT_FRAME_MAX_PAGES 4096u
/* Page delta of 10 bytes, count of 2, 128 gaps and lengths of 2 each, 4096 bytes. */
#define SEGMENT_FRAME_PAGE_MAX_BYTES 4620u
/* Page delta, count, gap, length and one byte. */
#define SEGMENT_FRAME_PAGE_MIN_BYTES 5u
/* A body of this size is to be sent. */
#define SEGMENT_FRAME_FULL_BYTES (1u << 20)
G_STATIC_ASSERT(SEGMENT_FRAME_FULL_BYTES + SEGMENT_FRAME_PAGE_MAX_BYTES <=
                FRAME_SEGMENTS_MAX_BODY_BYTES);

typedef struct {
    uint32_t region, page_count;
    PackMethod method; /* LZ4 and zstd only with "pages-lz4" and "pages-zstd", too */
    uint32_t body_bytes;
} SegmentFrameHead;

/* Appends the head; the body, packed as *head->method* says, is sent behind it. */
void segment_frame_encode_head(GByteArray *out, const SegmentFrameHead *head);

/* Parses and checks the head.  *ret_body* is borrowed from the payload: the
 * body, still packed unless the method is PACK_NONE (its length is
 * checked then).  INVALID where it breaks a limit. */
gboolean segment_frame_decode_head(const uint8_t *payload, size_t length, size_t region_count,
                                   SegmentFrameHead *ret, const uint8_t **ret_body,
                                   size_t *ret_body_length, GError **error);

/* A walk over an unpacked body. */
typedef struct {
    ByteReader reader;
    uint64_t region_pages;
    uint64_t next_page; /* the lowest number that the next page may have */
    uint32_t left;      /* pages */
} SegmentFrameBody;

/* Borrows *body*.  *region_pages*: pages of the head's region; 0 for one that
 * must not be written, and no page fits. */
SegmentFrameBody segment_frame_body(const SegmentFrameHead *head, const uint8_t *body, size_t bytes,
                                    uint64_t region_pages);

/* TRUE with the next page, which lies in the region, and its list; *ret_bytes*
 * is borrowed from the body: the segments' content, one after the other.  FALSE
 * at the end (error unset) or on malformed input (INVALID): pages outside the
 * region, malformed lists, bytes left over behind the last page. */
gboolean segment_frame_next(SegmentFrameBody *body, uint64_t *ret_page, SegmentList *ret,
                            const uint8_t **ret_bytes, GError **error);

/* Appends one page to a body.  *last_page*: the one before it, UINT64_MAX before
 * the first; set to *page*, which must be greater.  *content*: the page's 4096
 * bytes, of which those in *list* (not empty) are taken. */
void segment_frame_append(GByteArray *body, uint64_t *last_page, uint64_t page,
                          const SegmentList *list, const uint8_t *content);
