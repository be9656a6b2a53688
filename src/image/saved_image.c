#include <inttypes.h>

#include "base/error.h"
#include "image/image_map.h"
#include "image/saved_image_private.h"

static ImageFile *top(const SavedImage *image)
{
    return image->files->pdata[0];
}

/* ---- the chain ---- */

/* Among the files that are given.  NULL without an error: none of them is it. */
static ImageFile *find_given(const SavedImageOptions *options, const ImageId *wanted,
                             GError **error)
{
    for (const char *const *path = options->bases; path && *path; path++) {
        g_autoptr(GError) failure = NULL;
        gboolean other;
        ImageFile *file = image_file_open(*path, options->key, wanted, &other, &failure);

        if (file)
            return file;
        if (!other) {
            g_propagate_error(error, g_steal_pointer(&failure));
            return NULL;
        }
    }
    return NULL;
}

static ImageFile *find_recorded(const ImageFile *above, const SavedImageOptions *options,
                                GError **error)
{
    g_autofree char *folder = g_path_get_dirname(above->path);
    g_autofree char *path = g_build_filename(folder, above->index->base_name, NULL);
    gboolean other;

    return image_file_open(path, options->key, &above->header.base, &other, error);
}

static ImageFile *find_base(const ImageFile *above, const SavedImageOptions *options,
                            GError **error)
{
    g_autofree char *id = image_id_format(&above->header.base);
    g_autoptr(GError) failure = NULL;
    ImageFile *file = find_given(options, &above->header.base, &failure);

    if (file)
        return file;
    if (!failure && above->index->base_name)
        file = find_recorded(above, options, &failure);
    if (file)
        return file;
    if (failure)
        g_propagate_error(error, g_steal_pointer(&failure));
    else
        error_set(error, VMFERRY_ERROR_NOT_FOUND, "the file with the id %s is needed", id);
    g_prefix_error(error, "%s: its base: ", above->path);
    return NULL;
}

static gboolean has_id(const SavedImage *image, const ImageId *id)
{
    for (guint i = 0; i < image->files->len; i++)
        if (image_id_is_equal(&saved_image_file(image, i)->header.id, id))
            return TRUE;
    return FALSE;
}

static gboolean check_chain(const SavedImage *image, const ImageFile *above, GError **error)
{
    if (image->files->len >= SAVED_IMAGE_MAX_CHAIN) {
        error_set(error, VMFERRY_ERROR_INVALID, "%s: more than %u bases below each other",
                  top(image)->path, SAVED_IMAGE_MAX_CHAIN);
        return FALSE;
    }
    if (!has_id(image, &above->header.base))
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "%s: is a base of itself", above->path);
    return FALSE;
}

static gboolean open_base(SavedImage *image, const ImageFile *above,
                          const SavedImageOptions *options, GError **error)
{
    ImageFile *base = check_chain(image, above, error) ? find_base(above, options, error) : NULL;

    if (!base)
        return FALSE;
    g_ptr_array_add(image->files, base);
    if (page_regions_are_equal(&base->index->regions, &above->index->regions, error))
        return TRUE;
    g_prefix_error(error, "%s: its base %s is of another machine: ", above->path, base->path);
    return FALSE;
}

static gboolean open_chain(SavedImage *image, const char *path, const SavedImageOptions *options,
                           GError **error)
{
    ImageFile *file = image_file_open(path, options->key, NULL, NULL, error);

    if (!file)
        return FALSE;
    g_ptr_array_add(image->files, file);
    while (!image_id_is_none(&file->header.base) && !options->alone) {
        if (!open_base(image, file, options, error)) {
            if (file != top(image))
                g_prefix_error(error, "%s: ", path);
            return FALSE;
        }
        file = image->files->pdata[image->files->len - 1];
    }
    image->whole = image_id_is_none(&file->header.base);
    return TRUE;
}

/* ---- one map of all ---- */

static gboolean add_extents(SavedImage *image, guint layer, GError **error)
{
    const GArray *extents = saved_image_file(image, layer)->index->extents;

    if (extents->len > IMAGE_MAX_EXTENTS - image->extents->len) {
        error_set(error, VMFERRY_ERROR_INVALID, "%s: more than %u extents with its bases",
                  top(image)->path, IMAGE_MAX_EXTENTS);
        return FALSE;
    }
    for (guint i = 0; i < extents->len; i++) {
        const OpenExtent extent = {.stored = g_array_index(extents, ImageExtent, i),
                                   .layer = layer};

        g_array_append_val(image->extents, extent);
    }
    return TRUE;
}

/* In place: the index is not asked for its map any more. */
static void number_from(GArray *map, guint first_extent)
{
    for (guint i = 0; i < map->len; i++) {
        ImageMapRun *run = &g_array_index(map, ImageMapRun, i);

        if (run->extent != IMAGE_EXTENT_ZERO)
            run->extent += first_extent;
    }
}

static void add_map(SavedImage *image, guint region, GArray *lower)
{
    GArray *upper;

    if (image->maps->len <= region) {
        g_ptr_array_add(image->maps, g_array_ref(lower));
        return;
    }
    upper = image->maps->pdata[region];
    image->maps->pdata[region] = image_map_overlay(upper, lower);
    g_array_unref(upper);
}

static gboolean add_layer(SavedImage *image, guint layer, GError **error)
{
    const ImageIndex *index = saved_image_file(image, layer)->index;
    guint first_extent = image->extents->len;

    if (!add_extents(image, layer, error))
        return FALSE;
    for (guint i = 0; i < index->maps->len; i++) {
        number_from(index->maps->pdata[i], first_extent);
        add_map(image, i, index->maps->pdata[i]);
    }
    return TRUE;
}

