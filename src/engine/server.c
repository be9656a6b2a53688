#include "engine/server.h"

#include <libsoup/soup.h>
#include <string.h>

#include "agent/api_call.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/log.h"
#include "engine/browser.h"
#include "engine/routes.h"
#include "engine/web/web_files.h"
#include "wire/address.h"

#define KEEP_ALIVE_SECONDS 10
#define EVENTS_A_PIECE 256
#define TOKEN_LIMIT 4096u
#define LEAST_TOKEN_BYTES 16u

struct EngineServer {
    Engine *engine;
    const EngineSettings *settings;
    SoupServer *server;
    gboolean is_local;  /* on a loopback address, without TLS */
    GPtrArray *names;   /* of char *: that it has, but loopback ones and addresses */
    char *token;        /* NULL: none */
    GPtrArray *streams; /* of Stream */
    guint timer, wake;  /* sources, 0: none */
    GMainContext *main;
};

/* One answer that goes on: events. */
typedef struct {
    EngineServer *owner;
    SoupServerMessage *message;
    uint64_t seen;
    gboolean follow, busy, closed;
} Stream;

/* ---- answers ---- */

static void set_text(SoupServerMessage *message, guint status, const char *type, const char *text)
{
    soup_server_message_set_status(message, status, NULL);
    soup_server_message_set_response(message, type, SOUP_MEMORY_COPY, text, strlen(text));
}

static void set_answer(SoupServerMessage *message, guint status, json_t *answer)
{
    char *text = json_dumps(answer, JSON_LINE);
    g_autofree char *line = g_strconcat(text ? text : "{}", "\n", NULL);

    free(text);
    set_text(message, status, "application/json", line);
}

static void refuse(SoupServerMessage *message, guint status, VmferryErrorCode code,
                   const char *text)
{
    g_autoptr(GError) error = g_error_new_literal(VMFERRY_ERROR, (gint)code, text);
    g_autoptr(json_t) answer = api_error_to_json(error);

    set_answer(message, status, answer);
}

/* ---- who may ---- */

static const char *header_of(SoupServerMessage *message, const char *name)
{
    return soup_message_headers_get_one(soup_server_message_get_request_headers(message), name);
}

/* Takes as long whatever they have in common. */
static gboolean is_same_secret(const char *a, const char *b)
{
    g_autofree char *first = g_compute_checksum_for_string(G_CHECKSUM_SHA256, a, -1);
    g_autofree char *second = g_compute_checksum_for_string(G_CHECKSUM_SHA256, b, -1);
    guchar difference = 0;

    for (guint i = 0; first[i]; i++)
        difference |= (guchar)(first[i] ^ second[i]);
    return difference == 0;
}

static gboolean has_token(const EngineServer *server, SoupServerMessage *message)
{
    const char *given = header_of(message, "Authorization");

    return server->token && given && g_str_has_prefix(given, "Bearer ") &&
           is_same_secret(given + strlen("Bearer "), server->token);
}

/* "CN=ann,O=…": whether that is one of them. */
static gboolean is_named(const char *subject, char **names)
{
    g_auto(GStrv) parts = g_strsplit(subject, ",", -1);

    for (char **name = names; *name; name++) {
        g_autofree char *wanted = g_strconcat("CN=", *name, NULL);

        for (char **part = parts; *part; part++)
            if (strcmp(g_strstrip(*part), wanted) == 0)
                return TRUE;
    }
    return FALSE;
}

/* The certificate was checked in the handshake; a list says who of the CA may. */
static gboolean has_certificate(const EngineServer *server, SoupServerMessage *message)
{
    GTlsCertificate *certificate = soup_server_message_get_tls_peer_certificate(message);
    char **allow = server->settings->allow;
    g_autofree char *subject = NULL;

    if (!certificate || soup_server_message_get_tls_peer_certificate_errors(message) != 0)
        return FALSE;
    if (!allow[0])
        return TRUE;
    subject = g_tls_certificate_get_subject_name(certificate);
    return subject && is_named(subject, allow);
}

/* NULL: whoever sends it may; else why not.  Who gives a token that is wrong is told so at once, and not only where one
 * is needed. */
