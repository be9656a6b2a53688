/*
 * Pre-copy: go on, stop now, defer, slow down?
 *
 * Theory of operation: a pure function of what was seen so far, asked after
 * each dirty sync and at the end of each round.  It counts in wire
 * bytes: the work set W is what sending all pending pages would cost.  The
 * pause that would follow from stopping now is
 *
 *     W / link rate + device time
 *
 * Three kinds of guests are distinguished:
 *
 * - Converging: rounds go on while each makes the pause notably shorter.  The
 *   target (max_downtime_ms) is a goal, not a budget to use up.
 * - Memory-intensive (MP, Chao Wei 2018): windows of 200 ms or more in which as
 *   much is dirtied as the link carries, in the groups of pages known to be
 *   hot, and no hope of the target by rounds alone.  Sending those groups again
 *   and again gains nothing: they are deferred, the cold ones go out, then the
 *   guest is stopped, if the pause is within downtime_cap_ms.  What does not fit
 *   the cap is sent in rounds, with the guest slowed if it must be.
 * - Neither: no round brings a new best.  The pause may then be up to the cap;
 *   if that is not enough, the guest is slowed; without that means, give up.
 *
 * Where post-copy is among the means, the guest may be switched over instead of paused for longer
 * than the target: its device state goes, the rest of its pages follow on demand.
 *
 * Rates are those of a guest that is not slowed ("free"), so that slowing it
 * does not change the judgement; the policy scales them by run_share.
 *
 * docs/convergence.md has the formulas, the sources and the figures.
 */
#pragma once

#include <glib.h>
#include <stdint.h>

#include "base/page.h"

/* A group: GROUP_PAGES pages of a region.  The pending pages cost
 * unsent * first_send_per_page + (pending - unsent) * resend_per_page. */

typedef struct {
    uint32_t pages;            /* populated */
    uint32_t pending;          /* the destination does not hold these as they are */
    uint32_t unsent;           /* of the pending ones: never sent yet */
    uint32_t active;           /* estimate: pages that are written again and again */
    float dirty_per_ms;        /* pages, free */
    float first_send_per_page; /* wire bytes of a page's first sending */
    float resend_per_page;     /* wire bytes of sending it again once it was written */
    gboolean deferred;         /* convergence_apply_deferral() */
} ConvergenceGroup;

/* The time of the dirty syncs that make CONVERGENCE_WINDOW_MS or a little more; wire
 * bytes. */
typedef struct {
    double ms;
    double carried_bytes;
    double dirtied_bytes; /* as resend_per_page has it */
    double similarity;    /* 0..1: is it what the earlier windows dirtied? */
    double run_share;     /* mean throttle */
    gboolean cost_known;  /* resend_per_page was measured by then, not guessed */
} ConvergenceWindow;

/* A finished round; wire bytes. */
typedef struct {
    double sent_bytes;
    double left_bytes; /* W right after it */
    double ms;
} ConvergenceRound;

/* What the caller is able and allowed to do besides stopping.  Of post-copy, one at most. */
typedef enum {
    CONVERGENCE_MEANS_THROTTLE = 1 << 0,
    /* Hybrid: instead of any pause beyond the target, as soon as rounds gain little.  Never is the
     * guest slowed, or the move given up. */
    CONVERGENCE_MEANS_POSTCOPY = 1 << 1,
    /* At once. */
    CONVERGENCE_MEANS_POSTCOPY_NOW = 1 << 2,
    /* Auto: where the guest loses less by it than by pre-copy's pause, throttle and cap. */
    CONVERGENCE_MEANS_POSTCOPY_IF_CHEAPER = 1 << 3,
} ConvergenceMeans;

#define CONVERGENCE_MEANS_ANY_POSTCOPY                                                             \
    (CONVERGENCE_MEANS_POSTCOPY | CONVERGENCE_MEANS_POSTCOPY_NOW |                                 \
     CONVERGENCE_MEANS_POSTCOPY_IF_CHEAPER)

typedef struct {
    guint max_downtime_ms; /* the target */
    guint downtime_cap_ms; /* the longest pause there may be */
    guint deadline_ms;     /* the whole move; 0: none */
    guint means;           /* ConvergenceMeans */
} ConvergenceLimits;

