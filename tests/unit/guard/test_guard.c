/*
 * The guard performs what it is armed with when the process that started it is
 * killed, and only then.  The actions are the QEMU driver's; the "VMM" is a child
 * that serves just enough QMP.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <stdatomic.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/helper.h"
#include "guard/guard.h"
#include "base/unix_socket.h"
#include "vmm/qemu/driver.h"

/* It notes each of its runs in a file, and fails as long as there are fewer than three. */
static int note_run(const char *path)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);

    return fd < 0 || write(fd, "x", 1) != 1 || lseek(fd, 0, SEEK_END) < 3;
}

HELPER_MAIN_WITH_ARGUMENT("test-runner", note_run)

static _Atomic int *resumed;  /* by QMP `cont` */
static _Atomic int *released; /* by QMP `balloon`; 1 + how often it was resumed before */
static _Atomic int *released_mib;
static _Atomic int *hang_ups;  /* how often it closes the connection at `balloon` */
static _Atomic int *mute;      /* how often it gives no answer to query-status */
static _Atomic int *migrated;  /* how often it said that it was migrated; -1: it was not */
static _Atomic int *greetings; /* how many clients it has greeted */
static char folder[] = "/tmp/vmferry-guard-XXXXXX";
static char socket_path[64];

typedef enum { NOTHING, RESUME, KILL } Wanted;

static void make_action(Wanted wanted, const char *where, GuardAction *ret)
{
    QemuVmm qemu = {.qmp_path = (char *)where};

    guard_action_begin(ret, 1);
    if (wanted == KILL)
        guard_action_add_kill(ret);
    else if (wanted == RESUME)
        assert_true(qemu_get_resume_action(&qemu, ret, NULL));
}

static gboolean arm(Guard *guard, Wanted wanted)
{
    GuardAction action;

    make_action(wanted, socket_path, &action);
    return wanted == NOTHING ? guard_disarm(guard, GUARD_SLOT_GUEST, NULL)
                             : guard_arm(guard, GUARD_SLOT_GUEST, &action, NULL);
}

static Guard *start_guard(pid_t vmm, Wanted wanted)
{
    GuardAction action;

    make_action(wanted, socket_path, &action);
    return guard_start(vmm, wanted == NOTHING ? NULL : &action, NULL);
}

static gboolean arm_balloon(Guard *guard, uint64_t bytes)
{
    QemuVmm qemu = {.qmp_path = socket_path};
    GuardAction action;

    return qemu_get_set_balloon_action(&qemu, bytes, &action, NULL) &&
           guard_arm(guard, GUARD_SLOT_BALLOON, &action, NULL);
}

static gboolean arm_file(Guard *guard, const char *path, const char *text, GError **error)
{
    GuardAction action;

    guard_action_begin(&action, 1);
    guard_action_add_write(&action, path, text);
    return guard_arm_also(guard, GUARD_SLOT_LIMITS, &action, error);
}

static void say_state(int client)
{
    static const char paused[] = "{\"return\": {\"status\": \"paused\"}, \"id\": \"state\"}\r\n";
    static const char left[] = "{\"return\": {\"status\": \"postmigrate\"}, \"id\": \"state\"}\r\n";

    if (atomic_load(migrated) < 0)
        (void)!write(client, paused, strlen(paused));
    else if (write(client, left, strlen(left)) > 0)
        atomic_fetch_add(migrated, 1);
}

static void serve_client(int client)
{
    char text[4096] = "";
    ssize_t got;

    atomic_fetch_add(greetings, 1);
    (void)!write(client, "{\"QMP\": {}}\r\n", 13);
    while ((got = read(client, text, sizeof text - 1)) > 0) {
        text[got] = '\0';
        if (strstr(text, "\"cont\"")) {
            atomic_fetch_add(resumed, 1);
            (void)!write(client, "{\"return\": {}, \"id\": \"guard\"}\r\n", 32);
        } else if (strstr(text, "\"balloon\"") && atomic_load(hang_ups) > 0) {
            atomic_fetch_sub(hang_ups, 1);
            break;
        } else if (strstr(text, "\"balloon\"")) {
            atomic_store(released_mib,
                         (int)(g_ascii_strtoull(strstr(text, "value\":") + 7, NULL, 10) >> 20));
            atomic_store(released, 1 + atomic_load(resumed));
            (void)!write(client, "{\"return\": {}, \"id\": \"guard\"}\r\n", 32);
        } else if (strstr(text, "query-status") && atomic_load(mute) > 0) {
            atomic_fetch_sub(mute, 1);
        } else if (strstr(text, "query-status")) {
            say_state(client);
        } else {
            (void)!write(client, "{\"return\": {}}\r\n", 16);
        }
    }
    close(client);
}

