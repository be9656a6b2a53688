/* The driver on a real Bochs (counting_guest.h) */
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/page.h"
#include "base/process.h"
#include "guard/guard.h"
#include "memory/tracker.h"
#include "counting_guest.h"
#include "real_bochs.h"
#include "vmm/bochs/bochs.h"
#include "vmm/bochs/driver.h"
#include "vmm/bochs/folder.h"
#include "vmm/bochs/parameters.h"
#include "vmm/vmm_driver.h"

static void expect_own_network(Vmm *vmm)
{
    g_autofree char *theirs = g_strdup_printf("/proc/%d/ns/net", (int)vmm_get_pid(vmm));
    struct stat a, b;

    assert_int_equal(stat("/proc/self/ns/net", &a), 0);
    assert_int_equal(stat(theirs, &b), 0);
    assert_int_not_equal(a.st_ino, b.st_ino);
}

static void test_starts_paused(void **unused)
{
    Vmm *vmm = launch();
    g_autoptr(VmmDescription) description = vmm_describe(vmm, NULL);
    g_autoptr(VmmIdentity) identity = vmm_get_identity(vmm);
    const RamRegion *ram = description->ram_regions->pdata[0];

    expect_state(vmm, VMM_RUN_STATE_PAUSED);
    assert_int_equal(vmm_get_start(vmm), VMM_START_NEVER);
    assert_string_equal(description->kind, "bochs");
    assert_string_equal(description->version, "2.7");
    assert_int_equal(description->memory_bytes, MEMORY);
    assert_int_equal(description->ram_regions->len, 1);
    assert_int_equal(ram->bytes, MEMORY);
    assert_string_equal(identity->kind, "bochs");
    assert_int_equal(identity->pid, vmm_get_pid(vmm));
    expect_own_network(vmm);
    end(vmm);
    assert_false(process_is_same(identity->pid, identity->start_time));
}

static void test_runs_and_pauses(void **unused)
{
    Vmm *vmm = launch();
    g_autoptr(GuestMemory) memory = open_memory(vmm);
    gboolean was_running = TRUE;
    uint32_t count;

    put_code(vmm, memory);
    assert_int_equal(read_count(memory, 0), 0);
    assert_true(vmm_pause(vmm, &was_running, NULL));
    assert_false(was_running);
    assert_true(vmm_resume(vmm, NULL));
    expect_state(vmm, VMM_RUN_STATE_RUNNING);
    assert_false(vmm_check_paused(vmm, NULL));
    await_count(memory, 100);
    assert_true(vmm_pause(vmm, &was_running, NULL));
    assert_true(was_running);
    expect_state(vmm, VMM_RUN_STATE_PAUSED);
    assert_true(vmm_check_paused(vmm, NULL));
    assert_int_equal(vmm_get_start(vmm), VMM_START_DONE);
    count = read_count(memory, COUNT_PAGES - 1);
    usleep(20000);
    assert_int_equal(read_count(memory, COUNT_PAGES - 1), count);
    assert_true(vmm_resume(vmm, NULL));
    assert_true(vmm_resume(vmm, NULL));
    await_count(memory, count);
    end(vmm);
}

/* A signal may come before Bochs has begun to run. */
static void test_pauses_at_once(void **unused)
{
    Vmm *vmm = launch();
    g_autoptr(GuestMemory) memory = open_memory(vmm);
    g_autoptr(GError) error = NULL;

    put_code(vmm, memory);
    for (guint i = 0; i < 50; i++) {
        assert_true(vmm_resume(vmm, NULL));
        if (!vmm_pause(vmm, NULL, &error))
            fail_msg("%s", error->message);
        expect_state(vmm, VMM_RUN_STATE_PAUSED);
    }
    end(vmm);
}

/* ---- dirty tracking ---- */

static void clear_sets(GPtrArray *sets)
{
    for (guint i = 0; i < sets->len; i++)
        page_set_clear(sets->pdata[i]);
}

