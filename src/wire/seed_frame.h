/*
 * SEED_DIGESTS and SEED_PAGES: pages that an image at the destination has
 *
 *     SEED_DIGESTS    0   u32  number of the first digest: so many came before
 *                     4   u8   1: these are the last, 0: not
 *                     5   …    digests of FRAME_SEED_DIGEST_BYTES, none to FRAME_SEED_DIGESTS_MOST
 *
 *     SEED_PAGES      0   u32  region (index in the GUEST message)
 *                     4   u32  number of runs, 1 to SEED_FRAME_MAX_PAGES
 *                     8   32 bytes: SHA-256 of the content of all pages, one after the other
 *                     40  …    runs of three varints: gap (pages from the end of the run before, at
 *                              first from page 0), pages, number of the first page's digest; the
 *                              pages behind it have the numbers behind that
 *
 * Why six bytes a digest: it is a hint only, which finds candidates, and SEED_PAGES has the proof.  A page of
 * the guest that is not in a seed of n pages is taken for one of them in n / 2^48 of all cases: with 64 GiB on
 * both sides (2^24 pages) that happens once in a move, with 1 GiB in one move of 4000; the frame's proof fails
 * then, and its pages (1 MiB at most) are sent again.  So more bytes gain nothing, and of 1 GiB the list takes
 * 1.5 MiB: 0.6 s at 20 Mbit/s, in the direction in which nothing else goes.  Digests are in the order of the
 * seed's pages, not sorted (which would let them be packed by a third): pages that lie one behind the
 * other in both are a run then, and one costs a few bits, not four bytes.
 *
 * Why one proof a frame: 16 bytes for each page would be most of what a guest that is nearly all in its seed
 * costs (1 MiB for 256 MiB); of a frame that fails, all is sent again.
 */
#pragma once

#include <glib.h>
#include <stdint.h>

#include "base/bytes.h"
#include "wire/frame.h"

#define SEED_FRAME_MAX_PAGES 256u /* and so many runs at most */
#define SEED_DIGEST_MASK ((UINT64_C(1) << (8 * FRAME_SEED_DIGEST_BYTES)) - 1)
/* What a seed may have of distinct pages: 64 GiB. */
#define SEED_MAX_DIGESTS (1u << 24)

/* A walk over one frame. */
typedef struct {
    uint32_t count;
    gboolean last;
    ByteReader reader;
} SeedDigestsFrame;

void seed_digests_encode_head(GByteArray *out, uint32_t first, gboolean last);
void seed_digests_append(GByteArray *out, uint64_t digest);

/* *have*: digests that came before; *most*: that may come in all.  INVALID where the frame does not
 * continue them, or goes beyond. */
gboolean seed_digests_decode(const uint8_t *payload, size_t length, uint32_t have, uint32_t most,
                             SeedDigestsFrame *ret, GError **error);
/* The next one; called *count* times. */
uint64_t seed_digests_next(SeedDigestsFrame *frame);

typedef struct {
    uint64_t first;
    uint32_t count, number;
} SeedRun;

typedef struct {
    uint32_t region, run_count;
    uint32_t pages; /* of all runs */
    uint8_t proof[FRAME_SEED_PROOF_BYTES];
    SeedRun runs[SEED_FRAME_MAX_PAGES];
} SeedPagesFrame;

/* Appends the whole payload. */
void seed_pages_encode(GByteArray *out, uint32_t region, const SeedRun *runs, uint32_t run_count,
                       const uint8_t proof[FRAME_SEED_PROOF_BYTES]);

/* Parses and checks all of it against the number of pages of each region and of *digests*.  INVALID where
 * a limit is broken; *ret* holds nothing useful then. */
gboolean seed_pages_decode(const uint8_t *payload, size_t length, const uint64_t *region_pages,
                           size_t region_count, uint32_t digests, SeedPagesFrame *ret,
                           GError **error);
