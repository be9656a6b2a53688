/*
 * Pre-copy: the rounds while the guest runs, up to the pause
 *
 * Theory of operation: policy/precopy_control.h says what is to be done next and why; this file
 * does it, with a clock, the guest's memory and the connection: run_steps() is the whole loop.  The
 * simulator runs the same clockwork.  What of it the switchover needs is below: rounds and passes
 * with the guest paused.
 */
#include "migrate/source_move.h"

#include "base/clock.h"
#include "base/error.h"
#include "base/fault.h"
#include "base/log.h"
#include "base/page.h"
#include "transfer/frame_queue.h"

#define PROGRESS_INTERVAL_NS 100000000ULL
/* Nothing to send but what is deferred: how often the peer and the user are heard. */
#define IDLE_SLICE_NS 10000000ULL

/* --- the limits, the throttle's means ------------------------------------------- */

static guint get_means(const SourceMove *move)
{
    const MigrateOptions *options = &move->job->options;
    guint means = 0;

    if (options->mode == MIGRATE_MODE_POSTCOPY)
        return CONVERGENCE_MEANS_POSTCOPY_NOW;
    if (options->mode == MIGRATE_MODE_HYBRID)
        return CONVERGENCE_MEANS_POSTCOPY;
    if (options->throttle != THROTTLE_OFF && !move->report->throttle_unavailable)
        means |= CONVERGENCE_MEANS_THROTTLE;
    if (migrate_options_may_split(options))
        means |= CONVERGENCE_MEANS_POSTCOPY_IF_CHEAPER;
    return means;
}

static ConvergenceLimits get_limits(const SourceMove *move)
{
    const MigrateOptions *options = &move->job->options;

    return (ConvergenceLimits){
        .max_downtime_ms = options->max_downtime_ms,
        .downtime_cap_ms = options->downtime_cap_ms,
        .deadline_ms = options->deadline_ms,
        .means = get_means(move),
    };
}

gboolean source_check_limits(SourceMove *move, GError **error)
{
    ConvergenceLimits limits = get_limits(move);

    return guest_memory_count_populated(move->memory, &move->populated_pages, error) &&
           convergence_check_limits(&limits, move->populated_pages * PAGE_BYTES,
                                    (double)source_get_rate(move) / 1000, SOURCE_EXPECTED_DEVICE_MS,
                                    error);
}

/* A limit that would only fail when it is needed is better not counted on.  One
 * that was asked for by its name fails then, and says why. */
void source_choose_throttle(SourceMove *move)
{
    ThrottleMode mode = move->job->options.throttle;
    g_autoptr(GError) problem = NULL;
    g_autoptr(Throttle) throttle = NULL;

    if (mode != THROTTLE_AUTO && mode != THROTTLE_DUTY)
        return;
    throttle = throttle_new(move->job->vmm, move->guard, mode, NULL, NULL, &problem);
    if (problem)
        move->report->throttle_unavailable = g_strdup(problem->message);
}

void source_begin_control(SourceMove *move)
{
    const MigrateOptions *options = &move->job->options;
    const MigrateSourceHost *host = &move->job->host;

    precopy_control_init(&move->control, work_set_get_account(move->work),
                         &(PrecopyOptions){
                             .limits = get_limits(move),
                             .link_limit_bytes_per_ms = (double)source_get_rate(move) / 1000,
                             .trace = options->record ? host->trace : NULL,
                             .user = host->user,
                         });
}

/* --- progress -------------------------------------------------------------------- */

double source_now_ms(const SourceMove *move)
{
    return clock_ns_to_ms(clock_now_ns() - move->started_ns);
}

static void estimate_eta(SourceMove *move)
{
    MigrateProgress *progress = &move->progress;
    uint64_t left = progress->round_bytes - progress->round_bytes_done;
    double expected_total_ms = move->control.decision.expected_total_ms;

    progress->eta_ms = -1;
    if (progress->phase == MIGRATE_PHASE_DISKS)
        progress->eta_ms = move->disk_eta_ms;
    else if (move->paused)
        progress->eta_ms = SOURCE_EXPECTED_DEVICE_MS;
    else if (expected_total_ms > progress->elapsed_ms)
        progress->eta_ms = expected_total_ms - progress->elapsed_ms;
    else if (progress->bytes_per_second > 0)
        progress->eta_ms =
            (double)left / progress->bytes_per_second * 1000 + SOURCE_EXPECTED_DEVICE_MS;
}

