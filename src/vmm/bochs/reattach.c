/* A Bochs of an agent that was there before. */
#include <signal.h>

#include "base/error.h"
#include "base/log.h"
#include "base/process.h"
#include "vmm/bochs/record.h"
#include "vmm/vmm_driver.h"

#define KILL_MS 5000

/* Its guest never ran, and cannot be made ready by anybody else. */
static void end_unready(const VmmIdentity *identity, GError **error)
{
    (void)process_kill(identity->pid, identity->start_time, SIGKILL, NULL);
    (void)process_wait_gone(identity->pid, identity->start_time, KILL_MS);
    g_prefix_error(error, "Bochs (pid %d) was ended, since it was not ready when its agent died: ",
                   (int)identity->pid);
}

static gboolean was_never_ready(const char *folder, const GError *failure)
{
    gboolean has_run;

    return error_is(failure, VMFERRY_ERROR_NOT_FOUND) &&
           bochs_record_read_run(folder, &has_run, NULL) && !has_run;
}

static BochsVmm *read_record(const VmmIdentity *identity, const char *folder, char **ret_version,
                             GError **error)
{
    g_autoptr(GError) failure = NULL;
    BochsVmm *bochs = bochs_record_read(folder, ret_version, &failure);

    if (bochs)
        return bochs;
    if (was_never_ready(folder, failure))
        end_unready(identity, &failure);
    g_propagate_error(error, g_steal_pointer(&failure));
    return NULL;
}

/* One that runs has the locks on its images; else another may write to them, and it must not. */
static gboolean keep_images(BochsVmm *bochs, GError **error)
{
    g_autoptr(GError) problem = NULL;

    if (!bochs_console_runs_machine(bochs->process->console) || bochs_take_images(bochs, &problem))
        return TRUE;
    log_warning("Bochs (pid %d) ran without locks on its images, and is paused: %s",
                (int)bochs->process->pid, problem->message);
    return vmm_pause(&bochs->base, NULL, error);
}

/* It stands since an agent died that was looking at it, and has its locks. */
static gboolean end_look(BochsVmm *bochs, GError **error)
{
    BochsProcess *process = bochs->process;
    g_autoptr(GError) problem = NULL;

    if (!process->looked_at)
        return TRUE;
    if (bochs_take_images(bochs, &problem))
        return bochs_process_end_look(process, error);
    log_warning("Bochs (pid %d), which was looked at, stays paused: %s", (int)process->pid,
                problem->message);
    return bochs_process_interrupt(process, error);
}

Vmm *bochs_reattach(const VmmIdentity *identity, GError **error)
{
    g_autofree char *folder =
        identity->control_path ? g_path_get_dirname(identity->control_path) : NULL;
    g_autoptr(Vmm) vmm = NULL;
    BochsVmm *bochs;
    char *version;

    if (!folder || !process_is_same(identity->pid, identity->start_time)) {
        error_set(error, VMFERRY_ERROR_NOT_FOUND, "Bochs (pid %d) has ended", (int)identity->pid);
        return NULL;
    }
    bochs = read_record(identity, folder, &version, error);
    if (!bochs)
        return NULL;
    vmm = &bochs->base;
    bochs->process =
        bochs_process_attach(identity->pid, identity->start_time, folder, version, error);
    return bochs->process && end_look(bochs, error) && keep_images(bochs, error)
               ? g_steal_pointer(&vmm)
               : NULL;
}
