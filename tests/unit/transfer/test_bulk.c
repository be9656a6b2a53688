/*
 * Bulk over several connections, with real TLS over loopback: an order that holds, what breaks it, and what
 * a peer may do to it
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/lock_guard.h"
#include "session_ends.h"
#include "transfer/bulk_sender.h"
#include "transfer/frame_queue.h"
#include "wire/session_private.h"
#include "wire/epoch_frame.h"

#define SLOTS 64
#define PAGES_BYTES 5000u
#define MOST_FRAMES 4096u
#define QUIET_MS 300

typedef struct {
    Ends ends;
    FrameQueue *queue;
    BulkSender *sender;
} Bulk;

/* The sender uses *connections*; 0: there is none, the test has its own. */
static void bulk_open(Bulk *bulk, Fixture *fixture, guint connections)
{
    GError *error = NULL;

    ends_open(&bulk->ends, fixture, 0);
    bulk->queue =
        frame_queue_start(session_get_channel(bulk->ends.accepted, TRAFFIC_CONTROL), SLOTS, &error);
    assert_null(error);
    frame_queue_take_further(bulk->queue, bulk->ends.accepted);
    bulk->sender = NULL;
    if (connections == 0)
        return;
    bulk->sender = bulk_sender_new(
        bulk->ends.client,
        &(BulkSenderOptions){.connections = connections, .channel = &bulk->ends.options}, &error);
    assert_null(error);
    bulk_sender_begin(bulk->sender);
}

static guint count_in_use(Bulk *bulk)
{
    guint now, most;

    bulk_sender_get_counts(bulk->sender, &now, &most);
    return now;
}

static void await_in_use(Bulk *bulk, guint wanted)
{
    uint64_t end = clock_now_ns() + TIMEOUT_MS * 1000000ULL;

    while (count_in_use(bulk) != wanted) {
        assert_true(clock_now_ns() < end);
        clock_sleep_ns(2000000);
    }
}

static void bulk_close(Bulk *bulk)
{
    bulk_sender_free(bulk->sender);
    frame_queue_free(bulk->queue);
    ends_close(&bulk->ends);
}

/* ---- frames ---- */

static gboolean send_page(Bulk *bulk, uint32_t number, GError **error)
{
    g_autofree uint8_t *payload = g_malloc0(PAGES_BYTES);
    struct iovec pieces[] = {{payload, 100}, {payload + 100, PAGES_BYTES - 100}};

    memcpy(payload, &number, sizeof number);
    return bulk_sender_send(bulk->sender, FRAME_PAGES, pieces, 2, error);
}

static void pages_ok(Bulk *bulk, uint32_t first, uint32_t count)
{
    GError *error = NULL;

    for (uint32_t i = 0; i < count; i++)
        if (!send_page(bulk, first + i, &error))
            fail_msg("%s", error->message);
}

/* What order matters for: behind all pages before it. */
static void seal_ok(Bulk *bulk, uint32_t number)
{
    GError *error = NULL;

    if (bulk->sender && !bulk_sender_flush(bulk->sender, &error))
        fail_msg("%s", error->message);
    send_ok(bulk->ends.client, TRAFFIC_CONTROL, FRAME_EPOCH_SEAL, number, FRAME_EPOCH_SEAL_BYTES);
}

static FrameType pop(Bulk *bulk, uint32_t *ret_number)
{
    GError *error = NULL;
    FrameSlot *slot = frame_queue_pop(bulk->queue, TIMEOUT_MS, &error);
    FrameType type;

    if (!slot)
        fail_msg("%s", error->message);
    type = slot->frame.type;
    memcpy(ret_number, slot->frame.payload, sizeof *ret_number);
    frame_queue_release(bulk->queue, slot);
    return type;
}

/* Each of these once, in any order, then the seal. */
static void expect_epoch(Bulk *bulk, uint32_t first, uint32_t count, uint32_t seal)
{
    gboolean seen[MOST_FRAMES] = {FALSE};
    uint32_t number;

    for (uint32_t i = 0; i < count; i++) {
        assert_int_equal(pop(bulk, &number), FRAME_PAGES);
        assert_in_range(number, first, first + count - 1);
        assert_false(seen[number - first]);
        seen[number - first] = TRUE;
    }
    assert_int_equal(pop(bulk, &number), FRAME_EPOCH_SEAL);
    assert_int_equal(number, seal);
}

