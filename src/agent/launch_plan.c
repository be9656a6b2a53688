/* The command line of another VMM for a machine: the one that it is told for makes it, and tells what it is made of. */
#include "agent/launch.h"

#include <string.h>

#include "agent/directory.h"
#include "base/error.h"
#include "guard/guard.h"

static MachineDescription *describe(Vmm *vmm, char **command_line, GError **error)
{
    g_auto(GStrv) line = NULL;
    g_autoptr(json_t) machine = vmm_read_machine(vmm, command_line, &line, error);

    return machine ? vmm_describe_neutral(vmm, machine, error) : NULL;
}

/* It ends with us, from its begin on: it has the guest's images open. */
static gboolean on_begun(const VmmIdentity *identity, gpointer user, GError **error)
{
    Guard **guard = user;

    *guard = guard_start_kill(identity->pid, error);
    return *guard != NULL;
}

static MachineDescription *make_and_describe(const VmmDriver *driver, VmmLaunch *launch,
                                             GError **error)
{
    g_autoptr(Guard) guard = NULL;
    MachineDescription *description;
    Vmm *vmm;

    launch->begun = on_begun;
    launch->user = &guard;
    vmm = driver->launch(launch, error);
    description = vmm ? describe(vmm, launch->command_line, error) : NULL;
    launch_undo(vmm);
    return description;
}

char **launch_plan(AgentContext *context, const char *name, char **command_line,
                   const char *working_directory, const char *kind, GError **error)
{
    const VmmDriver *wanted = vmm_driver_find(kind, error);
    const VmmDriver *driver = wanted ? vmm_driver_find_for_command_line(command_line, error) : NULL;
    g_autoptr(MachineDescription) description = NULL;
    g_autofree char *directory = NULL;
    VmmLaunch launch = {
        .name = name,
        .command_line = command_line,
        .working_directory = working_directory,
        .paused = TRUE,
    };

    if (!driver)
        return NULL;
    if (driver == wanted)
        return g_strdupv(command_line);
    if (!wanted->plan) {
        error_set(error, VMFERRY_ERROR_UNSUPPORTED, "%s makes no machines of %s", kind,
                  driver->kind);
        return NULL;
    }
    directory = guest_directory_create(context->settings->runtime_dir, error);
    if (!directory)
        return NULL;
    launch.directory = directory;
    description = make_and_describe(driver, &launch, error);
    if (description && wanted->first_tsc_hz > 0)
        description->tsc_hz = wanted->first_tsc_hz;
    guest_directory_remove(directory);
    return description ? wanted->plan(description, error) : NULL;
}
