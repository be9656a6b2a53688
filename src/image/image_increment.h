/*
 * What differs from a base: the pages of an increment
 *
 * Theory of operation: all pages of a machine come here, as they come for a full image, in frames and as
 * often as they change.  Each is compared with the base's content, byte by byte, and stored only where it
 * differs:
 *
 *     a frame's pages     the image has it already     base's page     becomes
 *     any                 yes                          -               stored again, as it came
 *     with content        no                           equal           nothing
 *     with content        no                           other           stored
 *     zero                no                           zero            nothing
 *     zero                no                           other           zero
 *
 * A frame of which all pages are to be stored is stored as it came; else those pages are packed anew.  The
 * machine's unpopulated pages do not come at all: at the end those that never came, and that the base has
 * content for, become zero.
 *
 * Content is what counts, not what a tracker or a digest says of it, so an increment is right above any image
 * of the same regions, whoever made that and whatever happened in between.
 *
 * A damaged extent of the base is INVALID with its place (saved_image.h).
 *
 * Memory in use: two bits for each page, and three times IMAGE_MAX_EXTENT_BYTES.  Threads: one at a time.
 */
#pragma once

#include "image/image_writer.h"
#include "image/saved_image.h"

typedef struct ImageIncrement ImageIncrement;

/* Borrows both; the writer's image has *base* as its base, and the same regions. */
ImageIncrement *image_increment_new(SavedImage *base, ImageWriter *writer, GError **error);
/* NULL-safe. */
void image_increment_free(ImageIncrement *increment);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(ImageIncrement, image_increment_free)

/* In the place of image_writer_add_frame(). */
gboolean image_increment_add_frame(ImageIncrement *increment, const Frame *frame, GError **error);

/* Once all pages have come, before image_writer_commit(). */
gboolean image_increment_finish(ImageIncrement *increment, GError **error);

/* Of pages with content, each as often as it came, but for the last. */
typedef struct {
    uint64_t compared; /* with the base's */
    uint64_t equal;    /* of these */
    uint64_t stored;   /* those that differ, and those that the image had already */
    uint64_t zeroed;   /* pages that are zero, and that the base or this image had content for */
} ImageIncrementCounts;

void image_increment_get_counts(const ImageIncrement *increment, ImageIncrementCounts *ret);