static void expect_nothing(Bulk *bulk)
{
    GError *error = NULL;

    assert_null(frame_queue_pop(bulk->queue, QUIET_MS, &error));
    expect_error(error, VMFERRY_ERROR_TIMEOUT, "");
}

static void expect_end(Bulk *bulk, VmferryErrorCode code, const char *words)
{
    GError *error = NULL;
    FrameSlot *slot;

    while ((slot = frame_queue_pop(bulk->queue, TIMEOUT_MS, &error)))
        frame_queue_release(bulk->queue, slot);
    expect_error(error, code, words);
}

typedef struct {
    Bulk *bulk;
    guint epochs, frames;
} Feeder;

static gpointer feed(gpointer data)
{
    Feeder *feeder = data;

    for (guint i = 0; i < feeder->epochs; i++) {
        pages_ok(feeder->bulk, i * feeder->frames, feeder->frames);
        seal_ok(feeder->bulk, i);
    }
    return NULL;
}

/* ---- what it does ---- */

static void check_epochs(Bulk *bulk, guint epochs, guint frames)
{
    Feeder feeder = {bulk, epochs, frames};
    GThread *thread = g_thread_new("feed", feed, &feeder);

    for (guint i = 0; i < epochs; i++)
        expect_epoch(bulk, i * frames, frames, i);
    g_thread_join(thread);
}

static void test_epochs_stay_apart(void **state)
{
    Bulk bulk;

    bulk_open(&bulk, *state, 4);
    await_in_use(&bulk, 4);
    check_epochs(&bulk, 30, 100);
    assert_int_equal(bulk.ends.client->bulk_count, 3);
    for (guint i = 0; i < 3; i++)
        assert_true(channel_get_sent_bytes(bulk.ends.client->bulk[i]) > 10 * PAGES_BYTES);
    bulk_close(&bulk);
}

/* Others join in the middle of an epoch. */
static void test_joining_midway(void **state)
{
    Bulk bulk;
    Feeder feeder = {&bulk, 60, 200};
    GThread *thread;

    bulk_open(&bulk, *state, 8);
    thread = g_thread_new("feed", feed, &feeder);
    for (guint i = 0; i < feeder.epochs; i++)
        expect_epoch(&bulk, i * feeder.frames, feeder.frames, i);
    g_thread_join(thread);
    await_in_use(&bulk, 8);
    bulk_close(&bulk);
}

/* With one connection nothing else is sent, and nothing is copied or joined. */
static void test_one(void **state)
{
    guint now, most;
    Bulk bulk;

    bulk_open(&bulk, *state, 1);
    check_epochs(&bulk, 3, 50);
    bulk_sender_get_counts(bulk.sender, &now, &most);
    assert_int_equal(now, 1);
    assert_int_equal(most, 1);
    assert_int_equal(bulk.ends.client->bulk_count, 0);
    bulk_close(&bulk);
}

/* A few pages go by the first connection alone, and need no barrier. */
static void test_few_pages(void **state)
{
    Bulk bulk;
    uint64_t before;

    bulk_open(&bulk, *state, 3);
    await_in_use(&bulk, 3);
    before = channel_get_sent_bytes(bulk.ends.client->bulk[0]);
    for (guint i = 0; i < 20; i++) {
        pages_ok(&bulk, i, 1);
        seal_ok(&bulk, i);
        expect_epoch(&bulk, i, 1, i);
    }
    /* Heartbeats, at most. */
    assert_true(channel_get_sent_bytes(bulk.ends.client->bulk[0]) - before < 2000);
    bulk_close(&bulk);
}

