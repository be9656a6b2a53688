/*
 * Channels over a loopback socket, plain and TLS: each test runs twice
 */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "loopback.h"
#include "wire/channel_private.h"
#include "wire/messages.h"

#define SHORT_TIMEOUT_MS 600
#define LIVELY_TIMEOUT_MS 2000 /* a peer that lives keeps it on a busy machine, too */

typedef struct {
    char *folder;
    TlsIdentity *tls; /* NULL: plain */
} Fixture;

static int set_up_plain(void **state)
{
    *state = g_new0(Fixture, 1);
    return 0;
}

static int set_up_tls(void **state)
{
    Fixture *fixture = g_new0(Fixture, 1);

    fixture->folder = folder_new();
    fixture->tls = folder_make_identity(fixture->folder, "ca");
    *state = fixture;
    return 0;
}

static int tear_down(void **state)
{
    Fixture *fixture = *state;

    tls_identity_unref(fixture->tls);
    if (fixture->folder)
        folder_remove(fixture->folder);
    g_free(fixture);
    return 0;
}

static void expect_error(GError *error, VmferryErrorCode code, const char *words)
{
    assert_non_null(error);
    if (!error_is(error, code) || !strstr(error->message, words))
        fail_msg("expected %s with \"%s\", got %s: %s", vmferry_error_code_name(code), words,
                 vmferry_error_code_name((VmferryErrorCode)error->code), error->message);
    g_error_free(error);
}

static void send_ok(Channel *channel, FrameType type, const void *data, size_t length)
{
    GError *error = NULL;

    if (!channel_send_bytes(channel, type, data, length, &error))
        fail_msg("send: %s", error->message);
}

static Frame expect_ok(Channel *channel, FrameType type)
{
    GError *error = NULL;
    Frame frame;

    if (!channel_expect(channel, type, 10000, &frame, &error))
        fail_msg("expect: %s", error->message);
    return frame;
}

/* ---- frames ---- */

static void test_frames_arrive_whole(void **state)
{
    Fixture *fixture = *state;
    struct iovec pieces[] = {{"ab", 2}, {NULL, 0}, {"cd", 2}};
    GError *error = NULL;
    Frame frame;
    Pair pair;

    pair_open(&pair, fixture->tls, 0);
    assert_int_equal(channel_is_secure(pair.client), fixture->tls != NULL);
    assert_string_equal(channel_get_peer_name(pair.client),
                        fixture->tls ? "localhost" : "127.0.0.1");
    assert_true(channel_send(pair.client, FRAME_EPOCH_APPLIED, pieces, 3, &error));
    send_ok(pair.client, FRAME_PREPARE, NULL, 0);
    frame = expect_ok(pair.server, FRAME_EPOCH_APPLIED);
    assert_int_equal(frame.length, 4);
    assert_memory_equal(frame.payload, "abcd", 4);
    expect_ok(pair.server, FRAME_PREPARE);
    send_ok(pair.server, FRAME_READY, "{}", 2);
    expect_ok(pair.client, FRAME_READY);
    assert_true(channel_get_sent_bytes(pair.client) >= 28);
    assert_int_equal(channel_get_sent_bytes(pair.client) > 28, fixture->tls != NULL);
    pair_close(&pair);
}

static void test_limits_hold_for_the_sender(void **state)
{
    Fixture *fixture = *state;
    g_autofree char *big = g_malloc0(70000);
    GError *error = NULL;
    Pair pair;

    pair_open(&pair, fixture->tls, 0);
    assert_false(channel_send_bytes(pair.client, FRAME_HELLO, big, 70000, &error));
    expect_error(error, VMFERRY_ERROR_INVALID, "HELLO frame of 70000 bytes");
    send_ok(pair.client, FRAME_PREPARE, NULL, 0);
    expect_ok(pair.server, FRAME_PREPARE);
    pair_close(&pair);
}

