#include "vmm/vmm.h"

#include "base/clock.h"
#include "base/error.h"

static const char *const run_state_names[] = {
    [VMM_RUN_STATE_RUNNING] = "running",   [VMM_RUN_STATE_PAUSED] = "paused",
    [VMM_RUN_STATE_INCOMING] = "incoming", [VMM_RUN_STATE_ENDED] = "ended",
    [VMM_RUN_STATE_FAILED] = "failed",     [VMM_RUN_STATE_GONE] = "gone",
};
G_STATIC_ASSERT(G_N_ELEMENTS(run_state_names) == VMM_RUN_STATE_GONE + 1);

const char *vmm_run_state_name(VmmRunState state)
{
    return (guint)state < G_N_ELEMENTS(run_state_names) ? run_state_names[state] : "unknown";
}

void vmm_description_free(VmmDescription *description)
{
    if (!description)
        return;
    g_free(description->kind);
    g_free(description->version);
    g_free(description->machine);
    g_free(description->accelerator);
    if (description->ram_regions)
        g_ptr_array_unref(description->ram_regions);
    g_free(description);
}

void vmm_free(Vmm *vmm)
{
    if (vmm)
        vmm->ops->free(vmm);
}

pid_t vmm_get_pid(Vmm *vmm)
{
    return vmm->ops->get_pid(vmm);
}

gboolean vmm_get_run_state(Vmm *vmm, VmmRunState *ret, GError **error)
{
    return vmm->ops->get_run_state(vmm, ret, error);
}

gboolean vmm_ask_run_state(Vmm *vmm, guint timeout_ms, VmmRunState *ret, GError **error)
{
    return vmm->ops->ask_run_state(vmm, timeout_ms, ret, error);
}

gboolean vmm_check_process(Vmm *vmm, GError **error)
{
    if (vmm->ops->is_same_process(vmm))
        return TRUE;
    error_set(error, VMFERRY_ERROR_NOT_FOUND, "process %d, the guest's VMM, has ended",
              (int)vmm_get_pid(vmm));
    return FALSE;
}

VmmIdentity *vmm_get_identity(Vmm *vmm)
{
    return vmm->ops->get_identity(vmm);
}

VmmDescription *vmm_describe(Vmm *vmm, GError **error)
{
    return vmm->ops->describe(vmm, error);
}

gboolean vmm_check_movable(Vmm *vmm, GError **error)
{
    return vmm->ops->check_movable(vmm, error);
}

VmmCheckpoint *vmm_open_checkpoint(Vmm *vmm, GError **error)
{
    if (vmm->ops->open_checkpoint)
        return vmm->ops->open_checkpoint(vmm, error);
    error_set(error, VMFERRY_ERROR_UNSUPPORTED, "a guest of %s is not checkpointed",
              vmm->ops->kind);
    return NULL;
}

gboolean vmm_check_turns(Vmm *vmm, GError **error)
{
    return vmm->ops->check_turns(vmm, error);
}

GBytes *vmm_look(Vmm *vmm, double *ret_paused_ms, GError **error)
{
    g_autoptr(VmmCheckpoint) checkpoint = NULL;
    GBytes *state;

    *ret_paused_ms = 0;
    if (!vmm_check_turns(vmm, error))
        return NULL;
    if (vmm->ops->look)
        return vmm->ops->look(vmm, ret_paused_ms, error);
    checkpoint = vmm_open_checkpoint(vmm, error);
    if (!checkpoint || !vmm_checkpoint_stop(checkpoint, error))
        return NULL;
    state = vmm_checkpoint_resume(checkpoint, error);
    *ret_paused_ms = clock_ns_to_ms(clock_now_ns() - vmm_checkpoint_get_stopped_ns(checkpoint));
    return state;
}

GArray *vmm_get_vcpu_threads(Vmm *vmm, GError **error)
{
    return vmm->ops->get_vcpu_threads(vmm, error);
}

ProcessIdentity *vmm_get_process(Vmm *vmm, GError **error)
{
    return vmm->ops->get_process(vmm, error);
}

json_t *vmm_read_machine(Vmm *vmm, char *const *original, char ***ret_line, GError **error)
{
    return vmm->ops->read_machine(vmm, original, ret_line, error);
}

gboolean vmm_check_unchanged(Vmm *vmm, json_t *before, GError **error)
{
    return vmm->ops->check_unchanged(vmm, before, error);
}

gboolean vmm_match_machine(Vmm *vmm, const char *type, json_t *machine, GError **error)
{
    return vmm->ops->match_machine(vmm, type, machine, error);
}

