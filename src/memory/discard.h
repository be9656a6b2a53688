/*
 * Discarding pages of a guest's memory, so that its next access to them is a missing-page fault
 *
 * Theory of operation: a page of private memory is discarded by madvise(MADV_DONTNEED), one of a
 * shared file (memfd, tmpfs, hugetlbfs) by MADV_REMOVE.  The kernel lets nobody do that to another
 * process, so the call is injected into the VMM (inject/).  One call a run of pages would take long
 * for a scattered set, in the guest's pause; where the kernel can (Linux 6.13:
 * process_madvise(2) of the caller itself takes these, too) up to IOV_MAX runs go into one call.
 * The runs are found before the VMM's main thread is stopped, and lie in memory that is mapped in
 * the VMM for the time of the call.
 *
 * hugetlbfs: whole huge pages only; the caller rounds.
 *
 * A discarded page may be there again, with zeroes, before its memory is registered for missing pages:
 * the kernel fills holes where it makes huge pages (khugepaged), keeps a huge page of a file that it
 * cannot split, and maps zeroes for whoever reads.  Taken for one that has come it would be read as
 * that; so it is looked for once nothing can come unseen any more.
 */
#pragma once

#include "memory/guest_memory.h"
#include "memory/outstanding.h"

typedef enum {
    DISCARD_BEST,       /* many runs in a call, where the kernel can */
    DISCARD_ONE_BY_ONE, /* as before Linux 6.13; for tests */
} DiscardWay;

/* Discards all outstanding pages of *pages*.  Their content is lost; a guest that runs would read
 * zeroes, so it must be paused or its memory registered for missing pages; in the latter case a
 * thread must be reading the Userfault's events, if they were asked for.  On failure some of them
 * may be discarded. */
gboolean guest_memory_discard(GuestMemory *memory, const OutstandingPages *pages, GError **error);
gboolean guest_memory_discard_by(DiscardWay way, GuestMemory *memory, const OutstandingPages *pages,
                                 GError **error);

/* The same for the pages of *sets*, a PageSet for each region; whole huge pages only. */
gboolean guest_memory_discard_sets(GuestMemory *memory, const GPtrArray *sets, GError **error);

/* FALSE with *error* where one of *pages* is there: once *memory* is registered for missing pages, and
 * before any is put in. */
gboolean guest_memory_check_missing(GuestMemory *memory, const OutstandingPages *pages,
                                    GError **error);
