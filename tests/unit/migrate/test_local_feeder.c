/*
 * A process whose memory comes from a source on this host: read and written while it comes, with a
 * source that fails, and a feeder that is killed
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
#include "migrate/local_feeder.h"

#define PAGES 2048u
/* Those behind have no content. */
#define OUTSTANDING 1800u
#define THREADS 2u
#define DEADLINE_MS 20000

/* Shared with the child. */
typedef struct {
    _Atomic int ready, go;
    _Atomic unsigned touched; /* pages that were right */
    _Atomic unsigned wrong;   /* a page that was not, and 1; 0: none */
} Desk;

typedef struct {
    PageSource head;
    PageRegions regions;
    gint fails_at; /* atomic: this page; -1: none */
    gint nap_ms;   /* atomic: before each read */
    gint reads;    /* atomic */
} Source;

typedef struct {
    pid_t pid;
    uint8_t *address;
    Desk *desk;
    char *folder, *path;
    GPtrArray *regions;
    Source source;
} Scene;

/* Some pages are zero. */
static uint8_t content_of(uint64_t page)
{
    return page >= OUTSTANDING || page % 8 == 0 ? 0 : (uint8_t)(page * 11) | 1;
}

/* --- the child -------------------------------------------------------------------------- */

typedef struct {
    const Scene *scene;
    guint number;
} Toucher;

/* Reads a page, or writes into it first. */
static gboolean is_right(const Scene *scene, uint64_t page)
{
    volatile uint8_t *at = scene->address + page * PAGE_BYTES;

    if (page % 16 == 5)
        at[7] = 0xee;
    return at[100] == content_of(page) && at[PAGE_BYTES - 1] == content_of(page) &&
           at[7] == (page % 16 == 5 ? 0xee : content_of(page));
}

static void *touch_main(void *data)
{
    const Toucher *toucher = data;
    const Scene *scene = toucher->scene;

    while (!scene->desk->go)
        poll(NULL, 0, 1);
    for (uint64_t i = toucher->number; i < PAGES; i += THREADS) {
        uint64_t page = i * 37 % PAGES;

        if (is_right(scene, page))
            scene->desk->touched++;
        else
            scene->desk->wrong = (unsigned)page + 1;
    }
    return NULL;
}

static void child_main(const Scene *scene)
{
    static Toucher touchers[THREADS];

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    memset(scene->address, 1, OUTSTANDING * PAGE_BYTES);
    for (guint i = 0; i < THREADS; i++) {
        pthread_t thread;

        touchers[i] = (Toucher){scene, i};
        pthread_create(&thread, NULL, touch_main, &touchers[i]);
    }
    scene->desk->ready = 1;
    for (;;)
        pause();
}

/* --- the source ------------------------------------------------------------------------- */

static gboolean source_read(PageSource *head, guint region, const PageSpan *spans, guint count,
                            uint8_t *buffer, GError **error)
{
    Source *source = (Source *)head;

    g_atomic_int_inc(&source->reads);
    poll(NULL, 0, g_atomic_int_get(&source->nap_ms));
    for (guint i = 0; i < count; i++)
        for (uint64_t k = 0; k < spans[i].count; k++, buffer += PAGE_BYTES) {
            if ((gint)(spans[i].first + k) == g_atomic_int_get(&source->fails_at)) {
                error_set(error, VMFERRY_ERROR_DISCONNECTED, "the old one has ended");
                return FALSE;
            }
            memset(buffer, content_of(spans[i].first + k), PAGE_BYTES);
        }
    return TRUE;
}

static void source_init(Source *source)
{
    static const PageSourceMethods methods = {source_read, NULL, NULL};
    static uint64_t pages[] = {PAGES};
    static char *names[] = {(char *)"ram", NULL};

    source->regions = (PageRegions){1, pages, names};
    source->head = (PageSource){&methods, &source->regions};
    source->fails_at = -1;
}

/* --- scenes ----------------------------------------------------------------------------- */

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
    scene->folder = g_dir_make_tmp("feeder-XXXXXX", NULL);
    scene->path = g_build_filename(scene->folder, "pages", NULL);
    scene->regions = g_ptr_array_new_with_free_func((GDestroyNotify)ram_region_free);
    g_ptr_array_add(scene->regions,
                    ram_region_new("ram", (uint64_t)(uintptr_t)scene->address, PAGES * PAGE_BYTES));
    source_init(&scene->source);
    scene->pid = fork();
    if (scene->pid == 0)
        child_main(scene);
    while (!scene->desk->ready)
        poll(NULL, 0, 1);
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
    g_ptr_array_unref(scene->regions);
    munmap(scene->address, PAGES * PAGE_BYTES);
    munmap(scene->desk, sizeof(Desk));
    g_unlink(scene->path);
    assert_int_equal(g_rmdir(scene->folder), 0);
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

