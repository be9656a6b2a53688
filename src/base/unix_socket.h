/*
 * Unix sockets: long paths, abstract names, time-outs, descriptors
 *
 * Where a socket is is one text: a path, or for an abstract name the network
 * namespace that it is known in: "/proc/PID/ns/net@NAME" (with "#" instead of
 * "@" where the name is padded with NULs to the address's full length).
 */
#pragma once

#include <glib.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/un.h>

/* The text for an abstract name as process *pid* knows it; free with g_free(). */
char *unix_socket_abstract(pid_t pid, const char *name, gboolean padded);

typedef struct {
    struct sockaddr_un address;
    socklen_t length;
    int folder; /* keeps a path alive that goes through /proc/self/fd; -1: none */
    int netns;  /* the network namespace to connect in; -1: ours */
} UnixAddress;

gboolean unix_address_resolve(const char *where, UnixAddress *ret, GError **error);
void unix_address_clear(UnixAddress *address);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(UnixAddress, unix_address_clear)

/* Connects to a Unix socket of any path length, without ever waiting; -1 with
 * *error* (VMFERRY_ERROR_BUSY where its queue is full). */
int unix_socket_connect(const char *path, GError **error);

/* A socket that listens there, in that network namespace, with O_NONBLOCK and close-on-exec; -1
 * with *error*. */
int unix_socket_listen(const char *where, int queue, GError **error);

/* TRUE where somebody listens there. */
gboolean unix_socket_in_use(const char *path);

/* Sends all of *data* until *deadline* (monotonic, microseconds).  *passed_fd*
 * >= 0 travels with the first bytes.  *ret_sent* says how far it came, also on
 * failure. */
gboolean unix_socket_send(int fd, const char *data, size_t length, int passed_fd, gint64 deadline,
                          size_t *ret_sent, GError **error);
