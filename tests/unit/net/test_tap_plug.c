/* What a guest sends through a tap interface is held by the kernel: nothing leaves before its epoch is
 * released, epochs leave one by one, an owner that dies lets nothing go, and nothing is left at the end.
 * Here the guest is this program, which writes to the tap device, and the world outside a UDP socket at
 * the tap interface.  Without the kernel's modules all but the refusal is skipped, unless
 * VMFERRY_NEEDS_PLUG is set (tests/system/test_tap_plug.py, which runs this under Debian's kernel). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_ether.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <netinet/ip.h>
#include <netinet/udp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/net_namespace.h"
#include "net/output_buffer.h"
#include "net/tap_plug.h"
#include "net/traffic_control.h"

#define WAIT_MS 20000
#define SILENCE_MS 50
#define PORT 7000
#define OURS 0x0a090001u  /* 10.9.0.1 */
#define GUEST 0x0a090002u /* 10.9.0.2 */
#define LIMIT (1u << 20)
#define QUEUES 2
/* They take their time to leave. */
#define MANY 5000u
#define TAP "tap0"

typedef struct {
    struct ethhdr ethernet;
    struct iphdr ip;
    struct udphdr udp;
    uint32_t number;
    uint8_t filling[400];
} __attribute__((packed)) Packet;

/* A network namespace with a tap interface, and nothing of another test's. */
typedef struct {
    int tap[QUEUES];
    int world; /* the UDP socket */
    int place; /* the namespace */
    uint8_t address[ETH_ALEN];
} Scene;

static gboolean may_run(void)
{
    g_autoptr(GError) error = NULL;

    if (tap_plug_probe(&error))
        return TRUE;
    print_message("skipped: %s\n", error->message);
    if (g_getenv("VMFERRY_NEEDS_PLUG"))
        fail_msg("%s", error->message);
    return FALSE;
}

static void set_address(int control, const char *name, unsigned long request, uint32_t address)
{
    struct ifreq interface = {0};
    struct sockaddr_in *in = (struct sockaddr_in *)(void *)&interface.ifr_addr;

    g_strlcpy(interface.ifr_name, name, IFNAMSIZ);
    in->sin_family = AF_INET;
    in->sin_addr.s_addr = htonl(address);
    assert_int_equal(ioctl(control, request, &interface), 0);
}

static void set_interface_up(Scene *scene, const char *name)
{
    struct ifreq interface = {0};
    autofd int control = socket(AF_INET, SOCK_DGRAM, 0);

    set_address(control, name, SIOCSIFADDR, OURS);
    set_address(control, name, SIOCSIFNETMASK, 0xffffff00);
    g_strlcpy(interface.ifr_name, name, IFNAMSIZ);
    interface.ifr_flags = IFF_UP | IFF_RUNNING;
    assert_int_equal(ioctl(control, SIOCSIFFLAGS, &interface), 0);
    assert_int_equal(ioctl(control, SIOCGIFHWADDR, &interface), 0);
    memcpy(scene->address, interface.ifr_hwaddr.sa_data, ETH_ALEN);
}

static int open_tap(const char *name)
{
    struct ifreq interface = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_MULTI_QUEUE};
    int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);

    assert_true(fd >= 0);
    g_strlcpy(interface.ifr_name, name, IFNAMSIZ);
    assert_int_equal(ioctl(fd, TUNSETIFF, &interface), 0);
    return fd;
}

static Scene *begin(void)
{
    Scene *scene = g_new0(Scene, 1);
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_port = htons(PORT)};
    int bytes = 32 << 20;

    assert_int_equal(unshare(CLONE_NEWNET), 0);
    scene->place = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
    for (guint i = 0; i < QUEUES; i++)
        scene->tap[i] = open_tap(TAP);
    set_interface_up(scene, TAP);
    scene->world = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    assert_int_equal(setsockopt(scene->world, SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof bytes), 0);
    assert_int_equal(bind(scene->world, (struct sockaddr *)&here, sizeof here), 0);
    return scene;
}

static void end(Scene *scene)
{
    for (guint i = 0; i < QUEUES; i++)
        fd_close(&scene->tap[i]);
    fd_close(&scene->world);
    fd_close(&scene->place);
    g_free(scene);
}

/* ---- the guest ---- */

static uint16_t sum_header(const struct iphdr *ip)
{
    const uint16_t *words = (const uint16_t *)(const void *)ip;
    uint32_t sum = 0;

    for (guint i = 0; i < sizeof *ip / 2; i++)
        sum += words[i];
    return (uint16_t) ~((sum & 0xffff) + (sum >> 16));
}

