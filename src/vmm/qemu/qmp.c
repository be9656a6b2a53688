#include "vmm/qemu/qmp.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/json.h"
#include "vmm/qemu/qmp_line.h"
#include "base/unix_socket.h"

/* A command whose reply is awaited; lives on its caller's stack. */
typedef struct {
    GCond done;
    json_t *reply; /* NULL until it came */
} Waiting;

/* See qmp_connect_starting(). */
#define STARTING_MS 1000

struct Qmp {
    int fd;
    char *path;
    GThread *reader;
    QmpLines *lines; /* of the reader thread; before it starts, of the opener */
    gboolean oob;    /* out-of-band execution: offered, and then agreed on */

    GMutex write_lock;
    GMutex fd_lock;

    GMutex lock;         /* guards all below */
    GHashTable *waiting; /* id → Waiting */
    guint64 next_id;
    gboolean closed;
    GError *cause; /* why, once closed */

    GMutex event_lock; /* held while the callback runs */
    QmpEventFunc event_func;
    gpointer event_user;
};

/* Reads once and splits; FALSE when the connection is over. */
static gboolean receive_some(Qmp *qmp, GError **error)
{
    char buffer[65536];
    ssize_t got;

    do
        got = recv(qmp->fd, buffer, sizeof buffer, 0);
    while (got < 0 && errno == EINTR);
    if (got < 0 && errno != ECONNRESET) {
        error_set_errno(error, errno, "QMP socket %s", qmp->path);
        return FALSE;
    }
    if (got <= 0) {
        error_set(error, VMFERRY_ERROR_DISCONNECTED, "QEMU closed the QMP socket %s", qmp->path);
        return FALSE;
    }
    return qmp_lines_add(qmp->lines, buffer, (size_t)got, error);
}

static void deliver_event(Qmp *qmp, json_t *message)
{
    const char *event = json_text_or(message, "event", NULL);

    g_mutex_lock(&qmp->event_lock);
    if (event && qmp->event_func)
        qmp->event_func(event, json_object_get(message, "data"), qmp->event_user);
    g_mutex_unlock(&qmp->event_lock);
}

static void deliver_reply(Qmp *qmp, json_t *message)
{
    guint64 id = json_count_or(message, "id", 0);
    Waiting *waiting;

    g_mutex_lock(&qmp->lock);
    waiting = g_hash_table_lookup(qmp->waiting, &id);
    if (waiting && !waiting->reply) {
        waiting->reply = json_incref(message);
        g_cond_signal(&waiting->done);
    }
    g_mutex_unlock(&qmp->lock);
}

static gboolean handle_lines(Qmp *qmp, GError **error)
{
    for (;;) {
        g_autoptr(json_t) message = NULL;

        if (!qmp_lines_next(qmp->lines, &message, error))
            return FALSE;
        if (!message)
            return TRUE;
        if (json_object_get(message, "event"))
            deliver_event(qmp, message);
        else
            deliver_reply(qmp, message);
    }
}

static void close_with(Qmp *qmp, GError *cause)
{
    GHashTableIter iter;
    gpointer value;

    g_mutex_lock(&qmp->lock);
    qmp->closed = TRUE;
    qmp->cause = cause;
    g_hash_table_iter_init(&iter, qmp->waiting);
    while (g_hash_table_iter_next(&iter, NULL, &value))
        g_cond_signal(&((Waiting *)value)->done);
    g_mutex_unlock(&qmp->lock);
    /* A connection given up for nonsense must not take more commands. */
    shutdown(qmp->fd, SHUT_RDWR);
}

static gpointer reader_main(gpointer data)
{
    Qmp *qmp = data;
    GError *error = NULL;

    while (handle_lines(qmp, &error) && receive_some(qmp, &error))
        ;
    close_with(qmp, error);
    return NULL;
}

