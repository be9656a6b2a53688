/*
 * Which pages are protected only to learn how fast the guest writes
 *
 * Theory of operation: a write to a protected page costs the guest a page fault,
 * so memory is protected where it is sent, and otherwise a sample of it: some
 * pages of each group that has too few protected ones, at a place that changes.
 * A sample's page stays protected until it is written.  A group's pages are taken for
 * alike; what was sent is protected as a whole and tells more.
 *
 * Per dirty sync a limited number of groups is visited, one after the other, so that the
 * work does not grow with the guest.  While the faults take more than
 * WATCH_MOST_SHARE of the guest's time, samples are made smaller and then
 * fewer, and larger again below WATCH_LITTLE_SHARE: where faults cost next to nothing, all of a
 * group is protected.
 *
 * Pure; the caller protects.
 */
#pragma once

#include <glib.h>

#include "memory/page_set.h"
#include "policy/group_account.h"

#define WATCH_MOST_PAGES 512u
#define WATCH_FIRST_PAGES 32u
#define WATCH_FIRST_GROUPS 4096u
#define WATCH_MOST_GROUPS 256u
#define WATCH_LEAST_GROUPS 16u
#define WATCH_MOST_SHARE 0.03
#define WATCH_LITTLE_SHARE 0.01

typedef struct {
    guint pages;  /* of a group */
    guint groups; /* visited in a dirty sync */
    guint turn;   /* the group that comes next */
    guint pass;   /* over all groups */
} WatchPlan;

WatchPlan watch_plan_make(void);

/* *fault_share*: of the guest's time, lately. */
void watch_plan_adjust(WatchPlan *plan, double fault_share);

/* The next group to be visited, of *group_count* (at least 1). */
guint watch_plan_next(WatchPlan *plan, guint group_count);

/* A dirty sync is over: how many are visited in the next one. */
void watch_plan_end_sync(WatchPlan *plan);

/* Is a group that has *watched* protected pages in need of a sample? */
gboolean watch_plan_wants(const WatchPlan *plan, guint watched);

/* Should the protection of a group's *watched* pages be lifted?  A deferred group is sent in the
 * pause whatever is written to it, so a fault on it is a cost without use, where most of its pages
 * are active and so will be written anyway; a sample is enough to learn from. */
gboolean watch_plan_releases(const WatchPlan *plan, const GroupAccount *account, guint group,
                             guint watched);

/* The sample of *group*, of its *group_pages*; within the group. */
PageSpan watch_plan_get_sample(const WatchPlan *plan, guint group, guint group_pages);
