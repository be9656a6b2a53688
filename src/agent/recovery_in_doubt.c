#include <inttypes.h>
#include <string.h>

#include "agent/postcopy.h"
#include "agent/recovery_private.h"
#include "base/error.h"
#include "base/log.h"
#include "migrate/source.h"

#define DECISION_TIMEOUT_MS 30000

/* Puts on record that a guest is in doubt; an event says so once. */
static void note_in_doubt(Recovery *recovery, const GuestRecord *record, const char *why)
{
    g_autoptr(GError) problem = NULL;

    registry_set_problem(recovery->guest, why);
    if (record->role != GUEST_IN_DOUBT)
        registry_journal_anyway(recovery->guest, GUEST_IN_DOUBT, RESUME_AS_BEFORE, &problem);
    if (problem)
        log_warning("guest %s: %s", record->name, problem->message);
    if (!recovery->told)
        event_log_add(recovery->context->events, record->name, "in-doubt", NULL, "paused: %s", why);
    recovery->told = TRUE;
}

/* Keeps the guest here although its destination has not said that it does not have
 * it.  It may have taken the next term, so ours is the one above that: whoever
 * compares the two copies later knows that this one is right. */
RecoveryVerdict recovery_keep_above(Recovery *recovery, const GuestRecord *record, const char *why,
                                    GError **error)
{
    recovery->term = record->term + 2;
    return recovery_keep(recovery, why, error);
}

/* The destination does not say what became of the guest: an operator decides. */
static RecoveryVerdict decide(Recovery *recovery, const GuestRecord *record, const char *why,
                              GError **error)
{
    if (record->split && recovery_try_gate(recovery, record)) {
        recovery_begin_split(recovery);
        return recovery_go_through_gate(recovery, record, why, error);
    }
    switch (recovery->seen_decision) {
    case DECISION_KEEP_HERE:
        return recovery_keep_above(recovery, record, "kept here by an operator's decision", error);
    case DECISION_KEEP_THERE:
        return recovery_release(recovery, "given-up",
                                "given to its destination by an operator's decision", error);
    case DECISION_NONE:
        break;
    }
    note_in_doubt(recovery, record, why);
    return RECOVERY_AGAIN;
}

static RecoveryVerdict act_on_outcome(Recovery *recovery, const GuestRecord *record,
                                      const OutcomeMessage *answer, GError **error)
{
    g_autofree char *text = NULL;

    switch (answer->outcome) {
    case OUTCOME_COMMITTED:
        if (!outcome_takes_guest(answer, record->term)) {
            text = g_strdup_printf("%s says that it has the guest, with term %" PRIu64
                                   ", which is not above the term here, %" PRIu64
                                   "; look there, then `vmferry resolve`",
                                   record->destination, answer->term, record->term);
            return decide(recovery, record, text, error);
        }
        if (record->split)
            return recovery_begin_split(recovery);
        text = g_strdup_printf("moved: %s has it", record->destination);
        return recovery_release(recovery, "moved", text, error);
    case OUTCOME_ABORTED:
        text = g_strdup_printf("runs here: %s does not have it", record->destination);
        return recovery_keep(recovery, text, error);
    case OUTCOME_PENDING:
        text = g_strdup_printf("%s has not decided yet", record->destination);
        note_in_doubt(recovery, record, text);
        return RECOVERY_AGAIN;
    default:
        /* Whatever it was there, of a protected one nobody has heard: as one that is lost while split. */
        if (record->deltas)
            return recovery_begin_split(recovery);
        text = g_strdup_printf("%s was restarted and does not know whether it had the guest; "
                               "look there, then `vmferry resolve`",
                               record->destination);
        return decide(recovery, record, text, error);
    }
}

gboolean recovery_is_running(Recovery *recovery)
{
    VmmRunState state;

    return recovery_reach(recovery, NULL) &&
           vmm_get_run_state(registry_get_vmm(recovery->guest, NULL), &state, NULL) &&
           state == VMM_RUN_STATE_RUNNING;
}

static RecoveryVerdict ask(Recovery *recovery, const GuestRecord *record, GError **error)
{
    g_autoptr(GError) problem = NULL;
    g_autofree char *text = NULL;
    ResolveMessage question = {record->transaction, record->id, record->term + 1};
    ChannelOptions channel;
    OutcomeMessage answer;

    if (agent_context_get_channel_options(recovery->context, &channel, &problem) &&
        migrate_source_resolve(record->destination, &channel, &question, record->destination_agent,
                               &answer, &problem))
        return act_on_outcome(recovery, record, &answer, error);
    text = g_strdup_printf("%s may have it and cannot be asked: %s", record->destination,
                           problem->message);
    return decide(recovery, record, text, error);
}

RecoveryVerdict recovery_settle_in_doubt(Recovery *recovery, GError **error)
{
    g_autoptr(GuestRecord) record = registry_get_record(recovery->guest);

    /* Asking the destination needs no VMM: the guest may be elsewhere though QEMU
     * does not answer. */
    if (recovery_is_running(recovery))
        return recovery_keep_above(recovery, record, "runs here", error);
    /* It may have to have pages before it can say that it has the guest. */
    if (record->split && recovery_try_split(recovery, record))
        return RECOVERY_AGAIN;
    return ask(recovery, record, error);
}

typedef struct {
    AgentContext *context;
    Guest *guest;
} Settling;

static gboolean is_settled(gpointer user)
{
    const Settling *settling = user;
    const Guest *guest = settling->guest;

    return guest->removed ||
           (guest->record->role != GUEST_IN_DOUBT &&
            guest->record->role != GUEST_POSTCOPY_SOURCE) ||
           guest_get_decision(guest) == DECISION_NONE ||
           agent_context_is_stopping(settling->context);
}

/* It was decided, and that was not needed: the destination has answered. */
static gboolean was_refused(AgentContext *context, Guest *guest)
{
    g_autoptr(GuestRecord) record = registry_get_record(guest);

    return record->role == GUEST_POSTCOPY_SOURCE && !agent_context_is_stopping(context) &&
           registry_get_decision(guest) == DECISION_NONE;
}

static gboolean await_settled(AgentContext *context, Guest *guest, GError **error)
{
    gint64 until = g_get_monotonic_time() + DECISION_TIMEOUT_MS * G_TIME_SPAN_MILLISECOND;
    Settling settling = {context, guest};
    g_autofree char *problem = NULL;

    if (registry_await(context->registry, until, is_settled, &settling)) {
        if (!was_refused(context, guest))
            return TRUE;
        error_set(error, VMFERRY_ERROR_REFUSED,
                  "the destination answers that it has guest %s: nothing is to be decided",
                  guest->name);
        return FALSE;
    }
    problem = registry_get_problem(guest);
    error_set(error, VMFERRY_ERROR_TIMEOUT, "guest %s is not settled yet: %s", guest->name,
              problem ? problem : "being worked on");
    return FALSE;
}

gboolean recovery_decide(AgentContext *context, const char *name, Decision decision, GError **error)
{
    g_autoptr(Guest) guest = registry_find(context->registry, name, error);

    if (!guest)
        return FALSE;
    /* Here it is the destination's: what is there may be older. */
    if (decision == DECISION_KEEP_HERE && postcopy_has(context, guest))
        return postcopy_go_alone(context, guest, error);
    if (!registry_decide(guest, decision)) {
        error_set(error, VMFERRY_ERROR_REFUSED, "guest %s is not in doubt", name);
        return FALSE;
    }
    return await_settled(context, guest, error);
}