static void collect(Tracker *tracker, GPtrArray *sets)
{
    g_autoptr(GError) error = NULL;

    clear_sets(sets);
    if (!tracker_collect(tracker, sets, &error))
        fail_msg("%s", error->message);
}

static void run_for_a_while(Vmm *vmm, GuestMemory *memory)
{
    uint32_t count = read_count(memory, COUNT_PAGES - 1);

    assert_true(vmm_resume(vmm, NULL));
    await_count(memory, count + 10);
    assert_true(vmm_pause(vmm, NULL, NULL));
}

/* Each write of the guest is seen, also those of a page that was collected while it ran. */
static void expect_tracked(TrackerKind kind)
{
    Vmm *vmm = launch();
    g_autoptr(GuestMemory) memory = open_memory(vmm);
    g_autoptr(GPtrArray) sets = guest_memory_new_sets(memory);
    g_autoptr(GError) error = NULL;
    Tracker *tracker;
    const PageSet *set = sets->pdata[0];

    put_code(vmm, memory);
    run_for_a_while(vmm, memory);
    tracker = tracker_start(memory, kind, &error);
    if (!tracker)
        fail_msg("%s", error->message);
    collect(tracker, sets);
    collect(tracker, sets);
    assert_int_equal(page_set_count(set), 0);
    for (guint round = 0; round < 3; round++) {
        run_for_a_while(vmm, memory);
        collect(tracker, sets);
        assert_int_equal(page_set_count(set), COUNT_PAGES);
        for (guint i = 0; i < COUNT_PAGES; i++)
            assert_true(page_set_has(set, FIRST_PAGE + i));
    }
    assert_true(vmm_resume(vmm, NULL));
    for (guint round = 0; round < 20; round++) {
        uint32_t count;

        collect(tracker, sets);
        count = read_count(memory, COUNT_PAGES - 1);
        await_count(memory, count + 10);
    }
    assert_true(vmm_pause(vmm, NULL, NULL));
    collect(tracker, sets);
    assert_int_equal(page_set_count(set), COUNT_PAGES);
    tracker_free(tracker);
    run_for_a_while(vmm, memory);
    end(vmm);
}

static void test_tracked_by_pagemap_scan(void **unused)
{
    expect_tracked(TRACKER_PAGEMAP_SCAN);
}

static void test_tracked_by_faults(void **unused)
{
    expect_tracked(TRACKER_UFFD_SYNC);
}

/* ---- ends ---- */

static void test_outlives_its_console(void **unused)
{
    Vmm *vmm = launch();
    pid_t pid = vmm_get_pid(vmm);
    uint64_t start_time = process_of(vmm)->start_time;
    g_autoptr(GuestMemory) memory = open_memory(vmm);
    uint32_t count;

    put_code(vmm, memory);
    assert_true(vmm_resume(vmm, NULL));
    await_count(memory, 0);
    vmm_free(vmm);
    count = read_count(memory, COUNT_PAGES - 1);
    await_count(memory, count + 100);
    assert_true(process_is_same(pid, start_time));
    assert_true(process_kill(pid, start_time, SIGKILL, NULL));
    assert_true(process_wait_gone(pid, start_time, WAIT_MS));
}

static void test_killed(void **unused)
{
    Vmm *vmm = launch();
    g_autoptr(GError) error = NULL;
    g_autofree char *told = NULL;

    assert_true(vmm_resume(vmm, NULL));
    assert_true(process_kill(vmm_get_pid(vmm), process_of(vmm)->start_time, SIGKILL, NULL));
    assert_true(process_wait_gone(vmm_get_pid(vmm), process_of(vmm)->start_time, WAIT_MS));
    expect_state(vmm, VMM_RUN_STATE_GONE);
    assert_false(vmm_pause(vmm, NULL, &error));
    assert_false(vmm_resume(vmm, NULL));
    told = vmm_describe_end(vmm);
    assert_string_equal(told, "Bochs ended");
    assert_true(vmm_quit(vmm, NULL));
    vmm_free(vmm);
}

