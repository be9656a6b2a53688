/*
 * A guard's deadline: the guest stands still when it has passed, whether the agent lives, hangs or is
 * dead, and whether QMP answers or not.  The "VMM" is a child that serves just enough QMP.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/unix_socket.h"
#include "guard/guard.h"
#include "vmm/qemu/driver.h"

#define MS ((uint64_t)1000000)
#define LEASE_MS (GUARD_DEADLINE_LEAD_MS + 600)
#define LONG_MS 120000

typedef enum { RUNS, IS_PAUSED, IS_MUTE, PAUSES_LATE } Behaviour;

typedef struct {
    _Atomic int behaviour;
    _Atomic int paused;           /* how often, by QMP `stop` */
    _Atomic int resumed;          /* by `cont` */
    _Atomic uint64_t paused_ns;   /* when it was paused last */
    _Atomic uint64_t deadline_ns; /* as the child that is the agent has set it last */
} Shared;

static Shared *shared;
static char folder[] = "/tmp/vmferry-deadline-XXXXXX";
static char socket_path[64], file_path[64];

/* ---- the VMM ---- */

static void answer(int client, const char *text)
{
    static const char running[] = "{\"return\": {\"status\": \"running\"}, \"id\": \"state\"}\r\n";
    static const char paused[] = "{\"return\": {\"status\": \"paused\"}, \"id\": \"state\"}\r\n";
    const char *said = "{\"return\": {}, \"id\": \"guard\"}\r\n";

    if (strstr(text, "query-status"))
        said = atomic_load(&shared->behaviour) == IS_PAUSED ? paused : running;
    if (strstr(text, "\"stop\"")) {
        atomic_store(&shared->paused_ns, clock_boot_ns());
        atomic_fetch_add(&shared->paused, 1);
        if (atomic_load(&shared->behaviour) == PAUSES_LATE)
            return;
    }
    if (strstr(text, "\"cont\""))
        atomic_fetch_add(&shared->resumed, 1);
    (void)!write(client, said, strlen(said));
}

static void serve_client(int client)
{
    char text[4096];
    ssize_t got;

    (void)!write(client, "{\"QMP\": {}}\r\n", 13);
    while ((got = read(client, text, sizeof text - 1)) > 0) {
        text[got] = '\0';
        if (atomic_load(&shared->behaviour) != IS_MUTE)
            answer(client, text);
    }
    close(client);
}

static pid_t start_vmm(Behaviour behaviour)
{
    int listener;
    pid_t pid;

    unlink(socket_path);
    listener = unix_socket_listen(socket_path, 4, NULL);
    assert_true(listener >= 0);
    memset(shared, 0, sizeof *shared);
    atomic_store(&shared->behaviour, (int)behaviour);
    unlink(file_path);
    pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        signal(SIGPIPE, SIG_IGN);
        for (;;) {
            int client = accept(listener, NULL, NULL);

            if (client >= 0)
                serve_client(client);
            else
                clock_sleep_ns(MS);
        }
    }
    close(listener);
    return pid;
}

static void end(pid_t pid)
{
    kill(pid, SIGKILL);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
}

/* ---- the agent ---- */

static GuardAction make_pause_action(void)
{
    QemuVmm qemu = {.qmp_path = socket_path};
    GuardAction action;

    assert_true(qemu_get_pause_action(&qemu, &action, NULL));
    return action;
}

static GuardDeadline *open_deadline(void)
{
    g_autoptr(GError) error = NULL;
    GuardDeadline *deadline = guard_deadline_open(file_path, &error);

    if (!deadline)
        fail_msg("%s", error->message);
    return deadline;
}

static void arm(Guard *guard, GuardDeadline *deadline, uint64_t ms)
{
    GuardAction action = make_pause_action();
    uint64_t time_ns = clock_boot_ns() + ms * MS;
    g_autoptr(GError) error = NULL;

    atomic_store(&shared->deadline_ns, time_ns);
    if (!guard_arm_deadline(guard, deadline, &action, time_ns, &error))
        fail_msg("%s", error->message);
}

static GuardDeadlineState await_passed(GuardDeadline *deadline)
{
    uint64_t limit = clock_boot_ns() + 20000 * MS;
    GuardDeadlineState state;

    do {
        assert_true(clock_boot_ns() < limit);
        clock_sleep_ns(MS);
        state = guard_deadline_get(deadline, NULL);
    } while (state == GUARD_DEADLINE_SET || state == GUARD_DEADLINE_ACTING);
    return state;
}

