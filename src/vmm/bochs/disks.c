/* The images of a Bochs's disks. */
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "vmm/bochs/driver.h"
#include "vmm/bochs/image_locks.h"

#define BLOCK_BYTES 512u
#define PLACES 4u /* two channels of two */

static const BochsMachine *machine_of(Vmm *vmm)
{
    return &((BochsVmm *)vmm)->line->machine;
}

/* In the order of their places, those with a medium. */
static const BochsDisk *find_disk(const BochsMachine *machine, guint place)
{
    for (guint i = 0; i < machine->disk_count; i++) {
        const BochsDisk *disk = &machine->disks[i];

        if (disk->path && disk->channel * 2 + disk->unit == place)
            return disk;
    }
    return NULL;
}

static char *format_place(const BochsDisk *disk)
{
    return g_strdup_printf("disk at pci:00:01.1/%u/%u", disk->channel, disk->unit);
}

static gboolean is_read_only(const BochsDisk *disk)
{
    return disk->cdrom || disk->journal;
}

/* ---- images ---- */

static VmmImage *make_image(const BochsDisk *disk)
{
    VmmImage *image = g_new0(VmmImage, 1);

    image->device = format_place(disk);
    image->file = g_strdup(disk->path);
    image->path = g_strdup(disk->path);
    image->read_only = is_read_only(disk);
    return image;
}

static GPtrArray *list_images(Vmm *vmm, json_t *source, GError **error)
{
    GPtrArray *images = g_ptr_array_new_with_free_func((GDestroyNotify)vmm_image_free);

    for (guint place = 0; place < PLACES; place++) {
        const BochsDisk *disk = find_disk(machine_of(vmm), place);

        if (disk)
            g_ptr_array_add(images, make_image(disk));
    }
    return images;
}

/* It has opened them to write when it started, and would not have started else. */
static gboolean check_writable(Vmm *vmm, const VmmImage *image, GError **error)
{
    return TRUE;
}

gboolean bochs_take_images(BochsVmm *bochs, GError **error)
{
    return bochs_image_locks_take(bochs->process, &bochs->line->machine, error);
}

gboolean bochs_release_images(BochsVmm *bochs, GError **error)
{
    return bochs_image_locks_release(bochs->process, &bochs->line->machine, error);
}

static gboolean take_images(Vmm *vmm, GError **error)
{
    BochsVmm *bochs = (BochsVmm *)vmm;
    g_autoptr(GMutexLocker) locker G_GNUC_UNUSED = g_mutex_locker_new(&bochs->lock);

    return bochs_take_images(bochs, error);
}

/* It reads and writes through the page cache, into memory of its own, and within one instruction of its
 * guest: nothing is under way but for that. */
static gboolean get_direct_io(Vmm *vmm, VmmDirectIo *ret, GError **error)
{
    *ret = (VmmDirectIo){.in_use = FALSE};
    return TRUE;
}

static gboolean drain(Vmm *vmm, GError **error)
{
    BochsVmm *bochs = (BochsVmm *)vmm;
    g_autoptr(GMutexLocker) locker G_GNUC_UNUSED = g_mutex_locker_new(&bochs->lock);

    return bochs_images_flush(bochs->process, machine_of(vmm), error);
}

/* ---- disks ---- */

static VmmDiskFile *make_file(const BochsDisk *disk, GError **error)
{
    VmmDiskFile *file;
    struct stat status;

    if (stat(disk->path, &status) < 0) {
        error_set_errno(error, errno, "%s", disk->path);
        return NULL;
    }
    file = g_new0(VmmDiskFile, 1);
    file->file = g_strdup(disk->path);
    file->path = g_strdup(disk->path);
    file->format = g_strdup("raw");
    file->bytes = file->file_bytes = (uint64_t)status.st_size;
    file->allocated_bytes = (uint64_t)status.st_blocks * BLOCK_BYTES;
    return file;
}

static VmmDisk *make_disk(const BochsDisk *from, GError **error)
{
    VmmDiskFile *file = make_file(from, error);
    VmmDisk *disk;

    if (!file)
        return NULL;
    disk = g_new0(VmmDisk, 1);
    disk->id = g_strdup_printf("ata%u-%s", from->channel, from->unit ? "slave" : "master");
    disk->device = format_place(from);
    disk->node = g_strdup(disk->id);
    disk->read_only = is_read_only(from);
    disk->obstacle = g_strdup("Bochs does not copy disks");
    disk->files = g_ptr_array_new_with_free_func((GDestroyNotify)vmm_disk_file_free);
    g_ptr_array_add(disk->files, file);
    return disk;
}

