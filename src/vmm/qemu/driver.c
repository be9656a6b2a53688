/* The driver's object and its table of operations. */
#include "vmm/qemu/options.h"
#include "vmm/qemu/driver.h"
#include "vmm/qemu/give_up.h"

#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/json.h"
#include "base/process.h"
#include "state/state_qemu.h"
#include "vmm/qemu/command_line.h"
#include "vmm/qemu/agent_channel.h"
#include "vmm/qemu/neutral.h"
#include "vmm/qemu/new_macs.h"
#include "vmm/qemu/plan.h"
#include "vmm/qemu/stderr_tail.h"
#include "vmm/qemu/storage.h"

/* A dying QEMU closes its socket a little before it is gone. */
#define DYING_MS 2000

static QemuVmm *from_vmm(Vmm *vmm)
{
    return (QemuVmm *)vmm;
}

static VmmIdentity *get_identity(Vmm *vmm)
{
    QemuVmm *qemu = from_vmm(vmm);
    VmmIdentity *identity = g_new0(VmmIdentity, 1);

    identity->kind = g_strdup(QEMU_KIND);
    identity->pid = qemu->pid;
    identity->start_time = qemu->start_time;
    identity->control_path = g_strdup(qemu->qmp_path);
    identity->log_path = g_strdup(qemu->log_path);
    identity->command_line = g_strdupv(qemu->command_line);
    identity->working_directory = g_strdup(qemu->working_directory);
    identity->cgroups = g_strdupv(qemu->cgroups);
    return identity;
}

static char *get_stderr_tail(Vmm *vmm)
{
    QemuVmm *qemu = from_vmm(vmm);

    return qemu->log_path ? stderr_tail_read(qemu->log_path) : NULL;
}

void qemu_vmm_add_exit_reason(QemuVmm *qemu, GError **error)
{
    g_autofree char *tail = NULL;

    if (!error || !error_is(*error, VMFERRY_ERROR_DISCONNECTED) ||
        !process_wait_gone(qemu->pid, qemu->start_time, DYING_MS))
        return;
    tail = get_stderr_tail(&qemu->base);
    g_clear_error(error);
    error_set(error, VMFERRY_ERROR_DISCONNECTED, "QEMU has ended%s%s", tail ? ": " : "",
              tail ? tail : "");
}

static gboolean is_same_process(Vmm *vmm)
{
    return process_is_same(from_vmm(vmm)->pid, from_vmm(vmm)->start_time);
}

static pid_t get_pid(Vmm *vmm)
{
    return from_vmm(vmm)->pid;
}

static gboolean ask_run_state(Vmm *vmm, guint timeout_ms, VmmRunState *ret, GError **error)
{
    QemuVmm *qemu = from_vmm(vmm);
    g_autoptr(GMutexLocker) locker G_GNUC_UNUSED = g_mutex_locker_new(&qemu->lock);
    g_autoptr(GError) failure = NULL;
    g_autofree char *status = NULL;

    status = qemu_query_status(qemu->qmp, (int)timeout_ms, &failure);
    if (status) {
        *ret = qemu_run_state_from_status(status);
        return TRUE;
    }
    qemu_vmm_add_exit_reason(qemu, &failure);
    if (!process_is_same(qemu->pid, qemu->start_time)) {
        *ret = VMM_RUN_STATE_GONE;
        return TRUE;
    }
    g_propagate_error(error, g_steal_pointer(&failure));
    return FALSE;
}

static gboolean get_run_state(Vmm *vmm, VmmRunState *ret, GError **error)
{
    return ask_run_state(vmm, QMP_COMMAND_MS, ret, error);
}

/* Defines the table's entry around an operation: lock, do, explain. */
#define LOCKED_OPERATION(type, name, operation)                                                    \
    static type name(Vmm *vmm, GError **error)                                                     \
    {                                                                                              \
        QemuVmm *qemu = from_vmm(vmm);                                                             \
        g_autoptr(GMutexLocker) locker G_GNUC_UNUSED = g_mutex_locker_new(&qemu->lock);            \
        type result = operation(qemu, error);                                                      \
                                                                                                   \
        if (!result)                                                                               \
            qemu_vmm_add_exit_reason(qemu, error);                                                 \
        return result;                                                                             \
    }

