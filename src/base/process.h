/*
 * Facts about another process from /proc
 *
 * A pid alone can be reused; a pid together with its start time names one
 * process for as long as the host is up.
 */
#pragma once

#include <glib.h>
#include <stdint.h>
#include <sys/types.h>

/* Field 22 of /proc/PID/stat (clock ticks after boot). */
gboolean process_get_start_time(pid_t pid, uint64_t *ret_ticks, GError **error);

/* TRUE if *pid* is alive (no zombie, but for one of which other threads are still ending) and was started
 * at *start_time*. */
gboolean process_is_same(pid_t pid, uint64_t start_time);

/* The command line as a NULL-terminated vector; free with g_strfreev(). */
char **process_get_command_line(pid_t pid, GError **error);

/* Sends *signal_number* only if the pid still is that process. */
gboolean process_kill(pid_t pid, uint64_t start_time, int signal_number, GError **error);

/* Waits until the process is gone; FALSE after *timeout_ms*. */
gboolean process_wait_gone(pid_t pid, uint64_t start_time, int timeout_ms);

/* FALSE where its first thread has given its memory back already: it ends, or has ended.  Its files may be
 * open for a moment more. */
gboolean process_has_memory(pid_t pid);

/* This boot's id (/proc/sys/kernel/random/boot_id); free with g_free(). */
char *process_get_boot_id(void);
