/* A keeper of leases, with a witness and a VMM that are fakes, and a real guard. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "migrate/lease_keeper.h"
#include "policy/lease.h"

#define MS ((uint64_t)1000000)
#define LEASE_MS 1600
#define AWAIT_MS 30000
#define ID "0123456789abcdef0123456789abcdef"

typedef enum { GRANTS, REFUSES, IS_SILENT } Mood;

typedef struct {
    Witness base;
    gint mood, asked, wanted_ms; /* atomic */
} FakeWitness;

typedef struct {
    char *folder, *file;
    pid_t vmm;
    FakeWitness witness;
    LeaseKeeper *keeper;
    gint guards, conts, stops_undone, held, heard; /* atomic */
    gint pauses, is_paused;                        /* atomic: by the keeper itself */
    gboolean pauses_itself;
    gint hangs; /* atomic: a pause of ours lasts until the process was stopped and goes on */
    guint shortest_ms;
    gint undo_fails; /* atomic: so often */
    GuardDeadlineState how;
} Fixture;

/* ---- the witness ---- */

static gboolean fake_call(Witness *witness, const WitnessRequest *request, int timeout_ms,
                          WitnessReply *ret, GError **error)
{
    FakeWitness *fake = (FakeWitness *)witness;
    Mood mood = (Mood)g_atomic_int_get(&fake->mood);

    g_atomic_int_inc(&fake->asked);
    g_atomic_int_set(&fake->wanted_ms, (gint)request->lease_ms);
    *ret = (WitnessReply){.answered = mood != IS_SILENT, .sent_ns = clock_boot_ns()};
    if (mood == GRANTS) {
        ret->lease_ms = request->lease_ms;
        return TRUE;
    }
    if (mood == REFUSES) {
        ret->state = WITNESS_SOURCE_MAY;
        error_set(error, VMFERRY_ERROR_REFUSED, "the source may take over");
    } else {
        error_set(error, VMFERRY_ERROR_TIMEOUT, "no answer");
    }
    return FALSE;
}

static const WitnessOps fake_ops = {.call = fake_call};

/* ---- the VMM: there is no monitor, so a guard stops it ---- */

static pid_t start_vmm(void)
{
    pid_t pid = fork();

    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (;;)
            pause();
    }
    return pid;
}

static gboolean is_stopped(pid_t pid)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/stat", (int)pid);
    g_autofree char *text = NULL;

    return g_file_get_contents(path, &text, NULL, NULL) && strstr(text, ") T ");
}

static Guard *start_guard(gpointer user, GError **error)
{
    Fixture *f = user;

    g_atomic_int_inc(&f->guards);
    return guard_start(f->vmm, NULL, error);
}

static gboolean undo(GuardDeadlineUndo what, gpointer user, GError **error)
{
    Fixture *f = user;

    if (g_atomic_int_get(&f->undo_fails) > 0) {
        g_atomic_int_add(&f->undo_fails, -1);
        error_set(error, VMFERRY_ERROR_FAILED, "not now");
        return FALSE;
    }
    if (what == GUARD_DEADLINE_UNDO_STOP) {
        g_atomic_int_inc(&f->stops_undone);
        kill(f->vmm, SIGCONT);
    } else {
        g_atomic_int_inc(&f->conts);
    }
    return TRUE;
}

static gboolean pause_guest(gboolean *ret_was_running, gpointer user, GError **error)
{
    Fixture *f = user;

    *ret_was_running = !g_atomic_int_get(&f->is_paused);
    g_atomic_int_inc(&f->pauses);
    while (g_atomic_int_get(&f->hangs) && g_atomic_int_get(&f->stops_undone) == 0)
        clock_sleep_ns(MS);
    return TRUE;
}

static void on_held(GuardDeadlineState how, gpointer user)
{
    Fixture *f = user;

    f->how = how;
    g_atomic_int_inc(&f->held);
}

static void on_heard(WitnessState state, gpointer user)
{
    g_atomic_int_set(&((Fixture *)user)->heard, (gint)state + 1);
}

/* ---- the fixture ---- */

static void start_keeper(Fixture *f, gboolean with_witness)
{
    LeaseKeeperOptions options = {
        .witness = with_witness ? &f->witness.base : NULL,
        .transaction = ID,
        .lease_ms = LEASE_MS,
        .shortest_ms = f->shortest_ms,
        .file = f->file,
        .start_guard = start_guard,
        .pause_guest = f->pauses_itself ? pause_guest : NULL,
        .undo = undo,
        .held = on_held,
        .heard = on_heard,
        .user = f,
    };
    g_autoptr(GError) error = NULL;

    guard_action_begin(&options.pause, 1); /* none: SIGSTOP is what there is */
    f->keeper = lease_keeper_start(&options, &error);
    if (!f->keeper)
        fail_msg("%s", error->message);
}

