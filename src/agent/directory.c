#include "agent/directory.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/log.h"
#include "base/process.h"

#define DIRECTORY_PREFIX "guest-"

char *guest_directory_create(const char *runtime_dir, GError **error)
{
    g_autofree char *path = g_build_filename(runtime_dir, DIRECTORY_PREFIX "XXXXXX", NULL);

    if (mkdtemp(path))
        return g_steal_pointer(&path);
    error_set_errno(error, errno, "make a directory in %s", runtime_dir);
    return NULL;
}

void guest_directory_remove(const char *directory)
{
    g_autofree char *name = g_path_get_basename(directory);
    const char *file;
    GDir *list;

    /* The path comes from a record: nothing but our own kind is removed. */
    if (!g_str_has_prefix(name, DIRECTORY_PREFIX))
        return;
    list = g_dir_open(directory, 0, NULL);
    if (!list)
        return;
    while ((file = g_dir_read_name(list))) {
        g_autofree char *path = g_build_filename(directory, file, NULL);

        unlink(path);
    }
    g_dir_close(list);
    if (rmdir(directory) < 0)
        log_warning("remove %s: %s", directory, g_strerror(errno));
}

static gboolean mentions(char **words, const char *needle)
{
    for (char **word = words; *word; word++)
        if (strstr(*word, needle))
            return TRUE;
    return FALSE;
}

pid_t guest_directory_find_process(const char *directory)
{
    g_autofree char *needle = g_strconcat(directory, "/", NULL);
    GDir *processes = g_dir_open("/proc", 0, NULL);
    const char *file;
    pid_t found = 0;

    while (processes && !found && (file = g_dir_read_name(processes))) {
        guint64 pid;

        if (g_ascii_string_to_unsigned(file, 10, 1, G_MAXINT, &pid, NULL) &&
            (pid_t)pid != getpid()) {
            g_auto(GStrv) words = process_get_command_line((pid_t)pid, NULL);

            if (words && mentions(words, needle))
                found = (pid_t)pid;
        }
    }
    if (processes)
        g_dir_close(processes);
    return found;
}