static void send_packet(Scene *scene, guint queue, uint32_t number)
{
    struct iphdr ip = {.version = 4,
                       .ihl = 5,
                       .ttl = 64,
                       .protocol = IPPROTO_UDP,
                       .tot_len = htons(sizeof(Packet) - sizeof(struct ethhdr)),
                       .saddr = htonl(GUEST),
                       .daddr = htonl(OURS)};
    Packet packet = {.number = number};

    ip.check = sum_header(&ip);
    packet.ip = ip;
    memcpy(packet.ethernet.h_dest, scene->address, ETH_ALEN);
    memcpy(packet.ethernet.h_source, "\2\0\0\0\0\1", ETH_ALEN);
    packet.ethernet.h_proto = htons(ETH_P_IP);
    packet.udp.source = packet.udp.dest = htons(PORT);
    packet.udp.len = htons(sizeof packet - offsetof(Packet, udp));
    assert_int_equal(write(scene->tap[queue], &packet, sizeof packet), sizeof packet);
}

static void send_packets(Scene *scene, uint32_t first, uint32_t last)
{
    for (uint32_t number = first; number <= last; number++)
        send_packet(scene, 0, number);
}

/* ---- the world ---- */

static gboolean take_packet(Scene *scene, int within_ms, uint32_t *ret)
{
    struct pollfd wait = {.fd = scene->world, .events = POLLIN};
    uint8_t body[sizeof(Packet)];

    if (poll(&wait, 1, within_ms) != 1)
        return FALSE;
    assert_true(recv(scene->world, body, sizeof body, 0) >= (ssize_t)sizeof *ret);
    memcpy(ret, body, sizeof *ret);
    return TRUE;
}

static void expect_nothing(Scene *scene)
{
    uint32_t number;

    if (take_packet(scene, SILENCE_MS, &number))
        fail_msg("packet %u has left", number);
}

static void expect_packets(Scene *scene, uint32_t first, uint32_t last)
{
    for (uint32_t wanted = first; wanted <= last; wanted++) {
        uint32_t number = 0;

        if (!take_packet(scene, WAIT_MS, &number))
            fail_msg("packet %u did not leave", wanted);
        assert_int_equal(number, wanted);
    }
    expect_nothing(scene);
}

/* ---- traffic control ---- */

static void must(gboolean done, GError **error)
{
    if (!done)
        fail_msg("%s", *error ? (*error)->message : "failed");
}

static TapPlug *hold_for(Scene *scene, pid_t vmm)
{
    g_autoptr(GError) error = NULL;
    TapPlug *plug = tap_plug_begin(scene->tap[0], vmm, LIMIT, &error);

    must(plug != NULL, &error);
    return plug;
}

static TapPlug *hold(Scene *scene)
{
    return hold_for(scene, getpid());
}

static void cut(TapPlug *plug, uint64_t epoch)
{
    g_autoptr(GError) error = NULL;

    must(tap_plug_cut(plug, epoch, &error), &error);
}

static void release(TapPlug *plug, uint64_t epoch)
{
    g_autoptr(GError) error = NULL;

    must(tap_plug_release(plug, epoch, &error), &error);
}

static void expect_no_trace_there(gpointer user)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(TrafficSocket) socket = traffic_connect(&error);
    g_autoptr(GPtrArray) links = NULL;
    int tap = (int)if_nametoindex(TAP);

    must(socket != NULL, &error);
    links = traffic_list_links(socket, "ifb", &error);
    must(links != NULL, &error);
    assert_int_equal(links->len, 0);
    /* EXISTS where there is one. */
    must(tap == 0 || traffic_add_ingress(socket, tap, &error), &error);
    must(tap == 0 || traffic_remove_ingress(socket, tap, &error), &error);
}

static void expect_no_trace(Scene *scene)
{
    assert_true(net_namespace_run(scene->place, expect_no_trace_there, NULL, NULL));
}

static void end_hold(Scene *scene, TapPlug *plug)
{
    g_autoptr(GError) error = NULL;

    must(tap_plug_end(plug, &error), &error);
    tap_plug_free(plug);
    expect_no_trace(scene);
}

/* ---- the tests ---- */

static void test_missing_modules_are_named(void **state)
{
    g_autoptr(GError) error = NULL;

    if (tap_plug_probe(&error))
        return;
    if (error_is(error, VMFERRY_ERROR_PERMISSION))
        skip();
    assert_true(error_is(error, VMFERRY_ERROR_UNSUPPORTED));
    assert_true(g_str_has_prefix(error->message, "needs "));
    assert_true(g_str_has_suffix(error->message, ", which this kernel does not have"));
}

