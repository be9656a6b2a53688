/* What the move knows while it runs, and the policy's word on it. */
#include "migrate/source_move.h"

#include "base/error.h"
#include "base/log.h"
#include "base/page.h"
#include "transfer/frame_queue.h"

gboolean source_journal(SourceMove *move, SourceJournalState state, GError **error)
{
    const MigrateSourceHost *host = &move->job->host;

    return host->journal(state, move->transaction, move->peer.agent, host->user, error);
}

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

void source_measure_link(SourceMove *move)
{
    double now_ms = source_now_ms(move);
    uint64_t bytes = session_get_sent_bytes(move->session);
    uint64_t backlog = session_get_backlog_bytes(move->session);

    /* Until it has accepted, the destination takes what fits into its queue. */
    if (!move->accepted && bytes > FRAME_QUEUE_MOST_BYTES / 2) {
        move->link.started = FALSE;
        return;
    }
    if (!move->link.started)
        link_rate_start(&move->link, now_ms, bytes, backlog);
    link_rate_note(&move->link, now_ms, bytes, backlog);
}

/* What the tracking has cost the guest since this was asked before. */
static void note_cost(SourceMove *move, double now_ms)
{
    uint64_t faults = work_set_count_faults(move->work);
    double share = guest_cost_note(&move->cost, now_ms, faults - move->faults);

    if (share < 0)
        return;
    move->faults = faults;
    group_account_set_fault_share(work_set_get_account(move->work), now_ms, share);
    work_set_adjust_sample(move->work, share);
}

gboolean source_sync(SourceMove *move, GError **error)
{
    double now_ms = source_now_ms(move);

    source_measure_link(move);
    if (!work_set_peek(move->work, now_ms, error))
        return FALSE;
    note_cost(move, now_ms);
    source_trace_sync(move, now_ms);
    if (now_ms - move->window_start_ms >= CONVERGENCE_WINDOW_MS && move->link.bytes_per_ms > 0) {
        group_account_end_window(work_set_get_account(move->work), now_ms,
                                 (now_ms - move->window_start_ms) * move->link.bytes_per_ms);
        move->window_start_ms = now_ms;
    }
    return TRUE;
}

double source_count_work_bytes(SourceMove *move)
{
    ConvergenceFacts facts = {0};
    double bytes = 0;

    work_set_update_account(move->work);
    group_account_fill_facts(work_set_get_account(move->work), &facts);
    for (guint i = 0; i < facts.group_count; i++) {
        const ConvergenceGroup *group = &facts.groups[i];

        bytes += (double)group->unsent * (double)group->first_send_per_page +
                 (double)(group->pending - group->unsent) * (double)group->resend_per_page;
    }
    return bytes;
}

static ConvergenceLimits get_limits(const SourceMove *move)
{
    const MigrateOptions *options = &move->job->options;
    gboolean can_slow = options->throttle != THROTTLE_OFF && !move->report->throttle_unavailable;

    return (ConvergenceLimits){
        .max_downtime_ms = options->max_downtime_ms,
        .downtime_cap_ms = options->downtime_cap_ms,
        .deadline_ms = options->deadline_ms,
        .means = can_slow ? CONVERGENCE_MEANS_THROTTLE : 0,
    };
}

gboolean source_check_limits(SourceMove *move, GError **error)
{
    const MigrateOptions *options = &move->job->options;
    ConvergenceLimits promise = get_limits(move);

    return guest_memory_count_populated(move->memory, &move->populated_pages, error) &&
           convergence_check_limits(&promise, move->populated_pages * PAGE_BYTES,
                                    (double)options->bandwidth_bytes_per_second / 1000,
                                    SOURCE_EXPECTED_DEVICE_MS, error);
}