static void test_expect_names_the_wrong_frame(void **state)
{
    Fixture *fixture = *state;
    GError *error = NULL;
    Frame frame;
    Pair pair;

    pair_open(&pair, fixture->tls, 0);
    send_ok(pair.client, FRAME_PREPARE, NULL, 0);
    assert_false(channel_expect(pair.server, FRAME_STARTED, 10000, &frame, &error));
    expect_error(error, VMFERRY_ERROR_INVALID, "sent PREPARE where STARTED was expected");
    pair_close(&pair);
}

static void test_receive_time_out_leaves_it_usable(void **state)
{
    Fixture *fixture = *state;
    GError *error = NULL;
    Frame frame;
    Pair pair;

    pair_open(&pair, fixture->tls, 0);
    assert_false(channel_expect(pair.server, FRAME_STARTED, 20, &frame, &error));
    expect_error(error, VMFERRY_ERROR_TIMEOUT, "waiting for STARTED: ");
    send_ok(pair.client, FRAME_STARTED, NULL, 0);
    expect_ok(pair.server, FRAME_STARTED);
    pair_close(&pair);
}

static void test_errors_travel(void **state)
{
    Fixture *fixture = *state;
    g_autoptr(GError) cause =
        g_error_new(VMFERRY_ERROR, VMFERRY_ERROR_NO_SPACE, "guest web1: no memory\033[2J here");
    GError *error = NULL;
    Frame frame;
    Pair pair;

    pair_open(&pair, fixture->tls, 0);
    channel_send_error(pair.server, cause);
    channel_send_abort(pair.client, cause);
    assert_false(channel_expect(pair.client, FRAME_READY, 10000, &frame, &error));
    expect_error(error, VMFERRY_ERROR_NO_SPACE, ": guest web1: no memory?[2J here");
    error = NULL;
    assert_false(channel_expect(pair.server, FRAME_STARTED, 10000, &frame, &error));
    expect_error(error, VMFERRY_ERROR_NO_SPACE, "guest web1");
    pair_close(&pair);
}

/* What is sent right before closing arrives, though the closing side has
 * unread bytes, for which the kernel resets the connection. */
static void test_last_frame_survives_close(void **state)
{
    Fixture *fixture = *state;
    GError *error = NULL;
    Frame frame;
    Pair pair;

    pair_open(&pair, fixture->tls, 0);
    for (int i = 0; i < 100; i++)
        send_ok(pair.client, FRAME_EPOCH_APPLIED, "1234", 4);
    send_ok(pair.server, FRAME_STARTED, NULL, 0);
    g_clear_pointer(&pair.server, channel_free);
    expect_ok(pair.client, FRAME_STARTED);
    assert_false(channel_receive(pair.client, 10000, &frame, &error));
    assert_true(error_is(error, VMFERRY_ERROR_DISCONNECTED));
    g_error_free(error);
    pair_close(&pair);
}

/* A source that streams pages learns why the destination gave up. */
static void test_failed_send_tells_the_peers_reason(void **state)
{
    Fixture *fixture = *state;
    g_autofree uint8_t *pages = g_malloc0(frame_payload_limit(FRAME_PAGES));
    g_autoptr(GError) cause = g_error_new(VMFERRY_ERROR, VMFERRY_ERROR_NO_SPACE, "out of memory");
    GError *error = NULL;
    Pair pair;

    pair_open(&pair, fixture->tls, 0);
    send_ok(pair.server, FRAME_EPOCH_APPLIED, "1234", 4);
    channel_send_error(pair.server, cause);
    g_clear_pointer(&pair.server, channel_free);
    while (channel_send_bytes(pair.client, FRAME_PAGES, pages, frame_payload_limit(FRAME_PAGES),
                              &error))
        ;
    expect_error(error, VMFERRY_ERROR_NO_SPACE, ": out of memory");
    pair_close(&pair);
}

/* ---- strangers ---- */

/* Sends these bytes on a raw socket to a plain channel. */
static GError *receive_from_stranger(const void *bytes, size_t length)
{
    Acceptor acceptor;
    GError *error = NULL;
    Frame frame;
    int fd;

    acceptor_start(&acceptor, NULL, 0);
    fd = raw_connect(&acceptor.listener);
    assert_int_equal(write(fd, bytes, length), length);
    acceptor_join(&acceptor);
    assert_non_null(acceptor.channel);
    assert_false(channel_receive(acceptor.channel, 10000, &frame, &error));
    close(fd);
    acceptor_end(&acceptor);
    return error;
}

