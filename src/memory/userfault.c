#include "memory/userfault.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "inject/inject.h"

typedef struct {
    pid_t pid;
    int fd;
    GError *error;
} OpenRequest;

/* userfaultfd(2) in the other process; without the right to handle faults of
 * the kernel itself where it runs unprivileged.  (Asynchronous protection
 * needs no handler, so nothing is lost there.) */
static int64_t call_userfaultfd(Inject *inject, GError **error)
{
    uint64_t arguments[6] = {O_CLOEXEC | O_NONBLOCK};
    int64_t remote = -1;

    if (!inject_call(inject, SYS_userfaultfd, arguments, &remote, error))
        return -1;
    if (remote == -EPERM) {
        arguments[0] |= UFFD_USER_MODE_ONLY;
        if (!inject_call(inject, SYS_userfaultfd, arguments, &remote, error))
            return -1;
    }
    if (remote < 0)
        error_set_errno(error, (int)-remote,
                        "userfaultfd in process (vm.unprivileged_userfaultfd, or a kernel without "
                        "CONFIG_USERFAULTFD)");
    return remote;
}

static int open_injected(pid_t pid, GError **error)
{
    g_autoptr(Inject) inject = inject_attach(pid, error);
    int64_t remote = inject ? call_userfaultfd(inject, error) : -1;
    int64_t closed;
    int fd;

    if (remote < 0)
        return -1;
    fd = inject_take_fd(pid, (int)remote, error);
    if (!inject_call(inject, SYS_close, (uint64_t[6]){(uint64_t)remote}, &closed,
                     fd >= 0 ? error : NULL))
        fd_close(&fd);
    return fd;
}

/* In a thread of its own: see inject.h. */
static gpointer open_thread(gpointer data)
{
    OpenRequest *request = data;

    request->fd = open_injected(request->pid, &request->error);
    return NULL;
}

static gboolean negotiate(int fd, uint64_t features, GError **error)
{
    struct uffdio_api api = {.api = UFFD_API, .features = features};

    if (ioctl(fd, UFFDIO_API, &api) == 0)
        return TRUE;
    if (errno == EINVAL)
        error_set(error, VMFERRY_ERROR_UNSUPPORTED,
                  "this kernel's userfaultfd lacks features of 0x%llx",
                  (unsigned long long)(features & ~userfault_get_kernel_features()));
    else
        error_set_errno(error, errno, "UFFDIO_API");
    return FALSE;
}

int userfault_open(pid_t pid, uint64_t features, GError **error)
{
    OpenRequest request = {.pid = pid, .fd = -1};

    g_thread_join(g_thread_new("inject", open_thread, &request));
    if (request.fd < 0) {
        g_propagate_prefixed_error(error, request.error, "attach to pid %d: ", (int)pid);
        return -1;
    }
    if (!negotiate(request.fd, features, error))
        fd_close(&request.fd);
    return request.fd;
}

gboolean userfault_register(int fd, uint64_t address, uint64_t bytes, GError **error)
{
    struct uffdio_register request = {
        .range = {.start = address, .len = bytes},
        .mode = UFFDIO_REGISTER_MODE_WP,
    };

    if (ioctl(fd, UFFDIO_REGISTER, &request) == 0)
        return TRUE;
    if (errno == EBUSY)
        error_set(error, VMFERRY_ERROR_BUSY,
                  "the memory is registered with another userfaultfd (QEMU's own background "
                  "snapshot or post-copy?)");
    else
        error_set_errno(error, errno, "register for write protection");
    return FALSE;
}

void userfault_unregister(int fd, uint64_t address, uint64_t bytes)
{
    struct uffdio_range range = {.start = address, .len = bytes};

    ioctl(fd, UFFDIO_UNREGISTER, &range);
}

gboolean userfault_protect(int fd, uint64_t address, uint64_t bytes, gboolean protect,
                           GError **error)
{
    struct uffdio_writeprotect request = {
        .range = {.start = address, .len = bytes},
        .mode = protect ? UFFDIO_WRITEPROTECT_MODE_WP : 0,
    };

    while (ioctl(fd, UFFDIO_WRITEPROTECT, &request) < 0) {
        if (errno == EAGAIN || errno == EINTR)
            continue;
        error_set_errno(error, errno, "write-protect guest RAM");
        return FALSE;
    }
    return TRUE;
}

uint64_t userfault_get_kernel_features(void)
{
    autofd int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
    struct uffdio_api api = {.api = UFFD_API};

    return fd >= 0 && ioctl(fd, UFFDIO_API, &api) == 0 ? api.features : 0;
}
