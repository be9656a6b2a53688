/* What is closed in a guest's process, and what is not. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/error.h"
#include "memory/clean.h"
#include "memory/maps.h"

static enum { MAPS_REAL, MAPS_UNREADABLE, MAPS_EMPTY } maps_answer;

GPtrArray *__real_maps_read(pid_t pid, GError **error);
GPtrArray *__wrap_maps_read(pid_t pid, GError **error);

GPtrArray *__wrap_maps_read(pid_t pid, GError **error)
{
    switch (maps_answer) {
    case MAPS_REAL:
        return __real_maps_read(pid, error);
    case MAPS_EMPTY:
        return maps_parse("", error);
    case MAPS_UNREADABLE:
    default:
        error_set(error, VMFERRY_ERROR_FAILED, "smaps cannot be read");
        return NULL;
    }
}

/* A process with a userfaultfd, which is its descriptor *ret_fd*. */
static pid_t start(int *ret_fd)
{
    int ready[2];
    pid_t pid;

    assert_int_equal(pipe(ready), 0);
    pid = fork();
    if (pid == 0) {
        int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | 1 /* user mode only */);

        prctl(PR_SET_PDEATHSIG, SIGKILL);
        (void)!write(ready[1], &fd, sizeof fd);
        for (;;)
            pause();
    }
    assert_int_equal(read(ready[0], ret_fd, sizeof *ret_fd), sizeof *ret_fd);
    assert_true(*ret_fd >= 0);
    close(ready[0]);
    close(ready[1]);
    return pid;
}

static gboolean is_open(pid_t pid, int fd)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/fd/%d", (int)pid, fd);
    g_autofree char *target = g_file_read_link(path, NULL);

    return target && strstr(target, "userfaultfd");
}

static void end(pid_t pid)
{
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
}

static void test_what_a_dead_agent_left_is_closed(void **state)
{
    int fd;
    pid_t pid = start(&fd);

    maps_answer = MAPS_REAL;
    assert_true(memory_clean_guest(pid, NULL));
    assert_false(is_open(pid, fd));
    end(pid);
}

/* Whether it is QEMU's own is not known then. */
static void test_what_cannot_be_told_apart_stays(void **state)
{
    int fd;
    pid_t pid = start(&fd);

    for (maps_answer = MAPS_UNREADABLE; maps_answer <= MAPS_EMPTY; maps_answer++) {
        GError *error = NULL;

        assert_false(memory_clean_guest(pid, &error));
        assert_non_null(error);
        g_clear_error(&error);
        assert_true(is_open(pid, fd));
    }
    end(pid);
}

static void test_a_process_that_is_gone_is_told(void **state)
{
    GError *error = NULL;

    maps_answer = MAPS_REAL;
    assert_false(memory_clean_guest(0x3fffff, &error));
    assert_non_null(error);
    g_clear_error(&error);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_a_dead_agent_left_is_closed),
        cmocka_unit_test(test_what_cannot_be_told_apart_stays),
        cmocka_unit_test(test_a_process_that_is_gone_is_told),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
