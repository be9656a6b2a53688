#include "vmm/libvirt/restore.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/process.h"
#include "base/thread.h"
#include "vmm/libvirt/domain.h"
#include "vmm/libvirt/library.h"
#include "vmm/libvirt/save_header.h"

#define LOOK_MS 20
#define GONE_MS 10000
#define RETURN_MS 60000 /* for libvirt's call to return once QEMU is gone */
#define NAME "vmferry-restore"

struct LibvirtRestore {
    char *uri, *uuid, *path; /* of the FIFO */
    unsigned int flags;
    dev_t device;
    ino_t inode;
    int fifo;   /* ours, for reading and writing, not blocking; or -1 */
    int opened; /* inotify: says when others open it; or -1 */
    GBytes *header;
    pid_t pid; /* 0: not there yet */
    uint64_t start_time;
    gboolean settled; /* finished or aborted … */
    gboolean tried;   /* … or that was not to be had */
    GThread *thread;
    /* The call; with the lock held. */
    GMutex lock;
    GCond changed;
    gboolean returned;
    GError *failure; /* NULL once it has returned: restored */
};

/* ---- the call ---- */

static void restore_domain(LibvirtRestore *restore, GError **error)
{
    const LibvirtLibrary *libvirt = libvirt_library_get(error);
    virConnectPtr connection = libvirt ? libvirt_connect(restore->uri, error) : NULL;

    if (!connection)
        return;
    if (libvirt->virDomainRestoreFlags(connection, restore->path, NULL, restore->flags) < 0)
        libvirt_error_set(error, "restore the domain");
    libvirt->virConnectClose(connection);
}

static gpointer restore_thread(gpointer data)
{
    LibvirtRestore *restore = data;
    GError *error = NULL;

    restore_domain(restore, &error);
    g_mutex_lock(&restore->lock);
    restore->returned = TRUE;
    restore->failure = error;
    g_cond_broadcast(&restore->changed);
    g_mutex_unlock(&restore->lock);
    return NULL;
}

/* FALSE where the call has returned too early: with its error. */
static gboolean check_under_way(LibvirtRestore *restore, GError **error)
{
    gboolean returned;

    g_mutex_lock(&restore->lock);
    returned = restore->returned;
    if (returned && restore->failure)
        g_propagate_error(error, g_error_copy(restore->failure));
    else if (returned)
        error_set(error, VMFERRY_ERROR_FAILED,
                  "libvirt says that the domain is restored, before all of it was sent");
    g_mutex_unlock(&restore->lock);
    return !returned;
}

static gboolean await_return(LibvirtRestore *restore, int timeout_ms)
{
    gint64 end = g_get_monotonic_time() + (gint64)timeout_ms * 1000;
    gboolean returned;

    g_mutex_lock(&restore->lock);
    while (!restore->returned && g_cond_wait_until(&restore->changed, &restore->lock, end))
        ;
    returned = restore->returned;
    g_mutex_unlock(&restore->lock);
    return returned;
}

/* ---- its QEMU ---- */

static gboolean has_fifo(const LibvirtRestore *restore, pid_t pid)
{
    g_autofree char *folder = g_strdup_printf("/proc/%d/fd", (int)pid);
    g_autoptr(GDir) entries = g_dir_open(folder, 0, NULL);
    const char *name;

    while (entries && (name = g_dir_read_name(entries))) {
        g_autofree char *path = g_build_filename(folder, name, NULL);
        struct stat info;

        if (stat(path, &info) == 0 && info.st_dev == restore->device &&
            info.st_ino == restore->inode)
            return TRUE;
    }
    return FALSE;
}

/* It is this domain's, whatever it reads from. */
static gboolean is_of_domain(const LibvirtRestore *restore, pid_t pid)
{
    g_auto(GStrv) argv = process_get_command_line(pid, NULL);
    g_autofree char *name = NULL;
    const char *uuid;

    return argv && libvirt_domain_is_of(argv, &uuid, &name) && strcmp(uuid, restore->uuid) == 0;
}

/* 0: there is none. */
static pid_t find_qemu(const LibvirtRestore *restore, uint64_t *ret_start_time)
{
    g_autoptr(GDir) entries = g_dir_open("/proc", 0, NULL);
    const char *name;

    while (entries && (name = g_dir_read_name(entries))) {
        pid_t pid = (pid_t)g_ascii_strtoull(name, NULL, 10);

        if (pid > 0 && is_of_domain(restore, pid) && has_fifo(restore, pid) &&
            process_get_start_time(pid, ret_start_time, NULL))
            return pid;
    }
    return 0;
}

