/* Taking a QEMU into care that runs already. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/json.h"
#include "base/process.h"
#include "vmm/qemu/command_line.h"
#include "vmm/qemu/driver.h"
#include "vmm/qemu/unix_socket.h"

#define MAX_LINK_BYTES 4096

static char *read_link(pid_t pid, const char *entry)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/%s", (int)pid, entry);
    g_autofree char *target = g_malloc0(MAX_LINK_BYTES + 1);
    ssize_t got = readlink(path, target, MAX_LINK_BYTES);

    return got > 0 ? g_steal_pointer(&target) : NULL;
}

/* By the program's file or, for a QEMU started through a loader, argv[0]. */
static gboolean check_program(pid_t pid, char **argv, GError **error)
{
    g_autofree char *program = read_link(pid, "exe");

    if ((program && qemu_is_program(program)) || (argv[0] && qemu_is_program(argv[0])))
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "pid %d is no QEMU but %s", (int)pid,
              program   ? program
              : argv[0] ? argv[0]
                        : "a kernel thread");
    return FALSE;
}

/* The process's path as seen from here: relative paths start at its working
 * folder, and all of them at its root, where that is another one. */
static char *path_seen_from_here(pid_t pid, const char *path)
{
    g_autofree char *theirs = read_link(pid, "ns/mnt");
    g_autofree char *ours = read_link(getpid(), "ns/mnt");
    g_autofree char *root = read_link(pid, "root");
    g_autofree char *folder = NULL;
    const char *prefix = "";
    g_autofree char *through = g_strdup_printf("/proc/%d/root", (int)pid);

    if (g_strcmp0(theirs, ours) != 0 || (root && strcmp(root, "/") != 0))
        prefix = through;
    if (g_path_is_absolute(path))
        return g_strconcat(prefix, path, NULL);
    folder = read_link(pid, "cwd");
    return g_strconcat(prefix, folder ? folder : "/", "/", path, NULL);
}

/* The pid that listens on the socket; 0 where it cannot be told. */
static pid_t listener_of(const char *path)
{
    autofd int fd = unix_socket_connect(path, NULL);
    struct ucred credentials;
    socklen_t length = sizeof credentials;

    if (fd < 0 || getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &credentials, &length) < 0)
        return 0;
    return credentials.pid;
}

/* TRUE where the first vCPU's thread is one of this process. */
static gboolean vcpu_is_of(Qmp *qmp, pid_t pid)
{
    g_autoptr(json_t) reply = qmp_execute(qmp, "query-cpus-fast", NULL, QMP_COMMAND_MS, NULL);
    g_autofree char *path = NULL;

    path = g_strdup_printf("/proc/%d/task/%" G_GUINT64_FORMAT, (int)pid,
                           json_count_or(json_array_get(reply, 0), "thread-id", 0));
    return access(path, F_OK) == 0;
}

/* A wrong --qmp must not make us steer another machine. */
static gboolean check_owner(Qmp *qmp, const char *path, pid_t pid, GError **error)
{
    pid_t listener;

    if (vcpu_is_of(qmp, pid))
        return TRUE;
    listener = listener_of(path);
    if (listener == pid)
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "QMP socket %s belongs to another process (pid %d)",
              path, (int)listener);
    return FALSE;
}

static Qmp *connect_one(pid_t pid, const char *path, GError **error)
{
    g_autoptr(Qmp) qmp = qmp_connect(path, QMP_GREETING_MS, error);

    if (!qmp || !qmp_run(qmp, "query-version", NULL, QMP_COMMAND_MS, error) ||
        !check_owner(qmp, path, pid, error))
        return NULL;
    return g_steal_pointer(&qmp);
}

/* The first of the command line's sockets that serves us. */
static Qmp *connect_any(pid_t pid, char **argv, char **ret_path, GError **error)
{
    g_autoptr(GPtrArray) paths = qemu_command_line_find_qmp(argv);

    if (paths->len == 0) {
        error_set(error, VMFERRY_ERROR_NOT_FOUND,
                  "the command line of pid %d opens no QMP socket that can be found; name one with "
                  "--qmp PATH, or start QEMU with -qmp unix:PATH,server=on,wait=off",
                  (int)pid);
        return NULL;
    }
    for (guint i = 0; i < paths->len; i++) {
        g_autofree char *path = path_seen_from_here(pid, paths->pdata[i]);
        Qmp *qmp;

        if (error)
            g_clear_error(error);
        qmp = connect_one(pid, path, error);
        if (qmp) {
            *ret_path = g_steal_pointer(&path);
            return qmp;
        }
    }
    return NULL;
}

/* A program named by a relative path could not be found elsewhere. */
static void resolve_program(pid_t pid, char **command_line)
{
    char *program;

    if (!command_line[0] || g_path_is_absolute(command_line[0]) || !strchr(command_line[0], '/'))
        return;
    program = read_link(pid, "exe");
    if (program) {
        g_free(command_line[0]);
        command_line[0] = program;
    }
}

/* QEMU before 10 does not tell whether a stopped guest's images are released. */
static Vmm *take(pid_t pid, uint64_t start_time, const char *path, const char *log_path,
                 char *const *command_line, Qmp *qmp)
{
    Vmm *vmm = qemu_vmm_new(pid, start_time, path, log_path, command_line, qmp);
    QemuVmm *qemu = (QemuVmm *)vmm;

    if (qemu_images_may_be_released(qemu))
        g_atomic_int_set(&qemu->images_released, TRUE);
    return vmm;
}

Vmm *qemu_adopt(pid_t pid, const char *qmp_path, GError **error)
{
    g_auto(GStrv) argv = NULL, clean = NULL;
    g_autofree char *path = g_strdup(qmp_path);
    uint64_t start_time;
    Qmp *qmp;

    if (!process_get_start_time(pid, &start_time, error))
        return NULL;
    argv = process_get_command_line(pid, error);
    if (!argv || !check_program(pid, argv, error))
        return NULL;
    qmp = path ? connect_one(pid, path, error) : connect_any(pid, argv, &path, error);
    if (!qmp)
        return NULL;
    clean = qemu_command_line_clean(argv);
    resolve_program(pid, clean);
    return take(pid, start_time, path, NULL, clean, qmp);
}

Vmm *qemu_reattach(const QemuIdentity *identity, GError **error)
{
    Qmp *qmp;

    if (!process_is_same(identity->pid, identity->start_time)) {
        error_set(error, VMFERRY_ERROR_NOT_FOUND, "QEMU (pid %d) has ended", (int)identity->pid);
        return NULL;
    }
    qmp = connect_one(identity->pid, identity->qmp_path, error);
    if (!qmp)
        return NULL;
    return take(identity->pid, identity->start_time, identity->qmp_path, identity->log_path,
                identity->command_line, qmp);
}
