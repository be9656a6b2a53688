#include "agent/recovery_private.h"
#include "base/error.h"
#include "base/log.h"
#include "memory/clean.h"

RecoveryVerdict recovery_incoming_gone(Recovery *recovery)
{
    g_autoptr(GuestRecord) record = registry_get_record(recovery->guest);
    TransactionLog *log = recovery->context->transactions;

    /* Committed, and gone before it was seen to run: it may have run. */
    if (transaction_log_reopen(log, record->transaction)) {
        transaction_log_lose(log, record->transaction);
        return recovery_forget(recovery, "lost",
                               "had arrived, and its process ended while no agent ran");
    }
    if (!transaction_log_abort(log, record->transaction))
        return recovery_forget(recovery, "lost",
                               "may have arrived: the host was restarted meanwhile");
    return recovery_forget(recovery, "not-received",
                           "did not arrive: the agent had ended meanwhile");
}

/* Whether it runs; FALSE with *error* where it cannot be asked. */
static gboolean ask_whether_runs(Recovery *recovery, gboolean *ret, GError **error)
{
    VmmRunState state;

    if (!recovery_reach(recovery, error) ||
        !vmm_get_run_state(registry_get_vmm(recovery->guest, NULL), &state, error))
        return FALSE;
    *ret = state != VMM_RUN_STATE_PAUSED && state != VMM_RUN_STATE_INCOMING;
    return TRUE;
}

static RecoveryVerdict end_uncommitted(Recovery *recovery, const GuestRecord *record,
                                       GError **error)
{
    gboolean running = FALSE;

    /* On record first, so that it cannot be started any more.  That fails only
     * where the record of its transaction was lost; then a guest that runs was
     * committed, and one that is paused has never run. */
    if (!transaction_log_withdraw(recovery->context->transactions, record->transaction, NULL)) {
        if (!ask_whether_runs(recovery, &running, error))
            return RECOVERY_AGAIN;
        if (running)
            return recovery_keep(recovery, "had arrived and runs here", error);
    }
    if (recovery_release(recovery, "not-received", "did not arrive: the agent had ended meanwhile",
                         error) != RECOVERY_DONE)
        return RECOVERY_AGAIN;
    transaction_log_abort(recovery->context->transactions, record->transaction);
    return RECOVERY_DONE;
}

/* A guest that could have been split has a userfaultfd, which nothing is registered with. */
static void clean(const GuestRecord *record)
{
    g_autoptr(GError) problem = NULL;

    if (!memory_clean_guest(record->pid, &problem))
        log_warning("guest %s: %s", record->name, problem->message);
}

/* No way back: its source may have read that the guest runs here. */
static RecoveryVerdict keep_committed(Recovery *recovery, const GuestRecord *record, GError **error)
{
    clean(record);
    if (recovery_keep(recovery, "had arrived and runs here", error) != RECOVERY_DONE)
        return RECOVERY_AGAIN;
    transaction_log_settle(recovery->context->transactions, record->transaction);
    return RECOVERY_DONE;
}

RecoveryVerdict recovery_settle_incoming(Recovery *recovery, GError **error)
{
    g_autoptr(GuestRecord) record = registry_get_record(recovery->guest);

    if (!transaction_log_reopen(recovery->context->transactions, record->transaction))
        return end_uncommitted(recovery, record, error);
    /* Without its pages the VMM may not even answer. */
    if (record->outstanding)
        return recovery_keep_split(recovery, error);
    return keep_committed(recovery, record, error);
}
