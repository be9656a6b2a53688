/*
 * Where pages come from
 *
 * Theory of operation: whoever sends, verifies or serves pages asks a PageSource
 * for their content and does not know what is behind it: the memory of a live
 * guest (guest_pages.h); later an image file or a peer that is asked for pages.
 * It works in spans of pages, as many as a batch has, so the call through the
 * table costs nothing per page.
 *
 * Threads: reading from any number of threads.
 */
#pragma once

#include <glib.h>
#include <stdint.h>

#include "memory/page_set.h"

/* What page numbers count in: the machine's RAM regions, in an order in which both
 * ends of a transfer have them. */
typedef struct {
    guint count;
    uint64_t *pages; /* of each region */
    char **names;    /* the VMM's; for messages */
} PageRegions;

/* One empty PageSet for each region; free with g_ptr_array_unref(). */
static inline GPtrArray *page_regions_new_sets(const PageRegions *regions)
{
    GPtrArray *sets = g_ptr_array_new_with_free_func((GDestroyNotify)page_set_free);

    for (guint i = 0; i < regions->count; i++)
        g_ptr_array_add(sets, page_set_new(regions->pages[i]));
    return sets;
}

/* FALSE (INVALID) with what differs. */
gboolean page_regions_are_equal(const PageRegions *regions, const PageRegions *others,
                                GError **error);

typedef struct PageSource PageSource;

typedef struct {
    /* Reads the pages of *spans* of one region, one after the other, into *buffer*. */
    gboolean (*read)(PageSource *source, guint region, const PageSpan *spans, guint count,
                     uint8_t *buffer, GError **error);
    /* Adds to *set* the pages that have content; all others read as zero. */
    gboolean (*add_populated)(PageSource *source, guint region, PageSet *set, GError **error);
    void (*free)(PageSource *source);
    /* Which pages cost little more when this one has been read, since they are kept with it: at most *most* spans,
     * ascending, into *ret*; returns how many.  NULL: none. */
    guint (*find_together)(PageSource *source, guint region, uint64_t page, PageSpan *ret,
                           guint most);
} PageSourceMethods;

/* The head of each kind of source. */
struct PageSource {
    const PageSourceMethods *methods;
    const PageRegions *regions; /* as long as the source lives */
};

static inline gboolean page_source_read(PageSource *source, guint region, const PageSpan *spans,
                                        guint count, uint8_t *buffer, GError **error)
{
    return source->methods->read(source, region, spans, count, buffer, error);
}

static inline gboolean page_source_add_populated(PageSource *source, guint region, PageSet *set,
                                                 GError **error)
{
    return source->methods->add_populated(source, region, set, error);
}

static inline guint page_source_find_together(PageSource *source, guint region, uint64_t page,
                                              PageSpan *ret, guint most)
{
    return source->methods->find_together
               ? source->methods->find_together(source, region, page, ret, most)
               : 0;
}

/* NULL-safe. */
static inline void page_source_free(PageSource *source)
{
    if (source)
        source->methods->free(source);
}
G_DEFINE_AUTOPTR_CLEANUP_FUNC(PageSource, page_source_free)
