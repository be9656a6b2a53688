#include "client/client.h"

#include <gio/gunixconnection.h>
#include <gio/gunixsocketaddress.h>
#include <libsoup/soup.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "wire/address.h"
#include "wire/tls.h"

#define ANSWER_LIMIT (64u << 20)
#define TOKEN_LIMIT 4096u
#define ENGINE_PORT 4750

struct Client {
    char *label; /* the socket's path, or HOST:PORT */
    char *base;  /* of URIs */
    SoupSession *session;
    GMainContext *context;
    gboolean secure;              /* HTTPS */
    GTlsCertificate *certificate; /* ours; NULL: none is shown */
    GCancellable *stop;           /* ends all calls; NULL: nothing does */
    guint connect_ms, answer_ms, silence_ms;
    gboolean is_engine;
    char *authorization; /* of an engine; NULL: none */
    json_t *refusal;     /* the last one */
};

static const char *choose(const char *value, const char *variable, const char *otherwise)
{
    const char *set = g_getenv(variable);

    if (value)
        return value;
    return set && *set ? set : otherwise;
}

void client_prepare(void)
{
    const GType types[] = {
        G_TYPE_INET_SOCKET_ADDRESS, G_TYPE_UNIX_SOCKET_ADDRESS, G_TYPE_SOCKET_CLIENT,
        G_TYPE_TCP_CONNECTION,      G_TYPE_UNIX_CONNECTION,     G_TYPE_TLS_CERTIFICATE,
        SOUP_TYPE_SESSION,          SOUP_TYPE_MESSAGE,          SOUP_TYPE_SERVER,
    };

    for (guint i = 0; i < G_N_ELEMENTS(types); i++)
        g_type_class_unref(g_type_class_ref(types[i]));
    g_tls_backend_get_default();
}

static Client *make_client(void)
{
    Client *client = g_new0(Client, 1);

    client->context = g_main_context_new();
    return client;
}

/* The session belongs to the client's main context from its begin on. */
static void make_session(Client *client, const char *property, gpointer value)
{
    g_main_context_push_thread_default(client->context);
    client->session = soup_session_new_with_options(property, value, "user-agent", "vmferry", NULL);
    g_object_set(client->session, "proxy-resolver", NULL, NULL);
    g_main_context_pop_thread_default(client->context);
}

Client *client_new(const char *socket)
{
    Client *client = make_client();
    g_autoptr(GSocketAddress) address = NULL;

    client->label = g_strdup(choose(socket, "VMFERRY_SOCKET", CLIENT_DEFAULT_SOCKET));
    client->base = g_strdup("http://localhost");
    address = g_unix_socket_address_new(client->label);
    make_session(client, "remote-connectable", address);
    return client;
}

static GTlsDatabase *load_ca(const char *pki, GError **error)
{
    g_autofree char *ca = g_build_filename(pki, "ca.crt", NULL);
    g_autofree char *path = g_canonicalize_filename(ca, NULL);

    return g_tls_file_database_new(path, error);
}

/* Checks the folder as an agent would, with its words. */
static gboolean load_certificate(Client *client, const char *pki, GTlsDatabase **ret_ca,
                                 GError **error)
{
    g_autofree char *certificate = g_build_filename(pki, "host.crt", NULL);
    g_autofree char *key = g_build_filename(pki, "host.key", NULL);
    g_autoptr(TlsIdentity) identity = tls_identity_load(pki, error);

    if (!identity) {
        g_prefix_error(error,
                       "the certificate to show to %s (--pki, made by `vmferry pki engine NAME` or "
                       "`vmferry pki issue HOST`) cannot be used: ",
                       client->is_engine ? "the engine" : "agents");
        return FALSE;
    }
    client->certificate = g_tls_certificate_new_from_files(certificate, key, error);
    *ret_ca = client->certificate ? load_ca(pki, error) : NULL;
    return *ret_ca != NULL;
}

