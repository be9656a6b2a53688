#include "transfer/layered_source.h"

#include <string.h>

#include "base/error.h"
#include "base/page.h"

typedef struct {
    PageSource head;
    PageSource *top, *bottom;
    GPtrArray *pages; /* of *top* */
} LayeredSource;

/* How many pages of *span*, from its first on, are in one layer; *ret_top*: in which. */
static uint64_t find_layer(const PageSet *pages, PageSpan span, gboolean *ret_top)
{
    PageSet until = {span.first + span.count, pages->words};
    uint64_t first, count;

    *ret_top = FALSE;
    if (!page_set_next_run(&until, span.first, span.count, &first, &count))
        return span.count;
    if (first > span.first)
        return first - span.first;
    *ret_top = TRUE;
    return count;
}

static gboolean read_span(LayeredSource *source, guint region, PageSpan span, uint8_t *buffer,
                          GError **error)
{
    while (span.count > 0) {
        gboolean top;
        PageSpan part = {span.first, find_layer(source->pages->pdata[region], span, &top)};

        if (!top && !source->bottom)
            memset(buffer, 0, part.count * PAGE_BYTES);
        else if (!page_source_read(top ? source->top : source->bottom, region, &part, 1, buffer,
                                   error))
            return FALSE;
        buffer += part.count * PAGE_BYTES;
        span = (PageSpan){span.first + part.count, span.count - part.count};
    }
    return TRUE;
}

/* TRUE where none of them is in the top one. */
static gboolean are_below(const PageSet *pages, const PageSpan *spans, guint count)
{
    for (guint i = 0; i < count; i++) {
        gboolean top;

        if (find_layer(pages, spans[i], &top) < spans[i].count || top)
            return FALSE;
    }
    return TRUE;
}

static gboolean source_read(PageSource *head, guint region, const PageSpan *spans, guint count,
                            uint8_t *buffer, GError **error)
{
    LayeredSource *source = (LayeredSource *)head;

    if (source->bottom && are_below(source->pages->pdata[region], spans, count))
        return page_source_read(source->bottom, region, spans, count, buffer, error);
    for (guint i = 0; i < count; i++) {
        if (!read_span(source, region, spans[i], buffer, error))
            return FALSE;
        buffer += spans[i].count * PAGE_BYTES;
    }
    return TRUE;
}

static gboolean source_add_populated(PageSource *head, guint region, PageSet *set, GError **error)
{
    LayeredSource *source = (LayeredSource *)head;
    g_autoptr(PageSet) own = page_set_new(set->pages);

    if (source->bottom && !page_source_add_populated(source->bottom, region, own, error))
        return FALSE;
    page_set_remove_all(own, source->pages->pdata[region]);
    if (!page_source_add_populated(source->top, region, own, error))
        return FALSE;
    page_set_add_all(set, own);
    return TRUE;
}

static void source_free(PageSource *head)
{
    LayeredSource *source = (LayeredSource *)head;

    g_ptr_array_unref(source->pages);
    g_free(source);
}

PageSource *layered_source_new(PageSource *top, GPtrArray *pages, PageSource *bottom,
                               GError **error)
{
    static const PageSourceMethods methods = {source_read, source_add_populated, source_free};
    LayeredSource *source;

    if (bottom && !page_regions_are_equal(top->regions, bottom->regions, error)) {
        g_ptr_array_unref(pages);
        return NULL;
    }
    source = g_new0(LayeredSource, 1);
    source->head = (PageSource){&methods, top->regions};
    source->top = top;
    source->bottom = bottom;
    source->pages = pages;
    return &source->head;
}
