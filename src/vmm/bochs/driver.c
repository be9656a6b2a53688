/* The driver's object and its table of operations. */
#include "vmm/bochs/driver.h"

#include "base/error.h"
#include "base/process.h"
#include "vmm/bochs/folder.h"
#include "vmm/bochs/places.h"
#include "vmm/bochs/ram.h"
#include "vmm/vmm_driver.h"

/* A dying Bochs closes its console a little before it is gone. */
#define DYING_MS 2000

static BochsVmm *from_vmm(Vmm *vmm)
{
    return (BochsVmm *)vmm;
}

static char *describe_end(Vmm *vmm)
{
    g_autofree char *said = bochs_process_read_end(from_vmm(vmm)->process);

    return said ? g_strdup_printf("Bochs ended: %s", said) : g_strdup("Bochs ended");
}

/* Where an operation failed because Bochs ended, says so. */
static gboolean end_operation(BochsVmm *bochs, gboolean done, GError **error)
{
    g_autofree char *end = NULL;

    if (done || !error || !error_is(*error, VMFERRY_ERROR_DISCONNECTED) ||
        !process_wait_gone(bochs->process->pid, bochs->process->start_time, DYING_MS))
        return done;
    end = describe_end(&bochs->base);
    g_clear_error(error);
    error_set(error, VMFERRY_ERROR_DISCONNECTED, "%s", end);
    return FALSE;
}

static void free_vmm(Vmm *vmm)
{
    BochsVmm *bochs = from_vmm(vmm);

    bochs_process_free(bochs->process);
    ram_region_free(bochs->ram);
    g_array_unref(bochs->places);
    state_free(bochs->loaded);
    bochs_form_free(bochs->fresh);
    g_mutex_clear(&bochs->lock);
    g_free(bochs);
}

/* ---- what it is ---- */

static pid_t get_pid(Vmm *vmm)
{
    return from_vmm(vmm)->process->pid;
}

static gboolean is_same_process(Vmm *vmm)
{
    return bochs_process_is_alive(from_vmm(vmm)->process);
}

static VmmIdentity *get_identity(Vmm *vmm)
{
    const BochsProcess *process = from_vmm(vmm)->process;
    VmmIdentity *identity = g_new0(VmmIdentity, 1);

    identity->kind = g_strdup(BOCHS_KIND);
    identity->pid = process->pid;
    identity->start_time = process->start_time;
    identity->control_path = bochs_folder_path(process->folder, "input");
    identity->log_path = bochs_folder_path(process->folder, "errors");
    identity->working_directory = g_strdup(process->folder);
    return identity;
}

static VmmDescription *describe(Vmm *vmm, GError **error)
{
    const BochsVmm *bochs = from_vmm(vmm);
    VmmDescription *description = g_new0(VmmDescription, 1);
    const RamRegion *ram = bochs->ram;

    description->kind = g_strdup(BOCHS_KIND);
    description->version = g_strdup(bochs->process->version);
    description->machine = g_strdup("pc-i440fx");
    description->accelerator = g_strdup("interpreter");
    description->vcpus = bochs->vcpus;
    description->memory_bytes = ram->bytes;
    description->ram_regions = g_ptr_array_new_with_free_func((GDestroyNotify)ram_region_free);
    g_ptr_array_add(description->ram_regions,
                    ram_region_new(ram->name, ram->host_address, ram->bytes));
    return description;
}

/* Its main thread runs all of them in turn. */
static GArray *get_vcpu_threads(Vmm *vmm, GError **error)
{
    GArray *threads = g_array_new(FALSE, FALSE, sizeof(pid_t));
    pid_t pid = get_pid(vmm);

    g_array_append_val(threads, pid);
    return threads;
}

static gboolean check_turns(Vmm *vmm, GError **error)
{
    return TRUE;
}

/* ---- running ---- */

