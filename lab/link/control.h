/*
 * Orders to a running relay
 *
 * Theory of operation: a Unix socket of type SOCK_SEQPACKET, on which each message is one line, and
 * each answer one JSON object: {"ok": true}, {"error": "…"}, or what was asked for.
 *
 *     [forward|backward] NAME VALUE …    settings (settings.h) of one direction, or of both
 *     stats                              {"forward": {…}, "backward": {…}, …}
 *
 * "forward" is from the first tap to the second.  A line changes both directions or, where it is not
 * right for one, nothing.
 */
#pragma once

#include "way.h"

enum { LINK_FORWARD, LINK_BACKWARD, LINK_WAYS };

#define LINK_LINE_MOST 1024

/* Does what a line says; the answer for one that asks, else an empty object, or NULL with *error*. */
json_t *control_answer(Way ways[LINK_WAYS], const char *line, guint64 now_ns, GError **error);

/* Reads one line from a client and answers it; FALSE where the client has gone. */
gboolean control_serve(int client, Way ways[LINK_WAYS]);