VmmStart vmm_get_start(Vmm *vmm)
{
    return vmm->ops->get_start(vmm);
}

gboolean vmm_pause(Vmm *vmm, gboolean *ret_was_running, GError **error)
{
    gboolean was_running;

    return vmm->ops->pause(vmm, ret_was_running ? ret_was_running : &was_running, error);
}

gboolean vmm_check_paused(Vmm *vmm, GError **error)
{
    return vmm->ops->check_paused(vmm, error);
}

gboolean vmm_resume(Vmm *vmm, GError **error)
{
    return vmm->ops->resume(vmm, error);
}

gboolean vmm_get_resume_action(Vmm *vmm, GuardAction *ret, GError **error)
{
    return vmm->ops->get_resume_action(vmm, ret, error);
}

gboolean vmm_get_pause_action(Vmm *vmm, GuardAction *ret, GError **error)
{
    return vmm->ops->get_pause_action(vmm, ret, error);
}

GBytes *vmm_save_device_state(Vmm *vmm, VmmSavePurpose purpose, GError **error)
{
    return vmm->ops->save_device_state(vmm, purpose, error);
}

gboolean vmm_open_incoming(Vmm *vmm, const char *machine, const GPtrArray *regions, GError **error)
{
    return vmm->ops->open_incoming(vmm, machine, regions, error);
}

gboolean vmm_load_device_state(Vmm *vmm, GBytes *state, GError **error)
{
    return vmm->ops->load_device_state(vmm, state, error);
}

char *vmm_describe_end(Vmm *vmm)
{
    return vmm->ops->describe_end(vmm);
}

gboolean vmm_was_shut_down(Vmm *vmm)
{
    return vmm->ops->was_shut_down(vmm);
}

gboolean vmm_stay_at_shutdown(Vmm *vmm, gboolean stays, GError **error)
{
    return vmm->ops->stay_at_shutdown(vmm, stays, error);
}

gboolean vmm_announce(Vmm *vmm, GError **error)
{
    return vmm->ops->announce(vmm, error);
}

gboolean vmm_give_up_resources(Vmm *vmm, GError **error)
{
    if (vmm->ops->give_up_resources)
        return vmm->ops->give_up_resources(vmm, error);
    error_set(error, VMFERRY_ERROR_UNSUPPORTED,
              "a VMM of kind \"%s\" does not leave its place to another", vmm->ops->kind);
    return FALSE;
}

gboolean vmm_quit_gently(Vmm *vmm, GError **error)
{
    return vmm->ops->quit_gently(vmm, error);
}

gboolean vmm_quit(Vmm *vmm, GError **error)
{
    return vmm->ops->quit(vmm, error);
}

char *vmm_get_stderr_tail(Vmm *vmm)
{
    return vmm->ops->get_stderr_tail(vmm);
}

/* FALSE where the driver has no such table. */
static gboolean has_table(Vmm *vmm, const void *table, const char *what, GError **error)
{
    if (table)
        return TRUE;
    error_set(error, VMFERRY_ERROR_UNSUPPORTED, "a VMM of kind \"%s\" offers no control of its %s",
              vmm->ops->kind, what);
    return FALSE;
}

/* ---- disks ---- */

static gboolean has_block(Vmm *vmm, GError **error)
{
    return has_table(vmm, vmm->block, "disks", error);
}

void vmm_image_free(VmmImage *image)
{
    if (!image)
        return;
    g_free(image->device);
    g_free(image->file);
    g_free(image->path);
    g_free(image);
}

GPtrArray *vmm_list_images(Vmm *vmm, json_t *source, GError **error)
{
    return has_block(vmm, error) ? vmm->block->list_images(vmm, source, error) : NULL;
}

gboolean vmm_check_writable(Vmm *vmm, const VmmImage *image, GError **error)
{
    return has_block(vmm, error) && vmm->block->check_writable(vmm, image, error);
}

gboolean vmm_take_images(Vmm *vmm, GError **error)
{
    return has_block(vmm, error) && vmm->block->take_images(vmm, error);
}

gboolean vmm_get_direct_io(Vmm *vmm, VmmDirectIo *ret, GError **error)
{
    return has_block(vmm, error) && vmm->block->get_direct_io(vmm, ret, error);
}

gboolean vmm_ask_disk_counters(Vmm *vmm, guint timeout_ms, VmmDiskCounters *ret, GError **error)
{
    return has_block(vmm, error) && vmm->block->ask_disk_counters(vmm, timeout_ms, ret, error);
}

