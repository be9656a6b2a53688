/*
 * Channels that survive their connections: every frame once and in order over cuts at any moment, by
 * a close and by silence; who may take a connection's place; the end that is meant
 */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <poll.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/fd.h"
#include "session_ends.h"
#include "wire/channel_private.h"
#include "wire/messages.h"

#define OTHER_TRANSACTION "ffffffffffffffffffffffffffffffff"
#define PATIENCE_MS 20000
#define FRAMES 3000u
#define CUTS 25u

/* ---- a link that can be silent ---- */

/* Carries bytes between each connection to *listener* and *port*; what is cut stays open, and carries nothing
 * more. */
typedef struct {
    Listener listener;
    Listener *to;
    GThread *thread;
    GPtrArray *pairs;
    atomic_uint silent; /* the first so many connections are */
    atomic_bool closed; /* nobody is taken */
} Link;

typedef struct {
    Link *link;
    guint number;
    int a, b;
    GThread *thread;
} LinkPair;

static gboolean carry(int from, int to)
{
    uint8_t bytes[65536];
    ssize_t got = recv(from, bytes, sizeof bytes, MSG_DONTWAIT);

    if (got <= 0)
        return FALSE;
    for (ssize_t at = 0; at < got;) {
        ssize_t put = send(to, bytes + at, (size_t)(got - at), MSG_NOSIGNAL);

        if (put <= 0)
            return FALSE;
        at += put;
    }
    return TRUE;
}

static gpointer pair_main(gpointer data)
{
    LinkPair *pair = data;

    for (;;) {
        struct pollfd polls[] = {{.fd = pair->a, .events = POLLIN},
                                 {.fd = pair->b, .events = POLLIN}};

        poll(polls, 2, 20);
        if (atomic_load(&pair->link->silent) > pair->number) {
            clock_sleep_ns(5000000);
            if (!atomic_load(&pair->link->closed))
                continue;
            break;
        }
        if ((polls[0].revents && !carry(pair->a, pair->b)) ||
            (polls[1].revents && !carry(pair->b, pair->a)))
            break;
    }
    shutdown(pair->a, SHUT_RDWR);
    shutdown(pair->b, SHUT_RDWR);
    return NULL;
}

static gpointer link_main(gpointer data)
{
    Link *link = data;
    int fd;

    while ((fd = listener_accept(&link->listener)) >= 0) {
        LinkPair *pair = g_new(LinkPair, 1);

        *pair = (LinkPair){link, link->pairs->len, fd, raw_connect(link->to), NULL};
        pair->thread = g_thread_new("link", pair_main, pair);
        g_ptr_array_add(link->pairs, pair);
    }
    return NULL;
}

static void link_start(Link *link, Listener *to)
{
    *link = (Link){.to = to, .pairs = g_ptr_array_new()};
    listener_open(&link->listener);
    link->thread = g_thread_new("links", link_main, link);
}

static void link_end(Link *link)
{
    atomic_store(&link->closed, TRUE);
    shutdown(link->listener.fd, SHUT_RDWR);
    g_thread_join(link->thread);
    for (guint i = 0; i < link->pairs->len; i++) {
        LinkPair *pair = link->pairs->pdata[i];

        shutdown(pair->a, SHUT_RDWR);
        shutdown(pair->b, SHUT_RDWR);
        g_thread_join(pair->thread);
        close(pair->a);
        close(pair->b);
        g_free(pair);
    }
    g_ptr_array_unref(link->pairs);
    listener_close(&link->listener);
}

/* ---- both ends ---- */

static void allow(Ends *ends, guint patience_ms)
{
    session_allow_reconnect(ends->accepted, NULL, patience_ms);
    session_allow_reconnect(ends->client, &ends->options, patience_ms);
}

static void open_ends(Ends *ends, Fixture *fixture, guint patience_ms)
{
    ends_open(ends, fixture, 0);
    allow(ends, patience_ms);
}