static void test_wrong_magic(void **state)
{
    expect_error(receive_from_stranger("GET / HTTP/1.1\r\n", 16), VMFERRY_ERROR_INVALID,
                 "127.0.0.1: not a vmferry frame");
}

static void test_oversize_frame(void **state)
{
    static const uint8_t header[] = {'V', 'M', 'F', '1', 1, 0, 0, 0, 0, 0, 2, 0};

    expect_error(receive_from_stranger(header, sizeof header), VMFERRY_ERROR_INVALID,
                 "HELLO frame of 131072 bytes");
}

static void test_unknown_frame(void **state)
{
    static const uint8_t header[] = {'V', 'M', 'F', '1', 99, 0, 0, 0, 0, 0, 0, 0};

    expect_error(receive_from_stranger(header, sizeof header), VMFERRY_ERROR_INVALID,
                 "unknown type 99");
}

/* ---- HELLO ---- */

static gpointer accept_hello_main(gpointer data)
{
    GError *error = NULL;

    handshake_accept(data, NULL, NULL, NULL, &error);
    return error;
}

static void test_hello_agrees(void **state)
{
    Fixture *fixture = *state;
    HelloMessage peer = {0};
    GError *error = NULL;
    guint version = 0;
    GThread *thread;
    Pair pair;

    pair_open(&pair, fixture->tls, 0);
    thread = g_thread_new("accept", accept_hello_main, pair.server);
    assert_true(handshake_connect(pair.client, "migrate", &peer, &version, &error));
    assert_null(g_thread_join(thread));
    assert_int_equal(version, PROTOCOL_VERSION);
    assert_true(g_str_has_prefix(peer.software, "vmferry "));
    assert_true(peer_has_feature(&peer, FEATURE_PAGES_LZ4));
    assert_true(peer_has_feature(&peer, FEATURE_PAGES_ZSTD));
    assert_true(peer_has_feature(&peer, FEATURE_SEGMENTS));
    hello_message_clear(&peer);
    pair_close(&pair);
}

/* Connects with *ours* to an agent that is *theirs*; what handshake_connect() says. */
static gboolean meet(Fixture *fixture, const char *ours, const char *theirs, GError **error)
{
    ChannelOptions options = {.tls = fixture->tls, .instance = ours};
    Acceptor acceptor;
    GThread *thread;
    Channel *channel;
    gboolean met;

    acceptor_start(&acceptor, fixture->tls, 0);
    acceptor.options.instance = theirs;
    channel = channel_connect(acceptor.listener.address, &options, 10000, NULL, error);
    assert_non_null(channel);
    acceptor_join(&acceptor);
    thread = g_thread_new("accept", accept_hello_main, acceptor.channel);
    met = handshake_connect(channel, "migrate", NULL, NULL, error);
    assert_null(g_thread_join(thread));
    channel_free(channel);
    acceptor_end(&acceptor);
    return met;
}

static void test_hello_of_ourselves(void **state)
{
    Fixture *fixture = *state;
    GError *error = NULL;

    assert_true(meet(fixture, "one", "other", NULL));
    assert_true(meet(fixture, "one", NULL, NULL));
    assert_true(meet(fixture, NULL, NULL, NULL));
    assert_false(meet(fixture, "one", "one", &error));
    expect_error(error, VMFERRY_ERROR_REFUSED, "is this host itself");
}

