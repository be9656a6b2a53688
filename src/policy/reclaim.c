#include "policy/reclaim.h"

#define MIB ((uint64_t)1 << 20)

uint64_t reclaim_get_target(uint64_t now_bytes, uint64_t free_bytes)
{
    uint64_t free = MIN(free_bytes, now_bytes);
    uint64_t reserve = MAX(RECLAIM_LEAST_RESERVE_BYTES, free / RECLAIM_RESERVE_SHARE);
    /* Whole MiB: the guest deals in pages, whatever their size. */
    uint64_t taken = free > reserve ? (free - reserve) / MIB * MIB : 0;

    return taken < RECLAIM_LEAST_BYTES ? now_bytes : now_bytes - taken;
}

void reclaim_wait_begin(ReclaimWait *wait, uint64_t now_bytes, uint64_t target_bytes,
                        double first_ms, double now_ms)
{
    *wait = (ReclaimWait){.target_bytes = target_bytes,
                          .last_bytes = now_bytes,
                          .started_ms = now_ms,
                          .moved_ms = now_ms,
                          .first_ms = first_ms};
}

gboolean reclaim_wait_note(ReclaimWait *wait, uint64_t now_bytes, double now_ms)
{
    if (now_bytes != wait->last_bytes) {
        wait->moved = TRUE;
        wait->moved_ms = now_ms;
    }
    wait->last_bytes = now_bytes;
    return now_bytes > wait->target_bytes && now_ms - wait->started_ms < RECLAIM_LONGEST_MS &&
           now_ms - wait->moved_ms < (wait->moved ? RECLAIM_STILL_MS : wait->first_ms);
}