/* Over *link*. */
static void open_linked(Ends *ends, Link *link, Fixture *fixture, int peer_timeout_ms,
                        guint patience_ms)
{
    g_autofree char *address = NULL;

    *ends = (Ends){.options = {.tls = fixture->client,
                               .peer_timeout_ms = peer_timeout_ms,
                               .agent = AGENT_B,
                               .instance = "client"}};
    server_start(&ends->server, fixture->server, peer_timeout_ms);
    link_start(link, &ends->server.listener);
    address = ends->server.listener.address;
    ends->server.listener.address = g_strdup(link->listener.address);
    ends_connect(ends);
    allow(ends, patience_ms);
}

static void cut(Session *session, TrafficClass traffic)
{
    Channel *channel = session_get_channel(session, traffic);

    g_mutex_lock(&channel->state_lock);
    shutdown(stream_get_fd(channel->stream), SHUT_RDWR);
    g_mutex_unlock(&channel->state_lock);
}

static void await_breaks(Session *session, guint breaks)
{
    uint64_t end = clock_now_ns() + TIMEOUT_MS * 1000000ULL;

    while (session_count_breaks(session) < breaks || session_is_broken(session)) {
        assert_true(clock_now_ns() < end);
        clock_sleep_ns(1000000);
    }
}

/* ---- numbers both ways ---- */

typedef struct {
    Session *session;
    TrafficClass traffic;
    guint frames;
    gboolean swaps; /* receives by channel_receive_swap() */
    atomic_uint done;
    GThread *thread;
} Worker;

static size_t length_of(uint32_t number)
{
    return number % 97 == 0 ? 900000 : 16 + number * 37 % 20000;
}

static gpointer send_main(gpointer data)
{
    Worker *worker = data;

    for (guint i = 0; i < worker->frames; i++) {
        send_ok(worker->session, worker->traffic, FRAME_PAGES, i, MAX(length_of(i), 24));
        atomic_store(&worker->done, i + 1);
    }
    return NULL;
}

static void receive_one(Worker *worker, uint8_t **buffer, size_t *capacity, Frame *frame)
{
    Channel *channel = session_get_channel(worker->session, worker->traffic);
    GError *error = NULL;

    if (!(worker->swaps ? channel_receive_swap(channel, TIMEOUT_MS, frame, buffer, capacity, &error)
                        : channel_receive(channel, TIMEOUT_MS, frame, &error)))
        fail_msg("frame %u: %s", atomic_load(&worker->done), error->message);
}

static gpointer receive_main(gpointer data)
{
    Worker *worker = data;
    g_autofree uint8_t *buffer = NULL;
    size_t capacity = 0;

    for (uint32_t i = 0; i < worker->frames; i++) {
        Frame frame;

        receive_one(worker, &buffer, &capacity, &frame);
        assert_int_equal(frame.type, FRAME_PAGES);
        assert_int_equal(frame.length, MAX(length_of(i), 24));
        assert_memory_equal(frame.payload, &i, sizeof i);
        for (size_t k = sizeof i; k < frame.length; k++)
            assert_int_equal(frame.payload[k], 0);
        atomic_store(&worker->done, i + 1);
    }
    return NULL;
}

