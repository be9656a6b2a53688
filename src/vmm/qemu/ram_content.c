#include "vmm/qemu/ram_content.h"

#include <string.h>

#include "base/bytes.h"

#define READ_BYTES (1u << 20)

/* Signatures; an option ROM's holds its vendor and device in the lower half. */
#define SIGNATURE_TABLE_LOADER 1u
#define SIGNATURE_RSDP 2u
#define SIGNATURE_OPTION_ROM (0x55aaull << 32)

/* Option ROM: 55 AA, and at 0x18 where its "PCIR" record is. */
#define ROM_RECORD_POINTER 0x18u
#define ROM_RECORD_BYTES 8u

QemuSignature qemu_block_signature(const QemuRamBlock *block)
{
    if (strcmp(block->name, "/rom@etc/table-loader") == 0)
        return SIGNATURE_TABLE_LOADER;
    if (strcmp(block->name, "/rom@etc/acpi/rsdp") == 0)
        return SIGNATURE_RSDP;
    if (block->rom_ids != 0 && g_str_has_suffix(block->name, ".rom"))
        return SIGNATURE_OPTION_ROM | block->rom_ids;
    return QEMU_SIGNATURE_UNKNOWN;
}

/* A ROM without a record gets a signature that no block has. */
static gboolean rom_signature(uint64_t address, uint64_t length, const uint8_t *head,
                              QemuMemoryReader reader, gpointer user, QemuSignature *ret,
                              GError **error)
{
    uint32_t at = (uint32_t)head[ROM_RECORD_POINTER] | (uint32_t)head[ROM_RECORD_POINTER + 1] << 8;
    uint8_t record[ROM_RECORD_BYTES];
    ByteReader bytes = byte_reader_make(record + 4, 4);
    uint32_t vendor, device;

    *ret = SIGNATURE_OPTION_ROM;
    if (at + ROM_RECORD_BYTES > length)
        return TRUE;
    if (!reader(address + at, record, sizeof record, user, error))
        return FALSE;
    if (memcmp(record, "PCIR", 4) != 0)
        return TRUE;
    vendor = byte_read_le16(&bytes);
    device = byte_read_le16(&bytes);
    *ret = SIGNATURE_OPTION_ROM | vendor << 16 | device;
    return TRUE;
}

gboolean qemu_content_signature(uint64_t address, uint64_t length, QemuMemoryReader reader,
                                gpointer user, QemuSignature *ret, GError **error)
{
    static const uint8_t allocate[4] = {1, 0, 0, 0};
    uint8_t head[32];

    if (!reader(address, head, sizeof head, user, error))
        return FALSE;
    if (head[0] == 0x55 && head[1] == 0xaa)
        return rom_signature(address, length, head, reader, user, ret, error);
    /* The loader's first command allocates room for a file. */
    if (memcmp(head, allocate, 4) == 0 && memcmp(head + 4, "etc/", 4) == 0)
        *ret = SIGNATURE_TABLE_LOADER;
    else if (memcmp(head, "RSD PTR ", 8) == 0)
        *ret = SIGNATURE_RSDP;
    else
        *ret = QEMU_SIGNATURE_UNKNOWN;
    return TRUE;
}

gboolean qemu_content_digest(uint64_t address, uint64_t length, QemuMemoryReader reader,
                             gpointer user, uint8_t digest[QEMU_DIGEST_BYTES], GError **error)
{
    g_autoptr(GChecksum) checksum = g_checksum_new(G_CHECKSUM_SHA256);
    g_autofree uint8_t *buffer = g_malloc(READ_BYTES);
    gsize digest_bytes = QEMU_DIGEST_BYTES;

    for (uint64_t done = 0; done < length;) {
        size_t part = (size_t)MIN(length - done, READ_BYTES);

        if (!reader(address + done, buffer, part, user, error))
            return FALSE;
        g_checksum_update(checksum, buffer, (gssize)part);
        done += part;
    }
    g_checksum_get_digest(checksum, digest, &digest_bytes);
    return TRUE;
}
