#include "migrate/witness_client.h"

#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/lock_guard.h"
#include "wire/messages.h"

#define NS_PER_MS ((uint64_t)1000000)

typedef struct {
    Witness base;
    char *address, *agent;
    gboolean (*get_channel)(ChannelOptions *ret, gpointer user, GError **error);
    gpointer user;

    GMutex lock;      /* held for a call; protects all below */
    Channel *channel; /* NULL: not connected */
    char *reached;    /* agent id, or NULL */
    uint64_t number;
} WitnessClient;

static void disconnect(WitnessClient *client)
{
    g_clear_pointer(&client->channel, channel_free);
}

static int left_ms(uint64_t end_ns)
{
    uint64_t now = clock_now_ns();

    return now < end_ns ? (int)((end_ns - now + NS_PER_MS - 1) / NS_PER_MS) : 0;
}

static gboolean check_agent(WitnessClient *client, const char *agent, GError **error)
{
    g_free(client->reached);
    client->reached = g_strdup(agent);
    if (!client->agent || g_strcmp0(client->agent, agent) == 0)
        return TRUE;
    error_set(error, VMFERRY_ERROR_REFUSED,
              "another agent than the one that is the witness, or its state directory is new");
    return FALSE;
}

static gboolean connect_to_witness(WitnessClient *client, uint64_t end_ns, GError **error)
{
    ChannelOptions options = {0};
    g_autoptr(Channel) channel = NULL;
    HelloMessage peer = {0};
    gboolean right;

    if (!client->get_channel(&options, client->user, error))
        return FALSE;
    if (options.peer_timeout_ms == 0)
        options.peer_timeout_ms = WITNESS_PEER_TIMEOUT_MS;
    channel = channel_connect(client->address, &options, MAX(left_ms(end_ns), 1), NULL, error);
    if (!channel || !handshake_connect(channel, "witness", &peer, NULL, error))
        return FALSE;
    right = check_agent(client, peer.agent, error);
    hello_message_clear(&peer);
    if (right)
        client->channel = g_steal_pointer(&channel);
    return right;
}

static gboolean send_request(WitnessClient *client, WitnessRequest *request, GError **error)
{
    g_autofree char *text = NULL;

    request->number = ++client->number;
    text = witness_request_encode(request);
    return channel_send_bytes(client->channel, FRAME_WITNESS_REQUEST, text, strlen(text), error);
}

static gboolean receive_answer(WitnessClient *client, uint64_t end_ns, WitnessAnswer *ret,
                               GError **error)
{
    Frame frame;

    if (!channel_expect(client->channel, FRAME_WITNESS_ANSWER, left_ms(end_ns), &frame, error) ||
        !witness_answer_decode((const char *)frame.payload, frame.length, ret, error))
        return FALSE;
    if (ret->number == client->number)
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "it has answered what was not asked");
    witness_answer_clear(ret);
    return FALSE;
}

/* FALSE: not answered, and not connected any more. */
static gboolean exchange(WitnessClient *client, WitnessRequest *request, uint64_t end_ns,
                         uint64_t *ret_sent_ns, WitnessAnswer *ret, GError **error)
{
    if (!client->channel && !connect_to_witness(client, end_ns, error))
        return FALSE;
    *ret_sent_ns = clock_boot_ns();
    if (send_request(client, request, error) && receive_answer(client, end_ns, ret, error))
        return TRUE;
    /* What is under way on it counts for nothing behind what is said on a later one: closed at once. */
    channel_shutdown(client->channel);
    disconnect(client);
    return FALSE;
}

static gboolean exchange_surely(WitnessClient *client, const WitnessRequest *request,
                                int timeout_ms, uint64_t *ret_sent_ns, WitnessAnswer *ret,
                                GError **error)
{
    uint64_t end_ns = clock_now_ns() + (uint64_t)timeout_ms * NS_PER_MS;
    gboolean was_connected = client->channel != NULL;
    g_autoptr(GError) failure = NULL;
    WitnessRequest numbered = *request;

    if (exchange(client, &numbered, end_ns, ret_sent_ns, ret, &failure))
        return TRUE;
    if (was_connected && error_is(failure, VMFERRY_ERROR_DISCONNECTED) && left_ms(end_ns) > 0)
        return exchange(client, &numbered, end_ns, ret_sent_ns, ret, error);
    g_propagate_error(error, g_steal_pointer(&failure));
    return FALSE;
}

static gboolean call(Witness *witness, const WitnessRequest *request, int timeout_ms,
                     WitnessReply *ret, GError **error)
{
    WitnessClient *client = (WitnessClient *)witness;
    g_auto(WitnessAnswer) answer = {0};
    lock_guard(&client->lock);

    *ret = (WitnessReply){0};
    if (!exchange_surely(client, request, timeout_ms, &ret->sent_ns, &answer, error)) {
        g_prefix_error(error, "witness %s: ", client->address);
        return FALSE;
    }
    ret->answered = TRUE;
    ret->state = answer.state;
    ret->lease_ms = answer.lease_ms;
    ret->wait_ms = answer.wait_ms;
    if (!answer.refusal)
        return TRUE;
    g_propagate_prefixed_error(error, g_steal_pointer(&answer.refusal),
                               "witness %s: ", client->address);
    return FALSE;
}

static void client_free(Witness *witness)
{
    WitnessClient *client = (WitnessClient *)witness;

    disconnect(client);
    g_mutex_clear(&client->lock);
    g_free(client->address);
    g_free(client->agent);
    g_free(client->reached);
    g_free(client);
}

Witness *witness_client_new(const WitnessClientOptions *options)
{
    static const WitnessOps ops = {.call = call, .free = client_free};
    WitnessClient *client = g_new0(WitnessClient, 1);

    client->base.ops = &ops;
    client->address = g_strdup(options->address);
    client->agent = g_strdup(options->agent);
    client->get_channel = options->get_channel;
    client->user = options->user;
    g_mutex_init(&client->lock);
    return &client->base;
}

char *witness_client_get_agent(Witness *witness)
{
    WitnessClient *client = (WitnessClient *)witness;
    lock_guard(&client->lock);

    return g_strdup(client->reached);
}
