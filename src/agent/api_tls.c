#include "agent/api_tls.h"

#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "agent/admission.h"
#include "agent/listener.h"
#include "agent/peers.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/lock_guard.h"
#include "base/log.h"
#include "wire/relay.h"

#define HANDSHAKE_MS 5000
/* The end of the agent waits so long for readers of the last answers. */
#define FAREWELL_MS 1000

struct ApiTls {
    AgentContext *context;
    ApiTlsServe serve;
    gpointer user;
    Listener *listener; /* NULL: not any more */
    Admission *admission;
    int wake_fd; /* readable: all threads end */
    GMutex lock; /* protects all below */
    GCond ended;
    guint threads;
    GHashTable *callers; /* name → how many connections */
};

typedef struct {
    ApiTls *tls;
    AdmissionPlace *place;
    int fd;
} Connection;

/* One that goes to the main loop. */
typedef struct {
    ApiTls *tls;
    int fd;
    ApiCaller *caller;
} Arrival;

ApiCaller *api_caller_new(const char *name, ApiAccess access)
{
    ApiCaller *caller = g_new0(ApiCaller, 1);

    *caller = (ApiCaller){.name = g_strdup(name), .access = access};
    return caller;
}

void api_caller_free(ApiCaller *caller)
{
    if (!caller)
        return;
    g_free(caller->name);
    g_free(caller);
}

static gboolean is_named(char **names, const char *name)
{
    return names && names[0] && peers_is_allowed(names, name);
}

ApiAccess api_tls_find_access(const AgentSettings *settings, const char *name)
{
    if (is_named(settings->api_operate, name))
        return API_ACCESS_OPERATE;
    return is_named(settings->api_read, name) ? API_ACCESS_READ : API_ACCESS_NONE;
}

/* --- one connection, in its thread ------------------------------------------- */

static gboolean count_in(ApiTls *tls, const char *name, GError **error)
{
    lock_guard(&tls->lock);
    guint count = GPOINTER_TO_UINT(g_hash_table_lookup(tls->callers, name));

    if (count >= API_TLS_PER_CALLER) {
        error_set(error, VMFERRY_ERROR_BUSY, "%s has %u connections already", name, count);
        return FALSE;
    }
    g_hash_table_insert(tls->callers, g_strdup(name), GUINT_TO_POINTER(count + 1));
    return TRUE;
}

static void count_out(ApiTls *tls, const char *name)
{
    lock_guard(&tls->lock);
    guint count = GPOINTER_TO_UINT(g_hash_table_lookup(tls->callers, name));

    if (count > 1)
        g_hash_table_insert(tls->callers, g_strdup(name), GUINT_TO_POINTER(count - 1));
    else
        g_hash_table_remove(tls->callers, name);
}

static void arrival_free(gpointer data)
{
    Arrival *arrival = data;

    fd_close(&arrival->fd);
    api_caller_free(arrival->caller);
    g_free(arrival);
}

/* In the main loop. */
static gboolean on_arrival(gpointer data)
{
    Arrival *arrival = data;
    g_autoptr(GError) error = NULL;
    g_autoptr(GSocket) near = g_socket_new_from_fd(arrival->fd, &error);
    g_autoptr(GSocketConnection) connection = NULL;

    if (!near) {
        log_debug("API: %s", error->message);
        return G_SOURCE_REMOVE;
    }
    arrival->fd = -1;
    connection = g_socket_connection_factory_create_connection(near);
    arrival->tls->serve(connection, g_steal_pointer(&arrival->caller), arrival->tls->user);
    return G_SOURCE_REMOVE;
}

static void hand_over(ApiTls *tls, int near, const char *name)
{
    Arrival *arrival = g_new(Arrival, 1);
    GSource *source = g_idle_source_new();

    *arrival = (Arrival){tls, near,
                         api_caller_new(name, api_tls_find_access(tls->context->settings, name))};
    g_source_set_priority(source, G_PRIORITY_DEFAULT);
    g_source_set_callback(source, on_arrival, arrival, arrival_free);
    g_source_attach(source, tls->context->main);
    g_source_unref(source);
}

static gboolean carry(ApiTls *tls, Stream *stream, const char *name, GError **error)
{
    int pair[2];
    gboolean done;

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0) {
        error_set_errno(error, errno, "socketpair");
        return FALSE;
    }
    hand_over(tls, pair[1], name);
    done = relay_run(stream, pair[0], tls->wake_fd, API_TLS_SILENCE_MS, error);
    close(pair[0]);
    return done;
}