/* The machine may have stopped by itself, at a breakpoint or because its processor was shut down. */
static gboolean ask_run_state(Vmm *vmm, guint timeout_ms, VmmRunState *ret, GError **error)
{
    BochsVmm *bochs = from_vmm(vmm);
    g_autoptr(GMutexLocker) locker G_GNUC_UNUSED = g_mutex_locker_new(&bochs->lock);

    if (!bochs_process_is_alive(bochs->process))
        *ret = VMM_RUN_STATE_GONE;
    else if (bochs->fresh && !bochs->loaded)
        *ret = VMM_RUN_STATE_INCOMING;
    else if (bochs_console_await_prompt(bochs->process->console, 0, NULL, NULL))
        *ret = VMM_RUN_STATE_PAUSED;
    else
        *ret = VMM_RUN_STATE_RUNNING;
    return TRUE;
}

static gboolean get_run_state(Vmm *vmm, VmmRunState *ret, GError **error)
{
    return ask_run_state(vmm, 0, ret, error);
}

static gboolean pause_vcpus(Vmm *vmm, gboolean *ret_was_running, GError **error)
{
    BochsVmm *bochs = from_vmm(vmm);
    g_autoptr(GMutexLocker) locker G_GNUC_UNUSED = g_mutex_locker_new(&bochs->lock);

    *ret_was_running = !bochs_console_await_prompt(bochs->process->console, 0, NULL, NULL);
    return end_operation(bochs, bochs_process_interrupt(bochs->process, error), error);
}

static gboolean check_paused(Vmm *vmm, GError **error)
{
    VmmRunState state;

    if (!get_run_state(vmm, &state, error))
        return FALSE;
    if (state == VMM_RUN_STATE_PAUSED)
        return TRUE;
    error_set(error, VMFERRY_ERROR_FAILED, "the guest is not paused any more");
    return FALSE;
}

static gboolean resume_vcpus(Vmm *vmm, GError **error)
{
    BochsVmm *bochs = from_vmm(vmm);
    g_autoptr(GMutexLocker) locker G_GNUC_UNUSED = g_mutex_locker_new(&bochs->lock);

    if (!bochs_process_is_alive(bochs->process)) {
        g_autofree char *end = describe_end(vmm);

        error_set(error, VMFERRY_ERROR_DISCONNECTED, "%s", end);
        return FALSE;
    }
    if (bochs->fresh && !bochs->loaded) {
        error_set(error, VMFERRY_ERROR_REFUSED, "the guest's state was not loaded");
        return FALSE;
    }
    bochs->has_run = TRUE;
    if (!bochs_console_await_prompt(bochs->process->console, 0, NULL, NULL))
        return TRUE;
    return end_operation(bochs, bochs_process_continue(bochs->process, error), error);
}

static VmmStart get_start(Vmm *vmm)
{
    return from_vmm(vmm)->has_run ? VMM_START_DONE : VMM_START_NEVER;
}

/* ---- its state ---- */

static GBytes *save_device_state(Vmm *vmm, VmmSavePurpose purpose, GError **error)
{
    BochsVmm *bochs = from_vmm(vmm);
    g_autoptr(GMutexLocker) locker G_GNUC_UNUSED = g_mutex_locker_new(&bochs->lock);
    GBytes *state = bochs_save_device_state(bochs, purpose, error);

    (void)end_operation(bochs, state != NULL, error);
    return state;
}

static gboolean open_incoming(Vmm *vmm, const char *machine, const GPtrArray *regions,
                              GError **error)
{
    BochsVmm *bochs = from_vmm(vmm);
    g_autoptr(GMutexLocker) locker G_GNUC_UNUSED = g_mutex_locker_new(&bochs->lock);

    return end_operation(bochs, bochs_open_incoming(bochs, machine, regions, error), error);
}

