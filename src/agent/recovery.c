#include "agent/recovery.h"

#include <signal.h>
#include <string.h>

#include "agent/move.h"
#include "agent/moved_images.h"
#include "agent/postcopy.h"
#include "agent/recovery_private.h"
#include "agent/takeover_notice.h"
#include "agent/watch.h"
#include "agent/withdrawal.h"
#include "base/error.h"
#include "base/log.h"
#include "base/process.h"
#include "memory/clean.h"
#include "migrate/source.h"
#include "vmm/vmm_driver.h"

#define FIRST_PAUSE_MS 250
#define LONGEST_PAUSE_MS 30000
#define KILL_TIMEOUT_MS 10000

static void adopt_vmm(Recovery *recovery, Vmm *vmm)
{
    registry_set_vmm(recovery->guest, vmm);
    registry_set_problem(recovery->guest, NULL);
}

gboolean recovery_reach(Recovery *recovery, GError **error)
{
    g_autoptr(GuestRecord) record = NULL;
    const VmmDriver *driver;
    VmmIdentity identity;
    Vmm *vmm;

    if (registry_get_vmm(recovery->guest, NULL))
        return TRUE;
    record = registry_get_record(recovery->guest);
    driver = vmm_driver_find(record->vmm_kind, error);
    if (!driver)
        return FALSE;
    identity = (VmmIdentity){
        .kind = record->vmm_kind,
        .pid = record->pid,
        .start_time = record->start_time,
        .control_path = record->qmp_path,
        .log_path = record->log_path,
        .command_line = record->command_line,
        .working_directory = record->working_directory,
    };
    vmm = driver->reattach(&identity, error);
    if (!vmm)
        return FALSE;
    adopt_vmm(recovery, vmm);
    return TRUE;
}

/* Of a move or a save that this agent's last run did not end, and where START was not sent. */
static void tell_given_up(Recovery *recovery)
{
    g_autoptr(GuestRecord) record = registry_get_record(recovery->guest);
    const char *path = record->destination ? strstr(record->destination, ":/") : NULL;
    /* Of a save it is HOST:PATH. */
    g_autofree char *host =
        path ? g_strndup(record->destination, (gsize)(path - record->destination))
             : g_strdup(record->destination);
    WithdrawalNotice notice = {.destination = host,
                               .agent = record->destination_agent,
                               .transaction = record->transaction,
                               .guest_id = record->id,
                               .term = record->term + 1,
                               .for_ms = WITHDRAWAL_LONGEST_MS};

    if (record->role == GUEST_OURS && host && *host != '/')
        withdrawal_tell(recovery->context, &notice);
}

/* Puts the guest, in that state, on record as ours, and gives the claim back. */
static RecoveryVerdict settle_here(Recovery *recovery, const VmmRunState *state, const char *why)
{
    g_autoptr(GError) problem = NULL;

    tell_given_up(recovery);
    registry_set_settling(recovery->guest, TRUE);
    if (state)
        registry_set_run_state(recovery->guest, *state);
    registry_journal_settled(recovery->guest, recovery->term, &problem);
    if (problem)
        log_warning("guest %s: %s", recovery->guest->name, problem->message);
    registry_set_problem(recovery->guest, NULL);
    departure_log_forget(recovery->context->departures, recovery->guest->name);
    balloon_release(recovery->context, recovery->guest);
    event_log_add(recovery->context->events, recovery->guest->name, "recovered", NULL, "%s", why);
    watch_guest(recovery->context, recovery->guest);
    watch_release(recovery->context, recovery->guest);
    registry_set_settling(recovery->guest, FALSE);
    return RECOVERY_DONE;
}

gboolean recovery_end_pause(Recovery *recovery, Vmm *vmm, VmmRunState *state, GError **error)
{
    g_autoptr(GuestRecord) record = registry_get_record(recovery->guest);
    g_autoptr(GError) problem = NULL;

    if (*state != VMM_RUN_STATE_PAUSED)
        return TRUE;
    if (!record->resume) {
        if (!vmm_take_images(vmm, &problem))
            log_debug("guest %s: images are not locked: %s", record->name, problem->message);
        return TRUE;
    }
    if (!vmm_resume(vmm, error))
        return FALSE;
    *state = VMM_RUN_STATE_RUNNING;
    if (!vmm_announce(vmm, NULL))
        log_debug("guest %s: not announced", record->name);
    return TRUE;
}

RecoveryVerdict recovery_keep(Recovery *recovery, const char *why, GError **error)
{
    VmmRunState state;
    Vmm *vmm;

    if (!recovery_reach(recovery, error))
        return RECOVERY_AGAIN;
    vmm = registry_get_vmm(recovery->guest, NULL);
    if (!vmm_get_run_state(vmm, &state, error) || !recovery_end_pause(recovery, vmm, &state, error))
        return RECOVERY_AGAIN;
    return settle_here(recovery, &state, why);
}

