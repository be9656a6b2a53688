/*
 * Guests that are to be protected, and are not
 *
 * Theory of operation: that a guest is to be protected, how and by whom, is on record (record.h) from its
 * first protection on until its user ends that; after a failover the record is the standby's, and names the
 * host where the guest was.  A thread looks at all guests from time to time, and begins to protect those
 * that are not (protect.h), again and again, with pauses that become longer.  Images that lie there
 * are replaced: they are this guest's, of before.
 *
 * The setting *protect-again* is the first pause, in seconds; 0: nothing is done by itself.
 */
#pragma once

#include "agent/context.h"

/* Until the agent stops. */
void protect_again_start(AgentContext *context);
