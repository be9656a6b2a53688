#include <inttypes.h>
#include <string.h>

#include "base/error.h"
#include "base/lock_guard.h"
#include "base/page.h"
#include "image/image_map.h"
#include "image/saved_image_private.h"

/* ---- one extent ---- */

static PackContext *take_codec(SavedImage *image)
{
    lock_guard(&image->lock);
    return image->codecs->len > 0 ? g_ptr_array_steal_index_fast(image->codecs, 0)
                                  : pack_context_new();
}

static void give_codec(SavedImage *image, PackContext *codec)
{
    lock_guard(&image->lock);
    g_ptr_array_add(image->codecs, codec);
}

static gboolean unpack_extent(SavedImage *image, const ImageExtent *stored, const uint8_t *bytes,
                              uint8_t *pages, GError **error)
{
    PackContext *codec = take_codec(image);
    gboolean done = unpack(codec, (PackMethod)stored->method, bytes, stored->stored_bytes, pages,
                           stored->pages * PAGE_BYTES, error);

    give_codec(image, codec);
    return done;
}

static gboolean read_stored(SavedImage *image, OpenExtent *extent, uint8_t *bytes, GError **error)
{
    const ImageFile *file = saved_image_file(image, extent->layer);
    uint8_t digest[IMAGE_DIGEST_BYTES];

    if (!image_file_read(file, bytes, extent->stored.stored_bytes, extent->stored.place, error))
        return FALSE;
    image_digest_compute(file->header.digest, bytes, extent->stored.stored_bytes, digest);
    if (image_digest_is_equal(digest, extent->stored.digest)) {
        g_atomic_int_set(&extent->checked, TRUE);
        return TRUE;
    }
    error_set(error, VMFERRY_ERROR_INVALID, "its bytes are damaged");
    return FALSE;
}

static void prefix_extent(const SavedImage *image, const OpenExtent *extent, GError **error)
{
    g_prefix_error(error, "%s: extent of %u bytes at %" PRIu64 ": ",
                   saved_image_file(image, extent->layer)->path, extent->stored.stored_bytes,
                   extent->stored.place);
}

gboolean saved_image_read_extent(SavedImage *image, guint number, uint8_t *stored,
                                 uint8_t *unpacked, GError **error)
{
    OpenExtent *extent = saved_image_extent(image, number);

    if (read_stored(image, extent, stored, error) &&
        (!unpacked || unpack_extent(image, &extent->stored, stored, unpacked, error)))
        return TRUE;
    prefix_extent(image, extent, error);
    return FALSE;
}

void saved_image_get_extent(const SavedImage *image, guint number, ImageExtentFacts *ret)
{
    const OpenExtent *extent = saved_image_extent(image, number);

    *ret = (ImageExtentFacts){.layer = extent->layer,
                              .place = extent->stored.place,
                              .stored_bytes = extent->stored.stored_bytes,
                              .method = (PackMethod)extent->stored.method,
                              .pages = extent->stored.pages,
                              .used = extent->used,
                              .region = extent->region};
}

static const ImageMapRun *run_of(const SavedImage *image, const OpenExtent *extent, guint i)
{
    guint run = g_array_index(image->extent_runs, uint32_t, extent->first_run + i);

    return &g_array_index((GArray *)image->maps->pdata[extent->region], ImageMapRun, run);
}

static int compare_offsets(gconstpointer one, gconstpointer other)
{
    const ImageMapRun *const *a = one, *const *b = other;

    return ((*a)->offset > (*b)->offset) - ((*a)->offset < (*b)->offset);
}

guint saved_image_list_extent(const SavedImage *image, guint number, PageSpan *spans)
{
    const OpenExtent *extent = saved_image_extent(image, number);
    const ImageMapRun *runs[IMAGE_MAX_EXTENT_PAGES];

    if (extent->run_count == 0)
        return 0;
    for (guint i = 0; i < extent->run_count; i++)
        runs[i] = run_of(image, extent, i);
    qsort(runs, extent->run_count, sizeof runs[0], compare_offsets);
    for (guint i = 0; i < extent->run_count; i++)
        spans[i] = (PageSpan){runs[i]->first, runs[i]->count};
    return extent->run_count;
}

/* ---- unpacked extents ---- */

/* Into a slot that is this thread's for now. */
static gboolean load(SavedImage *image, OpenExtent *extent, uint8_t *pages, GError **error)
{
    g_autofree uint8_t *bytes = NULL;

    if (extent->stored.method == PACK_NONE)
        return read_stored(image, extent, pages, error);
    bytes = g_malloc(extent->stored.stored_bytes);
    return read_stored(image, extent, bytes, error) &&
           unpack_extent(image, &extent->stored, bytes, pages, error);
}

