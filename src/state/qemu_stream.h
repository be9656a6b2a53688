/*
 * QEMU's migration stream, as far as vmferry reads and writes it
 *
 * Theory of operation: QMP `xen-save-devices-state` writes the state of all
 * devices and vCPUs, without RAM:
 *
 *     be32 magic "QEVM", be32 version 3,
 *     FULL sections (u8 0x04, …),
 *     u8 EOF 0x00
 *
 * `migrate-incoming` is given the same sections with more around them, in two
 * parts.  The first one opens the stream long before there is any state:
 *
 *     be32 magic "QEVM", be32 version 3,
 *     configuration section: u8 0x07, be32 length, machine type,
 *     START section "ram": u8 0x01, be32 section id, u8 length and name,
 *         be32 instance 0, be32 version 4,
 *         be64 sum of all lengths | MEM_SIZE,
 *         each block: u8 length and name, be64 bytes in use,
 *         each block: be64 offset 0 | PAGE, u8 length and name, 4096 bytes,
 *         be64 END_OF_SECTION,
 *     footer: u8 0x7e, be32 section id
 *
 * With the lengths QEMU makes its resizable blocks (ROMs, ACPI tables) as long
 * as the source's; the pages are markers by which each block is found in its
 * memory (vmm/qemu/ram_blocks.h).  The second part ends the stream:
 *
 *     FULL sections,
 *     u8 EOF 0x00,
 *     description section: u8 0x06, be32 length, JSON
 *
 * Machine types up to version 2.3 have neither configuration nor footers.
 *
 * Limits: a FULL section does not carry its own length, so sections cannot be
 * walked without knowing every device.  The head of a saved state, the header
 * of its first section, its last byte and its size are checked; a cut one is
 * noticed only where the cut does not end with a zero byte.  QEMU itself
 * checks the rest when it loads.
 */
#pragma once

#include <glib.h>
#include <stddef.h>
#include <stdint.h>

/* More than this is no device state (a busy machine has about 100 KB). */
#define QEMU_STREAM_MAX_BYTES (64u << 20)

#define QEMU_STREAM_MAX_BLOCKS 256u

typedef struct {
    const char *name;
    uint64_t bytes;            /* in use: a multiple of a page */
    const uint8_t *first_page; /* becomes its content from 0 on */
} QemuStreamBlock;

/* Checks a stream that `xen-save-devices-state` wrote. */
gboolean qemu_stream_check_saved(const void *data, size_t length, GError **error);

/* Builds the first part.  *machine* is the versioned machine type without
 * "-machine" ("pc-i440fx-7.2"). */
GBytes *qemu_stream_build_begin(const char *machine, const QemuStreamBlock *blocks, guint count,
                                GError **error);

/* Builds the second part from what `xen-save-devices-state` wrote. */
GBytes *qemu_stream_build_end(const void *saved, size_t length, GError **error);
