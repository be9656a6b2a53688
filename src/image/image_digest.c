#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/sha.h>
#include <string.h>
#include <xxhash.h>

#include "base/error.h"
#include "image/image_format.h"

struct ImageDigester {
    ImageDigestKind kind;
    GBytes *key;
};

static gboolean check_key(GBytes *key, GError **error)
{
    gsize length = g_bytes_get_size(key);

    if (length >= IMAGE_MIN_KEY_BYTES && length <= IMAGE_MAX_KEY_BYTES)
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "a key of %zu bytes: it must have %u to %u", length,
              IMAGE_MIN_KEY_BYTES, IMAGE_MAX_KEY_BYTES);
    return FALSE;
}

ImageDigester *image_digester_new(ImageDigestKind kind, GBytes *key, GError **error)
{
    ImageDigester *digester;

    if (key && !check_key(key, error))
        return NULL;
    if (!key != (kind != IMAGE_DIGEST_HMAC)) {
        error_set(error, VMFERRY_ERROR_REFUSED,
                  key ? "has no keyed digest, so this key would prove nothing"
                      : "has a keyed digest: its key is needed");
        return NULL;
    }
    digester = g_new0(ImageDigester, 1);
    digester->kind = kind;
    digester->key = key ? g_bytes_ref(key) : NULL;
    return digester;
}

void image_digester_free(ImageDigester *digester)
{
    if (!digester)
        return;
    g_clear_pointer(&digester->key, g_bytes_unref);
    g_free(digester);
}

ImageDigestKind image_digester_get_kind(const ImageDigester *digester)
{
    return digester->kind;
}

static void write_xxh3(XXH128_hash_t hash, uint8_t ret[IMAGE_DIGEST_BYTES])
{
    XXH128_canonical_t canonical;

    XXH128_canonicalFromHash(&canonical, hash);
    memset(ret, 0, IMAGE_DIGEST_BYTES);
    memcpy(ret, canonical.digest, sizeof canonical.digest);
}

void image_digest_compute(ImageDigestKind kind, const void *bytes, size_t length,
                          uint8_t ret[IMAGE_DIGEST_BYTES])
{
    if (kind == IMAGE_DIGEST_XXH3)
        write_xxh3(XXH3_128bits(bytes, length), ret);
    else
        SHA256(bytes, length, ret);
}

static void seal_xxh3(const uint8_t *header, const void *index, size_t length, uint8_t *ret)
{
    XXH3_state_t *state = XXH3_createState();

    XXH3_128bits_reset(state);
    XXH3_128bits_update(state, header, IMAGE_HEADER_BYTES);
    XXH3_128bits_update(state, index, length);
    write_xxh3(XXH3_128bits_digest(state), ret);
    XXH3_freeState(state);
}

static gboolean compute_hmac(EVP_MAC_CTX *context, GBytes *key, const uint8_t *header,
                             const void *index, size_t length, uint8_t *ret)
{
    char name[] = "SHA256";
    const OSSL_PARAM parameters[] = {OSSL_PARAM_construct_utf8_string("digest", name, 0),
                                     OSSL_PARAM_construct_end()};
    gsize key_length, digest_length;
    const uint8_t *key_bytes = g_bytes_get_data(key, &key_length);

    return EVP_MAC_init(context, key_bytes, key_length, parameters) &&
           EVP_MAC_update(context, header, IMAGE_HEADER_BYTES) &&
           EVP_MAC_update(context, index, length) &&
           EVP_MAC_final(context, ret, &digest_length, IMAGE_DIGEST_BYTES) &&
           digest_length == IMAGE_DIGEST_BYTES;
}

static gboolean seal_hmac(GBytes *key, const uint8_t *header, const void *index, size_t length,
                          uint8_t *ret, GError **error)
{
    EVP_MAC *mac = EVP_MAC_fetch(NULL, "HMAC", NULL);
    EVP_MAC_CTX *context = mac ? EVP_MAC_CTX_new(mac) : NULL;
    gboolean done = context && compute_hmac(context, key, header, index, length, ret);

    EVP_MAC_CTX_free(context);
    EVP_MAC_free(mac);
    if (!done)
        error_set(error, VMFERRY_ERROR_UNSUPPORTED, "the crypto library has no HMAC-SHA-256");
    return done;
}

gboolean image_digester_seal(ImageDigester *digester, const uint8_t header[IMAGE_HEADER_BYTES],
                             const void *index, size_t length, uint8_t ret[IMAGE_DIGEST_BYTES],
                             GError **error)
{
    if (digester->kind == IMAGE_DIGEST_HMAC)
        return seal_hmac(digester->key, header, index, length, ret, error);
    seal_xxh3(header, index, length, ret);
    return TRUE;
}

gboolean image_digest_is_equal(const uint8_t one[IMAGE_DIGEST_BYTES],
                               const uint8_t other[IMAGE_DIGEST_BYTES])
{
    return CRYPTO_memcmp(one, other, IMAGE_DIGEST_BYTES) == 0;
}

const char *image_digest_kind_name(ImageDigestKind kind)
{
    return kind == IMAGE_DIGEST_HMAC ? "hmac-sha-256" : "xxh3-128";
}
