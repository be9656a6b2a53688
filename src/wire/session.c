#include "wire/session.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "base/error.h"
#include "base/lock_guard.h"
#include "wire/session_private.h"

/* RECONNECT follows HELLO at once. */
#define RECONNECT_TIMEOUT_MS 5000

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

guint session_visit(Session *session, Channel *ret[SESSION_CHANNELS_MOST])
{
    guint count = 0;
    lock_guard(&session->lock);

    session->visitors++;
    ret[count++] = session->first;
    for (guint i = 0; i < session->joined_count; i++)
        ret[count++] = session->joined[i];
    for (guint i = 0; i < session->bulk_count; i++)
        ret[count++] = session->bulk[i];
    return count;
}

void session_end_visit(Session *session)
{
    lock_guard(&session->lock);

    session->visitors--;
    g_cond_broadcast(&session->changed);
}

/* What a channel is for, in messages. */
static const char *name_channel(Session *session, const Channel *channel)
{
    for (guint i = 0; i < TRAFFIC_CLASSES; i++)
        if (atomic_load(&session->by_class[i]) == channel)
            return traffic_class_name((TrafficClass)i);
    return "joined";
}

/* Notes the first failure; begins a visit then. */
static gboolean begin_failing(Session *session, const Channel *channel, const GError *cause)
{
    lock_guard(&session->lock);

    if (session->closing || session->failure)
        return FALSE;
    session->failure = g_error_copy(cause);
    if (channel != session->first)
        g_prefix_error(&session->failure, "the %s channel: ", name_channel(session, channel));
    session->visitors++;
    g_cond_broadcast(&session->changed);
    return TRUE;
}

void session_on_channel_failed(Channel *channel, const GError *cause, gboolean sending,
                               gpointer user)
{
    Session *session = user;
    Channel *channels[SESSION_CHANNELS_MOST];
    guint count;

    if (!begin_failing(session, channel, cause))
        return;
    count = session_visit(session, channels);
    for (guint i = 0; i < count; i++)
        if (channels[i] != channel || !sending)
            channel_fail(channels[i], g_error_copy(session->failure));
    session_end_visit(session);
    session_end_visit(session);
}

