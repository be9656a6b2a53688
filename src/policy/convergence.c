#include "policy/convergence.h"

#include <math.h>

#include "base/error.h"
#include "policy/convergence_private.h"

/* Windows until the pattern can be known. */
#define EARLY_WINDOWS 3
/* Less is not worth a round while others are held. */
#define WAIT_BELOW_MS 10.0
/* A memory-intensive guest's target is tried for up to so many times the time
 * in which it could be moved with a longer pause. */
#define REACH 1.5
#define REACH_ROUNDS 16
/* Probing is worth it from this share of the path on. */
#define PROBE_SHARE 0.5

static guint rounds_within_target(const Judge *judge)
{
    const ConvergenceFacts *facts = judge->facts;
    guint count = 0;

    while (count < facts->round_count) {
        double left = facts->rounds[facts->round_count - 1 - count].left_bytes;

        if (ms_for(judge, left) + facts->device_ms > facts->promise.max_downtime_ms)
            break;
        count++;
    }
    return count;
}

static gboolean last_round_gained(const ConvergenceFacts *facts)
{
    guint last = facts->round_count - 1;

    /* Every round carries what was left before it; the first carries all. */
    return facts->round_count < 2 ||
           facts->rounds[last].left_bytes <
               CONVERGENCE_GAIN_SHARE * facts->rounds[last - 1].left_bytes;
}

static void stop(Judge *judge, const char *reason)
{
    judge->decision.verdict = CONVERGENCE_STOP;
    judge->decision.reason = reason;
}

static void give_up(Judge *judge, const char *reason)
{
    judge->decision.verdict = CONVERGENCE_GIVE_UP;
    judge->decision.reason = reason;
}

/* At the end of a round, within the target. */
static void judge_within_target(Judge *judge)
{
    if (ms_for(judge, judge->work_set) <= CONVERGENCE_SMALL_REST_MS)
        stop(judge, "converged");
    else if (!last_round_gained(judge->facts))
        stop(judge, "no-gain");
    else if (rounds_within_target(judge) >= CONVERGENCE_ROUNDS_WITHIN_TARGET)
        stop(judge, "enough-rounds");
}

/* A guest that was seen quiet may become so again: wait for twice as long as
 * it was ever busy, or as long as the pause would be. */
static gboolean worth_waiting(const Judge *judge)
{
    const ConvergencePattern *pattern = &judge->pattern;

    return pattern->quiet_seen &&
           pattern->run_ms < MAX(2 * pattern->longest_run_ms, judge->decision.pause_ms);
}

/* There are no means left. */
static gboolean is_at_its_end(const Judge *judge)
{
    return !may_throttle(judge) || judge->run_share <= 2 * CONVERGENCE_LEAST_RUN_SHARE;
}

static void judge_patience(Judge *judge)
{
    if (convergence_is_stuck(judge->facts) && fits_cap(judge))
        stop(judge, "within-cap");
    else if (is_at_its_end(judge) &&
             convergence_stuck_for(judge->facts, CONVERGENCE_ROUNDS_BEFORE_GIVING_UP,
                                   CONVERGENCE_MS_BEFORE_GIVING_UP))
        give_up(judge, "not-converging");
}

/* Would a round of the groups not held make the pause notably shorter? */
static gboolean rest_is_worth_a_round(const Judge *judge)
{
    WorkSetModel model = judge->rest;
    double after;

    work_set_model_round(&model, judge->run_share, judge->path);
    after = ms_for(judge, judge->held + work_set_model_pending(&model)) + judge->facts->device_ms;
    return after < CONVERGENCE_GAIN_SHARE * judge->decision.pause_ms;
}

static void judge_intensive(Judge *judge)
{
    gboolean in_target = judge->decision.pause_ms <= judge->facts->promise.max_downtime_ms;

    if (!fits_cap(judge))
        judge_patience(judge);
    else if (!rest_is_worth_a_round(judge) && (in_target || !worth_waiting(judge)))
        stop(judge, "memory-intensive");
}

static void judge_round_end(Judge *judge)
{
    if (judge->suspect && judge->held > 0)
        return; /* wait for the windows */
    if (judge->pattern.intensive)
        judge_intensive(judge);
    else if (judge->decision.pause_ms <= judge->facts->promise.max_downtime_ms)
        judge_within_target(judge);
    else
        judge_patience(judge);
}

/* A guest is slowed until the pause fits, and no longer. */
static void judge_slowed(Judge *judge)
{
    if (judge->run_share < 1 && fits_cap(judge))
        stop(judge, judge->pattern.intensive ? "memory-intensive" : "throttled");
}

/* Whatever the round: is it time? */
static void judge_deadline(Judge *judge)
{
    const ConvergenceFacts *facts = judge->facts;
    double left = facts->promise.deadline_ms - facts->elapsed_ms;

    if (facts->promise.deadline_ms == 0 || judge->decision.verdict != CONVERGENCE_CONTINUE)
        return;
    if (fits_cap(judge) && left <= judge->decision.pause_ms + CONVERGENCE_DEADLINE_MARGIN_MS)
        stop(judge, "deadline");
    else if (left <= 0 && !may_throttle(judge))
        give_up(judge, "deadline");
}

