/* The steps of recovery, shared by its files. */
#pragma once

#include "agent/recovery.h"
#include "agent/standby_ahead.h"
#include "migrate/kept_writes.h"
#include "migrate/takeover_gate.h"
#include "transfer/delta_store.h"
#include "vmm/vmm_storage.h"
#include "wire/channel.h"
#include "wire/messages.h"

typedef enum {
    RECOVERY_AGAIN, /* not settled: try again later */
    RECOVERY_DONE,  /* settled; the claim is given back or the guest removed */
} RecoveryVerdict;

typedef struct RecoveryStorage RecoveryStorage;

typedef struct {
    AgentContext *context;
    Guest *guest;
    guint attempts;
    Decision seen_decision; /* when the present step began */
    gboolean seen_gone;     /* a step began because its process was seen to end */
    gboolean told;          /* an event has said that it is in doubt */
    uint64_t term;          /* with which it is kept; 0: the one it has */
    gboolean cleaned;       /* of what a dead agent left in it */
    Witness *witness;       /* NULL: there is none, or it was not needed yet; the same of … */
    TakeoverGate *gate;
    StandbyAhead *ahead;      /* of a standby, while it stands by; NULL: none */
    RecoveryStorage *storage; /* what it leaves to a takeover; NULL: nothing */
} Recovery;

/* A guest that was paused by a move runs again; one whose user paused it stays
 * so, and holds its images. */
gboolean recovery_end_pause(Recovery *recovery, Vmm *vmm, VmmRunState *state, GError **error);

/* The guest is ours and runs (it is resumed first where that is needed). */
RecoveryVerdict recovery_keep(Recovery *recovery, const char *why, GError **error);

/* The process is gone (its pid may be another's by now): removes the guest. */
RecoveryVerdict recovery_forget(Recovery *recovery, const char *type, const char *why);

/* Gives up our copy: ends its process and removes the guest. */
RecoveryVerdict recovery_release(Recovery *recovery, const char *type, const char *why,
                                 GError **error);

/* Makes sure that the VMM answers. */
gboolean recovery_reach(Recovery *recovery, GError **error);

/* SWITCHING_OVER and IN_DOUBT (recovery_in_doubt.c). */
RecoveryVerdict recovery_settle_in_doubt(Recovery *recovery, GError **error);

/* A guest that runs was resumed on purpose: it is paused before START is sent, and
 * only a decision for this host resumes it. */
gboolean recovery_is_running(Recovery *recovery);
RecoveryVerdict recovery_keep_above(Recovery *recovery, const GuestRecord *record, const char *why,
                                    GError **error);

/* POSTCOPY, or INCOMING and committed with pages outstanding; POSTCOPY_SOURCE
 * (recovery_postcopy.c).  Of a guest in doubt whose destination would lack pages: TRUE where that
 * takes them, so it has committed: it is POSTCOPY_SOURCE then; makes it that. */
RecoveryVerdict recovery_keep_split(Recovery *recovery, GError **error);
RecoveryVerdict recovery_serve_split(Recovery *recovery, GError **error);
gboolean recovery_try_split(Recovery *recovery, const GuestRecord *record);
RecoveryVerdict recovery_begin_split(Recovery *recovery);

/* recovery_witness.c, for a source of a split guest.  The gate that its record leads to, NULL where it
 * has no witness; whether it leads through: nobody else runs the guest, or will; whether the destination
 * has gone on alone, as far as is known; the witness is told that it is over; all that is freed. */
TakeoverGate *recovery_get_gate(Recovery *recovery, const GuestRecord *record);
gboolean recovery_try_gate(Recovery *recovery, const GuestRecord *record);
gboolean recovery_is_alone_there(Recovery *recovery, const GuestRecord *record);
void recovery_forget_witness(Recovery *recovery, const GuestRecord *record);
/* For one that gives up what the destination may still count on, and does not hear of: no consent is on
 * record at the witness any more, and the record stays, by which the destination goes on alone. */
gboolean recovery_give_back_witness(Recovery *recovery, const GuestRecord *record, GError **error);
void recovery_leave_witness(Recovery *recovery);

/* A guest of POSTCOPY_SOURCE that nobody runs any more, by the gate. */
RecoveryVerdict recovery_go_through_gate(Recovery *recovery, const GuestRecord *record,
                                         const char *why, GError **error);

/* LEAVING, and the destination waits to hear that (ENDED). */
RecoveryVerdict recovery_tell_ended(Recovery *recovery, GError **error);

/* POSTCOPY_SOURCE, and the process here is gone. */
RecoveryVerdict recovery_tell_drained(Recovery *recovery, GError **error);

/* The destination has lost a guest that was protected: goes on here from its last epoch, from the
 * beginning; TAKEOVER; that, or taking over, and the process is gone (recovery_takeover.c). */
RecoveryVerdict recovery_take_over(Recovery *recovery, GError **error);
RecoveryVerdict recovery_keep_taken_over(Recovery *recovery, GError **error);
RecoveryVerdict recovery_takeover_gone(Recovery *recovery);

/* RESTORING (restore.c). */
RecoveryVerdict recovery_keep_restored(Recovery *recovery, GError **error);

/* The fresh process of a takeover (recovery_fresh.c).  Ends the one that is on record, if it is there
 * still, and removes its directory; launches one, with nothing of an earlier one on record: it is on
 * record when *begun* (may be NULL) is called, and has done nothing by then. */
typedef struct {
    AgentContext *context;
    Guest *guest;
    const GuestMessage *machine;
    const GPtrArray *rules; /* of VmmMapRule, where it is another host's machine; or NULL */
    void (*begun)(pid_t pid, uint64_t start_time, gpointer user);
    gpointer user;
} FreshLaunch;

gboolean recovery_end_fresh(Guest *guest, GError **error);
Vmm *recovery_launch_fresh(const FreshLaunch *launch, GError **error);

/* A standby (recovery_standby.c): POSTCOPY_SOURCE; its end, where nothing is to be gone on with. */
RecoveryVerdict recovery_stand_by(Recovery *recovery, GError **error);
RecoveryVerdict recovery_end_standby(Recovery *recovery);

/* For it, from recovery_postcopy.c: what the source of a protected guest does without its own process.
 * Whether the destination answers; what an agent that died has left of its epochs; ENDED is to be
 * told; a decision is not needed. */
gboolean recovery_get_channel(ChannelOptions *ret, gpointer recovery, GError **error);
gboolean recovery_is_stopping(gpointer recovery);
gboolean recovery_give_up(gpointer recovery, GError **error);
gboolean recovery_open_epochs(const GuestRecord *record, DeltaStore **ret_deltas,
                              KeptWrites **ret_writes, GError **error);
void recovery_drop_decision(Recovery *recovery);

/* The machine that a takeover in this directory is of. */
GuestMessage *recovery_read_machine(const char *deltas, GError **error);

/* A storage process for its disks, with a directory and a guard of its own (recovery_storage.c).  *rules*: of
 * VmmMapRule, where it is another host's machine. */
RecoveryStorage *recovery_storage_open(AgentContext *context, const GuestMessage *machine,
                                       const GPtrArray *rules, GError **error);
/* Owned by it. */
VmmStorage *recovery_storage_get(RecoveryStorage *own);
/* Ends the process.  NULL-safe. */
void recovery_storage_free(RecoveryStorage *own);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(RecoveryStorage, recovery_storage_free)

/* INCOMING (recovery_incoming.c). */
RecoveryVerdict recovery_settle_incoming(Recovery *recovery, GError **error);
RecoveryVerdict recovery_incoming_gone(Recovery *recovery);
