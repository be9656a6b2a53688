#include "migrate/image_pipe.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"

/* Without a reader that is ENXIO. */
static int try_to_open(const char *path)
{
    return open(path, O_WRONLY | O_NONBLOCK | O_CLOEXEC | O_NOFOLLOW);
}

static gboolean make_blocking(int fd, const char *path, GError **error)
{
    struct stat info;

    if (fstat(fd, &info) < 0 || fcntl(fd, F_SETFL, 0) < 0) {
        error_set_errno(error, errno, "%s", path);
        return FALSE;
    }
    if (S_ISFIFO(info.st_mode))
        return TRUE;
    error_set(error, VMFERRY_ERROR_EXISTS, "%s is no FIFO any more", path);
    return FALSE;
}

int image_pipe_open(const char *path, guint timeout_ms, ImagePipeWait wait, gpointer user,
                    GError **error)
{
    uint64_t end = clock_now_ns() + timeout_ms * 1000000ULL;
    autofd int fd = try_to_open(path);

    while (fd < 0 && errno == ENXIO) {
        if (clock_now_ns() >= end) {
            error_set(error, VMFERRY_ERROR_TIMEOUT, "%s: nobody reads from it", path);
            return -1;
        }
        if (!wait(user, error))
            return -1;
        fd = try_to_open(path);
    }
    if (fd < 0) {
        error_set_errno(error, errno, "%s", path);
        return -1;
    }
    return make_blocking(fd, path, error) ? fd_steal(&fd) : -1;
}
