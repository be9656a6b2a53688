/*
 * Sessions over loopback, with real TLS: who may join, what that changes, how they end
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
#include "session_ends.h"
#include "wire/channel_private.h"
#include "wire/pki.h"
#include "wire/messages.h"
#include "wire/session.h"

#define SETTLED_NS 400000000ULL /* several heartbeats' time */
#define PAGES_BYTES 100000u
#define OTHER_TRANSACTION "ffffffffffffffffffffffffffffffff"
#define AGENT_C "cccccccccccccccccccccccccccccccc"

/* Nothing more goes and comes, by any of the classes. */
static void expect_ended(Session *session)
{
    uint64_t end = clock_now_ns() + TIMEOUT_MS * 1000000ULL;

    for (guint i = 0; i < TRAFFIC_CLASSES; i++) {
        while (send_number(session, (TrafficClass)i, FRAME_EPOCH_SEAL, 0, 12, NULL)) {
            assert_true(clock_now_ns() < end);
            clock_sleep_ns(1000000);
        }
    }
    assert_false(session_await_channel(session, TRAFFIC_CHECKPOINT, TIMEOUT_MS, NULL));
}

/* ---- what a session does ---- */

/* Without a join it is one FIFO, both ways. */
static void test_one_channel(void **state)
{
    Ends ends;

    ends_open(&ends, *state, 0);
    for (guint i = 0; i < TRAFFIC_CLASSES; i++)
        assert_ptr_equal(session_get_channel(ends.client, (TrafficClass)i),
                         session_get_channel(ends.client, TRAFFIC_CONTROL));
    send_ok(ends.client, TRAFFIC_BULK, FRAME_PAGES, 1, 100);
    send_ok(ends.client, TRAFFIC_FAULT, FRAME_PAGES, 2, 100);
    send_ok(ends.client, TRAFFIC_CONTROL, FRAME_EPOCH_SEAL, 3, 12);
    expect_number(ends.accepted, TRAFFIC_CONTROL, FRAME_PAGES, 1);
    expect_number(ends.accepted, TRAFFIC_FAULT, FRAME_PAGES, 2);
    expect_number(ends.accepted, TRAFFIC_BULK, FRAME_EPOCH_SEAL, 3);
    send_ok(ends.accepted, TRAFFIC_CONTROL, FRAME_EPOCH_APPLIED, 3, 4);
    expect_number(ends.client, TRAFFIC_CONTROL, FRAME_EPOCH_APPLIED, 3);
    ends_close(&ends);
}

/* Each class in its own order, by its own channel, both ways. */
static void test_order_of_each_channel(void **state)
{
    static const TrafficClass joined[] = {TRAFFIC_BULK, TRAFFIC_FAULT, TRAFFIC_CHECKPOINT};
    uint64_t before;
    Ends ends;

    ends_open(&ends, *state, 0);
    for (guint i = 0; i < G_N_ELEMENTS(joined); i++)
        ends_join(&ends, joined[i]);
    before = channel_get_sent_bytes(session_get_channel(ends.client, TRAFFIC_CONTROL));
    for (guint i = 0; i < 50; i++)
        for (guint k = 0; k < G_N_ELEMENTS(joined); k++)
            send_ok(ends.client, joined[k], FRAME_PAGES, 1000 * k + i, 100);
    session_send_bytes(ends.client, FRAME_EPOCH_SEAL, "\1\0\0\0\0\0\0\0\0\0\0", 12,
                       NULL); /* bulk by the table */
    for (guint i = 0; i < 50; i++)
        send_ok(ends.client, TRAFFIC_CONTROL, FRAME_EPOCH_APPLIED, i, 4);
    for (guint i = 0; i < 50; i++)
        expect_number(ends.accepted, TRAFFIC_CONTROL, FRAME_EPOCH_APPLIED, i);
    for (guint k = G_N_ELEMENTS(joined); k-- > 0;)
        for (guint i = 0; i < 50; i++)
            expect_number(ends.accepted, joined[k], FRAME_PAGES, 1000 * k + i);
    expect_number(ends.accepted, TRAFFIC_BULK, FRAME_EPOCH_SEAL, 1);
    assert_true(channel_get_sent_bytes(session_get_channel(ends.client, TRAFFIC_CONTROL)) - before <
                15000);
    assert_true(session_get_sent_bytes(ends.client) - before > 15000);
    for (guint k = 0; k < G_N_ELEMENTS(joined); k++)
        send_ok(ends.accepted, joined[k], FRAME_PAGES, k, 100);
    for (guint k = 0; k < G_N_ELEMENTS(joined); k++)
        expect_number(ends.client, joined[k], FRAME_PAGES, k);
    ends_close(&ends);
}

