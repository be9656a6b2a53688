#include "migrate/source_move.h"

#include "base/clock.h"
#include "base/error.h"
#include "base/fault.h"
#include "base/page.h"

#define PROGRESS_INTERVAL_NS 100000000ULL
/* Looks are dense at first: what is hot should be known before it is sent. */
#define FIRST_SYNC_MS 10.0
#define LOOK_MS 100.0
/* Nothing to send but what is held back: until the next look. */
#define IDLE_SLICE_NS 10000000ULL

double source_now_ms(const SourceMove *move)
{
    return clock_ns_to_ms(clock_now_ns() - move->started_ns);
}

static void estimate_eta(SourceMove *move)
{
    MigrateProgress *progress = &move->progress;
    uint64_t left = progress->round_bytes - progress->round_bytes_done;

    progress->eta_ms = -1;
    if (move->paused)
        progress->eta_ms = SOURCE_EXPECTED_DEVICE_MS;
    else if (move->decision.expected_total_ms > progress->elapsed_ms)
        progress->eta_ms = move->decision.expected_total_ms - progress->elapsed_ms;
    else if (progress->bytes_per_second > 0)
        progress->eta_ms =
            (double)left / progress->bytes_per_second * 1000 + SOURCE_EXPECTED_DEVICE_MS;
}

void source_report_progress(SourceMove *move)
{
    MigrateProgress *progress = &move->progress;

    move->last_progress_ns = clock_now_ns();
    progress->elapsed_ms = source_now_ms(move);
    progress->wire_bytes = move->session ? session_get_sent_bytes(move->session) : 0;
    progress->bytes_per_second = move->link.bytes_per_ms * 1000;
    estimate_eta(move);
    if (move->job->host.progress)
        move->job->host.progress(progress, move->job->host.user);
}

void source_set_phase(SourceMove *move, MigratePhase phase)
{
    move->progress.phase = phase;
    source_report_progress(move);
}

static gboolean before_batch(SourceMove *move, uint64_t pages_before, GError **error)
{
    PageSenderCounts counts;

    source_measure_link(move);
    page_sender_get_counts(move->sender, &counts);
    move->progress.round_bytes_done = (counts.done_pages - pages_before) * PAGE_BYTES;
    if (clock_now_ns() - move->last_progress_ns > PROGRESS_INTERVAL_NS)
        source_report_progress(move);
    /* While the guest is paused only answers come, each awaited at its place. */
    return source_not_cancelled(move, error) && source_deadline_check(move, error) &&
           (move->paused || source_hear_peer(move, error));
}

/* A look and what follows from it, when it is time for one. */
static gboolean sync_if_due(SourceMove *move, GError **error)
{
    if (move->paused || source_now_ms(move) < move->next_sync_ms)
        return TRUE;
    move->sync_interval_ms = CLAMP(2 * move->sync_interval_ms, FIRST_SYNC_MS, LOOK_MS);
    move->next_sync_ms = source_now_ms(move) + move->sync_interval_ms;
    return source_sync(move, error) && source_decide(move, FALSE, error);
}

static gboolean must_stop(const SourceMove *move)
{
    return !move->paused && move->decision.verdict != CONVERGENCE_CONTINUE;
}

gboolean source_send_pass(SourceMove *move, GError **error)
{
    g_autofree WorkBatch *batch = g_new(WorkBatch, 1);
    PageSenderCounts before;

    page_sender_get_counts(move->sender, &before);
    while (!must_stop(move)) {
        if (!before_batch(move, before.done_pages, error) ||
            !work_set_take(move->work, move->paused, source_now_ms(move),
                           page_sender_get_batch_pages(move->sender), batch, error))
            return FALSE;
        if (batch->pages == 0)
            break;
        if (!page_sender_push(move->sender, batch, error) || !sync_if_due(move, error))
            return FALSE;
    }
    return page_sender_flush(move->sender, error);
}

static void describe_round(MigrateRound *round, const PageSenderCounts *before,
                           const PageSenderCounts *after)
{
    round->pages_whole = after->pages.whole - before->pages.whole;
    round->pages_segments = after->pages.segments - before->pages.segments;
    round->pages_copied = after->pages.copied - before->pages.copied;
    round->pages_unchanged = after->pages.unchanged - before->pages.unchanged;
    round->pages_zero = after->pages.zero - before->pages.zero;
    round->pages = round->pages_whole + round->pages_segments + round->pages_copied;
}