/* Frames and cuts: none is lost, doubled or damaged, in either direction and on a joined channel. */
static void test_cuts_at_any_moment(void **state)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(3);
    Worker workers[6];
    Session *ends_of[2];
    guint breaks = 0;
    Ends ends;

    open_ends(&ends, *state, PATIENCE_MS);
    ends_join(&ends, TRAFFIC_DISK);
    ends_of[0] = ends.client;
    ends_of[1] = ends.accepted;
    for (guint i = 0; i < 6; i++) {
        TrafficClass traffic = i < 4 ? TRAFFIC_CONTROL : TRAFFIC_DISK;

        workers[i] = (Worker){.session = ends_of[i / 2 % 2 == (i & 1)],
                              .traffic = traffic,
                              .frames = FRAMES,
                              .swaps = i == 1 || i == 5};
        workers[i].thread = g_thread_new("worker", i & 1 ? receive_main : send_main, &workers[i]);
    }
    for (guint i = 0; i < CUTS; i++) {
        clock_sleep_ns((uint64_t)g_rand_int_range(rand, 1000000, 30000000));
        cut(ends_of[g_rand_int_range(rand, 0, 2)], i % 3 == 0 ? TRAFFIC_DISK : TRAFFIC_CONTROL);
    }
    for (guint i = 0; i < 6; i++) {
        g_thread_join(workers[i].thread);
        assert_int_equal(workers[i].done, FRAMES);
    }
    breaks = session_count_breaks(ends.client);
    assert_true(breaks >= 1);
    ends_close(&ends);
}

/* A sender that nobody disturbs fills what may be kept, and reads the confirmations itself. */
static void test_confirmations_without_a_receiver(void **state)
{
    Worker receiver;
    Ends ends;

    open_ends(&ends, *state, PATIENCE_MS);
    receiver = (Worker){.session = ends.accepted, .traffic = TRAFFIC_CONTROL, .frames = 150};
    receiver.thread = g_thread_new("receiver", receive_main, &receiver);
    for (guint i = 0; i < receiver.frames; i++)
        send_ok(ends.client, TRAFFIC_CONTROL, FRAME_PAGES, i, MAX(length_of(i), 24));
    g_thread_join(receiver.thread);
    assert_int_equal(receiver.done, receiver.frames);
    ends_close(&ends);
}

static void test_what_is_sent_meanwhile(void **state)
{
    Ends ends;

    open_ends(&ends, *state, PATIENCE_MS);
    for (guint round = 0; round < 3; round++) {
        cut(ends.client, TRAFFIC_CONTROL);
        for (guint i = 0; i < 20; i++)
            send_ok(ends.client, TRAFFIC_CONTROL, FRAME_PAGES, i, 100);
        send_ok(ends.accepted, TRAFFIC_CONTROL, FRAME_PAGES, 77, 100);
        for (guint i = 0; i < 20; i++)
            expect_number(ends.accepted, TRAFFIC_CONTROL, FRAME_PAGES, i);
        expect_number(ends.client, TRAFFIC_CONTROL, FRAME_PAGES, 77);
        await_breaks(ends.client, round + 1);
    }
    ends_close(&ends);
}

/* A link that drops everything: nobody is told, the side that connects finds out. */
static void test_silence(void **state)
{
    uint64_t begun;
    Link link;
    Ends ends;

    open_linked(&ends, &link, *state, 2000, PATIENCE_MS);
    send_ok(ends.client, TRAFFIC_CONTROL, FRAME_PAGES, 1, 100);
    expect_number(ends.accepted, TRAFFIC_CONTROL, FRAME_PAGES, 1);
    begun = clock_now_ns();
    atomic_store(&link.silent, 1);
    send_ok(ends.client, TRAFFIC_CONTROL, FRAME_PAGES, 2, 100);
    expect_number(ends.accepted, TRAFFIC_CONTROL, FRAME_PAGES, 2);
    assert_true(clock_now_ns() - begun >= 400000000);
    await_breaks(ends.accepted, 1);
    send_ok(ends.accepted, TRAFFIC_CONTROL, FRAME_PAGES, 3, 100);
    expect_number(ends.client, TRAFFIC_CONTROL, FRAME_PAGES, 3);
    ends_close(&ends);
    link_end(&link);
}

/* ---- when it is over ---- */

static void expect_failed(Session *session, VmferryErrorCode code, const char *words)
{
    uint64_t end = clock_now_ns() + TIMEOUT_MS * 1000000ULL;
    GError *error = NULL;
    Frame frame;

    assert_false(session_receive(session, TRAFFIC_CONTROL, TIMEOUT_MS, &frame, &error));
    expect_error(error, code, words);
    while (send_number(session, TRAFFIC_CONTROL, FRAME_PAGES, 1, 100, NULL)) {
        assert_true(clock_now_ns() < end);
        clock_sleep_ns(1000000);
    }
}