static pid_t start_vmm(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int listener = socket(AF_UNIX, SOCK_STREAM, 0);
    pid_t pid;

    strcpy(address.sun_path, socket_path);
    unlink(socket_path);
    assert_int_equal(bind(listener, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(listen(listener, 4), 0);
    pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (;;)
            serve_client(accept(listener, NULL, NULL));
    }
    close(listener);
    return pid;
}

/* An agent that starts a guard, arms it and dies, or dismisses it. */
static void run_agent(pid_t vmm, Wanted wanted, gboolean dismiss)
{
    pid_t agent = fork();

    if (agent == 0) {
        Guard *guard = start_guard(vmm, NOTHING);

        if (!guard || !arm(guard, wanted))
            _exit(1);
        if (dismiss) {
            guard_free(guard);
            _exit(0);
        }
        kill(getpid(), SIGKILL);
    }
    assert_int_equal(waitpid(agent, NULL, 0), agent);
}

static gboolean wait_for(gboolean (*condition)(pid_t), pid_t vmm)
{
    uint64_t end = clock_now_ns() + 10000000000ULL;

    while (clock_now_ns() < end) {
        if (condition(vmm))
            return TRUE;
        clock_sleep_ns(2000000);
    }
    return FALSE;
}

static gboolean was_resumed(pid_t vmm)
{
    return atomic_load(resumed) > 0;
}

static gboolean has_ended(pid_t vmm)
{
    return waitpid(vmm, NULL, WNOHANG) == vmm;
}

static void test_resumes(void **state)
{
    pid_t vmm = start_vmm();

    atomic_store(resumed, 0);
    run_agent(vmm, RESUME, FALSE);
    assert_true(wait_for(was_resumed, vmm));
    kill(vmm, SIGKILL);
    waitpid(vmm, NULL, 0);
}

/* It serves an abstract name, which is known in its own network namespace only. */
static pid_t start_abstract_vmm(const char *name)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    socklen_t length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + strlen(name));
    int ready[2];
    char sign;
    pid_t pid;

    assert_int_equal(pipe(ready), 0);
    strcpy(address.sun_path + 1, name);
    pid = fork();
    if (pid == 0) {
        int listener;

        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (unshare(CLONE_NEWNET) < 0)
            _exit(1);
        listener = socket(AF_UNIX, SOCK_STREAM, 0);
        if (bind(listener, (struct sockaddr *)&address, length) < 0 || listen(listener, 4) < 0)
            _exit(1);
        (void)!write(ready[1], "x", 1);
        for (;;)
            serve_client(accept(listener, NULL, NULL));
    }
    close(ready[1]);
    if (read(ready[0], &sign, 1) != 1) {
        waitpid(pid, NULL, 0);
        pid = -1;
    }
    close(ready[0]);
    return pid;
}

static void test_resumes_by_an_abstract_name(void **state)
{
    pid_t vmm = start_abstract_vmm("vmferry-guard-test");
    g_autofree char *where = unix_socket_abstract(vmm, "vmferry-guard-test", FALSE);
    pid_t agent;

    if (geteuid() != 0) /* no right to make namespaces */
        skip();
    assert_true(vmm > 0);
    atomic_store(resumed, 0);
    agent = fork();
    if (agent == 0) {
        GuardAction action;

        make_action(RESUME, where, &action);
        if (guard_start(vmm, &action, NULL))
            kill(getpid(), SIGKILL);
        _exit(1);
    }
    waitpid(agent, NULL, 0);
    assert_true(wait_for(was_resumed, vmm));
    kill(vmm, SIGKILL);
    waitpid(vmm, NULL, 0);
}

static void test_kills(void **state)
{
    pid_t vmm = start_vmm();

    run_agent(vmm, KILL, FALSE);
    assert_true(wait_for(has_ended, vmm));
}

/* Dismissed or told to leave it: the guard that has ended has done nothing. */
static void test_leaves(void **state)
{
    pid_t vmm = start_vmm();

    atomic_store(resumed, 0);
    run_agent(vmm, KILL, TRUE);
    run_agent(vmm, RESUME, TRUE);
    run_agent(vmm, NOTHING, FALSE);
    /* A later guard's work shows that the earlier ones had their time. */
    run_agent(vmm, RESUME, FALSE);
    assert_true(wait_for(was_resumed, vmm));
    assert_int_equal(atomic_load(resumed), 1);
    assert_int_equal(waitpid(vmm, NULL, WNOHANG), 0);
    kill(vmm, SIGKILL);
    waitpid(vmm, NULL, 0);
}

