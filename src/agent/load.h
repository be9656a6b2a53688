/*
 * What this host and its guests use, for GET /v1/load and GET /v1/metrics
 *
 * Theory of operation: a thread has the collector (collect/collector.h) look every COLLECTOR_INTERVAL_MS, and tells
 * it which guests there are.  Requests get what the last look came to.  A guest's VMM is asked only while nothing is
 * being done with the guest: a move's pause must not wait for a question of ours.  Its process is looked at
 * all the time.
 */
#pragma once

#include "agent/context.h"
#include "collect/collector.h"

/* Of agent_context_new().  NOT_FOUND where the settings name a folder as "this host" that is no control group of
 * version 2. */
Collector *load_collector_new(AgentContext *context, GError **error);

/* From now on the host is looked at, until the agent stops. */
void load_start(AgentContext *context);

/* The last look, a new reference; waits for the first one for a moment. */
LoadReport *load_get_report(AgentContext *context, GError **error);

/* docs/api.md, GET /v1/load. */
json_t *load_to_json(AgentContext *context, GError **error);
