/*
 * Where a disk's content is written to at its destination
 *
 * Theory of operation: a target is either an image that a storage process of the VMM exports over
 * NBD (vmm/vmm_storage.h; the process knows the image's format, we do not), or a plain file that
 * becomes an equal copy of another one (a backing file, a CD-ROM image, a firmware's variables).
 * Both take the same calls, in order, from one thread.  Zeros become holes where the storage can
 * have them.
 *
 * Data would pile up in the host's page cache and make the last flush, for which a guest is paused,
 * as long as the disk is slow; so a target flushes by itself about once a second while it is
 * written to, in a thread of its own.
 *
 * NBD is spoken by libnbd.
 */
#pragma once

#include <glib.h>
#include <stdint.h>

typedef struct DiskTarget DiskTarget;

/* Connects to an export on a Unix socket; INVALID where it is not of *bytes* bytes. */
DiskTarget *disk_target_open_export(const char *socket_path, const char *name, uint64_t bytes,
                                    GError **error);

/* Writes into the open file *fd* (duplicated), which becomes *bytes* long. */
DiskTarget *disk_target_open_file(int fd, uint64_t bytes, GError **error);

/* The target is all zero now: from now on pages of zeros within what is written stay holes, which
 * counts where its storage keeps less than what is written at once apart (a raw image, small
 * clusters). */
void disk_target_keep_holes(DiskTarget *target);

/* Waits for the flushing thread; what was not flushed may be lost.  NULL-safe. */
void disk_target_free(DiskTarget *target);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(DiskTarget, disk_target_free)

/* Each is checked against the target's size (INVALID); a full disk is NO_SPACE. */
gboolean disk_target_write(DiskTarget *target, uint64_t offset, const uint8_t *data, size_t length,
                           GError **error);
gboolean disk_target_zero(DiskTarget *target, uint64_t offset, uint64_t length, GError **error);

/* All that was written is on the storage when this returns TRUE. */
gboolean disk_target_flush(DiskTarget *target, GError **error);

/* A digest over the content of an export, as hex digits (free with g_free()): each block of 64 KiB
 * that is not all zeros, with its place, as image_view_digest_content() makes it; holes are not
 * read.  Gives up with CANCELLED once *cancelled* (may be NULL) is set. */
char *disk_digest_export(const char *socket_path, const char *name, const gint *cancelled,
                         GError **error);
