#include "base/helper.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"

#define FREE_FD 16 /* from here on our own copies are */
#define LOOK_NS 2000000u

G_STATIC_ASSERT(HELPER_FIRST_FD + HELPER_MAX_FDS <= FREE_FD);

static gboolean add_descriptors(posix_spawn_file_actions_t *actions, const int *fds, guint count)
{
    if (posix_spawn_file_actions_addopen(actions, 0, "/dev/null", O_RDONLY, 0) != 0 ||
        posix_spawn_file_actions_addopen(actions, 1, "/dev/null", O_WRONLY, 0) != 0)
        return FALSE;
    for (guint i = 0; i < count; i++) {
        int number = HELPER_FIRST_FD + (int)i;

        if ((fds[i] < 0 ? posix_spawn_file_actions_addclose(actions, number)
                        : posix_spawn_file_actions_adddup2(actions, fds[i], number)) != 0)
            return FALSE;
    }
    return posix_spawn_file_actions_addclosefrom_np(actions, HELPER_FIRST_FD + (int)count) == 0;
}

static gboolean set_attributes(posix_spawnattr_t *attributes)
{
    sigset_t all;

    sigfillset(&all);
    return posix_spawnattr_setsigmask(attributes, &all) == 0 &&
           posix_spawnattr_setflags(attributes, POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK) == 0;
}

/* The descriptors are above those that the helper finds.  An errno, or 0. */
static int spawn(const char *name, const int *fds, guint count, pid_t *ret)
{
    char *const argv[] = {(char *)name, NULL};
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    int problem = ENOMEM;

    posix_spawn_file_actions_init(&actions);
    posix_spawnattr_init(&attributes);
    if (add_descriptors(&actions, fds, count) && set_attributes(&attributes))
        problem = posix_spawn(ret, "/proc/self/exe", &actions, &attributes, argv, environ);
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&actions);
    return problem;
}

/* An errno, or 0. */
static int copy_descriptors(const int *fds, guint count, int *copies)
{
    int problem = 0;

    for (guint i = 0; i < count; i++) {
        copies[i] = fds[i] < 0 ? -1 : fcntl(fds[i], F_DUPFD_CLOEXEC, FREE_FD);
        if (fds[i] >= 0 && copies[i] < 0)
            problem = errno;
    }
    return problem;
}

pid_t helper_start(const char *name, const int *fds, guint count, GError **error)
{
    int copies[HELPER_MAX_FDS] = {0}, problem;
    pid_t pid = -1;

    g_return_val_if_fail(count <= HELPER_MAX_FDS, -1);
    problem = copy_descriptors(fds, count, copies);
    if (problem == 0)
        problem = spawn(name, copies, count, &pid);
    for (guint i = 0; i < count; i++)
        fd_close(&copies[i]);
    if (problem == 0)
        return pid;
    error_set_errno(error, problem, "start process %s", name);
    return -1;
}

gboolean helper_wait(pid_t pid, int timeout_ms)
{
    uint64_t end = clock_now_ns() + (uint64_t)MAX(timeout_ms, 0) * 1000000u;

    for (;;) {
        pid_t ended = waitpid(pid, NULL, timeout_ms < 0 ? 0 : WNOHANG);

        if (ended == pid || (ended < 0 && errno != EINTR))
            return TRUE;
        if (timeout_ms >= 0 && clock_now_ns() >= end)
            return FALSE;
        if (timeout_ms >= 0)
            clock_sleep_ns(LOOK_NS);
    }
}

static gboolean bears_name(char *const *argv, const char *name)
{
    if (strcmp(argv[0], name) != 0)
        return FALSE;
    prctl(PR_SET_NAME, name);
    return TRUE;
}

gboolean helper_is(int argc, char *const *argv, const char *name)
{
    return argc == 1 && bears_name(argv, name);
}

gboolean helper_is_with_argument(int argc, char *const *argv, const char *name)
{
    return argc == 2 && bears_name(argv, name);
}