/* Which runs are in an extent: counts first, then their places one behind the other. */
static void count_uses(SavedImage *image)
{
    for (guint i = 0; i < image->maps->len; i++) {
        const GArray *map = image->maps->pdata[i];

        for (guint k = 0; k < map->len; k++) {
            const ImageMapRun *run = &g_array_index(map, ImageMapRun, k);
            OpenExtent *extent;

            if (run->extent == IMAGE_EXTENT_ZERO)
                continue;
            extent = saved_image_extent(image, run->extent);
            extent->region = i;
            extent->used += (uint32_t)run->count;
            extent->run_count++;
        }
    }
}

static void place_runs(SavedImage *image)
{
    uint32_t place = 0;

    for (guint i = 0; i < image->extents->len; i++) {
        OpenExtent *extent = saved_image_extent(image, i);

        extent->first_run = place;
        place += extent->run_count;
        extent->run_count = 0;
    }
    g_array_set_size(image->extent_runs, place);
}

static void list_runs(SavedImage *image)
{
    count_uses(image);
    place_runs(image);
    for (guint i = 0; i < image->maps->len; i++) {
        const GArray *map = image->maps->pdata[i];

        for (guint k = 0; k < map->len; k++) {
            const ImageMapRun *run = &g_array_index(map, ImageMapRun, k);
            OpenExtent *extent;

            if (run->extent == IMAGE_EXTENT_ZERO)
                continue;
            extent = saved_image_extent(image, run->extent);
            g_array_index(image->extent_runs, uint32_t, extent->first_run + extent->run_count++) =
                k;
        }
    }
}

/* ---- opening ---- */

static SavedImage *make(void)
{
    SavedImage *image = g_new0(SavedImage, 1);

    image->files = g_ptr_array_new_with_free_func((GDestroyNotify)image_file_free);
    image->extents = g_array_new(FALSE, FALSE, sizeof(OpenExtent));
    image->maps = g_ptr_array_new_with_free_func((GDestroyNotify)g_array_unref);
    image->extent_runs = g_array_new(FALSE, FALSE, sizeof(uint32_t));
    image->codecs = g_ptr_array_new_with_free_func((GDestroyNotify)pack_context_free);
    g_mutex_init(&image->lock);
    g_cond_init(&image->changed);
    return image;
}

void saved_image_free(SavedImage *image)
{
    if (!image)
        return;
    for (guint i = 0; i < SAVED_IMAGE_CACHED_EXTENTS; i++)
        g_free(image->slots[i].pages);
    g_ptr_array_unref(image->files);
    g_array_unref(image->extents);
    g_ptr_array_unref(image->maps);
    g_array_unref(image->extent_runs);
    g_ptr_array_unref(image->codecs);
    g_mutex_clear(&image->lock);
    g_cond_clear(&image->changed);
    g_free(image);
}

SavedImage *saved_image_open(const char *path, const SavedImageOptions *options, GError **error)
{
    static const SavedImageOptions none;
    g_autoptr(SavedImage) image = make();

    if (!open_chain(image, path, options ? options : &none, error))
        return NULL;
    for (guint i = 0; i < image->files->len; i++)
        if (!add_layer(image, i, error))
            return NULL;
    list_runs(image);
    image->source = (PageSource){&saved_image_source_methods, &top(image)->index->regions};
    return g_steal_pointer(&image);
}

/* ---- what it is ---- */

const char *saved_image_get_path(const SavedImage *image)
{
    return top(image)->path;
}

const ImageId *saved_image_get_id(const SavedImage *image)
{
    return &top(image)->header.id;
}

const ImageId *saved_image_get_base(const SavedImage *image)
{
    return &top(image)->header.base;
}

const char *saved_image_get_base_name(const SavedImage *image)
{
    return top(image)->index->base_name;
}

const PageRegions *saved_image_get_regions(const SavedImage *image)
{
    return &top(image)->index->regions;
}

const char *saved_image_get_machine(const SavedImage *image)
{
    return top(image)->index->machine;
}

const char *saved_image_get_note(const SavedImage *image)
{
    return top(image)->index->note;
}

GBytes *saved_image_get_state(const SavedImage *image)
{
    return top(image)->index->state;
}

const GArray *saved_image_get_order(const SavedImage *image)
{
    return top(image)->index->order;
}

guint saved_image_get_depth(const SavedImage *image)
{
    return image->files->len;
}

const char *saved_image_get_chain_path(const SavedImage *image, guint layer)
{
    return saved_image_file(image, layer)->path;
}

const ImageId *saved_image_get_chain_id(const SavedImage *image, guint layer)
{
    return &saved_image_file(image, layer)->header.id;
}

void saved_image_get_totals(const SavedImage *image, SavedImageTotals *ret)
{
    const PageRegions *regions = saved_image_get_regions(image);

    *ret = (SavedImageTotals){.digest = top(image)->header.digest,
                              .critical_features = top(image)->header.critical_features,
                              .optional_features = top(image)->header.optional_features,
                              .extents = image->extents->len};
    for (guint i = 0; i < image->files->len; i++) {
        ret->file_bytes += saved_image_file(image, i)->bytes;
        ret->allocated_bytes += saved_image_file(image, i)->allocated_bytes;
    }
    for (guint i = 0; i < image->extents->len; i++) {
        ret->stored_bytes += saved_image_extent(image, i)->stored.stored_bytes;
        ret->pages += saved_image_extent(image, i)->used;
    }
    for (guint i = 0; i < regions->count; i++)
        ret->total_pages += regions->pages[i];
}
