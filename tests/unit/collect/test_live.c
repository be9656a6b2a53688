/* Readers and the collector on this very process, on files made up, and on a tap device. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <glib/gstdio.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sched.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/process.h"
#include "collect/collector.h"
#include "collect/guest_reader.h"
#include "collect/host_reader.h"
#include "collect/link_reader.h"

static uint64_t own_start(void)
{
    uint64_t start;

    assert_true(process_get_start_time(getpid(), &start, NULL));
    return start;
}

static void be_busy(uint64_t ns)
{
    uint64_t until = clock_thread_cpu_ns() + ns;

    while (clock_thread_cpu_ns() < until)
        ;
}

/* ---- the host ---- */

static void test_machine(void **state)
{
    g_autoptr(HostReader) reader = host_reader_new(NULL);
    g_autoptr(GPtrArray) problems = g_ptr_array_new_with_free_func(g_free);
    HostReading before, now;
    HostFigures figures;

    host_reader_read(reader, problems, &before);
    be_busy(200000000);
    host_reader_read(reader, problems, &now);
    host_figures_find(&before, &now, &figures);
    assert_true(now.cpus >= 1 && now.run_queue != COUNTER_UNKNOWN);
    assert_true(now.memory_bytes > now.memory_available_bytes);
    assert_non_null(links_find(now.links, "lo"));
    assert_true(figures.interval_ms >= 200);
    assert_true(figures.cpu_used > 0.1 && figures.cpu_used <= host_most_cpus(&now));
    host_figures_clear(&figures);
    host_reading_clear(&before);
    host_reading_clear(&now);
}

static void write_file(const char *folder, const char *name, const char *text)
{
    g_autofree char *path = g_build_filename(folder, name, NULL);

    assert_true(g_file_set_contents(path, text, -1, NULL));
}

static void remove_folder(const char *folder)
{
    g_autoptr(GDir) dir = g_dir_open(folder, 0, NULL);
    const char *name;

    while ((name = g_dir_read_name(dir))) {
        g_autofree char *path = g_build_filename(folder, name, NULL);

        g_unlink(path);
    }
    g_rmdir(folder);
}

static void test_group(void **state)
{
    g_autofree char *folder = g_dir_make_tmp("vmferry-group-XXXXXX", NULL);
    g_autoptr(HostReader) reader = host_reader_new(folder);
    g_autoptr(GPtrArray) problems = g_ptr_array_new_with_free_func(g_free);
    HostReading reading;

    write_file(folder, "cpu.stat", "usage_usec 1500\nuser_usec 1\n");
    write_file(folder, "cpu.max", "50000 100000\n");
    write_file(folder, "memory.max", "1048576\n");
    write_file(folder, "memory.current", "600000\n");
    write_file(folder, "memory.stat",
               "anon 1\nactive_file 50000\ninactive_file 50000\n"
               "slab_reclaimable 10\npswpin 2\npswpout 3\n");
    write_file(folder, "memory.swap.max", "0\n");
    write_file(folder, "memory.swap.current", "0\n");
    write_file(folder, "cpu.pressure", "some avg10=0 avg60=0 avg300=0 total=5\n");
    write_file(folder, "memory.pressure",
               "some avg10=0 avg60=0 avg300=0 total=6\n"
               "full avg10=0 avg60=0 avg300=0 total=7\n");
    write_file(folder, "io.pressure", "some avg10=0 avg60=0 avg300=0 total=8\n");
    host_reader_read(reader, problems, &reading);
    assert_int_equal(problems->len, 0);
    assert_int_equal(reading.cpu_ns, 1500000);
    assert_float_equal(reading.cpus, 0.5, 1e-9);
    assert_true(reading.machine_cpus >= 1);
    assert_true(reading.run_queue == COUNTER_UNKNOWN);
    assert_int_equal(reading.memory_bytes, 1048576);
    assert_int_equal(reading.memory_available_bytes, 1048576 - 600000 + 100010);
    assert_int_equal(reading.swap_in_bytes, 2 * sysconf(_SC_PAGESIZE));
    assert_int_equal(reading.swap_bytes, 0);
    assert_int_equal(reading.pressure.cpu_some_us, 5);
    assert_int_equal(reading.pressure.memory_full_us, 7);
    assert_true(reading.pressure.io_full_us == COUNTER_UNKNOWN);
    host_reading_clear(&reading);

    /* Strange files are told of, and give nothing. */
    write_file(folder, "cpu.stat", "\n");
    write_file(folder, "cpu.max", "much\n");
    write_file(folder, "io.pressure", "none\n");
    write_file(folder, "memory.current", "x\n");
    host_reader_read(reader, problems, &reading);
    assert_true(reading.cpu_ns == COUNTER_UNKNOWN);
    assert_true(reading.cpus >= 1);
    assert_true(reading.memory_bytes > 1048576);
    assert_true(reading.swap_in_bytes == COUNTER_UNKNOWN);
    assert_int_equal(problems->len, 2);
    assert_non_null(strstr(problems->pdata[0], "has no memory controller"));
    host_reading_clear(&reading);
    remove_folder(folder);

    g_ptr_array_set_size(problems, 0);
    host_reader_read(reader, problems, &reading);
    assert_true(reading.cpu_ns == COUNTER_UNKNOWN);
    assert_non_null(strstr(problems->pdata[0], "cpu.stat"));
    host_reading_clear(&reading);
}

