#include "session_pair.h"

#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "loopback.h"

#define TIMEOUT_MS 10000
#define TRANSACTION "0123456789abcdef0123456789abcdef"

typedef struct {
    Listener listener;
    ChannelOptions options;
    gboolean joins;
    Session *session;
} Acceptance;

static Channel *accept_one(Acceptance *acceptance, const char *token, HelloMessage *hello)
{
    Channel *channel =
        channel_accept(listener_accept(&acceptance->listener), &acceptance->options, NULL);

    assert_non_null(channel);
    assert_true(handshake_accept(channel, token, hello, NULL, NULL));
    return channel;
}

static gpointer accept_main(gpointer data)
{
    Acceptance *acceptance = data;
    char token[HELLO_TOKEN_DIGITS + 1];
    HelloMessage hello = {0};
    Channel *channel;

    assert_true(session_make_token(token, NULL));
    channel = accept_one(acceptance, token, &hello);
    acceptance->session = session_new(channel, &hello, token);
    session_set_transaction(acceptance->session, TRANSACTION);
    hello_message_clear(&hello);
    if (acceptance->joins) {
        channel = accept_one(acceptance, token, &hello);
        assert_true(session_admit(acceptance->session, channel, &hello, NULL));
        hello_message_clear(&hello);
    }
    return NULL;
}

static Session *connect_client(const Acceptance *acceptance, TrafficClass traffic)
{
    ChannelOptions options = {.agent = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb", .instance = "client"};
    HelloMessage peer = {0};
    GError *error = NULL;
    Session *session =
        session_connect(acceptance->listener.address, &options, TIMEOUT_MS, NULL, &error);

    if (!session || !session_greet(session, "migrate", &peer, NULL, &error))
        fail_msg("%s", error->message);
    hello_message_clear(&peer);
    session_set_transaction(session, TRANSACTION);
    if (acceptance->joins && !session_join(session, traffic, &options, TIMEOUT_MS, NULL, &error))
        fail_msg("%s", error->message);
    return session;
}

void session_pair_open(SessionPair *pair, TrafficClass traffic)
{
    Acceptance acceptance = {
        .options = {.agent = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", .instance = "server"},
        .joins = traffic != TRAFFIC_CONTROL,
    };
    GThread *thread;

    listener_open(&acceptance.listener);
    thread = g_thread_new("accept", accept_main, &acceptance);
    pair->client = connect_client(&acceptance, traffic);
    g_thread_join(thread);
    pair->server = acceptance.session;
    listener_close(&acceptance.listener);
}

void session_pair_close(SessionPair *pair)
{
    g_clear_pointer(&pair->client, session_unref);
    g_clear_pointer(&pair->server, session_unref);
}
