#include "guard/guard.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/helper.h"
#include "guard/deadline_watch.h"
#include "guard/perform.h"

#define GUARD_NAME "vmferry-guard"
#define PAUSE_NS 100000000L /* between two attempts */
#define SLOTS (GUARD_SLOT_BALLOON + 1)

typedef enum {
    ORDER_DISMISS,
    ORDER_ARM,      /* its steps follow */
    ORDER_ARM_ALSO, /* its steps follow */
    ORDER_DISARM,
    ORDER_DEADLINE, /* the file's path follows, GUARD_DEADLINE_PATH_BYTES, and the steps */
} OrderKind;

typedef struct {
    uint8_t kind, slot;
    uint16_t attempts;
    uint16_t length; /* of the steps */
} OrderHeader;

/* What goes through the pipe, in one piece. */
typedef struct {
    OrderHeader header;
    char steps[GUARD_DEADLINE_PATH_BYTES + GUARD_ACTION_BYTES];
} Order;

G_STATIC_ASSERT(sizeof(Order) <= PIPE_BUF);

struct Guard {
    pid_t process;
    int pipe;
    size_t armed_bytes[SLOTS]; /* that the guard has in mind */
};

/* --- in the guard's process: system calls only ------------------------- */

/* One attempt; whether all actions are done.  One that is done is not performed
 * again: a guest that was resumed may be paused for another move by then. */
static int perform_all(Slot *slots, int64_t until_ns)
{
    Conversation conversation = {.fd = -1, .until_ns = until_ns};
    int done = 1;

    for (int i = 0; i < SLOTS && done; i++) {
        if (!slots[i].done)
            slots[i].done = guard_perform(&slots[i], &conversation) != STEP_FAILED;
        done = slots[i].done;
    }
    guard_hang_up(&conversation);
    return done;
}

/* A guest that was paused since its lease has ended is not resumed by us. */
static int may_act(const DeadlineWatch *watch)
{
    return !deadline_watch_is_due(watch) && !deadline_watch_has_passed(watch);
}

static void act(Slot *slots, DeadlineWatch *watch)
{
    const struct timespec nap = {0, PAUSE_NS};
    uint16_t attempts = 1;

    for (int i = 0; i < SLOTS; i++)
        if (slots[i].length > 0 && slots[i].attempts > attempts)
            attempts = slots[i].attempts;
    for (uint16_t i = 0; i < attempts && may_act(watch); i++) {
        if (perform_all(slots, deadline_watch_begins_ns(watch)) || guard_vmm_has_ended())
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
static void take_orders(Slot *slots, DeadlineWatch *watch)
{
    char path[GUARD_DEADLINE_PATH_BYTES];
    OrderHeader order;

    while (deadline_watch_until_readable(watch, PIPE_FD) && receive(&order, sizeof order)) {
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
        case ORDER_DEADLINE:
            if (!receive(path, sizeof path) || !receive(watch->pause.steps, order.length))
                return;
            watch->pause.length = order.length;
            deadline_watch_begin(watch, path);
            break;
        default:
            slot->length = 0;
        }
    }
}

static void guard_main(void)
{
    static Slot slots[SLOTS];
    static DeadlineWatch watch;

    take_orders(slots, &watch);
    act(slots, &watch);
    deadline_watch_to_the_end(&watch);
    _exit(0);
}

HELPER_MAIN(GUARD_NAME, guard_main)

/* --- in the agent ------------------------------------------------------ */

static int open_netns(pid_t pid)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/ns/net", (int)pid);

    return open(path, O_RDONLY | O_CLOEXEC);
}

/* *length*: of what follows the header. */
static gboolean write_order(Guard *guard, const Order *order, size_t length, GError **error)
{
    if (fd_write_all(guard->pipe, order, sizeof order->header + length, error))
        return TRUE;
    g_prefix_error(error, "the guard process has ended: ");
    return FALSE;
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
    return write_order(guard, &order, order.header.length, error);
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

static gboolean order_deadline(Guard *guard, const char *path, const GuardAction *pause,
                               GError **error)
{
    Order order = {.header = {.kind = ORDER_DEADLINE, .length = pause->length}};

    g_strlcpy(order.steps, path, GUARD_DEADLINE_PATH_BYTES);
    memcpy(order.steps + GUARD_DEADLINE_PATH_BYTES, pause->steps, pause->length);
    return write_order(guard, &order, GUARD_DEADLINE_PATH_BYTES + (size_t)pause->length, error);
}

/* The word first: an order that finds none would have the guard wait for nothing. */
gboolean guard_arm_deadline(Guard *guard, GuardDeadline *deadline, const GuardAction *pause,
                            uint64_t time_ns, GError **error)
{
    if (pause->incomplete) {
        error_set(error, VMFERRY_ERROR_INVALID, "the action that pauses the guest is incomplete");
        return FALSE;
    }
    if (!guard_deadline_set(deadline, time_ns)) {
        error_set(error, VMFERRY_ERROR_BUSY, "the guard is just pausing the guest");
        return FALSE;
    }
    return order_deadline(guard, guard_deadline_get_path(deadline), pause, error) &&
           guard_deadline_await_watched(deadline, error);
}

gboolean guard_is_alive(Guard *guard)
{
    struct pollfd p = {.fd = guard->pipe};

    return poll(&p, 1, 0) == 0;
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

Guard *guard_start_kill(pid_t pid, GError **error)
{
    GuardAction kill;

    guard_action_begin(&kill, 1);
    guard_action_add_kill(&kill);
    return guard_start(pid, &kill, error);
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

void guard_leave(Guard *guard)
{
    if (!guard)
        return;
    close(guard->pipe);
    g_free(guard);
}
