/* Starting QEMU, detached from us. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/process.h"
#include "vmm/qemu/command_line.h"
#include "vmm/qemu/driver.h"
#include "vmm/qemu/last_words.h"
#include "vmm/qemu/unix_socket.h"

/* Allocating much memory up front can take a while. */
#define START_MS 60000
#define LOOK_MS 5

/* A guest is not protected from the OOM killer because the agent is. */
static void reset_oom_score(void)
{
    int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);

    if (fd >= 0) {
        (void)!write(fd, "0", 1);
        close(fd);
    }
}

/* In the child before exec: only async-signal-safe calls. */
static void prepare_child(gpointer user)
{
    sigset_t none;

    (void)user;
    reset_oom_score();
    setsid();
    /* The agent may have blocked signals for a signalfd. */
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGPIPE, SIG_DFL);
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

static gboolean check_program(const QemuLaunch *launch, const char *program, GError **error)
{
    g_autofree char *found = g_find_program_in_path(program);

    if (!qemu_is_program(program)) {
        error_set(error, VMFERRY_ERROR_REFUSED,
                  "%s is no QEMU: its name should hold \"qemu\" or be \"kvm\"", program);
        return FALSE;
    }
    if (found)
        return TRUE;
    if (launch->incoming)
        error_set(error, VMFERRY_ERROR_NOT_FOUND,
                  "destination has no %s; install it there or add a map rule to agent.conf",
                  program);
    else
        error_set(error, VMFERRY_ERROR_NOT_FOUND, "there is no program %s", program);
    return FALSE;
}

/* What can be known before anything is started. */
static gboolean check_start(const QemuLaunch *launch, char **argv, const char *qmp_path,
                            GError **error)
{
    if (unix_socket_in_use(qmp_path)) {
        error_set(error, VMFERRY_ERROR_EXISTS, "a QEMU of this name runs already: it serves %s",
                  qmp_path);
        return FALSE;
    }
    if (!argv[0]) {
        error_set(error, VMFERRY_ERROR_INVALID, "the command line is empty");
        return FALSE;
    }
    if (!check_program(launch, argv[0], error) || !qemu_command_line_check_sockets(argv, error))
        return FALSE;
    if (!launch->incoming)
        return TRUE;
    return qemu_command_line_check_descriptors(argv, error) &&
           qemu_command_line_check_memory_files(argv, error) &&
           qemu_check_memory(qemu_command_line_memory(argv), error);
}

static int open_log(const char *path, GError **error)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);

    if (fd < 0)
        error_set_errno(error, errno, "create %s", path);
    return fd;
}

/* Through a process in between (GLib's default), so that it is not our child. */
static gboolean spawn(const QemuLaunch *launch, char **argv, const char *log_path, pid_t *ret_pid,
                      GError **error)
{
    autofd int log = open_log(log_path, error);
    g_auto(GStrv) environment = child_environment();
    g_autoptr(GError) failure = NULL;

    if (log < 0)
        return FALSE;
    if (g_spawn_async_with_pipes_and_fds(launch->working_directory, (const char *const *)argv,
                                         (const char *const *)environment, G_SPAWN_SEARCH_PATH,
                                         prepare_child, NULL, -1, log, log, NULL, NULL, 0, ret_pid,
                                         NULL, NULL, NULL, &failure))
        return TRUE;
    error_set(error, VMFERRY_ERROR_FAILED, "start QEMU: %s", failure->message);
    return FALSE;
}

static void set_start_error(const char *log_path, GError **error)
{
    g_autofree char *words = last_words_read(log_path);

    error_set(error, VMFERRY_ERROR_FAILED, "QEMU did not start: %s",
              words ? words : "it ended without a word");
}

/* Connects as soon as QEMU listens; NULL when it has ended or is too slow. */
static Qmp *await_qmp(pid_t pid, uint64_t start_time, const char *qmp_path, const char *log_path,
                      GError **error)
{
    gint64 deadline = g_get_monotonic_time() + (gint64)START_MS * 1000;

    for (;;) {
        g_autoptr(GError) failure = NULL;
        gint64 left_ms = (deadline - g_get_monotonic_time()) / 1000;
        Qmp *qmp = qmp_connect(qmp_path, (int)MAX(left_ms, 1), &failure);

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

/* Events tell when loading ends; late-block-activate keeps image locks away
 * from us until `cont`. */
static gboolean prepare_incoming(Qmp *qmp, GError **error)
{
    json_t *wanted = json_pack("{s:[{s:s,s:b},{s:s,s:b}]}", "capabilities", "capability", "events",
                               "state", 1, "capability", "late-block-activate", "state", 1);

    return qmp_run(qmp, "migrate-set-capabilities", wanted, QMP_COMMAND_MS, error);
}

static Vmm *start(const QemuLaunch *launch, char **argv, const char *qmp_path, const char *log_path,
                  GError **error)
{
    g_auto(GStrv) clean = qemu_command_line_clean(launch->command_line);
    uint64_t start_time;
    g_autoptr(Qmp) qmp = NULL;
    Vmm *vmm;
    pid_t pid;

    if (!spawn(launch, argv, log_path, &pid, error))
        return NULL;
    if (!process_get_start_time(pid, &start_time, NULL)) {
        set_start_error(log_path, error);
        return NULL;
    }
    qmp = await_qmp(pid, start_time, qmp_path, log_path, error);
    if (!qmp || (launch->incoming && !prepare_incoming(qmp, error))) {
        /* It is ours and nobody else knows of it. */
        (void)process_kill(pid, start_time, SIGKILL, NULL);
        (void)process_wait_gone(pid, start_time, START_MS);
        unlink(qmp_path);
        return NULL;
    }
    vmm = qemu_vmm_new(pid, start_time, qmp_path, log_path, clean, g_steal_pointer(&qmp));
    qemu_vmm_set_rules(vmm, launch->incoming ? launch->rules : NULL);
    return vmm;
}

Vmm *qemu_launch(const QemuLaunch *launch, GError **error)
{
    g_autofree char *qmp_path = g_strdup_printf("%s/%s.qmp", launch->directory, launch->name);
    g_autofree char *log_path = g_strdup_printf("%s/%s.log", launch->directory, launch->name);
    g_auto(GStrv) argv = NULL;

    argv = launch->incoming
               ? qemu_command_line_for_incoming(launch->command_line, launch->rules, qmp_path)
               : qemu_command_line_for_start(launch->command_line, qmp_path);
    if (!check_start(launch, argv, qmp_path, error))
        return NULL;
    /* A stale socket would be connected to in place of the new one. */
    unlink(qmp_path);
    return start(launch, argv, qmp_path, log_path, error);
}