static void test_patience_ends(void **state)
{
    uint64_t begun = clock_now_ns();
    Link link;
    Ends ends;

    open_linked(&ends, &link, *state, 1000, 2500);
    atomic_store(&link.silent, 1000);
    expect_failed(ends.client, VMFERRY_ERROR_DISCONNECTED, "tried to connect again for ");
    assert_true(clock_now_ns() - begun >= 2400000000);
    expect_failed(ends.accepted, VMFERRY_ERROR_DISCONNECTED, "was silent");
    ends_close(&ends);
    link_end(&link);
}

/* The other side has given it up, or was restarted: told at once. */
static void test_stale_session(void **state)
{
    uint64_t begun;
    Ends ends;

    open_ends(&ends, *state, PATIENCE_MS);
    session_set_transaction(ends.accepted, OTHER_TRANSACTION);
    begun = clock_now_ns();
    cut(ends.client, TRAFFIC_CONTROL);
    expect_failed(ends.client, VMFERRY_ERROR_REFUSED, "nothing here that this peer could join");
    assert_true(clock_now_ns() - begun < 5000000000);
    session_set_patience(ends.accepted, 0);
    ends_close(&ends);
}

static void test_an_end_that_is_meant(void **state)
{
    GError *error = NULL;
    uint64_t begun;
    Ends ends;
    Frame frame;

    open_ends(&ends, *state, PATIENCE_MS);
    begun = clock_now_ns();
    g_clear_pointer(&ends.server.session, session_unref);
    g_clear_pointer(&ends.accepted, session_unref);
    assert_false(session_receive(ends.client, TRAFFIC_CONTROL, TIMEOUT_MS, &frame, &error));
    expect_error(error, VMFERRY_ERROR_DISCONNECTED, "closed the connection");
    assert_true(clock_now_ns() - begun < 3000000000);
    assert_int_equal(session_count_breaks(ends.client), 0);
    ends_close(&ends);
}

/* What the peer said last is why, for who sends as for who receives. */
static void test_the_peers_error_is_final(void **state)
{
    for (guint sends = 0; sends < 2; sends++) {
        g_autoptr(GError) cause = NULL;
        GError *error = NULL;
        Frame frame;
        Ends ends;

        open_ends(&ends, *state, PATIENCE_MS);
        error_set(&cause, VMFERRY_ERROR_FAILED, "no room left");
        session_send_error(ends.accepted, cause);
        g_clear_pointer(&ends.server.session, session_unref);
        g_clear_pointer(&ends.accepted, session_unref);
        if (sends) {
            while (send_number(ends.client, TRAFFIC_CONTROL, FRAME_PAGES, 1, 100000, &error))
                ;
        } else {
            assert_true(session_receive(ends.client, TRAFFIC_CONTROL, TIMEOUT_MS, &frame, &error));
            session_error_from_frame(ends.client, &frame, &error);
        }
        expect_error(error, VMFERRY_ERROR_FAILED, "no room left");
        ends_close(&ends);
    }
}

static void test_shutdown_ends_a_break(void **state)
{
    uint64_t begun;
    GError *error = NULL;
    Frame frame;
    Ends ends;

    open_ends(&ends, *state, PATIENCE_MS);
    shutdown(ends.server.listener.fd, SHUT_RDWR);
    cut(ends.client, TRAFFIC_CONTROL);
    assert_false(session_receive(ends.client, TRAFFIC_CONTROL, 100, &frame, &error));
    expect_error(error, VMFERRY_ERROR_TIMEOUT, "no answer in time");
    begun = clock_now_ns();
    error = NULL;
    session_shutdown(ends.client);
    assert_false(session_receive(ends.client, TRAFFIC_CONTROL, TIMEOUT_MS, &frame, &error));
    expect_error(error, VMFERRY_ERROR_CANCELLED, "shut down");
    ends_close(&ends);
    assert_true(clock_now_ns() - begun < 3000000000);
}