/* An agent that arms files (and disarms some), and dies. */
static void run_agent_with_files(pid_t vmm, const char *kept, const char *forgotten)
{
    pid_t agent = fork();

    if (agent == 0) {
        Guard *guard = start_guard(vmm, RESUME);

        if (!guard || !arm_file(guard, forgotten, "restored", NULL) ||
            !guard_disarm(guard, GUARD_SLOT_LIMITS, NULL) ||
            !arm_file(guard, "/nonexistent/x", "", NULL) ||
            !arm_file(guard, kept, "max 100000", NULL))
            _exit(1);
        kill(getpid(), SIGKILL);
    }
    assert_int_equal(waitpid(agent, NULL, 0), agent);
}

static void test_files(void **state)
{
    pid_t vmm = start_vmm();
    g_autofree char *kept = g_strconcat(folder, "/kept", NULL);
    g_autofree char *forgotten = g_strconcat(folder, "/forgotten", NULL);
    g_autofree char *kept_text = NULL, *forgotten_text = NULL;

    assert_true(g_file_set_contents(kept, "1000 20000", -1, NULL));
    assert_true(g_file_set_contents(forgotten, "as it is", -1, NULL));
    atomic_store(resumed, 0);
    run_agent_with_files(vmm, kept, forgotten);
    /* The files come before the guest. */
    assert_true(wait_for(was_resumed, vmm));
    assert_true(g_file_get_contents(kept, &kept_text, NULL, NULL));
    assert_true(g_file_get_contents(forgotten, &forgotten_text, NULL, NULL));
    assert_string_equal(kept_text, "max 100000");
    assert_string_equal(forgotten_text, "as it is");
    unlink(kept);
    unlink(forgotten);
    kill(vmm, SIGKILL);
    waitpid(vmm, NULL, 0);
}

/* Nobody is waited for who does not read, and who reads gets it. */
static void test_fifos(void **state)
{
    pid_t vmm = start_vmm(), agent;
    g_autofree char *read_one = g_strconcat(folder, "/read", NULL);
    g_autofree char *lonely = g_strconcat(folder, "/lonely", NULL);
    char text[8] = "";
    int reader;

    assert_int_equal(mkfifo(read_one, 0600), 0);
    assert_int_equal(mkfifo(lonely, 0600), 0);
    reader = open(read_one, O_RDWR | O_CLOEXEC);
    atomic_store(resumed, 0);
    agent = fork();
    if (agent == 0) {
        Guard *guard = start_guard(vmm, RESUME);

        if (!guard || !arm_file(guard, lonely, "c\n", NULL) ||
            !arm_file(guard, read_one, "c\n", NULL))
            _exit(1);
        kill(getpid(), SIGKILL);
    }
    assert_int_equal(waitpid(agent, NULL, 0), agent);
    assert_true(wait_for(was_resumed, vmm));
    assert_int_equal(read(reader, text, sizeof text), 2);
    assert_string_equal(text, "c\n");
    close(reader);
    unlink(read_one);
    unlink(lonely);
    kill(vmm, SIGKILL);
    waitpid(vmm, NULL, 0);
}

/* By us instead of our death: done when the call returns.  We live, and so QEMU
 * does not serve the guard. */
static void test_files_now(void **state)
{
    pid_t vmm = start_vmm();
    g_autofree char *kept = g_strconcat(folder, "/kept", NULL);
    g_autofree char *kept_text = NULL;
    Guard *guard = start_guard(vmm, RESUME);

    assert_true(g_file_set_contents(kept, "1000 20000", -1, NULL));
    atomic_store(resumed, 0);
    assert_true(arm_file(guard, kept, "max 100000", NULL));
    guard_restore_limits(guard);
    assert_int_equal(atomic_load(resumed), 0);
    assert_true(g_file_get_contents(kept, &kept_text, NULL, NULL));
    assert_string_equal(kept_text, "max 100000");
    unlink(kept);
    kill(vmm, SIGKILL);
    waitpid(vmm, NULL, 0);
}

/* An agent that has inflated a balloon, has let it go (or not), and dies. */
static void run_agent_with_balloon(pid_t vmm, Wanted wanted, gboolean disarm)
{
    pid_t agent = fork();

    if (agent == 0) {
        Guard *guard = start_guard(vmm, NOTHING);

        if (!guard || !arm_balloon(guard, 7) || !arm_balloon(guard, (uint64_t)3 << 40) ||
            (disarm && !guard_disarm(guard, GUARD_SLOT_BALLOON, NULL)) || !arm(guard, wanted))
            _exit(1);
        kill(getpid(), SIGKILL);
    }
    assert_int_equal(waitpid(agent, NULL, 0), agent);
}

