/* Pausing, resuming, ending; what QEMU's run states mean. */
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/json.h"
#include "base/process.h"
#include "vmm/libvirt/address.h"
#include "vmm/libvirt/resume.h"
#include "vmm/qemu/driver.h"

#define QUIT_MS 3000
#define TERM_MS 3000
#define KILL_MS 10000
#define RESUME_ATTEMPTS 200 /* of a guard */
#define STOP_EVENT_MS 5000

static const struct {
    const char *status;
    VmmRunState state;
} run_states[] = {
    {"running", VMM_RUN_STATE_RUNNING},
    {"debug", VMM_RUN_STATE_PAUSED},
    {"paused", VMM_RUN_STATE_PAUSED},
    {"prelaunch", VMM_RUN_STATE_PAUSED},
    {"preconfig", VMM_RUN_STATE_PAUSED},
    {"postmigrate", VMM_RUN_STATE_PAUSED},
    {"finish-migrate", VMM_RUN_STATE_PAUSED},
    {"restore-vm", VMM_RUN_STATE_PAUSED},
    {"save-vm", VMM_RUN_STATE_PAUSED},
    /* A guest in ACPI S3 sleep: no vCPU runs until it is woken. */
    {"suspended", VMM_RUN_STATE_PAUSED},
    {"colo", VMM_RUN_STATE_PAUSED},
    {"inmigrate", VMM_RUN_STATE_INCOMING},
    {"shutdown", VMM_RUN_STATE_ENDED},
    {"guest-panicked", VMM_RUN_STATE_ENDED},
    {"io-error", VMM_RUN_STATE_FAILED},
    {"internal-error", VMM_RUN_STATE_FAILED},
    {"watchdog", VMM_RUN_STATE_FAILED},
};

VmmRunState qemu_run_state_from_status(const char *status)
{
    for (guint i = 0; i < G_N_ELEMENTS(run_states); i++)
        if (strcmp(status, run_states[i].status) == 0)
            return run_states[i].state;
    /* Better to refuse what we do not know than to resume it. */
    return VMM_RUN_STATE_FAILED;
}

char *qemu_query_status(Qmp *qmp, int timeout_ms, GError **error)
{
    g_autoptr(json_t) reply = qmp_execute(qmp, "query-status", NULL, timeout_ms, error);
    const char *status;

    if (!reply || !json_get_text(reply, "status", &status, error))
        return NULL;
    return g_strdup(status);
}

gboolean qemu_check_awake(QemuVmm *qemu, GError **error)
{
    g_autofree char *status = qemu_query_status(qemu->qmp, QMP_COMMAND_MS, error);

    if (!status)
        return FALSE;
    if (strcmp(status, "suspended") != 0 &&
        (!g_atomic_int_get(&qemu->asleep) || strcmp(status, "running") == 0))
        return TRUE;
    error_set(error, VMFERRY_ERROR_REFUSED,
              "the guest is suspended to RAM (ACPI S3), which cannot be moved: wake it up first "
              "(QMP system_wakeup)");
    return FALSE;
}

static gboolean is_state(const char *status, VmmRunState wanted, GError **error)
{
    if (qemu_run_state_from_status(status) == wanted)
        return TRUE;
    error_set(error, VMFERRY_ERROR_FAILED, "the guest is in QEMU's state \"%s\" instead of %s",
              status, vmm_run_state_name(wanted));
    return FALSE;
}

static gboolean expect_state(QemuVmm *qemu, VmmRunState wanted, GError **error)
{
    g_autofree char *status = qemu_query_status(qemu->qmp, QMP_COMMAND_MS, error);

    return status && is_state(status, wanted, error);
}

/* One that fell asleep before its pause sleeps on. */
static gboolean expect_resumed(QemuVmm *qemu, GError **error)
{
    g_autofree char *status = qemu_query_status(qemu->qmp, QMP_COMMAND_MS, error);

    return status &&
           (strcmp(status, "suspended") == 0 || is_state(status, VMM_RUN_STATE_RUNNING, error));
}

