/*
 * Run a system call inside another process
 *
 * Theory of operation
 *
 * Some kernel objects belong to the process that makes them: a userfaultfd
 * watches the address space of its maker.  To get one for a running QEMU, one
 * of QEMU's threads has to make the call.  An Inject stops that thread with
 * ptrace(2), lets it run system calls of ours, and puts everything back:
 *
 *     attach   PTRACE_SEIZE, PTRACE_INTERRUPT, wait; read registers, vector
 *              state and signal mask; write a *return frame* on the stack,
 *              below the red zone
 *     call     set the registers to run `syscall; ret` found in the process's
 *              own code, with the return frame as the stack; run to the end
 *              of the system call; read the result
 *     free     restore mask and registers, detach
 *
 * The tracer may die at any moment, by SIGKILL too; the kernel then detaches
 * and the thread runs on.  That must never hurt it.  Therefore each state that
 * the thread can be left in finishes by itself: before the registers are set,
 * nothing that it can see has changed; after, it runs our one system call,
 * *returns* into the C library's signal trampoline, and rt_sigreturn(2) takes
 * the return frame and restores every register, the vector state and the
 * signal mask to what they were.  Setting registers is one ptrace call, so
 * there is nothing in between.  What can stay behind is a descriptor that the
 * call made; memory/clean.h closes it.
 *
 * A thread that is stopped inside a system call has it restarted: the
 * registers that are restored stand on the `syscall` instruction again, as the
 * kernel itself would do it after a signal without a handler.
 *
 * Threads: all calls on one Inject from the thread that attached (a rule of
 * ptrace).  Use a thread made for it: when that ends, the kernel detaches from
 * whatever could not be let go of (a thread that hung in the kernel).
 *
 * Limits: x86-64; the process must have the gadget and the trampoline (every
 * process with a C library has); user shadow stacks are not supported.
 */
#pragma once

#include <glib.h>
#include <stdint.h>
#include <sys/types.h>

typedef struct Inject Inject;

/* Stops the main thread of *pid*.  The time that it stays stopped is the time
 * until inject_free(). */
Inject *inject_attach(pid_t pid, GError **error);

/* Runs one system call (which must not block) with up to six arguments.
 * *ret_value* is what the kernel gave: -errno on failure, which is not an
 * error of this function. */
gboolean inject_call(Inject *inject, long number, const uint64_t arguments[6], int64_t *ret_value,
                     GError **error);

/* Memory of the process for a call's arguments: INJECT_SCRATCH_BYTES on its
 * stack, below the return frame, where nothing that runs looks. */
#define INJECT_SCRATCH_BYTES 1024u
uint64_t inject_get_scratch(const Inject *inject);
gboolean inject_write_scratch(Inject *inject, const void *data, size_t length, GError **error);
gboolean inject_read_scratch(Inject *inject, void *data, size_t length, GError **error);

/* Gives the process a copy of our descriptor *fd*, close-on-exec (give_fd.c);
 * its number there, or -1. */
int inject_give_fd(Inject *inject, int fd, GError **error);

pid_t inject_get_pid(const Inject *inject);

/* Puts everything back and lets the thread run.  NULL-safe. */
void inject_free(Inject *inject);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Inject, inject_free)

/* A copy of another process's descriptor (pidfd_getfd(2), Linux 5.6), close-on-exec; -1 on error.
 */
int inject_take_fd(pid_t pid, int remote_fd, GError **error);
