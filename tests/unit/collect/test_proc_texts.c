/* Texts of /proc and of control groups, well formed and not. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "collect/proc_texts.h"

static void test_stat(void **state)
{
    StatText stat;

    assert_true(stat_text_parse("cpu  100 20 30 4000 500 6 7 80 90 10\n"
                                "cpu0 50 10 15 2000 250 3 3 40 45 5\n"
                                "cpu1 50 10 15 2000 250 3 4 40 45 5\n"
                                "intr 17 0\nctxt 5\nprocs_running 3\nprocs_blocked 1\n",
                                &stat));
    /* user nice system irq softirq; guests are in user. */
    assert_int_equal(stat.busy_ticks, 100 + 20 + 30 + 6 + 7);
    assert_int_equal(stat.cpus, 2);
    assert_int_equal(stat.running, 3);

    assert_true(stat_text_parse("cpu  100 20\n", &stat));
    assert_true(stat.busy_ticks == COUNTER_UNKNOWN && stat.running == COUNTER_UNKNOWN);
    assert_int_equal(stat.cpus, 0);
    assert_false(stat_text_parse("", &stat));
    assert_false(stat_text_parse("intr 1\n", &stat));
    assert_true(stat_text_parse("cpu  99999999999999999999 0 0 0 0 0 0 0\n", &stat));
    assert_true(stat.busy_ticks == COUNTER_UNKNOWN);
}

static void test_meminfo(void **state)
{
    MeminfoText memory;

    assert_true(meminfo_text_parse("MemTotal:       16 kB\nMemFree: 1 kB\nMemAvailable:    8 kB\n"
                                   "SwapCached: 0 kB\nSwapTotal: 4 kB\nSwapFree: 2 kB\n",
                                   &memory));
    assert_int_equal(memory.total, 16 << 10);
    assert_int_equal(memory.available, 8 << 10);
    assert_int_equal(memory.swap_total, 4 << 10);
    assert_int_equal(memory.swap_free, 2 << 10);
    assert_true(meminfo_text_parse("MemTotal: 16 kB\n", &memory));
    assert_true(memory.available == COUNTER_UNKNOWN);
    assert_false(meminfo_text_parse("MemTotal: 18446744073709551615 kB\n", &memory));
    assert_false(meminfo_text_parse("MemTotal:\n", &memory));
    assert_false(meminfo_text_parse("  MemTotal: 1 kB\n", &memory));
}

static void test_pressure(void **state)
{
    PressureText pressure;

    assert_true(pressure_text_parse("some avg10=0.12 avg60=0.05 avg300=0.01 total=12345\n"
                                    "full avg10=0.00 avg60=0.00 avg300=0.00 total=678\n",
                                    &pressure));
    assert_int_equal(pressure.some_us, 12345);
    assert_int_equal(pressure.full_us, 678);
    /* Before Linux 5.13 the CPU has no "full". */
    assert_true(pressure_text_parse("some avg10=0 avg60=0 avg300=0 total=5\n", &pressure));
    assert_true(pressure.full_us == COUNTER_UNKNOWN);
    assert_false(pressure_text_parse("", &pressure));
    assert_false(pressure_text_parse("some avg10=0.12\nfull total=6\n", &pressure));
    assert_false(pressure_text_parse("some total=-1\n", &pressure));
    assert_false(pressure_text_parse("some total=\n", &pressure));
}

static void test_process(void **state)
{
    ProcessStatText stat;
    ProcessMemoryText memory;

    /* The name is the process's own choice. */
    assert_true(process_stat_text_parse(
        "4711 (a) R 1 (b) S 1 2 3 4 5 6 70 80 90 100 110 120 13 14 15 16 17 18 1900 20\n", &stat));
    assert_int_equal(stat.major_faults, 90);
    assert_int_equal(stat.cpu_ticks, 110 + 120);
    assert_int_equal(stat.start_time, 1900);
    assert_false(process_stat_text_parse("4711 (a) S 1 2 3\n", &stat));
    assert_false(process_stat_text_parse("4711 a S 1 2 3\n", &stat));
    assert_false(process_stat_text_parse("4711 (a)", &stat));
    assert_false(process_stat_text_parse("", &stat));

    assert_true(process_memory_text_parse("Name:\tx\nVmPeak:\t 9 kB\nVmRSS:\t    8 kB\n"
                                          "RssAnon:\t 7 kB\nVmSwap:\t    2 kB\n",
                                          &memory));
    assert_int_equal(memory.resident, 8 << 10);
    assert_int_equal(memory.swapped, 2 << 10);
    /* One that is ending has none; a name that looks like a line is none. */
    assert_false(process_memory_text_parse("Name:\tVmRSS: 8 kB\nState:\tZ (zombie)\n", &memory));
}

