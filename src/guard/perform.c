#include "guard/perform.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define ANSWER_TIMEOUT_MS 3000
#define NS_PER_S 1000000000LL
#define NS_PER_MS 1000000LL

int64_t guard_now_ns(void)
{
    struct timespec now = {0};

    clock_gettime(CLOCK_BOOTTIME, &now);
    return (int64_t)now.tv_sec * NS_PER_S + now.tv_nsec;
}

static int get_patience_ms(const Conversation *conversation)
{
    int64_t left;

    if (conversation->until_ns == 0)
        return ANSWER_TIMEOUT_MS;
    left = conversation->until_ns - guard_now_ns();
    return left > 0 ? (int)MIN(left / NS_PER_MS, ANSWER_TIMEOUT_MS) : 0;
}

static int say(int fd, const char *text)
{
    return write(fd, text, strlen(text)) == (ssize_t)strlen(text);
}

/* More of what the VMM says; false where no more comes. */
static int read_more(const Conversation *conversation, char *window, size_t size, size_t *kept)
{
    struct pollfd p = {.fd = conversation->fd, .events = POLLIN};
    ssize_t got;

    if (poll(&p, 1, get_patience_ms(conversation)) <= 0)
        return 0;
    got = read(conversation->fd, window + *kept, size - *kept);
    if (got <= 0)
        return 0;
    *kept += (size_t)got;
    return 1;
}

static int holds(const char *window, size_t length, const char *text)
{
    return *text && memmem(window, length, text, strlen(text));
}

/* Reads until both texts have come by, the peer closes or nothing comes. */
static StepResult expect(const Conversation *conversation, const char *text, const char *other,
                         const char *unless)
{
    int has_text = 0, has_other = !*other, has_unless = 0;
    char window[4096];
    size_t kept = 0;

    while (read_more(conversation, window, sizeof window, &kept)) {
        has_text = has_text || holds(window, kept, text);
        has_other = has_other || holds(window, kept, other);
        has_unless = has_unless || holds(window, kept, unless);
        if (has_text && has_other)
            return has_unless ? STEP_OVER : STEP_DONE;
        if (kept == sizeof window) { /* keep a tail that may hold the half of a text */
            memmove(window, window + kept - GUARD_EXPECT_BYTES, GUARD_EXPECT_BYTES);
            kept = GUARD_EXPECT_BYTES;
        }
    }
    return STEP_FAILED;
}

void guard_hang_up(Conversation *conversation)
{
    if (conversation->fd >= 0)
        close(conversation->fd);
    conversation->fd = -1;
    conversation->opening = NULL;
}

static int connect_to(const char *step, Conversation *conversation)
{
    GuardAddress address;

    memcpy(&address, step + 1, sizeof address);
    guard_hang_up(conversation);
    /* An abstract name is known in its own namespace only. */
    if (address.foreign)
        (void)setns(NETNS_FD, CLONE_NEWNET);
    /* With a time limit nothing is waited for, not even room in a queue. */
    conversation->fd = socket(
        AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | (conversation->until_ns ? SOCK_NONBLOCK : 0), 0);
    return conversation->fd >= 0 &&
           connect(conversation->fd, (const struct sockaddr *)address.address, address.length) == 0;
}

static void write_file(const char *path, const char *text)
{
    /* Of a FIFO nobody is waited for, neither one who opens it nor one who reads. */
    int fd = open(path, O_WRONLY | O_TRUNC | O_CLOEXEC | O_NONBLOCK);

    if (fd < 0)
        return;
    (void)say(fd, text);
    close(fd);
}

static pid_t start_helper(const char *name, const char *argument)
{
    char *const argv[] = {(char *)name, (char *)argument, NULL};
    pid_t pid = fork();

    if (pid != 0)
        return pid;
    execve("/proc/self/exe", argv, environ);
    _exit(127);
}

/* True where it has ended, and in time. */
static int await_helper(pid_t pid, int timeout_ms)
{
    struct pollfd p = {.fd = (int)syscall(SYS_pidfd_open, pid, 0), .events = POLLIN};
    int ended = p.fd >= 0 && poll(&p, 1, timeout_ms) > 0;

    if (p.fd >= 0)
        close(p.fd);
    return ended;
}

static int run_helper(const char *name, const char *argument, const Conversation *conversation)
{
    int status = -1,
        timeout_ms = conversation->until_ns ? get_patience_ms(conversation) : GUARD_RUN_MS;
    pid_t pid;

    if (guard_vmm_has_ended())
        return 1;
    pid = start_helper(name, argument);
    if (pid < 0)
        return 0;
    if (!await_helper(pid, timeout_ms))
        kill(pid, SIGKILL);
    return waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

/* *text*: those of the step.  Whether the action is over is what the last one would tell. */
static StepResult expect_step(const char *text, Conversation *conversation)
{
    const char *other = text + strlen(text) + 1, *unless = other + strlen(other) + 1;
    StepResult result = expect(conversation, text, other, unless);

    if (result == STEP_DONE && *unless)
        conversation->is_needed = 1;
    return result;
}

static StepResult perform_step(const char *step, Conversation *conversation)
{
    const char *text = step + 1;

    switch (*step) {
    case GUARD_STEP_WRITE:
        write_file(text, text + strlen(text) + 1);
        return STEP_DONE;
    case GUARD_STEP_CONNECT:
        return connect_to(step, conversation) ? STEP_DONE : STEP_FAILED;
    case GUARD_STEP_SEND:
        return say(conversation->fd, text) ? STEP_DONE : STEP_FAILED;
    case GUARD_STEP_RUN:
        return run_helper(text, text + strlen(text) + 1, conversation) ? STEP_DONE : STEP_FAILED;
    case GUARD_STEP_EXPECT:
        return expect_step(text, conversation);
    case GUARD_STEP_KILL:
        syscall(SYS_pidfd_send_signal, PIDFD_FD, SIGKILL, NULL, 0);
        _exit(0);
    default:
        return STEP_DONE;
    }
}

/* The `ready` that ends the opening which begins here. */
static const char *find_ready(const char *step, const char *end)
{
    while (step < end && *step != GUARD_STEP_READY)
        step = guard_step_next(step);
    return step;
}

StepResult guard_perform(const Slot *slot, Conversation *conversation)
{
    const char *end = slot->steps + slot->length, *opening = NULL;

    for (const char *step = slot->steps; step < end; step = guard_step_next(step)) {
        StepResult result;

        if (*step == GUARD_STEP_CONNECT) {
            const char *ready = find_ready(step, end);

            opening = step;
            if (conversation->opening && conversation->opening_length == (size_t)(ready - step) &&
                memcmp(conversation->opening, step, (size_t)(ready - step)) == 0)
                step = ready;
        }
        result = perform_step(step, conversation);
        if (result != STEP_DONE)
            return result;
        if (*step == GUARD_STEP_READY) {
            conversation->opening = opening;
            conversation->opening_length = (size_t)(step - opening);
        }
    }
    return STEP_DONE;
}

int guard_vmm_has_ended(void)
{
    struct pollfd p = {.fd = PIDFD_FD, .events = POLLIN};

    return poll(&p, 1, 0) > 0;
}
