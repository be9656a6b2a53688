#include "base/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/error.h"

gboolean fd_read_all(int fd, void *buffer, size_t length, GError **error)
{
    char *at = buffer;

    while (length > 0) {
        ssize_t got = read(fd, at, length);

        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0) {
            error_set_errno(error, errno, "read");
            return FALSE;
        }
        if (got == 0) {
            error_set(error, VMFERRY_ERROR_DISCONNECTED, "unexpected end of file");
            return FALSE;
        }
        at += got;
        length -= (size_t)got;
    }
    return TRUE;
}

gboolean fd_write_all(int fd, const void *buffer, size_t length, GError **error)
{
    const char *at = buffer;

    while (length > 0) {
        ssize_t put = write(fd, at, length);

        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0) {
            error_set_errno(error, errno, "write");
            return FALSE;
        }
        at += put;
        length -= (size_t)put;
    }
    return TRUE;
}

int fd_wait_readable(int fd, int timeout_ms, GError **error)
{
    uint64_t end = clock_now_ns() + (uint64_t)MAX(timeout_ms, 0) * 1000000;

    for (;;) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        int left = -1;
        int n;

        if (timeout_ms >= 0) {
            uint64_t now = clock_now_ns();
            left = now >= end ? 0 : (int)((end - now + 999999) / 1000000);
        }
        n = poll(&p, 1, left);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            error_set_errno(error, errno, "poll");
        return n;
    }
}

static gboolean write_new_file(const char *path, const void *data, size_t length, gboolean durable,
                               GError **error)
{
    autofd int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    if (fd < 0) {
        error_set_errno(error, errno, "create %s", path);
        return FALSE;
    }
    if (!fd_write_all(fd, data, length, error)) {
        g_prefix_error(error, "%s: ", path);
        return FALSE;
    }
    if (durable && fsync(fd) < 0) {
        error_set_errno(error, errno, "fsync %s", path);
        return FALSE;
    }
    return TRUE;
}

/* Of the file: so that its name is on the disk. */
static gboolean sync_folder(const char *path, GError **error)
{
    g_autofree char *folder = g_path_get_dirname(path);
    autofd int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    /* EINVAL: this file system has nothing to sync there. */
    if (fd >= 0 && (fsync(fd) == 0 || errno == EINVAL))
        return TRUE;
    error_set_errno(error, errno, "fsync %s", folder);
    return FALSE;
}

gboolean file_replace(const char *path, const void *data, size_t length, gboolean durable,
                      GError **error)
{
    g_autofree char *temporary = g_strdup_printf("%s.new", path);

    if (!write_new_file(temporary, data, length, durable, error)) {
        unlink(temporary);
        return FALSE;
    }
    if (rename(temporary, path) < 0) {
        error_set_errno(error, errno, "rename to %s", path);
        unlink(temporary);
        return FALSE;
    }
    return !durable || sync_folder(path, error);
}

char *file_read(const char *path, size_t limit, size_t *ret_length, GError **error)
{
    autofd int fd = open(path, O_RDONLY | O_CLOEXEC);
    g_autoptr(GByteArray) bytes = g_byte_array_new();
    guint8 buffer[16384];

    if (fd < 0) {
        error_set_errno(error, errno, "open %s", path);
        return NULL;
    }
    for (;;) {
        ssize_t got = read(fd, buffer, sizeof buffer);

        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0) {
            error_set_errno(error, errno, "read %s", path);
            return NULL;
        }
        if (got == 0)
            break;
        if (bytes->len + (size_t)got > limit) {
            error_set(error, VMFERRY_ERROR_INVALID, "%s is longer than %zu bytes", path, limit);
            return NULL;
        }
        g_byte_array_append(bytes, buffer, (guint)got);
    }
    if (ret_length)
        *ret_length = bytes->len;
    g_byte_array_append(bytes, (const guint8 *)"", 1);
    return (char *)g_byte_array_free(g_steal_pointer(&bytes), FALSE);
}
