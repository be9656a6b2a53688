#include "migrate/policy.h"

static double pause_ms(const PolicyFacts *facts, guint round)
{
    double rate = facts->bytes_per_ms > 1 ? facts->bytes_per_ms : 1;

    return (double)facts->rounds[round].left_bytes / rate + facts->device_ms;
}

/* Rounds in a row, up to the last, whose pause would be within the target. */
static guint rounds_within_target(const PolicyFacts *facts)
{
    guint count = 0;

    while (count < facts->round_count &&
           pause_ms(facts, facts->round_count - 1 - count) <= facts->max_downtime_ms)
        count++;
    return count;
}

/* Rounds since the least was left over. */
static guint rounds_since_best(const PolicyFacts *facts)
{
    guint best = 0;

    for (guint i = 1; i < facts->round_count; i++)
        if (facts->rounds[i].left_bytes < facts->rounds[best].left_bytes)
            best = i;
    return facts->round_count - 1 - best;
}

static gboolean last_round_gained(const PolicyFacts *facts)
{
    guint last = facts->round_count - 1;

    /* Every round carries what was left before it; the first carries all. */
    return last == 0 || (double)facts->rounds[last].left_bytes <
                            POLICY_GAIN_SHARE * (double)facts->rounds[last - 1].left_bytes;
}

PolicyDecision policy_decide(const PolicyFacts *facts)
{
    PolicyDecision decision = {.verdict = POLICY_STOP};
    guint last = facts->round_count - 1;

    decision.expected_downtime_ms = pause_ms(facts, last);
    if (decision.expected_downtime_ms > facts->max_downtime_ms) {
        gboolean hopeless = rounds_since_best(facts) >= POLICY_ROUNDS_WITHOUT_PROGRESS;

        decision.verdict = hopeless ? POLICY_GIVE_UP : POLICY_CONTINUE;
        decision.reason = hopeless ? "not-converging" : NULL;
    } else if (decision.expected_downtime_ms - facts->device_ms <= POLICY_SMALL_REST_MS) {
        decision.reason = "converged";
    } else if (!last_round_gained(facts)) {
        decision.reason = "no-gain";
    } else if (rounds_within_target(facts) >= POLICY_ROUNDS_WITHIN_TARGET) {
        decision.reason = "enough-rounds";
    } else {
        decision.verdict = POLICY_CONTINUE;
    }
    return decision;
}
