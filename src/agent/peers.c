#include "agent/peers.h"

#include <errno.h>
#include <glib-unix.h>
#include <netdb.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>

#include "agent/incoming.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/lock_guard.h"
#include "wire/messages.h"

#define RESOLVE_TIMEOUT_MS 5000
#define LISTEN_BACKLOG 16

struct Peers {
    AgentContext *context;
    ChannelOptions options;
    int fd;
    GSource *source;
    GMutex lock;          /* protects all below */
    GHashTable *channels; /* those being served, to cut them */
    guint count;
};

typedef struct {
    Peers *peers;
    int fd;
} Connection;

gboolean peers_is_allowed(char **allow, const char *name)
{
    if (!allow || !allow[0])
        return TRUE;
    for (char **one = allow; *one; one++)
        if (g_ascii_strcasecmp(*one, name) == 0)
            return TRUE;
    return FALSE;
}

static gboolean answer_question(AgentContext *context, Channel *channel, GError **error)
{
    g_autofree char *transaction = NULL;
    g_autofree char *answer = NULL;
    TransactionOutcome outcome;
    Frame frame;

    if (!channel_expect(channel, FRAME_RESOLVE, RESOLVE_TIMEOUT_MS, &frame, error) ||
        !resolve_message_decode((const char *)frame.payload, frame.length, &transaction, error))
        return FALSE;
    outcome = transaction_log_resolve(context->transactions, transaction);
    answer = outcome_message_encode(transaction, outcome);
    log_info("%s asked for transaction %s: %s", channel_get_peer_name(channel), transaction,
             transaction_outcome_name(outcome));
    return channel_send_bytes(channel, FRAME_OUTCOME, answer, strlen(answer), error);
}

static gboolean serve_purpose(AgentContext *context, Channel *channel, const char *purpose,
                              GError **error)
{
    if (g_strcmp0(purpose, "migrate") == 0)
        return incoming_serve(context, channel, error);
    if (g_strcmp0(purpose, "resolve") == 0)
        return answer_question(context, channel, error);
    if (g_strcmp0(purpose, "ping") == 0)
        return TRUE;
    error_set(error, VMFERRY_ERROR_UNSUPPORTED, "purpose \"%.32s\" is not known here",
              purpose ? purpose : "");
    return FALSE;
}

static gboolean serve_channel(AgentContext *context, Channel *channel, GError **error)
{
    HelloMessage hello = {0};
    guint version;
    gboolean done;

    if (!peers_is_allowed(context->settings->allow, channel_get_peer_name(channel))) {
        error_set(error, VMFERRY_ERROR_REFUSED,
                  "%s is not on the allow list of %s (`allow` in its agent.conf)",
                  channel_get_peer_name(channel), context->host_name);
        channel_send_error(channel, *error);
        return FALSE;
    }
    if (!handshake_accept(channel, &hello, &version, error))
        return FALSE;
    done = serve_purpose(context, channel, hello.purpose, error);
    if (!done && g_strcmp0(hello.purpose, "migrate") != 0)
        channel_send_error(channel, *error);
    hello_message_clear(&hello);
    return done;
}

/* FALSE where the agent is being stopped. */
static gboolean enlist(Peers *peers, Channel *channel)
{
    lock_guard(&peers->lock);

    if (agent_context_is_stopping(peers->context))
        return FALSE;
    g_hash_table_add(peers->channels, channel);
    return TRUE;
}

static void strike_off(Peers *peers, Channel *channel)
{
    lock_guard(&peers->lock);

    g_hash_table_remove(peers->channels, channel);
}

static gpointer connection_thread(gpointer data)
{
    g_autofree Connection *connection = data;
    Peers *peers = connection->peers;
    g_autoptr(GError) error = NULL;
    Channel *channel = channel_accept(connection->fd, &peers->options, &error);

    if (channel && enlist(peers, channel)) {
        serve_channel(peers->context, channel, &error);
        strike_off(peers, channel);
    }
    /* Of moves that fail there is an event; who was turned away is told here. */
    if (error)
        log_line(
            channel && !error_is(error, VMFERRY_ERROR_REFUSED) ? LOG_LEVEL_DEBUG : LOG_LEVEL_INFO,
            "peer %s: %s", channel ? channel_get_peer_name(channel) : "(unknown)", error->message);
    channel_free(channel);
    g_mutex_lock(&peers->lock);
    peers->count--;
    g_mutex_unlock(&peers->lock);
    return NULL;
}

