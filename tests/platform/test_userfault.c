/*
 * What a fault service and a tracker on one userfaultfd rely on in the kernel
 *
 * Asynchronous write protection, missing pages and REMOVE events together, on private memory and
 * on a memfd, for the process itself; and, in another process, that a descriptor kept there makes
 * who needs a missing page wait for a restarted service instead of reading zeroes.  Skipped before
 * Linux 6.7.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "memory/clean.h"
#include "memory/guest_memory.h"
#include "memory/pagemap.h"
#include "memory/tracker.h"
#include "memory/userfault.h"

#define PAGE 4096u
#define PAGES 64u
#define BYTES ((size_t)PAGES * PAGE)
#define SERVED 0x5a
#define EXIT_SKIP 77 /* for meson */
#define DEADLINE_MS 10000
#define BOTH (USERFAULT_MODE_WP | USERFAULT_MODE_MISSING)
#define USES (USERFAULT_WP_ASYNC | USERFAULT_MISSING | USERFAULT_REMOVE)

typedef struct {
    gboolean shared;
    uint8_t *memory;
    Userfault *userfault;
    Pagemap *pagemap;
    int stop;
    GThread *service;
    _Atomic uint64_t removed_address, removed_bytes;
    _Atomic uint32_t missing;
} Area;

/* --- a fault service ------------------------------------------------------- */

/* Puts pages in protected, as one does that wants to know what is written afterwards. */
static void serve(Area *area)
{
    uint8_t page[PAGE];
    UserfaultEvent events[8];
    guint count = userfault_read(area->userfault, events, G_N_ELEMENTS(events));

    memset(page, SERVED, sizeof page);
    for (guint i = 0; i < count; i++) {
        if (events[i].kind == USERFAULT_EVENT_MISSING) {
            atomic_fetch_add(&area->missing, 1);
            userfault_copy(area->userfault, events[i].address & ~(uint64_t)(PAGE - 1), page, PAGE,
                           TRUE, NULL);
        } else if (events[i].kind == USERFAULT_EVENT_REMOVE) {
            atomic_store(&area->removed_address, events[i].address);
            atomic_store(&area->removed_bytes, events[i].bytes);
        }
    }
}

static gpointer service_main(gpointer data)
{
    Area *area = data;
    struct pollfd fds[2] = {{.fd = userfault_get_fd(area->userfault), .events = POLLIN},
                            {.fd = area->stop, .events = POLLIN}};

    while (poll(fds, 2, -1) >= 0 && !fds[1].revents)
        serve(area);
    return NULL;
}

/* --- the process's own memory ---------------------------------------------- */

static Userfault *open_own(UserfaultUses uses)
{
    struct uffdio_api api = {.api = UFFD_API, .features = userfault_features(uses)};
    int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);

    if (fd < 0 || ioctl(fd, UFFDIO_API, &api) < 0) {
        fd_close(&fd);
        return NULL;
    }
    return userfault_take(fd, uses);
}

static uint8_t *map(gboolean shared)
{
    autofd int fd = shared ? memfd_create("guest-ram", MFD_CLOEXEC) : -1;
    uint8_t *memory;

    if (shared)
        assert_int_equal(ftruncate(fd, BYTES), 0);
    memory = mmap(NULL, BYTES, PROT_READ | PROT_WRITE,
                  shared ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS, fd, 0);
    assert_true(memory != MAP_FAILED);
    madvise(memory, BYTES, MADV_NOHUGEPAGE);
    return memory;
}

static uint64_t address_of(const Area *area, uint64_t page)
{
    return (uint64_t)(uintptr_t)area->memory + page * PAGE;
}

static PageSet *take(Area *area)
{
    PageSet *set = page_set_new(PAGES);

    assert_true(pagemap_take_written(area->pagemap, address_of(area, 0), (PageSpan){0, PAGES},
                                     !area->shared, set, NULL));
    return set;
}

static void assert_taken(Area *area, guint count, uint64_t page)
{
    g_autoptr(PageSet) set = take(area);

    assert_int_equal(page_set_count(set), count);
    assert_true(count == 0 || page_set_has(set, page));
}