/* ---- strangers ---- */

static void expect_refused(Ends *ends, TlsIdentity *tls, const char *agent, const char *instance,
                           const char *token)
{
    ChannelOptions options = {.tls = tls, .agent = agent, .instance = instance};
    g_autoptr(Channel) channel =
        channel_connect(ends->server.listener.address, &options, TIMEOUT_MS, NULL, NULL);
    HelloMessage hello = {0};
    GError *error = NULL;
    Frame frame;

    assert_non_null(channel);
    assert_true(handshake_reconnect(channel, TRANSACTION, TRAFFIC_CONTROL, 0, token, &hello, NULL));
    assert_false(channel_expect(channel, FRAME_RECONNECT, TIMEOUT_MS, &frame, &error));
    expect_error(error, VMFERRY_ERROR_REFUSED, "nothing here that this peer could join");
    hello_message_clear(&hello);
}

static void test_strangers(void **state)
{
    static const char wrong[] = "00000000000000000000000000000000"
                                "00000000000000000000000000000000";
    Fixture *fixture = *state;
    const char *token;
    Ends ends;

    open_ends(&ends, fixture, PATIENCE_MS);
    token = session_get_channel(ends.client, TRAFFIC_CONTROL)->redial->token;
    expect_refused(&ends, fixture->stranger, AGENT_B, "client", token);
    expect_refused(&ends, fixture->client, AGENT_A, "client", token);
    expect_refused(&ends, fixture->client, AGENT_B, "restarted", token);
    expect_refused(&ends, fixture->client, AGENT_B, "client", wrong);
    send_ok(ends.client, TRAFFIC_CONTROL, FRAME_PAGES, 5, 100);
    expect_number(ends.accepted, TRAFFIC_CONTROL, FRAME_PAGES, 5);
    assert_int_equal(session_count_breaks(ends.accepted), 0);
    ends_close(&ends);
}

/* A peer that claims to have what was never sent. */
static void test_false_numbers(void **state)
{
    uint8_t payload[FRAME_RECEIVED_BYTES];
    GError *error = NULL;
    Frame frame;
    Ends ends;

    open_ends(&ends, *state, PATIENCE_MS);
    received_frame_encode((uint64_t)1 << 40, payload);
    assert_true(session_send_bytes(ends.accepted, FRAME_RECEIVED, payload, sizeof payload, NULL));
    assert_false(session_receive(ends.client, TRAFFIC_CONTROL, TIMEOUT_MS, &frame, &error));
    expect_error(error, VMFERRY_ERROR_INVALID, "confirms what was not sent");
    ends_close(&ends);
}

/* ---- what must not hang ---- */

static gpointer fill_main(gpointer data)
{
    Worker *worker = data;

    while (send_number(worker->session, worker->traffic, FRAME_PAGES, 1, 100000, NULL))
        atomic_fetch_add(&worker->done, 1);
    return NULL;
}

static gpointer allow_main(gpointer data)
{
    Worker *worker = data;

    session_allow_reconnect(worker->session, NULL, PATIENCE_MS);
    atomic_store(&worker->done, 1);
    return NULL;
}

/* A sender that is stuck has its channel's send_lock: who looks for a session does not wait for it. */
static void test_a_stuck_sender_holds_nobody(void **state)
{
    Worker fill, allow;
    Channel *deaf;
    Ends ends;

    ends_open(&ends, *state, 0);
    ends_join(&ends, TRAFFIC_DISK);
    deaf = session_get_channel(ends.client, TRAFFIC_DISK);
    g_mutex_lock(&deaf->receive_lock);
    fill = allow = (Worker){.session = ends.accepted, .traffic = TRAFFIC_DISK};
    fill.thread = g_thread_new("fill", fill_main, &fill);
    for (guint before = 0; before == 0 || before != atomic_load(&fill.done);) {
        before = atomic_load(&fill.done);
        clock_sleep_ns(200000000);
    }
    allow.thread = g_thread_new("allow", allow_main, &allow);
    clock_sleep_ns(200000000);
    assert_true(session_has_transaction(ends.accepted, TRANSACTION));
    g_mutex_unlock(&deaf->receive_lock);
    session_shutdown(ends.accepted);
    g_thread_join(fill.thread);
    g_thread_join(allow.thread);
    ends_close(&ends);
}

