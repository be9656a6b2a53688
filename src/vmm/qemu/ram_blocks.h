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
 *   - among equal lengths, blocks of known content (option ROMs by their
 *     vendor and device, the loader of ACPI tables) are told apart by it;
 *   - blocks that are equal even in that (two cards of one model) and hold the
 *     same bytes are twins: which is which makes no difference as long as they
 *     do.  They get addresses in any order, and qemu_check_twins() proves at
 *     the end, on both sides, that they still hold the same;
 *   - what is left is not guessed: such blocks get no address but a proof, a
 *     digest over the contents of all mappings that it could be.
 *
 * A destination's guest address space is bare before its state is loaded (no
 * BAR is mapped), so `gpa2hva` finds fewer blocks there.  Limit: before QEMU 8
 * two blocks of one length that change and are seen only through BARs (two VGA
 * cards) are found at the source but not at the destination.
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
    uint32_t rom_ids;      /* vendor << 16 | device of the PCI device it belongs to, or 0 */
    guint twins;           /* number of its group of twins (see above), or 0 */
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
gboolean qemu_locate_ram_blocks(GPtrArray *blocks, const GArray *mappings, const GPtrArray *ranges,
                                QemuMemoryReader reader, gpointer user, GError **error);

/* FALSE where blocks that were taken for twins differ by now. */
gboolean qemu_check_twins(const GPtrArray *blocks, QemuMemoryReader reader, gpointer user,
                          GError **error);
