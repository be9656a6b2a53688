/* Unix sockets: long paths, time-outs, descriptors. */
#pragma once

#include <glib.h>
#include <stddef.h>

/* Connects to a Unix socket of any path length, without ever waiting; -1 with
 * *error* (VMFERRY_ERROR_BUSY where its queue is full). */
int unix_socket_connect(const char *path, GError **error);

/* TRUE where somebody listens there. */
gboolean unix_socket_in_use(const char *path);

/* Sends all of *data* until *deadline* (monotonic, microseconds).  *passed_fd*
 * >= 0 travels with the first bytes.  *ret_sent* says how far it came, also on
 * failure. */
gboolean unix_socket_send(int fd, const char *data, size_t length, int passed_fd, gint64 deadline,
                          size_t *ret_sent, GError **error);
