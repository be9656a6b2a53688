/*
 * Progress and report of a move
 *
 * The report's JSON keys are a contract with users (docs, man page
 * vmferry-migrate): add, never rename.
 */
#pragma once

#include <glib.h>
#include <jansson.h>
#include <stdint.h>

#include "migrate/options.h"

typedef enum {
    MIGRATE_PHASE_CONNECT,    /* connection, description; destination starts its VMM */
    MIGRATE_PHASE_DISKS,      /* the bulk of disks that are copied */
    MIGRATE_PHASE_PRECOPY,    /* rounds, the guest runs here */
    MIGRATE_PHASE_STORE,      /* what will be outstanding is sent to a store, the guest runs here */
    MIGRATE_PHASE_STOPPED,    /* guest paused: last round, device state */
    MIGRATE_PHASE_SWITCHOVER, /* START is sent */
    MIGRATE_PHASE_POSTCOPY,   /* the guest runs there, pages that it lacks follow */
    MIGRATE_PHASE_IMAGE,      /* of a save: all is read, the image is completed */
    MIGRATE_PHASE_DONE,
} MigratePhase;

const char *migrate_phase_name(MigratePhase phase);

typedef struct {
    MigratePhase phase;
    guint round;          /* 0 is the first, whole one */
    uint64_t round_bytes; /* guest bytes of this round: all, done */
    uint64_t round_bytes_done;
    uint64_t wire_bytes;     /* since the start */
    double bytes_per_second; /* recent */
    uint64_t bandwidth;      /* the limit, bytes per second; 0: none */
    double eta_ms;           /* to the end; negative: not known yet */
    double elapsed_ms;
    double run_share;         /* of time that the vCPUs may run; 1 (or unset, 0): all */
    uint64_t work_set_bytes;  /* wire bytes that a pause now would have to carry */
    uint64_t deferred_bytes;  /* guest bytes deferred to the pause */
    uint64_t uncovered_bytes; /* of what is outstanding, that no store has */
    uint64_t disk_bytes;      /* of disks that are copied: all that is stored, done */
    uint64_t disk_bytes_done;
    uint64_t disk_same_bytes;            /* of these: what old files there had already */
    uint64_t disk_wire_bytes;            /* that went over the link for all of them */
    gboolean disconnected;               /* a connection is broken, and being made again */
    guint connections, most_connections; /* that pages go over: now, at most */
    uint64_t seed_bytes;                 /* guest bytes that were taken from the seed */
    guint segment_bytes;                 /* larger TCP segments do not arrive there; 0: not seen */
} MigrateProgress;

typedef struct {
    uint64_t pages;
    uint64_t dirty_bytes;
    uint64_t wire_bytes;
    double ms;
    uint64_t work_set_bytes; /* wire bytes that were expected at its start */
    /* How its pages went: whole, as dirty segments, as copies of others, not at all
     * as pages that its seed has, not at all because the destination had that content, as zero. */
    uint64_t pages_whole, pages_segments, pages_copied, pages_seeded, pages_unchanged, pages_zero;
} MigrateRound;

/* What one way of packing took and made. */
typedef struct {
    uint64_t bytes_in, bytes_out;
} MigratePacked;

/* Memory that was read again because direct I/O may have written it unseen (recheck.h). */
typedef struct {
    gboolean in_use;           /* the guest has such disks */
    uint64_t pages_read_again; /* while it ran and in the pause */
    uint64_t pages_changed;    /* of them: what had been sent was old */
    uint64_t pages_in_pause;   /* of pages_read_again */
    double pause_ms;           /* that these took */
    guint drains;              /* waits for all I/O, beside the one of the pause */
    double longest_drain_ms;
} MigrateDirectIo;

/* What followed the switchover.  All zero where all pages had gone before it. */
typedef struct {
    gboolean switched;          /* the guest ran before its memory was all there */
    double ms;                  /* from START to COMPLETE, breaks of the connection included */
    uint64_t outstanding_pages; /* at the switchover */
    uint64_t pushed_pages;
    uint64_t answered_pages;  /* that a thread of the guest waited for … */
    uint64_t again_pages;     /* … of them, on their way by then */
    guint breaks;             /* of the connection */
    gboolean stored;          /* a store had a copy … */
    uint64_t uncovered_pages; /* … but not of these, when that was last known */
    double store_ms;          /* that filling it took before the switchover */
} MigratePostcopy;

typedef enum {
    MIGRATE_COMPLETED,
    MIGRATE_FAILED,    /* the guest runs where it was */
    MIGRATE_CANCELLED, /* the same, since the user cancelled */
    MIGRATE_ENDED,     /* the guest has ended by itself meanwhile; it is nowhere */
    MIGRATE_IN_DOUBT,  /* START was sent, no answer: guest paused here until resolved */
    MIGRATE_SPLIT,     /* it runs there and lacks pages that are here: to be gone on with */
} MigrateStatus;

