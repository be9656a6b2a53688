/* A guest goes from one real QEMU to another in the neutral form: its RAM, and a neutral state, and nothing else. */
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "bare_guest.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/page.h"
#include "base/process.h"
#include "state/state_qemu.h"
#include "vmm/qemu/qemu.h"
#include "vmm/qemu/twin.h"
#include "vmm/vmm_driver.h"

static char *directory, *image;

static struct {
    pid_t pid;
    uint64_t start_time;
} started[2];

static Vmm *launch(guint side, const char *memory, const MachineDescription *neutral,
                   GError **error)
{
    g_autofree char *name = g_strdup_printf("side%u", side);
    g_autofree char *drive = g_strdup_printf("file=%s,format=raw,if=ide", image);
    char *line[] = {(char *)"qemu-system-x86_64",
                    (char *)"-M",
                    (char *)"pc,accel=tcg",
                    (char *)"-m",
                    (char *)memory,
                    (char *)"-nodefaults",
                    (char *)"-device",
                    (char *)"VGA",
                    (char *)"-serial",
                    (char *)"null",
                    (char *)"-display",
                    (char *)"none",
                    (char *)"-drive",
                    drive,
                    NULL};
    const VmmLaunch wanted = {.name = name,
                              .command_line = line,
                              .directory = directory,
                              .incoming = neutral != NULL,
                              .neutral = neutral};
    Vmm *vmm = qemu_launch(&wanted, error);

    if (vmm) {
        g_autoptr(VmmIdentity) identity = vmm_get_identity(vmm);

        started[side].pid = identity->pid;
        started[side].start_time = identity->start_time;
    }
    return vmm;
}

static Vmm *launch_or_fail(guint side, const MachineDescription *neutral)
{
    g_autoptr(GError) error = NULL;
    Vmm *vmm = launch(side, "16", neutral, &error);

    if (!vmm)
        fail_msg("%s", error->message);
    return vmm;
}

static GuestMemory *open_regions(Vmm *vmm, const GPtrArray *regions)
{
    g_autoptr(GError) error = NULL;
    GuestMemory *memory = guest_memory_open(vmm_get_pid(vmm), regions, &error);

    if (!memory)
        fail_msg("%s", error->message);
    return memory;
}

static void expect_regions(const GPtrArray *regions)
{
    const RamRegion *ram = regions->pdata[0], *video = regions->pdata[1];

    assert_int_equal(regions->len, 2);
    assert_string_equal(ram->name, VMM_NEUTRAL_RAM);
    assert_int_equal(ram->bytes, BARE_GUEST_BYTES);
    assert_string_equal(video->name, VMM_NEUTRAL_VIDEO);
    assert_int_equal(video->bytes, 16 << 20);
}

static GPtrArray *list_regions(Vmm *vmm)
{
    g_autoptr(VmmDescription) description = vmm_describe(vmm, NULL);
    GPtrArray *regions = vmm_list_neutral_regions(vmm, description, NULL);

    assert_non_null(regions);
    expect_regions(regions);
    return regions;
}

static void copy_all(GuestMemory *from, GuestMemory *to)
{
    for (guint i = 0; i < from->regions->len; i++) {
        const PageSpan span = {0, guest_memory_get_region(from, i)->pages};
        g_autofree uint8_t *content = g_malloc(span.count * PAGE_BYTES);

        assert_true(guest_memory_read(from, i, &span, 1, content, NULL));
        assert_true(guest_memory_write(to, i, &span, 1, content, NULL));
    }
}

/* The bytes at the reset vector, and that the firmware's block is not empty. */
static GBytes *read_firmware(Vmm *vmm)
{
    g_autoptr(VmmDescription) description = vmm_describe(vmm, NULL);
    g_autoptr(GuestMemory) memory = open_regions(vmm, description->ram_regions);

    for (guint i = 0; i < description->ram_regions->len; i++) {
        const RamRegion *region = description->ram_regions->pdata[i];
        const PageSpan span = {0, region->bytes / PAGE_BYTES};
        uint8_t *content;

        if (strcmp(region->name, "pc.bios") != 0)
            continue;
        content = g_malloc(region->bytes);
        assert_true(guest_memory_read(memory, i, &span, 1, content, NULL));
        return g_bytes_new_take(content, region->bytes);
    }
    fail_msg("no pc.bios");
    return NULL;
}

