/*
 * A TCP port that is listened on, in the main loop
 *
 * Theory of operation: each connection is accepted in the main loop and handed over at once; whoever
 * takes it must not wait there.  Where the system gives no descriptor the port is left alone for a
 * moment: the connection stays in the queue and would keep the listener readable.
 *
 * Threads: that of the main loop.
 */
#pragma once

#include <glib.h>
#include <sys/socket.h>

typedef struct Listener Listener;

/* Takes *fd*. */
typedef void (*ListenerServe)(int fd, const struct sockaddr *address, gpointer user);

/* Listens on *address* (settings_split_address(), *port* by default) and serves from then on. */
Listener *listener_new(GMainContext *main, const char *address, guint16 port, ListenerServe serve,
                       gpointer user, GError **error);

/* Ends it; what was handed over is not its business any more.  NULL-safe. */
void listener_free(Listener *listener);

/* The address as it is bound, port 0 become a real one; g_free(). */
char *listener_describe(const Listener *listener);

/* FALSE where the descriptors that are left, *newest* being the last one given out, are for moves
 * under way and the control socket. */
gboolean listener_may_take(int newest);