static int set_up(void **state)
{
    Fixture *f = g_new0(Fixture, 1);

    f->folder = g_dir_make_tmp("vmferry-keeper-XXXXXX", NULL);
    f->file = g_build_filename(f->folder, "lease", NULL);
    f->vmm = start_vmm();
    f->witness.base.ops = &fake_ops;
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    Fixture *f = *state;

    lease_keeper_stop(f->keeper, TRUE);
    kill(f->vmm, SIGKILL);
    waitpid(f->vmm, NULL, 0);
    unlink(f->file);
    rmdir(f->folder);
    g_free(f->file);
    g_free(f->folder);
    g_free(f);
    return 0;
}

static void await_state(Fixture *f, LeaseKeeperState state)
{
    uint64_t end = clock_now_ns() + AWAIT_MS * MS;

    while (lease_keeper_get_state(f->keeper) != state) {
        if (clock_now_ns() > end)
            fail_msg("it is %d, not %d", lease_keeper_get_state(f->keeper), state);
        clock_sleep_ns(MS);
    }
}

static void await_stopped(Fixture *f, gboolean stopped)
{
    uint64_t end = clock_now_ns() + AWAIT_MS * MS;

    while (is_stopped(f->vmm) != stopped) {
        assert_true(clock_now_ns() < end);
        clock_sleep_ns(MS);
    }
}

static void await_count(gint *counter, gint value)
{
    uint64_t end = clock_now_ns() + AWAIT_MS * MS;

    while (g_atomic_int_get(counter) < value) {
        assert_true(clock_now_ns() < end);
        clock_sleep_ns(MS);
    }
}

static gboolean note_run(gpointer user, GError **error)
{
    *(gboolean *)user = TRUE;
    return TRUE;
}

/* ---- tests ---- */

static void test_witness_alone(void **state)
{
    Fixture *f = *state;
    gboolean ran = FALSE;

    start_keeper(f, TRUE);
    assert_true(lease_keeper_run(f->keeper, AWAIT_MS, note_run, &ran, NULL));
    assert_true(ran);
    assert_int_equal(lease_keeper_get_state(f->keeper), LEASE_KEEPER_RUNS);
    await_count(&f->witness.asked, 6);
    assert_int_equal(g_atomic_int_get(&f->heard), WITNESS_UNDECIDED + 1);
    /* It refuses: the guest stops when the last lease ends; and runs again with the next one. */
    g_atomic_int_set(&f->witness.mood, REFUSES);
    await_state(f, LEASE_KEEPER_HELD);
    await_stopped(f, TRUE);
    await_count(&f->held, 1);
    assert_int_equal(f->how, GUARD_DEADLINE_STOPPED);
    assert_int_equal(g_atomic_int_get(&f->heard), WITNESS_SOURCE_MAY + 1);
    assert_int_equal(g_atomic_int_get(&f->stops_undone), 0);
    g_atomic_int_set(&f->undo_fails, 2);
    g_atomic_int_set(&f->witness.mood, GRANTS);
    await_state(f, LEASE_KEEPER_RUNS);
    await_stopped(f, FALSE);
    assert_int_equal(g_atomic_int_get(&f->stops_undone), 1);
    assert_int_equal(g_atomic_int_get(&f->conts), 0); /* nobody had paused it */
}

/* One that is well does not need the guard to stop a process; its user's pauses are his. */
static void test_pauses_itself(void **state)
{
    Fixture *f = *state;

    f->pauses_itself = TRUE;
    start_keeper(f, TRUE);
    for (gint paused = 0; paused <= 1; paused++) {
        await_state(f, LEASE_KEEPER_RUNS);
        g_atomic_int_set(&f->is_paused, paused);
        g_atomic_int_set(&f->witness.mood, IS_SILENT);
        await_count(&f->held, paused + 1);
        if (f->how == GUARD_DEADLINE_STOPPED)
            skip(); /* the machine was too slow: the guard was first */
        assert_int_equal(f->how, paused ? GUARD_DEADLINE_WAS_PAUSED : GUARD_DEADLINE_PAUSED);
        assert_int_equal(g_atomic_int_get(&f->pauses), paused + 1);
        clock_sleep_ns(LEASE_MS * MS);
        assert_false(is_stopped(f->vmm));
        assert_int_equal(g_atomic_int_get(&f->conts), paused);
        g_atomic_int_set(&f->witness.mood, GRANTS);
    }
    await_state(f, LEASE_KEEPER_RUNS);
    assert_int_equal(g_atomic_int_get(&f->conts), 1);
    assert_int_equal(g_atomic_int_get(&f->stops_undone), 0);
}

