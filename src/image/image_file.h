/*
 * One file of a saved image, opened and checked as far as it goes by itself
 *
 * Threads: reading from any number.
 */
#pragma once

#include "image/image_index.h"

typedef struct {
    char *path;
    int fd;
    uint64_t bytes, allocated_bytes;
    ImageHeader header;
    ImageIndex *index;
} ImageFile;

/* Reads header, footer and index of *path*, and checks them.  With *wanted* (may be NULL) it must have
 * that id: where it has another one *ret_other* becomes TRUE, and no more of it is looked at. */
ImageFile *image_file_open(const char *path, GBytes *key, const ImageId *wanted,
                           gboolean *ret_other, GError **error);
/* NULL-safe. */
void image_file_free(ImageFile *file);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(ImageFile, image_file_free)

/* Exactly *length* bytes from *place* on; INVALID where the file ends before. */
gboolean image_file_read(const ImageFile *file, void *buffer, size_t length, uint64_t place,
                         GError **error);