static void test_epochs_leave_one_by_one(void **state)
{
    Scene *scene;
    TapPlug *plug;

    if (!may_run())
        skip();
    scene = begin();
    send_packets(scene, 1, 1);
    expect_packets(scene, 1, 1);
    plug = hold(scene);
    send_packets(scene, 2, 4);
    expect_nothing(scene);
    cut(plug, 1);
    send_packets(scene, 5, 6);
    expect_nothing(scene);
    release(plug, 1);
    expect_packets(scene, 2, 4);
    cut(plug, 2);
    cut(plug, 2); /* of nothing */
    release(plug, 1);
    expect_nothing(scene);
    release(plug, 2);
    expect_packets(scene, 5, 6);
    cut(plug, 3);
    release(plug, 3);
    send_packets(scene, 7, 7);
    expect_nothing(scene);
    cut(plug, 4);
    release(plug, 4);
    expect_packets(scene, 7, 7);
    end_hold(scene, plug);
    end(scene);
}

/* What came after a cut that was never released waits for the one after next, and then goes. */
static void test_cut_anew(void **state)
{
    Scene *scene;
    TapPlug *plug;

    if (!may_run())
        skip();
    scene = begin();
    plug = hold(scene);
    send_packets(scene, 1, 3);
    cut(plug, 1);
    send_packets(scene, 4, 5);
    cut(plug, 2);
    send_packets(scene, 6, 6);
    release(plug, 2);
    expect_packets(scene, 1, 3);
    cut(plug, 3);
    send_packets(scene, 7, 7);
    release(plug, 3);
    expect_packets(scene, 4, 6);
    end_hold(scene, plug);
    end(scene);
}

static void test_end_lets_all_go(void **state)
{
    g_autoptr(GError) error = NULL;
    Scene *scene;
    TapPlug *plug;

    if (!may_run())
        skip();
    scene = begin();
    plug = tap_plug_begin(scene->tap[0], getpid(), MANY * sizeof(Packet), &error);
    must(plug != NULL, &error);
    send_packets(scene, 1, MANY / 2);
    cut(plug, 1);
    send_packets(scene, MANY / 2 + 1, MANY);
    expect_nothing(scene);
    must(tap_plug_pass(plug, &error), &error);
    end_hold(scene, plug);
    send_packets(scene, MANY + 1, MANY + 1);
    expect_packets(scene, 1, MANY + 1);
    end(scene);
}

static void test_several_queues(void **state)
{
    Scene *scene;
    TapPlug *plug;

    if (!may_run())
        skip();
    scene = begin();
    plug = hold(scene);
    send_packet(scene, 1, 1);
    send_packet(scene, 0, 2);
    send_packet(scene, 1, 3);
    expect_nothing(scene);
    cut(plug, 1);
    release(plug, 1);
    expect_packets(scene, 1, 3);
    end_hold(scene, plug);
    end(scene);
}

static void test_beyond_the_limit(void **state)
{
    g_autoptr(GError) error = NULL;
    Scene *scene;
    TapPlug *plug;

    if (!may_run())
        skip();
    scene = begin();
    plug = tap_plug_begin(scene->tap[0], getpid(), 3 * sizeof(Packet), &error);
    must(plug != NULL, &error);
    send_packets(scene, 1, 10);
    cut(plug, 1);
    release(plug, 1);
    expect_packets(scene, 1, 3);
    send_packets(scene, 11, 12);
    cut(plug, 2);
    release(plug, 2);
    expect_packets(scene, 11, 12);
    end_hold(scene, plug);
    end(scene);
}

/* ---- owners and VMMs that die ---- */

static pid_t start(void (*run)(Scene *), Scene *scene)
{
    pid_t pid = fork();

    if (pid == 0) {
        run(scene);
        _exit(0);
    }
    assert_true(pid > 0);
    return pid;
}

static void await_end(pid_t pid, int wanted)
{
    int status;

    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, wanted);
}

static void own_and_die(Scene *scene)
{
    TapPlug *plug = tap_plug_begin(scene->tap[0], getppid(), LIMIT, NULL);

    if (!plug)
        _exit(1);
    send_packets(scene, 1, 3);
    cut(plug, 1);
    send_packets(scene, 4, 5);
    (void)raise(SIGKILL);
}