LOCKED_OPERATION(VmmDescription *, describe, qemu_describe)
LOCKED_OPERATION(gboolean, check_movable, qemu_check_movable)
LOCKED_OPERATION(GArray *, get_vcpu_threads, qemu_get_vcpu_threads)
LOCKED_OPERATION(gboolean, check_turns, qemu_check_turns)
LOCKED_OPERATION(gboolean, check_paused, qemu_check_paused)
LOCKED_OPERATION(gboolean, take_images, qemu_take_images)
LOCKED_OPERATION(ProcessIdentity *, get_process, qemu_get_process)
LOCKED_OPERATION(gboolean, resume_vcpus, qemu_resume)
LOCKED_OPERATION(gboolean, announce, qemu_announce)
LOCKED_OPERATION(gboolean, give_up_resources, qemu_give_up_resources)
LOCKED_OPERATION(gboolean, quit_gently, qemu_quit_gently)
LOCKED_OPERATION(gboolean, quit, qemu_quit)
LOCKED_OPERATION(gboolean, drain, qemu_drain)
LOCKED_OPERATION(GPtrArray *, list_disks, qemu_list_disks)
LOCKED_OPERATION(GPtrArray *, list_nics, qemu_list_nics)
LOCKED_OPERATION(json_t *, plan_new_macs, qemu_plan_new_macs)

/* The same for an operation that has more arguments. */
static gboolean end_operation(QemuVmm *qemu, gboolean done, GError **error)
{
    if (!done)
        qemu_vmm_add_exit_reason(qemu, error);
    return done;
}

static gboolean renew_macs(Vmm *vmm, json_t *plan, gboolean *ret_done, GError **error)
{
    QemuVmm *qemu = from_vmm(vmm);
    g_autoptr(GMutexLocker) locker G_GNUC_UNUSED = g_mutex_locker_new(&qemu->lock);

    return end_operation(qemu, qemu_renew_macs(qemu, plan, ret_done, error), error);
}

static MachineDescription *describe_neutral(Vmm *vmm, json_t *machine, GError **error)
{
    QemuVmm *qemu = from_vmm(vmm);
    g_autoptr(GMutexLocker) locker G_GNUC_UNUSED = g_mutex_locker_new(&qemu->lock);
    MachineDescription *description = qemu_describe_neutral(qemu, machine, error);

    (void)end_operation(qemu, description != NULL, error);
    return description;
}

static gboolean set_clock(Vmm *vmm, gboolean (*gives_up)(gpointer user), gpointer user,
                          GError **error)
{
    QemuVmm *qemu = from_vmm(vmm);

    return end_operation(qemu, qemu_set_clock(qemu, gives_up, user, error), error);
}

static json_t *read_machine(Vmm *vmm, char *const *original, char ***ret_line, GError **error)
{
    QemuVmm *qemu = from_vmm(vmm);
    g_autoptr(GMutexLocker) locker G_GNUC_UNUSED = g_mutex_locker_new(&qemu->lock);
    json_t *machine = qemu_read_machine(qemu, original, ret_line, error);

    (void)end_operation(qemu, machine != NULL, error);
    return machine;
}

static gboolean check_unchanged(Vmm *vmm, json_t *before, GError **error)
{
    QemuVmm *qemu = from_vmm(vmm);
    g_autoptr(GMutexLocker) locker G_GNUC_UNUSED = g_mutex_locker_new(&qemu->lock);

    return end_operation(qemu, qemu_check_unchanged(qemu, before, error), error);
}

static gboolean match_machine(Vmm *vmm, const char *type, json_t *machine, GError **error)
{
    QemuVmm *qemu = from_vmm(vmm);
    g_autoptr(GMutexLocker) locker G_GNUC_UNUSED = g_mutex_locker_new(&qemu->lock);

    return end_operation(qemu, qemu_match_machine(qemu, type, machine, error), error);
}

static GPtrArray *list_images(Vmm *vmm, json_t *source, GError **error)
{
    QemuVmm *qemu = from_vmm(vmm);
    g_autoptr(GMutexLocker) locker G_GNUC_UNUSED = g_mutex_locker_new(&qemu->lock);
    GPtrArray *images = qemu_list_images(qemu, source, error);

    (void)end_operation(qemu, images != NULL, error);
    return images;
}

