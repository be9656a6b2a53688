/*
 * A source of pages above another
 *
 * Theory of operation: the top source has certain pages, the bottom one all others: what changed in
 * a guest (delta_store.h) above the memory that it changed in.  Both know the same regions.  Without a
 * bottom one all others are zero: the top one has all of the guest.
 *
 * Threads: reading from any number of threads.
 */
#pragma once

#include "transfer/page_source.h"

/* Borrows both (*bottom* may be NULL); takes *pages*, which *top* has (in any case), a PageSet for each
 * region.  INVALID where the regions differ. */
PageSource *layered_source_new(PageSource *top, GPtrArray *pages, PageSource *bottom,
                               GError **error);
