/*
 * Trackers against a process that writes known pages
 *
 * For each sort of memory and each back end: what the child writes, and
 * nothing else, is collected, while it runs; nothing of us is left in it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <dirent.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/page.h"
#include "memory/clean.h"
#include "memory/guest_memory.h"
#include "memory/maps.h"
#include "memory/pagemap.h"
#include "memory/probe.h"
#include "memory/tracker.h"

#define PAGES 2048u /* 8 MiB: several huge pages */
#define HUGE_BYTES (2u << 20)

typedef enum { KIND_PRIVATE, KIND_THP, KIND_SHARED, KIND_HUGETLB } MemoryKind;

static const char *const kind_names[] = {"private", "THP", "shared memfd", "hugetlb"};

/* Orders to the child, in memory shared with it. */
typedef struct {
    _Atomic int order;  /* 1: write the listed pages; 2: write all the time */
    _Atomic int answer; /* number of orders carried out */
    unsigned count;
    unsigned pages[PAGES];
    _Atomic uint64_t rounds;
} Desk;

typedef struct {
    pid_t pid;
    Desk *desk;
    uint8_t *address;
    unsigned unit; /* 4 KiB pages a dirty unit */
} Child;

static void *allocate(MemoryKind kind)
{
    size_t length = PAGES * PAGE_BYTES;
    int flags = MAP_ANONYMOUS | MAP_PRIVATE;
    uint8_t *memory;
    int fd = -1;

    if (kind == KIND_SHARED) {
        fd = memfd_create("guest-ram", 0);
        assert_int_equal(ftruncate(fd, (off_t)length), 0);
        flags = MAP_SHARED;
    }
    if (kind == KIND_HUGETLB)
        flags |= MAP_HUGETLB;
    if (kind == KIND_THP) {
        memory = mmap(NULL, length + HUGE_BYTES, PROT_READ | PROT_WRITE, flags, -1, 0);
        memory = (uint8_t *)(((uintptr_t)memory + HUGE_BYTES - 1) & ~(uintptr_t)(HUGE_BYTES - 1));
        madvise(memory, length, MADV_HUGEPAGE);
        return memory;
    }
    memory = mmap(NULL, length, PROT_READ | PROT_WRITE, flags, fd, 0);
    return memory == MAP_FAILED ? NULL : memory;
}

static void child_main(Child *child)
{
    Desk *desk = child->desk;

    for (unsigned i = 0; i < PAGES / 2; i++) /* the upper half stays untouched */
        child->address[i * PAGE_BYTES] = 1;
    atomic_fetch_add(&desk->answer, 1);
    for (uint64_t round = 0;;) {
        int order = atomic_load(&desk->order);

        if (order == 2) {
            for (unsigned i = 0; i < PAGES; i += 3)
                atomic_fetch_add((_Atomic uint32_t *)(child->address + i * PAGE_BYTES), 1);
            atomic_store(&desk->rounds, ++round);
            continue;
        }
        if (order == 1) {
            for (unsigned i = 0; i < desk->count; i++)
                child->address[desk->pages[i] * PAGE_BYTES + 8]++;
            atomic_store(&desk->order, 0);
            atomic_fetch_add(&desk->answer, 1);
        }
        poll(NULL, 0, 1);
    }
}

