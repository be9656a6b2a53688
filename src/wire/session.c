#include "wire/session.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "base/error.h"
#include "base/lock_guard.h"
#include "wire/channel_private.h"

/* Joining is answered at once, as HELLO is. */
#define ACCEPTED_TIMEOUT_MS 10000
/* And so is RECONNECT, which follows HELLO. */
#define RECONNECT_TIMEOUT_MS 5000

struct Session {
    Channel *first;
    _Atomic(Channel *) by_class[TRAFFIC_CLASSES];
    char *address; /* of the connecting side; NULL: accepted */

    /* From the first HELLOs. */
    char *token, *peer_agent, *peer_instance;

    GMutex lock; /* protects all below, and attaching */
    GCond changed;
    char *transaction;
    Channel *joined[TRAFFIC_CLASSES]; /* in the order in which they came */
    guint joined_count;
    GError *failure;  /* of some channel; once set it stays */
    gboolean failing; /* the others are being failed with it */
    gboolean closing;
    gboolean reconnects; /* with these: */
    gboolean connects;   /* by this side */
    ChannelOptions options;
    guint patience_ms;
};

/* ---- making one ---- */

static Session *make_session(Channel *channel)
{
    Session *session = g_atomic_rc_box_new0(Session);

    g_mutex_init(&session->lock);
    g_cond_init(&session->changed);
    session->first = channel;
    for (guint i = 0; i < TRAFFIC_CLASSES; i++)
        atomic_store(&session->by_class[i], channel);
    return session;
}

static void note_peer(Session *session, const HelloMessage *peer, const char *token)
{
    session->token = g_strdup(token);
    session->peer_agent = g_strdup(peer->agent);
    session->peer_instance = g_strdup(peer->instance);
}

Session *session_connect(const char *address, const ChannelOptions *options, int timeout_ms,
                         GCancellable *cancellable, GError **error)
{
    Channel *channel = channel_connect(address, options, timeout_ms, cancellable, error);
    Session *session;

    if (!channel)
        return NULL;
    session = make_session(channel);
    session->address = g_strdup(address);
    return session;
}

gboolean session_greet(Session *session, const char *purpose, HelloMessage *ret_peer,
                       guint *ret_version, GError **error)
{
    if (!handshake_connect(session->first, purpose, ret_peer, ret_version, error))
        return FALSE;
    note_peer(session, ret_peer, ret_peer->token);
    return TRUE;
}

gboolean session_make_token(char token[HELLO_TOKEN_DIGITS + 1], GError **error)
{
    uint8_t random[HELLO_TOKEN_DIGITS / 2];

    /* Up to 256 bytes come whole. */
    if (getrandom(random, sizeof random, 0) != sizeof random) {
        error_set_errno(error, errno, "getrandom");
        return FALSE;
    }
    for (guint i = 0; i < sizeof random; i++)
        snprintf(token + 2 * i, 3, "%02x", random[i]);
    return TRUE;
}

Session *session_new(Channel *channel, const HelloMessage *peer, const char *token)
{
    Session *session = make_session(channel);

    note_peer(session, peer, token);
    return session;
}

/* ---- ending ---- */

/* All channels that there are, without the lock afterwards. */
static guint list_channels(Session *session, Channel *ret[TRAFFIC_CLASSES + 1])
{
    lock_guard(&session->lock);

    ret[0] = session->first;
    for (guint i = 0; i < session->joined_count; i++)
        ret[i + 1] = session->joined[i];
    return session->joined_count + 1;
}

/* What a channel is for, in messages. */
static const char *name_channel(Session *session, const Channel *channel)
{
    for (guint i = 0; i < TRAFFIC_CLASSES; i++)
        if (atomic_load(&session->by_class[i]) == channel)
            return traffic_class_name((TrafficClass)i);
    return "joined";
}

