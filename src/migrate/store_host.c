#include "migrate/store_host.h"

#include "base/clock.h"
#include "base/error.h"
#include "base/fault.h"
#include "migrate/postcopy_source.h"
#include "transfer/frame_queue.h"
#include "transfer/page_applier.h"
#include "transfer/postcopy_sender.h"
#include "wire/postcopy_frame.h"
#include "wire/store_frame.h"

#define RECEIVE_AHEAD_FRAMES 32
#define TOLD_INTERVAL_NS 100000000ULL
#define HEAR_SLICE_MS 100
#define RESUMED_TIMEOUT_MS 15000
#define JOIN_TIMEOUT_MS 15000

/* ---- from the source ---- */

typedef struct {
    Session *session;
    StoredPages *pages;
    const StoreFillHost *host;
    FrameQueue *queue;
    PageApplier *applier;
    gboolean sealed, complete;
    uint64_t told, told_ns; /* the count that the source knows; when it was told */
} Fill;

static void release_slot(gpointer owner, gpointer user)
{
    frame_queue_release(user, owner);
}

static gboolean tell(Fill *fill, GError **error)
{
    StoredFrame frame = {fill->sealed, stored_pages_count(fill->pages)};
    uint8_t payload[FRAME_STORED_BYTES];

    fill->told = frame.pages;
    fill->told_ns = clock_now_ns();
    stored_frame_encode(&frame, payload);
    return session_send_bytes(fill->session, FRAME_STORED, payload, sizeof payload, error);
}

static gboolean tell_now_and_then(Fill *fill, GError **error)
{
    return clock_now_ns() - fill->told_ns < TOLD_INTERVAL_NS ||
           stored_pages_count(fill->pages) == fill->told || tell(fill, error);
}

/* What was covered and has been written to since. */
static gboolean take_stale(Fill *fill, const Frame *frame, GError **error)
{
    const PageRegions *regions = stored_pages_get_regions(fill->pages);
    OutstandingFrame stale;
    PageSpan span;

    if (fill->sealed) {
        error_set(error, VMFERRY_ERROR_INVALID, "OUTSTANDING behind STORE_SEAL");
        return FALSE;
    }
    if (!outstanding_frame_decode(frame->payload, frame->length, regions->pages, regions->count,
                                  &stale, error))
        return FALSE;
    for (uint32_t i = 0; i < stale.runs; i++) {
        outstanding_frame_next(&stale, &span.first, &span.count);
        stored_pages_drop(fill->pages, stale.region, span);
    }
    return TRUE;
}

static gboolean seal(Fill *fill, GError **error)
{
    if (fault_point("store.seal", error) || !fill->host->seal(fill->host->user, error))
        return FALSE;
    fill->sealed = TRUE;
    return tell(fill, error);
}

/* With all pages before it in place. */
static gboolean take_frame(Fill *fill, const Frame *frame, GError **error)
{
    if (!page_applier_drain(fill->applier, error))
        return FALSE;
    switch (frame->type) {
    case FRAME_OUTSTANDING:
        return take_stale(fill, frame, error);
    case FRAME_STORE_SEAL:
        return seal(fill, error);
    case FRAME_PUSHED:
        return tell(fill, error);
    case FRAME_COMPLETE:
    case FRAME_ABORT:
        fill->complete = TRUE;
        return TRUE;
    case FRAME_ERROR:
        session_error_from_frame(fill->session, frame, error);
        return FALSE;
    default:
        error_set(error, VMFERRY_ERROR_INVALID, "unexpected %s frame",
                  frame_type_name(frame->type));
        return FALSE;
    }
}

static gboolean take_slot(Fill *fill, FrameSlot *slot, GError **error)
{
    gboolean taken;

    if (page_applier_takes(slot->frame.type))
        return page_applier_push(fill->applier, &slot->frame, slot, error);
    taken = take_frame(fill, &slot->frame, error);
    frame_queue_release(fill->queue, slot);
    return taken;
}

static gboolean receive(Fill *fill, GError **error)
{
    while (!fill->complete) {
        g_autoptr(GError) quiet = NULL;
        FrameSlot *slot = frame_queue_pop(fill->queue, HEAR_SLICE_MS, &quiet);

        if (!slot && !error_is(quiet, VMFERRY_ERROR_TIMEOUT)) {
            g_propagate_error(error, g_steal_pointer(&quiet));
            return FALSE;
        }
        if ((slot && !take_slot(fill, slot, error)) || !tell_now_and_then(fill, error))
            return FALSE;
    }
    return TRUE;
}

