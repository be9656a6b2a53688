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
 * `migrate-incoming` wants more around the same sections:
 *
 *     be32 magic "QEVM", be32 version 3,
 *     configuration section: u8 0x07, be32 length, machine type,
 *     FULL sections,
 *     u8 EOF 0x00,
 *     description section: u8 0x06, be32 length, JSON
 *
 * so the one is made from the other by putting the machine type in front and
 * an empty description behind.
 *
 * Limits: a FULL section does not carry its own length, so sections cannot be
 * walked without knowing every device.  The head of the stream, the header of
 * its first section, its last byte and its size are checked; a cut stream is
 * noticed only where the cut does not end with a zero byte.  QEMU itself
 * checks the rest when it loads.
 */
#pragma once

#include <glib.h>
#include <stddef.h>

/* More than this is no device state (a busy machine has about 100 KB). */
#define QEMU_STREAM_MAX_BYTES (64u << 20)

/* Checks a stream that `xen-save-devices-state` wrote. */
gboolean qemu_stream_check_saved(const void *data, size_t length, GError **error);

/* Builds what `migrate-incoming` takes from such a stream.  *machine* is the
 * versioned machine type without "-machine" ("pc-i440fx-7.2"). */
GBytes *qemu_stream_build_incoming(const void *data, size_t length, const char *machine,
                                   GError **error);

/* Checks a stream that qemu_stream_build_incoming() made on another host and
 * returns its machine type (free with g_free()); NULL with *error*. */
char *qemu_stream_check_incoming(const void *data, size_t length, GError **error);
