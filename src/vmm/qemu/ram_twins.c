/* Twins (see ram_blocks.h) must stay what they were taken for. */
#include <string.h>

#include "base/error.h"
#include "vmm/qemu/ram_twins.h"

#define COMPARE_BYTES (256u << 10)

gboolean qemu_same_content(uint64_t one, uint64_t other, uint64_t length, QemuMemoryReader reader,
                           gpointer user, gboolean *ret, GError **error)
{
    g_autofree uint8_t *left = g_malloc(COMPARE_BYTES), *right = g_malloc(COMPARE_BYTES);

    *ret = TRUE;
    for (uint64_t done = 0; *ret && done < length;) {
        size_t part = (size_t)MIN(length - done, COMPARE_BYTES);

        if (!reader(one + done, left, part, user, error) ||
            !reader(other + done, right, part, user, error))
            return FALSE;
        *ret = memcmp(left, right, part) == 0;
        done += part;
    }
    return TRUE;
}

static const QemuRamBlock *first_twin(const GPtrArray *blocks, guint twins)
{
    for (guint i = 0; i < blocks->len; i++)
        if (((const QemuRamBlock *)blocks->pdata[i])->twins == twins)
            return blocks->pdata[i];
    return NULL;
}

/* Compares bytes, not digests: the guest stands still meanwhile. */
gboolean qemu_check_twins(const GPtrArray *blocks, QemuMemoryReader reader, gpointer user,
                          GError **error)
{
    for (guint i = 0; i < blocks->len; i++) {
        const QemuRamBlock *block = blocks->pdata[i];
        const QemuRamBlock *first = block->twins ? first_twin(blocks, block->twins) : block;
        gboolean same;

        if (first == block)
            continue;
        if (!qemu_same_content(first->host_address, block->host_address,
                               qemu_ram_block_mapped(block), reader, user, &same, error))
            return FALSE;
        if (same)
            continue;
        error_set(error, VMFERRY_ERROR_UNSUPPORTED,
                  "cannot tell which memory of QEMU is block \"%s\" and which \"%s\"; QEMU 8.1 or "
                  "newer tells",
                  first->name, block->name);
        return FALSE;
    }
    return TRUE;
}
