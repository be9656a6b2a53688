/* Two readings and the figures they make; and those that they must not make. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "collect/guest_figures.h"
#include "collect/host_figures.h"

#define S UINT64_C(1000000000)
#define MANY G_MAXDOUBLE

static LookTime at(uint64_t boot_ns)
{
    return (LookTime){boot_ns, boot_ns};
}

#define assert_near(a, b) assert_float_equal(a, b, 1e-6)
#define assert_unknown(a) assert_true((a) == FIGURE_UNKNOWN)

static void test_rates(void **state)
{
    assert_near(figure_rate(1000, 3000, 2000, 1, MANY), 1000);
    assert_near(figure_rate(5, 5, 2000, 1, MANY), 0);
    assert_near(figure_rate(0, 3 * S, 2000, 1e-9, 2), 1.5);
    /* It wrapped, or began anew. */
    assert_unknown(figure_rate(3000, 1000, 2000, 1, MANY));
    assert_unknown(figure_rate(UINT32_MAX, 0, 2000, 1, MANY));
    assert_unknown(figure_rate(COUNTER_UNKNOWN, 5, 2000, 1, MANY));
    assert_unknown(figure_rate(5, COUNTER_UNKNOWN, 2000, 1, MANY));
    assert_unknown(figure_rate(COUNTER_UNKNOWN, COUNTER_UNKNOWN, 2000, 1, MANY));
    /* More than there can be. */
    assert_unknown(figure_rate(0, 3 * S, 2000, 1e-9, 1.4));
    assert_unknown(figure_rate(0, UINT64_MAX - 1, 2000, 1, FIGURE_MOST_BYTES));
    assert_unknown(figure_rate(1, 2, 0, 1, MANY));
    assert_unknown(figure_rate(1, 2, FIGURE_UNKNOWN, 1, MANY));
}

static void test_intervals(void **state)
{
    LookTime before = at(100 * S), now = at(102 * S);

    assert_near(look_time_interval_ms(&before, &now), 2000);
    assert_unknown(look_time_interval_ms(&now, &before));
    assert_unknown(look_time_interval_ms(&before, &before));
    now = at(100 * S + 50 * S / 1000);
    assert_unknown(look_time_interval_ms(&before, &now));
    now = at(200 * S);
    assert_unknown(look_time_interval_ms(&before, &now));
    /* The host slept for a second of these two. */
    now = (LookTime){.boot_ns = 102 * S, .monotonic_ns = 101 * S};
    assert_unknown(look_time_interval_ms(&before, &now));
}

static void test_counters(void **state)
{
    assert_int_equal(counter_add(2, 3), 5);
    assert_true(counter_add(2, COUNTER_UNKNOWN) == COUNTER_UNKNOWN);
    assert_true(counter_add(UINT64_MAX - 1, 2) == COUNTER_UNKNOWN);
    assert_int_equal(counter_scale(3, 1024), 3072);
    assert_true(counter_scale(COUNTER_UNKNOWN, 1) == COUNTER_UNKNOWN);
    assert_true(counter_scale(UINT64_MAX / 2, 3) == COUNTER_UNKNOWN);
}

/* ---- the host ---- */

static HostReading make_host(uint64_t seconds)
{
    HostReading reading = host_reading_empty();

    reading.time = at(seconds * S);
    reading.machine_cpus = 4;
    reading.cpus = 4;
    reading.cpu_ns = 7 * S;
    reading.pressure.cpu_some_us = 1000000;
    reading.moves = (MoveCounters){.received_bytes = 10, .sent_bytes = 20, .cpu_ns = S};
    return reading;
}

static void test_host(void **state)
{
    HostReading before = make_host(100), now = make_host(102);
    HostFigures figures;

    now.cpu_ns += 3 * S;
    now.pressure.cpu_some_us += 500000;
    now.moves.sent_bytes += 2000;
    now.moves.cpu_ns += S;
    host_figures_find(&before, &now, &figures);
    assert_near(figures.interval_ms, 2000);
    assert_near(figures.cpu_used, 1.5);
    assert_near(figures.pressure.cpu_some, 0.25);
    assert_near(figures.moves.sent, 1000);
    assert_near(figures.moves.received, 0);
    assert_near(figures.moves.cpu_used, 0.5);
    /* What nobody read. */
    assert_unknown(figures.pressure.io_full);
    assert_unknown(figures.swap_out);
    assert_int_equal(figures.links->len, 0);
    host_figures_clear(&figures);

    /* PSI's clock is another one; CPUs that are not there are none. */
    now.pressure.cpu_some_us = before.pressure.cpu_some_us + 2010000;
    now.cpu_ns = before.cpu_ns + 12 * S;
    host_figures_find(&before, &now, &figures);
    assert_near(figures.pressure.cpu_some, 1);
    assert_unknown(figures.cpu_used);
    host_figures_clear(&figures);

    host_figures_find(NULL, &now, &figures);
    assert_unknown(figures.interval_ms);
    assert_unknown(figures.cpu_used);
    assert_unknown(figures.moves.sent);
    host_figures_clear(&figures);
}

