/* Starting a guest's QEMU. */
#include "base/error.h"
#include "base/process.h"
#include "vmm/qemu/command_line.h"
#include "vmm/qemu/driver.h"
#include "vmm/qemu/neutral.h"
#include "vmm/qemu/qemu.h"
#include "vmm/qemu/start.h"
#include "vmm/qemu/start_options.h"
#include "base/unix_socket.h"

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
    if (!argv[0]) {
        error_set(error, VMFERRY_ERROR_INVALID, "the command line is empty");
        return FALSE;
    }
    start->program = qemu_start_find_program(argv[0], folder, start->launch->incoming, error);
    if (!start->program || !check_folder(start, error) ||
        !qemu_command_line_check_sockets(argv, folder, error) ||
        !qemu_command_line_check_pidfile(argv, folder, error))
        return FALSE;
    if (!start->launch->incoming)
        return TRUE;
    return qemu_command_line_check_descriptors(argv, error) &&
           qemu_command_line_check_memory_files(argv, folder, error) &&
           (start->launch->in_place ||
            vmm_check_host_memory(qemu_command_line_memory(argv), error));
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

/* Events tell when loading ends; late-block-activate keeps image locks away
 * from us until `cont`. */
static gboolean prepare_incoming(Qmp *qmp, GError **error)
{
    json_t *wanted = json_pack("{s:[{s:s,s:b},{s:s,s:b}]}", "capabilities", "capability", "events",
                               "state", 1, "capability", "late-block-activate", "state", 1);

    return qmp_run(qmp, "migrate-set-capabilities", wanted, QMP_COMMAND_MS, error);
}

static Vmm *make_vmm(const Start *start, pid_t pid, uint64_t start_time, Qmp *qmp)
{
    const VmmLaunch *launch = start->launch;
    Vmm *vmm = qemu_vmm_new(pid, start_time, start->qmp_path, start->log_path, start->clean, qmp);

    qemu_vmm_set_rules(vmm, launch->incoming ? launch->rules : NULL);
    ((QemuVmm *)vmm)->restored = launch->restored;
    /* As the command line: without our rules. */
    ((QemuVmm *)vmm)->working_directory = g_strdup(launch->working_directory);
    return vmm;
}

/* Borrows all of it. */
static QemuStart describe_process(const Start *start)
{
    return (QemuStart){
        .plan = start->plan,
        .program = start->program,
        .argv = start->argv,
        .working_directory = start->working_directory,
        .directory = start->launch->directory,
        .qmp_path = start->qmp_path,
        .log_path = start->log_path,
        .begun = on_begun,
        .user = (gpointer)start,
    };
}

static Vmm *begin(const Start *start, GError **error)
{
    QemuStart process = describe_process(start);
    g_autoptr(Qmp) qmp = NULL;
    uint64_t start_time;
    pid_t pid;

    if (!qemu_start_make_folder(&process, error))
        return NULL;
    qmp = qemu_start_run(&process, &pid, &start_time, error);
    if (!qmp)
        return NULL;
    if (start->launch->incoming && !prepare_incoming(qmp, error)) {
        qemu_start_abandon(&process, pid, start_time);
        return NULL;
    }
    return make_vmm(start, pid, start_time, g_steal_pointer(&qmp));
}

static void add_word(char ***argv, const char *word)
{
    guint count = g_strv_length(*argv);

    *argv = g_renew(char *, *argv, count + 2);
    (*argv)[count] = g_strdup(word);
    (*argv)[count + 1] = NULL;
}

static void prepare(const VmmLaunch *launch, Start *start)
{
    const char *folder = launch->working_directory ? launch->working_directory : "/";
    g_autofree char *socket_name = g_strconcat(launch->name, ".qmp", NULL);

    start->launch = launch;
    start->qmp_path = qemu_start_socket_path(launch->directory, socket_name);
    start->log_path = g_strdup_printf("%s/%s.log", launch->directory, launch->name);
    start->clean = qemu_command_line_clean(launch->command_line);
    start->argv =
        launch->incoming
            ? qemu_command_line_for_incoming(launch->command_line, launch->rules, start->qmp_path)
            : qemu_command_line_for_start(launch->command_line, start->qmp_path);
    if (launch->paused)
        add_word(&start->argv, "-S");
    start->working_directory =
        launch->incoming ? vmm_map_text(folder, launch->rules) : g_strdup(folder);
}

Vmm *qemu_launch(const VmmLaunch *launch, GError **error)
{
    g_auto(Start) start = {0};
    Vmm *vmm;

    prepare(launch, &start);
    if (!check_start(&start, error) || !make_plan(&start, error))
        return NULL;
    vmm = begin(&start, error);
    if (vmm && launch->neutral && !qemu_neutral_begin((QemuVmm *)vmm, launch, error)) {
        (void)vmm_quit(vmm, NULL);
        g_clear_pointer(&vmm, vmm_free);
    }
    if (vmm)
        ((QemuVmm *)vmm)->cgroups = spawn_plan_keep(start.plan);
    return vmm;
}
