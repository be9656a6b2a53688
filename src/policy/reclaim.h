/*
 * How far a balloon is inflated for a move, and for how long it is waited for
 *
 * Theory of operation: a guest's free memory need not be moved, but only the
 * guest knows what is free.  QEMU's free page hinting tells only QEMU's own
 * migration; a balloon can be inflated by anybody.  So the guest is asked what
 * is free and a part of that is taken.  A reserve stays, so that neither the
 * guest has to look for memory during the move nor its programs wait: the
 * larger of 64 MiB and a fourth of what is free.
 *
 * Pure: no clock, no VMM.
 */
#pragma once

#include <glib.h>
#include <stdint.h>

#define RECLAIM_LEAST_RESERVE_BYTES ((uint64_t)64 << 20)
#define RECLAIM_RESERVE_SHARE 4
/* Less than this is not worth the guest's trouble. */
#define RECLAIM_LEAST_BYTES ((uint64_t)16 << 20)

/* The size to ask a guest for that has *now* bytes, *free* of them free, in
 * whole MiB; *now* where nothing is to be taken. */
uint64_t reclaim_get_target(uint64_t now_bytes, uint64_t free_bytes);

/* A balloon on its way to *target*, looked at again and again. */
typedef struct {
    uint64_t target_bytes, last_bytes;
    double started_ms, moved_ms; /* when it began, when the size changed last */
    double first_ms;             /* for how long the first change is waited for */
    gboolean moved;
} ReclaimWait;

#define RECLAIM_LONGEST_MS 3000.0
#define RECLAIM_STILL_MS 300.0
/* A guest that is busy begins late. */
#define RECLAIM_FIRST_MS 1000.0

/* With *target* 0 it is waited for until it stands still. */
void reclaim_wait_begin(ReclaimWait *wait, uint64_t now_bytes, uint64_t target_bytes,
                        double first_ms, double now_ms);

/* Notes its size at *now_ms*; FALSE: there is nothing more to wait for. */
gboolean reclaim_wait_note(ReclaimWait *wait, uint64_t now_bytes, double now_ms);