static gboolean check_writable(Vmm *vmm, const VmmImage *image, GError **error)
{
    QemuVmm *qemu = from_vmm(vmm);
    g_autoptr(GMutexLocker) locker G_GNUC_UNUSED = g_mutex_locker_new(&qemu->lock);

    return qemu_check_writable(qemu, image, error);
}

static VmmStart get_start(Vmm *vmm)
{
    QemuVmm *qemu = from_vmm(vmm);
    g_autoptr(GMutexLocker) locker G_GNUC_UNUSED = g_mutex_locker_new(&qemu->lock);

    return qemu_get_start(qemu);
}

static gboolean pause_vcpus(Vmm *vmm, gboolean *ret_was_running, GError **error)
{
    QemuVmm *qemu = from_vmm(vmm);
    g_autoptr(GMutexLocker) locker G_GNUC_UNUSED = g_mutex_locker_new(&qemu->lock);

    return end_operation(qemu, qemu_pause(qemu, ret_was_running, error), error);
}

static GBytes *save_device_state(Vmm *vmm, VmmSavePurpose purpose, GError **error)
{
    QemuVmm *qemu = from_vmm(vmm);
    g_autoptr(GMutexLocker) locker G_GNUC_UNUSED = g_mutex_locker_new(&qemu->lock);
    GBytes *state = qemu_save_device_state(qemu, purpose, error);

    (void)end_operation(qemu, state != NULL, error);
    return state;
}

static gboolean stay_at_shutdown(Vmm *vmm, gboolean stays, GError **error)
{
    QemuVmm *qemu = from_vmm(vmm);
    g_autoptr(GMutexLocker) locker G_GNUC_UNUSED = g_mutex_locker_new(&qemu->lock);

    return end_operation(qemu, qemu_stay_at_shutdown(qemu, stays, error), error);
}

static VmmCheckpoint *open_checkpoint(Vmm *vmm, GError **error)
{
    QemuVmm *qemu = from_vmm(vmm);
    g_autoptr(GMutexLocker) locker G_GNUC_UNUSED = g_mutex_locker_new(&qemu->lock);

    return qemu_open_checkpoint(qemu, error);
}

static gboolean get_resume_action(Vmm *vmm, GuardAction *ret, GError **error)
{
    return qemu_get_resume_action(from_vmm(vmm), ret, error);
}

static gboolean get_pause_action(Vmm *vmm, GuardAction *ret, GError **error)
{
    return qemu_get_pause_action(from_vmm(vmm), ret, error);
}

static gboolean get_set_balloon_action(Vmm *vmm, uint64_t bytes, GuardAction *ret, GError **error)
{
    return qemu_get_set_balloon_action(from_vmm(vmm), bytes, ret, error);
}

static gboolean open_incoming(Vmm *vmm, const char *machine, const GPtrArray *regions,
                              GError **error)
{
    QemuVmm *qemu = from_vmm(vmm);
    g_autoptr(GMutexLocker) locker G_GNUC_UNUSED = g_mutex_locker_new(&qemu->lock);
    gboolean opened = qemu->neutral ? qemu_neutral_open(qemu, regions, error)
                                    : qemu_open_incoming(qemu, machine, regions, error);

    return end_operation(qemu, opened, error);
}

static gboolean load_device_state(Vmm *vmm, GBytes *state, GError **error)
{
    QemuVmm *qemu = from_vmm(vmm);
    g_autoptr(GMutexLocker) locker G_GNUC_UNUSED = g_mutex_locker_new(&qemu->lock);
    gboolean loaded =
        (qemu->neutral ? qemu_neutral_load : qemu_load_device_state)(qemu, state, error);

    return end_operation(qemu, loaded, error);
}

static gboolean get_balloon(Vmm *vmm, uint64_t *ret_bytes, GError **error)
{
    QemuVmm *qemu = from_vmm(vmm);
    g_autoptr(GMutexLocker) locker G_GNUC_UNUSED = g_mutex_locker_new(&qemu->lock);

    return end_operation(qemu, qemu_get_balloon(qemu, ret_bytes, error), error);
}

static gboolean set_balloon(Vmm *vmm, uint64_t bytes, GError **error)
{
    QemuVmm *qemu = from_vmm(vmm);
    g_autoptr(GMutexLocker) locker G_GNUC_UNUSED = g_mutex_locker_new(&qemu->lock);

    return end_operation(qemu, qemu_set_balloon(qemu, bytes, error), error);
}

