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