typedef struct {
    Session *session;
    guint frames;
    _Atomic guint sent;
    GError *error;
} BulkSender;

static gpointer bulk_main(gpointer data)
{
    BulkSender *sender = data;

    for (guint i = 0; i < sender->frames && !sender->error; i++)
        if (send_number(sender->session, TRAFFIC_BULK, FRAME_PAGES, i, PAGES_BYTES, &sender->error))
            atomic_fetch_add(&sender->sent, 1);
    return NULL;
}

/* Sends until the peer's and our buffers are full. */
static GThread *fill_bulk(BulkSender *sender, Session *session)
{
    GThread *thread;
    guint sent;

    *sender = (BulkSender){.session = session, .frames = 1000};
    thread = g_thread_new("bulk", bulk_main, sender);
    do {
        sent = atomic_load(&sender->sent);
        clock_sleep_ns(100000000);
    } while (sent == 0 || sent != atomic_load(&sender->sent));
    assert_true(sent < sender->frames);
    return thread;
}

/* A page that somebody waits for, and control, pass a bulk channel that takes nothing. */
static void test_urgent_passes_full_bulk(void **state)
{
    BulkSender sender;
    GThread *thread;
    Ends ends;

    ends_open(&ends, *state, 0);
    ends_join(&ends, TRAFFIC_BULK);
    ends_join(&ends, TRAFFIC_FAULT);
    thread = fill_bulk(&sender, ends.client);
    send_ok(ends.client, TRAFFIC_FAULT, FRAME_PAGES, 7, 4200);
    expect_number(ends.accepted, TRAFFIC_FAULT, FRAME_PAGES, 7);
    send_ok(ends.client, TRAFFIC_CONTROL, FRAME_EPOCH_APPLIED, 8, 4);
    expect_number(ends.accepted, TRAFFIC_CONTROL, FRAME_EPOCH_APPLIED, 8);
    assert_true(atomic_load(&sender.sent) < sender.frames);
    for (guint i = 0; i < sender.frames; i++)
        expect_number(ends.accepted, TRAFFIC_BULK, FRAME_PAGES, i);
    g_thread_join(thread);
    assert_null(sender.error);
    ends_close(&ends);
}

/* What passes by one channel counts against the bulk on another. */
/* Pages that a thread waits for do not wait for the turn of bulk, and are counted. */
static void test_faults_are_answered(void **state)
{
    const uint64_t rate = 50000;
    uint64_t start;
    Ends ends;

    ends_open(&ends, *state, 0);
    ends_join(&ends, TRAFFIC_FAULT);
    session_set_rate(ends.client, rate);
    send_ok(ends.client, TRAFFIC_BULK, FRAME_PAGES, 1, (size_t)rate / 2); /* nothing is saved up */
    start = clock_now_ns();
    for (uint32_t i = 0; i < 10; i++) {
        send_ok(ends.accepted, TRAFFIC_FAULT, FRAME_WANT, i, 16);
        expect_number(ends.client, TRAFFIC_FAULT, FRAME_WANT, i);
        send_ok(ends.client, TRAFFIC_FAULT, FRAME_PAGES, i, 5000);
        expect_number(ends.accepted, TRAFFIC_FAULT, FRAME_PAGES, i);
    }
    assert_true(clock_now_ns() - start < 500000000ULL);
    /* Over loopback, and far below the second that bulk waits for. */
    assert_in_range(channel_get_round_trip_ns(session_get_channel(ends.client, TRAFFIC_FAULT)), 1,
                    900000000ULL);
    send_ok(ends.client, TRAFFIC_BULK, FRAME_PAGES, 2, 1000);
    assert_true(clock_now_ns() - start > 900000000ULL);
    ends_close(&ends);
}