static gboolean watch_statistics(Vmm *vmm, guint seconds, guint *ret_before, GError **error)
{
    QemuVmm *qemu = from_vmm(vmm);
    g_autoptr(GMutexLocker) locker G_GNUC_UNUSED = g_mutex_locker_new(&qemu->lock);

    return end_operation(qemu, qemu_watch_statistics(qemu, seconds, ret_before, error), error);
}

static gboolean get_free_memory(Vmm *vmm, uint64_t *ret_free_bytes, uint64_t *ret_updated,
                                GError **error)
{
    QemuVmm *qemu = from_vmm(vmm);
    g_autoptr(GMutexLocker) locker G_GNUC_UNUSED = g_mutex_locker_new(&qemu->lock);

    return end_operation(qemu, qemu_get_free_memory(qemu, ret_free_bytes, ret_updated, error),
                         error);
}

static gboolean get_direct_io(Vmm *vmm, VmmDirectIo *ret, GError **error)
{
    QemuVmm *qemu = from_vmm(vmm);
    g_autoptr(GMutexLocker) locker G_GNUC_UNUSED = g_mutex_locker_new(&qemu->lock);

    return end_operation(qemu, qemu_get_direct_io(qemu, ret, error), error);
}

/* Without the lock: it changes nothing, and whoever moves the guest must not wait for it. */
static gboolean ask_disk_counters(Vmm *vmm, guint timeout_ms, VmmDiskCounters *ret, GError **error)
{
    return qemu_ask_disk_counters(from_vmm(vmm), timeout_ms, ret, error);
}

static gboolean start_copy(Vmm *vmm, const VmmCopy *copy, GError **error)
{
    QemuVmm *qemu = from_vmm(vmm);
    g_autoptr(GMutexLocker) locker G_GNUC_UNUSED = g_mutex_locker_new(&qemu->lock);

    return end_operation(qemu, qemu_start_copy(qemu, copy, error), error);
}

static gboolean get_copy(Vmm *vmm, const char *name, VmmCopyState *ret, GError **error)
{
    QemuVmm *qemu = from_vmm(vmm);
    g_autoptr(GMutexLocker) locker G_GNUC_UNUSED = g_mutex_locker_new(&qemu->lock);

    return end_operation(qemu, qemu_get_copy(qemu, name, ret, error), error);
}

/* Defines the table's entry around an operation on one copy. */
#define COPY_OPERATION(name, operation)                                                            \
    static gboolean name(Vmm *vmm, const char *copy, GError **error)                               \
    {                                                                                              \
        QemuVmm *qemu = from_vmm(vmm);                                                             \
        g_autoptr(GMutexLocker) locker G_GNUC_UNUSED = g_mutex_locker_new(&qemu->lock);            \
                                                                                                   \
        return end_operation(qemu, operation(qemu, copy, error), error);                           \
    }

COPY_OPERATION(sync_copy, qemu_sync_copy)
COPY_OPERATION(finish_copy, qemu_finish_copy)
COPY_OPERATION(abort_locked, qemu_abort_copy)

static gboolean abort_copy(Vmm *vmm, const char *copy, GError **error)
{
    g_autoptr(GError) failure = NULL;

    if (g_str_has_prefix(copy, QEMU_COPY_PREFIX))
        qemu_yank_copy(from_vmm(vmm), copy);
    if (abort_locked(vmm, copy, &failure) || !is_same_process(vmm))
        return TRUE;
    g_propagate_error(error, g_steal_pointer(&failure));
    return FALSE;
}

/* Defines the table's entry around an operation on one bitmap. */
#define BITMAP_OPERATION(name, operation)                                                          \
    static gboolean name(Vmm *vmm, const char *node, const char *bitmap, GError **error)           \
    {                                                                                              \
        QemuVmm *qemu = from_vmm(vmm);                                                             \
        g_autoptr(GMutexLocker) locker G_GNUC_UNUSED = g_mutex_locker_new(&qemu->lock);            \
                                                                                                   \
        return end_operation(qemu, operation(qemu, node, bitmap, error), error);                   \
    }

BITMAP_OPERATION(begin_bitmap, qemu_begin_bitmap)
BITMAP_OPERATION(remove_bitmap, qemu_remove_bitmap)