/* Who has a token needs no certificate, but that of the CA that the engine's is of. */
static gboolean load_trust(Client *client, const char *pki, GTlsDatabase **ret_ca, GError **error)
{
    g_autofree char *certificate = g_build_filename(pki, "host.crt", NULL);

    client->secure = TRUE;
    if (!client->authorization || access(certificate, F_OK) == 0)
        return load_certificate(client, pki, ret_ca, error);
    *ret_ca = load_ca(pki, error);
    if (!*ret_ca)
        g_prefix_error(error, "the CA's certificate, by which the engine's is checked (ca.crt in "
                              "the folder of --pki), cannot be used: ");
    return *ret_ca != NULL;
}

Client *client_new_tls(const char *address_text, const char *pki, GError **error)
{
    g_autoptr(Client) client = make_client();
    g_autoptr(GTlsDatabase) ca = NULL;
    g_auto(Address) address = {0};

    if (!address_parse(address_text, CLIENT_DEFAULT_PORT, &address, error) ||
        !load_certificate(client, choose(pki, "VMFERRY_PKI", CLIENT_DEFAULT_PKI), &ca, error))
        return NULL;
    client->secure = TRUE;
    client->label = g_strdup(address.label);
    client->base = g_strdup_printf(strchr(address.host, ':') ? "https://[%s]:%u" : "https://%s:%u",
                                   address.host, address.port);
    client->connect_ms = CLIENT_CONNECT_MS;
    client->answer_ms = CLIENT_ANSWER_MS;
    client->silence_ms = CLIENT_SILENCE_MS;
    make_session(client, "tls-database", ca);
    return g_steal_pointer(&client);
}

static gboolean read_token(Client *client, const char *path, GError **error)
{
    g_autofree char *token = NULL;
    size_t length;

    if (!path)
        return TRUE;
    token = file_read(path, TOKEN_LIMIT, &length, error);
    if (!token)
        return FALSE;
    client->authorization = g_strconcat("Bearer ", g_strstrip(token), NULL);
    return TRUE;
}

static gboolean is_loopback(const char *host)
{
    g_autoptr(GInetAddress) address = g_inet_address_new_from_string(host);

    return strcmp(host, "localhost") == 0 || (address && g_inet_address_get_is_loopback(address));
}

Client *client_new_engine(const char *address_text, const char *pki, const char *token_file,
                          GError **error)
{
    g_autoptr(Client) client = make_client();
    g_autoptr(GTlsDatabase) ca = NULL;
    g_auto(Address) address = {0};
    gboolean local;

    if (!address_parse(choose(address_text, "VMFERRY_ENGINE", CLIENT_DEFAULT_ENGINE), ENGINE_PORT,
                       &address, error) ||
        !read_token(client, choose(token_file, "VMFERRY_TOKEN_FILE", NULL), error))
        return NULL;
    local = is_loopback(address.host);
    client->is_engine = TRUE;
    if (!local && !load_trust(client, choose(pki, "VMFERRY_PKI", CLIENT_DEFAULT_PKI), &ca, error))
        return NULL;
    client->label = g_strdup(address.label);
    client->base = g_strdup_printf(strchr(address.host, ':') ? "%s://[%s]:%u" : "%s://%s:%u",
                                   local ? "http" : "https", address.host, address.port);
    client->connect_ms = CLIENT_CONNECT_MS;
    client->answer_ms = CLIENT_ANSWER_MS;
    client->silence_ms = CLIENT_SILENCE_MS;
    make_session(client, local ? "user-agent" : "tls-database", local ? (gpointer) "vmferry" : ca);
    return g_steal_pointer(&client);
}

void client_set_timeouts(Client *client, guint connect_ms, guint answer_ms)
{
    client->connect_ms = connect_ms;
    client->answer_ms = answer_ms;
    /* An agent that hangs in the middle of an answer hangs. */
    if (client->silence_ms == 0)
        client->silence_ms = answer_ms;
}

void client_set_stop(Client *client, GCancellable *stop)
{
    g_set_object(&client->stop, stop);
}