static void expect_same_firmware(GBytes *before, Vmm *vmm)
{
    g_autoptr(GBytes) after = read_firmware(vmm);

    assert_true(g_bytes_equal(before, after));
    assert_int_not_equal(((const uint8_t *)g_bytes_get_data(after, NULL))[0x3fff0], 0);
}

static BareGuestStatistics go_on(Vmm *vmm, GuestMemory *memory, const BareGuestStatistics *before)
{
    BareGuestStatistics after;
    g_autoptr(GError) error = NULL;

    if (!vmm_resume(vmm, &error))
        fail_msg("%s", error->message);
    after = bare_guest_await(memory, 0, before->ticks + 50, before->rounds + 3);
    assert_true(vmm_pause(vmm, NULL, NULL));
    after = bare_guest_read(memory, 0);
    bare_guest_expect_sound(&after);
    assert_true(after.tsc > before->tsc);
    return after;
}

static GBytes *save(Vmm *vmm)
{
    g_autoptr(GError) error = NULL;
    GBytes *state = vmm_save_neutral(vmm, VMM_SAVE_SWITCHOVER, NULL, &error);

    if (!state)
        fail_msg("%s", error->message);
    return state;
}

static void load(Vmm *vmm, GBytes *state)
{
    g_autoptr(GError) error = NULL;

    if (!vmm_load_device_state(vmm, state, &error))
        fail_msg("%s", error->message);
}

static void expect_no_twin(void)
{
    g_autofree char *command = g_strdup_printf("pgrep -f '%s/sockets/.*[.]twin'", directory);

    assert_int_not_equal(system(command), 0);
}

static void open_incoming(Vmm *vmm, const GPtrArray *regions)
{
    g_autoptr(GError) error = NULL;

    if (!vmm_open_incoming(vmm, "any", regions, &error))
        fail_msg("%s", error->message);
}

static void end(Vmm *vmm)
{
    assert_true(vmm_quit(vmm, NULL));
    vmm_free(vmm);
}

static void test_goes_on(void **unused)
{
    g_autoptr(MachineDescription) machine = machine_description_new();
    Vmm *first = launch_or_fail(0, NULL), *second = launch_or_fail(1, machine);
    g_autoptr(GPtrArray) regions = list_regions(first);
    g_autoptr(GuestMemory) here = open_regions(first, regions);
    g_autoptr(VmmDescription) description = NULL;
    g_autoptr(GuestMemory) there = NULL;
    g_autoptr(GBytes) firmware = read_firmware(first);
    g_autoptr(GBytes) state = NULL;
    BareGuestStatistics statistics;

    expect_no_twin();
    open_incoming(second, regions);
    description = vmm_describe(second, NULL);
    expect_regions(description->ram_regions);
    there = open_regions(second, description->ram_regions);
    bare_guest_await(here, 0, 200, 20);
    assert_true(vmm_pause(first, NULL, NULL));
    statistics = bare_guest_read(here, 0);
    state = save(first);
    copy_all(here, there);
    load(second, state);
    end(first);
    expect_same_firmware(firmware, second);
    go_on(second, there, &statistics);
    end(second);
}

/* Nothing is loaded, and nothing of it is left. */
static void test_state_that_is_none(void **unused)
{
    g_autoptr(MachineDescription) machine = machine_description_new();
    Vmm *first = launch_or_fail(0, NULL), *second = launch_or_fail(1, machine);
    g_autoptr(GPtrArray) regions = list_regions(first);
    g_autoptr(GBytes) bytes = g_bytes_new_static("no state", 8);
    g_autoptr(GError) error = NULL;

    open_incoming(second, regions);
    assert_false(vmm_load_device_state(second, bytes, &error));
    assert_true(error_is(error, VMFERRY_ERROR_INVALID));
    end(second);
    end(first);
}

