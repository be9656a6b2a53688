/*
 * Holding what a network card sends, against a real QEMU
 *
 * The guest does nothing: its card sends what QEMU's announce-self makes it send, and the network
 * is a UDP socket of the test.  Without QEMU (disk_guest.h) the tests are skipped.
 */
#include <arpa/inet.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "disk_guest.h"
#include "net/output_buffer.h"
#include "net/packet_stream.h"
#include "vmm/qemu/driver.h"
#include "vmm/qemu/hold_traces.h"

#define NAME "test-1"
#define CARD "card0"
#define BACKEND "net0"
#define PACKET_BYTES 60
#define SILENCE_MS 50
#define STALLED_MS 500

typedef struct {
    Guest guest;
    int network; /* receives what the card sends */
    VmmHoldEnds ends;
} Scene;

/* ---- the guest ---- */

static int open_network(guint *ret_port)
{
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t length = sizeof address;

    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &length), 0);
    *ret_port = ntohs(address.sin_port);
    return fd;
}

/* *card*: a driver's name. */
static Scene begin_with(Guest (*start_guest)(const char *options), const char *card,
                        const char *more)
{
    guint port;
    Scene scene = {.network = open_network(&port), .ends = {-1, -1}};
    g_autofree char *options = g_strdup_printf(" -netdev socket,id=" BACKEND
                                               ",udp=127.0.0.1:%u,localaddr=127.0.0.1:0 -device "
                                               "%s,netdev=" BACKEND ",id=" CARD "%s",
                                               port, card, more);

    scene.guest = start_guest(options);
    return scene;
}

static Scene begin(const char *card, const char *more)
{
    return begin_with(start, card, more);
}

static void close_ends(Scene *scene)
{
    fd_close(&scene->ends.sent);
    fd_close(&scene->ends.back);
}

static void finish(Scene *scene)
{
    close_ends(scene);
    fd_close(&scene->network);
    end(&scene->guest);
}

static gboolean try_send(Guest *guest, int timeout_ms)
{
    json_t *arguments = json_pack("{s:i, s:i, s:i, s:i, s:[s]}", "initial", 50, "max", 50, "rounds",
                                  1, "step", 50, "interfaces", CARD);

    return qmp_run(guest->qmp, "announce-self", arguments, timeout_ms, NULL);
}

static void send_packet(Scene *scene)
{
    assert_true(try_send(&scene->guest, WAIT_MS));
}

static void expect_on_network(Scene *scene)
{
    uint8_t packet[2000];

    assert_int_equal(fd_wait_readable(scene->network, WAIT_MS, NULL), 1);
    assert_int_equal(read(scene->network, packet, sizeof packet), PACKET_BYTES);
    assert_memory_equal(packet, "\xff\xff\xff\xff\xff\xff", 6);
}

static void expect_silence(Scene *scene)
{
    assert_int_equal(fd_wait_readable(scene->network, SILENCE_MS, NULL), 0);
}

/* ---- the hold ---- */

static void hold(Scene *scene)
{
    GError *error = NULL;

    must(vmm_begin_hold(scene->guest.vmm, &(VmmHold){.name = NAME, .nic = BACKEND}, &scene->ends,
                        &error),
         &error);
}

static void end_hold(Vmm *vmm)
{
    GError *error = NULL;

    must(vmm_end_hold(vmm, NAME, &error), &error);
}

static void take(Scene *scene, uint8_t frame[PACKET_FRAME_HEADER_BYTES + PACKET_BYTES])
{
    size_t bytes;

    assert_int_equal(fd_wait_readable(scene->ends.sent, WAIT_MS, NULL), 1);
    assert_true(
        fd_read_all(scene->ends.sent, frame, PACKET_FRAME_HEADER_BYTES + PACKET_BYTES, NULL));
    assert_true(
        packet_frame_measure(frame, PACKET_FRAME_HEADER_BYTES + PACKET_BYTES, &bytes, NULL));
    assert_int_equal(bytes, PACKET_FRAME_HEADER_BYTES + PACKET_BYTES);
}

static void take_and_give_back(Scene *scene)
{
    uint8_t frame[PACKET_FRAME_HEADER_BYTES + PACKET_BYTES];

    send_packet(scene);
    take(scene, frame);
    expect_silence(scene);
    assert_true(fd_write_all(scene->ends.back, frame, sizeof frame, NULL));
    expect_on_network(scene);
}