static GPtrArray *list_disks(Vmm *vmm, GError **error)
{
    g_autoptr(GPtrArray) disks = g_ptr_array_new_with_free_func((GDestroyNotify)vmm_disk_free);

    for (guint place = 0; place < PLACES; place++) {
        const BochsDisk *from = find_disk(machine_of(vmm), place);
        VmmDisk *disk = from ? make_disk(from, error) : NULL;

        if (from && !disk)
            return NULL;
        if (disk)
            g_ptr_array_add(disks, disk);
    }
    return g_steal_pointer(&disks);
}

/* ---- what Bochs has not ---- */

static gboolean refuse(const char *what, GError **error)
{
    error_set(error, VMFERRY_ERROR_UNSUPPORTED, "Bochs: %s is not supported", what);
    return FALSE;
}

static gboolean ask_disk_counters(Vmm *vmm, guint timeout_ms, VmmDiskCounters *ret, GError **error)
{
    return refuse("counting what disks do", error);
}

static gboolean start_copy(Vmm *vmm, const VmmCopy *copy, GError **error)
{
    return refuse("copying a disk", error);
}

static gboolean get_copy(Vmm *vmm, const char *name, VmmCopyState *ret, GError **error)
{
    return refuse("copying a disk", error);
}

static gboolean refuse_copy(Vmm *vmm, const char *name, GError **error)
{
    return refuse("copying a disk", error);
}

/* None was begun. */
static gboolean has_nothing(Vmm *vmm, const char *name, GError **error)
{
    return TRUE;
}

static gboolean begin_bitmap(Vmm *vmm, const char *node, const char *name, GError **error)
{
    return refuse("noting what changes on a disk", error);
}

static gboolean remove_bitmap(Vmm *vmm, const char *node, const char *name, GError **error)
{
    return TRUE;
}

static GPtrArray *list_bitmaps(Vmm *vmm, const char *node, GError **error)
{
    return g_ptr_array_new_with_free_func(g_free);
}

static gboolean start_exports(Vmm *vmm, int listener, GError **error)
{
    return refuse("reading a disk while its guest runs", error);
}

static char *export_changes(Vmm *vmm, const VmmChanges *changes, GError **error)
{
    refuse("reading a disk while its guest runs", error);
    return NULL;
}

static gboolean end_exports(Vmm *vmm, GError **error)
{
    return TRUE;
}

static gboolean start_tap(Vmm *vmm, const VmmTap *tap, GError **error)
{
    return refuse("a disk whose writes go elsewhere, too,", error);
}

static gboolean hold_copy(Vmm *vmm, const char *name, gboolean held, GError **error)
{
    return refuse_copy(vmm, name, error);
}

static gboolean get_tap(Vmm *vmm, const char *name, VmmTapState *ret, GError **error)
{
    return refuse("a disk whose writes go elsewhere, too,", error);
}

static gboolean resync_tap(Vmm *vmm, const char *name, gboolean *ret_done, GError **error)
{
    return refuse("a disk whose writes go elsewhere, too,", error);
}

static gboolean refuse_overlay(Vmm *vmm, const VmmOverlay *overlay, GError **error)
{
    return refuse("an overlay on a disk", error);
}

static gboolean commit_overlay(Vmm *vmm, const char *name, gboolean *ret_done, GError **error)
{
    return refuse("an overlay on a disk", error);
}

const VmmBlockOps bochs_block_ops = {
    .list_images = list_images,
    .check_writable = check_writable,
    .take_images = take_images,
    .get_direct_io = get_direct_io,
    .ask_disk_counters = ask_disk_counters,
    .drain = drain,
    .list_disks = list_disks,
    .start_copy = start_copy,
    .get_copy = get_copy,
    .sync_copy = refuse_copy,
    .hold_copy = hold_copy,
    .finish_copy = refuse_copy,
    .abort_copy = has_nothing,
    .begin_bitmap = begin_bitmap,
    .remove_bitmap = remove_bitmap,
    .list_bitmaps = list_bitmaps,
    .start_exports = start_exports,
    .export_changes = export_changes,
    .end_exports = end_exports,
    .start_tap = start_tap,
    .get_tap = get_tap,
    .resync_tap = resync_tap,
    .stop_tap = has_nothing,
    .check_overlay = refuse_overlay,
    .begin_overlay = refuse_overlay,
    .commit_overlay = commit_overlay,
};