/* What it says when it ends itself is told. */
static void test_ends_by_itself(void **unused)
{
    Vmm *vmm = launch();
    BochsProcess *process = process_of(vmm);
    g_autoptr(BochsNode) wanted = bochs_tree_new("pic");
    g_autoptr(BochsNode) shown = bochs_show(process->console, "pic", NULL);
    g_autoptr(GError) error = NULL;
    g_autofree char *told = NULL;

    bochs_tree_set(wanted, "master.nothing", BOCHS_NODE_HEX, 1);
    assert_false(bochs_tree_check_known(wanted, shown, NULL));
    (void)bochs_restore(process->console, process->state_folder, wanted, NULL);
    assert_true(process_wait_gone(process->pid, process->start_time, WAIT_MS));
    assert_false(vmm_resume(vmm, &error));
    assert_non_null(strstr(error->message, "cannot find param 'nothing'"));
    told = vmm_get_stderr_tail(vmm);
    assert_non_null(strstr(told, "cannot find param 'nothing'"));
    vmm_free(vmm);
}

static void test_unsupported(void **unused)
{
    Vmm *vmm = launch();
    g_autoptr(GError) error = NULL;

    assert_false(vmm_stay_at_shutdown(vmm, TRUE, &error));
    assert_true(error_is(error, VMFERRY_ERROR_UNSUPPORTED));
    assert_string_equal(error->message,
                        "Bochs: staying when the guest shuts down is not supported");
    assert_false(vmm_begin_bitmap(vmm, "ata0-master", "bitmap", NULL));
    assert_null(vmm_list_nics(vmm, NULL));
    assert_null(vmm_open_checkpoint(vmm, NULL));
    end(vmm);
}

/* ---- starts that fail ---- */

static void expect_no_start(const BochsMachine *machine, const char *wanted)
{
    g_autoptr(GError) error = NULL;

    assert_null(try_launch(machine, &error));
    if (!strstr(error->message, wanted))
        fail_msg("\"%s\" is not in \"%s\"", wanted, error->message);
}

static void test_start_fails(void **unused)
{
    BochsMachine machine = make_machine();
    const BochsDisk missing = {0, 0, "/nonexistent/image"};

    machine.cpu_model = "z80";
    expect_no_start(&machine, "Bochs did not start: [      ] bochsrc:15: cpu directive malformed.");
    machine = make_machine();
    machine.disks = &missing;
    machine.disk_count = 1;
    expect_no_start(&machine, "Bochs did not start: ");
}

static gboolean refuse_to_begin(pid_t pid, gpointer user, GError **error)
{
    *(pid_t *)user = pid;
    error_set(error, VMFERRY_ERROR_FAILED, "it could not be written down");
    return FALSE;
}

static void test_is_not_begun(void **unused)
{
    const BochsMachine machine = make_machine();
    pid_t pid = 0;
    const BochsLaunch wanted = {.name = "guest",
                                .directory = directory,
                                .machine = &machine,
                                .begun = refuse_to_begin,
                                .user = &pid};
    g_autoptr(GError) error = NULL;

    assert_null(bochs_launch(&wanted, &error));
    assert_non_null(strstr(error->message, "it could not be written down"));
    assert_true(pid > 0);
}

static void test_one_a_folder(void **unused)
{
    const BochsMachine machine = make_machine();
    Vmm *vmm = launch();
    g_autoptr(GError) error = NULL;

    assert_null(try_launch(&machine, &error));
    assert_true(error_is(error, VMFERRY_ERROR_EXISTS));
    expect_state(vmm, VMM_RUN_STATE_PAUSED);
    end(vmm);
}

/* ---- images ---- */

