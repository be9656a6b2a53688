/*
 * Who keeps a guest's image: the receiving half of a save
 *
 * Theory of operation: a session whose HELLO said "save". The guest runs where it is and stays its host's; here is only
 * a file:
 *
 *     source (save_source.h)                     here
 *       SAVE (into which file)          -->
 *                                     <--      SAVE_BASE, where it is to be above another image (save_base.h)
 *       DISKS … as in a move            -->      files beside the image
 *       GUEST                           -->      the image begins, without a name
 *                                       <--      ACCEPTED
 *       page frames, EPOCH_SEAL         -->      extents, as they came
 *                                       <--      EPOCH_APPLIED
 *       …
 *       DEVICE_STATE, EPOCH_SEAL,
 *       SAVE_NOTE                       -->      disks closed and kept, index, sync, rename
 *                                       <--      SAVED
 *
 * Pages are not unpacked, and not applied: an epoch that replaces a page just adds it again. Only above a base are they
 * unpacked, and compared with what that has (image_increment.h). The pages of the last epochs, those that were written
 * last, become the order in which a restore places pages first.
 *
 * Where the path is a FIFO, and the source may name one, the image goes into it.
 */
#pragma once

#include "migrate/destination.h"

typedef struct {
    const MigrateDestinationHost *disks; /* of it: open_storage, close_storage, note_files */
    /* Once it is known whose it is, before anything is made; FALSE refuses. */
    gboolean (*begin)(const char *guest, const char *path, gpointer user, GError **error);
    gpointer user;
    gboolean pipes; /* the path may be a FIFO's */
} ImageHostOptions;

/* Blocks to the end.  On failure nothing is left of the image nor of its disks, and the peer was told. */
gboolean image_host_receive(Session *session, const ImageHostOptions *options, GError **error);
