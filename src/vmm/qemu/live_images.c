/* The files and devices below a machine's disks, and that they are what QEMU
 * has open; behind them the files that it loaded (boot_files.h). */
#include <string.h>
#include <sys/stat.h>

#include "base/error.h"
#include "vmm/qemu/boot_files.h"
#include "vmm/qemu/driver.h"
#include "vmm/qemu/machine_compare.h"

#define MAX_IMAGES 1024u /* as many as IMAGES carries */

typedef struct {
    const QemuMachine *source, *here;
    pid_t pid;
    GPtrArray *images;
    const char *device;
    GError *error;
} ImageLister;

static gboolean is_same_file(const struct stat *one, const struct stat *other)
{
    if (S_ISBLK(one->st_mode) || S_ISCHR(one->st_mode))
        return one->st_mode == other->st_mode && one->st_rdev == other->st_rdev;
    return one->st_dev == other->st_dev && one->st_ino == other->st_ino;
}

/* A path can lead elsewhere by now: the image was replaced, or removed. */
static gboolean has_open(pid_t pid, const char *path)
{
    g_autofree char *folder = g_strdup_printf("/proc/%d/fd", (int)pid);
    g_autoptr(GDir) entries = g_dir_open(folder, 0, NULL);
    struct stat wanted, info;
    const char *name;

    if (stat(path, &wanted) < 0)
        return FALSE;
    while (entries && (name = g_dir_read_name(entries))) {
        g_autofree char *entry = g_build_filename(folder, name, NULL);

        if (stat(entry, &info) == 0 && is_same_file(&wanted, &info))
            return TRUE;
    }
    return FALSE;
}

/* In the process's own root and working folder; a QEMU that changed its root
 * after it had opened its images named them from ours. */
char *qemu_find_open_file(pid_t pid, const char *file)
{
    g_autofree char *inside =
        g_strdup_printf("/proc/%d/%s%s%s", (int)pid, g_path_is_absolute(file) ? "root" : "cwd",
                        g_path_is_absolute(file) ? "" : "/", file);

    if (has_open(pid, inside))
        return g_steal_pointer(&inside);
    return g_path_is_absolute(file) && has_open(pid, file) ? g_strdup(file) : NULL;
}

static gboolean is_local(const BlockNode *node)
{
    return strcmp(node->driver, "file") == 0 || strcmp(node->driver, "host_device") == 0 ||
           strcmp(node->driver, "host_cdrom") == 0;
}

static gboolean add_image(const BlockNode *source, const BlockNode *here, gpointer user,
                          GError **error)
{
    ImageLister *lister = user;
    g_autofree char *path = is_local(here) ? qemu_find_open_file(lister->pid, here->file) : NULL;
    VmmImage *image;

    if (is_local(here) && !path) {
        error_set(error, VMFERRY_ERROR_REFUSED,
                  "%s is not the file that QEMU has open: it was replaced, moved or removed since",
                  here->file);
        return FALSE;
    }
    if (lister->images->len >= MAX_IMAGES) {
        error_set(error, VMFERRY_ERROR_UNSUPPORTED, "the guest has more than %u images",
                  MAX_IMAGES);
        return FALSE;
    }
    image = g_new0(VmmImage, 1);
    image->device = g_strdup(lister->device);
    image->file = g_strdup(here->file);
    image->path = g_steal_pointer(&path);
    image->read_only = source->read_only && here->read_only;
    g_ptr_array_add(lister->images, image);
    return TRUE;
}

static void list_drive(const QemuDevice *device, const BlockDrive *first, const BlockDrive *second,
                       gpointer user)
{
    ImageLister *lister = user;
    g_autofree char *name = device_describe(device);

    /* Flash is guest memory, and written to its file when the guest runs. */
    if (lister->error || !first->root || !second->root ||
        g_str_has_prefix(device->driver, "cfi.pflash"))
        return;
    lister->device = name;
    if (!block_graph_visit_leaves(
            lister->source->block, block_graph_find(lister->source->block, first->root),
            lister->here->block, block_graph_find(lister->here->block, second->root), add_image,
            lister, &lister->error))
        g_prefix_error(&lister->error, "%s: ", name);
}

GPtrArray *qemu_list_images(QemuVmm *qemu, json_t *object, GError **error)
{
    g_autoptr(QemuMachine) source = object ? qemu_machine_parse(object, error)
                                           : qemu_machine_read(qemu->qmp, qemu->copies, error);
    g_autoptr(QemuMachine) here = source ? qemu_machine_read(qemu->qmp, qemu->copies, error) : NULL;
    g_autoptr(GPtrArray) images = g_ptr_array_new_with_free_func((GDestroyNotify)vmm_image_free);
    ImageLister lister = {.source = source, .here = here, .pid = qemu->pid, .images = images};

    if (!here)
        return NULL;
    qemu_machine_visit_drives(source, here, list_drive, &lister);
    if (lister.error) {
        g_propagate_error(error, lister.error);
        return NULL;
    }
    return qemu_list_boot_files(qemu->pid, images, error) ? g_steal_pointer(&images) : NULL;
}