static void add_link(HostReading *reading, const char *name, guint index, LinkKind kind,
                     uint64_t sent)
{
    Link link = {.index = index, .kind = kind, .up = TRUE, .sent_bytes = sent, .speed = 125e6};

    if (!reading->links)
        reading->links = g_array_new(FALSE, FALSE, sizeof link);
    g_strlcpy(link.name, name, sizeof link.name);
    g_array_append_val(reading->links, link);
}

static void test_host_links(void **state)
{
    HostReading before = make_host(100), now = make_host(102);
    HostFigures figures;
    const LinkFigures *links;

    add_link(&before, "eth0", 2, LINK_PHYSICAL, 1000);
    add_link(&before, "eth1", 3, LINK_PHYSICAL, 1000);
    add_link(&now, "lo", 1, LINK_OTHER, 50);
    add_link(&now, "tap0", 9, LINK_TAP, 50);
    add_link(&now, "veth0", 10, LINK_LEADS_OUT, 50);
    add_link(&now, "eth0", 2, LINK_PHYSICAL, 5000);
    add_link(&now, "eth1", 7, LINK_PHYSICAL, 5000);
    host_figures_find(&before, &now, &figures);
    links = (const LinkFigures *)(const void *)figures.links->data;
    assert_int_equal(figures.links->len, 2);
    assert_string_equal(links[0].name, "eth0");
    assert_near(links[0].sent, 2000);
    assert_near(links[0].speed, 125e6);
    /* Another card of the same name. */
    assert_string_equal(links[1].name, "eth1");
    assert_unknown(links[1].sent);
    host_figures_clear(&figures);
    host_reading_clear(&before);
    host_reading_clear(&now);

    /* A container. */
    now = make_host(102);
    add_link(&now, "veth0", 10, LINK_LEADS_OUT, 50);
    host_figures_find(NULL, &now, &figures);
    assert_int_equal(figures.links->len, 1);
    host_figures_clear(&figures);
    host_reading_clear(&now);
}

/* ---- a guest ---- */

static GuestReading make_guest(uint64_t seconds)
{
    GuestReading reading = guest_reading_empty();

    reading.time = at(seconds * S);
    reading.pid = 4711;
    reading.start_time = 17;
    reading.cpu_ns = 5 * S;
    reading.major_faults = 3;
    reading.vcpus = g_array_new(FALSE, FALSE, sizeof(VcpuReading));
    reading.taps = g_array_new(FALSE, FALSE, sizeof(TapReading));
    return reading;
}

static void add_vcpu(GuestReading *reading, pid_t thread, uint64_t ran_ns, uint64_t waited_ns)
{
    VcpuReading vcpu = {thread, ran_ns, waited_ns};

    g_array_append_val(reading->vcpus, vcpu);
}

static void add_tap(GuestReading *reading, guint index, uint64_t received, uint64_t sent,
                    uint64_t backlog)
{
    TapReading tap = {
        .index = index, .received_bytes = received, .sent_bytes = sent, .backlog_bytes = backlog};

    g_snprintf(tap.name, sizeof tap.name, "tap%u", index);
    g_array_append_val(reading->taps, tap);
}

static void test_guest(void **state)
{
    GuestReading before = make_guest(100), now = make_guest(102);
    GuestFigures figures;

    now.cpu_ns += 2 * S;
    now.major_faults += 10;
    add_vcpu(&before, 1, S, S);
    add_vcpu(&before, 2, S, S);
    add_vcpu(&now, 1, 2 * S, S);
    add_vcpu(&now, 2, S + S / 2, S + S / 2);
    /* The interface sends what the guest receives. */
    add_tap(&before, 5, 1000, 5000, 0);
    add_tap(&now, 5, 2000, 15000, 77);
    before.disk = (DiskReading){at(100 * S + S / 10), 100, 1000, 3};
    now.disk = (DiskReading){at(103 * S + S / 10), 100, 4000, 6};
    guest_figures_find(&before, &now, 4, &figures);
    assert_near(figures.cpu_used, 1);
    assert_near(figures.vcpu_used, 0.75);
    assert_near(figures.cpu_wait, 0.25);
    assert_near(figures.major_faults, 5);
    assert_near(figures.network.received, 5000);
    assert_near(figures.network.sent, 500);
    assert_near(figures.network.drops, 0);
    assert_int_equal(figures.network.backlog_bytes, 77);
    /* Its own time: 3 s. */
    assert_near(figures.disk.read, 0);
    assert_near(figures.disk.written, 1000);
    assert_near(figures.disk.flushes, 1);
    guest_reading_clear(&before);
    guest_reading_clear(&now);
}

