#include <errno.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/error.h"
#include "base/page.h"
#include "memory/pagemap.h"
#include "memory/tracker.h"
#include "memory/userfault.h"

static uint64_t fault_page_bytes(Tracker *tracker, uint64_t address)
{
    for (guint i = 0; i < tracker->memory->regions->len; i++) {
        const GuestRegion *region = guest_memory_get_region(tracker->memory, i);

        if (address >= region->host_address &&
            address < region->host_address + region->pages * PAGE_BYTES)
            return region->backing_page_bytes;
    }
    return PAGE_BYTES;
}

/* Lets the writer of each fault go on.  Nothing is noted: the lifted
 * protection itself is the mark that collect() finds. */
static void serve_faults(Tracker *tracker)
{
    UserfaultEvent events[USERFAULT_MOST_EVENTS];
    guint count = userfault_read(tracker->userfault, events, G_N_ELEMENTS(events));

    for (guint i = 0; i < count; i++) {
        uint64_t page_bytes = fault_page_bytes(tracker, events[i].address);

        userfault_unprotect(tracker->userfault, events[i].address & ~(page_bytes - 1), page_bytes,
                            NULL);
    }
}

static gpointer handler_thread(gpointer data)
{
    Tracker *tracker = data;
    struct pollfd fds[2] = {
        {.fd = userfault_get_fd(tracker->userfault), .events = POLLIN},
        {.fd = tracker->stop_event, .events = POLLIN},
    };

    for (;;) {
        if (poll(fds, 2, -1) < 0 && errno != EINTR)
            return NULL;
        if (fds[1].revents)
            return NULL;
        if (fds[0].revents & POLLIN)
            serve_faults(tracker);
        else if (fds[0].revents) /* the guest's process has ended */
            return NULL;
    }
}

/* A page is dirty when it is there and not protected.  In private memory a
 * page that is not there was never written (what comes later comes
 * unprotected); in shared memory it may have been written and swapped out, so
 * there a missing mark counts too. */
static gboolean peek(Tracker *tracker, guint index, PageSpan span, PageSet *set, GError **error)
{
    const GuestRegion *region = guest_memory_get_region(tracker->memory, index);

    return pagemap_add_unprotected(tracker->memory->pagemap, region->host_address, span,
                                   region->backing == GUEST_BACKING_PRIVATE, set, error);
}

static gboolean protect(Tracker *tracker, const GuestRegion *region, PageSpan span, GError **error)
{
    uint64_t unit = region->backing_page_bytes;
    uint64_t start = (region->host_address + span.first * PAGE_BYTES) & ~(unit - 1);
    uint64_t end = region->host_address + (span.first + span.count) * PAGE_BYTES;

    return userfault_protect(tracker->userfault, start, (end - start + unit - 1) & ~(unit - 1),
                             error);
}

/* A page is protected before the caller reads it, so a later write is seen next time. */
static gboolean collect(Tracker *tracker, guint index, PageSpan span, PageSet *set, GError **error)
{
    const GuestRegion *region = guest_memory_get_region(tracker->memory, index);
    g_autoptr(PageSet) dirty = page_set_new(span.count); /* counted from the span's first page */
    PageSpan run;

    if (!pagemap_add_unprotected(
            tracker->memory->pagemap, region->host_address + span.first * PAGE_BYTES,
            (PageSpan){0, span.count}, region->backing == GUEST_BACKING_PRIVATE, dirty, error))
        return FALSE;
    for (uint64_t at = 0; page_set_next_run(dirty, at, UINT64_MAX, &run.first, &run.count);
         at = run.first - span.first + run.count) {
        run.first += span.first;
        if (!protect(tracker, region, run, error))
            return FALSE;
        page_set_add(set, run.first, run.count);
    }
    return TRUE;
}

/* The handler first: from the first protected page on, someone may wait. */
static gboolean start(Tracker *tracker, GError **error)
{
    tracker->stop_event = eventfd(0, EFD_CLOEXEC);
    if (tracker->stop_event < 0) {
        error_set_errno(error, errno, "eventfd");
        return FALSE;
    }
    tracker->handler = g_thread_try_new("uffd-sync", handler_thread, tracker, error);
    return tracker->handler != NULL;
}

/* Unregistering wakes the threads that still wait, so the handler can end first. */
static void stop(Tracker *tracker)
{
    if (!tracker->handler)
        return;
    (void)!write(tracker->stop_event, &(uint64_t){1}, 8);
    g_thread_join(tracker->handler);
}

const TrackerOps tracker_uffd_sync_ops = {
    .kind = TRACKER_UFFD_SYNC,
    .uses = USERFAULT_WP_SYNC,
    .start = start,
    .collect = collect,
    .peek = peek,
    .stop = stop,
};
