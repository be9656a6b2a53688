#include "migrate/source_move.h"

#include "base/bytes.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/fault.h"
#include "migrate/policy.h"

#define PROGRESS_INTERVAL_NS 100000000ULL
#define AWAIT_SLICE_MS 100
#define ROUND_TIMEOUT_MS 60000
/* Device state out, over and in, and the hand-over: what is expected before it
 * has been measured (design.md, section 1). */
#define EXPECTED_DEVICE_MS 12.0
/* A round of fewer bytes says more about latency than about bandwidth. */
#define BANDWIDTH_SAMPLE_BYTES (1u << 20)

gboolean source_not_cancelled(SourceMove *move, GError **error)
{
    if (!g_cancellable_is_cancelled(move->cancellable))
        return TRUE;
    error_set(error, VMFERRY_ERROR_CANCELLED, "cancelled");
    return FALSE;
}

static void estimate_eta(SourceMove *move)
{
    MigrateProgress *progress = &move->progress;
    uint64_t left = progress->round_bytes - progress->round_bytes_done;

    progress->eta_ms = -1;
    if (move->paused)
        progress->eta_ms = EXPECTED_DEVICE_MS;
    else if (progress->bytes_per_second > 0)
        progress->eta_ms = (double)left / progress->bytes_per_second * 1000 + EXPECTED_DEVICE_MS;
}

void source_report_progress(SourceMove *move)
{
    MigrateProgress *progress = &move->progress;
    uint64_t now = clock_now_ns();

    move->last_progress_ns = now;
    progress->elapsed_ms = clock_ns_to_ms(now - move->started_ns);
    progress->wire_bytes = move->channel ? channel_get_sent_bytes(move->channel) : 0;
    estimate_eta(move);
    if (move->job->host.progress)
        move->job->host.progress(progress, move->job->host.user);
}

void source_set_phase(SourceMove *move, MigratePhase phase)
{
    move->progress.phase = phase;
    source_report_progress(move);
}

/* Handles what may come unasked; TRUE if *frame* was such. */
static gboolean take_accepted(SourceMove *move, const Frame *frame)
{
    if (frame->type != FRAME_ACCEPTED || move->accepted)
        return FALSE;
    move->accepted = TRUE;
    /* Not before: until then a full socket says nothing about the path. */
    if (peer_has_feature(&move->peer, FEATURE_PAGES_LZ4))
        page_sender_set_packing(move->sender, move->job->options.compress);
    return TRUE;
}

static gboolean unexpected(SourceMove *move, const Frame *frame, GError **error)
{
    if (frame->type == FRAME_ERROR || frame->type == FRAME_ABORT)
        channel_error_from_frame(move->channel, frame, error);
    else
        error_set(error, VMFERRY_ERROR_INVALID, "%s sent an unexpected %s frame",
                  channel_get_peer_name(move->channel), frame_type_name(frame->type));
    return FALSE;
}

/* Looks whether the destination has something to say, without waiting. */
static gboolean hear_peer(SourceMove *move, GError **error)
{
    g_autoptr(GError) quiet = NULL;
    Frame frame;

    if (channel_receive(move->channel, 0, &frame, &quiet))
        return take_accepted(move, &frame) || unexpected(move, &frame, error);
    if (error_is(quiet, VMFERRY_ERROR_TIMEOUT))
        return TRUE;
    g_propagate_error(error, g_steal_pointer(&quiet));
    return FALSE;
}

gboolean source_await(SourceMove *move, FrameType type, int timeout_ms, Frame *ret, GError **error)
{
    uint64_t end = clock_now_ns() + (uint64_t)timeout_ms * 1000000;

    for (;;) {
        g_autoptr(GError) quiet = NULL;

        if (!move->word_sent && !source_not_cancelled(move, error))
            return FALSE;
        if (channel_receive(move->channel, AWAIT_SLICE_MS, ret, &quiet)) {
            if (ret->type == type)
                return TRUE;
            if (!take_accepted(move, ret))
                return unexpected(move, ret, error);
        } else if (!error_is(quiet, VMFERRY_ERROR_TIMEOUT)) {
            g_propagate_error(error, g_steal_pointer(&quiet));
            return FALSE;
        } else if (clock_now_ns() > end) {
            error_set(error, VMFERRY_ERROR_TIMEOUT, "%s did not send %s within %d s",
                      channel_get_peer_name(move->channel), frame_type_name(type),
                      timeout_ms / 1000);
            return FALSE;
        }
    }
}

/* Before each PAGES frame. */
static gboolean before_frame(uint64_t done_bytes, gpointer user, GError **error)
{
    SourceMove *move = user;

    move->progress.round_bytes_done = done_bytes;
    if (clock_now_ns() - move->last_progress_ns > PROGRESS_INTERVAL_NS)
        source_report_progress(move);
    return source_not_cancelled(move, error) && hear_peer(move, error);
}

/* Collects the span right before it is read: what was written since the round
 * began goes out with this round and not once more with the next. */
static gboolean refresh(guint region, const PageSpan *spans, guint count, gpointer user,
                        GError **error)
{
    SourceMove *move = user;
    PageSet *next = g_ptr_array_index(move->next, region);
    uint64_t first = spans[0].first;
    uint64_t end = spans[count - 1].first + spans[count - 1].count;

    if (!tracker_collect_span(move->tracker, region, (PageSpan){first, end - first}, next, error))
        return FALSE;
    for (guint i = 0; i < count; i++)
        page_set_remove(next, spans[i].first, spans[i].count);
    return TRUE;
}

