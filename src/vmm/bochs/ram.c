#include "vmm/bochs/ram.h"

#include "base/error.h"
#include "base/fd.h"
#include "vmm/bochs/folder.h"
#include "vmm/bochs/parameters.h"
#include "vmm/bochs/texts.h"

#define BLOCK_BYTES 131072u /* of Bochs 2.7 */
#define MAX_LOG (4u << 20)
#define OVERFLOW_FILE "memory.ram"

static gboolean read_vector(BochsProcess *process, uint64_t *ret, GError **error)
{
    g_autofree char *path = bochs_process_log_path(process);
    g_autofree char *log = file_read(path, MAX_LOG, NULL, error);

    if (!log)
        return FALSE;
    if (bochs_text_find_vector(log, ret))
        return TRUE;
    error_set(error, VMFERRY_ERROR_UNSUPPORTED, "Bochs does not tell where its guest's memory is");
    return FALSE;
}

/* Bochs reads each block's content from a file as it takes its place: the file is empty, and
 * nothing is read. */
static gboolean write_overflow_file(BochsProcess *process, GError **error)
{
    g_autofree char *path = g_build_filename(process->state_folder, OVERFLOW_FILE, NULL);

    return bochs_folder_write(path, "", error);
}

static char *format_mapping(uint64_t blocks)
{
    GString *text = g_string_new("memory = {\n  ram = " OVERFLOW_FILE "\n");

    g_string_append_printf(text, "  used_blocks = %" G_GUINT64_FORMAT "\n  mapping = {\n", blocks);
    for (uint64_t i = 0; i < blocks; i++)
        g_string_append_printf(text, "    blk%" G_GUINT64_FORMAT " = %" G_GUINT64_FORMAT "\n", i,
                               i);
    g_string_append(text, "  }\n}\n");
    return g_string_free(text, FALSE);
}

/* The sizes are what we think, and nothing has a place yet. */
static gboolean check_fresh(BochsProcess *process, uint64_t blocks, GError **error)
{
    g_autoptr(BochsNode) mapping = bochs_show(process->console, "memory.mapping", error);
    const BochsNode *used;

    if (!mapping)
        return FALSE;
    if (mapping->kind != BOCHS_NODE_LIST || mapping->children->len != blocks) {
        error_set(error, VMFERRY_ERROR_UNSUPPORTED,
                  "this Bochs does not have its guest's memory in blocks of 128 KiB");
        return FALSE;
    }
    for (guint i = 0; i < mapping->children->len; i++) {
        used = mapping->children->pdata[i];
        if (used->kind != BOCHS_NODE_DECIMAL || !used->negative) {
            error_set(error, VMFERRY_ERROR_BUSY, "the guest of this Bochs has run already");
            return FALSE;
        }
    }
    return TRUE;
}

static gboolean check_linear(BochsProcess *process, uint64_t blocks, GError **error)
{
    g_autoptr(BochsNode) mapping = bochs_show(process->console, "memory.mapping", error);

    if (!mapping)
        return FALSE;
    for (uint64_t i = 0; i < blocks; i++) {
        const BochsNode *block = mapping->kind == BOCHS_NODE_LIST && i < mapping->children->len
                                     ? mapping->children->pdata[i]
                                     : NULL;

        if (!block || block->kind != BOCHS_NODE_DECIMAL || block->number != i) {
            error_set(error, VMFERRY_ERROR_FAILED, "Bochs did not take the order of its memory");
            return FALSE;
        }
    }
    return TRUE;
}

RamRegion *bochs_ram_open(BochsProcess *process, uint64_t bytes, GError **error)
{
    uint64_t blocks = bytes / BLOCK_BYTES, vector;
    g_autofree char *text = format_mapping(blocks);

    if (!read_vector(process, &vector, error) || !check_fresh(process, blocks, error) ||
        !write_overflow_file(process, error) ||
        !bochs_restore_text(process->console, process->state_folder, "memory", text, error) ||
        !check_linear(process, blocks, error))
        return NULL;
    return ram_region_new(BOCHS_RAM_NAME, vector, bytes);
}
