/*
 * Dirty tracking from outside
 *
 * Theory of operation: while a Tracker exists, every write to the guest's RAM
 * through the VMM's address space is seen: by a vCPU, by the device model, or
 * by the kernel on their behalf.  A page is either write-protected, or it counts
 * as written.  At first nothing that is populated is protected, so all of it
 * counts; the guest pays a page fault for its first write to a protected page, and
 * nothing for any other.
 *
 * - tracker_collect() gets and clears: it adds the pages that count as written
 *   to the caller's sets and protects them.
 * - tracker_peek() gets only: what is written already stays so, at no cost to
 *   the guest.
 * - tracker_release_span() lifts the protection: all of the span counts as written.
 *
 * Why no write is lost: let a caller send a page's content only if it has
 * collected the page before it read it, and take the content sent for current only
 * if a collect or peek after that does not name the page.  A write before the
 * collect is in what was read.  A write after it meets the protection, lifts it
 * for good (until the next collect), and so is named by every later peek.  A page
 * that was never collected is named by all of them.
 *
 * Two back ends, chosen by what the kernel offers and shown to the user:
 *
 *   pagemap-scan  Linux 6.7.  userfaultfd with asynchronous write protection;
 *                 the kernel resolves the first write to a page itself, and
 *                 PAGEMAP_SCAN gets and clears in one call.  No thread of ours
 *                 is involved, so an attached, idle tracker costs nothing and
 *                 our death only ends the tracking.
 *   uffd-sync     Linux 5.13 (private memory) or 5.19 (shared).  The first
 *                 write to a page waits until our handler thread has lifted
 *                 the protection; pagemap's write-protect bit shows which are
 *                 lifted.  Costs the guest a switch to our thread and back
 *                 for each.  When our process dies, the kernel closes the
 *                 userfaultfd and all waiting threads run on.
 *
 * What neither of them sees: a write into a page that was pinned before the
 * collect.  Both see page faults, and a write through a page table that is
 * the guest's or the VMM's; get_user_pages() faults (and so marks the page)
 * when it pins, not when the data comes.  So a page is marked, collected, read,
 * and written afterwards without a mark, by:
 *
 *   O_DIRECT reads      (preadv, linux-aio, io_uring, SG_IO; FUSE files in
 *                       direct_io mode): from submission to completion, as
 *                       long as the device takes.  What to do about it:
 *                       tracker_note_protected() and transfer/recheck.h.
 *   io_uring's fixed buffers, VFIO, RDMA: pinned once for all; never seen.
 *                       vmm_check_movable() refuses what does so with guest
 *                       memory (QEMU's nvme and libblkio drivers, vfio, vdpa,
 *                       RDMA migration aside); QEMU's aio=io_uring has no fixed
 *                       buffers.
 *   nested guests       KVM on Intel keeps the virtual APIC page and the
 *                       posted-interrupt descriptor of an L2 mapped while the
 *                       L2 runs (kvm_vcpu_map); the CPU writes them without
 *                       page tables of ours.  AMD's VMCB is mapped anew, with a
 *                       fault, for each exit.  Known from the kernel's source;
 *                       not dealt with.
 *
 * What is seen, though the writer is elsewhere: vhost-net and vhost-vsock of the
 * kernel write by copy_to_user() through the VMM's page tables, and fault;
 * KVM's own clock and steal-time pages are caches that protecting a page
 * invalidates (MMU notifiers).  Writers with an address space of their own
 * (vhost-user, VFIO) are not seen and refused.
 *
 * Threads: one at a time calls these.
 *
 * Limits: on hugetlbfs a dirty page means its whole huge page.
 */
#pragma once

#include <glib.h>

#include "memory/guest_memory.h"
#include "memory/userfault.h"

typedef enum {
    TRACKER_AUTO,         /* the best that the kernel offers */
    TRACKER_PAGEMAP_SCAN, /* Linux 6.7: asynchronous write protection, PAGEMAP_SCAN */
    TRACKER_UFFD_SYNC,    /* older kernels: a write-protect fault for each first write */
} TrackerKind;

/* "auto", "pagemap-scan", "uffd-sync" */
const char *tracker_kind_name(TrackerKind kind);
gboolean tracker_kind_from_name(const char *name, TrackerKind *ret);

typedef struct Tracker Tracker;

/* Watches all regions of *memory* (borrowed; must outlive the tracker) from now on, with a
 * userfault of its own.  What is populated counts as written, holes do not: all that has content is
 * what is populated after this.  TRACKER_AUTO takes the first that works. */
Tracker *tracker_start(GuestMemory *memory, TrackerKind kind, GError **error);

/* The same on *userfault* (borrowed; must outlive the tracker), which others use, too:
 * opened with USERFAULT_WP_ASYNC, and every region's range registered with USERFAULT_MODE_WP.  A
 * page that userfault_copy() put in protected does not count as written.  tracker_free() leaves all
 * as it is, for a tracker that goes on; what ends the userfault ends the protection. */
Tracker *tracker_start_on(GuestMemory *memory, Userfault *userfault, GError **error);

/* Adds what counts as written to *sets* (guest_memory_new_sets()) and protects it. */
gboolean tracker_collect(Tracker *tracker, GPtrArray *sets, GError **error);

/* The same for the pages of *span* in one region: a page of a span that is
 * collected right before it is read is dirty later only if it was written after that. */
gboolean tracker_collect_span(Tracker *tracker, guint region, PageSpan span, PageSet *set,
                              GError **error);

/* Adds what counts as written to *sets*; changes nothing. */
gboolean tracker_peek(Tracker *tracker, GPtrArray *sets, GError **error);

/* Lets the pages of *span* be written without a fault: those that are populated count as
 * written until they are collected again. */
gboolean tracker_release_span(Tracker *tracker, guint region, PageSpan span, GError **error);

/* From now on also adds to *sets* (borrowed until tracker_free(); NULL: no more) each page that a
 * collect finds written and protects: only such a page can have been pinned for writing before it
 * was protected. */
void tracker_note_protected(Tracker *tracker, GPtrArray *sets);

TrackerKind tracker_get_kind(Tracker *tracker);

/* Stops watching; nothing of it stays in the guest.  NULL-safe. */
void tracker_free(Tracker *tracker);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Tracker, tracker_free)

/* For the back ends. */
typedef struct {
    TrackerKind kind;
    UserfaultUses uses; /* of a userfault of its own */
    gboolean (*start)(Tracker *tracker, GError **error);
    gboolean (*collect)(Tracker *tracker, guint region, PageSpan span, PageSet *set,
                        GError **error);
    gboolean (*peek)(Tracker *tracker, guint region, PageSpan span, PageSet *set, GError **error);
    void (*stop)(Tracker *tracker);
} TrackerOps;

struct Tracker {
    const TrackerOps *ops;
    GuestMemory *memory;
    GPtrArray *protected_again; /* NULL: not wanted */
    Userfault *userfault;
    gboolean owns_userfault;
    /* uffd-sync */
    GThread *handler;
    int stop_event;
};

extern const TrackerOps tracker_pagemap_scan_ops;
extern const TrackerOps tracker_uffd_sync_ops;
