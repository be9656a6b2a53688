#include "guard/guard.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
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
#define NETNS_FD 5
#define FREE_FD 16 /* from here on the agent's own copies are */
#define GUARD_NAME "vmferry-guard"
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

/* What a guard is told first. */
typedef struct {
    UnixAddress address; /* its netns is NETNS_FD there */
    char duty;
} Post;

G_STATIC_ASSERT(sizeof(Post) <= PIPE_BUF);

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
static int await_start(int fd, const char *word)
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

enum { ANSWER_NONE = -1, ANSWER_LACKS, ANSWER_HOLDS };

/* Reads until both words have come: whether *wanted* came as well. */
static int answer_holds(int fd, const char *one, const char *other, const char *wanted)
{
    size_t kept = 0;
    char window[4096];

    while (kept < sizeof window) {
        if (!read_more(fd, window, sizeof window, &kept))
            return ANSWER_NONE;
        if (memmem(window, kept, one, strlen(one)) && memmem(window, kept, other, strlen(other)))
            return memmem(window, kept, wanted, strlen(wanted)) ? ANSWER_HOLDS : ANSWER_LACKS;
    }
    return ANSWER_NONE;
}

/* A guest that QEMU's own migration has taken elsewhere is in the state
 * "postmigrate" or "finish-migrate": two would run.  One that does not answer
 * may be on its way there, and would take a `cont` for afterwards. */
static int has_migrated(int fd)
{
    if (!say(fd, "{\"execute\":\"query-status\",\"id\":\"state\"}\n"))
        return ANSWER_NONE;
    return answer_holds(fd, "\"state\"", "\"status\"", "migrate\"");
}

/* One attempt to say these commands to QEMU, each with the id "guard"; true when
 * it has answered all.  One that was answered becomes NULL and is not said
 * again: a guest that was resumed may be paused for another move by then. */
