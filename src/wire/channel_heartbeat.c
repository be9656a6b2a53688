/*
 * The thread that keeps a channel alive and notices when the peer is not
 *
 * A living peer sends a heartbeat at least, so something arrives all the time.
 * The exception is a receive buffer that we left to fill up: then the peer has
 * no way to send anything, and the sign of life is that its kernel still
 * acknowledges our own heartbeats.  Where nobody receives at all yet, the thread reads the
 * peer's heartbeats itself.  It also confirms what has come, and it is this thread that replaces a
 * connection (channel_reconnect.c).
 */
#include <poll.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "wire/channel_private.h"
#include "wire/socket_wait.h"

/* No receive window is smaller. */
#define BACKLOG_BYTES (64u << 10)

/* So often in a row the kernel has sent something again: no chance loss. */
#define STUCK_RETRANSMITS 2u

typedef struct {
    StreamSigns last;
    uint64_t alive_ns;
    uint64_t arriving_ns; /* what is sent arrives there, or nothing is under way */
} Watch;

static uint64_t interval_ns(const Channel *channel)
{
    return MIN(CHANNEL_HEARTBEAT_INTERVAL_MS * 1000000ULL, channel->peer_timeout_ns / 4);
}

static gboolean is_alive(const StreamSigns *now, const StreamSigns *before)
{
    if (now->arrived != before->arrived)
        return TRUE;
    /* The end of the connection is reported by receiving, after the frames before it. */
    return now->ended ||
           (now->unread >= BACKLOG_BYTES && now->acknowledged != before->acknowledged);
}

static void give_up_silent(Channel *channel)
{
    channel_fail(channel,
                 g_error_new(VMFERRY_ERROR, VMFERRY_ERROR_DISCONNECTED,
                             "%s has been silent for %.1f s: the connection is given up",
                             channel->label, clock_ns_to_ms(channel->peer_timeout_ns) / 1e3));
}

static uint64_t look_for_life(Channel *channel, Watch *watch)
{
    uint64_t now = clock_now_ns();
    StreamSigns signs;

    stream_peek(channel->stream, &signs);
    if (is_alive(&signs, &watch->last))
        watch->alive_ns = now;
    /* A peer that takes nothing has confirmed what it was sent: then nothing is sent again. */
    if (signs.acknowledged != watch->last.acknowledged || signs.retransmits < STUCK_RETRANSMITS)
        watch->arriving_ns = now;
    watch->last = signs;
    return now - watch->alive_ns;
}

static void begin_watch(Channel *channel, Watch *watch)
{
    watch->alive_ns = watch->arriving_ns = clock_now_ns();
    stream_peek(channel->stream, &watch->last);
}

/* FALSE once the channel has failed. */
static gboolean keep_connection(Channel *channel, Watch *watch)
{
    uint64_t silent_ns = look_for_life(channel, watch);
    uint64_t stuck_ns = clock_now_ns() - watch->arriving_ns;

    if (channel_may_probe(channel, silent_ns, stuck_ns)) {
        if (!channel_recover(channel, watch->alive_ns, stuck_ns > silent_ns))
            return FALSE;
        begin_watch(channel, watch);
        return TRUE;
    }
    if (silent_ns > channel->peer_timeout_ns)
        give_up_silent(channel);
    return TRUE;
}

static void be_heard(Channel *channel, uint64_t tick_ns)
{
    if (atomic_load(&channel->broken))
        return;
    if (clock_now_ns() - atomic_load(&channel->last_sent_ns) >= tick_ns)
        channel_try_heartbeat(channel);
    channel_try_confirm(channel);
}

gpointer channel_heartbeat_main(gpointer data)
{
    Channel *channel = data;
    /* Twice an interval keeps every pause below one. */
    uint64_t tick_ns = interval_ns(channel) / 2;
    Watch watch;
    uint64_t tuned_ns = clock_now_ns();
    uint64_t nudges;

    begin_watch(channel, &watch);
    while (socket_wait(channel->nudge_fd, POLLIN, channel->wake_fd, clock_now_ns() + tick_ns) !=
           SOCKET_WOKEN) {
        (void)!read(channel->nudge_fd, &nudges, sizeof nudges);
        if (!keep_connection(channel, &watch))
            break;
        if (clock_now_ns() - tuned_ns >= tick_ns) {
            channel_tune(channel, clock_now_ns() - tuned_ns);
            tuned_ns = clock_now_ns();
        }
        if (atomic_load(&channel->unattended))
            channel_pump(channel);
        be_heard(channel, tick_ns);
    }
    return NULL;
}
