/* The trace of a move, line by line, for whoever asked for one. */
#include "migrate/source_move.h"
#include "policy/trace.h"

static gboolean is_wanted(const SourceMove *move)
{
    return move->job->options.record && move->job->host.trace;
}

static void emit(const SourceMove *move, char *line)
{
    move->job->host.trace(line, move->job->host.user);
    g_free(line);
}

void source_trace_begin(SourceMove *move)
{
    ConvergenceFacts facts = {0};
    g_autofree guint16 *pages = NULL;

    if (!is_wanted(move))
        return;
    group_account_fill_facts(work_set_get_account(move->work), &facts);
    pages = g_new0(guint16, facts.group_count + 1);
    for (guint i = 0; i < facts.group_count; i++)
        pages[i] = (guint16)facts.groups[i].pages;
    move->traced = TRUE;
    emit(move, trace_header_line(pages, facts.group_count, move->link.limit, move->job->guest));
}

void source_trace_sync(SourceMove *move, double now_ms)
{
    g_autoptr(GArray) dirty = NULL;

    if (!is_wanted(move))
        return;
    dirty = g_array_new(FALSE, FALSE, sizeof(TraceDirty));
    group_account_take_dirty(work_set_get_account(move->work), dirty);
    emit(move, trace_sync_line(now_ms, (const TraceDirty *)dirty->data, dirty->len));
}

void source_trace_round(SourceMove *move, const ConvergenceRound *round)
{
    const MigrateRound *last =
        &g_array_index(move->report->rounds, MigrateRound, move->report->rounds->len - 1);
    TraceRound line = {
        .ms = source_now_ms(move),
        .round = move->round - 1,
        .sent_bytes = round->sent_bytes,
        .wire_per_page = last->pages > 0 ? round->sent_bytes / (double)last->pages : 0,
        .left_bytes = round->left_bytes,
    };

    if (is_wanted(move))
        emit(move, trace_round_line(&line));
}

void source_trace_end(SourceMove *move)
{
    const MigrateReport *report = move->report;

    if (move->traced)
        emit(move, trace_end_line(report->total_ms, report->downtime_ms,
                                  report->reason ? report->reason : ""));
}