/* With the events behind it: of what came before none is to be taken for news. */
static gboolean await_stop(QemuVmm *qemu, gint stops, GError **error)
{
    gint64 end = g_get_monotonic_time() + STOP_EVENT_MS * G_TIME_SPAN_MILLISECOND;
    gboolean came;

    g_mutex_lock(&qemu->event_lock);
    while (g_atomic_int_get(&qemu->stops) == stops &&
           g_cond_wait_until(&qemu->event_came, &qemu->event_lock, end))
        ;
    came = g_atomic_int_get(&qemu->stops) != stops;
    g_mutex_unlock(&qemu->event_lock);
    if (!came)
        error_set(error, VMFERRY_ERROR_TIMEOUT,
                  "no event came that says that the guest has stopped");
    return came;
}

/* Where events come late, the state tells whether it ran. */
static gboolean pause_by_state(QemuVmm *qemu, gboolean *ret_was_running, GError **error)
{
    g_autofree char *status = qemu_query_status(qemu->qmp, QMP_COMMAND_MS, error);
    gint stops = g_atomic_int_get(&qemu->stops);

    if (!status || !qmp_run(qemu->qmp, "stop", NULL, QEMU_STOP_MS, error))
        return FALSE;
    *ret_was_running = qemu_run_state_from_status(status) == VMM_RUN_STATE_RUNNING;
    if (*ret_was_running && !await_stop(qemu, stops, error))
        return FALSE;
    qemu->resumes_at_pause = g_atomic_int_get(&qemu->resumes);
    return expect_state(qemu, VMM_RUN_STATE_PAUSED, error);
}

gboolean qemu_pause(QemuVmm *qemu, gboolean *ret_was_running, GError **error)
{
    gint stops = g_atomic_int_get(&qemu->stops);

    if (qmp_has_late_events(qemu->qmp))
        return pause_by_state(qemu, ret_was_running, error);
    /* `stop` returns when all vCPUs have stopped and I/O is drained; on a guest
     * that is paused it changes nothing, and no STOP event comes before its
     * reply. */
    if (!qmp_run(qemu->qmp, "stop", NULL, QEMU_STOP_MS, error))
        return FALSE;
    *ret_was_running = g_atomic_int_get(&qemu->stops) != stops;
    qemu->resumes_at_pause = g_atomic_int_get(&qemu->resumes);
    return expect_state(qemu, VMM_RUN_STATE_PAUSED, error);
}

/* QEMU's own migration leaves its guest in one of these; it may run elsewhere. */
static gboolean check_not_migrated(const char *status, GError **error)
{
    static const char *const gone[] = {"postmigrate", "finish-migrate", "colo", NULL};

    if (!g_strv_contains(gone, status))
        return TRUE;
    error_set(error, VMFERRY_ERROR_REFUSED,
              "QEMU's own migration has stopped this guest (its state is \"%s\"): it may run "
              "elsewhere",
              status);
    return FALSE;
}

gboolean qemu_check_paused(QemuVmm *qemu, GError **error)
{
    g_autofree char *status = qemu_query_status(qemu->qmp, QMP_COMMAND_MS, error);

    if (!status || !check_not_migrated(status, error) || !qemu_check_no_migration(qemu->qmp, error))
        return FALSE;
    if (g_atomic_int_get(&qemu->resumes) == qemu->resumes_at_pause &&
        qemu_run_state_from_status(status) == VMM_RUN_STATE_PAUSED)
        return qmp_check_not_resumed(qemu->qmp, error);
    error_set(error, VMFERRY_ERROR_REFUSED,
              "another program resumed the guest while it was paused for its move (its state is "
              "\"%s\")",
              status);
    return FALSE;
}