gboolean store_host_fill(Session *session, StoredPages *pages, const StoreFillHost *host,
                         GError **error)
{
    PageSink *sink = stored_pages_new_sink(pages);
    Fill fill = {.session = session, .pages = pages, .host = host};
    gboolean done;

    fill.queue = frame_queue_start(session_get_channel(session, TRAFFIC_CONTROL),
                                   RECEIVE_AHEAD_FRAMES, error);
    if (fill.queue) {
        fill.applier = page_applier_new(sink, release_slot, fill.queue);
        receive(&fill, error);
    }
    done = fill.complete;
    g_clear_pointer(&fill.applier, page_applier_free);
    frame_queue_free(fill.queue);
    page_sink_free(sink);
    return done;
}

/* ---- to the destination ---- */

typedef struct {
    Session *session;
    gboolean complete;
} Fetch;

/* FALSE, and no error, where nothing is needed. */
static gboolean receive_outstanding(Fetch *fetch, const PageRegions *regions, GPtrArray *sets,
                                    GError **error)
{
    Session *session = fetch->session;

    for (;;) {
        Frame frame;

        if (!session_receive(session, TRAFFIC_CONTROL, RESUMED_TIMEOUT_MS, &frame, error))
            return FALSE;
        fetch->complete = frame.type == FRAME_COMPLETE;
        if (frame.type == FRAME_RESUMED || fetch->complete)
            return !fetch->complete;
        if (frame.type == FRAME_ERROR || frame.type == FRAME_ABORT) {
            session_error_from_frame(session, &frame, error);
            return FALSE;
        }
        if (frame.type != FRAME_OUTSTANDING) {
            error_set(error, VMFERRY_ERROR_INVALID, "unexpected %s frame",
                      frame_type_name(frame.type));
            return FALSE;
        }
        if (!postcopy_take_outstanding(regions, sets, &frame, error))
            return FALSE;
    }
}

static gboolean hear(Fetch *fetch, int timeout_ms, GError **error)
{
    g_autoptr(GError) quiet = NULL;
    Frame frame;

    if (!session_receive(fetch->session, TRAFFIC_CONTROL, timeout_ms, &frame, &quiet)) {
        if (error_is(quiet, VMFERRY_ERROR_TIMEOUT))
            return TRUE;
        g_propagate_error(error, g_steal_pointer(&quiet));
        return FALSE;
    }
    fetch->complete = frame.type == FRAME_COMPLETE;
    if (fetch->complete)
        return TRUE;
    if (frame.type == FRAME_ERROR || frame.type == FRAME_ABORT)
        session_error_from_frame(fetch->session, &frame, error);
    else
        error_set(error, VMFERRY_ERROR_INVALID, "unexpected %s frame", frame_type_name(frame.type));
    return FALSE;
}

/* A PostcopyBetween. */
static gboolean between(gpointer user, GError **error)
{
    Fetch *fetch = user;

    if (!hear(fetch, 0, error))
        return FALSE;
    if (fetch->complete)
        error_set(error, VMFERRY_ERROR_CANCELLED, "complete");
    return !fetch->complete;
}

static void push(Fetch *fetch, PostcopySender *sender, GError **error)
{
    if (!postcopy_sender_answer(sender, error) ||
        !postcopy_sender_push(sender, between, fetch, error) ||
        !session_send_bytes(fetch->session, FRAME_PUSHED, NULL, 0, error))
        return;
    while (!fetch->complete)
        if (!hear(fetch, HEAR_SLICE_MS, error))
            return;
}

/* Of what it lacks, what is here. */
static void keep_available(const PageRegions *regions, GPtrArray *sets, const GPtrArray *available)
{
    for (guint i = 0; i < sets->len; i++) {
        g_autoptr(PageSet) missing = page_set_new(regions->pages[i]);

        page_set_add_all(missing, sets->pdata[i]);
        page_set_remove_all(missing, available->pdata[i]);
        page_set_remove_all(sets->pdata[i], missing);
    }
}

gboolean store_host_serve(Session *session, StoredPages *pages, GError **error)
{
    const PageRegions *regions = stored_pages_get_regions(pages);
    g_autoptr(PageSource) source = stored_pages_new_source(pages);
    g_autoptr(GPtrArray) available = stored_pages_list(pages);
    g_autoptr(GPtrArray) left = page_regions_new_sets(regions);
    g_autoptr(GError) problem = NULL;
    PostcopySenderOptions options = {.workers = 1, .packing = PACKING_NONE, .available = available};
    Fetch fetch = {.session = session};
    PostcopySender *sender;

    if (!receive_outstanding(&fetch, regions, left, error) ||
        !session_await_channel(session, TRAFFIC_FAULT, JOIN_TIMEOUT_MS, error))
        return fetch.complete;
    keep_available(regions, left, available);
    sender = postcopy_sender_new(source, session, g_steal_pointer(&left), &options);
    push(&fetch, sender, &problem);
    session_shutdown(session);
    postcopy_sender_free(sender);
    if (!fetch.complete)
        g_propagate_error(error, g_steal_pointer(&problem));
    return fetch.complete;
}