typedef struct {
    const ConvergenceGroup *groups;
    guint group_count;
    const ConvergenceWindow *windows; /* oldest first */
    guint window_count;
    const ConvergenceRound *rounds; /* oldest first */
    guint round_count;
    gboolean at_round_end; /* only deferred groups, or nothing, is left of this round */
    gboolean cost_known;   /* what sending again costs was measured */
    double bytes_per_ms;   /* what the link carries; 0: not known yet */
    double device_ms;      /* device state out, over, in, and the switchover: expected */
    double elapsed_ms;
    double run_share; /* current throttle, 1: none */
    ConvergenceLimits limits;
} ConvergenceFacts;

typedef enum {
    CONVERGENCE_CONTINUE,
    CONVERGENCE_STOP,   /* pause the guest and send the rest */
    CONVERGENCE_SWITCH, /* pause the guest, switch over; the rest follows (post-copy) */
    CONVERGENCE_GIVE_UP,
} ConvergenceVerdict;

typedef struct {
    ConvergenceVerdict verdict;
    /* Static.  STOP: "converged", "no-gain", "enough-rounds" (all within the
     * target), "memory-intensive", "within-cap", "throttled", "deadline";
     * SWITCH: "postcopy" (asked for), "switch-not-converging", "switch-memory-intensive",
     * "switch-deadline"; GIVE_UP: "not-converging", "deadline"; CONTINUE: NULL. */
    const char *reason;
    /* For convergence_apply_deferral(); INFINITY: defer none. */
    double defer_rate;
    /* Much is dirtied, but what sending it again costs is not known yet: a few
     * groups should be sent and sent again (group_account_get_probes()). */
    gboolean probe;
    /* With CONTINUE at a round's end: only deferred groups are worth sending; begin
     * the next round after the next dirty sync, not at once. */
    gboolean wait;
    /* Instead: a round for the probes is worth it, though all else is deferred. */
    gboolean probe_alone;
    double run_share; /* what the throttle should be from now on, 1: none */
    gboolean memory_intensive;
    double pause_ms; /* if it were stopped now */
    /* What the guest would lose of its time if it were switched over now; 0 where post-copy is not
     * allowed. */
    double postcopy_lost_ms;
    /* If things go on as decided. */
    double expected_downtime_ms;
    double expected_total_ms; /* from the start of the move */
} ConvergenceDecision;

ConvergenceDecision convergence_decide(const ConvergenceFacts *facts);

/* Sets each group's *deferred*.  A group is deferred where its score, in the main
 * dirty_per_ms / pages, is defer_rate or more; one that is deferred already stays
 * so until it is a good deal colder.  Returns W of the deferred groups. */
double convergence_apply_deferral(ConvergenceGroup *groups, guint group_count, double defer_rate);

/* Refuses what cannot be kept, with the least that can: FALSE with *error*
 * (VMFERRY_ERROR_REFUSED).  *ram_bytes*: populated; *bytes_per_ms*: as the user
 * limits it, 0: not limited; *device_ms*: the least. */
gboolean convergence_check_limits(const ConvergenceLimits *limits, uint64_t ram_bytes,
                                  double bytes_per_ms, double device_ms, GError **error);

/* The rest takes less than this on the wire: nothing to be gained any more. */
#define CONVERGENCE_SMALL_REST_MS 0.5
/* A round that leaves more than this share of what was left before gains nothing. */
#define CONVERGENCE_GAIN_SHARE 0.75
/* Rounds once within the target. */
#define CONVERGENCE_ROUNDS_WITHIN_TARGET 12
/* A new best leaves at most this share of the one before. */
#define CONVERGENCE_NEW_BEST_SHARE 0.95
/* Rounds without a new best, and their time: before the cap is used (and then
 * the throttle), before giving up. */
#define CONVERGENCE_ROUNDS_BEFORE_CAP 4
#define CONVERGENCE_MS_BEFORE_CAP 3000.0
#define CONVERGENCE_ROUNDS_BEFORE_GIVING_UP 24
#define CONVERGENCE_MS_BEFORE_GIVING_UP 10000.0
/* A pause fits where it is expected to take at most this share of the cap: the
 * link may be a little slower then. */
#define CONVERGENCE_CAP_SHARE 0.97
/* A window is intensive from here on, quiet below the third. */
#define CONVERGENCE_INTENSIVE_RATIO 0.9
#define CONVERGENCE_SIMILARITY 0.8
#define CONVERGENCE_QUIET_RATIO 0.6
#define CONVERGENCE_WINDOW_MS 200.0
#define CONVERGENCE_LEAST_RUN_SHARE 0.002
