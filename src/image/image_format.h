/*
 * The form of a saved image: a file that holds a whole machine
 *
 * docs/image-format.md is the specification; this header and it change together.
 *
 *     header    4096 bytes: magic, version, features, the image's id and its base's
 *     extents   each from a multiple of 4096 on: stored pages, as they are or packed
 *     index     sections: regions, extents, map, machine, device state, note, order of accesses
 *     footer    128 bytes, the very end: where the index is, its digest
 *
 * All is written in this order and nothing is changed behind, so that an image may go to a pipe.
 * What the stored pages are is said by the index alone: the *map* has, for each page of RAM that is
 * not as in the base (without a base: zero), the extent and the place in it, or says that it is
 * zero.  So a page may be stored again by a later extent; the map names the last one.
 *
 * Numbers are little-endian, varints as in base/bytes.h.
 *
 * What decodes here is checked against all limits and with itself; a place beyond the index is
 * INVALID.  Memory in use is bounded by the length of what is decoded.
 *
 * Pure functions; any number of threads.
 */
#pragma once

#include <glib.h>
#include <stdint.h>

#include "page/pack.h"
#include "transfer/page_source.h"
#include "wire/page_frame.h"

#define IMAGE_MAGIC "VMFIMAGE"
#define IMAGE_END_MAGIC "VMFIMEND"
#define IMAGE_VERSION 1u
#define IMAGE_MAGIC_BYTES 8u
#define IMAGE_HEADER_BYTES 4096u
#define IMAGE_FOOTER_BYTES 128u
#define IMAGE_ALIGNMENT 4096u

#define IMAGE_ID_BYTES 16u
/* XXH3-128 takes the first 16 bytes of a field for a digest, the others are zero; SHA-256 all. */
#define IMAGE_DIGEST_BYTES 32u
#define IMAGE_MIN_KEY_BYTES 16u
#define IMAGE_MAX_KEY_BYTES 4096u

#define IMAGE_MAX_EXTENT_PAGES PAGE_FRAME_MAX_RAW_PAGES
#define IMAGE_MAX_EXTENT_BYTES (IMAGE_MAX_EXTENT_PAGES * 4096u)
#define IMAGE_MAX_EXTENTS (1u << 28)
#define IMAGE_MAX_REGIONS 256u
#define IMAGE_MAX_NAME_BYTES 255u
#define IMAGE_MAX_PAGES (UINT64_C(1) << 34) /* of all regions together */
#define IMAGE_MAX_MACHINE_BYTES (1u << 20)
#define IMAGE_MAX_NOTE_BYTES (1u << 20)
#define IMAGE_MAX_STATE_BYTES (64u << 20)
#define IMAGE_MAX_INDEX_BYTES (UINT64_C(1) << 30)
#define IMAGE_MAX_ORDER_RUNS (1u << 24)

typedef enum {
    IMAGE_DIGEST_XXH3 = 1, /* XXH3-128: finds damage */
    IMAGE_DIGEST_HMAC = 2, /* HMAC-SHA-256 over the index, SHA-256 below it: finds forgery, too */
} ImageDigestKind;

/* All zero: none. */
typedef struct {
    uint8_t bytes[IMAGE_ID_BYTES];
} ImageId;

gboolean image_id_is_none(const ImageId *id);
gboolean image_id_is_equal(const ImageId *id, const ImageId *other);
/* A random one. */
gboolean image_id_make(ImageId *ret, GError **error);
/* 32 lower-case hexadecimal digits; free with g_free(). */
char *image_id_format(const ImageId *id);

/* A run of pages of one region. */
typedef struct {
    uint32_t region;
    PageSpan span;
} ImageRun;
