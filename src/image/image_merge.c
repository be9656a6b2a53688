#include "image/image_merge.h"

#include "base/error.h"
#include "base/page.h"
#include "image/image_writer.h"

typedef struct {
    SavedImage *image;
    ImageWriter *writer;
    GArray *rest; /* ImageRun: pages of extents that are not copied whole */
    PackContext *codec;
    uint8_t *pages, *packed; /* room for an extent */
    PageSpan spans[IMAGE_MAX_EXTENT_PAGES];
} Merge;

static gboolean are_ascending(const PageSpan *spans, guint count)
{
    for (guint i = 1; i < count; i++)
        if (spans[i].first < spans[i - 1].first + spans[i - 1].count)
            return FALSE;
    return TRUE;
}

static gboolean copy_extent(Merge *merge, guint number, const ImageExtentFacts *facts, guint count,
                            GError **error)
{
    return saved_image_read_extent(merge->image, number, merge->pages, NULL, error) &&
           image_writer_add_pages(merge->writer, facts->region, merge->spans, count, facts->method,
                                  merge->pages, facts->stored_bytes, error);
}

static gboolean take_extent(Merge *merge, guint number, GError **error)
{
    ImageExtentFacts facts;
    guint count;

    saved_image_get_extent(merge->image, number, &facts);
    count = saved_image_list_extent(merge->image, number, merge->spans);
    if (facts.used == facts.pages && are_ascending(merge->spans, count))
        return copy_extent(merge, number, &facts, count, error);
    for (guint i = 0; i < count; i++) {
        const ImageRun run = {facts.region, merge->spans[i]};

        g_array_append_val(merge->rest, run);
    }
    return TRUE;
}

static gboolean write_rest(Merge *merge, guint region, guint count, uint64_t pages, GError **error)
{
    size_t bytes = pages * PAGE_BYTES, packed;

    if (!page_source_read(saved_image_get_source(merge->image), region, merge->spans, count,
                          merge->pages, error))
        return FALSE;
    packed = pack(merge->codec, PACK_ZSTD, 0, merge->pages, bytes, merge->packed,
                  IMAGE_MAX_EXTENT_BYTES);
    return image_writer_add_pages(
        merge->writer, region, merge->spans, count, packed > 0 ? PACK_ZSTD : PACK_NONE,
        packed > 0 ? merge->packed : merge->pages, packed > 0 ? packed : bytes, error);
}

static int compare_runs(gconstpointer one, gconstpointer other)
{
    const ImageRun *a = one, *b = other;

    if (a->region != b->region)
        return a->region > b->region ? 1 : -1;
    return (a->span.first > b->span.first) - (a->span.first < b->span.first);
}

/* In new extents, as full as they can be. */
static gboolean take_rest(Merge *merge, GError **error)
{
    guint region = 0, count = 0;
    uint64_t pages = 0;

    g_array_sort(merge->rest, compare_runs);
    for (guint i = 0; i < merge->rest->len; i++) {
        const ImageRun *run = &g_array_index(merge->rest, ImageRun, i);

        if (count > 0 &&
            (run->region != region || pages + run->span.count > IMAGE_MAX_EXTENT_PAGES)) {
            if (!write_rest(merge, region, count, pages, error))
                return FALSE;
            count = 0;
            pages = 0;
        }
        region = run->region;
        merge->spans[count++] = run->span;
        pages += run->span.count;
    }
    return count == 0 || write_rest(merge, region, count, pages, error);
}

static gboolean run_merge(Merge *merge, gboolean replace, GError **error)
{
    const GArray *order = saved_image_get_order(merge->image);
    const ImageTail tail = {.machine = saved_image_get_machine(merge->image),
                            .note = saved_image_get_note(merge->image),
                            .state = saved_image_get_state(merge->image)};
    SavedImageTotals totals;

    saved_image_get_totals(merge->image, &totals);
    for (guint i = 0; i < totals.extents; i++)
        if (!take_extent(merge, i, error))
            return FALSE;
    return take_rest(merge, error) &&
           image_writer_set_order(merge->writer, (const ImageRun *)order->data, order->len,
                                  error) &&
           image_writer_commit(merge->writer, &tail, replace, error);
}

gboolean image_merge(SavedImage *image, const char *path, GBytes *key, gboolean replace,
                     ImageId *ret_id, GError **error)
{
    ImageHead head = {.regions = saved_image_get_regions(image), .key = key};
    g_autoptr(ImageWriter) writer = NULL;
    Merge merge = {.image = image};
    gboolean done;

    if (!image_id_make(&head.id, error))
        return FALSE;
    writer = image_writer_create(path, &head, error);
    if (!writer)
        return FALSE;
    merge.writer = writer;
    merge.rest = g_array_new(FALSE, FALSE, sizeof(ImageRun));
    merge.codec = pack_context_new();
    merge.pages = g_malloc(IMAGE_MAX_EXTENT_BYTES);
    merge.packed = g_malloc(IMAGE_MAX_EXTENT_BYTES);
    done = run_merge(&merge, replace, error);
    g_free(merge.packed);
    g_free(merge.pages);
    pack_context_free(merge.codec);
    g_array_unref(merge.rest);
    if (done && ret_id)
        *ret_id = head.id;
    return done;
}
