/*
 * The witness of a guest that is to be split, at its source (docs/witness.md)
 *
 * The store's agent is the witness, too.  The transaction is registered before the pause, so that a move
 * whose witness does not answer fails before anything has happened to the guest.  From START on the
 * destination's guest runs by leases, and the gate decides whether this side may take it over.
 */
#include "migrate/source_move.h"

#include "base/error.h"
#include "base/fault.h"
#include "base/log.h"
#include "migrate/witness_open.h"
#include "policy/lease.h"

#define REGISTER_TIMEOUT_MS 3000
#define FORGET_TIMEOUT_MS 1000

gboolean source_is_witnessed(const SourceMove *move)
{
    return source_is_protected(move) && *move->job->options.store;
}

static gboolean get_channel(ChannelOptions *ret, gpointer user, GError **error)
{
    *ret = ((SourceMove *)user)->job->channel;
    return TRUE;
}

static gboolean say(SourceMove *move, GError **error)
{
    Channel *peer = session_get_channel(move->session, TRAFFIC_CONTROL);
    WitnessRequest request = {
        .kind = WITNESS_REGISTER,
        .transaction = move->transaction,
        .guest = (char *)move->job->guest,
        .guest_id = (char *)move->job->guest_id,
        .term = move->job->term + 1,
        .destination = move->peer.agent,
        .destination_name =
            channel_get_peer_certificate(peer) ? (char *)channel_get_peer_name(peer) : (char *)"",
        .lease_ms = LEASE_DEFAULT_MS,
    };

    return witness_call(move->witness, &request, REGISTER_TIMEOUT_MS, NULL, error);
}

gboolean source_register_witness(SourceMove *move, GError **error)
{
    const MigrateSourceHost *host = &move->job->host;
    WitnessClientOptions options = {
        .address = move->job->options.store, .get_channel = get_channel, .user = move};

    if (!source_is_witnessed(move))
        return TRUE;
    options.agent = source_store_get_agent(move);
    move->witness = witness_new(&options);
    if (fault_point("source.register", error) || !say(move, error)) {
        g_prefix_error(error, "the witness %s: ", options.address);
        return FALSE;
    }
    move->gate = takeover_gate_new(move->witness, move->transaction, LEASE_DEFAULT_MS, FALSE);
    host->note_witness(options.address, options.agent, LEASE_DEFAULT_MS, host->user);
    return TRUE;
}

void source_forget_witness(SourceMove *move)
{
    g_autoptr(GError) error = NULL;

    if (move->gate && !witness_ask(move->witness, WITNESS_FORGET, move->transaction,
                                   FORGET_TIMEOUT_MS, NULL, &error))
        log_debug("guest %s: its witness keeps its record: %s", move->job->guest, error->message);
    source_leave_witness(move);
}

void source_leave_witness(SourceMove *move)
{
    g_clear_pointer(&move->gate, takeover_gate_free);
    g_clear_pointer(&move->witness, witness_free);
}