/* QEMU waits for its disks, say, and its process is stopped over it: when that goes on it pauses the guest,
 * which is to run. */
static void test_pauses_late(void **state)
{
    Fixture *f = *state;

    f->pauses_itself = TRUE;
    g_atomic_int_set(&f->hangs, TRUE);
    start_keeper(f, TRUE);
    await_state(f, LEASE_KEEPER_RUNS);
    g_atomic_int_set(&f->witness.mood, IS_SILENT);
    await_stopped(f, TRUE);
    await_state(f, LEASE_KEEPER_HELD);
    assert_int_equal(f->how, GUARD_DEADLINE_STOPPED);
    g_atomic_int_set(&f->witness.mood, GRANTS);
    await_state(f, LEASE_KEEPER_RUNS);
    assert_false(is_stopped(f->vmm));
    assert_int_equal(g_atomic_int_get(&f->stops_undone), 1);
    assert_int_equal(g_atomic_int_get(&f->conts), 1);
}

/* While the VMM pauses and goes on by itself only the guard can do something. */
static void test_moment(void **state)
{
    Fixture *f = *state;

    f->pauses_itself = TRUE;
    start_keeper(f, TRUE);
    assert_false(lease_keeper_begin_moment(f->keeper));
    await_state(f, LEASE_KEEPER_RUNS);
    assert_true(lease_keeper_begin_moment(f->keeper));
    g_atomic_int_set(&f->witness.mood, IS_SILENT);
    await_stopped(f, TRUE);
    await_state(f, LEASE_KEEPER_HELD);
    lease_keeper_end_moment(f->keeper);
    assert_false(lease_keeper_begin_moment(f->keeper));
    assert_int_equal(g_atomic_int_get(&f->pauses), 0);
    assert_int_equal(f->how, GUARD_DEADLINE_STOPPED);
    g_atomic_int_set(&f->witness.mood, GRANTS);
    await_state(f, LEASE_KEEPER_RUNS);
    assert_int_equal(g_atomic_int_get(&f->conts), 0);
    lease_keeper_release(f->keeper);
    await_state(f, LEASE_KEEPER_FREE);
    assert_true(lease_keeper_begin_moment(f->keeper));
    lease_keeper_end_moment(f->keeper);
}

/* Leases that come in time become short; the last one, of a keeper whose agent is restarted, is long. */
static void test_short_leases(void **state)
{
    Fixture *f = *state;
    uint64_t end = clock_now_ns() + AWAIT_MS * MS;

    f->shortest_ms = LEASE_MS / 4;
    start_keeper(f, TRUE);
    await_state(f, LEASE_KEEPER_RUNS);
    assert_true(lease_keeper_get_wanted_ms(f->keeper) > LEASE_MS / 2);
    while (lease_keeper_get_wanted_ms(f->keeper) > LEASE_MS / 2) {
        assert_true(clock_now_ns() < end);
        clock_sleep_ns(MS);
    }
    assert_int_equal(lease_keeper_get_interval_ms(f->keeper),
                     lease_renewal_interval_ms(lease_keeper_get_wanted_ms(f->keeper)));
    await_count(&f->witness.asked, g_atomic_int_get(&f->witness.asked) + 2);
    assert_true(g_atomic_int_get(&f->witness.wanted_ms) < LEASE_MS);
    if (g_atomic_int_get(&f->held) > 0)
        skip(); /* the machine was too slow */
    lease_keeper_stop(g_steal_pointer(&f->keeper), FALSE);
    assert_int_equal(g_atomic_int_get(&f->witness.wanted_ms), LEASE_MS);
}