static const char *find_lack(const EngineServer *server, SoupServerMessage *message,
                             gboolean changes)
{
    if (server->token && header_of(message, "Authorization") && !has_token(server, message))
        return "the token that was given is not the engine's";
    if (!server->is_local && !has_token(server, message) && !has_certificate(server, message))
        return "a certificate of the cluster's CA, or the token, is needed";
    if (changes && server->is_local && server->token && !has_token(server, message))
        return "a change needs the token (Authorization: Bearer …)";
    return NULL;
}

static const char *find_objection(const EngineServer *server, SoupServerMessage *message,
                                  gboolean changes, gboolean is_page)
{
    BrowserRequest request = {.host = header_of(message, "Host"),
                              .origin = header_of(message, "Origin"),
                              .fetch_site = header_of(message, "Sec-Fetch-Site"),
                              .mark = header_of(message, "X-Vmferry"),
                              .changes = changes,
                              .is_page = is_page};
    BrowserSelf self = {.is_local = server->is_local, .names = server->names};

    return browser_find_objection(&request, &self);
}

/* ---- streams ---- */

static void stream_free(gpointer data)
{
    Stream *stream = data;

    g_signal_handlers_disconnect_by_data(stream->message, stream);
    g_object_unref(stream->message);
    g_free(stream);
}

static void send_text(Stream *stream, const char *text)
{
    SoupMessageBody *body = soup_server_message_get_response_body(stream->message);

    soup_message_body_append(body, SOUP_MEMORY_COPY, text, strlen(text));
    stream->busy = TRUE;
    soup_server_message_unpause(stream->message);
}

static void pump(Stream *stream)
{
    g_autoptr(GPtrArray) lines = NULL;
    g_autoptr(GString) text = g_string_new(NULL);

    if (stream->busy || stream->closed)
        return;
    lines = event_log_read(engine_get_events(stream->owner->engine), stream->seen, EVENTS_A_PIECE,
                           &stream->seen);
    for (guint i = 0; i < lines->len; i++)
        g_string_append_printf(text, "%s\n", (char *)lines->pdata[i]);
    if (text->len > 0) {
        send_text(stream, text->str);
    } else if (!stream->follow) {
        stream->closed = TRUE;
        soup_message_body_complete(soup_server_message_get_response_body(stream->message));
        soup_server_message_unpause(stream->message);
    }
}

static void on_wrote_chunk(SoupServerMessage *message, gpointer user)
{
    Stream *stream = user;

    stream->busy = FALSE;
    pump(stream);
}

static void on_finished(SoupServerMessage *message, gpointer user)
{
    Stream *stream = user;

    g_ptr_array_remove_fast(stream->owner->streams, stream);
}

static gboolean on_keep_alive(gpointer user)
{
    EngineServer *server = user;

    for (guint i = 0; i < server->streams->len; i++) {
        Stream *stream = server->streams->pdata[i];

        if (!stream->busy && !stream->closed)
            send_text(stream, "\n");
    }
    return G_SOURCE_CONTINUE;
}

static gboolean on_news(gpointer user)
{
    EngineServer *server = user;

    for (guint i = 0; i < server->streams->len; i++)
        pump(server->streams->pdata[i]);
    return G_SOURCE_REMOVE;
}

/* In any thread. */
static void on_event(gpointer user)
{
    EngineServer *server = user;
    GSource *source = g_idle_source_new();

    /* Never at once, in this thread. */
    g_source_set_callback(source, on_news, server, NULL);
    g_source_attach(source, server->main);
    g_source_unref(source);
}

