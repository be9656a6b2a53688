/* The memory of Bochs's process: reading, writing, and looking for bytes in its own data. */
#pragma once

#include "memory/guest_memory.h"
#include "vmm/bochs/process.h"

#define BOCHS_SEARCH_MAX 16u /* places of one pattern that are told */

gboolean bochs_memory_read(const BochsProcess *process, uint64_t address, void *buffer,
                           size_t length, GError **error);
gboolean bochs_memory_write(const BochsProcess *process, uint64_t address, const void *buffer,
                            size_t length, GError **error);

typedef struct {
    const void *bytes;
    size_t length; /* at most 64 */
} BochsPattern;

/* Where each of these is in data that is neither a file's nor guest RAM.  An array of GArray of uint64_t, one for each
 * pattern; free with g_ptr_array_unref(). */
GPtrArray *bochs_search(const BochsProcess *process, const RamRegion *ram,
                        const BochsPattern *patterns, guint count, GError **error);