static void test_rate_is_of_all(void **state)
{
    BulkSender sender = {.frames = 1};
    uint64_t start;
    Ends ends;

    ends_open(&ends, *state, 0);
    ends_join(&ends, TRAFFIC_BULK);
    sender.session = ends.client;
    session_set_rate(ends.client, 1000000);
    send_ok(ends.client, TRAFFIC_FAULT, FRAME_PAGES, 1, 500000);
    start = clock_now_ns();
    bulk_main(&sender);
    assert_null(sender.error);
    assert_true(clock_ns_to_ms(clock_now_ns() - start) > 400);
    expect_number(ends.accepted, TRAFFIC_FAULT, FRAME_PAGES, 1);
    expect_number(ends.accepted, TRAFFIC_BULK, FRAME_PAGES, 0);
    ends_close(&ends);
}

/* Disks have a channel like any other class. */
static void test_a_channel_for_disks(void **state)
{
    Ends ends;

    ends_open(&ends, *state, 0);
    ends_join(&ends, TRAFFIC_DISK);
    assert_ptr_not_equal(session_get_channel(ends.client, TRAFFIC_DISK),
                         session_get_channel(ends.client, TRAFFIC_CONTROL));
    assert_ptr_equal(session_get_channel(ends.client, TRAFFIC_BULK),
                     session_get_channel(ends.client, TRAFFIC_CONTROL));
    for (guint i = 0; i < 10; i++) {
        send_ok(ends.client, TRAFFIC_DISK, FRAME_DISK_WRITE, i, 100);
        send_ok(ends.client, TRAFFIC_DISK, FRAME_DISK_ZERO, i, FRAME_DISK_ZERO_BYTES);
        send_ok(ends.accepted, TRAFFIC_DISK, FRAME_DISK_DONE, i, FRAME_DISK_DONE_BYTES);
    }
    send_ok(ends.client, TRAFFIC_CONTROL, FRAME_EPOCH_APPLIED, 77, 4);
    expect_number(ends.accepted, TRAFFIC_CONTROL, FRAME_EPOCH_APPLIED, 77);
    for (guint i = 0; i < 10; i++) {
        expect_number(ends.accepted, TRAFFIC_DISK, FRAME_DISK_WRITE, i);
        expect_number(ends.accepted, TRAFFIC_DISK, FRAME_DISK_ZERO, i);
        expect_number(ends.client, TRAFFIC_DISK, FRAME_DISK_DONE, i);
    }
    ends_close(&ends);
}

/* Only what carries content: a flush that a paused guest waits for is no bulk. */
static void test_content_of_disks_is_paced(void **state)
{
    uint64_t start;
    Ends ends;

    ends_open(&ends, *state, 0);
    ends_join(&ends, TRAFFIC_DISK);
    session_set_rate(ends.client, 1000000);
    start = clock_now_ns();
    for (guint i = 0; i < 6; i++)
        send_ok(ends.client, TRAFFIC_DISK, FRAME_DISK_WRITE, i, 100000);
    assert_true(clock_ns_to_ms(clock_now_ns() - start) > 400);
    for (guint i = 0; i < 6; i++)
        expect_number(ends.accepted, TRAFFIC_DISK, FRAME_DISK_WRITE, i);
    start = clock_now_ns();
    send_ok(ends.client, TRAFFIC_DISK, FRAME_DISK_ZERO, 6, FRAME_DISK_ZERO_BYTES);
    send_ok(ends.client, TRAFFIC_DISK, FRAME_DISK_FLUSH, 7, FRAME_DISK_FLUSH_BYTES);
    assert_true(clock_ns_to_ms(clock_now_ns() - start) < 100);
    expect_number(ends.accepted, TRAFFIC_DISK, FRAME_DISK_ZERO, 6);
    expect_number(ends.accepted, TRAFFIC_DISK, FRAME_DISK_FLUSH, 7);
    ends_close(&ends);
}

