#include "vmm/qemu/give_up.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/thread.h"
#include "inject/inject.h"

#define MARK_NAME "vmferry-given-up"
#define MARK_LINK "/memfd:" MARK_NAME
#define MAX_FDINFO_BYTES 65536
#define MAX_FDS 65536u
/* Numbers of misc devices (include/linux/miscdevice.h). */
#define MISC_MAJOR 10u
#define TUN_MINOR 200u
#define VHOST_NET_MINOR 238u
#define VHOST_VSOCK_MINOR 241u

typedef struct {
    QemuVmm *qemu;
    int mark, quiet, spare; /* ours: *quiet* and *spare* are a pair */
    Inject *inject;
    gboolean done;
    GError *error;
} Job;

/* --- what is given up -------------------------------------------------------------------- */

static char *read_link(pid_t pid, int fd)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/fd/%d", (int)pid, fd);

    return g_file_read_link(path, NULL);
}

static char *read_fdinfo(pid_t pid, int fd)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/fdinfo/%d", (int)pid, fd);

    return file_read(path, MAX_FDINFO_BYTES, NULL, NULL);
}

static gboolean stat_fd(pid_t pid, int fd, struct stat *ret)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/fd/%d", (int)pid, fd);

    return stat(path, ret) == 0;
}

static gboolean is_shared_device(const struct stat *file, const char *link)
{
    guint minor_number = minor(file->st_rdev);

    if (major(file->st_rdev) == MISC_MAJOR)
        return minor_number == TUN_MINOR || minor_number == VHOST_NET_MINOR ||
               minor_number == VHOST_VSOCK_MINOR;
    return g_str_has_prefix(link, "/dev/tap"); /* macvtap */
}

static int get_flag(int socket, int name)
{
    int value = 0;
    socklen_t length = sizeof value;

    return getsockopt(socket, SOL_SOCKET, name, &value, &length) == 0 ? value : 0;
}

/* The socket at which it listens for us, where that is ours. */
static gboolean is_our_listener(const QemuVmm *qemu, int socket)
{
    struct sockaddr_un address = {0};
    socklen_t length = sizeof address;

    if (!qemu->log_path || !get_flag(socket, SO_ACCEPTCONN) ||
        getsockname(socket, (struct sockaddr *)&address, &length) < 0 ||
        length <= offsetof(struct sockaddr_un, sun_path))
        return FALSE;
    address.sun_path[sizeof address.sun_path - 1] = '\0';
    return strcmp(address.sun_path, qemu->qmp_path) == 0;
}

/* Connected to us, or to another thread of itself (SPICE). */
static gboolean is_private(const QemuVmm *qemu, int socket)
{
    struct ucred peer;
    socklen_t length = sizeof peer;

    return !get_flag(socket, SO_ACCEPTCONN) &&
           getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &length) == 0 &&
           (peer.pid == getpid() || peer.pid == qemu->pid);
}

static gboolean is_shared_socket(const QemuVmm *qemu, int fd)
{
    autofd int socket = inject_take_fd(qemu->pid, fd, NULL);

    if (socket < 0)
        return FALSE;
    return get_flag(socket, SO_DOMAIN) != AF_UNIX ||
           (!is_our_listener(qemu, socket) && !is_private(qemu, socket));
}

/* Images and the pid file; not guest memory, nor what it only adds to (its log). */
static gboolean is_shared_file(pid_t pid, int fd, const char *link)
{
    g_autofree char *info = read_fdinfo(pid, fd);
    const char *flags = info ? strstr(info, "flags:") : NULL;
    unsigned long value = flags ? strtoul(flags + strlen("flags:"), NULL, 8) : 0;

    if (fd <= STDERR_FILENO || g_str_has_prefix(link, "/memfd:") || !info)
        return FALSE;
    return strstr(info, "\nlock:") || ((value & O_ACCMODE) != O_RDONLY && !(value & O_APPEND));
}

static gboolean is_shared(const QemuVmm *qemu, int fd)
{
    g_autofree char *link = read_link(qemu->pid, fd);
    struct stat file;

    if (!link || !stat_fd(qemu->pid, fd, &file))
        return FALSE;
    switch (file.st_mode & S_IFMT) {
    case S_IFCHR:
        return is_shared_device(&file, link);
    case S_IFSOCK:
        return is_shared_socket(qemu, fd);
    case S_IFIFO:
        return link[0] == '/';
    case S_IFREG:
    case S_IFBLK:
        return is_shared_file(qemu->pid, fd, link);
    default:
        return FALSE;
    }
}