/* The limit is of all together. */
static void test_rate_is_of_all(void **state)
{
    const uint64_t rate = 2000000;
    uint64_t start, sent;
    Bulk bulk;

    bulk_open(&bulk, *state, 4);
    await_in_use(&bulk, 4);
    session_set_rate(bulk.ends.client, rate);
    sent = session_get_sent_bytes(bulk.ends.client);
    start = clock_now_ns();
    check_epochs(&bulk, 10, 40);
    sent = session_get_sent_bytes(bulk.ends.client) - sent;
    assert_true((double)sent < 1.05 * (double)rate * clock_ns_to_ms(clock_now_ns() - start) / 1000);
    bulk_close(&bulk);
}

/* ---- a channel that comes late ---- */

static Channel *join_ok(Bulk *bulk, guint number)
{
    GError *error = NULL;
    Channel *channel =
        session_join_bulk(bulk->ends.client, number, &bulk->ends.options, TIMEOUT_MS, NULL, &error);

    if (!channel)
        fail_msg("%s", error->message);
    return channel;
}

static void barrier_ok(Channel *channel, uint32_t number, uint64_t channels)
{
    g_autoptr(GByteArray) payload = g_byte_array_new();
    BulkBarrier barrier = {number, channels};

    barrier_frame_encode(payload, &barrier);
    assert_true(channel_send_bytes(channel, FRAME_BULK_BARRIER, payload->data, payload->len, NULL));
}

static void page_ok(Channel *channel, uint32_t number)
{
    uint8_t payload[PAGES_BYTES] = {0};

    memcpy(payload, &number, sizeof number);
    assert_true(channel_send_bytes(channel, FRAME_PAGES, payload, sizeof payload, NULL));
}

static void expect_page(Bulk *bulk, uint32_t wanted)
{
    uint32_t number;

    assert_int_equal(pop(bulk, &number), FRAME_PAGES);
    assert_int_equal(number, wanted);
}

static Channel *first_of(Bulk *bulk)
{
    return session_get_channel(bulk->ends.client, TRAFFIC_CONTROL);
}

/* What came first by others waits for it; what was sent later by others does not pass. */
static void test_a_stalled_channel(void **state)
{
    Channel *quick, *late;
    uint32_t number;
    Bulk bulk;

    bulk_open(&bulk, *state, 0);
    quick = join_ok(&bulk, 1);
    late = join_ok(&bulk, 2);
    barrier_ok(quick, 0, 0);
    barrier_ok(late, 0, 0);
    page_ok(quick, 10);
    expect_page(&bulk, 10);
    barrier_ok(quick, 1, 0);
    page_ok(quick, 20); /* of the next epoch */
    barrier_ok(first_of(&bulk), 1, 1 << 1 | 1 << 2);
    seal_ok(&bulk, 7);
    page_ok(first_of(&bulk), 21);
    expect_nothing(&bulk);
    page_ok(late, 11);
    expect_page(&bulk, 11);
    expect_nothing(&bulk);
    barrier_ok(late, 1, 0);
    /* No barrier lies between the seal and page 20 by another channel: either may be first. */
    for (guint i = 0, seals = 0; i < 3; i++) {
        if (pop(&bulk, &number) == FRAME_EPOCH_SEAL)
            seals++;
        else
            assert_in_range(number, 20, 21);
        assert_true(i < 2 || seals == 1);
    }
    bulk_close(&bulk);
}

/* One that joins late begins where it says: what it brings is not before the first one is there. */
static void test_a_late_beginning(void **state)
{
    Channel *channel;
    Bulk bulk;

    bulk_open(&bulk, *state, 0);
    channel = join_ok(&bulk, 1);
    barrier_ok(channel, 2, 0);
    page_ok(channel, 30);
    expect_nothing(&bulk);
    page_ok(first_of(&bulk), 1);
    barrier_ok(first_of(&bulk), 1, 0);
    page_ok(first_of(&bulk), 2);
    expect_page(&bulk, 1);
    expect_page(&bulk, 2);
    expect_nothing(&bulk);
    barrier_ok(first_of(&bulk), 2, 0);
    expect_page(&bulk, 30);
    bulk_close(&bulk);
}