static void serve_events(EngineServer *server, SoupServerMessage *message, GHashTable *query)
{
    const char *since = query ? g_hash_table_lookup(query, "since") : NULL;
    const char *follow = query ? g_hash_table_lookup(query, "follow") : NULL;
    guint64 number = 0;
    Stream *stream;

    if (since && !g_ascii_string_to_unsigned(since, 10, 0, G_MAXINT64, &number, NULL)) {
        refuse(message, 400, VMFERRY_ERROR_INVALID, "\"since\" is not a valid number");
        return;
    }
    if (server->streams->len >= SERVER_STREAM_LIMIT) {
        refuse(message, 503, VMFERRY_ERROR_BUSY, "too many open streams");
        return;
    }
    soup_server_message_set_status(message, 200, NULL);
    soup_message_headers_set_content_type(soup_server_message_get_response_headers(message),
                                          "application/x-ndjson", NULL);
    soup_message_headers_set_encoding(soup_server_message_get_response_headers(message),
                                      SOUP_ENCODING_CHUNKED);
    soup_message_body_set_accumulate(soup_server_message_get_response_body(message), FALSE);
    stream = g_new0(Stream, 1);
    *stream = (Stream){.owner = server,
                       .message = g_object_ref(message),
                       .seen = number,
                       .follow = g_strcmp0(follow, "1") == 0};
    g_signal_connect(message, "wrote-chunk", G_CALLBACK(on_wrote_chunk), stream);
    g_signal_connect(message, "finished", G_CALLBACK(on_finished), stream);
    g_ptr_array_add(server->streams, stream);
    soup_server_message_pause(message);
    pump(stream);
}

/* ---- requests ---- */

/* NULL without *error*: no body. */
static json_t *parse_body(SoupServerMessage *message, GError **error)
{
    g_autoptr(GBytes) bytes =
        soup_message_body_flatten(soup_server_message_get_request_body(message));
    gsize length;
    const char *text = g_bytes_get_data(bytes, &length);
    json_t *object = length > 0 ? json_parse_object(text, length, SERVER_BODY_LIMIT, error) : NULL;

    if (length > 0 && !object)
        g_prefix_error(error, "the request's body: ");
    return object;
}

static void answer_route(EngineServer *server, SoupServerMessage *message, const EngineRoute *route,
                         const char *name, GHashTable *query)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(json_t) body = parse_body(message, &error);
    EngineCall call = {
        .engine = server->engine, .name = name, .query = query, .body = body, .status = 200};
    g_autoptr(json_t) answer = error ? NULL : route->handle(&call, &error);

    if (answer) {
        set_answer(message, call.status, answer);
    } else if (call.text) {
        set_text(message, 200, "text/plain; version=0.0.4; charset=utf-8", call.text);
    } else {
        g_autoptr(json_t) refusal = api_error_to_json(error);

        set_answer(message, api_status_from_error(error), refusal);
    }
    g_free(call.text);
}

static void refuse_stranger(SoupServerMessage *message, const char *lack)
{
    soup_message_headers_replace(soup_server_message_get_response_headers(message),
                                 "WWW-Authenticate", "Bearer");
    refuse(message, 401, VMFERRY_ERROR_REFUSED, lack);
}

static const WebFile *find_file(const char *path)
{
    for (size_t i = 0; i < web_n_files; i++)
        if (strcmp(web_files[i].path, path) == 0)
            return &web_files[i];
    return NULL;
}

/* A file of the page.  They tell nothing of the cluster, and the page has to come before it can ask for a token. */
static void serve_file(SoupServerMessage *message, const WebFile *file)
{
    SoupMessageHeaders *headers = soup_server_message_get_response_headers(message);
    gboolean known = g_strcmp0(header_of(message, "If-None-Match"), file->etag) == 0;

    soup_message_headers_replace(headers, "Cache-Control", "no-cache");
    soup_message_headers_replace(headers, "ETag", file->etag);
    soup_server_message_set_status(message, known ? 304 : 200, NULL);
    if (!known)
        soup_server_message_set_response(message, file->type, SOUP_MEMORY_STATIC, file->data,
                                         file->length);
}

static void add_headers(SoupServerMessage *message)
{
    SoupMessageHeaders *headers = soup_server_message_get_response_headers(message);

    soup_message_headers_replace(headers, "Cache-Control", "no-store");
    for (guint i = 0; browser_headers[i][0]; i++)
        soup_message_headers_replace(headers, browser_headers[i][0], browser_headers[i][1]);
}

