#include "agent/peers.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "agent/admission.h"
#include "agent/images.h"
#include "agent/incoming.h"
#include "agent/listener.h"
#include "agent/page_stores.h"
#include "agent/postcopy.h"
#include "agent/standby.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/lock_guard.h"
#include "migrate/path_probe.h"
#include "wire/session.h"

#define RESOLVE_TIMEOUT_MS 5000
/* Until a peer has read what was said last, and closes. */
#define DRAIN_MS 2000
/* Lines about peers that were turned away, at most. */
#define LINES_MOST 10
#define LINES_PERIOD_US (60 * G_TIME_SPAN_SECOND)

struct Peers {
    AgentContext *context;
    Admission *admission;
    Listener *listener;   /* NULL: none, or not any more */
    GMutex lock;          /* protects all below */
    GHashTable *channels; /* those being served outside of a session, to cut them */
    GHashTable *sessions; /* those being served, the same, and to join them */
    gint64 lines_since;
    guint lines, lines_left_out;
};

typedef struct {
    Peers *peers;
    AdmissionPlace *place; /* NULL: this agent itself (peers_dial()) */
    int fd;
} Connection;

/* One that has been accepted. */
typedef struct {
    Peers *peers;
    AdmissionPlace *place;
    Channel *channel; /* NULL once a session has it */
    char token[HELLO_TOKEN_DIGITS + 1];
} Peer;

/* This agent itself needs no leave. */
static gboolean pass(const Peer *peer, AdmittedKind kind, GError **error)
{
    return !peer->place || admission_pass(peer->place, kind, error);
}

gboolean peers_is_allowed(char **allow, const char *name)
{
    if (!allow || !allow[0])
        return TRUE;
    for (char **one = allow; *one; one++)
        if (g_ascii_strcasecmp(*one, name) == 0)
            return TRUE;
    return FALSE;
}

static Session *find_session(Peers *peers, const char *transaction)
{
    lock_guard(&peers->lock);
    GHashTableIter iter;
    gpointer session;

    g_hash_table_iter_init(&iter, peers->sessions);
    while (g_hash_table_iter_next(&iter, &session, NULL))
        if (session_has_transaction(session, transaction))
            return session_ref(session);
    return NULL;
}

/* Who asks what became of a move has no use for its session any more: one that has lost its connection is not
 * to wait for another one, with the guest paused over there. */
static void stop_waiting(Peers *peers, Channel *channel, const char *agent, const char *transaction)
{
    g_autoptr(Session) session = find_session(peers, transaction);

    if (session && g_strcmp0(session_get_peer_agent(session), agent) == 0 &&
        g_strcmp0(session_get_peer_certificate(session), channel_get_peer_certificate(channel)) ==
            0)
        session_set_patience(session, 0);
}

static gboolean answer_question(AgentContext *context, Channel *channel, const char *agent,
                                GError **error)
{
    g_auto(ResolveMessage) question = {0};
    g_autofree char *answer = NULL;
    OutcomeMessage outcome;
    Frame frame;

    if (!channel_expect(channel, FRAME_RESOLVE, RESOLVE_TIMEOUT_MS, &frame, error) ||
        !resolve_message_decode((const char *)frame.payload, frame.length, &question, error))
        return FALSE;
    stop_waiting(context->peers, channel, agent, question.transaction);
    outcome = transaction_log_resolve(context->transactions, &question);
    answer = outcome_message_encode(question.transaction, &outcome);
    log_info("%s asked for transaction %s: %s", channel_get_peer_name(channel),
             question.transaction, transaction_outcome_name(outcome.outcome));
    return channel_send_bytes(channel, FRAME_OUTCOME, answer, strlen(answer), error);
}

/* FALSE where the agent is being stopped. */
static gboolean register_peer(Peers *peers, Channel *channel)
{
    lock_guard(&peers->lock);

    if (agent_context_is_stopping(peers->context))
        return FALSE;
    g_hash_table_add(peers->channels, channel);
    return TRUE;
}

static void unregister_peer(Peers *peers, Channel *channel)
{
    lock_guard(&peers->lock);

    g_hash_table_remove(peers->channels, channel);
}

/* The session takes the peer's channel.  NULL where the agent is being stopped. */
static Session *begin_session(Peer *peer, const HelloMessage *hello)
{
    Peers *peers = peer->peers;
    Session *session;
    lock_guard(&peers->lock);

    g_hash_table_remove(peers->channels, peer->channel);
    if (agent_context_is_stopping(peers->context))
        return NULL;
    session = session_new(g_steal_pointer(&peer->channel), hello, peer->token);
    g_hash_table_add(peers->sessions, session);
    return session;
}

