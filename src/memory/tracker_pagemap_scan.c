#include <linux/userfaultfd.h>

#include "base/error.h"
#include "memory/pagemap.h"
#include "memory/tracker.h"
#include "memory/userfault.h"

static gboolean take(Tracker *tracker, guint index, PageSpan span, PageSet *set, GError **error)
{
    const GuestRegion *region = guest_memory_get_region(tracker->memory, index);

    return pagemap_take_written(tracker->memory->pagemap, region->host_address, span,
                                region->backing == GUEST_BACKING_PRIVATE, set, error);
}

static gboolean peek(Tracker *tracker, guint index, PageSpan span, PageSet *set, GError **error)
{
    const GuestRegion *region = guest_memory_get_region(tracker->memory, index);

    return pagemap_add_written(tracker->memory->pagemap, region->host_address, span,
                               region->backing == GUEST_BACKING_PRIVATE, set, error);
}

static gboolean start(Tracker *tracker, GError **error)
{
    if (pagemap_can_scan(tracker->memory->pagemap))
        return TRUE;
    error_set(error, VMFERRY_ERROR_UNSUPPORTED, "this kernel lacks PAGEMAP_SCAN (needs 6.7)");
    return FALSE;
}

const TrackerOps tracker_pagemap_scan_ops = {
    .kind = TRACKER_PAGEMAP_SCAN,
    .features = UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_HUGETLBFS_SHMEM |
                USERFAULT_FEATURE_WP_UNPOPULATED | USERFAULT_FEATURE_WP_ASYNC,
    .start = start,
    .collect = take,
    .peek = peek,
};