static gboolean was_released(pid_t vmm)
{
    return atomic_load(released) > 0;
}

static void test_balloon(void **state)
{
    pid_t vmm = start_vmm();

    atomic_store(resumed, 0);
    atomic_store(released, 0);
    run_agent_with_balloon(vmm, NOTHING, FALSE);
    assert_true(wait_for(was_released, vmm));
    assert_int_equal(atomic_load(released_mib), 3 << 20);
    assert_int_equal(atomic_load(resumed), 0);
    /* The guest runs before it is given anything; both are told on one connection. */
    atomic_store(released, 0);
    atomic_store(greetings, 0);
    run_agent_with_balloon(vmm, RESUME, FALSE);
    assert_true(wait_for(was_released, vmm));
    assert_int_equal(atomic_load(released), 2);
    assert_int_equal(atomic_load(greetings), 1);
    /* One that was let go is left alone. */
    atomic_store(released, 0);
    run_agent_with_balloon(vmm, NOTHING, TRUE);
    atomic_store(resumed, 0);
    run_agent_with_balloon(vmm, RESUME, TRUE);
    assert_true(wait_for(was_resumed, vmm)); /* or the next test's VMM would be told */
    assert_int_equal(atomic_load(released), 0);
    run_agent_with_balloon(vmm, KILL, FALSE);
    assert_true(wait_for(has_ended, vmm));
    assert_int_equal(atomic_load(released), 0);
}

/* What QEMU has confirmed is not said again: the guest may be paused by then. */
static void test_resumes_once(void **state)
{
    pid_t vmm = start_vmm();

    atomic_store(resumed, 0);
    atomic_store(released, 0);
    atomic_store(hang_ups, 3);
    run_agent_with_balloon(vmm, RESUME, FALSE);
    assert_true(wait_for(was_released, vmm));
    assert_int_equal(atomic_load(hang_ups), 0);
    assert_int_equal(atomic_load(resumed), 1);
    kill(vmm, SIGKILL);
    waitpid(vmm, NULL, 0);
}

static gboolean was_seen_migrated(pid_t vmm)
{
    return atomic_load(migrated) > 0;
}

/* No answer may mean that QEMU is busy with somebody's migration: what is said
 * on that connection would be done after it. */
static void test_state_that_is_not_told(void **state)
{
    pid_t vmm = start_vmm();

    atomic_store(resumed, 0);
    atomic_store(mute, 1);
    atomic_store(migrated, 0);
    run_agent(vmm, RESUME, FALSE);
    assert_true(wait_for(was_seen_migrated, vmm));
    assert_int_equal(atomic_load(mute), 0);
    assert_int_equal(atomic_load(resumed), 0);
    atomic_store(migrated, -1);
    kill(vmm, SIGKILL);
    waitpid(vmm, NULL, 0);
}

static off_t length_of(const char *path)
{
    struct stat info;

    return stat(path, &info) == 0 ? info.st_size : 0;
}

static char run_path[64];

static gboolean was_run_thrice(pid_t vmm)
{
    return length_of(run_path) >= 3;
}

/* A program of ours, again until it succeeds, and then the next step. */
static void test_runs(void **state)
{
    pid_t vmm = start_vmm(), agent;
    g_autofree char *next = g_strconcat(folder, "/next", NULL);

    g_snprintf(run_path, sizeof run_path, "%s/runs", folder);
    assert_true(g_file_set_contents(next, "", 0, NULL));
    agent = fork();
    if (agent == 0) {
        Guard *guard = start_guard(vmm, NOTHING);
        GuardAction action;

        guard_action_begin(&action, 10);
        guard_action_add_run(&action, "test-runner", run_path);
        guard_action_add_write(&action, next, "done");
        if (!guard || !guard_arm(guard, GUARD_SLOT_GUEST, &action, NULL))
            _exit(1);
        kill(getpid(), SIGKILL);
    }
    assert_int_equal(waitpid(agent, NULL, 0), agent);
    assert_true(wait_for(was_run_thrice, vmm));
    while (length_of(next) == 0) /* the test's time limit ends it */
        clock_sleep_ns(1000000);
    assert_int_equal(length_of(run_path), 3);
    unlink(run_path);
    unlink(next);
    kill(vmm, SIGKILL);
    waitpid(vmm, NULL, 0);
}

