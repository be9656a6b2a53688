#include "inject/exit_code.h"

#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>

#include "base/clock.h"
#include "base/error.h"

#define BEGIN_TIMEOUT_NS 2000000000ULL
#define END_TIMEOUT_NS 2000000000ULL
#define SHORTEST_NAP_NS 10000
#define LONGEST_NAP_NS 1000000

struct ExitCode {
    pid_t pid;
    int code;
    gboolean at_once; /* not at its own exit_group(0) only */
    GThread *thread;
    gint wanted_back; /* atomic: let go of it */
    gint replaced;    /* atomic */

    GMutex lock;
    GCond begun_condition;
    gboolean begun; /* or failed to: see error */
    GError *error;
};

typedef enum { STOP_NONE, STOP_STOPPED, STOP_ENDED } Stop;

/* Looks without taking: an end is its parent's to hear of, and that may be us. */
static Stop look(ExitCode *trace, int *ret_status)
{
    siginfo_t info = {0};

    if (waitid(P_PID, (id_t)trace->pid, &info, WEXITED | WSTOPPED | WNOHANG | WNOWAIT | __WALL) < 0)
        return errno == EINTR ? STOP_NONE : STOP_ENDED;
    if (info.si_pid == 0)
        return STOP_NONE;
    if (info.si_code != CLD_TRAPPED && info.si_code != CLD_STOPPED)
        return STOP_ENDED;
    return waitpid(trace->pid, ret_status, __WALL | WNOHANG) == trace->pid &&
                   WIFSTOPPED(*ret_status)
               ? STOP_STOPPED
               : STOP_NONE;
}

/* Waits for the next stop until *deadline_ns*, or until it is wanted back. */
static Stop await_stop(ExitCode *trace, uint64_t deadline_ns, int *ret_status)
{
    for (uint64_t nap = SHORTEST_NAP_NS;; nap = MIN(nap * 2, LONGEST_NAP_NS)) {
        Stop stop = look(trace, ret_status);

        if (stop != STOP_NONE || clock_now_ns() > deadline_ns ||
            g_atomic_int_get(&trace->wanted_back))
            return stop;
        clock_sleep_ns(nap);
    }
}

/* TRUE at the entry to exit_group(0), or to whatever system call. */
static gboolean is_the_end(const ExitCode *trace)
{
    struct user_regs_struct registers;

    /* At an entry the kernel has put -ENOSYS where the result will be. */
    if (ptrace(PTRACE_GETREGS, trace->pid, NULL, &registers) < 0 ||
        (int64_t)registers.rax != -ENOSYS)
        return FALSE;
    return trace->at_once || (registers.orig_rax == SYS_exit_group && (int)registers.rdi == 0);
}

static gboolean poke(pid_t pid, size_t offset, long value)
{
    return ptrace(PTRACE_POKEUSER, pid, offset, value) == 0;
}

static gboolean replace(ExitCode *trace)
{
    return poke(trace->pid, offsetof(struct user_regs_struct, rdi), trace->code) &&
           poke(trace->pid, offsetof(struct user_regs_struct, orig_rax), SYS_exit_group);
}

/* Lets a stopped thread run to its next system call, with its signal. */
static gboolean go_on(ExitCode *trace, int status)
{
    int signal_number = WSTOPSIG(status);
    gboolean event = status >> 16 != 0;

    /* A stop that the process was sent: it stays stopped, but for its end. */
    if (!trace->at_once && status >> 16 == PTRACE_EVENT_STOP && signal_number != SIGTRAP)
        return ptrace(PTRACE_LISTEN, trace->pid, NULL, NULL) == 0;
    if (event || signal_number == (SIGTRAP | 0x80))
        signal_number = 0;
    return ptrace(PTRACE_SYSCALL, trace->pid, NULL, (void *)(intptr_t)signal_number) == 0;
}