static void on_request(SoupServer *soup, SoupServerMessage *message, const char *path,
                       GHashTable *query, gpointer user)
{
    EngineServer *server = user;
    const char *method = soup_server_message_get_method(message);
    gboolean changes = strcmp(method, "GET") != 0 && strcmp(method, "HEAD") != 0;
    const WebFile *file = changes ? NULL : find_file(path);
    const char *objection = find_objection(server, message, changes, file != NULL);
    const char *lack = objection || file ? NULL : find_lack(server, message, changes);
    g_autofree char *name = NULL;
    const EngineRoute *route;
    gboolean known;

    add_headers(message);
    if (objection) {
        refuse(message, 403, VMFERRY_ERROR_REFUSED, objection);
    } else if (file) {
        serve_file(message, file);
    } else if (lack) {
        refuse_stranger(message, lack);
    } else if (strcmp(path, "/v1/events") == 0 && strcmp(method, "GET") == 0) {
        serve_events(server, message, query);
    } else if ((route = engine_route_find(method, path, &name, &known))) {
        answer_route(server, message, route, name, query);
    } else {
        refuse(message, known ? 405 : 404,
               known ? VMFERRY_ERROR_UNSUPPORTED : VMFERRY_ERROR_NOT_FOUND,
               known ? "this path has no such method"
                     : "there is no such path; see docs/api-engine.md");
    }
}

/* In the handshake; one that is shown is refused unless we say otherwise.  Whose it is counts later. */
static gboolean on_certificate(SoupServerMessage *message, GTlsCertificate *certificate,
                               GTlsCertificateFlags errors, gpointer user)
{
    return errors == 0;
}

static void on_started(SoupServer *soup, SoupServerMessage *message, gpointer user)
{
    g_signal_connect(message, "accept-certificate", G_CALLBACK(on_certificate), NULL);
}

/* Before a body is read: one that does not say how long it is, or is too long, is not. */
static void on_early_request(SoupServer *soup, SoupServerMessage *message, const char *path,
                             GHashTable *query, gpointer user)
{
    SoupMessageHeaders *headers = soup_server_message_get_request_headers(message);
    SoupEncoding encoding = soup_message_headers_get_encoding(headers);

    if (encoding == SOUP_ENCODING_CHUNKED || encoding == SOUP_ENCODING_EOF)
        refuse(message, 411, VMFERRY_ERROR_INVALID, "the request does not say how long it is");
    else if (encoding == SOUP_ENCODING_CONTENT_LENGTH &&
             soup_message_headers_get_content_length(headers) > (goffset)SERVER_BODY_LIMIT)
        refuse(message, 413, VMFERRY_ERROR_INVALID, "the request is too long");
}

/* ---- listening ---- */

static gboolean read_token(EngineServer *server, GError **error)
{
    const char *path = server->settings->token_file;
    size_t length;

    if (!path)
        return TRUE;
    server->token = file_read(path, TOKEN_LIMIT, &length, error);
    if (!server->token)
        return FALSE;
    g_strstrip(server->token);
    if (strlen(server->token) >= LEAST_TOKEN_BYTES)
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "%s: a token has at least %u characters", path,
              LEAST_TOKEN_BYTES);
    return FALSE;
}

/* The names that a browser would find in it. */
static void add_names(EngineServer *server, GTlsCertificate *certificate)
{
    g_autoptr(GPtrArray) names = g_tls_certificate_get_dns_names(certificate);

    for (guint i = 0; names && i < names->len; i++) {
        gsize length;
        const char *name = g_bytes_get_data(names->pdata[i], &length);

        g_ptr_array_add(server->names, g_strndup(name, length));
    }
}

