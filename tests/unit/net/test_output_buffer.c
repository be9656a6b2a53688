/* What a guest sends is held for its epoch, in order, within the limit; a VMM that misbehaves holds
 * up nobody. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "net/output_buffer.h"
#include "net/packet_stream.h"

#define WAIT_MS 20000
#define SILENCE_MS 30
#define BODY_BYTES 60

/* The VMM's ends of one NIC. */
typedef struct {
    int sends, takes;
} Ends;

typedef struct {
    OutputBuffer *buffer;
    gint held, failed; /* events */
} Scene;

static void on_event(OutputBufferEvent event, gpointer user)
{
    Scene *scene = user;

    g_atomic_int_inc(event == OUTPUT_BUFFER_HELD ? &scene->held : &scene->failed);
}

static Scene *begin(uint64_t limit_bytes)
{
    Scene *scene = g_new0(Scene, 1);

    scene->buffer = output_buffer_new(
        &(OutputBufferOptions){.limit_bytes = limit_bytes, .func = on_event, .user = scene}, NULL);
    assert_non_null(scene->buffer);
    return scene;
}

static void end(Scene *scene)
{
    output_buffer_free(scene->buffer);
    g_free(scene);
}

static Ends add_nic(Scene *scene)
{
    int in[2], out[2];

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, in), 0);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, out), 0);
    output_buffer_add_nic(scene->buffer, in[1], out[1]);
    return (Ends){.sends = in[0], .takes = out[0]};
}

static void close_ends(Ends *ends)
{
    fd_close(&ends->sends);
    fd_close(&ends->takes);
}

static void put_be32(uint8_t *at, uint32_t value)
{
    for (guint i = 0; i < 4; i++)
        at[i] = (uint8_t)(value >> (24 - 8 * i));
}

/* A packet of *bytes* that begins with its number. */
static GByteArray *make_frame(uint32_t number, size_t bytes)
{
    GByteArray *frame = g_byte_array_new();

    g_byte_array_set_size(frame, (guint)(PACKET_FRAME_HEADER_BYTES + bytes));
    memset(frame->data, (int)(number & 0x7f), frame->len);
    put_be32(frame->data, (uint32_t)bytes);
    put_be32(frame->data + 4, 12);
    put_be32(frame->data + 8, number);
    return frame;
}

static void send_long(Ends *ends, uint32_t number, size_t bytes)
{
    g_autoptr(GByteArray) frame = make_frame(number, bytes);

    assert_true(fd_write_all(ends->sends, frame->data, frame->len, NULL));
}

static void send_packet(Ends *ends, uint32_t number)
{
    send_long(ends, number, BODY_BYTES);
}

static void expect_long(Ends *ends, uint32_t number, size_t bytes)
{
    g_autoptr(GByteArray) wanted = make_frame(number, bytes);
    g_autofree uint8_t *got = g_malloc(wanted->len);

    for (size_t at = 0; at < wanted->len;) {
        struct pollfd wait = {.fd = ends->takes, .events = POLLIN};
        ssize_t n;

        if (poll(&wait, 1, WAIT_MS) != 1)
            fail_msg("packet %u did not come", number);
        n = read(ends->takes, got + at, wanted->len - at);
        if (n <= 0)
            fail_msg("the stream ended before packet %u", number);
        at += (size_t)n;
    }
    if (memcmp(got, wanted->data, wanted->len) != 0)
        fail_msg("packet %u came otherwise, with the number %u", number, got[11]);
}

static void expect_packet(Ends *ends, uint32_t number)
{
    expect_long(ends, number, BODY_BYTES);
}

static void expect_nothing(Ends *ends)
{
    struct pollfd wait = {.fd = ends->takes, .events = POLLIN};

    assert_int_equal(poll(&wait, 1, SILENCE_MS), 0);
}

static void expect_end(Ends *ends)
{
    char byte;

    assert_int_equal(fd_wait_readable(ends->takes, WAIT_MS, NULL), 1);
    assert_int_equal(read(ends->takes, &byte, 1), 0);
}

static OutputBufferStats take_stats(Scene *scene)
{
    OutputBufferStats stats;

    output_buffer_take_stats(scene->buffer, &stats);
    return stats;
}

/* Waits until a value of the statistics, at *offset* in them, is so large. */
static void await_count(Scene *scene, size_t offset, uint64_t wanted)
{
    uint64_t deadline = clock_now_ns() + WAIT_MS * 1000000ull, value;

    do {
        OutputBufferStats stats = take_stats(scene);

        memcpy(&value, (char *)&stats + offset, sizeof value);
        if (value >= wanted)
            return;
        clock_sleep_ns(200000);
    } while (clock_now_ns() < deadline);
    fail_msg("%" G_GUINT64_FORMAT " instead of %" G_GUINT64_FORMAT, value, wanted);
}

