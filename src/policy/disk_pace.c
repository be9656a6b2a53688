#include "policy/disk_pace.h"

/* A guest that writes too fast has had more than that sent again: an eighth, and this. */
#define SLACK_SHARE 8
#define SLACK_BYTES ((uint64_t)64 << 20)

DiskPace disk_pace_decide(const DiskPaceFacts *facts)
{
    uint64_t enough = facts->stored_bytes + facts->stored_bytes / SLACK_SHARE + SLACK_BYTES;

    if (facts->deadline_ms > 0 && facts->now_ms > facts->deadline_ms)
        return DISK_PACE_GIVE_UP;
    return !facts->synchronous && (facts->ready || facts->sent_bytes > enough)
               ? DISK_PACE_SYNCHRONOUS
               : DISK_PACE_GO_ON;
}