/* The next message before the reader thread runs; NULL with *error*. */
static json_t *receive_first(Qmp *qmp, gint64 deadline, GError **error)
{
    for (;;) {
        json_t *message = NULL;
        gint64 left_ms = (deadline - g_get_monotonic_time()) / 1000;
        int ready;

        if (!qmp_lines_next(qmp->lines, &message, error))
            return NULL;
        if (message)
            return message;
        ready = fd_wait_readable(qmp->fd, (int)CLAMP(left_ms, 0, G_MAXINT), error);
        if (ready < 0)
            return NULL;
        if (ready == 0) {
            error_set(error, VMFERRY_ERROR_BUSY,
                      "QMP socket %s is busy: another program is connected to it (libvirt?), "
                      "or QEMU hangs",
                      qmp->path);
            return NULL;
        }
        if (!receive_some(qmp, error))
            return NULL;
    }
}

static gboolean offers_oob(json_t *greeting)
{
    json_t *capabilities = json_object_get(json_object_get(greeting, "QMP"), "capabilities");
    json_t *capability;
    size_t i;

    json_array_foreach(capabilities, i, capability)
    {
        if (g_strcmp0(json_string_value(capability), "oob") == 0)
            return TRUE;
    }
    return FALSE;
}

static gboolean expect_greeting(Qmp *qmp, gint64 deadline, GError **error)
{
    g_autoptr(GError) problem = NULL;
    g_autoptr(json_t) greeting = receive_first(qmp, deadline, &problem);

    if (json_is_object(json_object_get(greeting, "QMP"))) {
        qmp->oob = offers_oob(greeting);
        return TRUE;
    }
    /* A monitor for users sends text, too, but not JSON. */
    if (problem && !error_is(problem, VMFERRY_ERROR_INVALID)) {
        g_propagate_error(error, g_steal_pointer(&problem));
        return FALSE;
    }
    error_set(error, VMFERRY_ERROR_INVALID, "%s is not a QMP socket: it does not greet as QMP does",
              qmp->path);
    return FALSE;
}

static Qmp *qmp_new(int fd, const char *path)
{
    Qmp *qmp = g_new0(Qmp, 1);

    qmp->fd = fd;
    qmp->path = g_strdup(path);
    qmp->lines = qmp_lines_new(QMP_MAX_LINE_BYTES);
    qmp->waiting = g_hash_table_new(g_int64_hash, g_int64_equal);
    qmp->next_id = 1;
    g_mutex_init(&qmp->write_lock);
    g_mutex_init(&qmp->fd_lock);
    g_mutex_init(&qmp->lock);
    g_mutex_init(&qmp->event_lock);
    return qmp;
}

/* A program between us and QEMU may pass the offer on, and not the answer to it. */
static gboolean negotiate(Qmp *qmp, int timeout_ms, GError **error)
{
    g_autoptr(GError) refusal = NULL;

    if (qmp->oob && qmp_run(qmp, "qmp_capabilities", json_pack("{s:[s]}", "enable", "oob"),
                            timeout_ms, &refusal))
        return TRUE;
    if (refusal && !error_is(refusal, VMFERRY_ERROR_FAILED)) {
        g_propagate_error(error, g_steal_pointer(&refusal));
        return FALSE;
    }
    qmp->oob = FALSE;
    return qmp_run(qmp, "qmp_capabilities", NULL, timeout_ms, error);
}

/* Greeted, with its reader thread; not in command mode yet. */
static Qmp *open_greeted(int fd, const char *path, int greeting_ms, GError **error)
{
    g_autoptr(Qmp) qmp = qmp_new(fd, path);
    gint64 deadline = g_get_monotonic_time() + (gint64)greeting_ms * 1000;

    if (!expect_greeting(qmp, deadline, error))
        return NULL;
    qmp->reader = g_thread_try_new("qmp", reader_main, qmp, error);
    return qmp->reader ? g_steal_pointer(&qmp) : NULL;
}

static int connect_to(const char *path, GError **error)
{
    int fd = unix_socket_connect(path, error);

    if (fd < 0)
        g_prefix_error(error, "QMP: ");
    return fd;
}

static int answer_ms(int greeting_ms)
{
    return MAX(greeting_ms, QMP_COMMAND_MS);
}

Qmp *qmp_connect_fd(int fd, const char *path, int greeting_ms, GError **error)
{
    g_autoptr(Qmp) qmp = open_greeted(fd, path, greeting_ms, error);

    if (!qmp || !negotiate(qmp, answer_ms(greeting_ms), error))
        return NULL;
    return g_steal_pointer(&qmp);
}