/* ---- a process ---- */

static void test_process(void **state)
{
    g_autoptr(GuestReader) reader = guest_reader_new(getpid(), own_start());
    g_autoptr(GuestReader) other = guest_reader_new(getpid(), own_start() + 1);
    g_autoptr(GArray) threads = g_array_new(FALSE, FALSE, sizeof(pid_t));
    pid_t own = getpid(), none = 1;
    GuestReading before, now;
    GuestFigures figures;

    g_array_append_val(threads, own);
    guest_reader_set_threads(reader, threads);
    assert_true(guest_reader_read(reader, NULL, &before));
    be_busy(200000000);
    assert_true(guest_reader_read(reader, NULL, &now));
    guest_figures_find(&before, &now, 64, &figures);
    assert_true(figures.cpu_used > 0.1 && figures.cpu_used < 1.3);
    assert_true(figures.vcpu_used > 0.1 && figures.vcpu_used < 1.1);
    assert_true(figures.cpu_wait >= 0 && figures.cpu_wait <= 1);
    assert_true(now.resident_bytes > 100000 && now.swapped_bytes != COUNTER_UNKNOWN);
    assert_null(now.taps);
    guest_reading_clear(&before);
    guest_reading_clear(&now);

    /* The pid is another process's by now. */
    assert_false(guest_reader_read(other, NULL, &now));
    assert_int_equal(now.pid, 0);
    guest_reading_clear(&now);

    /* A thread that is not there: they are asked for anew. */
    g_array_append_val(threads, none);
    guest_reader_set_threads(reader, threads);
    assert_true(guest_reader_read(reader, NULL, &now));
    assert_false(guest_reader_has_threads(reader));
    guest_figures_find(&now, &now, 64, &figures);
    assert_true(figures.vcpu_used < 0);
    guest_reading_clear(&now);
}

/* ---- a tap device ---- */

static int open_tap(const char *name)
{
    struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI};
    int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);

    g_strlcpy(request.ifr_name, name, sizeof request.ifr_name);
    if (fd >= 0 && ioctl(fd, TUNSETIFF, &request) < 0)
        fd_close(&fd);
    return fd;
}

static void set_up(const char *name)
{
    struct ifreq request = {.ifr_flags = IFF_UP};
    autofd int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    g_strlcpy(request.ifr_name, name, sizeof request.ifr_name);
    assert_true(ioctl(fd, SIOCSIFFLAGS, &request) == 0);
}

/* In a child with a network namespace of its own; its exit code. */
static int look_at_tap(void)
{
    static const uint8_t packet[100] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1, 8};
    g_autoptr(GuestReader) reader = NULL;
    g_autoptr(LinkReader) link_reader = link_reader_new();
    g_autoptr(GArray) links = NULL;
    GuestReading reading;
    const TapReading *tap;
    autofd int fd = -1;

    if (unshare(CLONE_NEWNET) < 0 || (fd = open_tap("tap7")) < 0)
        return 77;
    set_up("tap7");
    assert_int_equal(write(fd, packet, sizeof packet), sizeof packet);
    links = link_reader_read(link_reader, NULL);
    assert_non_null(links);
    assert_int_equal(links_find(links, "tap7")->kind, LINK_TAP);
    reader = guest_reader_new(getpid(), own_start());
    assert_true(guest_reader_read(reader, links, &reading));
    assert_int_equal(reading.taps->len, 1);
    tap = &g_array_index(reading.taps, TapReading, 0);
    assert_string_equal(tap->name, "tap7");
    /* What QEMU writes for its guest is received by the interface. */
    assert_int_equal(tap->received_bytes, sizeof packet);
    guest_reading_clear(&reading);
    /* It is gone from the list: nothing is known. */
    g_array_set_size(links, 0);
    assert_true(guest_reader_read(reader, links, &reading));
    assert_null(reading.taps);
    guest_reading_clear(&reading);
    return 0;
}

