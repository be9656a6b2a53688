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
 * INVALID.  Memory in use is bounded by the length of what is decoded (eight times that).
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
#define IMAGE_MAX_INDEX_BYTES (UINT64_C(1) << 29)
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

/* ---- digests ---- */

typedef struct ImageDigester ImageDigester;

/* *key*: NULL for a kind without, else REFUSED; INVALID where it is too short or too long. */
ImageDigester *image_digester_new(ImageDigestKind kind, GBytes *key, GError **error);
/* NULL-safe. */
void image_digester_free(ImageDigester *digester);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(ImageDigester, image_digester_free)

ImageDigestKind image_digester_get_kind(const ImageDigester *digester);

/* Of some bytes without the key: XXH3-128 or SHA-256.  Any number of threads. */
void image_digest_compute(ImageDigestKind kind, const void *bytes, size_t length,
                          uint8_t ret[IMAGE_DIGEST_BYTES]);

/* Of header and index: XXH3-128, or HMAC-SHA-256 with the key. */
gboolean image_digester_seal(ImageDigester *digester, const uint8_t header[IMAGE_HEADER_BYTES],
                             const void *index, size_t length, uint8_t ret[IMAGE_DIGEST_BYTES],
                             GError **error);

/* In the time that this takes for any two of them. */
gboolean image_digest_is_equal(const uint8_t one[IMAGE_DIGEST_BYTES],
                               const uint8_t other[IMAGE_DIGEST_BYTES]);

/* "xxh3-128", "hmac-sha-256" */
const char *image_digest_kind_name(ImageDigestKind kind);

/* ---- header and footer ---- */

typedef struct {
    uint64_t critical_features, optional_features; /* none has a meaning in version 1 */
    ImageId id, base;
    ImageDigestKind digest;
} ImageHeader;

void image_header_encode(const ImageHeader *header, uint8_t out[IMAGE_HEADER_BYTES]);

/* INVALID where these are other bytes, or damaged; UNSUPPORTED where the version is newer, or a critical
 * feature or the kind of digest is not known. */
gboolean image_header_decode(const uint8_t in[IMAGE_HEADER_BYTES], ImageHeader *ret,
                             GError **error);

typedef struct {
    uint64_t index_place, index_bytes;
    uint64_t place; /* of the footer itself */
    ImageId id;
    uint8_t digest[IMAGE_DIGEST_BYTES]; /* image_digester_seal() */
} ImageFooter;

void image_footer_encode(const ImageFooter *footer, uint8_t out[IMAGE_FOOTER_BYTES]);

/* *place*: where these bytes are.  INVALID where they are none, or damaged. */
gboolean image_footer_decode(const uint8_t in[IMAGE_FOOTER_BYTES], uint64_t place,
                             const ImageHeader *header, ImageFooter *ret, GError **error);

/* ---- runs ---- */

/* A run of pages of one region. */
typedef struct {
    uint32_t region;
    PageSpan span;
} ImageRun;