static gboolean check_in_its_place(QemuVmm *qemu, GError **error)
{
    if (!g_atomic_int_get(&qemu->gave_up))
        return TRUE;
    error_set(
        error, VMFERRY_ERROR_REFUSED,
        "this QEMU has left its network, disks and sockets to another, and cannot run any more");
    return FALSE;
}

gboolean qemu_resume(QemuVmm *qemu, GError **error)
{
    g_autofree char *status = qemu_query_status(qemu->qmp, QMP_COMMAND_MS, error);

    if (!status || !check_not_migrated(status, error) || !check_in_its_place(qemu, error))
        return FALSE;
    /* `cont` on a QEMU that still waits for its state would only be noted,
     * and come true when the state arrives. */
    if (qemu_run_state_from_status(status) == VMM_RUN_STATE_INCOMING) {
        error_set(error, VMFERRY_ERROR_FAILED, "the guest still waits for its state");
        return FALSE;
    }
    if (!qmp_run(qemu->qmp, "cont", NULL, QEMU_CONT_MS, error) || !expect_resumed(qemu, error))
        return FALSE;
    g_atomic_int_set(&qemu->images_released, FALSE);
    qemu_repeat_interrupts(qemu);
    return TRUE;
}

gboolean qemu_begin_action(QemuVmm *qemu, guint attempts, GuardAction *ret, GError **error)
{
    guard_action_begin(ret, attempts);
    if (libvirt_address_is(qemu->qmp_path)) {
        error_set(error, VMFERRY_ERROR_UNSUPPORTED,
                  "the guest is libvirt's: its monitor is not reached without libvirt");
        return FALSE;
    }
    if (!guard_action_add_connect(ret, qemu->qmp_path, error))
        return FALSE;
    guard_action_add_expect(ret, "\"QMP\"", NULL, NULL);
    guard_action_add_send(ret, "{\"execute\":\"qmp_capabilities\"}\n");
    guard_action_add_expect(ret, "\"return\"", NULL, NULL);
    guard_action_add_ready(ret);
    return TRUE;
}

void qemu_end_action(GuardAction *action, const char *command)
{
    guard_action_add_send(action, command);
    guard_action_add_expect(action, "\"guard\"", NULL, NULL);
}

/* A guest that QEMU's own migration has taken elsewhere is in the state
 * "postmigrate" or "finish-migrate": two would run.  One that does not answer
 * may be about to migrate, and would keep a `cont` for afterwards. */
gboolean qemu_get_resume_action(QemuVmm *qemu, GuardAction *ret, GError **error)
{
    if (libvirt_address_is(qemu->qmp_path)) {
        guard_action_begin(ret, RESUME_ATTEMPTS);
        libvirt_add_resume(ret, qemu->qmp_path);
        return TRUE;
    }
    if (!qemu_begin_action(qemu, RESUME_ATTEMPTS, ret, error))
        return FALSE;
    guard_action_add_send(ret, "{\"execute\":\"query-status\",\"id\":\"state\"}\n");
    guard_action_add_expect(ret, "\"state\"", "\"status\"", "migrate\"");
    qemu_end_action(ret, "{\"execute\":\"cont\"," QEMU_ACTION_ID "}\n");
    return TRUE;
}

/* A guest that is asleep, say, is not "paused": it would wake up. */
gboolean qemu_get_pause_action(QemuVmm *qemu, GuardAction *ret, GError **error)
{
    if (!qemu_begin_action(qemu, 1, ret, error))
        return FALSE;
    guard_action_add_send(ret, "{\"execute\":\"query-status\",\"id\":\"state\"}\n");
    guard_action_add_expect(ret, "\"state\"", "\"status\"", "\"paused\"");
    qemu_end_action(ret, "{\"execute\":\"stop\"," QEMU_ACTION_ID "}\n");
    return TRUE;
}

/* QEMU says RESUME before its vCPUs run, and what it has said is read to the end
 * before a later reply, or the end of the connection, is seen. */
