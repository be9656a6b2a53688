/*
 * The fault service on this process's own memory, private and of a memfd
 *
 * Each rule for itself, and a property test: threads touch, write and discard pages, others place
 * them in random order, and each page must hold what a model says.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <glib/gstdio.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/page.h"
#include "memory/fault_service.h"

#define PAGES 512u
#define BYTES (PAGES * PAGE_BYTES)
#define HUGE_PARTS 512u
#define DEADLINE_MS 20000
#define EXIT_SKIP 77 /* for meson */

typedef enum { KIND_PRIVATE, KIND_SHARED, KIND_HUGE } Kind;

typedef struct {
    Kind kind;
    uint64_t pages;
    uint8_t *address;
    char *folder, *path;
    GuestMemory *memory;
    Userfault *userfault;
    OutstandingPages *outstanding;
    FaultService *service;
    GAsyncQueue *wants; /* page + 1 of each request */
} Scene;

/* --- scene ------------------------------------------------------------------- */

/* Each page's content at the source; a fifth of them are zero there. */
static uint8_t source_byte(uint64_t page)
{
    return page % 5 == 4 ? 0 : (uint8_t)(page * 37 + 1) | 1;
}

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

static uint8_t *map(Kind kind, uint64_t bytes)
{
    autofd int fd = kind == KIND_SHARED ? memfd_create("guest-ram", MFD_CLOEXEC) : -1;
    int flags = kind == KIND_SHARED ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS;
    uint8_t *memory;

    if (kind == KIND_SHARED)
        assert_int_equal(ftruncate(fd, (off_t)bytes), 0);
    memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                  flags | (kind == KIND_HUGE ? MAP_HUGETLB : 0), fd, 0);
    if (memory == MAP_FAILED)
        return NULL;
    if (kind != KIND_HUGE)
        madvise(memory, bytes, MADV_NOHUGEPAGE);
    return memory;
}

static void want(guint region, PageSpan span, gpointer user)
{
    Scene *scene = user;

    assert_int_equal(region, 0);
    for (uint64_t i = 0; i < span.count; i++)
        g_async_queue_push(scene->wants, GUINT_TO_POINTER((guint)(span.first + i + 1)));
}

static void start(Scene *scene, gboolean resumed)
{
    g_autoptr(GError) error = NULL;

    scene->service = fault_service_start(scene->userfault, scene->memory, scene->outstanding, NULL,
                                         resumed, want, scene, &error);
    if (!scene->service)
        fail_msg("%s", error->message);
}

static Scene *scene_new_for(Kind kind, UserfaultUses uses)
{
    g_autoptr(GPtrArray) regions = g_ptr_array_new_with_free_func((GDestroyNotify)ram_region_free);
    Scene *scene = g_new0(Scene, 1);

    scene->kind = kind;
    scene->pages = kind == KIND_HUGE ? 4 * HUGE_PARTS : PAGES;
    scene->address = map(kind, scene->pages * PAGE_BYTES);
    if (!scene->address) {
        g_free(scene);
        return NULL;
    }
    g_ptr_array_add(regions, ram_region_new("ram", (uint64_t)(uintptr_t)scene->address,
                                            scene->pages * PAGE_BYTES));
    scene->memory = guest_memory_open(getpid(), regions, NULL);
    scene->userfault = open_own(uses);
    scene->folder = g_dir_make_tmp("faults-XXXXXX", NULL);
    scene->path = g_build_filename(scene->folder, "pages", NULL);
    scene->outstanding = outstanding_create(scene->path, "t", scene->memory, NULL);
    scene->wants = g_async_queue_new();
    assert_true(scene->memory && scene->userfault && scene->outstanding);
    return scene;
}

static Scene *scene_new(Kind kind)
{
    return scene_new_for(kind, FAULT_SERVICE_USES);
}

static void scene_free(Scene *scene)
{
    fault_service_free(scene->service);
    userfault_free(scene->userfault);
    outstanding_free(scene->outstanding);
    guest_memory_free(scene->memory);
    g_async_queue_unref(scene->wants);
    munmap(scene->address, scene->pages * PAGE_BYTES);
    g_unlink(scene->path);
    g_rmdir(scene->folder);
    g_free(scene->path);
    g_free(scene->folder);
    g_free(scene);
}

