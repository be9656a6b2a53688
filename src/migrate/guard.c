#include "migrate/guard.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "vmm/qemu/unix_socket.h"

#define DISMISS 'D'
#define KEEP_FILE 'F' /* a KeptFile follows */
#define FORGET_FILES 'f'
#define KEEP_BALLOON 'B' /* a KeptBalloon follows */
#define FORGET_BALLOON 'b'
#define PIPE_FD 3
#define PIDFD_FD 4
#define RESUME_ATTEMPTS 200
#define BALLOON_ATTEMPTS 5 /* a restarted agent that keeps QMP busy does it itself */
enum { COMMAND_RESUME, COMMAND_BALLOON, COMMANDS };
#define ATTEMPT_PAUSE_NS 100000000L
#define ANSWER_TIMEOUT_MS 3000
#define FILES_MAX 256
#define PATH_BYTES 512
#define TEXT_BYTES 64
#define BALLOON_BYTES 96

typedef struct {
    char path[PATH_BYTES]; /* both end with a NUL */
    char text[TEXT_BYTES];
} KeptFile;

typedef struct {
    char command[BALLOON_BYTES]; /* QMP, ends with a NUL; empty: none */
} KeptBalloon;

/* An order with a file goes through the pipe in one piece. */
G_STATIC_ASSERT(1 + sizeof(KeptFile) <= PIPE_BUF);

struct Guard {
    pid_t process;
    int pipe;
    guint file_count; /* that the guard has in mind */
};

/* --- in the guard's process: system calls only ------------------------- */

/* More of what the VMM says; false where no more comes. */
static int read_more(int fd, char *window, size_t size, size_t *kept)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    ssize_t got;

    if (poll(&p, 1, ANSWER_TIMEOUT_MS) <= 0)
        return 0;
    got = read(fd, window + *kept, size - *kept);
    if (got <= 0)
        return 0;
    *kept += (size_t)got;
    return 1;
}

/* Reads until *word* has come by, the peer closes or nothing comes. */
static int await_word(int fd, const char *word)
{
    size_t length = strlen(word), kept = 0;
    char window[4096];

    while (read_more(fd, window, sizeof window, &kept)) {
        if (memmem(window, kept, word, length))
            return 1;
        if (kept == sizeof window) { /* keep a tail that may hold half the word */
            memmove(window, window + kept - length, length);
            kept = length;
        }
    }
    return 0;
}

static int say(int fd, const char *text)
{
    return write(fd, text, strlen(text)) == (ssize_t)strlen(text);
}

/* Reads until both words have come; true where *unwanted* came as well. */
static int answer_holds(int fd, const char *one, const char *other, const char *unwanted)
{
    size_t kept = 0;
    char window[4096];

    while (kept < sizeof window) {
        if (!read_more(fd, window, sizeof window, &kept))
            return 0;
        if (memmem(window, kept, one, strlen(one)) && memmem(window, kept, other, strlen(other)))
            break;
    }
    return memmem(window, kept, unwanted, strlen(unwanted)) != NULL;
}

/* A guest that QEMU's own migration has taken elsewhere is in the state
 * "postmigrate" or "finish-migrate": two would run. */
static int has_migrated(int fd)
{
    return say(fd, "{\"execute\":\"query-status\",\"id\":\"state\"}\n") &&
           answer_holds(fd, "\"state\"", "\"status\"", "migrate\"");
}

/* One attempt to say these commands to QEMU, each with the id "guard"; true when
 * it has answered all.  One that was answered becomes NULL and is not said
 * again: a guest that was resumed may be paused for another move by then. */
static int try_commands(const UnixAddress *address, const char *commands[COMMANDS])
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int done = fd >= 0 &&
               connect(fd, (const struct sockaddr *)&address->address, address->length) == 0 &&
               await_word(fd, "\"QMP\"") && say(fd, "{\"execute\":\"qmp_capabilities\"}\n") &&
               await_word(fd, "\"return\"");

    if (done && commands[COMMAND_RESUME] && has_migrated(fd))
        commands[COMMAND_RESUME] = NULL;
    for (int i = 0; i < COMMANDS && done; i++) {
        done = !commands[i] || (say(fd, commands[i]) && await_word(fd, "\"guard\""));
        if (done)
            commands[i] = NULL;
    }
    if (fd >= 0)
        close(fd);
    return done;
}

