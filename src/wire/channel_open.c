/*
 * Making channels: connecting, accepting, the TLS handshake
 */
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/lock_guard.h"
#include "wire/channel_private.h"
#include "wire/connect.h"
#include "wire/socket_wait.h"

static gboolean set_options(int fd, int peer_timeout_ms, GError **error)
{
    int flags = fcntl(fd, F_GETFL);
    int one = 1;
    /* The kernel counts a peer that takes nothing as dead, too. */
    guint timeout = (guint)peer_timeout_ms * CHANNEL_STALL_FACTOR;

    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0) {
        error_set_errno(error, errno, "socket");
        return FALSE;
    }
    /* A socket that is not TCP (tests use pairs) does without. */
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout, sizeof timeout);
    return TRUE;
}

/* Takes *fd*; no heartbeat yet. */
static Channel *make_channel(int fd, const ChannelOptions *options, char *label, GError **error)
{
    g_autoptr(Channel) channel = g_new0(Channel, 1);
    int timeout_ms =
        options->peer_timeout_ms > 0 ? options->peer_timeout_ms : CHANNEL_PEER_TIMEOUT_MS;

    channel->stream = stream_new(fd);
    channel->label = label;
    channel->instance = g_strdup(options->instance);
    channel->agent = g_strdup(options->agent);
    stream_set_label(channel->stream, label);
    if (options->traffic)
        stream_count_in(channel->stream, &options->traffic->sent_bytes,
                        &options->traffic->received_bytes);
    channel->peer_timeout_ns = (uint64_t)timeout_ms * 1000000;
    channel->secure = options->tls != NULL;
    g_mutex_init(&channel->state_lock);
    g_mutex_init(&channel->bulk_lock);
    g_mutex_init(&channel->send_lock);
    g_mutex_init(&channel->receive_lock);
    g_cond_init(&channel->mended);
    g_queue_init(&channel->early);
    channel->tail = g_byte_array_new();
    channel->wake_fd = channel->nudge_fd = -1;
    channel->traffic = options->traffic;
    channel->pacer = channel_pacer_new();
    atomic_store(&channel->last_sent_ns, clock_now_ns());
    channel->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    channel->nudge_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (channel->wake_fd < 0 || channel->nudge_fd < 0) {
        error_set_errno(error, errno, "eventfd");
        return NULL;
    }
    if (!set_options(fd, timeout_ms, error))
        return NULL;
    return g_steal_pointer(&channel);
}

/* On a long way a lost packet says little about how full the line is, and a rate that is halved by it takes
 * many round trips to come back: BBR goes by what arrives (Cardwell et al., "BBR: Congestion-Based
 * Congestion Control", ACM Queue 14(5), 2016).  A kernel without it keeps its own. */
static void choose_congestion_control(Channel *channel)
{
    static const char name[] = "bbr";

    if (channel_get_round_trip_ns(channel) >= CHANNEL_LONG_WAY_NS)
        setsockopt(stream_get_fd(channel->stream), IPPROTO_TCP, TCP_CONGESTION, name,
                   sizeof name - 1);
}

static gboolean start_heartbeat(Channel *channel, GError **error)
{
    choose_congestion_control(channel);
    channel_tune(channel, CHANNEL_HEARTBEAT_INTERVAL_MS * 1000000ULL);
    channel->heartbeat = g_thread_try_new("heartbeat", channel_heartbeat_main, channel, error);
    return channel->heartbeat != NULL;
}

/* From here on messages name the peer as its certificate does. */
static gboolean take_certificate_name(Channel *channel, GError **error)
{
    g_free(channel->peer_name);
    channel->peer_name = stream_get_certificate_name(channel->stream);
    channel->peer_certificate = stream_get_certificate_digest(channel->stream);
    /* Else who may use an agent's API could bring it a guest, with a command line of their own. */
    if (channel->peer_name && !stream_is_of_host(channel->stream)) {
        error_set(error, VMFERRY_ERROR_REFUSED,
                  "%s: its certificate is not a host's (`vmferry pki issue` makes those)",
                  channel->peer_name);
        return FALSE;
    }
    if (channel->peer_name && channel->peer_certificate)
        return TRUE;
    error_set(error, VMFERRY_ERROR_REFUSED, "%s: its certificate names no host", channel->label);
    return FALSE;
}

static void note_stage(const ChannelOptions *options, ChannelStage stage)
{
    if (options->stage)
        *options->stage = stage;
}

