#include "guard/guard.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/helper.h"

/* What the guard finds open. */
#define PIPE_FD 3
#define PIDFD_FD 4
#define NETNS_FD 5
#define GUARD_NAME "vmferry-guard"
#define PAUSE_NS 100000000L /* between two attempts */
#define ANSWER_TIMEOUT_MS 3000
#define SLOTS (GUARD_SLOT_BALLOON + 1)
#define SLOT_BYTES (160u << 10) /* 256 files with long paths, in the guard's bss */

typedef enum {
    ORDER_DISMISS,
    ORDER_ARM,      /* its steps follow */
    ORDER_ARM_ALSO, /* its steps follow */
    ORDER_DISARM,
} OrderKind;

typedef struct {
    uint8_t kind, slot;
    uint16_t attempts;
    uint16_t length; /* of the steps */
} OrderHeader;

/* What goes through the pipe, in one piece. */
typedef struct {
    OrderHeader header;
    char steps[GUARD_ACTION_BYTES];
} Order;

G_STATIC_ASSERT(sizeof(Order) <= PIPE_BUF);

struct Guard {
    pid_t process;
    int pipe;
    size_t armed_bytes[SLOTS]; /* that the guard has in mind */
};

/* --- in the guard's process: system calls only ------------------------- */

typedef struct {
    uint16_t attempts;
    int done;
    size_t length;
    char steps[SLOT_BYTES];
} Slot;

typedef struct {
    int fd;              /* or -1 */
    const char *opening; /* the steps that have opened it, or NULL */
    size_t opening_length;
} Conversation;

/* OVER: nothing of the action is left to be done. */
typedef enum { STEP_FAILED, STEP_DONE, STEP_OVER } StepResult;

static int say(int fd, const char *text)
{
    return write(fd, text, strlen(text)) == (ssize_t)strlen(text);
}

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

static int holds(const char *window, size_t length, const char *text)
{
    return *text && memmem(window, length, text, strlen(text));
}

/* Reads until both texts have come by, the peer closes or nothing comes. */
static StepResult expect(int fd, const char *text, const char *other, const char *unless)
{
    int has_text = 0, has_other = !*other, has_unless = 0;
    char window[4096];
    size_t kept = 0;

    while (read_more(fd, window, sizeof window, &kept)) {
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

static void hang_up(Conversation *conversation)
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
    hang_up(conversation);
    /* An abstract name is known in its own namespace only. */
    if (address.foreign)
        (void)setns(NETNS_FD, CLONE_NEWNET);
    conversation->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    return conversation->fd >= 0 &&
           connect(conversation->fd, (const struct sockaddr *)address.address, address.length) == 0;
}

static void write_file(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_TRUNC | O_CLOEXEC);

    if (fd < 0)
        return;
    (void)say(fd, text);
    close(fd);
}

static StepResult perform_step(const char *step, Conversation *conversation)
{
    const char *text = step + 1, *second;

    switch (*step) {
    case GUARD_STEP_WRITE:
        write_file(text, text + strlen(text) + 1);
        return STEP_DONE;
    case GUARD_STEP_CONNECT:
        return connect_to(step, conversation) ? STEP_DONE : STEP_FAILED;
    case GUARD_STEP_SEND:
        return say(conversation->fd, text) ? STEP_DONE : STEP_FAILED;
    case GUARD_STEP_EXPECT:
        second = text + strlen(text) + 1;
        return expect(conversation->fd, text, second, second + strlen(second) + 1);
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

/* Whether the action is done. */
static int perform(const Slot *slot, Conversation *conversation)
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
        if (result == STEP_OVER)
            return 1;
        if (result == STEP_FAILED)
            return 0;
        if (*step == GUARD_STEP_READY) {
            conversation->opening = opening;
            conversation->opening_length = (size_t)(step - opening);
        }
    }
    return 1;
}

/* One attempt; whether all actions are done.  One that is done is not performed
 * again: a guest that was resumed may be paused for another move by then. */
static int perform_all(Slot *slots)
{
    Conversation conversation = {.fd = -1};
    int done = 1;

    for (int i = 0; i < SLOTS && done; i++) {
        if (!slots[i].done)
            slots[i].done = perform(&slots[i], &conversation);
        done = slots[i].done;
    }
    hang_up(&conversation);
    return done;
}

static void act(Slot *slots)
{
    const struct timespec nap = {0, PAUSE_NS};
    uint16_t attempts = 1;

    for (int i = 0; i < SLOTS; i++)
        if (slots[i].length > 0 && slots[i].attempts > attempts)
            attempts = slots[i].attempts;
    for (uint16_t i = 0; i < attempts && !perform_all(slots); i++) {
        struct pollfd p = {.fd = PIDFD_FD, .events = POLLIN};

        if (poll(&p, 1, 0) > 0) /* the VMM has ended */
            return;
        clock_nanosleep(CLOCK_MONOTONIC, 0, &nap, NULL);
    }
}

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