static gboolean serve_stream(ApiTls *tls, Stream *stream, AdmissionPlace *place, GError **error)
{
    StreamHandshake handshake = {.server = TRUE,
                                 .label = "API",
                                 .wake_fd = tls->wake_fd,
                                 .deadline_ns = clock_now_ns() + HANDSHAKE_MS * 1000000ULL};
    g_autofree char *name = NULL;
    gboolean done;

    stream_set_label(stream, handshake.label);
    if (!stream_start_tls(stream, tls->context->identity, &handshake, error))
        return FALSE;
    name = stream_get_certificate_name(stream);
    if (!name) {
        error_set(error, VMFERRY_ERROR_REFUSED, "the certificate names nobody");
        return FALSE;
    }
    if (!admission_pass(place, ADMITTED_QUESTION, error) || !count_in(tls, name, error))
        return FALSE;
    done = carry(tls, stream, name, error);
    count_out(tls, name);
    return done;
}

static gpointer connection_thread(gpointer data)
{
    g_autofree Connection *connection = data;
    ApiTls *tls = connection->tls;
    Stream *stream = stream_new(connection->fd);
    g_autoptr(GError) error = NULL;

    if (!serve_stream(tls, stream, connection->place, &error))
        log_debug("API: %s", error->message);
    stream_free(stream);
    admission_leave(connection->place);
    g_mutex_lock(&tls->lock);
    tls->threads--;
    g_cond_broadcast(&tls->ended);
    g_mutex_unlock(&tls->lock);
    return NULL;
}

/* --- all of them ---------------------------------------------------------------- */

static void count_thread(ApiTls *tls, int change)
{
    lock_guard(&tls->lock);

    tls->threads += (guint)change;
}

static void on_connection(int taken, const struct sockaddr *address, gpointer user)
{
    ApiTls *tls = user;
    autofd int fd = taken;
    AdmissionPlace *place =
        listener_may_take(fd) ? admission_enter(tls->admission, fd, address) : NULL;
    Connection *connection;
    GThread *thread;

    if (!place) {
        log_debug("API: too many connections, one is closed");
        return;
    }
    connection = g_new(Connection, 1);
    *connection = (Connection){tls, place, fd};
    count_thread(tls, 1);
    thread = g_thread_try_new("api", connection_thread, connection, NULL);
    if (thread) {
        fd_steal(&fd);
        g_thread_unref(thread);
        return;
    }
    count_thread(tls, -1);
    admission_leave(place);
    g_free(connection);
}

static gboolean check_settings(const AgentContext *context, GError **error)
{
    const AgentSettings *settings = context->settings;

    if (!context->identity)
        error_set(error, VMFERRY_ERROR_REFUSED,
                  "the API over the network (api = %s) needs certificates%s: make them with "
                  "`vmferry pki init` and `vmferry pki issue HOST`, or leave it off",
                  settings->api, settings->insecure ? ", which --insecure does without" : "");
    else if (!settings->api_read[0] && !settings->api_operate[0])
        error_set(error, VMFERRY_ERROR_REFUSED,
                  "the API over the network (api = %s) would answer nobody: name who may read or "
                  "operate in [api] of agent.conf, or leave it off",
                  settings->api);
    else
        return TRUE;
    return FALSE;
}

ApiTls *api_tls_new(AgentContext *context, ApiTlsServe serve, gpointer user, GError **error)
{
    ApiTls *tls;

    if (!check_settings(context, error))
        return NULL;
    tls = g_new0(ApiTls, 1);
    tls->context = context;
    tls->serve = serve;
    tls->user = user;
    g_mutex_init(&tls->lock);
    g_cond_init(&tls->ended);
    tls->admission = admission_new();
    tls->callers = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    tls->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (tls->wake_fd < 0)
        error_set_errno(error, errno, "eventfd");
    else
        tls->listener = listener_new(context->main, context->settings->api, CLIENT_DEFAULT_PORT,
                                     on_connection, tls, error);
    if (!tls->listener) {
        g_prefix_error(error, "API over the network: ");
        api_tls_free(tls);
        return NULL;
    }
    context->api_listening = listener_describe(tls->listener);
    return tls;
}

void api_tls_stop(ApiTls *tls)
{
    g_clear_pointer(&tls->listener, listener_free);
}

static gboolean have_ended(ApiTls *tls, gint64 until)
{
    lock_guard(&tls->lock);

    while (tls->threads > 0)
        if (!g_cond_wait_until(&tls->ended, &tls->lock, until))
            return tls->threads == 0;
    return TRUE;
}

void api_tls_free(ApiTls *tls)
{
    if (!tls)
        return;
    api_tls_stop(tls);
    /* What is on its way to the main loop is closed there, by nobody: before the threads are waited
     * for. */
    while (g_main_context_iteration(tls->context->main, FALSE))
        ;
    if (!have_ended(tls, g_get_monotonic_time() + FAREWELL_MS * G_TIME_SPAN_MILLISECOND)) {
        eventfd_write(tls->wake_fd, 1);
        have_ended(tls, G_MAXINT64);
    }
    /* Arrivals of the last moment point here. */
    while (g_main_context_iteration(tls->context->main, FALSE))
        ;
    fd_close(&tls->wake_fd);
    admission_free(tls->admission);
    g_hash_table_unref(tls->callers);
    g_mutex_clear(&tls->lock);
    g_cond_clear(&tls->ended);
    g_free(tls);
}
