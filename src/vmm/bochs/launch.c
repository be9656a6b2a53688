/* Starting a guest's Bochs from its command line. */
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/process.h"
#include "vmm/bochs/command_line.h"
#include "vmm/bochs/driver.h"
#include "vmm/bochs/folder.h"
#include "vmm/bochs/plan.h"
#include "vmm/bochs/record.h"
#include "vmm/bochs/words.h"
#include "vmm/vmm_driver.h"

/* Everything about one start, worked out before it. */
typedef struct {
    const VmmLaunch *launch;
    char *working_directory; /* here */
    char **words;            /* as it is started here */
    BochsCommandLine *line;  /* what they mean */
    char *program;           /* the file */
    char *folder;
    MachineDescription *machine;
    SpawnPlan *plan;
} Start;

static void start_clear(Start *start)
{
    g_free(start->working_directory);
    g_strfreev(start->words);
    bochs_command_line_free(start->line);
    g_free(start->program);
    g_free(start->folder);
    machine_description_free(start->machine);
    spawn_plan_free(start->plan);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Start, start_clear)

static const GPtrArray *get_rules(const VmmLaunch *launch)
{
    return launch->incoming ? launch->rules : NULL;
}

/* "bochs" may be a script that starts the program beside it. */
static char *find_program(const char *word, const char *folder, GError **error)
{
    g_autofree char *base = g_path_get_basename(word);
    g_autofree char *path = strchr(word, '/') && !g_path_is_absolute(word)
                                ? g_build_filename(folder, word, NULL)
                                : g_strdup(word);
    g_autofree char *beside =
        g_strcmp0(base, "bochs") == 0 ? g_strconcat(path, "-bin", NULL) : NULL;
    char *program = beside ? g_find_program_in_path(beside) : NULL;

    if (!program)
        program = g_find_program_in_path(path);
    if (!program)
        error_set(error, VMFERRY_ERROR_NOT_FOUND,
                  "there is no program %s here (Debian: package bochs)", word);
    return program;
}

/* As the command line names things, before map rules: so another host, which has its own, has to be told. */
static void set_names(const Start *start, const BochsCommandLine *unmapped)
{
    GPtrArray *disks = start->machine->disks;

    for (guint i = 0; i < disks->len && i < unmapped->machine.disk_count; i++) {
        MachineDisk *disk = disks->pdata[i];

        g_free(disk->path);
        disk->path = g_strdup(unmapped->machine.disks[i].path);
    }
}

/* Of a guest that came here, what its CPU has is what it found when it booted, not what Bochs's has besides. */
static void set_cpuid(MachineDescription *machine, const MachineDescription *neutral)
{
    if (!neutral || neutral->cpuid->len == 0)
        return;
    g_array_set_size(machine->cpuid, 0);
    g_array_append_vals(machine->cpuid, neutral->cpuid->data, neutral->cpuid->len);
}

/* Where it came in the neutral form, what it was made by first stays known. */
static void set_origin(MachineDescription *machine, const VmmLaunch *launch)
{
    const MachineDescription *neutral = launch->neutral;
    gboolean is_known = neutral && neutral->origin_kind;

    g_free(machine->origin_kind);
    g_free(machine->origin_machine);
    g_strfreev(machine->origin_line);
    machine->origin_kind = g_strdup(is_known ? neutral->origin_kind : BOCHS_KIND);
    machine->origin_machine = g_strdup(is_known ? neutral->origin_machine : BOCHS_MACHINE);
    machine->origin_line = g_strdupv(is_known ? neutral->origin_line : launch->command_line);
}

static gboolean describe(Start *start, GError **error)
{
    const VmmLaunch *launch = start->launch;
    g_auto(GStrv) words =
        bochs_words_resolve(launch->command_line, NULL, launch->working_directory);
    g_autoptr(BochsCommandLine) unmapped = bochs_command_line_parse(words, error);

    if (!unmapped)
        return FALSE;
    start->machine = bochs_describe(&start->line->machine);
    set_names(start, unmapped);
    set_cpuid(start->machine, launch->neutral);
    set_origin(start->machine, launch);
    return TRUE;
}

static gboolean read_line(Start *start, GError **error)
{
    const VmmLaunch *launch = start->launch;
    const char *folder = launch->working_directory ? launch->working_directory : "/";

    start->working_directory = vmm_map_text(folder, get_rules(launch));
    start->words =
        bochs_words_resolve(launch->command_line, get_rules(launch), start->working_directory);
    start->line = bochs_command_line_parse(start->words, error);
    start->folder = bochs_launch_folder(launch->directory, launch->name);
    return start->line && describe(start, error);
}