static void resume_and_let_go(const UnixAddress *address, int resumes, const KeptBalloon *balloon)
{
    const struct timespec nap = {0, ATTEMPT_PAUSE_NS};
    const char *commands[COMMANDS] = {
        resumes ? "{\"execute\":\"cont\",\"id\":\"guard\"}\n" : NULL,
        balloon->command[0] ? balloon->command : NULL,
    };
    int attempts = resumes ? RESUME_ATTEMPTS : BALLOON_ATTEMPTS;

    for (int i = 0; i < attempts && !try_commands(address, commands); i++) {
        struct pollfd p = {.fd = PIDFD_FD, .events = POLLIN};

        if (poll(&p, 1, 0) > 0) /* the VMM has ended */
            return;
        clock_nanosleep(CLOCK_MONOTONIC, 0, &nap, NULL);
    }
}

static void write_file(const KeptFile *file)
{
    int fd = open(file->path, O_WRONLY | O_TRUNC | O_CLOEXEC);

    if (fd < 0)
        return;
    (void)say(fd, file->text);
    close(fd);
}

/* What is to be done when the agent is gone. */
typedef struct {
    char duty;
    KeptBalloon balloon;
    size_t file_count;
    KeptFile files[FILES_MAX];
} Orders;

/* False at the end of the pipe: the agent is gone. */
static int receive(void *buffer, size_t length)
{
    size_t have = 0;

    while (have < length) {
        ssize_t got = read(PIPE_FD, (char *)buffer + have, length - have);

        if (got == 0 || (got < 0 && errno != EINTR))
            return 0;
        if (got > 0)
            have += (size_t)got;
    }
    return 1;
}

static void take_orders(Orders *orders)
{
    char order;

    while (receive(&order, 1)) {
        switch (order) {
        case DISMISS:
            _exit(0);
        case KEEP_FILE: /* the agent has counted them */
            if (!receive(&orders->files[orders->file_count], sizeof(KeptFile)))
                return;
            orders->file_count++;
            break;
        case FORGET_FILES:
            orders->file_count = 0;
            break;
        case KEEP_BALLOON:
            if (!receive(&orders->balloon, sizeof orders->balloon))
                return;
            break;
        case FORGET_BALLOON:
            orders->balloon.command[0] = '\0';
            break;
        default:
            orders->duty = order;
        }
    }
}

static void guard_main(const UnixAddress *address, char duty)
{
    Orders orders;

    orders.duty = duty;
    orders.balloon.command[0] = '\0';
    orders.file_count = 0;
    take_orders(&orders);
    for (size_t i = 0; i < orders.file_count; i++)
        write_file(&orders.files[i]);
    if (orders.duty == GUARD_KILL)
        syscall(SYS_pidfd_send_signal, PIDFD_FD, SIGKILL, NULL, 0);
    else if (orders.duty == GUARD_RESUME || orders.balloon.command[0])
        resume_and_let_go(address, orders.duty == GUARD_RESUME, &orders.balloon);
    _exit(0);
}

/* Leaves only standard error, the pipe and the pidfd open: the guard must not
 * keep alive what our death is to close (userfaultfds, connections). */
static void become_guard(int pipe_end, int pidfd, const UnixAddress *address, char duty)
{
    sigset_t all;
    int pipe_copy = fcntl(pipe_end, F_DUPFD, 16);
    int pidfd_copy = fcntl(pidfd, F_DUPFD, 16);

    /* An abstract socket is known in its own namespace only. */
    if (address->netns >= 0)
        (void)setns(address->netns, CLONE_NEWNET);
    dup2(pipe_copy, PIPE_FD);
    dup2(pidfd_copy, PIDFD_FD);
    close(0);
    close(1);
    syscall(SYS_close_range, PIDFD_FD + 1, ~0U, 0);
    setsid();
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, NULL); /* outlive the signals that end the agent's group */
    guard_main(address, duty);
}

