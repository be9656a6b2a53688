/*
 * Pages that are equal to others: told, not sent
 *
 * Theory of operation: while RAM is sent for the first time, a page whose
 * content went out as another page in the same pass is not sent again; the
 * destination is told to copy (COPIES frames, docs/protocol.md).  These frames
 * follow all pages of the pass: by then the destination holds what is to be
 * copied, whichever order the pages were encoded and applied in, and no page
 * is sent twice in a pass, so it holds the very content that was compared
 * (content_index.h).  After that pass the index is out of date and is dropped.
 *
 * Threads: page_copies_find() from any number; the rest from one.
 */
#pragma once

#include "transfer/page_source.h"
#include "wire/channel.h"

typedef struct PageCopies PageCopies;

typedef struct {
    uint32_t region, source_region;
    uint64_t page, source_page;
} PageCopy;

/* For *pages* pages of *regions* to be sent; NULL where *most_bytes* of memory are not
 * enough to be of use. */
PageCopies *page_copies_new(const PageRegions *regions, uint64_t pages, uint64_t most_bytes);
void page_copies_free(PageCopies *copies);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(PageCopies, page_copies_free)

/* Memory for the index. */
uint64_t page_copies_get_bytes(const PageCopies *copies);

/* TRUE with the page that *content* went out as before; else it is kept in mind
 * as this page, which must go out in this pass. */
gboolean page_copies_find(PageCopies *copies, guint region, uint64_t page, const uint8_t *content,
                          PageCopy *ret);

/* Keeps some of these for page_copies_send(). */
void page_copies_add(PageCopies *copies, const PageCopy *found, guint count);

/* Sends them all; *ret_body_bytes*: what they took. */
gboolean page_copies_send(PageCopies *copies, Channel *channel, uint64_t *ret_body_bytes,
                          GError **error);