/* Nobody receives on it for longer than a dead peer is waited for. */
static void test_an_idle_channel_lives(void **state)
{
    GError *error = NULL;
    Frame frame;
    Ends ends;

    ends_open(&ends, *state, 2000);
    ends_join(&ends, TRAFFIC_BULK);
    assert_false(session_receive(ends.accepted, TRAFFIC_CONTROL, 5000, &frame, &error));
    expect_error(g_steal_pointer(&error), VMFERRY_ERROR_TIMEOUT, "");
    assert_true(
        stream_get_received_bytes(session_get_channel(ends.accepted, TRAFFIC_BULK)->stream) >
        10 * FRAME_HEADER_BYTES);
    send_ok(ends.client, TRAFFIC_BULK, FRAME_PAGES, 1, 100);
    send_ok(ends.client, TRAFFIC_BULK, FRAME_PAGES, 2, 100);
    clock_sleep_ns(SETTLED_NS); /* frames stay where they are, for whoever receives */
    expect_number(ends.accepted, TRAFFIC_BULK, FRAME_PAGES, 1);
    expect_number(ends.accepted, TRAFFIC_BULK, FRAME_PAGES, 2);
    ends_close(&ends);
}

/* ---- who may join ---- */

typedef struct {
    const char *token; /* NULL: the right one */
    const char *transaction, *traffic;
    VmferryErrorCode code;
    const char *words;
    guint number;
} Attempt;

/* Connects as *options* say and asks to join with what the attempt has; the answer to it. */
static GError *ask_to_join(Ends *ends, const ChannelOptions *options, const Attempt *attempt,
                           const char *token)
{
    HelloMessage hello = {.version_min = 1,
                          .version_max = 1,
                          .features = (char *[]){NULL},
                          .purpose = (char *)"join",
                          .instance = (char *)options->instance,
                          .agent = (char *)options->agent,
                          .token = (char *)(attempt->token ? attempt->token : token),
                          .transaction = (char *)attempt->transaction,
                          .traffic = (char *)attempt->traffic,
                          .number = attempt->number};
    g_autofree char *text = hello_message_encode(&hello);
    GError *error = NULL;
    g_autoptr(Channel) channel =
        channel_connect(ends->server.listener.address, options, TIMEOUT_MS, NULL, &error);
    Frame frame;

    if (channel && channel_send_bytes(channel, FRAME_HELLO, text, strlen(text), &error) &&
        channel_expect(channel, FRAME_HELLO, TIMEOUT_MS, &frame, &error))
        channel_expect(channel, FRAME_ACCEPTED, TIMEOUT_MS, &frame, &error);
    return error;
}

/* The token of the client's session, as it went over the first channel only. */
static char *steal_token(Ends *ends)
{
    HelloMessage peer = {0};
    char *token;

    g_clear_pointer(&ends->client, session_unref);
    g_clear_pointer(&ends->accepted, session_unref);
    session_unref(ends->server.session);
    ends->client =
        session_connect(ends->server.listener.address, &ends->options, TIMEOUT_MS, NULL, NULL);
    assert_true(session_greet(ends->client, "migrate", &peer, NULL, NULL));
    ends->accepted = g_async_queue_pop(ends->server.begun);
    token = g_strdup(peer.token);
    assert_int_equal(strlen(token), HELLO_TOKEN_DIGITS);
    hello_message_clear(&peer);
    return token;
}

static void assert_unharmed(Ends *ends)
{
    assert_ptr_equal(session_get_channel(ends->accepted, TRAFFIC_BULK),
                     session_get_channel(ends->accepted, TRAFFIC_CONTROL));
    send_ok(ends->client, TRAFFIC_BULK, FRAME_PAGES, 5, 100);
    expect_number(ends->accepted, TRAFFIC_BULK, FRAME_PAGES, 5);
}