static int setup_private(void **state)
{
    *state = scene_new(KIND_PRIVATE);
    return *state ? 0 : -1;
}

static int setup_shared(void **state)
{
    *state = scene_new(KIND_SHARED);
    return *state ? 0 : -1;
}

static int setup_huge(void **state)
{
    *state = scene_new(KIND_HUGE);
    return 0; /* the test skips */
}

static int teardown(void **state)
{
    if (*state)
        scene_free(*state);
    return 0;
}

static void add(Scene *scene, uint64_t first, uint64_t count)
{
    assert_true(outstanding_add(scene->outstanding, 0, (PageSpan){first, count}, NULL));
}

static void place(Scene *scene, uint64_t first, uint64_t count)
{
    g_autofree uint8_t *buffer = g_malloc(count * PAGE_BYTES);
    PageSpan span = {first, count};
    g_autoptr(GError) error = NULL;

    for (uint64_t i = 0; i < count; i++)
        memset(buffer + i * PAGE_BYTES, source_byte(first + i), PAGE_BYTES);
    if (!fault_service_place(scene->service, 0, &span, 1, buffer, &error))
        fail_msg("%s", error->message);
}

/* Without TSan's knowledge: the kernel writes the page in another thread's call. */
static uint8_t look(const Scene *scene, uint64_t page, uint64_t offset)
{
    return __atomic_load_n(scene->address + page * PAGE_BYTES + offset, __ATOMIC_SEQ_CST);
}

static void discard(const Scene *scene, uint64_t first, uint64_t count)
{
    assert_int_equal(madvise(scene->address + first * PAGE_BYTES, count * PAGE_BYTES,
                             scene->kind == KIND_SHARED ? MADV_REMOVE : MADV_DONTNEED),
                     0);
}

static FaultServiceCounts counts_of(const Scene *scene)
{
    FaultServiceCounts counts;

    fault_service_get_counts(scene->service, &counts);
    return counts;
}

/* The page that is asked for next. */
static uint64_t next_want(Scene *scene)
{
    gpointer got = g_async_queue_timeout_pop(scene->wants, DEADLINE_MS * 1000);

    if (!got)
        fail_msg("nothing is asked for");
    return GPOINTER_TO_UINT(got) - 1;
}

static void assert_nothing_wanted(Scene *scene)
{
    assert_int_equal(g_async_queue_length(scene->wants), 0);
}

/* --- a thread of the guest ----------------------------------------------------- */

typedef struct {
    Scene *scene;
    uint64_t page;
    _Atomic int value; /* -1: still waiting */
    GThread *thread;
} Toucher;

static gpointer touch_main(gpointer data)
{
    Toucher *toucher = data;

    toucher->value = look(toucher->scene, toucher->page, 7);
    return NULL;
}

static Toucher *touch(Scene *scene, uint64_t page)
{
    Toucher *toucher = g_new0(Toucher, 1);

    toucher->scene = scene;
    toucher->page = page;
    toucher->value = -1;
    toucher->thread = g_thread_new("toucher", touch_main, toucher);
    return toucher;
}

static int touched(Toucher *toucher)
{
    int value;

    for (guint i = 0; toucher->value < 0; i++) {
        if (i >= DEADLINE_MS)
            fail_msg("page %u is waited for for ever", (unsigned)toucher->page);
        poll(NULL, 0, 1);
    }
    value = toucher->value;
    g_thread_join(toucher->thread);
    g_free(toucher);
    return value;
}

/* --- each rule ------------------------------------------------------------------ */

static void test_no_content(void **state)
{
    Scene *scene = *state;

    start(scene, FALSE);
    assert_int_equal(touched(touch(scene, 3)), 0);
    assert_int_equal(counts_of(scene).zero_faults, 1);
    assert_int_equal(counts_of(scene).faults, 0);
    assert_nothing_wanted(scene);
}

