#include "agent/directory.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/process.h"

#define OVERLAYS "overlays"
#define DIRECTORY_PREFIX "guest-"
#define MOVE_PREFIX DIRECTORY_PREFIX "move-" /* then PID-START-XXXXXX */
#define MAX_DEPTH 8                          /* of folders in it; ours is 1 */

static char *create(const char *runtime_dir, const char *template, GError **error)
{
    g_autofree char *path = g_build_filename(runtime_dir, template, NULL);

    if (mkdtemp(path))
        return g_steal_pointer(&path);
    error_set_errno(error, errno, "make a directory in %s", runtime_dir);
    return NULL;
}

char *guest_directory_create(const char *runtime_dir, GError **error)
{
    return create(runtime_dir, DIRECTORY_PREFIX "XXXXXX", error);
}

char *guest_directory_create_for_move(const char *runtime_dir, GError **error)
{
    g_autofree char *template = NULL;
    uint64_t start_time;

    if (!process_get_start_time(getpid(), &start_time, error))
        return NULL;
    template =
        g_strdup_printf(MOVE_PREFIX "%d-%" G_GUINT64_FORMAT "-XXXXXX", (int)getpid(), start_time);
    return create(runtime_dir, template, error);
}

static gboolean is_left_over(const char *name)
{
    int pid;
    uint64_t start_time;

    return sscanf(name, MOVE_PREFIX "%d-%" G_GUINT64_FORMAT "-", &pid, &start_time) == 2 &&
           !process_is_same(pid, start_time);
}

char *guest_overlays_directory(const char *state_dir, GError **error)
{
    g_autofree char *path = g_build_filename(state_dir, OVERLAYS, NULL);

    if (mkdir(path, 0711) < 0 && errno != EEXIST) {
        error_set_errno(error, errno, "make %s", path);
        return NULL;
    }
    return g_steal_pointer(&path);
}

void guest_directories_clean(const char *runtime_dir)
{
    g_autoptr(GDir) list = g_dir_open(runtime_dir, 0, NULL);
    const char *name;

    while (list && (name = g_dir_read_name(list))) {
        g_autofree char *path = g_build_filename(runtime_dir, name, NULL);

        if (is_left_over(name))
            guest_directory_remove(path);
    }
}

static void empty_folder(int folder, guint depth);

static void remove_entry(int folder, const char *name, guint depth)
{
    autofd int inside = -1;

    if (unlinkat(folder, name, 0) == 0 || depth == 0)
        return;
    inside = openat(folder, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (inside >= 0)
        empty_folder(inside, depth - 1);
    (void)unlinkat(folder, name, AT_REMOVEDIR);
}

/* By descriptors: whoever runs the guest may put links in here. */
static void empty_folder(int folder, guint depth)
{
    g_autofree char *path = g_strdup_printf("/proc/self/fd/%d", folder);
    g_autoptr(GDir) list = g_dir_open(path, 0, NULL);
    const char *name;

    while (list && (name = g_dir_read_name(list)))
        remove_entry(folder, name, depth);
}

void guest_directory_remove(const char *directory)
{
    g_autofree char *name = g_path_get_basename(directory);
    autofd int folder = -1;

    /* The path comes from a record: nothing but our own kind is removed. */
    if (!g_str_has_prefix(name, DIRECTORY_PREFIX))
        return;
    folder = open(directory, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (folder < 0)
        return;
    empty_folder(folder, MAX_DEPTH);
    if (rmdir(directory) < 0)
        log_warning("remove %s: %s", directory, g_strerror(errno));
}

void guest_cgroups_remove(char **folders)
{
    for (char **folder = folders; folder && *folder; folder++) {
        g_autofree char *sign = g_build_filename(*folder, "cgroup.procs", NULL);

        /* As above; and only an empty group can be removed. */
        if (access(sign, F_OK) == 0 && rmdir(*folder) < 0)
            log_warning("remove %s: %s", *folder, g_strerror(errno));
    }
}
