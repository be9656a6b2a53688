#include "memory/probe.h"

#include <linux/userfaultfd.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/page.h"
#include "memory/guest_memory.h"
#include "memory/pagemap.h"
#include "memory/tracker.h"
#include "memory/userfault.h"

#define VICTIM_PAGES 16u
#define VICTIM_WRITES_PAGE 5u

typedef struct {
    pid_t pid;
    int command; /* a byte: write now */
    int answer;  /* a byte: done */
    uint64_t address;
} Victim;

/* Writes one page whenever it is asked to.  Only calls that are safe after
 * fork() in a process with threads. */
static void victim_main(uint8_t *memory, int command, int answer)
{
    char byte;

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (unsigned i = 0; i < VICTIM_PAGES; i++)
        memory[i * PAGE_BYTES] = 1;
    while (write(answer, "r", 1) == 1 && read(command, &byte, 1) == 1)
        memory[VICTIM_WRITES_PAGE * PAGE_BYTES]++;
    _exit(0);
}

static gboolean victim_wait(Victim *victim, GError **error)
{
    char byte;

    if (fd_wait_readable(victim->answer, 3000, error) == 1 && read(victim->answer, &byte, 1) == 1)
        return TRUE;
    if (error && !*error)
        error_set(error, VMFERRY_ERROR_TIMEOUT, "the probe's child does not answer");
    return FALSE;
}

static gboolean victim_start(Victim *victim, GError **error)
{
    int command[2] = {-1, -1}, answer[2] = {-1, -1};
    uint8_t *memory = mmap(NULL, VICTIM_PAGES * PAGE_BYTES, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (memory == MAP_FAILED || pipe(command) < 0 || pipe(answer) < 0) {
        error_set(error, VMFERRY_ERROR_FAILED, "no memory or no pipes");
        return FALSE;
    }
    victim->pid = fork();
    if (victim->pid == 0) {
        close(command[1]);
        close(answer[0]);
        victim_main(memory, command[0], answer[1]);
    }
    close(command[0]);
    close(answer[1]);
    munmap(memory, VICTIM_PAGES * PAGE_BYTES);
    victim->command = command[1];
    victim->answer = answer[0];
    victim->address = (uint64_t)(uintptr_t)memory;
    return victim_wait(victim, error);
}

static void victim_end(Victim *victim)
{
    fd_close(&victim->command);
    fd_close(&victim->answer);
    if (victim->pid > 0) {
        kill(victim->pid, SIGKILL);
        waitpid(victim->pid, NULL, 0);
    }
}

static void set_result(ProbeResult *result, gboolean ok, GError *error, const char *otherwise)
{
    result->ok = ok;
    result->detail = ok ? NULL : g_strdup(error ? error->message : otherwise);
    g_clear_error(&error);
}

/* Tracks the child, lets it write one page and looks for exactly that. */
static gboolean track_once(Victim *victim, TrackerKind kind, GError **error)
{
    g_autoptr(GPtrArray) regions = g_ptr_array_new_with_free_func((GDestroyNotify)ram_region_free);
    g_autoptr(GuestMemory) memory = NULL;
    g_autoptr(Tracker) tracker = NULL;
    g_autoptr(GPtrArray) sets = NULL;
    PageSet *seen;

    g_ptr_array_add(regions, ram_region_new("probe", victim->address, VICTIM_PAGES * PAGE_BYTES));
    memory = guest_memory_open(victim->pid, regions, error);
    tracker = memory ? tracker_start(memory, kind, error) : NULL;
    if (!tracker)
        return FALSE;
    sets = guest_memory_new_sets(memory);
    seen = g_ptr_array_index(sets, 0);
    if (!tracker_collect(tracker, sets, error))
        return FALSE;
    page_set_clear(seen);
    if (write(victim->command, "w", 1) != 1 || !victim_wait(victim, error) ||
        !tracker_collect(tracker, sets, error))
        return FALSE;
    if (page_set_count(seen) != 1 || !page_set_has(seen, VICTIM_WRITES_PAGE)) {
        error_set(error, VMFERRY_ERROR_FAILED, "one page was written, %u were seen",
                  (unsigned)page_set_count(seen));
        return FALSE;
    }
    return TRUE;
}

static void probe_attach(Victim *victim, MemoryProbe *ret)
{
    GError *error = NULL;
    uint64_t start = clock_now_ns();
    Userfault *userfault = userfault_open(victim->pid, 0, USERFAULT_CLOSES_WITH_US, &error);
    gboolean fetch_failed = error && strstr(error->message, "pidfd_getfd");

    ret->attach_ms = clock_ns_to_ms(clock_now_ns() - start);
    set_result(&ret->attach, userfault || fetch_failed, error ? g_error_copy(error) : NULL, "");
    set_result(&ret->pidfd_getfd, userfault != NULL, error, "not reached");
    userfault_free(userfault);
}

static void probe_features(MemoryProbe *ret)
{
    uint64_t features = userfault_get_kernel_features();
    g_autoptr(Pagemap) pagemap = pagemap_open(getpid(), NULL);

    set_result(&ret->userfaultfd, features != 0, NULL,
               "the kernel has no userfaultfd (CONFIG_USERFAULTFD), or forbids it");
    set_result(&ret->wp_async, features & USERFAULT_FEATURE_WP_ASYNC, NULL, "needs Linux 6.7");
    set_result(&ret->wp_unpopulated, features & USERFAULT_FEATURE_WP_UNPOPULATED, NULL,
               "needs Linux 6.4");
    set_result(&ret->wp_shared, features & UFFD_FEATURE_WP_HUGETLBFS_SHMEM, NULL,
               "needs Linux 5.19");
    set_result(&ret->pagemap_scan, pagemap && pagemap_can_scan(pagemap), NULL, "needs Linux 6.7");
}

void memory_probe(MemoryProbe *ret)
{
    Victim victim = {.command = -1, .answer = -1};
    GError *error = NULL;
    struct utsname name;

    memset(ret, 0, sizeof *ret);
    uname(&name);
    ret->kernel = g_strdup(name.release);
    probe_features(ret);
    if (victim_start(&victim, &error)) {
        gboolean ok;

        probe_attach(&victim, ret);
        ok = track_once(&victim, TRACKER_PAGEMAP_SCAN, &error);
        set_result(&ret->track_scan, ok, g_steal_pointer(&error), "");
        ok = track_once(&victim, TRACKER_UFFD_SYNC, &error);
        set_result(&ret->track_sync, ok, g_steal_pointer(&error), "");
    } else {
        set_result(&ret->attach, FALSE, error, "no child process");
    }
    victim_end(&victim);
}

void memory_probe_clear(MemoryProbe *probe)
{
    ProbeResult *results[] = {&probe->userfaultfd, &probe->wp_async,     &probe->wp_unpopulated,
                              &probe->wp_shared,   &probe->pagemap_scan, &probe->attach,
                              &probe->pidfd_getfd, &probe->track_scan,   &probe->track_sync};

    for (guint i = 0; i < G_N_ELEMENTS(results); i++)
        g_free(results[i]->detail);
    g_free(probe->kernel);
    memset(probe, 0, sizeof *probe);
}
