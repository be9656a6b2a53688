#include "vmm/qemu/qmp_private.h"

#include "base/error.h"
#include "base/json.h"
#include "vmm/qemu/qmp_line.h"

void qmp_init(Qmp *qmp, const QmpOps *ops, const char *path)
{
    qmp->ops = ops;
    qmp->path = g_strdup(path);
    g_mutex_init(&qmp->event_lock);
}

void qmp_clear(Qmp *qmp)
{
    g_free(qmp->path);
    g_mutex_clear(&qmp->event_lock);
}

void qmp_free(Qmp *qmp)
{
    if (qmp)
        qmp->ops->free(qmp);
}

void qmp_set_event_func(Qmp *qmp, QmpEventFunc func, gpointer user)
{
    g_mutex_lock(&qmp->event_lock);
    qmp->event_func = func;
    qmp->event_user = user;
    g_mutex_unlock(&qmp->event_lock);
}

void qmp_deliver_event(Qmp *qmp, const char *event, json_t *data)
{
    g_mutex_lock(&qmp->event_lock);
    if (qmp->event_func)
        qmp->event_func(event, data, qmp->event_user);
    g_mutex_unlock(&qmp->event_lock);
}

gboolean qmp_is_connected(Qmp *qmp)
{
    return qmp->ops->is_connected(qmp);
}

gboolean qmp_has_late_events(Qmp *qmp)
{
    return qmp->late_events;
}

gboolean qmp_check_not_resumed(Qmp *qmp, GError **error)
{
    return !qmp->ops->check_not_resumed || qmp->ops->check_not_resumed(qmp, error);
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

    reply = qmp->ops->exchange(qmp, "execute", command, owned, fd, timeout_ms, error);
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
    reply = qmp->ops->exchange(qmp, "exec-oob", command, owned, -1, timeout_ms, error);
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
