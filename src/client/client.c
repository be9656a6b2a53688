#include "client/client.h"

#include <gio/gunixsocketaddress.h>
#include <libsoup/soup.h>
#include <string.h>

#include "base/error.h"

#define ANSWER_LIMIT (64u << 20)

struct Client {
    char *socket;
    SoupSession *session;
    json_t *refusal; /* the last one */
};

static const char *choose_socket(const char *socket)
{
    const char *variable = g_getenv("VMFERRY_SOCKET");

    if (socket)
        return socket;
    return variable && *variable ? variable : CLIENT_DEFAULT_SOCKET;
}

Client *client_new(const char *socket)
{
    Client *client = g_new0(Client, 1);
    g_autoptr(GSocketAddress) address = NULL;

    client->socket = g_strdup(choose_socket(socket));
    address = g_unix_socket_address_new(client->socket);
    client->session =
        soup_session_new_with_options("remote-connectable", address, "user-agent", "vmferry", NULL);
    return client;
}

void client_free(Client *client)
{
    if (!client)
        return;
    g_object_unref(client->session);
    json_decref(client->refusal);
    g_free(client->socket);
    g_free(client);
}

static void set_unreachable(Client *client, const GError *cause, GError **error)
{
    if (g_error_matches(cause, G_IO_ERROR, G_IO_ERROR_PERMISSION_DENIED))
        error_set(error, VMFERRY_ERROR_PERMISSION,
                  "not allowed to talk to the agent at %s: be root, or a member of the group "
                  "\"vmferry\"",
                  client->socket);
    else
        error_set(error, VMFERRY_ERROR_DISCONNECTED,
                  "cannot reach the agent at %s: is `vmferry agent` running? (VMFERRY_SOCKET or "
                  "--socket)",
                  client->socket);
}

static SoupMessage *make_message(const char *method, const char *path, json_t *body)
{
    g_autofree char *uri = g_strconcat("http://localhost", path, NULL);
    SoupMessage *message = soup_message_new(method, uri);
    g_autoptr(json_t) own = body;
    g_autoptr(GBytes) bytes = NULL;
    char *text;

    if (!own)
        return message;
    text = json_dumps(own, JSON_LINE);
    bytes = g_bytes_new(text, strlen(text));
    free(text);
    soup_message_set_request_body_from_bytes(message, "application/json", bytes);
    return message;
}

static gboolean read_answer(GInputStream *stream, GString *text, GError **error)
{
    char buffer[16384];
    gssize got;

    while ((got = g_input_stream_read(stream, buffer, sizeof buffer, NULL, error)) > 0) {
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

    if (!read_answer(stream, text, error))
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

static GInputStream *send_request(Client *client, SoupMessage *message, GError **error)
{
    g_autoptr(GError) cause = NULL;
    GInputStream *stream = soup_session_send(client->session, message, NULL, &cause);

    if (!stream)
        set_unreachable(client, cause, error);
    return stream;
}

json_t *client_call(Client *client, const char *method, const char *path, json_t *body,
                    GError **error)
{
    g_autoptr(SoupMessage) message = make_message(method, path, body);
    g_autoptr(GInputStream) stream = send_request(client, message, error);

    return stream ? take_answer(client, stream, soup_message_get_status(message), error) : NULL;
}

/* FALSE with *error*: the connection or the agent ended before its time. */
static gboolean read_lines(GInputStream *stream, ClientLine on_line, gpointer user, GError **error)
{
    g_autoptr(GDataInputStream) lines = g_data_input_stream_new(stream);

    for (;;) {
        g_autoptr(GError) cause = NULL;
        gsize length;
        g_autofree char *line = g_data_input_stream_read_line(lines, &length, NULL, &cause);
        g_autoptr(json_t) object = NULL;

        if (!line && !cause)
            return TRUE;
        if (!line) {
            error_set(error, VMFERRY_ERROR_DISCONNECTED, "the agent went away");
            return FALSE;
        }
        if (length == 0) /* a keep-alive */
            continue;
        object = json_parse_object(line, length, ANSWER_LIMIT, error);
        if (!object)
            return FALSE;
        if (!on_line(object, user))
            return TRUE;
    }
}

gboolean client_stream(Client *client, const char *method, const char *path, json_t *body,
                       ClientLine on_line, gpointer user, GError **error)
{
    g_autoptr(SoupMessage) message = make_message(method, path, body);
    g_autoptr(GInputStream) stream = send_request(client, message, error);

    if (!stream)
        return FALSE;
    if (soup_message_get_status(message) >= 400) {
        g_autoptr(json_t) nothing =
            take_answer(client, stream, soup_message_get_status(message), error);

        return nothing != NULL;
    }
    return read_lines(stream, on_line, user, error);
}