/* What keeps another Bochs from an image does not outlive this one, and would keep one from a guest that comes from there. */
static void test_no_lock_file(void **unused)
{
    g_autofree char *image = make_image();
    g_autofree char *lock = g_strconcat(image, ".lock", NULL);
    Vmm *vmm = launch_with_image(image);

    assert_int_not_equal(access(lock, F_OK), 0);
    assert_int_equal(kill(vmm_get_pid(vmm), SIGSTOP), 0); /* deaf to `q` and SIGTERM */
    assert_true(vmm_quit(vmm, NULL));
    vmm_free(vmm);
    assert_int_not_equal(access(lock, F_OK), 0);
    unlink(image);
}

/* No QEMU writes to an image while a guest of Bochs has it; whether we live or not. */
static void test_image_locks(void **unused)
{
    g_autofree char *image = make_image();
    Vmm *vmm = launch_with_image(image);
    g_autoptr(GBytes) state = NULL;
    g_autoptr(GError) error = NULL;

    assert_true(may_write(image));
    assert_true(vmm_resume(vmm, NULL));
    assert_false(may_write(image));
    assert_true(vmm_pause(vmm, NULL, NULL));
    assert_false(may_write(image));
    assert_true(vmm_take_images(vmm, NULL));
    /* What was released is taken back. */
    assert_true(bochs_release_images((BochsVmm *)vmm, NULL));
    assert_true(may_write(image));
    assert_true(vmm_take_images(vmm, NULL));
    assert_false(may_write(image));
    end(vmm);
    assert_true(may_write(image));
    unlink(image);
}

static void expect_refused(Vmm *vmm, const char *image, off_t byte)
{
    g_autoptr(GError) error = NULL;
    autofd int fd = open(image, O_RDWR | O_CLOEXEC);

    assert_true(set_lock(fd, F_RDLCK, byte));
    assert_false(vmm_resume(vmm, &error));
    assert_true(error_is(error, VMFERRY_ERROR_BUSY));
    assert_non_null(strstr(error->message, image));
    expect_state(vmm, VMM_RUN_STATE_PAUSED);
}

static void test_image_of_another(void **unused)
{
    g_autofree char *image = make_image();
    Vmm *vmm = launch_with_image(image);

    expect_refused(vmm, image, 201); /* who lets nobody write */
    expect_refused(vmm, image, 101); /* who writes */
    assert_true(may_write(image));   /* nothing is left of that */
    assert_true(vmm_resume(vmm, NULL));
    end(vmm);
    unlink(image);
}

static void test_disks_are_told(void **unused)
{
    g_autofree char *path = make_image();
    Vmm *vmm = launch_with_image(path);
    g_autoptr(GPtrArray) images = vmm_list_images(vmm, NULL, NULL);
    g_autoptr(GPtrArray) disks = vmm_list_disks(vmm, NULL);
    const VmmImage *image = images->pdata[0];
    const VmmDisk *disk = disks->pdata[0];
    const VmmDiskFile *file = disk->files->pdata[0];

    assert_int_equal(images->len, 1);
    assert_string_equal(image->device, "disk at pci:00:01.1/0/0");
    assert_string_equal(image->path, path);
    assert_false(image->read_only);
    assert_int_equal(disks->len, 1);
    assert_string_equal(disk->id, "ata0-master");
    assert_string_equal(file->format, "raw");
    assert_int_equal(file->bytes, IMAGE_BYTES);
    end(vmm);
    unlink(path);
}

/* ---- an agent that comes back ---- */

static void test_paused_guest_is_found_again(void **unused)
{
    Vmm *vmm = launch();
    RamRegion *ram = ((BochsVmm *)vmm)->ram;
    uint64_t address = ram->host_address, bytes = ram->bytes;
    guint places = ((BochsVmm *)vmm)->places->len;
    GuestMemory *memory;

    vmm = come_back(vmm);
    expect_state(vmm, VMM_RUN_STATE_PAUSED);
    assert_int_equal(vmm_get_start(vmm), VMM_START_NEVER);
    assert_true(((BochsVmm *)vmm)->ram->host_address == address);
    assert_true(((BochsVmm *)vmm)->ram->bytes == bytes);
    assert_int_equal(((BochsVmm *)vmm)->places->len, places);
    memory = open_memory(vmm);
    put_code(vmm, memory);
    assert_true(vmm_resume(vmm, NULL));
    await_count(memory, 0);
    guest_memory_free(memory);
    end(vmm);
}

