/*
 * What a look at guest RAM costs
 *
 *   ninja -C build bench/scan && sudo build/bench/scan [GIB]
 *
 * A child process holds 1, 2, ... GIB (4) gibibytes of written memory, private
 * and as a shared memfd, in huge and in small pages, and dirties none, 1 % at
 * random or all of its pages before each look.  Printed is the CPU time that
 * tracker_collect() takes for a GiB of it (PAGEMAP_SCAN), and what counting
 * the populated pages takes.  The best of some looks counts.
 */
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/page.h"
#include "memory/tracker.h"

#define GIB (1ull << 30)
#define HUGE_BYTES (2ull << 20)
#define LOOKS 5

typedef enum { BACKING_HUGE, BACKING_SMALL, BACKING_SHARED } Backing;

static const char *const backing_names[] = {"private, huge pages", "private, 4 KiB pages",
                                            "shared memfd"};

typedef struct {
    _Atomic int order;  /* pages of each 100 to write; 0: done */
    _Atomic int answer; /* orders carried out */
} Desk;

typedef struct {
    pid_t pid;
    Desk *desk;
    uint8_t *address;
    size_t bytes;
} Child;

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static uint8_t *allocate(Backing backing, size_t bytes)
{
    int fd = backing == BACKING_SHARED ? memfd_create("guest-ram", 0) : -1;
    int flags = backing == BACKING_SHARED ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS;
    size_t more = backing == BACKING_SHARED ? 0 : HUGE_BYTES;
    uint8_t *memory;

    if (backing == BACKING_SHARED && (fd < 0 || ftruncate(fd, (off_t)bytes) != 0))
        die("memfd");
    memory = mmap(NULL, bytes + more, PROT_READ | PROT_WRITE, flags, fd, 0);
    if (memory == MAP_FAILED)
        die("mmap");
    if (more)
        memory += (HUGE_BYTES - (uintptr_t)memory % HUGE_BYTES) % HUGE_BYTES;
    madvise(memory, bytes, backing == BACKING_HUGE ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
    return memory;
}

static void write_pages(const Child *child, int percent)
{
    uint64_t state = 1;

    for (size_t page = 0; page < child->bytes / PAGE_BYTES; page++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        if ((state >> 33) % 100 < (uint64_t)percent)
            child->address[page * PAGE_BYTES]++;
    }
}

_Noreturn static void child_main(const Child *child)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (;;) {
        int percent = atomic_exchange(&child->desk->order, 0);

        if (percent > 0) {
            write_pages(child, percent);
            atomic_fetch_add(&child->desk->answer, 1);
        }
        poll(NULL, 0, 1);
    }
}

static void child_order(const Child *child, int percent)
{
    int before = atomic_load(&child->desk->answer);

    if (percent == 0)
        return;
    atomic_store(&child->desk->order, percent);
    while (atomic_load(&child->desk->answer) == before)
        poll(NULL, 0, 1);
}

static void child_start(Child *child, Backing backing, size_t bytes)
{
    child->bytes = bytes;
    child->address = allocate(backing, bytes);
    child->desk =
        mmap(NULL, sizeof(Desk), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (child->desk == MAP_FAILED)
        die("mmap");
    child->pid = fork();
    if (child->pid < 0)
        die("fork");
    if (child->pid == 0)
        child_main(child);
    child_order(child, 100);
}

static void child_end(Child *child)
{
    kill(child->pid, SIGKILL);
    waitpid(child->pid, NULL, 0);
    munmap(child->desk, sizeof(Desk));
    munmap(child->address, child->bytes);
}

static double cpu_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (double)now.tv_sec * 1e3 + (double)now.tv_nsec / 1e6;
}

static void fail(const GError *error)
{
    fprintf(stderr, "scan: %s\n", error->message);
    exit(1);
}

static double look(const Child *child, Tracker *tracker, GuestMemory *memory, int percent)
{
    double best = 1e9;

    for (int i = 0; i < LOOKS; i++) {
        g_autoptr(GPtrArray) sets = guest_memory_new_sets(memory);
        g_autoptr(GError) error = NULL;
        double start;

        child_order(child, percent);
        start = cpu_ms();
        if (!tracker_collect(tracker, sets, &error))
            fail(error);
        best = MIN(best, cpu_ms() - start);
    }
    return best;
}

static double count_populated(GuestMemory *memory)
{
    g_autoptr(GError) error = NULL;
    double start = cpu_ms();
    uint64_t pages;

    if (!guest_memory_count_populated(memory, &pages, &error))
        fail(error);
    return cpu_ms() - start;
}

static void measure(Backing backing, unsigned gib)
{
    g_autoptr(GPtrArray) regions = g_ptr_array_new_with_free_func((GDestroyNotify)ram_region_free);
    g_autoptr(GuestMemory) memory = NULL;
    g_autoptr(Tracker) tracker = NULL;
    g_autoptr(GError) error = NULL;
    Child child;
    double none, some, all, count;

    child_start(&child, backing, gib * GIB);
    g_ptr_array_add(regions, ram_region_new("ram", (uintptr_t)child.address, child.bytes));
    memory = guest_memory_open(child.pid, regions, &error);
    tracker = memory ? tracker_start(memory, TRACKER_PAGEMAP_SCAN, &error) : NULL;
    if (!tracker)
        fail(error);
    count = count_populated(memory);
    all = look(&child, tracker, memory, 100);
    some = look(&child, tracker, memory, 1);
    none = look(&child, tracker, memory, 0);
    printf("%-21s %3u GiB %8.2f %8.2f %8.2f %10.2f\n", backing_names[backing], gib, none / gib,
           some / gib, all / gib, count / gib);
    g_clear_pointer(&tracker, tracker_free);
    child_end(&child);
}

int main(int argc, char **argv)
{
    unsigned most = argc > 1 ? (unsigned)atoi(argv[1]) : 4;

    setlinebuf(stdout);
    printf("CPU ms a GiB of a look with so many pages dirty\n%-29s %8s %8s %8s %10s\n", "", "none",
           "1 %", "all", "populated");
    for (Backing backing = BACKING_HUGE; backing <= BACKING_SHARED; backing++)
        for (unsigned gib = 1; gib <= most; gib *= 2)
            measure(backing, gib);
    return 0;
}