static void test_hello_of_another_version(void **state)
{
    static char *no_features[] = {NULL};
    HelloMessage future = {.version_min = 7,
                           .version_max = 9,
                           .features = no_features,
                           .software = (char *)"vmferry 9",
                           .purpose = (char *)"migrate"};
    Fixture *fixture = *state;
    g_autofree char *text = hello_message_encode(&future);
    GError *error = NULL;
    Frame frame;
    Pair pair;

    pair_open(&pair, fixture->tls, 0);
    send_ok(pair.client, FRAME_HELLO, text, strlen(text));
    assert_false(handshake_accept(pair.server, NULL, NULL, NULL, &error));
    expect_error(error, VMFERRY_ERROR_UNSUPPORTED, "vmferry 9 there speaks versions 7 to 9");
    error = NULL;
    assert_false(channel_expect(pair.client, FRAME_HELLO, 10000, &frame, &error));
    expect_error(error, VMFERRY_ERROR_UNSUPPORTED, "update the older side");
    pair_close(&pair);
}

/* ---- life and death ---- */

static void test_heartbeat_keeps_an_idle_channel(void **state)
{
    Fixture *fixture = *state;
    GError *error = NULL;
    Frame frame;
    Pair pair;

    pair_open(&pair, fixture->tls, SHORT_TIMEOUT_MS);
    assert_false(channel_receive(pair.server, 3 * SHORT_TIMEOUT_MS, &frame, &error));
    expect_error(error, VMFERRY_ERROR_TIMEOUT, "no answer in time");
    send_ok(pair.server, FRAME_STARTED, NULL, 0);
    expect_ok(pair.client, FRAME_STARTED);
    pair_close(&pair);
}

/* A peer that holds the connection open and says nothing. */
static void test_silent_peer_is_given_up(void **state)
{
    Listener listener;
    ChannelOptions options = {.peer_timeout_ms = SHORT_TIMEOUT_MS};
    GError *error = NULL;
    uint64_t start = clock_now_ns();
    Channel *channel;
    Frame frame;

    listener_open(&listener);
    channel = channel_connect(listener.address, &options, 10000, NULL, &error);
    assert_non_null(channel);
    assert_false(channel_receive(channel, -1, &frame, &error));
    expect_error(error, VMFERRY_ERROR_DISCONNECTED, "has been silent for 0.6 s");
    assert_true(clock_ns_to_ms(clock_now_ns() - start) < 20 * SHORT_TIMEOUT_MS);
    error = NULL;
    assert_false(channel_send_bytes(channel, FRAME_PREPARE, NULL, 0, &error));
    expect_error(error, VMFERRY_ERROR_DISCONNECTED, "has been silent");
    channel_free(channel);
    listener_close(&listener);
}

static gpointer heartbeats_main(gpointer data)
{
    static const uint8_t heartbeat[] = {'V', 'M', 'F', '1', 15, 0, 0, 0, 0, 0, 0, 0};
    int fd = GPOINTER_TO_INT(data);

    while (send(fd, heartbeat, sizeof heartbeat, MSG_NOSIGNAL) > 0)
        clock_sleep_ns(40000000);
    return NULL;
}

/* A peer that is alive and takes nothing: the sender must not wait for ever. */
static void test_sender_is_not_blocked_for_ever(void **state)
{
    g_autofree uint8_t *pages = g_malloc0(frame_payload_limit(FRAME_PAGES));
    ChannelOptions options = {.peer_timeout_ms = SHORT_TIMEOUT_MS / 4};
    GError *error = NULL;
    Listener listener;
    Channel *channel;
    GThread *peer;
    int fd;

    listener_open(&listener);
    channel = channel_connect(listener.address, &options, 10000, NULL, &error);
    assert_non_null(channel);
    fd = listener_accept(&listener);
    peer = g_thread_new("peer", heartbeats_main, GINT_TO_POINTER(fd));
    while (
        channel_send_bytes(channel, FRAME_PAGES, pages, frame_payload_limit(FRAME_PAGES), &error))
        ;
    /* The kernel's user time-out and ours race. */
    assert_true(error_is(error, VMFERRY_ERROR_DISCONNECTED));
    g_error_free(error);
    channel_free(channel);
    shutdown(fd, SHUT_RDWR);
    g_thread_join(peer);
    close(fd);
    listener_close(&listener);
}

/* A peer that is busy elsewhere for longer than the peer time-out, and lives:
 * our frames fill its buffer, and its heartbeats go on. */
