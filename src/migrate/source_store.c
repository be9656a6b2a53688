/*
 * A store, as a stage of a move (store_source.h)
 *
 * What will be outstanding is sent to the store while the guest still runs here, and what was written
 * meanwhile once more, as long as that becomes much less.  Each batch is collected right before it
 * is read, and all that is found written after that is noted: what was sent and noted is stale at
 * the pause.  In the pause only that is named; it is sent anew after START, when nothing changes it
 * any more.
 *
 * With direct I/O a page that was pinned before it was collected may be written unseen after it
 * (tracker.h).  So all is collected at once then, and I/O drained, before anything is read.
 *
 * The rate limit is the move's: before the pause nothing else is sent, after it a quarter goes to
 * the store, as long as it lacks something.  Without a limit half of what the link was seen to
 * carry does.
 */
#include "migrate/source_move.h"

#include "base/clock.h"
#include "base/error.h"
#include "base/fault.h"
#include "base/log.h"
#include "base/page.h"
#include "migrate/store_source.h"

/* In the pause. */
#define SEALED_TIMEOUT_MS 500
#define STORE_SHARE 4
/* Of populated memory, and besides: what the guest may touch until the pause. */
#define GROWTH_SHARE 8
#define GROWTH_BYTES ((uint64_t)64 << 20)
/* Before it. */
#define MOST_PASSES 4u
#define LEAST_PASS_PAGES 64u
#define PROGRESS_INTERVAL_NS 100000000ULL

struct SourceStore {
    const MigrateSourceHost *host;
    uint64_t limit; /* of the move, when the store was told its share */
    StoreSource *store;
    char *name;
    GPtrArray *written; /* since it was sent, and more: a PageSet a region; NULL: not yet */
    gboolean sealed;
    gboolean move_failed; /* and not the store */
    gboolean lost;        /* it has failed */
};

/* From any thread, up to the end of the store. */
static void note(const SourceStore *store, const GError *why)
{
    store->host->note_store(store->name, why, store->host->user);
}

void source_store_end(SourceMove *move, gboolean needed)
{
    SourceStore *store = g_steal_pointer(&move->store);

    if (!store)
        return;
    if (move->work)
        work_set_note_written(move->work, NULL);
    store_source_end(store->store, needed && store->sealed);
    g_clear_pointer(&store->written, g_ptr_array_unref);
    g_free(store->name);
    g_free(store);
}

/* The guest stays. */
void source_store_withdraw(SourceMove *move)
{
    source_store_end(move, FALSE);
}

gboolean source_store_is_used(const SourceMove *move)
{
    return move->store && !move->store->lost;
}

/* The move goes on without it.  Taking leave of it may take a moment, and the guest may be paused:
 * later. */
static void lose(SourceMove *move, const GError *why)
{
    move->store->lost = TRUE;
    note(move->store, why);
}

/* ---- before the pause ---- */

/* What has content by now, and what may come to have some until the pause.  Where that is not
 * enough, the store refuses what is beyond it, and the move goes on without it. */
static uint64_t expect_bytes(SourceMove *move)
{
    uint64_t populated = 0;

    if (!guest_memory_count_populated(move->memory, &populated, NULL))
        return UINT64_MAX;
    return populated * PAGE_BYTES + populated * PAGE_BYTES / GROWTH_SHARE + GROWTH_BYTES;
}

static StoreMessage make_message(SourceMove *move, WireRegion *regions)
{
    const GPtrArray *list = move->description->ram_regions;
    uint64_t total = 0;

    for (guint i = 0; i < list->len; i++) {
        const RamRegion *region = g_ptr_array_index(list, i);

        regions[i] = (WireRegion){region->name, move->pages->regions->pages[i] * PAGE_BYTES};
        total += regions[i].bytes;
    }
    return (StoreMessage){
        .transaction = move->transaction,
        .guest = (char *)move->job->guest,
        .guest_id = (char *)move->job->guest_id,
        .term = move->job->term + 1,
        .source = (char *)move->job->source_name,
        .destination = (char *)move->job->destination,
        .destination_agent = move->peer.agent,
        .bytes = MIN(expect_bytes(move), total),
        .regions = regions,
        .region_count = list->len,
    };
}

gboolean source_store_connect(SourceMove *move, GError **error)
{
    const MigrateSourceJob *job = move->job;
    g_autofree WireRegion *regions = g_new0(WireRegion, move->description->ram_regions->len);
    StoreMessage message;
    StoreSource *store;

    if (!*job->options.store)
        return TRUE;
    if (!peer_has_feature(&move->peer, FEATURE_STORE)) {
        error_set(error, VMFERRY_ERROR_UNSUPPORTED, "%s knows no store: its vmferry is older",
                  session_get_peer_name(move->session));
        return FALSE;
    }
    message = make_message(move, regions);
    store = store_source_connect(job->options.store, &job->channel, &message, move->pages,
                                 move->cancellable, error);
    if (!store) {
        g_prefix_error(error, "the store: ");
        return FALSE;
    }
    move->store = g_new0(SourceStore, 1);
    move->store->host = &job->host;
    move->store->store = store;
    move->store->name = g_strdup(job->options.store);
    return TRUE;
}