static void note_connections(SourceMove *move)
{
    MigrateProgress *progress = &move->progress;

    progress->connections = 1;
    progress->most_connections = MAX(progress->most_connections, 1);
    if (move->bulk)
        bulk_sender_get_counts(move->bulk, &progress->connections, &progress->most_connections);
}

void source_report_progress(SourceMove *move)
{
    MigrateProgress *progress = &move->progress;

    move->last_progress_ns = clock_now_ns();
    progress->elapsed_ms = source_now_ms(move);
    progress->wire_bytes = move->session ? session_get_sent_bytes(move->session) : 0;
    progress->bytes_per_second = progress->phase == MIGRATE_PHASE_DISKS
                                     ? move->disk_bytes_per_ms * 1000
                                     : move->control.link.bytes_per_ms * 1000;
    progress->bandwidth = source_get_rate(move);
    note_connections(move);
    progress->segment_bytes = move->session ? session_get_segment_bytes(move->session) : 0;
    estimate_eta(move);
    if (move->job->host.progress)
        move->job->host.progress(progress, move->job->host.user);
}

void source_set_phase(SourceMove *move, MigratePhase phase)
{
    move->progress.phase = phase;
    source_report_progress(move);
}

/* --- batches --------------------------------------------------------------------- */

void source_tally(guint region, const GroupCost *cost, gpointer user)
{
    SourceMove *move = user;
    GroupAccount *account = work_set_get_account(move->work);
    guint group = work_set_get_group(move->work, region, cost->first_page);

    if (cost->first.pages > 0)
        group_account_note_sent(account, group, cost->first.pages, (double)cost->first.bytes,
                                FALSE);
    if (cost->again.pages > 0)
        group_account_note_sent(account, group, cost->again.pages, (double)cost->again.bytes, TRUE);
}

/* Until it has accepted, the destination takes what fits into its queue. */
static void measure_link(SourceMove *move)
{
    uint64_t sent_bytes = session_get_sent_bytes(move->session);
    gboolean buffered = (!move->accepted && sent_bytes > FRAME_QUEUE_MOST_BYTES / 2) ||
                        session_is_broken(move->session);

    precopy_control_set_link_limit(&move->control, (double)source_get_rate(move) / 1000);
    if (move->bulk)
        bulk_sender_set_limit(move->bulk, source_get_rate(move));
    precopy_control_note_link(&move->control, source_now_ms(move), sent_bytes,
                              session_get_backlog_bytes(move->session), buffered);
}

static gboolean before_batch(SourceMove *move, GError **error)
{
    PageSenderCounts counts;

    measure_link(move);
    if (!move->paused && !source_await_connection(move, error))
        return FALSE;
    page_sender_get_counts(move->sender, &counts);
    move->progress.round_bytes_done = (counts.done_pages - move->pass_pages) * PAGE_BYTES;
    move->progress.seed_bytes = counts.pages.seeded * PAGE_BYTES;
    if (clock_now_ns() - move->last_progress_ns > PROGRESS_INTERVAL_NS)
        source_report_progress(move);
    /* While the guest is paused only answers come, each awaited at its place. */
    return source_not_cancelled(move, error) && source_deadline_check(move, error) &&
           (move->paused || source_hear_peer(move, error));
}

/* *ret_pages* 0: none was left. */
static gboolean send_batch(SourceMove *move, uint64_t *ret_pages, GError **error)
{
    WorkBatch batch;

    if (!before_batch(move, error) ||
        !work_set_take(move->work, move->paused, source_now_ms(move),
                       page_sender_get_batch_pages(move->sender), &batch, error))
        return FALSE;
    *ret_pages = batch.pages;
    return batch.pages == 0 || page_sender_push(move->sender, &batch, error);
}

static void begin_pass(SourceMove *move)
{
    PageSenderCounts counts;

    page_sender_get_counts(move->sender, &counts);
    move->pass_pages = counts.done_pages;
}