/* Asked for once, however many wait. */
static void test_outstanding(void **state)
{
    Scene *scene = *state;
    Toucher *touchers[4];
    FaultServiceCounts counts;

    add(scene, 8, 2);
    start(scene, FALSE);
    for (guint i = 0; i < 4; i++)
        touchers[i] = touch(scene, 8);
    assert_int_equal(next_want(scene), 8);
    poll(NULL, 0, 20);
    assert_nothing_wanted(scene);
    fault_service_want_again(scene->service);
    assert_int_equal(next_want(scene), 8);
    place(scene, 8, 1);
    for (guint i = 0; i < 4; i++)
        assert_int_equal(touched(touchers[i]), source_byte(8));
    fault_service_want_again(scene->service);
    assert_nothing_wanted(scene);
    assert_int_equal(outstanding_count(scene->outstanding), 1);
    counts = counts_of(scene);
    assert_int_equal(counts.faults, 1);
    assert_int_equal(counts.placed, 1);
    assert_true(counts.max_ms >= 20 && counts.p50_ms > 0 && counts.p99_ms <= counts.max_ms);
}

static void test_pushed_and_twice(void **state)
{
    Scene *scene = *state;
    PageSpan spans[] = {{4, 2}, {20, 1}};
    g_autofree uint8_t *buffer = g_malloc(3 * PAGE_BYTES);

    add(scene, 0, 40);
    add(scene, 100, 20);
    start(scene, FALSE);
    memset(buffer, 1, PAGE_BYTES);
    memset(buffer + PAGE_BYTES, 2, PAGE_BYTES);
    memset(buffer + 2 * PAGE_BYTES, 3, PAGE_BYTES);
    assert_true(fault_service_place(scene->service, 0, spans, 2, buffer, NULL));
    assert_int_equal(look(scene, 4, 0), 1);
    assert_int_equal(look(scene, 5, 4095), 2);
    assert_int_equal(look(scene, 20, 0), 3);
    /* What comes again, and what was written meanwhile, stays as it is. */
    scene->address[4 * PAGE_BYTES] = 77;
    place(scene, 0, 60);
    assert_int_equal(look(scene, 4, 0), 77);
    assert_int_equal(look(scene, 5, 0), 2);
    assert_int_equal(look(scene, 39, 0), source_byte(39));
    assert_int_equal(counts_of(scene).placed, 40);
    assert_int_equal(counts_of(scene).dropped, 23);
    assert_true(fault_service_place_zero(scene->service, 0, (PageSpan){90, 40}, NULL));
    assert_int_equal(look(scene, 110, 0), 0);
    assert_int_equal(counts_of(scene).placed, 60);
    assert_int_equal(counts_of(scene).dropped, 43);
    assert_int_equal(outstanding_count(scene->outstanding), 0);
    assert_false(fault_service_place_zero(scene->service, 0, (PageSpan){PAGES, 1}, NULL));
    assert_false(fault_service_place_zero(scene->service, 1, (PageSpan){0, 1}, NULL));
}

/* A copy that comes after the discard is dropped; so is what was in place. */
static void test_discarded(void **state)
{
    Scene *scene = *state;

    add(scene, 0, 100);
    start(scene, FALSE);
    place(scene, 50, 1);
    discard(scene, 40, 20);
    place(scene, 30, 40);
    for (uint64_t i = 30; i < 70; i++)
        assert_int_equal(look(scene, i, 1), i < 40 || i >= 60 ? source_byte(i) : 0);
    assert_int_equal(counts_of(scene).discarded, 19);
    assert_nothing_wanted(scene);
}

/* Who waits for a page that is discarded gets zeroes. */
static void test_discarded_while_waited_for(void **state)
{
    Scene *scene = *state;
    Toucher *one, *other;

    add(scene, 0, 100);
    start(scene, FALSE);
    one = touch(scene, 10);
    other = touch(scene, 11);
    next_want(scene);
    next_want(scene);
    discard(scene, 10, 1);
    assert_int_equal(touched(one), 0);
    assert_int_equal(other->value, -1);
    place(scene, 10, 2);
    assert_int_equal(touched(other), source_byte(11));
    assert_int_equal(look(scene, 10, 0), 0);
}

/* In place, but its bit is still set: what an agent leaves that dies in between. */
static void test_there_but_outstanding(void **state)
{
    Scene *scene = *state;
    Toucher *toucher;

    scene->address[6 * PAGE_BYTES + 7] = 99;
    add(scene, 6, 2);
    start(scene, FALSE);
    assert_int_equal(touched(touch(scene, 6)), 99);
    toucher = touch(scene, 7);
    assert_int_equal(next_want(scene), 7);
    place(scene, 5, 4);
    assert_int_equal(touched(toucher), source_byte(7));
    assert_int_equal(look(scene, 6, 7), 99);
    assert_int_equal(outstanding_count(scene->outstanding), 0);
}