static gboolean collect(SourceMove *move, const WorkBatch *batch, GError **error)
{
    for (guint i = 0; i < batch->span_count; i++) {
        PageSpan span = batch->spans[i];

        if (!work_set_collect(move->work, batch->region, span, source_now_ms(move), error))
            return FALSE;
        page_set_remove(move->store->written->pdata[batch->region], span.first, span.count);
    }
    return TRUE;
}

/* A StoreSourceBefore: what is read after this is found again where it is written. */
/* Before the pause nothing else is sent: all of the limit is the store's. */
static void follow_rate(SourceMove *move)
{
    uint64_t limit = source_get_rate(move);

    if (limit != move->store->limit)
        store_source_set_rate(move->store->store, limit);
    move->store->limit = limit;
}

static gboolean before_batch(const WorkBatch *batch, gpointer user, GError **error)
{
    SourceMove *move = user;

    if (!source_not_cancelled(move, error) || !source_hear_peer(move, error) ||
        (!move->recheck && !collect(move, batch, error))) {
        move->store->move_failed = TRUE;
        return FALSE;
    }
    move->progress.round_bytes_done += batch->pages * PAGE_BYTES;
    follow_rate(move);
    if (clock_now_ns() - move->last_progress_ns > PROGRESS_INTERVAL_NS)
        source_report_progress(move);
    return TRUE;
}

static GPtrArray *list_pending(SourceMove *move)
{
    GPtrArray *sets = page_regions_new_sets(move->pages->regions);

    for (guint i = 0; i < sets->len; i++) {
        page_set_add_all(sets->pdata[i], work_set_get_pending(move->work)->pdata[i]);
        page_set_add_all(sets->pdata[i], work_set_get_next(move->work)->pdata[i]);
    }
    return sets;
}

static gboolean collect_all(SourceMove *move, const GPtrArray *sets, GError **error)
{
    for (guint i = 0; i < sets->len; i++) {
        PageSpan span = {0, 0};

        while (page_set_next_run(sets->pdata[i], span.first + span.count, UINT64_MAX, &span.first,
                                 &span.count))
            if (!work_set_collect(move->work, i, span, source_now_ms(move), error))
                return FALSE;
        page_set_remove_all(move->store->written->pdata[i], sets->pdata[i]);
    }
    return TRUE;
}

/* FALSE, and no error: nothing can be sent before the pause. */
static gboolean drain(SourceMove *move)
{
    g_autoptr(GError) problem = NULL;

    if (vmm_drain(move->job->vmm, &problem))
        return TRUE;
    log_warning("guest %s: its store is filled after the switchover only, since I/O is not "
                "drained: %s",
                move->job->guest, problem->message);
    return FALSE;
}

/* What is pending, but for what was sent and has not been written since. */
static GPtrArray *list_missing(SourceMove *move)
{
    const GPtrArray *sent = store_source_get_sent(move->store->store);
    GPtrArray *sets = list_pending(move);

    for (guint i = 0; i < sets->len; i++) {
        g_autoptr(PageSet) current = page_set_new(move->pages->regions->pages[i]);

        page_set_add_all(current, sent->pdata[i]);
        page_set_remove_all(current, move->store->written->pdata[i]);
        page_set_remove_all(sets->pdata[i], current);
    }
    return sets;
}

static gboolean push(SourceMove *move, const GPtrArray *sets, GError **error)
{
    if (move->recheck && (!collect_all(move, sets, error) || !drain(move)))
        return FALSE;
    return store_source_push(move->store->store, sets, before_batch, move, error);
}

/* Passes as long as each is much shorter than the one before.  What is stale then is named already, so
 * that in the pause there is little to say. */
static gboolean push_passes(SourceMove *move, GError **error)
{
    uint64_t before = UINT64_MAX;

    if (fault_point("source.store-fill", error))
        return FALSE;
    for (guint i = 0;; i++) {
        g_autoptr(GPtrArray) sets = NULL;
        uint64_t pages;

        if (!work_set_peek(move->work, source_now_ms(move), error))
            return FALSE;
        sets = list_missing(move);
        pages = store_source_count(sets);
        if (!store_source_drop(move->store->store, sets, error))
            return FALSE;
        if (i == MOST_PASSES || pages < LEAST_PASS_PAGES || pages > before / 2)
            return TRUE;
        before = pages;
        move->progress.round_bytes = pages * PAGE_BYTES;
        move->progress.round_bytes_done = 0;
        if (!push(move, sets, error))
            return FALSE;
    }
}

