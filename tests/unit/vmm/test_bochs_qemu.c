/* A guest goes on from a real QEMU in a real Bochs, and from there in another QEMU. */
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
#include "pair_guest.h"
#include "real_bochs.h"
#include "vmm/bochs/bochs.h"
#include "vmm/bochs/driver.h"
#include "vmm/bochs/folder.h"
#include "vmm/qemu/qemu.h"
#include "vmm/vmm_driver.h"

#define SIDES 3u /* QEMU, Bochs, QEMU */

static char *directory, *image, *pair_image, *other_image;

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

/* With the cards of a default machine, VGA and e1000. */
static gboolean with_cards;

/* One processor, or two that are cores of one socket. */
static guint vcpus = 1;

static Vmm *launch_qemu(guint side, gboolean incoming)
{
    g_autofree char *name = g_strdup_printf("qemu%u", side);
    g_autofree char *drive =
        g_strdup_printf("file=%s,format=raw,snapshot=on,if=ide", vcpus > 1 ? pair_image : image);
    char *line[] = {(char *)"qemu-system-x86_64",
                    (char *)"-M",
                    (char *)"pc,accel=tcg",
                    (char *)"-m",
                    (char *)"16",
                    (char *)"-smp",
                    (char *)(vcpus > 1 ? "2,sockets=1,cores=2" : "1"),
                    (char *)"-nodefaults",
                    (char *)"-vga",
                    (char *)(with_cards ? "std" : "none"),
                    (char *)"-net",
                    (char *)(with_cards ? "nic,model=e1000" : "none"),
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
    const BochsDisk disk = {0, 0, other_image};
    const BochsMachine machine = {
        .disks = &disk,
        .disk_count = 1,
        .memory_bytes = BARE_GUEST_BYTES,
        .vcpus = vcpus,
        .cores = vcpus,
        .cpu_model = "corei7_haswell_4770",
        .ips = 50000000,
        .start_time = 1000,
        .slots = {with_cards ? BOCHS_SLOT_VGA : BOCHS_SLOT_EMPTY,
                  with_cards ? BOCHS_SLOT_E1000 : BOCHS_SLOT_EMPTY},
        .mac = {0x52, 0x54, 0, 0x12, 0x34, 0x56},
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

/* *ret_region: main RAM. */
static GuestMemory *open_memory(Vmm *vmm, guint *ret_region)
{
    g_autoptr(VmmDescription) description = vmm_describe(vmm, NULL);
    g_autoptr(GError) error = NULL;
    GuestMemory *memory = guest_memory_open(vmm_get_pid(vmm), description->ram_regions, &error);

    if (!memory)
        fail_msg("%s", error->message);
    for (*ret_region = 0; *ret_region < description->ram_regions->len; ++*ret_region) {
        const char *name = guest_memory_get_region(memory, *ret_region)->name;

        if (strcmp(name, "ram") == 0 || strcmp(name, "pc.ram") == 0)
            return memory;
    }
    fail_msg("no main RAM");
    return NULL;
}

/* Of the VGA; FALSE: there is none. */
static gboolean find_video(GuestMemory *memory, guint *ret_region)
{
    for (*ret_region = 0; *ret_region < memory->regions->len; ++*ret_region) {
        const char *name = guest_memory_get_region(memory, *ret_region)->name;

        if (strcmp(name, VMM_NEUTRAL_VIDEO) == 0 || g_str_has_suffix(name, "vga.vram"))
            return TRUE;
    }
    return FALSE;
}

static uint8_t *read_region(GuestMemory *memory, guint region)
{
    const PageSpan span = {0, guest_memory_get_region(memory, region)->pages};
    uint8_t *content = g_malloc(span.count * PAGE_BYTES);

    assert_true(guest_memory_read(memory, region, &span, 1, content, NULL));
    return content;
}

static void copy_memory(GuestMemory *from, guint here, GuestMemory *to, guint there)
{
    const PageSpan span = {0, guest_memory_get_region(from, here)->pages};
    g_autofree uint8_t *content = read_region(from, here);

    assert_true(guest_memory_write(to, there, &span, 1, content, NULL));
}

static void copy_video(GuestMemory *from, GuestMemory *to)
{
    guint here, there;

    if (find_video(from, &here) && find_video(to, &there))
        copy_memory(from, here, to, there);
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

/* The neutral state of a QEMU's stream, encoded. */
static GBytes *translate(GBytes *stream)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(StateNode) state =
        state_from_qemu(g_bytes_get_data(stream, NULL), g_bytes_get_size(stream), &error);

    if (!state)
        fail_msg("%s", error->message);
    return state_encode(state);
}

static GBytes *translate_back(GBytes *encoded, GBytes *template)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(StateNode) state =
        state_decode(g_bytes_get_data(encoded, NULL), g_bytes_get_size(encoded), &error);
    GBytes *stream = state ? state_to_qemu(state, g_bytes_get_data(template, NULL),
                                           g_bytes_get_size(template), &error)
                           : NULL;

    if (!stream)
        fail_msg("%s", error->message);
    return stream;
}

/* All but main RAM: what QEMU's firmware is in. */
static void copy_rest(GuestMemory *from, GuestMemory *to, guint ram)
{
    for (guint i = 0; i < from->regions->len; i++)
        if (i != ram)
            copy_memory(from, i, to, i);
}

/* The picture is the same, and not nothing. */
static void expect_same_video(GuestMemory *before, GuestMemory *after)
{
    guint here, there;
    g_autofree uint8_t *left = NULL, *right = NULL;

    if (!find_video(before, &here))
        return;
    assert_true(find_video(after, &there));
    left = read_region(before, here);
    right = read_region(after, there);
    assert_memory_equal(left, right, 16 << 20);
    assert_true(memchr(left, 'S', 65536) != NULL);
}

/* Runs it until it has gone through its table some more. */
static BareGuestStatistics go_on(Vmm *vmm, GuestMemory *memory, guint region,
                                 const BareGuestStatistics *before)
{
    BareGuestStatistics after;
    g_autoptr(GError) error = NULL;

    if (!vmm_resume(vmm, &error))
        fail_msg("%s", error->message);
    bare_guest_await(memory, region, before->ticks + 50, before->rounds + 3);
    assert_true(vmm_pause(vmm, NULL, NULL));
    after = bare_guest_read(memory, region);
    bare_guest_expect_sound(&after);
    assert_true(after.tsc > before->tsc);
    return after;
}

static Vmm *launch_incoming(Vmm *source)
{
    g_autoptr(VmmDescription) description = vmm_describe(source, NULL);
    Vmm *vmm = launch_qemu(2, TRUE);
    g_autoptr(GError) error = NULL;

    if (!vmm_open_incoming(vmm, description->machine, description->ram_regions, &error))
        fail_msg("%s", error->message);
    return vmm;
}

static StateNode *decode(GBytes *encoded)
{
    StateNode *state =
        state_decode(g_bytes_get_data(encoded, NULL), g_bytes_get_size(encoded), NULL);

    assert_non_null(state);
    return state;
}

/* The devices that the guest does not touch are as they went. */
static void expect_same_devices(GBytes *there, GBytes *returned)
{
    static const char *const types[] = {"intel,440fx",     "intel,piix3",  "intel,82093aa",
                                        "intel,piix3-ide", "intel,8042",   "intel,8237a",
                                        "intel,hpet",      "ibm,port92",   "ibm,speaker",
                                        "bochs,vbe",       "intel,82540em"};
    g_autoptr(StateNode) before = decode(there);
    g_autoptr(StateNode) after = decode(returned);

    for (guint i = 0; i < G_N_ELEMENTS(types); i++) {
        g_autoptr(GPtrArray) differences = NULL;

        if (!with_cards && i >= G_N_ELEMENTS(types) - 2)
            continue;
        differences = state_compare(state_find_device(before, types[i], NULL),
                                    state_find_device(after, types[i], NULL));

        for (guint j = 0; j < differences->len; j++) {
            const StateDifference *difference = differences->pdata[j];

            fail_msg("%s, %s: %s, %s", types[i], difference->path, difference->left,
                     difference->right);
        }
    }
}

static void go_there_and_back(void)
{
    Vmm *first = launch_qemu(0, FALSE), *second = launch_bochs(1), *third = launch_incoming(first);
    guint at_first, at_second, at_third;
    g_autoptr(GuestMemory) memory = open_memory(first, &at_first);
    g_autoptr(GuestMemory) in_bochs = open_memory(second, &at_second);
    g_autoptr(GuestMemory) back = open_memory(third, &at_third);
    g_autoptr(GBytes) stream = NULL;
    g_autoptr(GBytes) there = NULL;
    g_autoptr(GBytes) returned = NULL;
    g_autoptr(GBytes) again = NULL;
    g_autoptr(GError) error = NULL;
    BareGuestStatistics statistics;

    bare_guest_await(memory, at_first, 200, 20);
    assert_true(vmm_pause(first, NULL, NULL));
    statistics = bare_guest_read(memory, at_first);
    bare_guest_expect_sound(&statistics);
    stream = save(first);
    there = translate(stream);
    copy_memory(memory, at_first, in_bochs, at_second);
    copy_video(memory, in_bochs);
    load(second, there);
    statistics = go_on(second, in_bochs, at_second, &statistics);
    returned = save(second);
    expect_same_devices(there, returned);
    again = translate_back(returned, stream);
    copy_rest(memory, back, at_first);
    copy_memory(in_bochs, at_second, back, at_third);
    copy_video(in_bochs, back);
    expect_same_video(memory, back);
    if (!vmm_load_device_state(third, again, &error))
        fail_msg("%s", error->message);
    go_on(third, back, at_third, &statistics);
    end(first);
    end(second);
    end(third);
}

static void test_there_and_back(void **unused)
{
    go_there_and_back();
}

static void test_there_and_back_with_cards(void **unused)
{
    with_cards = TRUE;
    go_there_and_back();
}

/* ---- two processors ---- */

/* In which of them the second processor is started. */
typedef enum { IN_FIRST_QEMU, IN_BOCHS, IN_SECOND_QEMU } StartedIn;

/* Runs it until all processors that have been started have gone through their tables some more. */
static PairGuestStatistics go_on_together(Vmm *vmm, GuestMemory *memory, guint region, guint cpus,
                                          const PairGuestStatistics *before)
{
    PairGuestStatistics after;
    g_autoptr(GError) error = NULL;

    if (!vmm_resume(vmm, &error))
        fail_msg("%s", error->message);
    (void)pair_guest_await(memory, region, cpus, before, 20, 3);
    if (!vmm_pause(vmm, NULL, &error))
        fail_msg("%s", error->message);
    after = pair_guest_read(memory, region);
    pair_guest_expect_sound(&after);
    for (guint i = 0; i < cpus; i++)
        assert_true(after.cpus[i].tsc > before->cpus[i].tsc);
    if (cpus > 1)
        assert_true(after.cpus[1].signals > before->cpus[1].signals);
    return after;
}

/* A processor of QEMU that has halted may still be about to do so. */
static void expect_waits_for_sipi(GBytes *encoded, gboolean waits, gboolean may_be_soon)
{
    g_autoptr(StateNode) state = decode(encoded);
    gboolean soon = state_number_or(state, "cpus[1].pending_init", 0) != 0;

    assert_int_equal(state_length(state_find(state, "cpus")), 2);
    assert_int_equal(state_number_or(state, "cpus[0].activity", 9), 0);
    assert_true((state_number_or(state, "cpus[1].activity", 9) == 3 || soon) == waits);
    assert_true(may_be_soon || !soon);
    assert_int_equal(state_number_or(state, "cpus[0].ia32_tsc", 0),
                     state_number_or(state, "cpus[1].ia32_tsc", 1));
}

static void go_together(StartedIn where)
{
    static const PairGuestStatistics none;
    Vmm *first = launch_qemu(0, FALSE), *second = launch_bochs(1), *third = launch_incoming(first);
    guint at_first, at_second, at_third;
    g_autoptr(GuestMemory) memory = open_memory(first, &at_first);
    g_autoptr(GuestMemory) in_bochs = open_memory(second, &at_second);
    g_autoptr(GuestMemory) back = open_memory(third, &at_third);
    g_autoptr(GBytes) stream = NULL;
    g_autoptr(GBytes) there = NULL;
    g_autoptr(GBytes) returned = NULL;
    g_autoptr(GBytes) again = NULL;
    g_autoptr(GError) error = NULL;
    PairGuestStatistics statistics = pair_guest_await(memory, at_first, 1, &none, 20, 3);

    if (where == IN_FIRST_QEMU) {
        pair_guest_start(memory, at_first);
        (void)pair_guest_await(memory, at_first, 2, &statistics, 20, 3);
    }
    assert_true(vmm_pause(first, NULL, NULL));
    statistics = pair_guest_read(memory, at_first);
    pair_guest_expect_sound(&statistics);
    stream = save(first);
    there = translate(stream);
    expect_waits_for_sipi(there, where != IN_FIRST_QEMU, TRUE);
    copy_memory(memory, at_first, in_bochs, at_second);
    load(second, there);
    if (where == IN_BOCHS)
        pair_guest_start(in_bochs, at_second);
    statistics =
        go_on_together(second, in_bochs, at_second, where == IN_SECOND_QEMU ? 1 : 2, &statistics);
    returned = save(second);
    expect_waits_for_sipi(returned, where == IN_SECOND_QEMU, FALSE);
    again = translate_back(returned, stream);
    copy_rest(memory, back, at_first);
    copy_memory(in_bochs, at_second, back, at_third);
    if (!vmm_load_device_state(third, again, &error))
        fail_msg("%s", error->message);
    if (where == IN_SECOND_QEMU) {
        g_autoptr(GBytes) waiting = NULL;
        g_autoptr(GBytes) seen = NULL;

        statistics = go_on_together(third, back, at_third, 1, &statistics);
        waiting = save(third);
        seen = translate(waiting);
        expect_waits_for_sipi(seen, TRUE, FALSE);
        pair_guest_start(back, at_third);
    }
    (void)go_on_together(third, back, at_third, 2, &statistics);
    end(first);
    end(second);
    end(third);
}

static void test_two_processors(void **unused)
{
    with_cards = FALSE;
    vcpus = 2;
    go_together(IN_FIRST_QEMU);
}

/* One that waits for its start-up IPI does so in the other VMM, and takes it. */
static void test_started_there(void **unused)
{
    with_cards = FALSE;
    vcpus = 2;
    go_together(IN_BOCHS);
}

static void test_started_back(void **unused)
{
    with_cards = FALSE;
    vcpus = 2;
    go_together(IN_SECOND_QEMU);
}

static gboolean write_image(const char *path, const uint8_t *begin, size_t length)
{
    autofd int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

    return fd >= 0 && fd_write_all(fd, begin, length, NULL) && ftruncate(fd, 1 << 20) == 0;
}

static int begin(void **unused)
{
    autofd int other = -1;

    directory = g_dir_make_tmp("vmferry-bochs-XXXXXX", NULL);
    image = g_build_filename(directory, "disk.raw", NULL);
    pair_image = g_build_filename(directory, "pair.raw", NULL);
    other_image = g_build_filename(directory, "other.raw", NULL);
    other = open(other_image, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (other < 0 || ftruncate(other, 1 << 20) < 0)
        return -1;
    return write_image(image, bare_guest, 512) &&
                   write_image(pair_image, pair_guest, (size_t)(pair_guest_end - pair_guest))
               ? 0
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
        cmocka_unit_test_teardown(test_there_and_back, end_started),
        cmocka_unit_test_teardown(test_there_and_back_with_cards, end_started),
        cmocka_unit_test_teardown(test_two_processors, end_started),
        cmocka_unit_test_teardown(test_started_there, end_started),
        cmocka_unit_test_teardown(test_started_back, end_started),
    };

    if (!real_bochs_is_there())
        return SKIP_ALL;
    return cmocka_run_group_tests(tests, begin, clean_up);
}
