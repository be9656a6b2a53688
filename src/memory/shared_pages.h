/*
 * Pages that several guests on this host have in common
 *
 * Theory of operation: a file in memory (memfd) holds what an image has of some RAM regions, as far as somebody has
 * wanted it.  Each guest maps it privately over its own RAM, so a page that is only read is there once for all of
 * them, and one that is written becomes the writer's own: the kernel copies it.
 *
 *     shared_pages_map()      the file lies over the guest's RAM, but cannot be touched yet
 *     fault_service_start()   registers it: a page that the file lacks is a fault that waits
 *     shared_pages_open_up()  from here on it may be touched
 *     shared_pages_put()      a page comes into the file; who waits for it has to be woken, and faults anew
 *
 * A page comes into the file whole: it is put (UFFDIO_COPY) into a mapping of our own that is registered for missing
 * pages, where the kernel fills a page before anybody can find it.  write(2) would not do: cut short it leaves a page
 * of zeroes.  And nobody may read a hole where it is not registered: that would give the file a page of zeroes, for
 * all.  Hence the guests' mappings begin inaccessible.
 *
 * A guest's registration may end only when the file has all that the image has: what is then touched of a hole is zero by
 * right.  One that has to go before that is killed first (local_feeder_discard()).
 *
 * Limits: private memory of 4 KiB pages; others keep what they have.  A guest that discards pages finds the file's content
 * there again, not zeroes (they stay outstanding until the file has it): right for a balloon, not where it relies on zeroes (free page reporting, virtio-mem), which the
 * caller refuses.
 *
 * Threads: any.  See userfaultfd(2), and mfill_atomic_pte() of the kernel for what a private mapping gets.
 */
#pragma once

#include "memory/guest_memory.h"

/* How the file is called in /proc/PID/maps, by which guest_memory_open() knows it. */
#define SHARED_PAGES_NAME "vmferry-shared"

typedef struct SharedPages SharedPages;

/* *pages*: of each of *count* regions. */
SharedPages *shared_pages_new(const uint64_t *pages, guint count, GError **error);
/* The one that *memory*, opened anew, has mapped.  There may be several of one file. */
SharedPages *shared_pages_of(GuestMemory *memory, GError **error);
/* Guests that have mapped it keep the file.  NULL-safe. */
void shared_pages_free(SharedPages *shared);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(SharedPages, shared_pages_free)

/* Maps the file over the regions of *memory* that can be shared, as seen by their backing; what they held is lost.
 * The process must not touch them until shared_pages_open_up().  UNSUPPORTED where that is not most of it.  On failure the process is
 * to be ended. */
gboolean shared_pages_map(SharedPages *shared, GuestMemory *memory, GError **error);
gboolean shared_pages_open_up(GuestMemory *memory, GError **error);

/* Puts in what is not there yet.  NO_SPACE where the host has no memory left; FAILED where something else is there. */
gboolean shared_pages_put(SharedPages *shared, guint region, PageSpan span, const uint8_t *content,
                          GError **error);

gboolean shared_pages_has(SharedPages *shared, guint region, uint64_t page);
/* The next run of pages in [from, end) that it has (*has*) or lacks; FALSE where there is none. */
gboolean shared_pages_next_run(SharedPages *shared, guint region, uint64_t from, uint64_t end,
                               gboolean has, PageSpan *ret);

/* In all regions. */
uint64_t shared_pages_count(SharedPages *shared);