/* Its waiters have told the one that ended; the next one hears of them. */
static void test_resumed(void **state)
{
    Scene *scene = *state;
    Toucher *one, *none;

    add(scene, 0, 10);
    start(scene, FALSE);
    one = touch(scene, 2);
    assert_int_equal(next_want(scene), 2);
    fault_service_free(g_steal_pointer(&scene->service));
    none = touch(scene, 20);
    poll(NULL, 0, 20);
    assert_int_equal(none->value, -1);
    start(scene, TRUE);
    assert_int_equal(next_want(scene), 2);
    place(scene, 2, 1);
    assert_int_equal(touched(one), source_byte(2));
    assert_int_equal(touched(none), 0);
}

/* The kernel lets a discard go on before its bits are cleared: nothing may get in between. */
typedef struct {
    Scene *scene;
    uint64_t page;
} Placing;

static gpointer place_main(gpointer data)
{
    Placing *placing = data;

    place(placing->scene, placing->page, 4);
    return NULL;
}

static void test_stale_copy(void **state)
{
    Scene *scene = *state;
    guint rounds = 400;

    start(scene, FALSE);
    for (guint i = 0; i < rounds; i++) {
        Placing placing = {scene, i % 100 * 4};
        GThread *thread;

        add(scene, placing.page, 4);
        thread = g_thread_new("placer", place_main, &placing);
        if (i % 2)
            g_thread_yield();
        discard(scene, placing.page, 4);
        g_thread_join(thread);
        for (uint64_t k = 0; k < 4; k++)
            assert_int_equal(look(scene, placing.page + k, 0), 0);
        discard(scene, placing.page, 4);
    }
    assert_nothing_wanted(scene);
    assert_int_equal(outstanding_count(scene->outstanding), 0);
}

static void test_refused(void **state)
{
    Scene *scene = *state;
    g_autoptr(Userfault) tracking = open_own(USERFAULT_MISSING);
    g_autoptr(GError) error = NULL;

    assert_null(fault_service_start(tracking, scene->memory, scene->outstanding, NULL, FALSE, want,
                                    scene, &error));
    assert_true(error_is(error, VMFERRY_ERROR_INVALID));
    g_clear_error(&error);
    guest_memory_get_region(scene->memory, 0)->host_address += PAGE_BYTES;
    assert_null(fault_service_start(scene->userfault, scene->memory, scene->outstanding, NULL,
                                    FALSE, want, scene, &error));
    assert_true(error_is(error, VMFERRY_ERROR_INVALID));
    guest_memory_get_region(scene->memory, 0)->host_address -= PAGE_BYTES;
    if (scene->kind == KIND_PRIVATE)
        assert_true(fault_service_check(scene->memory, NULL));
}

/* --- property test ---------------------------------------------------------------- */

#define TOUCHERS 3u
#define PLACERS 2u
#define STEPS 3000u
#define COMMON_PAGES 32u /* the first ones are only read, by all */

typedef struct {
    Scene *scene;
    guint32 seed;
    guint number;
    atomic_bool *over;
} Driver;

/* What byte 0 and byte 1 of a page should be; byte 1 is the guest's to write. */
static uint8_t first_byte(const uint8_t *discarded, uint64_t page)
{
    return discarded[page] || page % 7 == 6 ? 0 : source_byte(page);
}

static void check_page(const Scene *scene, const uint8_t *discarded, const int *written,
                       uint64_t page)
{
    uint8_t first = first_byte(discarded, page), seen = look(scene, page, 0);
    uint8_t second = written[page] >= 0 ? (uint8_t)written[page] : first;

    if (seen != first || look(scene, page, 1) != second)
        fail_msg("page %u has %u, not %u", (unsigned)page, seen, first);
}

