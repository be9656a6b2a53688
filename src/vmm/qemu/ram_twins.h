/* Equal content as a proof (private). */
#pragma once

#include "vmm/qemu/ram_blocks.h"

/* Do two pieces of memory hold the same bytes? */
gboolean qemu_same_content(uint64_t one, uint64_t other, uint64_t length, QemuMemoryReader reader,
                           gpointer user, gboolean *ret, GError **error);
