/*
 * A guest on its way to another host
 *
 * Theory of operation: a move is an Activity (activity.h) of the kind "migrate".
 * It claims its guest, runs migrate_source_run() in a thread, and journals each
 * step in the guest's record.
 *
 * At the end the guest is gone from the registry (completed), OURS and free
 * (failed, cancelled), or handed to recovery.h (in doubt), and only then does the
 * activity have its report.
 */
#pragma once

#include "agent/context.h"
#include "migrate/report.h"

typedef struct {
    const char *destination;
    const MigrateOptions *options;
    json_t *disk_modes; /* MigrateSourceJob.disk_modes */
} MoveRequest;

/* Claims the guest and starts the move.  With options->record it has a trace.
 * The caller owns a reference. */
Activity *move_start(AgentContext *context, const char *name, const MoveRequest *request,
                     GError **error);

/* Changes the rate limit of the move of this guest that is under way (bytes per second; 0: none);
 * *ret_before*: what it was.  REFUSED where none is. */
gboolean move_set_bandwidth(AgentContext *context, const char *name, uint64_t bytes_per_second,
                            uint64_t *ret_before, GError **error);

/* Notes in the guest's record what its balloon is to be given back (0: nothing). */
gboolean balloon_note(Guest *guest, uint64_t bytes, GError **error);

/* Deflates the balloon where the record says so.  A failure is an event, and the
 * record stays as it is until the agent's next start. */
void balloon_release(AgentContext *context, Guest *guest);
