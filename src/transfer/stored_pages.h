/*
 * Pages of another host's guest, kept in files
 *
 * Theory of operation: a store has a folder for each transaction:
 *
 *     pages      the regions one behind the other, a sparse file: what never came is a hole
 *     covered    which pages are there as they are to be given out (memory/outstanding.h, whose
 *                addresses are offsets in the other file)
 *
 * A page is written first, and covered then; what is named as stale is not covered any more until it
 * comes anew.  So a reader of a covered page that is not named again never reads two versions of it.
 * Both files outlive this process, and need not outlive the host.
 *
 * They are read and written by system calls, not mapped: a full file system is an error then, and no
 * signal.
 *
 * Threads: any, no two of them the same page.
 */
#pragma once

#include "transfer/page_sink.h"
#include "transfer/page_source.h"

typedef struct StoredPages StoredPages;

/* Makes the files in *folder*, which is there.  *names* and *bytes*: of the regions, *bytes* whole
 * pages; their sum fits an off_t. */
StoredPages *stored_pages_create(const char *folder, const char *transaction, guint count,
                                 char *const *names, const uint64_t *bytes, GError **error);

/* Opens what an agent that died has left there.  INVALID where it is damaged. */
StoredPages *stored_pages_open(const char *folder, GError **error);

/* The files stay.  NULL-safe. */
void stored_pages_free(StoredPages *pages);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(StoredPages, stored_pages_free)

/* More pages than that are not taken (NO_SPACE).  Before they come. */
void stored_pages_set_limit(StoredPages *pages, uint64_t most);

const PageRegions *stored_pages_get_regions(const StoredPages *pages);

/* Both borrow *pages*.  The sink takes whole pages and zeroes; patches, copies and seals are
 * INVALID.  Reading a page that is not covered is NOT_FOUND. */
PageSink *stored_pages_new_sink(StoredPages *pages);
PageSource *stored_pages_new_source(StoredPages *pages);

/* These will come anew.  They must lie in the region. */
void stored_pages_drop(StoredPages *pages, guint region, PageSpan span);

/* How many are covered; the sets of them (a PageSet a region, g_ptr_array_unref()). */
uint64_t stored_pages_count(const StoredPages *pages);
GPtrArray *stored_pages_list(const StoredPages *pages);
