/*
 * The index of a saved image: what its sections hold
 *
 * See image_format.h for what it is for, and docs/image-format.md for its bytes.
 *
 * Pure functions; any number of threads.
 */
#pragma once

#include "image/image_format.h"

/* In the order in which they stand, each at most once. */
typedef enum {
    IMAGE_SECTION_REGIONS = 1,
    IMAGE_SECTION_EXTENTS = 2,
    IMAGE_SECTION_MAP = 3,
    IMAGE_SECTION_MACHINE = 4,
    IMAGE_SECTION_STATE = 5,
    IMAGE_SECTION_NOTE = 6, /* may be missing, as all below */
    IMAGE_SECTION_ORDER = 7,
    IMAGE_SECTION_BASE_NAME = 8,
} ImageSection;

/* A reader that does not know the section must not read the image. */
#define IMAGE_SECTION_CRITICAL 1u
#define IMAGE_SECTION_HEAD_BYTES (4u + 4u + 8u + IMAGE_DIGEST_BYTES)
#define IMAGE_SECTION_ALIGNMENT 8u

typedef struct {
    uint64_t place; /* in the file */
    uint32_t stored_bytes;
    uint16_t pages;
    uint8_t method;                     /* PackMethod */
    uint8_t digest[IMAGE_DIGEST_BYTES]; /* image_digest_compute() of the stored bytes */
} ImageExtent;

/* What an extent's number is for pages that are zero. */
#define IMAGE_EXTENT_ZERO UINT32_MAX

/* Pages of a region, and where they are. */
typedef struct {
    uint64_t first, count;
    uint32_t extent; /* or IMAGE_EXTENT_ZERO */
    uint32_t offset; /* of the first page in it, in pages */
} ImageMapRun;

typedef struct {
    PageRegions regions;
    GArray *extents; /* ImageExtent, by their places */
    GPtrArray *maps; /* of each region a GArray of ImageMapRun, ascending, not overlapping */
    char *machine;   /* JSON object */
    GBytes *state;
    char *note;      /* JSON object, or NULL */
    GArray *order;   /* ImageRun; may be empty */
    char *base_name; /* or NULL */
} ImageIndex;

/* Empty, with a copy of *regions* and an empty map for each. */
ImageIndex *image_index_new(const PageRegions *regions);
/* NULL-safe. */
void image_index_free(ImageIndex *index);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(ImageIndex, image_index_free)

/* INVALID where there are too many, one is empty or too large, or a name is not valid. */
gboolean image_regions_check(const PageRegions *regions, GError **error);
/* The name of a file, without folders. */
gboolean image_base_name_check(const char *name, GError **error);
/* A JSON object of at most *limit* bytes. */
gboolean image_text_check(const char *what, const char *text, size_t length, size_t limit,
                          GError **error);

/* Takes for granted that all is within the limits, but for the length of the whole: INVALID. */
GByteArray *image_index_encode(const ImageIndex *index, ImageDigestKind kind, GError **error);

/* *place*: where the index begins, and no extent is beyond; *has_base*: the header has a base's id.
 * The digest of the whole has been checked: those of sections are not looked at. */
ImageIndex *image_index_decode(const uint8_t *bytes, size_t length, ImageDigestKind kind,
                               uint64_t place, gboolean has_base, GError **error);

/* For an index whose digest is wrong: the name and place (in *bytes*) of the first section that is
 * damaged; NULL where none is. */
const char *image_index_find_damage(const uint8_t *bytes, size_t length, ImageDigestKind kind,
                                    size_t *ret_place);