/* Numbers of all its descriptors. */
static GArray *list_fds(pid_t pid, GError **error)
{
    g_autofree char *folder = g_strdup_printf("/proc/%d/fd", (int)pid);
    g_autoptr(GDir) entries = g_dir_open(folder, 0, NULL);
    GArray *fds = g_array_new(FALSE, FALSE, sizeof(int));
    const char *name;

    while (entries && fds->len < MAX_FDS && (name = g_dir_read_name(entries))) {
        int fd = atoi(name);

        g_array_append_val(fds, fd);
    }
    if (fds->len > 0)
        return fds;
    error_set(error, VMFERRY_ERROR_NOT_FOUND, "no descriptors of process %d are seen", (int)pid);
    g_array_unref(fds);
    return NULL;
}

/* --- replacing -------------------------------------------------------------------------- */

static gboolean replace(Job *job, int quiet, int fd)
{
    const uint64_t arguments[6] = {(uint64_t)quiet, (uint64_t)fd, O_CLOEXEC};
    int64_t answer;

    if (!inject_call(job->inject, SYS_dup3, arguments, &answer, &job->error))
        return FALSE;
    if (answer >= 0)
        return TRUE;
    error_set_errno(&job->error, (int)-answer, "replace descriptor %d", fd);
    return FALSE;
}

static gboolean replace_all(Job *job, int quiet)
{
    g_autoptr(GArray) fds = list_fds(job->qemu->pid, &job->error);

    for (guint i = 0; fds && i < fds->len; i++) {
        int fd = g_array_index(fds, int, i);

        if (is_shared(job->qemu, fd) && !replace(job, quiet, fd))
            return FALSE;
    }
    return fds != NULL;
}

/* While it is stopped nothing of its main thread changes.  In a thread of its own: see inject.h. */
static gpointer give_up_thread(gpointer data)
{
    Job *job = data;
    g_autoptr(Inject) inject = inject_attach(job->qemu->pid, &job->error);
    int quiet;

    if (!inject)
        return NULL;
    job->inject = inject;
    if (inject_give_fd(inject, job->mark, &job->error) < 0 ||
        inject_give_fd(inject, job->spare, &job->error) < 0)
        return NULL;
    quiet = inject_give_fd(inject, job->quiet, &job->error);
    job->done = quiet >= 0 && replace_all(job, quiet);
    return NULL;
}

/* Nothing is ever read at the other end, so no more can be written than there is by now. */
static gboolean make_quiet(Job *job)
{
    static const char bytes[4096];
    int pair[2], least = 1;

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0) {
        error_set_errno(&job->error, errno, "socketpair");
        return FALSE;
    }
    job->quiet = pair[0];
    job->spare = pair[1];
    setsockopt(job->quiet, SOL_SOCKET, SO_SNDBUF, &least, sizeof least);
    while (send(job->quiet, bytes, sizeof bytes, MSG_NOSIGNAL) > 0)
        ;
    return TRUE;
}

static gboolean make_mark(Job *job)
{
    job->mark = memfd_create(MARK_NAME, MFD_CLOEXEC);
    if (job->mark < 0)
        error_set_errno(&job->error, errno, "memfd_create");
    return job->mark >= 0;
}

static gboolean give_up(Job *job)
{
    return make_mark(job) && make_quiet(job) &&
           thread_run("give up", give_up_thread, job, &job->error) && job->done;
}

static gboolean check_paused(QemuVmm *qemu, GError **error)
{
    g_autofree char *status = qemu_query_status(qemu->qmp, QMP_COMMAND_MS, error);

    if (!status || qemu_run_state_from_status(status) == VMM_RUN_STATE_PAUSED)
        return status != NULL;
    error_set(error, VMFERRY_ERROR_REFUSED,
              "only a paused guest gives up what it has, this one is \"%s\"", status);
    return FALSE;
}

gboolean qemu_give_up_resources(QemuVmm *qemu, GError **error)
{
    Job job = {.qemu = qemu, .mark = -1, .quiet = -1, .spare = -1};
    gboolean done = check_paused(qemu, &job.error);

    if (done) {
        g_atomic_int_set(&qemu->gave_up, TRUE);
        done = give_up(&job);
    }
    fd_close(&job.mark);
    fd_close(&job.quiet);
    fd_close(&job.spare);
    if (!done)
        g_propagate_prefixed_error(error, job.error, "take from QEMU what its successor needs: ");
    return done;
}

gboolean qemu_has_given_up(pid_t pid)
{
    g_autoptr(GArray) fds = list_fds(pid, NULL);

    for (guint i = 0; fds && i < fds->len; i++) {
        g_autofree char *link = read_link(pid, g_array_index(fds, int, i));

        if (link && g_str_has_prefix(link, MARK_LINK))
            return TRUE;
    }
    return FALSE;
}