#define AWAIT(scene, field, wanted)                                                                \
    await_count(scene, G_STRUCT_OFFSET(OutputBufferStats, field), wanted)

static void await_event(const gint *events, gint wanted)
{
    uint64_t deadline = clock_now_ns() + WAIT_MS * 1000000ull;

    while (g_atomic_int_get(events) < wanted && clock_now_ns() < deadline)
        clock_sleep_ns(200000);
    assert_int_equal(g_atomic_int_get(events), wanted);
}

/* ---- epochs ---- */

static void test_epochs(void **state G_GNUC_UNUSED)
{
    Scene *scene = begin(0);
    Ends first = add_nic(scene), second = add_nic(scene);
    OutputBufferStats stats;

    for (uint32_t i = 0; i < 10; i++)
        send_packet(&first, i);
    send_packet(&second, 100);
    assert_int_equal(output_buffer_cut(scene->buffer), 1);
    send_packet(&first, 10);
    send_packet(&second, 101);
    assert_int_equal(output_buffer_cut(scene->buffer), 2);
    send_packet(&first, 11);
    AWAIT(scene, held_packets, 14);
    expect_nothing(&first);
    expect_nothing(&second);

    output_buffer_release(scene->buffer, 1);
    for (uint32_t i = 0; i < 10; i++)
        expect_packet(&first, i);
    expect_packet(&second, 100);
    expect_nothing(&first);
    expect_nothing(&second);
    stats = take_stats(scene);
    assert_int_equal(stats.held_packets, 3);
    assert_int_equal(stats.held_bytes, 3 * (PACKET_FRAME_HEADER_BYTES + BODY_BYTES));
    assert_int_equal(stats.released_packets, 11);
    assert_true(stats.oldest_ns > SILENCE_MS * 1000000ull);

    /* Not what has not been cut. */
    output_buffer_release(scene->buffer, 99);
    expect_packet(&first, 10);
    expect_packet(&second, 101);
    expect_nothing(&first);
    /* Nor back. */
    assert_int_equal(output_buffer_cut(scene->buffer), 3);
    output_buffer_release(scene->buffer, 1);
    expect_nothing(&first);
    output_buffer_release(scene->buffer, 3);
    expect_packet(&first, 11);
    AWAIT(scene, released_packets, 14);
    assert_int_equal(take_stats(scene).oldest_ns, 0);
    close_ends(&first);
    close_ends(&second);
    end(scene);
}

/* What the guest wrote before the cut is of its epoch, whether the thread has read it or not. */
static void test_cut_reads(void **state G_GNUC_UNUSED)
{
    Scene *scene = begin(0);
    Ends nic = add_nic(scene);
    uint32_t sent = 0, seen = 0;

    for (uint32_t turn = 0; turn < 500; turn++) {
        uint64_t epoch;

        for (uint32_t i = 0; i < 1 + turn % 5; i++)
            send_packet(&nic, sent++);
        epoch = output_buffer_cut(scene->buffer);
        assert_int_equal(epoch, turn + 1);
        send_packet(&nic, sent); /* of the next one */
        output_buffer_release(scene->buffer, epoch);
        while (seen < sent)
            expect_packet(&nic, seen++);
        if (turn % 100 == 0)
            expect_nothing(&nic);
        sent++;
    }
    close_ends(&nic);
    end(scene);
}

static void test_frame_in_pieces_belongs_to_the_next(void **state G_GNUC_UNUSED)
{
    Scene *scene = begin(0);
    Ends nic = add_nic(scene);
    g_autoptr(GByteArray) frame = make_frame(7, 1000);

    assert_true(fd_write_all(nic.sends, frame->data, 500, NULL));
    output_buffer_release(scene->buffer, output_buffer_cut(scene->buffer));
    assert_true(fd_write_all(nic.sends, frame->data + 500, frame->len - 500, NULL));
    AWAIT(scene, held_packets, 1);
    expect_nothing(&nic);
    output_buffer_release(scene->buffer, output_buffer_cut(scene->buffer));
    expect_long(&nic, 7, 1000);
    close_ends(&nic);
    end(scene);
}

