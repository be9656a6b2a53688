/*
 * Guests whose owner, or state, is to be settled first
 *
 * Theory of operation: after a restart of the agent, or when a switchover ended
 * without an answer, a guest is in recovery: a thread holds its claim ("recover")
 * and takes one step after another, each tried again with growing pauses,
 * until the guest is plainly ours or plainly gone.  What a step does follows
 * from the record (record.h) and from what the process, its VMM and the other
 * host say:
 *
 *     process gone              remove the guest; an event says so
 *     OURS, with a transaction  clean up in it, resume it if a move paused it
 *     SWITCHING_OVER, IN_DOUBT  runs: ours.  Paused: ask the destination
 *                                 committed  (with a higher term) end our copy
 *                                 aborted    resume it: ours
 *                                 pending    ask again
 *                                 lost, or no answer: in doubt; ask again, and
 *                                 do what an operator decides
 *                               Where the destination would lack pages: offer them first;
 *                               who takes them has committed
 *     POSTCOPY                  serve its faults; its source connects
 *     POSTCOPY_SOURCE           connect, and serve its pages; do what an operator decides
 *     LEAVING                   end our copy
 *     INCOMING                  transaction committed: resume it if paused: ours
 *                               otherwise: end it
 *
 * A guest that is kept without an "aborted" gets a term above the one that its
 * destination may have (record.h).  A definite answer of the destination wins
 * over an operator's decision: it may have come while the operator typed.
 */
#pragma once

#include "agent/context.h"

/* Takes the records of the last run, and starts the recovery of each guest. */
gboolean recovery_load_guests(AgentContext *context, GError **error);

/* Takes over a guest whose claim the caller holds. */
void recovery_start(AgentContext *context, Guest *guest);

/* An operator's decision for a guest in doubt; waits until it is done. */
gboolean recovery_decide(AgentContext *context, const char *name, Decision decision,
                         GError **error);