/* As long as the source says, or not at all. */
static void test_other_memory(void **unused)
{
    g_autoptr(MachineDescription) machine = machine_description_new();
    g_autoptr(GPtrArray) regions = g_ptr_array_new_with_free_func((GDestroyNotify)ram_region_free);
    g_autoptr(GError) error = NULL;
    Vmm *vmm = launch_or_fail(1, machine);

    g_ptr_array_add(regions, ram_region_new(VMM_NEUTRAL_RAM, 0, 32 << 20));
    assert_false(vmm_open_incoming(vmm, "any", regions, &error));
    assert_non_null(strstr(error->message, "pc.ram"));
    end(vmm);
}

static void expect_twin(const char *line, const char *wanted)
{
    g_auto(GStrv) argv = g_strsplit(line, " ", -1);
    g_autoptr(GError) error = NULL;
    g_auto(GStrv) twin = qemu_twin_line(argv, &error);
    g_autofree char *text = twin ? g_strjoinv(" ", twin) : g_strdup(error->message);

    assert_string_equal(text, wanted);
}

static void test_twin_line(void **unused)
{
    expect_twin(
        "qemu -M pc -m 64 -drive file=/a.raw,if=ide -hda /b.raw -S -serial file:/x -incoming "
        "defer -snapshot",
        "qemu -M pc -m 64 -serial null -display none");
    expect_twin("qemu -chardev socket,id=c,path=/s -device isa-serial,chardev=c -device "
                "ide-hd,drive=d -blockdev driver=file,node-name=d,filename=/a",
                "qemu -chardev null,id=c -device isa-serial,chardev=c -display none");
    expect_twin(
        "qemu -netdev tap,id=n,ifname=t0 -device e1000,netdev=n,mac=1 -nic user,model=e1000,mac=2",
        "qemu -netdev hubport,hubid=0,id=n -device e1000,netdev=n,mac=1 -nic "
        "hubport,hubid=1,model=e1000,mac=2 -display none");
    expect_twin(
        "qemu -object memory-backend-file,id=m,size=64M,mem-path=/dev/shm/x,share=on -machine "
        "memory-backend=m -object secret,id=s,data=x",
        "qemu -object memory-backend-ram,id=m,size=64M -machine memory-backend=m -display none");
    expect_twin("qemu -debugcon file:/x -fsdev local,id=f,path=/ -add-fd fd=3,set=1 -sandbox on "
                "-object filter-dump,id=d,netdev=n,file=/x",
                "qemu -sandbox on -display none");
    expect_twin("qemu -nic none -net none -serial none -parallel none",
                "qemu -nic none -net none -serial none -parallel none -display none");
    expect_twin("qemu -readconfig /f",
                "-readconfig in QEMU's command line: not for a guest that comes "
                "from another VMM");
}

static int begin(void **unused)
{
    autofd int fd = -1;

    directory = g_dir_make_tmp("vmferry-neutral-XXXXXX", NULL);
    image = g_build_filename(directory, "disk.raw", NULL);
    fd = open(image, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    return fd >= 0 && fd_write_all(fd, bare_guest, 512, NULL) && ftruncate(fd, 1 << 20) == 0 ? 0
                                                                                             : -1;
}

static int end_started(void **unused)
{
    for (guint i = 0; i < G_N_ELEMENTS(started); i++)
        if (started[i].pid)
            (void)process_kill(started[i].pid, started[i].start_time, SIGKILL, NULL);
    return 0;
}

static int clean_up(void **unused)
{
    g_autofree char *command = g_strdup_printf("rm -rf %s", directory);

    return system(command);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_twin_line),
        cmocka_unit_test_teardown(test_goes_on, end_started),
        cmocka_unit_test_teardown(test_state_that_is_none, end_started),
        cmocka_unit_test_teardown(test_other_memory, end_started),
    };

    return cmocka_run_group_tests(tests, begin, clean_up);
}