/* All objects and character devices. */
static json_t *query_all(Scene *scene)
{
    json_t *all = json_object();

    json_object_set_new(all, "objects",
                        qmp_execute(scene->guest.qmp, "qom-list",
                                    json_pack("{s:s}", "path", "/objects"), WAIT_MS, NULL));
    json_object_set_new(all, "chardevs",
                        qmp_execute(scene->guest.qmp, "query-chardev", NULL, WAIT_MS, NULL));
    return all;
}

static char *read_network_text(Scene *scene)
{
    return qmp_execute_human(scene->guest.qmp, "info network", WAIT_MS, NULL);
}

/* ---- tests ---- */

static void hold_and_release(const char *card)
{
    Scene scene = begin(card, " -object filter-dump,id=foreign,netdev=" BACKEND ",file=@dump");
    g_autoptr(json_t) before = query_all(&scene), after = NULL;
    g_autofree char *network = read_network_text(&scene), *network_after = NULL;
    g_auto(GStrv) line = NULL;
    g_autoptr(json_t) machine = read_machine(&scene.guest, &line);

    send_packet(&scene);
    expect_on_network(&scene);
    hold(&scene);
    expect_unchanged(&scene.guest, machine, line);
    for (guint i = 0; i < 3; i++)
        take_and_give_back(&scene);
    assert_int_equal(shutdown(scene.ends.back, SHUT_WR), 0);
    end_hold(scene.guest.vmm);
    send_packet(&scene);
    expect_on_network(&scene);
    after = query_all(&scene);
    network_after = read_network_text(&scene);
    assert_true(json_equal(before, after));
    assert_string_equal(network, network_after);
    end_hold(scene.guest.vmm);
    finish(&scene);
}

static void test_e1000(void **state G_GNUC_UNUSED)
{
    hold_and_release("e1000");
}

static void test_virtio(void **state G_GNUC_UNUSED)
{
    hold_and_release("virtio-net-pci");
}

static void test_paused(void **state G_GNUC_UNUSED)
{
    uint8_t frame[PACKET_FRAME_HEADER_BYTES + PACKET_BYTES];
    Scene scene = begin("e1000", " -S");
    GError *error = NULL;

    hold(&scene);
    must(vmm_resume(scene.guest.vmm, &error), &error);
    take_and_give_back(&scene);
    must(vmm_pause(scene.guest.vmm, NULL, &error), &error);
    close_ends(&scene);
    end_hold(scene.guest.vmm);
    hold(&scene);
    must(vmm_resume(scene.guest.vmm, &error), &error);
    take_and_give_back(&scene);
    /* What goes while it is paused, goes when it runs. */
    send_packet(&scene);
    take(&scene, frame);
    must(vmm_pause(scene.guest.vmm, NULL, &error), &error);
    assert_true(fd_write_all(scene.ends.back, frame, sizeof frame, NULL));
    assert_int_equal(shutdown(scene.ends.back, SHUT_WR), 0);
    end_hold(scene.guest.vmm);
    must(vmm_resume(scene.guest.vmm, &error), &error);
    expect_on_network(&scene);
    expect_silence(&scene);
    finish(&scene);
}

/* Begun before its state is there, or after that, and in any case before it runs. */
static void hold_incoming(gboolean loaded)
{
    Scene scene = begin("virtio-net-pci", "");
    g_autoptr(VmmDescription) machine = NULL;
    g_autoptr(GBytes) device_state = NULL;
    g_autoptr(json_t) before = NULL, after = NULL;
    GError *error = NULL;

    must(vmm_pause(scene.guest.vmm, NULL, &error), &error);
    machine = vmm_describe(scene.guest.vmm, &error);
    must(machine != NULL, &error);
    device_state = vmm_save_device_state(scene.guest.vmm, VMM_SAVE_SWITCHOVER, &error);
    must(device_state != NULL, &error);
    finish(&scene);

    scene = begin_with(start_incoming, "virtio-net-pci", "");
    before = query_all(&scene);
    if (!loaded)
        hold(&scene);
    must(vmm_open_incoming(scene.guest.vmm, machine->machine, machine->ram_regions, &error),
         &error);
    must(vmm_load_device_state(scene.guest.vmm, device_state, &error), &error);
    if (loaded)
        hold(&scene);
    must(vmm_resume(scene.guest.vmm, &error), &error);
    /* QEMU has announced the card at the end of the load. */
    while (loaded && fd_wait_readable(scene.network, SILENCE_MS, NULL) == 1)
        expect_on_network(&scene);
    take_and_give_back(&scene);
    close_ends(&scene);
    end_hold(scene.guest.vmm);
    after = query_all(&scene);
    assert_true(json_equal(before, after));
    finish(&scene);
}