/* What it held is lost; what comes until there is a new one is, too; nothing passes. */
static void test_owner_is_killed(void **state)
{
    g_autoptr(GError) error = NULL;
    Scene *scene;
    TapPlug *plug;

    if (!may_run())
        skip();
    scene = begin();
    await_end(start(own_and_die, scene), SIGKILL);
    send_packets(scene, 6, 7);
    tap_plug_sweep();
    must(tap_plug_check(scene->tap[0], &error), &error);
    expect_nothing(scene);
    plug = hold(scene);
    expect_nothing(scene);
    send_packets(scene, 8, 9);
    cut(plug, 1);
    release(plug, 1);
    expect_packets(scene, 8, 9);
    send_packets(scene, 10, 10);
    tap_plug_free(plug);
    expect_nothing(scene);
    /* A third one, after one that was freed. */
    plug = hold(scene);
    send_packets(scene, 11, 11);
    cut(plug, 1);
    release(plug, 1);
    expect_packets(scene, 11, 11);
    end_hold(scene, plug);
    end(scene);
}

/* `unprotect` by an agent that did not begin it. */
static void test_left_is_removed(void **state)
{
    g_autoptr(GError) error = NULL;
    Scene *scene;

    if (!may_run())
        skip();
    scene = begin();
    await_end(start(own_and_die, scene), SIGKILL);
    must(tap_plug_remove(scene->tap[0], &error), &error);
    must(tap_plug_remove(scene->tap[0], &error), &error);
    expect_no_trace(scene);
    expect_nothing(scene);
    send_packets(scene, 6, 6);
    expect_packets(scene, 6, 6);
    end(scene);
}

static void sleep_for_ever(Scene *scene)
{
    pause();
}

/* Another VMM has the interface afterwards. */
static void test_vmm_ends(void **state)
{
    Scene *scene;
    TapPlug *plug;
    pid_t vmm;

    if (!may_run())
        skip();
    scene = begin();
    vmm = start(sleep_for_ever, scene);
    plug = hold_for(scene, vmm);
    send_packets(scene, 1, 2);
    cut(plug, 1);
    tap_plug_sweep();
    expect_nothing(scene);
    (void)kill(vmm, SIGKILL);
    await_end(vmm, SIGKILL);
    tap_plug_sweep();
    expect_no_trace(scene);
    send_packets(scene, 3, 3);
    expect_packets(scene, 3, 3);
    tap_plug_free(plug);
    /* Without sweeping. */
    vmm = start(sleep_for_ever, scene);
    plug = hold_for(scene, vmm);
    (void)kill(vmm, SIGKILL);
    await_end(vmm, SIGKILL);
    tap_plug_free(plug);
    expect_no_trace(scene);
    end(scene);
}

/* Its ifb interface would stay. */
static void test_interface_goes(void **state)
{
    Scene *scene;
    TapPlug *plug;

    if (!may_run())
        skip();
    scene = begin();
    plug = hold(scene);
    send_packets(scene, 1, 2);
    for (guint i = 0; i < QUEUES; i++)
        fd_close(&scene->tap[i]);
    tap_plug_sweep();
    expect_no_trace(scene);
    tap_plug_free(plug);
    end(scene);
}

/* ---- others ---- */

static void test_others_are_left_alone(void **state)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GError) second = NULL;
    g_autoptr(TrafficSocket) socket = NULL;
    Scene *scene;

    if (!may_run())
        skip();
    scene = begin();
    socket = traffic_connect(NULL);
    must(traffic_add_ingress(socket, (int)if_nametoindex(TAP), &error), &error);
    assert_false(tap_plug_check(scene->tap[0], &error));
    assert_true(error_is(error, VMFERRY_ERROR_REFUSED));
    assert_non_null(strstr(error->message, "interface tap0: another program classifies"));
    assert_null(tap_plug_begin(scene->tap[0], getpid(), LIMIT, &second));
    assert_true(error_is(second, VMFERRY_ERROR_REFUSED));
    send_packets(scene, 1, 1);
    expect_packets(scene, 1, 1);
    g_clear_error(&error);
    must(traffic_remove_ingress(socket, (int)if_nametoindex(TAP), &error), &error);
    expect_no_trace(scene);
    must(tap_plug_check(scene->tap[0], &error), &error);
    expect_no_trace(scene);
    end(scene);
}

static void test_other_network_namespace(void **state)
{
    g_autoptr(GError) error = NULL;
    Scene *scene;
    TapPlug *plug;

    if (!may_run())
        skip();
    scene = begin();
    assert_int_equal(unshare(CLONE_NEWNET), 0);
    assert_int_equal(if_nametoindex(TAP), 0);
    must(tap_plug_check(scene->tap[0], &error), &error);
    plug = hold(scene);
    send_packets(scene, 1, 2);
    expect_nothing(scene);
    cut(plug, 1);
    release(plug, 1);
    expect_packets(scene, 1, 2);
    tap_plug_sweep();
    end_hold(scene, plug);
    end(scene);
}