static GPtrArray *list_bitmaps(Vmm *vmm, const char *node, GError **error)
{
    QemuVmm *qemu = from_vmm(vmm);
    g_autoptr(GMutexLocker) locker G_GNUC_UNUSED = g_mutex_locker_new(&qemu->lock);
    GPtrArray *names = qemu_list_bitmaps(qemu, node, error);

    end_operation(qemu, names != NULL, error);
    return names;
}

static gboolean start_exports(Vmm *vmm, int listener, GError **error)
{
    QemuVmm *qemu = from_vmm(vmm);
    g_autoptr(GMutexLocker) locker G_GNUC_UNUSED = g_mutex_locker_new(&qemu->lock);

    return end_operation(qemu, qemu_start_exports(qemu, listener, error), error);
}

static char *export_changes(Vmm *vmm, const VmmChanges *changes, GError **error)
{
    QemuVmm *qemu = from_vmm(vmm);
    g_autoptr(GMutexLocker) locker G_GNUC_UNUSED = g_mutex_locker_new(&qemu->lock);
    char *context = qemu_export_changes(qemu, changes, error);

    end_operation(qemu, context != NULL, error);
    return context;
}

static gboolean end_exports(Vmm *vmm, GError **error)
{
    QemuVmm *qemu = from_vmm(vmm);
    g_autoptr(GMutexLocker) locker G_GNUC_UNUSED = g_mutex_locker_new(&qemu->lock);

    return end_operation(qemu, qemu_end_exports(qemu, error), error);
}

COPY_OPERATION(stop_tap_locked, qemu_stop_tap)

static gboolean stop_tap(Vmm *vmm, const char *name, GError **error)
{
    g_autoptr(GError) failure = NULL;

    if (stop_tap_locked(vmm, name, &failure) || !is_same_process(vmm))
        return TRUE;
    g_propagate_error(error, g_steal_pointer(&failure));
    return FALSE;
}

static gboolean hold_copy(Vmm *vmm, const char *name, gboolean held, GError **error)
{
    QemuVmm *qemu = from_vmm(vmm);
    g_autoptr(GMutexLocker) locker G_GNUC_UNUSED = g_mutex_locker_new(&qemu->lock);

    return end_operation(qemu, qemu_hold_copy(qemu, name, held, error), error);
}

static gboolean start_tap(Vmm *vmm, const VmmTap *tap, GError **error)
{
    QemuVmm *qemu = from_vmm(vmm);
    g_autoptr(GMutexLocker) locker G_GNUC_UNUSED = g_mutex_locker_new(&qemu->lock);

    return end_operation(qemu, qemu_start_tap(qemu, tap, error), error);
}

static gboolean get_tap(Vmm *vmm, const char *name, VmmTapState *ret, GError **error)
{
    QemuVmm *qemu = from_vmm(vmm);
    g_autoptr(GMutexLocker) locker G_GNUC_UNUSED = g_mutex_locker_new(&qemu->lock);

    return end_operation(qemu, qemu_get_tap(qemu, name, ret, error), error);
}

static gboolean resync_tap(Vmm *vmm, const char *name, gboolean *ret_done, GError **error)
{
    QemuVmm *qemu = from_vmm(vmm);
    g_autoptr(GMutexLocker) locker G_GNUC_UNUSED = g_mutex_locker_new(&qemu->lock);

    return end_operation(qemu, qemu_resync_tap(qemu, name, ret_done, error), error);
}

static gboolean check_overlay(Vmm *vmm, const VmmOverlay *overlay, GError **error)
{
    QemuVmm *qemu = from_vmm(vmm);
    g_autoptr(GMutexLocker) locker G_GNUC_UNUSED = g_mutex_locker_new(&qemu->lock);

    return end_operation(qemu, qemu_check_overlay(qemu, overlay, error), error);
}

static gboolean begin_overlay(Vmm *vmm, const VmmOverlay *overlay, GError **error)
{
    QemuVmm *qemu = from_vmm(vmm);
    g_autoptr(GMutexLocker) locker G_GNUC_UNUSED = g_mutex_locker_new(&qemu->lock);

    return end_operation(qemu, qemu_begin_overlay(qemu, overlay, error), error);
}