/* What the sender has given up does not come late. */
static void test_a_channel_that_is_left_out(void **state)
{
    Channel *channel;
    uint32_t number;
    Bulk bulk;

    bulk_open(&bulk, *state, 0);
    channel = join_ok(&bulk, 1);
    barrier_ok(channel, 0, 0);
    page_ok(channel, 1);
    expect_page(&bulk, 1);
    barrier_ok(first_of(&bulk), 1, 0);
    seal_ok(&bulk, 5);
    assert_int_equal(pop(&bulk, &number), FRAME_EPOCH_SEAL);
    (void)channel_send_bytes(channel, FRAME_PAGES, (uint8_t[100]){2}, 100, NULL);
    expect_nothing(&bulk);
    bulk_close(&bulk);
}

/* One that was given up before it had begun: its late beginning is none. */
static void test_a_beginning_that_is_too_late(void **state)
{
    Channel *channel;
    uint32_t number;
    Bulk bulk;

    bulk_open(&bulk, *state, 0);
    channel = join_ok(&bulk, 1);
    barrier_ok(first_of(&bulk), 1, 0);
    seal_ok(&bulk, 5);
    assert_int_equal(pop(&bulk, &number), FRAME_EPOCH_SEAL);
    barrier_ok(channel, 0, 0);
    (void)channel_send_bytes(channel, FRAME_PAGES, (uint8_t[100]){2}, 100, NULL);
    expect_nothing(&bulk);
    bulk_close(&bulk);
}

/* ---- channels that end ---- */

static void cut(Channel *channel)
{
    lock_guard(&channel->state_lock);

    shutdown(stream_get_fd(channel->stream), SHUT_RDWR);
}

/* All of it was applied: it goes on with the others, and with a new one. */
static void test_an_end_without_loss(void **state)
{
    Bulk bulk;

    bulk_open(&bulk, *state, 4);
    await_in_use(&bulk, 4);
    check_epochs(&bulk, 5, 100);
    bulk_sender_note_applied(bulk.sender);
    g_mutex_lock(&bulk.ends.client->lock);
    cut(bulk.ends.client->bulk[1]);
    g_mutex_unlock(&bulk.ends.client->lock);
    check_epochs(&bulk, 10, 200);
    bulk_close(&bulk);
}

/* Pages were on it that may not have come. */
static void test_an_end_with_loss(void **state)
{
    GError *error = NULL;
    Bulk bulk;

    bulk_open(&bulk, *state, 4);
    await_in_use(&bulk, 4);
    check_epochs(&bulk, 2, 200);
    cut(bulk.ends.client->bulk[1]);
    for (guint i = 0; i < MOST_FRAMES && !error; i++)
        if (send_page(&bulk, i, &error))
            bulk_sender_flush(bulk.sender, &error);
    expect_error(error, VMFERRY_ERROR_DISCONNECTED, "and pages with it");
    session_shutdown(bulk.ends.client);
    expect_end(&bulk, VMFERRY_ERROR_DISCONNECTED, "");
    bulk_close(&bulk);
}

/* The receiver's half of that: a barrier that one of them never comes to. */
static void test_a_lost_channel(void **state)
{
    Channel *channel;
    Bulk bulk;

    bulk_open(&bulk, *state, 0);
    channel = join_ok(&bulk, 1);
    barrier_ok(channel, 0, 0);
    page_ok(channel, 1);
    expect_page(&bulk, 1);
    cut(channel);
    expect_nothing(&bulk);
    barrier_ok(first_of(&bulk), 1, 1 << 1);
    expect_end(&bulk, VMFERRY_ERROR_DISCONNECTED, "was lost, and pages with it");
    bulk_close(&bulk);
}

/* A sender that gives up says so on the first channel, and closes all, while a barrier is waited for. */
static void test_the_peers_reason_at_a_barrier(void **state)
{
    g_autoptr(GError) cause = g_error_new(VMFERRY_ERROR, VMFERRY_ERROR_CANCELLED, "enough");
    Channel *channel;
    Bulk bulk;

    bulk_open(&bulk, *state, 0);
    channel = join_ok(&bulk, 1);
    barrier_ok(channel, 0, 0);
    page_ok(channel, 1);
    expect_page(&bulk, 1);
    barrier_ok(first_of(&bulk), 1, 1 << 1);
    expect_nothing(&bulk);
    session_send_abort(bulk.ends.client, cause);
    g_clear_pointer(&bulk.ends.client, session_unref);
    expect_end(&bulk, VMFERRY_ERROR_CANCELLED, "enough");
    bulk_close(&bulk);
}

