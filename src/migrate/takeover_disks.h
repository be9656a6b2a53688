/*
 * Committed disk writes of the copy that is lost become part of the images here
 *
 * Theory of operation: when the other copy of a guest is certainly dead, the journal
 * (disk/write_journal.h) is applied to the images of this one: each image with writes is opened by a
 * storage process (vmm/vmm_storage.h), which knows its format, written over NBD, flushed and closed.
 * It can be done again from the beginning, so a crash on the way needs nothing but that.  The
 * machine that will use the images opens them afterwards, or takes them (vmm_resume()) afterwards.
 *
 * The storage process and its guard are the caller's.
 */
#pragma once

#include <glib.h>

#include "disk/write_journal.h"
#include "vmm/vmm_storage.h"

typedef struct {
    /* Of VmmDiskFile, the topmost image's.  *path*: as the storage process reaches it, VmmDiskFile's
     * *file* then; its *path* leads through the VMM, and is good while that lives, and where the
     * storage process may use it. */
    const char *path, *format;
    uint64_t bytes;
} TakeoverImage;

/* The same of its full generation alone (write_journal_rotate()), while epochs go on to come in another
 * thread. */
gboolean takeover_disks_apply_full(const WriteJournal *journal, VmmStorage *storage,
                                   const TakeoverImage *images, guint count, GError **error);

/* *images*: in the order of the journal's disks, as many. */
gboolean takeover_disks_apply(const WriteJournal *journal, VmmStorage *storage,
                              const TakeoverImage *images, guint count, GError **error);
