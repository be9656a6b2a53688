/*
 * What does it cost to look at a host with many guests?
 *
 * Starts GUESTS processes (50) that sleep, each with as many threads, vCPUs, descriptors and memory mappings as a small QEMU
 * has, and a tap device where this program may make one (as root: in a network namespace of its own).  The
 * collector looks at them LOOKS times (32: two searches for tap devices), one look after the other.  Their VMM
 * is a function of this program, so what QMP costs is not in it.
 *
 *     ninja -C build bench/load && build/bench/load [GUESTS [LOOKS]]
 */
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/process.h"
#include "collect/collector.h"

#define THREADS 8u
#define VCPUS 2u
#define DESCRIPTORS 60
#define MAPPINGS 200u

typedef struct {
    pid_t pid;
    uint64_t start_time;
    pid_t threads[VCPUS];
} Process;

typedef struct {
    Vmm vmm;
    const Process *process;
} FakeVmm;

typedef struct {
    guint count;
    Process *processes;
    FakeVmm *vmms;
} Bench;

/* ---- processes ---- */

static gpointer rest(gpointer data)
{
    int ready = GPOINTER_TO_INT(data);
    pid_t own = gettid();

    if (ready >= 0 && write(ready, &own, sizeof own) != sizeof own)
        _exit(1);
    for (;;)
        pause();
    return NULL;
}

static void open_tap(guint number)
{
    struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI};
    int fd = open("/dev/net/tun", O_RDWR);

    g_snprintf(request.ifr_name, sizeof request.ifr_name, "tap%u", number);
    if (fd >= 0)
        (void)ioctl(fd, TUNSETIFF, &request);
}

/* Never returns. */
static void be_a_guest(guint number, int ready)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    open_tap(number);
    for (int i = 0; i < DESCRIPTORS; i++)
        (void)open("/dev/null", O_RDWR);
    for (guint i = 0; i < MAPPINGS; i++)
        (void)mmap(NULL, 8192, i % 2 ? PROT_READ : PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (guint i = 0; i < THREADS; i++)
        g_thread_unref(g_thread_new("rest", rest, GINT_TO_POINTER(i < VCPUS ? ready : -1)));
    rest(GINT_TO_POINTER(-1));
}

static void start(Process *process, guint number)
{
    int ready[2];

    if (pipe(ready) < 0 || (process->pid = fork()) < 0)
        exit(1);
    if (process->pid == 0)
        be_a_guest(number, ready[1]);
    for (guint i = 0; i < VCPUS; i++)
        if (read(ready[0], &process->threads[i], sizeof(pid_t)) != sizeof(pid_t))
            exit(1);
    close(ready[0]);
    close(ready[1]);
    process_get_start_time(process->pid, &process->start_time, NULL);
}

/* ---- what the collector is told ---- */

static gboolean ask_disks(Vmm *vmm, guint timeout_ms, VmmDiskCounters *ret, GError **error)
{
    *ret = (VmmDiskCounters){0};
    return TRUE;
}

static GArray *get_threads(Vmm *vmm, GError **error)
{
    GArray *threads = g_array_new(FALSE, FALSE, sizeof(pid_t));

    g_array_append_vals(threads, ((FakeVmm *)vmm)->process->threads, VCPUS);
    return threads;
}

static void free_guest(gpointer data)
{
    collector_guest_free(data);
}

static GPtrArray *list_guests(gpointer user)
{
    Bench *bench = user;
    GPtrArray *list = g_ptr_array_new_with_free_func(free_guest);

    for (guint i = 0; i < bench->count; i++) {
        CollectorGuest *guest = g_new0(CollectorGuest, 1);

        guest->facts = (LoadGuestFacts){.name = g_strdup_printf("web%u", i),
                                        .id = g_strdup_printf("%032u", i),
                                        .role = g_strdup("ours"),
                                        .state = g_strdup("running")};
        guest->pid = bench->processes[i].pid;
        guest->start_time = bench->processes[i].start_time;
        guest->vmm = &bench->vmms[i].vmm;
        g_ptr_array_add(list, guest);
    }
    return list;
}

static void read_moves(gpointer user, MoveCounters *ret)
{
    *ret = (MoveCounters){0};
}

/* ---- measuring ---- */

static void measure(Bench *bench, guint looks)
{
    CollectorSources sources = {.list = list_guests, .read_moves = read_moves, .user = bench};
    g_autoptr(Collector) collector = collector_new(&sources);
    g_autoptr(LoadReport) report = NULL;
    uint64_t cpu, slowest = 0;
    const LoadGuest *last;
    double look_ms;

    collector_look(collector);
    cpu = clock_thread_cpu_ns();
    for (guint i = 0; i < looks; i++) {
        uint64_t began = clock_now_ns();

        collector_look(collector);
        slowest = MAX(slowest, clock_now_ns() - began);
    }
    look_ms = clock_ns_to_ms(clock_thread_cpu_ns() - cpu) / looks;
    report = collector_get_report(collector, 0);
    last = report->guests->pdata[bench->count - 1];
    printf(
        "%u guests, each with %u threads of vCPUs and %u tap devices: CPU time of a look %.2f ms, "
        "longest look %.2f ms; a look each %d ms takes %.2f %% of a core\n",
        bench->count, last->reading.vcpus ? last->reading.vcpus->len : 0,
        last->reading.taps ? last->reading.taps->len : 0, look_ms, clock_ns_to_ms(slowest),
        COLLECTOR_INTERVAL_MS, 100 * look_ms / COLLECTOR_INTERVAL_MS);
}

int main(int argc, char **argv)
{
    static const VmmOps ops = {.kind = "none", .get_vcpu_threads = get_threads};
    static const VmmBlockOps block = {.ask_disk_counters = ask_disks};
    Bench bench = {.count = argc > 1 ? (guint)strtoul(argv[1], NULL, 10) : 50};
    guint looks = argc > 2 ? (guint)strtoul(argv[2], NULL, 10) : 32;

    if (bench.count == 0 || looks == 0)
        return 2;
    if (unshare(CLONE_NEWNET) < 0)
        printf("without tap devices: not root\n");
    bench.processes = g_new0(Process, bench.count);
    bench.vmms = g_new0(FakeVmm, bench.count);
    for (guint i = 0; i < bench.count; i++) {
        bench.vmms[i] = (FakeVmm){{.ops = &ops, .block = &block}, &bench.processes[i]};
        start(&bench.processes[i], i);
    }
    measure(&bench, looks);
    for (guint i = 0; i < bench.count; i++) {
        kill(bench.processes[i].pid, SIGKILL);
        waitpid(bench.processes[i].pid, NULL, 0);
    }
    g_free(bench.processes);
    g_free(bench.vmms);
    return 0;
}