static int setup(Area *area, gboolean shared)
{
    *area = (Area){.shared = shared, .memory = map(shared)};
    area->pagemap = pagemap_open(getpid(), NULL);
    area->userfault = open_own(USES);
    area->stop = eventfd(0, EFD_CLOEXEC);
    assert_true(area->userfault && pagemap_can_scan(area->pagemap));
    assert_true(userfault_register(area->userfault, address_of(area, 0), BYTES, BOTH, NULL));
    area->service = g_thread_new("service", service_main, area);
    page_set_free(take(area)); /* marks the holes of the memfd */
    return 0;
}

static int setup_private(void **state)
{
    *state = g_new0(Area, 1);
    return setup(*state, FALSE);
}

static int setup_shared(void **state)
{
    *state = g_new0(Area, 1);
    return setup(*state, TRUE);
}

static int teardown(void **state)
{
    Area *area = *state;

    (void)!write(area->stop, &(uint64_t){1}, 8);
    g_thread_join(area->service);
    userfault_free(area->userfault);
    pagemap_free(area->pagemap);
    close(area->stop);
    munmap(area->memory, BYTES);
    g_free(area);
    return 0;
}

/* A page put in protected does not count as written, the first write to it does. */
static void test_protected_copy(void **state)
{
    Area *area = *state;
    uint8_t page[PAGE];

    memset(page, 7, sizeof page);
    assert_true(userfault_copy(area->userfault, address_of(area, 3), page, PAGE, TRUE, NULL));
    assert_taken(area, 0, 0);
    assert_int_equal(area->memory[3 * PAGE], 7);
    assert_taken(area, 0, 0);
    area->memory[3 * PAGE] = 8;
    assert_taken(area, 1, 3);
    assert_taken(area, 0, 0);
    area->memory[3 * PAGE] = 9; /* protected again by the take */
    assert_taken(area, 1, 3);
    assert_int_equal(area->missing, 0);
}

/* One that is put in without protection counts. */
static void test_plain_copy(void **state)
{
    Area *area = *state;
    uint8_t page[PAGE] = {1};

    assert_true(userfault_copy(area->userfault, address_of(area, 4), page, PAGE, FALSE, NULL));
    assert_taken(area, 1, 4);
}

/* A missing page that is read is not written, one that is written is, over what was served. */
static void test_missing(void **state)
{
    Area *area = *state;

    assert_int_equal(((volatile uint8_t *)area->memory)[5 * PAGE + 9], SERVED);
    assert_taken(area, 0, 0);
    area->memory[6 * PAGE + 1] = 1;
    assert_int_equal(area->missing, 2);
    assert_int_equal(area->memory[6 * PAGE + 1], 1);
    assert_int_equal(area->memory[6 * PAGE + 2], SERVED);
    assert_taken(area, 1, 6);
}

/* Protection by hand goes with both; lifted, the page counts. */
static void test_protect(void **state)
{
    Area *area = *state;
    uint8_t page[PAGE] = {1};

    assert_true(userfault_copy(area->userfault, address_of(area, 7), page, PAGE, FALSE, NULL));
    assert_true(userfault_protect(area->userfault, address_of(area, 7), PAGE, NULL));
    assert_taken(area, 0, 0);
    assert_true(userfault_unprotect(area->userfault, address_of(area, 7), PAGE, NULL));
    assert_taken(area, 1, 7);
}

/* A page is put in once; the content stays that of the first. */
static void test_there_already(void **state)
{
    Area *area = *state;
    g_autoptr(GError) error = NULL;
    uint8_t page[PAGE] = {3};

    assert_true(userfault_zeropage(area->userfault, address_of(area, 8), PAGE, NULL));
    assert_false(userfault_copy(area->userfault, address_of(area, 8), page, PAGE, TRUE, &error));
    assert_true(error_is(error, VMFERRY_ERROR_EXISTS));
    assert_true(userfault_wake(area->userfault, address_of(area, 8), PAGE, NULL));
    assert_int_equal(area->memory[8 * PAGE], 0);
    assert_int_equal(area->missing, 0);
}

