/*
 * A fault service of another process's memory, and what becomes of it when one of the two dies
 *
 * A child has memory and threads that touch it; the service, which a process of its own runs, is
 * killed, and started again from what it has left: the userfaultfd kept in the child, and the file
 * of outstanding pages.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <glib/gstdio.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/page.h"
#include "memory/discard.h"
#include "memory/fault_service.h"

#define PAGES 256u
#define THREADS 4u
#define DEADLINE_MS 20000

/* What a thread of the child has seen, in memory shared with it; -1: nothing yet. */
typedef struct {
    _Atomic int seen[THREADS];
    _Atomic int ready, go;
} Desk;

typedef struct {
    pid_t pid;
    uint8_t *address;
    Desk *desk;
    char *folder, *path;
    GPtrArray *regions;
    GuestMemory *memory;
} Scene;

static uint8_t source_byte(uint64_t page)
{
    return (uint8_t)(page * 11) | 1;
}

/* --- the child ----------------------------------------------------------------- */

typedef struct {
    const Scene *scene;
    guint number;
} Toucher;

/* Page 10 + number / 2: two wait for each. */
static void *touch_main(void *data)
{
    const Toucher *toucher = data;
    const Scene *scene = toucher->scene;

    while (!scene->desk->go)
        poll(NULL, 0, 1);
    scene->desk->seen[toucher->number] =
        ((volatile uint8_t *)scene->address)[(10 + toucher->number / 2) * PAGE_BYTES + 5];
    return NULL;
}

static void child_main(const Scene *scene)
{
    static Toucher touchers[THREADS];

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    memset(scene->address, 1, PAGES * PAGE_BYTES);
    for (guint i = 0; i < THREADS; i++) {
        pthread_t thread;

        touchers[i] = (Toucher){scene, i};
        pthread_create(&thread, NULL, touch_main, &touchers[i]);
    }
    scene->desk->ready = 1;
    for (;;)
        pause();
}

/* --- scene ----------------------------------------------------------------------- */

static uint8_t *map(gboolean shared)
{
    autofd int fd = shared ? memfd_create("guest-ram", MFD_CLOEXEC) : -1;
    uint8_t *memory;

    if (shared)
        assert_int_equal(ftruncate(fd, PAGES * PAGE_BYTES), 0);
    memory = mmap(NULL, PAGES * PAGE_BYTES, PROT_READ | PROT_WRITE,
                  shared ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS, fd, 0);
    assert_true(memory != MAP_FAILED);
    return memory;
}

