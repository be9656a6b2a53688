/*
 * Post-copy: which outstanding pages are pushed next
 *
 * Theory of operation: pure.  The pages that the guest will need soon should come before it faults
 * on them.  What is known:
 *
 * - its faults: what it touches next is near what it touched last.  Pages are pushed outwards from
 *   each fault (pivot), ahead of it first, then behind, in growing steps: "bubbling" with several
 *   pivots (Hines and Gopalan, VEE 2009).  Old pivots lose their turn to newer ones.
 * - what it wrote lately: the groups (base/page.h: GROUP_PAGES) that were dirtied last before the
 *   switchover come first where no pivot has anything left, hottest first; then the rest in
 *   ascending order.
 *
 * The sets are of what is still to be pushed; whoever sends a page removes it.  Pages are only ever
 * removed: what was found empty is remembered and not searched again, so a call costs next to
 * nothing however large the guest.  Where pages are added (sent in vain, to be sent again), a new
 * order is made.
 *
 * Near a fault is what is up to 16 MiB from it; what is left farther away is for the other rules.
 *
 * Threads: one at a time.
 */
#pragma once

#include <glib.h>
#include <stdint.h>

#include "base/page.h"

typedef struct PushOrder PushOrder;

/* A region's outstanding pages as the caller knows them: the first run at or after *from*, of at
 * most *max* pages of it; FALSE: there is none. */
typedef gboolean (*PushOrderNextRun)(guint region, uint64_t from, uint64_t max, uint64_t *ret_first,
                                     uint64_t *ret_count, gpointer user);

/* *region_pages* is copied.  *heat*: one value a group over all regions, in their order (each
 * region begins a new group), the higher the earlier; NULL: none is known.  Copied. */
PushOrder *push_order_new(const uint64_t *region_pages, guint region_count, const float *heat,
                          PushOrderNextRun next_run, gpointer user);
void push_order_free(PushOrder *order);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(PushOrder, push_order_free)

/* The guest faulted on this page; one that is not in the region is ignored. */
void push_order_note_fault(PushOrder *order, guint region, uint64_t page);

typedef struct {
    guint region;
    uint64_t first, count; /* all outstanding */
} PushRun;

/* The next run to push, of at most *max* pages; FALSE where nothing is outstanding.  The caller
 * takes what it pushes from its sets before it asks again. */
gboolean push_order_next(PushOrder *order, uint64_t max, PushRun *ret);
