/*
 * PAGES: pages of one RAM region
 *
 *     0   u32  region (index in the GUEST message)
 *     4   u32  number of runs
 *     8   runs of 16 bytes: u64 first page, u32 pages, u8 kind, 3 bytes zero
 *     …   4096 bytes for each page of the RAW runs, in order
 *
 * Runs are in ascending order and do not overlap.  A page is always 4096 bytes;
 * a page of a ZERO run is all zero and has no bytes here.
 */
#pragma once

#include <glib.h>
#include <stdint.h>

#define PAGE_FRAME_MAX_RUNS 4096u
#define PAGE_FRAME_MAX_RAW_PAGES 256u
#define PAGE_FRAME_RUN_BYTES 16u
#define PAGE_FRAME_HEADER_BYTES 8u
/* How much longer a piece of a window may be than what it becomes, with the byte before it. */
#define PAGE_FRAME_WINDOW_MARGIN 4352u

typedef enum { PAGE_RUN_RAW = 0, PAGE_RUN_ZERO = 1 } PageRunKind;

typedef struct {
    uint64_t first;
    uint32_t count;
    PageRunKind kind;
} PageRun;

typedef struct {
    uint32_t region;
    uint32_t run_count;
    PageRun runs[PAGE_FRAME_MAX_RUNS];
    const uint8_t *raw; /* borrowed from the payload: the RAW runs' pages */
} PageFrame;

/* Appends header and runs (not the raw pages) to *out*. */
void page_frame_encode(GByteArray *out, uint32_t region, const PageRun *runs, uint32_t run_count);

/* Parses and checks all of it against the number of pages of each region (say 0
 * for a region that must not be written, and no run fits).  On failure *ret*
 * holds nothing useful. */
gboolean page_frame_decode(const uint8_t *payload, size_t length, const uint64_t *region_pages,
                           size_t region_count, PageFrame *ret, GError **error);

/* The same for PAGES_LZ4 and PAGES_ZSTD: there the pages of the RAW runs are one
 * LZ4 block or zstd frame.  *ret->raw* is that, *ret_packed_bytes* long; *ret_raw_pages* is how
 * many pages it must become. */
gboolean page_frame_decode_packed(const uint8_t *payload, size_t length,
                                  const uint64_t *region_pages, size_t region_count, PageFrame *ret,
                                  size_t *ret_packed_bytes, uint32_t *ret_raw_pages,
                                  GError **error);

/* PAGES_WINDOW: a u8 stands before the piece, 1: another window begins with it.  As
 * page_frame_decode_packed(), *ret->raw* and *ret_packed_bytes* without that. */
gboolean page_frame_decode_window(const uint8_t *payload, size_t length,
                                  const uint64_t *region_pages, size_t region_count, PageFrame *ret,
                                  gboolean *ret_begins, size_t *ret_packed_bytes,
                                  uint32_t *ret_raw_pages, GError **error);