/* Why the receiver gave up is what the sender is told, by whichever connection it notices. */
static void test_the_receivers_reason(void **state)
{
    g_autoptr(GError) cause = g_error_new(VMFERRY_ERROR, VMFERRY_ERROR_NO_SPACE, "memory is full");
    GError *error = NULL;
    Bulk bulk;

    bulk_open(&bulk, *state, 4);
    await_in_use(&bulk, 4);
    check_epochs(&bulk, 2, 200);
    session_send_error(bulk.ends.accepted, cause);
    session_shutdown(bulk.ends.accepted);
    while (send_page(&bulk, 0, &error))
        ;
    expect_error(error, VMFERRY_ERROR_NO_SPACE, "memory is full");
    bulk_close(&bulk);
}

/* Each survives its own break, and nothing is lost or out of order. */
static void test_breaks(void **state)
{
    Feeder feeder = {.epochs = 40, .frames = 100};
    GThread *thread;
    Bulk bulk;

    bulk_open(&bulk, *state, 4);
    assert_true(session_allow_reconnect(bulk.ends.accepted, NULL, 20000));
    assert_true(session_allow_reconnect(bulk.ends.client, &bulk.ends.options, 20000));
    await_in_use(&bulk, 4);
    feeder.bulk = &bulk;
    thread = g_thread_new("feed", feed, &feeder);
    for (guint i = 0; i < feeder.epochs; i++) {
        expect_epoch(&bulk, i * feeder.frames, feeder.frames, i);
        if (i % 10 == 3)
            cut(bulk.ends.client->bulk[i / 10 % 3]);
    }
    g_thread_join(thread);
    assert_true(session_count_breaks(bulk.ends.client) >= 3);
    bulk_close(&bulk);
}

static void allow_breaks(Bulk *bulk)
{
    assert_true(session_allow_reconnect(bulk->ends.accepted, NULL, 4 * TIMEOUT_MS));
    assert_true(session_allow_reconnect(bulk->ends.client, &bulk->ends.options, 4 * TIMEOUT_MS));
}

/* No connection is made again from now on. */
static void stop_listening(Bulk *bulk)
{
    shutdown(bulk->ends.server.listener.fd, SHUT_RDWR);
}

static void await_broken(Channel *channel)
{
    uint64_t end = clock_now_ns() + TIMEOUT_MS * 1000000ULL;

    while (!channel_is_broken(channel)) {
        assert_true(clock_now_ns() < end);
        clock_sleep_ns(2000000);
    }
}

/* It is broken for long, and nothing of it is missing: nobody waits for it. */
static void test_a_broken_one_is_left_out(void **state)
{
    Bulk bulk;

    bulk_open(&bulk, *state, 4);
    allow_breaks(&bulk);
    await_in_use(&bulk, 4);
    check_epochs(&bulk, 5, 100);
    bulk_sender_note_applied(bulk.sender);
    stop_listening(&bulk);
    bulk_sender_set_steady(bulk.sender, TRUE);
    cut(bulk.ends.client->bulk[1]);
    await_broken(bulk.ends.client->bulk[1]);
    check_epochs(&bulk, 10, 100);
    assert_int_equal(count_in_use(&bulk), 3);
    bulk_close(&bulk);
}

/* Where the sender gives up while a connection is broken that the receiver waits for. */
static void test_the_peers_reason_beside_a_break(void **state)
{
    g_autoptr(GError) cause = g_error_new(VMFERRY_ERROR, VMFERRY_ERROR_CANCELLED, "enough");
    Channel *channel;
    Bulk bulk;

    bulk_open(&bulk, *state, 0);
    allow_breaks(&bulk);
    channel = join_ok(&bulk, 1);
    barrier_ok(channel, 0, 0);
    page_ok(channel, 1);
    expect_page(&bulk, 1);
    stop_listening(&bulk);
    cut(channel);
    await_broken(channel);
    barrier_ok(first_of(&bulk), 1, 1 << 1);
    seal_ok(&bulk, 1);
    expect_nothing(&bulk);
    session_send_abort(bulk.ends.client, cause);
    g_clear_pointer(&bulk.ends.client, session_unref);
    expect_end(&bulk, VMFERRY_ERROR_CANCELLED, "enough");
    bulk_close(&bulk);
}