gboolean vmm_drain(Vmm *vmm, GError **error)
{
    return has_block(vmm, error) && vmm->block->drain(vmm, error);
}

/* ---- copies of disks ---- */

void vmm_disk_file_free(VmmDiskFile *file)
{
    if (!file)
        return;
    g_free(file->file);
    g_free(file->path);
    g_free(file->format);
    json_decref(file->options);
    g_free(file);
}

void vmm_disk_free(VmmDisk *disk)
{
    if (!disk)
        return;
    g_free(disk->id);
    g_free(disk->device);
    g_free(disk->node);
    g_free(disk->obstacle);
    if (disk->files)
        g_ptr_array_unref(disk->files);
    g_free(disk);
}

GPtrArray *vmm_list_disks(Vmm *vmm, GError **error)
{
    return has_block(vmm, error) ? vmm->block->list_disks(vmm, error) : NULL;
}

gboolean vmm_start_copy(Vmm *vmm, const VmmCopy *copy, GError **error)
{
    return has_block(vmm, error) && vmm->block->start_copy(vmm, copy, error);
}

gboolean vmm_get_copy(Vmm *vmm, const char *name, VmmCopyState *ret, GError **error)
{
    return has_block(vmm, error) && vmm->block->get_copy(vmm, name, ret, error);
}

gboolean vmm_hold_copy(Vmm *vmm, const char *name, gboolean held, GError **error)
{
    return has_block(vmm, error) && vmm->block->hold_copy(vmm, name, held, error);
}

gboolean vmm_sync_copy(Vmm *vmm, const char *name, GError **error)
{
    return has_block(vmm, error) && vmm->block->sync_copy(vmm, name, error);
}

gboolean vmm_finish_copy(Vmm *vmm, const char *name, GError **error)
{
    return has_block(vmm, error) && vmm->block->finish_copy(vmm, name, error);
}

gboolean vmm_abort_copy(Vmm *vmm, const char *name, GError **error)
{
    return has_block(vmm, error) && vmm->block->abort_copy(vmm, name, error);
}

gboolean vmm_begin_bitmap(Vmm *vmm, const char *node, const char *name, GError **error)
{
    return has_block(vmm, error) && vmm->block->begin_bitmap(vmm, node, name, error);
}

gboolean vmm_remove_bitmap(Vmm *vmm, const char *node, const char *name, GError **error)
{
    return has_block(vmm, error) && vmm->block->remove_bitmap(vmm, node, name, error);
}

GPtrArray *vmm_list_bitmaps(Vmm *vmm, const char *node, GError **error)
{
    return has_block(vmm, error) ? vmm->block->list_bitmaps(vmm, node, error) : NULL;
}

gboolean vmm_start_exports(Vmm *vmm, int listener, GError **error)
{
    return has_block(vmm, error) && vmm->block->start_exports(vmm, listener, error);
}

char *vmm_export_changes(Vmm *vmm, const VmmChanges *changes, GError **error)
{
    return has_block(vmm, error) ? vmm->block->export_changes(vmm, changes, error) : NULL;
}

gboolean vmm_end_exports(Vmm *vmm, GError **error)
{
    return has_block(vmm, error) && vmm->block->end_exports(vmm, error);
}

gboolean vmm_start_tap(Vmm *vmm, const VmmTap *tap, GError **error)
{
    return has_block(vmm, error) && vmm->block->start_tap(vmm, tap, error);
}

gboolean vmm_get_tap(Vmm *vmm, const char *name, VmmTapState *ret, GError **error)
{
    return has_block(vmm, error) && vmm->block->get_tap(vmm, name, ret, error);
}

gboolean vmm_resync_tap(Vmm *vmm, const char *name, gboolean *ret_done, GError **error)
{
    return has_block(vmm, error) && vmm->block->resync_tap(vmm, name, ret_done, error);
}

gboolean vmm_stop_tap(Vmm *vmm, const char *name, GError **error)
{
    return has_block(vmm, error) && vmm->block->stop_tap(vmm, name, error);
}

gboolean vmm_check_overlay(Vmm *vmm, const VmmOverlay *overlay, GError **error)
{
    return has_block(vmm, error) && vmm->block->check_overlay(vmm, overlay, error);
}

gboolean vmm_begin_overlay(Vmm *vmm, const VmmOverlay *overlay, GError **error)
{
    return has_block(vmm, error) && vmm->block->begin_overlay(vmm, overlay, error);
}

