/* File descriptors with an owner, and whole reads and writes on them. */
#pragma once

#include <glib.h>
#include <stddef.h>
#include <unistd.h>

static inline void fd_close(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

/* `autofd int fd = open(…);` closes at the end of the scope. */
#define autofd __attribute__((cleanup(fd_close)))

/* Gives the descriptor away: returns it and leaves -1 behind. */
static inline int fd_steal(int *fd)
{
    int taken = *fd;

    *fd = -1;
    return taken;
}

/* Reads exactly *length* bytes (blocking).  End of file is an error. */
gboolean fd_read_all(int fd, void *buffer, size_t length, GError **error);

/* Writes exactly *length* bytes (blocking). */
gboolean fd_write_all(int fd, const void *buffer, size_t length, GError **error);

/* Waits until *fd* is readable or *timeout_ms* is over (-1: for ever).
 * Returns 1 readable (or hung up), 0 time-out, -1 with *error*. */
int fd_wait_readable(int fd, int timeout_ms, GError **error);

/* Replaces *path* with *data* in one step (temporary file, rename).  With
 * *durable* the bytes are on the disk before this returns. */
gboolean file_replace(const char *path, const void *data, size_t length, gboolean durable,
                      GError **error);

/* Reads a whole (also a /proc) file of at most *limit* bytes; the result is
 * NUL-terminated behind *ret_length* bytes.  Free with g_free(). */
char *file_read(const char *path, size_t limit, size_t *ret_length, GError **error);
