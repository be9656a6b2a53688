/*
 * The work set: what the destination does not hold as it is
 *
 * (Not the writable working set, which is what a guest writes again and again: active pages.)
 *
 * Theory of operation: a round is one pass over the pages that were pending at
 * its begin, coldest groups first.  Two sets of pages are kept:
 *
 *     pending   to be sent in this round
 *     next      written after this round had read them, or not pending when
 *               they were written: for the next round
 *
 * A write to a protected page costs the guest a fault, so little is protected
 * (tracker.h): right before pages are given out to be read, they are collected: what was
 * written to a page before its turn goes out with it, and it is dirty again only by a
 * write after that.  A peek at all of RAM finds what was written, protects
 * nothing but a sample to learn rates from (watch_plan.h), and orders the groups
 * anew by how fast they are written (send_order.h).
 *
 * No write is lost, since a page that is neither pending nor in next was
 * collected before it was read, and is found by the next peek if it was written
 * since; one that was never collected, or was let go, is found by every peek.
 * work_set_sync() is for a guest that is paused: it collects all of RAM, so that what is written
 * after that, by whomever, is found by the next one.
 *
 * Which group comes next is the policy's (send_order.h), as is what is deferred: deferred groups
 * are not given out, they stay pending for the round that is sent with the guest paused.  Those of
 * which nearly all pages are active are not protected meanwhile, but for the sample.
 *
 * Threads: one at a time.
 */
#pragma once

#include <glib.h>

#include "memory/guest_memory.h"
#include "memory/tracker.h"
#include "policy/convergence.h"
#include "policy/group_account.h"

/* Pages given out at a time: at most, and the most may not be less than a word of a
 * bitmap. */
#define WORK_BATCH_PAGES 256u
#define WORK_LEAST_BATCH_PAGES 64u

typedef struct WorkSet WorkSet;

typedef struct {
    guint region;
    guint span_count;
    uint64_t pages;
    PageSpan spans[WORK_BATCH_PAGES]; /* ascending, apart */
} WorkBatch;

/* Borrows both.  Times below are ms since the start of the move. */
WorkSet *work_set_new(GuestMemory *memory, Tracker *tracker);
void work_set_free(WorkSet *set);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(WorkSet, work_set_free)

/* Makes all populated pages pending: the first round. */
gboolean work_set_add_populated(WorkSet *set, GError **error);

/* Ends a round: what is left of it (deferred groups) and what was written since
 * become pending. */
void work_set_begin_round(WorkSet *set);

/* The pages of this round that are still to be given out. */
GPtrArray *work_set_get_pending(WorkSet *set);

/* The pages for the next round: for pages that are dirty for another reason. */
GPtrArray *work_set_get_next(WorkSet *set);

/* Finds what was written in all of RAM, while the guest runs. */
gboolean work_set_peek(WorkSet *set, double now_ms, GError **error);

/* First faults of the guest on what is protected, as found so far. */
uint64_t work_set_count_faults(const WorkSet *set);
/* They took this share of the guest's time lately: samples become smaller or larger. */
void work_set_adjust_sample(WorkSet *set, double fault_share);

/* Collects pages, and gives out nothing: they may be read then for another purpose. */
gboolean work_set_collect(WorkSet *set, guint region, PageSpan span, double now_ms, GError **error);

/* From now on adds to *sets* (borrowed; NULL: no more) all that a peek, a collect or a sync finds
 * written, whatever else becomes of it. */
void work_set_note_written(WorkSet *set, GPtrArray *sets);

/* Collects all of RAM: with the guest paused. */
gboolean work_set_sync(WorkSet *set, double now_ms, GError **error);

/* Gives out the next pages of the round, at most *most* (WORK_LEAST_BATCH_PAGES to
 * WORK_BATCH_PAGES; a probe is a batch of its own size); a batch without pages at its end.
 * *paused*: the guest writes nothing, so nothing is collected and nothing deferred. */
gboolean work_set_take(WorkSet *set, gboolean paused, double now_ms, guint most, WorkBatch *ret,
                       GError **error);

/* Some pages of these groups (at most GROUP_ACCOUNT_PROBES) come next, deferred
 * or not: their resend cost is to be learnt. */
void work_set_set_probes(WorkSet *set, const guint *groups, guint count);

/* Pages that are pending or for the next round. */
uint64_t work_set_count(const WorkSet *set);
uint64_t work_set_count_pending(const WorkSet *set);

/* Groups are numbered over all regions, in their order. */
guint work_set_get_group_count(const WorkSet *set);
guint work_set_get_group(const WorkSet *set, guint region, uint64_t page);
GroupAccount *work_set_get_account(WorkSet *set);

/* Tells the account what is pending in each group. */
void work_set_update_account(WorkSet *set);
