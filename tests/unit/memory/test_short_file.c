/* Shared RAM whose file is cut short, or whose file system is full: errors, no signal. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/page.h"
#include "memory/guest_memory.h"

#define PAGES 512u
#define BYTES (PAGES * (size_t)PAGE_BYTES)

typedef struct {
    int fd;
    pid_t pid;
    GuestMemory *guest;
} Fixture;

/* A process that has the file mapped. */
static void start(Fixture *fixture, int fd)
{
    g_autoptr(GPtrArray) regions = g_ptr_array_new_with_free_func((GDestroyNotify)ram_region_free);
    g_autoptr(GError) error = NULL;
    void *memory;

    assert_int_equal(ftruncate(fd, (off_t)BYTES), 0);
    memory = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    assert_true(memory != MAP_FAILED);
    fixture->fd = fd;
    fixture->pid = fork();
    if (fixture->pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (;;)
            poll(NULL, 0, -1);
    }
    munmap(memory, BYTES);
    g_ptr_array_add(regions, ram_region_new("ram", (uint64_t)(uintptr_t)memory, BYTES));
    fixture->guest = guest_memory_open(fixture->pid, regions, &error);
    if (!fixture->guest)
        fail_msg("%s", error->message);
}

static void end(Fixture *fixture)
{
    guest_memory_free(fixture->guest);
    kill(fixture->pid, SIGKILL);
    waitpid(fixture->pid, NULL, 0);
    close(fixture->fd);
}

static void expect_error(gboolean done, GError **error, const char *words)
{
    assert_false(done);
    if (!strstr((*error)->message, words))
        fail_msg("expected \"%s\", got \"%s\"", words, (*error)->message);
    g_clear_error(error);
}

static void test_a_file_that_is_cut_short(void **state)
{
    static uint8_t buffer[4 * PAGE_BYTES];
    const PageSpan across = {PAGES / 2 - 2, 4}, before = {PAGES / 2 - 4, 4};
    const GuestPiece piece = {(PAGES - 1) * (uint64_t)PAGE_BYTES, 1, buffer};
    Fixture fixture;
    GError *error = NULL;
    uint64_t count;

    start(&fixture, memfd_create("ram", MFD_CLOEXEC));
    assert_true(guest_memory_write(fixture.guest, 0, &across, 1, buffer, NULL));
    assert_int_equal(ftruncate(fixture.fd, (off_t)BYTES / 2), 0);
    assert_true(guest_memory_read(fixture.guest, 0, &before, 1, buffer, NULL));
    assert_true(guest_memory_write(fixture.guest, 0, &before, 1, buffer, NULL));
    expect_error(guest_memory_read(fixture.guest, 0, &across, 1, buffer, &error), &error,
                 "shorter than the RAM");
    expect_error(guest_memory_write(fixture.guest, 0, &across, 1, buffer, &error), &error,
                 "shorter than the RAM");
    expect_error(guest_memory_write_pieces(fixture.guest, 0, &piece, 1, &error), &error,
                 "shorter than the RAM");
    assert_true(guest_memory_count_populated(fixture.guest, &count, NULL));
    end(&fixture);
}

static void test_a_file_system_that_is_full(void **state)
{
    static uint8_t content[64 * PAGE_BYTES];
    g_autofree char *folder = g_dir_make_tmp("vmferry-full-XXXXXX", NULL);
    g_autofree char *path = g_build_filename(folder, "ram", NULL);
    GError *error = NULL;
    gboolean done = TRUE;
    Fixture fixture;

    if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
        mount("none", folder, "tmpfs", 0, "size=1M") < 0)
        skip();
    start(&fixture, open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    expect_error(guest_memory_check_room(fixture.guest, &error), &error, "has room for 1 MiB more");
    memset(content, 1, sizeof content);
    for (guint i = 0; done && i < PAGES; i += 64) {
        const PageSpan span = {i, 64};

        done = guest_memory_write(fixture.guest, 0, &span, 1, content, &error);
    }
    expect_error(done, &error, "or full");
    end(&fixture);
    start(&fixture, memfd_create("ram", MFD_CLOEXEC));
    assert_true(guest_memory_check_room(fixture.guest, NULL));
    end(&fixture);
    umount(folder);
    rmdir(folder);
}

/* A pid may be another process's by then. */
static void test_a_process_that_has_ended(void **state)
{
    static uint8_t buffer[PAGE_BYTES];
    const PageSpan one = {0, 1};
    Fixture fixture;
    GError *error = NULL;

    start(&fixture, memfd_create("ram", MFD_CLOEXEC));
    kill(fixture.pid, SIGKILL);
    waitpid(fixture.pid, NULL, 0);
    fixture.guest->pid = getpid(); /* as if it were ours now */
    expect_error(guest_memory_read(fixture.guest, 0, &one, 1, buffer, &error), &error, "has ended");
    expect_error(guest_memory_write(fixture.guest, 0, &one, 1, buffer, &error), &error,
                 "has ended");
    guest_memory_free(fixture.guest);
    close(fixture.fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_file_that_is_cut_short),
        cmocka_unit_test(test_a_process_that_has_ended),
        cmocka_unit_test(test_a_file_system_that_is_full),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
