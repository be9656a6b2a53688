/*
 * One full image out of an increment and its bases
 *
 * Extents of which every page is of use are copied as they are stored; what is left of the others
 * is packed into new ones.  The new image has an id of its own, and all that the increment says of
 * the machine.
 */
#pragma once

#include "image/saved_image.h"

/* Writes the machine of *image*, with its bases, to *path*; its digests have the *key* (or none).
 * *replace*: as image_writer_commit().  *ret_id* may be NULL. */
gboolean image_merge(SavedImage *image, const char *path, GBytes *key, gboolean replace,
                     ImageId *ret_id, GError **error);
