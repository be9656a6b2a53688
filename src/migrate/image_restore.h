/*
 * A guest that goes on from a saved image
 *
 * Theory of operation: a takeover (takeover.h) without an old process: all of the guest's memory is in the image
 * (image/saved_image.h).  A fresh VMM loads the device state and runs at once; what it touches is read from the image
 * then, and everything else behind.
 *
 *     image_restore_open()    what machine it is, and its disks
 *     launch one              as incoming; vmm_match_machine()
 *     image_restore_load()    its memory is served from here on; first what a restore before this one waited for,
 *                             as far as there is time
 *     (on record)
 *     vmm_resume()
 *     image_restore_fill()    first the pages that the saved guest had used last, or a restore before this one first
 *     image_restore_await()   until its memory is all there
 *     image_restore_record()  what it has waited for, beside the image, for the next restore
 *
 * An image that is damaged, or gets shorter meanwhile, is an error of image_restore_await(): what needs such a page
 * waits, and never reads zeroes.  After our death image_restore_reopen() goes on, by the files in *directory*.
 *
 * Threads: one at a time.
 */
#pragma once

#include "image/saved_image.h"
#include "migrate/local_feeder.h"
#include "migrate/saved_disks.h"
#include "vmm/vmm.h"
#include "wire/messages.h"

typedef struct ImageRestore ImageRestore;

/* INVALID where the file is damaged, or something else. */
ImageRestore *image_restore_open(const char *path, GError **error);
/* Leaves what does not have all its memory yet to image_restore_reopen(); one that was not loaded is to be ended.
 * NULL-safe. */
void image_restore_free(ImageRestore *restore);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(ImageRestore, image_restore_free)

/* All borrowed. */
const SavedImage *image_restore_get_image(const ImageRestore *restore);
const GuestMessage *image_restore_get_machine(const ImageRestore *restore);
json_t *image_restore_get_note(const ImageRestore *restore);
const GArray *image_restore_get_disks(const ImageRestore *restore); /* of SavedDisk */

/* Guests of the same image share their pages (memory/shared_pages.h), from image_restore_load() on; *shared* (borrowed,
 * as long as this lives) is of the regions of image_restore_get_image(). */
void image_restore_share(ImageRestore *restore, SharedPages *shared);

/* Loads *fresh* (borrowed), launched as incoming for this machine; it is paused then.  On failure it is to be killed,
 * after image_restore_free(). */
gboolean image_restore_load(ImageRestore *restore, Vmm *fresh, const char *directory,
                            GError **error);

/* Goes on with what an agent that died has loaded, and fills.  *ret_whole*: it has all of its memory already. */
gboolean image_restore_reopen(ImageRestore *restore, pid_t pid, const char *directory,
                              gboolean *ret_whole, GError **error);

/* Begins to bring all other pages, once. */
gboolean image_restore_fill(ImageRestore *restore, GError **error);

LocalFeederState image_restore_await(ImageRestore *restore, guint timeout_ms, GError **error);

/* Adds what was waited for to what was recorded before; nothing where there was nothing. */
gboolean image_restore_record(ImageRestore *restore, GError **error);

/* Pages that are still in the image only. */
uint64_t image_restore_count_outstanding(ImageRestore *restore);
void image_restore_get_counts(ImageRestore *restore, FaultServiceCounts *ret);
