#include "base/stages.h"

void stages_undo(const Stage *stages, guint count, gpointer user)
{
    for (guint i = count; i > 0; i--)
        if (stages[i - 1].undo)
            stages[i - 1].undo(user);
}

gboolean stages_run(const Stage *stages, guint count, StageFailed failed, gpointer user,
                    GError **error)
{
    gboolean can_undo = TRUE;

    for (guint i = 0; i < count; i++) {
        g_autoptr(GError) problem = NULL;

        if (stages[i].run(user, &problem)) {
            can_undo = can_undo && !stages[i].final;
            continue;
        }
        if (failed)
            failed(user, i, &problem);
        if (can_undo)
            stages_undo(stages, i + 1, user);
        g_propagate_error(error, g_steal_pointer(&problem));
        return FALSE;
    }
    return TRUE;
}
