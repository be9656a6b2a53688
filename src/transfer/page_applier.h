/*
 * Writing received pages into guest RAM, by several threads
 *
 * Theory of operation: whole pages (PAGES and its packed forms) are written over
 * what is there; SEGMENTS patch the bytes that changed into it (page_patcher.h).
 * Within a round no page comes twice in any of these frames
 * (docs/protocol.md), so they may be applied in any order and side by side;
 * page_applier_drain() at the end of the round keeps an older version from
 * overtaking a newer one, and a patch from its page.
 *
 * ZERO runs are written only where something may be: what was never given a
 * content stays untouched, and naming pages costs the receiver no more than it
 * cost the sender to fill them.  After an error nothing more is applied.
 *
 * Limits: that a patched page holds what the patch was made against is the
 * source's duty; here it can't be seen (DIGESTS would show it).  Of a malformed
 * SEGMENTS frame some pages may be written before that is found; the move ends
 * then, and its VMM with it.
 */
#pragma once

#include <glib.h>

#include "memory/guest_memory.h"
#include "transfer/frame_queue.h"

typedef struct PageApplier PageApplier;

/* Borrows both.  Pages that hold something already are found here. */
PageApplier *page_applier_new(GuestMemory *memory, FrameQueue *queue);

/* What is queued is not applied any more; waits for frames in the middle of it.
 * NULL-safe. */
void page_applier_free(PageApplier *applier);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(PageApplier, page_applier_free)

/* TRUE for the frames that page_applier_push() takes. */
static inline gboolean page_applier_takes(FrameType type)
{
    return frame_type_carries_pages(type);
}

/* Takes the slot of such a frame; it goes back to the queue when its pages are
 * in.  FALSE with the first error where an earlier frame could not be
 * applied: a whole round would be a long time to find out. */
gboolean page_applier_push(PageApplier *applier, FrameSlot *slot, GError **error);

/* Returns when all that was pushed is in guest RAM, or the first error. */
gboolean page_applier_drain(PageApplier *applier, GError **error);
