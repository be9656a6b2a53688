#include "memory/userfault.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/thread.h"
#include "inject/inject.h"

#define DEVICE "/dev/userfaultfd"
#define USERFAULT_LINK "anon_inode:[userfaultfd]"

/* Newer than some headers. */
#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xaa, 0)
#endif

typedef struct {
    uint64_t address, bytes;
    UserfaultModes modes;
} Range;

struct Userfault {
    int fd;
    UserfaultUses uses;
    GArray *ranges; /* of Range */
    pid_t pid;
    int kept_fd; /* number of the descriptor that the process keeps; -1: none */
};

/* ---- opening ---- */

typedef struct {
    pid_t pid;
    UserfaultUses uses;
    UserfaultOnDeath on_death;
    int fd, kept_fd;
    gboolean attached;
    GError *error;
} OpenRequest;

uint64_t userfault_features(UserfaultUses uses)
{
    uint64_t features = 0;

    if (uses & (USERFAULT_WP_SYNC | USERFAULT_WP_ASYNC))
        features |= UFFD_FEATURE_PAGEFAULT_FLAG_WP;
    if (uses & USERFAULT_WP_ASYNC)
        features |= UFFD_FEATURE_WP_HUGETLBFS_SHMEM | USERFAULT_FEATURE_WP_UNPOPULATED |
                    USERFAULT_FEATURE_WP_ASYNC;
    if (uses & USERFAULT_MISSING)
        features |= UFFD_FEATURE_MISSING_SHMEM;
    if (uses & USERFAULT_REMOVE)
        features |= UFFD_FEATURE_EVENT_REMOVE;
    return features;
}

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
 * wait, so for that alone a descriptor that serves user mode only is as good. */
static int64_t call_userfaultfd(Inject *inject, UserfaultUses uses, GError **error)
{
    const uint64_t flags = O_CLOEXEC | O_NONBLOCK;
    gboolean makes_wait = !(uses & USERFAULT_WP_ASYNC) || (uses & USERFAULT_MISSING);
    int64_t remote;

    if (!try_call(inject, flags, &remote, error))
        return -1;
    if (remote == -EPERM && makes_wait)
        return make_by_device(inject, error);
    if (remote == -EPERM && !try_call(inject, flags | UFFD_USER_MODE_ONLY, &remote, error))
        return -1;
    if (remote < 0)
        error_set_errno(error, (int)-remote,
                        "userfaultfd in process (vm.unprivileged_userfaultfd, or a kernel without "
                        "CONFIG_USERFAULTFD)");
    return remote;
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

/* So that it is known again: userfault_list(). */
static gboolean mark_kept(int fd, GError **error)
{
    if (fcntl(fd, F_SETFL, O_NONBLOCK | O_APPEND) == 0)
        return TRUE;
    error_set_errno(error, errno, "mark the userfaultfd that is to stay");
    return FALSE;
}

static int open_injected(OpenRequest *request)
{
    g_autoptr(Inject) inject = inject_attach(request->pid, &request->error);
    int64_t remote = inject ? call_userfaultfd(inject, request->uses, &request->error) : -1;
    gboolean stays = request->on_death == USERFAULT_STAYS_IN_VMM;
    int64_t closed;
    int fd;

    if (remote < 0)
        return -1;
    fd = inject_take_fd(request->pid, (int)remote, &request->error);
    request->attached = fd >= 0;
    if (fd >= 0 && (!negotiate(fd, userfault_features(request->uses), &request->error) ||
                    (stays && !mark_kept(fd, &request->error))))
        fd_close(&fd);
    if (fd >= 0 && stays) {
        request->kept_fd = (int)remote;
        return fd;
    }
    if (!inject_call(inject, SYS_close, (uint64_t[6]){(uint64_t)remote}, &closed,
                     fd >= 0 ? &request->error : NULL))
        fd_close(&fd);
    return fd;
}

/* In a thread of its own: see inject.h. */
static gpointer open_thread(gpointer data)
{
    OpenRequest *request = data;

    request->fd = open_injected(request);
    return NULL;
}

Userfault *userfault_take(int fd, UserfaultUses uses)
{
    Userfault *userfault = g_new0(Userfault, 1);

    userfault->fd = fd;
    userfault->uses = uses;
    userfault->ranges = g_array_new(FALSE, FALSE, sizeof(Range));
    userfault->kept_fd = -1;
    return userfault;
}

Userfault *userfault_open(pid_t pid, UserfaultUses uses, UserfaultOnDeath on_death, GError **error)
{
    OpenRequest request = {.pid = pid, .uses = uses, .on_death = on_death, .fd = -1, .kept_fd = -1};
    Userfault *userfault;

    if (!thread_run("inject", open_thread, &request, error))
        return NULL;
    if (request.fd < 0) {
        if (!request.attached)
            g_prefix_error(&request.error, "attach to pid %d: ", (int)pid);
        g_propagate_error(error, request.error);
        return NULL;
    }
    userfault = userfault_take(request.fd, uses);
    userfault->pid = pid;
    userfault->kept_fd = request.kept_fd;
    return userfault;
}

/* ---- finding one that was left ---- */

/* The value of *key* in a descriptor's fdinfo. */
static char *read_fdinfo(pid_t pid, int fd, const char *key)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/fdinfo/%d", (int)pid, fd);
    g_autofree char *text = NULL;
    g_auto(GStrv) lines = NULL;

    if (!g_file_get_contents(path, &text, NULL, NULL))
        return NULL;
    lines = g_strsplit(text, "\n", -1);
    for (char **line = lines; *line; line++)
        if (g_str_has_prefix(*line, key))
            return g_strdup(*line + strlen(key));
    return NULL;
}

