/* The options of `vmferry migrate`, and the request they make. */
#pragma once

#include "base/json.h"
#include "cli/cli.h"

typedef struct {
    CommonOptions common;
    char *mode, *bandwidth, *compress, *tracker, *throttle, *segments;
    char *max_downtime, *downtime_cap, *deadline, *memory_budget, *streams;
    char *record; /* path of the trace, or NULL */
    gboolean verify, reclaim_free, trust_images, allow_cpu_mismatch, detach, progress;
} MigrateArguments;

void migrate_arguments_clear(MigrateArguments *words);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(MigrateArguments, migrate_arguments_clear)

/* The request's body; NULL after a usage error was shown.  Free with
 * json_decref(). */
json_t *migrate_arguments_to_request(const MigrateArguments *words, const char *destination);
