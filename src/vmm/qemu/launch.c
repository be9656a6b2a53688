/* Starting QEMU, detached from us. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/process.h"
#include "identity/spawn.h"
#include "vmm/qemu/command_line.h"
#include "vmm/qemu/driver.h"
#include "vmm/qemu/qemu.h"
#include "vmm/qemu/stderr_tail.h"
#include "vmm/qemu/start_options.h"
#include "base/unix_socket.h"

/* Allocating much memory up front can take a while. */
#define START_MS 60000
#define LOOK_MS 5

/* Within the guest's directory: the sockets' folder belongs to whoever runs
 * QEMU, the directory itself and the log stay ours. */
#define SOCKETS_FOLDER "sockets"

/* Everything about one start, worked out before it. */
typedef struct {
    const VmmLaunch *launch;
    char **argv;             /* as it is started here */
    char **clean;            /* as another host would start it */
    char *program;           /* the file */
    char *working_directory; /* here */
    char *qmp_path, *log_path;
    SpawnPlan *plan;
} Start;

static void start_clear(Start *start)
{
    g_strfreev(start->argv);
    g_strfreev(start->clean);
    g_free(start->program);
    g_free(start->working_directory);
    g_free(start->qmp_path);
    g_free(start->log_path);
    spawn_plan_free(start->plan);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Start, start_clear)

/* The agent's own service variables are not QEMU's business. */
static char **child_environment(void)
{
    char **environment = g_get_environ();

    environment = g_environ_unsetenv(environment, "NOTIFY_SOCKET");
    environment = g_environ_unsetenv(environment, "WATCHDOG_USEC");
    environment = g_environ_unsetenv(environment, "WATCHDOG_PID");
    return environment;
}

static void set_no_program_error(const VmmLaunch *launch, const char *program, GError **error)
{
    if (launch->incoming)
        error_set(error, VMFERRY_ERROR_NOT_FOUND,
                  "destination has no %s; install it there or add a map rule to agent.conf",
                  program);
    else
        error_set(error, VMFERRY_ERROR_NOT_FOUND, "there is no program %s", program);
}

/* A program's path may be relative to the working folder. */
static gboolean find_program(Start *start, GError **error)
{
    const char *name = start->argv[0];
    g_autofree char *path = NULL;

    if (!name) {
        error_set(error, VMFERRY_ERROR_INVALID, "the command line is empty");
        return FALSE;
    }
    if (!qemu_is_program(name)) {
        error_set(error, VMFERRY_ERROR_REFUSED, "%s is not " QEMU_PROGRAMS, name);
        return FALSE;
    }
    if (strchr(name, '/') && !g_path_is_absolute(name))
        path = g_build_filename(start->working_directory, name, NULL);
    start->program = g_find_program_in_path(path ? path : name);
    if (start->program)
        return TRUE;
    set_no_program_error(start->launch, name, error);
    return FALSE;
}

static gboolean check_folder(const Start *start, GError **error)
{
    const char *folder = start->working_directory;

    if (g_file_test(folder, G_FILE_TEST_IS_DIR))
        return TRUE;
    if (start->launch->incoming)
        error_set(error, VMFERRY_ERROR_NOT_FOUND,
                  "the guest's working folder %s does not exist here: create it, or add a map rule "
                  "to agent.conf ([map] NAME = %s => FOLDER)",
                  folder, start->launch->working_directory);
    else
        error_set(error, VMFERRY_ERROR_NOT_FOUND, "there is no folder %s", folder);
    return FALSE;
}

/* What can be known before anything is started. */
static gboolean check_start(Start *start, GError **error)
{
    char **argv = start->argv;
    const char *folder = start->working_directory;

    if (unix_socket_in_use(start->qmp_path)) {
        error_set(error, VMFERRY_ERROR_EXISTS, "a QEMU of this name runs already: it serves %s",
                  start->qmp_path);
        return FALSE;
    }
    if (!find_program(start, error) || !check_folder(start, error) ||
        !qemu_command_line_check_sockets(argv, folder, error) ||
        !qemu_command_line_check_pidfile(argv, folder, error))
        return FALSE;
    if (!start->launch->incoming)
        return TRUE;
    return qemu_command_line_check_descriptors(argv, error) &&
           qemu_command_line_check_memory_files(argv, folder, error) &&
           vmm_check_host_memory(qemu_command_line_memory(argv), error);
}

