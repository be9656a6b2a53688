/* QEMU as a process: who runs it, in which folder it was started. */
#include <string.h>
#include <sys/stat.h>

#include "base/error.h"
#include "base/json.h"
#include "base/process.h"
#include "vmm/qemu/driver.h"
#include "vmm/qemu/start_options.h"

/* The text of a link in /proc/PID; NULL where it cannot be read. */
static char *read_link(pid_t pid, const char *entry)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/%s", (int)pid, entry);

    return g_file_read_link(path, NULL);
}

char *qemu_read_working_directory(pid_t pid)
{
    g_autofree char *folder = read_link(pid, "cwd");
    g_autofree char *root = read_link(pid, "root");
    size_t length = root ? strlen(root) : 0;

    if (!folder || folder[0] != '/')
        return g_strdup("/");
    /* Within a root of its own the path is shorter than we see it. */
    if (length > 1 && strncmp(folder, root, length) == 0 &&
        (folder[length] == '/' || folder[length] == '\0'))
        return g_strdup(folder[length] ? folder + length : "/");
    return g_steal_pointer(&folder);
}

/* The folder that -chroot names, as we see it. */
static char *find_own_root(const QemuVmm *qemu, const QemuStartOptions *options)
{
    if (!options->root)
        return NULL;
    return g_path_is_absolute(options->root)
               ? g_strdup(options->root)
               : g_build_filename(qemu->working_directory, options->root, NULL);
}

ProcessIdentity *qemu_get_process(QemuVmm *qemu, GError **error)
{
    /* Its real command line: paths in it are those of this host. */
    g_auto(GStrv) argv = process_get_command_line(qemu->pid, error);
    g_auto(QemuStartOptions) options = {0};
    g_autofree char *root = NULL;
    ProcessHabits habits = {0};

    if (!argv)
        return NULL;
    qemu_start_options_read(argv, &options);
    root = find_own_root(qemu, &options);
    habits.filters_itself = options.filters;
    habits.own_root = root;
    return process_identity_read(qemu->pid, &habits, error);
}

static gboolean check_file(QemuVmm *qemu, const QemuStartOptions *options, const char *file,
                           GError **error)
{
    g_autofree char *inside = g_strdup_printf("/proc/%d/root%s", (int)qemu->pid, file);

    if (!g_path_is_absolute(file) || g_file_test(inside, G_FILE_TEST_EXISTS))
        return TRUE;
    error_set(error, VMFERRY_ERROR_UNSUPPORTED,
              "QEMU cannot reach the disk image %s any more, since it changed its root to %s, and "
              "could not release it: make it visible in there under the same path (mount --bind)",
              file, options->root);
    return FALSE;
}

gboolean qemu_check_root(QemuVmm *qemu, char *const *argv, GError **error)
{
    g_auto(QemuStartOptions) options = {0};
    g_autoptr(json_t) nodes = NULL;
    json_t *node;
    size_t i;

    qemu_start_options_read(argv, &options);
    if (!options.root)
        return TRUE;
    nodes = qmp_execute(qemu->qmp, "query-named-block-nodes", NULL, QMP_COMMAND_MS, error);
    if (!nodes)
        return FALSE;
    json_array_foreach(nodes, i, node)
    {
        const char *file = json_text_or(node, "file", "");

        if (g_str_equal(json_text_or(node, "drv", ""), "file") &&
            !check_file(qemu, &options, file, error))
            return FALSE;
    }
    return TRUE;
}
