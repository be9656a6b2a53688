/* A guest goes on from a real QEMU in a real Bochs. */
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
#include "vmm/bochs/bochs.h"
#include "vmm/bochs/driver.h"
#include "vmm/bochs/folder.h"
#include "vmm/qemu/qemu.h"
#include "vmm/vmm_driver.h"

#define SIDES 3u /* QEMU, Bochs, QEMU */

static char *directory, *image;

/* Of a test that failed. */
static struct {
    pid_t pid;
    uint64_t start_time;
} started[SIDES];

static void note_started(Vmm *vmm, guint side)
{
    g_autoptr(VmmIdentity) identity = vmm_get_identity(vmm);

    started[side].pid = identity->pid;
    started[side].start_time = identity->start_time;
}

static Vmm *launch_qemu(guint side, gboolean incoming)
{
    g_autofree char *name = g_strdup_printf("qemu%u", side);
    g_autofree char *drive = g_strdup_printf("file=%s,format=raw,snapshot=on,if=ide", image);
    char *line[] = {(char *)"qemu-system-x86_64",
                    (char *)"-M",
                    (char *)"pc,accel=tcg",
                    (char *)"-m",
                    (char *)"16",
                    (char *)"-nodefaults",
                    (char *)"-vga",
                    (char *)"none",
                    (char *)"-display",
                    (char *)"none",
                    (char *)"-drive",
                    drive,
                    NULL};
    const VmmLaunch launch = {
        .name = name, .command_line = line, .directory = directory, .incoming = incoming};
    g_autoptr(GError) error = NULL;
    Vmm *vmm = qemu_launch(&launch, &error);

    if (!vmm)
        fail_msg("%s", error->message);
    note_started(vmm, side);
    return vmm;
}

static Vmm *launch_bochs(guint side)
{
    const BochsMachine machine = {
        .memory_bytes = BARE_GUEST_BYTES,
        .vcpus = 1,
        .cpu_model = "corei7_haswell_4770",
        .ips = 50000000,
        .start_time = 1000,
    };
    const BochsLaunch wanted = {.name = "bochs", .directory = directory, .machine = &machine};
    g_autoptr(GError) error = NULL;
    Vmm *vmm = bochs_launch(&wanted, &error);

    if (!vmm)
        fail_msg("%s", error->message);
    note_started(vmm, side);
    return vmm;
}

static GBytes *save(Vmm *vmm)
{
    g_autoptr(GError) error = NULL;
    GBytes *state = vmm_save_device_state(vmm, VMM_SAVE_SWITCHOVER, &error);

    if (!state)
        fail_msg("%s", error->message);
    return state;
}

/* Main RAM is the largest region. */
static GuestMemory *open_memory(Vmm *vmm, guint *ret_region)
{
    g_autoptr(VmmDescription) description = vmm_describe(vmm, NULL);
    g_autoptr(GError) error = NULL;
    GuestMemory *memory = guest_memory_open(vmm_get_pid(vmm), description->ram_regions, &error);

    if (!memory)
        fail_msg("%s", error->message);
    for (*ret_region = 0; *ret_region < description->ram_regions->len; ++*ret_region)
        if (guest_memory_get_region(memory, *ret_region)->pages * PAGE_BYTES == BARE_GUEST_BYTES)
            return memory;
    fail_msg("no region of 16 MiB");
    return NULL;
}

static void copy_memory(GuestMemory *from, guint here, GuestMemory *to, guint there)
{
    const PageSpan span = {0, BARE_GUEST_BYTES / PAGE_BYTES};
    g_autofree uint8_t *content = g_malloc(BARE_GUEST_BYTES);

    assert_true(guest_memory_read(from, here, &span, 1, content, NULL));
    assert_true(guest_memory_write(to, there, &span, 1, content, NULL));
}

static void load(Vmm *vmm, GBytes *state)
{
    g_autoptr(VmmDescription) description = vmm_describe(vmm, NULL);
    g_autoptr(GError) error = NULL;

    if (!vmm_open_incoming(vmm, "pc-i440fx", description->ram_regions, &error) ||
        !vmm_load_device_state(vmm, state, &error))
        fail_msg("%s", error->message);
}

static void end(Vmm *vmm)
{
    assert_true(vmm_quit(vmm, NULL));
    vmm_free(vmm);
}

static void test_from_qemu(void **unused)
{
    Vmm *first = launch_qemu(0, FALSE), *second = launch_bochs(1);
    guint here, there;
    g_autoptr(GuestMemory) source = open_memory(first, &here);
    g_autoptr(GuestMemory) destination = open_memory(second, &there);
    g_autoptr(GBytes) stream = NULL;
    g_autoptr(StateNode) state = NULL;
    g_autoptr(GError) error = NULL;
    g_autoptr(GBytes) encoded = NULL;
    BareGuestStatistics before, after;

    bare_guest_await(source, here, 200, 20);
    assert_true(vmm_pause(first, NULL, NULL));
    before = bare_guest_read(source, here);
    bare_guest_expect_sound(&before);
    stream = save(first);
    state = state_from_qemu(g_bytes_get_data(stream, NULL), g_bytes_get_size(stream), &error);
    if (!state)
        fail_msg("%s", error->message);
    copy_memory(source, here, destination, there);
    encoded = state_encode(state);
    load(second, encoded);
    assert_true(vmm_resume(second, NULL));
    after = bare_guest_await(destination, there, before.ticks + 50, before.rounds + 3);
    bare_guest_expect_sound(&after);
    end(first);
    end(second);
}

static int begin(void **unused)
{
    autofd int fd = -1;

    directory = g_dir_make_tmp("vmferry-bochs-XXXXXX", NULL);
    image = g_build_filename(directory, "disk.raw", NULL);
    fd = open(image, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    return fd >= 0 && fd_write_all(fd, bare_guest, 512, NULL) && ftruncate(fd, 1 << 20) == 0 ? 0
                                                                                             : -1;
}

static int end_started(void **unused)
{
    for (guint i = 0; i < SIDES; i++)
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
        cmocka_unit_test_teardown(test_from_qemu, end_started),
    };

    return cmocka_run_group_tests(tests, begin, clean_up);
}