/* With the lock: the slot of the extent, or the one that is best given to it; NULL where all are in
 * use.  Slots are few, so they are looked at one by one. */
static CacheSlot *choose_slot(SavedImage *image, guint number)
{
    CacheSlot *best = NULL;

    for (guint i = 0; i < SAVED_IMAGE_CACHED_EXTENTS; i++) {
        CacheSlot *slot = &image->slots[i];

        if (slot->state != SLOT_EMPTY && slot->extent == number)
            return slot;
        if (slot->state == SLOT_LOADING || slot->users > 0)
            continue;
        if (!best || slot->last_use < best->last_use)
            best = slot;
    }
    return best;
}

/* With the lock, which is left for the loading. */
static gboolean fill(SavedImage *image, CacheSlot *slot, guint number, GError **error)
{
    gboolean done;

    slot->state = SLOT_LOADING;
    slot->extent = number;
    if (!slot->pages)
        slot->pages = g_malloc(IMAGE_MAX_EXTENT_BYTES);
    g_mutex_unlock(&image->lock);
    done = load(image, saved_image_extent(image, number), slot->pages, error);
    g_mutex_lock(&image->lock);
    slot->state = done ? SLOT_READY : SLOT_EMPTY;
    if (!done)
        slot->last_use = 0;
    g_cond_broadcast(&image->changed);
    return done;
}

/* Give it back with release(). */
static CacheSlot *acquire(SavedImage *image, guint number, GError **error)
{
    CacheSlot *slot;

    lock_guard(&image->lock);
    for (;;) {
        slot = choose_slot(image, number);
        if (slot && slot->state != SLOT_LOADING)
            break;
        g_cond_wait(&image->changed, &image->lock);
    }
    if ((slot->state == SLOT_EMPTY || slot->extent != number) && !fill(image, slot, number, error))
        return NULL;
    slot->users++;
    slot->last_use = ++image->uses;
    return slot;
}

/* NULL-safe. */
static void release(SavedImage *image, CacheSlot *slot)
{
    if (!slot)
        return;
    lock_guard(&image->lock);
    if (--slot->users == 0)
        g_cond_broadcast(&image->changed);
}

/* ---- the source ---- */

static SavedImage *image_of(PageSource *source)
{
    return (SavedImage *)((char *)source - offsetof(SavedImage, source));
}

static gboolean is_inside(const SavedImage *image, guint region, PageSpan span, GError **error)
{
    const PageRegions *regions = saved_image_get_regions(image);

    if (region < regions->count && span.first <= regions->pages[region] &&
        span.count <= regions->pages[region] - span.first)
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID,
              "%s: %" PRIu64 " pages from %" PRIu64 " on are not in RAM block %u",
              saved_image_get_path(image), span.count, span.first, region);
    return FALSE;
}

static gboolean check_whole(const SavedImage *image, GError **error)
{
    if (image->whole)
        return TRUE;
    error_set(error, VMFERRY_ERROR_NOT_FOUND, "%s: its base is not open",
              saved_image_get_path(image));
    return FALSE;
}

/* *count* pages of an extent from the *offset*th on.  *held*: the slot of the pages before. */
static gboolean read_from_extent(SavedImage *image, guint number, uint64_t offset, uint64_t count,
                                 uint8_t *buffer, CacheSlot **held, GError **error)
{
    OpenExtent *extent = saved_image_extent(image, number);

    if (!*held || (*held)->extent != number) {
        /* Not one more while this one is held: who waits for a slot must not keep one. */
        release(image, *held);
        *held = NULL;
        if (extent->stored.method == PACK_NONE && g_atomic_int_get(&extent->checked))
            return image_file_read(saved_image_file(image, extent->layer), buffer,
                                   count * PAGE_BYTES, extent->stored.place + offset * PAGE_BYTES,
                                   error);
        *held = acquire(image, number, error);
    }
    if (!*held)
        return FALSE;
    memcpy(buffer, (*held)->pages + offset * PAGE_BYTES, count * PAGE_BYTES);
    return TRUE;
}