/* It has a network namespace of its own in any case (process.h). */
static gboolean make_plan(Start *start, GError **error)
{
    const ProcessIdentity *wanted = start->launch->process;
    g_autoptr(ProcessIdentity) identity = wanted ? process_identity_copy(wanted) : NULL;

    if (identity)
        bochs_identity_drop_network(identity);
    start->plan = spawn_plan_new(identity, start->launch->allow_unconfined, FALSE, error);
    return start->plan != NULL;
}

static gboolean check_start(Start *start, GError **error)
{
    start->program = find_program(start->words[0], start->working_directory, error);
    if (!start->program)
        return FALSE;
    return !start->launch->incoming || start->launch->in_place ||
           vmm_check_host_memory(start->line->machine.memory_bytes, error);
}

/* Its pid is written down before it does anything. */
static gboolean on_begun(pid_t pid, gpointer user, GError **error)
{
    const Start *start = user;
    const VmmLaunch *launch = start->launch;
    g_autofree char *control = bochs_folder_path(start->folder, "input");
    g_autofree char *errors = bochs_folder_path(start->folder, "errors");
    VmmIdentity identity = {
        .kind = (char *)BOCHS_KIND, .pid = pid, .control_path = control, .log_path = errors};

    if (!launch->begun)
        return TRUE;
    return process_get_start_time(pid, &identity.start_time, error) &&
           launch->begun(&identity, launch->user, error);
}

static void note_origin(BochsVmm *bochs, Start *start)
{
    const VmmLaunch *launch = start->launch;

    g_strfreev(bochs->original);
    bochs->original = g_strdupv(launch->command_line);
    bochs->working_directory = g_strdup(launch->working_directory);
    machine_description_free(bochs->machine);
    bochs->machine = g_steal_pointer(&start->machine);
    bochs->incoming = launch->incoming;
    bochs->neutral = launch->neutral != NULL;
}

/* One that is not incoming runs when it is there, as others do. */
static gboolean begin(BochsVmm *bochs, const Start *start, GError **error)
{
    return spawn_plan_check(start->plan, bochs->process->pid, error) &&
           bochs_record_write(bochs, error) &&
           (start->launch->incoming || start->launch->paused || vmm_resume(&bochs->base, error));
}

static Vmm *start_guest(Start *start, GError **error)
{
    const BochsLaunch launch = {
        .name = start->launch->name,
        .directory = start->launch->directory,
        .machine = &start->line->machine,
        .program = start->program,
        .plan = start->plan,
        .begun = on_begun,
        .user = start,
    };
    Vmm *vmm = bochs_launch(&launch, error);

    if (!vmm)
        return NULL;
    note_origin((BochsVmm *)vmm, start);
    if (begin((BochsVmm *)vmm, start, error)) {
        ((BochsVmm *)vmm)->cgroups = spawn_plan_keep(start->plan);
        return vmm;
    }
    (void)vmm_quit(vmm, NULL);
    vmm_free(vmm);
    return NULL;
}

static Vmm *launch_guest(const VmmLaunch *launch, GError **error)
{
    g_auto(Start) start = {.launch = launch};

    if (!read_line(&start, error) || !check_start(&start, error) || !make_plan(&start, error))
        return NULL;
    return start_guest(&start, error);
}

static Vmm *adopt(pid_t pid, const char *control, GError **error)
{
    error_set(error, VMFERRY_ERROR_UNSUPPORTED,
              "Bochs (pid %d) was not started by vmferry, and its debugger's console is not ours: "
              "only a Bochs that was started by `vmferry run` can be managed",
              (int)pid);
    return NULL;
}

static StateNode *read_state(const void *bytes, size_t length, GError **error)
{
    return state_decode(bytes, length, error);
}

/* About as many instructions as it executes, so that its guest's second takes about a second. */
#define FIRST_TSC_HZ 50000000u

const VmmDriver bochs_driver = {
    .kind = BOCHS_KIND,
    .programs = "a Bochs (bochs, bochs-bin)",
    .is_program = bochs_is_program,
    .launch = launch_guest,
    .adopt = adopt,
    .reattach = bochs_reattach,
    .read_state = read_state,
    .plan = bochs_plan,
    .first_tsc_hz = FIRST_TSC_HZ,
    .check_state = bochs_check_state,
};
