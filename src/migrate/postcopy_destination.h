/*
 * Post-copy, the destination's half after the switchover
 *
 * Theory of operation: a PostcopyDestination is what a guest here needs as long as part of its
 * memory is elsewhere: the fault service, which pages are outstanding (in a file, for a restarted
 * agent), and the session that brings them, if there is one at present.
 *
 *     made           before the device state is loaded (loading touches memory); the first session
 *                    is the move's
 *     served         postcopy_destination_serve(): pages of one session, in the thread of whoever
 *                    has it.  A later session takes the place of an earlier one, which is cut: its
 *                    source knows best whether it still lives.  Between two sessions the guest runs
 *                    on until it needs a page that is not there.
 *     complete       no page is outstanding, so nothing of the source is needed: it is told, and
 *                    ends its copy; the userfaultfd goes from the VMM; that is put on record
 *                    (whole()), and the file removed.  A crash in between leads to the same end: a
 *                    restarted agent finds that nothing is outstanding.
 *                    Of a guest that is protected nothing ends before its source has said that it has
 *                    given up its epochs.
 *     stood by       a guest that lacks nothing, and whose other half is a standby for as long as its
 *                    user wants it: not complete before postcopy_destination_end_standby()
 *     left           the agent stops, or has died: all stays in the VMM as it is, threads that need
 *                    a page wait.  Never is a page that has not come read as zeroes.
 *
 * Reference counted: the guest's owner, and whoever serves a session.
 */
#pragma once

#include "memory/fault_service.h"
#include "migrate/postcopy_protection.h"
#include "transfer/frame_queue.h"
#include "wire/session.h"

typedef struct {
    /* All of the guest's memory is here, and nothing of ours in its VMM: to be put on record.
     * *checkpoints*: NULL where it was not protected. */
    void (*whole)(const FaultServiceCounts *counts, const CheckpointCounts *checkpoints,
                  gpointer user);
    /* The source says that what is outstanding is lost, or, of one that stands by, that it does so no
     * more: then all is well without it. */
    void (*source_lost)(const GError *why, gpointer user);
    GDestroyNotify free; /* of *user*, which is the PostcopyDestination's; may be NULL */
    gpointer user;
} PostcopyDestinationHost;

typedef struct PostcopyDestination PostcopyDestination;

/* Takes *memory*, *userfault* and *pages* (in any case), and begins to serve faults; the pages have
 * been discarded.  *path*: of the file behind *pages*.  *resumed*: see fault_service_start(). */
PostcopyDestination *postcopy_destination_new(GuestMemory *memory, Userfault *userfault,
                                              OutstandingPages *pages, const char *path,
                                              gboolean resumed, GError **error);

/* What an agent that died has left in process *pid*, by the file at *path*.  NULL and no *error*
 * where that agent had all pages and took the userfaultfd out: the file is removed.
 * *options*: of one that is protected; its output is to be held again
 * (postcopy_destination_hold()). */
PostcopyDestination *postcopy_destination_reopen(pid_t pid, const char *path,
                                                 const PostcopyProtectionOptions *options,
                                                 GError **error);

PostcopyDestination *postcopy_destination_ref(PostcopyDestination *split);
/* The last one leaves what is not complete in the VMM.  NULL-safe. */
void postcopy_destination_unref(PostcopyDestination *split);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(PostcopyDestination, postcopy_destination_unref)

/* The VMM has not run and is about to be ended, or is gone: nothing is to stay.  With the last
 * reference what waits there is let go, and reads zeroes.  *why*: for its source. */
void postcopy_destination_discard(PostcopyDestination *split, const GError *why);

const char *postcopy_destination_get_transaction(const PostcopyDestination *split);

/* Before the first postcopy_destination_serve(). */
void postcopy_destination_set_host(PostcopyDestination *split, const PostcopyDestinationHost *host);

/* Before the device state is loaded: the guest's epochs are to go to its source
 * (postcopy_protection.h); before it runs: from now on its output waits for that.  Borrows *vmm* until
 * postcopy_destination_detach(), after which none is sent; takes *writes* (NULL: none). */
gboolean postcopy_destination_protect(PostcopyDestination *split,
                                      const PostcopyProtectionOptions *options, GError **error);
gboolean postcopy_destination_hold(PostcopyDestination *split, Vmm *vmm, EpochWrites *writes,
                                   GError **error);
void postcopy_destination_detach(PostcopyDestination *split);
/* The guest is here, whole, and its other half is to stand by (options->nothing_there): before it is
 * made.  On record, beside *path*: until postcopy_destination_begin_standby() nobody can have taken
 * anything of it, so it runs without where that is not reached. */
gboolean postcopy_destination_note_standby(const char *path, GError **error);
/* As long as that is wanted. */
gboolean postcopy_destination_is_stood_by(const PostcopyDestination *split);
/* Removes that. */
void postcopy_destination_forget_standby(const char *path);
/* From here on there may be one. */
gboolean postcopy_destination_begin_standby(PostcopyDestination *split, GError **error);
/* None is wanted any more; that is on record.  It completes as one that has all of its memory. */
/* FALSE: it is about to go on with the guest (postcopy_destination_begin_failover()). */
gboolean postcopy_destination_end_standby(PostcopyDestination *split);