/* Owns each page whose number leaves *number*. */
static gpointer guest_main(gpointer data)
{
    const Driver *driver = data;
    g_autoptr(GRand) rand = g_rand_new_with_seed(driver->seed);
    g_autofree uint8_t *discarded = g_new0(uint8_t, PAGES);
    g_autofree int *written = g_new(int, PAGES);

    for (guint i = 0; i < PAGES; i++)
        written[i] = -1;
    for (guint step = 0; step < STEPS; step++) {
        uint64_t page = (uint64_t)g_rand_int_range(rand, 0, PAGES);

        if (page < COMMON_PAGES) {
            check_page(driver->scene, discarded, written, page);
            continue;
        }
        page = COMMON_PAGES + (page - COMMON_PAGES) / TOUCHERS * TOUCHERS + driver->number;
        if (page >= PAGES)
            continue;
        switch (g_rand_int_range(rand, 0, 4)) {
        case 0:
            discard(driver->scene, page, 1);
            discarded[page] = 1;
            written[page] = -1;
            break;
        case 1:
            written[page] = g_rand_int_range(rand, 0, 256);
            __atomic_store_n(driver->scene->address + page * PAGE_BYTES + 1, (uint8_t)written[page],
                             __ATOMIC_SEQ_CST);
            break;
        default:
            check_page(driver->scene, discarded, written, page);
        }
    }
    return NULL;
}

/* What is asked for, and other pages in between; both in no order. */
static gpointer placer_main(gpointer data)
{
    const Driver *driver = data;
    g_autoptr(GRand) rand = g_rand_new_with_seed(driver->seed);

    while (!atomic_load(driver->over)) {
        gpointer asked = g_async_queue_timeout_pop(driver->scene->wants, 300);
        uint64_t page = (uint64_t)g_rand_int_range(rand, 0, PAGES);
        uint64_t count = (uint64_t)g_rand_int_range(rand, 1, 20);

        count = MIN(count, PAGES - page);
        if (asked) {
            page = GPOINTER_TO_UINT(asked) - 1;
            count = 1;
        }
        if (count == 1 && source_byte(page) == 0)
            assert_true(
                fault_service_place_zero(driver->scene->service, 0, (PageSpan){page, 1}, NULL));
        else if (asked || g_rand_int_range(rand, 0, 8) == 0)
            place(driver->scene, page, count);
    }
    return NULL;
}

static void run_property(Kind kind, UserfaultUses uses, guint32 seed)
{
    Scene *scene = scene_new_for(kind, uses);
    Driver guests[TOUCHERS], placers[PLACERS];
    GThread *threads[TOUCHERS + PLACERS];
    atomic_bool over = FALSE;

    for (uint64_t i = 0; i < PAGES; i++)
        if (i % 7 != 6)
            add(scene, i, 1);
    start(scene, FALSE);
    for (guint i = 0; i < TOUCHERS; i++) {
        guests[i] = (Driver){scene, seed * 100 + i, i, &over};
        threads[i] = g_thread_new("guest", guest_main, &guests[i]);
    }
    for (guint i = 0; i < PLACERS; i++) {
        placers[i] = (Driver){scene, seed * 100 + 50 + i, i, &over};
        threads[TOUCHERS + i] = g_thread_new("placer", placer_main, &placers[i]);
    }
    for (guint i = 0; i < TOUCHERS; i++)
        g_thread_join(threads[i]);
    atomic_store(&over, TRUE);
    for (guint i = 0; i < PLACERS; i++)
        g_thread_join(threads[TOUCHERS + i]);
    place(scene, 0, PAGES);
    assert_int_equal(outstanding_count(scene->outstanding), 0);
    assert_null(fault_service_get_error(scene->service));
    fault_service_want_again(scene->service);
    scene_free(scene);
}

static void test_property(void **state)
{
    for (guint32 seed = 1; seed <= 6; seed++) {
        run_property(KIND_PRIVATE, FAULT_SERVICE_USES, seed);
        run_property(KIND_SHARED, FAULT_SERVICE_USES, seed);
    }
}

/* The same on a userfaultfd that a tracker may share: pages are put in protected. */
static void test_property_tracked(void **state)
{
    UserfaultUses uses = FAULT_SERVICE_USES | USERFAULT_WP_ASYNC;

    if (userfault_features(uses) & ~userfault_get_kernel_features()) {
        puts("skipped: no asynchronous write protection (Linux 6.7)");
        skip();
    }
    for (guint32 seed = 1; seed <= 3; seed++) {
        run_property(KIND_PRIVATE, uses, seed);
        run_property(KIND_SHARED, uses, seed);
    }
}