static void test_too_much(void **state)
{
    g_autofree char *longest = g_strnfill(511, 'x'),
                    *too_long = g_strnfill(GUARD_ACTION_BYTES, 'x');
    g_autoptr(Guard) guard = start_guard(getpid(), NOTHING);
    g_autoptr(GError) error = NULL;
    GuardAction action;
    guint count = 0;

    assert_false(arm_file(guard, too_long, "x", &error));
    assert_non_null(strstr(error->message, "too much for the guard process"));
    while (arm_file(guard, longest, "x", NULL))
        count++;
    assert_in_range(count, 256, 400);
    assert_true(guard_disarm(guard, GUARD_SLOT_LIMITS, NULL));
    assert_true(arm_file(guard, longest, "x", NULL));
    /* What is awaited must fit into the guard's window. */
    guard_action_begin(&action, 1);
    guard_action_add_expect(
        &action, "0123456789012345678901234567890123456789012345678901234567890123", NULL, NULL);
    assert_false(guard_arm(guard, GUARD_SLOT_GUEST, &action, NULL));
}

/* The only child: the guard. */
static char *read_of_guard(const char *file)
{
    g_autofree char *list =
        g_strdup_printf("/proc/self/task/%d/children", (int)syscall(SYS_gettid));
    g_autofree char *children = NULL, *path = NULL;
    char *text = NULL;

    assert_true(g_file_get_contents(list, &children, NULL, NULL));
    path = g_strdup_printf("/proc/%d/%s", atoi(children), file);
    assert_true(g_file_get_contents(path, &text, NULL, NULL));
    return text;
}

#define STORE_BYTES (256u << 20)

/* What the agent has in memory, its guests' or its own, does not stay for the guard's sake. */
static void test_keeps_no_memory(void **state)
{
    int fd = memfd_create("memory-of-a-guest", MFD_CLOEXEC);
    char *store =
        mmap(NULL, STORE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    g_autoptr(Guard) guard = NULL;
    g_autofree char *maps = NULL, *status = NULL;
    void *guest;

    assert_int_equal(ftruncate(fd, 4096), 0);
    guest = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    memset(store, 1, STORE_BYTES);
    guard = start_guard(getpid(), NOTHING);
    assert_non_null(guard);
    maps = read_of_guard("maps");
    status = read_of_guard("status");
    assert_null(strstr(maps, "memory-of-a-guest"));
    assert_true(atoi(strstr(status, "RssAnon:") + 8) < (int)(STORE_BYTES >> 11));
    munmap(guest, 4096);
    munmap(store, STORE_BYTES);
    close(fd);
}

static void test_errors(void **state)
{
    g_autofree char *long_path = g_strdup_printf("/tmp/%0120d", 0);
    g_autoptr(GError) error = NULL;
    GuardAction action;

    guard_action_begin(&action, 1);
    assert_false(guard_action_add_connect(&action, NULL, &error));
    assert_non_null(strstr(error->message, "missing or too long"));
    g_clear_error(&error);
    assert_false(guard_action_add_connect(&action, long_path, &error));
    assert_non_null(strstr(error->message, long_path));
    g_clear_error(&error);
    assert_null(guard_start(0x3fffff, NULL, &error));
    assert_non_null(strstr(error->message, "guard of process"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_resumes),         cmocka_unit_test(test_resumes_by_an_abstract_name),
        cmocka_unit_test(test_kills),           cmocka_unit_test(test_leaves),
        cmocka_unit_test(test_files),           cmocka_unit_test(test_fifos),
        cmocka_unit_test(test_files_now),       cmocka_unit_test(test_runs),
        cmocka_unit_test(test_too_much),        cmocka_unit_test(test_errors),
        cmocka_unit_test(test_keeps_no_memory), cmocka_unit_test(test_balloon),
        cmocka_unit_test(test_resumes_once),    cmocka_unit_test(test_state_that_is_not_told),
    };
    int result;

    signal(SIGPIPE, SIG_IGN);
    resumed = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    released = resumed + 1;
    released_mib = resumed + 2;
    hang_ups = resumed + 3;
    mute = resumed + 4;
    migrated = resumed + 5;
    greetings = resumed + 6;
    atomic_store(migrated, -1);
    if (!mkdtemp(folder))
        return 1;
    strcpy(socket_path, folder);
    strcat(socket_path, "/qmp");
    result = cmocka_run_group_tests(tests, NULL, NULL);
    unlink(socket_path);
    rmdir(folder);
    return result;
}
