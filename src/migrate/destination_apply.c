#include "migrate/destination_move.h"

#include "base/bytes.h"
#include "base/error.h"
#include "base/fault.h"
#include "wire/messages.h"
#include "wire/page_frame.h"

#define ZERO_CHUNK_PAGES 64u

static const uint8_t zeroes[ZERO_CHUNK_PAGES * GUEST_PAGE_BYTES];

static gboolean apply_zero_run(DestinationMove *move, guint region, const PageRun *run,
                               GError **error)
{
    for (uint64_t done = 0; done < run->count;) {
        PageSpan span = {run->first + done, MIN(ZERO_CHUNK_PAGES, run->count - done)};

        if (!guest_memory_write(move->memory, region, &span, 1, zeroes, error))
            return FALSE;
        done += span.count;
    }
    return TRUE;
}

/* The pages of all RAW runs lie one after the other in the frame: one call. */
static gboolean apply_raw_runs(DestinationMove *move, const PageFrame *pages, GError **error)
{
    g_autofree PageSpan *spans = g_new(PageSpan, pages->run_count);
    guint count = 0;

    for (guint i = 0; i < pages->run_count; i++)
        if (pages->runs[i].kind == PAGE_RUN_RAW)
            spans[count++] = (PageSpan){pages->runs[i].first, pages->runs[i].count};
    return count == 0 ||
           guest_memory_write(move->memory, pages->region, spans, count, pages->raw, error);
}

gboolean destination_apply_pages(DestinationMove *move, const Frame *frame, GError **error)
{
    g_autofree PageFrame *pages = g_new(PageFrame, 1);

    if (!page_frame_decode(frame->payload, frame->length, move->region_pages,
                           move->memory->regions->len, pages, error) ||
        !apply_raw_runs(move, pages, error))
        return FALSE;
    for (guint i = 0; i < pages->run_count; i++)
        if (pages->runs[i].kind == PAGE_RUN_ZERO &&
            !apply_zero_run(move, pages->region, &pages->runs[i], error))
            return FALSE;
    return TRUE;
}

gboolean destination_end_round(DestinationMove *move, const Frame *frame, GError **error)
{
    if (fault_point("destination.round-applied", error))
        return FALSE;
    return channel_send_bytes(move->channel, FRAME_ROUND_APPLIED, frame->payload, frame->length,
                              error);
}

gboolean destination_take_state(DestinationMove *move, const Frame *frame, GError **error)
{
    ByteReader reader = byte_reader_make(frame->payload, frame->length);
    uint64_t total = byte_read_le64(&reader);
    uint64_t offset = byte_read_le64(&reader);
    size_t piece = reader.left;

    if (!move->state) {
        move->state = g_byte_array_new();
        move->state_bytes = total;
    }
    if (!byte_reader_ok(&reader) || total > MESSAGE_MAX_DEVICE_STATE_BYTES ||
        total != move->state_bytes || offset != move->state->len || piece > total - offset) {
        error_set(error, VMFERRY_ERROR_INVALID, "malformed DEVICE_STATE frame");
        return FALSE;
    }
    byte_write_span(move->state, reader.at, piece);
    return TRUE;
}
