#include "policy/checkpoint_pace.h"

/* Where output waits: packets that follow each other closely go with one checkpoint. */
#define OUTPUT_MS 5.0
/* A guest that dirties memory without end is still checkpointed. */
#define LONGEST_MS 2000.0
/* 16 MiB, which take some 5 ms to copy: less is not worth sending twice what is written meanwhile. */
#define FEW_PAGES 4096u
#define MOST_PASSES 20u

double checkpoint_pace_decide(const CheckpointPaceFacts *facts)
{
    double wanted = facts->output ? MIN(OUTPUT_MS, facts->interval_ms) : facts->interval_ms;
    double share = facts->most_share > 0 ? facts->most_share : CHECKPOINT_PACE_SHARE;
    double least = MIN(facts->last_pause_ms / share, MAX(LONGEST_MS, facts->interval_ms));

    return MAX(wanted, least);
}

gboolean checkpoint_pace_sends_ahead(const CheckpointAheadFacts *facts)
{
    if (facts->pages <= FEW_PAGES || facts->passes >= MOST_PASSES)
        return FALSE;
    return facts->passes == 0 || facts->pages < facts->last_pages / 4 * 3;
}