/* --- huge pages ------------------------------------------------------------------- */

static Scene *need_huge(void **state)
{
    if (!*state) {
        puts("skipped: no huge pages reserved");
        skip();
    }
    return *state;
}

/* In place when the last part is; asked for without the parts that came. */
static void test_huge(void **state)
{
    Scene *scene = need_huge(state);
    Toucher *toucher;

    add(scene, HUGE_PARTS, HUGE_PARTS);
    start(scene, FALSE);
    assert_int_equal(touched(touch(scene, 9)), 0);
    place(scene, HUGE_PARTS, 100);
    place(scene, HUGE_PARTS + 50, 51);
    toucher = touch(scene, HUGE_PARTS + 200);
    assert_int_equal(next_want(scene), HUGE_PARTS + 101);
    for (guint i = 102; i < HUGE_PARTS; i++)
        assert_int_equal(next_want(scene), HUGE_PARTS + i);
    assert_int_equal(outstanding_count(scene->outstanding), HUGE_PARTS);
    place(scene, HUGE_PARTS + 101, HUGE_PARTS - 102);
    assert_true(
        fault_service_place_zero(scene->service, 0, (PageSpan){2 * HUGE_PARTS - 1, 1}, NULL));
    assert_int_equal(touched(toucher), source_byte(HUGE_PARTS + 200));
    for (guint i = 0; i < HUGE_PARTS - 1; i++)
        assert_int_equal(look(scene, HUGE_PARTS + i, 5), source_byte(HUGE_PARTS + i));
    assert_int_equal(look(scene, 2 * HUGE_PARTS - 1, 0), 0);
    assert_int_equal(counts_of(scene).placed, HUGE_PARTS);
    assert_int_equal(counts_of(scene).dropped, 50);
}

/* Parts that were gathered go with a discard. */
static void test_huge_discarded(void **state)
{
    Scene *scene = need_huge(state);

    add(scene, 0, 2 * HUGE_PARTS);
    start(scene, FALSE);
    place(scene, 0, HUGE_PARTS - 1);
    discard(scene, 0, HUGE_PARTS);
    place(scene, HUGE_PARTS - 1, HUGE_PARTS + 1);
    assert_int_equal(look(scene, 1, 0), 0);
    assert_int_equal(look(scene, HUGE_PARTS, 0), source_byte(HUGE_PARTS));
    assert_int_equal(counts_of(scene).discarded, HUGE_PARTS);
}

static void test_huge_refused(void **state)
{
    Scene *scene = need_huge(state);
    g_autoptr(GError) error = NULL;

    add(scene, 0, HUGE_PARTS - 1);
    assert_null(fault_service_start(scene->userfault, scene->memory, scene->outstanding, NULL,
                                    FALSE, want, scene, &error));
    assert_true(error_is(error, VMFERRY_ERROR_INVALID));
}

#define ON_BOTH(function)                                                                          \
    {#function " (private)", function, setup_private, teardown, NULL},                             \
    {                                                                                              \
#function " (memfd)", function, setup_shared, teardown, NULL                               \
    }
#define ON_HUGE(function) cmocka_unit_test_setup_teardown(function, setup_huge, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        ON_BOTH(test_no_content),
        ON_BOTH(test_outstanding),
        ON_BOTH(test_pushed_and_twice),
        ON_BOTH(test_discarded),
        ON_BOTH(test_discarded_while_waited_for),
        ON_BOTH(test_there_but_outstanding),
        ON_BOTH(test_resumed),
        ON_BOTH(test_stale_copy),
        ON_BOTH(test_refused),
        cmocka_unit_test(test_property),
        cmocka_unit_test(test_property_tracked),
        ON_HUGE(test_huge),
        ON_HUGE(test_huge_discarded),
        ON_HUGE(test_huge_refused),
    };
    g_autoptr(Userfault) tried = open_own(FAULT_SERVICE_USES);

    if (!tried) {
        puts("skipped: no userfaultfd with missing pages and REMOVE events");
        return EXIT_SKIP;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