static void test_pass(void **state G_GNUC_UNUSED)
{
    Scene *scene = begin(0);
    Ends nic = add_nic(scene);

    send_packet(&nic, 0);
    await_event(&scene->held, 1);
    send_packet(&nic, 1);
    output_buffer_pass(scene->buffer);
    expect_packet(&nic, 0);
    expect_packet(&nic, 1);
    (void)output_buffer_cut(scene->buffer);
    send_packet(&nic, 2);
    expect_packet(&nic, 2);
    /* Nothing is held: nobody has to make a checkpoint. */
    assert_int_equal(g_atomic_int_get(&scene->held), 1);
    close_ends(&nic);
    end(scene);
}

static void test_first_packet_is_told(void **state G_GNUC_UNUSED)
{
    Scene *scene = begin(0);
    Ends nic = add_nic(scene), other = add_nic(scene);

    for (gint epoch = 1; epoch < 20; epoch++) {
        send_packet(&nic, 0);
        send_packet(&other, 0);
        await_event(&scene->held, epoch);
        send_packet(&nic, 1);
        (void)output_buffer_cut(scene->buffer);
        assert_int_equal(g_atomic_int_get(&scene->held), epoch);
    }
    close_ends(&nic);
    close_ends(&other);
    end(scene);
}

/* QEMU's own, without the header that it tells. */
static void test_announcement(void **state G_GNUC_UNUSED)
{
    static const uint8_t nothing[12];
    Scene *scene = begin(0);
    Ends nic = add_nic(scene);
    g_autoptr(GByteArray) frame = make_frame(0, 60);
    uint8_t got[80];

    memset(frame->data + 8, 0xff, 6);
    frame->data[20] = 0x80;
    frame->data[21] = 0x35;
    output_buffer_pass(scene->buffer);
    assert_true(fd_write_all(nic.sends, frame->data, frame->len, NULL));
    assert_true(fd_read_all(nic.takes, got, sizeof got, NULL));
    expect_nothing(&nic);
    put_be32(frame->data, 72);
    assert_memory_equal(got, frame->data, 8);
    assert_memory_equal(got + 8, nothing, 12);
    assert_memory_equal(got + 20, frame->data + 8, 60);
    AWAIT(scene, released_packets, 1);
    assert_int_equal(take_stats(scene).held_bytes, 0);
    close_ends(&nic);
    end(scene);
}

/* ---- limits ---- */

static void test_limit(void **state G_GNUC_UNUSED)
{
    Scene *scene = begin(100000);
    Ends nic = add_nic(scene);
    OutputBufferStats stats;
    uint64_t kept;

    for (uint32_t i = 0; i < 200; i++)
        send_long(&nic, i, 1000);
    (void)output_buffer_cut(scene->buffer);
    stats = take_stats(scene);
    kept = stats.held_packets;
    assert_in_range(kept, 90, 99);
    assert_int_equal(stats.dropped_packets, 200 - kept);
    output_buffer_pass(scene->buffer);
    for (uint32_t i = 0; i < kept; i++)
        expect_long(&nic, i, 1000);
    send_packet(&nic, 200);
    expect_packet(&nic, 200);
    close_ends(&nic);
    end(scene);
}

/* The VMM does not take what is released: the other NIC goes on, and so does this one later. */
static void test_blocked_writer(void **state G_GNUC_UNUSED)
{
    enum { COUNT = 300, BYTES = 10000 };
    Scene *scene = begin(COUNT * BYTES * 2);
    Ends nic = add_nic(scene), other = add_nic(scene);

    output_buffer_pass(scene->buffer);
    for (uint32_t i = 0; i < COUNT; i++)
        send_long(&nic, i, BYTES);
    for (uint32_t i = 0; i < 100; i++) {
        send_packet(&other, i);
        expect_packet(&other, i);
    }
    assert_true(take_stats(scene).held_packets > COUNT / 2);
    for (uint32_t i = 0; i < COUNT; i++)
        expect_long(&nic, i, BYTES);
    AWAIT(scene, released_packets, COUNT + 100);
    assert_int_equal(take_stats(scene).held_bytes, 0);
    close_ends(&nic);
    close_ends(&other);
    end(scene);
}

static void test_free_while_the_writer_is_blocked(void **state G_GNUC_UNUSED)
{
    Scene *scene = begin(0);
    Ends nic = add_nic(scene);

    output_buffer_pass(scene->buffer);
    for (uint32_t i = 0; i < 100; i++)
        send_long(&nic, i, 10000);
    end(scene);
    close_ends(&nic);
}

/* ---- ends and failures ---- */

