#include "agent/api.h"

#include <libsoup/soup.h>
#include <string.h>
#include <unistd.h>

#include "agent/api_call.h"
#include "agent/api_stream.h"
#include "agent/api_tls.h"
#include "agent/control_socket.h"
#include "base/error.h"
#include "base/log.h"

/* In the remote address of a connection. */
#define CALLER_KEY "vmferry-caller"

/* A way in. */
typedef struct {
    Api *api;
    gboolean network;
    SoupServer *server;
    GThreadPool *workers;
} Door;

struct Api {
    AgentContext *context;
    Door local, network; /* network: no server where it is off */
    GSocketService *service;
    ApiTls *tls; /* NULL: none */
    ApiStreams *streams;
    guint calls; /* at work */
};

/* A request while a worker has it. */
typedef struct {
    Api *api;
    const Door *door;
    SoupServerMessage *message;
    const ApiRoute *route;
    char *guest;
    ApiCall call;
    json_t *answer;
    GError *error;
    gboolean finished; /* the client went away */
} Job;

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

static void set_error(SoupServerMessage *message, guint status, const GError *error)
{
    g_autoptr(json_t) answer = api_error_to_json(error);

    set_answer(message, status, answer);
}

static void refuse(SoupServerMessage *message, guint status, VmferryErrorCode code,
                   const char *text)
{
    g_autoptr(GError) error = g_error_new_literal(VMFERRY_ERROR, (gint)code, text);

    set_error(message, status, error);
}

static void on_job_finished(SoupServerMessage *message, gpointer user)
{
    Job *job = user;

    job->finished = TRUE;
}

static void job_free(Job *job)
{
    g_signal_handlers_disconnect_by_data(job->message, job);
    g_object_unref(job->message);
    json_decref(job->call.body);
    json_decref(job->answer);
    activity_unsubscribe(job->call.stream);
    g_clear_error(&job->error);
    g_free(job->guest);
    g_free(job);
}

static gboolean may_stream(const Door *door)
{
    return !door->network || api_streams_count(door->api->streams) < API_NETWORK_STREAM_LIMIT;
}

static void send_answer(Job *job)
{
    SoupServerMessage *message = job->message;

    if (job->call.stream) {
        if (may_stream(job->door) &&
            api_streams_add_activity(job->api->streams, message, job->call.stream)) {
            job->call.stream = NULL;
            return;
        }
        refuse(message, SOUP_STATUS_SERVICE_UNAVAILABLE, VMFERRY_ERROR_BUSY,
               "it has begun, but too many streams are open to show it");
    } else if (job->answer && job->call.text_type) {
        set_text(message, job->call.status, job->call.text_type, json_string_value(job->answer));
    } else if (job->answer) {
        set_answer(message, job->call.status, job->answer);
    } else {
        g_autoptr(json_t) refusal = api_refusal_to_json(&job->call, job->error);

        set_answer(message, api_status_from_error(job->error), refusal);
    }
    soup_server_message_unpause(message);
}

/* In the main loop again. */
static gboolean finish_job(gpointer user)
{
    Job *job = user;

    job->api->calls--;
    if (!job->finished)
        send_answer(job);
    job_free(job);
    return G_SOURCE_REMOVE;
}

/* In a worker. */
static void work(gpointer data, gpointer user)
{
    Job *job = data;
    GSource *source = g_idle_source_new();

    job->answer = job->route->handle(&job->call, &job->error);
    g_source_set_priority(source, G_PRIORITY_DEFAULT);
    g_source_set_callback(source, finish_job, job, NULL);
    g_source_attach(source, job->api->context->main);
    g_source_unref(source);
}

/* NULL without error: no body. */
static json_t *parse_body(SoupServerMessage *message, GError **error)
{
    SoupMessageBody *body = soup_server_message_get_request_body(message);
    g_autoptr(GBytes) bytes = NULL;
    json_t *object;
    const char *text;
    gsize length;

    if (!soup_message_body_get_accumulate(body)) {
        error_set(error, VMFERRY_ERROR_INVALID, "the request is longer than %u bytes",
                  API_BODY_LIMIT);
        return NULL;
    }
    bytes = soup_message_body_flatten(body);
    text = g_bytes_get_data(bytes, &length);
    if (length == 0)
        return NULL;
    object = json_parse_object(text, length, API_BODY_LIMIT, error);
    if (!object)
        g_prefix_error(error, "the request's body: ");
    return object;
}

static void start_job(const Door *door, SoupServerMessage *message, ApiAccess access,
                      const ApiRoute *route, char *guest)
{
    Api *api = door->api;
    g_autoptr(GError) error = NULL;
    json_t *body = parse_body(message, &error);
    Job *job;

    if (error) {
        set_error(message, api_status_from_error(error), error);
        g_free(guest);
        return;
    }
    job = g_new0(Job, 1);
    job->api = api;
    job->door = door;
    job->message = g_object_ref(message);
    job->route = route;
    job->guest = guest;
    job->call = (ApiCall){.context = api->context,
                          .access = access,
                          .guest = guest,
                          .body = body,
                          .status = SOUP_STATUS_OK};
    g_signal_connect(message, "finished", G_CALLBACK(on_job_finished), job);
    api->calls++;
    soup_server_message_pause(message);
    g_thread_pool_push(door->workers, job, NULL);
}