RecoveryVerdict recovery_forget(Recovery *recovery, const char *type, const char *why)
{
    g_autoptr(GuestRecord) record = registry_get_record(recovery->guest);

    /* First: at no time must it be neither here nor gone. */
    if (strcmp(type, "moved") == 0 || strcmp(type, "given-up") == 0)
        departure_log_add(recovery->context->departures, record);
    if (strcmp(type, "moved") == 0)
        moved_images_retire(record);
    postcopy_drop_writes(recovery->context, recovery->guest);
    registry_remove(recovery->guest);
    event_log_add(recovery->context->events, recovery->guest->name, type, NULL, "%s", why);
    return RECOVERY_DONE;
}

/* Not through QMP: this copy must not write to its disks any more. */
static gboolean end_process(Recovery *recovery, GError **error)
{
    g_autoptr(GuestRecord) record = registry_get_record(recovery->guest);

    if (record->pid == 0)
        return TRUE;
    /* Whoever started it hears that it has moved. */
    if (record->role != GUEST_INCOMING && record->role != GUEST_RESTORING)
        return migrate_source_end_old(record->pid, record->start_time, record->name,
                                      record->destination ? record->destination : "elsewhere",
                                      error);
    if (!process_is_same(record->pid, record->start_time))
        return TRUE;
    if (!process_kill(record->pid, record->start_time, SIGKILL, error))
        return !process_is_same(record->pid, record->start_time);
    if (process_wait_gone(record->pid, record->start_time, KILL_TIMEOUT_MS))
        return TRUE;
    error_set(error, VMFERRY_ERROR_TIMEOUT, "process %d does not end", (int)record->pid);
    return FALSE;
}

RecoveryVerdict recovery_release(Recovery *recovery, const char *type, const char *why,
                                 GError **error)
{
    return end_process(recovery, error) ? recovery_forget(recovery, type, why) : RECOVERY_AGAIN;
}

static RecoveryVerdict remove_dead(Recovery *recovery, const GuestRecord *record, GError **error)
{
    static const char text[] = "its process ended while no agent ran";

    switch (record->role) {
    case GUEST_INCOMING:
        return recovery_incoming_gone(recovery);
    case GUEST_LEAVING:
        return record->standby ? recovery_end_standby(recovery)
                               : recovery_forget(recovery, "moved", "runs at its destination");
    case GUEST_TAKEOVER:
        return recovery_takeover_gone(recovery);
    case GUEST_POSTCOPY_SOURCE:
        if (record->taking_over)
            return recovery_takeover_gone(recovery);
        return recovery_tell_drained(recovery, error);
    case GUEST_SWITCHING_OVER:
    case GUEST_IN_DOUBT:
        log_warning("guest %s: its copy here is gone; %s may have it", record->name,
                    record->destination);
        return recovery_forget(recovery, "ended", text);
    default:
        return recovery_forget(recovery, "ended", text);
    }
}

/* What a move left in the guest when its agent was killed. */
static void clean(Recovery *recovery, const GuestRecord *record)
{
    g_autoptr(GError) problem = NULL;

    if (recovery->cleaned || record->role == GUEST_INCOMING || record->role == GUEST_POSTCOPY ||
        record->role == GUEST_LEAVING || record->role == GUEST_TAKEOVER ||
        record->role == GUEST_RESTORING)
        return;
    recovery->cleaned = TRUE;
    if (!process_is_same(record->pid, record->start_time))
        return;
    if (!memory_clean_guest(record->pid, &problem))
        event_log_add(recovery->context->events, record->name, "not-cleaned", NULL, "%s",
                      problem->message);
}

