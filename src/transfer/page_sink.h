/*
 * Where pages go to
 *
 * Theory of operation: whoever receives pages hands what the frames say to a
 * PageSink and does not know what is behind it: the memory of a guest that is
 * not running yet (guest_pages.h); later staging at a standby, a fault to be
 * answered, or an image file.  Calls take the pages of a whole frame, so the call
 * through the table costs nothing per page.
 *
 * A sink begins with all pages zero.  seal() says that an epoch is complete
 * (epoch.h): what came before it is one consistent set of changes.
 *
 * Threads: any number may write, zero, patch and copy side by side, no two of
 * them the same page; seal() comes alone.
 */
#pragma once

#include <glib.h>
#include <stdint.h>

#include "page/segments.h"
#include "transfer/page_source.h"
#include "wire/copy_frame.h"

/* What changed inside a page. */
typedef struct {
    uint64_t page;
    SegmentList segments;
    const uint8_t *bytes; /* of the segments, one after the other; borrowed */
} PagePatch;

typedef struct PageSink PageSink;

/* All pages of a call lie in its region.  Where one fails, some of them may have been
 * changed. */
typedef struct {
    /* Makes *buffer* the content of the pages of *spans*, one after the other. */
    gboolean (*write)(PageSink *sink, guint region, const PageSpan *spans, guint count,
                      const uint8_t *buffer, GError **error);
    /* Makes pages zero, and costs nothing for those that are.  *run* may be much longer
     * than what was ever written. */
    gboolean (*zero)(PageSink *sink, guint region, PageSpan run, GError **error);
    /* Puts segments over what the pages hold; all other bytes stay. */
    gboolean (*patch)(PageSink *sink, guint region, const PagePatch *patches, guint count,
                      GError **error);
    /* Makes pages equal to others of the sink, as these were before the call; at most
     * COPY_FRAME_MAX_PAGES. */
    gboolean (*copy)(PageSink *sink, guint region, const CopyRun *runs, guint count,
                     GError **error);
    /* Everything of this epoch has been given. */
    gboolean (*seal)(PageSink *sink, uint32_t epoch, GError **error);
    void (*free)(PageSink *sink);
} PageSinkMethods;

/* The head of each kind of sink. */
struct PageSink {
    const PageSinkMethods *methods;
    const PageRegions *regions; /* as long as the sink lives */
};

static inline gboolean page_sink_write(PageSink *sink, guint region, const PageSpan *spans,
                                       guint count, const uint8_t *buffer, GError **error)
{
    return sink->methods->write(sink, region, spans, count, buffer, error);
}

static inline gboolean page_sink_zero(PageSink *sink, guint region, PageSpan run, GError **error)
{
    return sink->methods->zero(sink, region, run, error);
}

static inline gboolean page_sink_patch(PageSink *sink, guint region, const PagePatch *patches,
                                       guint count, GError **error)
{
    return sink->methods->patch(sink, region, patches, count, error);
}

static inline gboolean page_sink_copy(PageSink *sink, guint region, const CopyRun *runs,
                                      guint count, GError **error)
{
    return sink->methods->copy(sink, region, runs, count, error);
}

static inline gboolean page_sink_seal(PageSink *sink, uint32_t epoch, GError **error)
{
    return sink->methods->seal(sink, epoch, error);
}

/* NULL-safe. */
static inline void page_sink_free(PageSink *sink)
{
    if (sink)
        sink->methods->free(sink);
}
G_DEFINE_AUTOPTR_CLEANUP_FUNC(PageSink, page_sink_free)
