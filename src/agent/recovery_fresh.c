/* The fresh process of a takeover: on record before it does anything, so that none is left behind. */
#include <signal.h>

#include "agent/directory.h"
#include "agent/launch.h"
#include "agent/recovery_private.h"
#include "base/error.h"
#include "base/process.h"
#include "vmm/vmm_driver.h"

#define KILL_TIMEOUT_MS 10000

/* It belongs to us alone: it waits, or was launched for a takeover that was broken off. */
static gboolean end_process(const GuestRecord *record, GError **error)
{
    if (record->other_pid <= 0 || !process_is_same(record->other_pid, record->other_start))
        return TRUE;
    if (!process_kill(record->other_pid, record->other_start, SIGKILL, error))
        return !process_is_same(record->other_pid, record->other_start);
    if (process_wait_gone(record->other_pid, record->other_start, KILL_TIMEOUT_MS))
        return TRUE;
    error_set(error, VMFERRY_ERROR_TIMEOUT, "process %d does not end", (int)record->other_pid);
    return FALSE;
}

gboolean recovery_end_fresh(Guest *guest, GError **error)
{
    g_autoptr(GuestRecord) record = registry_get_record(guest);

    if (record->other_pid <= 0 && !record->other_directory)
        return TRUE;
    if (!end_process(record, error))
        return FALSE;
    if (record->other_directory)
        guest_directory_remove(record->other_directory);
    g_clear_pointer(&record->other_directory, g_free);
    record->other_pid = 0;
    return registry_journal_record(guest, g_steal_pointer(&record), error);
}

/* VmmLaunch.begun: it does nothing yet. */
static gboolean note_process(const VmmIdentity *identity, gpointer user, GError **error)
{
    const FreshLaunch *launch = user;
    GuestRecord *record = registry_get_record(launch->guest);

    if (launch->begun)
        launch->begun(identity->pid, identity->start_time, launch->user);
    record->other_pid = identity->pid;
    record->other_start = identity->start_time;
    return registry_journal_record(launch->guest, record, error);
}

static char *give_directory(const FreshLaunch *launch, GError **error)
{
    g_autofree char *path = guest_directory_create(launch->context->settings->runtime_dir, error);
    GuestRecord *record;

    if (!path)
        return NULL;
    record = registry_get_record(launch->guest);
    record->other_directory = g_strdup(path);
    if (registry_journal_record(launch->guest, record, error))
        return g_steal_pointer(&path);
    guest_directory_remove(path);
    return NULL;
}

static Vmm *launch_in(const FreshLaunch *launch, const char *directory, GError **error)
{
    const GuestMessage *machine = launch->machine;
    const VmmDriver *driver = vmm_driver_find(machine->vmm_kind, error);
    VmmLaunch request = {
        .name = launch->guest->name,
        .command_line = machine->command_line,
        .directory = directory,
        .working_directory = machine->working_directory ? machine->working_directory : "/",
        .incoming = TRUE,
        .in_place = TRUE,
        .rules = launch->rules,
        .process = machine->process,
        .allow_unconfined = launch->context->settings->allow_unconfined,
        .begun = note_process,
        .user = (gpointer)launch,
    };

    // cppcheck-suppress returnDanglingLifetime ; it keeps nothing of it
    return driver ? driver->launch(&request, error) : NULL;
}

Vmm *recovery_launch_fresh(const FreshLaunch *launch, GError **error)
{
    g_autofree char *directory = give_directory(launch, error);
    Vmm *vmm = directory ? launch_in(launch, directory, error) : NULL;

    if (vmm && vmm_match_machine(vmm, launch->machine->machine, launch->machine->live, error))
        return vmm;
    launch_undo(vmm);
    return NULL;
}
