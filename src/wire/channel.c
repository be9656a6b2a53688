#include "wire/channel.h"

#include <errno.h>
#include <linux/sockios.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "wire/channel_private.h"
#include "base/lock_guard.h"
#include "wire/socket_wait.h"

/* Closing waits that long until the peer's kernel has what was sent. */
#define LINGER_NS 1000000000ULL
#define LINGER_STEP_NS 2000000ULL

/* ---- failing ---- */

void channel_fail(Channel *channel, GError *cause)
{
    g_autoptr(GError) taken = cause;
    uint64_t one = 1;

    g_mutex_lock(&channel->state_lock);
    if (!channel->failure)
        channel->failure = g_error_copy(cause);
    if (channel->attempt)
        channel_shutdown(channel->attempt);
    g_mutex_unlock(&channel->state_lock);
    /* An eventfd takes a number whenever it is far from full. */
    (void)!write(channel->wake_fd, &one, sizeof one);
    if (atomic_load(&channel->resend))
        resend_buffer_wake(channel->resend);
    channel_note_failure(channel, cause, FALSE);
}

void channel_note_failure(Channel *channel, const GError *cause, gboolean sending)
{
    ChannelFailed failed;

    g_mutex_lock(&channel->state_lock);
    failed = channel->failed;
    channel->failed = NULL;
    g_mutex_unlock(&channel->state_lock);
    if (failed)
        failed(channel, cause, sending, channel->failed_user);
}

void channel_watch_failure(Channel *channel, ChannelFailed failed, gpointer user)
{
    g_autoptr(GError) failure = NULL;

    g_mutex_lock(&channel->state_lock);
    channel->failed = failed;
    channel->failed_user = user;
    g_mutex_unlock(&channel->state_lock);
    if (!channel_check(channel, &failure))
        channel_note_failure(channel, failure, FALSE);
}

gboolean channel_check(Channel *channel, GError **error)
{
    lock_guard(&channel->state_lock);

    if (channel->failure && error)
        *error = g_error_copy(channel->failure);
    return channel->failure == NULL;
}

gboolean channel_check_open(Channel *channel, GError **error)
{
    g_autoptr(GError) failure = NULL;

    if (channel_check(channel, &failure) || !error_is(failure, VMFERRY_ERROR_CANCELLED))
        return TRUE;
    g_propagate_error(error, g_steal_pointer(&failure));
    return FALSE;
}

void channel_shutdown(Channel *channel)
{
    channel_fail(channel,
                 g_error_new(VMFERRY_ERROR, VMFERRY_ERROR_CANCELLED,
                             "%s: the connection was shut down on this side", channel->label));
    g_mutex_lock(&channel->state_lock);
    shutdown(stream_get_fd(channel->stream), SHUT_RDWR);
    g_mutex_unlock(&channel->state_lock);
}

gboolean channel_has_failed(Channel *channel, GError **ret_failure)
{
    gboolean failed;

    if (!channel_check(channel, ret_failure))
        return TRUE;
    /* Who has it reads just now. */
    if (!g_mutex_trylock(&channel->receive_lock))
        return FALSE;
    failed = channel->receive_failure != NULL;
    if (failed && ret_failure)
        *ret_failure = g_error_copy(channel->receive_failure);
    g_mutex_unlock(&channel->receive_lock);
    return failed;
}

/* ---- ending ---- */

/* Reads and forgets what is there; FALSE once nothing more can come. */
static gboolean discard_input(int fd, uint64_t end)
{
    char waste[16384];
    ssize_t got;

    do
        got = recv(fd, waste, sizeof waste, MSG_DONTWAIT);
    while (got > 0 && clock_now_ns() < end);
    return got > 0 || (got < 0 && errno == EAGAIN);
}

/* Closing a socket with unread bytes in it, or where bytes still come, resets
 * the connection, and what was sent last (STARTED, ERROR) may never arrive.  So
 * wait, reading on, until the peer's kernel has acknowledged it. */
