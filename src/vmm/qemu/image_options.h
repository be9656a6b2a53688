/*
 * How an image was made, and how to make one like it
 *
 * Theory of operation: what VmmDiskFile.options and VmmImageRequest.options hold for QEMU is a JSON
 * object whose keys are those of `blockdev-create`.  It is made at the source out of what QEMU
 * tells of an open image, and comes to the destination from a peer, so it is checked key by key
 * there. All keys are optional, and only a qcow2 image has any:
 *
 *   "cluster-size"      a power of two, 512 to 2 MiB
 *   "version"           "v2", "v3"
 *   "refcount-bits"     a power of two, 1 to 64
 *   "lazy-refcounts"    true, false
 *   "extended-l2"       true, false
 *   "compression-type"  "zlib", "zstd"
 *
 * An image with something that a copy of its content would not have is told by an obstacle instead.
 * Pure.
 */
#pragma once

#include <glib.h>
#include <jansson.h>

/* Takes the "image" of an entry of query-named-block-nodes.  TRUE: *ret is a new object, or NULL
 * where there is nothing to tell (raw).  FALSE: such an image cannot be made, and *ret_obstacle
 * says why ("qcow2 with encryption"; free with g_free()). */
gboolean qemu_image_options_from_info(json_t *image_info, json_t **ret, char **ret_obstacle);

/* Checks options (NULL: none) for an image of this format.  UNSUPPORTED for a format that cannot be
 * made, and for a key or a word that is not known; INVALID for a value that is none. */
gboolean qemu_image_options_check(const char *format, json_t *options, GError **error);
