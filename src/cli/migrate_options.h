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
} MigrateWords;

void migrate_words_clear(MigrateWords *words);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(MigrateWords, migrate_words_clear)

/* The request's body; NULL after a usage error was shown.  Free with
 * json_decref(). */
json_t *migrate_words_to_request(const MigrateWords *words, const char *destination);
