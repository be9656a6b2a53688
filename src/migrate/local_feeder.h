/*
 * A guest that runs while its memory comes from a source on this host
 *
 * Theory of operation: what postcopy_destination.h is for memory that comes from a peer this is for
 * a PageSource here: another VMM's memory with what has changed since (transfer/layered_source.h).
 *
 *     made           before the device state is loaded, which touches memory
 *     first          what is known to be wanted soon, before the guest runs
 *     answering      a thread reads what a fault waits for, and its neighbours, at once
 *     filling        one or two more bring all the rest, in the order of policy/push_order.h, once the
 *                    guest runs
 *     whole          no page is outstanding: local_feeder_await() takes the userfaultfd out of the
 *                    VMM, then removes the file.  A crash in between leads to the same end.
 *     left           the agent stops, or has died: all stays in the VMM as it is, and threads that
 *                    need a page wait for a feeder that is started with *resumed*.
 *
 * Guests that share pages (memory/shared_pages.h) each have a feeder, with the same SharedPages: what one has
 * brought the others only have to find there.
 *
 * Threads: starting, filling, awaiting and freeing from one at a time.
 */
#pragma once

#include "memory/fault_service.h"
#include "transfer/page_source.h"

typedef struct LocalFeeder LocalFeeder;

/* Takes *memory*, *userfault* and *pages* (in any case), borrows *source*, of the same regions;
 * begins to answer.  The pages have been discarded.  *path*: of the file behind *pages*.
 * *shared* (borrowed; NULL: nothing is): has been mapped over some of *memory*.  *resumed*: see
 * fault_service_start(). */
LocalFeeder *local_feeder_start(GuestMemory *memory, Userfault *userfault, OutstandingPages *pages,
                                const char *path, PageSource *source, SharedPages *shared,
                                gboolean resumed, GError **error);

/* What an agent that died has left in process *pid*, by the file at *path*, is fed on. */
LocalFeeder *local_feeder_reopen(pid_t pid, const char *path, PageSource *source, GError **error);

/* Before that: *ret*: that agent had all pages and took the userfaultfd out; the file is removed
 * where it is still there.  FALSE where that cannot be told. */
gboolean local_feeder_was_whole(pid_t pid, const char *path, gboolean *ret, GError **error);

/* Leaves what is not whole in the VMM.  NULL-safe. */
void local_feeder_free(LocalFeeder *feeder);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(LocalFeeder, local_feeder_free)

/* The VMM has not run and is about to be ended: nothing is to stay.  Frees the feeder; what waits
 * there is let go, and reads zeroes; one that shares pages is killed here. */
void local_feeder_discard(LocalFeeder *feeder);

/* Which pages are brought before all others, in this order, by local_feeder_fill(); those that are outstanding. */
typedef struct {
    guint region;
    PageSpan span;
} LocalFeederRun;

/* Copies *runs*, of its regions (others are left out).  Before local_feeder_fill(). */
void local_feeder_set_first(LocalFeeder *feeder, const LocalFeederRun *runs, guint count);

/* Brings *count* of those runs, or as many as come within *budget_ms*; before local_feeder_fill(), which brings the
 * others. */
gboolean local_feeder_bring_first(LocalFeeder *feeder, guint count, guint budget_ms,
                                  GError **error);

/* Blocks of some pages in which one was waited for, in this order, each once, at most LOCAL_FEEDER_MOST_ACCESSES:
 * LocalFeederRun; free with g_array_unref(). */
GArray *local_feeder_list_accesses(LocalFeeder *feeder);
#define LOCAL_FEEDER_MOST_ACCESSES 65536u

/* Called in the filling thread, when LOCAL_FEEDER_CHUNK_PAGES more have come by it, and at its end. */
typedef void (*LocalFeederProgress)(gpointer user);
#define LOCAL_FEEDER_CHUNK_PAGES 8192u

/* Begins to fill, once.  *progress* may be NULL. */
gboolean local_feeder_fill(LocalFeeder *feeder, LocalFeederProgress progress, gpointer user,
                           GError **error);

typedef enum {
    LOCAL_FEEDER_FEEDING, /* the time is over */
    LOCAL_FEEDER_WHOLE,
    LOCAL_FEEDER_FAILED, /* with *error*: the VMM has ended, or a page cannot be read any more */
} LocalFeederState;

/* Waits until it is whole or has failed, for *timeout_ms* at most. */
LocalFeederState local_feeder_await(LocalFeeder *feeder, guint timeout_ms, GError **error);

uint64_t local_feeder_count_outstanding(LocalFeeder *feeder);
/* Borrowed, as long as the feeder lives. */
const OutstandingPages *local_feeder_get_outstanding(const LocalFeeder *feeder);
void local_feeder_get_counts(LocalFeeder *feeder, FaultServiceCounts *ret);
