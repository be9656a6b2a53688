/*
 * The leases of a guest that is split, at its destination
 *
 * Theory of operation: a LeaseKeeper (lease_keeper.h), the client of its witness, and what both need of
 * the VMM.  The guard's deadline is a file beside that of the outstanding pages; beside it lies how the
 * guest is paused, so that an agent that was restarted can go on with the leases before its VMM answers:
 * a process that was stopped when its lease ended does not.
 *
 *     started   before the guest runs here; from now on it runs only while it has a lease
 *     told      of the source's leases (split_leases_grant())
 *     ended     nobody else can come to run it: it needs no lease any more
 *
 * Threads: any.
 */
#pragma once

#include <glib.h>

#include "migrate/lease_keeper.h"
#include "vmm/vmm.h"
#include "wire/channel.h"

typedef struct {
    const char *transaction;     /* these are copied */
    const char *witness;         /* witness_open.h */
    const char *agent;           /* its lasting id */
    guint lease_ms, shortest_ms; /* LeaseKeeperOptions */
    /* For each connection to it. */
    gboolean (*get_channel)(ChannelOptions *ret, gpointer user, GError **error);
    gpointer user; /* outlives the leases */
} SplitLeasesOptions;

typedef struct SplitLeases SplitLeases;

/* *path*: of the file of outstanding pages.  *vmm* is borrowed (split_leases_set_vmm()); NULL where an
 * agent that died has left them: then it is told later. */
SplitLeases *split_leases_start(pid_t pid, const char *path, Vmm *vmm,
                                const SplitLeasesOptions *options, GError **error);
/* Ends them; *ended*: the VMM is no more, or has never run.  Otherwise, and unless they were ended, the
 * deadline stays, and a guard watches it.  NULL-safe. */
void split_leases_free(SplitLeases *leases, gboolean ended);

/* Whether an agent that died has left any. */
gboolean split_leases_exist(const char *path);

/* Removes the files that are beside *path*. */
void split_leases_remove_files(const char *path);

/* NULL: it is not to be used any more. */
void split_leases_set_vmm(SplitLeases *leases, Vmm *vmm);

/* The source's answer to what was sent at *sent_ns* (clock_boot_ns()). */
void split_leases_grant(SplitLeases *leases, uint64_t sent_ns, guint length_ms);
/* How often the source is to be asked, and for how long. */
guint split_leases_get_interval_ms(SplitLeases *leases);
guint split_leases_get_wanted_ms(SplitLeases *leases);

/* lease_keeper_run() */
gboolean split_leases_run(SplitLeases *leases, gboolean (*run)(gpointer user, GError **error),
                          gpointer user, GError **error);

/* The VMM's process was stopped, and answers nothing. */
gboolean split_leases_has_stopped_vmm(SplitLeases *leases);
/* lease_keeper_begin_moment(), lease_keeper_end_moment() */
gboolean split_leases_begin_moment(SplitLeases *leases);
void split_leases_end_moment(SplitLeases *leases);
/* The last one has ended. */
gboolean split_leases_are_held(SplitLeases *leases);
/* The witness has it on record that this guest goes on alone, as it said last. */
gboolean split_leases_are_for_alone(SplitLeases *leases);
/* What the witness said last; NULL: nothing yet. */
const char *split_leases_get_state_name(SplitLeases *leases);

/* Asks the witness for this guest to go on alone.  FALSE with *error*: not, or not now. */
gboolean split_leases_claim(SplitLeases *leases, GError **error);
/* It has gone on alone, and nobody needs the witness's record any more. */
void split_leases_forget(SplitLeases *leases);

/* It needs none any more.  TRUE when the guest runs without; FALSE: ask again. */
gboolean split_leases_end(SplitLeases *leases);
