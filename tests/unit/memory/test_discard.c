/*
 * Discarding pages of another process: exactly those, and how long it takes
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <glib/gstdio.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/page.h"
#include "memory/discard.h"
#include "memory/maps.h"
#include "memory/userfault.h"

#define PAGES 2048u /* of each region */
#define MANY_PAGES 40000u

static const char *const way_names[] = {"many in a call", "one by one"};

typedef struct {
    pid_t pid;
    uint64_t pages;
    uint8_t *private, *shared;
    char *folder, *path;
    GuestMemory *memory;
    OutstandingPages *outstanding;
} Scene;

static uint8_t *map(gboolean shared, uint64_t pages)
{
    autofd int fd = shared ? memfd_create("guest-ram", MFD_CLOEXEC) : -1;
    uint8_t *memory;

    if (shared)
        assert_int_equal(ftruncate(fd, (off_t)(pages * PAGE_BYTES)), 0);
    memory = mmap(NULL, pages * PAGE_BYTES, PROT_READ | PROT_WRITE,
                  shared ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS, fd, 0);
    assert_true(memory != MAP_FAILED);
    return memory;
}

static uint8_t byte_of(uint64_t page)
{
    return (uint8_t)(page * 7) | 1;
}

/* Fills its memory, says so and sleeps, as a VMM's main thread does. */
static void child_main(const Scene *scene, int ready)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (uint64_t i = 0; i < scene->pages; i++) {
        memset(scene->private + i * PAGE_BYTES, byte_of(i), PAGE_BYTES);
        memset(scene->shared + i * PAGE_BYTES, byte_of(i), PAGE_BYTES);
    }
    (void)!write(ready, "r", 1);
    for (;;)
        pause();
}

static void start_child(Scene *scene)
{
    int ready[2];
    char byte;

    assert_int_equal(pipe(ready), 0);
    scene->pid = fork();
    if (scene->pid == 0)
        child_main(scene, ready[1]);
    close(ready[1]);
    assert_int_equal(read(ready[0], &byte, 1), 1);
    close(ready[0]);
}

static Scene *scene_new(uint64_t pages)
{
    g_autoptr(GPtrArray) regions = g_ptr_array_new_with_free_func((GDestroyNotify)ram_region_free);
    Scene *scene = g_new0(Scene, 1);

    scene->pages = pages;
    scene->private = map(FALSE, pages);
    scene->shared = map(TRUE, pages);
    start_child(scene);
    g_ptr_array_add(regions, ram_region_new("private", (uint64_t)(uintptr_t)scene->private,
                                            pages * PAGE_BYTES));
    g_ptr_array_add(
        regions, ram_region_new("shared", (uint64_t)(uintptr_t)scene->shared, pages * PAGE_BYTES));
    scene->memory = guest_memory_open(scene->pid, regions, NULL);
    scene->folder = g_dir_make_tmp("discard-XXXXXX", NULL);
    scene->path = g_build_filename(scene->folder, "pages", NULL);
    scene->outstanding = outstanding_create(scene->path, "t", scene->memory, NULL);
    assert_true(scene->memory && scene->outstanding);
    return scene;
}

static void scene_free(Scene *scene)
{
    kill(scene->pid, SIGKILL);
    waitpid(scene->pid, NULL, 0);
    outstanding_free(scene->outstanding);
    guest_memory_free(scene->memory);
    munmap(scene->private, scene->pages * PAGE_BYTES);
    munmap(scene->shared, scene->pages * PAGE_BYTES);
    g_unlink(scene->path);
    g_rmdir(scene->folder);
    g_free(scene->path);
    g_free(scene->folder);
    g_free(scene);
}

static void discard(Scene *scene, DiscardWay way)
{
    g_autoptr(GError) error = NULL;

    if (!guest_memory_discard_by(way, scene->memory, scene->outstanding, &error))
        fail_msg("%s: %s", way_names[way], error->message);
}

/* What has no page of its own is missing: looked at before it is read. */
static void check_region(Scene *scene, guint region, const char *what)
{
    g_autoptr(PageSet) there = page_set_new(scene->pages);
    g_autofree uint8_t *page = g_malloc(PAGE_BYTES);

    assert_true(guest_memory_add_populated(scene->memory, region, there, NULL));
    for (uint64_t i = 0; i < scene->pages; i++) {
        gboolean gone = outstanding_has(scene->outstanding, region, i);
        PageSpan span = {i, 1};

        if (page_set_has(there, i) == gone)
            fail_msg("%s: page %u of region %u is %s", what, (unsigned)i, region,
                     gone ? "there" : "missing");
        assert_true(guest_memory_read(scene->memory, region, &span, 1, page, NULL));
        assert_int_equal(page[100], gone ? 0 : byte_of(i));
    }
}

/* Nothing of ours stays in the process. */
static guint count_maps(const Scene *scene)
{
    g_autoptr(GPtrArray) maps = maps_read(scene->pid, NULL);

    return maps->len;
}

static guint count_fds(const Scene *scene)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/fd", (int)scene->pid);
    g_autoptr(GDir) dir = g_dir_open(path, 0, NULL);
    guint count = 0;

    while (g_dir_read_name(dir))
        count++;
    return count;
}

