/* The driver's object and its table of operations. */
#include "vmm/bochs/driver.h"

#include "base/error.h"
#include "base/process.h"
#include "vmm/bochs/folder.h"
#include "vmm/bochs/places.h"
#include "vmm/bochs/ram.h"
#include "vmm/bochs/record.h"
#include "vmm/bochs/settle.h"
#include "vmm/bochs/video.h"
#include "vmm/bochs/video_order.h"
#include "vmm/vmm_driver.h"

/* A dying Bochs gives back its memory and closes its console a little before it is gone. */
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

gboolean bochs_awaits_state(const BochsVmm *bochs)
{
    return (bochs->incoming || bochs->fresh) && !bochs->loaded && !bochs->has_run;
}

/* With its folder. */
static gboolean end_process(BochsVmm *bochs, GError **error)
{
    if (!bochs_process_end(bochs->process, error))
        return FALSE;
    bochs_folder_remove(bochs->process->folder);
    return TRUE;
}

static void free_vmm(Vmm *vmm)
{
    BochsVmm *bochs = from_vmm(vmm);

    if (bochs->process && bochs_awaits_state(bochs) && bochs_process_is_alive(bochs->process))
        (void)end_process(bochs, NULL);
    bochs_process_free(bochs->process);
    ram_region_free(bochs->ram);
    ram_region_free(bochs->video);
    g_strfreev(bochs->words);
    bochs_command_line_free(bochs->line);
    g_strfreev(bochs->original);
    g_free(bochs->working_directory);
    machine_description_free(bochs->machine);
    g_strfreev(bochs->cgroups);
    if (bochs->places)
        g_array_unref(bochs->places);
    state_free(bochs->loaded);
    g_bytes_unref(bochs->saved);
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
    const BochsVmm *bochs = from_vmm(vmm);
    const BochsProcess *process = bochs->process;
    VmmIdentity *identity = g_new0(VmmIdentity, 1);

    identity->kind = g_strdup(BOCHS_KIND);
    identity->pid = process->pid;
    identity->start_time = process->start_time;
    identity->control_path = bochs_folder_path(process->folder, "input");
    identity->log_path = bochs_folder_path(process->folder, "errors");
    identity->command_line = g_strdupv(bochs->original ? bochs->original : bochs->words);
    identity->working_directory = g_strdup(bochs->working_directory);
    identity->cgroups = g_strdupv(bochs->cgroups);
    return identity;
}

