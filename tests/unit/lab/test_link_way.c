/* The relay's inner part in virtual time; packet sockets of the Unix kind are its taps. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "control.h"
#include "frag_needed.h"

#define MS G_GUINT64_CONSTANT(1000000)
#define FRAME 100
#define BUFFERS 8

typedef struct {
    int near[2], far[2]; /* [0]: the host's side, [1]: ours */
    Way ways[LINK_WAYS];
} Fixture;

static int setup(void **state)
{
    Fixture *f = g_new0(Fixture, 1);

    assert_int_equal(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0, f->near), 0);
    assert_int_equal(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0, f->far), 0);
    way_init(&f->ways[LINK_FORWARD], f->near[1], f->far[1], 1, 0, BUFFERS);
    way_init(&f->ways[LINK_BACKWARD], f->far[1], f->near[1], 1, 1, BUFFERS);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    Fixture *f = *state;

    for (guint i = 0; i < LINK_WAYS; i++) {
        way_clear(&f->ways[i]);
        close(f->near[i]);
        close(f->far[i]);
    }
    g_free(f);
    return 0;
}

static void order(Fixture *f, const char *line, guint64 now_ns)
{
    g_autoptr(GError) error = NULL;
    json_t *answer = control_answer(f->ways, line, now_ns, &error);

    assert_null(error);
    json_decref(answer);
}

/* Sends an IPv4 frame from the near host, marked with a number. */
static void send_ip(Fixture *f, guint8 number)
{
    guint8 frame[FRAME] = {[12] = 0x08, [14] = 0x45, [50] = number};

    assert_int_equal(send(f->near[0], frame, sizeof frame, 0), sizeof frame);
}

/* The number of the next frame at the far host; -1: none. */
static int received(Fixture *f)
{
    guint8 frame[2 * FRAME];
    ssize_t length = recv(f->far[0], frame, sizeof frame, 0);

    if (length < 0)
        return -1;
    assert_int_equal(length, FRAME);
    return frame[50];
}

static void test_delays_and_keeps_bytes(void **state)
{
    Fixture *f = *state;
    Way *way = &f->ways[LINK_FORWARD];

    order(f, "delay 50ms", 0);
    send_ip(f, 1);
    send_ip(f, 2);
    assert_int_equal(way_read(way, 10 * MS), 2);
    assert_int_equal(way_next_ns(way), 60 * MS);
    assert_int_equal(way_deliver(way, 60 * MS - 1), 0);
    assert_int_equal(received(f), -1);
    assert_int_equal(way_deliver(way, 60 * MS), 2);
    assert_int_equal(received(f), 1);
    assert_int_equal(received(f), 2);
    assert_int_equal(way_next_ns(way), G_MAXUINT64);
}

static void test_buffers_are_bounded(void **state)
{
    Fixture *f = *state;
    Way *way = &f->ways[LINK_FORWARD];

    order(f, "delay 50ms", 0);
    for (guint8 i = 0; i < BUFFERS + 3; i++) {
        send_ip(f, i);
        assert_int_equal(way_read(way, 0), 1);
    }
    assert_int_equal(way->no_buffer, 3);
    assert_int_equal(way_deliver(way, 50 * MS), BUFFERS);
    for (int i = 0; i < BUFFERS; i++)
        assert_int_equal(received(f), i);
    send_ip(f, 99);
    assert_int_equal(way_read(way, 60 * MS), 1);
    assert_int_equal(way_deliver(way, 110 * MS), 1);
    assert_int_equal(received(f), 99);
}

static void test_reorders_and_duplicates(void **state)
{
    Fixture *f = *state;
    Way *way = &f->ways[LINK_FORWARD];

    order(f, "delay 50ms reorder 100% reorder-by 10ms duplicate 100%", 0);
    send_ip(f, 1);
    way_read(way, 0);
    order(f, "reorder 0 duplicate 0", MS);
    send_ip(f, 2);
    way_read(way, 2 * MS);
    order(f, "loss 0", 3 * MS); /* whatever is ordered, each keeps its time */
    assert_int_equal(way_next_ns(way), 52 * MS);
    assert_int_equal(way_deliver(way, 100 * MS), 2);
    assert_int_equal(received(f), 2);
    assert_int_equal(received(f), 1);
    assert_int_equal(received(f), 1);
    assert_int_equal(received(f), -1);
}

/* All of them, in their order, at the times of the new rate. */
static void test_a_changed_rate_reaches_what_waits(void **state)
{
    Fixture *f = *state;
    Way *way = &f->ways[LINK_FORWARD];

    order(f, "rate 1000 queue-time 0", 0); /* 100 ms a frame */
    for (guint8 i = 0; i < 5; i++)
        send_ip(f, i);
    way_read(way, 0);
    assert_int_equal(way_deliver(way, 100 * MS), 1);
    order(f, "rate 10000", 150 * MS);
    assert_int_equal(way_next_ns(way), 155 * MS);
    for (guint64 i = 0; i < 4; i++) {
        assert_int_equal(way_deliver(way, (155 + 10 * i) * MS - 1), 0);
        assert_int_equal(way_deliver(way, (155 + 10 * i) * MS), 1);
    }
    for (int i = 0; i < 5; i++)
        assert_int_equal(received(f), i);
}