gboolean source_store_fill(SourceMove *move, GError **error)
{
    g_autoptr(GError) problem = NULL;
    SourceStore *store = move->store;
    uint64_t begun_ns = clock_now_ns();

    if (!store)
        return TRUE;
    if (!move->switches) {
        source_store_end(move, FALSE);
        return TRUE;
    }
    source_set_phase(move, MIGRATE_PHASE_STORE);
    store->limit = source_get_rate(move);
    store_source_set_rate(store->store, store->limit);
    store_source_set_packing(store->store, move->job->options.compress, move->report->streams);
    store->written = page_regions_new_sets(move->pages->regions);
    work_set_note_written(move->work, store->written);
    if (!push_passes(move, &problem) && problem) {
        if (store->move_failed) {
            g_propagate_error(error, g_steal_pointer(&problem));
            return FALSE;
        }
        lose(move, problem);
    }
    move->report->postcopy.store_ms = clock_ns_to_ms(clock_now_ns() - begun_ns);
    return TRUE;
}

/* ---- in it ---- */

/* Sent, and without content since: what was sent is not what is read there now. */
static gboolean add_discarded(SourceMove *move, const GPtrArray *sent, GPtrArray *stale,
                              GError **error)
{
    if (!move->description->discards_memory)
        return TRUE;
    for (guint i = 0; i < sent->len; i++) {
        g_autoptr(PageSet) populated = page_set_new(move->pages->regions->pages[i]);
        g_autoptr(PageSet) discarded = page_set_new(move->pages->regions->pages[i]);

        if (!page_source_add_populated(move->pages, i, populated, error))
            return FALSE;
        page_set_add_all(discarded, sent->pdata[i]);
        page_set_remove_all(discarded, populated);
        page_set_add_all(stale->pdata[i], discarded);
    }
    return TRUE;
}

/* Of what was sent, what has been found written. */
static GPtrArray *list_stale(SourceMove *move, GError **error)
{
    const GPtrArray *sent = store_source_get_sent(move->store->store);
    g_autoptr(GPtrArray) stale = page_regions_new_sets(move->pages->regions);

    for (guint i = 0; i < sent->len; i++) {
        g_autoptr(PageSet) current = page_set_new(move->pages->regions->pages[i]);

        page_set_add_all(current, sent->pdata[i]);
        page_set_remove_all(current, move->store->written->pdata[i]);
        page_set_add_all(stale->pdata[i], sent->pdata[i]);
        page_set_remove_all(stale->pdata[i], current);
    }
    return add_discarded(move, sent, stale, error) ? g_steal_pointer(&stale) : NULL;
}

void source_store_seal(SourceMove *move)
{
    g_autoptr(GPtrArray) stale = NULL;
    g_autoptr(GError) problem = NULL;

    if (!source_store_is_used(move))
        return;
    stale = list_stale(move, &problem);
    if (!stale || !store_source_seal(move->store->store, stale, &problem))
        lose(move, problem);
}

void source_store_await_sealed(SourceMove *move)
{
    g_autoptr(GError) problem = NULL;

    if (!source_store_is_used(move))
        return;
    move->store->sealed =
        store_source_await_sealed(move->store->store, SEALED_TIMEOUT_MS, &problem);
    if (move->store->sealed)
        note(move->store, NULL);
    else
        lose(move, problem);
    move->report->postcopy.stored = move->store->sealed;
}

/* ---- after it ---- */

static void on_lost(const GError *why, gpointer user)
{
    note(user, why);
}

static uint64_t get_store_rate(const SourceMove *move)
{
    uint64_t limit = source_get_rate(move);

    if (limit)
        return MAX(limit / STORE_SHARE, 1);
    return (uint64_t)(move->control.link.bytes_per_ms * 1000 / 2);
}

void source_store_begin_rest(SourceMove *move)
{
    if (!source_store_is_used(move))
        return;
    move->store->limit = source_get_rate(move);
    store_source_set_rate(move->store->store, get_store_rate(move));
    store_source_begin_rest(move->store->store, move->outstanding, on_lost, move->store);
}

uint64_t source_store_get_uncovered(SourceMove *move)
{
    return store_source_get_uncovered(move->store->store);
}

void source_store_note_sender(SourceMove *move, PostcopySender *sender)
{
    store_source_note_sender(move->store->store, sender);
}

uint64_t source_store_get_rate(SourceMove *move)
{
    uint64_t limit = source_get_rate(move);

    if (limit != move->store->limit)
        store_source_set_rate(move->store->store, get_store_rate(move));
    move->store->limit = limit;
    if (limit == 0 || !store_source_is_filling(move->store->store))
        return limit;
    return limit - MAX(limit / STORE_SHARE, 1);
}

const char *source_store_get_agent(const SourceMove *move)
{
    return store_source_get_agent(move->store->store);
}