/* As /proc tells it. */
static gboolean is_stopped(pid_t pid)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/stat", (int)pid);
    g_autofree char *text = NULL;

    return g_file_get_contents(path, &text, NULL, NULL) && strstr(text, ") T ");
}

static void assert_stopped_in_time(pid_t vmm, GuardDeadline *deadline)
{
    uint64_t limit;

    assert_int_equal(await_passed(deadline), GUARD_DEADLINE_STOPPED);
    /* The signal is there; its threads have to see it. */
    limit = clock_boot_ns() + 10000 * MS;
    while (!is_stopped(vmm) && clock_boot_ns() < limit)
        clock_sleep_ns(MS);
    assert_true(is_stopped(vmm));
}

/* ---- with an agent that lives ---- */

static void test_passes_and_begins_anew(void **state)
{
    pid_t vmm = start_vmm(RUNS);
    Guard *guard = guard_start(vmm, NULL, NULL);
    g_autoptr(GuardDeadline) deadline = open_deadline();

    assert_int_equal(guard_deadline_get(deadline, NULL), GUARD_DEADLINE_NONE);
    for (int i = 1; i <= 2; i++) {
        arm(guard, deadline, LEASE_MS);
        assert_int_equal(guard_deadline_get(deadline, NULL), GUARD_DEADLINE_SET);
        assert_int_equal(await_passed(deadline), GUARD_DEADLINE_PAUSED);
        assert_int_equal(atomic_load(&shared->paused), i);
        assert_true(shared->paused_ns < shared->deadline_ns);
        assert_false(guard_deadline_renew(deadline, clock_boot_ns() + LONG_MS * MS));
    }
    assert_true(guard_is_alive(guard));
    assert_true(guard_deadline_clear(deadline));
    guard_free(guard);
    assert_false(is_stopped(vmm));
    end(vmm);
}

/* Near deadlines leave the guard less time. */
static void test_short_lead(void **state)
{
    pid_t vmm = start_vmm(RUNS);
    Guard *guard = guard_start(vmm, NULL, NULL);
    g_autoptr(GuardDeadline) deadline = open_deadline();

    guard_deadline_set_lead(deadline, 100);
    arm(guard, deadline, 400);
    assert_int_equal(await_passed(deadline), GUARD_DEADLINE_PAUSED);
    assert_true(shared->paused_ns + 100 * MS >= shared->deadline_ns);
    assert_true(shared->paused_ns < shared->deadline_ns);
    guard_deadline_set_lead(deadline, 2 * GUARD_DEADLINE_LEAD_MS); /* is too much */
    arm(guard, deadline, LEASE_MS);
    assert_int_equal(await_passed(deadline), GUARD_DEADLINE_PAUSED);
    assert_true(shared->paused_ns + GUARD_DEADLINE_LEAD_MS * MS >= shared->deadline_ns);
    guard_free(guard);
    end(vmm);
}

/* Who resumes the guest has looked before the deadline, and sends SIGCONT behind it. */
static void test_resumed_too_late(void **state)
{
    pid_t vmm = start_vmm(RUNS);
    Guard *guard = guard_start(vmm, NULL, NULL);
    g_autoptr(GuardDeadline) deadline = open_deadline();
    uint64_t limit;

    guard_deadline_set_lead(deadline, 50);
    arm(guard, deadline, 300);
    assert_true(guard_deadline_begin_resume(deadline));
    assert_stopped_in_time(vmm, deadline);
    assert_int_equal(kill(vmm, SIGCONT), 0);
    guard_deadline_undone(deadline, GUARD_DEADLINE_UNDO_STOP);
    guard_deadline_end_resume(deadline);
    for (limit = clock_boot_ns() + 5000 * MS; !is_stopped(vmm); clock_sleep_ns(MS))
        assert_true(clock_boot_ns() < limit);
    assert_int_equal(guard_deadline_get_undo(deadline), GUARD_DEADLINE_UNDO_STOP);
    /* With a new deadline it may. */
    arm(guard, deadline, LONG_MS);
    assert_int_equal(kill(vmm, SIGCONT), 0);
    clock_sleep_ns(50 * MS);
    assert_false(is_stopped(vmm));
    guard_free(guard);
    end(vmm);
}

/* It was told to pause, and its process was stopped before it had answered: it may pause when it goes on,
 * so both are to be undone. */
