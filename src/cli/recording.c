#include "cli/recording.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/json.h"

gboolean recording_open(Recording *recording, const char *path, GError **error)
{
    *recording = (Recording){.path = path, .fd = -1};
    if (!path)
        return TRUE;
    recording->fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (recording->fd >= 0)
        return TRUE;
    error_set_errno(error, errno, "--record %s", path);
    return FALSE;
}

static void write_line(Recording *recording, const char *line)
{
    g_autofree char *text = g_strconcat(line, "\n", NULL);
    g_autoptr(GError) error = NULL;

    if (recording->problem || recording->fd < 0)
        return;
    if (!fd_write_all(recording->fd, text, strlen(text), &error))
        recording->problem = g_strdup(error->message);
}

gboolean recording_take(Recording *recording, json_t *object)
{
    const char *line = json_text_or(object, "line", NULL);
    uint64_t dropped = json_count_or(object, "dropped", 0);

    if (strcmp(json_text_or(object, "type", ""), "trace") != 0)
        return FALSE;
    if (dropped > 0 && !recording->problem)
        recording->problem = g_strdup_printf(
            "this side was too slow for it, the agent dropped %" G_GUINT64_FORMAT " lines",
            (guint64)dropped);
    if (line)
        write_line(recording, line);
    return TRUE;
}

gboolean recording_close(Recording *recording, GError **error)
{
    g_autofree char *problem = g_steal_pointer(&recording->problem);

    if (recording->fd >= 0 && close(recording->fd) < 0 && !problem)
        problem = g_strdup(g_strerror(errno));
    recording->fd = -1;
    if (!problem)
        return TRUE;
    error_set(error, VMFERRY_ERROR_FAILED, "the recording %s is not whole: %s", recording->path,
              problem);
    return FALSE;
}