/* Until the agent is gone.  That the steps fit the agent has seen to. */
static void take_orders(Slot *slots)
{
    OrderHeader order;

    while (receive(&order, sizeof order)) {
        Slot *slot = &slots[order.slot];

        switch (order.kind) {
        case ORDER_DISMISS:
            _exit(0);
        case ORDER_ARM:
            slot->length = 0;
            __attribute__((fallthrough));
        case ORDER_ARM_ALSO:
            if (!receive(slot->steps + slot->length, order.length))
                return;
            slot->length += order.length;
            slot->attempts = order.attempts;
            break;
        default:
            slot->length = 0;
        }
    }
}

static void guard_main(void)
{
    static Slot slots[SLOTS];

    take_orders(slots);
    act(slots);
    _exit(0);
}

HELPER_MAIN(GUARD_NAME, guard_main)

/* --- in the agent ------------------------------------------------------ */

static int open_netns(pid_t pid)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/ns/net", (int)pid);

    return open(path, O_RDONLY | O_CLOEXEC);
}

static gboolean give_order(Guard *guard, OrderKind kind, GuardSlot slot, const GuardAction *action,
                           GError **error)
{
    Order order = {.header = {.kind = (uint8_t)kind, .slot = (uint8_t)slot}};

    if (action) {
        order.header.attempts = action->attempts;
        order.header.length = action->length;
        memcpy(order.steps, action->steps, action->length);
    }
    if (fd_write_all(guard->pipe, &order, sizeof order.header + order.header.length, error))
        return TRUE;
    g_prefix_error(error, "the guard process has ended: ");
    return FALSE;
}

static gboolean arm(Guard *guard, OrderKind kind, GuardSlot slot, const GuardAction *action,
                    GError **error)
{
    size_t before = kind == ORDER_ARM ? 0 : guard->armed_bytes[slot];

    if (action->incomplete || action->length > SLOT_BYTES - before) {
        error_set(error, VMFERRY_ERROR_INVALID,
                  "too much for the guard process: %u bytes of an action, after %zu",
                  action->length, before);
        return FALSE;
    }
    if (!give_order(guard, kind, slot, action, error))
        return FALSE;
    guard->armed_bytes[slot] = before + action->length;
    return TRUE;
}

gboolean guard_arm(Guard *guard, GuardSlot slot, const GuardAction *action, GError **error)
{
    return arm(guard, ORDER_ARM, slot, action, error);
}

gboolean guard_arm_also(Guard *guard, GuardSlot slot, const GuardAction *action, GError **error)
{
    return arm(guard, ORDER_ARM_ALSO, slot, action, error);
}

gboolean guard_disarm(Guard *guard, GuardSlot slot, GError **error)
{
    if (!give_order(guard, ORDER_DISARM, slot, NULL, error))
        return FALSE;
    guard->armed_bytes[slot] = 0;
    return TRUE;
}

/* Starts the process; what is armed is in the pipe by then. */
static pid_t start_process(int pipe_end, int pidfd, pid_t vmm, GError **error)
{
    autofd int netns = open_netns(vmm);
    const int fds[] = {
        [PIPE_FD - HELPER_FIRST_FD] = pipe_end,
        [PIDFD_FD - HELPER_FIRST_FD] = pidfd,
        [NETNS_FD - HELPER_FIRST_FD] = netns,
    };

    return helper_start(GUARD_NAME, fds, G_N_ELEMENTS(fds), error);
}

Guard *guard_start(pid_t pid, const GuardAction *action, GError **error)
{
    autofd int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    autofd int theirs = -1;
    Guard *guard;
    int ends[2];

    if (pidfd < 0 || pipe2(ends, O_CLOEXEC) < 0) {
        error_set_errno(error, errno, "guard of process %d", (int)pid);
        return NULL;
    }
    theirs = ends[0];
    guard = g_new0(Guard, 1);
    guard->pipe = ends[1];
    /* Armed before it runs: no instant of its life is without the action. */
    if (!action || guard_arm(guard, GUARD_SLOT_GUEST, action, error)) {
        guard->process = start_process(theirs, pidfd, pid, error);
        if (guard->process > 0)
            return guard;
        g_prefix_error(error, "guard of process %d: ", (int)pid);
    }
    close(guard->pipe);
    g_free(guard);
    return NULL;
}

/* Closes the pipe, as our death would, and waits for the guard's end. */
static void end_guard(Guard *guard)
{
    close(guard->pipe);
    helper_wait(guard->process, -1);
    g_free(guard);
}

void guard_free(Guard *guard)
{
    if (!guard)
        return;
    (void)give_order(guard, ORDER_DISMISS, GUARD_SLOT_GUEST, NULL, NULL);
    end_guard(guard); /* which has nothing to do now */
}

void guard_restore_limits(Guard *guard)
{
    if (!guard)
        return;
    guard_disarm(guard, GUARD_SLOT_GUEST, NULL);
    guard_disarm(guard, GUARD_SLOT_BALLOON, NULL);
    end_guard(guard);
}