static gpointer slow_receive_main(gpointer data)
{
    Frame frame;

    clock_sleep_ns(2 * LIVELY_TIMEOUT_MS * 1000000ULL);
    while (channel_receive(data, -1, &frame, NULL) && frame.type != FRAME_PREPARE)
        ;
    return NULL;
}

static void test_slow_peer_is_waited_for(void **state)
{
    Fixture *fixture = *state;
    g_autofree uint8_t *pages = g_malloc0(frame_payload_limit(FRAME_PAGES));
    GThread *thread;
    Pair pair;

    pair_open(&pair, fixture->tls, LIVELY_TIMEOUT_MS);
    thread = g_thread_new("slow", slow_receive_main, pair.server);
    for (int i = 0; i < 40; i++)
        send_ok(pair.client, FRAME_PAGES, pages, frame_payload_limit(FRAME_PAGES));
    send_ok(pair.client, FRAME_PREPARE, NULL, 0);
    g_thread_join(thread);
    pair_close(&pair);
}

/* What arrived before the peer fell silent is not lost. */
static void test_frames_of_a_dead_peer_are_received(void **state)
{
    static const uint8_t started[] = {'V', 'M', 'F', '1', 12, 0, 0, 0, 0, 0, 0, 0};
    ChannelOptions options = {.peer_timeout_ms = SHORT_TIMEOUT_MS};
    GError *error = NULL;
    Listener listener;
    Channel *channel;
    Frame frame;
    int fd;

    listener_open(&listener);
    channel = channel_connect(listener.address, &options, 10000, NULL, &error);
    assert_non_null(channel);
    fd = listener_accept(&listener);
    assert_int_equal(send(fd, started, sizeof started, 0), sizeof started);
    while (channel_check(channel, NULL))
        clock_sleep_ns(10000000);
    expect_ok(channel, FRAME_STARTED);
    assert_false(channel_receive(channel, -1, &frame, &error));
    expect_error(error, VMFERRY_ERROR_DISCONNECTED, "has been silent");
    channel_free(channel);
    close(fd);
    listener_close(&listener);
}

static gpointer receive_main(gpointer data)
{
    GError *error = NULL;
    Frame frame;

    channel_receive(data, -1, &frame, &error);
    return error;
}

static void test_shutdown_wakes_all(void **state)
{
    Fixture *fixture = *state;
    GError *error = NULL;
    GThread *thread;
    Frame frame;
    Pair pair;

    pair_open(&pair, fixture->tls, 0);
    thread = g_thread_new("receive", receive_main, pair.client);
    channel_shutdown(pair.client);
    expect_error(g_thread_join(thread), VMFERRY_ERROR_CANCELLED, "shut down on this side");
    assert_false(channel_send_bytes(pair.client, FRAME_STARTED, NULL, 0, &error));
    expect_error(error, VMFERRY_ERROR_CANCELLED, "shut down on this side");
    error = NULL;
    assert_false(channel_receive(pair.server, 10000, &frame, &error));
    assert_true(error_is(error, VMFERRY_ERROR_DISCONNECTED));
    g_error_free(error);
    pair_close(&pair);
}

static void test_pair_of_unix_sockets(void **state)
{
    ChannelOptions options = {0};
    GError *error = NULL;
    Pair pair;
    int fds[2];

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    pair.client = channel_accept(fds[0], &options, &error);
    pair.server = channel_accept(fds[1], &options, &error);
    assert_null(error);
    send_ok(pair.client, FRAME_STARTED, NULL, 0);
    expect_ok(pair.server, FRAME_STARTED);
    pair_close(&pair);
}

