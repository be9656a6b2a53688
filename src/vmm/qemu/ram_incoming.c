/* RAM blocks of a destination: are they the source's, and where are they? */
#include <string.h>

#include "base/error.h"
#include "memory/guest_memory.h"
#include "vmm/qemu/ram_blocks.h"

static QemuRamBlock *find_block(const GPtrArray *blocks, const char *name)
{
    for (guint i = 0; i < blocks->len; i++)
        if (strcmp(((QemuRamBlock *)blocks->pdata[i])->name, name) == 0)
            return blocks->pdata[i];
    return NULL;
}

/* A block that is not as long as it may be is one that QEMU can resize. */
static gboolean check_length(const QemuRamBlock *block, const RamRegion *region, GError **error)
{
    gboolean resizable = block->used < block->total;

    if (region->bytes == block->used || (resizable && region->bytes <= block->total))
        return TRUE;
    error_set(error, VMFERRY_ERROR_REFUSED,
              "RAM block %s has %" G_GUINT64_FORMAT " bytes there and %s%" G_GUINT64_FORMAT
              " here (another file or setting of the device?)",
              region->name, region->bytes, resizable ? "at most " : "",
              resizable ? block->total : block->used);
    return FALSE;
}

/* QEMU would not mind, but the guest lacks a device that this machine has. */
static gboolean check_no_more(const GPtrArray *blocks, const GPtrArray *matched, GError **error)
{
    for (guint i = 0; i < blocks->len; i++) {
        const QemuRamBlock *block = blocks->pdata[i];

        if (!block->name[0] || block->used == 0 ||
            g_ptr_array_find((GPtrArray *)matched, block, NULL))
            continue;
        error_set(error, VMFERRY_ERROR_REFUSED,
                  "RAM block %s exists only here (other devices or another QEMU version?)",
                  block->name);
        return FALSE;
    }
    return TRUE;
}

GPtrArray *qemu_match_regions(const GPtrArray *blocks, const GPtrArray *regions, GError **error)
{
    g_autoptr(GPtrArray) matched = g_ptr_array_new();

    for (guint i = 0; i < regions->len; i++) {
        const RamRegion *region = regions->pdata[i];
        QemuRamBlock *block = region->name[0] ? find_block(blocks, region->name) : NULL;

        if (!block) {
            error_set(error, VMFERRY_ERROR_REFUSED,
                      "RAM block %s does not exist here (other devices or another QEMU version?)",
                      region->name);
            return NULL;
        }
        if (!check_length(block, region, error))
            return NULL;
        g_ptr_array_add(matched, block);
    }
    return check_no_more(blocks, matched, error) ? g_steal_pointer(&matched) : NULL;
}

static gboolean set_address(QemuRamBlock *block, const QemuMapping *mapping, GError **error)
{
    if ((block->host_address == 0 || block->host_address == mapping->start) &&
        qemu_ram_block_mapped(block) == mapping->length) {
        block->host_address = mapping->start;
        return TRUE;
    }
    error_set(error, VMFERRY_ERROR_INVALID,
              "RAM block %s is in the memory of QEMU twice, or not with its length", block->name);
    return FALSE;
}

/* Whose marker is this? */
static gboolean find_marked(const uint8_t *markers, guint count, const uint8_t *bytes,
                            guint *ret_index)
{
    for (guint i = 0; i < count; i++)
        if (memcmp(markers + i * (gsize)QEMU_MARKER_BYTES, bytes, QEMU_MARKER_BYTES) == 0) {
            *ret_index = i;
            return TRUE;
        }
    return FALSE;
}

static gboolean all_found(const GPtrArray *blocks)
{
    for (guint i = 0; i < blocks->len; i++)
        if (((QemuRamBlock *)blocks->pdata[i])->host_address == 0)
            return FALSE;
    return TRUE;
}

gboolean qemu_find_markers(const GPtrArray *blocks, const GArray *ram, const uint8_t *markers,
                           QemuMemoryReader reader, gpointer user, gboolean *ret_all,
                           GError **error)
{
    uint8_t bytes[QEMU_MARKER_BYTES];

    for (guint i = 0; i < ram->len; i++) {
        const QemuMapping *mapping = &g_array_index(ram, QemuMapping, i);
        guint index;

        if (!reader(mapping->start, bytes, sizeof bytes, user, error))
            return FALSE;
        if (find_marked(markers, blocks->len, bytes, &index) &&
            !set_address(blocks->pdata[index], mapping, error))
            return FALSE;
    }
    *ret_all = all_found(blocks);
    return TRUE;
}