static void test_wrong_words_are_refused(void **state)
{
    static const char nothing[] = "nothing here that this peer could join";
    static const char zeroes[] = "0000000000000000000000000000000000000000000000000000000000000000";
    static const Attempt attempts[] = {
        {zeroes, TRANSACTION, "bulk", VMFERRY_ERROR_REFUSED, nothing},
        {"", TRANSACTION, "bulk", VMFERRY_ERROR_REFUSED, nothing},
        {"abc", TRANSACTION, "bulk", VMFERRY_ERROR_INVALID, "64 hex digits"},
        {NULL, OTHER_TRANSACTION, "bulk", VMFERRY_ERROR_REFUSED, nothing},
        {NULL, "", "bulk", VMFERRY_ERROR_REFUSED, nothing},
        {NULL, TRANSACTION, "urgent", VMFERRY_ERROR_INVALID, "not a valid class"},
        {NULL, TRANSACTION, "", VMFERRY_ERROR_INVALID, "not a valid class"},
        {NULL, TRANSACTION, "control", VMFERRY_ERROR_INVALID, "stays on the first"},
        {zeroes, TRANSACTION, "bulk", VMFERRY_ERROR_REFUSED, nothing, 1},
        {NULL, OTHER_TRANSACTION, "bulk", VMFERRY_ERROR_REFUSED, nothing, 1},
        {NULL, TRANSACTION, "fault", VMFERRY_ERROR_INVALID, "for bulk only", 1},
        {NULL, TRANSACTION, "control", VMFERRY_ERROR_INVALID, "for bulk only", 1},
        {NULL, TRANSACTION, "bulk", VMFERRY_ERROR_INVALID, "number", HELLO_MOST_NUMBER + 1},
        {NULL, TRANSACTION, "bulk", VMFERRY_ERROR_UNSUPPORTED, "nothing here takes", 1},
    };
    g_autofree char *token = NULL;
    Ends ends;

    ends_open(&ends, *state, 0);
    token = steal_token(&ends);
    for (guint i = 0; i < G_N_ELEMENTS(attempts); i++) {
        expect_error(ask_to_join(&ends, &ends.options, &attempts[i], token), attempts[i].code,
                     attempts[i].words);
        assert_unharmed(&ends);
    }
    ends_close(&ends);
}

/* With a token that leaked: another host of the CA, another agent, another start of the agent. */
static void test_other_peers_are_refused(void **state)
{
    static const Attempt attempt = {NULL, TRANSACTION, "bulk", VMFERRY_ERROR_REFUSED,
                                    "nothing here that this peer could join"};
    static const Attempt further = {
        NULL, TRANSACTION, "bulk", VMFERRY_ERROR_REFUSED, "nothing here that this peer could join",
        1};
    Fixture *fixture = *state;
    g_autofree char *token = NULL;
    ChannelOptions others[3];
    Ends ends;

    ends_open(&ends, fixture, 0);
    token = steal_token(&ends);
    others[0] = others[1] = others[2] = ends.options;
    others[0].tls = fixture->stranger;
    others[1].agent = AGENT_C;
    others[2].instance = "later";
    for (guint i = 0; i < G_N_ELEMENTS(others); i++) {
        expect_error(ask_to_join(&ends, &others[i], &attempt, token), attempt.code, attempt.words);
        expect_error(ask_to_join(&ends, &others[i], &further, token), further.code, further.words);
        assert_unharmed(&ends);
    }
    /* The same with nothing wrong: it is not for another reason. */
    assert_null(ask_to_join(&ends, &ends.options, &attempt, token));
    ends_close(&ends);
}

static void test_a_class_is_joined_once(void **state)
{
    GError *error = NULL;
    Ends ends;

    ends_open(&ends, *state, 0);
    ends_join(&ends, TRAFFIC_BULK);
    assert_false(session_join(ends.client, TRAFFIC_BULK, &ends.options, TIMEOUT_MS, NULL, &error));
    expect_error(error, VMFERRY_ERROR_EXISTS, "a channel for bulk: ");
    send_ok(ends.client, TRAFFIC_BULK, FRAME_PAGES, 1, 100);
    expect_number(ends.accepted, TRAFFIC_BULK, FRAME_PAGES, 1);
    ends_close(&ends);
}