static void test_schedstat(void **state)
{
    SchedstatText times;

    assert_true(schedstat_text_parse("123456789 987654 42\n", &times));
    assert_int_equal(times.ran_ns, 123456789);
    assert_int_equal(times.waited_ns, 987654);
    assert_false(schedstat_text_parse("123\n", &times));
    assert_false(schedstat_text_parse("", &times));
    assert_false(schedstat_text_parse("-1 5 1\n", &times));
    assert_false(schedstat_text_parse("1 99999999999999999999 1\n", &times));
}

static void test_fdinfo(void **state)
{
    char name[IFNAMSIZ];

    assert_true(tun_fdinfo_text_parse(
        "pos:\t0\nflags:\t0104002\nmnt_id:\t23\nino:\t5\niff:\ttap7\n", name));
    assert_string_equal(name, "tap7");
    assert_true(tun_fdinfo_text_parse("iff:\tfifteen-letters", name));
    assert_string_equal(name, "fifteen-letters");
    assert_false(tun_fdinfo_text_parse("iff:\tsixteen-letters-\n", name));
    assert_false(tun_fdinfo_text_parse("iff:\t\n", name));
    assert_false(tun_fdinfo_text_parse("pos:\t0\nflags:\t02\n", name));
    assert_false(tun_fdinfo_text_parse("", name));
}

static void test_net_dev(void **state)
{
    static const char text[] =
        "Inter-|   Receive                                                |  Transmit\n"
        " face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets\n"
        "    lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n"
        " tap11: 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9\n"
        "  tap1: 100 2 3 4 5 6 7 8 900 10 11 12 13 14 15 16\n";
    NetDevText counters;

    assert_true(net_dev_text_find(text, "tap1", &counters));
    assert_int_equal(counters.received_bytes, 100);
    assert_int_equal(counters.received_dropped, 4);
    assert_int_equal(counters.sent_bytes, 900);
    assert_int_equal(counters.sent_dropped, 12);
    assert_false(net_dev_text_find(text, "tap", &counters));
    assert_false(net_dev_text_find("", "tap1", &counters));
    assert_true(net_dev_text_find("tap1: 5\n lo: 6 7 8 9 1 1 1 1 1 1 1\n", "tap1", &counters));
    assert_int_equal(counters.received_bytes, 5);
    assert_true(counters.sent_bytes == COUNTER_UNKNOWN);
}

static void test_groups(void **state)
{
    assert_int_equal(keyed_text_get("usage_usec 17\nuser_usec 9\nnr_periods 3\n", "usage_usec"),
                     17);
    assert_int_equal(keyed_text_get("usage_usec 17\nuser_usec 9\n", "user_usec"), 9);
    assert_true(keyed_text_get("usage_usec 17\n", "usage") == COUNTER_UNKNOWN);
    assert_true(keyed_text_get("usage_usec x\n", "usage_usec") == COUNTER_UNKNOWN);
    assert_true(keyed_text_get("", "usage_usec") == COUNTER_UNKNOWN);

    assert_int_equal(limit_text_parse("4096\n"), 4096);
    assert_true(limit_text_parse("max\n") == G_MAXINT64);
    assert_true(limit_text_parse("much\n") == COUNTER_UNKNOWN);

    assert_float_equal(cpu_max_text_parse("150000 100000\n"), 1.5, 1e-9);
    assert_true(cpu_max_text_parse("max 100000\n") < 0);
    assert_true(cpu_max_text_parse("100000\n") < 0);
    assert_true(cpu_max_text_parse("100000 0\n") < 0);

    assert_int_equal(cpu_list_text_count("0\n"), 1);
    assert_int_equal(cpu_list_text_count("0-3,8,10-11\n"), 7);
    assert_int_equal(cpu_list_text_count("\n"), 0);
    assert_int_equal(cpu_list_text_count("3-1\n"), 0);
    assert_int_equal(cpu_list_text_count("0-4294967295\n"), 0);
    assert_int_equal(cpu_list_text_count("0-3;\n"), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_stat),      cmocka_unit_test(test_meminfo),
        cmocka_unit_test(test_pressure),  cmocka_unit_test(test_process),
        cmocka_unit_test(test_schedstat), cmocka_unit_test(test_fdinfo),
        cmocka_unit_test(test_net_dev),   cmocka_unit_test(test_groups),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