/* What the process discards is told, and is missing from then on. */
static void test_removed(void **state)
{
    Area *area = *state;
    uint8_t page[PAGE] = {3};

    assert_true(userfault_copy(area->userfault, address_of(area, 9), page, PAGE, TRUE, NULL));
    assert_int_equal(
        madvise(area->memory + 9 * PAGE, PAGE, area->shared ? MADV_REMOVE : MADV_DONTNEED), 0);
    for (guint i = 0; area->removed_bytes == 0 && i < DEADLINE_MS; i++)
        poll(NULL, 0, 1); /* the process goes on as soon as the event is read */
    assert_int_equal(area->removed_address, address_of(area, 9));
    assert_int_equal(area->removed_bytes, PAGE);
    assert_int_equal(area->memory[9 * PAGE], SERVED);
}

/* A hole that is punched in the file is missing, too, but no event tells of it. */
static void test_punched(void **state)
{
    Area *area = *state;
    g_autofree char *path =
        g_strdup_printf("/proc/self/map_files/%llx-%llx", (unsigned long long)address_of(area, 0),
                        (unsigned long long)address_of(area, PAGES));
    autofd int fd = geteuid() == 0 ? open(path, O_RDWR | O_CLOEXEC) : -1;
    uint8_t page[PAGE] = {3};

    if (fd < 0) {
        puts("skipped: not root, who alone may open /proc/PID/map_files");
        skip();
    }
    assert_true(userfault_copy(area->userfault, address_of(area, 13), page, PAGE, TRUE, NULL));
    assert_int_equal(area->memory[13 * PAGE], 3);
    assert_int_equal(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 13 * PAGE, PAGE), 0);
    assert_int_equal(area->memory[13 * PAGE], SERVED);
    assert_int_equal(area->missing, 1);
    assert_int_equal(area->removed_bytes, 0);
}

/* Why they share one. */
static void test_a_second_one_is_refused(void **state)
{
    Area *area = *state;
    g_autoptr(Userfault) second = open_own(USERFAULT_WP_ASYNC);
    g_autoptr(GError) error = NULL;

    assert_non_null(second);
    assert_false(userfault_register(second, address_of(area, 0), BYTES, USERFAULT_MODE_WP, &error));
    assert_true(error_is(error, VMFERRY_ERROR_BUSY));
}

static guint collect(Tracker *tracker, GuestMemory *memory, uint64_t page)
{
    g_autoptr(GPtrArray) sets = guest_memory_new_sets(memory);
    const PageSet *set = g_ptr_array_index(sets, 0);

    assert_true(tracker_collect(tracker, sets, NULL));
    assert_true(page_set_count(set) == 0 || page_set_has(set, page));
    return (guint)page_set_count(set);
}

/* The same through a Tracker that borrows the userfault; after it the service goes on. */
static void test_tracker_shares(void **state)
{
    Area *area = *state;
    g_autoptr(GPtrArray) regions = g_ptr_array_new_with_free_func((GDestroyNotify)ram_region_free);
    g_autoptr(GuestMemory) memory = NULL;
    g_autoptr(GError) error = NULL;
    uint8_t page[PAGE] = {2};
    Tracker *tracker;

    if (area->shared && geteuid() != 0) {
        puts("skipped: not root, who alone may open /proc/PID/map_files");
        skip();
    }
    g_ptr_array_add(regions, ram_region_new("ram", address_of(area, 0), BYTES));
    memory = guest_memory_open(getpid(), regions, &error);
    tracker = memory ? tracker_start_on(memory, area->userfault, &error) : NULL;
    if (!tracker)
        fail_msg("%s", error->message);
    assert_int_equal(collect(tracker, memory, 0), 0);
    assert_true(userfault_copy(area->userfault, address_of(area, 10), page, PAGE, TRUE, NULL));
    assert_int_equal(collect(tracker, memory, 0), 0);
    area->memory[10 * PAGE] = 3;
    assert_int_equal(collect(tracker, memory, 10), 1);
    area->memory[11 * PAGE] = 1; /* missing */
    assert_int_equal(area->missing, 1);
    assert_int_equal(collect(tracker, memory, 11), 1);
    tracker_free(tracker);
    assert_int_equal(area->memory[12 * PAGE], SERVED);
    assert_int_equal(area->missing, 2);
    /* What was protected stays so, for a tracker that goes on. */
    {
        g_autoptr(PageSet) left = take(area);
        assert_false(page_set_has(left, 10) || page_set_has(left, 11));
    }
}