static void on_held(OutputBufferEvent event, gpointer user)
{
    if (event == OUTPUT_BUFFER_HELD)
        g_atomic_int_inc((gint *)user);
}

static void send_to_guest(Scene *scene)
{
    struct sockaddr_in there = {
        .sin_family = AF_INET, .sin_port = htons(PORT), .sin_addr.s_addr = htonl(GUEST)};

    /* Asks for its address first. */
    assert_int_equal(sendto(scene->world, "", 1, 0, (struct sockaddr *)&there, sizeof there), 1);
}

static void await_count(gint *count, gint wanted)
{
    for (guint i = 0; g_atomic_int_get(count) < wanted && i < WAIT_MS; i++)
        g_usleep(1000);
    assert_int_equal(g_atomic_int_get(count), wanted);
}

/* Through the buffer that cuts and releases all that is held; and what is told of. */
static void test_buffer_tells_once_an_epoch(void **state)
{
    gint told = 0;
    OutputBuffer *buffer;
    Scene *scene;
    TapPlug *plug;

    if (!may_run())
        skip();
    scene = begin();
    plug = hold(scene);
    buffer = output_buffer_new(&(OutputBufferOptions){.func = on_held, .user = &told}, NULL);
    output_buffer_add_tap(buffer, plug);
    send_packets(scene, 1, 1);
    await_count(&told, 1);
    send_packets(scene, 2, 20);
    assert_int_equal(output_buffer_cut(buffer), 1);
    output_buffer_release(buffer, 1);
    expect_packets(scene, 1, 20);
    /* What leaves comes by the interface again, and is not told of; nor is what goes to the guest. */
    send_to_guest(scene);
    expect_nothing(scene);
    assert_int_equal(g_atomic_int_get(&told), 1);
    send_packets(scene, 21, 21);
    await_count(&told, 2);
    expect_nothing(scene);
    assert_int_equal(output_buffer_cut(buffer), 2);
    output_buffer_release(buffer, 7);
    expect_packets(scene, 21, 21);
    send_packets(scene, 22, 22);
    await_count(&told, 3);
    output_buffer_release(buffer, 3); /* is not cut */
    expect_nothing(scene);
    output_buffer_pass(buffer);
    expect_packets(scene, 22, 22);
    send_packets(scene, 23, 23);
    expect_packets(scene, 23, 23);
    assert_int_equal(g_atomic_int_get(&told), 3);
    assert_true(output_buffer_check(buffer, NULL));
    output_buffer_free(buffer);
    end_hold(scene, plug);
    end(scene);
}

/* A plug that others have removed is no reason to let anything go. */
static void test_plug_is_removed_by_others(void **state)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(TrafficSocket) socket = NULL;
    g_autoptr(GPtrArray) links = NULL;
    OutputBuffer *buffer;
    Scene *scene;
    TapPlug *plug;

    if (!may_run())
        skip();
    scene = begin();
    plug = hold(scene);
    buffer = output_buffer_new(&(OutputBufferOptions){0}, NULL);
    output_buffer_add_tap(buffer, plug);
    send_packets(scene, 1, 1);
    socket = traffic_connect(NULL);
    links = traffic_list_links(socket, "ifb", NULL);
    assert_int_equal(links->len, 1);
    must(traffic_remove_link(socket, ((TrafficLink *)links->pdata[0])->index, &error), &error);
    send_packets(scene, 2, 2);
    (void)output_buffer_cut(buffer);
    assert_false(output_buffer_check(buffer, &error));
    output_buffer_release(buffer, 1);
    expect_nothing(scene);
    output_buffer_free(buffer);
    end_hold(scene, plug);
    end(scene);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_missing_modules_are_named),
        cmocka_unit_test(test_epochs_leave_one_by_one),
        cmocka_unit_test(test_cut_anew),
        cmocka_unit_test(test_end_lets_all_go),
        cmocka_unit_test(test_several_queues),
        cmocka_unit_test(test_beyond_the_limit),
        cmocka_unit_test(test_owner_is_killed),
        cmocka_unit_test(test_left_is_removed),
        cmocka_unit_test(test_vmm_ends),
        cmocka_unit_test(test_interface_goes),
        cmocka_unit_test(test_others_are_left_alone),
        cmocka_unit_test(test_other_network_namespace),
        cmocka_unit_test(test_buffer_tells_once_an_epoch),
        cmocka_unit_test(test_plug_is_removed_by_others),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