static void test_incoming(void **state G_GNUC_UNUSED)
{
    hold_incoming(FALSE);
}

static void test_loaded(void **state G_GNUC_UNUSED)
{
    hold_incoming(TRUE);
}

/* What is under way when the hold is taken out arrives, and in order. */
static void test_nothing_is_lost_at_the_end(void **state G_GNUC_UNUSED)
{
    enum { COUNT = 40 };
    Scene scene = begin("e1000", "");
    OutputBuffer *buffer = output_buffer_new(&(OutputBufferOptions){0}, NULL);
    OutputBufferStats stats;

    hold(&scene);
    output_buffer_add_nic(buffer, fd_steal(&scene.ends.sent), fd_steal(&scene.ends.back));
    for (guint i = 0; i < COUNT; i++)
        send_packet(&scene);
    expect_silence(&scene);
    assert_int_equal(output_buffer_cut(buffer), 1);
    output_buffer_take_stats(buffer, &stats);
    assert_int_equal(stats.held_packets, COUNT);
    output_buffer_pass(buffer);
    end_hold(scene.guest.vmm);
    output_buffer_take_stats(buffer, &stats);
    assert_int_equal(stats.released_packets, COUNT);
    output_buffer_free(buffer);
    for (guint i = 0; i < COUNT; i++)
        expect_on_network(&scene);
    send_packet(&scene);
    expect_on_network(&scene);
    expect_silence(&scene);
    finish(&scene);
}

static gpointer end_thread(gpointer data)
{
    end_hold(((Scene *)data)->guest.vmm);
    return NULL;
}

/* However long it takes, within the limit, to give back what had been read. */
static void test_end_waits(void **state G_GNUC_UNUSED)
{
    uint8_t frames[2][PACKET_FRAME_HEADER_BYTES + PACKET_BYTES];
    Scene scene = begin("e1000", "");
    GThread *thread;

    hold(&scene);
    send_packet(&scene);
    send_packet(&scene);
    thread = g_thread_new("end", end_thread, &scene);
    take(&scene, frames[0]);
    take(&scene, frames[1]);
    assert_int_equal(fd_wait_readable(scene.ends.sent, WAIT_MS, NULL), 1);
    assert_int_equal(read(scene.ends.sent, &(char){0}, 1), 0);
    /* By now packets go straight. */
    send_packet(&scene);
    expect_on_network(&scene);
    expect_silence(&scene);
    assert_true(fd_write_all(scene.ends.back, frames, sizeof frames, NULL));
    assert_int_equal(shutdown(scene.ends.back, SHUT_WR), 0);
    g_thread_join(thread);
    expect_on_network(&scene);
    expect_on_network(&scene);
    expect_silence(&scene);
    finish(&scene);
}

/* Who held it is gone: nothing leaves, until another agent ends it. */
static void test_dead_holder(void **state G_GNUC_UNUSED)
{
    Scene scene = begin("e1000", "");
    g_autoptr(json_t) before = query_all(&scene), after = NULL;
    GError *error = NULL;
    Vmm *other;

    hold(&scene);
    send_packet(&scene);
    close_ends(&scene);
    send_packet(&scene);
    expect_silence(&scene);
    vmm_free(scene.guest.vmm);
    other = scene.guest.vmm = qemu_reattach(scene.guest.identity, &error);
    must(other != NULL, &error);
    send_packet(&scene);
    expect_silence(&scene);
    end_hold(other);
    after = query_all(&scene);
    assert_true(json_equal(before, after));
    send_packet(&scene);
    expect_on_network(&scene);
    finish(&scene);
}

/* Nobody gives back what is under way, and nobody says so. */
static void test_holder_that_does_not_end(void **state G_GNUC_UNUSED)
{
    Scene scene = begin("e1000", "");

    hold(&scene);
    send_packet(&scene);
    end_hold(scene.guest.vmm);
    send_packet(&scene);
    expect_on_network(&scene);
    expect_silence(&scene);
    finish(&scene);
}

