/*
 * How much of a channel waits in the kernel
 *
 * What waits there to be sent cannot be passed by what is more urgent, and cannot go by another connection:
 * so no more than TCP needs, a fiftieth of a second's worth (TCP_NOTSENT_LOWAT).  What is on its way is
 * another thing: that takes room for rate times round trip, which the kernel sees to up to
 * its tcp_wmem; where that is what limits, more is asked for.  The receiver's side is its kernel's
 * (tcp_rmem).
 */
#include <linux/tcp.h>
#include <netinet/in.h>
#include <stddef.h>
#include <sys/socket.h>

#include "base/lock_guard.h"
#include "wire/channel_private.h"

/* Enough for LINK_RATE_WINDOW_MS to see that something waits. */
#define UNSENT_SECONDS 0.02
/* No less, on a long way and on a short one, where a thread may be late by more than that; no more. */
#define LEAST_UNSENT_FAR (32u << 10)
#define LEAST_UNSENT_NEAR (256u << 10)
#define MOST_UNSENT (4u << 20)
/* The kernel has grown the buffer to its limit, by default. */
#define KERNEL_MOST_BYTES 4000000
/* 10 Gbit/s times 25 ms, and as much again for what the kernel adds. */
#define BUFFER_BYTES (64 << 20)
/* Of the time since the last look, that the sender waited for room. */
#define LIMITED_SHARE 0.1

static uint32_t choose_unsent(const struct tcp_info *info)
{
    gboolean is_far =
        info->tcpi_min_rtt != UINT32_MAX && info->tcpi_min_rtt * 1000ULL >= CHANNEL_LONG_WAY_NS;
    double wanted = UNSENT_SECONDS * (double)info->tcpi_delivery_rate;

    return (uint32_t)CLAMP(wanted, is_far ? LEAST_UNSENT_FAR : LEAST_UNSENT_NEAR, MOST_UNSENT);
}

/* Unless the operator's limits forbid it: then it stays as it is. */
static void enlarge_buffer(int fd)
{
    int bytes = 0, wanted = BUFFER_BYTES;
    socklen_t length = sizeof bytes;

    if (getsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, &length) < 0 || bytes < KERNEL_MOST_BYTES ||
        bytes >= BUFFER_BYTES)
        return;
    setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &wanted, sizeof wanted);
}

void channel_tune(Channel *channel, uint64_t elapsed_ns)
{
    struct tcp_info info = {0};
    socklen_t length = sizeof info;
    uint32_t unsent;
    uint64_t limited_us;
    lock_guard(&channel->state_lock);
    int fd = stream_get_fd(channel->stream);

    /* An older kernel does not tell; and it may not be TCP. */
    if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length) < 0 ||
        length < offsetof(struct tcp_info, tcpi_sndbuf_limited) + sizeof info.tcpi_sndbuf_limited)
        return;
    unsent = choose_unsent(&info);
    if (unsent != channel->tuned_unsent &&
        setsockopt(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &unsent, sizeof unsent) == 0)
        channel->tuned_unsent = unsent;
    limited_us = info.tcpi_sndbuf_limited - MIN(channel->limited_us, info.tcpi_sndbuf_limited);
    channel->limited_us = info.tcpi_sndbuf_limited;
    if ((double)limited_us * 1000 > LIMITED_SHARE * (double)elapsed_ns)
        enlarge_buffer(fd);
}
