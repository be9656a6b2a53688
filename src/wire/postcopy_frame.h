/*
 * Frames of post-copy: OUTSTANDING, WANT
 *
 *     OUTSTANDING     0   u32  region (index in the GUEST message)
 *                     4   u32  number of runs, 1 to FRAME_OUTSTANDING_MAX_RUNS
 *                     8   runs of 16 bytes: u64 first page, u64 pages
 *
 *     WANT            0   u32  region
 *                     4   u32  pages, 1 to FRAME_WANT_MAX_PAGES
 *                     8   u64  first page
 *
 * Runs are in ascending order, do not overlap, and lie in the region.  OUTSTANDING goes from the
 * source in the last epoch (pages that are not sent in it), and from the destination as its answer
 * to RESUME (pages that have not arrived).
 *
 * PUSHED, COMPLETE and RESUMED are empty; RESUME is JSON, as RESOLVE (messages.h).
 */
#pragma once

#include <glib.h>
#include <stdint.h>

#include "base/bytes.h"
#include "wire/frame.h"

/* A walk over the runs of one frame. */
typedef struct {
    uint32_t region;
    uint32_t runs;
    ByteReader reader;
} OutstandingFrame;

void outstanding_frame_encode_head(GByteArray *out, uint32_t region, uint32_t runs);
void outstanding_frame_append(GByteArray *out, uint64_t first, uint64_t pages);

/* Checks all runs against the number of pages of each region.  INVALID where a limit is broken;
 * *ret* holds nothing useful then. */
gboolean outstanding_frame_decode(const uint8_t *payload, size_t length,
                                  const uint64_t *region_pages, size_t region_count,
                                  OutstandingFrame *ret, GError **error);
/* The next run; called *runs* times. */
void outstanding_frame_next(OutstandingFrame *frame, uint64_t *ret_first, uint64_t *ret_pages);

typedef struct {
    uint32_t region, count;
    uint64_t first;
} WantFrame;

void want_frame_encode(const WantFrame *want, uint8_t out[FRAME_WANT_BYTES]);
gboolean want_frame_decode(const uint8_t *payload, size_t length, const uint64_t *region_pages,
                           size_t region_count, WantFrame *ret, GError **error);