static gboolean commit_overlay(Vmm *vmm, const char *name, gboolean *ret_done, GError **error)
{
    QemuVmm *qemu = from_vmm(vmm);
    g_autoptr(GMutexLocker) locker G_GNUC_UNUSED = g_mutex_locker_new(&qemu->lock);

    return end_operation(qemu, qemu_commit_overlay(qemu, name, ret_done, error), error);
}

static gboolean begin_hold(Vmm *vmm, const VmmHold *hold, VmmHoldEnds *ret, GError **error)
{
    QemuVmm *qemu = from_vmm(vmm);
    g_autoptr(GMutexLocker) locker G_GNUC_UNUSED = g_mutex_locker_new(&qemu->lock);

    return end_operation(qemu, qemu_begin_hold(qemu, hold, ret, error), error);
}

static gboolean end_hold(Vmm *vmm, const char *name, GError **error)
{
    QemuVmm *qemu = from_vmm(vmm);
    g_autoptr(GMutexLocker) locker G_GNUC_UNUSED = g_mutex_locker_new(&qemu->lock);
    g_autoptr(GError) failure = NULL;

    if (qemu_end_hold(qemu, name, &failure) || !is_same_process(vmm))
        return TRUE;
    g_propagate_error(error, g_steal_pointer(&failure));
    return FALSE;
}

static int open_tap_interface(Vmm *vmm, const char *nic, GError **error)
{
    QemuVmm *qemu = from_vmm(vmm);
    g_autoptr(GMutexLocker) locker G_GNUC_UNUSED = g_mutex_locker_new(&qemu->lock);
    int fd = qemu_open_tap_interface(qemu, nic, error);

    (void)end_operation(qemu, fd >= 0, error);
    return fd;
}

static void note_shutdown(QemuVmm *qemu, const char *event, json_t *data)
{
    const char *reason = strcmp(event, "SHUTDOWN") == 0 ? json_text_or(data, "reason", "shutdown")
                         : strcmp(event, "GUEST_PANICKED") == 0 ? "guest-panic"
                                                                : NULL;

    if (!reason)
        return;
    g_mutex_lock(&qemu->event_lock);
    if (!qemu->shutdown_reason)
        qemu->shutdown_reason = g_strdup(reason);
    qemu->shut_down |= strcmp(event, "SHUTDOWN") == 0;
    g_mutex_unlock(&qemu->event_lock);
}

/* ShutdownCause in QEMU's QAPI schema. */
static const struct {
    const char *reason, *text;
} ends[] = {
    {"guest-shutdown", "the guest powered off"},
    {"guest-reset", "the guest reset, and QEMU runs with -no-reboot"},
    {"guest-panic", "the guest panicked"},
    {"host-qmp-quit", "another program told QEMU to quit"},
    {"host-signal", "a signal ended QEMU"},
    {"host-ui", "QEMU's window was closed"},
    {"host-error", "an error ended QEMU"},
};

static char *describe_end(Vmm *vmm)
{
    QemuVmm *qemu = from_vmm(vmm);
    g_autofree char *reason = NULL, *tail = NULL;

    g_mutex_lock(&qemu->event_lock);
    reason = g_strdup(qemu->shutdown_reason);
    g_mutex_unlock(&qemu->event_lock);
    for (guint i = 0; reason && i < G_N_ELEMENTS(ends); i++)
        if (strcmp(ends[i].reason, reason) == 0)
            return g_strdup(ends[i].text);
    tail = get_stderr_tail(vmm);
    if (tail)
        return g_strdup_printf("its QEMU has ended: %s", tail);
    return g_strdup("its QEMU process was ended, and did not say why");
}

static gboolean was_shut_down(Vmm *vmm)
{
    QemuVmm *qemu = from_vmm(vmm);
    gboolean told;

    g_mutex_lock(&qemu->event_lock);
    told = qemu->shut_down && strcmp(qemu->shutdown_reason, "host-error") != 0;
    g_mutex_unlock(&qemu->event_lock);
    return told;
}

static void note_job(QemuVmm *qemu)
{
    g_mutex_lock(&qemu->event_lock);
    g_atomic_int_inc(&qemu->job_changes);
    g_cond_broadcast(&qemu->event_came);
    g_mutex_unlock(&qemu->event_lock);
}

static void note_stop(QemuVmm *qemu)
{
    __atomic_store_n(&qemu->stopped_ns, clock_now_ns(), __ATOMIC_RELEASE);
    g_mutex_lock(&qemu->event_lock);
    g_atomic_int_inc(&qemu->stops);
    g_cond_broadcast(&qemu->event_came);
    g_mutex_unlock(&qemu->event_lock);
}

