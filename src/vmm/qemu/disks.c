/* The disks of a machine: what each one is made of, and whether a copy of it can be made. */
#include <string.h>
#include <sys/stat.h>

#include "base/error.h"
#include "base/json.h"
#include "vmm/qemu/driver.h"
#include "vmm/qemu/image_options.h"
#include "vmm/qemu/machine_compare.h"

#define MAX_FILES 256u /* of one disk */
#define BLOCK_BYTES 512u

typedef struct {
    const BlockGraph *graph;
    json_t *nodes; /* query-named-block-nodes with all details */
    pid_t pid;
    GPtrArray *disks;
} DiskLister;

static void G_GNUC_PRINTF(2, 3) set_obstacle(VmmDisk *disk, const char *format, ...)
{
    va_list arguments;

    if (disk->obstacle)
        return;
    va_start(arguments, format);
    disk->obstacle = g_strdup_vprintf(format, arguments);
    va_end(arguments);
}

static json_t *find_details(const DiskLister *lister, const BlockNode *node)
{
    json_t *entry;
    size_t i;

    json_array_foreach(lister->nodes, i, entry)
    {
        if (strcmp(json_text_or(entry, "node-name", ""), node->name) == 0)
            return entry;
    }
    return NULL;
}

/* ---- one image ---- */

static gboolean is_local(const BlockNode *node)
{
    return strcmp(node->driver, "file") == 0 || strcmp(node->driver, "host_device") == 0;
}

/* The node that has the image's file open: below the format's, or the node itself where the image
 * has no format.  NULL where *disk* says why there is none. */
static const BlockNode *find_storage(const DiskLister *lister, VmmDisk *disk, const BlockNode *node)
{
    const BlockNode *below = block_node_get_child(lister->graph, node, "file");
    gboolean raw = strcmp(node->driver, "raw") == 0;

    if (is_local(node))
        return node;
    if (!raw && strcmp(node->driver, "qcow2") != 0) {
        if (below || node->children->len > 0)
            set_obstacle(disk, "node %s is a \"%s\": only raw and qcow2 images can be copied",
                         node->name, node->driver);
        else
            set_obstacle(disk, "its image is not a local file or device, but \"%s\" (%s)",
                         node->driver, node->file);
        return NULL;
    }
    if (!below || !is_local(below)) {
        set_obstacle(disk, "its image is not a local file or device, but \"%s\" (%s)",
                     below ? below->driver : "?", node->file);
        return NULL;
    }
    /* An offset or size that its user gave. */
    if (raw && below->bytes != node->bytes) {
        set_obstacle(disk, "raw node %s shows only a part of %s", node->name, below->file);
        return NULL;
    }
    return below;
}

/* Of the image: one that lives in this QEMU only is refused for any move. */
static const char *find_stored_bitmap(json_t *details)
{
    json_t *bitmap;
    size_t i;

    json_array_foreach(json_object_get(details, "dirty-bitmaps"), i, bitmap)
    {
        if (json_flag_or(bitmap, "persistent", FALSE))
            return json_text_or(bitmap, "name", "?");
    }
    bitmap = json_array_get(
        json_object_get(
            json_object_get(json_object_get(json_object_get(details, "image"), "format-specific"),
                            "data"),
            "bitmaps"),
        0);
    return bitmap ? json_text_or(bitmap, "name", "?") : NULL;
}

static void read_options(const DiskLister *lister, VmmDisk *disk, const BlockNode *node,
                         VmmDiskFile *file)
{
    json_t *details = find_details(lister, node);
    const char *bitmap = find_stored_bitmap(details);
    g_autofree char *obstacle = NULL;

    if (node->encrypted)
        set_obstacle(disk, "%s is encrypted by QEMU", file->file);
    if (!qemu_image_options_from_info(json_object_get(details, "image"), &file->options, &obstacle))
        set_obstacle(disk, "%s: %s", file->file, obstacle);
    if (bitmap)
        set_obstacle(disk, "%s: dirty bitmap \"%s\" is stored in the image and would be lost",
                     file->file, bitmap);
}

static void read_sizes(VmmDisk *disk, const BlockNode *storage, VmmDiskFile *file)
{
    struct stat info;

    file->file_bytes = file->allocated_bytes = storage->bytes;
    if (!file->path || stat(file->path, &info) < 0) {
        set_obstacle(disk,
                     "%s is not the file that QEMU has open: it was replaced, moved or removed "
                     "since",
                     file->file);
    } else if (S_ISREG(info.st_mode)) {
        file->file_bytes = (uint64_t)info.st_size;
        file->allocated_bytes = (uint64_t)info.st_blocks * BLOCK_BYTES;
    }
}