static gboolean is_kept(pid_t pid, int fd)
{
    g_autofree char *flags = read_fdinfo(pid, fd, "flags:");

    return flags && (strtoull(flags, NULL, 8) & O_APPEND);
}

GArray *userfault_list(pid_t pid, GError **error)
{
    g_autofree char *folder = g_strdup_printf("/proc/%d/fd", (int)pid);
    g_autoptr(GDir) dir = g_dir_open(folder, 0, error);
    GArray *list;
    const char *name;

    if (!dir)
        return NULL;
    list = g_array_new(FALSE, FALSE, sizeof(UserfaultFd));
    while ((name = g_dir_read_name(dir))) {
        g_autofree char *path = g_build_filename(folder, name, NULL);
        g_autofree char *target = g_file_read_link(path, NULL);
        UserfaultFd one = {.fd = atoi(name)};

        if (!target || strcmp(target, USERFAULT_LINK) != 0)
            continue;
        one.kept = is_kept(pid, one.fd);
        g_array_append_val(list, one);
    }
    return list;
}

/* What it was opened for, from the features in its fdinfo: "API: aa:FEATURES:IOCTLS". */
static UserfaultUses read_uses(int fd)
{
    g_autofree char *api = read_fdinfo(getpid(), fd, "API:");
    unsigned long long version, features = 0;
    UserfaultUses uses = 0;

    if (!api || sscanf(api, " %llx:%llx:", &version, &features) != 2)
        return 0;
    for (UserfaultUses one = USERFAULT_WP_SYNC; one <= USERFAULT_REMOVE; one <<= 1)
        if ((features & userfault_features(one)) == userfault_features(one))
            uses |= one;
    return uses & USERFAULT_WP_ASYNC ? uses & ~(UserfaultUses)USERFAULT_WP_SYNC : uses;
}

Userfault *userfault_fetch(pid_t pid, GError **error)
{
    g_autoptr(GArray) list = userfault_list(pid, error);
    Userfault *userfault;
    int kept_fd = -1, fd;

    if (!list)
        return NULL;
    for (guint i = 0; i < list->len; i++)
        if (g_array_index(list, UserfaultFd, i).kept)
            kept_fd = g_array_index(list, UserfaultFd, i).fd;
    if (kept_fd < 0) {
        error_set(error, VMFERRY_ERROR_NOT_FOUND, "pid %d keeps no userfaultfd", (int)pid);
        return NULL;
    }
    fd = inject_take_fd(pid, kept_fd, error);
    if (fd < 0)
        return NULL;
    userfault = userfault_take(fd, read_uses(fd));
    userfault->pid = pid;
    userfault->kept_fd = kept_fd;
    return userfault;
}

