/* What the content of a RAM block proves about which one it is. */
#pragma once

#include "vmm/qemu/ram_blocks.h"

#define QEMU_DIGEST_BYTES 32u

/* Names a kind of content that QEMU itself made and guests cannot change.
 * Equal signatures of a block and of a mapping mean that they may belong
 * together, different ones that they cannot. */
typedef uint64_t QemuSignature;
#define QEMU_SIGNATURE_UNKNOWN 0u

/* What the block called so must begin with. */
QemuSignature qemu_block_signature(const QemuRamBlock *block);

/* What is there. */
gboolean qemu_content_signature(uint64_t address, uint64_t length, QemuMemoryReader reader,
                                gpointer user, QemuSignature *ret, GError **error);

gboolean qemu_content_digest(uint64_t address, uint64_t length, QemuMemoryReader reader,
                             gpointer user, uint8_t digest[QEMU_DIGEST_BYTES], GError **error);