static VmmDescription *describe(Vmm *vmm, GError **error)
{
    const BochsVmm *bochs = from_vmm(vmm);
    VmmDescription *description = g_new0(VmmDescription, 1);
    const RamRegion *ram = bochs->ram;

    description->kind = g_strdup(BOCHS_KIND);
    description->version = g_strdup(bochs->process->version);
    description->machine = g_strdup(BOCHS_MACHINE);
    description->accelerator = g_strdup("interpreter");
    description->vcpus = bochs->line->machine.vcpus;
    description->memory_bytes = ram->bytes;
    description->ram_regions = g_ptr_array_new_with_free_func((GDestroyNotify)ram_region_free);
    g_ptr_array_add(description->ram_regions,
                    ram_region_new(ram->name, ram->host_address, ram->bytes));
    if (bochs->video)
        g_ptr_array_add(
            description->ram_regions,
            ram_region_new(bochs->video->name, bochs->video->host_address, bochs->video->bytes));
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

/* Its memory goes before it does: who has found that out asks at once. */
static gboolean is_gone(const BochsProcess *process)
{
    return !bochs_process_is_alive(process) ||
           (!process_has_memory(process->pid) &&
            process_wait_gone(process->pid, process->start_time, DYING_MS));
}

static gboolean ask_run_state(Vmm *vmm, guint timeout_ms, VmmRunState *ret, GError **error)
{
    BochsVmm *bochs = from_vmm(vmm);
    g_autoptr(GMutexLocker) locker G_GNUC_UNUSED = g_mutex_locker_new(&bochs->lock);

    if (is_gone(bochs->process))
        *ret = VMM_RUN_STATE_GONE;
    else if (bochs_awaits_state(bochs))
        *ret = VMM_RUN_STATE_INCOMING;
    else
        *ret = bochs_process_runs(bochs->process) ? VMM_RUN_STATE_RUNNING : VMM_RUN_STATE_PAUSED;
    return TRUE;
}

static gboolean get_run_state(Vmm *vmm, VmmRunState *ret, GError **error)
{
    return ask_run_state(vmm, 0, ret, error);
}

static gboolean set_video_order(BochsVmm *bochs, gboolean neutral, GError **error)
{
    return !bochs->video || bochs_video_order_set(bochs->process, bochs->video, neutral, error);
}

static gboolean pause_vcpus(Vmm *vmm, gboolean *ret_was_running, GError **error)
{
    BochsVmm *bochs = from_vmm(vmm);
    g_autoptr(GMutexLocker) locker G_GNUC_UNUSED = g_mutex_locker_new(&bochs->lock);

    *ret_was_running = bochs_process_runs(bochs->process) || bochs->process->interrupted ||
                       bochs->process->looked_at;
    return end_operation(bochs,
                         bochs_process_interrupt(bochs->process, error) &&
                             (!*ret_was_running ||
                              bochs_settle(bochs->process, bochs->line->machine.vcpus, error)) &&
                             set_video_order(bochs, TRUE, error),
                         error);
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

/* All that can fail comes before it is written down that the guest runs. */
static gboolean make_ready(BochsVmm *bochs, GError **error)
{
    return bochs_take_images(bochs, error) && set_video_order(bochs, FALSE, error) &&
           bochs_process_note_run(bochs->process, TRUE, error) &&
           bochs_record_note_run(bochs, error);
}

/* With the lock; it stands at its prompt. */
static gboolean let_run(BochsVmm *bochs, GError **error)
{
    if (!make_ready(bochs, error)) {
        (void)bochs_process_note_run(bochs->process, FALSE, NULL);
        if (!bochs->has_run)
            (void)bochs_release_images(bochs, NULL);
        return FALSE;
    }
    bochs->has_run = TRUE;
    return bochs_process_continue(bochs->process, error);
}

/* With the lock.  A command, or an interrupt, of an operation that has failed may be under way still: its end is awaited. */
static gboolean run_again(BochsVmm *bochs, GError **error)
{
    BochsProcess *process = bochs->process;

    if (bochs_process_runs(process) && !process->interrupted)
        return TRUE;
    return bochs_process_interrupt(process, error) && let_run(bochs, error);
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
    if (bochs_awaits_state(bochs)) {
        error_set(error, VMFERRY_ERROR_REFUSED, "the guest's state was not loaded");
        return FALSE;
    }
    return end_operation(bochs, run_again(bochs, error), error);
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

static GBytes *look(Vmm *vmm, double *ret_paused_ms, GError **error)
{
    BochsVmm *bochs = from_vmm(vmm);
    g_autoptr(GMutexLocker) locker G_GNUC_UNUSED = g_mutex_locker_new(&bochs->lock);
    GBytes *state = bochs_look(bochs, ret_paused_ms, error);

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

    return end_process(bochs, error);
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
    .look = look,
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

/* ---- the neutral form ---- */

/* It says what its machine is in any case. */
static GBytes *save_neutral(Vmm *vmm, VmmSavePurpose purpose, const MachineDescription *machine,
                            GError **error)
{
    return save_device_state(vmm, purpose, error);
}

/* It has no other names for them. */
static GPtrArray *list_regions(Vmm *vmm, const VmmDescription *description, GError **error)
{
    GPtrArray *regions = g_ptr_array_new_with_free_func((GDestroyNotify)ram_region_free);

    for (guint i = 0; i < description->ram_regions->len; i++) {
        const RamRegion *region = description->ram_regions->pdata[i];

        g_ptr_array_add(regions, ram_region_new(region->name, region->host_address, region->bytes));
    }
    return regions;
}

static const VmmNeutralOps neutral_ops = {
    .only = TRUE,
    .list_regions = list_regions,
    .describe = bochs_describe_neutral,
    .save = save_neutral,
};

/* ---- launching ---- */

Vmm *bochs_vmm_new(void)
{
    BochsVmm *bochs = g_new0(BochsVmm, 1);

    bochs->base.ops = &bochs_ops;
    bochs->base.block = &bochs_block_ops;
    bochs->base.neutral = &neutral_ops;
    g_mutex_init(&bochs->lock);
    return &bochs->base;
}

char *bochs_launch_folder(const char *directory, const char *name)
{
    g_autofree char *folder = g_strconcat(name, ".bochs", NULL);

    return g_build_filename(directory, folder, NULL);
}

/* Reads from the process what is needed of it. */
static gboolean look_into(BochsVmm *bochs, const BochsMachine *machine, GError **error)
{
    bochs->words = bochs_command_line_format("bochs", machine);
    bochs->line = bochs_command_line_parse(bochs->words, error);
    bochs->ram = bochs->line ? bochs_ram_open(bochs->process, machine->memory_bytes, error) : NULL;
    if (!bochs->ram)
        return FALSE;
    if (bochs_machine_has_card(machine, BOCHS_SLOT_VGA)) {
        bochs->video = bochs_video_open(bochs->process, bochs->ram, error);
        if (!bochs->video)
            return FALSE;
    }
    bochs->places = bochs_places_find(bochs->process, bochs->ram, error);
    return bochs->places && bochs_record_write(bochs, error);
}

Vmm *bochs_launch(const BochsLaunch *launch, GError **error)
{
    g_autofree char *folder = bochs_launch_folder(launch->directory, launch->name);
    const BochsStart start = {
        .machine = launch->machine,
        .program = launch->program,
        .plan = launch->plan,
        .folder = folder,
        .begun = launch->begun,
        .user = launch->user,
    };
    g_autoptr(Vmm) vmm = bochs_vmm_new();
    BochsVmm *bochs = from_vmm(vmm);

    bochs->process = bochs_process_start(&start, error);
    if (!bochs->process)
        return NULL;
    if (look_into(bochs, launch->machine, error))
        return g_steal_pointer(&vmm);
    (void)end_process(bochs, NULL);
    return NULL;
}
