/*
 * A saved image (image_format.h), opened for reading
 *
 * Theory of operation: opening reads header, footer and index and checks their digests, then does
 * the same for the image's base, and so on down to a full image; the maps of this *chain* become
 * one, so that each page of RAM is zero, or at one place of one extent of one of the files.  A
 * base is looked for among the names that are given, then by its recorded name in the folder of the
 * image above it; it is the right one by its id.
 *
 * An extent is read, checked against its digest and unpacked when one of its pages is first wanted.
 * The ones used last stay unpacked (SAVED_IMAGE_CACHED_EXTENTS); pages that are stored as they are
 * come straight from the file once their extent was checked.
 *
 * A damaged extent, or a file that got shorter meanwhile, is INVALID with file, place, region and
 * page; what is read is never made up.  The files must not be written while they are open; that
 * they are replaced by others under their names does no harm.
 *
 * A stranger's image can name any file as its base only in its own folder, and takes memory by the
 * length of its index only.
 *
 * Threads: any number, but for opening and freeing.
 */
#pragma once

#include "image/image_format.h"

/* Of the unpacked ones; each has at most IMAGE_MAX_EXTENT_BYTES. */
#define SAVED_IMAGE_CACHED_EXTENTS 16u
#define SAVED_IMAGE_MAX_CHAIN 64u

typedef struct SavedImage SavedImage;

typedef struct {
    const char *const *bases; /* names of files among which bases are; NULL: none are given */
    GBytes *key;    /* for images with a keyed digest; needed there, and refused elsewhere */
    gboolean alone; /* do not open bases: pages that are there cannot be read */
} SavedImageOptions;

/* *options* may be NULL.  INVALID where a file is damaged, foreign or not the base; UNSUPPORTED where it
 * is of a newer version or needs a feature that is not known; REFUSED where the key is not the one. */
SavedImage *saved_image_open(const char *path, const SavedImageOptions *options, GError **error);

/* NULL-safe. */
void saved_image_free(SavedImage *image);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(SavedImage, saved_image_free)

/* ---- what it is; all of it is borrowed from the image ---- */

const char *saved_image_get_path(const SavedImage *image);
const ImageId *saved_image_get_id(const SavedImage *image);
const ImageId *saved_image_get_base(const SavedImage *image);
const char *saved_image_get_base_name(const SavedImage *image); /* NULL: not recorded */
const PageRegions *saved_image_get_regions(const SavedImage *image);
/* Texts of JSON objects; the note may be NULL. */
const char *saved_image_get_machine(const SavedImage *image);
const char *saved_image_get_note(const SavedImage *image);
GBytes *saved_image_get_state(const SavedImage *image);
/* ImageRun; empty where it was not recorded. */
const GArray *saved_image_get_order(const SavedImage *image);

/* Files of the chain, from this one (0) down to the full image. */
guint saved_image_get_depth(const SavedImage *image);
const char *saved_image_get_chain_path(const SavedImage *image, guint layer);
const ImageId *saved_image_get_chain_id(const SavedImage *image, guint layer);

typedef struct {
    ImageDigestKind digest;
    uint64_t critical_features, optional_features;
    uint64_t file_bytes;      /* length; of all files of the chain, as the others but *extents* */
    uint64_t allocated_bytes; /* on the disk */
    uint64_t stored_bytes;    /* of extents */
    uint64_t extents;
    uint64_t pages;       /* that are stored, and not in vain */
    uint64_t total_pages; /* of the machine */
} SavedImageTotals;

void saved_image_get_totals(const SavedImage *image, SavedImageTotals *ret);

/* ---- its pages ---- */

/* A source of all pages; borrowed, as long as the image lives (page_source_free() does nothing). */
PageSource *saved_image_get_source(SavedImage *image);

typedef struct {
    gboolean stored; /* FALSE: all of them are zero, and may be far more than an extent has */
    guint count;
    PageSpan spans[IMAGE_MAX_EXTENT_PAGES]; /* ascending; the page that was asked for is in one */
} ImageNeighbours;

/* Which pages come along when this one is read, because they are in the same extent: reading them
 * all at once (page_source_read() of *spans*) costs little more.  FALSE (INVALID) where there is no
 * such page. */
gboolean saved_image_find_neighbours(SavedImage *image, guint region, uint64_t page,
                                     ImageNeighbours *ret, GError **error);

/* ---- its extents ---- */

typedef struct {
    guint layer;    /* of the chain */
    uint64_t place; /* in that file */
    uint32_t stored_bytes;
    PackMethod method;
    uint32_t pages; /* that it has */
    uint32_t used;  /* of these, pages of the machine */
    guint region;   /* of those */
} ImageExtentFacts;

/* Extents are numbered from 0 to totals.extents - 1. */
void saved_image_get_extent(const SavedImage *image, guint extent, ImageExtentFacts *ret);

/* Reads its stored bytes (room for IMAGE_MAX_EXTENT_BYTES) and checks their digest.  With *unpacked*
 * (same room, or NULL) also what they unpack to. */
gboolean saved_image_read_extent(SavedImage *image, guint extent, uint8_t *stored,
                                 uint8_t *unpacked, GError **error);

/* Its pages of the machine, in the order of their place in it; *spans*: room for
 * IMAGE_MAX_EXTENT_PAGES.  Returns how many spans. */
guint saved_image_list_extent(const SavedImage *image, guint extent, PageSpan *spans);
