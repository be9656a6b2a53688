/*
 * Keeping the leases by which a guest runs
 *
 * Theory of operation: the side that runs a guest together with another host (docs/witness.md) has a
 * keeper for it.  Its thread renews the witness's lease, a few times in a lease's length; leases
 * of the peer are told by who hears its answers (lease_keeper_grant()).  How long they are to be follows
 * from how they come (policy/lease.h).  With each of them the guard's
 * deadline moves on, in the thread that brings the lease, so a witness that hangs holds up nothing.
 *
 *              first lease                    no lease any more: it was paused
 *     WAITING ─────────────► RUNS ──────────────────────────────────────────► HELD
 *                             ▲ ╲                                              │
 *                             │  ╲ released ──► FREE (needs no lease)          │ a lease is back
 *                             ╰────────────────────────────────────────────────╯ undo()
 *
 * Shortly before the last lease ends the keeper pauses the guest itself.  Where it does not come to that
 * the guard acts, whether we live or not; the keeper hears of it, and undoes it.  A guard that was killed
 * is replaced.  What the guest's user has paused stays paused.
 *
 * Where the VMM pauses and goes on by itself for a moment, as for an epoch's cut, it would go on without a lease.
 * Within lease_keeper_begin_moment() and _end_moment() the guard stops its process where the lease ends.
 *
 * At the keeper's end, unless the guest's is meant, the witness is asked for the longest lease: an agent that
 * is restarted comes in time.
 *
 * Threads: any.  Callbacks come from the keeper's thread, one at a time, without a lock of its own.
 */
#pragma once

#include <glib.h>
#include <stdint.h>

#include "guard/guard.h"
#include "migrate/witness.h"

typedef struct {
    Witness *witness;        /* borrowed; NULL: there is none, the peer's leases are all */
    const char *transaction; /* copied */
    guint lease_ms;          /* as it was registered: the longest */
    guint shortest_ms;       /* leases may be as short, where they come in time; 0: they are not */
    const char *file;        /* of the guard's deadline; copied */
    GuardAction pause;       /* of vmm_get_pause_action() */
    /* A guard of the VMM with nothing armed, or what is to be armed; the keeper takes it.  Called once at
     * the start, in its thread, and again where the guard has ended. */
    Guard *(*start_guard)(gpointer user, GError **error);
    /* Pauses the guest; FALSE: it may run.  A lease ends soon, and we are well: QEMU's monitor is ours, and
     * all that the guard could do is to stop its process.  Called in a thread of its own, for it may take
     * until that was done and undone.  NULL: let the guard do that. */
    gboolean (*pause_guest)(gboolean *ret_was_running, gpointer user, GError **error);
    /* Undoes what the guard has done: SIGCONT to the VMM's process, or resumes the guest (in this
     * order, where it is both).  FALSE: is tried again soon. */
    gboolean (*undo)(GuardDeadlineUndo what, gpointer user, GError **error);
    /* No lease lives: the guest was paused, *how*.  And: what the witness has on record has
     * changed.  Both may be NULL. */
    void (*held)(GuardDeadlineState how, gpointer user);
    void (*heard)(WitnessState state, gpointer user);
    gpointer user;
} LeaseKeeperOptions;

typedef enum {
    LEASE_KEEPER_WAITING, /* there has been no lease yet: the guest must not run */
    LEASE_KEEPER_RUNS,
    LEASE_KEEPER_HELD, /* the guard has paused it; or is about to */
    LEASE_KEEPER_FREE,
} LeaseKeeperState;

typedef struct LeaseKeeper LeaseKeeper;

/* Starts to ask for leases.  A deadline that the file has (of an agent that was killed) is gone on
 * with: while it is SET the guest runs; a guest that was paused by it is HELD. */
LeaseKeeper *lease_keeper_start(const LeaseKeeperOptions *options, GError **error);

/* The peer has granted a lease, by its answer to what was sent at *sent_ns* (clock_boot_ns()). */
void lease_keeper_grant(LeaseKeeper *keeper, uint64_t sent_ns, guint length_ms);

/* For how long the peer is to be asked for a lease, and how often. */
guint lease_keeper_get_wanted_ms(LeaseKeeper *keeper);
guint lease_keeper_get_interval_ms(LeaseKeeper *keeper);

/* The guest is about to stand still for a moment, and to go on by itself.  FALSE: not now, the lease ends
 * soon, or has.  One at a time. */
gboolean lease_keeper_begin_moment(LeaseKeeper *keeper);
void lease_keeper_end_moment(LeaseKeeper *keeper);

/* Waits until the guest may run, and has it run for the first time: run(user).  FALSE with *error*: it did
 * not, or run() failed.  Where the lease ends over it the VMM's process is stopped; the command to run the
 * guest may then be done when that is undone, by a later lease. */
gboolean lease_keeper_run(LeaseKeeper *keeper, int timeout_ms,
                          gboolean (*run)(gpointer user, GError **error), gpointer user,
                          GError **error);

/* Nobody else can come to run the guest any more: from now on it needs no lease.  One that is held is
 * resumed. */
void lease_keeper_release(LeaseKeeper *keeper);

LeaseKeeperState lease_keeper_get_state(LeaseKeeper *keeper);

/* Ends the thread.  The deadline stays, and the guard watches it without us: a later keeper may go on with
 * it.  Where the guest was FREE, or *ended* (it is no more), the guard ends, too.  NULL-safe. */
void lease_keeper_stop(LeaseKeeper *keeper, gboolean ended);