static void test_pauses_late(void **state)
{
    pid_t vmm = start_vmm(PAUSES_LATE);
    Guard *guard = guard_start(vmm, NULL, NULL);
    g_autoptr(GuardDeadline) deadline = open_deadline();

    arm(guard, deadline, LEASE_MS);
    assert_int_equal(await_passed(deadline), GUARD_DEADLINE_STOPPED);
    assert_int_equal(atomic_load(&shared->paused), 1);
    assert_int_equal(guard_deadline_get_undo(deadline),
                     GUARD_DEADLINE_UNDO_STOP | GUARD_DEADLINE_UNDO_PAUSE);
    guard_free(guard);
    end(vmm);
}

static void test_renewed(void **state)
{
    pid_t vmm = start_vmm(RUNS);
    Guard *guard = guard_start(vmm, NULL, NULL);
    g_autoptr(GuardDeadline) deadline = open_deadline();
    uint64_t found, first, now;

    arm(guard, deadline, 2 * LEASE_MS);
    first = shared->deadline_ns;
    /* Far behind the first one's time it is still watched, and not acted upon. */
    while ((now = clock_boot_ns()) < first + 500 * MS)
        if (guard_deadline_renew(deadline, now + 2 * LEASE_MS * MS))
            clock_sleep_ns(10 * MS);
        else
            skip(); /* the machine was too slow to renew in time */
    assert_int_equal(atomic_load(&shared->paused), 0);
    /* An earlier time changes nothing. */
    assert_true(guard_deadline_renew(deadline, first));
    assert_int_equal(guard_deadline_get(deadline, &found), GUARD_DEADLINE_SET);
    assert_true(found > first);
    assert_int_equal(await_passed(deadline), GUARD_DEADLINE_PAUSED);
    assert_true(shared->paused_ns > first && shared->paused_ns < found);
    guard_free(guard);
    end(vmm);
}

static void test_cleared(void **state)
{
    pid_t vmm = start_vmm(RUNS);
    Guard *guard = guard_start(vmm, NULL, NULL);
    g_autoptr(GuardDeadline) deadline = open_deadline();

    arm(guard, deadline, LEASE_MS);
    assert_true(guard_deadline_clear(deadline));
    clock_sleep_ns((LEASE_MS + 100) * MS);
    assert_int_equal(guard_deadline_get(deadline, NULL), GUARD_DEADLINE_NONE);
    assert_int_equal(atomic_load(&shared->paused), 0);
    guard_free(guard);
    end(vmm);
}

/* What its user has paused is not resumed by whoever gets the lease back. */
static void test_found_paused(void **state)
{
    pid_t vmm = start_vmm(IS_PAUSED);
    Guard *guard = guard_start(vmm, NULL, NULL);
    g_autoptr(GuardDeadline) deadline = open_deadline();

    arm(guard, deadline, LEASE_MS);
    assert_int_equal(await_passed(deadline), GUARD_DEADLINE_WAS_PAUSED);
    assert_int_equal(atomic_load(&shared->paused), 0);
    assert_false(is_stopped(vmm));
    guard_free(guard);
    end(vmm);
}

/* QMP does not answer; the monitor is held by the agent; or there is no time left. */
static void test_stopped(void **state)
{
    pid_t vmm = start_vmm(IS_MUTE);
    Guard *guard = guard_start(vmm, NULL, NULL);
    g_autoptr(GuardDeadline) deadline = open_deadline();
    autofd int monitor = -1;

    arm(guard, deadline, LEASE_MS);
    assert_stopped_in_time(vmm, deadline);
    kill(vmm, SIGCONT);
    atomic_store(&shared->behaviour, RUNS);
    monitor = unix_socket_connect(socket_path, NULL);
    assert_true(monitor >= 0);
    arm(guard, deadline, LEASE_MS);
    assert_stopped_in_time(vmm, deadline);
    assert_int_equal(atomic_load(&shared->paused), 0);
    kill(vmm, SIGCONT);
    fd_close(&monitor);
    arm(guard, deadline, 20);
    assert_stopped_in_time(vmm, deadline);
    guard_free(guard);
    end(vmm);
}