static void exact_pages(DiscardWay way)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(3);
    Scene *scene = scene_new(PAGES);
    guint maps = count_maps(scene), fds = count_fds(scene);

    discard(scene, way); /* none */
    for (guint region = 0; region < 2; region++) {
        assert_true(outstanding_add(scene->outstanding, region, (PageSpan){0, 3}, NULL));
        assert_true(outstanding_add(scene->outstanding, region, (PageSpan){PAGES - 1, 1}, NULL));
        for (guint i = 0; i < 200; i++)
            assert_true(outstanding_add(scene->outstanding, region,
                                        (PageSpan){(uint64_t)g_rand_int_range(rand, 0, PAGES), 1},
                                        NULL));
    }
    discard(scene, way);
    check_region(scene, 0, way_names[way]);
    check_region(scene, 1, way_names[way]);
    discard(scene, way); /* they are gone already */
    check_region(scene, 0, way_names[way]);
    assert_int_equal(count_maps(scene), maps);
    assert_int_equal(count_fds(scene), fds);
    scene_free(scene);
}

static void need_root(void)
{
    if (geteuid() == 0)
        return;
    puts("skipped: not root, who alone may open /proc/PID/map_files");
    skip();
}

static void test_exact_pages(void **state)
{
    need_root();
    exact_pages(DISCARD_BEST);
    exact_pages(DISCARD_ONE_BY_ONE);
}

/* Whoever only reads a page has one of zeroes there, which must not be taken for its content. */
/* The same pages, told by sets. */
static void test_sets(void **state)
{
    Scene *scene = scene_new(PAGES);
    g_autoptr(GPtrArray) sets = guest_memory_new_sets(scene->memory);
    g_autoptr(GError) error = NULL;

    assert_true(guest_memory_discard_sets(scene->memory, sets, NULL)); /* none */
    for (uint64_t page = 0; page < PAGES; page += 3) {
        page_set_add(sets->pdata[1], page, 1);
        assert_true(outstanding_add(scene->outstanding, 1, (PageSpan){page, 1}, NULL));
    }
    if (!guest_memory_discard_sets(scene->memory, sets, &error))
        fail_msg("%s", error->message);
    check_region(scene, 0, "sets");
    check_region(scene, 1, "sets");
    scene_free(scene);
}

static void test_what_is_there_again_is_found(void **state)
{
    g_autofree uint8_t *page = g_malloc0(PAGE_BYTES);
    PageSpan span = {77, 1};

    need_root();
    for (guint region = 0; region < 2; region++)
        for (guint writes = 0; writes < 2; writes++) {
            Scene *scene = scene_new(PAGES);
            g_autoptr(GError) error = NULL;

            assert_true(outstanding_add(scene->outstanding, region, (PageSpan){70, 20}, NULL));
            assert_false(guest_memory_check_missing(scene->memory, scene->outstanding, NULL));
            discard(scene, DISCARD_BEST);
            assert_true(guest_memory_check_missing(scene->memory, scene->outstanding, NULL));
            assert_true((writes ? guest_memory_write(scene->memory, region, &span, 1, page, NULL)
                                : guest_memory_read(scene->memory, region, &span, 1, page, NULL)));
            assert_false(guest_memory_check_missing(scene->memory, scene->outstanding, &error));
            assert_true(error_is(error, VMFERRY_ERROR_FAILED));
            scene_free(scene);
        }
}

/* Printed, not judged: how busy the machine is, is not known. */
static void measure(Scene *scene, guint region, guint count, DiscardWay way)
{
    uint64_t begin;

    outstanding_remove(scene->outstanding, region, (PageSpan){0, UINT64_MAX});
    for (guint i = 0; i < count; i++)
        assert_true(outstanding_add(scene->outstanding, region, (PageSpan){2 * i, 1}, NULL));
    begin = clock_now_ns();
    discard(scene, way);
    printf("%s, %s: %u scattered pages in %.2f ms\n", region ? "shared" : "private", way_names[way],
           count, clock_ns_to_ms(clock_now_ns() - begin));
}

static void test_time(void **state)
{
    static const guint counts[] = {1, 1000, 20000};

    need_root();
    for (DiscardWay way = DISCARD_BEST; way <= DISCARD_ONE_BY_ONE; way++)
        for (guint region = 0; region < 2; region++)
            for (guint i = 0; i < G_N_ELEMENTS(counts) - (way == DISCARD_ONE_BY_ONE); i++) {
                Scene *scene = scene_new(MANY_PAGES);

                measure(scene, region, counts[i], way);
                scene_free(scene);
            }
}

/* A part that is not mapped any more, and a process that has ended. */
static void test_errors(void **state)
{
    Scene *scene = scene_new(PAGES);
    g_autoptr(GError) error = NULL;

    guest_memory_get_region(scene->memory, 0)->host_address -= 64 * PAGES * PAGE_BYTES;
    assert_true(outstanding_add(scene->outstanding, 0, (PageSpan){0, 1}, NULL));
    assert_false(guest_memory_discard(scene->memory, scene->outstanding, &error));
    assert_true(error_is(error, VMFERRY_ERROR_INVALID));
    g_clear_error(&error);
    guest_memory_get_region(scene->memory, 0)->host_address += 64 * PAGES * PAGE_BYTES;
    kill(scene->pid, SIGKILL);
    waitpid(scene->pid, NULL, 0);
    assert_false(guest_memory_discard(scene->memory, scene->outstanding, &error));
    assert_true(error_is(error, VMFERRY_ERROR_NOT_FOUND));
    scene->pid = fork();
    if (scene->pid == 0)
        _exit(0);
    scene_free(scene);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_exact_pages),
        cmocka_unit_test(test_sets),
        cmocka_unit_test(test_what_is_there_again_is_found),
        cmocka_unit_test(test_time),
        cmocka_unit_test(test_errors),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
