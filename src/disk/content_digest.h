/*
 * A digest of an image's content
 *
 * Theory of operation: what is hashed (XXH3, 128 bits) is each block of 64 KiB that is not all
 * zeros, after its place, in the order of places.  So a hole costs nothing and is equal to zeros
 * that were written, however the content is come by: a file (image_view.h), an export
 * (disk_target.h).
 */
#pragma once

#include <glib.h>
#include <stddef.h>
#include <stdint.h>

#define CONTENT_BLOCK_BYTES 65536u

typedef struct ContentDigest ContentDigest;

ContentDigest *content_digest_new(void);
void content_digest_free(ContentDigest *digest);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(ContentDigest, content_digest_free)

/* A piece at *offset*, which is a multiple of CONTENT_BLOCK_BYTES. *count* is such a multiple too,
 * but for the last piece.  What is left out counts as zeros. */
void content_digest_add(ContentDigest *digest, uint64_t offset, const uint8_t *piece, size_t count);

/* Bytes as they are, without a place, zeros too. */
void content_digest_add_plain(ContentDigest *digest, const uint8_t *bytes, size_t count);

/* Of all that was added, as hex digits; free with g_free(). */
char *content_digest_finish(const ContentDigest *digest);