/* Would plain rounds reach the target, in a time not much longer than that of
 * sending all that is pending once? */
static gboolean target_within_reach(const Judge *judge)
{
    const ConvergenceFacts *facts = judge->facts;
    double limit = REACH * (facts->elapsed_ms + ms_for(judge, judge->work_set));
    double ms = facts->elapsed_ms;
    WorkSetModel model = judge->rest;

    for (guint i = 0; i < REACH_ROUNDS && ms <= limit; i++) {
        double left = work_set_model_pending(&model);

        if (ms_for(judge, left) + facts->device_ms <= facts->promise.max_downtime_ms)
            return TRUE;
        ms += work_set_model_round(&model, 1, judge->path);
    }
    return FALSE;
}

static void choose_held(Judge *judge)
{
    const ConvergenceFacts *facts = judge->facts;
    ConvergenceDecision *decision = &judge->decision;
    WorkSetModel all = work_set_model_make(facts->groups, facts->group_count, INFINITY);
    double dirtied = work_set_model_dirtied(&all, 1, CONVERGENCE_WINDOW_MS) / CONVERGENCE_WINDOW_MS;
    double cap = MAX(CONVERGENCE_CAP_SHARE * facts->promise.downtime_cap_ms - facts->device_ms, 0);

    judge->work_set = work_set_model_pending(&all);
    judge->rest = all;
    decision->pause_ms = ms_for(judge, judge->work_set) + facts->device_ms;
    decision->hold_rate = INFINITY;
    if (facts->bytes_per_ms <= 0)
        return;
    judge->pattern = convergence_find_pattern(facts->windows, facts->window_count, judge->path);
    if (judge->pattern.intensive && target_within_reach(judge))
        judge->pattern.intensive = FALSE;
    judge->suspect =
        facts->window_count < EARLY_WINDOWS && dirtied >= CONVERGENCE_INTENSIVE_RATIO * judge->path;
    decision->probe = !facts->cost_known && dirtied >= PROBE_SHARE * judge->path;
    decision->memory_intensive = judge->pattern.intensive;
    if (!judge->pattern.intensive && !judge->suspect)
        return;
    decision->hold_rate = convergence_choose_hold(facts, cap * judge->path);
    judge->rest = work_set_model_make(facts->groups, facts->group_count, decision->hold_rate);
    judge->held = judge->work_set - work_set_model_pending(&judge->rest);
}

ConvergenceDecision convergence_decide(const ConvergenceFacts *facts)
{
    Judge judge = {.facts = facts,
                   .path = facts->bytes_per_ms > 0 ? facts->bytes_per_ms : 1,
                   .run_share = facts->run_share > 0 ? facts->run_share : 1,
                   .decision = {.verdict = CONVERGENCE_CONTINUE, .run_share = 1}};

    choose_held(&judge);
    if (facts->at_round_end)
        judge_round_end(&judge);
    judge_slowed(&judge);
    judge_deadline(&judge);
    convergence_choose_throttle(&judge);
    convergence_forecast(&judge);
    judge.decision.wait = facts->at_round_end && judge.held > 0 &&
                          judge.decision.verdict == CONVERGENCE_CONTINUE &&
                          ms_for(&judge, work_set_model_pending(&judge.rest)) < WAIT_BELOW_MS;
    return judge.decision;
}

gboolean convergence_check_promise(const ConvergencePromise *promise, uint64_t ram_bytes,
                                   double bytes_per_ms, double device_ms, GError **error)
{
    double least_downtime = ceil(MAX(device_ms, 1)), least_total;

    if (promise->max_downtime_ms < least_downtime) {
        error_set(error, VMFERRY_ERROR_REFUSED,
                  "a pause of at most %u ms can't be promised: the device state and the switchover "
                  "alone take about %.0f ms (--max-downtime %.0f or more)",
                  promise->max_downtime_ms, least_downtime, least_downtime);
        return FALSE;
    }
    if (promise->downtime_cap_ms < promise->max_downtime_ms) {
        error_set(error, VMFERRY_ERROR_REFUSED,
                  "the longest pause, %u ms, is shorter than the aim, %u ms (--downtime-cap %u or "
                  "more, or a smaller --max-downtime)",
                  promise->downtime_cap_ms, promise->max_downtime_ms, promise->max_downtime_ms);
        return FALSE;
    }
    if (promise->deadline_ms == 0)
        return TRUE;
    least_total = least_downtime + (bytes_per_ms > 0 ? ceil((double)ram_bytes / bytes_per_ms) : 0);
    if (promise->deadline_ms < least_total) {
        error_set(error, VMFERRY_ERROR_REFUSED,
                  "%u ms are too short: %.0f MB of memory at %.1f MB/s, the device state and the "
                  "switchover take at least %.0f ms (--deadline %.0f or more, or more --bandwidth)",
                  promise->deadline_ms, (double)ram_bytes / 1e6, bytes_per_ms / 1e3, least_total,
                  least_total);
        return FALSE;
    }
    return TRUE;
}
