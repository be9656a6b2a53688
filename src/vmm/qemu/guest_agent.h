/*
 * Client of the agent in the guest (qemu-ga)
 *
 * Theory of operation: qemu-ga reads commands from a port of the guest and writes its answers there, one JSON object a
 * line, without ids.  Outside is a Unix socket that QEMU serves to one client at a time.  Whether anybody listens in the
 * guest cannot be seen, and answers to somebody who went away before may still come.  So a client begins with
 * guest-sync-delimited: the byte 0xFF, which is part of no text, makes the agent forget half a command, and the same
 * byte marks its answer, which has our number in it; whatever came before that is dropped (QEMU's "QEMU Guest Agent
 * Protocol Reference").
 *
 * What comes is the guest's: it is bounded in size and in time, and read as JSON or not at all.
 *
 * Threads: one at a time.
 */
#pragma once

#include <glib.h>
#include <jansson.h>

typedef struct GuestAgent GuestAgent;

/* Takes *fd*, a connected stream socket.  *gives_up* (may be NULL) is asked some times a second while it waits; TRUE ends
 * that with CANCELLED. */
GuestAgent *guest_agent_new(int fd, gboolean (*gives_up)(gpointer user), gpointer user);
/* NULL-safe. */
void guest_agent_free(GuestAgent *agent);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(GuestAgent, guest_agent_free)

/* First of all.  TIMEOUT where nobody answers. */
gboolean guest_agent_sync(GuestAgent *agent, guint timeout_ms, GError **error);

/* Executes a command and returns its "return" value (a new reference).  Takes *arguments* (may be NULL).  After an error
 * other than the agent's own nothing more is to be asked. */
json_t *guest_agent_execute(GuestAgent *agent, const char *command, json_t *arguments,
                            guint timeout_ms, GError **error);
