/*
 * Where a saved image is written to: a file without a name yet, or a pipe
 *
 * Bytes go out one behind the other, in pieces of a megabyte and more.  The kernel is told to begin
 * with the disk meanwhile, so that little is left to wait for at the end.
 *
 * Threads: one at a time.
 */
#pragma once

#include <glib.h>
#include <stdint.h>

typedef struct ImageOutput ImageOutput;

/* A file in the folder of *path*, of mode 0600. */
ImageOutput *image_output_create(const char *path, GError **error);
/* Borrows *fd*. */
ImageOutput *image_output_on_fd(int fd);
/* Removes the file, unless it was published.  NULL-safe. */
void image_output_free(ImageOutput *output);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(ImageOutput, image_output_free)

/* Where the next byte goes, counted from the image's first. */
uint64_t image_output_get_place(const ImageOutput *output);

gboolean image_output_write(ImageOutput *output, const void *bytes, size_t length, GError **error);
/* Zeroes up to the next multiple of *alignment*. */
gboolean image_output_pad(ImageOutput *output, uint32_t alignment, GError **error);

/* What is in [from, end) is not needed any more.  Returns how many bytes were given back to the file
 * system: 0 where that cannot be done, which is no error. */
uint64_t image_output_free_range(ImageOutput *output, uint64_t from, uint64_t end);

/* Writes what is left, waits for the disk, gives the file its name.  Without *replace*: EXISTS where
 * there is another one.  To a pipe, only writes what is left. */
gboolean image_output_publish(ImageOutput *output, gboolean replace, GError **error);
