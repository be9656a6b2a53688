/*
 * Where content lies in the guest's memory, as the peer has it
 *
 * Theory of operation: whoever sends pages notes the content with which each was sent last.  A block that
 * the guest writes to a disk was mostly written out of a page that the peer has got lately; so the peer can
 * be told which one, in place of the block.
 *
 * Content is known by a keyed hash of 64 bits: of each page that of what was sent last, and a table
 * from hashes to pages, in which a later page takes an earlier one's place.  So a page is found only where
 * the peer holds content of that hash in it now.  Who is found is to be compared byte by byte with the
 * guest's memory: for wrong data both would have to happen at once, that two contents have one hash under
 * a key that nobody knows, and that the page has become the other one since it was sent.
 *
 * Takes 8 bytes a page, and up to PAGE_INDEX_TABLE_BYTES.
 *
 * Threads: one notes; another finds, when nobody notes.
 */
#pragma once

#include <glib.h>

#include "transfer/page_source.h"

#define PAGE_INDEX_MOST_PAGES (8ull << 20) /* 32 GiB of guest memory */
#define PAGE_INDEX_TABLE_BYTES (4u << 20)

typedef struct PageIndex PageIndex;

/* NULL where the guest has more memory than PAGE_INDEX_MOST_PAGES, or there are no random bytes for a key. */
PageIndex *page_index_new(const PageRegions *regions);
/* NULL-safe. */
void page_index_free(PageIndex *index);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(PageIndex, page_index_free)

/* The peer has this content there from now on; *content* NULL: zeros. */
void page_index_note(PageIndex *index, guint region, uint64_t page, const uint8_t *content);

/* A page of which the peer has content of this hash. */
gboolean page_index_find(const PageIndex *index, const uint8_t *content, guint *ret_region,
                         uint64_t *ret_page);
