/* The state of a real Bochs, loaded into another one in which its guest goes on. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "bare_guest.h"
#include "base/error.h"
#include "base/page.h"
#include "base/process.h"
#include "state/tree.h"
#include "real_bochs.h"
#include "vmm/bochs/bochs.h"
#include "vmm/bochs/driver.h"
#include "vmm/bochs/folder.h"
#include "vmm/bochs/live.h"
#include "vmm/bochs/parameters.h"
#include "vmm/bochs/settle.h"

#define SIDES 2u

static char *directory;

/* Of a test that failed. */
static struct {
    pid_t pid;
    uint64_t start_time;
} started[SIDES];

static Vmm *launch(guint side)
{
    static const char *const names[SIDES] = {"a", "b"};
    const BochsMachine machine = {
        .memory_bytes = BARE_GUEST_BYTES,
        .vcpus = 1,
        .cpu_model = "corei7_haswell_4770",
        .ips = 20000000,
        .start_time = 1000,
    };
    const BochsLaunch wanted = {.name = names[side], .directory = directory, .machine = &machine};
    g_autoptr(GError) error = NULL;
    Vmm *vmm = bochs_launch(&wanted, &error);

    if (!vmm)
        fail_msg("%s", error->message);
    started[side].pid = vmm_get_pid(vmm);
    started[side].start_time = ((BochsVmm *)vmm)->process->start_time;
    return vmm;
}

static void end(Vmm *vmm)
{
    assert_true(vmm_quit(vmm, NULL));
    vmm_free(vmm);
}

static GuestMemory *open_memory(Vmm *vmm)
{
    g_autoptr(VmmDescription) description = vmm_describe(vmm, NULL);
    GuestMemory *memory = guest_memory_open(vmm_get_pid(vmm), description->ram_regions, NULL);

    assert_non_null(memory);
    return memory;
}

static void put_guest(Vmm *vmm, GuestMemory *memory)
{
    const GuestPiece piece = {BARE_GUEST_CODE, 512, bare_guest};
    BochsProcess *process = ((BochsVmm *)vmm)->process;
    g_autoptr(BochsNode) cpu = bochs_tree_new("cpu0");

    assert_int_equal(bare_guest_end - bare_guest, 512);
    assert_true(guest_memory_write_pieces(memory, 0, &piece, 1, NULL));
    bochs_tree_set(cpu, "RIP", BOCHS_NODE_HEX, BARE_GUEST_CODE);
    bochs_tree_set(cpu, "CS.selector", BOCHS_NODE_HEX, 0);
    bochs_tree_set(cpu, "CS.base", BOCHS_NODE_HEX, 0);
    assert_true(bochs_restore(process->console, process->state_folder, cpu, NULL));
}

static void copy_memory(GuestMemory *from, GuestMemory *to)
{
    const PageSpan span = {0, BARE_GUEST_BYTES / PAGE_BYTES};
    g_autofree uint8_t *content = g_malloc(BARE_GUEST_BYTES);

    assert_true(guest_memory_read(from, 0, &span, 1, content, NULL));
    assert_true(guest_memory_write(to, 0, &span, 1, content, NULL));
}

static GBytes *save(Vmm *vmm)
{
    g_autoptr(GError) error = NULL;
    GBytes *state = vmm_save_device_state(vmm, VMM_SAVE_SWITCHOVER, &error);

    if (!state)
        fail_msg("%s", error->message);
    return state;
}

static void load(Vmm *vmm, GBytes *state)
{
    g_autoptr(VmmDescription) description = vmm_describe(vmm, NULL);
    g_autoptr(GError) error = NULL;

    if (!vmm_open_incoming(vmm, "pc-i440fx", description->ram_regions, &error) ||
        !vmm_load_device_state(vmm, state, &error))
        fail_msg("%s", error->message);
}

static void expect_equal_state(GBytes *left, GBytes *right)
{
    g_autoptr(StateNode) a =
        state_decode(g_bytes_get_data(left, NULL), g_bytes_get_size(left), NULL);
    g_autoptr(StateNode) b =
        state_decode(g_bytes_get_data(right, NULL), g_bytes_get_size(right), NULL);
    g_autoptr(GPtrArray) differences = state_compare(a, b);

    for (guint i = 0; i < differences->len; i++) {
        const StateDifference *difference = differences->pdata[i];

        print_message("%s: %s, %s\n", difference->path, difference->left, difference->right);
    }
    assert_int_equal(differences->len, 0);
}

/* What it told once is told again for as long as it stands at that prompt, and no longer. */
static void expect_told_anew(Vmm *vmm, GBytes *before)
{
    BochsProcess *process = ((BochsVmm *)vmm)->process;
    g_autoptr(GBytes) same = save(vmm);
    g_autoptr(BochsNode) cpu = bochs_tree_new("cpu0");
    g_autoptr(BochsNode) shown = bochs_show(process->console, "cpu0.R15", NULL);
    g_autoptr(GBytes) other = NULL, again = NULL;

    assert_true(g_bytes_equal(same, before));
    bochs_tree_set(cpu, "R15", BOCHS_NODE_HEX, shown->number ^ 1);
    assert_true(bochs_restore(process->console, process->state_folder, cpu, NULL));
    other = save(vmm);
    assert_false(g_bytes_equal(other, before));
    bochs_tree_set(cpu, "R15", BOCHS_NODE_HEX, shown->number);
    assert_true(bochs_restore(process->console, process->state_folder, cpu, NULL));
    again = save(vmm);
    expect_equal_state(again, before);
}

