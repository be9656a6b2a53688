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
#include "memory/tracker.h"
#include "migrate/local_feeder.h"

#define PAGES 2048u
/* Those behind have no content. */
#define OUTSTANDING 1800u
#define THREADS 2u
#define DISCARDED 64u
#define DEADLINE_MS 20000

/* Shared with the child. */
typedef struct {
    _Atomic int ready, go;
    _Atomic int discard;      /* the first pages, and set it back */
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
    gboolean shares;
    SharedPages *shared; /* with *shares*, once there is a feeder; borrowed where *lent* */
    gboolean lent;
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
    for (;; poll(NULL, 0, 1)) {
        if (!scene->desk->discard)
            continue;
        madvise(scene->address, DISCARDED * PAGE_BYTES, MADV_DONTNEED);
        scene->desk->discard = 0;
    }
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

static int setup_sharing(void **state)
{
    int result = setup_private(state);

    if (*state)
        ((Scene *)*state)->shares = TRUE;
    return result;
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
    if (!scene->lent)
        shared_pages_free(scene->shared);
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

/* Where the scene shares. */
static gboolean map_shared(Scene *scene, GuestMemory *memory, GError **error)
{
    const uint64_t pages = PAGES;

    if (!scene->shares)
        return TRUE;
    if (!scene->shared)
        scene->shared = shared_pages_new(&pages, 1, error);
    return scene->shared && shared_pages_map(scene->shared, memory, error);
}

static LocalFeeder *start_feeder(Scene *scene)
{
    g_autoptr(GError) error = NULL;
    GuestMemory *memory = guest_memory_open(scene->pid, scene->regions, NULL);
    OutstandingPages *pages = outstanding_create(scene->path, "t", memory, NULL);
    Userfault *userfault =
        userfault_open(scene->pid, FAULT_SERVICE_USES, USERFAULT_STAYS_IN_VMM, &error);
    LocalFeeder *feeder = NULL;

    if (pages && userfault && outstanding_add(pages, 0, (PageSpan){0, OUTSTANDING}, NULL) &&
        guest_memory_discard(memory, pages, &error) && map_shared(scene, memory, &error))
        feeder = local_feeder_start(memory, userfault, pages, scene->path, &scene->source.head,
                                    scene->shared, FALSE, &error);
    if (feeder && scene->shares && !shared_pages_open_up(memory, &error))
        g_clear_pointer(&feeder, local_feeder_discard);
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

/* What is known to be wanted soon is there before anybody asks, and what was asked for is told. */
static void test_first(void **state)
{
    static const LocalFeederRun first[] = {{0, {1001, 3}}, {0, {7, 1}}, {0, {500, 1}}, {9, {0, 1}}};
    Scene *scene = need_root(state);
    LocalFeeder *feeder = start_feeder(scene);
    g_autoptr(GArray) accesses = NULL;

    assert_non_null(feeder);
    local_feeder_set_first(feeder, first, G_N_ELEMENTS(first));
    assert_true(local_feeder_bring_first(feeder, 0, DEADLINE_MS, NULL));
    assert_true(local_feeder_bring_first(feeder, 3, 0, NULL));
    assert_int_equal(local_feeder_count_outstanding(feeder), OUTSTANDING);
    assert_true(local_feeder_bring_first(feeder, 2, DEADLINE_MS, NULL));
    assert_int_equal(local_feeder_count_outstanding(feeder), OUTSTANDING - 4);
    accesses = local_feeder_list_accesses(feeder);
    assert_int_equal(accesses->len, 0);
    g_clear_pointer(&accesses, g_array_unref);
    scene->desk->go = 1;
    await_touched(scene, 100);
    assert_true(local_feeder_fill(feeder, NULL, NULL, NULL));
    assert_int_equal(local_feeder_await(feeder, DEADLINE_MS, NULL), LOCAL_FEEDER_WHOLE);
    accesses = local_feeder_list_accesses(feeder);
    assert_true(accesses->len > 0);
    /* The first of the touchers' pages, in their block. */
    assert_true(g_array_index(accesses, LocalFeederRun, 0).span.first <= 37);
    for (guint i = 0; i < accesses->len; i++)
        assert_true(g_array_index(accesses, LocalFeederRun, i).span.count == 16);
    local_feeder_free(feeder);
}

/* --- sharing ----------------------------------------------------------------------------- */

static uint64_t count_content(void)
{
    uint64_t count = 0;

    for (uint64_t page = 0; page < OUTSTANDING; page++)
        count += content_of(page) != 0;
    return count;
}

/* What the first has brought, the second needs no source for. */
static void test_two_share(void **state)
{
    Scene *one = need_root(state), *other;
    LocalFeeder *feeder = start_feeder(one);

    assert_non_null(feeder);
    one->desk->go = 1;
    assert_true(local_feeder_fill(feeder, NULL, NULL, NULL));
    assert_whole(one, feeder);
    assert_int_equal(shared_pages_count(one->shared), count_content());
    scene_new((void **)&other, FALSE);
    other->shares = other->lent = TRUE;
    other->shared = one->shared;
    g_atomic_int_set(&other->source.fails_at, 1501);
    assert_true(content_of(1501) != 0);
    feeder = start_feeder(other);
    assert_non_null(feeder);
    other->desk->go = 1;
    assert_true(local_feeder_fill(feeder, NULL, NULL, NULL));
    assert_int_equal(local_feeder_await(feeder, DEADLINE_MS, NULL), LOCAL_FEEDER_WHOLE);
    await_touched(other, PAGES);
    local_feeder_free(feeder);
    teardown((void **)&other);
}

/* Both at a time, each asking for what the other may just bring. */
static void test_two_at_a_time(void **state)
{
    Scene *one = need_root(state), *other;
    LocalFeeder *feeders[2];

    /* Before there is a userfaultfd that it would inherit. */
    scene_new((void **)&other, FALSE);
    feeders[0] = start_feeder(one);
    other->shares = other->lent = TRUE;
    other->shared = one->shared;
    feeders[1] = start_feeder(other);
    assert_true(feeders[0] && feeders[1]);
    one->desk->go = other->desk->go = 1;
    for (guint i = 0; i < 2; i++)
        assert_true(local_feeder_fill(feeders[i], NULL, NULL, NULL));
    for (guint i = 0; i < 2; i++)
        assert_int_equal(local_feeder_await(feeders[i], DEADLINE_MS, NULL), LOCAL_FEEDER_WHOLE);
    await_touched(one, PAGES);
    await_touched(other, PAGES);
    local_feeder_free(feeders[0]);
    local_feeder_free(feeders[1]);
    teardown((void **)&other);
}

/* Pages that are the file's have content and are not written; a write is seen, and is nobody else's. */
static void test_shared_pages_are_tracked(void **state)
{
    static uint8_t page[PAGE_BYTES], back[PAGE_BYTES];
    Scene *scene = need_root(state);
    LocalFeeder *feeder = start_feeder(scene);
    g_autoptr(GuestMemory) memory = NULL;
    g_autoptr(GPtrArray) sets = NULL;
    g_autoptr(PageSet) set = page_set_new(PAGES);
    g_autoptr(Tracker) tracker = NULL;
    g_autoptr(GError) error = NULL;
    const PageSpan written[] = {{3, 1}, {777, 1}, {PAGES - 1, 1}};

    assert_non_null(feeder);
    assert_true(local_feeder_fill(feeder, NULL, NULL, NULL));
    assert_int_equal(local_feeder_await(feeder, DEADLINE_MS, NULL), LOCAL_FEEDER_WHOLE);
    local_feeder_free(feeder);
    memory = guest_memory_open(scene->pid, scene->regions, NULL);
    assert_int_equal(guest_memory_get_region(memory, 0)->backing, GUEST_BACKING_COPY_ON_WRITE);
    assert_true(guest_memory_add_populated(memory, 0, set, NULL));
    assert_int_equal(page_set_count(set), count_content());
    tracker = tracker_start(memory, TRACKER_AUTO, &error);
    if (!tracker)
        fail_msg("%s", error->message);
    sets = guest_memory_new_sets(memory);
    assert_true(tracker_collect(tracker, sets, NULL));
    page_set_clear(sets->pdata[0]);
    memset(page, 0x77, PAGE_BYTES);
    for (guint i = 0; i < G_N_ELEMENTS(written); i++)
        assert_true(guest_memory_write(memory, 0, &written[i], 1, page, NULL));
    assert_true(guest_memory_read(memory, 0, &(PageSpan){5, 1}, 1, back, NULL));
    assert_true(tracker_collect(tracker, sets, NULL));
    for (guint i = 0; i < G_N_ELEMENTS(written); i++)
        assert_true(page_set_has(sets->pdata[0], written[i].first));
    assert_int_equal(page_set_count(sets->pdata[0]), G_N_ELEMENTS(written));
    assert_int_equal(shared_pages_count(scene->shared), count_content());
}

/* What others share has all of the content whatever a guest discards, since it is not looked after at the end. */
static void test_shared_is_discarded(void **state)
{
    Scene *scene = need_root(state);
    LocalFeeder *feeder = start_feeder(scene);

    assert_non_null(feeder);
    scene->desk->discard = 1;
    for (guint i = 0; scene->desk->discard && i < DEADLINE_MS; i++)
        poll(NULL, 0, 1);
    assert_int_equal(scene->desk->discard, 0);
    assert_true(local_feeder_fill(feeder, NULL, NULL, NULL));
    scene->desk->go = 1;
    assert_whole(scene, feeder);
    assert_int_equal(shared_pages_count(scene->shared), count_content());
}

/* Touched without a fault being served, and no page of the file for it. */
static void assert_file_complete(Scene *scene)
{
    g_autoptr(GuestMemory) memory = guest_memory_open(scene->pid, scene->regions, NULL);
    g_autoptr(SharedPages) shared = shared_pages_of(memory, NULL);

    assert_non_null(shared);
    assert_int_equal(shared_pages_count(shared), count_content());
}

/* Something else is there than the image has: that is told, not believed. */
static void test_shared_differs(void **state)
{
    static uint8_t page[PAGE_BYTES];
    g_autoptr(SharedPages) other = NULL;
    g_autoptr(GuestMemory) memory = NULL;
    Scene *scene = need_root(state);
    LocalFeeder *feeder = start_feeder(scene);
    g_autoptr(GError) error = NULL;

    assert_non_null(feeder);
    memory = guest_memory_open(scene->pid, scene->regions, NULL);
    other = shared_pages_of(memory, NULL);
    assert_non_null(other);
    memset(page, 0x11, sizeof page);
    assert_true(shared_pages_put(other, 0, (PageSpan){9, 1}, page, NULL));
    assert_true(local_feeder_fill(feeder, NULL, NULL, NULL));
    assert_int_equal(local_feeder_await(feeder, DEADLINE_MS, &error), LOCAL_FEEDER_FAILED);
    assert_non_null(strstr(error->message, "other content"));
    local_feeder_discard(feeder);
}

/* --- deaths -------------------------------------------------------------------------------- */

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
    await_touched(scene, 5);
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
    if (scene->shares)
        assert_file_complete(scene);
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

static void assert_ended(const Scene *scene)
{
    siginfo_t info = {0};

    assert_int_equal(waitid(P_PID, (id_t)scene->pid, &info, WEXITED | WNOHANG | WNOWAIT), 0);
    assert_int_equal(info.si_pid, scene->pid);
}

/* One that was not loaded: nothing stays. */
static void test_discard(void **state)
{
    Scene *scene = need_root(state);
    LocalFeeder *feeder = start_feeder(scene);
    g_autoptr(GArray) userfaults = NULL;

    assert_non_null(feeder);
    local_feeder_discard(feeder);
    userfaults = scene->shares ? NULL : userfault_list(scene->pid, NULL);
    /* One that shares is never let go: it would make zeroes of what the others lack. */
    if (scene->shares)
        assert_ended(scene);
    else
        assert_int_equal(userfaults->len, 0);
    assert_false(g_file_test(scene->path, G_FILE_TEST_EXISTS));
}

#define private_test(name) cmocka_unit_test_setup_teardown(name, setup_private, teardown)
#define shared_test(name) cmocka_unit_test_setup_teardown(name, setup_shared, teardown)
#define sharing_test(name) cmocka_unit_test_setup_teardown(name, setup_sharing, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        private_test(test_feeding),
        shared_test(test_feeding),
        sharing_test(test_feeding),
        private_test(test_faults_alone),
        sharing_test(test_faults_alone),
        private_test(test_first),
        sharing_test(test_first),
        private_test(test_source_fails),
        sharing_test(test_source_fails),
        sharing_test(test_two_share),
        sharing_test(test_two_at_a_time),
        sharing_test(test_shared_pages_are_tracked),
        sharing_test(test_shared_is_discarded),
        sharing_test(test_shared_differs),
        private_test(test_killed),
        shared_test(test_killed),
        sharing_test(test_killed),
        private_test(test_killed_at_the_end),
        private_test(test_userfaultfd_is_gone),
        private_test(test_the_vmm_ends),
        private_test(test_discard),
        sharing_test(test_discard),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