/* What is to be undone is known until it is, also where the guard has acted again. */
static void test_undo(void **state)
{
    pid_t vmm = start_vmm(RUNS);
    Guard *guard = guard_start(vmm, NULL, NULL);
    g_autoptr(GuardDeadline) deadline = open_deadline();

    assert_int_equal(guard_deadline_get_undo(deadline), 0);
    arm(guard, deadline, LEASE_MS);
    assert_int_equal(await_passed(deadline), GUARD_DEADLINE_PAUSED);
    assert_int_equal(guard_deadline_get_undo(deadline), GUARD_DEADLINE_UNDO_PAUSE);
    atomic_store(&shared->behaviour, IS_PAUSED);
    arm(guard, deadline, LEASE_MS);
    assert_int_equal(await_passed(deadline), GUARD_DEADLINE_WAS_PAUSED);
    arm(guard, deadline, 20);
    assert_stopped_in_time(vmm, deadline);
    assert_int_equal(guard_deadline_get_undo(deadline),
                     GUARD_DEADLINE_UNDO_PAUSE | GUARD_DEADLINE_UNDO_STOP);
    guard_deadline_undone(deadline, GUARD_DEADLINE_UNDO_STOP);
    assert_int_equal(guard_deadline_get_undo(deadline), GUARD_DEADLINE_UNDO_PAUSE);
    guard_free(guard);
    end(vmm);
}

/* Found paused is not enough where it is about to be resumed. */
static void test_about_to_be_resumed(void **state)
{
    pid_t vmm = start_vmm(IS_PAUSED);
    Guard *guard = guard_start(vmm, NULL, NULL);
    g_autoptr(GuardDeadline) deadline = open_deadline();

    assert_false(guard_deadline_begin_resume(deadline));
    guard_deadline_end_resume(deadline);
    arm(guard, deadline, LEASE_MS);
    assert_true(guard_deadline_begin_resume(deadline));
    assert_stopped_in_time(vmm, deadline);
    guard_deadline_end_resume(deadline);
    guard_free(guard);
    end(vmm);
}

static void test_gone(void **state)
{
    pid_t vmm = start_vmm(RUNS);
    Guard *guard = guard_start(vmm, NULL, NULL);
    g_autoptr(GuardDeadline) deadline = open_deadline();

    arm(guard, deadline, LEASE_MS);
    end(vmm);
    assert_int_equal(await_passed(deadline), GUARD_DEADLINE_GONE);
    guard_free(guard);
}

/* ---- with one that dies, or hangs ---- */

static pid_t start_agent(pid_t vmm, gboolean resumes, uint64_t ms, int signal_number)
{
    pid_t agent = fork();

    if (agent == 0) {
        GuardDeadline *deadline = guard_deadline_open(file_path, NULL);
        QemuVmm qemu = {.qmp_path = socket_path};
        GuardAction resume;
        Guard *guard;

        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (!deadline || !qemu_get_resume_action(&qemu, &resume, NULL))
            _exit(1);
        guard = guard_start(vmm, resumes ? &resume : NULL, NULL);
        if (!guard)
            _exit(1);
        arm(guard, deadline, ms);
        kill(getpid(), signal_number);
        _exit(1);
    }
    return agent;
}

static void test_agent_is_killed(void **state)
{
    pid_t vmm = start_vmm(RUNS), agent = start_agent(vmm, FALSE, LEASE_MS, SIGKILL);
    g_autoptr(GuardDeadline) deadline = open_deadline();

    assert_int_equal(waitpid(agent, NULL, 0), agent);
    assert_int_equal(await_passed(deadline), GUARD_DEADLINE_PAUSED);
    assert_int_equal(atomic_load(&shared->paused), 1);
    assert_true(shared->paused_ns < shared->deadline_ns);
    end(vmm);
}

/* Its death is acted upon at once, its deadline when it comes. */
static void test_both(void **state)
{
    pid_t vmm = start_vmm(RUNS), agent = start_agent(vmm, TRUE, 2 * LEASE_MS, SIGKILL);
    g_autoptr(GuardDeadline) deadline = open_deadline();

    assert_int_equal(waitpid(agent, NULL, 0), agent);
    assert_int_equal(await_passed(deadline), GUARD_DEADLINE_PAUSED);
    assert_int_equal(atomic_load(&shared->resumed), 1);
    assert_int_equal(atomic_load(&shared->paused), 1);
    end(vmm);
}

/* Once it has passed the guest is not resumed by the agent's death. */
static void test_dies_afterwards(void **state)
{
    pid_t vmm = start_vmm(RUNS), agent = start_agent(vmm, TRUE, LEASE_MS, SIGSTOP);
    g_autoptr(GuardDeadline) deadline = open_deadline();

    assert_int_equal(waitpid(agent, NULL, WUNTRACED), agent);
    assert_int_equal(await_passed(deadline), GUARD_DEADLINE_PAUSED);
    end(agent);
    /* Another guard's work shows that the first one has had its time. */
    agent = start_agent(vmm, FALSE, LEASE_MS, SIGKILL);
    assert_int_equal(waitpid(agent, NULL, 0), agent);
    assert_int_equal(await_passed(deadline), GUARD_DEADLINE_PAUSED);
    assert_int_equal(atomic_load(&shared->resumed), 0);
    end(vmm);
}