static void note_migration(QemuVmm *qemu, const char *status)
{
    g_mutex_lock(&qemu->event_lock);
    if (strcmp(status, "completed") == 0)
        qemu->arrival = QEMU_ARRIVAL_COMPLETED;
    else if (strcmp(status, "failed") == 0)
        qemu->arrival = QEMU_ARRIVAL_FAILED;
    g_cond_broadcast(&qemu->event_came);
    g_mutex_unlock(&qemu->event_lock);
}

/* QEMU takes the images back at each resume, also at another program's. */
static void on_event(const char *event, json_t *data, gpointer user)
{
    QemuVmm *qemu = user;

    if (strcmp(event, "RESUME") == 0) {
        g_atomic_int_set(&qemu->images_released, FALSE);
        g_atomic_int_inc(&qemu->resumes);
    } else if (strcmp(event, QMP_EVENTS_LOST) == 0) {
        g_atomic_int_inc(&qemu->resumes); /* perhaps */
    } else if (strcmp(event, "STOP") == 0) {
        note_stop(qemu);
    } else if (strcmp(event, "SUSPEND") == 0) {
        g_atomic_int_set(&qemu->asleep, TRUE);
    } else if (strcmp(event, "WAKEUP") == 0 || strcmp(event, "RESET") == 0) {
        g_atomic_int_set(&qemu->asleep, FALSE);
    } else if (strcmp(event, "MIGRATION") == 0) {
        note_migration(qemu, json_text_or(data, "status", ""));
    } else if (strcmp(event, "JOB_STATUS_CHANGE") == 0) {
        note_job(qemu);
    }
    note_shutdown(qemu, event, data);
}

static void rule_free(gpointer data)
{
    VmmMapRule *rule = data;

    g_free(rule->from);
    g_free(rule->to);
    g_free(rule);
}

void qemu_vmm_set_rules(Vmm *vmm, const GPtrArray *rules)
{
    QemuVmm *qemu = from_vmm(vmm);

    g_clear_pointer(&qemu->rules, g_ptr_array_unref);
    qemu->rules = g_ptr_array_new_with_free_func(rule_free);
    for (guint i = 0; rules && i < rules->len; i++) {
        const VmmMapRule *rule = rules->pdata[i];
        VmmMapRule *copy = g_new(VmmMapRule, 1);

        *copy = (VmmMapRule){g_strdup(rule->from), g_strdup(rule->to)};
        g_ptr_array_add(qemu->rules, copy);
    }
}

void qemu_vmm_free(Vmm *vmm)
{
    QemuVmm *qemu = from_vmm(vmm);

    qmp_free(qemu->qmp);
    fd_close(&qemu->incoming_fd);
    g_free(qemu->qmp_path);
    g_free(qemu->log_path);
    g_strfreev(qemu->command_line);
    g_free(qemu->working_directory);
    g_strfreev(qemu->cgroups);
    qemu_neutral_free(qemu->neutral);
    g_free(qemu->machine);
    g_free(qemu->shutdown_reason);
    g_clear_pointer(&qemu->rules, g_ptr_array_unref);
    g_clear_pointer(&qemu->ram_blocks, g_ptr_array_unref);
    g_clear_pointer(&qemu->copies, g_ptr_array_unref);
    g_mutex_clear(&qemu->lock);
    g_mutex_clear(&qemu->event_lock);
    g_cond_clear(&qemu->event_came);
    g_free(qemu);
}

static const VmmOps qemu_ops = {
    .kind = QEMU_KIND,
    .free = qemu_vmm_free,
    .get_pid = get_pid,
    .is_same_process = is_same_process,
    .get_identity = get_identity,
    .get_run_state = get_run_state,
    .ask_run_state = ask_run_state,
    .describe = describe,
    .check_movable = check_movable,
    .get_vcpu_threads = get_vcpu_threads,
    .check_turns = check_turns,
    .read_machine = read_machine,
    .check_unchanged = check_unchanged,
    .match_machine = match_machine,
    .get_process = get_process,
    .pause = pause_vcpus,
    .check_paused = check_paused,
    .resume = resume_vcpus,
    .get_resume_action = get_resume_action,
    .get_pause_action = get_pause_action,
    .get_start = get_start,
    .save_device_state = save_device_state,
    .open_checkpoint = open_checkpoint,
    .open_incoming = open_incoming,
    .load_device_state = load_device_state,
    .describe_end = describe_end,
    .was_shut_down = was_shut_down,
    .stay_at_shutdown = stay_at_shutdown,
    .announce = announce,
    .give_up_resources = give_up_resources,
    .quit_gently = quit_gently,
    .quit = quit,
    .get_stderr_tail = get_stderr_tail,
};

