/*
 * Checkpoints of a running guest, sent to a peer that keeps them
 *
 * Theory of operation: a peer has the guest as it was at one moment, complete: at first as it was when
 * this was made.  Each epoch brings it to a later moment.  A thread of its own takes one after the
 * other (policy/checkpoint_pace.h):
 *
 *     cut       the guest stands (vmm/vmm_checkpoint.h): pages that it has written since the last
 *               epoch are copied (captured_pages.h), and each *output* notes where this epoch ends
 *     send      pages, what outputs add, device state, a seal, on the session's channel of
 *               TRAFFIC_CHECKPOINT; the guest runs meanwhile, and what it sends out waits
 *     applied   the peer has all of it for good: what the guest had sent out by the cut is released
 *
 * Of a page that the peer got in this session only what has changed is sent (page/sent_store.h, with
 * copies of pages: what goes on for months must not trust fingerprints), within a budget of an eighth
 * of the guest's memory, 4 to 256 MiB.
 *
 * One epoch is under way at a time.  What was cut and not confirmed counts as not cut: where the
 * session breaks the next epoch, in the next session, has it all (the peer may have committed it:
 * then it gets it again).  So nothing is ever released that a peer does not have.
 *
 * Which pages the peer lacks is on record, in files that survive us (epoch_pages.h).  Where there are
 * many, they are sent ahead of the cut while the guest runs, pass after pass
 * (checkpoint_pace_sends_ahead()).
 *
 * Where a cut fails it is tried again.  Where checkpoints cannot be taken any more (the VMM has ended)
 * nothing more is released: what follows is for the owner to decide.
 *
 * Threads: those of checkpoint_sender_take_applied() and checkpoint_sender_hurry() are any; the
 * others one.
 */
#pragma once

#include "policy/checkpoint_pace.h"
#include "protect/epoch_pages.h"
#include "vmm/vmm.h"
#include "wire/session.h"

/* What the peer has in the guest's memory by the epoch that is being sent. */
typedef struct CheckpointPages CheckpointPages;

typedef struct {
    const uint8_t *content; /* 4096 bytes */
    gboolean found;
    guint region; /* where the peer has it, if found */
    uint64_t page;
} CheckpointBlock;

/* Looks for each of them, and compares what it finds with the guest's memory.  FALSE where that cannot be
 * read. */
gboolean checkpoint_pages_find(CheckpointPages *pages, CheckpointBlock *blocks, guint count,
                               GError **error);

/* What became of disk writes that an output has sent. */
void checkpoint_pages_count_writes(CheckpointPages *pages, uint64_t bytes, uint64_t found_bytes,
                                   uint64_t sent_bytes);

/* Something that the guest sends out, held back. */
typedef struct {
    /* The guest may be about to stand, and to go on, for the cut, or within is_ready().  FALSE: not now; it is
     * tried again.  Then end_moment(), whatever became of it.  May be NULL, both. */
    gboolean (*begin_moment)(gpointer user);
    void (*end_moment)(gpointer user);
    /* *ret is FALSE where no epoch can be cut yet; it is asked again.  May be NULL. */
    gboolean (*is_ready)(gpointer user, gboolean *ret, GError **error);
    /* An epoch is about to be cut, now that little is to be sent in it; the guest runs.  For what is
     * not held back before the first one.  May be NULL. */
    gboolean (*prepare)(gpointer user, GError **error);
    /* The guest stands: what it has sent out so far belongs to this epoch. */
    gboolean (*cut)(gpointer user, GError **error);
    /* Sends what the peer is to have of it, before the seal.  FALSE fails the session.  May be NULL. */
    gboolean (*send)(Session *session, CheckpointPages *pages, gpointer user, GError **error);
    /* The peer has the epoch that was cut last. */
    void (*release)(gpointer user);
    gpointer user;
} CheckpointOutput;

#define CHECKPOINT_MOST_OUTPUTS 4u

typedef struct CheckpointSender CheckpointSender;

/* Begins to track: the peer has the memory as it is now, and the guest does not run.  Borrows all.
 * *userfault* was opened with USERFAULT_WP_ASYNC, and serves *memory*; the files are empty. */
CheckpointSender *checkpoint_sender_new(GuestMemory *memory, Userfault *userfault,
                                        const EpochPageFiles *files, GError **error);
/* The same of a guest that runs, with what an agent that died has left. */
CheckpointSender *checkpoint_sender_reopen(GuestMemory *memory, Userfault *userfault,
                                           const EpochPageFiles *files, GError **error);

/* When checkpoints are taken; all 0 by default.  Before it is started. */
void checkpoint_sender_set_limits(CheckpointSender *sender, const CheckpointPaceLimits *limits);

/* The guest is about to run, or runs: from now on epochs are taken whenever there is a session.
 * *outputs* (copied) hold back what it sends. */
gboolean checkpoint_sender_start(CheckpointSender *sender, Vmm *vmm, guint interval_ms,
                                 const CheckpointOutput *outputs, guint output_count,
                                 GError **error);

/* Ends the thread: nothing is cut or released from here on.  The session, if there is one, must have
 * been shut down. */
void checkpoint_sender_end(CheckpointSender *sender);

/* The same, and frees it.  What is tracked stays so.  NULL-safe. */
void checkpoint_sender_free(CheckpointSender *sender);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(CheckpointSender, checkpoint_sender_free)

/* Epochs go to *session* (borrowed), which has its channel for them, until it is ended: it must have
 * been shut down.  What was not confirmed is cut anew. */
void checkpoint_sender_begin_session(CheckpointSender *sender, Session *session);
void checkpoint_sender_end_session(CheckpointSender *sender);

/* No more epochs are cut; one that is under way may still be confirmed. */
void checkpoint_sender_stop(CheckpointSender *sender);

/* An EPOCH_APPLIED frame of the session has come. */
gboolean checkpoint_sender_take_applied(CheckpointSender *sender, const Frame *frame,
                                        GError **error);

/* Output waits: the next checkpoint is to come soon. */
void checkpoint_sender_hurry(CheckpointSender *sender);

typedef struct {
    uint64_t epochs;           /* that were confirmed */
    uint64_t pages, bytes;     /* in them: pages, and on the wire */
    uint64_t segments;         /* of the pages: sent as what had changed in them */
    uint64_t ahead;            /* pages that were sent while the guest ran, whatever came of them */
    uint64_t disk_bytes;       /* data of disk writes, of epochs that were sent … */
    uint64_t disk_found_bytes; /* … that was found in memory that the peer has … */
    uint64_t disk_sent_bytes;  /* … and on the wire, all of them */
    double p50_pause_ms, p99_pause_ms, max_pause_ms;
    double pause_ms; /* of all */
    double age_ms;   /* since the last confirmed one was cut; negative: there was none */
    gboolean failed; /* none is taken any more */
} CheckpointCounts;

void checkpoint_sender_get_counts(CheckpointSender *sender, CheckpointCounts *ret);

/* Why none is taken any more, or NULL. */
const GError *checkpoint_sender_get_error(CheckpointSender *sender);