/* Another agent answers at the address: the joining side notices, too. */
static void test_another_agent_answers(void **state)
{
    Fixture *fixture = *state;
    GError *error = NULL;
    Ends ends;

    ends_open(&ends, fixture, 0);
    ends.server.options.agent = AGENT_C;
    assert_false(session_join(ends.client, TRAFFIC_BULK, &ends.options, TIMEOUT_MS, NULL, &error));
    expect_error(error, VMFERRY_ERROR_REFUSED, "another agent than the one");
    ends_close(&ends);
}

static void test_no_token_no_join(void **state)
{
    Fixture *fixture = *state;
    static const Attempt attempt = {"", TRANSACTION, "bulk", VMFERRY_ERROR_REFUSED, "nothing here"};
    GError *error = NULL;
    Ends ends = {.options = {.tls = fixture->client, .agent = AGENT_B, .instance = "client"}};

    ends.server.gives_no_token = TRUE;
    server_start(&ends.server, fixture->server, 0);
    ends_connect(&ends);
    assert_false(session_join(ends.client, TRAFFIC_BULK, &ends.options, TIMEOUT_MS, NULL, &error));
    expect_error(error, VMFERRY_ERROR_UNSUPPORTED, "takes no further channels");
    expect_error(ask_to_join(&ends, &ends.options, &attempt, ""), attempt.code, attempt.words);
    ends_close(&ends);
}

/* ---- how it ends ---- */

typedef struct {
    Session *session;
    TrafficClass traffic;
    GThread *thread;
    GError *error;
} Receiver;

static gpointer receive_main(gpointer data)
{
    Receiver *receiver = data;
    Frame frame;

    while (session_receive(receiver->session, receiver->traffic, -1, &frame, &receiver->error))
        ;
    return NULL;
}

static void receiver_start(Receiver *receiver, Session *session, TrafficClass traffic)
{
    *receiver = (Receiver){.session = session, .traffic = traffic};
    receiver->thread = g_thread_new("receive", receive_main, receiver);
}

static void cut(Session *session, TrafficClass traffic)
{
    shutdown(stream_get_fd(session_get_channel(session, traffic)->stream), SHUT_RDWR);
}

/* One joined channel is cut, on which nobody receives: all waiting ends, on both sides. */
static void test_a_cut_channel_ends_it(void **state)
{
    Receiver receivers[2];
    Ends ends;

    ends_open(&ends, *state, 0);
    ends_join(&ends, TRAFFIC_BULK);
    ends_join(&ends, TRAFFIC_FAULT);
    receiver_start(&receivers[0], ends.client, TRAFFIC_CONTROL);
    receiver_start(&receivers[1], ends.accepted, TRAFFIC_FAULT);
    cut(ends.client, TRAFFIC_BULK);
    for (guint i = 0; i < G_N_ELEMENTS(receivers); i++) {
        g_thread_join(receivers[i].thread);
        expect_error(receivers[i].error, VMFERRY_ERROR_DISCONNECTED, "");
    }
    expect_ended(ends.client);
    expect_ended(ends.accepted);
    ends_close(&ends);
}

/* The first one is cut while bulk waits for room. */
static void test_the_first_channel_ends_it(void **state)
{
    BulkSender sender;
    Receiver receiver;
    GThread *thread;
    Ends ends;

    ends_open(&ends, *state, 0);
    ends_join(&ends, TRAFFIC_BULK);
    receiver_start(&receiver, ends.client, TRAFFIC_CONTROL);
    thread = fill_bulk(&sender, ends.client);
    cut(ends.accepted, TRAFFIC_CONTROL);
    g_thread_join(thread);
    expect_error(sender.error, VMFERRY_ERROR_DISCONNECTED, "");
    g_thread_join(receiver.thread);
    expect_error(receiver.error, VMFERRY_ERROR_DISCONNECTED, "");
    ends_close(&ends);
}