static void wait_until_stuck(Worker *worker)
{
    for (guint before = 0; before == 0 || before != atomic_load(&worker->done);) {
        before = atomic_load(&worker->done);
        clock_sleep_ns(200000000);
    }
}

/* Its socket is full, and nobody receives: renewed, it sends on, beyond what is kept otherwise, and nothing is lost. */
static void test_renewing_frees_a_sender(void **state)
{
    Worker sender, receiver;
    g_autoptr(GError) cause = NULL;
    Channel *deaf;
    guint stuck;
    Link link;
    Ends ends;

    open_linked(&ends, &link, *state, 5000, PATIENCE_MS);
    deaf = session_get_channel(ends.accepted, TRAFFIC_CONTROL);
    sender = receiver = (Worker){.traffic = TRAFFIC_CONTROL, .frames = 12000};
    sender.session = ends.client;
    receiver.session = ends.accepted;
    g_mutex_lock(&deaf->receive_lock);
    sender.thread = g_thread_new("sender", send_main, &sender);
    wait_until_stuck(&sender);
    stuck = atomic_load(&sender.done);
    assert_true(stuck < sender.frames);
    atomic_store(&link.silent, 1000); /* nor does a new one come */
    error_set(&cause, VMFERRY_ERROR_DISCONNECTED, "renewed");
    session_renew(ends.client, cause);
    g_thread_join(sender.thread);
    assert_int_equal(sender.done, sender.frames);
    assert_true(session_is_broken(ends.client));
    atomic_store(&link.silent, 0);
    g_mutex_unlock(&deaf->receive_lock);
    receiver.thread = g_thread_new("receiver", receive_main, &receiver);
    g_thread_join(receiver.thread);
    ends_close(&ends);
    link_end(&link);
}

/* PREPARE on its way is none any more; one that has come stays what it is. */
static void test_revoking(void **state)
{
    g_autoptr(GError) cause = NULL;
    Channel *channel;
    uint64_t position;
    Frame frame;
    Link link;
    Ends ends;

    open_linked(&ends, &link, *state, 5000, PATIENCE_MS);
    channel = session_get_channel(ends.client, TRAFFIC_CONTROL);
    error_set(&cause, VMFERRY_ERROR_DISCONNECTED, "renewed");
    for (guint arrives = 0; arrives < 2; arrives++) {
        int blocker;

        send_ok(ends.client, TRAFFIC_CONTROL, FRAME_PAGES, 1, 100);
        expect_number(ends.accepted, TRAFFIC_CONTROL, FRAME_PAGES, 1);
        if (!arrives)
            atomic_store(&link.silent, 1);
        position = channel_get_position(channel);
        assert_true(session_send_bytes(ends.client, FRAME_PREPARE, NULL, 0, NULL));
        if (arrives)
            assert_true(session_expect(ends.accepted, FRAME_PREPARE, TIMEOUT_MS, &frame, NULL));
        /* Nobody comes through meanwhile. */
        blocker = raw_connect(&ends.server.listener);
        session_renew(ends.client, cause);
        channel_revoke(channel, position, FRAME_PREPARE, FRAME_RETRACT);
        close(blocker);
        send_ok(ends.client, TRAFFIC_CONTROL, FRAME_PAGES, 2, 100);
        if (!arrives) {
            assert_true(session_expect(ends.accepted, FRAME_RETRACT, TIMEOUT_MS, &frame, NULL));
            assert_int_equal(frame.length, 0);
        }
        expect_number(ends.accepted, TRAFFIC_CONTROL, FRAME_PAGES, 2);
        await_breaks(ends.client, arrives + 1);
    }
    ends_close(&ends);
    link_end(&link);
}