void session_shutdown(Session *session)
{
    Channel *channels[SESSION_CHANNELS_MOST];
    guint count;

    g_mutex_lock(&session->lock);
    session->closing = TRUE;
    g_cond_broadcast(&session->changed);
    g_mutex_unlock(&session->lock);
    count = session_visit(session, channels);
    for (guint i = 0; i < count; i++)
        channel_shutdown(channels[i]);
    session_end_visit(session);
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
    while (session->visitors > 0)
        g_cond_wait(&session->changed, &session->lock);
    g_mutex_unlock(&session->lock);
    /* A peer that sees a joined channel end has all of the first one. */
    channel_free(session->first);
    for (guint i = 0; i < session->joined_count; i++)
        channel_free(session->joined[i]);
    for (guint i = 0; i < session->bulk_count; i++)
        channel_free(session->bulk[i]);
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

static guint get_patience(Session *session)
{
    lock_guard(&session->lock);

    return session->patience_ms;
}

/* Without the lock: a sender that fails has its channel's send_lock, and takes the session's then.
 * What is read here stays as it is once the session reconnects, but for the patience. */
void session_let_reconnect(Session *session, Channel *channel, TrafficClass traffic, guint number)
{
    ChannelRedial redial = {.address = session->address,
                            .transaction = session->transaction,
                            .token = session->token,
                            .agent = session->peer_agent,
                            .instance = session->peer_instance,
                            .traffic = traffic,
                            .number = number,
                            .options = session->options};

    channel_allow_reconnect(channel, session->connects ? &redial : NULL, get_patience(session));
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
    session_let_reconnect(session, session->first, TRAFFIC_CONTROL, 0);
    for (guint i = 1; i < TRAFFIC_CLASSES; i++)
        if (atomic_load(&session->by_class[i]) != session->first)
            session_let_reconnect(session, atomic_load(&session->by_class[i]), (TrafficClass)i, 0);
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
    for (guint i = 0; i < session->bulk_count; i++)
        channel_set_patience(session->bulk[i], patience_ms);
}

/* With the lock held: the channel that *traffic* went by from its join on; NULL where there is none, or
 * this side is the one that connects. */
static Channel *find_broken(Session *session, TrafficClass traffic, guint number)
{
    Channel *channel = number ? session_find_bulk(session, number)
                              : (Channel *)atomic_load(&session->by_class[traffic]);

    if (!session->reconnects || session->connects || session->patience_ms == 0 ||
        session->closing || session->failure ||
        (traffic != TRAFFIC_CONTROL && channel == session->first))
        return NULL;
    return channel;
}

guint session_count_breaks(Session *session)
{
    lock_guard(&session->lock);
    guint breaks = session->ended_breaks + channel_get_breaks(session->first);

    for (guint i = 0; i < session->joined_count; i++)
        breaks += channel_get_breaks(session->joined[i]);
    for (guint i = 0; i < session->bulk_count; i++)
        breaks += channel_get_breaks(session->bulk[i]);
    return breaks;
}

guint session_get_segment_bytes(Session *session)
{
    Channel *channels[SESSION_CHANNELS_MOST];
    guint count = session_visit(session, channels);
    guint least = 0;

    for (guint i = 0; i < count; i++) {
        guint bytes = channel_get_segment_bytes(channels[i]);

        if (bytes > 0 && (least == 0 || bytes < least))
            least = bytes;
    }
    session_end_visit(session);
    return least;
}

/* Without one of the further channels for bulk it goes on. */
gboolean session_is_broken(Session *session)
{
    lock_guard(&session->lock);
    gboolean broken = channel_is_broken(session->first);

    for (guint i = 0; i < session->joined_count; i++)
        broken |= channel_is_broken(session->joined[i]);
    return broken;
}

void session_renew(Session *session, const GError *cause)
{
    Channel *channels[SESSION_CHANNELS_MOST];
    guint count = session_visit(session, channels);

    for (guint i = 0; i < count; i++)
        channel_renew(channels[i], cause);
    session_end_visit(session);
}

gboolean session_is_connected(Session *session)
{
    lock_guard(&session->lock);
    gboolean connected = !channel_is_broken(session->first) && channel_check(session->first, NULL);

    for (guint i = 0; i < session->joined_count; i++)
        connected = connected && !channel_is_broken(session->joined[i]) &&
                    channel_check(session->joined[i], NULL);
    return connected;
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

gboolean session_check_alive(Session *session, GError **error)
{
    if (!session->failure && !session->closing)
        return TRUE;
    error_set(error, VMFERRY_ERROR_DISCONNECTED, "the session has ended");
    return FALSE;
}

/* With the lock held. */
static gboolean check_free(Session *session, TrafficClass traffic, GError **error)
{
    if (!session_check_alive(session, error))
        return FALSE;
    if (traffic == TRAFFIC_CONTROL)
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
        session_let_reconnect(session, channel, traffic, 0);
    /* From now on they live and die together. */
    channel_watch_failure(session->first, session_on_channel_failed, session);
    channel_watch_failure(channel, session_on_channel_failed, session);
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

/* A peer that lives and does not answer. */
static void on_cancelled(GCancellable *cancellable, gpointer channel)
{
    channel_shutdown(channel);
}

static gboolean join(Session *session, Channel *channel, TrafficClass traffic, guint number,
                     HelloMessage *ret_peer, GError **error)
{
    Frame frame;

    return handshake_join(channel, session->transaction, traffic, number, session->token, ret_peer,
                          error) &&
           check_same_peer(session, channel, ret_peer, error) &&
           channel_expect(channel, FRAME_ACCEPTED, ACCEPTED_TIMEOUT_MS, &frame, error);
}

Channel *session_connect_further(Session *session, TrafficClass traffic, guint number,
                                 const ChannelOptions *options, int timeout_ms,
                                 GCancellable *cancellable, GError **error)
{
    g_autoptr(Channel) channel = NULL;
    HelloMessage peer = {0};
    gulong handler;
    gboolean done;

    if (!session->token || !*session->token || !session->transaction) {
        error_set(error, VMFERRY_ERROR_UNSUPPORTED, "%s takes no further channels",
                  session_get_peer_name(session));
        return NULL;
    }
    channel = channel_connect(session->address, options, timeout_ms, cancellable, error);
    if (!channel)
        return NULL;
    handler = cancellable
                  ? g_cancellable_connect(cancellable, G_CALLBACK(on_cancelled), channel, NULL)
                  : 0;
    done = join(session, channel, traffic, number, &peer, error);
    if (handler)
        g_cancellable_disconnect(cancellable, handler);
    hello_message_clear(&peer);
    return done ? g_steal_pointer(&channel) : NULL;
}

gboolean session_join(Session *session, TrafficClass traffic, const ChannelOptions *options,
                      int timeout_ms, GCancellable *cancellable, GError **error)
{
    g_autoptr(Channel) channel =
        session_connect_further(session, traffic, 0, options, timeout_ms, cancellable, error);

    if (channel && attach(session, channel, traffic, error)) {
        g_steal_pointer(&channel);
        return TRUE;
    }
    g_prefix_error(error, "a channel for %s: ", traffic_class_name(traffic));
    return FALSE;
}

static gboolean check_hello(Session *session, Channel *channel, const HelloMessage *hello,
                            TrafficClass *ret_traffic, GError **error)
{
    if (!has_token(session, hello) || !is_same_peer(session, channel, hello) ||
        !session_has_transaction(session, hello->transaction)) {
        session_refuse(error);
        return FALSE;
    }
    if (!traffic_class_from_name(hello->traffic, ret_traffic)) {
        error_set(error, VMFERRY_ERROR_INVALID, "\"%s\" is not a valid class of traffic",
                  hello->traffic ? hello->traffic : "");
        return FALSE;
    }
    if (hello->number == 0 || *ret_traffic == TRAFFIC_BULK)
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "there are further channels for bulk only, not for %s",
              hello->traffic);
    return FALSE;
}

gboolean session_await_return(Session *session, Channel *channel, const HelloMessage *hello,
                              SessionReturn *ret, GError **error)
{
    TrafficClass traffic;
    gboolean taken;
    Frame frame;

    if (!check_hello(session, channel, hello, &traffic, error))
        return FALSE;
    g_mutex_lock(&session->lock);
    ret->broken = find_broken(session, traffic, hello->number);
    session->visitors += ret->broken != NULL;
    g_mutex_unlock(&session->lock);
    if (!ret->broken) {
        session_refuse(error);
        return FALSE;
    }
    taken = channel_expect(channel, FRAME_RECONNECT, RECONNECT_TIMEOUT_MS, &frame, error) &&
            received_frame_decode(&frame, &ret->received, error);
    if (!taken)
        session_end_visit(session);
    return taken;
}

void session_readmit(Session *session, const SessionReturn *returned, Channel *channel)
{
    channel_take_over(returned->broken, channel, returned->received);
    session_end_visit(session);
}

gboolean session_admit(Session *session, Channel *channel, const HelloMessage *hello,
                       GError **error)
{
    TrafficClass traffic;
    gboolean is_free;

    if (!check_hello(session, channel, hello, &traffic, error))
        return FALSE;
    if (hello->number > 0)
        return session_admit_bulk(session, channel, hello->number, error);
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

void session_prefer_final_error(Session *session, GError **error)
{
    g_autoptr(GError) final_error = NULL;

    if (!error || !channel_check_open(session->first, NULL) ||
        !channel_find_final_error(session->first, &final_error))
        return;
    g_clear_error(error);
    *error = g_steal_pointer(&final_error);
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

/* The counts of channels take their own locks only. */
static uint64_t add_up(Session *session, uint64_t (*count)(Channel *channel))
{
    uint64_t sum = count(session->first);

    for (guint i = 0; i < session->joined_count; i++)
        sum += count(session->joined[i]);
    for (guint i = 0; i < session->bulk_count; i++)
        sum += count(session->bulk[i]);
    return sum;
}

uint64_t session_get_sent_bytes(Session *session)
{
    lock_guard(&session->lock);

    return session->ended_sent + add_up(session, channel_get_sent_bytes);
}

uint64_t session_get_backlog_bytes(Session *session)
{
    lock_guard(&session->lock);

    return add_up(session, channel_get_backlog_bytes);
}
