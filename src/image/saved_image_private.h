/* What the files of saved_image.h share. */
#pragma once

#include "image/image_file.h"
#include "image/saved_image.h"

/* An extent of one of the files, by its number in all of the chain. */
typedef struct {
    ImageExtent stored;
    uint32_t layer;
    uint32_t region;    /* of its used pages */
    uint32_t used;      /* pages */
    uint32_t first_run; /* in extent_runs */
    uint32_t run_count;
    gint checked; /* atomic: its digest was right once */
} OpenExtent;

typedef enum { SLOT_EMPTY, SLOT_LOADING, SLOT_READY } SlotState;

/* A place for an unpacked extent. */
typedef struct {
    SlotState state;
    guint extent;
    guint users; /* that copy from it; it stays meanwhile */
    uint64_t last_use;
    uint8_t *pages; /* IMAGE_MAX_EXTENT_BYTES, once it was used */
} CacheSlot;

struct SavedImage {
    GPtrArray *files;    /* ImageFile, from the one that was opened down */
    gboolean whole;      /* down to a full image */
    GArray *extents;     /* OpenExtent */
    GPtrArray *maps;     /* as of an index, of all files together; extents by their number here */
    GArray *extent_runs; /* uint32_t: numbers of runs in their region's map, by extents */
    PageSource source;
    GMutex lock; /* protects all below */
    GCond changed;
    CacheSlot slots[SAVED_IMAGE_CACHED_EXTENTS];
    uint64_t uses;
    GPtrArray *codecs; /* PackContext, that nobody uses now */
};

/* The source's methods. */
extern const PageSourceMethods saved_image_source_methods;

static inline OpenExtent *saved_image_extent(const SavedImage *image, guint extent)
{
    return &g_array_index(image->extents, OpenExtent, extent);
}

static inline const ImageFile *saved_image_file(const SavedImage *image, guint layer)
{
    return image->files->pdata[layer];
}
