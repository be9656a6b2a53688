/* The driver on a real Bochs (counting_guest.h) where something fails */
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/page.h"
#include "base/process.h"
#include "counting_guest.h"
#include "real_bochs.h"
#include "vmm/bochs/folder.h"
#include "vmm/bochs/record.h"
#include "vmm/bochs/search.h"
#include "vmm/bochs/video.h"
#include "vmm/vmm_driver.h"

#define CACHE_PAGES 256u

static Vmm *launch_with_vga(const char *image)
{
    const BochsDisk disk = {.path = image};
    BochsMachine machine = make_machine();
    g_autoptr(GError) error = NULL;
    Vmm *vmm;

    machine.slots[0] = BOCHS_SLOT_VGA;
    machine.disks = &disk;
    machine.disk_count = image ? 1 : 0;
    vmm = try_launch(&machine, &error);
    if (!vmm)
        fail_msg("%s", error->message);
    last_pid = vmm_get_pid(vmm);
    last_start_time = process_of(vmm)->start_time;
    return vmm;
}

static void run(Vmm *vmm, GuestMemory *memory)
{
    put_code(vmm, memory);
    assert_true(vmm_resume(vmm, NULL));
    await_count(memory, 0);
}

/* It gets no time meanwhile, and so is late. */
static void stop(void)
{
    assert_int_equal(kill(last_pid, SIGSTOP), 0);
}

static void go_on(void)
{
    assert_int_equal(kill(last_pid, SIGCONT), 0);
}

static void expect_runs(Vmm *vmm, GuestMemory *memory)
{
    await_count(memory, read_count(memory, COUNT_PAGES - 1));
    usleep(200000);
    await_count(memory, read_count(memory, COUNT_PAGES - 1));
    expect_state(vmm, VMM_RUN_STATE_RUNNING);
}

/* ---- commands that are late ---- */

static void test_late_command_is_no_run(void **unused)
{
    Vmm *vmm = launch();
    GuestMemory *memory = open_memory(vmm);
    gboolean was_running = TRUE;
    g_autoptr(GError) error = NULL;

    run(vmm, memory);
    assert_true(vmm_pause(vmm, NULL, NULL));
    stop();
    assert_true(bochs_console_send(process_of(vmm)->console, "show \"pic\"", NULL));
    expect_state(vmm, VMM_RUN_STATE_PAUSED);
    assert_false(vmm_resume(vmm, &error));
    assert_true(error_is(error, VMFERRY_ERROR_TIMEOUT));
    expect_state(vmm, VMM_RUN_STATE_PAUSED);
    go_on();
    assert_true(vmm_pause(vmm, &was_running, NULL));
    assert_false(was_running);
    assert_true(bochs_console_send(process_of(vmm)->console, "show \"pic\"", NULL));
    assert_true(vmm_resume(vmm, NULL));
    expect_runs(vmm, memory);
    guest_memory_free(memory);
    end(vmm);
}

/* An interrupt that was in vain is not found later by a guest that was resumed. */
static void test_late_interrupt(void **unused)
{
    Vmm *vmm = launch();
    GuestMemory *memory = open_memory(vmm);
    g_autoptr(GError) error = NULL;

    run(vmm, memory);
    stop();
    assert_false(vmm_pause(vmm, NULL, &error));
    assert_true(error_is(error, VMFERRY_ERROR_TIMEOUT));
    go_on();
    assert_true(vmm_resume(vmm, NULL));
    expect_runs(vmm, memory);
    guest_memory_free(memory);
    end(vmm);
}

/* What was to be done before the guest runs could not be done: it never ran. */
static void test_start_that_fails(void **unused)
{
    g_autofree char *image = make_image();
    Vmm *vmm = launch_with_vga(image);
    GuestMemory *memory = open_memory(vmm);

    put_code(vmm, memory);
    stop();
    assert_false(vmm_resume(vmm, NULL));
    assert_int_equal(vmm_get_start(vmm), VMM_START_NEVER);
    expect_state(vmm, VMM_RUN_STATE_PAUSED);
    assert_true(may_write(image));
    go_on();
    vmm = come_back(vmm);
    assert_int_equal(vmm_get_start(vmm), VMM_START_NEVER);
    assert_true(vmm_resume(vmm, NULL));
    assert_int_equal(vmm_get_start(vmm), VMM_START_DONE);
    expect_runs(vmm, memory);
    guest_memory_free(memory);
    end(vmm);
    unlink(image);
}

