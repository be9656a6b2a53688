#include "image/image_file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"

gboolean image_file_read(const ImageFile *file, void *buffer, size_t length, uint64_t place,
                         GError **error)
{
    uint8_t *at = buffer;

    while (length > 0) {
        ssize_t done = pread(file->fd, at, length, (off_t)place);

        if (done < 0 && errno == EINTR)
            continue;
        if (done < 0) {
            error_set_errno(error, errno, "read at %" PRIu64, place);
            return FALSE;
        }
        if (done == 0) {
            error_set(error, VMFERRY_ERROR_INVALID,
                      "it has become shorter while it was open: it ends before %" PRIu64,
                      place + length);
            return FALSE;
        }
        at += done;
        place += (uint64_t)done;
        length -= (size_t)done;
    }
    return TRUE;
}

/* Of a pipe or a device nothing is read. */
static gboolean look_at(ImageFile *file, GError **error)
{
    struct stat status;

    if (fstat(file->fd, &status) < 0) {
        error_set_errno(error, errno, "look at it");
        return FALSE;
    }
    if (!S_ISREG(status.st_mode)) {
        error_set(error, VMFERRY_ERROR_INVALID, "is not a regular file");
        return FALSE;
    }
    file->bytes = (uint64_t)status.st_size;
    file->allocated_bytes = (uint64_t)status.st_blocks * 512;
    return TRUE;
}

/* A file that is too short for an image is asked for its magic first: most are foreign ones. */
static gboolean read_header(ImageFile *file, uint8_t header[IMAGE_HEADER_BYTES], GError **error)
{
    size_t length = MIN(file->bytes, IMAGE_HEADER_BYTES);

    memset(header, 0, IMAGE_HEADER_BYTES);
    if (!image_file_read(file, header, length, 0, error))
        return FALSE;
    if (memcmp(header, IMAGE_MAGIC, IMAGE_MAGIC_BYTES) == 0 &&
        file->bytes < IMAGE_HEADER_BYTES + IMAGE_FOOTER_BYTES) {
        error_set(error, VMFERRY_ERROR_INVALID, "is cut off after %" PRIu64 " bytes", file->bytes);
        return FALSE;
    }
    return image_header_decode(header, &file->header, error);
}

/* The digest of all is wrong: which part is it? */
static void tell_damage(const ImageFile *file, const ImageFooter *footer, const uint8_t *index,
                        GError **error)
{
    size_t place;
    const char *name =
        image_index_find_damage(index, footer->index_bytes, file->header.digest, &place);

    if (name)
        error_set(error, VMFERRY_ERROR_INVALID, "its index is damaged: section %s (at %" PRIu64 ")",
                  name, footer->index_place + place);
    else if (file->header.digest == IMAGE_DIGEST_HMAC)
        error_set(error, VMFERRY_ERROR_REFUSED,
                  "was not written with this key, or has been changed since");
    else
        error_set(error, VMFERRY_ERROR_INVALID, "its index is damaged (at %" PRIu64 ")",
                  footer->index_place);
}

static gboolean check_index(const ImageFile *file, const ImageFooter *footer, const uint8_t *header,
                            const uint8_t *index, GBytes *key, GError **error)
{
    g_autoptr(ImageDigester) digester = image_digester_new(file->header.digest, key, error);
    uint8_t digest[IMAGE_DIGEST_BYTES];

    if (!digester ||
        !image_digester_seal(digester, header, index, footer->index_bytes, digest, error))
        return FALSE;
    if (image_digest_is_equal(digest, footer->digest))
        return TRUE;
    tell_damage(file, footer, index, error);
    return FALSE;
}

static gboolean read_index(ImageFile *file, const uint8_t *header, GBytes *key, GError **error)
{
    uint64_t place = file->bytes - IMAGE_FOOTER_BYTES;
    uint8_t bytes[IMAGE_FOOTER_BYTES];
    g_autofree uint8_t *index = NULL;
    ImageFooter footer;

    if (!image_file_read(file, bytes, sizeof bytes, place, error) ||
        !image_footer_decode(bytes, place, &file->header, &footer, error))
        return FALSE;
    index = g_try_malloc(footer.index_bytes + 1);
    if (!index) {
        error_set(error, VMFERRY_ERROR_NO_SPACE, "no memory for its index of %" PRIu64 " bytes",
                  footer.index_bytes);
        return FALSE;
    }
    if (!image_file_read(file, index, footer.index_bytes, footer.index_place, error) ||
        !check_index(file, &footer, header, index, key, error))
        return FALSE;
    file->index =
        image_index_decode(index, footer.index_bytes, file->header.digest, footer.index_place,
                           !image_id_is_none(&file->header.base), error);
    return file->index != NULL;
}

static gboolean read_all(ImageFile *file, GBytes *key, const ImageId *wanted, gboolean *ret_other,
                         GError **error)
{
    uint8_t header[IMAGE_HEADER_BYTES];

    if (!look_at(file, error) || !read_header(file, header, error))
        return FALSE;
    if (wanted && !image_id_is_equal(&file->header.id, wanted)) {
        g_autofree char *id = image_id_format(&file->header.id);
        g_autofree char *other = image_id_format(wanted);

        *ret_other = TRUE;
        error_set(error, VMFERRY_ERROR_INVALID, "has the id %s, and the base has %s", id, other);
        return FALSE;
    }
    return read_index(file, header, key, error);
}

ImageFile *image_file_open(const char *path, GBytes *key, const ImageId *wanted,
                           gboolean *ret_other, GError **error)
{
    g_autoptr(ImageFile) file = g_new0(ImageFile, 1);

    if (wanted)
        *ret_other = FALSE;
    file->path = g_strdup(path);
    /* Who opens a pipe waits for its writer otherwise. */
    file->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (file->fd < 0) {
        error_set_errno(error, errno, "%s", path);
        return NULL;
    }
    if (read_all(file, key, wanted, ret_other, error))
        return g_steal_pointer(&file);
    g_prefix_error(error, "%s: ", path);
    return NULL;
}

void image_file_free(ImageFile *file)
{
    if (!file)
        return;
    fd_close(&file->fd);
    image_index_free(file->index);
    g_free(file->path);
    g_free(file);
}
