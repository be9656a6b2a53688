/*
 * The per-host daemon
 *
 * Theory of operation: an Agent keeps the guests of one host.  Its parts, from
 * the outside in:
 *
 *     api.h, api_routes.c   users and programs on this host (Unix socket)
 *     peers.h               other agents (TCP, TLS)
 *     launch.h              guests that start or stop here
 *     activity.h            what goes on with a guest, whatever it is
 *     move.h, incoming.h    guests that leave or arrive
 *     recovery.h            guests whose change of owner a crash interrupted
 *     watch.h               their processes
 *     load.h                what they and this host use
 *     registry.h, record.h  which guests there are, and what is on record
 *     transactions.h        what became of moves to here
 *     departures.h          where guests have gone
 *     events.h              what happened
 *     store.h               the state directory
 *
 * Threads: the main loop accepts and answers and never waits for a VMM, a peer
 * or a user.  Each move, each peer's connection, each guest in recovery and each
 * control request has a thread while it lasts.
 *
 * Invariants: a guest's QEMU outlives the agent, whatever ends the agent.  No
 * step is taken before it is on record, so a restarted agent can always tell
 * what the worst case is (record.h).  A guest has one holder of its claim.
 *
 * Limits: certificates are read when the agent starts.  The state directory
 * may be full: then nothing new begins and what is under way is undone.
 */
#pragma once

#include <glib.h>

#include "agent/settings.h"

typedef struct Agent Agent;

/* Opens the state, listens, and begins the recovery of the guests of the last
 * run.  The thread-default main context becomes the agent's loop. */
Agent *agent_new(const AgentSettings *settings, GError **error);

/* Serves until agent_quit() or, with *signals*, SIGTERM or SIGINT; then stops
 * what is under way.  Guests run on. */
void agent_run(Agent *agent, gboolean signals);

/* From any thread. */
void agent_quit(Agent *agent);

void agent_free(Agent *agent);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Agent, agent_free)

/* "ADDR:PORT" as peers reach it, or NULL. */
const char *agent_get_listening(Agent *agent);
