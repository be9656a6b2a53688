#include "memory/tracker.h"

#include <sys/utsname.h>

#include "base/error.h"
#include "base/fault.h"
#include "base/fd.h"
#include "base/names.h"
#include "base/page.h"
#include "memory/pagemap.h"

static uint64_t region_bytes(const GuestRegion *region)
{
    /* On hugetlbfs only whole huge pages can be registered. */
    uint64_t bytes = region->pages * PAGE_BYTES;

    return (bytes + region->backing_page_bytes - 1) / region->backing_page_bytes *
           region->backing_page_bytes;
}

/* Where the userfault is borrowed its owner has done that, with all the modes it needs. */
static gboolean register_region(Tracker *tracker, const GuestRegion *region, GError **error)
{
    uint64_t bytes = region_bytes(region);

    if (tracker->owns_userfault)
        return userfault_register(tracker->userfault, region->host_address, bytes,
                                  USERFAULT_MODE_WP, error);
    if (userfault_is_registered(tracker->userfault, region->host_address, bytes, USERFAULT_MODE_WP))
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "not registered for write protection");
    return FALSE;
}

static gboolean register_regions(Tracker *tracker, GError **error)
{
    for (guint i = 0; i < tracker->memory->regions->len; i++) {
        const GuestRegion *region = guest_memory_get_region(tracker->memory, i);

        if (region->pages > 0 && !register_region(tracker, region, error)) {
            g_prefix_error(error, "RAM block %s: ", region->name);
            return FALSE;
        }
    }
    return TRUE;
}

/* A file's page that is unmapped may have content all the same, so there a hole is known by
 * its mark.  In private memory a page that comes later comes unprotected. */
static gboolean mark_holes(Tracker *tracker, guint index, GError **error)
{
    const GuestRegion *region = guest_memory_get_region(tracker->memory, index);
    g_autoptr(PageSet) holes = page_set_new(region->pages);
    g_autoptr(PageSet) populated = page_set_new(region->pages);
    g_autoptr(PageSet) unused = page_set_new(region->pages);
    PageSpan hole;

    if (region->pages == 0 || region->backing == GUEST_BACKING_PRIVATE)
        return TRUE;
    if (!guest_memory_add_populated(tracker->memory, index, populated, error))
        return FALSE;
    page_set_add(holes, 0, region->pages);
    page_set_remove_all(holes, populated);
    for (uint64_t at = 0; page_set_next_run(holes, at, UINT64_MAX, &hole.first, &hole.count);
         at = hole.first + hole.count)
        if (!tracker_collect_span(tracker, index, hole, unused, error))
            return FALSE;
    return TRUE;
}

static gboolean mark_all_holes(Tracker *tracker, GError **error)
{
    for (guint i = 0; i < tracker->memory->regions->len; i++)
        if (!mark_holes(tracker, i, error))
            return FALSE;
    return TRUE;
}

/* On *borrowed*, or on a userfault of its own (NULL). */
static Tracker *start_kind(GuestMemory *memory, const TrackerOps *ops, Userfault *borrowed,
                           GError **error)
{
    g_autoptr(Tracker) tracker = g_new0(Tracker, 1);

    tracker->ops = ops;
    tracker->memory = memory;
    tracker->stop_event = -1;
    tracker->owns_userfault = borrowed == NULL;
    tracker->userfault =
        borrowed ? borrowed
                 : userfault_open(memory->pid, ops->uses, USERFAULT_CLOSES_WITH_US, error);
    if (!tracker->userfault || !guest_memory_check_process(memory, error) ||
        !register_regions(tracker, error) || !ops->start(tracker, error) ||
        !mark_all_holes(tracker, error) || fault_point("memory.tracker-started", error)) {
        g_prefix_error(error, "tracker %s: ", tracker_kind_name(ops->kind));
        return NULL;
    }
    return g_steal_pointer(&tracker);
}

/* Only a kernel that lacks something is a reason to try the other one. */
static Tracker *start_best(GuestMemory *memory, GError **error)
{
    g_autoptr(GError) first = NULL;
    g_autoptr(GError) second = NULL;
    struct utsname name;
    Tracker *tracker = start_kind(memory, &tracker_pagemap_scan_ops, NULL, &first);

    if (tracker || !error_is(first, VMFERRY_ERROR_UNSUPPORTED)) {
        if (first)
            g_propagate_error(error, g_steal_pointer(&first));
        return tracker;
    }
    tracker = start_kind(memory, &tracker_uffd_sync_ops, NULL, &second);
    if (tracker)
        return tracker;
    uname(&name);
    error_set(error, VMFERRY_ERROR_UNSUPPORTED,
              "cannot track memory of pid %d on kernel %s: %s; %s (Linux 6.7 is best, 5.13 the "
              "least)",
              (int)memory->pid, name.release, first->message, second->message);
    return NULL;
}

