/*
 * The control API: JSON over HTTP on a Unix socket
 *
 * docs/api.md describes it for its users.
 *
 * Theory of operation: the HTTP server lives in the main loop.  A request is
 * parsed there and handed to a worker thread, since everything that asks a
 * VMM may block; its answer goes out from the main loop again.  Streams
 * (events, the progress of an activity) are fed from the main loop: whoever has
 * news calls agent_context_wake(), and each stream then fetches what came
 * after the last thing it has seen.  A stream has one piece of text on its way
 * at a time, so a reader that does not read costs nothing but its place.
 *
 * Where the settings say so it is served over the network, too (api_tls.h), by
 * the same routes; each says which access it takes, and each connection has a
 * caller with one.
 *
 * Limits: bodies of API_BODY_LIMIT bytes, API_STREAM_LIMIT streams,
 * API_WORKERS requests at work at a time (others wait).  Over the network
 * API_NETWORK_STREAM_LIMIT and API_NETWORK_WORKERS, so that the local socket is
 * never without.
 */
#pragma once

#include "agent/context.h"

#define API_BODY_LIMIT (1u << 20)
#define API_STREAM_LIMIT 64
#define API_WORKERS 16
#define API_NETWORK_STREAM_LIMIT 32
#define API_NETWORK_WORKERS 8

typedef struct Api Api;

Api *api_new(AgentContext *context, GError **error);

/* Accepts no more requests and ends the streams of events.  Those of activities
 * end with them. */
void api_stop(Api *api);

/* TRUE once no request and no stream is left. */
gboolean api_is_idle(Api *api);

void api_free(Api *api);
