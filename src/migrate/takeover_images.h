/*
 * Which images a guest's disk writes go to where it is taken over, written down
 *
 * One file in the takeover's directory, in the order of the journal's disks (takeover_disks.h).
 */
#pragma once

#include <glib.h>

#include "base/json.h"
#include "migrate/takeover_disks.h"

gboolean takeover_images_exist(const char *directory);

gboolean takeover_images_write(const char *directory, const TakeoverImage *images, guint count,
                               GError **error);

/* Of TakeoverImage, whose texts are *ret_object*'s.  Free both. */
GArray *takeover_images_read(const char *directory, json_t **ret_object, GError **error);
