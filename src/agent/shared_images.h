/*
 * Pages of images that several restored guests share on this host
 *
 * Theory of operation: the first guest that is to share an image's pages makes a SharedPages (memory/shared_pages.h) for
 * it, known by the image's id; those restored later, while one of them is here, join.  Each guest holds it as long as it
 * is in the registry.  A restarted agent knows of none: guests keep what they have, lacking pages become their own, and
 * those that come share anew among themselves.
 *
 * Threads: any.
 */
#pragma once

#include "image/image_format.h"
#include "memory/shared_pages.h"

typedef struct SharedImages SharedImages;
typedef struct SharedImage SharedImage;

SharedImages *shared_images_new(void);
/* Once no guest holds any.  NULL-safe. */
void shared_images_free(SharedImages *images);

/* The pages of the image *id* with these regions; to be released. */
SharedImage *shared_images_join(SharedImages *images, const ImageId *id, const PageRegions *regions,
                                GError **error);
/* A GDestroyNotify; NULL-safe. */
void shared_image_release(gpointer image);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(SharedImage, shared_image_release)

SharedPages *shared_image_get_pages(const SharedImage *image);