/* ---- the FIFO ---- */

static gboolean make_fifo(LibvirtRestore *restore, GError **error)
{
    struct stat info;

    /* What an agent that was killed has left. */
    if (lstat(restore->path, &info) == 0 && S_ISFIFO(info.st_mode))
        unlink(restore->path);
    if (mkfifo(restore->path, 0600) < 0) {
        error_set_errno(error, errno, "make the FIFO %s", restore->path);
        return FALSE;
    }
    /* For reading, too: no end is seen between two who read, and nobody who opens it waits. */
    restore->fifo = open(restore->path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
    restore->opened = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    if (restore->fifo < 0 || restore->opened < 0 || fstat(restore->fifo, &info) < 0 ||
        inotify_add_watch(restore->opened, restore->path, IN_OPEN) < 0) {
        error_set_errno(error, errno, "watch the FIFO %s", restore->path);
        return FALSE;
    }
    restore->device = info.st_dev;
    restore->inode = info.st_ino;
    return TRUE;
}

/* How often it was opened since the last look. */
static guint count_opens(LibvirtRestore *restore)
{
    char buffer[4096] __attribute__((aligned(__alignof__(struct inotify_event))));
    ssize_t got = read(restore->opened, buffer, sizeof buffer);
    guint count = 0;

    for (ssize_t at = 0; at + (ssize_t)sizeof(struct inotify_event) <= got;) {
        const struct inotify_event *event = (const struct inotify_event *)(buffer + at);

        count += (event->mask & IN_OPEN) != 0;
        at += (ssize_t)(sizeof *event + event->len);
    }
    return count;
}

static gboolean check_time(gint64 end, GError **error)
{
    if (g_get_monotonic_time() <= end)
        return TRUE;
    error_set(error, VMFERRY_ERROR_TIMEOUT,
              "libvirt, or its QEMU, does not read what is to be restored");
    return FALSE;
}

static gboolean write_until(LibvirtRestore *restore, const char *bytes, size_t length, gint64 end,
                            GError **error)
{
    while (length > 0) {
        struct pollfd fd = {restore->fifo, POLLOUT, 0};
        ssize_t sent = poll(&fd, 1, LOOK_MS) > 0 ? write(restore->fifo, bytes, length) : 0;

        if (sent < 0 && errno != EAGAIN && errno != EINTR) {
            error_set_errno(error, errno, "write to the FIFO %s", restore->path);
            return FALSE;
        }
        if (sent > 0) {
            bytes += sent;
            length -= (size_t)sent;
        } else if (!check_under_way(restore, error) || !check_time(end, error)) {
            return FALSE;
        }
    }
    return TRUE;
}

static gboolean serve_header(LibvirtRestore *restore, gint64 end, GError **error)
{
    gsize length;
    const char *data = g_bytes_get_data(restore->header, &length);

    for (guint left = count_opens(restore); left > 0; left--)
        if (!write_until(restore, data, length, end, error))
            return FALSE;
    return TRUE;
}

/* By then libvirt's daemon has read what it reads. */
static gboolean await_qemu(LibvirtRestore *restore, gint64 end, GError **error)
{
    while (restore->pid == 0) {
        struct pollfd fd = {restore->opened, POLLIN, 0};

        (void)poll(&fd, 1, LOOK_MS);
        if (!check_under_way(restore, error) || !check_time(end, error) ||
            !serve_header(restore, end, error))
            return FALSE;
        restore->pid = find_qemu(restore, &restore->start_time);
    }
    return TRUE;
}

/* ---- from its beginning to its end ---- */

static LibvirtRestore *restore_new(const LibvirtRestoreJob *job, GError **error)
{
    LibvirtRestore *restore = g_new0(LibvirtRestore, 1);

    g_mutex_init(&restore->lock);
    g_cond_init(&restore->changed);
    restore->fifo = restore->opened = -1;
    restore->uri = g_strdup(job->uri);
    restore->uuid = g_strdup(job->uuid);
    restore->path = g_strdup_printf("%s/" NAME "-%s", job->directory, job->uuid);
    restore->flags = job->paused ? VIR_DOMAIN_SAVE_PAUSED : VIR_DOMAIN_SAVE_RUNNING;
    restore->header = libvirt_save_header_build(job->xml, !job->paused, error);
    return restore;
}

static gboolean begin(LibvirtRestore *restore, int timeout_ms, GError **error)
{
    gint64 end = g_get_monotonic_time() + (gint64)timeout_ms * 1000;

    if (!restore->header || !make_fifo(restore, error))
        return FALSE;
    restore->thread = thread_start("restore", restore_thread, restore, error);
    return restore->thread && await_qemu(restore, end, error);
}

LibvirtRestore *libvirt_restore_begin(const LibvirtRestoreJob *job, int timeout_ms, GError **error)
{
    g_autoptr(LibvirtRestore) restore = restore_new(job, error);
    g_autoptr(GError) left = NULL;

    if (begin(restore, timeout_ms, error))
        return g_steal_pointer(&restore);
    if (libvirt_restore_abort(restore, &left))
        return NULL;
    g_clear_error(error);
    g_propagate_error(error, g_steal_pointer(&left));
    return NULL;
}

pid_t libvirt_restore_get_pid(LibvirtRestore *restore)
{
    return restore->pid;
}

gboolean libvirt_restore_write(LibvirtRestore *restore, const void *bytes, size_t length,
                               int timeout_ms, GError **error)
{
    gint64 end = g_get_monotonic_time() + (gint64)timeout_ms * 1000;

    return write_until(restore, bytes, length, end, error);
}

gboolean libvirt_restore_get_unread(LibvirtRestore *restore, int *ret, GError **error)
{
    if (ioctl(restore->fifo, FIONREAD, ret) == 0)
        return TRUE;
    error_set_errno(error, errno, "what is left in the FIFO %s", restore->path);
    return FALSE;
}

gboolean libvirt_restore_finish(LibvirtRestore *restore, int timeout_ms, GError **error)
{
    fd_close(&restore->fifo);
    if (!await_return(restore, timeout_ms)) {
        error_set(error, VMFERRY_ERROR_TIMEOUT, "libvirt does not say that the domain is restored");
        return FALSE;
    }
    restore->settled = !restore->failure;
    if (restore->failure)
        g_propagate_error(error, g_error_copy(restore->failure));
    return restore->settled;
}

static gboolean kill_qemu(pid_t pid, uint64_t start_time, GError **error)
{
    (void)process_kill(pid, start_time, SIGKILL, NULL);
    if (process_wait_gone(pid, start_time, GONE_MS))
        return TRUE;
    error_set(error, VMFERRY_ERROR_IN_DOUBT, "QEMU (pid %d) does not end, not even by SIGKILL",
              (int)pid);
    return FALSE;
}

/* One that has begun to be since is found by the FIFO, which it has open for as long as it loads. */
static gboolean kill_all(LibvirtRestore *restore, GError **error)
{
    pid_t pid = restore->pid;
    uint64_t start_time = restore->start_time;

    if (pid == 0)
        pid = find_qemu(restore, &start_time);
    for (; pid > 0; pid = find_qemu(restore, &start_time))
        if (!kill_qemu(pid, start_time, error))
            return FALSE;
    return TRUE;
}

gboolean libvirt_restore_abort(LibvirtRestore *restore, GError **error)
{
    if (restore->settled)
        return TRUE;
    restore->tried = TRUE;
    fd_close(&restore->fifo);
    /* While libvirt's daemon is at it, it may start one that we have not seen. */
    if (!kill_all(restore, error))
        return FALSE;
    if (restore->thread && !await_return(restore, RETURN_MS)) {
        error_set(
            error, VMFERRY_ERROR_IN_DOUBT,
            "libvirt's daemon hangs while it restores the domain, and may start its QEMU yet");
        return FALSE;
    }
    restore->settled = kill_all(restore, error);
    return restore->settled;
}

void libvirt_restore_free(LibvirtRestore *restore)
{
    g_autoptr(GError) error = NULL;

    if (!restore)
        return;
    if (!restore->tried && !libvirt_restore_abort(restore, &error))
        log_warning("%s", error->message);
    /* A daemon that hangs has the thread, and the thread all of this: nobody waits for it. */
    if (restore->thread && !await_return(restore, 0))
        return;
    if (restore->thread)
        g_thread_join(restore->thread);
    unlink(restore->path);
    fd_close(&restore->fifo);
    fd_close(&restore->opened);
    g_clear_pointer(&restore->header, g_bytes_unref);
    g_clear_error(&restore->failure);
    g_mutex_clear(&restore->lock);
    g_cond_clear(&restore->changed);
    g_free(restore->uri);
    g_free(restore->uuid);
    g_free(restore->path);
    g_free(restore);
}