static void end_session(Peers *peers, Session *session)
{
    g_mutex_lock(&peers->lock);
    g_hash_table_remove(peers->sessions, session);
    g_mutex_unlock(&peers->lock);
    session_unref(session);
}

/* A guest that comes, or one that this host is to stand by for. */
static gboolean serve_session(Peer *peer, const HelloMessage *hello,
                              gboolean (*serve)(AgentContext *, Session *, GError **),
                              GError **error)
{
    Session *session;
    gboolean done;

    if (!pass(peer, ADMITTED_MOVE, error)) {
        channel_send_error(peer->channel, *error);
        return FALSE;
    }
    session = begin_session(peer, hello);
    if (!session) {
        error_set(error, VMFERRY_ERROR_CANCELLED, "the agent here is being stopped");
        return FALSE;
    }
    done = serve(peer->peers->context, session, error);
    end_session(peer->peers, session);
    return done;
}

static Session *find_for(Peer *peer, const HelloMessage *hello, GError **error)
{
    Session *session = NULL;

    if (!pass(peer, ADMITTED_QUESTION, error))
        return NULL;
    session = find_session(peer->peers, hello->transaction);
    if (!session)
        session_refuse(error);
    return session;
}

/* The session keeps the channel; its own admission was that of the move. */
static gboolean serve_channel(Peer *peer, const HelloMessage *hello, GError **error)
{
    g_autoptr(Session) session = find_for(peer, hello, error);

    if (!session)
        return FALSE;
    unregister_peer(peer->peers, peer->channel);
    if (!session_admit(session, peer->channel, hello, error))
        return FALSE;
    peer->channel = NULL;
    return TRUE;
}

/* The same; as long as it waits for the peer, it is among those that a stop cuts. */
static gboolean serve_return(Peer *peer, const HelloMessage *hello, GError **error)
{
    g_autoptr(Session) session = find_for(peer, hello, error);
    SessionReturn returned;

    if (!session || !session_await_return(session, peer->channel, hello, &returned, error))
        return FALSE;
    unregister_peer(peer->peers, peer->channel);
    session_readmit(session, &returned, g_steal_pointer(&peer->channel));
    return TRUE;
}

/* A source whose connection broke brings the rest of a guest's memory.  From here on there is no way
 * back for it: whoever is given its pages has the guest.  So its commit must not have been taken
 * back. */
static gboolean serve_pages(Peer *peer, PostcopyDestination *split, const HelloMessage *hello,
                            const char *transaction, GError **error)
{
    Session *session;
    gboolean done;

    if (!transaction_log_settle(peer->peers->context->transactions, transaction)) {
        error_set(error, VMFERRY_ERROR_BUSY, "the guest was not started here, and is being ended");
        return FALSE;
    }
    session = begin_session(peer, hello);
    if (!session) {
        error_set(error, VMFERRY_ERROR_CANCELLED, "the agent here is being stopped");
        return FALSE;
    }
    session_set_transaction(session, transaction);
    done = postcopy_destination_serve(split, session, NULL, error);
    end_session(peer->peers, session);
    return done;
}

/* Whoever protected the guest waits to hear that we know of its end, and may still be saying so. */
static gboolean tell_whole(Channel *channel, GError **error)
{
    uint64_t end = clock_now_ns() + (uint64_t)DRAIN_MS * 1000000;
    Frame frame;

    if (!channel_send_bytes(channel, FRAME_COMPLETE, NULL, 0, error) ||
        !channel_send_bytes(channel, FRAME_ENDED, NULL, 0, error))
        return FALSE;
    while (clock_now_ns() < end && channel_receive(channel, DRAIN_MS, &frame, NULL))
        ;
    return TRUE;
}

static gboolean serve_resumed(Peer *peer, const HelloMessage *hello, GError **error)
{
    g_auto(ResolveMessage) question = {0};
    g_autoptr(PostcopyDestination) split = NULL;
    gboolean complete;
    Frame frame;

    if (!pass(peer, ADMITTED_MOVE, error) ||
        !channel_expect(peer->channel, FRAME_RESUME, RESOLVE_TIMEOUT_MS, &frame, error) ||
        !resolve_message_decode((const char *)frame.payload, frame.length, &question, error))
        return FALSE;
    split = postcopy_find(peer->peers->context, &question, hello->agent, &complete, error);
    if (split)
        return serve_pages(peer, split, hello, question.transaction, error);
    return complete && tell_whole(peer->channel, error);
}