static uint64_t count_bytes(const GPtrArray *sets)
{
    uint64_t pages = 0;

    for (guint i = 0; i < sets->len; i++)
        pages += page_set_count(g_ptr_array_index(sets, i));
    return pages * GUEST_PAGE_BYTES;
}

static void clear_sets(GPtrArray *sets)
{
    for (guint i = 0; i < sets->len; i++)
        page_set_clear(g_ptr_array_index(sets, i));
}

static gboolean send_and_confirm(SourceMove *move, uint64_t *ret_pages, GError **error)
{
    uint8_t number[4] = {(uint8_t)move->round, (uint8_t)(move->round >> 8),
                         (uint8_t)(move->round >> 16), (uint8_t)(move->round >> 24)};
    /* A paused guest writes nothing. */
    PageSenderHooks hooks = {before_frame, move->paused ? NULL : refresh, move};
    Frame frame;
    ByteReader reader;

    if (!page_sender_send(move->sender, move->dirty, &hooks, ret_pages, error) ||
        !channel_send_bytes(move->channel, FRAME_ROUND_END, number, sizeof number, error))
        return FALSE;
    if (move->paused) /* READY will tell that all of it has arrived */
        return TRUE;
    if (!source_await(move, FRAME_ROUND_APPLIED, ROUND_TIMEOUT_MS, &frame, error))
        return FALSE;
    reader = byte_reader_make(frame.payload, frame.length);
    if (byte_read_le32(&reader) != move->round || !byte_reader_ok(&reader)) {
        error_set(error, VMFERRY_ERROR_INVALID, "ROUND_APPLIED for another round");
        return FALSE;
    }
    return TRUE;
}

gboolean source_send_round(SourceMove *move, GError **error)
{
    MigrateRound round = {.dirty_bytes = count_bytes(move->dirty)};
    uint64_t wire_before = channel_get_sent_bytes(move->channel);
    uint64_t start = clock_now_ns();

    move->progress.round = move->round;
    move->progress.round_bytes = round.dirty_bytes;
    move->progress.round_bytes_done = 0;
    if (!send_and_confirm(move, &round.pages, error))
        return FALSE;
    round.ms = clock_ns_to_ms(clock_now_ns() - start);
    round.wire_bytes = channel_get_sent_bytes(move->channel) - wire_before;
    g_array_append_val(move->report->rounds, round);
    /* What was read but not sent (zero pages) took next to no time. */
    if (!move->paused && (round.wire_bytes >= BANDWIDTH_SAMPLE_BYTES || move->round == 0))
        move->bytes_per_ms = (double)round.wire_bytes / MAX(round.ms, 0.001);
    move->progress.bytes_per_second = move->bytes_per_ms * 1000;
    move->round++;
    return TRUE;
}

static gboolean collect(SourceMove *move, GError **error)
{
    GPtrArray *sent = move->dirty;

    move->dirty = move->next;
    move->next = sent;
    clear_sets(move->next);
    return tracker_collect(move->tracker, move->dirty, error) &&
           page_sender_add_discarded(move->sender, move->dirty, error);
}

static gboolean first_round(SourceMove *move, GError **error)
{
    clear_sets(move->dirty);
    for (guint i = 0; i < move->dirty->len; i++)
        if (!guest_memory_add_populated(move->memory, i, g_ptr_array_index(move->dirty, i), error))
            return FALSE;
    return source_send_round(move, error);
}

static void give_up(SourceMove *move, const PolicyDecision *decision, GError **error)
{
    const MigrateRound *last =
        &g_array_index(move->report->rounds, MigrateRound, move->report->rounds->len - 1);

    move->report->reason = g_strdup(decision->reason);
    error_set(error, VMFERRY_ERROR_REFUSED,
              "the guest dirties memory faster than the path carries it: the last round sent %.0f "
              "MB in %.0f ms and left %.0f MB; stopping now would pause it for %.0f ms, the limit "
              "is %u ms (raise --max-downtime or --bandwidth)",
              (double)last->wire_bytes / 1e6, last->ms, (double)count_bytes(move->dirty) / 1e6,
              decision->expected_downtime_ms, move->job->options.max_downtime_ms);
}

gboolean source_precopy(SourceMove *move, GError **error)
{
    g_autoptr(GArray) rounds = g_array_new(FALSE, FALSE, sizeof(PolicyRound));

    source_set_phase(move, MIGRATE_PHASE_PRECOPY);
    if (fault_point("source.first-round", error) || !first_round(move, error) ||
        fault_point("source.accepted", error))
        return FALSE;
    for (;;) {
        const MigrateRound *last =
            &g_array_index(move->report->rounds, MigrateRound, move->round - 1);
        PolicyRound facts_round = {.sent_bytes = last->dirty_bytes, .ms = last->ms};
        PolicyFacts facts;
        PolicyDecision decision;

        if (!collect(move, error))
            return FALSE;
        facts_round.left_bytes = count_bytes(move->dirty);
        g_array_append_val(rounds, facts_round);
        facts = (PolicyFacts){(PolicyRound *)rounds->data, rounds->len, move->bytes_per_ms,
                              EXPECTED_DEVICE_MS, move->job->options.max_downtime_ms};
        decision = policy_decide(&facts);
        move->report->expected_downtime_ms = decision.expected_downtime_ms;
        if (decision.verdict == POLICY_STOP) {
            move->report->reason = g_strdup(decision.reason);
            return TRUE;
        }
        if (decision.verdict == POLICY_GIVE_UP) {
            give_up(move, &decision, error);
            return FALSE;
        }
        if (!source_send_round(move, error))
            return FALSE;
    }
}
