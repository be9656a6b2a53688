#include "agent/launch.h"

#include <signal.h>

#include "agent/directory.h"
#include "agent/postcopy.h"
#include "agent/restore.h"
#include "base/name.h"
#include "agent/supervisor.h"
#include "agent/watch.h"
#include "base/error.h"
#include "base/log.h"
#include "base/process.h"
#include "memory/guest_memory.h"
#include "vmm/libvirt/domain.h"

#define QUIT_TIMEOUT_MS 10000

GuestRecord *launch_make_record(const char *name, GuestRole state, GuestOrigin origin,
                                char **command_line, const char *working_directory)
{
    GuestRecord *record = g_new0(GuestRecord, 1);

    record->name = g_strdup(name);
    record->id = random_id_new();
    record->term = 1;
    record->role = state;
    record->origin = origin;
    record->command_line = g_strdupv(command_line);
    record->working_directory = g_strdup(working_directory);
    record->since = g_get_real_time() / G_USEC_PER_SEC;
    return record;
}

/* What is known from the moment that there is a process. */
static void note_identity(GuestRecord *record, const VmmIdentity *identity)
{
    record->pid = identity->pid;
    record->start_time = identity->start_time;
    g_free(record->vmm_kind);
    record->vmm_kind = g_strdup(identity->kind);
    g_free(record->qmp_path);
    record->qmp_path = g_strdup(identity->control_path);
    g_free(record->log_path);
    record->log_path = g_strdup(identity->log_path);
}

void launch_fill_record(GuestRecord *record, Vmm *vmm)
{
    g_autoptr(VmmIdentity) identity = vmm_get_identity(vmm);

    note_identity(record, identity);
    if (!record->command_line)
        record->command_line = g_strdupv(identity->command_line);
    if (!record->working_directory)
        record->working_directory = g_strdup(identity->working_directory);
    g_strfreev(record->cgroups);
    record->cgroups = g_strdupv(identity->cgroups);
}

/* Who runs the guest, for its status; each move reads that anew. */
static gboolean note_process(GuestRecord *record, Vmm *vmm, GError **error)
{
    process_identity_free(record->process);
    record->process = vmm_get_process(vmm, error);
    return record->process != NULL;
}

void launch_undo(Vmm *vmm)
{
    g_autoptr(VmmIdentity) identity = vmm ? vmm_get_identity(vmm) : NULL;
    g_autoptr(GError) error = NULL;

    if (!vmm)
        return;
    if (!vmm_quit(vmm, &error) && process_is_same(identity->pid, identity->start_time)) {
        log_warning("process %d does not end by itself: %s", (int)identity->pid, error->message);
        process_kill(identity->pid, identity->start_time, SIGKILL, NULL);
        process_wait_gone(identity->pid, identity->start_time, QUIT_TIMEOUT_MS);
    }
    guest_cgroups_remove(identity->cgroups);
    vmm_free(vmm);
}

/* The guest is complete: put it on record as ours and watch it.  Takes *vmm*,
 * whether it works or not; then *keep* says if its process lives on. */
static gboolean take_managed(AgentContext *context, Guest *guest, Vmm *vmm, gboolean keep,
                             GError **error)
{
    GuestRecord *record = registry_get_record(guest);
    VmmRunState state = VMM_RUN_STATE_RUNNING;

    launch_fill_record(record, vmm);
    record->role = GUEST_OURS;
    if (!note_process(record, vmm, error)) {
        guest_record_free(record);
        record = NULL;
    }
    if (!record || !registry_journal_record(guest, record, error)) {
        if (keep)
            vmm_free(vmm);
        else
            launch_undo(vmm);
        return FALSE;
    }
    vmm_get_run_state(vmm, &state, NULL);
    registry_set_run_state(guest, state);
    registry_set_vmm(guest, vmm);
    departure_log_forget(context->departures, guest->name);
    watch_guest(context, guest);
    return TRUE;
}

gboolean launch_note_process(const VmmIdentity *identity, gpointer user, GError **error)
{
    Guest *guest = user;
    GuestRecord *record = registry_get_record(guest);

    note_identity(record, identity);
    return registry_journal_record(guest, record, error);
}

static Vmm *launch_vmm(Guest *guest, GError **error)
{
    g_autoptr(GuestRecord) record = registry_get_record(guest);
    const VmmDriver *driver = vmm_driver_find_for_command_line(record->command_line, error);
    VmmLaunch launch = {
        .name = guest->name,
        .command_line = record->command_line,
        .directory = record->directory,
        .working_directory = record->working_directory,
        .begun = launch_note_process,
        .user = guest,
    };

    return driver ? driver->launch(&launch, error) : NULL;
}