/* Reads pages of *span* from its first on, as far as they are in one run; *ret_count*: how many. */
static gboolean read_run(SavedImage *image, guint region, PageSpan span, uint8_t *buffer,
                         CacheSlot **held, uint64_t *ret_count, GError **error)
{
    const PageRegions *regions = saved_image_get_regions(image);
    PageSpan hole;
    const ImageMapRun *run =
        image_map_find(image->maps->pdata[region], span.first, regions->pages[region], &hole);
    uint64_t end = run ? run->first + run->count : hole.first + hole.count;

    *ret_count = MIN(span.count, end - span.first);
    if (!run && !check_whole(image, error))
        return FALSE;
    if (!run || run->extent == IMAGE_EXTENT_ZERO) {
        memset(buffer, 0, *ret_count * PAGE_BYTES);
        return TRUE;
    }
    if (read_from_extent(image, run->extent, run->offset + (span.first - run->first), *ret_count,
                         buffer, held, error))
        return TRUE;
    prefix_extent(image, saved_image_extent(image, run->extent), error);
    g_prefix_error(error, "page %" PRIu64 " of %s: ", span.first, regions->names[region]);
    return FALSE;
}

static gboolean read_span(SavedImage *image, guint region, PageSpan span, uint8_t *buffer,
                          CacheSlot **held, GError **error)
{
    while (span.count > 0) {
        uint64_t count;

        if (!read_run(image, region, span, buffer, held, &count, error))
            return FALSE;
        buffer += count * PAGE_BYTES;
        span = (PageSpan){span.first + count, span.count - count};
    }
    return TRUE;
}

static gboolean source_read(PageSource *source, guint region, const PageSpan *spans, guint count,
                            uint8_t *buffer, GError **error)
{
    SavedImage *image = image_of(source);
    CacheSlot *held = NULL;
    gboolean done = TRUE;

    for (guint i = 0; done && i < count; i++) {
        done = is_inside(image, region, spans[i], error) &&
               read_span(image, region, spans[i], buffer, &held, error);
        buffer += spans[i].count * PAGE_BYTES;
    }
    release(image, held);
    return done;
}

static gboolean source_add_populated(PageSource *source, guint region, PageSet *set, GError **error)
{
    SavedImage *image = image_of(source);
    const GArray *map;

    if (!check_whole(image, error) || !is_inside(image, region, (PageSpan){0, 0}, error))
        return FALSE;
    map = image->maps->pdata[region];
    for (guint i = 0; i < map->len; i++) {
        const ImageMapRun *run = &g_array_index(map, ImageMapRun, i);

        if (run->extent != IMAGE_EXTENT_ZERO)
            page_set_add(set, run->first, run->count);
    }
    return TRUE;
}

static void source_free(PageSource *source)
{
}

/* Zeroes have no extent. */
static guint source_find_together(PageSource *source, guint region, uint64_t page, PageSpan *ret,
                                  guint most)
{
    g_autofree ImageNeighbours *found = g_new(ImageNeighbours, 1);
    guint count;

    if (!saved_image_find_neighbours(image_of(source), region, page, found, NULL) || !found->stored)
        return 0;
    count = MIN(found->count, most);
    memcpy(ret, found->spans, count * sizeof *ret);
    return count;
}

const PageSourceMethods saved_image_source_methods = {source_read, source_add_populated,
                                                      source_free, source_find_together};

PageSource *saved_image_get_source(SavedImage *image)
{
    return &image->source;
}

/* ---- neighbours ---- */

static void list_neighbours(const SavedImage *image, const OpenExtent *extent, ImageNeighbours *ret)
{
    for (guint i = 0; i < extent->run_count; i++) {
        const ImageMapRun *run = run_of(image, extent, i);
        PageSpan *last = ret->count > 0 ? &ret->spans[ret->count - 1] : NULL;

        if (last && last->first + last->count == run->first)
            last->count += run->count;
        else
            ret->spans[ret->count++] = (PageSpan){run->first, run->count};
    }
}

gboolean saved_image_find_neighbours(SavedImage *image, guint region, uint64_t page,
                                     ImageNeighbours *ret, GError **error)
{
    const ImageMapRun *run;
    PageSpan hole;

    if (!is_inside(image, region, (PageSpan){page, 1}, error))
        return FALSE;
    run = image_map_find(image->maps->pdata[region], page,
                         saved_image_get_regions(image)->pages[region], &hole);
    if (!run && !check_whole(image, error))
        return FALSE;
    ret->count = 0;
    ret->stored = run && run->extent != IMAGE_EXTENT_ZERO;
    if (ret->stored)
        list_neighbours(image, saved_image_extent(image, run->extent), ret);
    else
        ret->spans[ret->count++] = run ? (PageSpan){run->first, run->count} : hole;
    return TRUE;
}