/* Who waits for an answer asks. */
static void test_a_loss_is_seen_without_sending(void **state)
{
    uint64_t end = clock_now_ns() + TIMEOUT_MS * 1000000ULL;
    GError *error = NULL;
    Bulk bulk;

    bulk_open(&bulk, *state, 4);
    await_in_use(&bulk, 4);
    check_epochs(&bulk, 2, 200);
    assert_true(bulk_sender_check(bulk.sender, &error));
    cut(bulk.ends.client->bulk[1]);
    while (bulk_sender_check(bulk.sender, &error)) {
        assert_true(clock_now_ns() < end);
        clock_sleep_ns(2000000);
    }
    expect_error(error, VMFERRY_ERROR_DISCONNECTED, "and pages with it");
    bulk_close(&bulk);
}

/* ---- joining ---- */

/* Takes channels as the queue does, once the test lets it. */
typedef struct {
    SessionBulkTaker taker;
    gpointer user;
    _Atomic guint calls;
    atomic_bool open;
} Gate;

static gboolean take_at_gate(Channel *channel, guint number, gpointer user, GError **error)
{
    Gate *gate = user;
    uint64_t end = clock_now_ns() + TIMEOUT_MS * 1000000ULL;

    atomic_fetch_add(&gate->calls, 1);
    while (!atomic_load(&gate->open) && clock_now_ns() < end)
        clock_sleep_ns(2000000);
    return gate->taker(channel, number, gate->user, error);
}

/* Up to where the first one waits for the gate. */
static void open_at_gate(Bulk *bulk, Fixture *fixture, Gate *gate)
{
    Session *accepted;

    bulk_open(bulk, fixture, 0);
    accepted = bulk->ends.accepted;
    *gate = (Gate){.taker = accepted->taker, .user = accepted->taker_user};
    session_take_bulk(accepted, take_at_gate, gate);
    bulk->sender = bulk_sender_new(
        bulk->ends.client, &(BulkSenderOptions){.connections = 8, .channel = &bulk->ends.options},
        NULL);
    bulk_sender_begin(bulk->sender);
    while (atomic_load(&gate->calls) == 0)
        clock_sleep_ns(2000000);
}

/* A peer that does not answer keeps nobody from ending. */
static void test_ended_while_joining(void **state)
{
    uint64_t start;
    Bulk bulk;
    Gate gate;

    open_at_gate(&bulk, *state, &gate);
    start = clock_now_ns();
    g_clear_pointer(&bulk.sender, bulk_sender_free);
    assert_true(clock_ns_to_ms(clock_now_ns() - start) < 3000);
    atomic_store(&gate.open, TRUE);
    bulk_close(&bulk);
}

/* What is being made then is the last one. */
static void test_steady_while_joining(void **state)
{
    Bulk bulk;
    Gate gate;

    open_at_gate(&bulk, *state, &gate);
    bulk_sender_set_steady(bulk.sender, TRUE);
    atomic_store(&gate.open, TRUE);
    clock_sleep_ns(QUIET_MS * 1000000ULL);
    check_epochs(&bulk, 5, 100);
    assert_int_equal(atomic_load(&gate.calls), 1);
    bulk_sender_set_steady(bulk.sender, FALSE);
    await_in_use(&bulk, 8);
    bulk_close(&bulk);
}

/* Nobody takes them: it goes on with one, and the session is well. */
static void test_refused(void **state)
{
    Bulk bulk;

    bulk_open(&bulk, *state, 0);
    session_take_bulk(bulk.ends.accepted, NULL, NULL);
    bulk.sender = bulk_sender_new(
        bulk.ends.client, &(BulkSenderOptions){.connections = 4, .channel = &bulk.ends.options},
        NULL);
    bulk_sender_begin(bulk.sender);
    check_epochs(&bulk, 5, 100);
    clock_sleep_ns(300000000);
    check_epochs(&bulk, 5, 100);
    assert_int_equal(count_in_use(&bulk), 1);
    bulk_close(&bulk);
}