/* Its process is about to be ended so that its standby goes on with it: from now on the standby is not told
 * that it is not needed.  FALSE: it is told so, or there is none.  And: that was not done. */
gboolean postcopy_destination_begin_failover(PostcopyDestination *split);
void postcopy_destination_drop_failover(PostcopyDestination *split);
/* It is not to be stood by after all: output passes, overlays become part of their images, nothing stays in
 * the VMM (*vmm*), whose guest runs.  Blocks until that is so, or that VMM is no more.  For one that
 * nobody else knows of. */
void postcopy_destination_end_alone(PostcopyDestination *split, Vmm *vmm);
/* Its source is served: it answers. */
gboolean postcopy_destination_has_source(PostcopyDestination *split);
/* Where it has a witness: from now on it runs by leases only (split_leases.h), until its source has
 * given it up, or it goes on alone.  Before it is held; its transaction is filled in.  *vmm* as there;
 * NULL for one that was reopened. */
gboolean postcopy_destination_start_leases(PostcopyDestination *split, Vmm *vmm,
                                           const SplitLeasesOptions *options, GError **error);
/* NULL: it has none. */
SplitLeases *postcopy_destination_get_leases(PostcopyDestination *split);
/* Has the guest run by run(user), as soon as it may. */
gboolean postcopy_destination_run(PostcopyDestination *split,
                                  gboolean (*run)(gpointer user, GError **error), gpointer user,
                                  GError **error);
/* Its source will not take it over any more, which is on record: it needs no lease, and what it sends
 * out waits for nobody.  FALSE: to be tried again. */
gboolean postcopy_destination_go_alone(PostcopyDestination *split, GError **error);
/* TRUE after that, or where its source has given it up. */
gboolean postcopy_destination_is_alone(PostcopyDestination *split);
/* For how long its source has not been there; 0: it is.  A store does not count. */
guint postcopy_destination_get_source_idle_ms(PostcopyDestination *split);

/* No more epochs are cut, and nothing of that is under way: nobody resumes a guest that is paused now. */
void postcopy_destination_end_checkpoints(PostcopyDestination *split);
/* The guest will not run any more: it lacks nothing, and is never whole.  On record: it is to be ended
 * by a restarted agent, too, also where *path* is all that is left. */
void postcopy_destination_forgo_pages(PostcopyDestination *split);
gboolean postcopy_destination_are_pages_forgone(const PostcopyDestination *split);
gboolean postcopy_destination_were_pages_forgone(const char *path);
/* Its process is to be ended at once, and nobody goes on from an epoch: what it has written is all that
 * there will ever be.  On record, as what postcopy_destination_are_writes_last() says, also after
 * the source has said that it is gone. */
void postcopy_destination_note_writes_last(PostcopyDestination *split);
gboolean postcopy_destination_are_writes_last(const char *path);
/* FALSE where it is not protected. */
gboolean postcopy_destination_get_checkpoints(PostcopyDestination *split, CheckpointCounts *ret);

/* Answers what waits already, as long as the state is being loaded: *session* has its channel for
 * faults.  Ended by postcopy_destination_serve() of the same session, or postcopy_destination_cut(). */
gboolean postcopy_destination_begin(PostcopyDestination *split, Session *session, GError **error);

/* Serves *session* until all pages are here (TRUE; its source was told) or it fails.  *queue*: of a
 * session that has begun; NULL: one that resumes, whose source is told first what is outstanding.
 * FALSE, too, for one that has begun and whose place a later one has taken. */
gboolean postcopy_destination_serve(PostcopyDestination *split, Session *session, FrameQueue *queue,
                                    GError **error);

/* Serves *session*, which leads to a store and has its channel for faults: as one of a source that
 * resumes.  FALSE with BUSY where the store has given all that it has, and something is missing
 * still. */
gboolean postcopy_destination_fetch(PostcopyDestination *split, Session *session, GError **error);

/* Ends the session that is being served, if any, with this error for its source (NULL: none). */
void postcopy_destination_cut(PostcopyDestination *split, const GError *why);

/* Waits until it is complete, or for *timeout_ms*: FALSE.  Completes it where nothing is outstanding
 * and no session is there to do so: the guest has discarded what it lacked. */
gboolean postcopy_destination_await(PostcopyDestination *split, guint timeout_ms);

gboolean postcopy_destination_is_complete(PostcopyDestination *split);
uint64_t postcopy_destination_count_outstanding(PostcopyDestination *split);
/* Of all of the guest's RAM. */
uint64_t postcopy_destination_get_memory_bytes(const PostcopyDestination *split);

/* Of these, pages that no store has, as far as the source has said: all, where it has not. */
uint64_t postcopy_destination_count_uncovered(PostcopyDestination *split);
/* The source has said that what is outstanding is lost with its VMM. */
gboolean postcopy_destination_is_source_gone(PostcopyDestination *split);
/* For how long there has been no session; 0: there is one. */
guint postcopy_destination_get_idle_ms(PostcopyDestination *split);