static void test_new_hold_takes_the_place_of_a_dead_one(void **state G_GNUC_UNUSED)
{
    Scene scene = begin("e1000", "");
    g_autoptr(json_t) before = query_all(&scene), after = NULL;
    VmmHoldEnds ends;
    GError *error = NULL;

    for (guint i = 0; i < 4; i++) {
        hold(&scene);
        take_and_give_back(&scene);
        assert_false(vmm_begin_hold(scene.guest.vmm, &(VmmHold){.name = NAME, .nic = BACKEND},
                                    &ends, &error));
        expect_text(g_steal_pointer(&error), VMFERRY_ERROR_EXISTS, "is there, and alive");
        take_and_give_back(&scene);
        close_ends(&scene);
    }
    end_hold(scene.guest.vmm);
    after = query_all(&scene);
    assert_true(json_equal(before, after));
    finish(&scene);
}

typedef struct {
    Scene *scene;
    gint stop;
    guint sent;
} Sender;

static gpointer send_on(gpointer data)
{
    Sender *sender = data;

    while (!g_atomic_int_get(&sender->stop)) {
        send_packet(sender->scene);
        sender->sent++;
    }
    return NULL;
}

/* While one is put in where another was left. */
static void test_no_packet_passes_in_between(void **state G_GNUC_UNUSED)
{
    Scene scene = begin("e1000", "");
    Sender sender = {.scene = &scene};
    GThread *thread;

    hold(&scene);
    thread = g_thread_new("sender", send_on, &sender);
    for (guint i = 0; i < 20; i++) {
        close_ends(&scene);
        hold(&scene);
    }
    g_atomic_int_set(&sender.stop, TRUE);
    g_thread_join(thread);
    assert_true(sender.sent > 20);
    expect_silence(&scene);
    close_ends(&scene);
    hold(&scene);
    take_and_give_back(&scene);
    finish(&scene);
}

/* The agent died when the next injector was in, and nothing else. */
static void test_begun_by_half(void **state G_GNUC_UNUSED)
{
    Scene scene = begin("e1000", "");
    g_autoptr(json_t) before = query_all(&scene), after = NULL;
    GError *error = NULL;

    hold(&scene);
    close_ends(&scene);
    must(qmp_run(scene.guest.qmp, "object-add",
                 json_pack("{s:s, s:s, s:s, s:s, s:i, s:s, s:s, s:s}", "qom-type", "filter-buffer",
                           "id", QEMU_HOLD_PREFIX NAME ".1.inject", "netdev", BACKEND, "queue",
                           "rx", "interval", 1000, "status", "off", "position",
                           "id=" QEMU_HOLD_PREFIX NAME ".0.inject", "insert", "before"),
                 WAIT_MS, &error),
         &error);
    send_packet(&scene);
    expect_silence(&scene);
    hold(&scene);
    take_and_give_back(&scene);
    close_ends(&scene);
    end_hold(scene.guest.vmm);
    after = query_all(&scene);
    assert_true(json_equal(before, after));
    finish(&scene);
}

/* An agent that reads nothing any more holds up QEMU; it is taken out all the same. */
static void test_stalled_holder(void **state G_GNUC_UNUSED)
{
    Scene scene = begin("e1000", "");
    guint sent = 0;

    hold(&scene);
    while (try_send(&scene.guest, STALLED_MS) && sent < 200000)
        sent++;
    assert_in_range(sent, 10, 199999);
    end_hold(scene.guest.vmm);
    send_packet(&scene);
    expect_on_network(&scene);
    finish(&scene);
}

static void test_through_a_relay(void **state G_GNUC_UNUSED)
{
    Scene scene = begin("e1000", "");

    ((QemuVmm *)scene.guest.vmm)->relayed = TRUE;
    hold(&scene);
    take_and_give_back(&scene);
    close_ends(&scene);
    end_hold(scene.guest.vmm);
    send_packet(&scene);
    expect_on_network(&scene);
    finish(&scene);
}

static const VmmNic *find_nic(const GPtrArray *nics, const char *device)
{
    for (guint i = 0; i < nics->len; i++) {
        const VmmNic *nic = nics->pdata[i];

        if (strstr(nic->device, device))
            return nic;
    }
    fail_msg("no card %s", device);
    return NULL;
}

