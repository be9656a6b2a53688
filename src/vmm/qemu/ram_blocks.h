/*
 * QEMU's RAM blocks and where they are in its address space
 *
 * Theory of operation: `info ramblock` lists the blocks; from QEMU 8.1 on with
 * their host addresses.  QEMU marks every block MADV_DONTFORK and puts guard
 * pages around it, so each block is one mapping with the flag "dc" in
 * /proc/PID/smaps, as long as the block's total length.  Which of them is which
 * block is found in two ways.
 *
 * At a destination (ram_incoming.c) by markers: the stream that opens an
 * incoming QEMU (state/qemu_stream.h) writes a page of random bytes to the
 * beginning of each block; the mapping that begins with them is the block.
 * That needs no help of QEMU and works with every version.
 *
 * At a source, whose memory must not be touched (ram_locate.c), where QEMU
 * does not tell, one after the other:
 *
 *   - a block that the guest sees somewhere is identified by `info mtree`
 *     (guest address, region name, offset) and `gpa2hva` (host address);
 *   - of the rest, a block whose length no other one has is identified by it;
 *   - what is left (cards whose BARs are not mapped, option ROMs) by QEMU's own
 *     record of the block on its heap (ram_records.h);
 *   - where no such record is found, blocks of one length that hold the same
 *     bytes are ambiguous: which is which makes no difference as long as they do.
 *     They get addresses in any order, and qemu_check_ambiguous() proves at the
 *     pause that they still hold the same;
 *   - everything else is not guessed but refused.
 *
 * Blocks without a name are not migrated by QEMU and take part only in the
 * elimination.  All text and memory comes from a process that a guest may have
 * taken over: every number is checked and every list bounded.  The result names
 * mappings that exist, with the right length, each at most once.
 *
 * Everything here is pure but for the memory reader that the caller gives.
 */
#pragma once

#include <glib.h>
#include <stdint.h>

#define QEMU_MAX_RAM_BLOCKS 256
#define QEMU_MAX_MAPPINGS 4096
#define QEMU_MAX_TREE_RANGES 1024

typedef struct {
    char *name;            /* "" for blocks that QEMU does not migrate */
    uint64_t offset;       /* QEMU's own address of it ("ram_addr") */
    uint64_t used;         /* bytes that hold something */
    uint64_t total;        /* bytes of the mapping */
    uint64_t host_address; /* 0: not known (yet) */
    guint ambiguous;       /* number of its group of ambiguous blocks (see above), or 0 */
} QemuRamBlock;

void qemu_ram_block_free(QemuRamBlock *block);

/* Bytes of the mapping that holds it: whole pages. */
uint64_t qemu_ram_block_mapped(const QemuRamBlock *block);

/* Reads the text of `info ramblock` into a list of QemuRamBlock. */
GPtrArray *qemu_parse_ram_blocks(const char *text, GError **error);

typedef struct {
    uint64_t start, length;
} QemuMapping;

typedef struct {
    GArray *ram;  /* of QemuMapping, marked "dc"; neighbours are joined */
    GArray *heap; /* of QemuMapping: private anonymous data, what malloc() hands out */
} QemuMappings;

void qemu_mappings_free(QemuMappings *mappings);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(QemuMappings, qemu_mappings_free)

/* Reads /proc/PID/smaps. */
QemuMappings *qemu_parse_smaps(const char *text, GError **error);

/* A piece of RAM in the guest's address space. */
typedef struct {
    char *region;          /* QEMU's name of the memory region ("vga.vram") */
    uint64_t address;      /* in the guest */
    uint64_t bytes;        /* so much of it */
    uint64_t offset;       /* in the region */
    uint64_t host_address; /* of the region's start; 0: not known */
    char *device;          /* path of the PCI device it belongs to, or NULL */
} QemuTreeRange;

void qemu_tree_range_free(QemuTreeRange *range);

/* Reads the address space "memory" out of the text of `info mtree`: a list of
 * QemuTreeRange.  Another region may lie over one. */
GPtrArray *qemu_parse_memory_tree(const char *text, GError **error);

/* Reads the text of `gpa2hva`; FALSE where it names no address of *region*. */
gboolean qemu_parse_host_address(const char *text, const char *region, uint64_t *ret);

/* Reads QEMU's memory at a host address. */
typedef gboolean (*QemuMemoryReader)(uint64_t address, void *buffer, size_t length, gpointer user,
                                     GError **error);

/* At a source: gives each block its address.  *ranges* may be NULL where
 * `info ramblock` told the addresses. */
gboolean qemu_locate_ram_blocks(GPtrArray *blocks, const QemuMappings *mappings,
                                const GPtrArray *ranges, QemuMemoryReader reader, gpointer user,
                                GError **error);

/* FALSE where a block of *before* is not in *now* as it was, or another one is
 * there: QEMU resizes tables of the firmware when the guest reboots, and what
 * has grown was neither tracked nor sent.  (QEMU's own migration ends, too.) */
gboolean qemu_check_same_blocks(const GPtrArray *before, const GPtrArray *now, GError **error);

/* FALSE where blocks that were ambiguous, and equal, differ by now. */
gboolean qemu_check_ambiguous(const GPtrArray *blocks, QemuMemoryReader reader, gpointer user,
                              GError **error);

/* At a destination: those of *blocks* (borrowed) that the source's *regions*
 * (of RamRegion, with name and bytes) are, in that order.  REFUSED where QEMU
 * could not take them: a block is not in both lists, or is of another length
 * and cannot be resized. */
GPtrArray *qemu_match_regions(const GPtrArray *blocks, const GPtrArray *regions, GError **error);

#define QEMU_MARKER_BYTES 4096u

/* Looks for markers (QEMU_MARKER_BYTES for each block, one behind the other)
 * at the beginning of all mappings; gives the blocks whose marker is there
 * their addresses.  *ret_all*: all have one.  FALSE where a marker is in two
 * places or in a mapping of another length. */
gboolean qemu_find_markers(const GPtrArray *blocks, const GArray *ram, const uint8_t *markers,
                           QemuMemoryReader reader, gpointer user, gboolean *ret_all,
                           GError **error);

/* Do two pieces of memory hold the same bytes? */
gboolean qemu_same_content(uint64_t one, uint64_t other, uint64_t length, QemuMemoryReader reader,
                           gpointer user, gboolean *ret, GError **error);