static void test_shutdown_ends_all(void **state)
{
    BulkSender sender;
    Receiver receiver;
    GThread *thread;
    GError *error = NULL;
    Ends ends;

    ends_open(&ends, *state, 0);
    ends_join(&ends, TRAFFIC_BULK);
    receiver_start(&receiver, ends.client, TRAFFIC_CONTROL);
    thread = fill_bulk(&sender, ends.client);
    session_shutdown(ends.client);
    g_thread_join(thread);
    expect_error(sender.error, VMFERRY_ERROR_CANCELLED, "");
    g_thread_join(receiver.thread);
    expect_error(receiver.error, VMFERRY_ERROR_CANCELLED, "");
    assert_false(session_join(ends.client, TRAFFIC_FAULT, &ends.options, TIMEOUT_MS, NULL, &error));
    g_clear_error(&error);
    ends_close(&ends);
}

/* What was said last is received, though another channel was seen to end long before. */
/* What failed on this side is what all its threads are told. */
static void test_a_failure_ends_all(void **state)
{
    g_autoptr(GError) cause = g_error_new(VMFERRY_ERROR, VMFERRY_ERROR_NOT_FOUND, "it has ended");
    BulkSender sender;
    Receiver receiver;
    GThread *thread;
    Ends ends;

    ends_open(&ends, *state, 0);
    ends_join(&ends, TRAFFIC_BULK);
    receiver_start(&receiver, ends.client, TRAFFIC_CONTROL);
    thread = fill_bulk(&sender, ends.client);
    session_fail(ends.client, cause);
    g_thread_join(thread);
    expect_error(sender.error, VMFERRY_ERROR_NOT_FOUND, "it has ended");
    g_thread_join(receiver.thread);
    expect_error(receiver.error, VMFERRY_ERROR_NOT_FOUND, "it has ended");
    expect_ended(ends.client);
    ends_close(&ends);
}

/* Of one channel, too. */
static void test_a_failure_ends_one_channel(void **state)
{
    g_autoptr(GError) cause = g_error_new(VMFERRY_ERROR, VMFERRY_ERROR_NOT_FOUND, "it has ended");
    Receiver receiver;
    Ends ends;

    ends_open(&ends, *state, 0);
    receiver_start(&receiver, ends.client, TRAFFIC_CONTROL);
    session_fail(ends.client, cause);
    g_thread_join(receiver.thread);
    expect_error(receiver.error, VMFERRY_ERROR_NOT_FOUND, "it has ended");
    ends_close(&ends);
}

static void test_the_last_frame_survives(void **state)
{
    GError *error = NULL;
    Frame frame;
    Ends ends;

    ends_open(&ends, *state, 0);
    ends_join(&ends, TRAFFIC_BULK);
    send_ok(ends.accepted, TRAFFIC_CONTROL, FRAME_EPOCH_APPLIED, 4, 4);
    assert_true(session_send_bytes(ends.accepted, FRAME_STARTED, NULL, 0, NULL));
    g_clear_pointer(&ends.accepted, session_unref);
    g_clear_pointer(&ends.server.session, session_unref);
    clock_sleep_ns(SETTLED_NS);
    expect_number(ends.client, TRAFFIC_CONTROL, FRAME_EPOCH_APPLIED, 4);
    if (!session_expect(ends.client, FRAME_STARTED, TIMEOUT_MS, &frame, &error))
        fail_msg("%s", error->message);
    assert_false(session_receive(ends.client, TRAFFIC_CONTROL, TIMEOUT_MS, &frame, &error));
    expect_error(error, VMFERRY_ERROR_DISCONNECTED, "");
    ends_close(&ends);
}

/* Why the peer gave up is heard by a sender of bulk, too: from the first channel. */
static void test_the_peers_reason_is_heard(void **state)
{
    g_autoptr(GError) cause = NULL;
    BulkSender sender;
    GThread *thread;
    GError *error = NULL;
    Frame frame;
    Ends ends;

    ends_open(&ends, *state, 0);
    ends_join(&ends, TRAFFIC_BULK);
    thread = fill_bulk(&sender, ends.client);
    error_set(&cause, VMFERRY_ERROR_NO_SPACE, "the disk is full");
    session_send_error(ends.accepted, cause);
    g_clear_pointer(&ends.accepted, session_unref);
    g_clear_pointer(&ends.server.session, session_unref);
    g_thread_join(thread);
    expect_error(sender.error, VMFERRY_ERROR_DISCONNECTED, "");
    assert_true(session_receive(ends.client, TRAFFIC_CONTROL, TIMEOUT_MS, &frame, &error));
    assert_int_equal(frame.type, FRAME_ERROR);
    session_error_from_frame(ends.client, &frame, &error);
    expect_error(error, VMFERRY_ERROR_NO_SPACE, "the disk is full");
    ends_close(&ends);
}

