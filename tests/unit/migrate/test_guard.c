/*
 * The guard does its duty when the process that started it is killed, and
 * only then.  The "VMM" is a child that serves just enough QMP.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <stdatomic.h>
#include <unistd.h>

#include "base/clock.h"
#include "migrate/guard.h"

static _Atomic int *resumed;
static char folder[] = "/tmp/vmferry-guard-XXXXXX";
static char socket_path[64];

static void serve_client(int client)
{
    char text[4096] = "";
    ssize_t got;

    (void)!write(client, "{\"QMP\": {}}\r\n", 13);
    while ((got = read(client, text, sizeof text - 1)) > 0) {
        text[got] = '\0';
        if (strstr(text, "\"cont\"")) {
            atomic_fetch_add(resumed, 1);
            (void)!write(client, "{\"return\": {}, \"id\": \"guard\"}\r\n", 32);
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

/* An agent that starts a guard, sets duties and dies, or dismisses it. */
static void run_agent(pid_t vmm, GuardDuty duty, gboolean dismiss)
{
    pid_t agent = fork();

    if (agent == 0) {
        g_autoptr(GError) error = NULL;
        Guard *guard = guard_start(vmm, socket_path, GUARD_LEAVE, &error);

        if (!guard || !guard_set_duty(guard, duty, &error))
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
    run_agent(vmm, GUARD_RESUME, FALSE);
    assert_true(wait_for(was_resumed, vmm));
    kill(vmm, SIGKILL);
    waitpid(vmm, NULL, 0);
}

static void test_kills(void **state)
{
    pid_t vmm = start_vmm();

    run_agent(vmm, GUARD_KILL, FALSE);
    assert_true(wait_for(has_ended, vmm));
}

/* Dismissed or told to leave it: the guard that has ended has done nothing. */
static void test_leaves(void **state)
{
    pid_t vmm = start_vmm();

    atomic_store(resumed, 0);
    run_agent(vmm, GUARD_KILL, TRUE);
    run_agent(vmm, GUARD_RESUME, TRUE);
    run_agent(vmm, GUARD_LEAVE, FALSE);
    /* A later guard's work shows that the earlier ones had their time. */
    run_agent(vmm, GUARD_RESUME, FALSE);
    assert_true(wait_for(was_resumed, vmm));
    assert_int_equal(atomic_load(resumed), 1);
    assert_int_equal(waitpid(vmm, NULL, WNOHANG), 0);
    kill(vmm, SIGKILL);
    waitpid(vmm, NULL, 0);
}

static void test_errors(void **state)
{
    g_autoptr(GError) error = NULL;

    assert_null(guard_start(getpid(), NULL, GUARD_LEAVE, &error));
    assert_non_null(strstr(error->message, "QMP socket path"));
    g_clear_error(&error);
    assert_null(guard_start(0x3fffff, socket_path, GUARD_LEAVE, &error));
    assert_non_null(strstr(error->message, "guard of process"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_resumes),
        cmocka_unit_test(test_kills),
        cmocka_unit_test(test_leaves),
        cmocka_unit_test(test_errors),
    };
    int result;

    signal(SIGPIPE, SIG_IGN);
    resumed = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (!mkdtemp(folder))
        return 1;
    strcpy(socket_path, folder);
    strcat(socket_path, "/qmp");
    result = cmocka_run_group_tests(tests, NULL, NULL);
    unlink(socket_path);
    rmdir(folder);
    return result;
}