/* ---- ending ---- */

typedef struct {
    pid_t pid;
    int fd;
    gboolean done;
    GError *error;
} CloseRequest;

static gpointer close_kept_thread(gpointer data)
{
    CloseRequest *request = data;
    g_autoptr(Inject) inject = inject_attach(request->pid, &request->error);
    int64_t closed;

    request->done = inject && inject_call(inject, SYS_close, (uint64_t[6]){(uint64_t)request->fd},
                                          &closed, &request->error);
    return NULL;
}

static gboolean close_kept(Userfault *userfault, GError **error)
{
    CloseRequest request = {.pid = userfault->pid, .fd = userfault->kept_fd};

    if (userfault->kept_fd < 0)
        return TRUE;
    if (!thread_run("inject", close_kept_thread, &request, error))
        return FALSE;
    if (request.done)
        userfault->kept_fd = -1;
    else
        g_propagate_prefixed_error(error, request.error,
                                   "close the userfaultfd in pid %d: ", (int)userfault->pid);
    return request.done;
}

void userfault_leave(Userfault *userfault)
{
    g_assert(userfault->kept_fd >= 0);
    fd_close(&userfault->fd);
    g_array_unref(userfault->ranges);
    g_free(userfault);
}

void userfault_unregister(Userfault *userfault)
{
    for (guint i = 0; i < userfault->ranges->len; i++) {
        const Range *range = &g_array_index(userfault->ranges, Range, i);
        struct uffdio_range request = {.start = range->address, .len = range->bytes};

        ioctl(userfault->fd, UFFDIO_UNREGISTER, &request);
    }
    g_array_set_size(userfault->ranges, 0);
}

gboolean userfault_end(Userfault *userfault, GError **error)
{
    /* Closing would unregister too, but the kernel may do that late. */
    userfault_unregister(userfault);
    fd_close(&userfault->fd);
    return close_kept(userfault, error);
}

void userfault_free(Userfault *userfault)
{
    if (!userfault)
        return;
    (void)userfault_end(userfault, NULL);
    g_array_unref(userfault->ranges);
    g_free(userfault);
}

/* ---- ranges ---- */

UserfaultUses userfault_get_uses(const Userfault *userfault)
{
    return userfault->uses;
}

int userfault_get_fd(const Userfault *userfault)
{
    return userfault->fd;
}

gboolean userfault_register(Userfault *userfault, uint64_t address, uint64_t bytes,
                            UserfaultModes modes, GError **error)
{
    Range range = {address, bytes, modes};
    struct uffdio_register request = {.range = {.start = address, .len = bytes}};

    if (modes & USERFAULT_MODE_WP)
        request.mode |= UFFDIO_REGISTER_MODE_WP;
    if (modes & USERFAULT_MODE_MISSING)
        request.mode |= UFFDIO_REGISTER_MODE_MISSING;
    if (ioctl(userfault->fd, UFFDIO_REGISTER, &request) == 0) {
        g_array_append_val(userfault->ranges, range);
        return TRUE;
    }
    if (errno == EBUSY)
        error_set(error, VMFERRY_ERROR_BUSY,
                  "the memory is registered with another userfaultfd (QEMU's own background "
                  "snapshot or post-copy?)");
    else
        error_set_errno(error, errno, "register with userfaultfd");
    return FALSE;
}

gboolean userfault_is_registered(const Userfault *userfault, uint64_t address, uint64_t bytes,
                                 UserfaultModes modes)
{
    for (guint i = 0; i < userfault->ranges->len; i++) {
        const Range *range = &g_array_index(userfault->ranges, Range, i);

        if (range->address == address && range->bytes == bytes && (range->modes & modes) == modes)
            return TRUE;
    }
    return FALSE;
}

