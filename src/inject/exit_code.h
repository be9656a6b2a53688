/*
 * The exit code with which another process ends
 *
 * Theory of operation: a process that is told to end gently ends with 0, as if
 * its work were done, and whoever looks at that starts it again or forgets it.
 * An ExitCode traces the process's main thread from system call to system call
 * until that makes exit_group(0), changes the argument, and lets go of it.
 * Other threads run freely.
 *
 * The tracer may die at any moment: the kernel then lets the process go on, and
 * it ends with 0 after all.  Codes other than 0, and ends by a signal, stay.
 *
 * Or it is ended at once, without a word to it: the system call that it makes
 * next, or is in, becomes exit_group(CODE).  To the process that is what SIGKILL
 * is (nothing of its own runs any more, no thread, no handler), but whoever
 * waits for it sees an exit code.
 *
 * Threads: a thread of its own traces, since ptrace belongs to a thread.
 *
 * Limits: x86-64.  Each system call of the main thread costs some ten
 * microseconds; this is for a process that is about to end.
 */
#pragma once

#include <glib.h>
#include <sys/types.h>

typedef struct ExitCode ExitCode;

/* Begins to trace; tell the process to end when this has returned. */
ExitCode *exit_code_trace(pid_t pid, int code, GError **error);

/* Lets go of the process, whether it has ended or not.  TRUE where it ends, or
 * has ended, with the code.  NULL-safe. */
gboolean exit_code_finish(ExitCode *trace);

/* Ends the process at once with this code.  TRUE: it is about to be gone, with
 * all its threads.  FALSE: it goes on; within some seconds at most. */
gboolean exit_code_end(pid_t pid, int code, GError **error);
