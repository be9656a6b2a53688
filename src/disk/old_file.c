#include "disk/old_file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "disk/granule_digest.h"

struct OldFile {
    char *path;
    int fd; /* -1: there is none */
    uint64_t old_bytes, new_bytes;
    GranuleDigest *digest; /* with the last key */
    uint8_t buffer[DISK_GRANULE_BYTES];
};

static gboolean open_path(OldFile *old, const char *path, GError **error)
{
    struct stat info;

    old->path = g_strdup(path);
    old->fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (old->fd < 0 || fstat(old->fd, &info) < 0) {
        error_set_errno(error, errno, "open %s", path);
        return FALSE;
    }
    old->old_bytes = (uint64_t)info.st_size;
    return TRUE;
}

OldFile *old_file_open(const char *path, uint64_t bytes, GError **error)
{
    g_autoptr(OldFile) old = g_new0(OldFile, 1);

    old->fd = -1;
    old->new_bytes = bytes;
    return !path || open_path(old, path, error) ? g_steal_pointer(&old) : NULL;
}

void old_file_free(OldFile *old)
{
    if (!old)
        return;
    fd_close(&old->fd);
    granule_digest_free(old->digest);
    g_free(old->path);
    g_free(old);
}

/* ---- digests ---- */

static gboolean set_key(OldFile *old, const uint8_t key[DISK_KEY_BYTES], GError **error)
{
    if (old->digest && memcmp(granule_digest_get_key(old->digest), key, DISK_KEY_BYTES) == 0)
        return TRUE;
    g_clear_pointer(&old->digest, granule_digest_free);
    old->digest = granule_digest_new(key, error);
    return old->digest != NULL;
}

/* *offset*, or the first granule behind it with data; *end* where there is none. */
static uint64_t skip_hole(const OldFile *old, uint64_t offset, uint64_t end)
{
    off_t data = lseek(old->fd, (off_t)offset, SEEK_DATA);

    if (data < 0)
        return errno == ENXIO ? end : offset;
    return MIN(end, MAX(offset, (uint64_t)data / DISK_GRANULE_BYTES * DISK_GRANULE_BYTES));
}

/* FALSE where they are not there. */
static gboolean read_bytes(OldFile *old, uint64_t offset, size_t length)
{
    size_t done = 0;

    while (done < length) {
        ssize_t got = pread(old->fd, old->buffer + done, length - done, (off_t)(offset + done));

        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return FALSE;
        done += (size_t)got;
    }
    return TRUE;
}

static gboolean is_zero(const uint8_t *bytes, size_t count)
{
    return bytes[0] == 0 && memcmp(bytes, bytes + 1, count - 1) == 0;
}

/* Behind all others in *out*, which may lack some before it. */
static gboolean put_digest(OldFile *old, guint number, size_t length, GByteArray *out, guint begin,
                           GError **error)
{
    uint8_t digest[FRAME_DISK_DIGEST_BYTES];
    guint at = begin + number * FRAME_DISK_DIGEST_BYTES, before = out->len;

    if (!granule_digest_compute(old->digest, old->buffer, length, digest, error))
        return FALSE;
    g_byte_array_set_size(out, at + FRAME_DISK_DIGEST_BYTES);
    memset(out->data + before, 0, at - before);
    memcpy(out->data + at, digest, sizeof digest);
    return TRUE;
}

static gboolean check_place(const OldFile *old, uint64_t offset, uint64_t length, GError **error)
{
    if (offset <= old->new_bytes && length <= old->new_bytes - offset)
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID,
              "%" G_GUINT64_FORMAT " bytes at %" G_GUINT64_FORMAT
              " to be compared, of a file of %" G_GUINT64_FORMAT,
              length, offset, old->new_bytes);
    return FALSE;
}

gboolean old_file_digest(OldFile *old, const DiskCompare *compare, GByteArray *out, GError **error)
{
    uint64_t end = MIN(compare->offset + compare->length, old->old_bytes);
    guint begin = out->len;

    if (!check_place(old, compare->offset, compare->length, error) ||
        !set_key(old, compare->key, error))
        return FALSE;
    for (uint64_t at = compare->offset; old->fd >= 0 && at < end; at += DISK_GRANULE_BYTES) {
        size_t length;

        at = skip_hole(old, at, end);
        length = (size_t)MIN(DISK_GRANULE_BYTES, compare->offset + compare->length - at);
        if (at >= end || at + length > old->old_bytes || !read_bytes(old, at, length) ||
            is_zero(old->buffer, length))
            continue;
        if (!put_digest(old, disk_count_granules(at - compare->offset), length, out, begin, error))
            return FALSE;
    }
    return TRUE;
}

/* ---- copying ---- */

static gboolean copy_granule(OldFile *old, uint64_t offset, size_t length, const uint8_t *expected,
                             DiskTarget *target, GError **error)
{
    uint8_t digest[FRAME_DISK_DIGEST_BYTES];

    if (read_bytes(old, offset, length)) {
        if (!granule_digest_compute(old->digest, old->buffer, length, digest, error))
            return FALSE;
        if (memcmp(digest, expected, sizeof digest) == 0)
            return disk_target_write(target, offset, old->buffer, length, error);
    }
    error_set(error, VMFERRY_ERROR_FAILED,
              "%s has changed at %" G_GUINT64_FORMAT
              " since it was compared: nothing may write to it meanwhile",
              old->path, offset);
    return FALSE;
}

gboolean old_file_copy(OldFile *old, const DiskSame *same, DiskTarget *target, GError **error)
{
    if (old->fd < 0 || !old->digest) {
        error_set(error, VMFERRY_ERROR_INVALID, "the same content as of a file that %s",
                  old->fd < 0 ? "is not there" : "was not compared");
        return FALSE;
    }
    for (uint64_t done = 0; done < same->length; done += DISK_GRANULE_BYTES) {
        size_t length = (size_t)MIN(DISK_GRANULE_BYTES, same->length - done);
        const uint8_t *expected =
            same->digests + done / DISK_GRANULE_BYTES * FRAME_DISK_DIGEST_BYTES;

        if (!copy_granule(old, same->offset + done, length, expected, target, error))
            return FALSE;
    }
    return TRUE;
}
