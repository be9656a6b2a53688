#include "disk/granule_digest.h"

#include <errno.h>
#include <openssl/evp.h>
#include <string.h>
#include <sys/random.h>

#include "base/error.h"

struct GranuleDigest {
    uint8_t key[DISK_KEY_BYTES];
    EVP_MAC *mac;
    EVP_MAC_CTX *context;
};

gboolean granule_digest_make_key(uint8_t ret[DISK_KEY_BYTES], GError **error)
{
    if (getrandom(ret, DISK_KEY_BYTES, 0) == (ssize_t)DISK_KEY_BYTES)
        return TRUE;
    error_set_errno(error, errno, "a random key");
    return FALSE;
}

GranuleDigest *granule_digest_new(const uint8_t key[DISK_KEY_BYTES], GError **error)
{
    g_autoptr(GranuleDigest) digest = g_new0(GranuleDigest, 1);

    memcpy(digest->key, key, DISK_KEY_BYTES);
    digest->mac = EVP_MAC_fetch(NULL, "POLY1305", NULL);
    digest->context = digest->mac ? EVP_MAC_CTX_new(digest->mac) : NULL;
    if (digest->context)
        return g_steal_pointer(&digest);
    error_set(error, VMFERRY_ERROR_UNSUPPORTED, "the crypto library has no Poly1305");
    return NULL;
}

void granule_digest_free(GranuleDigest *digest)
{
    if (!digest)
        return;
    EVP_MAC_CTX_free(digest->context);
    EVP_MAC_free(digest->mac);
    g_free(digest);
}

const uint8_t *granule_digest_get_key(const GranuleDigest *digest)
{
    return digest->key;
}

gboolean granule_digest_compute(GranuleDigest *digest, const uint8_t *bytes, size_t count,
                                uint8_t ret[FRAME_DISK_DIGEST_BYTES], GError **error)
{
    size_t length = 0;

    if (EVP_MAC_init(digest->context, digest->key, sizeof digest->key, NULL) &&
        EVP_MAC_update(digest->context, bytes, count) &&
        EVP_MAC_final(digest->context, ret, &length, FRAME_DISK_DIGEST_BYTES) &&
        length == FRAME_DISK_DIGEST_BYTES)
        return TRUE;
    error_set(error, VMFERRY_ERROR_FAILED, "the crypto library made no digest");
    return FALSE;
}

gboolean granule_digest_is_none(const uint8_t digest[FRAME_DISK_DIGEST_BYTES])
{
    static const uint8_t none[FRAME_DISK_DIGEST_BYTES];

    return memcmp(digest, none, sizeof none) == 0;
}
