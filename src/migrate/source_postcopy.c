/*
 * The source's half of a move whose guest runs there before its memory is all there
 *
 * What is pending when the guest is paused is not sent but named (OUTSTANDING); from PREPARE on, when
 * the destination begins to load, pages are sent as they are asked for.  After START the rest is
 * pushed (postcopy_source.h).
 */
#include "migrate/source_move.h"

#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fault.h"
#include "base/fd.h"
#include "migrate/postcopy_source.h"

#define JOIN_TIMEOUT_MS 10000

static uint64_t count_pages(const GPtrArray *sets)
{
    uint64_t pages = 0;

    for (guint i = 0; i < sets->len; i++)
        pages += page_set_count(sets->pdata[i]);
    return pages;
}

static void add_sets(GPtrArray *sets, const GPtrArray *others)
{
    for (guint i = 0; i < sets->len; i++)
        page_set_add_all(sets->pdata[i], others->pdata[i]);
}

static GPtrArray *copy_sets(const PageRegions *regions, const GPtrArray *sets)
{
    GPtrArray *copy = page_regions_new_sets(regions);

    add_sets(copy, sets);
    return copy;
}

static void remove_sets(GPtrArray *sets, const GPtrArray *others)
{
    for (guint i = 0; i < sets->len; i++)
        page_set_remove_all(sets->pdata[i], others->pdata[i]);
}

/* Huge pages arrive whole, so they are outstanding whole. */
static void round_to_backing(const GuestMemory *memory, GPtrArray *sets)
{
    for (guint i = 0; i < sets->len; i++) {
        const GuestRegion *region = guest_memory_get_region(memory, i);
        uint64_t unit = region->backing_page_bytes / PAGE_BYTES, from = 0, first, count;

        while (unit > 1 && page_set_next_run(sets->pdata[i], from, 1, &first, &count)) {
            from = first - first % unit + unit;
            page_set_add(sets->pdata[i], from - unit, unit);
        }
    }
}

/* How fast each group was written lately. */
static float *get_heat(SourceMove *move)
{
    ConvergenceFacts facts = {0};
    float *heat;

    group_account_fill_facts(work_set_get_account(move->work), &facts);
    heat = g_new0(float, facts.group_count + 1);
    for (guint i = 0; i < facts.group_count; i++)
        heat[i] = facts.groups[i].dirty_per_ms;
    return heat;
}

/* Nothing of what is dirty by now will be sent before the switchover, so the destination may drop
 * its stale copies while the guest still runs here: that takes some milliseconds. */
static gboolean announce_outstanding(SourceMove *move, GError **error)
{
    GPtrArray *sets;

    if (!page_sender_flush(move->sender, error) ||
        !work_set_peek(move->work, source_now_ms(move), error))
        return FALSE;
    sets = move->announced = copy_sets(move->pages->regions, work_set_get_pending(move->work));
    add_sets(sets, work_set_get_next(move->work));
    round_to_backing(move->memory, sets);
    return postcopy_send_outstanding(move->session, TRAFFIC_BULK, sets, error) &&
           source_confirm_round(move, error);
}

static gboolean join(SourceMove *move, TrafficClass traffic, GError **error)
{
    return session_join(move->session, traffic, &move->job->channel, JOIN_TIMEOUT_MS,
                        move->cancellable, error);
}

/* What a process that takes over is launched as. */
static gboolean keep_machine(SourceMove *move, const char *directory, GError **error)
{
    g_autofree char *path = g_build_filename(directory, SOURCE_MACHINE, NULL);
    g_autofree char *text = source_encode_guest(move);

    return file_replace(path, text, strlen(text), FALSE, error);
}

static gboolean make_deltas(SourceMove *move, const char *directory, GError **error)
{
    g_autofree char *path = g_build_filename(directory, SOURCE_DELTAS, NULL);

    move->deltas = delta_store_create(path, move->transaction, move->pages->regions, error);
    return move->deltas != NULL;
}

static gboolean make_journal(SourceMove *move, const char *directory, GError **error)
{
    g_autofree char *path = g_build_filename(directory, SOURCE_WRITES, NULL);

    move->writes = kept_writes_create(move->job->vmm, path, move->transaction, error);
    if (move->writes)
        kept_writes_set_pages(move->writes, move->deltas);
    return move->writes != NULL;
}

