/*
 * Files that QEMU opens again, behind -chroot
 *
 * QEMU opens its images before it changes its root, and opens them again by
 * name when it releases them (a move does that) or takes them back.
 */
#include "base/error.h"
#include "base/json.h"
#include "vmm/qemu/driver.h"
#include "vmm/qemu/start_options.h"

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