Tracker *tracker_start(GuestMemory *memory, TrackerKind kind, GError **error)
{
    switch (kind) {
    case TRACKER_PAGEMAP_SCAN:
        return start_kind(memory, &tracker_pagemap_scan_ops, NULL, error);
    case TRACKER_UFFD_SYNC:
        return start_kind(memory, &tracker_uffd_sync_ops, NULL, error);
    default:
        return start_best(memory, error);
    }
}

/* A synchronous tracker's handler would take the events of the others that share the userfault. */
Tracker *tracker_start_on(GuestMemory *memory, Userfault *userfault, GError **error)
{
    if (userfault_get_uses(userfault) & USERFAULT_WP_ASYNC)
        return start_kind(memory, &tracker_pagemap_scan_ops, userfault, error);
    error_set(error, VMFERRY_ERROR_UNSUPPORTED,
              "a shared userfaultfd can be tracked with asynchronous write protection only");
    return NULL;
}

/* A huge page is protected, and so reported, as a whole. */
static PageSpan whole_pages(const GuestRegion *region, PageSpan span)
{
    uint64_t unit = region->backing_page_bytes / PAGE_BYTES;
    uint64_t end = MIN((span.first + span.count + unit - 1) / unit * unit, region->pages);

    span.first = span.first / unit * unit;
    span.count = end - span.first;
    return span;
}

gboolean tracker_collect_span(Tracker *tracker, guint region, PageSpan span, PageSet *set,
                              GError **error)
{
    const GuestRegion *memory = guest_memory_get_region(tracker->memory, region);

    span = whole_pages(memory, span);
    if (tracker->ops->collect(tracker, region, span, set, error)) {
        if (tracker->protected_again)
            page_set_add_span(g_ptr_array_index(tracker->protected_again, region), set, span);
        return TRUE;
    }
    g_prefix_error(error, "RAM block %s: ", memory->name);
    return FALSE;
}

gboolean tracker_collect(Tracker *tracker, GPtrArray *sets, GError **error)
{
    for (guint i = 0; i < tracker->memory->regions->len; i++) {
        PageSpan all = {0, guest_memory_get_region(tracker->memory, i)->pages};

        if (all.count > 0 &&
            !tracker_collect_span(tracker, i, all, g_ptr_array_index(sets, i), error))
            return FALSE;
    }
    return TRUE;
}

void tracker_note_protected(Tracker *tracker, GPtrArray *sets)
{
    tracker->protected_again = sets;
}

gboolean tracker_peek(Tracker *tracker, GPtrArray *sets, GError **error)
{
    for (guint i = 0; i < tracker->memory->regions->len; i++) {
        const GuestRegion *region = guest_memory_get_region(tracker->memory, i);
        PageSpan all = {0, region->pages};

        if (all.count > 0 &&
            !tracker->ops->peek(tracker, i, all, g_ptr_array_index(sets, i), error)) {
            g_prefix_error(error, "RAM block %s: ", region->name);
            return FALSE;
        }
    }
    return TRUE;
}

gboolean tracker_release_span(Tracker *tracker, guint index, PageSpan span, GError **error)
{
    const GuestRegion *region = guest_memory_get_region(tracker->memory, index);
    PageSpan pages = whole_pages(region, span);
    uint64_t bytes = pages.count * PAGE_BYTES, unit = region->backing_page_bytes;

    if (userfault_unprotect(tracker->userfault, region->host_address + pages.first * PAGE_BYTES,
                            (bytes + unit - 1) / unit * unit, error))
        return TRUE;
    g_prefix_error(error, "RAM block %s: ", region->name);
    return FALSE;
}

TrackerKind tracker_get_kind(Tracker *tracker)
{
    return tracker->ops->kind;
}

void tracker_free(Tracker *tracker)
{
    if (!tracker)
        return;
    if (tracker->ops->stop)
        tracker->ops->stop(tracker);
    if (tracker->owns_userfault)
        userfault_free(tracker->userfault);
    fd_close(&tracker->stop_event);
    g_free(tracker);
}

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
    .uses = USERFAULT_WP_ASYNC,
    .start = start,
    .collect = take,
    .peek = peek,
};

static const char *const tracker_kind_names[] = {
    [TRACKER_AUTO] = "auto",
    [TRACKER_PAGEMAP_SCAN] = "pagemap-scan",
    [TRACKER_UFFD_SYNC] = "uffd-sync",
};
NAMES_DEFINE(tracker_kind, TrackerKind, tracker_kind_names)
