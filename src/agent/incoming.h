/*
 * A guest that comes from another host
 *
 * Theory of operation: the peer listener hands a connection here; the
 * destination's half of the move (migrate/destination.h) drives it and asks
 * back at its four points: launch, commit, started, aborted.  The name is
 * taken and the transaction is on record, durably, before QEMU is launched;
 * commit is one step under the transaction log's lock (transactions.h).
 */
#pragma once

#include "agent/context.h"
#include "wire/session.h"

/* Serves one move to its end. */
gboolean incoming_serve(AgentContext *context, Session *session, GError **error);
