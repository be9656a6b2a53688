/*
 * Copies of disks of an image that another one replaces
 *
 * Theory of operation: each save gives its copies names of their own (saved_disk_name()), so what has replaced an image
 * needs none of the copies that were beside it.  Other images in the folder may: increments, and what was merged of them,
 * name the copies that theirs are above.  Those that nobody names any more are removed, once the new image is there.
 *
 * Notes are not trusted with what may be removed: only names that a save of this very image would give, and only files.
 */
#pragma once

#include <glib.h>

/* Names (without folders) of the copies of the image at *path*; empty where there is none, or none that can be read. */
GPtrArray *replaced_copies_find(const char *path);

/* Removes those of *names* that no image in the folder of *path* names. */
void replaced_copies_remove(const char *path, const GPtrArray *names);
