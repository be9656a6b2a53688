/*
 * A guest of another host that this one stands by for
 *
 * Theory of operation: the peer listener hands a session here; migrate/protect.h has what is said in it.
 * At its end the guest is on record as POSTCOPY_SOURCE with *standby* (record.h), and recovery keeps
 * what comes of it, goes on from that where its host dies (recovery_standby.c), or drops it.
 */
#pragma once

#include "agent/context.h"
#include "wire/session.h"

/* Serves a session whose HELLO said "protect". */
gboolean standby_receive(AgentContext *context, Session *session, GError **error);
