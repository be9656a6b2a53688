/*
 * The texts about RAM blocks, and finding the blocks in them
 *
 * The input is `info ramblock`, `info mtree -f` and smaps, with a line "=="
 * between.  Whatever they say: blocks that get an address get one of a
 * mapping that is there, with the right length, and no two the same.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/qemu/ram_blocks.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static gboolean read_pattern(uint64_t address, void *buffer, size_t length, gpointer user,
                             GError **error)
{
    memset(buffer, (int)(address >> 12), length);
    return TRUE;
}

static void check_block(const GPtrArray *blocks, guint index, const GArray *mappings)
{
    const QemuRamBlock *block = blocks->pdata[index];
    gboolean there = FALSE;

    if (block->host_address == 0)
        return;
    for (guint i = 0; i < mappings->len; i++) {
        const QemuMapping *mapping = &g_array_index(mappings, QemuMapping, i);

        there = there || (mapping->start == block->host_address &&
                          mapping->length == ((block->total + 4095) & ~4095ull));
    }
    for (guint i = 0; i < index; i++)
        there = there && ((QemuRamBlock *)blocks->pdata[i])->host_address != block->host_address;
    if (!there)
        abort();
}

static void locate(GPtrArray *blocks, GPtrArray *ranges, GArray *mappings)
{
    for (guint i = 0; ranges && i < ranges->len; i++) {
        QemuFlatRange *range = ranges->pdata[i];

        range->host_address = range->address;
    }
    if (!qemu_locate_ram_blocks(blocks, mappings, ranges, read_pattern, NULL, NULL))
        return;
    for (guint i = 0; i < blocks->len; i++)
        check_block(blocks, i, mappings);
    if (!qemu_check_twins(blocks, read_pattern, NULL, NULL) && blocks->len < 2)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autofree char *text = g_strndup((const char *)data, size);
    g_auto(GStrv) parts = g_strsplit(text, "==\n", 3);
    g_autoptr(GPtrArray) blocks = NULL, ranges = NULL;
    g_autoptr(GArray) mappings = NULL;
    uint64_t address;

    if (!parts[0])
        return 0;
    (void)qemu_parse_host_address(text, "pc.ram", &address);
    blocks = qemu_parse_ram_blocks(parts[0], NULL);
    if (parts[1])
        ranges = qemu_parse_flat_view(parts[1], NULL);
    if (parts[1] && parts[2])
        mappings = qemu_parse_smaps(parts[2], NULL);
    if (blocks && mappings)
        locate(blocks, ranges, mappings);
    return 0;
}