/* Also of packets that were on the way when it broke. */
static void test_a_break_loses_all(void **state)
{
    Fixture *f = *state;
    Way *way = &f->ways[LINK_FORWARD];

    order(f, "delay 50ms", 0);
    send_ip(f, 1);
    way_read(way, 0);
    order(f, "break 100ms", 20 * MS);
    send_ip(f, 2);
    way_read(way, 30 * MS);
    send_ip(f, 3);
    way_read(way, 119 * MS);
    send_ip(f, 4);
    way_read(way, 120 * MS);
    way_deliver(way, 500 * MS);
    assert_int_equal(received(f), 4);
    assert_int_equal(received(f), -1);
    assert_int_equal(way->broken_late, 1);
    assert_int_equal(way->packets[LINK_BROKEN], 2);
}

static void test_arp_is_not_lost(void **state)
{
    Fixture *f = *state;
    Way *way = &f->ways[LINK_FORWARD];
    guint8 frame[FRAME] = {[12] = 0x08, [13] = 0x06, [50] = 7};

    order(f, "delay 50ms loss 100%", 0);
    assert_int_equal(send(f->near[0], frame, sizeof frame, 0), sizeof frame);
    way_read(way, 0);
    assert_int_equal(received(f), 7);
    order(f, "break 1s", 0);
    assert_int_equal(send(f->near[0], frame, sizeof frame, 0), sizeof frame);
    way_read(way, 0);
    assert_int_equal(received(f), -1);
}

static void test_directions_and_mistakes(void **state)
{
    Fixture *f = *state;
    GError *error = NULL;

    order(f, "  forward rate 10mbit\n", 0);
    order(f, "backward delay 7ms", 0);
    assert_int_equal(f->ways[LINK_FORWARD].model.settings.rate, 1250000);
    assert_int_equal(f->ways[LINK_FORWARD].model.settings.delay_ns, 0);
    assert_int_equal(f->ways[LINK_BACKWARD].model.settings.rate, 0);
    assert_int_equal(f->ways[LINK_BACKWARD].model.settings.delay_ns, 7 * MS);
    /* Right for one only: neither is changed. */
    assert_null(control_answer(f->ways, "rate 1mbit delay 8ms jitter 8ms loss x", 0, &error));
    assert_non_null(strstr(error->message, "forward: loss: \"x\""));
    g_clear_error(&error);
    order(f, "forward delay 8ms", 0);
    assert_null(control_answer(f->ways, "jitter 8ms", 0, &error));
    assert_non_null(strstr(error->message, "backward: jitter"));
    g_clear_error(&error);
    assert_int_equal(f->ways[LINK_FORWARD].model.settings.jitter_ns, 0);
    for (guint i = 0; i < 3; i++) {
        const char *const lines[] = {"", "forward", "stats now"};

        assert_null(control_answer(f->ways, lines[i], 0, &error));
        g_clear_error(&error);
    }
}

static void check_message(Fixture *f, const void *message, size_t length, const char *answer)
{
    int pair[2];
    char text[2 * LINK_LINE_MOST] = {0};

    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair), 0);
    assert_int_equal(send(pair[0], message, length, 0), length);
    assert_true(control_serve(pair[1], f->ways));
    assert_true(recv(pair[0], text, sizeof text - 1, 0) > 0);
    assert_non_null(strstr(text, answer));
    close(pair[0]);
    assert_false(control_serve(pair[1], f->ways));
    close(pair[1]);
}

static void test_messages(void **state)
{
    Fixture *f = *state;
    char longest[LINK_LINE_MOST + 1];

    memset(longest, 'x', sizeof longest);
    check_message(f, "delay 3ms", 9, "{\"ok\":true}");
    assert_int_equal(f->ways[LINK_BACKWARD].model.settings.delay_ns, 3 * MS);
    check_message(f, "delay 4ms\0x", 11, "UTF-8");
    check_message(f, "loss \xff\xfe", 7, "UTF-8");
    check_message(f, longest, LINK_LINE_MOST, "is not a setting");
    check_message(f, longest, sizeof longest, "at most 1024");
    assert_int_equal(f->ways[LINK_BACKWARD].model.settings.delay_ns, 3 * MS);
}

static json_int_t number(json_t *answer, const char *way, const char *name)
{
    return json_integer_value(json_object_get(json_object_get(answer, way), name));
}

