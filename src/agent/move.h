/*
 * A guest on its way to another host
 *
 * Theory of operation: a Move is a thread that runs migrate_source_run() for a
 * claimed guest, and what others may know of it: the newest progress and, at
 * the end, the report.  It journals each step through the guest's record.
 * Whoever asked for the move may go away; it goes on.
 *
 * At the end the guest is gone from the registry (completed), back in state
 * HERE (failed, cancelled), or handed to recovery.h (in doubt), and only then is
 * the move said to have ended.
 */
#pragma once

#include "agent/context.h"
#include "migrate/report.h"

/* Claims the guest and starts the move; the caller owns a reference. */
Move *move_start(AgentContext *context, const char *guest, const char *destination,
                 const MigrateOptions *options, GError **error);

Move *move_ref(Move *move);
void move_unref(Move *move);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Move, move_unref)

/* The move of a guest, or NULL with *error*. */
Move *move_find(AgentContext *context, const char *guest, GError **error);

void move_cancel(Move *move);

/* Waits for the end; FALSE after *timeout_ms*. */
gboolean move_wait(Move *move, guint timeout_ms);

/* The newest progress with a version above *seen*, or NULL; *ret_version* is
 * its version.  Free with json_decref(). */
json_t *move_get_progress(Move *move, uint64_t seen, uint64_t *ret_version);

/* What has been traced since the last call, as lines of the API's stream
 * (trace_queue.h), or NULL.  Complete once there was a report before the call.
 * Free with g_free(). */
char *move_take_trace(Move *move);

/* Nobody reads the trace any more. */
void move_end_trace(Move *move);

/* The report, or NULL while it is under way; free with json_decref(). */
json_t *move_get_report(Move *move);

const char *move_get_destination(Move *move);

/* Writes it down (0: nothing). */
gboolean balloon_note(Guest *guest, uint64_t bytes, GError **error);

/* Lets the balloon go where that is owed.  A failure is an event and stays owed
 * until the agent's next start. */
void balloon_release(AgentContext *context, Guest *guest);
