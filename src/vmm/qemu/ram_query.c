/* Asking a live QEMU for its RAM blocks. */
#include <errno.h>
#include <string.h>
#include <sys/uio.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/json.h"
#include "base/page.h"
#include "memory/pagemap.h"
#include "vmm/qemu/driver.h"
#include "vmm/qemu/pci_devices.h"

#define MAX_SMAPS_BYTES (256u << 20)
/* More of the heap is not searched: what QEMU has from its start comes first. */
#define MAX_HEAP_BYTES (1ull << 30)

gboolean qemu_read_memory(uint64_t address, void *buffer, size_t length, gpointer user,
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

QemuMappings *qemu_read_mappings(pid_t pid, GError **error)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/smaps", (int)pid);
    g_autofree char *text = file_read(path, MAX_SMAPS_BYTES, NULL, error);

    return text ? qemu_parse_smaps(text, error) : NULL;
}

/* `info mtree -f` would tell only what the guest sees, but QEMU before 8.0 keeps
 * references to all devices when asked for it: none can be unplugged any more. */
/* Asks for the host address of each piece of RAM that the guest sees.  A
 * running guest may move a piece meanwhile: then no answer fits, and the piece
 * is left out. */
static gboolean resolve_ranges(Qmp *qmp, GPtrArray *ranges, GError **error)
{
    for (guint i = 0; i < ranges->len; i++) {
        QemuTreeRange *range = ranges->pdata[i];
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
    g_autofree char *text = qmp_execute_human(qmp, "info mtree", QMP_COMMAND_MS, error);
    g_autoptr(GPtrArray) ranges = text ? qemu_parse_memory_tree(text, error) : NULL;
    g_autoptr(json_t) pci = NULL;

    if (!ranges || !resolve_ranges(qmp, ranges, error))
        return NULL;
    /* A machine without PCI has no answer to this, and no need of one. */
    pci = qmp_execute(qmp, "query-pci", NULL, QMP_COMMAND_MS, NULL);
    for (guint i = 0; pci && i < ranges->len; i++) {
        QemuTreeRange *range = ranges->pdata[i];

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

/* A piece of the heap is searched only where it has pages: reading others may
 * give them memory. */
static gboolean add_populated(Pagemap *pagemap, const QemuMapping *piece, GArray *out,
                              uint64_t *left, GError **error)
{
    g_autoptr(PageSet) pages = page_set_new(piece->length / PAGE_BYTES);
    PageSpan span;

    if (!pagemap_add_populated(pagemap, piece->start, pages, error))
        return FALSE;
    for (uint64_t at = 0;
         *left > 0 && page_set_next_run(pages, at, *left / PAGE_BYTES, &span.first, &span.count);
         at = span.first + span.count) {
        QemuMapping run = {piece->start + span.first * PAGE_BYTES, span.count * PAGE_BYTES};

        g_array_append_val(out, run);
        *left -= run.length;
    }
    return TRUE;
}

static gboolean drop_unpopulated(pid_t pid, QemuMappings *mappings, GError **error)
{
    g_autoptr(Pagemap) pagemap = pagemap_open(pid, error);
    g_autoptr(GArray) populated = g_array_new(FALSE, FALSE, sizeof(QemuMapping));
    uint64_t left = MAX_HEAP_BYTES;

    if (!pagemap)
        return FALSE;
    for (guint i = 0; i < mappings->heap->len; i++)
        if (!add_populated(pagemap, &g_array_index(mappings->heap, QemuMapping, i), populated,
                           &left, error))
            return FALSE;
    g_array_unref(mappings->heap);
    mappings->heap = g_steal_pointer(&populated);
    return TRUE;
}

static gboolean locate(QemuVmm *qemu, GPtrArray *blocks, GError **error)
{
    g_autoptr(QemuMappings) mappings = qemu_read_mappings(qemu->pid, error);
    g_autoptr(GPtrArray) ranges = NULL;

    if (!mappings)
        return FALSE;
    if (!addresses_told(blocks)) {
        ranges = query_ranges(qemu->qmp, error);
        if (!ranges || !drop_unpopulated(qemu->pid, mappings, error))
            return FALSE;
    }
    return qemu_locate_ram_blocks(blocks, mappings, ranges, qemu_read_memory,
                                  GINT_TO_POINTER(qemu->pid), error);
}

GPtrArray *qemu_query_ram_blocks(Qmp *qmp, GError **error)
{
    g_autofree char *text = qmp_execute_human(qmp, "info ramblock", QMP_COMMAND_MS, error);

    return text ? qemu_parse_ram_blocks(text, error) : NULL;
}

static GPtrArray *to_regions(const GPtrArray *blocks)
{
    GPtrArray *regions = g_ptr_array_new_with_free_func((GDestroyNotify)ram_region_free);

    for (guint i = 0; i < blocks->len; i++) {
        const QemuRamBlock *block = blocks->pdata[i];

        if (block->name[0] && block->used > 0)
            g_ptr_array_add(regions, ram_region_new(block->name, block->host_address, block->used));
    }
    return regions;
}

/* A destination's blocks were found when its stream was opened. */
GPtrArray *qemu_query_ram_regions(QemuVmm *qemu, GError **error)
{
    g_autoptr(GPtrArray) blocks = NULL;

    if (qemu->incoming_fd < 0) {
        blocks = qemu_query_ram_blocks(qemu->qmp, error);
        if (!blocks || !locate(qemu, blocks, error))
            return NULL;
        g_clear_pointer(&qemu->ram_blocks, g_ptr_array_unref);
        qemu->ram_blocks = g_steal_pointer(&blocks);
    }
    return to_regions(qemu->ram_blocks);
}

gboolean qemu_check_ram(QemuVmm *qemu, GError **error)
{
    g_autoptr(GPtrArray) now = NULL;

    if (!qemu->ram_blocks)
        return TRUE;
    now = qemu_query_ram_blocks(qemu->qmp, error);
    return now && qemu_check_same_blocks(qemu->ram_blocks, now, error) &&
           qemu_check_ambiguous(qemu->ram_blocks, qemu_read_memory, GINT_TO_POINTER(qemu->pid),
                                error);
}
