/* What carries QMP: for the client (qmp.c) and for who makes one (qmp_socket.c, qmp_libvirt.c). */
#pragma once

#include "vmm/qemu/qmp.h"

/* Any thread may call these at any time, but for free(). */
typedef struct {
    void (*free)(Qmp *qmp); /* ends waiting commands, and events; and frees *qmp* itself */
    /* Sends and waits: the reply object as it came, NULL with *error*.  *verb*: "execute" or "exec-oob";
     * *arguments* (may be NULL) and *fd* (or -1) stay the caller's. */
    json_t *(*exchange)(Qmp *qmp, const char *verb, const char *command, json_t *arguments, int fd,
                        int timeout_ms, GError **error);
    gboolean (*is_connected)(Qmp *qmp);
    /* See qmp_check_not_resumed().  NULL: events tell. */
    gboolean (*check_not_resumed)(Qmp *qmp, GError **error);
} QmpOps;

struct Qmp {
    const QmpOps *ops;
    char *path;   /* for error texts */
    gboolean oob; /* out-of-band execution was agreed on */
    gboolean late_events;
    GMutex event_lock; /* held while the callback runs */
    QmpEventFunc event_func;
    gpointer event_user;
};

/* For a fresh, zeroed object, and before it is freed. */
void qmp_init(Qmp *qmp, const QmpOps *ops, const char *path);
void qmp_clear(Qmp *qmp);

/* *data* is borrowed and may be NULL. */
void qmp_deliver_event(Qmp *qmp, const char *event, json_t *data);
