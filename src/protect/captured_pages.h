/*
 * The pages of one epoch, as they were at one moment
 *
 * Theory of operation: what a guest has changed in an epoch is copied while the guest stands still,
 * and sent when it runs again.  The copy is a page source of its own, so whoever sends pages sends
 * these.  Its memory is kept from epoch to epoch: fresh memory is dear to touch for the first time.
 *
 * Threads: taking by one; reading by any number, but not meanwhile.
 */
#pragma once

#include "transfer/page_source.h"

typedef struct CapturedPages CapturedPages;

/* For pages of *source* (borrowed). */
CapturedPages *captured_pages_new(PageSource *source);
/* NULL-safe. */
void captured_pages_free(CapturedPages *captured);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(CapturedPages, captured_pages_free)

/* Makes memory ready that the next epochs can do with, which takes some milliseconds. */
gboolean captured_pages_prepare(CapturedPages *captured, GError **error);

/* Takes the pages of *sets* (a PageSet a region) now, in place of those taken before. */
gboolean captured_pages_take(CapturedPages *captured, const GPtrArray *sets, GError **error);

/* How many were taken. */
uint64_t captured_pages_count(const CapturedPages *captured);

/* A source of the pages taken; any other reads as zero: the guest has discarded it.  Lives as long
 * as *captured*. */
PageSource *captured_pages_get_source(CapturedPages *captured);
