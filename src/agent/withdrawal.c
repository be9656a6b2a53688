#include "agent/withdrawal.h"

#include "base/clock.h"
#include "base/log.h"
#include "migrate/source.h"

#define FIRST_PAUSE_MS 200
#define LONGEST_PAUSE_MS 5000

typedef struct {
    AgentContext *context;
    char *destination, *agent, *transaction, *guest_id;
    uint64_t term, until_ns;
} Withdrawal;

static void withdrawal_free(Withdrawal *withdrawal)
{
    g_free(withdrawal->destination);
    g_free(withdrawal->agent);
    g_free(withdrawal->transaction);
    g_free(withdrawal->guest_id);
    g_free(withdrawal);
}

static gboolean is_stopping(gpointer user)
{
    return agent_context_is_stopping(((Withdrawal *)user)->context);
}

static gboolean tell(Withdrawal *withdrawal)
{
    ResolveMessage question = {withdrawal->transaction, withdrawal->guest_id, withdrawal->term};
    g_autoptr(GError) problem = NULL;
    ChannelOptions channel;
    OutcomeMessage answer;

    if (agent_context_get_channel_options(withdrawal->context, &channel, &problem) &&
        migrate_source_resolve(withdrawal->destination, &channel, &question, withdrawal->agent,
                               &answer, &problem))
        return TRUE;
    log_debug("%s is not told yet that transaction %s was given up: %s", withdrawal->destination,
              withdrawal->transaction, problem->message);
    return FALSE;
}

static gpointer withdrawal_thread(gpointer data)
{
    Withdrawal *withdrawal = data;
    gint64 pause_ms = FIRST_PAUSE_MS;

    while (!is_stopping(withdrawal) && !tell(withdrawal) && clock_now_ns() < withdrawal->until_ns) {
        registry_await(withdrawal->context->registry,
                       g_get_monotonic_time() + pause_ms * G_TIME_SPAN_MILLISECOND, is_stopping,
                       withdrawal);
        pause_ms = MIN(pause_ms * 2, LONGEST_PAUSE_MS);
    }
    withdrawal_free(withdrawal);
    return NULL;
}

void withdrawal_tell(AgentContext *context, const WithdrawalNotice *notice)
{
    Withdrawal *withdrawal;

    if (!notice->destination || !notice->transaction || !notice->agent || !*notice->agent)
        return;
    withdrawal = g_new(Withdrawal, 1);
    *withdrawal = (Withdrawal){.context = context,
                               .destination = g_strdup(notice->destination),
                               .agent = g_strdup(notice->agent),
                               .transaction = g_strdup(notice->transaction),
                               .guest_id = g_strdup(notice->guest_id),
                               .term = notice->term,
                               .until_ns = clock_now_ns() + notice->for_ms * 1000000ULL};
    agent_context_spawn_surely(context, "withdrawal", withdrawal_thread, withdrawal);
}