static int try_commands(const UnixAddress *address, const char *commands[COMMANDS])
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int done = fd >= 0 &&
               connect(fd, (const struct sockaddr *)&address->address, address->length) == 0 &&
               await_start(fd, "\"QMP\"") && say(fd, "{\"execute\":\"qmp_capabilities\"}\n") &&
               await_start(fd, "\"return\"");
    int migrated = done && commands[COMMAND_RESUME] ? has_migrated(fd) : ANSWER_LACKS;

    if (migrated == ANSWER_HOLDS)
        commands[COMMAND_RESUME] = NULL;
    done = done && migrated != ANSWER_NONE;
    for (int i = 0; i < COMMANDS && done; i++) {
        done = !commands[i] || (say(fd, commands[i]) && await_start(fd, "\"guard\""));
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

static void guard_main(void)
{
    static Orders orders;
    Post post;

    if (!receive(&post, sizeof post))
        _exit(0);
    /* An abstract socket is known in its own namespace only. */
    if (post.address.netns >= 0)
        (void)setns(NETNS_FD, CLONE_NEWNET);
    orders.duty = post.duty;
    take_orders(&orders);
    for (size_t i = 0; i < orders.file_count; i++)
        write_file(&orders.files[i]);
    if (orders.duty == GUARD_KILL)
        syscall(SYS_pidfd_send_signal, PIDFD_FD, SIGKILL, NULL, 0);
    else if (orders.duty == GUARD_RESUME || orders.balloon.command[0])
        resume_and_let_go(&post.address, orders.duty == GUARD_RESUME, &orders.balloon);
    _exit(0);
}

/* The program that was started as a guard becomes one before its main(),
 * whichever program it is. */
__attribute__((constructor)) static void begin_as_guard(int argc, char **argv)
{
    if (argc != 1 || strcmp(argv[0], GUARD_NAME) != 0)
        return;
    prctl(PR_SET_NAME, GUARD_NAME);
    guard_main();
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

/* What the guard finds open: standard error, the pipe, the pidfd and perhaps a
 * namespace; it must not keep alive what our death is to close (userfaultfds,
 * connections). */
static gboolean add_descriptors(posix_spawn_file_actions_t *actions, int pipe_end, int pidfd,
                                int netns)
{
    return posix_spawn_file_actions_addopen(actions, 0, "/dev/null", O_RDONLY, 0) == 0 &&
           posix_spawn_file_actions_addopen(actions, 1, "/dev/null", O_WRONLY, 0) == 0 &&
           posix_spawn_file_actions_adddup2(actions, pipe_end, PIPE_FD) == 0 &&
           posix_spawn_file_actions_adddup2(actions, pidfd, PIDFD_FD) == 0 &&
           (netns < 0 || posix_spawn_file_actions_adddup2(actions, netns, NETNS_FD) == 0) &&
           posix_spawn_file_actions_addclosefrom_np(actions, netns < 0 ? NETNS_FD : NETNS_FD + 1) ==
               0;
}

/* In a session of its own with all signals blocked: it outlives the signals that
 * end the agent's group. */
static gboolean set_attributes(posix_spawnattr_t *attributes)
{
    sigset_t all;

    sigfillset(&all);
    return posix_spawnattr_setsigmask(attributes, &all) == 0 &&
           posix_spawnattr_setflags(attributes, POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK) == 0;
}

/* Returns the pid, or -1 with errno.  All descriptors are above those that the
 * guard has. */
static pid_t run_guard(int pipe_end, int pidfd, int netns)
{
    char *const argv[] = {(char *)GUARD_NAME, NULL};
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    pid_t process = -1;
    int problem = ENOMEM;

    posix_spawn_file_actions_init(&actions);
    posix_spawnattr_init(&attributes);
    if (add_descriptors(&actions, pipe_end, pidfd, netns) && set_attributes(&attributes))
        problem = posix_spawn(&process, "/proc/self/exe", &actions, &attributes, argv, environ);
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&actions);
    errno = problem;
    return problem == 0 ? process : -1;
}

/* Its first order is in the pipe before it runs. */
static pid_t post_guard(int pipe_end, int our_end, int pidfd, const UnixAddress *address,
                        GuardAction duty)
{
    autofd int pipe_copy = fcntl(pipe_end, F_DUPFD_CLOEXEC, FREE_FD);
    autofd int pidfd_copy = fcntl(pidfd, F_DUPFD_CLOEXEC, FREE_FD);
    autofd int netns = address->netns < 0 ? -1 : fcntl(address->netns, F_DUPFD_CLOEXEC, FREE_FD);
    Post post;

    memset(&post, 0, sizeof post);
    post.address = *address;
    post.duty = (char)duty;
    if (pipe_copy < 0 || pidfd_copy < 0 || (address->netns >= 0 && netns < 0) ||
        !fd_write_all(our_end, &post, sizeof post, NULL))
        return -1;
    return run_guard(pipe_copy, pidfd_copy, netns);
}

Guard *guard_start(pid_t pid, const char *qmp_path, GuardAction duty, GError **error)
{
    autofd int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    g_auto(UnixAddress) address = {.folder = -1, .netns = -1};
    autofd int theirs = -1, ours = -1;
    int ends[2];
    Guard *guard;
    pid_t process;

    if (!find_address(qmp_path, &address, error))
        return NULL;
    if (pidfd < 0 || pipe2(ends, O_CLOEXEC) < 0) {
        error_set_errno(error, errno, "guard of process %d", (int)pid);
        return NULL;
    }
    theirs = ends[0];
    ours = ends[1];
    process = post_guard(theirs, ours, pidfd, &address, duty);
    if (process < 0) {
        error_set_errno(error, errno, "start the guard of process %d", (int)pid);
        return NULL;
    }
    guard = g_new0(Guard, 1);
    guard->process = process;
    guard->pipe = fd_steal(&ours);
    return guard;
}

static gboolean give_order(Guard *guard, const void *order, size_t length, GError **error)
{
    if (fd_write_all(guard->pipe, order, length, error))
        return TRUE;
    g_prefix_error(error, "the guard process has ended: ");
    return FALSE;
}

gboolean guard_set_action(Guard *guard, GuardAction duty, GError **error)
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
    guard_set_action(guard, GUARD_LEAVE, NULL);
    guard_forget_balloon(guard, NULL);
    end_guard(guard);
}
