#include "vmm/qemu/guest_agent.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/json.h"
#include "base/unix_socket.h"
#include "vmm/qemu/qmp_line.h"

#define MARK 0xff
#define SLICE_MS 100
#define PIECE_BYTES 4096
/* Answers of those commands that are given here have some tens of bytes. */
#define MAX_LINE_BYTES 65536u
#define MAX_WAIT_BYTES (1u << 20)

struct GuestAgent {
    int fd;
    gboolean (*gives_up)(gpointer user);
    gpointer user;
    gboolean marked; /* a mark has come since the last sync */
    QmpLines *lines; /* what has come since that */
    size_t received; /* since something is waited for */
};

GuestAgent *guest_agent_new(int fd, gboolean (*gives_up)(gpointer user), gpointer user)
{
    GuestAgent *agent = g_new0(GuestAgent, 1);

    agent->fd = fd;
    agent->gives_up = gives_up;
    agent->user = user;
    agent->lines = qmp_lines_new(MAX_LINE_BYTES);
    return agent;
}

void guest_agent_free(GuestAgent *agent)
{
    if (!agent)
        return;
    fd_close(&agent->fd);
    qmp_lines_free(agent->lines);
    g_free(agent);
}

/* ---- bytes ---- */

static gboolean refuse(GError **error)
{
    error_set(error, VMFERRY_ERROR_INVALID, "the agent in the guest says what is no answer");
    return FALSE;
}

static gboolean take(GuestAgent *agent, const char *data, size_t length, GError **error)
{
    const char *mark = memrchr(data, MARK, length);

    agent->received += length;
    if (agent->received > MAX_WAIT_BYTES) {
        error_set(error, VMFERRY_ERROR_INVALID, "the agent in the guest says too much");
        return FALSE;
    }
    if (mark) {
        agent->marked = TRUE;
        qmp_lines_free(agent->lines);
        agent->lines = qmp_lines_new(MAX_LINE_BYTES);
        length -= (size_t)(mark + 1 - data);
        data = mark + 1;
    }
    return !agent->marked || qmp_lines_add(agent->lines, data, length, NULL) || refuse(error);
}

/* Waits for a moment, and reads what has come; nothing is no error. */
static gboolean hear(GuestAgent *agent, GError **error)
{
    char data[PIECE_BYTES];
    int ready = fd_wait_readable(agent->fd, SLICE_MS, error);
    ssize_t length;

    if (ready <= 0)
        return ready == 0;
    length = recv(agent->fd, data, sizeof(data), MSG_DONTWAIT);
    if (length < 0 && (errno == EAGAIN || errno == EINTR))
        return TRUE;
    if (length > 0)
        return take(agent, data, (size_t)length, error);
    error_set(error, VMFERRY_ERROR_DISCONNECTED, "the connection to the guest's agent has ended");
    return FALSE;
}

static gboolean may_go_on(const GuestAgent *agent, gint64 deadline, GError **error)
{
    if (agent->gives_up && agent->gives_up(agent->user)) {
        error_set(error, VMFERRY_ERROR_CANCELLED, "cancelled");
        return FALSE;
    }
    if (g_get_monotonic_time() < deadline)
        return TRUE;
    error_set(error, VMFERRY_ERROR_TIMEOUT, "the agent in the guest does not answer");
    return FALSE;
}

/* The next object; NULL with *error*. */
static json_t *await_message(GuestAgent *agent, gint64 deadline, GError **error)
{
    json_t *message = NULL;

    for (;;) {
        if (agent->marked && !qmp_lines_next(agent->lines, &message, NULL)) {
            refuse(error);
            return NULL;
        }
        if (message)
            return message;
        if (!may_go_on(agent, deadline, error) || !hear(agent, error))
            return NULL;
    }
}

/* Takes *command*. */
static gboolean say(GuestAgent *agent, const char *before, json_t *command, gint64 deadline,
                    GError **error)
{
    g_autoptr(json_t) object = command;
    char *text = json_dumps(object, JSON_COMPACT);
    g_autofree char *line = g_strdup_printf("%s%s\n", before, text);
    size_t sent;

    free(text);
    return unix_socket_send(agent->fd, line, strlen(line), -1, deadline, &sent, error);
}

/* ---- commands ---- */

static gint64 in_ms(guint ms)
{
    return g_get_monotonic_time() + ms * G_TIME_SPAN_MILLISECOND;
}

gboolean guest_agent_sync(GuestAgent *agent, guint timeout_ms, GError **error)
{
    json_int_t number = g_random_int_range(1, G_MAXINT32);
    gint64 deadline = in_ms(timeout_ms);

    agent->marked = FALSE;
    agent->received = 0;
    if (!say(agent, "\xff",
             json_pack("{s:s, s:{s:I}}", "execute", "guest-sync-delimited", "arguments", "id",
                       number),
             deadline, error))
        return FALSE;
    for (;;) {
        g_autoptr(json_t) answer = await_message(agent, deadline, error);

        if (!answer)
            return FALSE;
        if (json_integer_value(json_object_get(answer, "return")) == number)
            return TRUE;
    }
}

static void set_agent_error(json_t *answer, const char *command, GError **error)
{
    json_t *details = json_object_get(answer, "error");

    error_set(error, VMFERRY_ERROR_FAILED, "the agent in the guest says to %s: %.500s", command,
              json_text_or(details, "desc", "something that is no answer"));
}

json_t *guest_agent_execute(GuestAgent *agent, const char *command, json_t *arguments,
                            guint timeout_ms, GError **error)
{
    g_autoptr(json_t) request =
        json_pack("{s:s, s:o*}", "execute", command, "arguments", arguments);
    gint64 deadline = in_ms(timeout_ms);
    g_autoptr(json_t) answer = NULL;

    agent->received = 0;
    if (!say(agent, "", json_incref(request), deadline, error))
        return NULL;
    answer = await_message(agent, deadline, error);
    if (!answer)
        return NULL;
    if (json_object_get(answer, "return"))
        return json_incref(json_object_get(answer, "return"));
    set_agent_error(answer, command, error);
    return NULL;
}
