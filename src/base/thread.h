/* Threads where the system may have none to give. */
#pragma once

#include <glib.h>

/* Runs *function* in a thread of its own and waits for its end (ptrace and
 * namespaces belong to a thread).  FALSE where it was not run. */
gboolean thread_run(const char *name, GThreadFunc function, gpointer data, GError **error);

/* Starts a thread, to be joined; NULL with *error* where the system gives none. */
GThread *thread_start(const char *name, GThreadFunc function, gpointer data, GError **error);