/* Losing one of the two stops nothing. */
static void test_peer_alone(void **state)
{
    Fixture *f = *state;
    gboolean ran = FALSE;
    uint64_t end;

    g_atomic_int_set(&f->witness.mood, IS_SILENT);
    start_keeper(f, TRUE);
    assert_false(lease_keeper_run(f->keeper, 50, note_run, &ran, NULL));
    assert_false(ran);
    assert_int_equal(lease_keeper_get_state(f->keeper), LEASE_KEEPER_WAITING);
    lease_keeper_grant(f->keeper, clock_boot_ns(), LEASE_MS);
    await_state(f, LEASE_KEEPER_RUNS);
    for (end = clock_boot_ns() + 2 * LEASE_MS * MS; clock_boot_ns() < end; clock_sleep_ns(20 * MS))
        lease_keeper_grant(f->keeper, clock_boot_ns(), LEASE_MS);
    if (g_atomic_int_get(&f->held) > 0)
        skip(); /* the machine was too slow to renew in time */
    await_state(f, LEASE_KEEPER_HELD);
    await_stopped(f, TRUE);
    /* What was sent too long ago is no lease any more. */
    lease_keeper_grant(f->keeper, clock_boot_ns() - LEASE_MS * MS, LEASE_MS);
    clock_sleep_ns(200 * MS);
    assert_int_equal(lease_keeper_get_state(f->keeper), LEASE_KEEPER_HELD);
    assert_true(is_stopped(f->vmm));
}

static void test_released(void **state)
{
    Fixture *f = *state;
    gint asked;

    start_keeper(f, TRUE);
    await_state(f, LEASE_KEEPER_RUNS);
    g_atomic_int_set(&f->witness.mood, REFUSES);
    await_state(f, LEASE_KEEPER_HELD);
    await_stopped(f, TRUE);
    lease_keeper_release(f->keeper);
    await_state(f, LEASE_KEEPER_FREE);
    await_stopped(f, FALSE);
    asked = g_atomic_int_get(&f->witness.asked);
    clock_sleep_ns(LEASE_MS * MS);
    assert_true(g_atomic_int_get(&f->witness.asked) <= asked + 1);
    assert_false(is_stopped(f->vmm));
}

/* Our child of this name, as /proc tells it; 0: there is none. */
static pid_t find_guard(void)
{
    g_autoptr(GDir) processes = g_dir_open("/proc", 0, NULL);
    g_autofree char *wanted = g_strdup_printf("(vmferry-guard) S %d ", (int)getpid());
    const char *name;

    while ((name = g_dir_read_name(processes))) {
        g_autofree char *path = g_build_filename("/proc", name, "stat", NULL);
        g_autofree char *text = NULL;

        if (atoi(name) > 0 && g_file_get_contents(path, &text, NULL, NULL) && strstr(text, wanted))
            return (pid_t)atoi(name);
    }
    return 0;
}

/* Ours is killed: another one takes its place. */
static void test_guard_is_killed(void **state)
{
    Fixture *f = *state;
    pid_t guard;

    start_keeper(f, TRUE);
    await_state(f, LEASE_KEEPER_RUNS);
    while (!(guard = find_guard())) /* it may be awake just now */
        clock_sleep_ns(MS);
    kill(guard, SIGKILL);
    await_count(&f->guards, 2);
    await_state(f, LEASE_KEEPER_RUNS);
    g_atomic_int_set(&f->witness.mood, IS_SILENT);
    await_stopped(f, TRUE);
    await_state(f, LEASE_KEEPER_HELD);
}

/* A keeper that ends leaves the guard its deadline; a later one goes on from there. */
static void test_next_keeper(void **state)
{
    Fixture *f = *state;

    start_keeper(f, TRUE);
    await_state(f, LEASE_KEEPER_RUNS);
    lease_keeper_stop(g_steal_pointer(&f->keeper), FALSE);
    start_keeper(f, TRUE);
    assert_int_not_equal(lease_keeper_get_state(f->keeper), LEASE_KEEPER_WAITING);
    await_state(f, LEASE_KEEPER_RUNS);
    lease_keeper_stop(g_steal_pointer(&f->keeper), FALSE);
    await_stopped(f, TRUE);
    g_atomic_int_set(&f->witness.mood, IS_SILENT);
    start_keeper(f, TRUE);
    assert_int_equal(lease_keeper_get_state(f->keeper), LEASE_KEEPER_HELD);
    assert_true(is_stopped(f->vmm));
    g_atomic_int_set(&f->witness.mood, GRANTS);
    await_state(f, LEASE_KEEPER_RUNS);
    await_stopped(f, FALSE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_witness_alone, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_pauses_itself, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_pauses_late, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_moment, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_short_leases, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_peer_alone, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_released, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_guard_is_killed, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_next_keeper, set_up, tear_down),
    };

    signal(SIGPIPE, SIG_IGN); /* as an agent does */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
