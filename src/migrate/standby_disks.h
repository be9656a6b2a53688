/*
 * A standby's disks: what its guest has written goes to their images while it stands by
 *
 * Theory of operation: the journal of committed writes (disk/write_journal.h) would become as large as
 * what is ever written, and a takeover would wait for all of it.  So where it has become *full_bytes*
 * long, what is in it so far becomes its full generation, which a thread of ours writes to the images,
 * flushes, and then is dropped, while epochs go on to come into the next one.
 *
 *     committed, long enough ──► rotate ──► (thread) written to the images ──► committed: dropped
 *
 * Nobody else uses the images.  What is written twice, by us and by a takeover after our death, is the
 * same, in the same order.  Where it fails it is tried again; then the journal grows to its limit.
 *
 * Threads: one makes and frees it; the part is the CheckpointReceiver's.
 */
#pragma once

#include "migrate/kept_writes.h"
#include "migrate/takeover_disks.h"

/* A takeover writes that much at most, but for what is under way, before the guest runs: some 1,000 writes
 * of 4 KiB, one after the other. */
#define STANDBY_DISKS_FULL_BYTES (4ull << 20)

typedef struct {
    KeptWrites *kept;            /* borrowed */
    const TakeoverImage *images; /* borrowed, as are their texts */
    guint count;
    uint64_t full_bytes;
    gboolean
        opens_ahead; /* before there is anything to write, for a takeover that goes on with it */
    /* A storage process; it is not used any more, and works still, or does not. */
    VmmStorage *(*open_storage)(gpointer user, GError **error);
    void (*close_storage)(VmmStorage *storage, gboolean works, gpointer user);
    /* What keeps them from being written; NULL: nothing any more. */
    void (*note)(const GError *problem, gpointer user);
    gpointer user;
} StandbyDisksOptions;

typedef struct StandbyDisks StandbyDisks;

StandbyDisks *standby_disks_start(const StandbyDisksOptions *options, GError **error);
/* Waits for what is being written.  NULL-safe. */
void standby_disks_free(StandbyDisks *disks);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(StandbyDisks, standby_disks_free)

/* As a part of epochs, in place of that of *kept*; lives as long as *disks*. */
CheckpointPart standby_disks_get(StandbyDisks *disks);

/* How much has been written to images by this. */
uint64_t standby_disks_get_drained(StandbyDisks *disks);
