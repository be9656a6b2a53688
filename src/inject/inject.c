#include "inject/inject.h"

#include <elf.h>
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fault.h"
#include "base/fd.h"
#include "inject/gadget.h"
#include "inject/return_frame.h"

#define STOP_TIMEOUT_NS 2000000000ULL
#define VECTOR_STATE_LIMIT 16384u
#define USER_CS_64 0x33u

/* The kernel's own return codes for "restart this system call"; never seen by
 * a program, only by its tracer (include/linux/errno.h). */
enum {
    RESTART_SYS = 512,
    RESTART_NO_INTERRUPT = 513,
    RESTART_NO_HANDLER = 514,
    RESTART_BLOCK = 516,
};

struct Inject {
    pid_t pid;
    Gadgets gadgets;
    gboolean seized;
    gboolean stopped;
    gboolean changed;            /* registers or mask are not the thread's own */
    struct user_regs_struct own; /* as it shall go on */
    uint64_t own_mask;
    uint64_t frame_address;
};

static gboolean trace(enum __ptrace_request request, Inject *inject, void *address, void *data,
                      const char *what, GError **error)
{
    if (ptrace(request, inject->pid, address, data) < 0) {
        error_set_errno(error, errno, "ptrace %s on pid %d", what, (int)inject->pid);
        return FALSE;
    }
    return TRUE;
}

/* Waits for the next stop.  A plain waitpid() could hang for ever on a thread
 * in an uninterruptible sleep, so this polls with short naps. */
static gboolean wait_stop(Inject *inject, int *ret_status, GError **error)
{
    uint64_t end = clock_now_ns() + STOP_TIMEOUT_NS;

    for (uint64_t nap = 5000;; nap = MIN(nap * 2, 1000000)) {
        pid_t got = waitpid(inject->pid, ret_status, __WALL | WNOHANG);

        if (got == inject->pid && WIFSTOPPED(*ret_status))
            return TRUE;
        if (got == inject->pid || (got < 0 && errno != EINTR)) {
            inject->seized = FALSE;
            error_set(error, VMFERRY_ERROR_NOT_FOUND, "process %d ended", (int)inject->pid);
            return FALSE;
        }
        if (clock_now_ns() > end) {
            error_set(error, VMFERRY_ERROR_TIMEOUT,
                      "process %d did not stop for ptrace in 2 s (it hangs in the kernel, or in "
                      "a debugger)",
                      (int)inject->pid);
            return FALSE;
        }
        clock_sleep_ns(nap);
    }
}

static gboolean is_event_stop(int status)
{
    return status >> 16 == PTRACE_EVENT_STOP;
}

/* From SEIZE to the stop that we asked for.  Signals that arrive before it are
 * delivered as if we were not there. */
static gboolean stop_thread(Inject *inject, GError **error)
{
    int status;

    if (!trace(PTRACE_SEIZE, inject, NULL, (void *)PTRACE_O_TRACESYSGOOD, "seize", error)) {
        g_prefix_error(error, "cannot attach (no CAP_SYS_PTRACE, or a debugger is attached): ");
        return FALSE;
    }
    inject->seized = TRUE;
    if (!trace(PTRACE_INTERRUPT, inject, NULL, NULL, "interrupt", error))
        return FALSE;
    for (;;) {
        if (!wait_stop(inject, &status, error))
            return FALSE;
        if (is_event_stop(status))
            break;
        if (!trace(PTRACE_CONT, inject, NULL, (void *)(intptr_t)WSTOPSIG(status), "cont", error))
            return FALSE;
    }
    inject->stopped = TRUE;
    if (WSTOPSIG(status) != SIGTRAP) {
        error_set(error, VMFERRY_ERROR_UNSUPPORTED,
                  "process %d is stopped by a signal; continue it (kill -CONT %d) first",
                  (int)inject->pid, (int)inject->pid);
        return FALSE;
    }
    return TRUE;
}

/* The registers with which an interrupted system call is made again. */
static void rewind_system_call(struct user_regs_struct *registers)
{
    if ((int64_t)registers->orig_rax >= 0) {
        switch (-(int64_t)registers->rax) {
        case RESTART_SYS:
        case RESTART_NO_INTERRUPT:
        case RESTART_NO_HANDLER:
            registers->rax = registers->orig_rax;
            registers->rip -= 2;
            break;
        case RESTART_BLOCK:
            registers->rax = SYS_restart_syscall;
            registers->rip -= 2;
            break;
        default:
            break;
        }
    }
    registers->orig_rax = (unsigned long long)-1; /* not in a system call any more */
}

static gboolean write_return_frame(Inject *inject, const uint8_t *vector, size_t vector_bytes,
                                   GError **error)
{
    g_autoptr(GByteArray) frame =
        return_frame_build(&inject->own, vector, vector_bytes, inject->own_mask,
                           inject->gadgets.signal_return, &inject->frame_address);
    struct iovec local = {frame->data, frame->len};
    struct iovec remote = {(void *)(uintptr_t)inject->frame_address, frame->len};

    if (process_vm_writev(inject->pid, &local, 1, &remote, 1, 0) != (ssize_t)frame->len) {
        error_set_errno(error, errno, "write a return frame on the stack of pid %d",
                        (int)inject->pid);
        return FALSE;
    }
    return TRUE;
}

