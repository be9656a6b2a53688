/* Unit tests of src/base/process.h: when a process has ended. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/process.h"

#define WAIT_MS 20000

static void *wait_for_ever(void *unused)
{
    for (;;)
        pause();
    return NULL;
}

/* Its first thread ends, and another one goes on. */
static pid_t start_headless(void)
{
    pid_t pid = fork();
    pthread_t thread;

    if (pid == 0) {
        pthread_create(&thread, NULL, wait_for_ever, NULL);
        pthread_exit(NULL);
    }
    assert_true(pid > 0);
    return pid;
}

static void await_zombie(pid_t pid)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/stat", (int)pid);
    uint64_t end = clock_now_ns() + WAIT_MS * 1000000ULL;

    for (;;) {
        g_autofree char *text = file_read(path, 65536, NULL, NULL);

        assert_non_null(text);
        if (strncmp(strrchr(text, ')'), ") Z", 3) == 0)
            return;
        assert_true(clock_now_ns() < end);
        poll(NULL, 0, 1);
    }
}

/* What the others have open is open still. */
static void test_other_threads_count(void **state)
{
    pid_t pid = start_headless();
    uint64_t start;

    assert_true(process_get_start_time(pid, &start, NULL));
    await_zombie(pid);
    assert_true(process_is_same(pid, start));
    assert_false(process_has_memory(pid));
    assert_false(process_wait_gone(pid, start, 20));
    assert_true(process_kill(pid, start, SIGKILL, NULL));
    assert_true(process_wait_gone(pid, start, WAIT_MS));
    assert_false(process_is_same(pid, start));
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    assert_true(process_wait_gone(pid, start, 0));
}

static void test_another_process(void **state)
{
    uint64_t start;

    assert_true(process_get_start_time(getpid(), &start, NULL));
    assert_true(process_is_same(getpid(), start));
    assert_true(process_has_memory(getpid()));
    assert_false(process_is_same(getpid(), start + 1));
    assert_false(process_is_same(0, start));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_other_threads_count),
        cmocka_unit_test(test_another_process),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