gboolean source_send_paused_pass(SourceMove *move, GError **error)
{
    uint64_t pages;

    begin_pass(move);
    do {
        if (!send_batch(move, &pages, error))
            return FALSE;
    } while (pages > 0);
    return page_sender_flush(move->sender, error);
}

/* --- rounds ---------------------------------------------------------------------- */

static double count_work_bytes(SourceMove *move)
{
    work_set_update_account(move->work);
    return group_account_count_bytes(work_set_get_account(move->work));
}

static void begin_round(SourceMove *move)
{
    MigrateRound *round = &move->round_in_hand;

    *round = (MigrateRound){.dirty_bytes = work_set_count_pending(move->work) * PAGE_BYTES,
                            .work_set_bytes = (uint64_t)count_work_bytes(move)};
    move->progress.round = move->round;
    move->progress.round_bytes = round->dirty_bytes;
    move->progress.round_bytes_done = 0;
    page_sender_get_counts(move->sender, &move->round_counts);
    precopy_control_begin_round(&move->control, source_now_ms(move),
                                session_get_sent_bytes(move->session));
    begin_pass(move);
}

static void describe_round(MigrateRound *round, const PageSenderCounts *before,
                           const PageSenderCounts *after)
{
    round->pages_whole = after->pages.whole - before->pages.whole;
    round->pages_segments = after->pages.segments - before->pages.segments;
    round->pages_copied = after->pages.copied - before->pages.copied;
    round->pages_seeded = after->pages.seeded - before->pages.seeded;
    round->pages_unchanged = after->pages.unchanged - before->pages.unchanged;
    round->pages_zero = after->pages.zero - before->pages.zero;
    round->pages =
        round->pages_whole + round->pages_segments + round->pages_copied + round->pages_seeded;
}

/* The round is confirmed: on the report with it. */
static void note_round(SourceMove *move)
{
    MigrateRound *round = &move->round_in_hand;
    PageSenderCounts after;

    page_sender_get_counts(move->sender, &after);
    describe_round(round, &move->round_counts, &after);
    precopy_control_note_round(&move->control, source_now_ms(move),
                               session_get_sent_bytes(move->session), round->pages);
    round->wire_bytes = (uint64_t)move->control.round.sent_bytes;
    round->ms = move->control.round.ms;
    g_array_append_val(move->report->rounds, *round);
    move->round++;
}

gboolean source_send_paused_round(SourceMove *move, GError **error)
{
    begin_round(move);
    if (!source_send_paused_pass(move, error) || !source_recheck_send(move, error) ||
        !source_confirm_round(move, error))
        return FALSE;
    note_round(move);
    return TRUE;
}

/* --- dirty syncs and decisions --------------------------------------------------- */

/* What the tracking has cost the guest since the sync before: a share of its time, negative where
 * it is too early to say. */
static double note_cost(SourceMove *move, double now_ms)
{
    uint64_t faults = work_set_count_faults(move->work);
    double share = guest_cost_note(&move->cost, now_ms, faults - move->faults);

    if (share < 0)
        return share;
    move->faults = faults;
    work_set_adjust_sample(move->work, share);
    return share;
}

static gboolean sync_dirty(SourceMove *move, GError **error)
{
    double now_ms = source_now_ms(move);

    measure_link(move);
    if (!work_set_peek(move->work, now_ms, error))
        return FALSE;
    precopy_control_note_sync(&move->control, now_ms, note_cost(move, now_ms));
    return TRUE;
}

/* Before the guest is paused in turns, and when somebody else has paused it. */
static gboolean journal_turns(gboolean pausing, gpointer user, GError **error)
{
    SourceMove *move = user;

    return source_journal(move, pausing ? SOURCE_JOURNAL_PAUSING : SOURCE_JOURNAL_MOVING, error);
}

/* The throttle exists from the first time on that it is needed. */
static gboolean apply_throttle(SourceMove *move, GError **error)
{
    double share = move->control.decision.run_share;

    if (!move->throttle && share >= 1)
        return TRUE;
    if (!move->throttle) {
        move->throttle = throttle_new(move->job->vmm, move->guard, move->job->options.throttle,
                                      journal_turns, move, error);
        if (!move->throttle)
            return FALSE;
    }
    return throttle_set(move->throttle, share, error);
}

