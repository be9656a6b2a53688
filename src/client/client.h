/*
 * Talking to the local agent
 *
 * HTTP over its Unix socket; blocking.  Errors of the agent come back with its
 * code and message.  VMFERRY_ERROR_DISCONNECTED: no agent, or it went away.
 */
#pragma once

#include <gio/gio.h>
#include <glib.h>

#include "base/json.h"

#define CLIENT_DEFAULT_SOCKET "/run/vmferry/agent.sock"

typedef struct Client Client;

/* *socket*: NULL for VMFERRY_SOCKET or, without that, the default. */
Client *client_new(const char *socket);
void client_free(Client *client);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Client, client_free)

/* The answer's object; free with json_decref().  *body* (may be NULL) is taken. */
json_t *client_call(Client *client, const char *method, const char *path, json_t *body,
                    GError **error);

/* The whole answer of the last client_call() that the agent refused, or NULL;
 * it belongs to the client. */
json_t *client_get_refusal(Client *client);

/* One line of an answer that goes on; FALSE ends it. */
typedef gboolean (*ClientLine)(json_t *object, gpointer user);

/* TRUE when the agent has said all or *on_line* had enough. */
gboolean client_stream(Client *client, const char *method, const char *path, json_t *body,
                       ClientLine on_line, gpointer user, GError **error);
