#include "migrate/disk_base.h"

#include <string.h>

#include "base/error.h"
#include "base/log.h"
#include "migrate/saved_disks.h"

#define KEPT_BITMAPS 2u

/* ---- the base ---- */

const SaveBaseDisk *disk_base_find(const SaveBaseMessage *base, const char *id)
{
    for (guint i = 0; i < base->disk_count; i++)
        if (strcmp(base->disks[i].id, id) == 0)
            return &base->disks[i];
    return NULL;
}

static gboolean has_bitmap(Vmm *vmm, const VmmDisk *disk, const char *bitmap)
{
    g_autoptr(GPtrArray) names = vmm_list_bitmaps(vmm, disk->node, NULL);

    return names && bitmap && g_ptr_array_find_with_equal_func(names, bitmap, g_str_equal, NULL);
}

const char *disk_base_find_obstacle(Vmm *vmm, const VmmDisk *disk, const SaveBaseDisk *base)
{
    const VmmDiskFile *top = disk->files->pdata[0];

    if (!base)
        return "the base has no copy of it";
    if (base->bytes != top->bytes)
        return "its size has changed";
    if (disk->shared)
        return "others may write to it";
    if (g_strv_length(base->backing) + 1 >= SAVED_DISK_MAX_BACKING)
        return "too many copies are above each other";
    if (!has_bitmap(vmm, disk, base->bitmap))
        return "what has changed since the base is not known: another QEMU ran the guest then, or "
               "more than two images were saved since";
    return NULL;
}

json_t *disk_base_list_backing(const SaveBaseDisk *base)
{
    json_t *names = base ? json_array() : NULL;

    if (names)
        json_array_append_new(names, json_string(base->saved));
    for (guint i = 0; names && base->backing[i]; i++)
        json_array_append_new(names, json_string(base->backing[i]));
    return names;
}

/* ---- bitmaps ---- */

char *disk_bitmap_begin(Vmm *vmm, const VmmDisk *disk, const char *transaction, GError **error)
{
    g_autofree char *name = g_strdup_printf(VMM_BITMAP_PREFIX "%016" G_GINT64_MODIFIER "x-%s",
                                            (guint64)g_get_monotonic_time(), transaction);

    return vmm_begin_bitmap(vmm, disk->node, name, error) ? g_steal_pointer(&name) : NULL;
}

void disk_bitmap_drop(Vmm *vmm, const VmmDisk *disk, const char *name)
{
    g_autoptr(GError) problem = NULL;

    if (!vmm_remove_bitmap(vmm, disk->node, name, &problem))
        log_debug("disk %s: bitmap %s: %s", disk->id, name, problem->message);
}

void disk_bitmap_keep_newest(Vmm *vmm, const VmmDisk *disk)
{
    g_autoptr(GPtrArray) names = vmm_list_bitmaps(vmm, disk->node, NULL);

    for (guint i = 0; names && i + KEPT_BITMAPS < names->len; i++)
        disk_bitmap_drop(vmm, disk, names->pdata[i]);
}