static void serve_events(const Door *door, SoupServerMessage *message, GHashTable *query)
{
    const char *since = query ? g_hash_table_lookup(query, "since") : NULL;
    const char *follow = query ? g_hash_table_lookup(query, "follow") : NULL;
    guint64 number = 0;

    if (since && !g_ascii_string_to_unsigned(since, 10, 0, G_MAXINT64, &number, NULL)) {
        refuse(message, SOUP_STATUS_BAD_REQUEST, VMFERRY_ERROR_INVALID,
               "\"since\" is not a valid number");
        return;
    }
    soup_server_message_pause(message);
    if (may_stream(door) &&
        api_streams_add_events(door->api->streams, message, number, g_strcmp0(follow, "1") == 0))
        return;
    refuse(message, SOUP_STATUS_SERVICE_UNAVAILABLE, VMFERRY_ERROR_BUSY, "too many open streams");
    soup_server_message_unpause(message);
}

/* NULL: nobody is known there. */
static const ApiCaller *find_caller(const Door *door, SoupServerMessage *message)
{
    static const ApiCaller local = {.access = API_ACCESS_LOCAL};
    GSocketAddress *address = soup_server_message_get_remote_address(message);

    if (!door->network)
        return &local;
    return address ? g_object_get_data(G_OBJECT(address), CALLER_KEY) : NULL;
}

static void refuse_caller(const Door *door, SoupServerMessage *message, const ApiCaller *caller,
                          ApiAccess needed)
{
    const char *name = caller ? caller->name : "somebody unknown";
    g_autofree char *text = NULL;

    if (needed == API_ACCESS_LOCAL)
        text = g_strdup_printf("this can be asked on %s itself only, by its agent's Unix socket",
                               door->api->context->host_name);
    else
        text = g_strdup_printf("%s may not %s at %s: see [api] in its agent.conf", name,
                               needed == API_ACCESS_READ ? "use the API" : "change anything",
                               door->api->context->host_name);
    refuse(message, SOUP_STATUS_FORBIDDEN, VMFERRY_ERROR_PERMISSION, text);
}

static void on_request(SoupServer *server, SoupServerMessage *message, const char *path,
                       GHashTable *query, gpointer user)
{
    const Door *door = user;
    const char *method = soup_server_message_get_method(message);
    const ApiCaller *caller = find_caller(door, message);
    ApiAccess access = caller ? caller->access : API_ACCESS_NONE;
    g_autofree char *guest = NULL;
    const ApiRoute *route;
    gboolean known;

    if (access == API_ACCESS_NONE) {
        refuse_caller(door, message, caller, API_ACCESS_READ);
    } else if (agent_context_is_stopping(door->api->context)) {
        refuse(message, SOUP_STATUS_SERVICE_UNAVAILABLE, VMFERRY_ERROR_BUSY,
               "the agent is being stopped");
    } else if (strcmp(path, "/v1/events") == 0 && strcmp(method, "GET") == 0) {
        serve_events(door, message, query);
    } else if ((route = api_route_find(method, path, &guest, &known))) {
        if (access < route->access) {
            refuse_caller(door, message, caller, route->access);
            return;
        }
        if (door->network && route->access > API_ACCESS_READ)
            log_info("API: %s: %s %s", caller->name, method, path);
        start_job(door, message, access, route, g_steal_pointer(&guest));
    } else {
        refuse(message, known ? SOUP_STATUS_METHOD_NOT_ALLOWED : SOUP_STATUS_NOT_FOUND,
               known ? VMFERRY_ERROR_UNSUPPORTED : VMFERRY_ERROR_NOT_FOUND,
               known ? "this path has no such method" : "there is no such path; see docs/api.md");
    }
}

/* Stops collecting a body that is too long: what comes is thrown away. */
static void on_got_chunk(SoupServerMessage *message, GBytes *chunk, gpointer user)
{
    SoupMessageBody *body = soup_server_message_get_request_body(message);

    if (body->length <= (goffset)API_BODY_LIMIT)
        return;
    soup_message_body_set_accumulate(body, FALSE);
    soup_message_body_truncate(body);
}

static void on_early_request(SoupServer *server, SoupServerMessage *message, const char *path,
                             GHashTable *query, gpointer user)
{
    SoupMessageHeaders *headers = soup_server_message_get_request_headers(message);

    /* libsoup 3.2 closes connections that it has not accepted itself after an answer; who knows that
     * does not send the next request into one. */
    soup_message_headers_replace(soup_server_message_get_response_headers(message), "Connection",
                                 "close");
    if (soup_message_headers_get_encoding(headers) == SOUP_ENCODING_CONTENT_LENGTH &&
        soup_message_headers_get_content_length(headers) > (goffset)API_BODY_LIMIT) {
        refuse(message, SOUP_STATUS_REQUEST_ENTITY_TOO_LARGE, VMFERRY_ERROR_INVALID,
               "the request is too long");
        return;
    }
    g_signal_connect(message, "got-chunk", G_CALLBACK(on_got_chunk), NULL);
}