static gboolean set_certificates(EngineServer *server, GError **error)
{
    const char *pki = server->settings->pki_dir;
    g_autofree char *certificate_path = g_build_filename(pki, "host.crt", NULL);
    g_autofree char *key_path = g_build_filename(pki, "host.key", NULL);
    g_autofree char *ca_path = g_build_filename(pki, "ca.crt", NULL);
    g_autoptr(GError) problem = NULL;
    g_autoptr(GTlsCertificate) certificate =
        g_tls_certificate_new_from_files(certificate_path, key_path, &problem);
    g_autoptr(GTlsDatabase) ca = certificate ? g_tls_file_database_new(ca_path, &problem) : NULL;

    if (!ca) {
        error_set(error, VMFERRY_ERROR_REFUSED,
                  "on another address than a loopback one only TLS is spoken, with the certificate "
                  "in %s (`vmferry pki`), and that cannot be used: %s",
                  pki, problem->message);
        return FALSE;
    }
    add_names(server, certificate);
    soup_server_set_tls_certificate(server->server, certificate);
    soup_server_set_tls_database(server->server, ca);
    soup_server_set_tls_auth_mode(server->server, G_TLS_AUTHENTICATION_REQUESTED);
    return TRUE;
}

static gboolean listen_on(EngineServer *server, GError **error)
{
    g_auto(Address) parsed = {0};
    g_autoptr(GInetAddress) inet = NULL;
    g_autoptr(GSocketAddress) address = NULL;
    g_autoptr(GError) problem = NULL;

    if (!address_parse(server->settings->listen, ENGINE_DEFAULT_PORT, &parsed, error))
        return FALSE;
    inet = g_inet_address_new_from_string(parsed.host);
    if (!inet) {
        error_set(error, VMFERRY_ERROR_INVALID, "\"%s\": give the address to listen on, not a name",
                  server->settings->listen);
        return FALSE;
    }
    server->is_local = g_inet_address_get_is_loopback(inet);
    if (!server->is_local && !set_certificates(server, error))
        return FALSE;
    address = g_inet_socket_address_new(inet, parsed.port);
    if (soup_server_listen(server->server, address, server->is_local ? 0 : SOUP_SERVER_LISTEN_HTTPS,
                           &problem))
        return TRUE;
    error_set(error, VMFERRY_ERROR_FAILED, "cannot listen on %s: %s", server->settings->listen,
              problem->message);
    return FALSE;
}

EngineServer *engine_server_new(Engine *engine, const EngineSettings *settings, GError **error)
{
    g_autoptr(EngineServer) server = g_new0(EngineServer, 1);
    GSource *timer = g_timeout_source_new_seconds(KEEP_ALIVE_SECONDS);

    server->engine = engine;
    server->settings = settings;
    server->main = g_main_context_ref_thread_default();
    server->streams = g_ptr_array_new_with_free_func(stream_free);
    server->names = g_ptr_array_new_with_free_func(g_free);
    for (char **name = settings->names; *name; name++)
        g_ptr_array_add(server->names, g_strdup(*name));
    g_source_set_callback(timer, on_keep_alive, server, NULL);
    server->timer = g_source_attach(timer, server->main);
    g_source_unref(timer);
    server->server = soup_server_new("server-header", "vmferry", NULL);
    g_signal_connect(server->server, "request-started", G_CALLBACK(on_started), NULL);
    soup_server_add_early_handler(server->server, NULL, on_early_request, server, NULL);
    soup_server_add_handler(server->server, NULL, on_request, server, NULL);
    if (!read_token(server, error) || !listen_on(server, error))
        return NULL;
    event_log_set_listener(engine_get_events(engine), on_event, server);
    return g_steal_pointer(&server);
}

void engine_server_free(EngineServer *server)
{
    GSource *timer;

    if (!server)
        return;
    event_log_set_listener(engine_get_events(server->engine), NULL, NULL);
    timer = g_main_context_find_source_by_id(server->main, server->timer);
    if (timer)
        g_source_destroy(timer);
    soup_server_disconnect(server->server);
    /* What was on its way here comes to nothing. */
    while (g_main_context_iteration(server->main, FALSE))
        ;
    g_ptr_array_unref(server->streams);
    g_ptr_array_unref(server->names);
    g_object_unref(server->server);
    g_main_context_unref(server->main);
    g_free(server->token);
    g_free(server);
}

guint engine_server_get_port(EngineServer *server)
{
    GSList *uris = soup_server_get_uris(server->server);
    guint port = uris ? (guint)g_uri_get_port(uris->data) : 0;

    g_slist_free_full(uris, (GDestroyNotify)g_uri_unref);
    return port;
}