void client_free(Client *client)
{
    if (!client)
        return;
    if (client->session) {
        g_main_context_push_thread_default(client->context);
        soup_session_abort(client->session);
        g_object_unref(client->session);
        /* Connections close in it. */
        while (g_main_context_iteration(client->context, FALSE))
            ;
        g_main_context_pop_thread_default(client->context);
    }
    g_main_context_unref(client->context);
    g_clear_object(&client->certificate);
    g_clear_object(&client->stop);
    json_decref(client->refusal);
    g_free(client->label);
    g_free(client->base);
    g_free(client->authorization);
    g_free(client);
}

/* --- waiting -------------------------------------------------------------------------- */

/* One step of a request: until its result is there, or its time is over. */
typedef struct {
    Client *client;
    GCancellable *cancellable;
    GSource *timer; /* NULL: no limit */
    GAsyncResult *result;
    gulong stop_handler; /* of the client's stop; 0: none */
    guint answer_ms;     /* that follow once it is connected */
    gboolean late, stopped, connected;
    GTlsCertificateFlags distrust; /* what is wrong with the agent's certificate */
} Wait;

static gboolean on_late(gpointer user)
{
    Wait *wait = user;

    wait->late = TRUE;
    g_cancellable_cancel(wait->cancellable);
    return G_SOURCE_REMOVE;
}

static void set_timer(Wait *wait, guint ms)
{
    if (wait->timer) {
        g_source_destroy(wait->timer);
        g_clear_pointer(&wait->timer, g_source_unref);
    }
    if (ms == 0)
        return;
    wait->timer = g_timeout_source_new(ms);
    g_source_set_callback(wait->timer, on_late, wait, NULL);
    g_source_attach(wait->timer, wait->client->context);
}

/* In any thread: the one that waits does the rest. */
static void on_stop(GCancellable *stop, gpointer context)
{
    g_main_context_wakeup(context);
}

static void wait_begin(Wait *wait, Client *client, guint ms)
{
    *wait = (Wait){.client = client, .cancellable = g_cancellable_new()};
    set_timer(wait, ms);
    if (client->stop)
        wait->stop_handler =
            g_cancellable_connect(client->stop, G_CALLBACK(on_stop), client->context, NULL);
}

static void on_result(GObject *source, GAsyncResult *result, gpointer user)
{
    ((Wait *)user)->result = g_object_ref(result);
}

static void obey_stop(Wait *wait)
{
    if (wait->stopped || !g_cancellable_is_cancelled(wait->client->stop))
        return;
    wait->stopped = TRUE;
    g_cancellable_cancel(wait->cancellable);
}

static GAsyncResult *wait_for_result(Wait *wait)
{
    while (!wait->result) {
        obey_stop(wait);
        g_main_context_iteration(wait->client->context, TRUE);
    }
    return wait->result;
}

static void wait_end(Wait *wait)
{
    set_timer(wait, 0);
    g_cancellable_disconnect(wait->client->stop, wait->stop_handler);
    g_clear_object(&wait->result);
    g_clear_object(&wait->cancellable);
}

/* --- what went wrong ------------------------------------------------------------------ */

static void set_unreachable(Client *client, const GError *cause, GError **error)
{
    if (client->is_engine)
        error_set(error, VMFERRY_ERROR_DISCONNECTED,
                  "cannot reach the engine at %s: is `vmferry engine` running? (VMFERRY_ENGINE or "
                  "--engine)",
                  client->label);
    else if (g_error_matches(cause, G_IO_ERROR, G_IO_ERROR_PERMISSION_DENIED))
        error_set(error, VMFERRY_ERROR_PERMISSION,
                  "not allowed to talk to the agent at %s: be root, or a member of the group "
                  "\"vmferry\"",
                  client->label);
    else
        error_set(error, VMFERRY_ERROR_DISCONNECTED,
                  "cannot reach the agent at %s: is `vmferry agent` running? (VMFERRY_SOCKET or "
                  "--socket)",
                  client->label);
}

