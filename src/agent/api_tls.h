/*
 * The control API over the network: who comes in, and as whom
 *
 * Theory of operation: a TLS port beside the one of peers, with the same certificates and the same
 * rules (wire/tls.h): TLS 1.3, both sides show a certificate of the CA, each connection anew.  A
 * connection is accepted in the main loop and gets a thread, which does the handshake and then
 * carries bytes (wire/relay.h) between it and a socket pair whose other end is served as HTTP by
 * the main loop (api.h).  The name in the certificate says what its caller may do, by [api] in
 * agent.conf; who is on neither list gets an answer that says so, and who has no certificate of the
 * CA gets nothing.
 *
 * Limits: strangers are limited by admission.h, those who are known to API_TLS_CALLERS connections,
 * and to API_TLS_PER_CALLER by one name; a connection that is silent for API_TLS_SILENCE_MS is
 * closed (streams have a line now and then).
 *
 * Threads: all functions in the main loop's.
 */
#pragma once

#include <gio/gio.h>

#include "agent/api_call.h"
#include "agent/context.h"

#define API_TLS_CALLERS 48
#define API_TLS_PER_CALLER 32
#define API_TLS_SILENCE_MS 120000

typedef struct ApiTls ApiTls;

/* What this name may do. */
ApiAccess api_tls_find_access(const AgentSettings *settings, const char *name);

/* Takes *connection*, on which HTTP is spoken; *caller* is NULL-safe to free with
 * api_caller_free() and becomes the callee's. */
typedef void (*ApiTlsServe)(GSocketConnection *connection, ApiCaller *caller, gpointer user);

/* Listens where the settings say.  REFUSED without certificates, or where nobody may. */
ApiTls *api_tls_new(AgentContext *context, ApiTlsServe serve, gpointer user, GError **error);

/* Lets nobody in any more; connections go on. */
void api_tls_stop(ApiTls *tls);

/* What was said last on each connection goes out (for a second at most), all threads end.  The near
 * ends of the socket pairs must be closed.  NULL-safe. */
void api_tls_free(ApiTls *tls);
