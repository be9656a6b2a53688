/*
 * Talking to an agent
 *
 * HTTP over the Unix socket of the local one, or HTTPS to one on another host; blocking.  Errors of
 * the agent come back with its code and message.  VMFERRY_ERROR_DISCONNECTED: no agent, or it went
 * away.  Over the network also VMFERRY_ERROR_TIMEOUT, and VMFERRY_ERROR_REFUSED where either side
 * does not trust the other's certificate.  VMFERRY_ERROR_CANCELLED where its owner has asked for that.
 *
 * Theory of operation: each call runs libsoup in a main context of the client's own until it is
 * answered or too late; no thread, and no other main loop, has a part in it.
 *
 * Threads: one at a time; what client_set_stop() was given may be cancelled in any.
 */
#pragma once

#include <gio/gio.h>
#include <glib.h>

#include "base/json.h"

#define CLIENT_DEFAULT_SOCKET "/run/vmferry/agent.sock"
/* Of the API over the network. */
#define CLIENT_DEFAULT_PORT 4748

typedef struct Client Client;

/* For programs with clients in several threads: to be called before the first of these.  GLib may deadlock where one
 * thread initializes a class that needs a type which another one is registering (seen with 2.74: SoupSession against
 * GInetSocketAddress); from here on all of them are there. */
void client_prepare(void);

/* *socket*: NULL for VMFERRY_SOCKET or, without that, the default. */
Client *client_new(const char *socket);

/* How long it takes over the network to connect; to answer (`cancel` waits for a minute); and
 * between two lines of an answer that goes on. */
#define CLIENT_CONNECT_MS 5000
#define CLIENT_ANSWER_MS 75000
#define CLIENT_SILENCE_MS 30000

#define CLIENT_DEFAULT_PKI "/etc/vmferry/pki"

/* To the agent at *address* (HOST[:PORT]) with the certificate in *pki* (ca.crt, host.crt,
 * host.key; NULL for VMFERRY_PKI or, without that, the default).  Connects when it is called.  NULL
 * with *error* where the address or the certificate cannot be used. */
Client *client_new_tls(const char *address, const char *pki, GError **error);

/* Where an engine listens by default. */
#define CLIENT_DEFAULT_ENGINE "127.0.0.1:4750"

/* To the engine at *address* (HOST[:PORT]; NULL for VMFERRY_ENGINE or, without that, the default): over HTTP on a
 * loopback address, elsewhere over HTTPS with the certificate in *pki*, as in client_new_tls(); with a token only the CA's
 * has to be there.  *token_file* (NULL for VMFERRY_TOKEN_FILE, or none): its token. */
Client *client_new_engine(const char *address, const char *pki, const char *token_file,
                          GError **error);

/* In place of the constants above, in ms; 0: no limit.  Over a Unix socket, where there are none, *answer_ms* counts
 * between two pieces of an answer, too. */
void client_set_timeouts(Client *client, guint connect_ms, guint answer_ms);

/* Once *stop* (a reference is kept) is cancelled, in any thread, the call that is under way and all later ones end with
 * VMFERRY_ERROR_CANCELLED.  Whether a request that was sent already has been carried out is not known then. */
void client_set_stop(Client *client, GCancellable *stop);

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