/* It is not stopped for that. */
static void test_running_guest_is_found_again(void **unused)
{
    Vmm *vmm = launch();
    GuestMemory *memory = open_memory(vmm);
    gboolean was_running;

    put_code(vmm, memory);
    assert_true(vmm_resume(vmm, NULL));
    await_count(memory, 0);
    for (guint i = 0; i < 3; i++) {
        vmm = come_back(vmm);
        expect_state(vmm, VMM_RUN_STATE_RUNNING);
        assert_int_equal(vmm_get_start(vmm), VMM_START_DONE);
        await_count(memory, read_count(memory, COUNT_PAGES - 1));
    }
    assert_true(vmm_pause(vmm, &was_running, NULL));
    assert_true(was_running);
    vmm = come_back(vmm);
    expect_state(vmm, VMM_RUN_STATE_PAUSED);
    assert_true(vmm_resume(vmm, NULL));
    await_count(memory, read_count(memory, COUNT_PAGES - 1));
    guest_memory_free(memory);
    end(vmm);
}

/* One that runs is looked at, and runs on; one that stands is, and stands. */
static void test_look(void **unused)
{
    Vmm *vmm = launch();
    GuestMemory *memory = open_memory(vmm);
    g_autoptr(GBytes) first = NULL, second = NULL, third = NULL;
    double ms = 0;

    put_code(vmm, memory);
    assert_true(vmm_resume(vmm, NULL));
    await_count(memory, 0);
    first = vmm_look(vmm, &ms, NULL);
    assert_non_null(first);
    assert_true(ms > 0);
    expect_state(vmm, VMM_RUN_STATE_RUNNING);
    await_count(memory, read_count(memory, COUNT_PAGES - 1));
    assert_true(vmm_pause(vmm, NULL, NULL));
    second = vmm_look(vmm, &ms, NULL);
    third = vmm_look(vmm, &ms, NULL);
    assert_true(ms == 0);
    assert_true(g_bytes_equal(second, third));
    assert_false(g_bytes_equal(first, second));
    expect_state(vmm, VMM_RUN_STATE_PAUSED);
    guest_memory_free(memory);
    end(vmm);
}

/* An agent that died while it looked is followed by one that lets the guest run; one that died in a pause behind a look is not. */
static void test_found_amid_a_look(void **unused)
{
    Vmm *vmm = launch();
    GuestMemory *memory = open_memory(vmm);

    put_code(vmm, memory);
    assert_true(vmm_resume(vmm, NULL));
    for (guint i = 0; i < 4; i++) {
        assert_true(bochs_process_begin_look(process_of(vmm), NULL));
        if (i > 1)
            assert_true(bochs_console_send(process_of(vmm)->console, "show \"cpu0\"", NULL));
        vmm = come_back(vmm);
        expect_state(vmm, VMM_RUN_STATE_RUNNING);
        await_count(memory, read_count(memory, COUNT_PAGES - 1));
    }
    assert_true(bochs_process_begin_look(process_of(vmm), NULL));
    assert_true(vmm_pause(vmm, NULL, NULL));
    vmm = come_back(vmm);
    expect_state(vmm, VMM_RUN_STATE_PAUSED);
    guest_memory_free(memory);
    end(vmm);
}