static void test_end_of_stream(void **state G_GNUC_UNUSED)
{
    Scene *scene = begin(0);
    Ends nic = add_nic(scene), other = add_nic(scene);

    for (uint32_t i = 0; i < 50; i++)
        send_packet(&nic, i);
    fd_close(&nic.sends);
    AWAIT(scene, held_packets, 50);
    expect_nothing(&nic);
    output_buffer_pass(scene->buffer);
    for (uint32_t i = 0; i < 50; i++)
        expect_packet(&nic, i);
    expect_end(&nic);
    send_packet(&other, 0);
    expect_packet(&other, 0);
    fd_close(&other.sends);
    expect_end(&other);
    assert_true(output_buffer_check(scene->buffer, NULL));
    close_ends(&nic);
    close_ends(&other);
    end(scene);
}

/* The VMM has taken out the hold before its packets went back. */
static void test_nobody_takes_them(void **state G_GNUC_UNUSED)
{
    Scene *scene = begin(0);
    Ends nic = add_nic(scene);

    for (uint32_t i = 0; i < 10; i++)
        send_packet(&nic, i);
    fd_close(&nic.takes);
    output_buffer_release(scene->buffer, output_buffer_cut(scene->buffer));
    AWAIT(scene, lost_packets, 10);
    send_packet(&nic, 10);
    AWAIT(scene, lost_packets, 11);
    assert_int_equal(take_stats(scene).held_packets, 0);
    close_ends(&nic);
    end(scene);
}

static void test_malformed(void **state G_GNUC_UNUSED)
{
    static const uint8_t junk[] = {0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0};
    Scene *scene = begin(0);
    Ends nic = add_nic(scene), other = add_nic(scene);
    g_autofree char *zeroes = g_malloc0(1 << 20);
    GError *error = NULL;

    send_packet(&nic, 0);
    assert_true(output_buffer_check(scene->buffer, NULL));
    assert_true(fd_write_all(nic.sends, junk, sizeof junk, NULL));
    await_event(&scene->failed, 1);
    assert_false(output_buffer_check(scene->buffer, &error));
    assert_true(error_is(error, VMFERRY_ERROR_INVALID));
    assert_non_null(strstr(error->message, "4294967295 bytes"));
    g_error_free(error);
    /* A guest that goes on sending does not stand still. */
    assert_true(send(nic.sends, zeroes, 1 << 20, MSG_NOSIGNAL) < 0);
    assert_int_equal(errno, EPIPE);
    /* What was good before, and the other NIC, go on. */
    send_packet(&other, 0);
    output_buffer_release(scene->buffer, output_buffer_cut(scene->buffer));
    expect_packet(&nic, 0);
    expect_packet(&other, 0);
    assert_int_equal(g_atomic_int_get(&scene->failed), 1);
    close_ends(&nic);
    close_ends(&other);
    end(scene);
}

/* ---- threads ---- */

typedef struct {
    Scene *scene;
    gint stop;
} Cutter;

static gpointer cut_thread(gpointer data)
{
    Cutter *cutter = data;

    while (!g_atomic_int_get(&cutter->stop)) {
        OutputBufferStats stats;

        output_buffer_release(cutter->scene->buffer, output_buffer_cut(cutter->scene->buffer));
        output_buffer_take_stats(cutter->scene->buffer, &stats);
    }
    return NULL;
}

static gpointer send_thread(gpointer data)
{
    for (uint32_t i = 0; i < 20000; i++)
        send_long(data, i, BODY_BYTES + i % 1000);
    return NULL;
}

static void test_all_at_once(void **state G_GNUC_UNUSED)
{
    Scene *scene = begin(1ull << 30);
    Ends nic = add_nic(scene);
    Cutter cutter = {.scene = scene};
    GThread *cuts = g_thread_new("cuts", cut_thread, &cutter);
    GThread *sends = g_thread_new("sends", send_thread, &nic);

    for (uint32_t i = 0; i < 20000; i++)
        expect_long(&nic, i, BODY_BYTES + i % 1000);
    g_thread_join(sends);
    g_atomic_int_set(&cutter.stop, TRUE);
    g_thread_join(cuts);
    close_ends(&nic);
    end(scene);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_epochs),
        cmocka_unit_test(test_cut_reads),
        cmocka_unit_test(test_frame_in_pieces_belongs_to_the_next),
        cmocka_unit_test(test_pass),
        cmocka_unit_test(test_first_packet_is_told),
        cmocka_unit_test(test_announcement),
        cmocka_unit_test(test_limit),
        cmocka_unit_test(test_blocked_writer),
        cmocka_unit_test(test_free_while_the_writer_is_blocked),
        cmocka_unit_test(test_end_of_stream),
        cmocka_unit_test(test_nobody_takes_them),
        cmocka_unit_test(test_malformed),
        cmocka_unit_test(test_all_at_once),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
