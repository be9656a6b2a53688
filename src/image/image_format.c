#include "image/image_format.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/random.h>
#include <xxhash.h>

#include "base/bytes.h"
#include "base/error.h"

/* Where the digests of the header and of the footer begin; they are their last bytes. */
#define OWN_DIGEST_BYTES 16u
#define HEADER_DIGEST_AT (IMAGE_HEADER_BYTES - OWN_DIGEST_BYTES)
#define FOOTER_DIGEST_AT (IMAGE_FOOTER_BYTES - OWN_DIGEST_BYTES)

/* ---- ids ---- */

gboolean image_id_is_none(const ImageId *id)
{
    static const ImageId none;

    return image_id_is_equal(id, &none);
}

gboolean image_id_is_equal(const ImageId *id, const ImageId *other)
{
    return memcmp(id->bytes, other->bytes, IMAGE_ID_BYTES) == 0;
}

gboolean image_id_make(ImageId *ret, GError **error)
{
    if (getrandom(ret->bytes, IMAGE_ID_BYTES, 0) == (ssize_t)IMAGE_ID_BYTES)
        return TRUE;
    error_set_errno(error, errno, "an id for a saved image");
    return FALSE;
}

char *image_id_format(const ImageId *id)
{
    g_autoptr(GString) text = g_string_sized_new(2 * IMAGE_ID_BYTES);

    for (guint i = 0; i < IMAGE_ID_BYTES; i++)
        g_string_append_printf(text, "%02x", id->bytes[i]);
    return g_strdup(text->str);
}

/* ---- what header and footer have in common ---- */

/* Header and footer are as long as they are; what has no meaning yet is zero.  Their own digest is
 * against damage only, whatever kind the image has. */
static void own_digest(const uint8_t *bytes, size_t length, uint8_t ret[OWN_DIGEST_BYTES])
{
    XXH128_canonical_t canonical;

    XXH128_canonicalFromHash(&canonical, XXH3_128bits(bytes, length));
    memcpy(ret, canonical.digest, OWN_DIGEST_BYTES);
}

static void finish(GByteArray *bytes, uint8_t *out, size_t digest_at)
{
    memset(out, 0, digest_at);
    memcpy(out, bytes->data, bytes->len);
    own_digest(out, digest_at, out + digest_at);
}

static gboolean is_whole(const uint8_t *in, size_t digest_at)
{
    uint8_t digest[OWN_DIGEST_BYTES];

    own_digest(in, digest_at, digest);
    return memcmp(digest, in + digest_at, OWN_DIGEST_BYTES) == 0;
}

/* ---- header ---- */

void image_header_encode(const ImageHeader *header, uint8_t out[IMAGE_HEADER_BYTES])
{
    g_autoptr(GByteArray) bytes = g_byte_array_new();

    byte_write_span(bytes, IMAGE_MAGIC, IMAGE_MAGIC_BYTES);
    byte_write_le32(bytes, IMAGE_VERSION);
    byte_write_le32(bytes, (uint32_t)header->digest);
    byte_write_le64(bytes, header->critical_features);
    byte_write_le64(bytes, header->optional_features);
    byte_write_span(bytes, header->id.bytes, IMAGE_ID_BYTES);
    byte_write_span(bytes, header->base.bytes, IMAGE_ID_BYTES);
    finish(bytes, out, HEADER_DIGEST_AT);
}

static gboolean check_features(const ImageHeader *header, GError **error)
{
    if (header->critical_features != 0) {
        error_set(error, VMFERRY_ERROR_UNSUPPORTED,
                  "needs features that this vmferry does not know (bits 0x%" PRIx64 ")",
                  header->critical_features);
        return FALSE;
    }
    if (header->digest != IMAGE_DIGEST_XXH3 && header->digest != IMAGE_DIGEST_HMAC) {
        error_set(error, VMFERRY_ERROR_UNSUPPORTED,
                  "has digests of kind %u, which this vmferry does not know", header->digest);
        return FALSE;
    }
    if (image_id_is_none(&header->id)) {
        error_set(error, VMFERRY_ERROR_INVALID, "has no id");
        return FALSE;
    }
    return TRUE;
}

static void read_id(ByteReader *reader, ImageId *ret)
{
    const uint8_t *bytes = byte_read_span(reader, IMAGE_ID_BYTES);

    if (bytes)
        memcpy(ret->bytes, bytes, IMAGE_ID_BYTES);
}

