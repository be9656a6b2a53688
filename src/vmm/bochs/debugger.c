/* Bochs as the VMM that looks into a machine (vmm_debugger.h). */
#include <signal.h>
#include <string.h>

#include "base/error.h"
#include "base/process.h"
#include "guard/guard.h"
#include "vmm/bochs/command_line.h"
#include "vmm/bochs/driver.h"
#include "vmm/bochs/folder.h"
#include "vmm/bochs/plan.h"
#include "vmm/vmm_debugger.h"

#define GUEST "debug"

struct VmmDebugger {
    Vmm *vmm;
    Guard *guard; /* ends it with us */
    char *folder; /* of Bochs's process */
    char *command;
};

static BochsProcess *get_process(const VmmDebugger *debugger)
{
    return ((BochsVmm *)debugger->vmm)->process;
}

/* What is written to a disk goes beside it. */
static void keep_apart(BochsCommandLine *line, const char *directory)
{
    for (guint i = 0; i < line->machine.disk_count; i++) {
        BochsDisk *disk = &line->disks[i];
        char *journal = g_strdup_printf("%s/written%u", directory, i);

        g_ptr_array_add(line->texts, journal);
        if (!disk->cdrom)
            disk->journal = journal;
    }
}

/* A plan of its own kind may be a line with writes. */
static BochsCommandLine *plan(const MachineDescription *machine, const char *directory,
                              GError **error)
{
    g_auto(GStrv) words = bochs_plan(machine, error);
    BochsCommandLine *line = words ? bochs_command_line_parse(words, error) : NULL;

    if (line)
        keep_apart(line, directory);
    return line;
}

VmmDebugger *vmm_debugger_open(const MachineDescription *machine, const char *directory,
                               GError **error)
{
    g_autoptr(BochsCommandLine) line = plan(machine, directory, error);
    BochsLaunch launch = {.name = GUEST, .directory = directory};
    VmmDebugger *debugger;
    Vmm *vmm;

    if (!line)
        return NULL;
    launch.machine = &line->machine;
    vmm = bochs_launch(&launch, error);
    if (!vmm)
        return NULL;
    debugger = g_new0(VmmDebugger, 1);
    debugger->vmm = vmm;
    debugger->guard = guard_start_kill(vmm_get_pid(vmm), error);
    debugger->folder = g_strdup(get_process(debugger)->folder);
    if (debugger->guard)
        return debugger;
    vmm_debugger_free(debugger);
    return NULL;
}

gboolean vmm_debugger_check(const MachineDescription *machine, const StateNode *state,
                            GError **error)
{
    g_auto(GStrv) words = bochs_plan(machine, error);

    return words && bochs_check_state(state, error);
}

void vmm_debugger_free(VmmDebugger *debugger)
{
    if (!debugger)
        return;
    (void)vmm_quit(debugger->vmm, NULL);
    vmm_free(debugger->vmm);
    guard_free(debugger->guard);
    bochs_folder_remove(debugger->folder);
    g_free(debugger->folder);
    g_free(debugger->command);
    g_free(debugger);
}

Vmm *vmm_debugger_get_vmm(const VmmDebugger *debugger)
{
    return debugger->vmm;
}

gboolean vmm_debugger_send(VmmDebugger *debugger, const char *command, GError **error)
{
    g_free(debugger->command);
    debugger->command = g_strdup(command);
    return bochs_console_send(get_process(debugger)->console, command, error);
}

gboolean vmm_debugger_await(VmmDebugger *debugger, guint timeout_ms, char **ret, GError **error)
{
    g_autofree char *answer = NULL;
    size_t length = strlen(debugger->command);
    gboolean echoed;

    if (!bochs_console_await_prompt(get_process(debugger)->console, (int)timeout_ms, &answer,
                                    error))
        return FALSE;
    /* It repeats the command. */
    echoed = answer && strncmp(answer, debugger->command, length) == 0 && answer[length] == '\n';
    *ret = g_strdup(answer ? answer + (echoed ? length + 1 : 0) : "");
    return TRUE;
}

void vmm_debugger_interrupt(VmmDebugger *debugger)
{
    const BochsProcess *process = get_process(debugger);

    /* One that it has not read yet it would drop. */
    if (bochs_console_await_echo(process->console, 0, NULL))
        (void)process_kill(process->pid, process->start_time, SIGINT, NULL);
}
