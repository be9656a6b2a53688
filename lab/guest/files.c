#define _GNU_SOURCE
#include "files.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

enum { PAGE = 4096 };

/* Byte by byte: a card may not like anything else. */
static void copy(volatile uint8_t *to, const volatile uint8_t *from, size_t count)
{
    for (size_t i = 0; i < count; i++)
        to[i] = from[i];
}

static bool access_mapping(int fd, uint64_t offset, uint8_t *out, const uint8_t *in, size_t count)
{
    uint64_t start = offset & ~(uint64_t)(PAGE - 1);
    size_t length = offset - start + count;
    uint8_t *view =
        mmap(NULL, length, out ? PROT_READ : PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)start);

    if (view == MAP_FAILED)
        return false;
    if (out)
        copy(out, view + (offset - start), count);
    else
        copy(view + (offset - start), in, count);
    munmap(view, length);
    return true;
}

static bool access_file(const char *path, uint64_t offset, uint8_t *out, const uint8_t *in,
                        size_t count)
{
    int fd = open(path, (out ? O_RDONLY : O_RDWR) | O_CLOEXEC);
    ssize_t done;
    bool ok;

    if (fd < 0)
        return false;
    done = out ? pread(fd, out, count, (off_t)offset) : pwrite(fd, in, count, (off_t)offset);
    ok = done == (ssize_t)count || (done < 0 && access_mapping(fd, offset, out, in, count));
    if (!ok && done >= 0)
        errno = ENODATA; /* a shorter file */
    close(fd);
    return ok;
}

bool file_read_at(const char *path, uint64_t offset, uint8_t *bytes, size_t count)
{
    return access_file(path, offset, bytes, NULL, count);
}

bool file_write_at(const char *path, uint64_t offset, const uint8_t *bytes, size_t count)
{
    return access_file(path, offset, NULL, bytes, count);
}
