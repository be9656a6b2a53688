/*
 * Who this agent is, for its peers
 *
 * 32 random hexadecimal digits in the state directory (agent-id), made once.  What
 * an agent says of a move counts only if it is the one that the guest was sent
 * to: another one that answers to its name (another host, or this one after its
 * state was lost) never heard of the move, and that says nothing.  So the id
 * goes with the records that it vouches for; it must not be copied to another
 * host.
 */
#pragma once

#include <glib.h>

#define AGENT_ID_DIGITS 32

/* Reads the id, or makes one that is on the disk when this returns.  A file that
 * holds none is an error: its records may be wrong, too.  Free with g_free(). */
char *agent_id_open(const char *state_directory, GError **error);