/* What came of taking the guest's free memory (MigrateOptions.reclaim_free). */
typedef enum {
    MIGRATE_RECLAIM_OFF,       /* not asked for */
    MIGRATE_RECLAIM_DONE,      /* all that was to be had */
    MIGRATE_RECLAIM_PARTLY,    /* the guest gave less than it was asked for, or nothing */
    MIGRATE_RECLAIM_LITTLE,    /* too little is free */
    MIGRATE_RECLAIM_NO_ANSWER, /* the guest does not tell what is free */
} MigrateReclaim;

/* Stable name for JSON ("no-answer"); NULL for MIGRATE_RECLAIM_OFF. */
const char *migrate_reclaim_name(MigrateReclaim reclaim);

typedef struct {
    MigrateStatus status;
    MigrateMode mode; /* that was asked for */
    char *reason;     /* why the rounds ended: "converged", "no-progress", … or what failed */
    char *error;      /* NULL, or the whole text */
    double total_ms, downtime_ms;
    uint64_t wire_bytes, ram_bytes;
    guint breaks;        /* of connections, that were survived */
    guint retractions;   /* of pauses, since the connection was no good … */
    double retracted_ms; /* … and how long these were together */
    char *
        untold; /* its transaction: it was given up, and the destination is not known to have heard so; NULL:
                            it has, or there is nothing to hear … */
    char *untold_agent;  /* … the destination's lasting id … */
    guint untold_for_ms; /* … that may wait for so long */
    GArray *rounds;      /* of MigrateRound */
    int verified;        /* of memory: 1, 0, -1 not asked for */
    json_t *disks;  /* array, an object for each image: how it was found to be the same there */
    json_t *copies; /* array, an object for each disk: what became of it */
    json_t *files;  /* the same of the files that the command line loads into the guest */
    gboolean arrives_paused; /* its user had paused it, and it is paused there, too */
    gboolean unresumed;      /* it stays paused by this move, which could not resume it */
    char *source, *destination;
    json_t *image;               /* of a save: {file, id, bytes}; NULL: it is not complete */
    char *tracker;               /* which one was used */
    double expected_downtime_ms; /* the policy's last prediction */
    /* What the downtime was made of, in order: QMP stop; last pages; device
     * state out; digests (--verify); the state's way over and in (READY); START
     * and the guest's start. */
    double disks_ms; /* ending the copies of disks */
    guint moments;   /* that it was let run on for, until its state had a neutral form; in a move to
                      another VMM */
    const char *vmm; /* the kind of that; NULL: of the same kind */
    double pause_ms, pages_ms, save_ms, verify_ms, prepare_ms, start_ms;
    /* What was expected once the first round had shown the guest and the link;
     * negative: the move did not get that far. */
    double predicted_total_ms, predicted_downtime_ms;
    gboolean memory_intensive; /* pre-copy was ended early because of it */
    uint64_t deferred_bytes;   /* guest bytes deferred to the pause */
    /* The throttle (throttle.h); *throttle_means* NULL: the guest was never slowed. */
    char *throttle_means; /* "cgroup", "duty" */
    double least_run_share, throttled_ms;
    char *throttle_unavailable;   /* why it cannot be slowed though it may be; NULL: it can */
    SentStoreMode segments;       /* what was used */
    uint64_t memory_budget_bytes; /* the limit; what was in use at most: */
    uint64_t store_bytes;
    guint streams;
    guint connections, most_connections; /* that pages went over: at the end, at most */
    MigrateReclaim reclaim;
    uint64_t reclaimed_bytes; /* what the balloon took, and was not sent therefore */
    MigratePacked packed_none, packed_lz4, packed_zstd;
    MigratePacked packed_window; /* of packed_zstd: with reference to earlier pages */
    int zstd_level;              /* that was in use last; 0: zstd was not */
    char *seed;                  /* an image at the destination, its path there … */
    char *seed_id;               /* … and its id; NULL: none, or not opened */
    uint64_t seed_digests;       /* that it has distinct pages */
    uint64_t seed_list_bytes;    /* that came for them */
    uint64_t seed_pages;         /* that were taken from it */
    uint64_t seed_lacking_pages; /* that it did not have after all; they were sent */
    MigrateDirectIo direct_io;
    MigratePostcopy postcopy;
} MigrateReport;

MigrateReport *migrate_report_new(void);
void migrate_report_free(MigrateReport *report);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(MigrateReport, migrate_report_free)

/* The contract's object; "status" is "completed", "failed" or "cancelled"
 * ("failed" with an "in_doubt": true for MIGRATE_IN_DOUBT). */
json_t *migrate_report_to_json(const MigrateReport *report);
json_t *migrate_progress_to_json(const MigrateProgress *progress);