gboolean vmm_commit_overlay(Vmm *vmm, const char *name, gboolean *ret_done, GError **error)
{
    return has_block(vmm, error) && vmm->block->commit_overlay(vmm, name, ret_done, error);
}

/* ---- the balloon ---- */

static gboolean has_balloon(Vmm *vmm, GError **error)
{
    return has_table(vmm, vmm->balloon, "balloon", error);
}

gboolean vmm_get_balloon(Vmm *vmm, uint64_t *ret_bytes, GError **error)
{
    return has_balloon(vmm, error) && vmm->balloon->get(vmm, ret_bytes, error);
}

gboolean vmm_set_balloon(Vmm *vmm, uint64_t bytes, GError **error)
{
    return has_balloon(vmm, error) && vmm->balloon->set(vmm, bytes, error);
}

gboolean vmm_get_set_balloon_action(Vmm *vmm, uint64_t bytes, GuardAction *ret, GError **error)
{
    return has_balloon(vmm, error) && vmm->balloon->get_set_action(vmm, bytes, ret, error);
}

gboolean vmm_watch_statistics(Vmm *vmm, guint seconds, guint *ret_before, GError **error)
{
    return has_balloon(vmm, error) &&
           vmm->balloon->watch_statistics(vmm, seconds, ret_before, error);
}

gboolean vmm_get_free_memory(Vmm *vmm, uint64_t *ret_free_bytes, uint64_t *ret_updated,
                             GError **error)
{
    return has_balloon(vmm, error) &&
           vmm->balloon->get_free_memory(vmm, ret_free_bytes, ret_updated, error);
}

/* ---- network cards ---- */

void vmm_nic_free(VmmNic *nic)
{
    if (!nic)
        return;
    g_free(nic->id);
    g_free(nic->device);
    g_free(nic->obstacle);
    g_free(nic);
}

static gboolean has_net(Vmm *vmm, GError **error)
{
    return has_table(vmm, vmm->net, "network cards", error);
}

GPtrArray *vmm_list_nics(Vmm *vmm, GError **error)
{
    return has_net(vmm, error) ? vmm->net->list_nics(vmm, error) : NULL;
}

gboolean vmm_begin_hold(Vmm *vmm, const VmmHold *hold, VmmHoldEnds *ret, GError **error)
{
    return has_net(vmm, error) && vmm->net->begin_hold(vmm, hold, ret, error);
}

gboolean vmm_end_hold(Vmm *vmm, const char *name, GError **error)
{
    return has_net(vmm, error) && vmm->net->end_hold(vmm, name, error);
}

int vmm_open_tap_interface(Vmm *vmm, const char *nic, GError **error)
{
    return has_net(vmm, error) ? vmm->net->open_tap_interface(vmm, nic, error) : -1;
}

json_t *vmm_plan_new_macs(Vmm *vmm, GError **error)
{
    return has_net(vmm, error) ? vmm->net->plan_new_macs(vmm, error) : NULL;
}

gboolean vmm_renew_macs(Vmm *vmm, json_t *plan, gboolean *ret_done, GError **error)
{
    return has_net(vmm, error) && vmm->net->renew_macs(vmm, plan, ret_done, error);
}

gboolean vmm_set_clock(Vmm *vmm, gboolean (*gives_up)(gpointer user), gpointer user, GError **error)
{
    return has_table(vmm, vmm->agent, "agents in guests", error) &&
           vmm->agent->set_clock(vmm, gives_up, user, error);
}

static gboolean check_neutral(Vmm *vmm, GError **error)
{
    if (vmm->neutral)
        return TRUE;
    error_set(error, VMFERRY_ERROR_UNSUPPORTED, "a guest of %s cannot go to another VMM",
              vmm->ops->kind);
    return FALSE;
}

MachineDescription *vmm_describe_neutral(Vmm *vmm, json_t *machine, GError **error)
{
    return check_neutral(vmm, error) ? vmm->neutral->describe(vmm, machine, error) : NULL;
}

GPtrArray *vmm_list_neutral_regions(Vmm *vmm, const VmmDescription *description, GError **error)
{
    return check_neutral(vmm, error) ? vmm->neutral->list_regions(vmm, description, error) : NULL;
}

GBytes *vmm_save_neutral(Vmm *vmm, VmmSavePurpose purpose, const MachineDescription *machine,
                         GError **error)
{
    return check_neutral(vmm, error) ? vmm->neutral->save(vmm, purpose, machine, error) : NULL;
}
