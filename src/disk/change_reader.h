/*
 * Reading what has changed of an exported disk
 *
 * Theory of operation: an NBD export tells by a metadata context which ranges of its disk a dirty bitmap has (QEMU's
 * "qemu:dirty-bitmap:NAME"; bit 0 of an extent: dirty).  All ranges are asked for first, then read, piece by piece.
 *
 * What the server says is checked against the size of the disk.  NBD is spoken by libnbd.
 *
 * Threads: one.
 */
#pragma once

#include <glib.h>
#include <stdint.h>

#define CHANGE_READER_PIECE_BYTES ((size_t)1 << 20)

typedef struct ChangeReader ChangeReader;

/* Connects.  INVALID where the export is not of *bytes* bytes, UNSUPPORTED where it does not tell *context*. */
ChangeReader *change_reader_open(const char *socket_path, const char *name, const char *context,
                                 uint64_t bytes, GError **error);
/* NULL-safe. */
void change_reader_free(ChangeReader *reader);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(ChangeReader, change_reader_free)

/* Finds the ranges, and how many bytes they have. */
gboolean change_reader_look(ChangeReader *reader, uint64_t *ret_bytes, GError **error);

/* The next piece of them, of at most CHANGE_READER_PIECE_BYTES; *ret_length* 0 at the end.  *ret_data* is the
 * reader's, up to the next call. */
gboolean change_reader_next(ChangeReader *reader, uint64_t *ret_offset, const uint8_t **ret_data,
                            size_t *ret_length, GError **error);
