/*
 * Post-copy, the destination's half: its own death is survived
 *
 * Theory of operation: at safety level `full` the source keeps the guest complete, as it was at the
 * last epoch that it has committed: the state of the switchover at first, which it has anyway.  As long
 * as pages are outstanding, epochs go back to it (protect/checkpoint_sender.h), and what the guest
 * sends out waits until the source has the epoch in which it was sent.  So where this host dies the
 * source goes on from there, and nobody has heard of anything else.
 *
 *     made          before the device state is loaded: what loading writes is the first epoch's
 *     held          loaded, about to run: from now on its output is held back; that of a guest that
 *                   was running already, of which its standby has nothing yet, from the first cut on
 *     sessions      each has a channel for checkpoints
 *     finished      the source has given up its epochs (ENDED): output passes, nothing stays in the
 *                   VMM
 *     left          the agent stops, or has died: output stays held, or is lost as on a cable; a
 *                   restarted agent goes on (postcopy_protection_reopen())
 *
 * On record are which pages the source lacks, in two files beside that of the outstanding ones, and,
 * in a third one, that ENDED has come: then output has passed, and what the guest has written to its
 * overlays is to become part of its images (held_writes.h), whatever happens.
 *
 * Threads: as CheckpointSender.
 */
#pragma once

#include "memory/fault_service.h"
#include "migrate/epoch_writes.h"
#include "migrate/split_leases.h"
#include "protect/checkpoint_sender.h"
#include "vmm/vmm.h"
#include "wire/session.h"

typedef struct {
    guint interval_ms;     /* of checkpoints */
    const char *directory; /* of overlays; copied */
    CheckpointPaceLimits limits;
    gboolean copies_writes; /* disk writes go as data, and never as events (held_writes.h) */
    /* The guest runs; the other side has no memory of it yet, and cannot take over before it has. */
    gboolean nothing_there;
} PostcopyProtectionOptions;

typedef struct PostcopyProtection PostcopyProtection;

/* Refuses a guest that cannot be protected: one that must not be paused again and again, or whose
 * output cannot be held.  Changes nothing. */
gboolean postcopy_protection_check(Vmm *vmm, GError **error);

/* Borrows all but *path*, the file of the outstanding pages. */
PostcopyProtection *postcopy_protection_new(GuestMemory *memory, Userfault *userfault,
                                            FaultService *service, const char *path,
                                            const char *transaction,
                                            const PostcopyProtectionOptions *options,
                                            GError **error);

/* What an agent that died has left; the guest runs, or waits to run. */
PostcopyProtection *postcopy_protection_reopen(GuestMemory *memory, Userfault *userfault,
                                               FaultService *service, const char *path,
                                               const char *transaction,
                                               const PostcopyProtectionOptions *options,
                                               GError **error);

/* TRUE where one was made for the file of outstanding pages at *path*, and was not finished. */
gboolean postcopy_protection_exists(const char *path);

/* TRUE where ENDED has come to such a one: nobody else has what is in its overlays, and is not in its
 * images yet. */
gboolean postcopy_protection_had_passed(const char *path);

/* Holds the output of the guest, and begins to take checkpoints as soon as there is a session.  A new
 * guest is paused, and has its images; one that was reopened runs, or waits to run.  Borrows *vmm*;
 * takes *writes*, which were prepared (NULL: no disks, or reopened), in any case. */
gboolean postcopy_protection_hold(PostcopyProtection *protection, Vmm *vmm, EpochWrites *writes,
                                  GError **error);

/* The guest runs by these (borrowed): no epoch is cut when they are about to end.  Before it is held. */
void postcopy_protection_set_leases(PostcopyProtection *protection, SplitLeases *leases);

/* A session, with its channel for checkpoints; its end, after it was shut down; an EPOCH_APPLIED. */
void postcopy_protection_begin_session(PostcopyProtection *protection, Session *session);
void postcopy_protection_end_session(PostcopyProtection *protection);
gboolean postcopy_protection_take_applied(PostcopyProtection *protection, const Frame *frame,
                                          GError **error);

/* Something of it may be held, though postcopy_protection_hold() has failed. */
gboolean postcopy_protection_holds_any(PostcopyProtection *protection);

/* The guest has shut down, and its process stays to be put in order. */
gboolean postcopy_protection_is_shut_down(PostcopyProtection *protection);

/* All pages are here: no more epochs are cut. */
void postcopy_protection_stop(PostcopyProtection *protection);

/* ENDED has come: lets all output go, and puts that on record.  FALSE where the VMM is not reached
 * (yet): to be tried again. */
gboolean postcopy_protection_pass(PostcopyProtection *protection, GError **error);

/* TRUE once that is on record. */
gboolean postcopy_protection_has_passed(const PostcopyProtection *protection);

/* After that: what is in overlays becomes part of the images; nothing stays in the VMM, and the files
 * go.  Takes its time; to be tried again where it fails. */
gboolean postcopy_protection_finish(PostcopyProtection *protection, GError **error);

/* The VMM is gone, or has not run: removes the files. */
void postcopy_protection_discard(PostcopyProtection *protection);

/* Uses the VMM no more: it may be freed.  What is in it stays. */
void postcopy_protection_detach(PostcopyProtection *protection);

/* Leaves what was not finished as it is.  NULL-safe. */
void postcopy_protection_free(PostcopyProtection *protection);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(PostcopyProtection, postcopy_protection_free)

void postcopy_protection_get_counts(PostcopyProtection *protection, CheckpointCounts *ret);
