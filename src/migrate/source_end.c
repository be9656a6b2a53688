/*
 * The end of the old process, once the guest runs at its destination
 *
 * Whoever started that process may look at how it ends: a line on its standard
 * error and an exit code of its own tell that it was neither shut down nor
 * lost.  Whether a supervisor starts a second copy may depend on that code, so
 * it is the same where the process has to be ended by force.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/process.h"
#include "inject/exit_code.h"
#include "inject/inject.h"
#include "migrate/source_move.h"

#define END_TIMEOUT_MS 10000

/* A pipe without a reader must not end us. */
static void write_without_signal(int fd, const char *text)
{
    const struct timespec at_once = {0};
    sigset_t pipe_only, before;

    sigemptyset(&pipe_only);
    sigaddset(&pipe_only, SIGPIPE);
    pthread_sigmask(SIG_BLOCK, &pipe_only, &before);
    if (write(fd, text, strlen(text)) < 0 && errno == EPIPE)
        sigtimedwait(&pipe_only, NULL, &at_once);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

/* Through a description of our own, which does not wait for a slow reader. */
static void write_at_once(int fd, const char *text)
{
    g_autofree char *path = g_strdup_printf("/proc/self/fd/%d", fd);
    autofd int own = open(path, O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);

    if (own >= 0)
        write_without_signal(own, text);
}

/* What the process could not write to, we do not write to either. */
static gboolean is_writable(int fd)
{
    int flags = fcntl(fd, F_GETFL);

    return flags >= 0 && (flags & O_ACCMODE) != O_RDONLY;
}

static void say(pid_t pid, const char *text)
{
    autofd int fd = inject_take_fd(pid, STDERR_FILENO, NULL);
    struct stat info;

    if (fd < 0 || !is_writable(fd) || fstat(fd, &info) < 0)
        return;
    if (S_ISSOCK(info.st_mode)) /* a service's, which the journal reads */
        (void)!send(fd, text, strlen(text), MSG_DONTWAIT | MSG_NOSIGNAL);
    else if (S_ISREG(info.st_mode))
        (void)!write(fd, text, strlen(text));
    else if (S_ISFIFO(info.st_mode) || (S_ISCHR(info.st_mode) && isatty(fd)))
        write_at_once(fd, text);
}

static void say_moved(pid_t pid, const char *guest, const char *destination)
{
    g_autofree char *text = g_strdup_printf(
        "vmferry: guest %s moved to %s by vmferry; its process here ends with status %d\n", guest,
        destination, MIGRATE_EXIT_CODE_MOVED);

    say(pid, text);
}

/* FALSE: it may be there still, or has ended with another code. */
static gboolean quit_with_code(SourceMove *move)
{
    g_autoptr(GError) problem = NULL;
    ExitCode *trace =
        exit_code_trace(vmm_get_pid(move->job->vmm), MIGRATE_EXIT_CODE_MOVED, &problem);
    gboolean ended;

    if (!trace) {
        log_warning("guest %s: its old process will not end with status %d: %s", move->job->guest,
                    MIGRATE_EXIT_CODE_MOVED, problem->message);
        return FALSE;
    }
    ended = vmm_quit_gently(move->job->vmm, NULL);
    exit_code_finish(trace);
    return ended;
}

gboolean source_end_process(SourceMove *move, GError **error)
{
    pid_t pid = vmm_get_pid(move->job->vmm);

    if (!vmm_check_process(move->job->vmm, NULL))
        return TRUE;
    say_moved(pid, move->job->guest, move->job->destination);
    if (quit_with_code(move))
        return TRUE;
    (void)exit_code_end(pid, MIGRATE_EXIT_CODE_MOVED, NULL);
    return vmm_quit(move->job->vmm, error);
}

gboolean migrate_source_end_old(pid_t pid, uint64_t start_time, const char *guest,
                                const char *destination, GError **error)
{
    g_autoptr(GError) problem = NULL;

    if (!process_is_same(pid, start_time))
        return TRUE;
    say_moved(pid, guest, destination);
    if (!exit_code_end(pid, MIGRATE_EXIT_CODE_MOVED, &problem))
        log_warning("guest %s: its old process ends by SIGKILL: %s", guest, problem->message);
    else if (process_wait_gone(pid, start_time, END_TIMEOUT_MS))
        return TRUE;
    if (!process_kill(pid, start_time, SIGKILL, error))
        return !process_is_same(pid, start_time);
    if (process_wait_gone(pid, start_time, END_TIMEOUT_MS))
        return TRUE;
    error_set(error, VMFERRY_ERROR_TIMEOUT, "process %d does not end", (int)pid);
    return FALSE;
}