static void report_decision(SourceMove *move)
{
    const ConvergenceDecision *decision = &move->control.decision;
    MigrateReport *report = move->report;

    move->progress.deferred_bytes = (uint64_t)move->control.deferred_bytes;
    move->progress.run_share = decision->run_share;
    move->progress.work_set_bytes = (uint64_t)count_work_bytes(move);
    report->memory_intensive |= decision->memory_intensive;
    if (!move->control.in_round && report->predicted_total_ms < 0) {
        report->predicted_total_ms = decision->expected_total_ms;
        report->predicted_downtime_ms = decision->expected_downtime_ms;
    }
}

/* Asks for a decision and does what it says.  Without a destination there is no pause; and the
 * pause must not be spent on what can be done before it: reading images. */
static gboolean decide(SourceMove *move, GError **error)
{
    guint probes[GROUP_ACCOUNT_PROBES];
    PrecopyFacts facts;

    work_set_update_account(move->work);
    facts = (PrecopyFacts){
        .now_ms = source_now_ms(move),
        .device_ms = SOURCE_EXPECTED_DEVICE_MS + source_recheck_expect_ms(move),
        .can_pause = move->accepted && source_seed_is_settled(move),
        .must_run = source_images_are_read(move) || source_now_ms(move) < move->not_before_ms,
    };
    if (!precopy_control_decide(&move->control, &facts))
        return TRUE;
    work_set_set_probes(move->work, probes,
                        group_account_get_probes(work_set_get_account(move->work), probes));
    report_decision(move);
    return apply_throttle(move, error);
}

/* --- the loop -------------------------------------------------------------------- */

/* Sends what was read and has it confirmed; then, what has become dirty, and what to do about
 * it. */
static gboolean end_round(SourceMove *move, GError **error)
{
    if (!page_sender_flush(move->sender, error) || !source_confirm_round(move, error))
        return FALSE;
    note_round(move);
    if (move->report->rounds->len == 1 && fault_point("source.accepted", error))
        return FALSE;
    if (!source_recheck_round(move, error) || !sync_dirty(move, error) ||
        !page_sender_add_discarded(move->sender, work_set_get_next(move->work), error))
        return FALSE;
    work_set_update_account(move->work);
    precopy_control_end_round(&move->control, source_now_ms(move));
    work_set_begin_round(move->work);
    return decide(move, error);
}

static gboolean await_sync(SourceMove *move, GError **error)
{
    while (source_now_ms(move) < move->control.next_sync_ms) {
        if (!source_not_cancelled(move, error) || !source_hear_peer(move, error))
            return FALSE;
        clock_sleep_ns(IDLE_SLICE_NS);
    }
    if (!sync_dirty(move, error))
        return FALSE;
    work_set_begin_round(move->work);
    return decide(move, error);
}

static void describe_end(SourceMove *move)
{
    const ConvergenceDecision *decision = &move->control.decision;
    MigrateReport *report = move->report;

    g_free(report->reason);
    report->reason = g_strdup(decision->reason);
    report->expected_downtime_ms = decision->expected_downtime_ms;
    report->deferred_bytes = move->progress.deferred_bytes;
}

static void set_not_converging(SourceMove *move, GError **error)
{
    const MigrateRound *last =
        &g_array_index(move->report->rounds, MigrateRound, move->report->rounds->len - 1);
    const char *unavailable = move->report->throttle_unavailable;

    error_set(error, VMFERRY_ERROR_REFUSED,
              "the guest dirties memory faster than the link carries it: the last round sent %.0f "
              "MB in %.0f ms and left %.0f MB; stopping now would pause it for %.0f ms, the limit "
              "is %u ms (raise --downtime-cap or --bandwidth%s%s)",
              (double)last->wire_bytes / 1e6, last->ms, count_work_bytes(move) / 1e6,
              move->control.decision.expected_downtime_ms, move->job->options.downtime_cap_ms,
              unavailable ? "; " : ", or allow --throttle", unavailable ? unavailable : "");
}

