/* What a user may ask of a move. */
#pragma once

#include <glib.h>
#include <stdint.h>

#include "memory/tracker.h"
#include "page/sent_store.h"
#include "policy/packing.h"
#include "throttle/throttle.h"

#define MIGRATE_DOWNTIME_DEFAULT_MS 300u
#define MIGRATE_DOWNTIME_CAP_DEFAULT_MS 2000u
#define MIGRATE_DOWNTIME_LIMIT_MS 3600000u  /* for both of them */
#define MIGRATE_DEADLINE_LIMIT_MS 86400000u /* a day */
#define MIGRATE_STREAMS_LIMIT 16u
#define MIGRATE_MEMORY_BUDGET_LEAST ((uint64_t)1 << 20)
#define MIGRATE_MEMORY_BUDGET_LIMIT ((uint64_t)1 << 40)

typedef struct {
    guint max_downtime_ms;               /* the pause to aim at */
    guint downtime_cap_ms;               /* the pause that is never exceeded knowingly; not below
                                            max_downtime_ms */
    guint deadline_ms;                   /* for the whole move; 0: none */
    uint64_t bandwidth_bytes_per_second; /* 0: unlimited */
    uint64_t memory_budget_bytes;        /* to remember what was sent; 0: 1/16 of guest RAM */
    guint streams;                       /* 0: by the number of cores, else 1..16 */
    gboolean verify;
    gboolean allow_cpu_mismatch; /* of what the guest's CPU can do, with the destination's */
    gboolean trust_images;       /* do not prove that the disks' images are the same there */
    gboolean reclaim_free;       /* take the guest's free memory by its balloon first */
    gboolean record;             /* a trace for the user: MigrateSourceHost.trace */
    TrackerKind tracker;
    PackingMode compress;
    ThrottleMode throttle;
    SentStoreMode segments;
} MigrateOptions;
