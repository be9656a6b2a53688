#include "guard/deadline_watch.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "guard/guard.h"

#define NS_PER_S 1000000000LL
#define NS_PER_MS 1000000LL
/* The action has until this long before the deadline, or half of the lead; then comes SIGSTOP. */
#define STOP_LEAD_MS 50
#define STOP_AGAIN_NS (5 * 1000000LL)

static GuardDeadlineFile *map_file(const char *path)
{
    int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    void *at;

    if (fd < 0)
        return NULL;
    at = mmap(NULL, sizeof(GuardDeadlineFile), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    return at == MAP_FAILED ? NULL : at;
}

/* Neither a busy host nor one that swaps must make us late.  Where we may not, we do without. */
static void take_precedence(void)
{
    const struct sched_param lowest = {.sched_priority = 1};

    (void)sched_setscheduler(0, SCHED_FIFO, &lowest);
    (void)mlockall(MCL_CURRENT | MCL_FUTURE);
}

static int64_t get_lead_ms(const DeadlineWatch *watch)
{
    uint32_t lead_ms = atomic_load(&watch->file->lead_ms);

    return lead_ms > 0 ? MIN(lead_ms, GUARD_DEADLINE_LEAD_MS) : GUARD_DEADLINE_LEAD_MS;
}

int64_t deadline_watch_begins_ns(const DeadlineWatch *watch)
{
    uint64_t word = watch->file ? atomic_load(&watch->file->word) : 0;

    return word < GUARD_DEADLINE_SET ? 0 : MAX((int64_t)word - get_lead_ms(watch) * NS_PER_MS, 1);
}

int deadline_watch_is_due(const DeadlineWatch *watch)
{
    int64_t begins = deadline_watch_begins_ns(watch);

    return begins > 0 && guard_now_ns() >= begins;
}

/* *begins_ns* 0: never. */
static void set_timer(DeadlineWatch *watch, int64_t begins_ns)
{
    const struct itimerspec at = {
        .it_value = {(time_t)(begins_ns / NS_PER_S), (long)(begins_ns % NS_PER_S)}};

    (void)timerfd_settime(watch->timer, TFD_TIMER_ABSTIME, &at, NULL);
}

static int send_stop(DeadlineWatch *watch)
{
    long done = syscall(SYS_pidfd_send_signal, PIDFD_FD, SIGSTOP, NULL, 0);

    if (done == 0)
        atomic_fetch_or(&watch->file->undo, GUARD_DEADLINE_UNDO_STOP);
    return done == 0;
}

static void stop_process(DeadlineWatch *watch)
{
    int done = send_stop(watch);

    atomic_store(&watch->file->word, done ? GUARD_DEADLINE_STOPPED : GUARD_DEADLINE_GONE);
    watch->stops_again = done;
}

/* Whoever was about to resume the guest when the deadline came may have looked at it before, and send SIGCONT
 * after we have stopped the process; it says when it is through.  Unless that is a new deadline. */
static void stop_again(DeadlineWatch *watch)
{
    int resuming = (int)atomic_load(&watch->file->resuming);

    if (watch->stops_again && atomic_load(&watch->file->word) == GUARD_DEADLINE_STOPPED)
        watch->stops_again = send_stop(watch) && resuming;
    else
        watch->stops_again = 0;
}

/* *ret_paused: the guest ran, and was told to stand still: it may yet do so where no answer came in time,
 * even after its process was stopped and goes on. */
static StepResult try_action(DeadlineWatch *watch, int64_t until_ns, int *ret_paused)
{
    static Slot slot;
    Conversation conversation = {.fd = -1, .until_ns = until_ns};
    StepResult result;

    slot.length = watch->pause.length;
    memcpy(slot.steps, watch->pause.steps, slot.length);
    result = slot.length > 0 ? guard_perform(&slot, &conversation) : STEP_FAILED;
    guard_hang_up(&conversation);
    *ret_paused = result == STEP_DONE || (result == STEP_FAILED && conversation.is_needed);
    return result;
}

static void pause_vmm(DeadlineWatch *watch, int64_t deadline_ns)
{
    int64_t stop_ns = deadline_ns - MIN(STOP_LEAD_MS, get_lead_ms(watch) / 2) * NS_PER_MS;
    StepResult result = STEP_FAILED;
    int paused = 0;

    /* Where we are late already there is no time for an answer. */
    if (guard_now_ns() < stop_ns && !atomic_load(&watch->file->resuming))
        result = try_action(watch, stop_ns, &paused);
    if (paused)
        atomic_fetch_or(&watch->file->undo, GUARD_DEADLINE_UNDO_PAUSE);
    if (result == STEP_FAILED)
        stop_process(watch);
    else
        atomic_store(&watch->file->word,
                     result == STEP_OVER ? GUARD_DEADLINE_WAS_PAUSED : GUARD_DEADLINE_PAUSED);
}

/* Acts where it is due; otherwise the timer is set to when it will be. */
static void look(DeadlineWatch *watch)
{
    uint64_t word = atomic_load(&watch->file->word);

    while (deadline_watch_is_due(watch))
        if (atomic_compare_exchange_strong(&watch->file->word, &word, GUARD_DEADLINE_ACTING)) {
            pause_vmm(watch, (int64_t)word);
            break;
        }
    if (watch->stops_again)
        stop_again(watch);
    set_timer(watch, watch->stops_again ? guard_now_ns() + STOP_AGAIN_NS
                                        : deadline_watch_begins_ns(watch));
}

void deadline_watch_begin(DeadlineWatch *watch, const char *path)
{
    if (watch->file)
        munmap(watch->file, sizeof *watch->file);
    else
        watch->timer = timerfd_create(CLOCK_BOOTTIME, TFD_CLOEXEC | TFD_NONBLOCK);
    watch->file = map_file(path);
    if (!watch->file || watch->timer < 0) {
        watch->file = NULL;
        return;
    }
    atomic_store(&watch->file->watched, atomic_load(&watch->file->word));
    look(watch);
    /* Behind the answer, which may be waited for in a guest's pause. */
    take_precedence();
}

int deadline_watch_until_readable(DeadlineWatch *watch, int fd)
{
    struct pollfd p[] = {{.fd = fd, .events = POLLIN}, {.fd = -1, .events = POLLIN}};

    for (;;) {
        p[1].fd = watch->file ? watch->timer : -1;
        if (poll(p, 2, -1) < 0)
            return 0;
        if (p[1].revents)
            look(watch);
        if (p[0].revents)
            return 1;
    }
}

int deadline_watch_has_passed(const DeadlineWatch *watch)
{
    uint64_t word = watch->file ? atomic_load(&watch->file->word) : GUARD_DEADLINE_NONE;

    return word > GUARD_DEADLINE_NONE && word < GUARD_DEADLINE_SET;
}

void deadline_watch_to_the_end(DeadlineWatch *watch)
{
    while (deadline_watch_begins_ns(watch) > 0 && !guard_vmm_has_ended()) {
        struct pollfd p[] = {{.fd = PIDFD_FD, .events = POLLIN},
                             {.fd = watch->timer, .events = POLLIN}};

        look(watch);
        if (deadline_watch_begins_ns(watch) > 0 && poll(p, 2, -1) < 0)
            break;
    }
}