/* Of one that could not take over nothing would be gained. */
static gboolean prepare_protection(SourceMove *move, GError **error)
{
    const MigrateSourceHost *host = &move->job->host;
    g_autofree char *directory = NULL;

    if (!source_is_protected(move))
        return TRUE;
    if (!join(move, TRAFFIC_CHECKPOINT, error))
        return FALSE;
    directory = host->make_deltas(host->user, error);
    return directory && keep_machine(move, directory, error) &&
           make_deltas(move, directory, error) && make_journal(move, directory, error) &&
           source_register_witness(move, error);
}

/* While the guest still runs. */
gboolean source_prepare_split(SourceMove *move, GError **error)
{
    if (move->switches)
        source_end_breaks(move);
    return !move->switches ||
           (join(move, TRAFFIC_FAULT, error) && prepare_protection(move, error) &&
            !fault_point("source.fault-channel", error) && announce_outstanding(move, error));
}

void source_abandon_split(SourceMove *move)
{
    const MigrateSourceHost *host = &move->job->host;

    if (!move->switches || !source_is_protected(move))
        return;
    g_clear_pointer(&move->deltas, delta_store_free);
    g_clear_pointer(&move->writes, kept_writes_free);
    host->drop_deltas(host->user);
    source_forget_witness(move);
}

gboolean source_keep_state(SourceMove *move, GBytes *state, GError **error)
{
    return !move->deltas || (delta_stage_begin(move->deltas, 0, error) &&
                             delta_stage_commit(move->deltas, state, NULL, error));
}

static PostcopySenderOptions get_options(SourceMove *move)
{
    return (PostcopySenderOptions){
        .workers = move->report->streams,
        .packing = move->job->options.compress,
        .with_lz4 = peer_has_feature(&move->peer, FEATURE_PAGES_LZ4),
        .with_zstd = peer_has_feature(&move->peer, FEATURE_PAGES_ZSTD),
        .link = &move->control.link,
        .heat = move->heat,
    };
}

gboolean source_send_outstanding(SourceMove *move, GError **error)
{
    GPtrArray *sets = copy_sets(move->pages->regions, work_set_get_pending(move->work));
    PostcopySenderOptions options;

    /* What the destination has of these may be old: it is read anew when it is sent. */
    source_recheck_move_to(move, sets);
    round_to_backing(move->memory, sets);
    remove_sets(sets, move->announced);
    move->report->postcopy.switched = TRUE;
    if (!postcopy_send_outstanding(move->session, TRAFFIC_BULK, sets, error)) {
        g_ptr_array_unref(sets);
        return FALSE;
    }
    add_sets(sets, move->announced);
    move->report->postcopy.outstanding_pages = count_pages(sets);
    if (move->store)
        move->outstanding = copy_sets(move->pages->regions, sets);
    source_store_seal(move);
    g_free(move->heat);
    move->heat = get_heat(move);
    options = get_options(move);
    move->split = postcopy_sender_new(move->pages, move->session, sets, &options);
    return postcopy_sender_answer(move->split, error);
}

/* The destination has given up: its thread ends with the session. */
void source_undo_split(SourceMove *move)
{
    if (move->split)
        session_shutdown(move->session);
    g_clear_pointer(&move->split, postcopy_sender_free);
}

/* --- after START ----------------------------------------------------------------- */

static gboolean get_channel(ChannelOptions *ret, gpointer user, GError **error)
{
    *ret = ((SourceMove *)user)->job->channel;
    return TRUE;
}

static void note_progress(const MigratePostcopy *counts, uint64_t left, gpointer user)
{
    SourceMove *move = user;
    uint64_t all = counts->outstanding_pages;

    move->progress.uncovered_bytes =
        (source_store_is_used(move) ? counts->uncovered_pages : left) * PAGE_BYTES;
    move->progress.round_bytes = all * PAGE_BYTES;
    move->progress.round_bytes_done = (all - MIN(left, all)) * PAGE_BYTES;
    if (move->session)
        precopy_control_note_link(&move->control, source_now_ms(move),
                                  session_get_sent_bytes(move->session),
                                  session_get_backlog_bytes(move->session), FALSE);
    source_report_progress(move);
}

