/*
 * The disk writes of a guest that is split: revocable here, sent away epoch by epoch
 *
 * Theory of operation: a guest that runs here, and may have to go on elsewhere from its last
 * committed epoch, must not write to its images: each disk gets an overlay (vmm_begin_overlay()) and
 * a tap (vmm_start_tap()).  Images stay as they were at the switchover; what the guest writes is in
 * the overlay, and in the batches that are cut and sent.
 *
 *     before the switch   list, check; at the destination: prepare (empty overlays, the sink)
 *     images are taken,   start
 *     guest not yet runs
 *     each epoch          paused: cut.  Running again: check_taps, and only then the epoch may be
 *                         said to be complete
 *     the end             end, until it is done: the overlays become part of the images
 *     revoked             end the VMM, free, epoch_writes_remove()
 *
 * What is lacking where a tap has broken nobody knows: the sink's buffer is lost with it, and all
 * events with this process.  But overlays have all that was written since the start.  So
 * epoch_writes_restart() makes new taps that send all of the overlays first, while the guest runs,
 * and nothing can be cut until epoch_writes_is_whole().  A restarted agent finds the overlays by the
 * transaction (epoch_writes_find()) and does the same, or ends them.
 *
 * Overlays are files NAME.qcow2 in a directory of the integrator's choice, on a real file system
 * (not in memory) with room for all that the guest writes while it is split; a full one is an error
 * of the guest's disk.  Left out are disks that are read only, and flash: that is guest memory, and is
 * written to its file anew where its device's state is loaded.
 *
 * Threads: one at a time.
 */
#pragma once

#include <glib.h>
#include <sys/types.h>

#include "disk/epoch_tap.h"
#include "vmm/vmm.h"
#include "vmm/vmm_storage.h"

/* Less than that is not enough for the overlays of a guest, unless its disks are smaller. */
#define EPOCH_WRITES_ROOM_BYTES (1ull << 30)

typedef struct {
    const char *transaction;
    const char *directory;
    uint64_t limit_bytes; /* of a batch that nobody cuts (epoch_tap.h) */
} EpochWritesPlace;

/* The disks that need it, of VmmDisk, in one order at both sides of a move: their places are the
 * disks' numbers in batches.  May be empty.  Free with g_ptr_array_unref(). */
GPtrArray *epoch_writes_list(Vmm *vmm, GError **error);

/* UNSUPPORTED with the disk's name and the reason where one cannot have it.  At either side. */
gboolean epoch_writes_check(const GPtrArray *disks, GError **error);

/* NO_SPACE where the directory has too little. */
gboolean epoch_writes_check_room(const GPtrArray *disks, const char *directory, GError **error);

/* Whether there are files of overlays. */
gboolean epoch_writes_exist(const EpochWritesPlace *place);

/* Removes overlays' files.  No VMM uses them (any more). */
void epoch_writes_remove(const EpochWritesPlace *place);

/* Paths of those that are there, in the order of the disks.  Free with g_ptr_array_unref(). */
GPtrArray *epoch_writes_list_files(const EpochWritesPlace *place);

typedef struct EpochWrites EpochWrites;

/* Lists and checks; makes the overlays' files, empty, for a VMM that runs as this user, and lets it
 * open each; starts the sink.  The machine may wait for its state still: what takes time, or would
 * make a start fail, is to be done and known before START.  Removes what an attempt with the same
 * transaction has left.  *vmm* must outlive the result. */
EpochWrites *epoch_writes_prepare(Vmm *vmm, const EpochWritesPlace *place, VmmStorage *storage,
                                  uid_t uid, gid_t gid, GError **error);

/* How many disks it has, in the order of epoch_writes_list(). */
guint epoch_writes_get_count(const EpochWrites *writes);

/* The machine is paused and has its images.  From now on what it writes is revocable.  On failure
 * all is undone, the files too. */
gboolean epoch_writes_start(EpochWrites *writes, GError **error);

/* After a restart of the agent: what is there by this transaction, without taps.  NOT_FOUND where
 * nothing is. */
EpochWrites *epoch_writes_find(Vmm *vmm, const EpochWritesPlace *place, GError **error);

/* The machine is paused: new taps, in whatever state the old ones are; batches begin with all that is
 * in the overlays, and what was cut before is in it.  That may be more than a batch is to hold: take
 * what comes (epoch_tap_take()) until they are whole, as parts of the next epoch.  FALSE where one has
 * been committed. */
gboolean epoch_writes_restart(EpochWrites *writes, GError **error);

/* *ret: the taps have all.  To be asked for while the guest runs; a pause that follows is an epoch.
 * FALSE where they have broken again. */
gboolean epoch_writes_is_whole(EpochWrites *writes, gboolean *ret, GError **error);

/* For what is gathered, sent ahead and given back; NULL where there are no taps. */
EpochTap *epoch_writes_get_tap(EpochWrites *writes);

/* As epoch_tap_cut(): the machine was paused by vmm_pause() or a save of its state.  BUSY where it is
 * not known to be whole. */
WriteBatch *epoch_writes_cut(EpochWrites *writes, int timeout_ms, GError **error);

/* After a cut, and when the VMM answers again: FALSE where a tap has not had all that was written up
 * to then, so that the batch may lack something (another program has ended its job). */
gboolean epoch_writes_check_taps(EpochWrites *writes, GError **error);

/* Ends the taps, and makes the overlays part of the images; call it until *ret_done, the guest
 * running.  It goes on where a former call, or a former agent, has come to.  After a failure the next
 * call tries again. */
gboolean epoch_writes_end(EpochWrites *writes, gboolean *ret_done, GError **error);

/* Ends the taps; overlays that are in use stay in use, files of others go.  NULL-safe. */
void epoch_writes_free(EpochWrites *writes);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(EpochWrites, epoch_writes_free)