static ConvergenceFacts gather_facts(SourceMove *move, gboolean at_round_end)
{
    ConvergenceFacts facts = {
        .rounds = (const ConvergenceRound *)move->finished_rounds->data,
        .round_count = move->finished_rounds->len,
        .at_round_end = at_round_end,
        .bytes_per_ms = move->link.bytes_per_ms,
        .device_ms = SOURCE_EXPECTED_DEVICE_MS + source_recheck_expect_ms(move),
        .elapsed_ms = source_now_ms(move),
        .promise = get_limits(move),
    };

    work_set_update_account(move->work);
    group_account_fill_facts(work_set_get_account(move->work), &facts);
    return facts;
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

/* Before the guest is paused in turns, and when somebody else has paused it. */
static gboolean journal_turns(gboolean pausing, gpointer user, GError **error)
{
    SourceMove *move = user;

    return source_journal(move, pausing ? SOURCE_JOURNAL_PAUSING : SOURCE_JOURNAL_MOVING, error);
}

/* The throttle exists from the first time on that it is needed. */
static gboolean apply_throttle(SourceMove *move, GError **error)
{
    double share = move->decision.run_share;

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

static void ask_for_probes(SourceMove *move)
{
    guint groups[GROUP_ACCOUNT_PROBES];
    guint count = 0;

    if (move->decision.probe)
        count = group_account_get_probes(work_set_get_account(move->work), groups);
    work_set_set_probes(move->work, groups, count);
}

/* A pause must not be spent on what can be done before it: as long as images are
 * read the guest runs, freely, and what it writes follows when that is over. */
static void hold_for_images(SourceMove *move)
{
    if (move->decision.verdict != CONVERGENCE_STOP || !source_images_are_read(move))
        return;
    move->decision.verdict = CONVERGENCE_CONTINUE;
    move->decision.wait = TRUE;
    move->decision.run_share = 1;
}

gboolean source_decide(SourceMove *move, gboolean at_round_end, GError **error)
{
    GroupAccount *account = work_set_get_account(move->work);
    ConvergenceFacts facts;

    /* Within the first round nothing is known about the path at first, and without
     * a destination there is no pause. */
    if (move->link.bytes_per_ms <= 0 || !move->accepted)
        return TRUE;
    facts = gather_facts(move, at_round_end);
    move->decision = convergence_decide(&facts);
    hold_for_images(move);
    move->progress.deferred_bytes = (uint64_t)group_account_apply(account, &move->decision);
    move->progress.run_share = move->decision.run_share;
    move->progress.work_set_bytes = (uint64_t)source_count_work_bytes(move);
    move->report->memory_intensive |= move->decision.memory_intensive;
    if (at_round_end && move->report->predicted_total_ms < 0) {
        move->report->predicted_total_ms = move->decision.expected_total_ms;
        move->report->predicted_downtime_ms = move->decision.expected_downtime_ms;
    }
    ask_for_probes(move);
    group_account_set_run_share(account, source_now_ms(move), move->decision.run_share);
    return apply_throttle(move, error);
}

static void describe_end(SourceMove *move)
{
    MigrateReport *report = move->report;

    g_free(report->reason);
    report->reason = g_strdup(move->decision.reason);
    report->expected_downtime_ms = move->decision.expected_downtime_ms;
    report->deferred_bytes = move->progress.deferred_bytes;
}

gboolean source_stop_or_give_up(SourceMove *move, GError **error)
{
    const MigrateRound *last =
        &g_array_index(move->report->rounds, MigrateRound, move->report->rounds->len - 1);
    const char *unavailable = move->report->throttle_unavailable;

    describe_end(move);
    if (move->decision.verdict == CONVERGENCE_STOP)
        return TRUE;
    error_set(error, VMFERRY_ERROR_REFUSED,
              "the guest dirties memory faster than the path carries it: the last round sent %.0f "
              "MB in %.0f ms and left %.0f MB; stopping now would pause it for %.0f ms, the limit "
              "is %u ms (raise --downtime-cap or --bandwidth%s%s)",
              (double)last->wire_bytes / 1e6, last->ms, source_count_work_bytes(move) / 1e6,
              move->decision.expected_downtime_ms, move->job->options.downtime_cap_ms,
              unavailable ? "; " : ", or allow --throttle", unavailable ? unavailable : "");
    return FALSE;
}

gboolean source_end_throttle(SourceMove *move)
{
    MigrateReport *report = move->report;
    g_autoptr(GError) error = NULL;

    if (!move->throttle)
        return TRUE;
    throttle_set(move->throttle, 1, &error);
    if (error)
        log_warning("guest %s: %s; the guard process goes on trying", move->job->guest,
                    error->message);
    throttle_get_report(move->throttle, &report->least_run_share, &report->throttled_ms);
    if (report->least_run_share < 1)
        report->throttle_means = g_strdup(throttle_get_means(move->throttle));
    g_clear_pointer(&move->throttle, throttle_free);
    move->decision.run_share = move->progress.run_share = 1;
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
    page_sender_get_counts(move->sender, &counts);
    report->store_bytes = MAX(report->store_bytes, counts.store_bytes);
    report->packed_none = get_packed(&counts, PACK_NONE);
    report->packed_lz4 = get_packed(&counts, PACK_LZ4);
    report->packed_zstd = get_packed(&counts, PACK_ZSTD);
}