static void test_statistics(void **state)
{
    Fixture *f = *state;
    json_t *answer;

    order(f, "rate 1000 queue 250 queue-time 0", 0);
    for (guint8 i = 0; i < 4; i++)
        send_ip(f, i);
    way_read(&f->ways[LINK_FORWARD], 0);
    way_deliver(&f->ways[LINK_FORWARD], 101 * MS);
    answer = control_answer(f->ways, "stats", 101 * MS, NULL);
    assert_int_equal(number(answer, "forward", "packets"), 4);
    assert_int_equal(number(answer, "forward", "delivered"), 1);
    assert_int_equal(number(answer, "forward", "delivered_bytes"), FRAME);
    assert_int_equal(number(answer, "forward", "under_way"), 1);
    assert_int_equal(number(answer, "forward", "waiting_bytes"), 99);
    assert_int_equal(number(answer, "forward", "latest_us"), 1000);
    assert_int_equal(
        json_integer_value(json_object_get(
            json_object_get(json_object_get(answer, "forward"), "dropped"), "queue-full")),
        2);
    assert_int_equal(number(answer, "backward", "packets"), 0);
    json_decref(answer);
}

static guint sum16(const guint8 *data, guint length)
{
    guint sum = 0;

    for (guint i = 0; i < length; i += 2)
        sum += (guint)data[i] << 8 | (i + 1 < length ? data[i + 1] : 0);
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return sum;
}

static void test_frag_needed(void **state)
{
    guint8 frame[1514] = {1, 2, 3, 4, 5, 6, 11, 12, 13, 14, 15, 16, 0x08, 0};
    guint8 answer[LINK_FRAG_NEEDED_MOST];
    guint8 *ip = frame + 14;

    ip[0] = 0x45;
    ip[6] = 0x40;
    ip[9] = 6;
    memcpy(ip + 12, "\x0a\x42\x00\x01\x0a\x42\x00\x02", 8);
    assert_int_equal(link_frag_needed(frame, sizeof frame, 1400, answer), 14 + 20 + 8 + 28);
    assert_memory_equal(answer, frame + 6, 6);
    assert_memory_equal(answer + 6, frame, 6);
    assert_memory_equal(answer + 14 + 12, "\x0a\x42\x00\x02\x0a\x42\x00\x01", 8);
    assert_int_equal(sum16(answer + 14, 20), 0xffff);
    assert_int_equal(sum16(answer + 34, 36), 0xffff);
    assert_int_equal(answer[34], 3);
    assert_int_equal(answer[35], 4);
    assert_int_equal(answer[40] << 8 | answer[41], 1400);
    assert_memory_equal(answer + 42, ip, 28);

    for (guint length = 0; length < 14 + 28; length++) /* not whole */
        assert_int_equal(link_frag_needed(frame, length, 1400, answer), 0);
    ip[0] = 0x4f; /* the longest header: fits */
    assert_int_equal(link_frag_needed(frame, sizeof frame, 1400, answer), LINK_FRAG_NEEDED_MOST);
    ip[0] = 0x44;
    assert_int_equal(link_frag_needed(frame, sizeof frame, 1400, answer), 0);
    ip[0] = 0x45;
    ip[9] = 1; /* about an ICMP error nothing is said, about an echo it is */
    ip[20] = 3;
    assert_int_equal(link_frag_needed(frame, sizeof frame, 1400, answer), 0);
    ip[20] = 8;
    assert_int_not_equal(link_frag_needed(frame, sizeof frame, 1400, answer), 0);
    ip[7] = 1; /* a later fragment */
    assert_int_equal(link_frag_needed(frame, sizeof frame, 1400, answer), 0);
    ip[7] = 0;
    ip[6] = 0; /* may be cut */
    assert_int_equal(link_frag_needed(frame, sizeof frame, 1400, answer), 0);
}

/* Only what may not be cut is told, and to its sender. */
static void test_who_sends_too_much_is_told(void **state)
{
    Fixture *f = *state;
    Way *way = &f->ways[LINK_FORWARD];
    guint8 frame[FRAME] = {[12] = 0x08, [14] = 0x45, [20] = 0x40};
    guint8 answer[200];

    order(f, "mtu 80", 0);
    assert_int_equal(send(f->near[0], frame, sizeof frame, 0), sizeof frame);
    way_read(way, 0);
    assert_int_equal(recv(f->near[0], answer, sizeof answer, 0), -1);
    order(f, "frag-needed on", 0);
    assert_int_equal(send(f->near[0], frame, sizeof frame, 0), sizeof frame);
    way_read(way, 0);
    assert_int_equal(recv(f->near[0], answer, sizeof answer, 0), 14 + 20 + 8 + 28);
    assert_int_equal(received(f), -1);
    assert_int_equal(way->packets[LINK_TOO_BIG], 2);
    assert_int_equal(way->told, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_delays_and_keeps_bytes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_buffers_are_bounded, setup, teardown),
        cmocka_unit_test_setup_teardown(test_reorders_and_duplicates, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_changed_rate_reaches_what_waits, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_break_loses_all, setup, teardown),
        cmocka_unit_test_setup_teardown(test_arp_is_not_lost, setup, teardown),
        cmocka_unit_test_setup_teardown(test_directions_and_mistakes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_messages, setup, teardown),
        cmocka_unit_test_setup_teardown(test_statistics, setup, teardown),
        cmocka_unit_test(test_frag_needed),
        cmocka_unit_test_setup_teardown(test_who_sends_too_much_is_told, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
