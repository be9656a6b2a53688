#include "agent/stop_watch.h"

struct StopWatch {
    AgentContext *context;
    GCancellable *cancellable;
    GThread *thread;
    gint done; /* atomic */
};

static gpointer watch_stop(gpointer data)
{
    StopWatch *watch = data;

    while (!g_atomic_int_get(&watch->done)) {
        if (agent_context_is_stopping(watch->context))
            g_cancellable_cancel(watch->cancellable);
        g_usleep(STOP_WATCH_MS * G_TIME_SPAN_MILLISECOND);
    }
    return NULL;
}

StopWatch *stop_watch_new(AgentContext *context, GCancellable *cancellable, GError **error)
{
    StopWatch *watch = g_new0(StopWatch, 1);

    watch->context = context;
    watch->cancellable = g_object_ref(cancellable);
    watch->thread = g_thread_try_new("stop-watch", watch_stop, watch, error);
    if (watch->thread)
        return watch;
    stop_watch_free(watch);
    return NULL;
}

void stop_watch_free(StopWatch *watch)
{
    if (!watch)
        return;
    g_atomic_int_set(&watch->done, 1);
    if (watch->thread)
        g_thread_join(watch->thread);
    g_object_unref(watch->cancellable);
    g_free(watch);
}
