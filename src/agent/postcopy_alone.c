#include "agent/postcopy_alone.h"

#include "base/error.h"
#include "base/log.h"

#define PAUSE_US (2 * G_TIME_SPAN_SECOND)
#define GAP_US G_TIME_SPAN_SECOND

/* The output of one that is stood by for waits for nothing else. */
static guint get_patience_s(AgentContext *context, const PostcopyDestination *split)
{
    guint set = context->settings->alone_after;

    return postcopy_destination_is_stood_by(split) ? MIN(set, POSTCOPY_ALONE_STANDBY_S) : set;
}

static void note_look(PostcopyAlone *alone)
{
    gint64 now_us = g_get_monotonic_time();

    if (now_us - alone->looked_us > GAP_US)
        alone->awake_us = now_us;
    alone->looked_us = now_us;
}

static gboolean is_wanted(const PostcopyAlone *alone, AgentContext *context,
                          PostcopyDestination *split)
{
    guint idle_s = postcopy_destination_get_source_idle_ms(split) / 1000;
    guint awake_s = (guint)((alone->looked_us - alone->awake_us) / G_TIME_SPAN_SECOND);
    SplitLeases *leases = postcopy_destination_get_leases(split);

    if (!leases || postcopy_destination_is_alone(split) || alone->looked_us < alone->next_us)
        return FALSE;
    /* The answer to a claim may have been lost: its source may not take it over any more. */
    return split_leases_are_for_alone(leases) ||
           MIN(idle_s, awake_s) >= get_patience_s(context, split);
}

/* The witness first, then our own record: in this order the death of its VMM is answered rightly. */
static gboolean decide(AgentContext *context, PostcopyDestination *split, GError **error)
{
    const char *transaction = postcopy_destination_get_transaction(split);

    return transaction_log_is_alone(context->transactions, transaction) ||
           (split_leases_claim(postcopy_destination_get_leases(split), error) &&
            transaction_log_note_alone(context->transactions, transaction, error));
}

static void tell_failure(PostcopyAlone *alone, AgentContext *context, Guest *guest,
                         const GError *why)
{
    log_line(alone->told ? LOG_LEVEL_DEBUG : LOG_LEVEL_WARNING,
             "guest %s: it does not go on alone: %s; that is tried again", guest->name,
             why->message);
    if (!alone->told)
        event_log_add(context->events, guest->name, "cut-off", NULL,
                      "its source does not answer, and it does not go on alone: %s", why->message);
    alone->told = TRUE;
}

void postcopy_alone_look(PostcopyAlone *alone, AgentContext *context, Guest *guest,
                         PostcopyDestination *split)
{
    const char *transaction = postcopy_destination_get_transaction(split);
    g_autoptr(GError) error = NULL;

    note_look(alone);
    if (!is_wanted(alone, context, split))
        return;
    alone->next_us = g_get_monotonic_time() + PAUSE_US;
    if (!decide(context, split, &error) || !postcopy_destination_go_alone(split, &error)) {
        tell_failure(alone, context, guest, error);
        alone->looked_us = g_get_monotonic_time(); /* the witness was waited for: that is no gap */
        return;
    }
    log_info("guest %s: transaction %s goes on here alone", guest->name, transaction);
    event_log_add(context->events, guest->name, "alone", NULL,
                  "goes on alone: its source has not answered for %u s, and may not take it over "
                  "any more; the end of this host is not survived from now on",
                  postcopy_destination_get_source_idle_ms(split) / 1000);
}

void postcopy_alone_end(AgentContext *context, PostcopyDestination *split)
{
    const char *transaction = postcopy_destination_get_transaction(split);

    if (postcopy_destination_get_leases(split) &&
        transaction_log_is_alone(context->transactions, transaction))
        split_leases_forget(postcopy_destination_get_leases(split));
}