/* The agent dies while the guest is interrupted, or stepped on: it stands, though late. */
static void test_found_amid_a_pause(void **unused)
{
    static const char *const commands[] = {"s 100000000", "c"};
    Vmm *vmm = launch();
    GuestMemory *memory = open_memory(vmm);

    run(vmm, memory);
    for (guint i = 0; i < G_N_ELEMENTS(commands); i++) {
        assert_true(vmm_pause(vmm, NULL, NULL));
        assert_true(bochs_console_send(process_of(vmm)->console, commands[i], NULL));
        usleep(20000);
        vmm = come_back(vmm);
        expect_state(vmm, VMM_RUN_STATE_PAUSED);
        assert_true(vmm_resume(vmm, NULL));
        expect_runs(vmm, memory);
    }
    guest_memory_free(memory);
    end(vmm);
}

/* ---- the VGA's memory ---- */

static uint64_t video_address(Vmm *vmm)
{
    return ((BochsVmm *)vmm)->video->host_address;
}

static uint8_t *read_planes(Vmm *vmm)
{
    uint8_t *planes = g_malloc(BOCHS_PLANES_BYTES);

    assert_true(
        bochs_memory_read(process_of(vmm), video_address(vmm), planes, BOCHS_PLANES_BYTES, NULL));
    return planes;
}

static void expect_planes(Vmm *vmm, const uint8_t *wanted)
{
    g_autofree uint8_t *planes = read_planes(vmm);

    assert_memory_equal(planes, wanted, BOCHS_PLANES_BYTES);
}

static uint8_t *fill_planes(Vmm *vmm)
{
    uint8_t *planes = g_malloc(BOCHS_PLANES_BYTES);

    for (guint i = 0; i < BOCHS_PLANES_BYTES; i++)
        planes[i] = (uint8_t)(i * 2654435761u >> 13);
    assert_true(
        bochs_memory_write(process_of(vmm), video_address(vmm), planes, BOCHS_PLANES_BYTES, NULL));
    return planes;
}

/* As an agent leaves it that dies while it writes the planes. */
static void leave_half_written(Vmm *vmm, const uint8_t *planes)
{
    g_autofree char *path = bochs_folder_path(process_of(vmm)->folder, "order");
    g_autofree char *text = g_malloc(BOCHS_PLANES_BYTES + 1);

    text[0] = 'b';
    memcpy(text + 1, planes, BOCHS_PLANES_BYTES);
    assert_true(file_replace(path, text, BOCHS_PLANES_BYTES + 1, FALSE, NULL));
    assert_true(bochs_memory_write(process_of(vmm), video_address(vmm), planes,
                                   BOCHS_PLANES_BYTES / 2, NULL));
}

static void test_order_after_a_death(void **unused)
{
    Vmm *vmm = launch_with_vga(NULL);
    GuestMemory *memory = open_memory(vmm);
    g_autofree uint8_t *own = NULL, *neutral = NULL;

    run(vmm, memory);
    own = fill_planes(vmm);
    assert_true(bochs_process_interrupt(process_of(vmm), NULL));
    vmm = come_back(vmm);
    assert_true(vmm_resume(vmm, NULL));
    expect_planes(vmm, own);
    assert_true(vmm_pause(vmm, NULL, NULL));
    neutral = read_planes(vmm);
    assert_memory_not_equal(neutral, own, BOCHS_PLANES_BYTES);
    vmm = come_back(vmm);
    assert_true(vmm_pause(vmm, NULL, NULL));
    expect_planes(vmm, neutral);
    leave_half_written(vmm, own);
    vmm = come_back(vmm);
    assert_true(vmm_pause(vmm, NULL, NULL));
    expect_planes(vmm, neutral);
    leave_half_written(vmm, own);
    assert_true(vmm_resume(vmm, NULL));
    expect_planes(vmm, own);
    expect_runs(vmm, memory);
    guest_memory_free(memory);
    end(vmm);
}