/* --- feeders ---------------------------------------------------------------------------- */

static LocalFeeder *start_feeder(Scene *scene)
{
    g_autoptr(GError) error = NULL;
    GuestMemory *memory = guest_memory_open(scene->pid, scene->regions, NULL);
    OutstandingPages *pages = outstanding_create(scene->path, "t", memory, NULL);
    Userfault *userfault =
        userfault_open(scene->pid, FAULT_SERVICE_USES, USERFAULT_STAYS_IN_VMM, &error);
    LocalFeeder *feeder = NULL;

    if (pages && userfault && outstanding_add(pages, 0, (PageSpan){0, OUTSTANDING}, NULL) &&
        guest_memory_discard(memory, pages, &error))
        feeder = local_feeder_start(memory, userfault, pages, scene->path, &scene->source.head,
                                    FALSE, &error);
    if (!feeder)
        fprintf(stderr, "%s\n", error ? error->message : "?");
    return feeder;
}

static void await_touched(Scene *scene, unsigned pages)
{
    for (guint i = 0; scene->desk->touched < pages; i++) {
        if (scene->desk->wrong)
            fail_msg("page %u is not right", scene->desk->wrong - 1);
        if (i >= DEADLINE_MS)
            fail_msg("%u pages were touched, then nothing", scene->desk->touched);
        poll(NULL, 0, 1);
    }
}

static void assert_whole(Scene *scene, LocalFeeder *feeder)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GArray) userfaults = NULL;
    FaultServiceCounts counts;

    if (local_feeder_await(feeder, DEADLINE_MS, &error) != LOCAL_FEEDER_WHOLE)
        fail_msg("%s", error ? error->message : "it does not become whole");
    await_touched(scene, PAGES);
    assert_int_equal(local_feeder_count_outstanding(feeder), 0);
    userfaults = userfault_list(scene->pid, NULL);
    assert_int_equal(userfaults->len, 0);
    assert_false(g_file_test(scene->path, G_FILE_TEST_EXISTS));
    /* Where the filling was quicker, nobody waited. */
    local_feeder_get_counts(feeder, &counts);
    assert_true(counts.placed > 0);
    local_feeder_free(feeder);
}

/* Faults bring all that is touched, and neighbours; then the rest is filled in. */
static void test_feeding(void **state)
{
    Scene *scene = need_root(state);
    LocalFeeder *feeder = start_feeder(scene);

    assert_non_null(feeder);
    scene->desk->go = 1;
    await_touched(scene, 100);
    assert_true(local_feeder_fill(feeder, NULL, NULL, NULL));
    assert_whole(scene, feeder);
}

/* No filling is needed where the guest itself asks for everything. */
static void test_faults_alone(void **state)
{
    Scene *scene = need_root(state);
    LocalFeeder *feeder = start_feeder(scene);

    assert_non_null(feeder);
    scene->desk->go = 1;
    assert_whole(scene, feeder);
}

static void test_source_fails(void **state)
{
    Scene *scene = need_root(state);
    LocalFeeder *feeder = start_feeder(scene);
    g_autoptr(GError) error = NULL;
    gboolean whole;

    assert_non_null(feeder);
    g_atomic_int_set(&scene->source.fails_at, 1500);
    assert_true(local_feeder_fill(feeder, NULL, NULL, NULL));
    scene->desk->go = 1;
    assert_int_equal(local_feeder_await(feeder, DEADLINE_MS, &error), LOCAL_FEEDER_FAILED);
    assert_true(error_is(error, VMFERRY_ERROR_DISCONNECTED));
    assert_true(local_feeder_count_outstanding(feeder) > 0);
    local_feeder_free(feeder);
    assert_true(local_feeder_was_whole(scene->pid, scene->path, &whole, NULL));
    assert_false(whole);
    g_atomic_int_set(&scene->source.fails_at, -1);
    feeder = local_feeder_reopen(scene->pid, scene->path, &scene->source.head, NULL);
    assert_non_null(feeder);
    assert_true(local_feeder_fill(feeder, NULL, NULL, NULL));
    assert_whole(scene, feeder);
    assert_true(local_feeder_was_whole(scene->pid, scene->path, &whole, NULL));
    assert_true(whole);
}

