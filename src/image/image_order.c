#include "image/image_order.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"

#define DIGEST_BYTES 16u

/* ---- the runs ---- */

void image_order_encode(GByteArray *out, const GArray *runs)
{
    byte_write_varint(out, runs->len);
    for (guint i = 0; i < runs->len; i++) {
        const ImageRun *run = &g_array_index(runs, ImageRun, i);

        byte_write_varint(out, run->region);
        byte_write_varint(out, run->span.first);
        byte_write_varint(out, run->span.count);
    }
}

static gboolean malformed(GError **error, const char *what)
{
    error_set(error, VMFERRY_ERROR_INVALID, "%s", what);
    return FALSE;
}

gboolean image_order_decode(ByteReader *reader, const PageRegions *regions, GArray *runs,
                            GError **error)
{
    uint64_t count = byte_read_varint(reader);

    if (!byte_reader_ok(reader) || count > IMAGE_MAX_ORDER_RUNS)
        return malformed(error, "too many runs");
    for (uint64_t i = 0; i < count; i++) {
        uint64_t region = byte_read_varint(reader);
        ImageRun run;

        run.span.first = byte_read_varint(reader);
        run.span.count = byte_read_varint(reader);
        if (!byte_reader_ok(reader) || region >= regions->count || run.span.count == 0 ||
            run.span.first > regions->pages[region] ||
            run.span.count > regions->pages[region] - run.span.first)
            return malformed(error, "a run is not in its RAM block");
        run.region = (uint32_t)region;
        g_array_append_val(runs, run);
    }
    return TRUE;
}

/* ---- the file ---- */

static void add_digest(GByteArray *out)
{
    uint8_t digest[IMAGE_DIGEST_BYTES];

    image_digest_compute(IMAGE_DIGEST_XXH3, out->data, out->len, digest);
    byte_write_span(out, digest, DIGEST_BYTES);
}

GByteArray *image_order_file_encode(const ImageId *id, const GArray *runs)
{
    GByteArray *out = g_byte_array_new();

    byte_write_span(out, IMAGE_ORDER_MAGIC, IMAGE_MAGIC_BYTES);
    byte_write_le32(out, IMAGE_ORDER_VERSION);
    byte_write_le32(out, 0);
    byte_write_span(out, id->bytes, IMAGE_ID_BYTES);
    image_order_encode(out, runs);
    add_digest(out);
    return out;
}

static gboolean check_head(ByteReader *reader, const ImageId *id, GError **error)
{
    const uint8_t *magic = byte_read_span(reader, IMAGE_MAGIC_BYTES);
    uint32_t version = byte_read_le32(reader), zero = byte_read_le32(reader);
    const uint8_t *of = byte_read_span(reader, IMAGE_ID_BYTES);

    if (!byte_reader_ok(reader) || memcmp(magic, IMAGE_ORDER_MAGIC, IMAGE_MAGIC_BYTES) != 0)
        return malformed(error, "is no order of pages");
    if (version != IMAGE_ORDER_VERSION || zero != 0) {
        error_set(error, VMFERRY_ERROR_UNSUPPORTED, "is of version %u", version);
        return FALSE;
    }
    if (memcmp(of, id->bytes, IMAGE_ID_BYTES) == 0)
        return TRUE;
    error_set(error, VMFERRY_ERROR_REFUSED, "is of another image");
    return FALSE;
}

static gboolean check_digest(const uint8_t *bytes, size_t length, GError **error)
{
    uint8_t digest[IMAGE_DIGEST_BYTES];

    if (length < IMAGE_ORDER_HEAD_BYTES + DIGEST_BYTES)
        return malformed(error, "is too short");
    image_digest_compute(IMAGE_DIGEST_XXH3, bytes, length - DIGEST_BYTES, digest);
    return memcmp(digest, bytes + length - DIGEST_BYTES, DIGEST_BYTES) == 0 ||
           malformed(error, "is damaged");
}

GArray *image_order_file_decode(const uint8_t *bytes, size_t length, const ImageId *id,
                                const PageRegions *regions, GError **error)
{
    g_autoptr(GArray) runs = g_array_new(FALSE, FALSE, sizeof(ImageRun));
    ByteReader reader;

    if (!check_digest(bytes, length, error))
        return NULL;
    reader = byte_reader_make(bytes, length - DIGEST_BYTES);
    if (!check_head(&reader, id, error) || !image_order_decode(&reader, regions, runs, error))
        return NULL;
    if (reader.left > 0) {
        malformed(error, "goes on behind its end");
        return NULL;
    }
    return g_steal_pointer(&runs);
}

static char *name_file(const char *path)
{
    return g_strconcat(path, ".order", NULL);
}

/* Others may be able to make files in this folder: a link of theirs is not followed. */
static gboolean write_new(const char *name, const GByteArray *bytes, GError **error)
{
    autofd int fd = open(name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);

    if (fd >= 0)
        return fd_write_all(fd, bytes->data, bytes->len, error);
    error_set_errno(error, errno, "%s", name);
    return FALSE;
}

/* It is a hint, so it need not be on the disk at once. */
gboolean image_order_write(const char *path, const ImageId *id, const GArray *runs, GError **error)
{
    g_autofree char *name = name_file(path);
    g_autofree char *made = g_strdup_printf("%s.%08x", name, g_random_int());
    g_autoptr(GByteArray) bytes = image_order_file_encode(id, runs);

    if (bytes->len > IMAGE_ORDER_MAX_FILE_BYTES) {
        error_set(error, VMFERRY_ERROR_INVALID, "%s: more than a file has", name);
        return FALSE;
    }
    if (write_new(made, bytes, error)) {
        if (rename(made, name) == 0)
            return TRUE;
        error_set_errno(error, errno, "%s", name);
        unlink(made);
    }
    return FALSE;
}

/* Neither a link nor a FIFO; *length*: at most IMAGE_ORDER_MAX_FILE_BYTES. */
static uint8_t *read_file(const char *name, size_t *ret_length, GError **error)
{
    autofd int fd = open(name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    g_autofree uint8_t *bytes = NULL;
    struct stat info;

    if (fd < 0 || fstat(fd, &info) < 0) {
        error_set_errno(error, errno, "%s", name);
        return NULL;
    }
    if (!S_ISREG(info.st_mode) || info.st_size > (off_t)IMAGE_ORDER_MAX_FILE_BYTES) {
        error_set(error, VMFERRY_ERROR_INVALID, "%s is no order of pages", name);
        return NULL;
    }
    *ret_length = (size_t)info.st_size;
    bytes = g_malloc(*ret_length + 1);
    return fd_read_all(fd, bytes, *ret_length, error) ? g_steal_pointer(&bytes) : NULL;
}

GArray *image_order_read(const char *path, const ImageId *id, const PageRegions *regions,
                         GError **error)
{
    g_autofree char *name = name_file(path);
    size_t length;
    g_autofree uint8_t *bytes = read_file(name, &length, error);
    GArray *runs = bytes ? image_order_file_decode(bytes, length, id, regions, error) : NULL;

    if (bytes && !runs)
        g_prefix_error(error, "%s ", name);
    return runs;
}
