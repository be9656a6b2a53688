/*
 * The pages that a guest's memory still waits for
 *
 * Theory of operation: after the switchover of a post-copy the guest runs while some of its pages
 * are still at the source.  Which ones is a bitmap per RAM region: a set bit is a page that is
 * *outstanding*: what the source holds is its content, and nothing is there yet.  A bit is cleared
 * when the page is in place, or when the guest has discarded it (then it reads as zero).
 *
 * The bitmaps are a file, mapped shared, so that they outlive this process: a restarted agent opens
 * the file and goes on.  With them are the transaction and where each region lies in the VMM's
 * address space, because the VMM cannot be asked for it while its main thread waits for a page.
 * They need not outlive the host: the guest does not.
 *
 * Order: a page is put in place before its bit is cleared.  A crash between the two leaves a bit of
 * a page that is there; it is asked for again, and that copy is dropped (UFFDIO_COPY: EEXIST).  A
 * discarded page's bit is cleared before anything else is put there (fault_service.h).
 *
 * Backed by huge pages, all of one are outstanding or none: who adds rounds.
 *
 * The file's blocks are reserved, so that a full disk is no SIGBUS later.  It is ours, but may
 * be cut short or damaged: outstanding_open() checks all of it.  While it is open nobody else
 * may cut it.
 *
 * Threads: any.
 */
#pragma once

#include <glib.h>
#include <stdint.h>

#include "memory/guest_memory.h"

typedef struct OutstandingPages OutstandingPages;

/* Makes the file at *path* (replacing what is there), no page outstanding.  *memory* says where the
 * regions lie. */
OutstandingPages *outstanding_create(const char *path, const char *transaction,
                                     const GuestMemory *memory, GError **error);

/* The same of RamRegions, wherever they lie: a store keeps so what it has of a guest's pages. */
OutstandingPages *outstanding_create_for(const char *path, const char *transaction,
                                         const GPtrArray *regions, GError **error);

/* Opens one that an agent that died has left.  INVALID where it is damaged. */
OutstandingPages *outstanding_open(const char *path, GError **error);

/* Unmaps; the file stays.  NULL-safe. */
void outstanding_free(OutstandingPages *pages);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(OutstandingPages, outstanding_free)

const char *outstanding_get_transaction(const OutstandingPages *pages);

/* Of RamRegion, as guest_memory_open() takes them; owned by *pages*. */
const GPtrArray *outstanding_get_regions(const OutstandingPages *pages);

/* Adds pages; before the guest runs.  INVALID where they are not all in the region. */
gboolean outstanding_add(OutstandingPages *pages, guint region, PageSpan span, GError **error);

gboolean outstanding_has(const OutstandingPages *pages, guint region, uint64_t page);

/* Removes pages; returns how many of them were outstanding. */
uint64_t outstanding_remove(OutstandingPages *pages, guint region, PageSpan span);

/* In all regions; kept, so it costs nothing. */
uint64_t outstanding_count(const OutstandingPages *pages);

/* The next run of outstanding pages at or after *from*, of at most *max*, as
 * page_set_next_run(). */
gboolean outstanding_next_run(const OutstandingPages *pages, guint region, uint64_t from,
                              uint64_t max, uint64_t *ret_first, uint64_t *ret_count);

/* The same form keeps which pages a peer does not have for certain (protect/checkpoint_sender.h).
 * While pages are being taken from a tracker and are not added yet, that is on record: who finds it
 * so after a crash has to take all pages for missing. */
void outstanding_set_uncertain(OutstandingPages *pages, gboolean uncertain);
gboolean outstanding_is_uncertain(const OutstandingPages *pages);