/* Notes the first failure; session_clear() waits until the others have been failed with it. */
static gboolean begin_failing(Session *session, const Channel *channel, const GError *cause)
{
    lock_guard(&session->lock);

    if (session->closing || session->failure)
        return FALSE;
    session->failure = g_error_copy(cause);
    if (channel != session->first)
        g_prefix_error(&session->failure, "the %s channel: ", name_channel(session, channel));
    session->failing = TRUE;
    g_cond_broadcast(&session->changed);
    return TRUE;
}

/* A ChannelFailed. */
static void on_channel_failed(Channel *channel, const GError *cause, gboolean sending,
                              gpointer user)
{
    Session *session = user;
    Channel *channels[TRAFFIC_CLASSES + 1];
    guint count;

    if (!begin_failing(session, channel, cause))
        return;
    count = list_channels(session, channels);
    for (guint i = 0; i < count; i++)
        if (channels[i] != channel || !sending)
            channel_fail(channels[i], g_error_copy(session->failure));
    g_mutex_lock(&session->lock);
    session->failing = FALSE;
    g_cond_broadcast(&session->changed);
    g_mutex_unlock(&session->lock);
}

void session_shutdown(Session *session)
{
    Channel *channels[TRAFFIC_CLASSES + 1];
    guint count;

    g_mutex_lock(&session->lock);
    session->closing = TRUE;
    g_cond_broadcast(&session->changed);
    g_mutex_unlock(&session->lock);
    count = list_channels(session, channels);
    for (guint i = 0; i < count; i++)
        channel_shutdown(channels[i]);
}

Session *session_ref(Session *session)
{
    return g_atomic_rc_box_acquire(session);
}

static void session_clear(gpointer data)
{
    Session *session = data;

    g_mutex_lock(&session->lock);
    session->closing = TRUE;
    while (session->failing)
        g_cond_wait(&session->changed, &session->lock);
    g_mutex_unlock(&session->lock);
    /* A peer that sees a joined channel end has all of the first one. */
    channel_free(session->first);
    for (guint i = 0; i < session->joined_count; i++)
        channel_free(session->joined[i]);
    g_clear_error(&session->failure);
    g_mutex_clear(&session->lock);
    g_cond_clear(&session->changed);
    g_free(session->address);
    g_free(session->token);
    g_free(session->peer_agent);
    g_free(session->peer_instance);
    g_free(session->transaction);
}

void session_unref(Session *session)
{
    if (session)
        g_atomic_rc_box_release_full(session, session_clear);
}

/* ---- surviving connections ---- */

/* Without the lock: a sender that fails has its channel's send_lock, and takes the session's then.
 * What is read here stays as it is once the session reconnects. */
static void let_reconnect(Session *session, Channel *channel, TrafficClass traffic)
{
    ChannelRedial redial = {.address = session->address,
                            .transaction = session->transaction,
                            .token = session->token,
                            .agent = session->peer_agent,
                            .instance = session->peer_instance,
                            .traffic = traffic,
                            .options = session->options};

    channel_allow_reconnect(channel, session->connects ? &redial : NULL, session->patience_ms);
}

static gboolean begin_reconnecting(Session *session, const ChannelOptions *options,
                                   guint patience_ms)
{
    lock_guard(&session->lock);

    /* Nothing could be proven again, or this process itself is the other side. */
    if (session->reconnects || !session->token || !*session->token || !session->transaction ||
        (options && (options->dial || !session->address)))
        return FALSE;
    session->connects = options != NULL;
    if (options)
        session->options = *options;
    session->patience_ms = patience_ms;
    session->reconnects = TRUE;
    return TRUE;
}

gboolean session_allow_reconnect(Session *session, const ChannelOptions *options, guint patience_ms)
{
    if (!begin_reconnecting(session, options, patience_ms))
        return FALSE;
    let_reconnect(session, session->first, TRAFFIC_CONTROL);
    for (guint i = 1; i < TRAFFIC_CLASSES; i++)
        if (atomic_load(&session->by_class[i]) != session->first)
            let_reconnect(session, atomic_load(&session->by_class[i]), (TrafficClass)i);
    return TRUE;
}

gboolean session_flush(Session *session, int timeout_ms)
{
    return channel_flush(session->first, timeout_ms);
}

