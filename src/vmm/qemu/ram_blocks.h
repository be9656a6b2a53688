/*
 * QEMU's RAM blocks and where they are in its address space
 *
 * Theory of operation: `info ramblock` lists the blocks; from QEMU 8 on with
 * their host addresses.  For older versions the addresses are found:
 *
 *   - QEMU marks every block MADV_DONTFORK and puts guard pages around it, so
 *     each block is one mapping with the flag "dc" in /proc/PID/smaps, as long
 *     as the block's total length;
 *   - a block that the guest sees somewhere is identified by `info mtree -f`
 *     (guest address, region name, offset) and `gpa2hva` (host address);
 *   - of the rest, a block whose length no other one has is identified by it;
 *   - among equal lengths, blocks of known content (option ROMs, ACPI tables'
 *     loader) are told apart by it;
 *   - what is left is not guessed: such blocks get no address but a proof, a
 *     digest over the contents of all mappings that it could be.
 *
 * Blocks without a name are not migrated by QEMU and take part only in the
 * elimination.  All text comes from a process that a guest may have taken
 * over: every number is checked and every list bounded.  The result names
 * mappings that exist, with the right length, each at most once.
 *
 * Everything here is pure but for the content reader that the caller gives.
 */
#pragma once

#include <glib.h>
#include <stdint.h>

#define QEMU_MAX_RAM_BLOCKS 256
#define QEMU_MAX_MAPPINGS 4096
#define QEMU_MAX_FLAT_RANGES 1024

typedef struct {
    char *name;            /* "" for blocks that QEMU does not migrate */
    uint64_t used;         /* bytes that hold something */
    uint64_t total;        /* bytes of the mapping */
    uint64_t host_address; /* 0: not known (yet) */
    char *proof;           /* see ram_region.h */
} QemuRamBlock;

void qemu_ram_block_free(QemuRamBlock *block);

/* Reads the text of `info ramblock` into a list of QemuRamBlock. */
GPtrArray *qemu_parse_ram_blocks(const char *text, GError **error);

/* A mapping marked "dc"; neighbours are joined. */
typedef struct {
    uint64_t start, length;
} QemuMapping;

/* Reads /proc/PID/smaps into an array of QemuMapping. */
GArray *qemu_parse_smaps(const char *text, GError **error);

/* A piece of RAM in the guest's address space. */
typedef struct {
    char *region;          /* QEMU's name of the memory region ("vga.vram") */
    uint64_t address;      /* in the guest */
    uint64_t offset;       /* in the region */
    uint64_t host_address; /* of the region's start; 0: not known */
    char *device;          /* path of the PCI device it belongs to, or NULL */
} QemuFlatRange;

void qemu_flat_range_free(QemuFlatRange *range);

/* Reads the view "memory" out of the text of `info mtree -f`: a list of
 * QemuFlatRange, one per region and place. */
GPtrArray *qemu_parse_flat_view(const char *text, GError **error);

/* Reads the text of `gpa2hva`; FALSE where it names no address of *region*. */
gboolean qemu_parse_host_address(const char *text, const char *region, uint64_t *ret);

/* Reads QEMU's memory at a host address. */
typedef gboolean (*QemuMemoryReader)(uint64_t address, void *buffer, size_t length, gpointer user,
                                     GError **error);

/* Gives each block its address or proof.  *ranges* may be NULL where
 * `info ramblock` told the addresses. */
gboolean qemu_locate_ram_blocks(GPtrArray *blocks, const GArray *mappings,
                                const GPtrArray *ranges, QemuMemoryReader reader, gpointer user,
                                GError **error);
