/*
 * Disks of which a saved image has only what has changed since an earlier one
 *
 * Theory of operation: since the earlier image's pause a bitmap of the VMM notes what the guest writes to
 * (vmm_begin_bitmap()).  That is read and sent in rounds, as memory is:
 *
 *     bitmap of the base   ──── copied ──► round 0 reads these ranges
 *                     from then on: a bitmap for round 1 ──── ended ──► round 1 reads its ranges
 *                                                     a bitmap for round 2 …
 *     the guest is paused                                    the last round reads what is left
 *
 * A range that is written to while it is read may come torn: it is in the next round's bitmap then, since that begins
 * before anything is read, and QEMU marks a write when it ends.  A paused guest's writes have all ended.  So the moment
 * that the copy has is the pause.  The base's bitmap goes on: a save that fails loses nothing.
 *
 * The disk is read through an export of the guest's own VMM, on a socket in a folder that only we may enter.  Nothing
 * of the guest waits for that, whatever becomes of us; what a killed agent leaves is removed by the next one
 * (vmm_adopt()).  A copy-before-write job would need no rounds, but fails writes of the guest when its target goes away.
 *
 * Threads: one.
 */
#pragma once

#include "vmm/vmm.h"

typedef struct DiskChanges DiskChanges;

typedef struct {
    Vmm *vmm;
    const char *transaction; /* 32 hex digits */
    const char *directory;   /* for the socket; nobody else may enter it */
    gboolean (*write)(guint number, uint64_t offset, const uint8_t *data, size_t length,
                      gpointer user, GError **error);
    gpointer user;
} DiskChangesOptions;

/* Copies the options, borrows their texts.  FALSE where this VMM cannot export now. */
DiskChanges *disk_changes_new(const DiskChangesOptions *options, GError **error);
/* Leaves nothing in the VMM.  NULL-safe. */
void disk_changes_free(DiskChanges *changes);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(DiskChanges, disk_changes_free)

/* *number*: for *write*; *bitmap*: of the base. */
void disk_changes_add(DiskChanges *changes, guint number, const char *node, uint64_t bytes,
                      const char *bitmap);

/* A round over all of them; *last*: the guest is paused, and nothing follows.  *ret_bytes*: that had changed. */
gboolean disk_changes_send(DiskChanges *changes, gboolean last, uint64_t *ret_bytes,
                           GError **error);

/* Rounds as long as that makes less of it, while the guest runs. */
gboolean disk_changes_send_most(DiskChanges *changes, GError **error);