gboolean session_has_same_peer(Session *session, Session *other)
{
    return g_strcmp0(session->peer_agent, other->peer_agent) == 0 &&
           g_strcmp0(channel_get_peer_certificate(session->first),
                     channel_get_peer_certificate(other->first)) == 0 &&
           g_strcmp0(channel_get_peer_name(session->first), channel_get_peer_name(other->first)) ==
               0;
}

void session_set_patience(Session *session, guint patience_ms)
{
    lock_guard(&session->lock);

    session->patience_ms = patience_ms;
    channel_set_patience(session->first, patience_ms);
    for (guint i = 0; i < session->joined_count; i++)
        channel_set_patience(session->joined[i], patience_ms);
}

/* The channel that *traffic* went by from its join on; NULL where there is none, or this side is the
 * one that connects. */
static Channel *find_broken(Session *session, TrafficClass traffic)
{
    lock_guard(&session->lock);
    Channel *channel = atomic_load(&session->by_class[traffic]);

    if (!session->reconnects || session->connects || session->patience_ms == 0 ||
        session->closing || session->failure ||
        (traffic != TRAFFIC_CONTROL && channel == session->first))
        return NULL;
    return channel;
}

guint session_count_breaks(Session *session)
{
    Channel *channels[TRAFFIC_CLASSES + 1];
    guint count = list_channels(session, channels);
    guint breaks = 0;

    for (guint i = 0; i < count; i++)
        breaks += channel_get_breaks(channels[i]);
    return breaks;
}

gboolean session_is_broken(Session *session)
{
    Channel *channels[TRAFFIC_CLASSES + 1];
    guint count = list_channels(session, channels);

    for (guint i = 0; i < count; i++)
        if (channel_is_broken(channels[i]))
            return TRUE;
    return FALSE;
}

/* ---- joining ---- */

void session_set_transaction(Session *session, const char *transaction)
{
    lock_guard(&session->lock);

    g_free(session->transaction);
    session->transaction = g_strdup(transaction);
}

gboolean session_has_transaction(Session *session, const char *transaction)
{
    lock_guard(&session->lock);

    return !session->closing && !session->failure && session->transaction &&
           strcmp(session->transaction, transaction) == 0;
}

void session_refuse(GError **error)
{
    error_set(error, VMFERRY_ERROR_REFUSED, "there is nothing here that this peer could join");
}

static gboolean is_same_peer(Session *session, Channel *channel, const HelloMessage *hello)
{
    return g_strcmp0(channel_get_peer_certificate(channel),
                     channel_get_peer_certificate(session->first)) == 0 &&
           g_strcmp0(channel_get_peer_name(channel), channel_get_peer_name(session->first)) == 0 &&
           g_strcmp0(hello->agent, session->peer_agent) == 0 &&
           g_strcmp0(hello->instance, session->peer_instance) == 0;
}

static gboolean has_token(const Session *session, const HelloMessage *hello)
{
    return session->token && strlen(session->token) == HELLO_TOKEN_DIGITS && hello->token &&
           strlen(hello->token) == HELLO_TOKEN_DIGITS &&
           CRYPTO_memcmp(session->token, hello->token, HELLO_TOKEN_DIGITS) == 0;
}

/* With the lock held. */
static gboolean check_free(Session *session, TrafficClass traffic, GError **error)
{
    if (session->failure || session->closing)
        error_set(error, VMFERRY_ERROR_DISCONNECTED, "the session has ended");
    else if (traffic == TRAFFIC_CONTROL)
        error_set(error, VMFERRY_ERROR_INVALID, "control stays on the first channel");
    else if (atomic_load(&session->by_class[traffic]) != session->first)
        error_set(error, VMFERRY_ERROR_EXISTS, "there is a channel for %s",
                  traffic_class_name(traffic));
    else
        return TRUE;
    return FALSE;
}

