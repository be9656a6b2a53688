/*
 * Protection: a standby of a running guest on another host
 *
 * Theory of operation: a protected guest is one that is split (postcopy_destination.h) and lacks
 * nothing, so that all that is known of splits holds for it: epochs go from where it runs to where it
 * could go on, output waits for them, the witness's leases decide who may run it (docs/witness.md).  Its
 * other half, the *standby*, has no VMM: memory and device state are in a delta store, the disks are
 * files of that host with a journal above them.  What is new is how it begins:
 *
 *     host of the guest                              standby
 *       HELLO "protect", GUEST, PROTECT         ──►  takes the name, makes its store, registers with the
 *                                                    witness, finds a way back
 *                                               ◄──  ACCEPTED
 *       on record as protected, by a transaction
 *       (without a standby that counts)
 *       overlays: images stand still
 *       DISKS …, their files as they stand      ──►  writes them
 *       PREPARE                                 ──►  would its VMM start?
 *                                               ◄──  READY
 *       from now on it may be taken over
 *       START                                   ──►  on record as a standby
 *                                               ◄──  STARTED
 *       the session ends
 *                                               ◄──  HELLO "resume" …: as after any break
 *
 * The first epoch has all of the memory, which goes ahead of it while the guest runs; its output is held
 * from that epoch's cut on.  Whatever fails before START leaves the guest as it was; a standby without
 * an epoch takes nothing over.
 *
 * Threads: each function blocks in that of its caller.
 */
#pragma once

#include "migrate/destination.h"
#include "migrate/source.h"
#include "policy/lease.h"

/* Of its leases, the longest, as when an agent is restarted, and the shortest: the standby goes on about as
 * long after the guest's host was heard last. */
#define PROTECT_LEASE_MS 2000u
#define PROTECT_SHORTEST_LEASE_MS LEASE_SHORTEST_MS

/* For how much of its time a guest may stand, by default, in percent. */
#define PROTECT_OVERHEAD_PERCENT 15u

/* ---- where the guest runs ---- */

typedef struct {
    /* The path of the file for what is outstanding (none ever is), and of overlays; free with g_free(). */
    char *(*name_outstanding)(gpointer user, GError **error);
    char *(*name_overlays)(gpointer user, GError **error);
    /* The guest is protected by this transaction, with the next term: on record, and so is that *standby*
     * (its agent's lasting id) is its other half. */
    gboolean (*note)(const char *transaction, const char *path, const char *standby,
                     const char *witness_agent, gpointer user, GError **error);
    /* That was for nothing: it is as before. */
    void (*withdraw)(gpointer user);
    gboolean (*get_channel)(ChannelOptions *ret, gpointer channel_user, GError **error);
    gpointer channel_user; /* outlives the guest's protection */
    gpointer user;
} ProtectHost;

typedef struct {
    MigrateSourceJob
        source; /* of its options: checkpoint_ms, store (the witness), disks, overwrite; of
                                its host: progress, make_directory, remove_directory */
    ProtectHost host;
    uint16_t port;               /* at which this agent is reached */
    gboolean copies_writes;      /* PostcopyProtectionOptions.copies_writes */
    CheckpointPaceLimits limits; /* the same, limits */
} ProtectJob;

/* Begins.  The guest runs on whatever comes of it.  NULL with *error*; otherwise it is stood by from now
 * on: to be published, shown, and kept (agent/postcopy.h). */
PostcopyDestination *protect_begin(const ProtectJob *job, GCancellable *cancellable,
                                   GError **error);

/* ---- the standby ---- */

typedef struct {
    MigrateDestinationHost destination; /* begin, map, open_storage, close_storage, note_files,
                                           get_channel, channel_user, user */
    /* The guest may come here: its name is taken, and this directory is for its takeover (takeover.h);
     * free with g_free(). */
    char *(*accept)(const GuestMessage *guest, gpointer user, GError **error);
    /* Could it be run here, with the disks that are there by now? */
    gboolean (*check)(const GuestMessage *guest, gpointer user, GError **error);
    /* START: it is on record as a standby of the guest at *host* (HOST:PORT), of the agent with that
     * lasting id, which protects it as *protect* says. */
    gboolean (*commit)(const GuestMessage *guest, const ProtectMessage *protect, const char *host,
                       const char *agent, gpointer user, GError **error);
    /* It is not (any more), and never was. */
    void (*aborted)(const GError *cause, gpointer user);
} StandbyHost;

/* Serves a session whose HELLO said "protect", up to STARTED.  On failure nothing is left, and the peer
 * was told. */
gboolean standby_serve(Session *session, const StandbyHost *host, GError **error);
