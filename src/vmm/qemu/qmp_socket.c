/* QMP over a Unix socket. */
#include "vmm/qemu/qmp_private.h"

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

typedef struct {
    Qmp base; /* *oob*: offered, and then agreed on */
    int fd;
    GThread *reader;
    QmpLines *lines; /* of the reader thread; before it starts, of the opener */

    GMutex write_lock;
    GMutex fd_lock;

    GMutex lock;         /* guards all below */
    GHashTable *waiting; /* id → Waiting */
    guint64 next_id;
    gboolean closed;
    GError *cause; /* why, once closed */
} QmpSocket;

static void socket_end(QmpSocket *qmp)
{
    qmp_free(&qmp->base);
}
G_DEFINE_AUTOPTR_CLEANUP_FUNC(QmpSocket, socket_end)

/* Reads once and splits; FALSE when the connection is over. */
static gboolean receive_some(QmpSocket *qmp, GError **error)
{
    char buffer[65536];
    ssize_t got;

    do
        got = recv(qmp->fd, buffer, sizeof buffer, 0);
    while (got < 0 && errno == EINTR);
    if (got < 0 && errno != ECONNRESET) {
        error_set_errno(error, errno, "QMP socket %s", qmp->base.path);
        return FALSE;
    }
    if (got <= 0) {
        error_set(error, VMFERRY_ERROR_DISCONNECTED, "QEMU closed the QMP socket %s",
                  qmp->base.path);
        return FALSE;
    }
    return qmp_lines_add(qmp->lines, buffer, (size_t)got, error);
}

static void deliver_event(QmpSocket *qmp, json_t *message)
{
    const char *event = json_text_or(message, "event", NULL);

    if (event)
        qmp_deliver_event(&qmp->base, event, json_object_get(message, "data"));
}

static void deliver_reply(QmpSocket *qmp, json_t *message)
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

static gboolean handle_lines(QmpSocket *qmp, GError **error)
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

static void close_with(QmpSocket *qmp, GError *cause)
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
    QmpSocket *qmp = data;
    GError *error = NULL;

    while (handle_lines(qmp, &error) && receive_some(qmp, &error))
        ;
    close_with(qmp, error);
    return NULL;
}

/* The next message before the reader thread runs; NULL with *error*. */
static json_t *receive_first(QmpSocket *qmp, gint64 deadline, GError **error)
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
                      qmp->base.path);
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

static gboolean expect_greeting(QmpSocket *qmp, gint64 deadline, GError **error)
{
    g_autoptr(GError) problem = NULL;
    g_autoptr(json_t) greeting = receive_first(qmp, deadline, &problem);

    if (json_is_object(json_object_get(greeting, "QMP"))) {
        qmp->base.oob = offers_oob(greeting);
        return TRUE;
    }
    /* A monitor for users sends text, too, but not JSON. */
    if (problem && !error_is(problem, VMFERRY_ERROR_INVALID)) {
        g_propagate_error(error, g_steal_pointer(&problem));
        return FALSE;
    }
    error_set(error, VMFERRY_ERROR_INVALID, "%s is not a QMP socket: it does not greet as QMP does",
              qmp->base.path);
    return FALSE;
}