static gboolean take_place(Peers *peers)
{
    lock_guard(&peers->lock);

    if (peers->count >= PEERS_MAX)
        return FALSE;
    peers->count++;
    return TRUE;
}

static gboolean on_connection(gint listener, GIOCondition condition, gpointer data)
{
    Peers *peers = data;
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    Connection *connection;

    if (fd < 0)
        return G_SOURCE_CONTINUE;
    if (!take_place(peers)) {
        log_debug("more than %d connections, one is closed", PEERS_MAX);
        close(fd);
        return G_SOURCE_CONTINUE;
    }
    connection = g_new(Connection, 1);
    *connection = (Connection){peers, fd};
    agent_context_spawn(peers->context, "peer", connection_thread, connection);
    return G_SOURCE_CONTINUE;
}

static int bind_address(const struct addrinfo *info)
{
    autofd int fd = socket(info->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    int one = 1;

    if (fd < 0)
        return -1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, info->ai_addr, info->ai_addrlen) < 0 || listen(fd, LISTEN_BACKLOG) < 0)
        return -1;
    return fd_steal(&fd);
}

static int open_listener(const char *address, GError **error)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE};
    struct addrinfo *list = NULL;
    g_autofree char *service = NULL;
    g_autofree char *host = NULL;
    guint16 port;
    int fd, problem;

    if (!settings_split_address(address, &host, &port, error))
        return -1;
    service = g_strdup_printf("%u", port);
    problem = getaddrinfo(host, service, &hints, &list);
    if (problem) {
        error_set(error, VMFERRY_ERROR_NOT_FOUND, "listen on %s: %s", address,
                  gai_strerror(problem));
        return -1;
    }
    fd = bind_address(list);
    if (fd < 0)
        error_set_errno(error, errno, "listen on %s (is another agent running?)", address);
    freeaddrinfo(list);
    return fd;
}

/* The address as it is bound: port 0 has become a real one. */
static char *describe_listener(int fd)
{
    struct sockaddr_storage address;
    socklen_t length = sizeof address;
    char host[NI_MAXHOST], port[NI_MAXSERV];

    if (getsockname(fd, (struct sockaddr *)&address, &length) < 0 ||
        getnameinfo((struct sockaddr *)&address, length, host, sizeof host, port, sizeof port,
                    NI_NUMERICHOST | NI_NUMERICSERV) != 0)
        return NULL;
    return g_strdup_printf(strchr(host, ':') ? "[%s]:%s" : "%s:%s", host, port);
}

static gboolean start_listening(Peers *peers, GError **error)
{
    AgentContext *context = peers->context;

    if (!agent_context_get_channel_options(context, &peers->options, error))
        return FALSE;
    peers->fd = open_listener(context->settings->listen, error);
    if (peers->fd < 0)
        return FALSE;
    context->listening = describe_listener(peers->fd);
    peers->source = g_unix_fd_source_new(peers->fd, G_IO_IN);
    g_source_set_callback(peers->source, G_SOURCE_FUNC(on_connection), peers, NULL);
    g_source_attach(peers->source, context->main);
    return TRUE;
}

Peers *peers_new(AgentContext *context, GError **error)
{
    Peers *peers = g_new0(Peers, 1);

    peers->context = context;
    peers->fd = -1;
    g_mutex_init(&peers->lock);
    peers->channels = g_hash_table_new(NULL, NULL);
    if (!g_str_equal(context->settings->listen, "none") && !start_listening(peers, error)) {
        peers_free(peers);
        return NULL;
    }
    return peers;
}

void peers_stop(Peers *peers)
{
    GHashTableIter iter;
    gpointer channel;

    if (peers->source) {
        g_source_destroy(peers->source);
        g_clear_pointer(&peers->source, g_source_unref);
    }
    fd_close(&peers->fd);
    g_mutex_lock(&peers->lock);
    g_hash_table_iter_init(&iter, peers->channels);
    while (g_hash_table_iter_next(&iter, &channel, NULL))
        channel_shutdown(channel);
    g_mutex_unlock(&peers->lock);
}

void peers_free(Peers *peers)
{
    if (!peers)
        return;
    peers_stop(peers);
    g_hash_table_unref(peers->channels);
    g_mutex_clear(&peers->lock);
    g_free(peers);
}