/* A command is under way, and its answer is longer than what a pipe holds as a rule. */
static void test_found_amid_a_command(void **unused)
{
    Vmm *vmm = launch();

    for (guint i = 0; i < 20; i++) {
        g_autofree char *answer = NULL;

        assert_true(bochs_console_send(process_of(vmm)->console, "show \"cpu0\"", NULL));
        usleep(i * i * 50);
        vmm = come_back(vmm);
        expect_state(vmm, VMM_RUN_STATE_PAUSED);
        answer = bochs_console_run(process_of(vmm)->console, "calc 1", 1000, NULL);
        assert_non_null(answer);
    }
    end(vmm);
}

/* Of an agent that died while it launched one. */
static void test_unready_one_is_ended(void **unused)
{
    Vmm *vmm = launch();
    g_autoptr(VmmIdentity) identity = vmm_get_identity(vmm);
    g_autofree char *record = bochs_folder_path(process_of(vmm)->folder, "record");
    g_autoptr(GError) error = NULL;

    vmm_free(vmm);
    assert_int_equal(unlink(record), 0);
    assert_null(bochs_driver.reattach(identity, &error));
    assert_false(process_is_same(identity->pid, identity->start_time));
}

/* ---- what a guard does ---- */

/* It waits for an agent: nobody else has the locks on its images. */
static void test_guard_leaves_a_paused_one(void **unused)
{
    g_autofree char *image = make_image();
    Vmm *vmm = launch_with_image(image);
    GuestMemory *memory = open_memory(vmm);
    uint32_t count;

    put_code(vmm, memory);
    assert_true(vmm_resume(vmm, NULL));
    await_count(memory, 0);
    assert_true(vmm_pause(vmm, NULL, NULL));
    assert_true(bochs_release_images((BochsVmm *)vmm, NULL));
    count = read_count(memory, COUNT_PAGES - 1);
    perform_resume(vmm);
    usleep(200000);
    assert_int_equal(read_count(memory, COUNT_PAGES - 1), count);
    vmm = come_back(vmm);
    expect_state(vmm, VMM_RUN_STATE_PAUSED);
    assert_int_equal(vmm_get_start(vmm), VMM_START_DONE);
    assert_true(may_write(image));
    assert_true(vmm_resume(vmm, NULL));
    assert_false(may_write(image));
    await_count(memory, count);
    guest_memory_free(memory);
    end(vmm);
    unlink(image);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_starts_paused, end_last),
        cmocka_unit_test_teardown(test_runs_and_pauses, end_last),
        cmocka_unit_test_teardown(test_pauses_at_once, end_last),
        cmocka_unit_test_teardown(test_tracked_by_pagemap_scan, end_last),
        cmocka_unit_test_teardown(test_tracked_by_faults, end_last),
        cmocka_unit_test_teardown(test_outlives_its_console, end_last),
        cmocka_unit_test_teardown(test_killed, end_last),
        cmocka_unit_test_teardown(test_ends_by_itself, end_last),
        cmocka_unit_test_teardown(test_unsupported, end_last),
        cmocka_unit_test_teardown(test_start_fails, end_last),
        cmocka_unit_test_teardown(test_is_not_begun, end_last),
        cmocka_unit_test_teardown(test_one_a_folder, end_last),
        cmocka_unit_test_teardown(test_no_lock_file, end_last),
        cmocka_unit_test_teardown(test_image_locks, end_last),
        cmocka_unit_test_teardown(test_image_of_another, end_last),
        cmocka_unit_test_teardown(test_disks_are_told, end_last),
        cmocka_unit_test_teardown(test_paused_guest_is_found_again, end_last),
        cmocka_unit_test_teardown(test_running_guest_is_found_again, end_last),
        cmocka_unit_test_teardown(test_found_amid_a_command, end_last),
        cmocka_unit_test_teardown(test_look, end_last),
        cmocka_unit_test_teardown(test_found_amid_a_look, end_last),
        cmocka_unit_test_teardown(test_unready_one_is_ended, end_last),
        cmocka_unit_test_teardown(test_guard_leaves_a_paused_one, end_last),
    };

    if (!real_bochs_is_there())
        return SKIP_ALL;
    return cmocka_run_group_tests(tests, begin, clean_up);
}
