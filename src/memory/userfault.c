#include "memory/userfault.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/thread.h"
#include "inject/inject.h"

#define DEVICE "/dev/userfaultfd"

/* Newer than some headers. */
#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xaa, 0)
#endif

typedef struct {
    pid_t pid;
    uint64_t features;
    int fd;
    GError *error;
} OpenRequest;

/* A process without privileges may not make one that serves faults of the
 * kernel (a device's data read into guest memory), unless it is handed the
 * device, which only root can open. */
static int64_t make_by_device(Inject *inject, GError **error)
{
    autofd int device = open(DEVICE, O_RDWR | O_CLOEXEC);
    int64_t remote = -1, closed;
    int given;

    if (device < 0) {
        error_set_errno(error, errno,
                        "userfaultfd in a process without privileges needs Linux 6.1: " DEVICE);
        return -1;
    }
    given = inject_give_fd(inject, device, error);
    if (given < 0)
        return -1;
    if (!inject_call(inject, SYS_ioctl,
                     (uint64_t[6]){(uint64_t)given, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK},
                     &remote, error))
        return -1;
    inject_call(inject, SYS_close, (uint64_t[6]){(uint64_t)given}, &closed, NULL);
    if (remote < 0)
        error_set_errno(error, (int)-remote, DEVICE " in process");
    return remote;
}

/* What the kernel answers; FALSE where it could not even be asked. */
static gboolean try_call(Inject *inject, uint64_t flags, int64_t *ret, GError **error)
{
    return inject_call(inject, SYS_userfaultfd, (uint64_t[6]){flags}, ret, error);
}

/* userfaultfd(2) in the other process.  Asynchronous protection makes no fault
 * wait, so a descriptor that serves user mode only is as good for it. */
static int64_t call_userfaultfd(Inject *inject, uint64_t features, GError **error)
{
    const uint64_t flags = O_CLOEXEC | O_NONBLOCK;
    int64_t remote;

    if (!try_call(inject, flags, &remote, error))
        return -1;
    if (remote == -EPERM && !(features & USERFAULT_FEATURE_WP_ASYNC))
        return make_by_device(inject, error);
    if (remote == -EPERM && !try_call(inject, flags | UFFD_USER_MODE_ONLY, &remote, error))
        return -1;
    if (remote < 0)
        error_set_errno(error, (int)-remote,
                        "userfaultfd in process (vm.unprivileged_userfaultfd, or a kernel without "
                        "CONFIG_USERFAULTFD)");
    return remote;
}

static int open_injected(pid_t pid, uint64_t features, GError **error)
{
    g_autoptr(Inject) inject = inject_attach(pid, error);
    int64_t remote = inject ? call_userfaultfd(inject, features, error) : -1;
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

    request->fd = open_injected(request->pid, request->features, &request->error);
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
    OpenRequest request = {.pid = pid, .features = features, .fd = -1};

    if (!thread_run("inject", open_thread, &request, error))
        return -1;
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