gboolean source_send_round(SourceMove *move, GError **error)
{
    MigrateRound round = {.dirty_bytes = work_set_count_pending(move->work) * PAGE_BYTES,
                          .work_set_bytes = (uint64_t)source_count_work_bytes(move)};
    uint64_t wire_before = session_get_sent_bytes(move->session);
    double start = source_now_ms(move);
    PageSenderCounts before, after;

    move->progress.round = move->round;
    move->progress.round_bytes = round.dirty_bytes;
    move->progress.round_bytes_done = 0;
    page_sender_get_counts(move->sender, &before);
    if (!source_send_pass(move, error) || (move->paused && !source_recheck_send(move, error)) ||
        !source_confirm_round(move, error))
        return FALSE;
    page_sender_get_counts(move->sender, &after);
    describe_round(&round, &before, &after);
    round.ms = source_now_ms(move) - start;
    round.wire_bytes = session_get_sent_bytes(move->session) - wire_before;
    g_array_append_val(move->report->rounds, round);
    /* Better than nothing, where the round was too short to measure within. */
    if (move->link.bytes_per_ms <= 0)
        move->link.bytes_per_ms = (double)round.wire_bytes / MAX(round.ms, 0.001);
    move->round++;
    return TRUE;
}

/* All that is left is held back: nothing to do until it is looked at again. */
static gboolean await_sync(SourceMove *move, GError **error)
{
    move->next_sync_ms = source_now_ms(move) + LOOK_MS;
    while (source_now_ms(move) < move->next_sync_ms) {
        if (!source_not_cancelled(move, error) || !source_hear_peer(move, error))
            return FALSE;
        clock_sleep_ns(IDLE_SLICE_NS);
    }
    if (!source_sync(move, error))
        return FALSE;
    work_set_begin_round(move->work);
    return source_decide(move, TRUE, error);
}

static void note_round(SourceMove *move)
{
    const MigrateRound *last =
        &g_array_index(move->report->rounds, MigrateRound, move->report->rounds->len - 1);
    ConvergenceRound round = {.sent_bytes = (double)last->wire_bytes,
                              .left_bytes = source_count_work_bytes(move),
                              .ms = last->ms};

    /* What was left before it was a guess, as long as its cost had not been seen. */
    if (move->finished_rounds->len > 0 && move->progress.deferred_bytes == 0)
        g_array_index(move->finished_rounds, ConvergenceRound, move->finished_rounds->len - 1)
            .left_bytes = round.sent_bytes;
    g_array_append_val(move->finished_rounds, round);
    source_trace_round(move, &round);
}

/* Ends a round: what has become dirty, and what to do about it. */
static gboolean end_round(SourceMove *move, GError **error)
{
    if (!source_recheck_round(move, error) || !source_sync(move, error) ||
        !page_sender_add_discarded(move->sender, work_set_get_next(move->work), error))
        return FALSE;
    note_round(move);
    work_set_begin_round(move->work);
    return source_decide(move, TRUE, error);
}

static gboolean run_rounds(SourceMove *move, GError **error)
{
    while (move->decision.verdict == CONVERGENCE_CONTINUE) {
        if (move->decision.wait || work_set_is_all_deferred(move->work)) {
            if (!await_sync(move, error))
                return FALSE;
            continue;
        }
        if (!source_send_round(move, error) || !end_round(move, error))
            return FALSE;
    }
    return source_stop_or_give_up(move, error);
}

gboolean source_precopy(SourceMove *move, GError **error)
{
    source_set_phase(move, MIGRATE_PHASE_PRECOPY);
    if (fault_point("source.first-round", error) || !work_set_add_populated(move->work, error))
        return FALSE;
    source_trace_begin(move);
    /* Begins the samples that tell what is hot before it is sent. */
    if (!work_set_peek(move->work, source_now_ms(move), error))
        return FALSE;
    if (!source_send_round(move, error) || fault_point("source.accepted", error) ||
        !end_round(move, error))
        return FALSE;
    return run_rounds(move, error);
}

gboolean source_settle_images(SourceMove *move, GError **error)
{
    if (!source_images_await(move, error))
        return FALSE;
    if (source_images_are_read(move)) {
        /* See source_decide(): there is no stop until they are read. */
        move->decision.verdict = CONVERGENCE_CONTINUE;
        move->decision.wait = TRUE;
        if (!run_rounds(move, error))
            return FALSE;
    }
    return source_images_judge_read(move, error);
}
