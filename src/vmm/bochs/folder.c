#include "vmm/bochs/folder.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"

char *bochs_folder_path(const char *folder, const char *name)
{
    return g_build_filename(folder, name, NULL);
}

/* What the null network module logs of each packet would fill the disk. */
static gboolean drop_packet_logs(const char *folder, GError **error)
{
    static const char *const names[] = {"eth_null-tx.log", "eth_null-txdump.txt"};

    for (guint i = 0; i < G_N_ELEMENTS(names); i++) {
        g_autofree char *path = bochs_folder_path(folder, names[i]);

        if (symlink("/dev/null", path) < 0) {
            error_set_errno(error, errno, "make %s", path);
            return FALSE;
        }
    }
    return TRUE;
}

static gboolean make_fifo(const char *folder, const char *name, GError **error)
{
    g_autofree char *path = bochs_folder_path(folder, name);

    if (mkfifo(path, 0600) == 0)
        return TRUE;
    error_set_errno(error, errno, "make %s", path);
    return FALSE;
}

gboolean bochs_folder_write(const char *path, const char *text, GError **error)
{
    if (!file_replace(path, text, strlen(text), FALSE, error))
        return FALSE;
    if (chmod(path, 0640) == 0)
        return TRUE;
    error_set_errno(error, errno, "open %s for its group", path);
    return FALSE;
}

gboolean bochs_folder_share(const char *folder, uid_t uid, gid_t gid, GError **error)
{
    g_autofree char *parent = g_path_get_dirname(folder);
    g_autofree char *state = bochs_folder_path(folder, "state");
    g_autofree char *configuration = bochs_folder_path(folder, "bochsrc");
    autofd int log = -1;

    if (uid == geteuid())
        return TRUE;
    log = bochs_folder_open(folder, "log", O_WRONLY | O_CREAT | O_EXCL, error);
    if (log < 0)
        return FALSE;
    /* What is made in `state` has its group. */
    if (fchown(log, uid, gid) == 0 && chown(parent, (uid_t)-1, gid) == 0 &&
        chmod(parent, 0710) == 0 && chown(folder, (uid_t)-1, gid) == 0 &&
        chmod(folder, 0710) == 0 && chown(state, (uid_t)-1, gid) == 0 && chmod(state, 02710) == 0 &&
        chown(configuration, (uid_t)-1, gid) == 0)
        return TRUE;
    error_set_errno(error, errno, "open %s for user %u", folder, (guint)uid);
    return FALSE;
}

static gboolean make_files(const char *folder, const BochsMachine *machine, GError **error)
{
    g_autofree char *state = bochs_folder_path(folder, "state");
    g_autofree char *path = bochs_folder_path(folder, "bochsrc");
    g_autofree char *log = bochs_folder_path(folder, "log");
    g_autofree char *text = bochs_machine_format(machine, log);

    if (mkdir(state, 0700) < 0) {
        error_set_errno(error, errno, "make %s", state);
        return FALSE;
    }
    return bochs_folder_write(path, text, error) && make_fifo(folder, "input", error) &&
           make_fifo(folder, "output", error) && drop_packet_logs(folder, error);
}

int bochs_folder_open(const char *folder, const char *name, int flags, GError **error)
{
    g_autofree char *path = bochs_folder_path(folder, name);
    int fd = open(path, flags | O_CLOEXEC | O_NOFOLLOW, 0600);

    if (fd < 0)
        error_set_errno(error, errno, "open %s", path);
    return fd;
}

/* One of a Bochs that has ended, or that never was. */
static gboolean check_unused(const char *folder, GError **error)
{
    autofd int input = -1;
    g_autofree char *path = bochs_folder_path(folder, "input");

    input = open(path, O_WRONLY | O_NONBLOCK | O_CLOEXEC | O_NOFOLLOW);
    if (input < 0)
        return TRUE;
    error_set(error, VMFERRY_ERROR_EXISTS, "a Bochs runs already in %s", folder);
    return FALSE;
}

static void empty(const char *path)
{
    g_autoptr(GDir) dir = g_dir_open(path, 0, NULL);
    const char *name;

    while (dir && (name = g_dir_read_name(dir))) {
        g_autofree char *file = g_build_filename(path, name, NULL);

        unlink(file);
    }
}

void bochs_folder_remove(const char *folder)
{
    g_autofree char *state = bochs_folder_path(folder, "state");

    empty(state);
    rmdir(state);
    empty(folder);
    rmdir(folder);
}

gboolean bochs_folder_make(const char *folder, const BochsMachine *machine, GError **error)
{
    if (!bochs_path_is_valid(folder) || strchr(folder, ' ')) {
        error_set(error, VMFERRY_ERROR_INVALID, "Bochs cannot be told the folder %s", folder);
        return FALSE;
    }
    if (!check_unused(folder, error))
        return FALSE;
    bochs_folder_remove(folder);
    if (mkdir(folder, 0700) < 0) {
        error_set_errno(error, errno, "make %s", folder);
        return FALSE;
    }
    return make_files(folder, machine, error);
}
