/*
 * What a saved image's base has of the guest's disks, and the bitmaps for images above it (private to the source)
 *
 * Theory of operation: each save that the guest survives begins a bitmap for each disk that it copies, in its pause, and
 * names it in the image's note (saved_disks.h).  A save above that image finds the bitmap again, unless another VMM runs
 * the guest by then, and copies what has changed (disk_changes.h).  The two newest stay, so that a save which fails after
 * its pause does not cost the one before.
 */
#pragma once

#include "vmm/vmm.h"
#include "wire/messages.h"

/* Its entry about this disk, or NULL. */
const SaveBaseDisk *disk_base_find(const SaveBaseMessage *base, const char *id);

/* What a copy above another one is made as. */
#define DISK_BASE_FORMAT "qcow2"

/* Why all of the disk is to be copied, for users; NULL: what has changed is enough.  *base* may be NULL. */
const char *disk_base_find_obstacle(Vmm *vmm, const VmmDisk *disk, const SaveBaseDisk *base);

/* Names of the files below a copy that is above this one; a new reference.  NULL for NULL. */
json_t *disk_base_list_backing(const SaveBaseDisk *base);

/* In the pause.  Its name, to be freed with g_free(); names ascend with time. */
char *disk_bitmap_begin(Vmm *vmm, const VmmDisk *disk, const char *transaction, GError **error);
/* Its image was not completed. */
void disk_bitmap_drop(Vmm *vmm, const VmmDisk *disk, const char *name);
/* Its image was: older ones go. */
void disk_bitmap_keep_newest(Vmm *vmm, const VmmDisk *disk);