/* A source that wants its guest's pages to be kept here, or the destination that fetches them. */
static gboolean serve_store(Peer *peer, const HelloMessage *hello,
                            gboolean (*serve)(AgentContext *, Session *, const char *, GError **),
                            GError **error)
{
    Session *session;
    gboolean done;

    if (!pass(peer, ADMITTED_MOVE, error))
        return FALSE;
    session = begin_session(peer, hello);
    if (!session) {
        error_set(error, VMFERRY_ERROR_CANCELLED, "the agent here is being stopped");
        return FALSE;
    }
    done = serve(peer->peers->context, session, hello->agent, error);
    end_session(peer->peers, session);
    return done;
}

static gboolean serve_purpose(Peer *peer, const HelloMessage *hello, GError **error)
{
    const char *purpose = hello->purpose;

    if (g_strcmp0(purpose, "migrate") == 0)
        return serve_session(peer, hello, incoming_serve, error);
    if (g_strcmp0(purpose, "protect") == 0)
        return serve_session(peer, hello, standby_receive, error);
    if (g_strcmp0(purpose, "save") == 0)
        return serve_session(peer, hello, peer->place ? images_receive : images_receive_own, error);
    if (g_strcmp0(purpose, "join") == 0)
        return serve_channel(peer, hello, error);
    if (g_strcmp0(purpose, "reconnect") == 0)
        return serve_return(peer, hello, error);
    if (g_strcmp0(purpose, "resume") == 0)
        return serve_resumed(peer, hello, error);
    if (g_strcmp0(purpose, "store") == 0)
        return serve_store(peer, hello, page_stores_fill, error);
    if (g_strcmp0(purpose, "fetch") == 0)
        return serve_store(peer, hello, page_stores_serve, error);
    if (g_strcmp0(purpose, "resolve") == 0)
        return pass(peer, ADMITTED_QUESTION, error) &&
               answer_question(peer->peers->context, peer->channel, hello->agent, error);
    if (g_strcmp0(purpose, "witness") == 0)
        return pass(peer, ADMITTED_WITNESS, error) &&
               witness_serve(peer->peers->context->witness, peer->channel, hello, error);
    if (g_strcmp0(purpose, "measure") == 0)
        return pass(peer, ADMITTED_MEASURING, error) && path_probe_serve(peer->channel, error);
    if (g_strcmp0(purpose, "ping") == 0)
        return TRUE;
    error_set(error, VMFERRY_ERROR_UNSUPPORTED, "purpose \"%.32s\" is not known here",
              purpose ? purpose : "");
    return FALSE;
}

static gboolean serve_peer(Peer *peer, GError **error)
{
    AgentContext *context = peer->peers->context;
    HelloMessage hello = {0};
    guint version;
    gboolean done;

    if (peer->place &&
        !peers_is_allowed(context->settings->allow, channel_get_peer_name(peer->channel))) {
        error_set(error, VMFERRY_ERROR_REFUSED,
                  "%s is not on the allow list of %s (`allow` in its agent.conf)",
                  channel_get_peer_name(peer->channel), context->host_name);
        channel_send_error(peer->channel, *error);
        return FALSE;
    }
    if (!session_make_token(peer->token, error) ||
        !handshake_accept(peer->channel, peer->token, &hello, &version, error))
        return FALSE;
    done = serve_purpose(peer, &hello, error);
    if (!done && peer->channel && g_strcmp0(hello.purpose, "migrate") != 0)
        channel_send_error(peer->channel, *error);
    hello_message_clear(&hello);
    return done;
}

/* Uninvited peers must not fill the log: FALSE where enough was logged. */
static gboolean may_log(Peers *peers, guint *ret_left_out)
{
    lock_guard(&peers->lock);
    gint64 now = g_get_monotonic_time();

    *ret_left_out = 0;
    if (peers->lines_since == 0 || now - peers->lines_since > LINES_PERIOD_US) {
        *ret_left_out = peers->lines_left_out;
        peers->lines_since = now;
        peers->lines = peers->lines_left_out = 0;
    }
    if (peers->lines < LINES_MOST) {
        peers->lines++;
        return TRUE;
    }
    peers->lines_left_out++;
    return FALSE;
}

/* Of moves that fail there is an event; who was turned away is logged here. */
static void log_failure(Peers *peers, const char *name, const GError *error)
{
    guint left_out;

    if (name && !error_is(error, VMFERRY_ERROR_REFUSED)) {
        log_debug("peer %s: %s", name, error->message);
        return;
    }
    if (!may_log(peers, &left_out))
        return;
    if (left_out > 0)
        log_info("peers: %u more were turned away or cut", left_out);
    log_info("peer %s: %s", name ? name : "(unknown)", error->message);
}