/* --- in the agent ------------------------------------------------------ */

/* The guard keeps no descriptors, so a long path cannot go through one. */
static gboolean find_address(const char *path, UnixAddress *ret, GError **error)
{
    if (path && !unix_address_resolve(path, ret, error))
        return FALSE;
    if (path && ret->folder < 0)
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "QMP socket path is missing or too long: %s",
              path ? path : "(none)");
    return FALSE;
}

Guard *guard_start(pid_t pid, const char *qmp_path, GuardDuty duty, GError **error)
{
    autofd int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    g_auto(UnixAddress) address = {.folder = -1, .netns = -1};
    int ends[2];
    Guard *guard;
    pid_t process;

    if (!find_address(qmp_path, &address, error))
        return NULL;
    if (pidfd < 0 || pipe2(ends, O_CLOEXEC) < 0) {
        error_set_errno(error, errno, "guard of process %d", (int)pid);
        return NULL;
    }
    process = fork();
    if (process == 0) {
        close(ends[1]);
        become_guard(ends[0], pidfd, &address, (char)duty);
    }
    close(ends[0]);
    if (process < 0) {
        error_set_errno(error, errno, "fork the guard of process %d", (int)pid);
        close(ends[1]);
        return NULL;
    }
    guard = g_new0(Guard, 1);
    guard->process = process;
    guard->pipe = ends[1];
    return guard;
}

static gboolean give_order(Guard *guard, const void *order, size_t length, GError **error)
{
    if (fd_write_all(guard->pipe, order, length, error))
        return TRUE;
    g_prefix_error(error, "the guard process has ended: ");
    return FALSE;
}

gboolean guard_set_duty(Guard *guard, GuardDuty duty, GError **error)
{
    char order = (char)duty;

    return give_order(guard, &order, 1, error);
}

gboolean guard_keep_file(Guard *guard, const char *path, const char *text, GError **error)
{
    char order[1 + sizeof(KeptFile)] = {KEEP_FILE};
    KeptFile file = {0};

    if (guard->file_count == FILES_MAX || strlen(path) >= sizeof file.path ||
        strlen(text) >= sizeof file.text) {
        error_set(error, VMFERRY_ERROR_INVALID, "too much for the guard process: %u files, %s",
                  guard->file_count, path);
        return FALSE;
    }
    strcpy(file.path, path);
    strcpy(file.text, text);
    memcpy(order + 1, &file, sizeof file);
    if (!give_order(guard, order, sizeof order, error))
        return FALSE;
    guard->file_count++;
    return TRUE;
}

gboolean guard_forget_files(Guard *guard, GError **error)
{
    char order = FORGET_FILES;

    if (!give_order(guard, &order, 1, error))
        return FALSE;
    guard->file_count = 0;
    return TRUE;
}

gboolean guard_keep_balloon(Guard *guard, uint64_t bytes, GError **error)
{
    char order[1 + sizeof(KeptBalloon)] = {KEEP_BALLOON};

    snprintf(order + 1, sizeof(KeptBalloon),
             "{\"execute\":\"balloon\",\"arguments\":{\"value\":%" PRIu64 "},\"id\":\"guard\"}\n",
             bytes);
    return give_order(guard, order, sizeof order, error);
}

gboolean guard_forget_balloon(Guard *guard, GError **error)
{
    char order = FORGET_BALLOON;

    return give_order(guard, &order, 1, error);
}

/* Closes the pipe, as our death would, and waits for the guard's end. */
static void end_guard(Guard *guard)
{
    close(guard->pipe);
    while (waitpid(guard->process, NULL, 0) < 0 && errno == EINTR)
        ;
    g_free(guard);
}

void guard_free(Guard *guard)
{
    char order = DISMISS;

    if (!guard)
        return;
    (void)!write(guard->pipe, &order, 1);
    end_guard(guard); /* which has nothing to do now */
}

void guard_write_files(Guard *guard)
{
    if (!guard)
        return;
    guard_set_duty(guard, GUARD_LEAVE, NULL);
    guard_forget_balloon(guard, NULL);
    end_guard(guard);
}
