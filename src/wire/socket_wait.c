#include "wire/socket_wait.h"

#include <errno.h>
#include <poll.h>
#include <stddef.h>
#include <time.h>

#include "base/clock.h"

#define NS_PER_S 1000000000ULL

uint64_t socket_deadline(int timeout_ms)
{
    return timeout_ms < 0 ? SOCKET_WAIT_FOREVER : clock_now_ns() + (uint64_t)timeout_ms * 1000000;
}

/* As ppoll(), until a moment instead of for a time; EINTR starts again. */
static int poll_until(struct pollfd *polls, nfds_t count, uint64_t deadline_ns)
{
    for (;;) {
        uint64_t now = deadline_ns == SOCKET_WAIT_FOREVER ? 0 : clock_now_ns();
        uint64_t left = deadline_ns > now ? deadline_ns - now : 0;
        struct timespec span = {(time_t)(left / NS_PER_S), (long)(left % NS_PER_S)};
        int n = ppoll(polls, count, deadline_ns == SOCKET_WAIT_FOREVER ? NULL : &span, NULL);

        if (n >= 0 || errno != EINTR)
            return n;
    }
}

SocketWaitResult socket_wait(int fd, short events, int wake_fd, uint64_t deadline_ns)
{
    struct pollfd polls[2] = {{.fd = fd, .events = events}, {.fd = wake_fd, .events = POLLIN}};
    int n = poll_until(polls, 2, deadline_ns);

    if (n > 0 && polls[1].revents)
        return SOCKET_WOKEN;
    /* Where poll() itself fails, the call that is tried next reports why. */
    return n == 0 ? SOCKET_TIMED_OUT : SOCKET_READY;
}