/* A QEMU that drops its rights by itself begins with ours. */
static gboolean make_plan(Start *start, GError **error)
{
    g_auto(QemuStartOptions) options = {0};

    qemu_start_options_read(start->argv, &options);
    start->plan = spawn_plan_new(start->launch->process, start->launch->allow_unconfined,
                                 options.changes_user, error);
    return start->plan != NULL;
}

/* The directory lets the guest's group pass through, no more. */
static gboolean make_sockets_folder(const Start *start, GError **error)
{
    g_autofree char *folder = g_path_get_dirname(start->qmp_path);
    const char *directory = start->launch->directory;
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

static int open_log(const char *path, GError **error)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);

    if (fd < 0)
        error_set_errno(error, errno, "create %s", path);
    return fd;
}

/* Its pid is written down before it does anything. */
static gboolean on_begun(pid_t pid, gpointer user, GError **error)
{
    const Start *start = user;
    const VmmLaunch *launch = start->launch;
    VmmIdentity identity = {
        .kind = (char *)QEMU_KIND,
        .pid = pid,
        .control_path = start->qmp_path,
        .log_path = start->log_path,
    };

    if (!launch->begun)
        return TRUE;
    return process_get_start_time(pid, &identity.start_time, error) &&
           launch->begun(&identity, launch->user, error);
}

static gboolean run(const Start *start, pid_t *ret_pid, GError **error)
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
        .begun = on_begun,
        .user = (gpointer)start,
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

/* QEMU has dropped its rights by the time that QMP answers. */
static gboolean settle(const Start *start, Qmp *qmp, pid_t pid, GError **error)
{
    return qemu_check_owner(qmp, start->qmp_path, pid, error) &&
           spawn_plan_check(start->plan, pid, error) &&
           (!start->launch->incoming || prepare_incoming(qmp, error));
}

static Vmm *make_vmm(const Start *start, pid_t pid, uint64_t start_time, Qmp *qmp)
{
    const VmmLaunch *launch = start->launch;
    Vmm *vmm = qemu_vmm_new(pid, start_time, start->qmp_path, start->log_path, start->clean, qmp);

    qemu_vmm_set_rules(vmm, launch->incoming ? launch->rules : NULL);
    /* As the command line: without our rules. */
    ((QemuVmm *)vmm)->working_directory = g_strdup(launch->working_directory);
    return vmm;
}

static Vmm *begin(const Start *start, GError **error)
{
    g_autoptr(Qmp) qmp = NULL;
    uint64_t start_time;
    pid_t pid;

    if (!run(start, &pid, error))
        return NULL;
    if (!process_get_start_time(pid, &start_time, NULL)) {
        set_start_error(start->log_path, error);
        return NULL;
    }
    qmp = await_qmp(pid, start_time, start->qmp_path, start->log_path, error);
    if (!qmp || !settle(start, qmp, pid, error)) {
        /* We have started it, and no other process knows of it. */
        (void)process_kill(pid, start_time, SIGKILL, NULL);
        (void)process_wait_gone(pid, start_time, START_MS);
        unlink(start->qmp_path);
        return NULL;
    }
    return make_vmm(start, pid, start_time, g_steal_pointer(&qmp));
}

static void prepare(const VmmLaunch *launch, Start *start)
{
    const char *folder = launch->working_directory ? launch->working_directory : "/";

    start->launch = launch;
    start->qmp_path =
        g_strdup_printf("%s/" SOCKETS_FOLDER "/%s.qmp", launch->directory, launch->name);
    start->log_path = g_strdup_printf("%s/%s.log", launch->directory, launch->name);
    start->clean = qemu_command_line_clean(launch->command_line);
    start->argv =
        launch->incoming
            ? qemu_command_line_for_incoming(launch->command_line, launch->rules, start->qmp_path)
            : qemu_command_line_for_start(launch->command_line, start->qmp_path);
    start->working_directory =
        launch->incoming ? vmm_map_text(folder, launch->rules) : g_strdup(folder);
}

Vmm *qemu_launch(const VmmLaunch *launch, GError **error)
{
    g_auto(Start) start = {0};
    Vmm *vmm;

    prepare(launch, &start);
    if (!check_start(&start, error) || !make_plan(&start, error) ||
        !make_sockets_folder(&start, error))
        return NULL;
    vmm = begin(&start, error);
    if (vmm)
        ((QemuVmm *)vmm)->cgroups = spawn_plan_keep(start.plan);
    return vmm;
}