/* --- a descriptor that stays in another process ----------------------------- */

typedef struct {
    pid_t pid;
    uint8_t *memory;
    int order, answer;
} Target;

/* Answers each byte with the content of the page of that number. */
static void target_main(Target *target, int order, int answer)
{
    uint8_t page;

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY);
    while (read(order, &page, 1) == 1) {
        uint8_t content = ((volatile uint8_t *)target->memory)[page * PAGE];

        if (write(answer, &content, 1) != 1)
            break;
    }
    _exit(0);
}

static void target_start(Target *target)
{
    int order[2], answer[2];

    if (geteuid() != 0) {
        puts("skipped: not root, who alone may serve another process's faults");
        skip();
    }
    target->memory = map(FALSE);
    assert_int_equal(pipe2(order, O_CLOEXEC), 0);
    assert_int_equal(pipe2(answer, O_CLOEXEC), 0);
    target->pid = fork();
    if (target->pid == 0) {
        close(order[1]);
        close(answer[0]);
        target_main(target, order[0], answer[1]);
    }
    close(order[0]);
    close(answer[1]);
    target->order = order[1];
    target->answer = answer[0];
}

static void target_end(Target *target)
{
    kill(target->pid, SIGKILL);
    waitpid(target->pid, NULL, 0);
    close(target->order);
    close(target->answer);
    munmap(target->memory, BYTES);
}

static void target_ask(Target *target, uint8_t page)
{
    assert_int_equal(write(target->order, &page, 1), 1);
}

static uint8_t target_hear(Target *target)
{
    uint8_t content;

    assert_int_equal(fd_wait_readable(target->answer, DEADLINE_MS, NULL), 1);
    assert_int_equal(read(target->answer, &content, 1), 1);
    return content;
}

static guint count_userfaults(pid_t pid, gboolean kept)
{
    g_autoptr(GArray) list = userfault_list(pid, NULL);
    guint count = 0;

    assert_non_null(list);
    for (guint i = 0; i < list->len; i++)
        count += g_array_index(list, UserfaultFd, i).kept == kept;
    return count;
}

