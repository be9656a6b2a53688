/*
 * Injection against a victim that would notice
 *
 * The victim is a child process that runs a loop with known integer, vector
 * and system-call results and ends with status 1 as soon as one is wrong.
 * The test injects from here, and from a spy process that is killed at each
 * fault point.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <immintrin.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/process.h"
#include "inject/gadget.h"
#include "inject/inject.h"

typedef enum { VICTIM_COMPUTES, VICTIM_SLEEPS, VICTIM_POLLS } VictimKind;

typedef struct {
    _Atomic uint64_t loops; /* how often all was found right */
} VictimReport;

static VictimReport *report;

static void on_signal(int number)
{
    (void)number;
}

__attribute__((target("avx2"))) static gboolean compute(void)
{
    __m256i sum = _mm256_setzero_si256();
    const __m256i one = _mm256_set1_epi32(1);
    int32_t lanes[8];
    uint64_t mix = 1;

    /* Values stay in registers for the whole loop. */
    for (int i = 0; i < 20000; i++) {
        __asm__ volatile("vpaddd %1, %0, %0" : "+x"(sum) : "x"(one));
        __asm__ volatile("imul $3, %0, %0" : "+r"(mix));
    }
    _mm256_storeu_si256((__m256i *)lanes, sum);
    for (int i = 0; i < 8; i++)
        if (lanes[i] != 20000)
            return FALSE;
    for (int i = 0; i < 20000; i++)
        mix *= 0xaaaaaaaaaaaaaaabULL; /* 1/3 modulo 2^64 */
    return mix == 1;
}

/* Sleeps and polls must last as long as asked for, or end by a real signal. */
static gboolean wait_quietly(VictimKind kind, const int pipe_ends[2])
{
    struct timespec nap = {0, 30000000};
    struct pollfd p = {.fd = pipe_ends[0], .events = POLLIN};
    uint64_t start = clock_now_ns();
    sigset_t none;

    sigemptyset(&none);
    if (kind == VICTIM_SLEEPS) {
        while (clock_nanosleep(CLOCK_MONOTONIC, 0, &nap, &nap) == EINTR)
            ;
    } else if (ppoll(&p, 1, &nap, &none) < 0 && errno == EINTR) {
        return TRUE; /* as QEMU's main loop, which takes it for a wake-up */
    }
    return clock_now_ns() - start >= 29000000;
}

static void victim_main(VictimKind kind)
{
    struct sigaction action = {.sa_handler = on_signal};
    sigset_t mask, now;
    int pipe_ends[2];

    if (pipe(pipe_ends) < 0)
        _exit(2);
    sigaction(SIGUSR1, &action, NULL);
    sigemptyset(&mask);
    sigaddset(&mask, SIGUSR2);
    sigprocmask(SIG_SETMASK, &mask, NULL);
    for (;;) {
        if (kind == VICTIM_COMPUTES ? !compute() : !wait_quietly(kind, pipe_ends))
            _exit(1);
        sigprocmask(SIG_SETMASK, NULL, &now);
        if (sigismember(&now, SIGUSR2) != 1 || sigismember(&now, SIGUSR1) != 0)
            _exit(3);
        atomic_fetch_add(&report->loops, 1);
    }
}

static pid_t start_victim(VictimKind kind)
{
    pid_t pid;

    atomic_store(&report->loops, 0);
    pid = fork();
    assert_true(pid >= 0);
    if (pid == 0)
        victim_main(kind);
    return pid;
}

/* The victim goes round again, twice, within ten seconds. */
static void assert_goes_on(pid_t pid)
{
    uint64_t before = atomic_load(&report->loops);
    uint64_t end = clock_now_ns() + 10000000000ULL;
    int status;

    while (atomic_load(&report->loops) < before + 2) {
        if (waitpid(pid, &status, WNOHANG) == pid)
            fail_msg("the victim ended: status 0x%x", status);
        if (clock_now_ns() > end)
            fail_msg("the victim hangs");
        clock_sleep_ns(1000000);
    }
}

static void end_victim(pid_t pid)
{
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
}

static guint count_fds(pid_t pid)
{
    g_autofree char *folder = g_strdup_printf("/proc/%d/fd", (int)pid);
    GDir *dir = g_dir_open(folder, 0, NULL);
    guint count = 0;

    while (dir && g_dir_read_name(dir))
        count++;
    g_dir_close(dir);
    return count;
}

static void call_getpid(pid_t pid)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(Inject) inject = inject_attach(pid, &error);
    const uint64_t none[6] = {0};
    int64_t value = -1;

    if (!inject)
        fail_msg("%s", error->message);
    assert_true(inject_call(inject, SYS_getpid, none, &value, &error));
    assert_int_equal(value, pid);
    assert_true(inject_call(inject, SYS_close, (uint64_t[6]){9999}, &value, &error));
    assert_int_equal(value, -EBADF);
}

static void test_calls(void **state)
{
    for (VictimKind kind = VICTIM_COMPUTES; kind <= VICTIM_POLLS; kind++) {
        pid_t pid = start_victim(kind);

        assert_goes_on(pid);
        for (int i = 0; i < 50; i++)
            call_getpid(pid);
        assert_goes_on(pid);
        end_victim(pid);
    }
}

