/*
 * Digests by which two hosts compare granules of a disk (wire/disk_frame.h)
 *
 * Theory of operation: what the digests say is believed, and a guest chooses what its disk holds.  So
 * a digest is a Poly1305 (RFC 8439) with a random key that no guest knows: two granules that differ
 * have the same one with a chance of less than 2^-93, whatever is in them.  It is not for a third
 * party's eyes, and goes over the hosts' own connection only.  About as fast as memory is read.
 */
#pragma once

#include <glib.h>
#include <stddef.h>
#include <stdint.h>

#include "wire/disk_frame.h"

typedef struct GranuleDigest GranuleDigest;

/* A new key. */
gboolean granule_digest_make_key(uint8_t ret[DISK_KEY_BYTES], GError **error);

/* UNSUPPORTED where the crypto library has no Poly1305. */
GranuleDigest *granule_digest_new(const uint8_t key[DISK_KEY_BYTES], GError **error);
void granule_digest_free(GranuleDigest *digest);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(GranuleDigest, granule_digest_free)

const uint8_t *granule_digest_get_key(const GranuleDigest *digest);

/* Of *count* bytes.  All zeros are a granule without a digest; that this is one's digest is as likely
 * as that of another granule. */
gboolean granule_digest_compute(GranuleDigest *digest, const uint8_t *bytes, size_t count,
                                uint8_t ret[FRAME_DISK_DIGEST_BYTES], GError **error);

/* TRUE for a granule without a digest. */
gboolean granule_digest_is_none(const uint8_t digest[FRAME_DISK_DIGEST_BYTES]);
