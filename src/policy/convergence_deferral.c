#include "policy/convergence_deferral.h"

#include <math.h>

#include "policy/work_set_model.h"

/* Hysteresis, and how far apart groups that are equally hot are spread. */
#define DEFERRED_IS_HOTTER 1.5
#define SPREAD 0.25
/* A group is hot from this share of the typical score on.  More often than once
 * in HORIZON_MS makes no difference to that. */
#define HOT_SHARE 0.25
#define HORIZON_MS 1000.0
/* What is not deferred may dirty this share of what the link carries. */
#define REST_SHARE 0.5
/* All hot groups are deferred if they fill the budget up to here; else the hottest
 * that leave some for the rest. */
#define BUDGET_ALL 0.99
#define BUDGET_PART 0.9
/* Bisections: scores up to this factor apart, to 65536^(1/2^14), 0.07 %. */
#define SEARCH_STEPS 14
#define SEARCH_SPAN 65536.0
#define PATTERN_WINDOWS 3
#define PATTERN_NEEDED 2

double convergence_score(const ConvergenceGroup *group, guint index)
{
    double score = (double)group->dirty_per_ms / MAX(group->pages, 1);

    /* Fibonacci hashing: neighbours come far apart, always the same. */
    score *= 1 + SPREAD * ((index * 2654435761u) >> 16) / 65536.0;
    return group->deferred ? score * DEFERRED_IS_HOTTER : score;
}

double convergence_apply_deferral(ConvergenceGroup *groups, guint group_count, double defer_rate)
{
    double bytes = 0;

    for (guint i = 0; i < group_count; i++) {
        groups[i].deferred =
            groups[i].dirty_per_ms > 0 && convergence_score(&groups[i], i) >= defer_rate;
        if (groups[i].deferred)
            bytes += work_set_group_bytes(&groups[i]);
    }
    return bytes;
}

static double window_ratio(const ConvergenceWindow *window, double bytes_per_ms)
{
    /* A link that has nothing to carry is not a slow one. */
    double carried = MAX(window->carried_bytes, bytes_per_ms * window->ms);

    return carried > 0 && window->run_share > 0
               ? window->dirtied_bytes / window->run_share / carried
               : 0;
}

static guint count_recent(const ConvergenceWindow *windows, guint last, double bytes_per_ms,
                          gboolean quiet)
{
    guint count = 0;

    /* The first window is not counted: the guest meets its write protection. */
    for (guint i = last; i >= 1 && last - i < PATTERN_WINDOWS; i--) {
        double ratio = window_ratio(&windows[i], bytes_per_ms);

        if (quiet)
            count += ratio < CONVERGENCE_QUIET_RATIO;
        else
            count += ratio >= CONVERGENCE_INTENSIVE_RATIO && windows[i].cost_known &&
                     windows[i].similarity >= CONVERGENCE_SIMILARITY;
    }
    return count;
}

ConvergencePattern convergence_find_pattern(const ConvergenceWindow *windows, guint count,
                                            double bytes_per_ms)
{
    ConvergencePattern pattern = {0};

    for (guint i = 1; i < count && bytes_per_ms > 0; i++) {
        if (count_recent(windows, i, bytes_per_ms, TRUE) >= PATTERN_NEEDED) {
            pattern.quiet_seen = TRUE;
            pattern.intensive = FALSE;
            pattern.longest_run_ms = MAX(pattern.longest_run_ms, pattern.run_ms);
            pattern.run_ms = 0;
        } else if (count_recent(windows, i, bytes_per_ms, FALSE) >= PATTERN_NEEDED) {
            pattern.intensive = TRUE;
        }
        if (pattern.intensive)
            pattern.run_ms += windows[i].ms;
    }
    return pattern;
}

/*
 * The search for the groups to defer.  Whatever the threshold x of the score is,
 *
 *     deferred_bytes(x)   what groups of score x and above cost in the pause    falls with x
 *     rest_rate(x)        what groups below x dirty in the rounds               rises with x
 *
 * so each condition on one of them holds on one side of a single threshold, which bisection finds.
 * Scores span orders of magnitude, so it halves their logarithms (the middle is the geometric
 * mean).
 */
typedef struct {
    double deferred_bytes; /* what the pause would have to carry */
    double rest_rate;      /* wire bytes per ms that the others dirty, free */
} Split;

/* Wire bytes per ms: active pages at least once dirty in HORIZON_MS (occupancy), resent once in
 * it. */
static double group_rate(const ConvergenceGroup *group)
{
    double active = MAX(group->active, 1);

    return active * -expm1(-(double)group->dirty_per_ms / active * HORIZON_MS) / HORIZON_MS *
           group->resend_per_page;
}

static Split split_at(const ConvergenceFacts *facts, double threshold)
{
    Split split = {0};

    for (guint i = 0; i < facts->group_count; i++) {
        const ConvergenceGroup *group = &facts->groups[i];
        double resent;

        if (group->dirty_per_ms <= 0)
            continue;
        if (convergence_score(group, i) < threshold) {
            split.rest_rate += group_rate(group);
            continue;
        }
        /* By the time of the pause all that is active is dirty, whatever is pending now. */
        resent = MAX(group->pending - group->unsent,
                     MIN(group->active, group->pages - MIN(group->unsent, group->pages)));
        split.deferred_bytes +=
            (double)group->unsent * group->first_send_per_page + resent * group->resend_per_page;
    }
    return split;
}

/* Where most of the dirtying is: the mean score, weighed by bytes dirtied. */
static double typical_score(const ConvergenceFacts *facts)
{
    double sum = 0, weight = 0;

    for (guint i = 0; i < facts->group_count; i++) {
        const ConvergenceGroup *group = &facts->groups[i];
        double score = (double)group->dirty_per_ms / MAX(group->pages, 1);
        double rate = group->dirty_per_ms > 0 ? group_rate(group) : 0;

        sum += rate * MIN(score, 1 / HORIZON_MS);
        weight += rate;
    }
    return weight > 0 ? sum / weight : 0;
}

/* The highest threshold up to *most* at which the rest dirties little enough for rounds to gain
 * something; far below *most* if there is none. */
static double find_slow_rest(const ConvergenceFacts *facts, double most)
{
    double slow = most / SEARCH_SPAN, fast = most;

    if (split_at(facts, most).rest_rate <= REST_SHARE * facts->bytes_per_ms)
        return most;
    for (guint i = 0; i < SEARCH_STEPS; i++) {
        double middle = sqrt(slow * fast);

        if (split_at(facts, middle).rest_rate > REST_SHARE * facts->bytes_per_ms)
            fast = middle;
        else
            slow = middle;
    }
    return slow;
}

/* The lowest threshold from *least* on whose groups fit the pause: the most that can be
 * deferred. */
static double find_fit(const ConvergenceFacts *facts, double least, double budget_bytes)
{
    double too_much = least, fits = least * SEARCH_SPAN;

    for (guint i = 0; i < SEARCH_STEPS; i++) {
        double middle = sqrt(too_much * fits);

        if (split_at(facts, middle).deferred_bytes > BUDGET_PART * budget_bytes)
            too_much = middle;
        else
            fits = middle;
    }
    return fits;
}

double convergence_choose_deferral(const ConvergenceFacts *facts, double budget_bytes)
{
    double threshold = HOT_SHARE * typical_score(facts);

    if (threshold <= 0)
        return INFINITY;
    threshold = find_slow_rest(facts, threshold);
    if (split_at(facts, threshold).deferred_bytes <= BUDGET_ALL * budget_bytes)
        return threshold;
    return find_fit(facts, threshold, budget_bytes);
}
