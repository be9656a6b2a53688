/* Where a running QEMU's QMP sockets may be found from here. */
#pragma once

#include <glib.h>
#include <sys/types.h>

#include "vmm/qemu/qmp_endpoints.h"

/* Texts for unix_socket.h, the likeliest first: what the command line names,
 * as *pid* sees it and as it may have seen it when it began (before -chroot,
 * -daemonize).  Free with g_ptr_array_unref().  NULL with *error*, which says
 * what to do instead, where there is no socket that we could connect to. */
GPtrArray *qmp_places_find(pid_t pid, char *const *argv, GError **error);

/* The same for one socket, of whatever it serves; empty where it cannot be connected to. */
GPtrArray *qmp_places_of(pid_t pid, const QmpEndpoint *endpoint);