typedef struct {
    Bulk *bulk;
    _Atomic guint sent;
    GError *error;
} Endless;

static gpointer feed_endlessly(gpointer data)
{
    Endless *endless = data;

    while (send_page(endless->bulk, 0, &endless->error))
        atomic_fetch_add(&endless->sent, 1);
    return NULL;
}

/* Nobody takes anything: it is ended all the same, and at once. */
static void test_ended_in_the_middle(void **state)
{
    Bulk bulk;
    Endless endless = {&bulk, 0, NULL};
    GThread *thread;
    uint64_t start;
    guint sent;

    bulk_open(&bulk, *state, 4);
    await_in_use(&bulk, 4);
    thread = g_thread_new("feed", feed_endlessly, &endless);
    do {
        sent = atomic_load(&endless.sent);
        clock_sleep_ns(200000000);
    } while (sent != atomic_load(&endless.sent));
    start = clock_now_ns();
    session_shutdown(bulk.ends.client);
    g_thread_join(thread);
    g_clear_pointer(&bulk.sender, bulk_sender_free);
    assert_true(clock_ns_to_ms(clock_now_ns() - start) < 3000);
    expect_error(endless.error, VMFERRY_ERROR_CANCELLED, "");
    bulk_close(&bulk);
}

/* ---- hostile input ---- */

typedef struct {
    const char *name;
    FrameType type;
    guint length;
    uint32_t first_number, number; /* where it is a barrier: of the one before, of this one */
    gboolean begun;
    const char *words;
} Hostile;

static void check_hostile(Fixture *fixture, const Hostile *hostile)
{
    uint8_t payload[2000] = {0};
    Channel *channel;
    Bulk bulk;

    bulk_open(&bulk, fixture, 0);
    channel = join_ok(&bulk, 1);
    if (hostile->begun)
        barrier_ok(channel, hostile->first_number, 0);
    memcpy(payload, &hostile->number, sizeof hostile->number);
    assert_true(channel_send_bytes(channel, hostile->type, payload, hostile->length, NULL));
    expect_end(&bulk, VMFERRY_ERROR_INVALID, hostile->words);
    bulk_close(&bulk);
}

static void test_what_does_not_belong_there(void **state)
{
    static const Hostile rows[] = {
        {"pages before it has begun", FRAME_PAGES, 100, 0, 0, FALSE, "before BULK_BARRIER"},
        {"copies", FRAME_COPIES, FRAME_COPIES_HEAD_BYTES + FRAME_COPIES_RUN_BYTES, 0, 0, TRUE,
         "COPIES on further channel 1"},
        {"a seal", FRAME_EPOCH_SEAL, FRAME_EPOCH_SEAL_BYTES, 0, 0, TRUE, "EPOCH_SEAL on further"},
        {"device state", FRAME_DEVICE_STATE, 100, 0, 0, TRUE, "DEVICE_STATE on further"},
        {"control", FRAME_PREPARE, 0, 0, 0, TRUE, "PREPARE on further"},
        {"START", FRAME_START, 9, 0, 0, TRUE, "START on further"},
        {"a barrier twice", FRAME_BULK_BARRIER, FRAME_BULK_BARRIER_BYTES, 0, 0, TRUE,
         "BULK_BARRIER 0 on channel 1 where 1 was expected"},
        {"a barrier too far", FRAME_BULK_BARRIER, FRAME_BULK_BARRIER_BYTES, 0, 2, TRUE,
         "BULK_BARRIER 2 on channel 1 where 1 was expected"},
    };

    for (guint i = 0; i < G_N_ELEMENTS(rows); i++)
        check_hostile(*state, &rows[i]);
}