/* A real signal that comes while the thread is ours is delivered afterwards. */
static void test_signal_meanwhile(void **state)
{
    pid_t pid = start_victim(VICTIM_POLLS);
    const uint64_t none[6] = {0};
    int64_t value;

    assert_goes_on(pid);
    for (int i = 0; i < 20; i++) {
        g_autoptr(Inject) inject = inject_attach(pid, NULL);

        assert_non_null(inject);
        kill(pid, SIGUSR1);
        assert_true(inject_call(inject, SYS_getpid, none, &value, NULL));
        kill(pid, SIGUSR1);
    }
    assert_goes_on(pid);
    end_victim(pid);
}

static void test_takes_descriptor(void **state)
{
    pid_t pid = start_victim(VICTIM_SLEEPS);
    g_autoptr(GError) error = NULL;
    int64_t remote = -1;
    int fd;

    assert_goes_on(pid);
    {
        g_autoptr(Inject) inject = inject_attach(pid, &error);

        assert_non_null(inject);
        assert_true(inject_call(inject, SYS_memfd_create, (uint64_t[6]){0, 0}, &remote, &error));
        assert_int_equal(remote, -EFAULT);
        assert_true(inject_call(inject, SYS_eventfd2, (uint64_t[6]){7, 0}, &remote, &error));
        assert_true(remote >= 0);
        fd = inject_take_fd(pid, (int)remote, &error);
        assert_true(fd >= 0);
        assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
        close(fd);
        assert_true(
            inject_call(inject, SYS_close, (uint64_t[6]){(uint64_t)remote}, &remote, &error));
        assert_int_equal(remote, 0);
    }
    assert_goes_on(pid);
    end_victim(pid);
}

static void test_give_fd(void **state)
{
    pid_t pid = start_victim(VICTIM_COMPUTES);
    int memory = memfd_create("vmferry-given", MFD_CLOEXEC);
    g_autoptr(GError) error = NULL;
    guint before, after;
    int given;

    assert_goes_on(pid);
    before = count_fds(pid);
    {
        g_autoptr(Inject) inject = inject_attach(pid, &error);

        given = inject_give_fd(inject, memory, &error);
        if (given < 0)
            fail_msg("%s", error->message);
    }
    assert_goes_on(pid);
    {
        g_autofree char *path = g_strdup_printf("/proc/%d/fd/%d", (int)pid, given);
        g_autofree char *target = g_file_read_link(path, NULL);

        assert_true(g_str_has_prefix(target, "/memfd:vmferry-given"));
    }
    after = count_fds(pid);
    assert_int_equal(after, before + 1); /* the sockets are gone again */
    close(memory);
    end_victim(pid);
}

/* The tracer is killed at each fault point; the victim must not notice. */
static void test_tracer_killed(void **state)
{
    static const char *const points[] = {"inject.stopped", "inject.prepared",
                                         "inject.registers-set", "inject.called"};

    for (VictimKind kind = VICTIM_COMPUTES; kind <= VICTIM_POLLS; kind++) {
        pid_t pid = start_victim(kind);

        assert_goes_on(pid);
        for (guint i = 0; i < 12 * G_N_ELEMENTS(points); i++) {
            pid_t spy = fork();
            int status;

            if (spy == 0) {
                g_autofree char *fault = g_strdup_printf("%s=kill", points[i % 4]);
                int64_t value;
                Inject *inject;

                g_setenv("VMFERRY_FAULT", fault, TRUE);
                inject = inject_attach(pid, NULL);
                if (inject)
                    inject_call(inject, SYS_getpid, (uint64_t[6]){0}, &value, NULL);
                _exit(0);
            }
            assert_int_equal(waitpid(spy, &status, 0), spy);
            assert_true(WIFSIGNALED(status));
        }
        assert_goes_on(pid);
        end_victim(pid);
    }
}

static void test_errors(void **state)
{
    g_autoptr(GError) error = NULL;
    pid_t pid = start_victim(VICTIM_SLEEPS);

    assert_goes_on(pid);
    kill(pid, SIGSTOP);
    waitpid(pid, NULL, WUNTRACED);
    assert_null(inject_attach(pid, &error));
    assert_non_null(strstr(error->message, "stopped by a signal"));
    g_clear_error(&error);
    kill(pid, SIGCONT);
    assert_goes_on(pid);
    end_victim(pid);

    assert_null(inject_attach(pid, &error));
    assert_non_null(error);
    g_clear_error(&error);
    assert_int_equal(inject_take_fd(getpid(), 9999, &error), -1);
    assert_non_null(strstr(error->message, "pidfd_getfd"));
}

static void test_gadget_scan(void **state)
{
    const uint8_t code[] = {0x90, 0x0f, 0x05, 0xc3, 0x48, 0xc7, 0xc0, 0x0f, 0, 0, 0, 0x0f, 0x05};
    Gadgets gadgets = {0};

    gadget_scan(code, sizeof code, 0x1000, &gadgets);
    assert_int_equal(gadgets.call, 0x1001);
    assert_int_equal(gadgets.signal_return, 0x1004);
    memset(&gadgets, 0, sizeof gadgets);
    gadget_scan(code, 3, 0x1000, &gadgets);
    assert_int_equal(gadgets.call, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gadget_scan),      cmocka_unit_test(test_calls),
        cmocka_unit_test(test_signal_meanwhile), cmocka_unit_test(test_takes_descriptor),
        cmocka_unit_test(test_give_fd),          cmocka_unit_test(test_tracer_killed),
        cmocka_unit_test(test_errors),
    };

    report = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