static void test_goes_on_in_another(void **unused)
{
    Vmm *first = launch(0), *second = launch(1);
    g_autoptr(GuestMemory) here = open_memory(first);
    g_autoptr(GuestMemory) there = open_memory(second);
    g_autoptr(GBytes) state = NULL;
    g_autoptr(GBytes) again = NULL;
    BareGuestStatistics before, after;

    put_guest(first, here);
    assert_true(vmm_resume(first, NULL));
    bare_guest_await(here, 0, 50, 2);
    assert_true(vmm_pause(first, NULL, NULL));
    before = bare_guest_read(here, 0);
    bare_guest_expect_sound(&before);
    state = save(first);
    copy_memory(here, there);
    load(second, state);
    again = save(second);
    expect_equal_state(state, again);
    expect_told_anew(second, again);
    assert_true(vmm_resume(second, NULL));
    after = bare_guest_await(there, 0, before.ticks + 50, before.rounds + 2);
    bare_guest_expect_sound(&after);
    assert_true(after.tsc > before.tsc);
    end(first);
    end(second);
}

/* One that waits for its state runs only when that is there, whole. */
static void test_incoming(void **unused)
{
    Vmm *vmm = launch(0);
    g_autoptr(VmmDescription) description = vmm_describe(vmm, NULL);
    g_autoptr(GBytes) state = save(vmm);
    g_autoptr(GBytes) half = g_bytes_new_from_bytes(state, 0, g_bytes_get_size(state) / 2);
    g_autoptr(GError) error = NULL;
    VmmRunState run_state;

    assert_false(vmm_load_device_state(vmm, state, NULL));
    ((RamRegion *)description->ram_regions->pdata[0])->bytes -= PAGE_BYTES;
    assert_false(vmm_open_incoming(vmm, "pc-i440fx", description->ram_regions, &error));
    assert_true(error_is(error, VMFERRY_ERROR_REFUSED));
    ((RamRegion *)description->ram_regions->pdata[0])->bytes += PAGE_BYTES;
    assert_true(vmm_open_incoming(vmm, "pc-i440fx", description->ram_regions, NULL));
    assert_true(vmm_get_run_state(vmm, &run_state, NULL));
    assert_int_equal(run_state, VMM_RUN_STATE_INCOMING);
    assert_false(vmm_load_device_state(vmm, half, NULL));
    g_clear_error(&error);
    assert_false(vmm_resume(vmm, &error));
    assert_true(error_is(error, VMFERRY_ERROR_REFUSED));
    assert_true(vmm_load_device_state(vmm, state, NULL));
    assert_false(vmm_load_device_state(vmm, state, NULL));
    assert_true(vmm_resume(vmm, NULL));
    assert_true(vmm_pause(vmm, NULL, NULL));
    end(vmm);
}

static uint64_t ask_ticks(const BochsProcess *process)
{
    g_autoptr(BochsNode) system = bochs_show(process->console, "pc_system", NULL);
    uint64_t total = 0, countdown = 0, period = 0;

    assert_non_null(system);
    assert_true(bochs_tree_get(system, "ticksTotal", &total, NULL));
    assert_true(bochs_tree_get(system, "currCountdown", &countdown, NULL));
    assert_true(bochs_tree_get(system, "currCountdownPeriod", &period, NULL));
    return total + period - countdown;
}

/* One where something is under way goes on for a while, and stands again; another one is left as it is. */
static void test_settles(void **unused)
{
    Vmm *vmm = launch(0);
    BochsProcess *process = ((BochsVmm *)vmm)->process;
    g_autoptr(BochsNode) serial = bochs_tree_new("serial");
    uint64_t before = ask_ticks(process);

    assert_true(bochs_settle(process, 1, NULL));
    assert_int_equal(ask_ticks(process), before);
    bochs_tree_set(serial, "0.line_status.tsr_empty", BOCHS_NODE_BOOLEAN, 0);
    assert_true(bochs_restore(process->console, process->state_folder, serial, NULL));
    {
        g_autoptr(GError) error = NULL;

        if (!bochs_settle(process, 1, &error))
            fail_msg("%s", error->message);
    }
    assert_true(ask_ticks(process) > before);
    end(vmm);
}

static int begin(void **unused)
{
    directory = g_dir_make_tmp("vmferry-bochs-XXXXXX", NULL);
    return directory ? 0 : -1;
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
    g_autofree char *a = g_build_filename(directory, "a.bochs", NULL);
    g_autofree char *b = g_build_filename(directory, "b.bochs", NULL);

    bochs_folder_remove(a);
    bochs_folder_remove(b);
    rmdir(directory);
    g_free(directory);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_goes_on_in_another, end_started),
        cmocka_unit_test_teardown(test_incoming, end_started),
        cmocka_unit_test_teardown(test_settles, end_started),
    };

    if (!real_bochs_is_there())
        return SKIP_ALL;
    return cmocka_run_group_tests(tests, begin, clean_up);
}
