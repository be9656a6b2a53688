#include "agent/arrivals.h"

#include "base/error.h"
#include "base/lock_guard.h"

struct Arrivals {
    GMutex lock; /* protects the names */
    GCond ended;
    GHashTable *names;
};

Arrivals *arrivals_new(void)
{
    Arrivals *arrivals = g_new0(Arrivals, 1);

    g_mutex_init(&arrivals->lock);
    g_cond_init(&arrivals->ended);
    arrivals->names = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    return arrivals;
}

void arrivals_free(Arrivals *arrivals)
{
    if (!arrivals)
        return;
    g_hash_table_unref(arrivals->names);
    g_mutex_clear(&arrivals->lock);
    g_cond_clear(&arrivals->ended);
    g_free(arrivals);
}

gboolean arrivals_begin(Arrivals *arrivals, const char *name, int timeout_ms, GError **error)
{
    gint64 end = g_get_monotonic_time() + (gint64)timeout_ms * G_TIME_SPAN_MILLISECOND;
    lock_guard(&arrivals->lock);

    while (g_hash_table_contains(arrivals->names, name)) {
        if (g_cond_wait_until(&arrivals->ended, &arrivals->lock, end))
            continue;
        error_set(error, VMFERRY_ERROR_BUSY, "another move brings a guest \"%s\" here", name);
        return FALSE;
    }
    g_hash_table_add(arrivals->names, g_strdup(name));
    return TRUE;
}

void arrivals_end(Arrivals *arrivals, const char *name)
{
    lock_guard(&arrivals->lock);

    g_hash_table_remove(arrivals->names, name);
    g_cond_broadcast(&arrivals->ended);
}