/* On the first channel: a number out of order, channels that are not there. */
static void test_barriers_of_the_first_channel(void **state)
{
    static const struct {
        uint32_t number;
        uint64_t channels;
        VmferryErrorCode code;
        const char *words;
    } rows[] = {
        {0, 0, VMFERRY_ERROR_INVALID, "BULK_BARRIER 0 where 1 was expected"},
        {2, 0, VMFERRY_ERROR_INVALID, "BULK_BARRIER 2 where 1 was expected"},
        {1, 1, VMFERRY_ERROR_INVALID, "malformed"},
        {1, 1 << 3, VMFERRY_ERROR_DISCONNECTED, "was lost"},
        {1, 1ULL << 63, VMFERRY_ERROR_DISCONNECTED, "was lost"},
    };

    for (guint i = 0; i < G_N_ELEMENTS(rows); i++) {
        Bulk bulk;

        bulk_open(&bulk, *state, 0);
        barrier_ok(first_of(&bulk), rows[i].number, rows[i].channels);
        expect_end(&bulk, rows[i].code, rows[i].words);
        bulk_close(&bulk);
    }
}

/* Numbers are used once, and no more channels than there may be. */
static void test_numbers(void **state)
{
    GError *error = NULL;
    Bulk bulk;

    bulk_open(&bulk, *state, 0);
    for (guint i = 1; i <= SESSION_BULK_MOST; i++)
        join_ok(&bulk, i);
    assert_null(
        session_join_bulk(bulk.ends.client, 9, &bulk.ends.options, TIMEOUT_MS, NULL, &error));
    expect_error(g_steal_pointer(&error), VMFERRY_ERROR_BUSY, "7 further channels");
    session_end_bulk(bulk.ends.client, 3);
    assert_null(
        session_join_bulk(bulk.ends.client, 3, &bulk.ends.options, TIMEOUT_MS, NULL, &error));
    expect_error(g_steal_pointer(&error), VMFERRY_ERROR_EXISTS, "has been a channel 3");
    assert_null(
        session_join_bulk(bulk.ends.client, 0, &bulk.ends.options, TIMEOUT_MS, NULL, &error));
    expect_error(g_steal_pointer(&error), VMFERRY_ERROR_INVALID, "");
    assert_null(
        session_join_bulk(bulk.ends.client, 64, &bulk.ends.options, TIMEOUT_MS, NULL, &error));
    expect_error(g_steal_pointer(&error), VMFERRY_ERROR_INVALID, "");
    send_ok(bulk.ends.client, TRAFFIC_CONTROL, FRAME_EPOCH_SEAL, 1, FRAME_EPOCH_SEAL_BYTES);
    expect_epoch(&bulk, 0, 0, 1);
    bulk_close(&bulk);
}

#define BULK_TEST(function) cmocka_unit_test_setup_teardown(function, ends_set_up, ends_tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        BULK_TEST(test_epochs_stay_apart),
        BULK_TEST(test_joining_midway),
        BULK_TEST(test_one),
        BULK_TEST(test_few_pages),
        BULK_TEST(test_rate_is_of_all),
        BULK_TEST(test_a_stalled_channel),
        BULK_TEST(test_a_late_beginning),
        BULK_TEST(test_a_channel_that_is_left_out),
        BULK_TEST(test_a_beginning_that_is_too_late),
        BULK_TEST(test_an_end_without_loss),
        BULK_TEST(test_an_end_with_loss),
        BULK_TEST(test_a_lost_channel),
        BULK_TEST(test_the_peers_reason_at_a_barrier),
        BULK_TEST(test_the_receivers_reason),
        BULK_TEST(test_breaks),
        BULK_TEST(test_a_broken_one_is_left_out),
        BULK_TEST(test_the_peers_reason_beside_a_break),
        BULK_TEST(test_a_loss_is_seen_without_sending),
        BULK_TEST(test_ended_while_joining),
        BULK_TEST(test_steady_while_joining),
        BULK_TEST(test_refused),
        BULK_TEST(test_ended_in_the_middle),
        BULK_TEST(test_what_does_not_belong_there),
        BULK_TEST(test_barriers_of_the_first_channel),
        BULK_TEST(test_numbers),
    };

    alarm(TEST_DEADLINE_S);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
