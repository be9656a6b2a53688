/*
 * A guest of this host is protected by a standby on another one
 *
 * Theory of operation: that begins as an Activity ("protect"), with the guest's claim; it ends as
 * one when the standby has a first epoch.  From then on the guest is kept as one that is split
 * (postcopy.h), and shown as "protected", until its user ends that, or the standby is gone for good.
 */
#pragma once

#include "agent/context.h"
#include "migrate/report.h"
#include "policy/checkpoint_pace.h"

typedef struct {
    const char *standby;    /* HOST[:PORT] */
    gboolean copies_writes; /* ProtectJob.copies_writes */
    guint overhead_percent; /* 100 x ProtectJob.limits.most_share */
    CheckpointSync sync;
    const MigrateOptions *options; /* checkpoint_ms, store (the witness), disks, overwrite */
} ProtectRequest;

/* Claims the guest and begins.  The caller owns a reference. */
Activity *protect_start(AgentContext *context, const char *name, const ProtectRequest *request,
                        GError **error);

/* Ends it, and waits for that.  *force*: the standby does not answer, there is no witness, and the user
 * says that nobody has the guest go on there. */
gboolean protect_end(AgentContext *context, const char *name, gboolean force, GError **error);

/* The standby is to go on with the guest, from the last epoch that it has; nothing that anybody has
 * heard of is lost.  Returns when the guest is not here any more. */
gboolean protect_fail_over(AgentContext *context, const char *name, GError **error);
