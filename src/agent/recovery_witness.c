/*
 * The witness of a split guest, for a source whose agent was restarted or whose move has ended
 * (docs/witness.md)
 */
#include "agent/recovery_private.h"
#include "base/log.h"
#include "migrate/witness_open.h"

#define ASK_TIMEOUT_MS 1000

static gboolean get_channel(ChannelOptions *ret, gpointer context, GError **error)
{
    return agent_context_get_channel_options(context, ret, error);
}

static Witness *get_witness(Recovery *recovery, const GuestRecord *record)
{
    WitnessClientOptions options = {record->store, record->store_agent, get_channel,
                                    recovery->context};

    if (!recovery->witness && record->lease_ms > 0)
        recovery->witness = witness_new(&options);
    return recovery->witness;
}

TakeoverGate *recovery_get_gate(Recovery *recovery, const GuestRecord *record)
{
    Witness *witness = get_witness(recovery, record);

    if (!recovery->gate && witness && record->deltas)
        recovery->gate = takeover_gate_new(witness, record->transaction, record->lease_ms, TRUE);
    return recovery->gate;
}

gboolean recovery_try_gate(Recovery *recovery, const GuestRecord *record)
{
    TakeoverGate *gate = recovery_get_gate(recovery, record);
    g_autoptr(GError) error = NULL;
    guint wait_ms;

    if (!gate)
        return FALSE;
    if (takeover_gate_try(gate, ASK_TIMEOUT_MS, &wait_ms, &error) == TAKEOVER_TAKEN)
        return TRUE;
    log_debug("guest %s: not taken over: %s", record->name, error->message);
    return FALSE;
}

gboolean recovery_is_alone_there(Recovery *recovery, const GuestRecord *record)
{
    Witness *witness = get_witness(recovery, record);
    WitnessReply reply = {0};

    if (!witness)
        return FALSE;
    return witness_ask(witness, WITNESS_ASK, record->transaction, ASK_TIMEOUT_MS, &reply, NULL) &&
           reply.state == WITNESS_DESTINATION_ALONE;
}

void recovery_forget_witness(Recovery *recovery, const GuestRecord *record)
{
    Witness *witness = get_witness(recovery, record);
    g_autoptr(GError) error = NULL;

    if (witness &&
        !witness_ask(witness, WITNESS_FORGET, record->transaction, ASK_TIMEOUT_MS, NULL, &error))
        log_debug("guest %s: its witness keeps its record: %s", record->name, error->message);
    recovery_leave_witness(recovery);
}

gboolean recovery_give_back_witness(Recovery *recovery, const GuestRecord *record, GError **error)
{
    TakeoverGate *gate = recovery_get_gate(recovery, record);

    return !gate || takeover_gate_settle(gate, ASK_TIMEOUT_MS, error);
}

void recovery_leave_witness(Recovery *recovery)
{
    g_clear_pointer(&recovery->gate, takeover_gate_free);
    g_clear_pointer(&recovery->witness, witness_free);
}
