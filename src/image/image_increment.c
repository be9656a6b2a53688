#include "image/image_increment.h"

#include <string.h>

#include "base/error.h"
#include "base/page.h"
#include "image/image_frame.h"

struct ImageIncrement {
    SavedImage *base;
    ImageWriter *writer;
    GPtrArray *content; /* PageSet of each region: pages that the base has content for */
    GPtrArray *came;    /* the same: pages that have come */
    PackContext *codec;
    PageFrame frame;
    /* Each has room for an extent: pages that came, those of the base, and what is packed of the first. */
    uint8_t *pages, *base_pages, *packed;
    ImageIncrementCounts counts;
};

/* ---- making ---- */

ImageIncrement *image_increment_new(SavedImage *base, ImageWriter *writer, GError **error)
{
    const PageRegions *regions = saved_image_get_regions(base);
    g_autoptr(ImageIncrement) increment = g_new0(ImageIncrement, 1);

    increment->base = base;
    increment->writer = writer;
    increment->content = page_regions_new_sets(regions);
    increment->came = page_regions_new_sets(regions);
    increment->codec = pack_context_new();
    increment->pages = g_malloc(IMAGE_MAX_EXTENT_BYTES);
    increment->base_pages = g_malloc(IMAGE_MAX_EXTENT_BYTES);
    increment->packed = g_malloc(IMAGE_MAX_EXTENT_BYTES);
    for (guint i = 0; i < regions->count; i++)
        if (!page_source_add_populated(saved_image_get_source(base), i,
                                       increment->content->pdata[i], error))
            return NULL;
    return g_steal_pointer(&increment);
}

void image_increment_free(ImageIncrement *increment)
{
    if (!increment)
        return;
    g_ptr_array_unref(increment->content);
    g_ptr_array_unref(increment->came);
    pack_context_free(increment->codec);
    g_free(increment->pages);
    g_free(increment->base_pages);
    g_free(increment->packed);
    g_free(increment);
}

void image_increment_get_counts(const ImageIncrement *increment, ImageIncrementCounts *ret)
{
    *ret = increment->counts;
}

/* ---- zeroes ---- */

static gboolean must_be_told(const ImageIncrement *increment, guint region, uint64_t page)
{
    return page_set_has(increment->content->pdata[region], page) ||
           image_writer_has_page(increment->writer, region, page);
}

static gboolean add_zero(ImageIncrement *increment, guint region, PageSpan span, GError **error)
{
    increment->counts.zeroed += span.count;
    return span.count == 0 || image_writer_add_zero(increment->writer, region, span, error);
}

static gboolean take_zero(ImageIncrement *increment, guint region, PageSpan span, GError **error)
{
    PageSpan told = {span.first, 0};

    for (uint64_t page = span.first; page < span.first + span.count; page++) {
        if (must_be_told(increment, region, page)) {
            told.count++;
            continue;
        }
        if (!add_zero(increment, region, told, error))
            return FALSE;
        told = (PageSpan){page + 1, 0};
    }
    return add_zero(increment, region, told, error);
}

/* ---- content ---- */

/* Appends a page to the last span where it follows it. */
static guint add_to_spans(PageSpan *spans, guint count, uint64_t page)
{
    if (count > 0 && spans[count - 1].first + spans[count - 1].count == page) {
        spans[count - 1].count++;
        return count;
    }
    spans[count] = (PageSpan){page, 1};
    return count + 1;
}

/* Of the pages of *spans*, those that the image does not tell of, and so are to be compared; the base's
 * content of them comes into *base_pages*, one behind the other. */
static gboolean read_base(ImageIncrement *increment, guint region, const PageSpan *spans,
                          guint count, GError **error)
{
    PageSpan unknown[IMAGE_MAX_EXTENT_PAGES];
    guint unknown_count = 0;

    for (guint i = 0; i < count; i++)
        for (uint64_t page = spans[i].first; page < spans[i].first + spans[i].count; page++)
            if (!image_writer_has_page(increment->writer, region, page))
                unknown_count = add_to_spans(unknown, unknown_count, page);
    return unknown_count == 0 ||
           page_source_read(saved_image_get_source(increment->base), region, unknown, unknown_count,
                            increment->base_pages, error);
}

