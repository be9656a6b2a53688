/*
 * The base of an image that is about to be made
 *
 * Theory of operation: who keeps an image opens its base, with the whole chain below, before anything is made.
 * It has to be beside the new image, whose readers look for it there by its name; of the same guest, with the same
 * RAM regions; and no file of its chain may be what the new image would replace.  From then on it is read by
 * image_increment.h, and what it has of disks is told to the guest's host.
 */
#pragma once

#include "image/saved_image.h"
#include "wire/messages.h"

/* REFUSED, INVALID or NOT_FOUND where *base* (absolute) cannot be one for *image*. */
SavedImage *save_base_open(const char *base, const char *image, GError **error);

/* Once it is known which guest it is to be of: the one with that id; or with that name, since one that was restored has
 * another id.  Whose it is is for catching mistakes: pages are compared, whatever is below. */
gboolean save_base_check_guest(const SavedImage *base, const char *guest_id, const char *name,
                               const PageRegions *regions, GError **error);

/* Those copies of disks that are beside it. */
gboolean save_base_describe(const SavedImage *base, SaveBaseMessage *ret, GError **error);