/* FALSE where the chain ends here, since *disk* says that this is no file. */
static gboolean add_file(const DiskLister *lister, VmmDisk *disk, const BlockNode *node)
{
    const BlockNode *storage = find_storage(lister, disk, node);
    VmmDiskFile *file;

    if (!storage)
        return FALSE;
    file = g_new0(VmmDiskFile, 1);
    file->file = g_strdup(storage->file);
    file->path = qemu_find_open_file(lister->pid, storage->file);
    file->format = g_strdup(storage == node ? "raw" : node->driver);
    file->bytes = node->bytes;
    g_ptr_array_add(disk->files, file);
    read_options(lister, disk, node, file);
    read_sizes(disk, storage, file);
    return TRUE;
}

/* ---- one disk ---- */

static void add_files(const DiskLister *lister, VmmDisk *disk, const BlockNode *root)
{
    const BlockNode *node = root;

    while (node && disk->files->len < MAX_FILES && add_file(lister, disk, node))
        node = block_node_get_child(lister->graph, node, "backing");
    if (node && disk->files->len >= MAX_FILES)
        set_obstacle(disk, "it has more than %u backing files", MAX_FILES);
    else if (node)
        g_ptr_array_set_size(disk->files, 0);
}

/* Of the card, where the drive belongs to the virtio back end inside of it. */
static const char *get_device_id(const QemuDevice *device)
{
    const QemuDevice *owner =
        strcmp(device->bus->name, "virtio-bus") == 0 ? device->bus->owner : NULL;

    return owner ? owner->id : device->id;
}

static char *make_id(const QemuDevice *device, const BlockDrive *drive, const BlockNode *root)
{
    const char *id = get_device_id(device);

    if (*drive->name)
        return g_strdup(drive->name);
    if (*id)
        return g_strdup(id);
    if (!block_node_is_unnamed(root))
        return g_strdup(root->name);
    return g_strdup(drive->device ? drive->device : root->name);
}

static gboolean is_set(const QemuDevice *device, const char *property)
{
    return g_strcmp0(device_get_property(device, property), "true") == 0;
}

static gboolean passes_commands_on(const QemuDevice *device)
{
    static const char *const drivers[] = {"scsi-block", "scsi-generic", NULL};

    return g_strv_contains(drivers, device->driver) || is_set(device, "scsi");
}

/* Several devices may share one node. */
static gboolean is_listed(const GPtrArray *disks, const char *node)
{
    for (guint i = 0; i < disks->len; i++)
        if (strcmp(((const VmmDisk *)disks->pdata[i])->node, node) == 0)
            return TRUE;
    return FALSE;
}

static void list_drive(const QemuDevice *device, const BlockDrive *drive,
                       const BlockDrive *same G_GNUC_UNUSED, gpointer user)
{
    DiskLister *lister = user;
    const BlockNode *root = drive->root ? block_graph_find(lister->graph, drive->root) : NULL;
    VmmDisk *disk;

    if (!root || is_listed(lister->disks, root->name))
        return;
    disk = g_new0(VmmDisk, 1);
    disk->id = make_id(device, drive, root);
    disk->device = device_describe(device);
    disk->node = g_strdup(root->name);
    disk->read_only = drive->read_only;
    disk->flash = g_str_has_prefix(device->driver, "cfi.pflash");
    disk->passthrough = passes_commands_on(device);
    disk->shared = is_set(device, "share-rw");
    disk->files = g_ptr_array_new_with_free_func((GDestroyNotify)vmm_disk_file_free);
    add_files(lister, disk, root);
    g_ptr_array_add(lister->disks, disk);
}

GPtrArray *qemu_list_disks(QemuVmm *qemu, GError **error)
{
    g_autoptr(QemuMachine) machine = qemu_machine_read(qemu->qmp, qemu->copies, error);
    g_autoptr(json_t) nodes =
        machine ? qmp_execute(qemu->qmp, "query-named-block-nodes", json_pack("{s:b}", "flat", 1),
                              QMP_COMMAND_MS, error)
                : NULL;
    g_autoptr(GPtrArray) disks = g_ptr_array_new_with_free_func((GDestroyNotify)vmm_disk_free);

    if (!nodes)
        return NULL;
    qemu_machine_visit_drives(machine, machine, list_drive,
                              &(DiskLister){machine->block, nodes, qemu->pid, disks});
    return g_steal_pointer(&disks);
}