static const char *describe_distrust(GTlsCertificateFlags flags)
{
    if (flags & G_TLS_CERTIFICATE_UNKNOWN_CA)
        return "its certificate is of another CA; both sides need certificates of one CA";
    if (flags & G_TLS_CERTIFICATE_BAD_IDENTITY)
        return "its certificate is not for this name; use the name that it was issued for";
    if (flags & G_TLS_CERTIFICATE_EXPIRED)
        return "its certificate has expired; issue a new one with `vmferry pki issue` for it";
    if (flags & G_TLS_CERTIFICATE_NOT_ACTIVATED)
        return "its certificate is not valid yet; are both hosts' clocks right?";
    return "its certificate cannot be trusted";
}

static void set_network_error(const Wait *wait, const GError *cause, GError **error)
{
    const char *label = wait->client->label;
    const char *who = wait->client->is_engine ? "engine" : "agent";
    const char *listening = wait->client->is_engine ? "is `listen` set in its engine.conf?"
                                                    : "is `api` set in its agent.conf?";

    if (wait->late && !wait->connected)
        error_set(error, VMFERRY_ERROR_TIMEOUT,
                  "cannot reach the %s at %s: nobody answers there (a firewall? %s)", who, label,
                  listening);
    else if (wait->late)
        error_set(error, VMFERRY_ERROR_TIMEOUT, "the %s at %s does not answer in time", who, label);
    else if (wait->distrust)
        error_set(error, VMFERRY_ERROR_REFUSED, "the %s at %s: %s", who, label,
                  describe_distrust(wait->distrust));
    else if (cause->domain == G_TLS_ERROR)
        error_set(error, VMFERRY_ERROR_REFUSED,
                  "the %s at %s does not take our certificate, or speaks no TLS there: %s", who,
                  label, cause->message);
    else if (wait->connected)
        error_set(error, VMFERRY_ERROR_DISCONNECTED,
                  "the %s at %s closed the connection: it does not take our certificate (of "
                  "another CA, expired?), is busy, or was stopped (%s)",
                  who, label, cause->message);
    else
        error_set(error, VMFERRY_ERROR_DISCONNECTED, "cannot reach the %s at %s: %s (%s)", who,
                  label, cause->message, listening);
}

static void set_request_error(const Wait *wait, const GError *cause, GError **error)
{
    if (wait->stopped)
        error_set(error, VMFERRY_ERROR_CANCELLED, "what was asked of %s is not waited for any more",
                  wait->client->label);
    else if (wait->client->secure)
        set_network_error(wait, cause, error);
    else
        set_unreachable(wait->client, cause, error);
}

/* --- requests ------------------------------------------------------------------------- */

/* A page of another site cannot set the first (engine/server.h). */
static void add_engine_headers(const Client *client, SoupMessage *message)
{
    SoupMessageHeaders *headers = soup_message_get_request_headers(message);

    soup_message_headers_replace(headers, "X-Vmferry", "1");
    if (client->authorization)
        soup_message_headers_replace(headers, "Authorization", client->authorization);
}

static SoupMessage *make_message(Client *client, const char *method, const char *path, json_t *body)
{
    g_autofree char *uri = g_strconcat(client->base, path, NULL);
    SoupMessage *message = soup_message_new(method, uri);
    g_autoptr(json_t) own = body;
    g_autoptr(GBytes) bytes = NULL;
    char *text;

    soup_message_add_flags(message, SOUP_MESSAGE_NO_REDIRECT);
    if (client->certificate)
        soup_message_set_tls_client_certificate(message, client->certificate);
    if (client->is_engine)
        add_engine_headers(client, message);
    if (!own)
        return message;
    text = json_dumps(own, JSON_LINE);
    bytes = g_bytes_new(text, strlen(text));
    free(text);
    soup_message_set_request_body_from_bytes(message, "application/json", bytes);
    return message;
}

static void on_network_event(SoupMessage *message, GSocketClientEvent event, GIOStream *connection,
                             gpointer user)
{
    Wait *wait = user;

    if (event != G_SOCKET_CLIENT_COMPLETE)
        return;
    wait->connected = TRUE;
    set_timer(wait, wait->answer_ms);
}