/* ---- hostile input ---- */

/* The sequence of a move is not steered past its channel. */
static void test_control_frames_come_by_control(void **state)
{
    static const FrameType refused[] = {FRAME_START, FRAME_PREPARE, FRAME_GUEST, FRAME_STARTED};
    Ends ends;

    ends_open(&ends, *state, 0);
    ends_join(&ends, TRAFFIC_BULK);
    for (guint i = 0; i < G_N_ELEMENTS(refused); i++) {
        guint length = MIN(frame_payload_limit(refused[i]), START_MESSAGE_BYTES);
        struct iovec piece = {(void *)"123456789", length};
        GError *error = NULL;
        Frame frame;

        assert_true(
            session_send_as(ends.client, TRAFFIC_BULK, refused[i], &piece, length ? 1 : 0, NULL));
        assert_false(session_receive(ends.accepted, TRAFFIC_BULK, TIMEOUT_MS, &frame, &error));
        expect_error(error, VMFERRY_ERROR_INVALID, "as bulk");
    }
    ends_close(&ends);
}

/* Bytes that are not a frame end the session, also where nobody receives on that channel. */
static void test_garbage_ends_it(void **state)
{
    static const uint8_t garbage[FRAME_HEADER_BYTES] = "no frame yet";
    struct iovec piece = {(void *)garbage, sizeof garbage};
    StreamCursor cursor = {&piece, 1};
    Receiver receiver;
    Channel *channel;
    Ends ends;

    ends_open(&ends, *state, 0);
    ends_join(&ends, TRAFFIC_FAULT);
    receiver_start(&receiver, ends.accepted, TRAFFIC_CONTROL);
    channel = session_get_channel(ends.client, TRAFFIC_FAULT);
    g_mutex_lock(&channel->send_lock);
    assert_true(stream_write(channel->stream, &cursor, SIZE_MAX, NULL) > 0);
    assert_false(stream_has_unsent(channel->stream));
    g_mutex_unlock(&channel->send_lock);
    g_thread_join(receiver.thread);
    expect_error(receiver.error, VMFERRY_ERROR_INVALID, "the fault channel: ");
    expect_ended(ends.accepted);
    ends_close(&ends);
}

#define SESSION_TEST(function)                                                                     \
    cmocka_unit_test_setup_teardown(function, ends_set_up, ends_tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        SESSION_TEST(test_one_channel),
        SESSION_TEST(test_order_of_each_channel),
        SESSION_TEST(test_urgent_passes_full_bulk),
        SESSION_TEST(test_rate_is_of_all),
        SESSION_TEST(test_a_channel_for_disks),
        SESSION_TEST(test_content_of_disks_is_paced),
        SESSION_TEST(test_an_idle_channel_lives),
        SESSION_TEST(test_wrong_words_are_refused),
        SESSION_TEST(test_other_peers_are_refused),
        SESSION_TEST(test_a_class_is_joined_once),
        SESSION_TEST(test_another_agent_answers),
        SESSION_TEST(test_no_token_no_join),
        SESSION_TEST(test_a_cut_channel_ends_it),
        SESSION_TEST(test_the_first_channel_ends_it),
        SESSION_TEST(test_shutdown_ends_all),
        SESSION_TEST(test_a_failure_ends_all),
        SESSION_TEST(test_a_failure_ends_one_channel),
        SESSION_TEST(test_faults_are_answered),
        SESSION_TEST(test_the_last_frame_survives),
        SESSION_TEST(test_the_peers_reason_is_heard),
        SESSION_TEST(test_control_frames_come_by_control),
        SESSION_TEST(test_garbage_ends_it),
    };

    alarm(TEST_DEADLINE_S);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