/* The version is looked at before the digest, of which a newer one may have another kind. */
gboolean image_header_decode(const uint8_t in[IMAGE_HEADER_BYTES], ImageHeader *ret, GError **error)
{
    ByteReader reader = byte_reader_make(in, IMAGE_HEADER_BYTES);
    const uint8_t *magic = byte_read_span(&reader, IMAGE_MAGIC_BYTES);
    uint32_t version = byte_read_le32(&reader);

    memset(ret, 0, sizeof *ret);
    if (memcmp(magic, IMAGE_MAGIC, IMAGE_MAGIC_BYTES) != 0) {
        error_set(error, VMFERRY_ERROR_INVALID, "is not a saved image");
        return FALSE;
    }
    if (version != IMAGE_VERSION) {
        error_set(error, VMFERRY_ERROR_UNSUPPORTED,
                  "is of version %u; this vmferry reads version %u", version, IMAGE_VERSION);
        return FALSE;
    }
    if (!is_whole(in, HEADER_DIGEST_AT)) {
        error_set(error, VMFERRY_ERROR_INVALID, "its header is damaged (at 0)");
        return FALSE;
    }
    ret->digest = (ImageDigestKind)byte_read_le32(&reader);
    ret->critical_features = byte_read_le64(&reader);
    ret->optional_features = byte_read_le64(&reader);
    read_id(&reader, &ret->id);
    read_id(&reader, &ret->base);
    return check_features(ret, error);
}

/* ---- footer ---- */

void image_footer_encode(const ImageFooter *footer, uint8_t out[IMAGE_FOOTER_BYTES])
{
    g_autoptr(GByteArray) bytes = g_byte_array_new();

    byte_write_span(bytes, IMAGE_END_MAGIC, IMAGE_MAGIC_BYTES);
    byte_write_le64(bytes, footer->index_place);
    byte_write_le64(bytes, footer->index_bytes);
    byte_write_le64(bytes, footer->place);
    byte_write_span(bytes, footer->id.bytes, IMAGE_ID_BYTES);
    byte_write_span(bytes, footer->digest, IMAGE_DIGEST_BYTES);
    finish(bytes, out, FOOTER_DIGEST_AT);
}

static gboolean check_places(const ImageFooter *footer, uint64_t place, GError **error)
{
    uint64_t index = footer->index_place;

    if (footer->place != place) {
        error_set(error, VMFERRY_ERROR_INVALID,
                  "its end is at %" PRIu64 ", where it was written to be at %" PRIu64, place,
                  footer->place);
        return FALSE;
    }
    if (index < IMAGE_HEADER_BYTES || index % IMAGE_ALIGNMENT != 0 || index > place ||
        footer->index_bytes != place - index || footer->index_bytes > IMAGE_MAX_INDEX_BYTES) {
        error_set(error, VMFERRY_ERROR_INVALID, "its index cannot be %" PRIu64 " bytes at %" PRIu64,
                  footer->index_bytes, index);
        return FALSE;
    }
    return TRUE;
}

gboolean image_footer_decode(const uint8_t in[IMAGE_FOOTER_BYTES], uint64_t place,
                             const ImageHeader *header, ImageFooter *ret, GError **error)
{
    ByteReader reader = byte_reader_make(in, IMAGE_FOOTER_BYTES);
    const uint8_t *magic = byte_read_span(&reader, IMAGE_MAGIC_BYTES);

    if (memcmp(magic, IMAGE_END_MAGIC, IMAGE_MAGIC_BYTES) != 0) {
        error_set(error, VMFERRY_ERROR_INVALID,
                  "its end is missing: it is cut off, was not written to its end, or has something "
                  "behind it");
        return FALSE;
    }
    if (!is_whole(in, FOOTER_DIGEST_AT)) {
        error_set(error, VMFERRY_ERROR_INVALID, "its footer is damaged (at %" PRIu64 ")", place);
        return FALSE;
    }
    ret->index_place = byte_read_le64(&reader);
    ret->index_bytes = byte_read_le64(&reader);
    ret->place = byte_read_le64(&reader);
    read_id(&reader, &ret->id);
    memcpy(ret->digest, byte_read_span(&reader, IMAGE_DIGEST_BYTES), IMAGE_DIGEST_BYTES);
    if (!image_id_is_equal(&ret->id, &header->id)) {
        error_set(error, VMFERRY_ERROR_INVALID, "its header and its footer are of two images");
        return FALSE;
    }
    return check_places(ret, place, error);
}
