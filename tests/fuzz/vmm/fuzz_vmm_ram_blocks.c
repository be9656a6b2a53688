/*
 * The texts about RAM blocks, and finding the blocks in them
 *
 * The input is `info ramblock`, `info mtree`, smaps and any bytes, with a
 * line "==" between.  The bytes are what all of QEMU's memory holds, again and
 * again.  Whatever they say: blocks that get an address get one of a mapping
 * that is there, with the right length, and no two the same.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "memory/guest_memory.h"
#include "vmm/qemu/ram_blocks.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What QEMU's memory holds. */
typedef struct {
    const uint8_t *bytes;
    size_t length;
} Content;

static gboolean read_content(uint64_t address, void *buffer, size_t length, gpointer user,
                             GError **error)
{
    const Content *content = user;
    uint8_t *out = buffer;

    for (size_t i = 0; i < length; i++)
        out[i] = content->length ? content->bytes[(address + i) % content->length]
                                 : (uint8_t)(address >> 12);
    return TRUE;
}

static gboolean is_mapping(const GArray *ram, const QemuRamBlock *block)
{
    for (guint i = 0; i < ram->len; i++) {
        const QemuMapping *mapping = &g_array_index(ram, QemuMapping, i);

        if (mapping->start == block->host_address &&
            mapping->length == qemu_ram_block_mapped(block))
            return TRUE;
    }
    return FALSE;
}

static void check_blocks(const GPtrArray *blocks, const GArray *ram, gboolean all)
{
    for (guint i = 0; i < blocks->len; i++) {
        const QemuRamBlock *block = blocks->pdata[i];

        if (block->host_address == 0) {
            if (all && block->name[0])
                abort();
            continue;
        }
        for (guint j = 0; j < i; j++)
            if (((QemuRamBlock *)blocks->pdata[j])->host_address == block->host_address)
                abort();
        if (!is_mapping(ram, block))
            abort();
    }
}

/* So much is looked at: more is only slow. */
static void shorten(GArray *mappings, uint64_t most)
{
    for (guint i = 0; i < mappings->len; i++) {
        QemuMapping *mapping = &g_array_index(mappings, QemuMapping, i);

        mapping->length = MIN(mapping->length, most);
    }
    if (mappings->len > 8)
        g_array_set_size(mappings, 8);
}

static void locate(GPtrArray *blocks, GPtrArray *ranges, QemuMappings *mappings, Content *content)
{
    for (guint i = 0; ranges && i < ranges->len; i++) {
        QemuTreeRange *range = ranges->pdata[i];

        range->host_address = range->address;
    }
    shorten(mappings->heap, 1 << 16);
    if (!qemu_locate_ram_blocks(blocks, mappings, ranges, read_content, content, NULL))
        return;
    check_blocks(blocks, mappings->ram, TRUE);
    if (!qemu_check_ambiguous(blocks, read_content, content, NULL) && blocks->len < 2)
        abort();
}

/* The same as a destination that was asked for just these. */
static void arrive(GPtrArray *blocks, QemuMappings *mappings, Content *content)
{
    g_autoptr(GPtrArray) regions = g_ptr_array_new_with_free_func((GDestroyNotify)ram_region_free);
    g_autofree uint8_t *markers = g_malloc0((blocks->len + 1) * (gsize)QEMU_MARKER_BYTES);
    g_autoptr(GPtrArray) matched = NULL;
    gboolean all;

    for (guint i = 0; i < blocks->len; i++) {
        const QemuRamBlock *block = blocks->pdata[i];

        if (block->name[0] && block->used > 0)
            g_ptr_array_add(regions, ram_region_new(block->name, 0, block->total));
        read_content((uint64_t)i << 12, markers + i * (gsize)QEMU_MARKER_BYTES, QEMU_MARKER_BYTES,
                     content, NULL);
    }
    matched = qemu_match_regions(blocks, regions, NULL);
    if (!matched || matched->len != regions->len)
        abort();
    for (guint i = 0; i < matched->len; i++)
        ((QemuRamBlock *)matched->pdata[i])->host_address = 0;
    if (qemu_find_markers(matched, mappings->ram, markers, read_content, content, &all, NULL))
        check_blocks(matched, mappings->ram, all);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autofree char *text = g_strndup((const char *)data, size);
    g_auto(GStrv) parts = g_strsplit(text, "==\n", 4);
    g_autoptr(GPtrArray) blocks = NULL, ranges = NULL;
    g_autoptr(QemuMappings) mappings = NULL;
    Content content = {data, 0};
    uint64_t address;

    if (!parts[0])
        return 0;
    (void)qemu_parse_host_address(text, "pc.ram", &address);
    blocks = qemu_parse_ram_blocks(parts[0], NULL);
    if (parts[1])
        ranges = qemu_parse_memory_tree(parts[1], NULL);
    if (parts[1] && parts[2])
        mappings = qemu_parse_smaps(parts[2], NULL);
    if (!blocks || !mappings)
        return 0;
    if (parts[3]) {
        /* Behind the last "==", zeroes included. */
        content.bytes = data + (strstr(text, parts[3]) - text);
        content.length = size - (size_t)(content.bytes - data);
    }
    arrive(blocks, mappings, &content);
    g_ptr_array_unref(blocks);
    blocks = qemu_parse_ram_blocks(parts[0], NULL);
    locate(blocks, ranges, mappings, &content);
    return 0;
}
