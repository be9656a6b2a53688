/*
 * The fault service: a running guest whose memory is not all there yet
 *
 * Theory of operation: the guest's RAM is registered with a Userfault for missing pages, so the
 * first access to a page that is not there waits, whoever makes it: a vCPU, the VMM's device model,
 * the kernel on their behalf.  A thread of the service reads these events:
 *
 *     MISSING, page outstanding        want(): the page is asked for, once; the thread waits until
 *                                      fault_service_place() puts it in
 *     MISSING, page not outstanding    it never had content: a page of zeroes is put in at once
 *     REMOVE                           the guest discards pages (balloon, free page reporting):
 *                                      they are not outstanding any more; a copy that arrives
 *                                      later is dropped
 *
 * fault_service_place() takes pages from whoever receives them, asked for or pushed, and puts each
 * in at most once, atomically (UFFDIO_COPY): a page that was written here meanwhile, or discarded,
 * is never overwritten.  Where the backing pages are huge ones, their parts are gathered until all
 * are there; such a page is outstanding as a whole or not at all, and its bits are cleared at once.
 * Memory for parts is bounded by how many huge pages the senders have begun; a restart loses them.
 *
 * Discards: the kernel lets one go on as soon as its event is read, so reading and clearing the
 * bits are one step to those who place, and those try again where the kernel has an event to be
 * read first.  What was in place when it was discarded is missing again, and gets zeroes.  A
 * hole punched in the file by fallocate(2) gives no event: an outstanding page gets its old
 * content then, which the guest has not touched since and must expect (balloon, free page
 * reporting).  The same holds where an agent dies between an event and its bits.
 *
 * With a Userfault that tracks (USERFAULT_WP_ASYNC) pages are put in write-protected, as not
 * written; zeroes in memory of 4 KiB pages cannot be, and count as written.
 *
 * The Userfault is USERFAULT_STAYS_IN_VMM: when we die, waiting threads go on waiting, and a
 * restarted agent fetches it and serves on.  Threads that wait then have given their event to the
 * dead agent: fault_service_start() with *resumed* wakes them all, so that they fault anew.
 *
 * Memory that a guest shares with others (shared_pages.h) may be left unserved only when the file has all of the content
 * there is, since a hole that is touched then becomes a page of zeroes for all: what the guest discards stays outstanding, and
 * reads as in the file.  In such memory a page is put into what they share, and who
 * waits for it is woken and finds it there.  It may be there by another guest's service already:
 * fault_service_settle_shared().
 *
 * Threads: placing from any number; the rest from one.  want() is called in the service's thread
 * and must neither wait for long nor place pages itself: placing may wait for that thread.
 */
#pragma once

#include "memory/outstanding.h"
#include "memory/shared_pages.h"
#include "memory/userfault.h"

typedef struct FaultService FaultService;

/* A thread of the guest waits for this page.  *region* as in GuestMemory; *count*: 1, or the pages
 * of a huge one that did not come yet, in
 * several calls where they are several runs. */
typedef void (*FaultServiceWant)(guint region, PageSpan span, gpointer user);

/* FALSE with *error* (UNSUPPORTED) where the guest's memory cannot be served so: a kernel without
 * missing faults for its backing, or without the REMOVE event.  Changes nothing. */
gboolean fault_service_check(const GuestMemory *memory, GError **error);

/* What *userfault_open()* is to be asked for. */
#define FAULT_SERVICE_USES (USERFAULT_MISSING | USERFAULT_REMOVE)

/* Registers all of *memory* with *userfault* and starts to serve.  Borrows all of them.
 * *shared*: what has been mapped over some of it, or NULL.
 * *resumed*: the userfault was fetched from a VMM that an agent that died has left.  INVALID where
 * *pages* are of other RAM, or not whole huge pages: who adds outstanding pages rounds them.  On
 * failure some of it may be registered until *userfault* is freed. */
FaultService *fault_service_start(Userfault *userfault, GuestMemory *memory,
                                  OutstandingPages *pages, SharedPages *shared, gboolean resumed,
                                  FaultServiceWant want, gpointer user, GError **error);

/* Stops serving; what waits goes on waiting, until the Userfault is freed.  NULL-safe. */
void fault_service_free(FaultService *service);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FaultService, fault_service_free)

/* Puts pages of *spans*, one after the other in *buffer*, in place where they are outstanding, and
 * wakes who waits for them.  FALSE only where the VMM's memory cannot be reached any more, the host
 * has none left (NO_SPACE), or pages are not in the region (INVALID). */
gboolean fault_service_place(FaultService *service, guint region, const PageSpan *spans,
                             guint count, const uint8_t *buffer, GError **error);
gboolean fault_service_place_zero(FaultService *service, guint region, PageSpan run,
                                  GError **error);

/* Puts the guest's own zeroes where what is shared has nothing, for when no fault is served any more: the first write
 * there would take a page of the file besides.  Once nothing is outstanding.  What cannot be put in is left. */
void fault_service_fill_zeroes(FaultService *service);

/* Pages of *span* that what is shared has already are not outstanding any more, up to the first run
 * that it lacks, *ret_lacking*; who waits for them is woken.  FALSE where it lacks none.  Without
 * shared memory it lacks all of *span*. */
gboolean fault_service_settle_shared(FaultService *service, guint region, PageSpan span,
                                     PageSpan *ret_lacking);

/* Calls want() anew for all pages that a thread waits for: requests may have been lost with a
 * connection.  From any thread. */
void fault_service_want_again(FaultService *service);

/* From now on pages that the guest discards are added to *noted* (borrowed; of the same regions),
 * outstanding or not: they read as zero now, which no tracker sees. */
void fault_service_note_discarded(FaultService *service, OutstandingPages *noted);

/* The first error that ended the service's thread (the VMM's end), or NULL. */
const GError *fault_service_get_error(FaultService *service);

typedef struct {
    uint64_t faults;               /* outstanding pages that were waited for */
    uint64_t zero_faults;          /* on pages without content */
    uint64_t discarded;            /* outstanding pages that the guest discarded */
    uint64_t placed;               /* pages put in place */
    uint64_t dropped;              /* pages that arrived and were not outstanding */
    double p50_ms, p99_ms, max_ms; /* from a fault on an outstanding page to its being in place */
} FaultServiceCounts;

void fault_service_get_counts(FaultService *service, FaultServiceCounts *ret);