static void test_tap(void **state)
{
    pid_t child = fork();
    int status;

    assert_true(child >= 0);
    if (child == 0)
        _exit(look_at_tap());
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    if (WEXITSTATUS(status) == 77)
        skip();
    assert_int_equal(WEXITSTATUS(status), 0);
}

/* ---- the collector ---- */

typedef struct {
    Vmm vmm;
    gboolean silent;
    guint asked, released, learnt;
    uint64_t written;
    guint guests;
} Fake;

static gboolean fake_ask(Vmm *vmm, guint timeout_ms, VmmDiskCounters *ret, GError **error)
{
    Fake *fake = (Fake *)vmm;

    fake->asked++;
    if (fake->silent) {
        error_set(error, VMFERRY_ERROR_TIMEOUT, "no answer");
        return FALSE;
    }
    *ret = (VmmDiskCounters){.written_bytes = fake->written};
    return TRUE;
}

static GArray *fake_threads(Vmm *vmm, GError **error)
{
    GArray *threads = g_array_new(FALSE, FALSE, sizeof(pid_t));
    pid_t own = getpid();

    g_array_append_val(threads, own);
    return threads;
}

static const VmmOps fake_ops = {.kind = "fake", .get_vcpu_threads = fake_threads};
static const VmmBlockOps fake_block = {.ask_disk_counters = fake_ask};

static void fake_release(gpointer owner)
{
    ((Fake *)owner)->released++;
}

static void fake_learn(gpointer owner)
{
    ((Fake *)owner)->learnt++;
}

static void free_guest(gpointer data)
{
    collector_guest_free(data);
}

static GPtrArray *fake_list(gpointer user)
{
    Fake *fake = user;
    GPtrArray *list = g_ptr_array_new_with_free_func(free_guest);

    for (guint i = 0; i < fake->guests; i++) {
        CollectorGuest *guest = g_new0(CollectorGuest, 1);

        guest->facts.name = g_strdup_printf("web%u", i);
        guest->facts.id = g_strdup_printf("id%u", i);
        guest->pid = getpid();
        guest->start_time = own_start();
        guest->vmm = i == 0 ? &fake->vmm : NULL;
        guest->owner = fake;
        guest->release = fake_release;
        guest->learn = fake_learn;
        g_ptr_array_add(list, guest);
    }
    return list;
}

static void fake_moves(gpointer user, MoveCounters *ret)
{
    *ret = (MoveCounters){0};
}

static void test_collector(void **state)
{
    Fake fake = {.vmm = {.ops = &fake_ops, .block = &fake_block}, .guests = 2};
    CollectorSources sources = {.list = fake_list, .read_moves = fake_moves, .user = &fake};
    g_autoptr(Collector) collector = collector_new(&sources);
    const LoadGuest *guest;
    LoadReport *report;

    assert_null(collector_get_report(collector, 1));
    collector_look(collector);
    report = collector_get_report(collector, 0);
    assert_true(report->figures.interval_ms < 0);
    load_report_unref(report);

    fake.written = 5000;
    be_busy(150000000);
    collector_look(collector);
    report = collector_get_report(collector, 0);
    assert_true(report->figures.interval_ms >= 150);
    assert_int_equal(report->guests->len, 2);
    assert_int_equal(fake.asked, 2);
    assert_int_equal(fake.learnt, 2);
    assert_int_equal(fake.released, 4);
    guest = report->guests->pdata[0];
    assert_true(guest->figures.cpu_used > 0.05 && guest->figures.disk.written > 0);
    assert_true(guest->figures.vcpu_used < 0); /* its threads were not known at the first look */
    guest = report->guests->pdata[1];
    assert_string_equal(guest->facts.name, "web1");
    assert_true(guest->figures.cpu_used > 0.05 && guest->figures.disk.written < 0);
    load_report_unref(report);

    /* It is left alone after that; and a guest that has ended is told no more. */
    fake.silent = TRUE;
    fake.guests = 1;
    be_busy(150000000);
    for (guint i = 0; i < 5; i++)
        collector_look(collector);
    assert_int_equal(fake.asked, 3);
    assert_int_equal(fake.learnt, 2);
    report = collector_get_report(collector, 0);
    assert_int_equal(report->guests->len, 1);
    load_report_unref(report);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_machine),   cmocka_unit_test(test_group),
        cmocka_unit_test(test_process),   cmocka_unit_test(test_tap),
        cmocka_unit_test(test_collector),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