static gboolean child_start(Child *child, MemoryKind kind)
{
    child->address = allocate(kind);
    child->unit = kind == KIND_HUGETLB ? HUGE_BYTES / PAGE_BYTES : 1;
    if (!child->address)
        return FALSE;
    child->desk =
        mmap(NULL, sizeof(Desk), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    child->pid = fork();
    if (child->pid == 0)
        child_main(child);
    while (atomic_load(&child->desk->answer) < 1)
        poll(NULL, 0, 1);
    return TRUE;
}

static void child_end(Child *child)
{
    kill(child->pid, SIGKILL);
    waitpid(child->pid, NULL, 0);
    munmap(child->desk, sizeof(Desk));
    munmap(child->address, PAGES * PAGE_BYTES);
}

static void child_write(Child *child, const unsigned *pages, unsigned count)
{
    int before = atomic_load(&child->desk->answer);
    uint64_t end = clock_now_ns() + 10000000000ULL;

    memcpy(child->desk->pages, pages, count * sizeof *pages);
    child->desk->count = count;
    atomic_store(&child->desk->order, 1);
    while (atomic_load(&child->desk->answer) == before) {
        if (clock_now_ns() > end)
            fail_msg("the child hangs on its write");
        poll(NULL, 0, 1);
    }
}

static GuestMemory *open_memory(Child *child)
{
    g_autoptr(GPtrArray) regions = g_ptr_array_new_with_free_func((GDestroyNotify)ram_region_free);
    g_autoptr(GError) error = NULL;
    GuestMemory *memory;

    g_ptr_array_add(regions,
                    ram_region_new("ram", (uint64_t)(uintptr_t)child->address, PAGES * PAGE_BYTES));
    memory = guest_memory_open(child->pid, regions, &error);
    if (!memory)
        fail_msg("%s", error->message);
    return memory;
}

static void assert_collects(Tracker *tracker, Child *child, const unsigned *pages, unsigned count,
                            const char *what)
{
    g_autoptr(GPtrArray) sets = guest_memory_new_sets(tracker->memory);
    g_autoptr(PageSet) wanted = page_set_new(PAGES);
    g_autoptr(GError) error = NULL;
    const PageSet *seen = g_ptr_array_index(sets, 0);

    if (!tracker_collect(tracker, sets, &error))
        fail_msg("%s: %s", what, error->message);
    for (unsigned i = 0; i < count; i++)
        page_set_add(wanted, pages[i] / child->unit * child->unit, child->unit);
    for (unsigned i = 0; i < PAGES; i++)
        if (page_set_has(seen, i) != page_set_has(wanted, i))
            fail_msg("%s: page %u %s (%u seen, %u written)", what, i,
                     page_set_has(wanted, i) ? "was written and is not seen"
                                             : "is seen and was not written",
                     (unsigned)page_set_count(seen), (unsigned)page_set_count(wanted));
}

/* At first all that is populated counts as written. */
static void protect_all(Tracker *tracker)
{
    g_autoptr(GPtrArray) sets = guest_memory_new_sets(tracker->memory);
    const PageSet *set = g_ptr_array_index(sets, 0);

    assert_true(tracker_collect(tracker, sets, NULL));
    for (unsigned i = 0; i < PAGES / 2; i++)
        assert_true(page_set_has(set, i));
}

static void assert_nothing_left(pid_t pid)
{
    g_autoptr(GPtrArray) maps = maps_read(pid, NULL);
    g_autofree char *folder = g_strdup_printf("/proc/%d/fd", (int)pid);
    g_autoptr(GDir) dir = g_dir_open(folder, 0, NULL);
    const char *name;

    for (guint i = 0; i < maps->len; i++)
        assert_false(((Mapping *)g_ptr_array_index(maps, i))->userfault_wp);
    while ((name = g_dir_read_name(dir))) {
        g_autofree char *path = g_build_filename(folder, name, NULL);
        g_autofree char *target = g_file_read_link(path, NULL);

        assert_false(target && strstr(target, "userfaultfd"));
    }
}

static void exact_pages(MemoryKind kind, TrackerKind tracker_kind)
{
    static const unsigned some[] = {0, 1, 2, 700, 701, 1023};
    static const unsigned fresh[] = {1024, 1500, 2047};
    g_autofree char *what =
        g_strdup_printf("%s, %s", kind_names[kind], tracker_kind_name(tracker_kind));
    g_autoptr(GuestMemory) memory = NULL;
    g_autoptr(GError) error = NULL;
    Tracker *tracker;
    Child child;

    if (!child_start(&child, kind))
        return; /* no huge pages here; test_hugetlb says so */
    memory = open_memory(&child);
    tracker = tracker_start(memory, tracker_kind, &error);
    if (!tracker)
        fail_msg("%s: %s", what, error->message);
    protect_all(tracker);
    assert_collects(tracker, &child, NULL, 0, what);
    for (int i = 0; i < 3; i++) {
        child_write(&child, some, G_N_ELEMENTS(some));
        assert_collects(tracker, &child, some, G_N_ELEMENTS(some), what);
        assert_collects(tracker, &child, NULL, 0, what);
    }
    child_write(&child, some + 3, 1);
    assert_collects(tracker, &child, some + 3, 1, what);
    child_write(&child, fresh, G_N_ELEMENTS(fresh));
    if (kind != KIND_THP) /* a fresh huge page is new as a whole */
        assert_collects(tracker, &child, fresh, G_N_ELEMENTS(fresh), what);
    tracker_free(tracker);
    assert_nothing_left(child.pid);
    child_write(&child, some, 1);
    child_end(&child);
}

static void test_exact_pages(void **state)
{
    for (MemoryKind kind = KIND_PRIVATE; kind <= KIND_HUGETLB; kind++)
        for (TrackerKind tracker = TRACKER_PAGEMAP_SCAN; tracker <= TRACKER_UFFD_SYNC; tracker++)
            exact_pages(kind, tracker);
}

static PageSet *peek(Tracker *tracker, GPtrArray *sets)
{
    page_set_clear(g_ptr_array_index(sets, 0));
    assert_true(tracker_peek(tracker, sets, NULL));
    return g_ptr_array_index(sets, 0);
}

/* What a peek names it goes on naming; what was released counts as written, whether it is
 * or not, and is written without anybody's help. */
static void peek_and_release(MemoryKind kind, TrackerKind tracker_kind)
{
    static const unsigned some[] = {5, 600}, more[] = {700};
    g_autoptr(GuestMemory) memory = NULL;
    g_autoptr(GPtrArray) sets = NULL;
    g_autoptr(GError) error = NULL;
    const PageSet *set;
    Tracker *tracker;
    Child child;

    if (!child_start(&child, kind))
        return;
    memory = open_memory(&child);
    tracker = tracker_start(memory, tracker_kind, &error);
    assert_non_null(tracker);
    sets = guest_memory_new_sets(memory);
    set = peek(tracker, sets);
    for (unsigned i = 0; i < PAGES / 2; i++)
        assert_true(page_set_has(set, i));
    protect_all(tracker);
    assert_int_equal(page_set_count(peek(tracker, sets)), 0);
    child_write(&child, some, 2);
    for (unsigned i = 0; i < 2; i++)
        assert_int_equal(page_set_count(peek(tracker, sets)), 2 * child.unit);
    child_write(&child, more, 1);
    set = peek(tracker, sets);
    assert_true(page_set_has(set, 5) && page_set_has(set, 600) && page_set_has(set, 700));
    assert_true(tracker_collect(tracker, sets, &error));
    assert_int_equal(page_set_count(peek(tracker, sets)), 0);
    assert_true(tracker_release_span(tracker, 0, (PageSpan){512, 512}, &error));
    set = peek(tracker, sets);
    assert_int_equal(page_set_count(set), 512);
    assert_true(page_set_has(set, 512) && page_set_has(set, 1023));
    child_write(&child, some, 1);
    child_write(&child, more, 1);
    set = peek(tracker, sets);
    assert_true(page_set_has(set, 5) && page_set_has(set, 512));
    assert_int_equal(page_set_count(set), 512 + child.unit);
    tracker_free(tracker);
    child_end(&child);
}

static void test_peek_and_release(void **state)
{
    for (MemoryKind kind = KIND_PRIVATE; kind <= KIND_HUGETLB; kind++)
        for (TrackerKind tracker = TRACKER_PAGEMAP_SCAN; tracker <= TRACKER_UFFD_SYNC; tracker++)
            peek_and_release(kind, tracker);
}

/* A span's pages, all of a huge page's, and no others are taken; the others are
 * still there for the next call. */
static void exact_span(MemoryKind kind, TrackerKind tracker_kind)
{
    static const unsigned written[] = {10, 20, 600, 610, 1000};
    static const unsigned left[] = {10, 1000}, left_huge[] = {1000};
    g_autoptr(GuestMemory) memory = NULL;
    g_autoptr(GPtrArray) sets = NULL;
    g_autoptr(GError) error = NULL;
    PageSet *set;
    Tracker *tracker;
    Child child;

    if (!child_start(&child, kind))
        return;
    memory = open_memory(&child);
    tracker = tracker_start(memory, tracker_kind, &error);
    assert_non_null(tracker);
    sets = guest_memory_new_sets(memory);
    set = g_ptr_array_index(sets, 0);
    assert_true(tracker_collect(tracker, sets, &error));
    page_set_clear(set);
    child_write(&child, written, G_N_ELEMENTS(written));
    if (child.unit == 1) {
        assert_true(tracker_collect_span(tracker, 0, (PageSpan){15, 786}, set, &error));
        assert_int_equal(page_set_count(set), 3);
        assert_true(page_set_has(set, 20) && page_set_has(set, 600) && page_set_has(set, 610));
        assert_collects(tracker, &child, left, G_N_ELEMENTS(left), kind_names[kind]);
    } else {
        assert_true(tracker_collect_span(tracker, 0, (PageSpan){15, 2}, set, &error));
        assert_int_equal(page_set_count(set), child.unit);
        assert_collects(tracker, &child, left_huge, 1, kind_names[kind]);
    }
    tracker_free(tracker);
    child_end(&child);
}

static void test_span(void **state)
{
    for (MemoryKind kind = KIND_PRIVATE; kind <= KIND_HUGETLB; kind++)
        for (TrackerKind tracker = TRACKER_PAGEMAP_SCAN; tracker <= TRACKER_UFFD_SYNC; tracker++)
            exact_span(kind, tracker);
}

/* A copy kept up to date by collect-and-read equals the memory at the end. */
static void copy_of_busy_child(MemoryKind kind, TrackerKind tracker_kind)
{
    g_autofree uint8_t *copy = g_malloc0(PAGES * PAGE_BYTES);
    g_autofree uint8_t *truth = g_malloc0(PAGES * PAGE_BYTES);
    g_autoptr(PageSet) next = page_set_new(PAGES);
    g_autoptr(GPtrArray) sets = NULL;
    g_autoptr(GPtrArray) unused = NULL;
    g_autoptr(GuestMemory) memory = NULL;
    g_autoptr(GError) error = NULL;
    PageSpan span = {0, PAGES};
    Tracker *tracker;
    PageSet *set;
    Child child;

    assert_true(child_start(&child, kind));
    memory = open_memory(&child);
    atomic_store(&child.desk->order, 2);
    tracker = tracker_start(memory, tracker_kind, &error);
    assert_non_null(tracker);
    sets = guest_memory_new_sets(memory);
    set = g_ptr_array_index(sets, 0);
    unused = guest_memory_new_sets(memory);
    for (int round = 0; round < 50; round++) {
        if (round == 49) {
            kill(child.pid, SIGSTOP);
            waitpid(child.pid, NULL, WUNTRACED);
        }
        page_set_clear(set);
        page_set_add_all(set, next);
        page_set_clear(next);
        assert_true(tracker_collect(tracker, sets, &error));
        for (uint64_t at = 0; page_set_next_run(set, at, 64, &span.first, &span.count);
             at = span.first + span.count) {
            if (round % 4 == 2) { /* a look between, and memory that is let go */
                assert_true(tracker_peek(tracker, unused, &error));
                assert_true(tracker_release_span(tracker, 0, span, &error));
            }
            if (round % 2) /* as a sender does: what it reads next is not dirty any more */
                assert_true(tracker_collect_span(tracker, 0, span, next, &error));
            page_set_remove(next, span.first, span.count);
            assert_true(
                guest_memory_read(memory, 0, &span, 1, copy + span.first * PAGE_BYTES, &error));
        }
    }
    span = (PageSpan){0, PAGES};
    assert_true(guest_memory_read(memory, 0, &span, 1, truth, &error));
    assert_memory_equal(copy, truth, PAGES * PAGE_BYTES);
    tracker_free(tracker);
    assert_nothing_left(child.pid);
    kill(child.pid, SIGCONT);
    child_end(&child);
}

static void test_busy(void **state)
{
    for (MemoryKind kind = KIND_PRIVATE; kind <= KIND_SHARED; kind++)
        for (TrackerKind tracker = TRACKER_PAGEMAP_SCAN; tracker <= TRACKER_UFFD_SYNC; tracker++)
            copy_of_busy_child(kind, tracker);
}

/* A tracker whose process dies lets the guest go on. */
static void test_tracker_killed(void **state)
{
    for (TrackerKind kind = TRACKER_PAGEMAP_SCAN; kind <= TRACKER_UFFD_SYNC; kind++) {
        static const unsigned pages[] = {3, 900, 1900};
        Child child;
        pid_t spy;
        int status;

        assert_true(child_start(&child, KIND_PRIVATE));
        spy = fork();
        if (spy == 0) {
            g_autoptr(GuestMemory) memory = open_memory(&child);

            if (tracker_start(memory, kind, NULL))
                kill(getpid(), SIGKILL);
            _exit(1);
        }
        waitpid(spy, &status, 0);
        assert_true(WIFSIGNALED(status));
        child_write(&child, pages, G_N_ELEMENTS(pages));
        assert_nothing_left(child.pid);
        child_end(&child);
    }
}

static void test_cleans_left_over(void **state)
{
    g_autoptr(GError) error = NULL;
    Child child;
    pid_t spy;

    assert_true(child_start(&child, KIND_PRIVATE));
    spy = fork();
    if (spy == 0) {
        g_autoptr(GuestMemory) memory = open_memory(&child);

        g_setenv("VMFERRY_FAULT", "inject.called=kill", TRUE);
        tracker_start(memory, TRACKER_AUTO, NULL);
        _exit(1);
    }
    waitpid(spy, NULL, 0);
    assert_true(memory_clean_guest(child.pid, &error));
    assert_nothing_left(child.pid);
    child_write(&child, (unsigned[]){1}, 1);
    child_end(&child);
}

static void test_populated_and_zero(void **state)
{
    for (MemoryKind kind = KIND_PRIVATE; kind <= KIND_SHARED; kind += 2) {
        g_autoptr(GuestMemory) memory = NULL;
        g_autoptr(GPtrArray) sets = NULL;
        g_autofree uint8_t *copy = g_malloc(PAGES * PAGE_BYTES);
        PageSpan all = {0, PAGES};
        PageSet *set;
        Child child;

        assert_true(child_start(&child, kind));
        memory = open_memory(&child);
        sets = guest_memory_new_sets(memory);
        set = g_ptr_array_index(sets, 0);
        assert_true(guest_memory_add_populated(memory, 0, set, NULL));
        assert_int_equal(page_set_count(set), PAGES / 2);
        assert_true(guest_memory_make_zero(memory, NULL));
        assert_true(guest_memory_read(memory, 0, &all, 1, copy, NULL));
        for (unsigned i = 0; i < PAGES * PAGE_BYTES; i++)
            if (copy[i])
                fail_msg("byte %u is not zero", i);
        child_end(&child);
    }
}

static void test_old_kernel(void **state)
{
    g_autoptr(Pagemap) pagemap = pagemap_open(getpid(), NULL);
    g_autoptr(PageSet) set = page_set_new(4);
    uint8_t *memory =
        mmap(NULL, 4 * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    memory[PAGE_BYTES] = 1;
    assert_true(pagemap_add_unprotected(pagemap, (uint64_t)(uintptr_t)memory, (PageSpan){0, 4},
                                        TRUE, set, NULL));
    assert_int_equal(page_set_count(set), 1);
    assert_true(page_set_has(set, 1));
}

static void test_errors(void **state)
{
    g_autoptr(GPtrArray) regions = g_ptr_array_new_with_free_func((GDestroyNotify)ram_region_free);
    g_autoptr(GError) error = NULL;

    g_ptr_array_add(regions, ram_region_new("pc.ram", 0x1000, 4096));
    assert_null(guest_memory_open(getpid(), regions, &error));
    assert_non_null(strstr(error->message, "RAM block pc.ram"));
    g_clear_error(&error);
    assert_null(guest_memory_open(0x3fffff, regions, &error));
    assert_non_null(error);
}

static void test_probe(void **state)
{
    MemoryProbe probe;

    memory_probe(&probe);
    if (!probe.track_scan.ok)
        print_message("pagemap-scan: %s\n", probe.track_scan.detail);
    assert_true(probe.attach.ok && probe.pidfd_getfd.ok && probe.track_sync.ok);
    memory_probe_clear(&probe);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_exact_pages),
        cmocka_unit_test(test_span),
        cmocka_unit_test(test_peek_and_release),
        cmocka_unit_test(test_busy),
        cmocka_unit_test(test_tracker_killed),
        cmocka_unit_test(test_cleans_left_over),
        cmocka_unit_test(test_populated_and_zero),
        cmocka_unit_test(test_old_kernel),
        cmocka_unit_test(test_errors),
        cmocka_unit_test(test_probe),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
