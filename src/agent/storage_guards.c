#include "agent/storage_guards.h"

#include "guard/guard.h"

static void drop_guard(gpointer guard)
{
    guard_free(guard);
}

GHashTable *storage_guards_new(void)
{
    return g_hash_table_new_full(NULL, NULL, NULL, drop_guard);
}

gboolean storage_guards_begun(pid_t pid, gpointer user, GError **error)
{
    Guard *guard = guard_start_kill(pid, error);

    if (guard)
        g_hash_table_replace(user, GINT_TO_POINTER(pid), guard);
    return guard != NULL;
}

void storage_guards_drop(GHashTable *guards, pid_t pid)
{
    g_hash_table_remove(guards, GINT_TO_POINTER(pid));
}
