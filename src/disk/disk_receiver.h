/*
 * Content of disks at the destination
 *
 * Theory of operation: the other half of disk_sender.h.  A thread receives the frames of the
 * session's channel for disks and applies them in order; it says how far it is whenever nothing
 * more has arrived, and at least every megabyte.  A file's target is opened when its first content
 * comes, since an image can be opened only when the files below it are complete.
 *
 * Where a file is made in place of another one, the sender may ask for digests of that (old_file.h), and
 * have content copied from there.  Both are done in order with all else; the sender asks ahead.
 *
 * A failure (a full disk) ends the thread and is kept for disk_receiver_check(), and the peer is
 * told.
 */
#pragma once

#include <glib.h>

#include "disk/disk_target.h"
#include "disk/old_file.h"
#include "wire/session.h"

typedef struct DiskReceiver DiskReceiver;

typedef struct {
    guint files;
    /* Opens the target of a file; in the receiver's thread.  NULL with *error*. */
    DiskTarget *(*open)(guint file, gpointer user, GError **error);
    /* Opens what was at its place before; the same.  NULL: no file is compared. */
    OldFile *(*open_old)(guint file, gpointer user, GError **error);
    gpointer user;
} DiskReceiverOptions;

/* The session has a channel for TRAFFIC_DISK.  Copies the options. */
DiskReceiver *disk_receiver_start(Session *session, const DiskReceiverOptions *options,
                                  GError **error);

/* Ends the thread, wherever it is, and closes all targets.  NULL-safe. */
void disk_receiver_free(DiskReceiver *receiver);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(DiskReceiver, disk_receiver_free)

/* FALSE with what has failed so far. */
gboolean disk_receiver_check(DiskReceiver *receiver, GError **error);

/* TRUE where the last flush came and is done: no content is missing, and all of it is on the
 * storage.  All targets are closed then. */
gboolean disk_receiver_finish(DiskReceiver *receiver, GError **error);
