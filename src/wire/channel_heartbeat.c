/*
 * The thread that keeps a channel alive and notices when the peer is not
 */
#include "base/clock.h"
#include "base/error.h"
#include "wire/channel_private.h"
#include "wire/socket_wait.h"

uint64_t channel_heartbeat_interval_ns(const Channel *channel)
{
    return MIN(CHANNEL_HEARTBEAT_INTERVAL_MS * 1000000ULL, channel->peer_timeout_ns / 4);
}

static void check_silence(Channel *channel)
{
    /* With bytes waiting to be read it is us who are slow. */
    if (!stream_is_silent(channel->stream, channel->peer_timeout_ns))
        return;
    channel_fail(channel,
                 g_error_new(VMFERRY_ERROR, VMFERRY_ERROR_DISCONNECTED,
                             "%s has been silent for %.1f s: the connection is given up",
                             channel->label, clock_ns_to_ms(channel->peer_timeout_ns) / 1e3));
}

gpointer channel_heartbeat_main(gpointer data)
{
    Channel *channel = data;
    /* Looking twice an interval keeps every pause below one. */
    uint64_t tick_ns = channel_heartbeat_interval_ns(channel) / 2;

    while (socket_wait(-1, 0, channel->wake_fd, clock_now_ns() + tick_ns) != SOCKET_WOKEN) {
        check_silence(channel);
        if (clock_now_ns() - atomic_load(&channel->last_sent_ns) >= tick_ns)
            channel_try_heartbeat(channel);
    }
    return NULL;
}