static gboolean read_thread(Inject *inject, GError **error)
{
    uint8_t vector[VECTOR_STATE_LIMIT] __attribute__((aligned(64)));
    struct iovec io = {vector, sizeof vector};

    if (!trace(PTRACE_GETREGS, inject, NULL, &inject->own, "read registers", error) ||
        !trace(PTRACE_GETREGSET, inject, (void *)NT_X86_XSTATE, &io, "read vector state", error) ||
        !trace(PTRACE_GETSIGMASK, inject, (void *)sizeof inject->own_mask, &inject->own_mask,
               "read the signal mask", error))
        return FALSE;
    if (inject->own.cs != USER_CS_64) {
        error_set(error, VMFERRY_ERROR_UNSUPPORTED, "pid %d is no 64-bit process",
                  (int)inject->pid);
        return FALSE;
    }
    rewind_system_call(&inject->own);
    return write_return_frame(inject, vector, io.iov_len, error);
}

Inject *inject_attach(pid_t pid, GError **error)
{
    g_autoptr(Inject) inject = g_new0(Inject, 1);

    inject->pid = pid;
    if (!gadget_find(pid, &inject->gadgets, error) || !stop_thread(inject, error))
        return NULL;
    if (fault_point("inject.stopped", error) || !read_thread(inject, error) ||
        fault_point("inject.prepared", error))
        return NULL;
    return g_steal_pointer(&inject);
}

static gboolean set_call(Inject *inject, long number, const uint64_t arguments[6], GError **error)
{
    struct user_regs_struct registers = inject->own;
    uint64_t all_signals = ~0ULL;

    registers.rip = inject->gadgets.call;
    registers.rsp = inject->frame_address;
    registers.rax = (unsigned long long)number;
    registers.rdi = arguments[0];
    registers.rsi = arguments[1];
    registers.rdx = arguments[2];
    registers.r10 = arguments[3];
    registers.r8 = arguments[4];
    registers.r9 = arguments[5];
    inject->changed = TRUE;
    /* Mask after registers: from here on the return frame restores both. */
    return trace(PTRACE_SETREGS, inject, NULL, &registers, "set registers", error) &&
           trace(PTRACE_SETSIGMASK, inject, (void *)sizeof all_signals, &all_signals,
                 "block signals", error);
}

/* Runs to the next entry to or exit from a system call. */
static gboolean run_to_system_call(Inject *inject, GError **error)
{
    int status;

    inject->stopped = FALSE;
    if (!trace(PTRACE_SYSCALL, inject, NULL, NULL, "run", error) ||
        !wait_stop(inject, &status, error))
        return FALSE;
    inject->stopped = TRUE;
    if (WSTOPSIG(status) != (SIGTRAP | 0x80)) {
        error_set(error, VMFERRY_ERROR_FAILED, "pid %d stopped unexpectedly (status 0x%x)",
                  (int)inject->pid, status);
        return FALSE;
    }
    return TRUE;
}

gboolean inject_call(Inject *inject, long number, const uint64_t arguments[6], int64_t *ret_value,
                     GError **error)
{
    struct user_regs_struct after;

    if (!set_call(inject, number, arguments, error) || fault_point("inject.registers-set", error) ||
        !run_to_system_call(inject, error) || !run_to_system_call(inject, error) ||
        !trace(PTRACE_GETREGS, inject, NULL, &after, "read registers", error))
        return FALSE;
    if (fault_point("inject.called", error))
        return FALSE;
    *ret_value = (int64_t)after.rax;
    return TRUE;
}

pid_t inject_get_pid(const Inject *inject)
{
    return inject->pid;
}

uint64_t inject_get_scratch(const Inject *inject)
{
    return (inject->frame_address - INJECT_SCRATCH_BYTES) & ~15ULL;
}

typedef ssize_t (*Transfer)(pid_t pid, const struct iovec *local, unsigned long local_count,
                            const struct iovec *remote, unsigned long remote_count,
                            unsigned long flags);

static gboolean transfer_scratch(Inject *inject, Transfer transfer, void *data, size_t length,
                                 GError **error)
{
    struct iovec local = {data, length};
    struct iovec remote = {(void *)(uintptr_t)inject_get_scratch(inject), length};

    g_assert(length <= INJECT_SCRATCH_BYTES);
    if (transfer(inject->pid, &local, 1, &remote, 1, 0) == (ssize_t)length)
        return TRUE;
    error_set_errno(error, errno, "reach the stack of pid %d", (int)inject->pid);
    return FALSE;
}

gboolean inject_write_scratch(Inject *inject, const void *data, size_t length, GError **error)
{
    return transfer_scratch(inject, process_vm_writev, (void *)data, length, error);
}

gboolean inject_read_scratch(Inject *inject, void *data, size_t length, GError **error)
{
    return transfer_scratch(inject, process_vm_readv, data, length, error);
}

void inject_free(Inject *inject)
{
    int status;

    if (!inject)
        return;
    /* After a time-out it may still run; only a stopped thread can be let go. */
    if (inject->seized && !inject->stopped &&
        ptrace(PTRACE_INTERRUPT, inject->pid, NULL, NULL) == 0)
        inject->stopped = wait_stop(inject, &status, NULL);
    /* Mask before registers: in between, the return frame still heals both. */
    if (inject->stopped && inject->changed) {
        ptrace(PTRACE_SETSIGMASK, inject->pid, (void *)sizeof inject->own_mask, &inject->own_mask);
        ptrace(PTRACE_SETREGS, inject->pid, NULL, &inject->own);
    }
    if (inject->seized)
        ptrace(PTRACE_DETACH, inject->pid, NULL, NULL);
    g_free(inject);
}

int inject_take_fd(pid_t pid, int remote_fd, GError **error)
{
    autofd int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    int fd;

    if (pidfd < 0) {
        error_set_errno(error, errno, "pidfd_open of pid %d", (int)pid);
        return -1;
    }
    fd = (int)syscall(SYS_pidfd_getfd, pidfd, remote_fd, 0);
    if (fd < 0)
        error_set_errno(error, errno, "pidfd_getfd of descriptor %d of pid %d (needs Linux 5.6)",
                        remote_fd, (int)pid);
    return fd;
}