static void test_order_after_a_failure(void **unused)
{
    Vmm *vmm = launch_with_vga(NULL);
    GuestMemory *memory = open_memory(vmm);
    g_autofree char *path = bochs_folder_path(process_of(vmm)->folder, "order");
    g_autofree char *aside = bochs_folder_path(process_of(vmm)->folder, "aside");
    g_autofree uint8_t *own = NULL;

    run(vmm, memory);
    own = fill_planes(vmm);
    assert_int_equal(rename(path, aside), 0);
    assert_int_equal(mkdir(path, 0700), 0);
    assert_false(vmm_pause(vmm, NULL, NULL));
    assert_false(vmm_resume(vmm, NULL));
    expect_planes(vmm, own);
    assert_int_equal(rmdir(path), 0);
    assert_int_equal(rename(aside, path), 0);
    assert_true(vmm_resume(vmm, NULL));
    expect_planes(vmm, own);
    expect_runs(vmm, memory);
    guest_memory_free(memory);
    end(vmm);
}

/* ---- locks ---- */

/* It runs without them: it takes them, or stands. */
static void test_running_one_without_locks(void **unused)
{
    g_autofree char *image = make_image();
    Vmm *vmm = launch_with_image(image);
    GuestMemory *memory = open_memory(vmm);

    run(vmm, memory);
    assert_true(bochs_release_images((BochsVmm *)vmm, NULL));
    vmm = come_back(vmm);
    expect_runs(vmm, memory);
    assert_false(may_write(image));
    assert_true(bochs_release_images((BochsVmm *)vmm, NULL));
    {
        autofd int other = open(image, O_RDWR | O_CLOEXEC);

        assert_true(set_lock(other, F_RDLCK, 101));
        vmm = come_back(vmm);
        expect_state(vmm, VMM_RUN_STATE_PAUSED);
    }
    guest_memory_free(memory);
    end(vmm);
    unlink(image);
}

/* ---- images ---- */

/* How many of its first pages the host has cached. */
static guint count_cached(const char *image)
{
    autofd int fd = open(image, O_RDONLY | O_CLOEXEC);
    unsigned char cached[CACHE_PAGES];
    void *mapped = mmap(NULL, sizeof cached * PAGE_BYTES, PROT_READ, MAP_SHARED, fd, 0);
    guint count = 0;

    assert_ptr_not_equal(mapped, MAP_FAILED);
    assert_int_equal(mincore(mapped, sizeof cached * PAGE_BYTES, cached), 0);
    for (guint i = 0; i < sizeof cached; i++)
        count += cached[i] & 1;
    munmap(mapped, sizeof cached * PAGE_BYTES);
    return count;
}

/* Dirty pages, which the host does not forget. */
static void write_image(const char *image)
{
    g_autofree char *text = g_malloc0(CACHE_PAGES * PAGE_BYTES);
    autofd int fd = open(image, O_WRONLY | O_CLOEXEC);

    assert_true(fd_write_all(fd, text, CACHE_PAGES * PAGE_BYTES, NULL));
}

static gboolean is_in_memory(const char *path)
{
    struct statfs status;

    return statfs(path, &status) == 0 && status.f_type == TMPFS_MAGIC;
}

/* It is on its storage when others may have it, and read from there when they had it. */
static void test_images_are_flushed(void **unused)
{
    g_autofree char *image = make_image();
    Vmm *vmm = launch_with_image(image);

    if (!is_in_memory(image)) {
        for (guint i = 0; i < 2; i++) {
            autofd int fd = open(image, O_RDONLY | O_CLOEXEC);

            write_image(image);
            if (i == 0)
                assert_true(vmm_drain(vmm, NULL));
            else
                assert_true(bochs_release_images((BochsVmm *)vmm, NULL));
            assert_int_equal(count_cached(image), CACHE_PAGES);
            assert_int_equal(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED), 0);
            assert_int_equal(count_cached(image), 0);
        }
        write_image(image);
        assert_true(bochs_release_images((BochsVmm *)vmm, NULL));
        assert_int_equal(count_cached(image), CACHE_PAGES);
        assert_true(vmm_take_images(vmm, NULL));
        assert_int_equal(count_cached(image), 0);
    }
    end(vmm);
    unlink(image);
}

