/*
 * Epochs of a guest that runs elsewhere, kept here
 *
 * Theory of operation: the other end of a CheckpointSender.  A thread of its own receives what comes
 * on the session's channel of TRAFFIC_CHECKPOINT: pages are staged in a DeltaStore, a seal commits
 * them with the device state, and only then is the peer told (EPOCH_APPLIED, on the control channel)
 * that it may let go of what the guest has sent out meanwhile.  Whatever breaks in the middle of an
 * epoch leaves the one before.
 *
 * What an epoch has besides pages and device state goes to *parts*: each takes frames of its kinds,
 * and has to have its own part of the epoch on record when it is sealed; what of it counts after
 * a crash is what the delta store's committed epoch says.
 *
 * What fails in the thread fails the session with its cause (session_fail()), and the peer is told.  But
 * where more than epochs comes in the session a lack of room does not: the next one would lack it, too.
 * Then nothing more is kept in this one.
 *
 * Threads: one makes and frees it.
 */
#pragma once

#include "transfer/delta_store.h"
#include "wire/session.h"

typedef struct {
    /* TRUE where the frame is one of its own. */
    gboolean (*takes)(FrameType type);
    gboolean (*take)(const Frame *frame, uint64_t epoch, gpointer user, GError **error);
    /* All of the epoch has come; it is committed when this returns TRUE for all parts … */
    gboolean (*seal)(uint64_t epoch, gpointer user, GError **error);
    /* … and was committed.  Never fails: what is sealed can be committed later. */
    void (*committed)(uint64_t epoch, gpointer user);
    /* What was taken of an epoch that was not sealed, or not committed, does not count. */
    void (*forget)(gpointer user);
    gpointer user;
} CheckpointPart;

#define CHECKPOINT_MOST_PARTS 4u

typedef struct CheckpointReceiver CheckpointReceiver;

/* Borrows *session*, which has its channel for checkpoints, and *store*, which is at an epoch; copies
 * *parts*.  *bears_lack*: of room. */
CheckpointReceiver *checkpoint_receiver_start(Session *session, DeltaStore *store,
                                              const CheckpointPart *parts, guint part_count,
                                              gboolean bears_lack, GError **error);

/* Ends the thread: *session* must have been shut down.  NULL-safe. */
void checkpoint_receiver_free(CheckpointReceiver *receiver);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(CheckpointReceiver, checkpoint_receiver_free)
