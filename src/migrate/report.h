/*
 * Options, progress and report of a move
 *
 * The report's JSON keys are a contract with users (docs, man page
 * vmferry-migrate): add, never rename.
 */
#pragma once

#include <glib.h>
#include <jansson.h>
#include <stdint.h>

#include "memory/tracker_kind.h"
#include "migrate/packing.h"

typedef struct {
    guint max_downtime_ms;               /* target, default 300 */
    uint64_t bandwidth_bytes_per_second; /* 0: unlimited */
    gboolean verify;
    TrackerKind tracker;
    PackingMode compress;
} MigrateOptions;

typedef enum {
    MIGRATE_PHASE_CONNECT,  /* connection, description; destination starts its VMM */
    MIGRATE_PHASE_PRECOPY,  /* rounds, the guest runs here */
    MIGRATE_PHASE_STOPPED,  /* guest paused: last round, device state */
    MIGRATE_PHASE_HANDOVER, /* the word is out */
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
    double eta_ms;           /* to the end; negative: not known yet */
    double elapsed_ms;
} MigrateProgress;

typedef struct {
    uint64_t pages;
    uint64_t dirty_bytes;
    uint64_t wire_bytes;
    double ms;
} MigrateRound;

typedef enum {
    MIGRATE_COMPLETED,
    MIGRATE_FAILED,    /* the guest runs where it was */
    MIGRATE_CANCELLED, /* the same, by the user's wish */
    MIGRATE_IN_DOUBT,  /* the word was sent, no answer: guest paused here until resolved */
} MigrateStatus;

typedef struct {
    MigrateStatus status;
    char *reason; /* why the rounds ended: "converged", "no-progress", … or what failed */
    char *error;  /* NULL, or the whole text */
    double total_ms, downtime_ms;
    uint64_t wire_bytes, ram_bytes;
    GArray *rounds; /* of MigrateRound */
    int verified;   /* 1, 0, -1 not asked for */
    char *source, *destination;
    char *tracker;               /* which one was used */
    double expected_downtime_ms; /* the policy's last prediction */
    /* What the downtime was made of, in order: QMP stop; last pages; device
     * state out; digests (--verify); the state's way over and in (READY); the
     * word and the start. */
    double pause_ms, pages_ms, save_ms, verify_ms, prepare_ms, start_ms;
} MigrateReport;

MigrateReport *migrate_report_new(void);
void migrate_report_free(MigrateReport *report);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(MigrateReport, migrate_report_free)

/* The contract's object; "status" is "completed", "failed" or "cancelled"
 * ("failed" with an "in_doubt": true for MIGRATE_IN_DOUBT). */
json_t *migrate_report_to_json(const MigrateReport *report);
json_t *migrate_progress_to_json(const MigrateProgress *progress);
