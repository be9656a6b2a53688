/*
 * What a guest writes to its disks, as an output of its epochs
 *
 * Theory of operation: EpochWrites keep them apart and gather them; a batch is cut with each epoch, goes
 * with it in EPOCH_WRITES frames, and is forgotten when it is confirmed.  One that is not becomes part of
 * the next.  Where the tap of a disk breaks (its sink stalls, its agent dies) all of the overlays is
 * gathered anew, for which the guest is paused for a moment, and no epoch is cut until that is done.
 *
 * Event replay (Forever's idea): a block that the guest has written out of a page which the peer has
 * is not sent; EPOCH_EVENTS say which page it is, and the peer writes that.  What is found in no
 * page is sent, packed.
 *
 * Threads: the output's functions are the CheckpointSender's to call; the others by one, when that is
 * not running.
 */
#pragma once

#include "migrate/epoch_writes.h"
#include "protect/checkpoint_sender.h"

typedef struct HeldWrites HeldWrites;

/* The machine is paused and has its images.  Takes *writes*, which are prepared, in any case.  *mark*
 * (copied) is the path of a file that is there as long as the machine is paused by us. */
HeldWrites *held_writes_begin(Vmm *vmm, EpochWrites *writes, const char *mark, GError **error);

/* What an agent that died has left, of a machine that runs or is paused; one that it had paused runs
 * again.  NULL and no *error* where there is nothing of it. */
HeldWrites *held_writes_reopen(Vmm *vmm, const EpochWritesPlace *place, const char *mark,
                               GError **error);

/* FALSE: all data is sent (Kemari's way), to compare. */
void held_writes_set_replay(HeldWrites *held, gboolean replays);

/* As an output of epochs; lives as long as *held*. */
CheckpointOutput held_writes_get(HeldWrites *held);

/* Makes all of it part of the images; the machine may run meanwhile.  FALSE with BUSY: it goes on, and is
 * to be called again, as after any other failure. */
gboolean held_writes_end(HeldWrites *held, GError **error);

/* Ends the taps; the overlays stay in use.  NULL-safe. */
void held_writes_free(HeldWrites *held);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(HeldWrites, held_writes_free)
