#include "vmm/qemu/start.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/process.h"
#include "vmm/qemu/driver.h"
#include "vmm/qemu/command_line.h"
#include "vmm/qemu/stderr_tail.h"

/* Allocating much memory up front can take a while. */
#define START_MS 60000
#define LOOK_MS 5

#define SOCKETS_FOLDER "sockets"

char *qemu_start_socket_path(const char *directory, const char *name)
{
    return g_build_filename(directory, SOCKETS_FOLDER, name, NULL);
}

static void set_no_program_error(const char *program, gboolean incoming, GError **error)
{
    if (incoming)
        error_set(error, VMFERRY_ERROR_NOT_FOUND,
                  "destination has no %s; install it there or add a map rule to agent.conf",
                  program);
    else
        error_set(error, VMFERRY_ERROR_NOT_FOUND, "there is no program %s", program);
}

char *qemu_start_find_program(const char *name, const char *folder, gboolean incoming,
                              GError **error)
{
    g_autofree char *path = NULL;
    char *program;

    if (!qemu_is_program(name)) {
        error_set(error, VMFERRY_ERROR_REFUSED, "%s is not " QEMU_PROGRAMS, name);
        return NULL;
    }
    if (strchr(name, '/') && !g_path_is_absolute(name))
        path = g_build_filename(folder, name, NULL);
    program = g_find_program_in_path(path ? path : name);
    if (!program)
        set_no_program_error(name, incoming, error);
    return program;
}

/* The directory lets the guest's group pass through, no more. */
gboolean qemu_start_make_folder(const QemuStart *start, GError **error)
{
    g_autofree char *folder = g_path_get_dirname(start->qmp_path);
    const char *directory = start->directory;
    uid_t uid;
    gid_t gid;

    spawn_plan_get_start_owner(start->plan, &uid, &gid);
    if (uid != geteuid() && (chown(directory, (uid_t)-1, gid) < 0 || chmod(directory, 0710) < 0)) {
        error_set_errno(error, errno, "open %s for group %u", directory, (guint)gid);
        return FALSE;
    }
    if ((mkdir(folder, 0700) < 0 && errno != EEXIST) || lchown(folder, uid, gid) < 0) {
        error_set_errno(error, errno, "make %s", folder);
        return FALSE;
    }
    /* A stale socket would be connected to in place of the new one. */
    unlink(start->qmp_path);
    return TRUE;
}

/* The agent's own service variables are not QEMU's business. */
static char **child_environment(void)
{
    char **environment = g_get_environ();

    environment = g_environ_unsetenv(environment, "NOTIFY_SOCKET");
    environment = g_environ_unsetenv(environment, "WATCHDOG_USEC");
    environment = g_environ_unsetenv(environment, "WATCHDOG_PID");
    return environment;
}

static int open_log(const char *path, GError **error)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);

    if (fd < 0)
        error_set_errno(error, errno, "create %s", path);
    return fd;
}

static gboolean run(const QemuStart *start, pid_t *ret_pid, GError **error)
{
    autofd int log = open_log(start->log_path, error);
    g_auto(GStrv) environment = child_environment();
    Spawn spawn = {
        .plan = start->plan,
        .program = start->program,
        .argv = start->argv,
        .environment = environment,
        .working_directory = start->working_directory,
        .output = log,
        .begun = start->begun,
        .user = start->user,
    };

    if (log < 0)
        return FALSE;
    if (spawn_detached(&spawn, ret_pid, error))
        return TRUE;
    g_prefix_error(error, "start QEMU: ");
    return FALSE;
}

static void set_start_error(const char *log_path, GError **error)
{
    g_autofree char *tail = stderr_tail_read(log_path);

    error_set(error, VMFERRY_ERROR_FAILED, "QEMU did not start: %s",
              tail ? tail : "it ended without a message");
}

/* Connects as soon as QEMU listens; NULL when it has ended or is too slow. */
static Qmp *await_qmp(pid_t pid, uint64_t start_time, const char *qmp_path, const char *log_path,
                      GError **error)
{
    gint64 deadline = g_get_monotonic_time() + (gint64)START_MS * 1000;

    for (;;) {
        g_autoptr(GError) failure = NULL;
        gint64 left_ms = (deadline - g_get_monotonic_time()) / 1000;
        Qmp *qmp = qmp_connect_starting(qmp_path, (int)MAX(left_ms, 1), &failure);

        if (qmp)
            return qmp;
        if (process_wait_gone(pid, start_time, LOOK_MS)) {
            set_start_error(log_path, error);
            return NULL;
        }
        if (left_ms <= 0) {
            g_propagate_prefixed_error(error, g_steal_pointer(&failure),
                                       "QEMU did not get ready: ");
            return NULL;
        }
    }
}

/* QEMU has dropped its rights by the time that QMP answers. */
static gboolean check(const QemuStart *start, Qmp *qmp, pid_t pid, GError **error)
{
    return qemu_check_owner(qmp, start->qmp_path, pid, error) &&
           spawn_plan_check(start->plan, pid, error);
}

void qemu_start_abandon(const QemuStart *start, pid_t pid, uint64_t start_time)
{
    (void)process_kill(pid, start_time, SIGKILL, NULL);
    (void)process_wait_gone(pid, start_time, START_MS);
    unlink(start->qmp_path);
}

Qmp *qemu_start_run(const QemuStart *start, pid_t *ret_pid, uint64_t *ret_start_time,
                    GError **error)
{
    g_autoptr(Qmp) qmp = NULL;

    if (!run(start, ret_pid, error))
        return NULL;
    if (!process_get_start_time(*ret_pid, ret_start_time, NULL)) {
        set_start_error(start->log_path, error);
        return NULL;
    }
    qmp = await_qmp(*ret_pid, *ret_start_time, start->qmp_path, start->log_path, error);
    if (qmp && check(start, qmp, *ret_pid, error))
        return g_steal_pointer(&qmp);
    qemu_start_abandon(start, *ret_pid, *ret_start_time);
    return NULL;
}