/* Takes the channel where it can. */
static gboolean attach(Session *session, Channel *channel, TrafficClass traffic, GError **error)
{
    gboolean reconnects;

    channel_share_rate(channel, session->first);
    channel_set_unattended(channel);
    g_mutex_lock(&session->lock);
    if (!check_free(session, traffic, error)) {
        g_mutex_unlock(&session->lock);
        return FALSE;
    }
    session->joined[session->joined_count++] = channel;
    atomic_store(&session->by_class[traffic], channel);
    reconnects = session->reconnects;
    g_cond_broadcast(&session->changed);
    g_mutex_unlock(&session->lock);
    if (reconnects)
        let_reconnect(session, channel, traffic);
    /* From now on they live and die together. */
    channel_watch_failure(session->first, on_channel_failed, session);
    channel_watch_failure(channel, on_channel_failed, session);
    return TRUE;
}

/* A name may lead to another host by now. */
static gboolean check_same_peer(Session *session, Channel *channel, const HelloMessage *peer,
                                GError **error)
{
    if (is_same_peer(session, channel, peer))
        return TRUE;
    error_set(error, VMFERRY_ERROR_REFUSED,
              "%s is another agent than the one that this session began with",
              channel_get_peer_name(channel));
    return FALSE;
}

gboolean session_join(Session *session, TrafficClass traffic, const ChannelOptions *options,
                      int timeout_ms, GCancellable *cancellable, GError **error)
{
    g_autoptr(Channel) channel = NULL;
    HelloMessage peer = {0};
    gboolean done = FALSE;
    Frame frame;

    if (!session->token || !*session->token || !session->transaction) {
        error_set(error, VMFERRY_ERROR_UNSUPPORTED, "%s takes no further channels",
                  session_get_peer_name(session));
        return FALSE;
    }
    channel = channel_connect(session->address, options, timeout_ms, cancellable, error);
    if (channel &&
        handshake_join(channel, session->transaction, traffic, session->token, &peer, error))
        done = check_same_peer(session, channel, &peer, error) &&
               channel_expect(channel, FRAME_ACCEPTED, ACCEPTED_TIMEOUT_MS, &frame, error) &&
               attach(session, channel, traffic, error);
    hello_message_clear(&peer);
    if (done)
        g_steal_pointer(&channel);
    else
        g_prefix_error(error, "a channel for %s: ", traffic_class_name(traffic));
    return done;
}

static gboolean check_hello(Session *session, Channel *channel, const HelloMessage *hello,
                            TrafficClass *ret_traffic, GError **error)
{
    if (!has_token(session, hello) || !is_same_peer(session, channel, hello) ||
        !session_has_transaction(session, hello->transaction)) {
        session_refuse(error);
        return FALSE;
    }
    if (traffic_class_from_name(hello->traffic, ret_traffic))
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "\"%s\" is not a valid class of traffic",
              hello->traffic ? hello->traffic : "");
    return FALSE;
}

gboolean session_readmit(Session *session, Channel *channel, const HelloMessage *hello,
                         GError **error)
{
    uint64_t received;
    TrafficClass traffic;
    Channel *broken;
    Frame frame;

    if (!check_hello(session, channel, hello, &traffic, error))
        return FALSE;
    broken = find_broken(session, traffic);
    if (!broken) {
        session_refuse(error);
        return FALSE;
    }
    if (!channel_expect(channel, FRAME_RECONNECT, RECONNECT_TIMEOUT_MS, &frame, error) ||
        !received_frame_decode(&frame, &received, error))
        return FALSE;
    channel_take_over(broken, channel, received);
    return TRUE;
}

gboolean session_admit(Session *session, Channel *channel, const HelloMessage *hello,
                       GError **error)
{
    TrafficClass traffic;
    gboolean is_free;

    if (!check_hello(session, channel, hello, &traffic, error))
        return FALSE;
    g_mutex_lock(&session->lock);
    is_free = check_free(session, traffic, error);
    g_mutex_unlock(&session->lock);
    /* Nothing may be sent on it before this. */
    return is_free && channel_send_bytes(channel, FRAME_ACCEPTED, NULL, 0, error) &&
           attach(session, channel, traffic, error);
}

