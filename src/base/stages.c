#include "base/stages.h"

static void undo(const Stage *stages, guint first, guint end, gpointer user)
{
    for (guint i = end; i > first; i--)
        if (stages[i - 1].undo)
            stages[i - 1].undo(user);
}

void stages_undo(const Stage *stages, guint count, gpointer user)
{
    undo(stages, 0, count, user);
}

gboolean stages_run_again(const Stage *stages, guint count, StageAgain again, StageFailed failed,
                          gpointer user, GError **error)
{
    gboolean can_undo = TRUE;

    for (guint i = 0; i < count; i++) {
        g_autoptr(GError) problem = NULL;
        guint first;

        if (stages[i].run(user, &problem)) {
            can_undo = can_undo && !stages[i].final;
            continue;
        }
        if (can_undo && again && again(user, i, problem, &first)) {
            undo(stages, first, i + 1, user);
            i = first - 1; /* wraps around, and back */
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

gboolean stages_run(const Stage *stages, guint count, StageFailed failed, gpointer user,
                    GError **error)
{
    return stages_run_again(stages, count, NULL, failed, user, error);
}