static const VmmBlockOps qemu_block_ops = {
    .list_images = list_images,
    .check_writable = check_writable,
    .take_images = take_images,
    .get_direct_io = get_direct_io,
    .ask_disk_counters = ask_disk_counters,
    .drain = drain,
    .list_disks = list_disks,
    .start_copy = start_copy,
    .get_copy = get_copy,
    .sync_copy = sync_copy,
    .hold_copy = hold_copy,
    .finish_copy = finish_copy,
    .abort_copy = abort_copy,
    .begin_bitmap = begin_bitmap,
    .remove_bitmap = remove_bitmap,
    .list_bitmaps = list_bitmaps,
    .start_exports = start_exports,
    .export_changes = export_changes,
    .end_exports = end_exports,
    .start_tap = start_tap,
    .get_tap = get_tap,
    .resync_tap = resync_tap,
    .stop_tap = stop_tap,
    .check_overlay = check_overlay,
    .begin_overlay = begin_overlay,
    .commit_overlay = commit_overlay,
};

static const VmmBalloonOps qemu_balloon_ops = {
    .get = get_balloon,
    .set = set_balloon,
    .get_set_action = get_set_balloon_action,
    .watch_statistics = watch_statistics,
    .get_free_memory = get_free_memory,
};

static const VmmNetOps qemu_net_ops = {
    .list_nics = list_nics,
    .begin_hold = begin_hold,
    .end_hold = end_hold,
    .open_tap_interface = open_tap_interface,
    .plan_new_macs = plan_new_macs,
    .renew_macs = renew_macs,
};

static const VmmNeutralOps qemu_neutral_ops = {
    .describe = describe_neutral,
    .list_regions = qemu_neutral_list_regions,
    .save = qemu_neutral_save,
};

static const VmmAgentOps qemu_agent_ops = {
    .set_clock = set_clock,
};

Vmm *qemu_vmm_new(pid_t pid, uint64_t start_time, const char *qmp_path, const char *log_path,
                  char *const *command_line, Qmp *qmp)
{
    QemuVmm *qemu = g_new0(QemuVmm, 1);

    qemu->base.ops = &qemu_ops;
    qemu->base.block = &qemu_block_ops;
    qemu->base.balloon = &qemu_balloon_ops;
    qemu->base.net = &qemu_net_ops;
    qemu->base.agent = &qemu_agent_ops;
    qemu->base.neutral = &qemu_neutral_ops;
    g_mutex_init(&qemu->lock);
    g_mutex_init(&qemu->event_lock);
    g_cond_init(&qemu->event_came);
    qemu->copies = g_ptr_array_new_with_free_func((GDestroyNotify)qemu_copy_free);
    qemu->incoming_fd = -1;
    qemu->pid = pid;
    qemu->start_time = start_time;
    qemu->qmp_path = g_strdup(qmp_path);
    qemu->log_path = g_strdup(log_path);
    qemu->command_line = g_strdupv((char **)command_line);
    qemu->qmp = qmp;
    qemu->gave_up = qemu_has_given_up(pid);
    qmp_set_event_func(qmp, on_event, qemu);
    return &qemu->base;
}

const VmmDriver qemu_driver = {
    .kind = QEMU_KIND,
    .programs = QEMU_PROGRAMS,
    .is_program = qemu_is_program,
    .launch = qemu_launch,
    .adopt = qemu_adopt,
    .reattach = qemu_reattach,
    .open_storage = qemu_storage_open,
    .renew_generation = qemu_renew_generation,
    .check_agent = qemu_check_agent,
    .check_new_macs = qemu_check_new_macs,
    .read_state = state_from_qemu,
    .plan = qemu_plan,
    .describe_saved = qemu_describe_saved,
    .find_neutral_region = qemu_find_neutral_region,
};
