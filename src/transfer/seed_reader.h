/*
 * A seed at the destination: pages that need not travel
 *
 * Theory of operation: a seed is the pages of an image (any PageSource).  All of them are read once and
 * become a list of distinct digests (seed_index.h), which the source gets; what the image says of itself
 * does not count.  Then SEED_PAGES frames name pages by their numbers in that list.  They are read
 * again, and put into the guest's memory only if SHA-256 of just these bytes is what the frame says: so
 * a seed that was changed meanwhile, that cannot be read any more, or two pages with one digest, cannot make a
 * guest wrong, whoever made the seed.  Pages of a frame that fails are *lacking*: the source is told to
 * send them.  Each must come before the guest runs; seed_reader_note_written() ticks them off.
 *
 *     read_some() … until it is complete ─► digests ─► source ─► apply() … close()
 *                                                               │ failed
 *                                                               ▼
 *                                          lacking ─► source ─► note_written()
 *
 * Takes at most 40 bytes for each distinct page until the list is dropped, 8 to 16 then.
 *
 * Threads: reading and listing by one; after it is complete apply() and note_written() by any number.
 */
#pragma once

#include "transfer/page_sink.h"
#include "transfer/seed_index.h"
#include "wire/channel.h"
#include "wire/seed_frame.h"

typedef struct SeedReader SeedReader;

/* Borrows *source*.  Takes at most *most* pages of it, the first ones.  UNSUPPORTED for a machine of more than
 * SEED_READER_MOST_PAGES (4 TiB): a bit for each is needed. */
#define SEED_READER_MOST_PAGES (UINT64_C(1) << 30)
SeedReader *seed_reader_new(PageSource *source, uint32_t most, uint64_t key, GError **error);
/* NULL-safe. */
void seed_reader_free(SeedReader *reader);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(SeedReader, seed_reader_free)

/* Pages with content, zeros and doubles included. */
uint64_t seed_reader_count_pages(const SeedReader *reader);

/* Reads some more pages, at most SEED_READER_STEP_PAGES.  FALSE: it is complete.  What cannot be read is left
 * out. */
#define SEED_READER_STEP_PAGES 4096u
gboolean seed_reader_read_some(SeedReader *reader);

/* Of what could not be read: how many pages, and why the first could not (NULL: all could). */
uint64_t seed_reader_count_unread(const SeedReader *reader, const GError **ret_why);

/* The list so far, until it is dropped. */
const SeedIndex *seed_reader_get_list(const SeedReader *reader);
/* All of it was sent. */
void seed_reader_drop_list(SeedReader *reader);

/* What a call of apply() needs. */
typedef struct {
    SeedPagesFrame frame;
    PageSpan spans[SEED_FRAME_MAX_PAGES];
} SeedScratch;

/* Puts the pages of a SEED_PAGES frame into *sink*, or notes that they are lacking.  *buffer*: room for
 * SEED_FRAME_MAX_PAGES pages.  FALSE: INVALID where the frame is malformed or comes too early or too late, or the
 * sink has failed. */
gboolean seed_reader_apply(SeedReader *reader, PageSink *sink, const Frame *frame,
                           SeedScratch *scratch, uint8_t *buffer, GError **error);

/* No more SEED_PAGES come: the source of pages is not used any more. */
void seed_reader_close(SeedReader *reader);

/* These pages have come as a whole. */
void seed_reader_note_written(SeedReader *reader, guint region, const PageSpan *spans, guint count);

/* Pages that are still lacking; the sets of all regions, or NULL: there never were any.  While nobody applies. */
uint64_t seed_reader_count_lacking(SeedReader *reader);
GPtrArray *seed_reader_get_lacking(SeedReader *reader);
