/*
 * POST /v1/guests/NAME/estimate: what a move of the guest would cost
 *
 * The guest is claimed for the look (migrate/estimate.h), so that no move begins meanwhile; it runs
 * on.  The agent's end ends the look.
 */
#pragma once

#include "agent/context.h"
#include "migrate/options.h"

typedef struct {
    const char *destination; /* for the answer; NULL: not named */
    MigrateOptions options;
    guint look_ms;
} EstimateRequest;

/* The answer's object.  NULL with *error*: no such guest, BUSY while something is being done with
 * it, or it could not be looked at. */
json_t *estimate_guest(AgentContext *context, const char *name, const EstimateRequest *request,
                       GError **error);