static int scene_new(void **state, gboolean shared)
{
    Scene *scene = g_new0(Scene, 1);

    scene->address = map(shared);
    scene->desk =
        mmap(NULL, sizeof(Desk), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    for (guint i = 0; i < THREADS; i++)
        scene->desk->seen[i] = -1;
    scene->folder = g_dir_make_tmp("faults-XXXXXX", NULL);
    scene->path = g_build_filename(scene->folder, "pages", NULL);
    scene->regions = g_ptr_array_new_with_free_func((GDestroyNotify)ram_region_free);
    g_ptr_array_add(scene->regions,
                    ram_region_new("ram", (uint64_t)(uintptr_t)scene->address, PAGES * PAGE_BYTES));
    scene->pid = fork();
    if (scene->pid == 0)
        child_main(scene);
    while (!scene->desk->ready)
        poll(NULL, 0, 1);
    scene->memory = guest_memory_open(scene->pid, scene->regions, NULL);
    assert_non_null(scene->memory);
    *state = scene;
    return 0;
}

static int setup_private(void **state)
{
    return geteuid() == 0 ? scene_new(state, FALSE) : 0;
}

static int setup_shared(void **state)
{
    return geteuid() == 0 ? scene_new(state, TRUE) : 0;
}

static int teardown(void **state)
{
    Scene *scene = *state;

    if (!scene)
        return 0;
    kill(scene->pid, SIGKILL);
    waitpid(scene->pid, NULL, 0);
    guest_memory_free(scene->memory);
    g_ptr_array_unref(scene->regions);
    munmap(scene->address, PAGES * PAGE_BYTES);
    munmap(scene->desk, sizeof(Desk));
    g_unlink(scene->path);
    g_rmdir(scene->folder);
    g_free(scene->path);
    g_free(scene->folder);
    g_free(scene);
    return 0;
}

static Scene *need_root(void **state)
{
    if (!*state) {
        puts("skipped: not root, who alone may serve another process's faults");
        skip();
    }
    return *state;
}

static OutstandingPages *make_outstanding(const Scene *scene)
{
    OutstandingPages *pages = outstanding_create(scene->path, "t", scene->memory, NULL);

    assert_non_null(pages);
    assert_true(outstanding_add(pages, 0, (PageSpan){0, PAGES / 2}, NULL));
    return pages;
}

/* --- services ---------------------------------------------------------------------- */

static void put_want(guint region, PageSpan span, gpointer user)
{
    g_async_queue_push(user, GUINT_TO_POINTER((guint)span.first + 1));
}

static void place(FaultService *service, uint64_t page)
{
    g_autofree uint8_t *buffer = g_malloc(PAGE_BYTES);
    PageSpan span = {page, 1};

    memset(buffer, source_byte(page), PAGE_BYTES);
    assert_true(fault_service_place(service, 0, &span, 1, buffer, NULL));
}

static void serve_next(FaultService *service, GAsyncQueue *wants)
{
    gpointer want = g_async_queue_timeout_pop(wants, DEADLINE_MS * 1000);

    if (!want)
        fail_msg("nothing is asked for");
    place(service, GPOINTER_TO_UINT(want) - 1);
}

static int wait_seen(const Scene *scene, guint thread)
{
    for (guint i = 0; scene->desk->seen[thread] < 0; i++) {
        if (i >= DEADLINE_MS)
            fail_msg("thread %u waits for ever", thread);
        poll(NULL, 0, 1);
    }
    return scene->desk->seen[thread];
}

static void assert_nothing_seen(const Scene *scene)
{
    for (guint i = 0; i < THREADS; i++)
        assert_int_equal(scene->desk->seen[i], -1);
}

/* An agent that has heard of both pages, and places neither. */
static void agent_main(const Scene *scene, int heard)
{
    GAsyncQueue *wants = g_async_queue_new();
    GuestMemory *memory = guest_memory_open(scene->pid, scene->regions, NULL);
    OutstandingPages *pages = outstanding_create(scene->path, "t", memory, NULL);
    Userfault *userfault =
        userfault_open(scene->pid, FAULT_SERVICE_USES, USERFAULT_STAYS_IN_VMM, NULL);

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (!pages || !outstanding_add(pages, 0, (PageSpan){0, PAGES / 2}, NULL) || !userfault ||
        !guest_memory_discard(memory, pages, NULL) ||
        !fault_service_start(userfault, memory, pages, NULL, FALSE, put_want, wants, NULL))
        _exit(1);
    scene->desk->go = 1;
    for (guint i = 0; i < 2; i++)
        if (!g_async_queue_timeout_pop(wants, DEADLINE_MS * 1000))
            _exit(2);
    (void)!write(heard, "h", 1);
    for (;;)
        pause();
}

static void die_as_agent(const Scene *scene)
{
    char byte;
    int heard[2];
    pid_t pid;

    assert_int_equal(pipe(heard), 0);
    pid = fork();
    if (pid == 0)
        agent_main(scene, heard[1]);
    close(heard[1]);
    if (read(heard[0], &byte, 1) != 1)
        fail_msg("the first service did not start");
    close(heard[0]);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
}

static void test_another_process(void **state)
{
    Scene *scene = need_root(state);
    g_autoptr(GAsyncQueue) wants = g_async_queue_new();
    g_autoptr(GError) error = NULL;
    g_autoptr(OutstandingPages) pages = make_outstanding(scene);
    Userfault *userfault;
    FaultService *service;

    assert_true(fault_service_check(scene->memory, NULL));
    assert_true(guest_memory_discard(scene->memory, pages, NULL));
    userfault = userfault_open(scene->pid, FAULT_SERVICE_USES, USERFAULT_STAYS_IN_VMM, &error);
    if (!userfault)
        fail_msg("%s", error->message);
    service =
        fault_service_start(userfault, scene->memory, pages, NULL, FALSE, put_want, wants, NULL);
    assert_non_null(service);
    scene->desk->go = 1;
    serve_next(service, wants);
    serve_next(service, wants);
    for (guint i = 0; i < THREADS; i++)
        assert_int_equal(wait_seen(scene, i), source_byte(10 + i / 2));
    assert_int_equal(g_async_queue_length(wants), 0);
    fault_service_free(service);
    userfault_free(userfault);
}

static void test_restart(void **state)
{
    Scene *scene = need_root(state);
    g_autoptr(GAsyncQueue) wants = g_async_queue_new();
    g_autoptr(OutstandingPages) pages = NULL;
    g_autoptr(GuestMemory) memory = NULL;
    Userfault *userfault;
    FaultService *service;

    die_as_agent(scene);
    poll(NULL, 0, 50);
    assert_nothing_seen(scene);
    pages = outstanding_open(scene->path, NULL);
    assert_non_null(pages);
    assert_int_equal(outstanding_count(pages), PAGES / 2);
    memory = guest_memory_open(scene->pid, outstanding_get_regions(pages), NULL);
    userfault = userfault_fetch(scene->pid, NULL);
    assert_true(memory && userfault);
    service = fault_service_start(userfault, memory, pages, NULL, TRUE, put_want, wants, NULL);
    assert_non_null(service);
    serve_next(service, wants);
    serve_next(service, wants);
    for (guint i = 0; i < THREADS; i++)
        assert_int_equal(wait_seen(scene, i), source_byte(10 + i / 2));
    assert_int_equal(outstanding_count(pages), PAGES / 2 - 2);
    fault_service_free(service);
    userfault_free(userfault);
}

/* The VMM's end is an error of the service, and of who places. */
static void test_the_vmm_ends(void **state)
{
    Scene *scene = need_root(state);
    g_autoptr(GAsyncQueue) wants = g_async_queue_new();
    g_autoptr(OutstandingPages) pages = make_outstanding(scene);
    g_autofree uint8_t *buffer = g_malloc0(PAGE_BYTES);
    PageSpan span = {1, 1};
    Userfault *userfault;
    FaultService *service;

    assert_true(guest_memory_discard(scene->memory, pages, NULL));
    userfault = userfault_open(scene->pid, FAULT_SERVICE_USES, USERFAULT_CLOSES_WITH_US, NULL);
    assert_non_null(userfault);
    service =
        fault_service_start(userfault, scene->memory, pages, NULL, FALSE, put_want, wants, NULL);
    assert_non_null(service);
    assert_null(fault_service_get_error(service));
    kill(scene->pid, SIGKILL);
    for (guint i = 0; !fault_service_get_error(service) && i < DEADLINE_MS; i++)
        poll(NULL, 0, 1);
    assert_true(error_is(fault_service_get_error(service), VMFERRY_ERROR_NOT_FOUND));
    assert_false(fault_service_place(service, 0, &span, 1, buffer, NULL));
    assert_int_equal(outstanding_count(pages), PAGES / 2);
    fault_service_free(service);
    userfault_free(userfault);
}

#define ON_BOTH(function)                                                                          \
    {#function " (private)", function, setup_private, teardown, NULL},                             \
    {                                                                                              \
#function " (memfd)", function, setup_shared, teardown, NULL                               \
    }

int main(void)
{
    const struct CMUnitTest tests[] = {
        ON_BOTH(test_another_process),
        ON_BOTH(test_restart),
        ON_BOTH(test_the_vmm_ends),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
