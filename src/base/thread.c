#include "base/thread.h"

GThread *thread_start(const char *name, GThreadFunc function, gpointer data, GError **error)
{
    return g_thread_try_new(name, function, data, error);
}

gboolean thread_run(const char *name, GThreadFunc function, gpointer data, GError **error)
{
    GThread *thread = g_thread_try_new(name, function, data, error);

    if (!thread)
        return FALSE;
    g_thread_join(thread);
    return TRUE;
}
