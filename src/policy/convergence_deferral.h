/*
 * Is a guest memory-intensive, and which of its groups are deferred to the pause
 *
 * Private to convergence.c.  See docs/convergence.md.
 */
#pragma once

#include "policy/convergence.h"

/* What a group's defer_rate is compared with: its dirtying for each of its
 * pages, with two additions.  A deferred group counts hotter than it is, so that it
 * is not released for chance; and groups as hot as each other are spread by
 * their number, so that any part of them can be deferred. */
double convergence_score(const ConvergenceGroup *group, guint index);

/* The windows' verdict on the guest, with hysteresis. */
typedef struct {
    gboolean intensive;    /* two of the last three windows */
    gboolean quiet_seen;   /* after the first window there were quiet ones */
    double run_ms;         /* how long it has been intensive */
    double longest_run_ms; /* the longest time before that */
} ConvergencePattern;

ConvergencePattern convergence_find_pattern(const ConvergenceWindow *windows, guint count,
                                            double bytes_per_ms);

/* The defer_rate for a memory-intensive guest: all hot groups, or the hottest
 * that may be sent within the pause, *budget_bytes*. */
double convergence_choose_deferral(const ConvergenceFacts *facts, double budget_bytes);