/* Two channels one after the other count in the same place, which knows both directions. */
static void test_traffic(void **state)
{
    static const uint8_t payload[1000];
    ChannelTraffic here = {0}, there = {0};
    ChannelOptions options = {.traffic = &here}, peer_options = {.traffic = &there};
    uint64_t sent = 0, received = 0;

    for (guint i = 0; i < 2; i++) {
        Pair pair;
        int fds[2];

        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
        pair.client = channel_accept(fds[0], &options, NULL);
        pair.server = channel_accept(fds[1], &peer_options, NULL);
        send_ok(pair.client, FRAME_STARTED, NULL, 0);
        assert_true(channel_send_bytes(pair.client, FRAME_PAGES, payload, sizeof payload, NULL));
        expect_ok(pair.server, FRAME_STARTED);
        expect_ok(pair.server, FRAME_PAGES);
        sent += channel_get_sent_bytes(pair.client);
        received += channel_get_received_bytes(pair.server);
        pair_close(&pair);
    }
    assert_true(atomic_load(&here.sent_bytes) >= sent && sent >= 2 * sizeof payload);
    assert_true(atomic_load(&there.received_bytes) >= received && received >= 2 * sizeof payload);
    assert_true(atomic_load(&here.received_bytes) < sizeof payload);
}

/* ---- bulk ---- */

#define BULK_THREADS 3
#define BULK_FRAMES 60

/* Page data that tells where it belongs, in pieces of awkward sizes. */
typedef struct {
    Channel *channel;
    uint8_t fill;
} BulkSender;

static gpointer bulk_send_main(gpointer data)
{
    BulkSender *sender = data;
    size_t length = frame_payload_limit(FRAME_PAGES);
    g_autofree uint8_t *pages = g_malloc(length);
    GError *error = NULL;

    memset(pages, sender->fill, length);
    for (guint i = 0; i < BULK_FRAMES && !error; i++) {
        size_t size = length - i * 977;
        struct iovec pieces[] = {
            {pages, 8}, {pages, 16 * i}, {pages, 40000}, {pages, size - 40008 - 16 * i}};

        channel_send(sender->channel, FRAME_PAGES, pieces, 4, &error);
    }
    return error;
}

static void check_bulk_frame(const Frame *frame)
{
    assert_int_equal(frame->type, FRAME_PAGES);
    assert_int_equal((frame_payload_limit(FRAME_PAGES) - frame->length) % 977, 0);
    assert_true(frame->payload[0] >= 1 && frame->payload[0] <= 2 * BULK_THREADS);
    /* All bytes are the same as the one before. */
    assert_memory_equal(frame->payload, frame->payload + 1, frame->length - 1);
}

static gpointer bulk_receive_main(gpointer data)
{
    GError *error = NULL;
    Frame frame;

    for (guint i = 0; i < BULK_THREADS * BULK_FRAMES; i++) {
        if (!channel_receive(data, -1, &frame, &error))
            return error;
        check_bulk_frame(&frame);
    }
    return NULL;
}

static void run_bulk(Pair *pair)
{
    BulkSender senders[2 * BULK_THREADS];
    GThread *threads[2 * BULK_THREADS];
    GThread *receivers[2];

    receivers[0] = g_thread_new("receive", bulk_receive_main, pair->client);
    receivers[1] = g_thread_new("receive", bulk_receive_main, pair->server);
    for (guint i = 0; i < G_N_ELEMENTS(senders); i++) {
        senders[i] = (BulkSender){i % 2 ? pair->client : pair->server, (uint8_t)(i + 1)};
        threads[i] = g_thread_new("send", bulk_send_main, &senders[i]);
    }
    for (guint i = 0; i < G_N_ELEMENTS(senders); i++)
        assert_null(g_thread_join(threads[i]));
    assert_null(g_thread_join(receivers[0]));
    assert_null(g_thread_join(receivers[1]));
}

static void test_bulk_both_ways(void **state)
{
    Fixture *fixture = *state;
    Pair pair;

    pair_open(&pair, fixture->tls, 0);
    run_bulk(&pair);
    pair_close(&pair);
}

static gpointer drain_main(gpointer data)
{
    Frame frame;

    while (channel_receive(data, -1, &frame, NULL) && frame.type != FRAME_PREPARE)
        ;
    return NULL;
}