Qmp *qmp_connect(const char *path, int greeting_ms, GError **error)
{
    int fd = connect_to(path, error);

    return fd < 0 ? NULL : qmp_connect_fd(fd, path, greeting_ms, error);
}

/* Of two commands the second is answered with success only where the first one was. */
static gboolean negotiate_starting(Qmp *qmp, int greeting_ms, GError **error)
{
    g_autoptr(GError) failure = NULL;
    autofd int other = -1;

    if (negotiate(qmp, STARTING_MS, &failure))
        return TRUE;
    if (!error_is(failure, VMFERRY_ERROR_TIMEOUT)) {
        g_propagate_error(error, g_steal_pointer(&failure));
        return FALSE;
    }
    other = unix_socket_connect(qmp->path, NULL);
    return qmp_run(qmp, "query-version", NULL, answer_ms(greeting_ms), error);
}

Qmp *qmp_connect_starting(const char *path, int greeting_ms, GError **error)
{
    int fd = connect_to(path, error);
    g_autoptr(Qmp) qmp = fd < 0 ? NULL : open_greeted(fd, path, greeting_ms, error);

    return qmp && negotiate_starting(qmp, greeting_ms, error) ? g_steal_pointer(&qmp) : NULL;
}

void qmp_free(Qmp *qmp)
{
    if (!qmp)
        return;
    shutdown(qmp->fd, SHUT_RDWR);
    if (qmp->reader)
        g_thread_join(qmp->reader);
    fd_close(&qmp->fd);
    g_free(qmp->path);
    qmp_lines_free(qmp->lines);
    g_hash_table_unref(qmp->waiting);
    g_clear_error(&qmp->cause);
    g_mutex_clear(&qmp->write_lock);
    g_mutex_clear(&qmp->fd_lock);
    g_mutex_clear(&qmp->lock);
    g_mutex_clear(&qmp->event_lock);
    g_free(qmp);
}

void qmp_set_event_func(Qmp *qmp, QmpEventFunc func, gpointer user)
{
    g_mutex_lock(&qmp->event_lock);
    qmp->event_func = func;
    qmp->event_user = user;
    g_mutex_unlock(&qmp->event_lock);
}

gboolean qmp_is_connected(Qmp *qmp)
{
    gboolean closed;

    g_mutex_lock(&qmp->lock);
    closed = qmp->closed;
    g_mutex_unlock(&qmp->lock);
    return !closed;
}

static gboolean send_command(Qmp *qmp, const char *text, size_t length, int fd, gint64 deadline,
                             GError **error)
{
    g_autoptr(GMutexLocker) locker G_GNUC_UNUSED = g_mutex_locker_new(&qmp->write_lock);
    size_t sent = 0;

    if (unix_socket_send(qmp->fd, text, length, fd, deadline, &sent, error))
        return TRUE;
    g_prefix_error(error, "QEMU's socket: ");
    /* Half a command would spoil all that follow. */
    if (sent > 0)
        shutdown(qmp->fd, SHUT_RDWR);
    return FALSE;
}

/* Waits for the reply; with *lock* held. */
static gboolean await_reply(Qmp *qmp, Waiting *waiting, gint64 deadline, int timeout_ms,
                            GError **error)
{
    while (!waiting->reply && !qmp->closed)
        if (!g_cond_wait_until(&waiting->done, &qmp->lock, deadline))
            break;
    if (waiting->reply)
        return TRUE;
    if (qmp->closed)
        error_set(error, VMFERRY_ERROR_DISCONNECTED, "%s",
                  qmp->cause ? qmp->cause->message : "QMP connection is closed");
    else
        error_set(error, VMFERRY_ERROR_TIMEOUT, "QEMU gave no answer within %d ms", timeout_ms);
    return FALSE;
}

/* *verb*: "execute" or "exec-oob" */
static char *command_text(const char *verb, const char *command, json_t *arguments, guint64 id,
                          size_t *ret_length)
{
    g_autoptr(json_t) message = json_object();
    g_autofree char *line = NULL;
    char *dump;

    json_object_set_new(message, verb, json_string(command));
    json_object_set_new(message, "id", json_integer((json_int_t)id));
    if (arguments)
        json_object_set(message, "arguments", arguments);
    dump = json_dumps(message, JSON_COMPACT);
    if (!dump)
        return NULL;
    line = g_strconcat(dump, "\n", NULL);
    free(dump);
    *ret_length = strlen(line);
    return g_steal_pointer(&line);
}

