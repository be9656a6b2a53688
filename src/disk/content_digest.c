#include "disk/content_digest.h"

#include <string.h>
#include <xxhash.h>

struct ContentDigest {
    XXH3_state_t *state;
};

ContentDigest *content_digest_new(void)
{
    ContentDigest *digest = g_new0(ContentDigest, 1);

    digest->state = XXH3_createState();
    XXH3_128bits_reset(digest->state);
    return digest;
}

void content_digest_free(ContentDigest *digest)
{
    if (!digest)
        return;
    XXH3_freeState(digest->state);
    g_free(digest);
}

static gboolean is_zero(const uint8_t *bytes, size_t count)
{
    return bytes[0] == 0 && memcmp(bytes, bytes + 1, count - 1) == 0;
}

void content_digest_add(ContentDigest *digest, uint64_t offset, const uint8_t *piece, size_t count)
{
    for (size_t at = 0; at < count; at += CONTENT_BLOCK_BYTES) {
        size_t bytes = MIN(CONTENT_BLOCK_BYTES, count - at);
        uint64_t place = GUINT64_TO_LE(offset + at);

        if (is_zero(piece + at, bytes))
            continue;
        XXH3_128bits_update(digest->state, &place, sizeof place);
        XXH3_128bits_update(digest->state, piece + at, bytes);
    }
}

void content_digest_add_plain(ContentDigest *digest, const uint8_t *bytes, size_t count)
{
    XXH3_128bits_update(digest->state, bytes, count);
}

char *content_digest_finish(const ContentDigest *digest)
{
    XXH128_hash_t hash = XXH3_128bits_digest(digest->state);

    return g_strdup_printf("%016" G_GINT64_MODIFIER "x%016" G_GINT64_MODIFIER "x", hash.high64,
                           hash.low64);
}
