#include "policy/checkpoint_pace.h"

/* Where output waits: packets that follow each other closely go with one checkpoint. */
#define OUTPUT_MS 5.0
/* A guest that dirties memory without end is still checkpointed. */
#define LONGEST_MS 2000.0
/* 16 MiB, which take some 5 ms to copy: less is not worth sending twice what is written meanwhile. */
#define FEW_PAGES 4096u
#define MOST_PASSES 20u

static const char *const sync_names[] = {
    [CHECKPOINT_SYNC_AUTO] = "auto",
    [CHECKPOINT_SYNC_OUTPUT] = "output",
    [CHECKPOINT_SYNC_TIMED] = "timed",
};

const char *checkpoint_sync_name(CheckpointSync sync)
{
    return sync_names[sync];
}

gboolean checkpoint_sync_from_name(const char *name, CheckpointSync *ret)
{
    for (guint i = 0; i < G_N_ELEMENTS(sync_names); i++) {
        if (g_strcmp0(name, sync_names[i]) == 0) {
            *ret = (CheckpointSync)i;
            return TRUE;
        }
    }
    return FALSE;
}

static double wanted_ms(const CheckpointPaceFacts *facts)
{
    if (facts->output && facts->limits.sync != CHECKPOINT_SYNC_TIMED)
        return MIN(OUTPUT_MS, facts->interval_ms);
    return facts->limits.sync == CHECKPOINT_SYNC_OUTPUT ? MAX(LONGEST_MS, facts->interval_ms)
                                                        : facts->interval_ms;
}

double checkpoint_pace_decide(const CheckpointPaceFacts *facts)
{
    double share = facts->limits.most_share > 0 ? facts->limits.most_share : CHECKPOINT_PACE_SHARE;
    double least = MIN(facts->last_pause_ms / share, MAX(LONGEST_MS, facts->interval_ms));

    return MAX(wanted_ms(facts), least);
}

gboolean checkpoint_pace_sends_ahead(const CheckpointAheadFacts *facts)
{
    if (facts->pages <= FEW_PAGES || facts->passes >= MOST_PASSES)
        return FALSE;
    return facts->passes == 0 || facts->pages < facts->last_pages / 4 * 3;
}