/* What has been told as received is final: a connection that breaks again before the answer leaves nothing
 * behind that is read on. */
static void test_frozen(void **state)
{
    ChannelOptions plain = {.peer_timeout_ms = 1000};
    Channel *accepted, *dead;
    GError *error = NULL;
    Frame frame;
    int pair[2];
    Ends ends;

    open_ends(&ends, *state, PATIENCE_MS);
    accepted = session_get_channel(ends.accepted, TRAFFIC_CONTROL);
    shutdown(ends.server.listener.fd, SHUT_RDWR); /* it does not come back */
    cut(ends.accepted, TRAFFIC_CONTROL);
    while (!channel_is_broken(accepted))
        send_number(ends.accepted, TRAFFIC_CONTROL, FRAME_PAGES, 1, 100, NULL);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    dead = channel_accept(pair[0], &plain, NULL);
    assert_non_null(dead);
    close(pair[1]);
    channel_take_over(accepted, dead, accepted->counted_bytes);
    for (gboolean frozen = FALSE; !frozen;) {
        g_mutex_lock(&accepted->receive_lock);
        frozen = accepted->frozen;
        /* As if the old connection had more. */
        if (frozen)
            assert_false(channel_pump_locked(accepted, 1));
        g_mutex_unlock(&accepted->receive_lock);
    }
    assert_false(session_receive(ends.accepted, TRAFFIC_CONTROL, 300, &frame, &error));
    expect_error(error, VMFERRY_ERROR_TIMEOUT, "no answer in time");
    session_shutdown(ends.client);
    session_shutdown(ends.accepted);
    ends_close(&ends);
}

/* The last word of a session whose connection breaks just then. */
static void test_flush(void **state)
{
    Worker receiver;
    Ends ends;

    open_ends(&ends, *state, PATIENCE_MS);
    receiver = (Worker){.session = ends.client, .traffic = TRAFFIC_CONTROL, .frames = 1};
    receiver.thread = g_thread_new("receiver", receive_main, &receiver);
    cut(ends.accepted, TRAFFIC_CONTROL);
    send_ok(ends.accepted, TRAFFIC_CONTROL, FRAME_PAGES, 0, length_of(0));
    assert_true(session_flush(ends.accepted, TIMEOUT_MS));
    g_clear_pointer(&ends.server.session, session_unref);
    g_clear_pointer(&ends.accepted, session_unref);
    g_thread_join(receiver.thread);
    assert_int_equal(receiver.done, 1);
    ends_close(&ends);
}

#define RECONNECT_TEST(function)                                                                   \
    cmocka_unit_test_setup_teardown(function, ends_set_up, ends_tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        RECONNECT_TEST(test_what_is_sent_meanwhile),
        RECONNECT_TEST(test_cuts_at_any_moment),
        RECONNECT_TEST(test_confirmations_without_a_receiver),
        RECONNECT_TEST(test_silence),
        RECONNECT_TEST(test_patience_ends),
        RECONNECT_TEST(test_stale_session),
        RECONNECT_TEST(test_an_end_that_is_meant),
        RECONNECT_TEST(test_the_peers_error_is_final),
        RECONNECT_TEST(test_shutdown_ends_a_break),
        RECONNECT_TEST(test_a_stuck_sender_holds_nobody),
        RECONNECT_TEST(test_renewing_frees_a_sender),
        RECONNECT_TEST(test_revoking),
        RECONNECT_TEST(test_frozen),
        RECONNECT_TEST(test_flush),
        RECONNECT_TEST(test_strangers),
        RECONNECT_TEST(test_false_numbers),
    };

    alarm(TEST_DEADLINE_S);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
