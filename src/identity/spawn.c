#include "identity/spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "identity/spawn_steps.h"

/* In the child in between: it ends, and leaves its child to init. */
static void fork_again(const Spawn *spawn, int pipe)
{
    pid_t process = fork();

    if (process == 0)
        spawn_child_run(spawn, pipe);
    _exit(process < 0 ? 1 : 0);
}

static gboolean run_child_between(const Spawn *spawn, int pipe, GError **error)
{
    pid_t child = fork();
    int status = 0;

    if (child == 0)
        fork_again(spawn, pipe);
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

static gboolean hear_child(const Spawn *spawn, int pipe, pid_t *ret_pid, GError **error)
{
    g_autofree char *step = NULL;
    SpawnNote note;

    if (!read_note(pipe, &note) || note.step != SPAWN_STEP_PID) {
        error_set(error, VMFERRY_ERROR_FAILED, "its process ended before it began");
        return FALSE;
    }
    *ret_pid = note.value;
    if (!read_note(pipe, &note))
        return TRUE;
    step = spawn_step_describe(spawn, note.step, note.value);
    error_set_errno(error, note.error, "%s", step);
    return FALSE;
}

gboolean spawn_detached(const Spawn *spawn, pid_t *ret_pid, GError **error)
{
    autofd int ours = -1, theirs = -1;
    int ends[2];

    if (pipe2(ends, O_CLOEXEC) < 0) {
        error_set_errno(error, errno, "pipe");
        return FALSE;
    }
    ours = ends[0];
    theirs = ends[1];
    if (!run_child_between(spawn, theirs, error))
        return FALSE;
    fd_close(&theirs);
    return hear_child(spawn, ours, ret_pid, error);
}