static gpointer connection_thread(gpointer data)
{
    g_autofree Connection *connection = data;
    Peer peer = {.peers = connection->peers, .place = connection->place};
    g_autoptr(GError) error = NULL;
    g_autofree char *name = NULL;
    ChannelOptions options = {.agent = peer.peers->context->agent_id};

    if (!peer.place || agent_context_get_channel_options(peer.peers->context, &options, &error))
        peer.channel = channel_accept(fd_steal(&connection->fd), &options, &error);
    if (peer.channel)
        name = g_strdup(channel_get_peer_name(peer.channel));
    if (peer.channel && register_peer(peer.peers, peer.channel)) {
        serve_peer(&peer, &error);
        unregister_peer(peer.peers, peer.channel);
    }
    if (error && peer.place && admission_was_cut(peer.place)) {
        g_clear_error(&error);
        error_set(&error, VMFERRY_ERROR_REFUSED,
                  "said nothing for too long while others came; it was cut");
    }
    if (error)
        log_failure(peer.peers, name, error);
    channel_free(peer.channel);
    fd_close(&connection->fd);
    if (peer.place)
        admission_leave(peer.place);
    return NULL;
}

static void serve(int taken, const struct sockaddr *address, gpointer user)
{
    Peers *peers = user;
    autofd int fd = taken;
    g_autoptr(GError) error = NULL;
    AdmissionPlace *place =
        listener_may_take(fd) ? admission_enter(peers->admission, fd, address) : NULL;
    Connection *connection;

    if (!place) {
        log_debug("too many connections, one is closed");
        return;
    }
    connection = g_new(Connection, 1);
    *connection = (Connection){peers, place, fd};
    if (agent_context_spawn(peers->context, "peer", connection_thread, connection, &error)) {
        fd_steal(&fd);
        return;
    }
    log_debug("a connection is closed: %s", error->message);
    admission_leave(place);
    g_free(connection);
}

int peers_dial(gpointer user, GError **error)
{
    AgentContext *context = user;
    Connection *connection;
    int pair[2];

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0) {
        error_set_errno(error, errno, "socketpair");
        return -1;
    }
    connection = g_new(Connection, 1);
    *connection = (Connection){context->peers, NULL, pair[1]};
    if (agent_context_spawn(context, "peer", connection_thread, connection, error))
        return pair[0];
    fd_close(&pair[0]);
    fd_close(&pair[1]);
    g_free(connection);
    return -1;
}

static gboolean start_listening(Peers *peers, GError **error)
{
    AgentContext *context = peers->context;
    ChannelOptions options;

    if (!agent_context_get_channel_options(context, &options, error))
        return FALSE;
    peers->listener = listener_new(context->main, context->settings->listen, CHANNEL_DEFAULT_PORT,
                                   serve, peers, error);
    if (!peers->listener)
        return FALSE;
    context->listening = listener_describe(peers->listener);
    return TRUE;
}

Peers *peers_new(AgentContext *context, GError **error)
{
    Peers *peers = g_new0(Peers, 1);

    peers->context = context;
    context->peers = peers;
    g_mutex_init(&peers->lock);
    peers->admission = admission_new();
    peers->channels = g_hash_table_new(NULL, NULL);
    peers->sessions = g_hash_table_new(NULL, NULL);
    if (!g_str_equal(context->settings->listen, "none") && !start_listening(peers, error)) {
        peers_free(peers);
        return NULL;
    }
    return peers;
}

void peers_stop(Peers *peers)
{
    GHashTableIter iter;
    gpointer channel, session;

    g_clear_pointer(&peers->listener, listener_free);
    g_mutex_lock(&peers->lock);
    g_hash_table_iter_init(&iter, peers->channels);
    while (g_hash_table_iter_next(&iter, &channel, NULL))
        channel_shutdown(channel);
    g_hash_table_iter_init(&iter, peers->sessions);
    while (g_hash_table_iter_next(&iter, &session, NULL))
        session_shutdown(session);
    g_mutex_unlock(&peers->lock);
}

void peers_free(Peers *peers)
{
    if (!peers)
        return;
    peers_stop(peers);
    peers->context->peers = NULL;
    g_hash_table_unref(peers->channels);
    g_hash_table_unref(peers->sessions);
    admission_free(peers->admission);
    g_mutex_clear(&peers->lock);
    g_free(peers);
}