/* Up to the decision to pause the guest; FALSE with *error*, too, where it is to give up. */
static gboolean run_steps(SourceMove *move, GError **error)
{
    uint64_t pages;

    for (;;) {
        switch (precopy_control_get_step(&move->control)) {
        case PRECOPY_BEGIN_ROUND:
            begin_round(move);
            break;
        case PRECOPY_SEND:
            if (!send_batch(move, &pages, error))
                return FALSE;
            precopy_control_note_batch(&move->control, source_now_ms(move), pages);
            break;
        case PRECOPY_SYNC:
            if (!sync_dirty(move, error) || !decide(move, error))
                return FALSE;
            break;
        case PRECOPY_END_ROUND:
            if (!end_round(move, error))
                return FALSE;
            break;
        case PRECOPY_WAIT:
            if (!await_sync(move, error))
                return FALSE;
            break;
        case PRECOPY_STOP:
        case PRECOPY_SWITCH:
            describe_end(move);
            move->switches = precopy_control_get_step(&move->control) == PRECOPY_SWITCH;
            return TRUE;
        case PRECOPY_GIVE_UP:
            describe_end(move);
            set_not_converging(move, error);
            return FALSE;
        }
    }
}

/* The pause has ended, and the guest runs on. */
static gboolean go_on_with_rounds(SourceMove *move, GError **error)
{
    if (!source_retract(move, error))
        return FALSE;
    precopy_control_postpone(&move->control, source_now_ms(move));
    return run_steps(move, error);
}

gboolean source_precopy(SourceMove *move, GError **error)
{
    source_set_phase(move, MIGRATE_PHASE_PRECOPY);
    if (move->retracted)
        return go_on_with_rounds(move, error);
    if (fault_point("source.first-round", error) || !work_set_add_populated(move->work, error))
        return FALSE;
    precopy_control_trace_begin(&move->control, move->control.link.limit, move->job->guest);
    /* Begins the samples that tell what is hot before it is sent. */
    return work_set_peek(move->work, source_now_ms(move), error) && run_steps(move, error);
}

gboolean source_settle_images(SourceMove *move, GError **error)
{
    if (!source_images_await(move, error))
        return FALSE;
    /* See decide(): there is no stop until they are read. */
    if (source_images_are_read(move)) {
        precopy_control_postpone(&move->control, source_now_ms(move));
        if (!run_steps(move, error))
            return FALSE;
    }
    return source_images_judge_read(move, error);
}

/* --- the end --------------------------------------------------------------------- */

gboolean source_end_throttle(SourceMove *move)
{
    MigrateReport *report = move->report;
    g_autoptr(GError) error = NULL;
    double least_share, throttled_ms;

    if (!move->throttle)
        return TRUE;
    throttle_set(move->throttle, 1, &error);
    if (error)
        log_warning("guest %s: %s; the guard process goes on trying", move->job->guest,
                    error->message);
    throttle_get_report(move->throttle, &least_share, &throttled_ms);
    /* There may have been one before, up to a pause that was not the last. */
    report->least_run_share = MIN(report->least_run_share, least_share);
    report->throttled_ms += throttled_ms;
    if (report->least_run_share < 1 && !report->throttle_means)
        report->throttle_means = g_strdup(throttle_get_means(move->throttle));
    g_clear_pointer(&move->throttle, throttle_free);
    move->progress.run_share = 1;
    return error == NULL;
}

static MigratePacked get_packed(const PageSenderCounts *counts, PackMethod method)
{
    return (MigratePacked){counts->packing.raw_bytes[method], counts->packing.packed_bytes[method]};
}

void source_describe_sender(SourceMove *move)
{
    MigrateReport *report = move->report;
    PageSenderCounts counts;

    if (!move->sender)
        return;
    note_connections(move);
    report->connections = move->progress.connections;
    report->most_connections = move->progress.most_connections;
    page_sender_get_counts(move->sender, &counts);
    report->store_bytes = MAX(report->store_bytes, counts.store_bytes);
    report->seed_pages = counts.pages.seeded - MIN(report->seed_lacking_pages, counts.pages.seeded);
    report->packed_none = get_packed(&counts, PACK_NONE);
    report->packed_lz4 = get_packed(&counts, PACK_LZ4);
    report->packed_zstd = get_packed(&counts, PACK_ZSTD);
    report->packed_window =
        (MigratePacked){counts.packing.linked_raw_bytes, counts.packing.linked_packed_bytes};
    report->zstd_level = counts.way.method == PACK_ZSTD ? counts.way.level : 0;
}