static void linger(const Stream *stream)
{
    int fd = stream_get_fd(stream);
    uint64_t end = clock_now_ns() + LINGER_NS;

    while (discard_input(fd, end) && stream_get_unacknowledged(stream) > 0 && clock_now_ns() < end)
        socket_wait(-1, 0, -1, clock_now_ns() + LINGER_STEP_NS);
}

static void drain_and_close(Channel *channel)
{
    channel_say_bye(channel);
    linger(channel->stream);
    g_mutex_lock(&channel->send_lock);
    if (!channel->send_failure)
        stream_drain_and_close(channel->stream);
    g_mutex_unlock(&channel->send_lock);
    shutdown(stream_get_fd(channel->stream), SHUT_WR);
}

void channel_free(Channel *channel)
{
    gboolean broken;

    if (!channel)
        return;
    broken = !channel->stream || channel->wake_fd < 0 || !channel_check(channel, NULL);
    if (channel->heartbeat) {
        channel_fail(channel, g_error_new(VMFERRY_ERROR, VMFERRY_ERROR_CANCELLED, "closed"));
        g_thread_join(channel->heartbeat);
    }
    if (!broken && !atomic_load(&channel->broken))
        drain_and_close(channel);
    channel_clear_reconnect(channel);
    stream_free(channel->stream);
    fd_close(&channel->wake_fd);
    fd_close(&channel->nudge_fd);
    g_clear_error(&channel->failure);
    g_clear_error(&channel->send_failure);
    g_clear_error(&channel->receive_failure);
    g_mutex_clear(&channel->state_lock);
    g_mutex_clear(&channel->bulk_lock);
    g_mutex_clear(&channel->send_lock);
    g_mutex_clear(&channel->receive_lock);
    channel_pacer_release(channel->pacer);
    g_free(channel->buffer);
    g_free(channel->peer_name);
    g_free(channel->label);
    g_free(channel->instance);
    g_free(channel->agent);
    g_free(channel->peer_certificate);
    g_free(channel);
}

void channel_abandon(Channel *channel)
{
    struct linger none = {.l_onoff = 1};

    if (!channel)
        return;
    channel_shutdown(channel);
    setsockopt(stream_get_fd(channel->stream), SOL_SOCKET, SO_LINGER, &none, sizeof none);
    channel_free(channel);
}

/* ---- facts ---- */

const char *channel_get_peer_name(Channel *channel)
{
    return channel->peer_name;
}

const char *channel_get_instance(Channel *channel)
{
    return channel->instance;
}

const char *channel_get_agent(Channel *channel)
{
    return channel->agent;
}

gboolean channel_is_secure(Channel *channel)
{
    return channel->secure;
}

const char *channel_get_peer_certificate(Channel *channel)
{
    return channel->peer_certificate;
}

uint64_t channel_get_sent_bytes(Channel *channel)
{
    lock_guard(&channel->state_lock);

    return channel->earlier_sent + stream_get_sent_bytes(channel->stream);
}

uint64_t channel_get_backlog_bytes(Channel *channel)
{
    int bytes = 0;
    lock_guard(&channel->state_lock);

    if (ioctl(stream_get_fd(channel->stream), SIOCOUTQ, &bytes) < 0 || bytes < 0)
        return 0;
    return (uint64_t)bytes;
}

uint64_t channel_get_round_trip_ns(Channel *channel)
{
    struct tcp_info info = {0};
    socklen_t length = sizeof info;
    lock_guard(&channel->state_lock);

    /* Older kernels fill less of it, and it may not be TCP.  All ones: none was measured yet. */
    if (getsockopt(stream_get_fd(channel->stream), IPPROTO_TCP, TCP_INFO, &info, &length) < 0 ||
        length < offsetof(struct tcp_info, tcpi_min_rtt) + sizeof info.tcpi_min_rtt ||
        info.tcpi_min_rtt == UINT32_MAX)
        return 0;
    return info.tcpi_min_rtt * 1000ULL;
}

uint64_t channel_get_received_bytes(Channel *channel)
{
    lock_guard(&channel->state_lock);

    return channel->earlier_received + stream_get_received_bytes(channel->stream);
}
