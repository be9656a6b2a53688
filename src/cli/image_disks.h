/* Files that a saved image needs beside it: copies of disks, and what these are above. */
#pragma once

#include "base/json.h"
#include "image/saved_image.h"

/* [{"file", "there"}], each once. */
json_t *image_disks_describe(const SavedImage *image);
guint image_disks_count_missing(json_t *files);
