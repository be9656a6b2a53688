/*
 * Putting received pages into a sink, by several threads
 *
 * Theory of operation: page frames are unpacked, checked against the sink's
 * regions and handed to it (page_sink.h): PAGES and its packed forms become
 * writes and zero runs, SEGMENTS patches, COPIES copies, SEED_PAGES what a seed has (seed_reader.h).  Within an epoch no page
 * comes twice in any of these frames (docs/protocol.md), so they may be applied
 * in any order and side by side; page_applier_drain() at the end of the epoch
 * keeps an older version from overtaking a newer one, and a patch from its page.
 *
 * Pieces of a window (PAGES_WINDOW) refer to those before them: they are unpacked and handed to the sink
 * by the caller's thread, in the order in which they are pushed.
 *
 * Where frames come from and whose memory they lie in is the caller's: what
 * owns a frame is handed back when its pages are in.  After an error nothing
 * more is applied.
 *
 * Limits: of a malformed SEGMENTS frame some pages may be written before that is
 * found; the move ends then, and its VMM with it.
 *
 * Threads: push and drain from one; releases come from any.
 */
#pragma once

#include <glib.h>

#include "transfer/page_sink.h"
#include "transfer/seed_reader.h"
#include "wire/channel.h"

typedef struct PageApplier PageApplier;

/* Gives back the owner of a frame, whose payload is not used any more. */
typedef void (*PageApplierRelease)(gpointer owner, gpointer user);

/* Borrows *sink*.  *release* is called once for each frame that is pushed. */
PageApplier *page_applier_new(PageSink *sink, PageApplierRelease release, gpointer user);

/* From now on it takes PAGES_WINDOW, too, whose pieces are unpacked where they are pushed, in that
 * order: it is for slow links. */
void page_applier_take_windows(PageApplier *applier);

/* Where SEED_PAGES are taken from (borrowed); without one they are INVALID.  Before anything is pushed. */
void page_applier_set_seed(PageApplier *applier, SeedReader *seed);

/* What was pushed is not applied any more; waits for frames in the middle of it.
 * NULL-safe. */
void page_applier_free(PageApplier *applier);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(PageApplier, page_applier_free)

/* TRUE for the frames that page_applier_push() takes. */
static inline gboolean page_applier_takes(FrameType type)
{
    return frame_type_carries_pages(type);
}

/* Takes such a frame and its *owner*, released in any case.  FALSE with the first
 * error where an earlier frame could not be applied: a whole epoch would be a
 * long time to find out. */
gboolean page_applier_push(PageApplier *applier, const Frame *frame, gpointer owner,
                           GError **error);

/* Returns when all that was pushed is in the sink, or the first error. */
gboolean page_applier_drain(PageApplier *applier, GError **error);