/* The pages to be stored, as spans; *pages* then has only these. */
static guint keep_different(ImageIncrement *increment, guint region, const PageSpan *spans,
                            guint count, PageSpan *ret, uint32_t *ret_pages)
{
    const uint8_t *page = increment->pages, *base = increment->base_pages;
    uint8_t *kept = increment->pages;
    guint ret_count = 0;

    for (guint i = 0; i < count; i++)
        for (uint64_t k = 0; k < spans[i].count; k++, page += PAGE_BYTES) {
            if (!image_writer_has_page(increment->writer, region, spans[i].first + k)) {
                gboolean equal = memcmp(page, base, PAGE_BYTES) == 0;

                base += PAGE_BYTES;
                increment->counts.compared++;
                increment->counts.equal += equal;
                if (equal)
                    continue;
            }
            ret_count = add_to_spans(ret, ret_count, spans[i].first + k);
            memmove(kept, page, PAGE_BYTES);
            kept += PAGE_BYTES;
        }
    *ret_pages = (uint32_t)((size_t)(kept - increment->pages) / PAGE_BYTES);
    return ret_count;
}

/* What is left of a frame, packed as it was. */
static gboolean store_anew(ImageIncrement *increment, guint region, const PageSpan *spans,
                           guint count, uint32_t pages, PackMethod method, GError **error)
{
    size_t bytes = (size_t)pages * PAGE_BYTES;
    size_t packed = pack(increment->codec, method, 0, increment->pages, bytes, increment->packed,
                         IMAGE_MAX_EXTENT_BYTES);

    return image_writer_add_pages(
        increment->writer, region, spans, count, packed > 0 ? method : PACK_NONE,
        packed > 0 ? increment->packed : increment->pages, packed > 0 ? packed : bytes, error);
}

static gboolean take_content(ImageIncrement *increment, const ImageFrameFacts *facts,
                             const PageSpan *spans, guint count, GError **error)
{
    guint region = increment->frame.region, left_count;
    PageSpan left[IMAGE_MAX_EXTENT_PAGES];
    uint32_t pages;

    if (!unpack(increment->codec, facts->method, increment->frame.raw, facts->length,
                increment->pages, (size_t)facts->raw_pages * PAGE_BYTES, error) ||
        !read_base(increment, region, spans, count, error))
        return FALSE;
    left_count = keep_different(increment, region, spans, count, left, &pages);
    increment->counts.stored += pages;
    if (pages == 0)
        return TRUE;
    return pages == facts->raw_pages
               ? image_writer_add_pages(increment->writer, region, spans, count, facts->method,
                                        increment->frame.raw, facts->length, error)
               : store_anew(increment, region, left, left_count, pages, facts->method, error);
}

/* ---- the whole ---- */

gboolean image_increment_add_frame(ImageIncrement *increment, const Frame *frame, GError **error)
{
    const PageRegions *regions = saved_image_get_regions(increment->base);
    const PageFrame *pages = &increment->frame;
    PageSpan spans[IMAGE_MAX_EXTENT_PAGES];
    ImageFrameFacts facts;
    guint count = 0;

    if (!image_frame_decode(frame, regions, &increment->frame, &facts, error))
        return FALSE;
    for (guint i = 0; i < pages->run_count; i++) {
        PageSpan span = {pages->runs[i].first, pages->runs[i].count};

        page_set_add(increment->came->pdata[pages->region], span.first, span.count);
        if (pages->runs[i].kind == PAGE_RUN_RAW)
            spans[count++] = span;
        else if (!take_zero(increment, pages->region, span, error))
            return FALSE;
    }
    return count == 0 || take_content(increment, &facts, spans, count, error);
}

gboolean image_increment_finish(ImageIncrement *increment, GError **error)
{
    for (guint i = 0; i < increment->content->len; i++) {
        PageSet *gone = increment->content->pdata[i];
        PageSpan span;

        page_set_remove_all(gone, increment->came->pdata[i]);
        for (uint64_t from = 0;
             page_set_next_run(gone, from, G_MAXUINT64, &span.first, &span.count);
             from = span.first + span.count)
            if (!add_zero(increment, i, span, error))
                return FALSE;
    }
    return TRUE;
}
