/*
 * When the next checkpoint is taken: pure
 *
 * Theory of operation: checkpoints follow each other at an interval (Remus), or sooner when output
 * of the guest waits for one (Kemari's synchronisation at output).  Each stops the guest for a
 * moment, and what it takes has to be sent; so there is a least time between two, which keeps the
 * pauses at a share of the guest's time.  Each of the two can be had alone: by time only, whatever waits;
 * or at output only, and after some seconds at the latest, so that no epoch grows without bound.
 *
 * Where many pages have to be copied in the pause, they are sent ahead while the guest runs, pass
 * after pass as in pre-copy, as long as that leaves clearly fewer: the first epoch of a guest with all
 * of its memory, and that of one that has written much while there was no session.
 */
#pragma once

#include <glib.h>
#include <stdint.h>

#define CHECKPOINT_PACE_SHARE 0.05

typedef enum {
    CHECKPOINT_SYNC_AUTO,   /* at an interval, and sooner where output waits */
    CHECKPOINT_SYNC_OUTPUT, /* where output waits */
    CHECKPOINT_SYNC_TIMED,  /* at an interval */
} CheckpointSync;

/* "auto", "output", "timed". */
const char *checkpoint_sync_name(CheckpointSync sync);
gboolean checkpoint_sync_from_name(const char *name, CheckpointSync *ret);

typedef struct {
    double most_share; /* of the time in which the guest may stand; 0: CHECKPOINT_PACE_SHARE */
    CheckpointSync sync;
} CheckpointPaceLimits;

typedef struct {
    double interval_ms;
    double last_pause_ms; /* how long the guest stood at the last one */
    gboolean output;      /* something that the guest sent waits */
    CheckpointPaceLimits limits;
} CheckpointPaceFacts;

/* From the begin of one checkpoint to the next, in ms. */
double checkpoint_pace_decide(const CheckpointPaceFacts *facts);

typedef struct {
    uint64_t pages;      /* that would be copied in the pause now */
    uint64_t last_pages; /* that the last pass sent; 0: there was none */
    guint passes;        /* in this epoch */
} CheckpointAheadFacts;

/* Whether they are to be sent ahead, in one more pass. */
gboolean checkpoint_pace_sends_ahead(const CheckpointAheadFacts *facts);
