/* The steps of recovery, shared by its files. */
#pragma once

#include "agent/recovery.h"

typedef enum {
    RECOVERY_AGAIN, /* not settled: try again later */
    RECOVERY_DONE,  /* settled; the claim is given back or the guest removed */
} RecoveryVerdict;

typedef struct {
    AgentContext *context;
    Guest *guest;
    guint attempts;
    Decision seen_decision; /* when the present step began */
    gboolean told;          /* an event has said that it is in doubt */
    uint64_t term;          /* with which it is kept; 0: the one it has */
    gboolean cleaned;       /* of what a dead agent left in it */
} Recovery;

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

/* INCOMING (recovery_incoming.c). */
RecoveryVerdict recovery_settle_incoming(Recovery *recovery, GError **error);
RecoveryVerdict recovery_incoming_gone(Recovery *recovery);
