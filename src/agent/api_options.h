/* The options of a move, out of a request and the agent's settings. */
#pragma once

#include "agent/settings.h"
#include "base/json.h"
#include "migrate/report.h"

/* The keys of a migrate request, NULL-terminated. */
extern const char *const api_migrate_keys[];

/* Reads *body*; what it leaves out is as *settings* says.  Each wrong value is
 * an error that says what is possible.
 *
 * Where only one of max_downtime_ms and downtime_cap_ms is given, the other's
 * default gives way to it; where both are, they must agree. */
gboolean api_read_migrate_options(const AgentSettings *settings, json_t *body, MigrateOptions *ret,
                                  GError **error);
