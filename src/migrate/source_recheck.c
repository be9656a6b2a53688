/* Reading again what direct I/O may have written unseen (recheck.h). */
#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "migrate/source_move.h"

/* Until it has been measured: about 1 GB/s, for a core that reads, hashes and compares. */
#define FIRST_READ_MS_PER_PAGE 0.004
/* What fewer pages take says nothing of the rest. */
#define LEAST_MEASURED_PAGES 1024u

struct SourceRecheck {
    Recheck *pages;
    VmmDirectIo before; /* when it was asked last */
    gboolean undrainable;
    double latency_ms;    /* of a request of late */
    double last_drain_ms; /* 0: none yet */
    double read_ms_per_page;
};

static void note_latency(SourceRecheck *recheck, const VmmDirectIo *now)
{
    uint64_t ended = now->operations - recheck->before.operations;

    /* Another client may reset what is counted. */
    if (now->operations > recheck->before.operations && now->total_ms >= recheck->before.total_ms)
        recheck->latency_ms = (now->total_ms - recheck->before.total_ms) / (double)ended;
    recheck->before = *now;
}

static void ask_latency(SourceMove *move)
{
    VmmDirectIo now;

    if (vmm_get_direct_io(move->job->vmm, &now, NULL))
        note_latency(move->recheck, &now);
}

/* In the pause and while it is drained the guest waits for the same requests. */
static double expect_drain_ms(const SourceRecheck *recheck)
{
    return MAX(MAX(recheck->latency_ms, recheck->before.slowest_ms), recheck->last_drain_ms);
}

static GPtrArray *get_pending(SourceMove *move)
{
    return move->work ? work_set_get_pending(move->work) : NULL;
}

static GPtrArray *get_next(SourceMove *move)
{
    return move->work ? work_set_get_next(move->work) : NULL;
}

static double expect_read_ms(SourceMove *move)
{
    return (double)recheck_count(move->recheck->pages, get_pending(move), get_next(move)) *
           move->recheck->read_ms_per_page;
}

/* FALSE: nothing is proven, and all stays to be read in the pause. */
static gboolean drain(SourceMove *move)
{
    SourceRecheck *recheck = move->recheck;
    g_autoptr(GError) error = NULL;
    uint64_t start = clock_now_ns();

    if (!vmm_drain(move->job->vmm, &error)) {
        log_warning("guest %s: I/O is not drained, so more memory is read again in the pause: %s",
                    move->job->guest, error->message);
        recheck->undrainable = TRUE;
        return FALSE;
    }
    recheck->last_drain_ms = clock_ns_to_ms(clock_now_ns() - start);
    move->report->direct_io.drains++;
    move->report->direct_io.longest_drain_ms =
        MAX(move->report->direct_io.longest_drain_ms, recheck->last_drain_ms);
    return TRUE;
}

static gboolean drain_if_worth(SourceMove *move)
{
    return !move->recheck->undrainable &&
           recheck_is_drain_worth(expect_read_ms(move), expect_drain_ms(move->recheck)) &&
           drain(move);
}

gboolean source_recheck_begin(SourceMove *move, GError **error)
{
    VmmDirectIo now;

    if (!vmm_get_direct_io(move->job->vmm, &now, error))
        return FALSE;
    if (!now.in_use)
        return TRUE;
    move->recheck = g_new0(SourceRecheck, 1);
    move->recheck->read_ms_per_page = FIRST_READ_MS_PER_PAGE;
    move->recheck->before = now;
    move->report->direct_io.in_use = TRUE;
    move->recheck->pages = recheck_new(move->memory, error);
    if (!move->recheck->pages)
        return FALSE;
    tracker_note_protected(move->tracker, recheck_get_unsettled(move->recheck->pages));
    if (drain_if_worth(move)) /* nothing was read yet: nothing is to be read again */
        recheck_settle(move->recheck->pages, recheck_get_unsettled(move->recheck->pages), NULL);
    return TRUE;
}

void source_recheck_end(SourceMove *move)
{
    if (!move->recheck)
        return;
    if (move->tracker)
        tracker_note_protected(move->tracker, NULL);
    recheck_free(move->recheck->pages);
    g_clear_pointer(&move->recheck, g_free);
}

static void note_pass(SourceMove *move, const PageSenderCounts *before, double ms)
{
    MigrateDirectIo *report = &move->report->direct_io;
    PageSenderCounts after;
    uint64_t read;

    page_sender_get_counts(move->sender, &after);
    read = after.done_pages - before->done_pages;
    report->pages_read_again += read;
    report->pages_changed += after.pages.whole - before->pages.whole + after.pages.segments -
                             before->pages.segments + after.pages.copied - before->pages.copied;
    if (read >= LEAST_MEASURED_PAGES)
        move->recheck->read_ms_per_page = ms / (double)read;
    if (move->paused) {
        report->pages_in_pause += read;
        report->pause_ms += ms;
    }
}

static gboolean send_batches(SourceMove *move, GError **error)
{
    g_autofree WorkBatch *batch = g_new(WorkBatch, 1);

    for (;;) {
        if (!source_not_cancelled(move, error))
            return FALSE;
        recheck_take(move->recheck->pages, page_sender_get_batch_pages(move->sender), batch);
        if (batch->pages == 0)
            return page_sender_flush(move->sender, error);
        if (!page_sender_push(move->sender, batch, error))
            return FALSE;
    }
}

gboolean source_recheck_send(SourceMove *move, GError **error)
{
    uint64_t start = clock_now_ns();
    PageSenderCounts before;
    gboolean sent;

    if (!move->recheck)
        return TRUE;
    page_sender_get_counts(move->sender, &before);
    /* What these cost says nothing of what the guest writes. */
    page_sender_set_tally(move->sender, NULL, NULL);
    sent = send_batches(move, error);
    page_sender_set_tally(move->sender, source_tally, move);
    note_pass(move, &before, clock_ns_to_ms(clock_now_ns() - start));
    return sent;
}

gboolean source_recheck_round(SourceMove *move, GError **error)
{
    if (!move->recheck)
        return TRUE;
    ask_latency(move);
    if (!drain_if_worth(move))
        return TRUE;
    recheck_settle(move->recheck->pages, get_pending(move), get_next(move));
    if (!source_recheck_send(move, error) || !source_confirm_round(move, error))
        return FALSE;
    move->round++;
    return TRUE;
}

/* The drain of `stop`. */
void source_recheck_paused(SourceMove *move)
{
    if (move->recheck)
        recheck_settle(move->recheck->pages, get_pending(move), get_next(move));
}

void source_recheck_move_to(SourceMove *move, GPtrArray *sets)
{
    if (move->recheck)
        recheck_move_to(move->recheck->pages, sets);
}

double source_recheck_expect_ms(SourceMove *move)
{
    return move->recheck ? expect_read_ms(move) : 0;
}
