/*
 * Where a QEMU serves QMP, by its command line
 *
 * Pure.  All monitors in control mode are found, those that we cannot connect
 * to as well, so that an error can say what there is.
 */
#pragma once

#include <glib.h>

typedef enum {
    QMP_AT_PATH,       /* a listening Unix socket with a path, as written there */
    QMP_AT_ABSTRACT,   /* one with an abstract name */
    QMP_AT_TCP,        /* a listening TCP socket: "HOST:PORT" */
    QMP_AT_DESCRIPTOR, /* a descriptor that QEMU inherited: "3" */
    QMP_AT_OTHER,      /* "stdio", "pty", a client's socket, … */
} QmpEndpointKind;

typedef struct {
    QmpEndpointKind kind;
    char *text;
    gboolean padded; /* of an abstract name: tight=off */
} QmpEndpoint;

void qmp_endpoint_free(QmpEndpoint *endpoint);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(QmpEndpoint, qmp_endpoint_free)

/* Where the chardev called *id* is; NULL where there is none. */
QmpEndpoint *qmp_endpoint_of_chardev(char *const *argv, const char *id);

/* Of QmpEndpoint, in the command line's order; free with g_ptr_array_unref(). */
GPtrArray *qmp_endpoints_find(char *const *argv);
