/* A guard's deadline with a real QEMU (TCG, its BIOS only).  Skipped where there is none. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <signal.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/process.h"
#include "guard/guard.h"
#include "vmm/qemu/qemu.h"

#define QEMU "qemu-system-x86_64"
#define SKIPPED 77 /* for Meson */
#define MS ((uint64_t)1000000)
#define LEASE_MS (GUARD_DEADLINE_LEAD_MS + 600)
#define LONG_MS 120000
#define AWAIT_MS 60000

static char *folder;
static Vmm *vmm; /* NULL: nobody holds its monitor */
static VmmIdentity *identity;
static GuardDeadline *deadline;
static GuardAction pause_action;

static int set_up(void **state)
{
    char *words[] = {(char *)QEMU,       (char *)"-accel", (char *)"tcg", (char *)"-M",
                     (char *)"pc",       (char *)"-m",     (char *)"32M", (char *)"-nodefaults",
                     (char *)"-display", (char *)"none",   NULL};
    g_autofree char *file = NULL;
    g_autoptr(GError) error = NULL;
    VmmLaunch job = {.name = "idle", .command_line = words};

    folder = g_dir_make_tmp("vmferry-live-XXXXXX", NULL);
    job.directory = folder;
    vmm = qemu_launch(&job, &error);
    if (!vmm)
        fail_msg("%s", error->message);
    identity = vmm_get_identity(vmm);
    file = g_build_filename(folder, "deadline", NULL);
    deadline = guard_deadline_open(file, NULL);
    assert_non_null(deadline);
    assert_true(vmm_get_pause_action(vmm, &pause_action, NULL));
    return 0;
}

static int tear_down(void **state)
{
    g_autofree char *remove = g_strdup_printf("rm -r '%s'", folder);

    guard_deadline_close(deadline);
    vmm_quit(vmm, NULL);
    vmm_free(vmm);
    vmm_identity_free(identity);
    (void)!system(remove);
    g_free(folder);
    return 0;
}

static void reattach(void)
{
    uint64_t end = clock_now_ns() + AWAIT_MS * MS;

    while (!(vmm = qemu_reattach(identity, NULL)))
        assert_true(clock_now_ns() < end);
}

static VmmRunState get_state(void)
{
    VmmRunState run_state;

    assert_true(vmm_get_run_state(vmm, &run_state, NULL));
    return run_state;
}

static void arm(Guard *guard, uint64_t ms)
{
    g_autoptr(GError) error = NULL;

    if (!guard_arm_deadline(guard, deadline, &pause_action, clock_boot_ns() + ms * MS, &error))
        fail_msg("%s", error->message);
}

static GuardDeadlineState let_pass(Guard *guard)
{
    GuardDeadlineState found;

    arm(guard, LEASE_MS);
    do {
        clock_sleep_ns(MS);
        found = guard_deadline_get(deadline, NULL);
    } while (found == GUARD_DEADLINE_SET || found == GUARD_DEADLINE_ACTING);
    return found;
}

/* As where the agent is dead: nobody holds the monitor. */
static void test_paused(void **state)
{
    g_autoptr(Guard) guard = guard_start(identity->pid, NULL, NULL);

    assert_int_equal(get_state(), VMM_RUN_STATE_RUNNING);
    g_clear_pointer(&vmm, vmm_free);
    assert_int_equal(let_pass(guard), GUARD_DEADLINE_PAUSED);
    reattach();
    assert_int_equal(get_state(), VMM_RUN_STATE_PAUSED);
    /* Found paused: not by us.  Then the lease is back. */
    g_clear_pointer(&vmm, vmm_free);
    assert_int_equal(let_pass(guard), GUARD_DEADLINE_WAS_PAUSED);
    reattach();
    arm(guard, LONG_MS);
    assert_true(vmm_resume(vmm, NULL));
    assert_int_equal(get_state(), VMM_RUN_STATE_RUNNING);
    assert_true(guard_deadline_clear(deadline));
}

/* As where the agent hangs: it holds the monitor. */
static void test_stopped(void **state)
{
    g_autoptr(Guard) guard = guard_start(identity->pid, NULL, NULL);

    assert_int_equal(let_pass(guard), GUARD_DEADLINE_STOPPED);
    arm(guard, LONG_MS);
    assert_true(process_kill(identity->pid, identity->start_time, SIGCONT, NULL));
    assert_int_equal(get_state(), VMM_RUN_STATE_RUNNING);
    assert_true(guard_deadline_clear(deadline));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_paused),
        cmocka_unit_test(test_stopped),
    };
    g_autofree char *program = g_find_program_in_path(QEMU);

    if (!program) {
        print_message("skipped: there is no " QEMU "\n");
        return SKIPPED;
    }
    signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