/* From the first stop on. */
static void follow(ExitCode *trace, int status)
{
    Stop stop = STOP_STOPPED;

    while (stop == STOP_STOPPED) {
        if (WSTOPSIG(status) == (SIGTRAP | 0x80) && is_the_end(trace)) {
            g_atomic_int_set(&trace->replaced, replace(trace));
            break;
        }
        if (!go_on(trace, status))
            break;
        stop = await_stop(trace, UINT64_MAX, &status);
    }
    /* Only a stopped thread can be let go. */
    if (stop == STOP_NONE && ptrace(PTRACE_INTERRUPT, trace->pid, NULL, NULL) == 0) {
        g_atomic_int_set(&trace->wanted_back, FALSE);
        await_stop(trace, clock_now_ns() + BEGIN_TIMEOUT_NS, &status);
    }
    if (stop != STOP_ENDED)
        ptrace(PTRACE_DETACH, trace->pid, NULL, NULL);
}

static gboolean begin(ExitCode *trace, int *ret_status, GError **error)
{
    if (ptrace(PTRACE_SEIZE, trace->pid, NULL, (void *)PTRACE_O_TRACESYSGOOD) < 0 ||
        ptrace(PTRACE_INTERRUPT, trace->pid, NULL, NULL) < 0) {
        error_set_errno(error, errno, "trace process %d", (int)trace->pid);
        return FALSE;
    }
    if (await_stop(trace, clock_now_ns() + BEGIN_TIMEOUT_NS, ret_status) == STOP_STOPPED)
        return TRUE;
    error_set(error, VMFERRY_ERROR_TIMEOUT, "process %d did not stop for ptrace", (int)trace->pid);
    return FALSE;
}

static gpointer trace_thread(gpointer data)
{
    ExitCode *trace = data;
    GError *error = NULL;
    int status = 0;
    gboolean begun = begin(trace, &status, &error);

    g_mutex_lock(&trace->lock);
    trace->begun = TRUE;
    trace->error = error;
    g_cond_signal(&trace->begun_condition);
    g_mutex_unlock(&trace->lock);
    if (begun)
        follow(trace, status);
    return NULL; /* whatever could not be let go of goes with the thread */
}

static ExitCode *begin_trace(pid_t pid, int code, gboolean at_once, GError **error)
{
    ExitCode *trace = g_new0(ExitCode, 1);

    trace->pid = pid;
    trace->code = code;
    trace->at_once = at_once;
    g_mutex_init(&trace->lock);
    g_cond_init(&trace->begun_condition);
    trace->thread = g_thread_try_new("exit-code", trace_thread, trace, error);
    if (!trace->thread) {
        exit_code_finish(trace);
        return NULL;
    }
    g_mutex_lock(&trace->lock);
    while (!trace->begun)
        g_cond_wait(&trace->begun_condition, &trace->lock);
    g_mutex_unlock(&trace->lock);
    if (!trace->error)
        return trace;
    g_propagate_error(error, g_steal_pointer(&trace->error));
    exit_code_finish(trace);
    return NULL;
}

ExitCode *exit_code_trace(pid_t pid, int code, GError **error)
{
    return begin_trace(pid, code, FALSE, error);
}

gboolean exit_code_finish(ExitCode *trace)
{
    gboolean replaced;

    if (!trace)
        return FALSE;
    g_atomic_int_set(&trace->wanted_back, TRUE);
    if (trace->thread)
        g_thread_join(trace->thread);
    replaced = trace->replaced;
    g_clear_error(&trace->error);
    g_cond_clear(&trace->begun_condition);
    g_mutex_clear(&trace->lock);
    g_free(trace);
    return replaced;
}

gboolean exit_code_end(pid_t pid, int code, GError **error)
{
    uint64_t deadline = clock_now_ns() + END_TIMEOUT_NS;
    ExitCode *trace = begin_trace(pid, code, TRUE, error);

    if (!trace)
        return FALSE;
    while (!g_atomic_int_get(&trace->replaced) && clock_now_ns() < deadline)
        clock_sleep_ns(LONGEST_NAP_NS);
    if (exit_code_finish(trace))
        return TRUE;
    error_set(error, VMFERRY_ERROR_TIMEOUT, "process %d makes no system call to end it at",
              (int)pid);
    return FALSE;
}
