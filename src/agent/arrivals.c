#include "agent/arrivals.h"

#include "base/error.h"
#include "base/lock_guard.h"

/* An earlier attempt notices that its connection is lost some time after that is so. */
#define LOOK_US (G_TIME_SPAN_SECOND / 5)

struct Arrivals {
    GMutex lock; /* protects the names */
    GCond ended;
    GHashTable *names; /* of Session *, by guest */
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

static void end_abandoned(Session *earlier, Session *session)
{
    g_autoptr(GError) cause = NULL;

    if (!earlier || !session || !session_is_broken(earlier) ||
        !session_has_same_peer(earlier, session))
        return;
    error_set(&cause, VMFERRY_ERROR_DISCONNECTED, "%s has given up, and begins anew",
              session_get_peer_name(earlier));
    session_fail(earlier, cause);
}

gboolean arrivals_begin(Arrivals *arrivals, const char *name, Session *session, int timeout_ms,
                        GError **error)
{
    gint64 end = g_get_monotonic_time() + (gint64)timeout_ms * G_TIME_SPAN_MILLISECOND;
    gpointer earlier;
    lock_guard(&arrivals->lock);

    while (g_hash_table_lookup_extended(arrivals->names, name, NULL, &earlier)) {
        end_abandoned(earlier, session);
        if (g_cond_wait_until(&arrivals->ended, &arrivals->lock,
                              MIN(end, g_get_monotonic_time() + LOOK_US)) ||
            g_get_monotonic_time() < end)
            continue;
        error_set(error, VMFERRY_ERROR_BUSY, "another move brings a guest \"%s\" here", name);
        return FALSE;
    }
    g_hash_table_insert(arrivals->names, g_strdup(name), session);
    return TRUE;
}

void arrivals_end(Arrivals *arrivals, const char *name)
{
    lock_guard(&arrivals->lock);

    g_hash_table_remove(arrivals->names, name);
    g_cond_broadcast(&arrivals->ended);
}