/* Also where the connection is one from before. */
static void on_starting(SoupMessage *message, gpointer user)
{
    on_network_event(message, G_SOCKET_CLIENT_COMPLETE, NULL, user);
}

static gboolean on_distrust(SoupMessage *message, GTlsCertificate *certificate,
                            GTlsCertificateFlags flags, gpointer user)
{
    ((Wait *)user)->distrust = flags;
    return FALSE;
}

/* libsoup forgets the certificate of a message that it sends once more, on another connection. */
static gboolean on_certificate_wanted(SoupMessage *message, GTlsClientConnection *connection,
                                      gpointer user)
{
    GTlsCertificate *ours = ((Wait *)user)->client->certificate;

    if (ours)
        soup_message_set_tls_client_certificate(message, ours);
    return ours != NULL;
}

static GInputStream *send_request(Client *client, SoupMessage *message, GError **error)
{
    g_autoptr(GError) cause = NULL;
    GInputStream *stream;
    Wait wait;

    wait_begin(&wait, client, client->connect_ms);
    wait.answer_ms = client->answer_ms;
    g_signal_connect(message, "network-event", G_CALLBACK(on_network_event), &wait);
    g_signal_connect(message, "starting", G_CALLBACK(on_starting), &wait);
    g_signal_connect(message, "accept-certificate", G_CALLBACK(on_distrust), &wait);
    g_signal_connect(message, "request-certificate", G_CALLBACK(on_certificate_wanted), &wait);
    soup_session_send_async(client->session, message, G_PRIORITY_DEFAULT, wait.cancellable,
                            on_result, &wait);
    stream = soup_session_send_finish(client->session, wait_for_result(&wait), &cause);
    g_signal_handlers_disconnect_by_data(message, &wait);
    if (!stream)
        set_request_error(&wait, cause, error);
    wait_end(&wait);
    return stream;
}

/* --- answers -------------------------------------------------------------------------- */

static gssize read_some(Client *client, GInputStream *stream, char *buffer, gsize length,
                        GError **error)
{
    g_autoptr(GError) cause = NULL;
    gssize got;
    Wait wait;

    wait_begin(&wait, client, client->silence_ms);
    wait.connected = TRUE;
    g_input_stream_read_async(stream, buffer, length, G_PRIORITY_DEFAULT, wait.cancellable,
                              on_result, &wait);
    got = g_input_stream_read_finish(stream, wait_for_result(&wait), &cause);
    if (got < 0 && (wait.late || wait.stopped))
        set_request_error(&wait, cause, error);
    else if (got < 0)
        error_set(error, VMFERRY_ERROR_DISCONNECTED, "the agent went away");
    wait_end(&wait);
    return got;
}

static gboolean read_answer(Client *client, GInputStream *stream, GString *text, GError **error)
{
    char buffer[16384];
    gssize got;

    while ((got = read_some(client, stream, buffer, sizeof buffer, error)) > 0) {
        if (text->len + (gsize)got > ANSWER_LIMIT) {
            error_set(error, VMFERRY_ERROR_INVALID, "the agent's answer is too long");
            return FALSE;
        }
        g_string_append_len(text, buffer, got);
    }
    return got == 0;
}

static void set_agent_error(json_t *answer, guint status, GError **error)
{
    json_t *object = json_object_get(answer, "error");
    const char *text = json_text_or(object, "message", NULL);
    const char *code = json_text_or(object, "code", NULL);

    if (text)
        error_set(error, vmferry_error_code_from_name(code), "%s", text);
    else
        error_set(error, VMFERRY_ERROR_FAILED, "the agent answered with HTTP status %u", status);
}

