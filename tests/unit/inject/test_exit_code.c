/* Exit codes that are replaced, and all that must stay as it is. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/process.h"
#include "inject/exit_code.h"

#define CODE 109

static volatile sig_atomic_t ending = -1;

static void on_signal(int number)
{
    ending = number == SIGUSR1 ? 0 : 7;
}

static void *spin(void *unused)
{
    for (;;)
        usleep(100);
    return NULL;
}

/* Ends with 0 on SIGUSR1, with 7 on SIGUSR2; makes system calls meanwhile, and
 * many at its end, as QEMU does. */
static void victim_main(void)
{
    pthread_t other;

    signal(SIGUSR1, on_signal);
    signal(SIGUSR2, on_signal);
    pthread_create(&other, NULL, spin, NULL);
    while (ending < 0)
        usleep(1000);
    for (int i = 0; i < 200; i++)
        close(-1);
    _exit(ending); /* not through what a sanitizer does at the end */
}

static pid_t start_victim(void)
{
    pid_t pid = fork();

    if (pid == 0)
        victim_main();
    /* Both threads are there: so are its signal handlers. */
    for (guint i = 0; i < 5000; i++) {
        g_autofree char *path = g_strdup_printf("/proc/%d/task", (int)pid);
        g_autoptr(GDir) dir = g_dir_open(path, 0, NULL);

        if (dir && g_dir_read_name(dir) && g_dir_read_name(dir))
            return pid;
        g_usleep(1000);
    }
    fail_msg("the victim does not start");
    return -1;
}

static void await_end(pid_t pid)
{
    uint64_t start_time;

    if (process_get_start_time(pid, &start_time, NULL))
        assert_true(process_wait_gone(pid, start_time, 10000));
}

static int status_of(pid_t pid)
{
    int status;

    assert_int_equal(waitpid(pid, &status, 0), pid);
    return status;
}

static int trace_and_signal(int signal_number, gboolean *ret_replaced)
{
    pid_t pid = start_victim();
    g_autoptr(GError) error = NULL;
    ExitCode *trace = exit_code_trace(pid, CODE, &error);

    if (!trace)
        fail_msg("%s", error->message);
    kill(pid, signal_number);
    await_end(pid);
    *ret_replaced = exit_code_finish(trace);
    return status_of(pid);
}

static void test_good_end_is_replaced(void **state)
{
    gboolean replaced;
    int status = trace_and_signal(SIGUSR1, &replaced);

    assert_true(replaced);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), CODE);
}

static void test_other_codes_stay(void **state)
{
    gboolean replaced;
    int status = trace_and_signal(SIGUSR2, &replaced);

    assert_false(replaced);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 7);
}

static void test_end_by_a_signal_stays(void **state)
{
    gboolean replaced;
    int status = trace_and_signal(SIGKILL, &replaced);

    assert_false(replaced);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), SIGKILL);
}

static void assert_untraced(pid_t pid)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/status", (int)pid);
    g_autofree char *text = NULL;

    assert_true(g_file_get_contents(path, &text, NULL, NULL));
    assert_non_null(strstr(text, "TracerPid:\t0\n"));
}

static void test_process_that_does_not_end_is_let_go(void **state)
{
    pid_t pid = start_victim();
    ExitCode *trace = exit_code_trace(pid, CODE, NULL);
    int status;

    assert_non_null(trace);
    assert_false(exit_code_finish(trace));
    assert_untraced(pid);
    kill(pid, SIGUSR1);
    status = status_of(pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

/* Dies at some instant while it traces: the victim ends all the same. */
static void test_tracer_killed(void **state)
{
    for (guint i = 0; i < 20; i++) {
        pid_t pid = start_victim();
        pid_t spy = fork();
        int status;

        if (spy == 0) {
            if (exit_code_trace(pid, CODE, NULL))
                kill(pid, SIGUSR1);
            clock_sleep_ns(i * 300000);
            kill(getpid(), SIGKILL);
        }
        assert_int_equal(waitpid(spy, &status, 0), spy);
        kill(pid, SIGUSR1);
        status = status_of(pid);
        assert_true(WIFEXITED(status));
        assert_true(WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == CODE);
    }
}

/* Without a word to it: in a sleep, between two calls, stopped by a signal. */
static void test_ended_at_once(void **state)
{
    for (guint i = 0; i < 3; i++) {
        pid_t pid = start_victim();
        g_autoptr(GError) error = NULL;
        int status;

        if (i == 1)
            kill(pid, SIGSTOP);
        if (!exit_code_end(pid, CODE, &error))
            fail_msg("%s", error->message);
        await_end(pid);
        status = status_of(pid);
        assert_true(WIFEXITED(status));
        assert_int_equal(WEXITSTATUS(status), CODE);
    }
}

/* It makes no system call: left as it is. */
static void test_spinning_process_is_let_go(void **state)
{
    g_autoptr(GError) error = NULL;
    gint *spins =
        mmap(NULL, sizeof *spins, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pid_t pid = fork();

    if (pid == 0)
        for (;;)
            g_atomic_int_set(spins, 1);
    /* fork() itself makes system calls in the child, too. */
    while (!g_atomic_int_get(spins))
        clock_sleep_ns(1000000);
    munmap(spins, sizeof *spins);
    assert_false(exit_code_end(pid, CODE, &error));
    assert_true(error_is(error, VMFERRY_ERROR_TIMEOUT));
    assert_untraced(pid);
    kill(pid, SIGKILL);
    assert_true(WIFSIGNALED(status_of(pid)));
}

static void test_no_such_process(void **state)
{
    g_autoptr(GError) error = NULL;

    assert_null(exit_code_trace(0x3fffff, CODE, &error));
    assert_non_null(strstr(error->message, "trace process 4194303"));
    assert_false(exit_code_finish(NULL));
    g_clear_error(&error);
    assert_false(exit_code_end(0x3fffff, CODE, &error));
    assert_non_null(strstr(error->message, "trace process 4194303"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good_end_is_replaced),
        cmocka_unit_test(test_other_codes_stay),
        cmocka_unit_test(test_end_by_a_signal_stays),
        cmocka_unit_test(test_process_that_does_not_end_is_let_go),
        cmocka_unit_test(test_tracer_killed),
        cmocka_unit_test(test_ended_at_once),
        cmocka_unit_test(test_spinning_process_is_let_go),
        cmocka_unit_test(test_no_such_process),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
