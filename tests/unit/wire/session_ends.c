#include "session_ends.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "wire/messages.h"
#include "wire/pki.h"

/* ---- certificates ---- */

static TlsIdentity *issue(const char *folder, const char *name)
{
    static const char *const names[] = {"127.0.0.1", NULL};
    g_autofree char *ca = g_build_filename(folder, "ca", NULL);
    g_autofree char *host = g_build_filename(folder, name, NULL);
    GError *error = NULL;
    TlsIdentity *identity;

    pki_issue(ca, name, names, 10, host, &error);
    assert_null(error);
    identity = tls_identity_load(host, &error);
    assert_null(error);
    return identity;
}

int ends_set_up(void **state)
{
    Fixture *fixture = g_new0(Fixture, 1);
    g_autofree char *ca = NULL;

    fixture->folder = folder_new();
    ca = g_build_filename(fixture->folder, "ca", NULL);
    assert_true(pki_init(ca, 30, NULL));
    fixture->server = issue(fixture->folder, "server");
    fixture->client = issue(fixture->folder, "client");
    fixture->stranger = issue(fixture->folder, "stranger");
    *state = fixture;
    return 0;
}

int ends_tear_down(void **state)
{
    Fixture *fixture = *state;

    tls_identity_unref(fixture->server);
    tls_identity_unref(fixture->client);
    tls_identity_unref(fixture->stranger);
    folder_remove(fixture->folder);
    g_free(fixture);
    return 0;
}

/* ---- both ends ---- */

static void serve_channel(Server *server, Channel *channel, const HelloMessage *hello,
                          gboolean (*admit)(Session *, Channel *, const HelloMessage *, GError **))
{
    /* The test may end its own before this thread is through. */
    g_autoptr(Session) session = session_ref(server->session);
    g_autoptr(GError) error = NULL;

    if (admit(session, channel, hello, &error))
        return;
    channel_send_error(channel, error);
    channel_free(channel);
}

static gboolean readmit(Session *session, Channel *channel, const HelloMessage *hello,
                        GError **error)
{
    SessionReturn returned;

    if (!session_await_return(session, channel, hello, &returned, error))
        return FALSE;
    session_readmit(session, &returned, channel);
    return TRUE;
}

static void serve_one(Server *server, int fd)
{
    char token[HELLO_TOKEN_DIGITS + 1];
    Channel *channel = channel_accept(fd, &server->options, NULL);
    HelloMessage hello = {0};

    assert_true(session_make_token(token, NULL));
    if (!channel ||
        !handshake_accept(channel, server->gives_no_token ? NULL : token, &hello, NULL, NULL)) {
        channel_free(channel);
        return;
    }
    if (strcmp(hello.purpose, "join") == 0) {
        serve_channel(server, channel, &hello, session_admit);
    } else if (strcmp(hello.purpose, "reconnect") == 0) {
        serve_channel(server, channel, &hello, readmit);
    } else {
        server->session = session_new(channel, &hello, server->gives_no_token ? NULL : token);
        session_set_transaction(server->session, TRANSACTION);
        g_async_queue_push(server->begun, session_ref(server->session));
    }
    hello_message_clear(&hello);
}

static gpointer server_main(gpointer data)
{
    Server *server = data;
    int fd;

    while ((fd = listener_accept(&server->listener)) >= 0)
        serve_one(server, fd);
    return NULL;
}

void server_start(Server *server, TlsIdentity *tls, int peer_timeout_ms)
{
    server->options = (ChannelOptions){
        .tls = tls, .peer_timeout_ms = peer_timeout_ms, .agent = AGENT_A, .instance = "server"};
    server->begun = g_async_queue_new();
    listener_open(&server->listener);
    server->thread = g_thread_new("server", server_main, server);
}

void server_end(Server *server)
{
    if (!server->thread)
        return;
    shutdown(server->listener.fd, SHUT_RDWR);
    g_thread_join(server->thread);
    server->thread = NULL;
    session_unref(server->session);
    listener_close(&server->listener);
    g_async_queue_unref(server->begun);
}

void ends_connect(Ends *ends)
{
    GError *error = NULL;
    HelloMessage peer = {0};

    ends->client =
        session_connect(ends->server.listener.address, &ends->options, TIMEOUT_MS, NULL, &error);
    if (!ends->client || !session_greet(ends->client, "migrate", &peer, NULL, &error))
        fail_msg("%s", error->message);
    session_set_transaction(ends->client, TRANSACTION);
    ends->accepted = g_async_queue_pop(ends->server.begun);
    hello_message_clear(&peer);
}

void ends_open(Ends *ends, Fixture *fixture, int peer_timeout_ms)
{
    *ends = (Ends){.options = {.tls = fixture->client,
                               .peer_timeout_ms = peer_timeout_ms,
                               .agent = AGENT_B,
                               .instance = "client"}};
    server_start(&ends->server, fixture->server, peer_timeout_ms);
    ends_connect(ends);
}

void ends_close(Ends *ends)
{
    g_clear_pointer(&ends->client, session_unref);
    g_clear_pointer(&ends->accepted, session_unref);
    server_end(&ends->server);
}

void ends_join(Ends *ends, TrafficClass traffic)
{
    GError *error = NULL;

    if (!session_join(ends->client, traffic, &ends->options, TIMEOUT_MS, NULL, &error) ||
        !session_await_channel(ends->accepted, traffic, TIMEOUT_MS, &error))
        fail_msg("%s", error->message);
}

/* ---- frames with a number ---- */

gboolean send_number(Session *session, TrafficClass traffic, FrameType type, uint32_t number,
                     size_t length, GError **error)
{
    g_autofree uint8_t *payload = g_malloc0(length);
    struct iovec piece = {payload, length};

    memcpy(payload, &number, sizeof number);
    return session_send_as(session, traffic, type, &piece, 1, error);
}

void send_ok(Session *session, TrafficClass traffic, FrameType type, uint32_t number, size_t length)
{
    GError *error = NULL;

    if (!send_number(session, traffic, type, number, length, &error))
        fail_msg("%s", error->message);
}

void expect_number(Session *session, TrafficClass traffic, FrameType type, uint32_t number)
{
    GError *error = NULL;
    Frame frame;

    if (!session_receive(session, traffic, TIMEOUT_MS, &frame, &error))
        fail_msg("%s", error->message);
    assert_int_equal(frame.type, type);
    assert_memory_equal(frame.payload, &number, sizeof number);
}

void expect_error(GError *error, VmferryErrorCode code, const char *words)
{
    assert_non_null(error);
    if (!error_is(error, code) || !strstr(error->message, words))
        fail_msg("expected %s with \"%s\", got %s: %s", vmferry_error_code_name(code), words,
                 vmferry_error_code_name((VmferryErrorCode)error->code), error->message);
    g_error_free(error);
}
