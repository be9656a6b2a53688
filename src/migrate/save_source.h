/*
 * Saving a guest into an image: the half of the host where it runs
 *
 * Theory of operation: a save is a move whose destination is a file: the same rounds, the same policy, the same
 * journal and guard (source_move.h), sent to whoever keeps the image (image_host.h), on this host or another.  What
 * differs is the end.  Nobody else is to own the guest, so there is no START: once its last pages and its device
 * state have been read, it goes on, and whether the image is complete is awaited afterwards.  Only where it is to
 * be ended it stays paused until then.
 *
 *     check ── connect ── guard ── disks ── track ── offer ── rounds ── pause ── last pages, state
 *                                                                          │
 *                        image complete (SAVED) ◄── all sent ◄── resume ◄──┘
 *
 * Disks: a copy of each is kept in step by the VMM (source_disks.c) and ended in the pause, so it is of the same
 * moment as the memory.  Or the image refers to them as they are, which is right only if nobody writes to them
 * afterwards: of a guest that is ended, with its images released by the VMM before they are looked at.
 */
#pragma once

#include "migrate/source.h"

typedef struct {
    MigrateSourceJob move; /* *destination*: for messages, where *move.channel* dials */
    const char *path;      /* of the image, absolute, there */
    const char *base;      /* an image beside it that it is to be above; NULL: a full one */
    gboolean replace;      /* a file that is there */
    gboolean
        live_disks; /* by reference, although the guest goes on to write to them: for who looks at its memory */
    gboolean ends; /* the guest is ended once its image is complete */
} SaveJob;

/* Blocks.  Whatever fails, the guest is as it was.  MIGRATE_COMPLETED: the image is complete (report->image); with
 * *ends* the guest stays paused then, for the caller to end it, or to resume it where that fails.  Never NULL. */
MigrateReport *save_source_run(const SaveJob *job, GCancellable *cancellable);
