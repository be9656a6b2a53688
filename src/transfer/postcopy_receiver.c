#include "transfer/postcopy_receiver.h"

#include "base/error.h"
#include "base/thread.h"
#include "wire/page_frame.h"
#include "wire/postcopy_frame.h"

/* ---- the sink ---- */

typedef struct {
    PageSink head;
    FaultService *service;
} ServiceSink;

static gboolean sink_write(PageSink *head, guint region, const PageSpan *spans, guint count,
                           const uint8_t *buffer, GError **error)
{
    return fault_service_place(((ServiceSink *)head)->service, region, spans, count, buffer, error);
}

static gboolean sink_zero(PageSink *head, guint region, PageSpan run, GError **error)
{
    return fault_service_place_zero(((ServiceSink *)head)->service, region, run, error);
}

static gboolean refuse(const char *what, GError **error)
{
    error_set(error, VMFERRY_ERROR_INVALID, "%s for a guest that runs already", what);
    return FALSE;
}

static gboolean sink_patch(PageSink *head, guint region, const PagePatch *patches, guint count,
                           GError **error)
{
    return refuse("SEGMENTS", error);
}

static gboolean sink_copy(PageSink *head, guint region, const CopyRun *runs, guint count,
                          GError **error)
{
    return refuse("COPIES", error);
}

static gboolean sink_seal(PageSink *head, uint32_t epoch, GError **error)
{
    return refuse("EPOCH_SEAL", error);
}

static void sink_free(PageSink *head)
{
    g_free((ServiceSink *)head);
}

PageSink *postcopy_sink_new(FaultService *service, const PageRegions *regions)
{
    static const PageSinkMethods methods = {sink_write, sink_zero, sink_patch,
                                            sink_copy,  sink_seal, sink_free};
    ServiceSink *sink = g_new0(ServiceSink, 1);

    sink->service = service;
    sink->head = (PageSink){&methods, regions};
    return &sink->head;
}

/* ---- the receiver ---- */

struct PostcopyReceiver {
    Session *session;
    PageSink *sink;
    GThread *thread;
    /* Of the thread only. */
    PageFrame pages;
    PageSpan spans[PAGE_FRAME_MAX_RAW_PAGES];
};

/* No frame has more runs with content than pages. */
static gboolean write_raw_runs(PostcopyReceiver *receiver, GError **error)
{
    const PageFrame *pages = &receiver->pages;
    guint count = 0;

    for (guint i = 0; i < pages->run_count; i++)
        if (pages->runs[i].kind == PAGE_RUN_RAW)
            receiver->spans[count++] = (PageSpan){pages->runs[i].first, pages->runs[i].count};
    return count == 0 || page_sink_write(receiver->sink, pages->region, receiver->spans, count,
                                         pages->raw, error);
}

static gboolean write_zero_runs(PostcopyReceiver *receiver, GError **error)
{
    const PageFrame *pages = &receiver->pages;

    for (guint i = 0; i < pages->run_count; i++) {
        PageSpan run = {pages->runs[i].first, pages->runs[i].count};

        if (pages->runs[i].kind == PAGE_RUN_ZERO &&
            !page_sink_zero(receiver->sink, pages->region, run, error))
            return FALSE;
    }
    return TRUE;
}

static gboolean take_frame(PostcopyReceiver *receiver, const Frame *frame, GError **error)
{
    const PageRegions *regions = receiver->sink->regions;

    if (frame->type != FRAME_PAGES) {
        error_set(error, VMFERRY_ERROR_INVALID, "%s sent %s where PAGES was expected",
                  session_get_peer_name(receiver->session), frame_type_name(frame->type));
        return FALSE;
    }
    return page_frame_decode(frame->payload, frame->length, regions->pages, regions->count,
                             &receiver->pages, error) &&
           write_raw_runs(receiver, error) && write_zero_runs(receiver, error);
}

/* Whatever ends it ends the session: nobody else would see what a thread waits for. */
static gpointer receive_main(gpointer data)
{
    PostcopyReceiver *receiver = data;
    g_autoptr(GError) failure = NULL;
    Frame frame;

    while (!failure && session_receive(receiver->session, TRAFFIC_FAULT, -1, &frame, &failure)) {
        if (frame.type == FRAME_ERROR || frame.type == FRAME_ABORT)
            session_error_from_frame(receiver->session, &frame, &failure);
        else if (!take_frame(receiver, &frame, &failure))
            session_send_error(receiver->session, failure);
    }
    session_fail(receiver->session, failure);
    return NULL;
}

PostcopyReceiver *postcopy_receiver_start(Session *session, PageSink *sink, GError **error)
{
    PostcopyReceiver *receiver = g_new0(PostcopyReceiver, 1);

    receiver->session = session;
    receiver->sink = sink;
    receiver->thread = thread_start("faults", receive_main, receiver, error);
    if (!receiver->thread)
        g_clear_pointer(&receiver, g_free);
    return receiver;
}

void postcopy_receiver_want(PostcopyReceiver *receiver, guint region, PageSpan span)
{
    uint8_t payload[FRAME_WANT_BYTES];

    for (uint64_t done = 0; done < span.count; done += FRAME_WANT_MAX_PAGES) {
        WantFrame want = {.region = region,
                          .count = (uint32_t)MIN(span.count - done, FRAME_WANT_MAX_PAGES),
                          .first = span.first + done};

        want_frame_encode(&want, payload);
        if (!session_send_bytes(receiver->session, FRAME_WANT, payload, sizeof payload, NULL))
            return;
    }
}

void postcopy_receiver_free(PostcopyReceiver *receiver)
{
    if (!receiver)
        return;
    g_thread_join(receiver->thread);
    g_free(receiver);
}