/* A fault service that dies before it has served anything. */
static void die_as_service(const Target *target, UserfaultOnDeath on_death)
{
    pid_t pid = fork();
    int status;

    if (pid == 0) {
        Userfault *userfault = userfault_open(target->pid, USES, on_death, NULL);

        _exit(userfault && userfault_register(userfault, (uint64_t)(uintptr_t)target->memory, BYTES,
                                              BOTH, NULL)
                  ? 0
                  : 1);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* As of a tracker's: nothing is left, a page that is missing is zero. */
static void test_it_closes_with_us(void **state)
{
    Target target;

    target_start(&target);
    die_as_service(&target, USERFAULT_CLOSES_WITH_US);
    assert_int_equal(count_userfaults(target.pid, FALSE) + count_userfaults(target.pid, TRUE), 0);
    target_ask(&target, 1);
    assert_int_equal(target_hear(&target), 0);
    target_end(&target);
}

/* Who needs a missing page waits until a new service fetches the descriptor and puts it in. */
static void test_it_stays_in_the_process(void **state)
{
    uint8_t page[PAGE];
    Target target;
    Userfault *userfault;
    GError *error = NULL;

    target_start(&target);
    die_as_service(&target, USERFAULT_STAYS_IN_VMM);
    target_ask(&target, 2);
    assert_int_equal(fd_wait_readable(target.answer, 200, NULL), 0);

    /* Cleaning up knows it, and why it stays. */
    assert_true(memory_clean_guest(target.pid, NULL));
    assert_int_equal(count_userfaults(target.pid, TRUE), 1);

    userfault = userfault_fetch(target.pid, &error);
    if (!userfault)
        fail_msg("%s", error->message);
    assert_int_equal(userfault_get_uses(userfault), USES);
    assert_true(
        userfault_register(userfault, (uint64_t)(uintptr_t)target.memory, BYTES, BOTH, NULL));
    memset(page, SERVED, sizeof page);
    assert_true(userfault_copy(userfault, (uint64_t)(uintptr_t)target.memory + 2 * PAGE, page, PAGE,
                               TRUE, NULL));
    assert_int_equal(target_hear(&target), SERVED);
    userfault_free(userfault);
    assert_int_equal(count_userfaults(target.pid, TRUE), 0);
    target_end(&target);
}

/* With nothing missing it is a leftover. */
static void test_a_useless_one_is_closed(void **state)
{
    g_autoptr(GError) error = NULL;
    Target target;
    pid_t pid;
    int status;

    target_start(&target);
    pid = fork();
    if (pid == 0)
        _exit(userfault_open(target.pid, USES, USERFAULT_STAYS_IN_VMM, NULL) ? 0 : 1);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    assert_int_equal(count_userfaults(target.pid, TRUE), 1);
    assert_true(memory_clean_guest(target.pid, NULL));
    assert_int_equal(count_userfaults(target.pid, TRUE), 0);
    assert_null(userfault_fetch(target.pid, &error));
    assert_true(error_is(error, VMFERRY_ERROR_NOT_FOUND));
    target_end(&target);
}

/* Nobody can close it while a signal has stopped the process; afterwards it is. */
static void test_one_in_a_stopped_process_is_closed_later(void **state)
{
    Userfault *userfault;
    Target target;

    target_start(&target);
    userfault = userfault_open(target.pid, USES, USERFAULT_STAYS_IN_VMM, NULL);
    assert_non_null(userfault);
    assert_int_equal(kill(target.pid, SIGSTOP), 0);
    assert_false(userfault_end(userfault, NULL));
    assert_int_equal(count_userfaults(target.pid, TRUE), 1);
    assert_int_equal(kill(target.pid, SIGCONT), 0);
    assert_true(userfault_end(userfault, NULL));
    assert_int_equal(count_userfaults(target.pid, TRUE), 0);
    userfault_free(userfault);
    target_end(&target);
}

static gboolean kernel_is_older(int major, int minor)
{
    struct utsname name;
    int own_major, own_minor;

    return uname(&name) == 0 && sscanf(name.release, "%d.%d", &own_major, &own_minor) == 2 &&
           (own_major < major || (own_major == major && own_minor < minor));
}

#define ON_BOTH(function)                                                                          \
    {#function " (private)", function, setup_private, teardown, NULL},                             \
    {                                                                                              \
#function " (memfd)", function, setup_shared, teardown, NULL                               \
    }

int main(void)
{
    const struct CMUnitTest tests[] = {
        ON_BOTH(test_protected_copy),
        ON_BOTH(test_plain_copy),
        ON_BOTH(test_missing),
        ON_BOTH(test_protect),
        ON_BOTH(test_there_already),
        ON_BOTH(test_removed),
        cmocka_unit_test_setup_teardown(test_punched, setup_shared, teardown),
        ON_BOTH(test_a_second_one_is_refused),
        ON_BOTH(test_tracker_shares),
        cmocka_unit_test(test_it_closes_with_us),
        cmocka_unit_test(test_it_stays_in_the_process),
        cmocka_unit_test(test_a_useless_one_is_closed),
        cmocka_unit_test(test_one_in_a_stopped_process_is_closed_later),
    };

    if (kernel_is_older(6, 7)) {
        puts("skipped: this kernel has neither WP_ASYNC nor PAGEMAP_SCAN (Linux 6.7)");
        return EXIT_SKIP;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