static void test_list(void **state G_GNUC_UNUSED)
{
    Scene scene = begin("virtio-net-pci",
                        " -netdev user,id=usernet -device e1000,netdev=usernet,addr=0x7 -device "
                        "rtl8139 -netdev hubport,id=port,hubid=1 -device pcnet,netdev=port"
                        " -object filter-dump,id=foreign,netdev=usernet,file=@dump");
    g_autoptr(json_t) before = query_all(&scene), after = NULL;
    GError *error = NULL;
    g_autoptr(GPtrArray) nics = vmm_list_nics(scene.guest.vmm, &error);
    const VmmNic *nic;

    must(nics != NULL, &error);
    after = query_all(&scene);
    assert_true(json_equal(before, after));
    assert_int_equal(nics->len, 4);
    nic = find_nic(nics, CARD " (virtio-net-pci)");
    assert_string_equal(nic->id, BACKEND);
    assert_null(nic->obstacle);
    nic = find_nic(nics, "e1000 at pci.0 07.0");
    assert_string_equal(nic->id, "usernet");
    assert_null(nic->obstacle);
    nic = find_nic(nics, "rtl8139");
    assert_null(nic->id);
    assert_string_equal(nic->obstacle, "it is connected to nothing");
    assert_null(find_nic(nics, "pcnet")->obstacle);
    finish(&scene);
}

static void test_that_cannot_begin(void **state G_GNUC_UNUSED)
{
    Scene scene = begin("e1000", "");
    g_autoptr(json_t) before = query_all(&scene), after = NULL;
    GError *error = NULL;

    assert_false(vmm_begin_hold(scene.guest.vmm, &(VmmHold){.name = NAME, .nic = "none"},
                                &scene.ends, &error));
    expect_text(g_steal_pointer(&error), VMFERRY_ERROR_FAILED, "hold the output of none: ");
    assert_int_equal(scene.ends.sent, -1);
    assert_int_equal(scene.ends.back, -1);
    assert_false(vmm_begin_hold(scene.guest.vmm, &(VmmHold){.name = "a.b", .nic = BACKEND},
                                &scene.ends, &error));
    expect_text(g_steal_pointer(&error), VMFERRY_ERROR_INVALID, "\"a.b\"");
    after = query_all(&scene);
    assert_true(json_equal(before, after));
    finish(&scene);
}

/* ---- names, without QEMU ---- */

static void test_traces(void **state G_GNUC_UNUSED)
{
    g_autoptr(json_t) objects =
        json_pack("[{s:s}, {s:s}, {s:s}, {s:s}, {s:s}]", "name", "vmferry-hold-a.0.divert", "name",
                  "vmferry-hold-a.12.inject", "name", "vmferry-hold-ab.0.divert", "name",
                  "vmferry-hold-a.x.divert", "name", "vmferry-hold-a.1.other");
    g_autoptr(json_t) chardevs = json_pack(
        "[{s:s, s:s}, {s:s, s:s}, {s:i}]", "label", "vmferry-hold-a.3.out", "filename",
        "disconnected:fd:x", "label", "vmferry-hold-a.3.in", "filename", "unix:", "label", 3);
    g_autoptr(GArray) found = qemu_hold_find(objects, chardevs, "a");
    static const QemuHoldTrace wanted[] = {{HOLD_DIVERT, 0, FALSE},
                                           {HOLD_INJECT, 12, FALSE},
                                           {HOLD_OUT, 3, FALSE},
                                           {HOLD_IN, 3, TRUE}};

    assert_int_equal(found->len, G_N_ELEMENTS(wanted));
    for (guint i = 0; i < found->len; i++) {
        const QemuHoldTrace *trace = &g_array_index(found, QemuHoldTrace, i);

        assert_int_equal(trace->part, wanted[i].part);
        assert_int_equal(trace->number, wanted[i].number);
        assert_int_equal(trace->connected, wanted[i].connected);
    }
}

static int set_up(void **state G_GNUC_UNUSED)
{
    qemu_guest_begin();
    return 0;
}

static int tear_down(void **state G_GNUC_UNUSED)
{
    return qemu_guest_clean_up();
}

#define QEMU_TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_traces),
        QEMU_TEST(test_e1000),
        QEMU_TEST(test_virtio),
        QEMU_TEST(test_paused),
        QEMU_TEST(test_incoming),
        QEMU_TEST(test_loaded),
        QEMU_TEST(test_nothing_is_lost_at_the_end),
        QEMU_TEST(test_end_waits),
        QEMU_TEST(test_dead_holder),
        QEMU_TEST(test_holder_that_does_not_end),
        QEMU_TEST(test_new_hold_takes_the_place_of_a_dead_one),
        QEMU_TEST(test_no_packet_passes_in_between),
        QEMU_TEST(test_begun_by_half),
        QEMU_TEST(test_stalled_holder),
        QEMU_TEST(test_through_a_relay),
        QEMU_TEST(test_list),
        QEMU_TEST(test_that_cannot_begin),
    };

    if (!qemu_guest_is_there())
        return 77;
    signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
