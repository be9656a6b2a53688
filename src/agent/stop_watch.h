/*
 * Ends what a caller waits for when the agent is stopped
 *
 * Theory of operation: a thread looks every STOP_WATCH_MS whether the agent is being stopped, and
 * cancels then.
 */
#pragma once

#include <gio/gio.h>

#include "agent/context.h"

#define STOP_WATCH_MS 50

typedef struct StopWatch StopWatch;

/* NULL with *error* where there is no thread.  *context* outlives it. */
StopWatch *stop_watch_new(AgentContext *context, GCancellable *cancellable, GError **error);
/* NULL-safe. */
void stop_watch_free(StopWatch *watch);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(StopWatch, stop_watch_free)