static gboolean send_command(QmpSocket *qmp, const char *text, size_t length, int fd,
                             gint64 deadline, GError **error)
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
static gboolean await_reply(QmpSocket *qmp, Waiting *waiting, gint64 deadline, int timeout_ms,
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

static json_t *exchange(QmpSocket *qmp, const char *verb, const char *command, json_t *arguments,
                        int fd, int timeout_ms, GError **error)
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

/* ---- the table, and opening ---- */

static void socket_free(Qmp *base)
{
    QmpSocket *qmp = (QmpSocket *)base;

    shutdown(qmp->fd, SHUT_RDWR);
    if (qmp->reader)
        g_thread_join(qmp->reader);
    fd_close(&qmp->fd);
    qmp_lines_free(qmp->lines);
    g_hash_table_unref(qmp->waiting);
    g_clear_error(&qmp->cause);
    g_mutex_clear(&qmp->write_lock);
    g_mutex_clear(&qmp->fd_lock);
    g_mutex_clear(&qmp->lock);
    qmp_clear(base);
    g_free(qmp);
}

static gboolean socket_is_connected(Qmp *base)
{
    QmpSocket *qmp = (QmpSocket *)base;
    gboolean closed;

    g_mutex_lock(&qmp->lock);
    closed = qmp->closed;
    g_mutex_unlock(&qmp->lock);
    return !closed;
}

static json_t *socket_exchange(Qmp *base, const char *verb, const char *command, json_t *arguments,
                               int fd, int timeout_ms, GError **error)
{
    QmpSocket *qmp = (QmpSocket *)base;
    json_t *reply;

    if (fd >= 0)
        g_mutex_lock(&qmp->fd_lock);
    reply = exchange(qmp, verb, command, arguments, fd, timeout_ms, error);
    if (fd >= 0)
        g_mutex_unlock(&qmp->fd_lock);
    return reply;
}

static const QmpOps socket_ops = {
    .free = socket_free,
    .exchange = socket_exchange,
    .is_connected = socket_is_connected,
};

static QmpSocket *socket_new(int fd, const char *path)
{
    QmpSocket *qmp = g_new0(QmpSocket, 1);

    qmp_init(&qmp->base, &socket_ops, path);
    qmp->fd = fd;
    qmp->lines = qmp_lines_new(QMP_MAX_LINE_BYTES);
    qmp->waiting = g_hash_table_new(g_int64_hash, g_int64_equal);
    qmp->next_id = 1;
    g_mutex_init(&qmp->write_lock);
    g_mutex_init(&qmp->fd_lock);
    g_mutex_init(&qmp->lock);
    return qmp;
}

/* A program between us and QEMU may pass the offer on, and not the answer to it. */
static gboolean negotiate(QmpSocket *qmp, int timeout_ms, GError **error)
{
    g_autoptr(GError) refusal = NULL;

    if (qmp->base.oob && qmp_run(&qmp->base, "qmp_capabilities",
                                 json_pack("{s:[s]}", "enable", "oob"), timeout_ms, &refusal))
        return TRUE;
    if (refusal && !error_is(refusal, VMFERRY_ERROR_FAILED)) {
        g_propagate_error(error, g_steal_pointer(&refusal));
        return FALSE;
    }
    qmp->base.oob = FALSE;
    return qmp_run(&qmp->base, "qmp_capabilities", NULL, timeout_ms, error);
}

/* Greeted, with its reader thread; not in command mode yet. */
static QmpSocket *open_greeted(int fd, const char *path, int greeting_ms, GError **error)
{
    g_autoptr(QmpSocket) qmp = socket_new(fd, path);
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
    g_autoptr(QmpSocket) qmp = open_greeted(fd, path, greeting_ms, error);

    if (!qmp || !negotiate(qmp, answer_ms(greeting_ms), error))
        return NULL;
    return &g_steal_pointer(&qmp)->base;
}

Qmp *qmp_connect(const char *path, int greeting_ms, GError **error)
{
    int fd = connect_to(path, error);

    return fd < 0 ? NULL : qmp_connect_fd(fd, path, greeting_ms, error);
}

/* Of two commands the second is answered with success only where the first one was. */
static gboolean negotiate_starting(QmpSocket *qmp, int greeting_ms, GError **error)
{
    g_autoptr(GError) failure = NULL;
    autofd int other = -1;

    if (negotiate(qmp, STARTING_MS, &failure))
        return TRUE;
    if (!error_is(failure, VMFERRY_ERROR_TIMEOUT)) {
        g_propagate_error(error, g_steal_pointer(&failure));
        return FALSE;
    }
    other = unix_socket_connect(qmp->base.path, NULL);
    return qmp_run(&qmp->base, "query-version", NULL, answer_ms(greeting_ms), error);
}

Qmp *qmp_connect_starting(const char *path, int greeting_ms, GError **error)
{
    int fd = connect_to(path, error);
    g_autoptr(QmpSocket) qmp = fd < 0 ? NULL : open_greeted(fd, path, greeting_ms, error);

    return qmp && negotiate_starting(qmp, greeting_ms, error) ? &g_steal_pointer(&qmp)->base : NULL;
}
