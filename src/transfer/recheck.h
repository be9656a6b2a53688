/*
 * Pages that may have been written unseen, to be read again
 *
 * Theory of operation: an O_DIRECT read pins guest pages when it is submitted,
 * and marks them in the tracker then; its data comes later, without a mark
 * (memory/tracker.h).  So a page whose mark was taken by a collect at time t
 * can be written unseen, but only
 * by I/O that was submitted before t.  Such a page is *unsettled*:
 *
 * - It is settled by proof only.  When all I/O that was submitted before some
 *   time T has ended (vmm_drain(); `stop` drains, too), nothing writes
 *   unseen any more into pages that were unsettled at T.  Latencies that were
 *   measured prove nothing: they are means, of requests that have ended.
 * - What was read of them before that may be old, so they are *to be read*
 *   again, once, unless they are pending anyway.  They need no new collect: a
 *   write since t by I/O that was submitted later has left its mark.
 *
 * After `stop`, what is still unsettled is read again in the pause: that is
 * what was found written, and read, since the last drain, and at worst (no drain
 * at all) all of RAM.  What the destination holds already is found by
 * fingerprints and not sent.
 *
 * A drain makes vCPUs that need QEMU's main loop wait for the slowest request.
 * So one is made only where it costs the guest less than reading in the pause
 * would (recheck_is_drain_worth()); that is what the guest's latencies are good
 * for.
 *
 * Threads: one at a time.
 */
#pragma once

#include "memory/guest_memory.h"
#include "transfer/work_set.h"

typedef struct Recheck Recheck;

/* Everything that has content now is unsettled.  Borrows *memory*. */
Recheck *recheck_new(GuestMemory *memory, GError **error);
void recheck_free(Recheck *recheck);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Recheck, recheck_free)

/* For tracker_note_protected(). */
GPtrArray *recheck_get_unsettled(Recheck *recheck);

/* How many would be to be read if I/O were drained now; *pending* and *next*: what is to be sent
 * anyway (either may be NULL). */
uint64_t recheck_count(const Recheck *recheck, const GPtrArray *pending, const GPtrArray *next);

/* All I/O that was submitted before the last collect has ended. */
void recheck_settle(Recheck *recheck, const GPtrArray *pending, const GPtrArray *next);

/* Takes the next pages to be read, whole words of a bitmap as work_set_take() does; none: a batch
 * without pages. */
void recheck_take(Recheck *recheck, guint most, WorkBatch *ret);

/* Adds all that is to be read to *sets*, a PageSet a region, where it is read later; nothing is to be
 * read any more then. */
void recheck_move_to(Recheck *recheck, GPtrArray *sets);

/* Reading less than this again in the pause is not worth a drain. */
#define RECHECK_LEAST_MS 2.0

/* Pure.  *read_ms*: what reading again in the pause would take; *drain_ms*: what a drain is
 * expected to take. */
gboolean recheck_is_drain_worth(double read_ms, double drain_ms);