/* A CD-ROM's is not ours: Bochs writes to disks only. */
static void test_lock_file_of_a_cdrom(void **unused)
{
    g_autofree char *image = make_image();
    g_autofree char *lock = g_strconcat(image, ".lock", NULL);
    const BochsDisk disk = {.path = image, .cdrom = TRUE};
    BochsMachine machine = make_machine();
    Vmm *vmm;

    machine.disks = &disk;
    machine.disk_count = 1;
    assert_true(file_replace(lock, "", 0, FALSE, NULL));
    vmm = try_launch(&machine, NULL);
    assert_non_null(vmm);
    assert_int_equal(access(lock, F_OK), 0);
    end(vmm);
    unlink(lock);
    unlink(image);
}

/* ---- records ---- */

/* A guest that arrived and has run lives on, whatever of its folder is not there or cannot be read. */
static void test_arrived_guest_lives(void **unused)
{
    Vmm *vmm = launch();
    BochsVmm *bochs = (BochsVmm *)vmm;
    GuestMemory *memory = open_memory(vmm);

    bochs->incoming = TRUE;
    bochs->loaded = state_new();
    assert_true(bochs_record_write(bochs, NULL));
    run(vmm, memory);
    vmm = come_back(vmm);
    expect_runs(vmm, memory);
    vmm_free(vmm);
    assert_true(process_is_same(last_pid, last_start_time));
    guest_memory_free(memory);
    assert_true(process_kill(last_pid, last_start_time, SIGKILL, NULL));
    assert_true(process_wait_gone(last_pid, last_start_time, WAIT_MS));
}

static void expect_not_found_again(const VmmIdentity *identity)
{
    g_autoptr(GError) error = NULL;

    assert_null(bochs_driver.reattach(identity, &error));
    assert_non_null(error);
    assert_true(process_is_same(last_pid, last_start_time));
}

static void test_unreadable_records(void **unused)
{
    static const char *const names[] = {"record", "ran", "loaded"};
    Vmm *vmm = launch();
    GuestMemory *memory = open_memory(vmm);
    g_autoptr(VmmIdentity) identity = vmm_get_identity(vmm);
    g_autofree char *folder = g_strdup(process_of(vmm)->folder);
    g_autofree char *aside = bochs_folder_path(folder, "aside");
    g_autofree char *record = bochs_folder_path(folder, "record");

    run(vmm, memory);
    vmm_free(vmm);
    for (guint i = 0; i < G_N_ELEMENTS(names); i++) {
        g_autofree char *path = bochs_folder_path(folder, names[i]);
        gboolean is_there = rename(path, aside) == 0;

        assert_int_equal(mkdir(path, 0700), 0);
        expect_not_found_again(identity);
        assert_int_equal(rmdir(path), 0);
        if (is_there)
            assert_int_equal(rename(aside, path), 0);
    }
    assert_int_equal(rename(record, aside), 0);
    expect_not_found_again(identity);
    assert_int_equal(rename(aside, record), 0);
    vmm = bochs_driver.reattach(identity, NULL);
    assert_non_null(vmm);
    expect_runs(vmm, memory);
    guest_memory_free(memory);
    end(vmm);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_late_command_is_no_run, end_last),
        cmocka_unit_test_teardown(test_late_interrupt, end_last),
        cmocka_unit_test_teardown(test_found_amid_a_pause, end_last),
        cmocka_unit_test_teardown(test_order_after_a_death, end_last),
        cmocka_unit_test_teardown(test_order_after_a_failure, end_last),
        cmocka_unit_test_teardown(test_running_one_without_locks, end_last),
        cmocka_unit_test_teardown(test_images_are_flushed, end_last),
        cmocka_unit_test_teardown(test_lock_file_of_a_cdrom, end_last),
        cmocka_unit_test_teardown(test_arrived_guest_lives, end_last),
        cmocka_unit_test_teardown(test_unreadable_records, end_last),
        cmocka_unit_test_teardown(test_start_that_fails, end_last),
    };

    if (!real_bochs_is_there())
        return SKIP_ALL;
    return cmocka_run_group_tests(tests, begin, clean_up);
}