gboolean launch_give_directory(AgentContext *context, Guest *guest, GError **error)
{
    g_autofree char *directory = guest_directory_create(context->settings->runtime_dir, error);
    GuestRecord *record;

    if (!directory)
        return FALSE;
    record = registry_get_record(guest);
    record->directory = g_strdup(directory);
    if (registry_journal_record(guest, record, error))
        return TRUE;
    guest_directory_remove(directory);
    return FALSE;
}

static gboolean start_claimed(AgentContext *context, Guest *guest, GError **error)
{
    Vmm *vmm;

    /* On record before there is a process: a restarted agent finds it then. */
    if (!launch_give_directory(context, guest, error))
        return FALSE;
    vmm = launch_vmm(guest, error);
    return vmm && take_managed(context, guest, vmm, FALSE, error);
}

static gboolean run_line(AgentContext *context, const char *name, char **command_line,
                         const char *working_directory, GError **error)
{
    GuestRecord *record =
        launch_make_record(name, GUEST_STARTING, GUEST_ORIGIN_RUN, command_line, working_directory);
    g_autoptr(GuestRecord) started = NULL;
    g_autoptr(Guest) guest = registry_add(context->registry, record, "start", error);

    if (!guest)
        return FALSE;
    if (!start_claimed(context, guest, error)) {
        registry_remove(guest);
        return FALSE;
    }
    started = registry_get_record(guest);
    event_log_add(context->events, name, "started", json_pack("{s:i}", "pid", (int)started->pid),
                  "started as process %d", (int)started->pid);
    watch_release(context, guest);
    return TRUE;
}

gboolean launch_run(AgentContext *context, const char *name, char **command_line,
                    const char *working_directory, const char *kind, GError **error)
{
    g_auto(GStrv) planned = NULL;

    if (!kind)
        return run_line(context, name, command_line, working_directory, error);
    planned = launch_plan(context, name, command_line, working_directory, kind, error);
    return planned && run_line(context, name, planned, working_directory, error);
}

/* Puts the claim on a process before it is touched: two guests must not be one
 * VMM. */
static gboolean check_not_known(AgentContext *context, pid_t pid, GError **error)
{
    g_autoptr(Guest) known = NULL;
    uint64_t start_time;

    if (pid < 1 || !process_get_start_time(pid, &start_time, NULL)) {
        error_set(error, VMFERRY_ERROR_NOT_FOUND, "there is no process with pid %d", (int)pid);
        return FALSE;
    }
    known = registry_find_process(context->registry, pid, start_time);
    if (!known)
        return TRUE;
    error_set(error, VMFERRY_ERROR_EXISTS, "process %d is managed already, as guest \"%s\"",
              (int)pid, known->name);
    return FALSE;
}

static void log_adopted(AgentContext *context, Guest *guest)
{
    g_autoptr(GuestRecord) record = registry_get_record(guest);
    const char *supervisor = record->supervisor;

    event_log_add(context->events, guest->name, "adopted",
                  json_pack("{s:i, s:s?}", "pid", (int)record->pid, "supervisor", supervisor),
                  "adopted process %d%s%s", (int)record->pid, supervisor ? "; with consent: " : "",
                  supervisor ? supervisor : "");
}

/* Puts on record what may start the guest's process again, or refuses. */
static gboolean note_supervisor(Guest *guest, const LaunchAdoption *adoption, GError **error)
{
    g_autofree char *found = supervisor_find(adoption->pid);

    if (found && !adoption->allow_supervisor) {
        error_set(error, VMFERRY_ERROR_REFUSED,
                  "%s, also when the guest has moved away and runs elsewhere; see to it that it "
                  "does not, then adopt the guest with --allow-supervisor",
                  found);
        return FALSE;
    }
    registry_set_supervisor(guest, g_steal_pointer(&found));
    return TRUE;
}

static gboolean adopt_claimed(AgentContext *context, Guest *guest, const LaunchAdoption *adoption,
                              GError **error)
{
    const VmmDriver *driver = check_not_known(context, adoption->pid, error)
                                  ? vmm_driver_find_for_process(adoption->pid, error)
                                  : NULL;
    Vmm *vmm = driver ? driver->adopt(adoption->pid, adoption->qmp_path, error) : NULL;

    if (vmm && !note_supervisor(guest, adoption, error))
        g_clear_pointer(&vmm, vmm_free);
    return vmm && take_managed(context, guest, vmm, TRUE, error);
}

