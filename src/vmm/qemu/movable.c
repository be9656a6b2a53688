/* May this machine be moved at all? */
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/json.h"
#include "base/process.h"
#include "vmm/qemu/command_line.h"
#include "vmm/qemu/driver.h"

/* Migration states in which QEMU is not at work on one. */
static gboolean migration_idle(const char *status)
{
    static const char *const idle[] = {"none", "completed", "failed", "cancelled", NULL};

    return g_strv_contains(idle, status);
}

static char *join_reasons(json_t *reasons)
{
    GString *text = g_string_new(NULL);
    json_t *reason;
    size_t index;

    json_array_foreach(reasons, index, reason) if (json_is_string(reason))
        g_string_append_printf(text, "%s%s", text->len ? "; " : "", json_string_value(reason));
    return g_string_free(text, FALSE);
}

static gboolean check_idle(json_t *reply, GError **error)
{
    const char *status = json_text_or(reply, "status", "none");

    if (migration_idle(status))
        return TRUE;
    error_set(error, VMFERRY_ERROR_BUSY,
              "QEMU's own migration of this guest is under way (%s): another program began it",
              status);
    return FALSE;
}

gboolean qemu_check_no_migration(Qmp *qmp, GError **error)
{
    g_autoptr(json_t) reply = qmp_execute(qmp, "query-migrate", NULL, QMP_COMMAND_MS, error);

    return reply && check_idle(reply, error);
}

static gboolean check_migration(Qmp *qmp, GError **error)
{
    g_autoptr(json_t) reply = qmp_execute(qmp, "query-migrate", NULL, QMP_COMMAND_MS, error);
    g_autofree char *reasons = NULL;
    json_t *blocked;

    if (!reply || !check_idle(reply, error))
        return FALSE;
    blocked = json_object_get(reply, "blocked-reasons");
    if (json_array_size(blocked) == 0)
        return TRUE;
    reasons = join_reasons(blocked);
    error_set(error, VMFERRY_ERROR_UNSUPPORTED, "QEMU says that this guest cannot move: %s",
              reasons);
    return FALSE;
}

static gboolean check_state(Qmp *qmp, GError **error)
{
    g_autofree char *status = qemu_query_status(qmp, QMP_COMMAND_MS, error);
    VmmRunState state;

    if (!status)
        return FALSE;
    if (strcmp(status, "postmigrate") == 0) {
        error_set(error, VMFERRY_ERROR_REFUSED,
                  "QEMU's own migration has left this guest stopped: resume or end it first");
        return FALSE;
    }
    state = qemu_run_state_from_status(status);
    if (state == VMM_RUN_STATE_RUNNING || state == VMM_RUN_STATE_PAUSED)
        return TRUE;
    error_set(error, VMFERRY_ERROR_REFUSED,
              "the guest neither runs nor is it paused: QEMU's state is \"%s\"", status);
    return FALSE;
}

/* See qemu_save_device_state(): better refused now than with the guest moved. */
static gboolean check_images(QemuVmm *qemu, GError **error)
{
    if (!g_atomic_int_get(&qemu->images_released))
        return TRUE;
    error_set(error, VMFERRY_ERROR_REFUSED,
              "the paused guest does not hold its disk images (as after a move that left it "
              "paused): resume it first");
    return FALSE;
}

static gboolean check_live_writers(Qmp *qmp, GError **error)
{
    g_autofree char *devices = qmp_execute_human(qmp, "info qtree", QMP_COMMAND_MS, error);
    g_autofree char *networks = NULL;
    g_autoptr(json_t) nodes = NULL;
    g_autofree char *found = NULL;

    if (!devices)
        return FALSE;
    networks = qmp_execute_human(qmp, "info network", QMP_COMMAND_MS, error);
    if (!networks)
        return FALSE;
    found = qemu_find_dma_writer(devices, networks);
    if (!found) {
        nodes = qmp_execute(qmp, "query-named-block-nodes", json_pack("{s:b}", "flat", 1),
                            QMP_COMMAND_MS, error);
        if (!nodes)
            return FALSE;
        found = qemu_find_dma_block_writer(nodes);
    }
    if (!found)
        return TRUE;
    error_set(error, VMFERRY_ERROR_UNSUPPORTED,
              "the guest has a %s: it writes into guest memory from outside of QEMU, which cannot "
              "be followed; use a device that QEMU itself serves",
              found);
    return FALSE;
}

gboolean qemu_check_movable(QemuVmm *qemu, GError **error)
{
    g_auto(GStrv) argv = process_get_command_line(qemu->pid, error);

    /* First what does not need a sane QEMU, then what it says itself. */
    return argv && qemu_command_line_check_writers(argv, error) &&
           qemu_command_line_check_snapshots(argv, error) && qemu_check_root(qemu, argv, error) &&
           check_state(qemu->qmp, error) && qemu_check_awake(qemu, error) &&
           check_images(qemu, error) && check_live_writers(qemu->qmp, error) &&
           qemu_check_pinning_drivers(qemu->qmp, error) && check_migration(qemu->qmp, error);
}
