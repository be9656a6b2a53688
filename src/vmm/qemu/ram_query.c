/* Asking a live QEMU for its RAM blocks. */
#include <errno.h>
#include <string.h>
#include <sys/uio.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/json.h"
#include "vmm/qemu/driver.h"
#include "vmm/qemu/pci_devices.h"
#include "vmm/qemu/ram_blocks.h"

#define MAX_SMAPS_BYTES (256u << 20)

static gboolean read_qemu_memory(uint64_t address, void *buffer, size_t length, gpointer user,
                                 GError **error)
{
    pid_t pid = GPOINTER_TO_INT(user);
    char *at = buffer;

    while (length > 0) {
        struct iovec local = {at, length};
        struct iovec remote = {(void *)(uintptr_t)address, length};
        ssize_t got = process_vm_readv(pid, &local, 1, &remote, 1, 0);

        if (got <= 0) {
            error_set_errno(error, got < 0 ? errno : EFAULT, "read memory of QEMU (pid %d)",
                            (int)pid);
            return FALSE;
        }
        at += got;
        address += (uint64_t)got;
        length -= (size_t)got;
    }
    return TRUE;
}

static GArray *read_mappings(pid_t pid, GError **error)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/smaps", (int)pid);
    g_autofree char *text = file_read(path, MAX_SMAPS_BYTES, NULL, error);

    return text ? qemu_parse_smaps(text, error) : NULL;
}

/* Asks for the host address of each piece of RAM that the guest sees.  A
 * guest that runs may move a piece meanwhile: then there is no answer that
 * fits, and the piece is left out. */
static gboolean resolve_ranges(Qmp *qmp, GPtrArray *ranges, GError **error)
{
    for (guint i = 0; i < ranges->len; i++) {
        QemuFlatRange *range = ranges->pdata[i];
        g_autofree char *line =
            g_strdup_printf("gpa2hva 0x%" G_GINT64_MODIFIER "x", range->address);
        g_autofree char *answer = qmp_execute_human(qmp, line, QMP_COMMAND_MS, error);
        uint64_t host_address;

        if (!answer)
            return FALSE;
        if (qemu_parse_host_address(answer, range->region, &host_address) &&
            host_address > range->offset)
            range->host_address = host_address - range->offset;
    }
    return TRUE;
}

static GPtrArray *query_ranges(Qmp *qmp, GError **error)
{
    g_autofree char *text = qmp_execute_human(qmp, "info mtree -f", QMP_COMMAND_MS, error);
    g_autoptr(GPtrArray) ranges = text ? qemu_parse_flat_view(text, error) : NULL;
    g_autoptr(json_t) pci = NULL;

    if (!ranges || !resolve_ranges(qmp, ranges, error))
        return NULL;
    /* A machine without PCI has no answer to this, and no need of one. */
    pci = qmp_execute(qmp, "query-pci", NULL, QMP_COMMAND_MS, NULL);
    for (guint i = 0; pci && i < ranges->len; i++) {
        QemuFlatRange *range = ranges->pdata[i];

        range->device = qemu_pci_find_device(pci, range->address);
    }
    return g_steal_pointer(&ranges);
}

static gboolean addresses_told(const GPtrArray *blocks)
{
    for (guint i = 0; i < blocks->len; i++)
        if (((QemuRamBlock *)blocks->pdata[i])->host_address == 0)
            return FALSE;
    return TRUE;
}

static GPtrArray *to_regions(const GPtrArray *blocks)
{
    GPtrArray *regions = g_ptr_array_new_with_free_func((GDestroyNotify)ram_region_free);

    for (guint i = 0; i < blocks->len; i++) {
        const QemuRamBlock *block = blocks->pdata[i];
        RamRegion *region;

        if (!block->name[0] || block->used == 0)
            continue;
        region = ram_region_new(block->name, block->host_address, block->used);
        region->proof = g_strdup(block->proof);
        g_ptr_array_add(regions, region);
    }
    return regions;
}

/* "0000:00:02.0/vga.rom" is a block of the device before the slash. */
static gboolean set_rom_ids(Qmp *qmp, GPtrArray *blocks, GError **error)
{
    g_autofree char *tree = qmp_execute_human(qmp, "info qtree", QMP_COMMAND_MS, error);
    g_autoptr(GHashTable) ids = tree ? qemu_parse_pci_ids(tree) : NULL;

    for (guint i = 0; ids && i < blocks->len; i++) {
        QemuRamBlock *block = blocks->pdata[i];
        const char *slash = strrchr(block->name, '/');
        g_autofree char *device = NULL;

        if (!slash || !g_str_has_suffix(block->name, ".rom"))
            continue;
        device = g_strndup(block->name, (gsize)(slash - block->name));
        block->rom_ids = GPOINTER_TO_UINT(g_hash_table_lookup(ids, device));
    }
    return ids != NULL;
}

static gboolean locate(QemuVmm *qemu, GPtrArray *blocks, GError **error)
{
    g_autoptr(GArray) mappings = read_mappings(qemu->pid, error);
    g_autoptr(GPtrArray) ranges = NULL;

    if (!mappings)
        return FALSE;
    if (!addresses_told(blocks)) {
        ranges = query_ranges(qemu->qmp, error);
        if (!ranges || !set_rom_ids(qemu->qmp, blocks, error))
            return FALSE;
    }
    return qemu_locate_ram_blocks(blocks, mappings, ranges, read_qemu_memory,
                                  GINT_TO_POINTER(qemu->pid), error);
}

GPtrArray *qemu_query_ram_regions(QemuVmm *qemu, GError **error)
{
    g_autofree char *text = qmp_execute_human(qemu->qmp, "info ramblock", QMP_COMMAND_MS, error);
    g_autoptr(GPtrArray) blocks = text ? qemu_parse_ram_blocks(text, error) : NULL;

    if (!blocks || !locate(qemu, blocks, error))
        return NULL;
    g_clear_pointer(&qemu->ram_blocks, g_ptr_array_unref);
    qemu->ram_blocks = g_steal_pointer(&blocks);
    return to_regions(qemu->ram_blocks);
}

gboolean qemu_check_ram(QemuVmm *qemu, GError **error)
{
    return !qemu->ram_blocks ||
           qemu_check_twins(qemu->ram_blocks, read_qemu_memory, GINT_TO_POINTER(qemu->pid), error);
}