/* Sends and waits; the reply object as it came, NULL with *error*. */
static json_t *exchange(Qmp *qmp, const char *verb, const char *command, json_t *arguments, int fd,
                        int timeout_ms, GError **error)
{
    gint64 deadline = g_get_monotonic_time() + (gint64)timeout_ms * 1000;
    g_autofree char *text = NULL;
    size_t length = 0;
    Waiting waiting = {0};
    guint64 id;

    g_cond_init(&waiting.done);
    g_mutex_lock(&qmp->lock);
    id = qmp->next_id++;
    g_hash_table_insert(qmp->waiting, &id, &waiting);
    g_mutex_unlock(&qmp->lock);

    text = command_text(verb, command, arguments, id, &length);
    if (!text)
        error_set(error, VMFERRY_ERROR_INVALID, "arguments are not valid UTF-8");
    gboolean sent = text && send_command(qmp, text, length, fd, deadline, error);

    g_mutex_lock(&qmp->lock);
    if (sent)
        (void)await_reply(qmp, &waiting, deadline, timeout_ms, error);
    g_hash_table_remove(qmp->waiting, &id);
    g_mutex_unlock(&qmp->lock);
    g_cond_clear(&waiting.done);
    return waiting.reply;
}

/* The "return" value of a reply as it came, NULL with *error*. */
static json_t *take_value(json_t *reply, const char *command, GError **error)
{
    if (!reply || json_object_get(reply, "error")) {
        if (reply)
            qmp_set_reply_error(reply, error);
        g_prefix_error(error, "%s: ", command);
        return NULL;
    }
    if (!json_object_get(reply, "return")) {
        error_set(error, VMFERRY_ERROR_INVALID, "%s: QEMU's answer has no \"return\"", command);
        return NULL;
    }
    return json_incref(json_object_get(reply, "return"));
}

json_t *qmp_execute_fd(Qmp *qmp, const char *command, json_t *arguments, int fd, int timeout_ms,
                       GError **error)
{
    g_autoptr(json_t) owned = arguments;
    g_autoptr(json_t) reply = NULL;

    if (fd >= 0)
        g_mutex_lock(&qmp->fd_lock);
    reply = exchange(qmp, "execute", command, owned, fd, timeout_ms, error);
    if (fd >= 0)
        g_mutex_unlock(&qmp->fd_lock);
    return take_value(reply, command, error);
}

gboolean qmp_run_oob(Qmp *qmp, const char *command, json_t *arguments, int timeout_ms,
                     GError **error)
{
    g_autoptr(json_t) owned = arguments;
    g_autoptr(json_t) reply = NULL, value = NULL;

    if (!qmp->oob) {
        error_set(error, VMFERRY_ERROR_UNSUPPORTED,
                  "%s: QEMU offers no out-of-band execution on %s", command, qmp->path);
        return FALSE;
    }
    reply = exchange(qmp, "exec-oob", command, owned, -1, timeout_ms, error);
    value = take_value(reply, command, error);
    return value != NULL;
}

json_t *qmp_execute(Qmp *qmp, const char *command, json_t *arguments, int timeout_ms,
                    GError **error)
{
    return qmp_execute_fd(qmp, command, arguments, -1, timeout_ms, error);
}

gboolean qmp_run(Qmp *qmp, const char *command, json_t *arguments, int timeout_ms, GError **error)
{
    g_autoptr(json_t) value = qmp_execute(qmp, command, arguments, timeout_ms, error);

    return value != NULL;
}

char *qmp_execute_human(Qmp *qmp, const char *line, int timeout_ms, GError **error)
{
    g_autoptr(json_t) value = NULL;

    value = qmp_execute(qmp, "human-monitor-command", json_pack("{s:s}", "command-line", line),
                        timeout_ms, error);
    if (!value)
        return NULL;
    if (!json_is_string(value)) {
        error_set(error, VMFERRY_ERROR_INVALID, "%s: QEMU's answer is not text", line);
        return NULL;
    }
    return g_strdup(json_string_value(value));
}
