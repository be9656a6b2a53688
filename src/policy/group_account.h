/*
 * What is known of each group of pages: how fast it is dirtied, what it costs
 *
 * Theory of operation: memory is accounted in groups of
 * GROUP_PAGES pages, numbered across all regions by the caller.
 * Every collect of dirty pages and every sending is noted here; what comes out
 * is what convergence_decide() asks for.  Pure data: times are the caller's, in
 * ms since the start of the move.
 *
 * - Time is counted as the guest's: while it is throttled to a share of its
 *   speed, that share of the time has passed; so it is with the time that it
 *   spends on the faults of our write protection.  So rates are those of a free
 *   guest, and neither throttling nor tracking distorts them.
 * - Only the pages that are protected at the time tell something: all that was
 *   sent and not written since, and a few of each other group (watch_plan.h).
 * - The rate is a mean with exponentially falling weights (time constant
 *   GROUP_ACCOUNT_MEMORY_MS) over intervals of any length.  A page that is
 *   written twice between two collects is seen once; with t active pages of
 *   which n were seen, it was -t ln(1 - n/t) writes (the occupancy problem).
 * - How many pages are active (written again and again) is estimated as one counts fish:
 *   pages seen dirty are marked; if of n dirty pages r had been seen before,
 *   marked / t = r / n (capture and recapture, after Schnabel), where what counts
 *   as marked can be caught: it is protected.
 * - What sending a page again costs (resend cost) is often much less than its
 *   first sending.  Each group has its own mean; for groups that were never sent
 *   again, which is all hot ones as long as cold ones go first, it is that of the
 *   *probes*: a few groups, drawn by how much they are dirtied, that are sent
 *   before all others.  A page goes out once per round, so probes tell from the
 *   second round on.
 * - A window's similarity is the share of its dirty pages that lie in groups
 *   known hot from the windows before it.  (The cosine of two windows would not
 *   know a guest that writes its memory round and round; docs/convergence.md.)
 */
#pragma once

#include <glib.h>

#include "base/page.h"
#include "policy/convergence.h"
#include "policy/trace.h"

#define GROUP_ACCOUNT_MEMORY_MS 4000.0
/* Probes, and what of each is sent after a dirty sync at most. */
#define GROUP_ACCOUNT_PROBES 4
#define GROUP_ACCOUNT_PROBE_PAGES 128

typedef struct GroupAccount GroupAccount;

/* *wire_per_page*: what a page costs until it is known, for instance 4096. */
GroupAccount *group_account_new(guint group_count, double wire_per_page);
void group_account_free(GroupAccount *account);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(GroupAccount, group_account_free)

/* Populated pages of a group; may change (balloon, hot plug). */
void group_account_set_pages(GroupAccount *account, guint group, guint pages);
/* Pages to be sent, and how many of those were never sent. */
void group_account_set_pending(GroupAccount *account, guint group, guint pending, guint unsent);
/* From *now_ms* on the guest runs for this share of the time. */
void group_account_set_run_share(GroupAccount *account, double now_ms, double run_share);

/* *pages* more of the group are protected from now on. */
void group_account_note_watched(GroupAccount *account, guint group, double now_ms, guint pages);
/* They are not any more, and it is not known whether they were written. */
void group_account_note_released(GroupAccount *account, guint group);

/* What a dirty sync, or a collect, found of a group's protected pages, or of some of them. */
typedef struct {
    double now_ms;
    guint pages_asked;  /* that were protected */
    guint pages_marked; /* of these: had been seen dirty at an earlier time */
    guint pages_dirty;  /* written: not protected any more */
    guint pages_new;    /* of these: never seen dirty before */
} GroupSync;
/* To be called for groups without dirty pages, too. */
void group_account_note_dirty(GroupAccount *account, guint group, const GroupSync *sync);

/* From *now_ms* on, as far as is known, the faults take this share of the guest's time (0 to 1),
 * in which it would have written. */
void group_account_set_fault_share(GroupAccount *account, double now_ms, double fault_share);

/* Appends to *ret* (of TraceDirty) what all collects found since the call
 * before: a dirty sync of a trace. */
void group_account_take_dirty(GroupAccount *account, GArray *ret);

/* *pages* of the group went out as *wire_bytes*; *resent*: they had been sent
 * before.  May also be told of pages that were only compared, not sent. */
void group_account_note_sent(GroupAccount *account, guint group, guint pages, double wire_bytes,
                             gboolean resent);

/* Appends a window, from the end of the one before (or 0) until *now_ms*, in
 * which the link could carry *carried_bytes*. */
void group_account_end_window(GroupAccount *account, double now_ms, double carried_bytes);

/* Fills the groups, windows, cost_known and run_share of *facts*; they belong
 * to the account and are good until its next change. */
void group_account_fill_facts(GroupAccount *account, ConvergenceFacts *facts);

/* Defers and releases groups as decided; returns the deferred groups' wire bytes. */
double group_account_apply(GroupAccount *account, const ConvergenceDecision *decision);
/* The groups of which up to GROUP_ACCOUNT_PROBE_PAGES pending pages should be
 * sent now, deferred or not, before all others; returns how many. */
guint group_account_get_probes(const GroupAccount *account, guint ret[GROUP_ACCOUNT_PROBES]);
/* The share of its pages that is active, as estimated. */
double group_account_get_use(const GroupAccount *account, guint group);
gboolean group_account_is_deferred(const GroupAccount *account, guint group);
/* TRUE where nothing is pending but in deferred groups. */
gboolean group_account_is_all_deferred(const GroupAccount *account);
/* W, the work set, in wire bytes: what sending all that is pending would cost. */
double group_account_count_bytes(GroupAccount *account);
/* Groups from cold to hot, for the order of a round: less is colder. */
double group_account_get_heat(const GroupAccount *account, guint group);