static gboolean adopt_domain(AgentContext *context, Guest *guest, const LaunchAdoption *adoption,
                             GError **error)
{
    LaunchAdoption found = *adoption;
    g_autofree char *address = NULL;

    if (!libvirt_domain_find(adoption->connect, adoption->libvirt, &address, &found.pid, error))
        return FALSE;
    found.qmp_path = address;
    return adopt_claimed(context, guest, &found, error);
}

gboolean launch_adopt(AgentContext *context, const char *name, const LaunchAdoption *adoption,
                      GError **error)
{
    GuestRecord *record = launch_make_record(name, GUEST_STARTING, GUEST_ORIGIN_ADOPT, NULL, NULL);
    g_autoptr(Guest) guest = registry_add(context->registry, record, "adopt", error);

    if (!guest)
        return FALSE;
    if (!(adoption->libvirt ? adopt_domain : adopt_claimed)(context, guest, adoption, error)) {
        registry_remove(guest);
        return FALSE;
    }
    log_adopted(context, guest);
    watch_release(context, guest);
    return TRUE;
}

/* The end of the guest's process is what was asked for, and is not news. */
static const ActivityKind stop_kind = {
    .kind = "stop",
    .state = "stopping",
    .drives_run_state = TRUE,
};

static gboolean stop_split(AgentContext *context, Guest *guest, GError **error)
{
    if (postcopy_stop(context, guest, error)) {
        event_log_add(context->events, guest->name, "stopped", NULL, "stopped by request");
        return TRUE;
    }
    g_prefix_error(error, "stop %s: ", guest->name);
    return FALSE;
}

gboolean launch_stop(AgentContext *context, const char *name, GError **error)
{
    g_autoptr(Guest) guest = registry_find(context->registry, name, error);
    g_autoptr(Activity) activity = NULL;
    gboolean done;
    Vmm *vmm;

    if (guest && postcopy_has(context, guest))
        return stop_split(context, guest, error);
    if (guest && restore_has(guest))
        return restore_stop(context, guest, error);
    if (!guest || !registry_claim(guest, GUEST_OURS, "stop", error))
        return FALSE;
    activity = activity_new(&stop_kind, name, NULL);
    registry_set_activity(guest, activity);
    vmm = registry_get_vmm(guest, error);
    done = vmm && vmm_quit(vmm, error);
    if (done) {
        registry_remove(guest);
        event_log_add(context->events, name, "stopped", NULL, "stopped by request");
    } else {
        g_prefix_error(error, "stop %s: ", name);
    }
    watch_release_from_activity(context, guest);
    activity_finish(activity, json_pack("{s:s}", "status", done ? "completed" : "failed"));
    return done;
}

/* The command line must be one that makes this machine elsewhere, and the disks'
 * images must be found. */
static gboolean try_machine(Vmm *vmm, char *const *command_line, GError **error)
{
    g_auto(GStrv) line = NULL;
    g_autoptr(json_t) machine = vmm_read_machine(vmm, command_line, &line, error);
    g_autoptr(GPtrArray) images = machine ? vmm_list_images(vmm, machine, error) : NULL;

    return images != NULL;
}

/* Who runs it must be something that another host can be asked to set. */
static gboolean try_process(Vmm *vmm, GError **error)
{
    g_autoptr(ProcessIdentity) process = vmm_get_process(vmm, error);

    return process != NULL;
}

/* Its RAM must be of a kind that can be followed. */
static gboolean try_memory(Vmm *vmm, const VmmDescription *description, GError **error)
{
    GuestMemory *memory = guest_memory_open(vmm_get_pid(vmm), description->ram_regions, error);

    guest_memory_free(memory);
    return memory != NULL;
}

/* In the order of a move's checks. */
char *movable_find_obstacle(Vmm *vmm, const GuestRecord *record, VmmDescription **ret_description)
{
    g_autoptr(GError) error = NULL;
    gboolean movable = guest_record_check_leaving(record, &error) &&
                       vmm_check_movable(vmm, &error) &&
                       try_machine(vmm, record->command_line, &error) && try_process(vmm, &error);

    *ret_description = vmm_describe(vmm, movable ? &error : NULL);
    if (movable && *ret_description && try_memory(vmm, *ret_description, &error))
        return NULL;
    return g_utf8_make_valid(error->message, -1);
}