gboolean session_await_channel(Session *session, TrafficClass traffic, int timeout_ms,
                               GError **error)
{
    gint64 end = g_get_monotonic_time() + (gint64)timeout_ms * 1000;
    lock_guard(&session->lock);

    while (atomic_load(&session->by_class[traffic]) == session->first) {
        if (session->failure || session->closing)
            return check_free(session, traffic, error);
        if (!g_cond_wait_until(&session->changed, &session->lock, end)) {
            error_set(error, VMFERRY_ERROR_TIMEOUT, "%s: no channel for %s in time",
                      session_get_peer_name(session), traffic_class_name(traffic));
            return FALSE;
        }
    }
    return TRUE;
}

/* ---- frames ---- */

Channel *session_get_channel(Session *session, TrafficClass traffic)
{
    return atomic_load(&session->by_class[traffic]);
}

gboolean session_send_as(Session *session, TrafficClass traffic, FrameType type,
                         const struct iovec *payload, int count, GError **error)
{
    return channel_send_as(session_get_channel(session, traffic), traffic, type, payload, count,
                           error);
}

gboolean session_send(Session *session, FrameType type, const struct iovec *payload, int count,
                      GError **error)
{
    return session_send_as(session, frame_type_traffic(type), type, payload, count, error);
}

gboolean session_send_bytes(Session *session, FrameType type, const void *payload, size_t length,
                            GError **error)
{
    struct iovec piece = {(void *)payload, length};

    return session_send(session, type, &piece, length > 0 ? 1 : 0, error);
}

static gboolean may_come_by(Session *session, const Channel *channel, FrameType type)
{
    return channel == session->first || type == FRAME_ERROR || type == FRAME_ABORT ||
           frame_type_traffic(type) != TRAFFIC_CONTROL;
}

gboolean session_receive(Session *session, TrafficClass traffic, int timeout_ms, Frame *ret,
                         GError **error)
{
    Channel *channel = session_get_channel(session, traffic);
    Frame frame;

    if (!channel_receive(channel, timeout_ms, &frame, error))
        return FALSE;
    if (may_come_by(session, channel, frame.type)) {
        *ret = frame;
        return TRUE;
    }
    error_set(error, VMFERRY_ERROR_INVALID, "%s sent %s as %s", session_get_peer_name(session),
              frame_type_name(frame.type), traffic_class_name(traffic));
    return FALSE;
}

gboolean session_expect(Session *session, FrameType type, int timeout_ms, Frame *ret,
                        GError **error)
{
    return channel_expect(session_get_channel(session, frame_type_traffic(type)), type, timeout_ms,
                          ret, error);
}

void session_send_error(Session *session, const GError *cause)
{
    channel_send_error(session->first, cause);
}

void session_send_abort(Session *session, const GError *cause)
{
    channel_send_abort(session->first, cause);
}

/* All channels fail with the first one. */
void session_fail(Session *session, const GError *cause)
{
    channel_fail(session->first, g_error_copy(cause));
}

void session_error_from_frame(Session *session, const Frame *frame, GError **error)
{
    channel_error_from_frame(session->first, frame, error);
}

/* ---- facts ---- */

const char *session_get_peer_agent(Session *session)
{
    return session->peer_agent;
}

const char *session_get_peer_certificate(Session *session)
{
    return channel_get_peer_certificate(session->first);
}

const char *session_get_peer_name(Session *session)
{
    return channel_get_peer_name(session->first);
}

void session_set_rate(Session *session, uint64_t bytes_per_second)
{
    channel_set_rate(session->first, bytes_per_second);
}

static uint64_t add_up(Session *session, uint64_t (*count)(Channel *channel))
{
    Channel *channels[TRAFFIC_CLASSES + 1];
    guint number = list_channels(session, channels);
    uint64_t sum = 0;

    for (guint i = 0; i < number; i++)
        sum += count(channels[i]);
    return sum;
}

uint64_t session_get_sent_bytes(Session *session)
{
    return add_up(session, channel_get_sent_bytes);
}

uint64_t session_get_backlog_bytes(Session *session)
{
    return add_up(session, channel_get_backlog_bytes);
}