static gboolean load_device_state(Vmm *vmm, GBytes *state, GError **error)
{
    BochsVmm *bochs = from_vmm(vmm);
    g_autoptr(GMutexLocker) locker G_GNUC_UNUSED = g_mutex_locker_new(&bochs->lock);

    return end_operation(bochs, bochs_load_device_state(bochs, state, error), error);
}

/* ---- its end ---- */

/* Bochs ends by itself when its guest powers off, and does not tell it from other reasons. */
static gboolean was_shut_down(Vmm *vmm)
{
    return FALSE;
}

static gboolean quit_gently(Vmm *vmm, GError **error)
{
    BochsVmm *bochs = from_vmm(vmm);
    g_autoptr(GMutexLocker) locker G_GNUC_UNUSED = g_mutex_locker_new(&bochs->lock);

    return bochs_process_quit(bochs->process, error);
}

static gboolean quit(Vmm *vmm, GError **error)
{
    BochsVmm *bochs = from_vmm(vmm);
    g_autoptr(GMutexLocker) locker G_GNUC_UNUSED = g_mutex_locker_new(&bochs->lock);

    return bochs_process_end(bochs->process, error);
}

static char *get_stderr_tail(Vmm *vmm)
{
    return bochs_process_read_end(from_vmm(vmm)->process);
}

static const VmmOps bochs_ops = {
    .kind = BOCHS_KIND,
    .free = free_vmm,
    .get_pid = get_pid,
    .is_same_process = is_same_process,
    .get_identity = get_identity,
    .get_run_state = get_run_state,
    .ask_run_state = ask_run_state,
    .describe = describe,
    .check_movable = bochs_check_movable,
    .get_vcpu_threads = get_vcpu_threads,
    .check_turns = check_turns,
    .read_machine = bochs_read_machine,
    .check_unchanged = bochs_check_unchanged,
    .match_machine = bochs_match_machine,
    .pause = pause_vcpus,
    .check_paused = check_paused,
    .get_process = bochs_get_process,
    .resume = resume_vcpus,
    .get_start = get_start,
    .get_resume_action = bochs_get_resume_action,
    .get_pause_action = bochs_get_pause_action,
    .save_device_state = save_device_state,
    .open_incoming = open_incoming,
    .load_device_state = load_device_state,
    .describe_end = describe_end,
    .was_shut_down = was_shut_down,
    .stay_at_shutdown = bochs_stay_at_shutdown,
    .announce = bochs_announce,
    .quit_gently = quit_gently,
    .quit = quit,
    .get_stderr_tail = get_stderr_tail,
};

/* ---- launching ---- */

/* Takes all but the machine. */
static Vmm *vmm_new(BochsProcess *process, RamRegion *ram, GArray *places,
                    const BochsMachine *machine)
{
    BochsVmm *bochs = g_new0(BochsVmm, 1);

    bochs->base.ops = &bochs_ops;
    g_mutex_init(&bochs->lock);
    bochs->process = process;
    bochs->ram = ram;
    bochs->places = places;
    bochs->vcpus = machine->vcpus;
    bochs->ips = machine->ips;
    return &bochs->base;
}

Vmm *bochs_launch(const BochsLaunch *launch, GError **error)
{
    g_autofree char *name = g_strconcat(launch->name, ".bochs", NULL);
    g_autofree char *folder = g_build_filename(launch->directory, name, NULL);
    const BochsStart start = {
        .machine = launch->machine,
        .folder = folder,
        .begun = launch->begun,
        .user = launch->user,
    };
    g_autoptr(BochsProcess) process = bochs_process_start(&start, error);
    g_autoptr(RamRegion) ram = NULL;
    GArray *places;

    if (!process)
        return NULL;
    ram = bochs_ram_open(process, launch->machine->memory_bytes, error);
    places = ram ? bochs_places_find(process, ram, error) : NULL;
    if (places)
        return vmm_new(g_steal_pointer(&process), g_steal_pointer(&ram), places, launch->machine);
    (void)bochs_process_end(process, NULL);
    return NULL;
}
