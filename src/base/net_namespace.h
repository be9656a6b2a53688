/* Network namespaces: doing something in one that is not ours. */
#pragma once

#include <glib.h>

/* For net_namespace_run(): one that is made for it, and goes with it. */
#define NET_NAMESPACE_FRESH (-1)

typedef void (*NetNamespaceFunc)(gpointer user);

/* Calls *run* in the network namespace of that descriptor, in a thread of its own where it is not the
 * caller's, and waits for its end.  Sockets that are made there stay there.  FALSE where it was not
 * called. */
gboolean net_namespace_run(int namespace_fd, NetNamespaceFunc run, gpointer user, GError **error);