static void test_guest_anew(void **state)
{
    GuestReading before = make_guest(100), now = make_guest(102);
    GuestFigures figures;

    add_vcpu(&before, 1, S, S);
    add_vcpu(&now, 1, 2 * S, S);
    add_tap(&before, 5, 1000, 5000, 0);
    add_tap(&now, 5, 2000, 15000, 9);
    now.start_time++;
    guest_figures_find(&before, &now, 4, &figures);
    assert_unknown(figures.cpu_used);
    assert_unknown(figures.cpu_wait);
    assert_unknown(figures.network.sent);
    assert_int_equal(figures.network.backlog_bytes, 9);
    guest_figures_find(NULL, &now, 4, &figures);
    assert_unknown(figures.cpu_used);
    guest_reading_clear(&before);
    guest_reading_clear(&now);
}

static void test_vcpus_change(void **state)
{
    GuestReading before = make_guest(100), now = make_guest(102);
    GuestFigures figures;

    add_vcpu(&before, 1, S, S);
    add_vcpu(&now, 1, 2 * S, S);
    add_vcpu(&now, 2, S, S);
    guest_figures_find(&before, &now, 4, &figures);
    assert_unknown(figures.vcpu_used);
    assert_unknown(figures.cpu_wait);
    assert_near(figures.cpu_used, 0);
    /* One that ended while it was read. */
    g_array_set_size(now.vcpus, 1);
    g_array_index(now.vcpus, VcpuReading, 0).ran_ns = COUNTER_UNKNOWN;
    guest_figures_find(&before, &now, 4, &figures);
    assert_unknown(figures.vcpu_used);
    /* It had waited for 5 s when it was given a CPU again. */
    g_array_index(now.vcpus, VcpuReading, 0) = (VcpuReading){1, S, 6 * S};
    guest_figures_find(&before, &now, 4, &figures);
    assert_near(figures.cpu_wait, 1);
    assert_near(figures.vcpu_used, 0);
    g_clear_pointer(&now.vcpus, g_array_unref);
    guest_figures_find(&before, &now, 4, &figures);
    assert_unknown(figures.cpu_wait);
    guest_reading_clear(&before);
    guest_reading_clear(&now);
}

static void test_taps_change(void **state)
{
    GuestReading before = make_guest(100), now = make_guest(102);
    GuestFigures figures;

    guest_figures_find(&before, &now, 4, &figures);
    assert_unknown(figures.network.sent);
    assert_true(figures.network.backlog_bytes == COUNTER_UNKNOWN);
    add_tap(&before, 5, 1000, 5000, 0);
    add_tap(&now, 5, 2000, 15000, 1);
    add_tap(&now, 6, 1, 1, 2);
    guest_figures_find(&before, &now, 4, &figures);
    assert_unknown(figures.network.sent);
    assert_int_equal(figures.network.backlog_bytes, 3);
    /* The same number of others. */
    g_array_remove_index(now.taps, 0);
    guest_figures_find(&before, &now, 4, &figures);
    assert_unknown(figures.network.sent);
    /* One whose counters began anew spoils its own figure only. */
    add_tap(&before, 6, 0, 0, 0);
    g_array_remove_index(before.taps, 0);
    g_array_index(before.taps, TapReading, 0).received_bytes = 5;
    guest_figures_find(&before, &now, 4, &figures);
    assert_unknown(figures.network.sent);
    assert_near(figures.network.received, 0.5);
    guest_reading_clear(&before);
    guest_reading_clear(&now);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rates),       cmocka_unit_test(test_intervals),
        cmocka_unit_test(test_counters),    cmocka_unit_test(test_host),
        cmocka_unit_test(test_host_links),  cmocka_unit_test(test_guest),
        cmocka_unit_test(test_guest_anew),  cmocka_unit_test(test_vcpus_change),
        cmocka_unit_test(test_taps_change),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
