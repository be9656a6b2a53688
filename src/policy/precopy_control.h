/*
 * Pre-copy's clockwork: what is to be done next, from the first round to the pause
 *
 * Theory of operation: a driver asks what is to be done (precopy_control_get_step()), does it, and
 * tells what came of it, which makes the next step.  The driver has the clock, the guest's memory
 * and the link: migrate/precopy_source.c has real ones, sim/simulator.c simulated ones.  All that
 * is decided is decided here, so what the simulator shows is what a move does.
 *
 *     BEGIN_ROUND ──► SEND ◄──────────────┐
 *          ▲           │ a sync is due    │ go on
 *          │           ├───────► SYNC ────┤
 *          │ go on     │ nothing left     │ do not go on
 *          │           ▼                  │
 *          ├────── END_ROUND ◄────────────┘
 *          │           │ nothing worth a round of its own
 *          │ go on     ▼
 *          └───────── WAIT ◄──┐             STOP, SWITCH, GIVE_UP: from END_ROUND and WAIT only
 *                      └──────┘
 *
 * - Dirty syncs are dense at first, since what is hot should be known before it is sent: at the
 *   first batch, 10 ms later, then 20, 40, 80, and every 100 ms.  The policy is asked after each.
 * - A decision to stop, or to switch over, that falls within a round ends the round: what was read
 *   has to be sent and confirmed before the pause, and the guest writes meanwhile.  So the policy
 *   is asked once more when the round has ended, and only that answer counts.
 * - The link's rate is measured while sending (link_rate.h); a window (CONVERGENCE_WINDOW_MS) could
 *   carry that rate times its length.  Not what was sent in it: with nothing to send, a link is not
 *   a slow one.
 * - What a round left is an estimate as long as the resend cost of its pages was not seen.  The
 *   next round tells what it really took, and that takes the estimate's place.  Not where groups
 *   are deferred: they are left, and no round sends them.
 *
 * Pure: no clock, no VM, no wire; times are ms since the start of the move.  Fields are for reading
 * but by the functions below.  Threads: one at a time.
 */
#pragma once

#include <glib.h>
#include <stdint.h>

#include "policy/convergence.h"
#include "policy/group_account.h"
#include "policy/link_rate.h"

#define PRECOPY_FIRST_SYNC_MS 10.0
#define PRECOPY_SYNC_MS 100.0

typedef enum {
    /* precopy_control_begin_round(). */
    PRECOPY_BEGIN_ROUND,
    /* The next batch of pending pages, then precopy_control_note_batch(). */
    PRECOPY_SEND,
    /* A dirty sync within the round: precopy_control_note_sync(), precopy_control_decide(). */
    PRECOPY_SYNC,
    /* All that was read goes out and is confirmed: precopy_control_note_round().  Then a dirty
     * sync, precopy_control_end_round(), what is dirty becomes pending,
     * precopy_control_decide(). */
    PRECOPY_END_ROUND,
    /* Nothing until *next_sync_ms*; then a dirty sync, what is dirty becomes pending,
     * precopy_control_decide(). */
    PRECOPY_WAIT,
    /* The end: pause the guest and send the rest; or pause it, switch over, and let the rest
     * follow (post-copy); or the limits cannot be kept. */
    PRECOPY_STOP,
    PRECOPY_SWITCH,
    PRECOPY_GIVE_UP,
} PrecopyStep;

typedef struct {
    ConvergenceLimits limits;
    double link_limit_bytes_per_ms; /* the user's; 0: none */
    /* May be NULL: takes the lines of a trace (trace.h). */
    void (*trace)(const char *line, gpointer user);
    gpointer user;
} PrecopyOptions;

typedef struct {
    PrecopyOptions options;
    GroupAccount *account; /* borrowed */
    LinkRate link;
    PrecopyStep step;
    gboolean in_round; /* from precopy_control_begin_round() to precopy_control_note_round() */
    double next_sync_ms, sync_interval_ms;
    double window_start_ms;
    GArray *rounds; /* of ConvergenceRound, finished */
    /* The round in hand; the last one until the next begins. */
    double round_start_ms;
    uint64_t round_start_bytes;
    ConvergenceRound round;
    uint64_t round_pages;
    ConvergenceDecision decision; /* the last one; CONTINUE at first */
    double deferred_bytes;        /* W of the groups that it defers */
    gboolean traced;
} PrecopyControl;

/* Borrows *account* as long as anything but precopy_control_trace_end() is called. */
void precopy_control_init(PrecopyControl *control, GroupAccount *account,
                          const PrecopyOptions *options);
/* Frees what belongs to *control*; zeroed is fine, too. */
void precopy_control_clear(PrecopyControl *control);

PrecopyStep precopy_control_get_step(const PrecopyControl *control);

/* Readings of the link: bytes handed to it since the start, and of these what the peer's kernel has
 * not confirmed.  *buffered*: they only fill a buffer at the other end, and say nothing of it. */
void precopy_control_note_link(PrecopyControl *control, double now_ms, uint64_t sent_bytes,
                               uint64_t backlog_bytes, gboolean buffered);

/* The user's limit is this one from now on. */
void precopy_control_set_link_limit(PrecopyControl *control, double bytes_per_ms);

void precopy_control_begin_round(PrecopyControl *control, double now_ms, uint64_t sent_bytes);
/* A batch of *pages* was handed to the link; 0: none was left. */
void precopy_control_note_batch(PrecopyControl *control, double now_ms, uint64_t pages);
/* The dirty sync of *now_ms* is done, and the account knows what it found.  *fault_share*: of the
 * guest's time, that faults on our protection took lately; negative: not known. */
void precopy_control_note_sync(PrecopyControl *control, double now_ms, double fault_share);
/* The round is confirmed; *pages* of it went out with content. */
void precopy_control_note_round(PrecopyControl *control, double now_ms, uint64_t sent_bytes,
                                uint64_t pages);
/* The account knows what that round has left. */
void precopy_control_end_round(PrecopyControl *control, double now_ms);

typedef struct {
    double now_ms;
    double device_ms;   /* expected: device state out, over, in, and the switchover */
    gboolean can_pause; /* there is a destination that takes part; FALSE: nothing is decided */
    gboolean must_run;  /* something else is to be done before the pause: no stop yet */
} PrecopyFacts;

/* Asks the policy (convergence.h), defers and releases groups as it says; the account must know
 * what is pending.  FALSE: it was not asked, since the link's rate is not known (which switching over at once does without) or there
 * can be no pause, and the last decision holds.  TRUE: *decision* is a new one, and the driver sets the
 * throttle and the probes (group_account_get_probes()). */
gboolean precopy_control_decide(PrecopyControl *control, const PrecopyFacts *facts);

/* After PRECOPY_STOP or PRECOPY_SWITCH: no pause yet after all, or one that has come to nothing.  The next step is PRECOPY_WAIT. */
void precopy_control_postpone(PrecopyControl *control, double now_ms);

/* A trace's first and last line (once the account knows all pages; after a first line only); those
 * between are written where they come about. */
void precopy_control_trace_begin(PrecopyControl *control, double link_bytes_per_ms,
                                 const char *guest);
void precopy_control_trace_end(PrecopyControl *control, double total_ms, double downtime_ms,
                               const char *reason);
