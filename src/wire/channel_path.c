/*
 * What the kernel knows of a connection's way
 */
#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "base/lock_guard.h"
#include "wire/channel_private.h"

#define TCP_HEADER_BYTES 20u
#define IPV4_HEADER_BYTES 20u
#define IPV6_HEADER_BYTES 40u

/* The kernel has filled the field; older ones fill less. */
#define HAS(length, field)                                                                         \
    ((length) >= offsetof(struct tcp_info, field) + sizeof(((struct tcp_info *)0)->field))

static guint count_header_bytes(int fd)
{
    struct sockaddr_storage address = {0};
    socklen_t length = sizeof address;
    const struct sockaddr_in6 *six = (const struct sockaddr_in6 *)&address;

    if (getpeername(fd, (struct sockaddr *)&address, &length) < 0)
        return 0;
    if (address.ss_family == AF_INET ||
        (address.ss_family == AF_INET6 && IN6_IS_ADDR_V4MAPPED(&six->sin6_addr)))
        return TCP_HEADER_BYTES + IPV4_HEADER_BYTES;
    return address.ss_family == AF_INET6 ? TCP_HEADER_BYTES + IPV6_HEADER_BYTES : 0;
}

void channel_get_path(Channel *channel, ChannelPath *ret)
{
    struct tcp_info info = {0};
    socklen_t length = sizeof info, name_length = sizeof ret->congestion_control - 1;
    lock_guard(&channel->state_lock);
    int fd = stream_get_fd(channel->stream);

    *ret = (ChannelPath){.header_bytes = count_header_bytes(fd)};
    /* It may not be TCP. */
    if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length) < 0)
        return;
    if (HAS(length, tcpi_total_retrans)) {
        ret->round_trip_ns = info.tcpi_rtt * 1000ULL;
        ret->retransmitted = info.tcpi_total_retrans;
        ret->most_segment = info.tcpi_snd_mss;
        ret->path_mtu = info.tcpi_pmtu;
    }
    if (HAS(length, tcpi_min_rtt) && info.tcpi_min_rtt != UINT32_MAX)
        ret->least_round_trip_ns = info.tcpi_min_rtt * 1000ULL;
    if (HAS(length, tcpi_data_segs_out))
        ret->segments = info.tcpi_data_segs_out;
    if (HAS(length, tcpi_notsent_bytes))
        ret->unsent_bytes = info.tcpi_notsent_bytes;
    if (HAS(length, tcpi_bytes_retrans) && info.tcpi_bytes_sent > 0)
        ret->lost_share = (double)info.tcpi_bytes_retrans / (double)info.tcpi_bytes_sent;
    if (getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, ret->congestion_control, &name_length) < 0)
        ret->congestion_control[0] = '\0';
}
