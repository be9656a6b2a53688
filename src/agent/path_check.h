/*
 * `vmferry check HOST`: what the way to another agent is like
 *
 * Theory of operation: a measurement (migrate/path_probe.h) is an activity of no guest, in a thread
 * of its own: whoever asked follows its progress, and its report says how far it came and what was
 * found.  It keeps to the agent's `bandwidth`, and PATH_CHECKS_MOST go on at once.
 *
 * Threads: any.
 */
#pragma once

#include "agent/activity.h"
#include "agent/context.h"

#define PATH_CHECKS_MOST 2

typedef struct {
    const char *destination; /* HOST[:PORT] */
    guint data_ms;
    double memory_bytes; /* for which times are said */
} PathCheckRequest;

/* NULL with *error*: it did not begin. */
Activity *path_check_start(AgentContext *context, const PathCheckRequest *request, GError **error);
