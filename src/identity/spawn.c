#include "identity/spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "identity/spawn_steps.h"

/* In the child in between: it ends, and leaves its child to init. */
static void fork_again(const Spawn *spawn, const SpawnPipes *pipes)
{
    pid_t process = fork();

    if (process == 0)
        spawn_child_run(spawn, pipes);
    _exit(process < 0 ? 1 : 0);
}

static gboolean run_child_between(const Spawn *spawn, const SpawnPipes *pipes, GError **error)
{
    pid_t child = fork();
    int status = 0;

    if (child == 0)
        fork_again(spawn, pipes);
    if (child < 0) {
        error_set_errno(error, errno, "fork");
        return FALSE;
    }
    while (waitpid(child, &status, 0) < 0 && errno == EINTR)
        ;
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return TRUE;
    error_set(error, VMFERRY_ERROR_NO_SPACE, "the system lets no process be started");
    return FALSE;
}

/* 1: a note; 0: the pipe's end. */
static int read_note(int pipe, SpawnNote *ret)
{
    ssize_t got;

    do
        got = read(pipe, ret, sizeof *ret);
    while (got < 0 && errno == EINTR);
    return got == (ssize_t)sizeof *ret;
}

static gboolean give_leave(const Spawn *spawn, pid_t pid, int leave, GError **error)
{
    if (spawn->begun && !spawn->begun(pid, spawn->user, error))
        return FALSE;
    return fd_write_all(leave, "", 1, error);
}

static gboolean hear_child(const Spawn *spawn, const SpawnPipes *pipes, pid_t *ret_pid,
                           GError **error)
{
    g_autofree char *step = NULL;
    SpawnNote note;

    if (!read_note(pipes->notes[0], &note) || note.step != SPAWN_STEP_PID) {
        error_set(error, VMFERRY_ERROR_FAILED, "its process ended before it began");
        return FALSE;
    }
    *ret_pid = note.value;
    if (!give_leave(spawn, *ret_pid, pipes->leave[1], error))
        return FALSE;
    if (!read_note(pipes->notes[0], &note))
        return TRUE;
    step = spawn_step_describe(spawn, note.step, note.value);
    error_set_errno(error, note.error, "%s", step);
    return FALSE;
}

static void pipes_clear(SpawnPipes *pipes)
{
    for (guint i = 0; i < 2; i++) {
        fd_close(&pipes->notes[i]);
        fd_close(&pipes->leave[i]);
    }
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(SpawnPipes, pipes_clear)

gboolean spawn_detached(const Spawn *spawn, pid_t *ret_pid, GError **error)
{
    g_auto(SpawnPipes) pipes = {{-1, -1}, {-1, -1}};

    if (pipe2(pipes.notes, O_CLOEXEC) < 0 || pipe2(pipes.leave, O_CLOEXEC) < 0) {
        error_set_errno(error, errno, "pipe");
        return FALSE;
    }
    if (!run_child_between(spawn, &pipes, error))
        return FALSE;
    fd_close(&pipes.notes[1]);
    /* leave[0] stays: a child that has ended is told by its notes, not by a signal. */
    return hear_child(spawn, &pipes, ret_pid, error);
}
