/* All content of an export of an NBD server on a Unix socket, but for what is said to be zero. */
#pragma once

#include <glib.h>
#include <stdint.h>

/* A piece of at most 1 MiB, at a multiple of its greatest length; zeros may be in it. */
typedef gboolean (*ExportPieceFunc)(uint64_t offset, const uint8_t *data, size_t length,
                                    gpointer user, GError **error);

/* Gives up with CANCELLED once *cancelled* (may be NULL) is set.  *ret_bytes* (may be NULL): the size of the disk. */
gboolean export_read(const char *socket_path, const char *name, const gint *cancelled,
                     ExportPieceFunc take, gpointer user, uint64_t *ret_bytes, GError **error);
