#include "base/process.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"

#define COMMAND_LINE_LIMIT (2u << 20)

typedef struct {
    char state;
    gulong threads;
    uint64_t start_ticks;
} Stat;

/* FALSE where the process is gone. */
static gboolean read_stat(pid_t pid, Stat *ret, GError **error)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/stat", (int)pid);
    g_autofree char *text = file_read(path, 65536, NULL, NULL);
    g_auto(GStrv) fields = NULL;
    char *after_name;

    if (!text) {
        error_set(error, VMFERRY_ERROR_NOT_FOUND, "no process with pid %d", (int)pid);
        return FALSE;
    }
    /* The name is in parentheses and may hold anything, also ") ". */
    after_name = strrchr(text, ')');
    if (after_name && after_name[1] == ' ')
        fields = g_strsplit(after_name + 2, " ", 24);
    if (!fields || g_strv_length(fields) < 21) {
        error_set(error, VMFERRY_ERROR_FAILED, "%s: unexpected format", path);
        return FALSE;
    }
    *ret = (Stat){.state = fields[0][0],
                  .threads = strtoul(fields[17], NULL, 10),
                  .start_ticks = strtoull(fields[19], NULL, 10)};
    return TRUE;
}

gboolean process_get_start_time(pid_t pid, uint64_t *ret_ticks, GError **error)
{
    Stat stat;

    if (!read_stat(pid, &stat, error))
        return FALSE;
    *ret_ticks = stat.start_ticks;
    return TRUE;
}

gboolean process_is_same(pid_t pid, uint64_t start_time)
{
    Stat stat;

    if (pid <= 0 || !read_stat(pid, &stat, NULL) || stat.start_ticks != start_time)
        return FALSE;
    /* Where the first thread has ended before others, its files are open, and I/O is under way, until
     * they have. */
    return (stat.state != 'Z' && stat.state != 'X') || stat.threads > 1;
}

char **process_get_command_line(pid_t pid, GError **error)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/cmdline", (int)pid);
    g_autoptr(GPtrArray) words = g_ptr_array_new_with_free_func(g_free);
    g_autofree char *text = NULL;
    size_t length;

    text = file_read(path, COMMAND_LINE_LIMIT, &length, error);
    if (!text)
        return NULL;
    for (size_t at = 0; at < length; at += strlen(text + at) + 1)
        g_ptr_array_add(words, g_strdup(text + at));
    g_ptr_array_add(words, NULL);
    return (char **)g_ptr_array_free(g_steal_pointer(&words), FALSE);
}

gboolean process_kill(pid_t pid, uint64_t start_time, int signal_number, GError **error)
{
    autofd int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);

    /* The descriptor pins the process, so the check cannot be outrun. */
    if (pidfd < 0 || !process_is_same(pid, start_time)) {
        error_set(error, VMFERRY_ERROR_NOT_FOUND, "process %d is gone", (int)pid);
        return FALSE;
    }
    if (syscall(SYS_pidfd_send_signal, pidfd, signal_number, NULL, 0) < 0) {
        error_set_errno(error, errno, "signal %d to process %d", signal_number, (int)pid);
        return FALSE;
    }
    return TRUE;
}

gboolean process_wait_gone(pid_t pid, uint64_t start_time, int timeout_ms)
{
    autofd int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);

    if (pidfd < 0 || !process_is_same(pid, start_time))
        return TRUE;
    return fd_wait_readable(pidfd, timeout_ms, NULL) == 1;
}

gboolean process_has_memory(pid_t pid)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/statm", (int)pid);
    g_autofree char *text = file_read(path, 4096, NULL, NULL);

    return text && strtoull(text, NULL, 10) > 0;
}

char *process_get_boot_id(void)
{
    char *text = file_read("/proc/sys/kernel/random/boot_id", 128, NULL, NULL);

    return text ? g_strstrip(text) : g_strdup("unknown");
}
