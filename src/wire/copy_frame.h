/*
 * COPIES: pages of one RAM region that are equal to others
 *
 *     0   u32  region (index in the GUEST message)
 *     4   u32  number of runs
 *     8   runs of 24 bytes: u64 first page, u64 first page that it is equal to,
 *         u32 pages, u32 region of the pages that it is equal to
 *
 * Runs are in ascending order of their pages and do not overlap.
 */
#pragma once

#include <glib.h>
#include <stdint.h>

#include "wire/frame.h"

#define COPY_FRAME_MAX_PAGES 256u /* and so many runs at most */

typedef struct {
    uint64_t first, source_first;
    uint32_t count, source_region;
} CopyRun;

typedef struct {
    uint32_t region;
    uint32_t run_count;
    CopyRun runs[COPY_FRAME_MAX_PAGES];
} CopyFrame;

/* Appends the whole payload. */
void copy_frame_encode(GByteArray *out, uint32_t region, const CopyRun *runs, uint32_t run_count);

/* Parses and checks all of it against the number of pages of each region (0 for
 * one that is not to be touched, and no run fits).  INVALID where a limit is
 * broken; *ret* holds nothing useful then. */
gboolean copy_frame_decode(const uint8_t *payload, size_t length, const uint64_t *region_pages,
                           size_t region_count, CopyFrame *ret, GError **error);
