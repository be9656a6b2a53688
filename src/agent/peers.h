/*
 * The listener for other agents
 *
 * Theory of operation: a socket in the main loop accepts connections; each is
 * served by a thread of its own: TLS handshake, allow list, HELLO, and then
 * what HELLO says is its purpose (a move, a further channel of one, a question
 * about one, a ping).  All of it, up to the purpose, has a time-out.  A channel
 * that joins becomes the session's (wire/session.h) and its thread ends.
 * admission.h says who is served while many come; besides that, peers never take
 * the last descriptors of
 * the process, which moves and the control socket need.
 */
#pragma once

#include "agent/context.h"

typedef struct Peers Peers;

/* Listens as the settings say; listens nowhere for "none". */
Peers *peers_new(AgentContext *context, GError **error);

/* Accepts no more and cuts what there is; the threads end by themselves. */
void peers_stop(Peers *peers);

/* After agent_context_join(). */
void peers_free(Peers *peers);

/* A ChannelOptions.dial of an AgentContext: this agent serves the other end itself, in plain text within this
 * process, as it serves a peer. */
int peers_dial(gpointer context, GError **error);

/* TRUE where a peer of this name may come in: the list is empty or has it. */
gboolean peers_is_allowed(char **allow, const char *name);