/* An agent that is killed in the middle. */
static void die_as_agent(Scene *scene)
{
    pid_t pid = fork();

    if (pid == 0) {
        LocalFeeder *feeder;

        prctl(PR_SET_PDEATHSIG, SIGKILL);
        g_atomic_int_set(&scene->source.nap_ms, 5);
        feeder = start_feeder(scene);
        if (!feeder || !local_feeder_fill(feeder, NULL, NULL, NULL))
            _exit(1);
        scene->desk->go = 1;
        for (;;)
            pause();
    }
    await_touched(scene, 50);
    assert_int_equal(waitpid(pid, NULL, WNOHANG), 0);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
}

static void test_killed(void **state)
{
    Scene *scene = need_root(state);
    g_autoptr(GError) error = NULL;
    LocalFeeder *feeder;
    unsigned touched;

    die_as_agent(scene);
    poll(NULL, 0, 50);
    touched = scene->desk->touched;
    assert_true(touched < PAGES);
    feeder = local_feeder_reopen(scene->pid, scene->path, &scene->source.head, &error);
    if (!feeder)
        fail_msg("%s", error->message);
    assert_true(local_feeder_count_outstanding(feeder) > 0);
    assert_true(local_feeder_fill(feeder, NULL, NULL, NULL));
    assert_whole(scene, feeder);
}

/* Killed between the end of the userfaultfd and that of the file. */
static void test_killed_at_the_end(void **state)
{
    Scene *scene = need_root(state);
    g_autoptr(GuestMemory) memory = guest_memory_open(scene->pid, scene->regions, NULL);
    gboolean whole;

    outstanding_free(outstanding_create(scene->path, "t", memory, NULL));
    assert_true(local_feeder_was_whole(scene->pid, scene->path, &whole, NULL));
    assert_true(whole);
    assert_false(g_file_test(scene->path, G_FILE_TEST_EXISTS));
}

/* Outstanding pages and no userfaultfd: that is not known to be right. */
static void test_userfaultfd_is_gone(void **state)
{
    Scene *scene = need_root(state);
    g_autoptr(GuestMemory) memory = guest_memory_open(scene->pid, scene->regions, NULL);
    g_autoptr(OutstandingPages) pages = outstanding_create(scene->path, "t", memory, NULL);
    g_autoptr(GError) error = NULL;
    gboolean whole;

    assert_true(outstanding_add(pages, 0, (PageSpan){9, 1}, NULL));
    assert_false(local_feeder_was_whole(scene->pid, scene->path, &whole, &error));
    assert_true(error_is(error, VMFERRY_ERROR_NOT_FOUND));
}

/* The process that was fed ends. */
static void test_the_vmm_ends(void **state)
{
    Scene *scene = need_root(state);
    LocalFeeder *feeder = start_feeder(scene);
    g_autoptr(GError) error = NULL;

    assert_non_null(feeder);
    assert_int_equal(local_feeder_await(feeder, 10, NULL), LOCAL_FEEDER_FEEDING);
    kill(scene->pid, SIGKILL);
    assert_int_equal(local_feeder_await(feeder, DEADLINE_MS, &error), LOCAL_FEEDER_FAILED);
    assert_non_null(error);
    local_feeder_free(feeder);
}

/* One that was not loaded: nothing stays. */
static void test_discard(void **state)
{
    Scene *scene = need_root(state);
    LocalFeeder *feeder = start_feeder(scene);
    g_autoptr(GArray) userfaults = NULL;

    assert_non_null(feeder);
    local_feeder_discard(feeder);
    userfaults = userfault_list(scene->pid, NULL);
    assert_int_equal(userfaults->len, 0);
    assert_false(g_file_test(scene->path, G_FILE_TEST_EXISTS));
}

#define private_test(name) cmocka_unit_test_setup_teardown(name, setup_private, teardown)
#define shared_test(name) cmocka_unit_test_setup_teardown(name, setup_shared, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        private_test(test_feeding),
        shared_test(test_feeding),
        private_test(test_faults_alone),
        private_test(test_source_fails),
        private_test(test_killed),
        shared_test(test_killed),
        private_test(test_killed_at_the_end),
        private_test(test_userfaultfd_is_gone),
        private_test(test_the_vmm_ends),
        private_test(test_discard),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