static gboolean on_incoming(GSocketService *service, GSocketConnection *connection, GObject *source,
                            gpointer user)
{
    Api *api = user;
    g_autoptr(GSocketAddress) local = g_socket_connection_get_local_address(connection, NULL);
    g_autoptr(GSocketAddress) remote = g_socket_connection_get_remote_address(connection, NULL);
    g_autoptr(GError) error = NULL;

    if (local && remote &&
        !soup_server_accept_iostream(api->local.server, G_IO_STREAM(connection), local, remote,
                                     &error))
        log_debug("control API: %s", error->message);
    return TRUE;
}

/* Of the network. */
static void on_caller(GSocketConnection *connection, ApiCaller *caller, gpointer user)
{
    Api *api = user;
    g_autoptr(GSocketAddress) local = g_socket_connection_get_local_address(connection, NULL);
    g_autoptr(GSocketAddress) remote = g_socket_connection_get_remote_address(connection, NULL);
    g_autoptr(GError) error = NULL;

    if (!local || !remote || agent_context_is_stopping(api->context)) {
        api_caller_free(caller);
        return;
    }
    g_object_set_data_full(G_OBJECT(remote), CALLER_KEY, caller, (GDestroyNotify)api_caller_free);
    if (!soup_server_accept_iostream(api->network.server, G_IO_STREAM(connection), local, remote,
                                     &error))
        log_debug("API: %s", error->message);
}

static void on_wake(gpointer user)
{
    Api *api = user;

    api_streams_pump(api->streams);
}

static GSocketService *listen_on(Api *api, GError **error)
{
    g_autoptr(GSocket) socket = control_socket_open(api->context->settings->socket, error);
    GSocketService *service;

    if (!socket)
        return NULL;
    service = g_socket_service_new();
    if (!g_socket_listener_add_socket(G_SOCKET_LISTENER(service), socket, NULL, error)) {
        g_object_unref(service);
        return NULL;
    }
    g_signal_connect(service, "incoming", G_CALLBACK(on_incoming), api);
    return service;
}

static void open_door(Api *api, Door *door, gboolean network)
{
    *door = (Door){.api = api, .network = network};
    door->server = soup_server_new("server-header", "vmferry", NULL);
    soup_server_add_early_handler(door->server, NULL, on_early_request, door, NULL);
    soup_server_add_handler(door->server, NULL, on_request, door, NULL);
    door->workers =
        g_thread_pool_new(work, api, network ? API_NETWORK_WORKERS : API_WORKERS, FALSE, NULL);
}

/* Its workers have ended. */
static void close_door(Door *door)
{
    if (door->server)
        soup_server_disconnect(door->server);
    g_clear_object(&door->server);
}

static gboolean listen_on_network(Api *api, GError **error)
{
    if (g_str_equal(api->context->settings->api, "none"))
        return TRUE;
    open_door(api, &api->network, TRUE);
    api->tls = api_tls_new(api->context, on_caller, api, error);
    return api->tls != NULL;
}

Api *api_new(AgentContext *context, GError **error)
{
    Api *api = g_new0(Api, 1);

    api->context = context;
    api->service = listen_on(api, error);
    if (!api->service) {
        g_free(api);
        return NULL;
    }
    open_door(api, &api->local, FALSE);
    api->streams = api_streams_new(context);
    if (!listen_on_network(api, error)) {
        api_free(api);
        return NULL;
    }
    context->wake_user = api;
    context->on_wake = on_wake;
    g_socket_service_start(api->service);
    return api;
}

void api_stop(Api *api)
{
    if (g_socket_service_is_active(api->service)) {
        g_socket_service_stop(api->service);
        g_socket_listener_close(G_SOCKET_LISTENER(api->service));
        unlink(api->context->settings->socket);
    }
    if (api->tls)
        api_tls_stop(api->tls);
    api_streams_finish(api->streams);
}

gboolean api_is_idle(Api *api)
{
    return api->calls == 0 && api_streams_count(api->streams) == 0;
}

void api_free(Api *api)
{
    if (!api)
        return;
    api_stop(api);
    api->context->on_wake = NULL;
    g_thread_pool_free(api->local.workers, FALSE, TRUE);
    if (api->network.workers)
        g_thread_pool_free(api->network.workers, FALSE, TRUE);
    while (api->calls > 0)
        g_main_context_iteration(api->context->main, TRUE);
    close_door(&api->local);
    close_door(&api->network);
    api_tls_free(api->tls);
    api_streams_free(api->streams);
    g_object_unref(api->service);
    g_free(api);
}
