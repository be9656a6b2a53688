/*
 * A destination is told that a move, or a save, has been given up
 *
 * Theory of operation: a session that survives its connections waits for its source to connect again, with
 * a VMM and perhaps files that nobody will need.  A source that gives up says so by ABORT; where it had no connection
 * just then, or was restarted, a thread asks the destination what became of the transaction (RESOLVE), by a connection of
 * its own: one that asks that does not come back, so nobody waits for it any more.  It tries again and again, as long
 * as the destination may be waiting.
 */
#pragma once

#include "agent/context.h"

/* As long as a user may have the other side wait. */
#define WITHDRAWAL_LONGEST_MS 3600000u

typedef struct {
    const char *destination; /* HOST[:PORT] */
    const char *agent;       /* its lasting id */
    const char *transaction;
    const char *guest_id;
    uint64_t term; /* that the destination would have had */
    guint for_ms;
} WithdrawalNotice;

/* Does nothing where there is nobody to be told; copies what it needs. */
void withdrawal_tell(AgentContext *context, const WithdrawalNotice *notice);