static json_t *take_answer(Client *client, GInputStream *stream, guint status, GError **error)
{
    g_autoptr(GString) text = g_string_new(NULL);
    g_autoptr(json_t) answer = NULL;

    if (!read_answer(client, stream, text, error))
        return NULL;
    answer = json_parse_object(text->str, text->len, ANSWER_LIMIT, error);
    if (!answer)
        return NULL;
    if (status < 400)
        return g_steal_pointer(&answer);
    set_agent_error(answer, status, error);
    json_decref(client->refusal);
    client->refusal = g_steal_pointer(&answer);
    return NULL;
}

json_t *client_get_refusal(Client *client)
{
    return client->refusal;
}

/* All of a call happens in the client's main context … */
static void enter(Client *client)
{
    g_main_context_push_thread_default(client->context);
}

/* … the closing of what is left of an answer, too. */
static void leave(Client *client)
{
    while (g_main_context_iteration(client->context, FALSE))
        ;
    g_main_context_pop_thread_default(client->context);
}

static json_t *send_and_take(Client *client, SoupMessage *message, GError **error)
{
    g_autoptr(GInputStream) stream = send_request(client, message, error);

    return stream ? take_answer(client, stream, soup_message_get_status(message), error) : NULL;
}

json_t *client_call(Client *client, const char *method, const char *path, json_t *body,
                    GError **error)
{
    g_autoptr(SoupMessage) message = make_message(client, method, path, body);
    json_t *answer;

    enter(client);
    answer = send_and_take(client, message, error);
    leave(client);
    return answer;
}

/* A line, or a keep-alive, which is empty.  FALSE with *error* unset: it had enough. */
static gboolean take_line(const char *line, gsize length, ClientLine on_line, gpointer user,
                          GError **error)
{
    g_autoptr(json_t) object = NULL;

    if (length == 0)
        return TRUE;
    object = json_parse_object(line, length, ANSWER_LIMIT, error);
    return object && on_line(object, user);
}

/* Takes the whole lines that *text* begins with away from it. */
static gboolean take_lines(GString *text, ClientLine on_line, gpointer user, GError **error)
{
    gsize at = 0;
    char *end;
    gboolean more = TRUE;

    while (more && (end = memchr(text->str + at, '\n', text->len - at))) {
        gsize length = (gsize)(end - text->str) - at;

        more = take_line(text->str + at, length, on_line, user, error);
        at += length + 1;
    }
    g_string_erase(text, 0, (gssize)at);
    return more;
}

/* FALSE with *error*: the connection or the agent ended before its time. */
static gboolean read_lines(Client *client, GInputStream *stream, ClientLine on_line, gpointer user,
                           GError **error)
{
    g_autoptr(GString) text = g_string_new(NULL);
    g_autoptr(GError) problem = NULL;
    char buffer[16384];
    gssize got;

    while ((got = read_some(client, stream, buffer, sizeof buffer, error)) > 0) {
        g_string_append_len(text, buffer, got);
        if (!take_lines(text, on_line, user, &problem))
            break;
        if (text->len > ANSWER_LIMIT) {
            error_set(&problem, VMFERRY_ERROR_INVALID, "a line of the agent's answer is too long");
            break;
        }
    }
    if (got == 0 && text->len > 0)
        take_line(text->str, text->len, on_line, user, &problem);
    if (!problem)
        return got >= 0;
    g_propagate_error(error, g_steal_pointer(&problem));
    return FALSE;
}

static gboolean send_and_follow(Client *client, SoupMessage *message, ClientLine on_line,
                                gpointer user, GError **error)
{
    g_autoptr(GInputStream) stream = send_request(client, message, error);

    if (!stream)
        return FALSE;
    if (soup_message_get_status(message) >= 400) {
        g_autoptr(json_t) nothing =
            take_answer(client, stream, soup_message_get_status(message), error);

        return nothing != NULL;
    }
    return read_lines(client, stream, on_line, user, error);
}

gboolean client_stream(Client *client, const char *method, const char *path, json_t *body,
                       ClientLine on_line, gpointer user, GError **error)
{
    g_autoptr(SoupMessage) message = make_message(client, method, path, body);
    gboolean done;

    enter(client);
    done = send_and_follow(client, message, on_line, user, error);
    leave(client);
    return done;
}
