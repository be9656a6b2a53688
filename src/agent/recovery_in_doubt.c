#include <string.h>

#include "agent/recovery_private.h"
#include "base/error.h"
#include "base/log.h"
#include "migrate/source.h"

#define DECISION_TIMEOUT_MS 30000

/* Says once that a guest is in doubt, and puts it on record. */
static void note_doubt(Care *care, const GuestRecord *record, const char *why)
{
    g_autoptr(GError) problem = NULL;

    registry_set_trouble(care->guest, why);
    if (record->state != GUEST_IN_DOUBT)
        registry_journal_anyway(care->guest, GUEST_IN_DOUBT, RESUME_AS_BEFORE, &problem);
    if (problem)
        log_warning("guest %s: %s", record->name, problem->message);
    if (!care->told)
        event_log_add(care->context->events, record->name, "in-doubt", NULL, "paused: %s", why);
    care->told = TRUE;
}

/* The destination cannot say: an operator's word counts. */
static CareVerdict decide(Care *care, const GuestRecord *record, const char *why, GError **error)
{
    switch (care->seen_decision) {
    case DECISION_KEEP_HERE:
        return care_keep(care, "kept here by an operator's decision", error);
    case DECISION_KEEP_THERE:
        return care_let_go(care, "given-up", "given to its destination by an operator's decision",
                           error);
    case DECISION_NONE:
        break;
    }
    note_doubt(care, record, why);
    return CARE_AGAIN;
}

static CareVerdict act_on_outcome(Care *care, const GuestRecord *record, int outcome,
                                  GError **error)
{
    g_autofree char *text = NULL;

    switch (outcome) {
    case OUTCOME_COMMITTED:
        text = g_strdup_printf("moved: %s has it", record->destination);
        return care_let_go(care, "moved", text, error);
    case OUTCOME_ABORTED:
        text = g_strdup_printf("runs here: %s does not have it", record->destination);
        return care_keep(care, text, error);
    case OUTCOME_PENDING:
        text = g_strdup_printf("%s has not decided yet", record->destination);
        note_doubt(care, record, text);
        return CARE_AGAIN;
    default:
        text = g_strdup_printf("%s was restarted and cannot tell whether it had the guest; look "
                               "there, then `vmferry resolve`",
                               record->destination);
        return decide(care, record, text, error);
    }
}

/* A guest that runs was resumed by somebody who knew: we pause it before the
 * word, and nothing but a decision for this host lets it run again. */
static gboolean runs(Care *care, gboolean *ret_runs, GError **error)
{
    VmmRunState state;

    if (!care_reach(care, error) ||
        !vmm_get_run_state(registry_get_vmm(care->guest, NULL), &state, error))
        return FALSE;
    *ret_runs = state == VMM_RUN_STATE_RUNNING;
    return TRUE;
}

static CareVerdict ask(Care *care, const GuestRecord *record, GError **error)
{
    g_autoptr(GError) problem = NULL;
    g_autofree char *text = NULL;
    ChannelOptions channel;
    int outcome;

    if (agent_context_get_channel_options(care->context, &channel, &problem) &&
        migrate_source_resolve(record->destination, &channel, record->transaction,
                               record->destination_agent, &outcome, &problem))
        return act_on_outcome(care, record, outcome, error);
    text = g_strdup_printf("%s may have it and cannot be asked: %s", record->destination,
                           problem->message);
    return decide(care, record, text, error);
}

CareVerdict care_settle_doubt(Care *care, GError **error)
{
    g_autoptr(GuestRecord) record = registry_get_record(care->guest);
    gboolean running = FALSE;

    /* Asking needs no VMM; so a QEMU that does not answer keeps nobody from
     * learning that the guest is elsewhere. */
    if (runs(care, &running, NULL) && running)
        return care_keep(care, "runs here", error);
    return ask(care, record, error);
}

typedef struct {
    AgentContext *context;
    Guest *guest;
} Settling;

static gboolean is_settled(gpointer user)
{
    const Settling *settling = user;
    const Guest *guest = settling->guest;

    return guest->removed || guest->record->state != GUEST_IN_DOUBT ||
           agent_context_is_stopping(settling->context);
}

static gboolean await_settled(AgentContext *context, Guest *guest, GError **error)
{
    gint64 until = g_get_monotonic_time() + DECISION_TIMEOUT_MS * G_TIME_SPAN_MILLISECOND;
    Settling settling = {context, guest};
    g_autofree char *trouble = NULL;

    if (registry_await(context->registry, until, is_settled, &settling))
        return TRUE;
    trouble = registry_get_trouble(guest);
    error_set(error, VMFERRY_ERROR_TIMEOUT, "guest %s is not settled yet: %s", guest->name,
              trouble ? trouble : "being worked on");
    return FALSE;
}

gboolean care_decide(AgentContext *context, const char *name, Decision decision, GError **error)
{
    g_autoptr(Guest) guest = registry_find(context->registry, name, error);

    if (!guest)
        return FALSE;
    if (!registry_decide(guest, decision)) {
        error_set(error, VMFERRY_ERROR_REFUSED, "guest %s is not in doubt", name);
        return FALSE;
    }
    return await_settled(context, guest, error);
}
