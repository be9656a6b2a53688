#include "agent/made_files.h"

#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#include "base/error.h"
#include "base/log.h"

gboolean made_files_note(StateStore *store, const char *transaction, json_t *files, GError **error)
{
    g_autoptr(json_t) record = NULL;

    if (!files) {
        state_store_remove(store, STORE_MADE_FILES, transaction);
        return TRUE;
    }
    record = json_pack("{s:i, s:O}", "format", 1, "files", files);
    return state_store_write(store, STORE_MADE_FILES, transaction, record, TRUE, error);
}

static void undo(json_t *file)
{
    const char *path = json_text_or(file, "path", NULL);
    const char *set_aside = json_text_or(file, "set_aside", NULL);

    if (!path || !g_path_is_absolute(path))
        return;
    if (set_aside) {
        /* Only then something of ours is at its place. */
        if (access(set_aside, F_OK) == 0 && rename(set_aside, path) < 0)
            log_warning("%s could not be put back as %s: %s", set_aside, path, g_strerror(errno));
        return;
    }
    if (unlink(path) == 0)
        log_info("%s, of a guest that did not arrive, was removed", path);
    else if (errno != ENOENT)
        log_warning("%s, of a guest that did not arrive, could not be removed: %s", path,
                    g_strerror(errno));
}

/* What was set aside was to be replaced. */
static void complete(json_t *file)
{
    const char *set_aside = json_text_or(file, "set_aside", NULL);

    if (set_aside && g_path_is_absolute(set_aside) && unlink(set_aside) < 0 && errno != ENOENT)
        log_warning("%s could not be removed: %s", set_aside, g_strerror(errno));
}

/* It is not known whether there is more of its guest than this. */
static void keep(json_t *file)
{
    log_warning("%s, of a guest that may have arrived, is kept",
                json_text_or(file, "path", "a file"));
}

static void recover(AgentContext *context, const char *transaction)
{
    g_autoptr(GError) problem = NULL;
    g_autoptr(json_t) record =
        state_store_read(context->store, STORE_MADE_FILES, transaction, &problem);
    void (*settle)(json_t * file) = undo;
    json_t *file;
    size_t i;

    if (!record) {
        state_store_reject(context->store, STORE_MADE_FILES, transaction, problem);
        return;
    }
    if (transaction_log_may_be_committed(context->transactions, transaction))
        settle = transaction_log_is_committed(context->transactions, transaction) ? complete : keep;
    json_array_foreach(json_object_get(record, "files"), i, file)
    {
        settle(file);
    }
    state_store_remove(context->store, STORE_MADE_FILES, transaction);
}

void made_files_recover(AgentContext *context)
{
    g_autoptr(GError) problem = NULL;
    g_autoptr(GPtrArray) keys = state_store_list(context->store, STORE_MADE_FILES, &problem);

    if (!keys) {
        log_warning("files of guests that did not arrive: %s", problem->message);
        return;
    }
    for (guint i = 0; i < keys->len; i++)
        recover(context, keys->pdata[i]);
}
