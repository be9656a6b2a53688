/*
 * What dirty tracking relies on in the kernel, each thing by itself
 *
 * The process tracks its own memory here: no injection, so that a failure
 * tells of the kernel and not of us.  Before Linux 6.7 there is no PAGEMAP_SCAN
 * and the program is skipped as a whole; from then on a kernel without it fails.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "memory/page_set.h"
#include "memory/pagemap.h"
#include "memory/userfault.h"

#define PAGE 4096u
#define PAGES 1024u
#define HUGE (2u << 20)
#define EXIT_SKIP 77 /* for meson */

typedef struct {
    uint8_t *memory;
    Userfault *userfault;
    Pagemap *pagemap;
} Area;

static Userfault *open_own(UserfaultUses uses)
{
    struct uffdio_api api = {.api = UFFD_API, .features = userfault_features(uses)};
    int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);

    if (fd >= 0 && ioctl(fd, UFFDIO_API, &api) < 0) {
        close(fd);
        return NULL;
    }
    return fd >= 0 ? userfault_take(fd, uses) : NULL;
}

static int setup(void **state)
{
    static Area area;

    area.pagemap = pagemap_open(getpid(), NULL);
    area.userfault = open_own(USERFAULT_WP_ASYNC);
    area.memory =
        mmap(NULL, PAGES * PAGE + HUGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    area.memory = (uint8_t *)(((uintptr_t)area.memory + HUGE - 1) & ~(uintptr_t)(HUGE - 1));
    *state = &area;
    return 0;
}

static int teardown(void **state)
{
    Area *area = *state;

    userfault_free(area->userfault);
    pagemap_free(area->pagemap);
    munmap(area->memory, PAGES * PAGE);
    return 0;
}

static PageSet *take(Area *area)
{
    PageSet *set = page_set_new(PAGES);

    assert_true(pagemap_take_written(area->pagemap, (uint64_t)(uintptr_t)area->memory,
                                     (PageSpan){0, PAGES}, TRUE, set, NULL));
    return set;
}

static void begin(Area *area)
{
    assert_true(area->userfault && pagemap_can_scan(area->pagemap));
    assert_true(userfault_register(area->userfault, (uint64_t)(uintptr_t)area->memory, PAGES * PAGE,
                                   USERFAULT_MODE_WP, NULL));
    page_set_free(take(area));
}

static void assert_taken(Area *area, uint64_t page)
{
    g_autoptr(PageSet) set = take(area);

    assert_int_equal(page_set_count(set), 1);
    assert_true(page_set_has(set, page));
}

/* A write by user code is seen once; a read is not a write. */
static void test_user_writes(void **state)
{
    Area *area = *state;

    memset(area->memory, 1, PAGES * PAGE);
    begin(area);
    area->memory[7 * PAGE] = 2;
    assert_taken(area, 7);
    assert_int_equal(area->memory[7 * PAGE], 2);
    {
        g_autoptr(PageSet) none = take(area);
        assert_int_equal(page_set_count(none), 0);
    }
    area->memory[7 * PAGE] = 3; /* protected again by the take */
    assert_taken(area, 7);
}

/* The kernel writing on the process's behalf is seen, though the userfaultfd
 * is of user mode only: nothing is delivered, so nothing can be refused. */
static void test_kernel_writes(void **state)
{
    Area *area = *state;
    int ends[2];

    memset(area->memory, 1, PAGES * PAGE);
    begin(area);
    assert_int_equal(pipe(ends), 0);
    assert_int_equal(write(ends[1], "x", 1), 1);
    assert_int_equal(read(ends[0], area->memory + 9 * PAGE, 1), 1);
    assert_taken(area, 9);
    close(ends[0]);
    close(ends[1]);
}

/* Another process's process_vm_writev goes the same way (get_user_pages). */
static void test_remote_writes(void **state)
{
    Area *area = *state;
    char byte = 5;
    struct iovec local = {&byte, 1}, remote = {area->memory + 11 * PAGE, 1};

    memset(area->memory, 1, PAGES * PAGE);
    begin(area);
    assert_int_equal(process_vm_writev(getpid(), &local, 1, &remote, 1, 0), 1);
    assert_taken(area, 11);
}

/* Pages that did not exist at the first scan are seen when they come. */
static void test_fresh_pages(void **state)
{
    Area *area = *state;

    begin(area);
    area->memory[100 * PAGE] = 1;
    {
        g_autoptr(PageSet) set = take(area);
        assert_true(page_set_has(set, 100));
    }
    area->memory[100 * PAGE] = 2;
    {
        g_autoptr(PageSet) set = take(area);
        assert_true(page_set_has(set, 100));
    }
}

/* A write to a huge page marks one small page: the kernel splits it. */
static void test_huge_page_granularity(void **state)
{
    Area *area = *state;

    madvise(area->memory, PAGES * PAGE, MADV_HUGEPAGE);
    memset(area->memory, 1, PAGES * PAGE);
    begin(area);
    area->memory[513 * PAGE] = 2;
    assert_taken(area, 513);
}

/* A discarded page is no write, is not populated any more, and is seen when it
 * comes back. */
static void test_discarded(void **state)
{
    Area *area = *state;
    g_autoptr(PageSet) populated = page_set_new(PAGES);

    memset(area->memory, 1, PAGES * PAGE);
    begin(area);
    madvise(area->memory + 20 * PAGE, PAGE, MADV_DONTNEED);
    {
        g_autoptr(PageSet) none = take(area);
        assert_int_equal(page_set_count(none), 0);
    }
    assert_true(
        pagemap_add_populated(area->pagemap, (uint64_t)(uintptr_t)area->memory, populated, NULL));
    assert_int_equal(page_set_count(populated), PAGES - 1);
    area->memory[20 * PAGE] = 1;
    assert_taken(area, 20);
}

/* Scanning leaves no marks behind that would make holes look populated. */
static void test_holes_stay_holes(void **state)
{
    Area *area = *state;
    g_autoptr(PageSet) populated = page_set_new(PAGES);

    madvise(area->memory, PAGES * PAGE, MADV_NOHUGEPAGE);
    area->memory[3 * PAGE] = 1;
    begin(area);
    {
        g_autoptr(PageSet) none = take(area);
        assert_int_equal(page_set_count(none), 0);
    }
    assert_true(
        pagemap_add_populated(area->pagemap, (uint64_t)(uintptr_t)area->memory, populated, NULL));
    assert_int_equal(page_set_count(populated), 1);
}

/* Closing the last descriptor ends it: registrations and protection. */
static void test_close_cleans(void **state)
{
    Area *area = *state;
    g_autoptr(PageSet) unprotected = page_set_new(PAGES);
    int null;

    memset(area->memory, 1, PAGES * PAGE);
    begin(area);
    /* userfault_free() would unregister first. */
    null = open("/dev/null", O_RDONLY | O_CLOEXEC);
    assert_int_equal(dup2(null, userfault_get_fd(area->userfault)),
                     userfault_get_fd(area->userfault));
    close(null);
    assert_true(pagemap_add_unprotected(area->pagemap, (uint64_t)(uintptr_t)area->memory,
                                        (PageSpan){0, PAGES}, TRUE, unprotected, NULL));
    assert_int_equal(page_set_count(unprotected), PAGES);
}

/* The resident memory of the area, as the kernel counts it: without the shared zero page. */
static uint64_t resident_pages(const Area *area)
{
    FILE *smaps = fopen("/proc/self/smaps", "r");
    uint64_t at = (uint64_t)(uintptr_t)area->memory, kib, sum = 0;
    unsigned long long start, end;
    gboolean inside = FALSE;
    char line[512];

    assert_non_null(smaps);
    while (fgets(line, sizeof line, smaps)) {
        if (sscanf(line, "%llx-%llx ", &start, &end) == 2)
            inside = start < at + PAGES * PAGE && end > at;
        else if (inside && sscanf(line, "Rss: %" G_GUINT64_FORMAT " kB", &kib) == 1)
            sum += kib;
    }
    fclose(smaps);
    return sum * 1024 / PAGE;
}

/* What was written is populated, what was never touched is not.  What was only read is
 * populated where the kernel gave it a page of its own, and not where it is the shared zero
 * page; both occur. */
static void test_populated(void **state)
{
    Area *area = *state;
    g_autoptr(PageSet) populated = page_set_new(PAGES);
    volatile uint8_t sink;

    madvise(area->memory, PAGES * PAGE, MADV_NOHUGEPAGE);
    area->memory[3 * PAGE] = 1;
    sink = area->memory[4 * PAGE];
    (void)sink;
    assert_true(
        pagemap_add_populated(area->pagemap, (uint64_t)(uintptr_t)area->memory, populated, NULL));
    assert_true(page_set_has(populated, 3));
    assert_int_equal(page_set_count(populated), resident_pages(area));
    assert_int_equal(page_set_count(populated), page_set_has(populated, 4) ? 2 : 1);
}

static gboolean kernel_is_older(int major, int minor)
{
    struct utsname name;
    int own_major, own_minor;

    return uname(&name) == 0 && sscanf(name.release, "%d.%d", &own_major, &own_minor) == 2 &&
           (own_major < major || (own_major == major && own_minor < minor));
}

#define PLATFORM_TEST(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        PLATFORM_TEST(test_user_writes),
        PLATFORM_TEST(test_kernel_writes),
        PLATFORM_TEST(test_remote_writes),
        PLATFORM_TEST(test_fresh_pages),
        PLATFORM_TEST(test_huge_page_granularity),
        PLATFORM_TEST(test_discarded),
        PLATFORM_TEST(test_holes_stay_holes),
        PLATFORM_TEST(test_close_cleans),
        PLATFORM_TEST(test_populated),
    };

    if (kernel_is_older(6, 7)) {
        puts("skipped: this kernel has neither WP_ASYNC nor PAGEMAP_SCAN (Linux 6.7)");
        return EXIT_SKIP;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