static void test_agent_hangs(void **state)
{
    pid_t vmm = start_vmm(RUNS), agent = start_agent(vmm, FALSE, LEASE_MS, SIGSTOP);
    g_autoptr(GuardDeadline) deadline = open_deadline();

    assert_int_equal(waitpid(agent, NULL, WUNTRACED), agent);
    assert_int_equal(await_passed(deadline), GUARD_DEADLINE_PAUSED);
    assert_true(shared->paused_ns < shared->deadline_ns);
    end(agent);
    end(vmm);
}

/* A restarted agent renews what the guard of the one before still watches. */
static void test_agent_is_restarted(void **state)
{
    pid_t vmm = start_vmm(RUNS), agent = start_agent(vmm, FALSE, 2 * LEASE_MS, SIGKILL);
    g_autoptr(GuardDeadline) deadline = NULL;
    uint64_t found, later;

    assert_int_equal(waitpid(agent, NULL, 0), agent);
    deadline = open_deadline();
    assert_int_equal(guard_deadline_get(deadline, &found), GUARD_DEADLINE_SET);
    assert_int_equal(found, shared->deadline_ns);
    later = found + LEASE_MS * MS;
    if (!guard_deadline_renew(deadline, later))
        skip(); /* the machine was too slow */
    assert_int_equal(await_passed(deadline), GUARD_DEADLINE_PAUSED);
    assert_true(shared->paused_ns > found && shared->paused_ns < later);
    end(vmm);
}

/* ---- what cannot be ---- */

static void test_refused(void **state)
{
    pid_t vmm = start_vmm(RUNS);
    Guard *guard = guard_start(vmm, NULL, NULL);
    g_autoptr(GuardDeadline) deadline = open_deadline();
    g_autofree char *long_path = g_strnfill(GUARD_DEADLINE_PATH_BYTES, 'x');
    GuardAction action = make_pause_action(), incomplete = {.incomplete = TRUE};
    g_autoptr(GError) error = NULL;

    long_path[0] = '/';
    assert_null(guard_deadline_open(long_path, NULL));
    assert_null(guard_deadline_open("here", NULL));
    assert_false(guard_arm_deadline(guard, deadline, &incomplete, clock_boot_ns(), NULL));
    /* The guard does not find it. */
    unlink(file_path);
    assert_false(guard_arm_deadline(guard, deadline, &action, clock_boot_ns() + 300 * MS, &error));
    assert_true(error_is(error, VMFERRY_ERROR_TIMEOUT));
    assert_int_equal(guard_deadline_get(deadline, NULL), GUARD_DEADLINE_SET);
    assert_int_equal(atomic_load(&shared->paused), 0);
    guard_free(guard);
    end(vmm);
    g_clear_pointer(&deadline, guard_deadline_close);
    assert_true(g_file_set_contents(file_path, "something else", -1, NULL));
    assert_null(guard_deadline_open(file_path, NULL));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_passes_and_begins_anew),
        cmocka_unit_test(test_short_lead),
        cmocka_unit_test(test_pauses_late),
        cmocka_unit_test(test_resumed_too_late),
        cmocka_unit_test(test_renewed),
        cmocka_unit_test(test_cleared),
        cmocka_unit_test(test_found_paused),
        cmocka_unit_test(test_stopped),
        cmocka_unit_test(test_undo),
        cmocka_unit_test(test_about_to_be_resumed),
        cmocka_unit_test(test_gone),
        cmocka_unit_test(test_agent_is_killed),
        cmocka_unit_test(test_both),
        cmocka_unit_test(test_dies_afterwards),
        cmocka_unit_test(test_agent_hangs),
        cmocka_unit_test(test_agent_is_restarted),
        cmocka_unit_test(test_refused),
    };
    int failed;

    if (!mkdtemp(folder))
        return 1;
    snprintf(socket_path, sizeof socket_path, "%s/qmp", folder);
    snprintf(file_path, sizeof file_path, "%s/deadline", folder);
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    unlink(socket_path);
    unlink(file_path);
    rmdir(folder);
    return failed;
}
