/*
 * The engine's HTTP server
 *
 * docs/api-engine.md describes it for its users.
 *
 * Theory of operation: libsoup in the main loop.  Nothing here waits for an agent: answers come from what the engine
 * knows (engine.h), and what is ordered goes on in threads of its own, so that requests are served one after the other.
 *
 * Who may do what:
 *
 *   - A GET changes nothing.  What a browser may be made to send by another site's page is refused (browser.h), on any
 *     address.
 *   - On a loopback address plain HTTP is spoken.  Who reaches it may do what the engine may, unless there is a token;
 *     then changes need it.
 *   - On any other address only TLS is spoken, and every request needs a certificate of the CA (whose name is on the
 *     list, if there is one) or the token; but for the page's own files, which tell nothing, so that it can ask for one.
 *
 *   - A token that is wrong is refused everywhere.
 *
 * Limits: bodies of SERVER_BODY_LIMIT bytes, with their length told before; SERVER_STREAM_LIMIT streams of events.
 */
#pragma once

#include "engine/engine.h"

#define SERVER_BODY_LIMIT (64u << 10)
#define SERVER_STREAM_LIMIT 64u

typedef struct EngineServer EngineServer;

/* Listens as the settings say.  *engine* must outlive it. */
EngineServer *engine_server_new(Engine *engine, const EngineSettings *settings, GError **error);
void engine_server_free(EngineServer *server);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(EngineServer, engine_server_free)

/* The port that it has, also where the settings say 0. */
guint engine_server_get_port(EngineServer *server);