static gboolean is_stopping(gpointer user)
{
    const SourceMove *move = user;

    return move->job->host.is_released(move->job->host.user);
}

static gboolean has_ended(gpointer user)
{
    SourceMove *move = user;
    VmmRunState state;

    return vmm_get_run_state(move->job->vmm, &state, NULL) && state == VMM_RUN_STATE_GONE;
}

static gboolean give_up(gpointer user, GError **error)
{
    return source_journal(user, SOURCE_JOURNAL_GIVEN_UP, error);
}

static uint64_t get_uncovered(gpointer user)
{
    return source_store_get_uncovered(user);
}

static void note_sender(PostcopySender *sender, gpointer user)
{
    source_store_note_sender(user, sender);
}

static uint64_t get_rate(gpointer user)
{
    SourceMove *move = user;

    return source_store_is_used(move) ? source_store_get_rate(move) : source_get_rate(move);
}

static PostcopySourceJob make_job(SourceMove *move, CheckpointPart *part)
{
    const MigrateSourceJob *job = move->job;
    gboolean stored = source_store_is_used(move);

    if (move->writes)
        *part = kept_writes_get(move->writes);
    return (PostcopySourceJob){
        .destination = job->destination,
        .agent = move->peer.agent,
        .transaction = {move->transaction, (char *)job->guest_id, job->term + 1},
        .pages = move->pages,
        .deltas = move->deltas,
        .parts = part,
        .part_count = move->writes ? 1 : 0,
        .give_up = move->deltas ? give_up : NULL,
        .gate = move->gate,
        .sender = get_options(move),
        .rate = source_get_rate(move),
        .get_channel = get_channel,
        .progress = note_progress,
        .get_uncovered = stored ? get_uncovered : NULL,
        .get_rate = get_rate,
        .note_sender = stored ? note_sender : NULL,
        .is_stopping = is_stopping,
        .has_ended = has_ended,
        .user = move,
    };
}

/* To run the guest the destination's VMM may need pages: as long as nobody brings them it cannot say
 * that it has it.  It may have them once it has committed. */
gboolean source_is_asked_for_pages(SourceMove *move)
{
    CheckpointPart part;
    PostcopySourceJob job = make_job(move, &part);
    g_autoptr(GPtrArray) left = NULL;
    g_autoptr(Session) session = NULL;
    PostcopyAnswer answer;

    session = postcopy_source_connect(&job, &left, &answer, NULL);
    return answer == POSTCOPY_ANSWER_RESUMED || answer == POSTCOPY_ANSWER_COMPLETE;
}

gboolean source_serve_split(SourceMove *move, gboolean connected, GError **error)
{
    CheckpointPart part;
    PostcopySourceJob serving = make_job(move, &part);
    PostcopyOutcome outcome;

    source_store_begin_rest(move);
    source_journal(move, SOURCE_JOURNAL_SPLIT, NULL);
    fault_point("source.split", NULL);
    source_set_phase(move, MIGRATE_PHASE_POSTCOPY);
    if (!connected)
        source_undo_split(move);
    outcome = postcopy_source_run(&serving, connected ? move->session : NULL,
                                  g_steal_pointer(&move->split), &move->report->postcopy, error);
    if (outcome == POSTCOPY_LOST) {
        source_store_end(move, FALSE);
        g_prefix_error(error, "the destination has lost the guest while a part of its memory was "
                              "only here: ");
    }
    if (outcome == POSTCOPY_TAKEN) {
        source_store_end(move, FALSE);
        source_journal(move, SOURCE_JOURNAL_TAKING_OVER, NULL);
        g_prefix_error(error,
                       "the destination cannot be reached, and does not run it any more; it is "
                       "taken over here: ");
    }
    if (outcome == POSTCOPY_DRAINED)
        g_prefix_error(error, "the guest's process here has ended, and with it memory that the "
                              "guest at its destination still lacks: ");
    if (outcome == POSTCOPY_COMPLETE)
        source_abandon_split(move);
    return outcome == POSTCOPY_COMPLETE;
}