static gboolean set_protection(Userfault *userfault, uint64_t address, uint64_t bytes,
                               uint64_t mode, GError **error)
{
    struct uffdio_writeprotect request = {.range = {.start = address, .len = bytes}, .mode = mode};

    while (ioctl(userfault->fd, UFFDIO_WRITEPROTECT, &request) < 0) {
        if (errno == EAGAIN || errno == EINTR)
            continue;
        error_set_errno(error, errno, "write-protect guest RAM");
        return FALSE;
    }
    return TRUE;
}

gboolean userfault_protect(Userfault *userfault, uint64_t address, uint64_t bytes, GError **error)
{
    return set_protection(userfault, address, bytes, UFFDIO_WRITEPROTECT_MODE_WP, error);
}

gboolean userfault_unprotect(Userfault *userfault, uint64_t address, uint64_t bytes, GError **error)
{
    return set_protection(userfault, address, bytes, 0, error);
}

/* ---- missing pages ---- */

static gboolean finish_page(int result, uint64_t address, GError **error)
{
    if (result == 0)
        return TRUE;
    if (errno == EEXIST)
        error_set(error, VMFERRY_ERROR_EXISTS, "there is a page at 0x%llx",
                  (unsigned long long)address);
    else if (errno == EAGAIN)
        error_set(error, VMFERRY_ERROR_BUSY, "userfaultfd has events to be read first");
    else
        error_set_errno(error, errno, "put in a page at 0x%llx", (unsigned long long)address);
    return FALSE;
}

gboolean userfault_copy(Userfault *userfault, uint64_t address, const void *page, uint64_t bytes,
                        gboolean protect, GError **error)
{
    struct uffdio_copy request = {.dst = address,
                                  .src = (uint64_t)(uintptr_t)page,
                                  .len = bytes,
                                  .mode = protect ? UFFDIO_COPY_MODE_WP : 0};

    return finish_page(ioctl(userfault->fd, UFFDIO_COPY, &request), address, error);
}

gboolean userfault_zeropage(Userfault *userfault, uint64_t address, uint64_t bytes, GError **error)
{
    struct uffdio_zeropage request = {.range = {.start = address, .len = bytes}};

    return finish_page(ioctl(userfault->fd, UFFDIO_ZEROPAGE, &request), address, error);
}

gboolean userfault_wake(Userfault *userfault, uint64_t address, uint64_t bytes, GError **error)
{
    struct uffdio_range range = {.start = address, .len = bytes};

    if (ioctl(userfault->fd, UFFDIO_WAKE, &range) == 0)
        return TRUE;
    error_set_errno(error, errno, "wake threads that wait at 0x%llx", (unsigned long long)address);
    return FALSE;
}

static gboolean translate(const struct uffd_msg *message, UserfaultEvent *ret)
{
    switch (message->event) {
    case UFFD_EVENT_PAGEFAULT:
        *ret = (UserfaultEvent){.kind = message->arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WP
                                            ? USERFAULT_EVENT_WP
                                            : USERFAULT_EVENT_MISSING,
                                .address = message->arg.pagefault.address};
        return TRUE;
    case UFFD_EVENT_REMOVE:
        *ret = (UserfaultEvent){.kind = USERFAULT_EVENT_REMOVE,
                                .address = message->arg.remove.start,
                                .bytes = message->arg.remove.end - message->arg.remove.start};
        return TRUE;
    default:
        return FALSE;
    }
}

guint userfault_read(Userfault *userfault, UserfaultEvent *events, guint most)
{
    struct uffd_msg messages[USERFAULT_MOST_EVENTS];
    ssize_t got =
        read(userfault->fd, messages, MIN(most, USERFAULT_MOST_EVENTS) * sizeof messages[0]);
    guint count = 0;

    for (ssize_t i = 0; i < got / (ssize_t)sizeof messages[0]; i++)
        if (translate(&messages[i], &events[count]))
            count++;
    return count;
}

/* ---- the kernel ---- */

uint64_t userfault_get_kernel_features(void)
{
    autofd int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
    struct uffdio_api api = {.api = UFFD_API};

    return fd >= 0 && ioctl(fd, UFFDIO_API, &api) == 0 ? api.features : 0;
}
