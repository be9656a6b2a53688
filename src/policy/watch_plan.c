#include "policy/watch_plan.h"

/* A deferred group of which this share is active goes unprotected. */
#define RELEASED_SHARE 0.75

WatchPlan watch_plan_make(void)
{
    return (WatchPlan){.pages = WATCH_FIRST_PAGES, .groups = WATCH_FIRST_GROUPS};
}

void watch_plan_end_sync(WatchPlan *plan)
{
    plan->groups = MIN(plan->groups, WATCH_MOST_GROUPS);
}

static void shrink(WatchPlan *plan, double fault_share)
{
    for (; fault_share > WATCH_MOST_SHARE && plan->pages > 1; fault_share /= 2)
        plan->pages /= 2;
    if (fault_share > WATCH_MOST_SHARE)
        plan->groups = MAX(plan->groups / 2, WATCH_LEAST_GROUPS);
}

static void grow(WatchPlan *plan)
{
    if (plan->groups < WATCH_MOST_GROUPS)
        plan->groups = MIN(plan->groups * 2, WATCH_MOST_GROUPS);
    else
        plan->pages = MIN(plan->pages * 2, WATCH_MOST_PAGES);
}

void watch_plan_adjust(WatchPlan *plan, double fault_share)
{
    if (fault_share > WATCH_MOST_SHARE)
        shrink(plan, fault_share);
    else if (fault_share < WATCH_LITTLE_SHARE)
        grow(plan);
}

gboolean watch_plan_wants(const WatchPlan *plan, guint watched)
{
    return watched <= plan->pages / 2;
}

gboolean watch_plan_releases(const WatchPlan *plan, const GroupAccount *account, guint group,
                             guint watched)
{
    return group_account_is_deferred(account, group) && watched > plan->pages &&
           group_account_get_use(account, group) >= RELEASED_SHARE;
}

guint watch_plan_next(WatchPlan *plan, guint group_count)
{
    guint group = plan->turn < group_count ? plan->turn : 0;

    plan->turn = group + 1;
    if (plan->turn >= group_count) {
        plan->turn = 0;
        plan->pass++;
    }
    return group;
}

PageSpan watch_plan_get_sample(const WatchPlan *plan, guint group, guint group_pages)
{
    guint places = MAX(group_pages / plan->pages, 1);
    /* Steps of an odd number come to every place of a power of two. */
    guint place = (plan->pass * 37 + (group * 2654435761u >> 16)) % places;
    guint first = place * plan->pages;

    return (PageSpan){first, MIN(plan->pages, group_pages - MIN(first, group_pages))};
}