static Channel *connect_channel(const Address *address, const ChannelOptions *options,
                                ChannelAttempt *attempt, GError **error)
{
    StreamHandshake handshake = {.host = address->host,
                                 .label = address->label,
                                 .wake_fd = attempt->wake_fd,
                                 .deadline_ns = socket_deadline(attempt->timeout_ms)};
    ConnectRequest request = {
        .address = address,
        .deadline_ns =
            attempt->reach_ms > 0 ? socket_deadline(attempt->reach_ms) : handshake.deadline_ns,
        .cancel_fd = attempt->wake_fd,
        .segment_bytes =
            attempt->segment_bytes > 0 ? attempt->segment_bytes : options->most_segment,
    };
    g_autoptr(Channel) channel = NULL;
    int fd;

    note_stage(options, CHANNEL_STAGE_CONNECT);
    fd = connect_socket(&request, error);
    attempt->reached = fd >= 0;
    if (fd < 0)
        return NULL;
    note_stage(options, CHANNEL_STAGE_TLS);
    channel = make_channel(fd, options, g_strdup(address->label), error);
    if (!channel)
        return NULL;
    channel->peer_name = g_strdup(address->host);
    if (options->tls && (!stream_start_tls(channel->stream, options->tls, &handshake, error) ||
                         !take_certificate_name(channel, error)))
        return NULL;
    if (!start_heartbeat(channel, error))
        return NULL;
    note_stage(options, CHANNEL_STAGE_DONE);
    return g_steal_pointer(&channel);
}

static Channel *dial_channel(const char *label, const ChannelOptions *options, GError **error)
{
    int fd = options->dial(options->dial_user, error);
    g_autoptr(Channel) channel = fd < 0 ? NULL : make_channel(fd, options, g_strdup(label), error);

    if (!channel)
        return NULL;
    channel->peer_name = g_strdup(label);
    return start_heartbeat(channel, error) ? g_steal_pointer(&channel) : NULL;
}

Channel *channel_connect_attempt(const char *address_text, const ChannelOptions *options,
                                 ChannelAttempt *attempt, GError **error)
{
    g_auto(Address) address = {0};

    if (options->dial)
        return dial_channel(address_text, options, error);
    note_stage(options, CHANNEL_STAGE_ADDRESS);
    if (!address_parse(address_text, CHANNEL_DEFAULT_PORT, &address, error))
        return NULL;
    return connect_channel(&address, options, attempt, error);
}

Channel *channel_connect(const char *address, const ChannelOptions *options, int timeout_ms,
                         GCancellable *cancellable, GError **error)
{
    ChannelAttempt attempt = {
        .timeout_ms = timeout_ms,
        .wake_fd = cancellable ? g_cancellable_get_fd(cancellable) : -1,
    };
    Channel *channel = channel_connect_attempt(address, options, &attempt, error);

    if (attempt.wake_fd >= 0)
        g_cancellable_release_fd(cancellable);
    return channel;
}

/* The other end's address without its port. */
static char *describe_peer(int fd)
{
    struct sockaddr_storage address = {0};
    socklen_t length = sizeof address;
    char host[NI_MAXHOST];

    if (getpeername(fd, (struct sockaddr *)&address, &length) < 0 ||
        (address.ss_family != AF_INET && address.ss_family != AF_INET6) ||
        getnameinfo((struct sockaddr *)&address, length, host, sizeof host, NULL, 0,
                    NI_NUMERICHOST) != 0)
        return g_strdup("peer");
    return g_strdup(host);
}

char *channel_get_peer_host(Channel *channel)
{
    lock_guard(&channel->state_lock);

    return describe_peer(stream_get_fd(channel->stream));
}

/* A peer that begins in plain text gets an ERROR frame in plain text; nothing more
 * is read from it or sent to it. */
static gboolean refuse_plain_text(Channel *channel, uint64_t deadline_ns, GError **error)
{
    static const uint8_t tls_handshake_record = 0x16;
    g_autoptr(GError) for_peer = NULL;
    uint8_t first;

    if (socket_wait(stream_get_fd(channel->stream), POLLIN, -1, deadline_ns) != SOCKET_READY) {
        error_set(error, VMFERRY_ERROR_TIMEOUT, "%s: nothing came to begin TLS with",
                  channel->label);
        return FALSE;
    }
    if (recv(stream_get_fd(channel->stream), &first, 1, MSG_PEEK | MSG_DONTWAIT) != 1 ||
        first == tls_handshake_record)
        return TRUE;
    error_set(error, VMFERRY_ERROR_REFUSED,
              "%s does not speak TLS, this side demands it (is it running with --insecure?)",
              channel->label);
    error_set(&for_peer, VMFERRY_ERROR_REFUSED,
              "this agent demands TLS; use certificates of its CA instead of --insecure");
    channel_send_error(channel, for_peer);
    return FALSE;
}

static gboolean accept_tls(Channel *channel, TlsIdentity *identity, GError **error)
{
    StreamHandshake handshake = {.server = TRUE,
                                 .label = channel->label,
                                 .wake_fd = -1,
                                 .deadline_ns = clock_now_ns() + channel->peer_timeout_ns};

    return refuse_plain_text(channel, handshake.deadline_ns, error) &&
           stream_start_tls(channel->stream, identity, &handshake, error) &&
           take_certificate_name(channel, error);
}

Channel *channel_accept(int fd, const ChannelOptions *options, GError **error)
{
    g_autoptr(Channel) channel = make_channel(fd, options, describe_peer(fd), error);

    if (!channel)
        return NULL;
    channel->peer_name = g_strdup(channel->label);
    if (options->tls && !accept_tls(channel, options->tls, error))
        return NULL;
    if (!start_heartbeat(channel, error))
        return NULL;
    return g_steal_pointer(&channel);
}