static RecoveryVerdict step(Recovery *recovery, GError **error)
{
    g_autoptr(GuestRecord) record = registry_get_record(recovery->guest);
    VmmRunState state;
    gboolean known;

    if (record->role == GUEST_LEAVING && record->untold)
        return recovery_tell_ended(recovery, error);
    if (record->standby && record->role == GUEST_POSTCOPY_SOURCE)
        return recovery_stand_by(recovery, error);
    /* Without a pid on record none of its processes was ever released (spawn.h). */
    if (record->pid == 0 || strcmp(record->boot_id, recovery->context->boot_id) != 0 ||
        !process_is_same(record->pid, record->start_time))
        return remove_dead(recovery, record, error);
    /* First of all: what is left in it may keep QEMU from answering. */
    clean(recovery, record);
    switch (record->role) {
    case GUEST_SWITCHING_OVER:
    case GUEST_IN_DOUBT:
        return recovery_settle_in_doubt(recovery, error);
    case GUEST_POSTCOPY:
        return recovery_keep_split(recovery, error);
    case GUEST_POSTCOPY_SOURCE:
        return recovery_serve_split(recovery, error);
    case GUEST_TAKEOVER:
        return recovery_keep_taken_over(recovery, error);
    case GUEST_RESTORING:
        return recovery_keep_restored(recovery, error);
    case GUEST_LEAVING:
        return recovery_release(recovery, "moved", "runs at its destination", error);
    case GUEST_INCOMING:
        return recovery_settle_incoming(recovery, error);
    case GUEST_STARTING:
        return recovery_keep(recovery, "found again; the agent had ended while it was started",
                             error);
    case GUEST_OURS:
        break;
    }
    if (record->transaction)
        return recovery_keep(recovery, "runs here; its move was broken off", error);
    if (!recovery_reach(recovery, error))
        return RECOVERY_AGAIN;
    known = vmm_get_run_state(registry_get_vmm(recovery->guest, NULL), &state, NULL);
    return settle_here(recovery, known ? &state : NULL, "found again");
}

/* With the registry's lock held.  The end of its process calls once. */
static gboolean is_called(gpointer user)
{
    Recovery *recovery = user;
    gboolean has_ended = recovery->guest->process_gone && !recovery->seen_gone;

    recovery->seen_gone = recovery->guest->process_gone;
    return has_ended || agent_context_is_stopping(recovery->context) ||
           guest_get_decision(recovery->guest) != recovery->seen_decision;
}

/* Waits for the next attempt, an operator's decision, or the end of the guest or the agent. */
static void pause_between(Recovery *recovery)
{
    guint ms = FIRST_PAUSE_MS << MIN(recovery->attempts, 7);
    gint64 until = g_get_monotonic_time() + MIN(ms, LONGEST_PAUSE_MS) * G_TIME_SPAN_MILLISECOND;

    recovery->attempts++;
    registry_await(recovery->context->registry, until, is_called, recovery);
}

static gpointer recovery_thread(gpointer data)
{
    g_autofree Recovery *recovery = data;
    g_autoptr(Guest) guest = recovery->guest;

    while (!agent_context_is_stopping(recovery->context)) {
        g_autoptr(GError) error = NULL;

        recovery->seen_decision = registry_get_decision(guest);
        if (step(recovery, &error) == RECOVERY_DONE)
            break;
        if (error) {
            log_line(recovery->attempts == 0 ? LOG_LEVEL_WARNING : LOG_LEVEL_DEBUG, "guest %s: %s",
                     guest->name, error->message);
            registry_set_problem(guest, error->message);
        }
        pause_between(recovery);
    }
    standby_ahead_free(recovery->ahead);
    recovery_storage_free(recovery->storage);
    recovery_leave_witness(recovery);
    return NULL;
}

void recovery_start(AgentContext *context, Guest *guest)
{
    Recovery *recovery = g_new0(Recovery, 1);

    recovery->context = context;
    recovery->guest = guest_ref(guest);
    recovery->told = registry_claim_recovery(guest);
    agent_context_spawn_surely(context, "recovery", recovery_thread, recovery);
}

static GuestRecord *load_record(AgentContext *context, const char *name, GError **error)
{
    g_autoptr(json_t) object = state_store_read(context->store, STORE_GUEST, name, error);
    g_autoptr(GuestRecord) record = object ? guest_record_from_json(object, error) : NULL;

    if (record && strcmp(record->name, name) != 0) {
        error_set(error, VMFERRY_ERROR_INVALID, "it is of guest \"%s\"", record->name);
        return NULL;
    }
    return g_steal_pointer(&record);
}

gboolean recovery_load_guests(AgentContext *context, GError **error)
{
    g_autoptr(GPtrArray) names = state_store_list(context->store, STORE_GUEST, error);

    if (!names)
        return FALSE;
    for (guint i = 0; i < names->len; i++) {
        g_autoptr(GError) problem = NULL;
        GuestRecord *record = load_record(context, names->pdata[i], &problem);
        g_autoptr(Guest) guest = NULL;

        if (!record) {
            state_store_reject(context->store, STORE_GUEST, names->pdata[i], problem);
            event_log_add(context->events, names->pdata[i], "bad-record", NULL,
                          "its record cannot be used: %s", problem->message);
            continue;
        }
        /* Before its source can ask: is it decided, or still to be settled? */
        if (record->role == GUEST_INCOMING)
            transaction_log_reopen(context->transactions, record->transaction);
        guest = registry_add(context->registry, record, "recover", NULL);
        if (!guest)
            continue;
        recovery_start(context, guest);
        takeover_notice_start(context, guest);
    }
    return TRUE;
}