VmmStart qemu_get_start(QemuVmm *qemu)
{
    g_autofree char *status = NULL;
    gboolean paused;

    if (!qemu->loaded)
        return VMM_START_UNKNOWN;
    status = qemu_query_status(qemu->qmp, QMP_COMMAND_MS, NULL);
    paused = status ? qemu_run_state_from_status(status) == VMM_RUN_STATE_PAUSED
                    : !qmp_is_connected(qemu->qmp) &&
                          process_wait_gone(qemu->pid, qemu->start_time, KILL_MS);
    if (g_atomic_int_get(&qemu->resumes) > 0)
        return VMM_START_DONE;
    return paused ? VMM_START_NEVER : VMM_START_UNKNOWN;
}

gboolean qemu_announce(QemuVmm *qemu, GError **error)
{
    /* QEMU's own schedule after a migration: five rounds within a second. */
    json_t *arguments =
        json_pack("{s:i,s:i,s:i,s:i}", "initial", 50, "max", 550, "rounds", 5, "step", 100);

    return qmp_run(qemu->qmp, "announce-self", arguments, QMP_COMMAND_MS, error);
}

/* -no-shutdown, or -action shutdown=pause. */
static gboolean stays_by_itself(char *const *argv)
{
    for (guint i = 0; argv && argv[i]; i++) {
        const char *option = argv[i] + strspn(argv[i], "-");

        if (option == argv[i])
            continue;
        if (strcmp(option, "no-shutdown") == 0 ||
            (strcmp(option, "action") == 0 && argv[i + 1] && strstr(argv[i + 1], "shutdown=pause")))
            return TRUE;
    }
    return FALSE;
}

gboolean qemu_stay_at_shutdown(QemuVmm *qemu, gboolean stays, GError **error)
{
    gboolean pause = stays || stays_by_itself(qemu->command_line);

    return qmp_run(qemu->qmp, "set-action",
                   json_pack("{s:s}", "shutdown", pause ? "pause" : "poweroff"), QMP_COMMAND_MS,
                   error);
}

static gboolean signal_and_wait(QemuVmm *qemu, int signal_number, int timeout_ms)
{
    (void)process_kill(qemu->pid, qemu->start_time, signal_number, NULL);
    return process_wait_gone(qemu->pid, qemu->start_time, timeout_ms);
}

/* The connection may end before the reply: only the end counts.  A QEMU that
 * gives no answer is not waited for any longer. */
static gboolean quit_by_command(QemuVmm *qemu)
{
    g_autoptr(GError) failure = NULL;

    if (!qmp_is_connected(qemu->qmp))
        return FALSE;
    if (!qmp_run(qemu->qmp, "quit", NULL, QUIT_MS, &failure) &&
        !error_is(failure, VMFERRY_ERROR_DISCONNECTED))
        return FALSE;
    return process_wait_gone(qemu->pid, qemu->start_time, QUIT_MS);
}

gboolean qemu_quit_gently(QemuVmm *qemu, GError **error)
{
    if (!g_atomic_int_get(&qemu->gave_up) && quit_by_command(qemu))
        return TRUE;
    error_set(error, VMFERRY_ERROR_TIMEOUT, "QEMU (pid %d) does not end by `quit`", (int)qemu->pid);
    return FALSE;
}

gboolean qemu_quit(QemuVmm *qemu, GError **error)
{
    /* One that has given up would remove what is another's by now. */
    gboolean gently = !g_atomic_int_get(&qemu->gave_up);

    if (gently && quit_by_command(qemu))
        return TRUE;
    if ((gently && signal_and_wait(qemu, SIGTERM, TERM_MS)) ||
        signal_and_wait(qemu, SIGKILL, KILL_MS)) {
        /* A QEMU that was killed leaves its socket behind; ours is ours. */
        if (qemu->log_path)
            unlink(qemu->qmp_path);
        return TRUE;
    }
    error_set(error, VMFERRY_ERROR_TIMEOUT, "QEMU (pid %d) does not end, not even by SIGKILL",
              (int)qemu->pid);
    return FALSE;
}