/* 4 MB at 8 MB/s: half a second, however noisy the machine not much less. */
static void test_rate_cap(void **state)
{
    Fixture *fixture = *state;
    g_autofree uint8_t *pages = g_malloc0(1000000);
    uint64_t start, ns;
    GThread *thread;
    Pair pair;

    pair_open(&pair, fixture->tls, 0);
    thread = g_thread_new("drain", drain_main, pair.server);
    channel_set_rate(pair.client, 8000000);
    start = clock_now_ns();
    for (int i = 0; i < 4; i++)
        send_ok(pair.client, FRAME_PAGES, pages, 1000000);
    ns = clock_now_ns() - start;
    assert_true(clock_ns_to_ms(ns) > 440);
    assert_true(clock_ns_to_ms(ns) < 5000);
    send_ok(pair.client, FRAME_PREPARE, NULL, 0);
    g_thread_join(thread);
    pair_close(&pair);
}

/* ---- connecting ---- */

static void test_nobody_listens(void **state)
{
    ChannelOptions options = {0};
    g_autofree char *words = NULL;
    GError *error = NULL;
    Listener listener;

    listener_open(&listener);
    fd_close(&listener.fd);
    words = g_strdup_printf("cannot reach %s: Connection refused; is `vmferry agent` running",
                            listener.address);
    assert_null(channel_connect(listener.address, &options, 10000, NULL, &error));
    expect_error(error, VMFERRY_ERROR_REFUSED, words);
    listener_close(&listener);
}

static void test_connect_is_cancellable(void **state)
{
    g_autoptr(GCancellable) cancellable = g_cancellable_new();
    ChannelOptions options = {0};
    GError *error = NULL;
    Listener listener;

    listener_open(&listener);
    g_cancellable_cancel(cancellable);
    assert_null(channel_connect(listener.address, &options, 10000, cancellable, &error));
    expect_error(error, VMFERRY_ERROR_CANCELLED, "cannot reach 127.0.0.1:");
    listener_close(&listener);
}

static void test_bad_addresses(void **state)
{
    static const char *const bad[] = {"",       ":1",   "host:",  "host:0", "host:65536",
                                      "host:x", "[::1", "[::1]x", "a b",    "host/x"};
    ChannelOptions options = {0};

    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        GError *error = NULL;

        assert_null(channel_connect(bad[i], &options, 1000, NULL, &error));
        expect_error(error, VMFERRY_ERROR_INVALID, "is not a valid address");
    }
}

#define BOTH(test)                                                                                 \
    {#test " (plain)", test, set_up_plain, tear_down, NULL},                                       \
    {                                                                                              \
#test " (TLS)", test, set_up_tls, tear_down, NULL                                          \
    }

int main(void)
{
    const struct CMUnitTest tests[] = {
        BOTH(test_frames_arrive_whole),
        BOTH(test_limits_hold_for_the_sender),
        BOTH(test_expect_names_the_wrong_frame),
        BOTH(test_receive_time_out_leaves_it_usable),
        BOTH(test_errors_travel),
        BOTH(test_last_frame_survives_close),
        BOTH(test_failed_send_tells_the_peers_reason),
        BOTH(test_hello_agrees),
        BOTH(test_hello_of_ourselves),
        BOTH(test_hello_of_another_version),
        BOTH(test_heartbeat_keeps_an_idle_channel),
        BOTH(test_slow_peer_is_waited_for),
        BOTH(test_shutdown_wakes_all),
        BOTH(test_bulk_both_ways),
        BOTH(test_rate_cap),
        cmocka_unit_test(test_wrong_magic),
        cmocka_unit_test(test_oversize_frame),
        cmocka_unit_test(test_unknown_frame),
        cmocka_unit_test(test_silent_peer_is_given_up),
        cmocka_unit_test(test_frames_of_a_dead_peer_are_received),
        cmocka_unit_test(test_sender_is_not_blocked_for_ever),
        cmocka_unit_test(test_pair_of_unix_sockets),
        cmocka_unit_test(test_traffic),
        cmocka_unit_test(test_nobody_listens),
        cmocka_unit_test(test_connect_is_cancellable),
        cmocka_unit_test(test_bad_addresses),
    };

    alarm(TEST_DEADLINE_S);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
