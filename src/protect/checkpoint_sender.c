#include "protect/checkpoint_sender.h"

#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fault.h"
#include "base/lock_guard.h"
#include "base/log.h"
#include "base/thread.h"
#include "memory/fault_latency.h"
#include "protect/captured_pages.h"
#include "protect/epoch_pages.h"
#include "transfer/epoch.h"
#include "transfer/guest_pages.h"
#include "transfer/page_sender.h"
#include "wire/epoch_frame.h"

#define READY_PAUSE_NS 5000000ULL
#define MOST_PAUSE_NS 200000000ULL
/* In a row. */
#define MOST_FAILURES 50u
/* That are captured at a time while the guest runs. */
#define AHEAD_PIECE_PAGES 4096u
#define FIND_PAGES 64u /* of memory that are compared at a time */
/* Of a session: more than that is all of the memory, or nearly so. */
#define FIRST_NOTED_PAGES 16384u
#define STORE_SHARE 8u /* of the guest's memory */
#define STORE_LEAST_BYTES (4ull << 20)
#define STORE_MOST_BYTES (256ull << 20)

struct CheckpointSender {
    GuestMemory *memory;
    PageSource *pages; /* the guest's memory */
    /* Of the thread. */
    EpochPages *epoch;
    CapturedPages *captured;
    GPtrArray *to_send; /* a PageSet a region, of the last cut; NULL before that */
    Vmm *vmm;
    VmmCheckpoint *checkpoint;
    guint interval_ms;
    CheckpointPaceLimits limits;
    CheckpointOutput outputs[CHECKPOINT_MOST_OUTPUTS];
    guint output_count;
    GThread *thread;
    /* Of the session under way, of the thread. */
    PageSender *sender;
    PageIndex *index; /* NULL: it is too large */
    EpochSender epochs;
    uint64_t cut_ns; /* when the last epoch was cut */
    double last_pause_ms;
    uint64_t last_pages;    /* of the last epoch of this session; the first one: any number */
    uint64_t done_pages;    /* of the session, up to that */
    gboolean has_noted;     /* pages, or was to: in this session */
    gboolean ahead_is_vain; /* it left as many pages, in this session */
    guint failures;         /* to cut, since an epoch was cut */

    GMutex lock; /* protects all below */
    GCond changed;
    Session *session; /* borrowed; NULL: none */
    gboolean sending; /* the thread, in that session */
    gboolean stopped, ending;
    gboolean hurry;
    uint32_t cut, applied; /* epochs of this session */
    GError *error;
    CheckpointCounts counts;
    FaultLatency pauses;
    uint64_t confirmed_ns; /* when the last confirmed one was cut */
};

static gboolean capture(CheckpointSender *sender, GError **error)
{
    g_autoptr(GPtrArray) present = NULL;

    g_clear_pointer(&sender->to_send, g_ptr_array_unref);
    return epoch_pages_begin_pass(sender->epoch, TRUE, &sender->to_send, &present, error) &&
           captured_pages_take(sender->captured, present, error);
}

/* ---- the cut ---- */

static gboolean cut_outputs(CheckpointSender *sender, GError **error)
{
    for (guint i = 0; i < sender->output_count; i++)
        if (!sender->outputs[i].cut(sender->outputs[i].user, error))
            return FALSE;
    return TRUE;
}

static gboolean has_moments(const CheckpointOutput *output)
{
    return output->begin_moment && output->end_moment;
}

static void end_moment_of(CheckpointSender *sender, guint count)
{
    for (guint i = 0; i < count; i++)
        if (has_moments(&sender->outputs[i]))
            sender->outputs[i].end_moment(sender->outputs[i].user);
}

/* FALSE: not now. */
static gboolean begin_moment(CheckpointSender *sender)
{
    for (guint i = 0; i < sender->output_count; i++) {
        const CheckpointOutput *output = &sender->outputs[i];

        if (has_moments(output) && !output->begin_moment(output->user)) {
            end_moment_of(sender, i);
            return FALSE;
        }
    }
    return TRUE;
}

/* The guest runs again whatever comes of it. */
static GBytes *take_moment(CheckpointSender *sender, GError **error)
{
    uint64_t stopped_ns, pause_ns;
    g_autoptr(GBytes) state = NULL;
    gboolean done;

    if (fault_point("checkpoint.cut", error) || !vmm_checkpoint_stop(sender->checkpoint, error))
        return NULL;
    sender->cut_ns = clock_now_ns();
    done = capture(sender, error) && cut_outputs(sender, error);
    /* Before the guest runs: what it then sends first is told once. */
    g_mutex_lock(&sender->lock);
    sender->hurry = FALSE;
    g_mutex_unlock(&sender->lock);
    state = vmm_checkpoint_resume(sender->checkpoint, done ? error : NULL);
    stopped_ns = vmm_checkpoint_get_stopped_ns(sender->checkpoint);
    pause_ns = clock_now_ns() - stopped_ns;
    sender->last_pause_ms = clock_ns_to_ms(pause_ns);
    g_mutex_lock(&sender->lock);
    fault_latency_add(&sender->pauses, pause_ns);
    sender->counts.pause_ms += clock_ns_to_ms(pause_ns);
    g_mutex_unlock(&sender->lock);
    return done ? g_steal_pointer(&state) : NULL;
}

/* Within begin_moment(). */
static GBytes *cut(CheckpointSender *sender, GError **error)
{
    GBytes *state = take_moment(sender, error);

    end_moment_of(sender, sender->output_count);
    return state;
}

/* ---- sending ---- */

static gboolean push_region(CheckpointSender *sender, guint region, const PageSet *set,
                            WorkBatch *batch, GError **error)
{
    uint64_t from = 0;
    PageSpan run;

    *batch = (WorkBatch){.region = region};
    while (page_set_next_run(set, from, WORK_BATCH_PAGES - batch->pages, &run.first, &run.count)) {
        batch->spans[batch->span_count++] = run;
        batch->pages += run.count;
        from = run.first + run.count;
        if (batch->pages < WORK_BATCH_PAGES)
            continue;
        if (!page_sender_push(sender->sender, batch, error))
            return FALSE;
        *batch = (WorkBatch){.region = region};
    }
    return batch->pages == 0 || page_sender_push(sender->sender, batch, error);
}

static gboolean push_pages(CheckpointSender *sender, const GPtrArray *sets, GError **error)
{
    g_autofree WorkBatch *batch = g_new(WorkBatch, 1);

    for (guint i = 0; i < sets->len; i++)
        if (!push_region(sender, i, sets->pdata[i], batch, error))
            return FALSE;
    return TRUE;
}

struct CheckpointPages {
    CheckpointSender *sender;
};

static gint compare_places(gconstpointer a, gconstpointer b)
{
    const CheckpointBlock *one = *(CheckpointBlock *const *)a,
                          *other = *(CheckpointBlock *const *)b;

    if (one->region != other->region)
        return one->region < other->region ? -1 : 1;
    return one->page < other->page ? -1 : one->page > other->page;
}

/* Of one region, in ascending order. */
static gboolean compare_run(CheckpointSender *sender, CheckpointBlock *const *blocks, guint count,
                            uint8_t *buffer, GError **error)
{
    PageSpan spans[FIND_PAGES] = {{0}};

    for (guint i = 0; i < count; i++)
        spans[i] = (PageSpan){blocks[i]->page, 1};
    if (!page_source_read(sender->pages, blocks[0]->region, spans, count, buffer, error))
        return FALSE;
    for (guint i = 0; i < count; i++)
        blocks[i]->found = memcmp(buffer + i * PAGE_BYTES, blocks[i]->content, PAGE_BYTES) == 0;
    return TRUE;
}

static guint count_run(CheckpointBlock *const *blocks, guint count)
{
    guint length = 1;

    while (length < MIN(count, FIND_PAGES) && blocks[length]->region == blocks[0]->region)
        length++;
    return length;
}

gboolean checkpoint_pages_find(CheckpointPages *pages, CheckpointBlock *blocks, guint count,
                               GError **error)
{
    CheckpointSender *sender = pages->sender;
    g_autoptr(GPtrArray) candidates = g_ptr_array_new();
    g_autofree uint8_t *buffer = NULL;
    guint length;

    for (guint i = 0; i < count; i++) {
        blocks[i].found = FALSE;
        if (sender->index &&
            page_index_find(sender->index, blocks[i].content, &blocks[i].region, &blocks[i].page))
            g_ptr_array_add(candidates, &blocks[i]);
    }
    g_ptr_array_sort(candidates, compare_places);
    buffer = g_malloc(FIND_PAGES * PAGE_BYTES);
    for (guint i = 0; i < candidates->len; i += length) {
        CheckpointBlock *const *at = (CheckpointBlock *const *)candidates->pdata + i;

        length = count_run(at, candidates->len - i);
        if (!compare_run(sender, at, length, buffer, error))
            return FALSE;
    }
    return TRUE;
}

void checkpoint_pages_count_writes(CheckpointPages *pages, uint64_t bytes, uint64_t found_bytes,
                                   uint64_t sent_bytes)
{
    CheckpointSender *sender = pages->sender;
    lock_guard(&sender->lock);

    sender->counts.disk_bytes += bytes;
    sender->counts.disk_found_bytes += found_bytes;
    sender->counts.disk_sent_bytes += sent_bytes;
}

/* All of the epoch's pages have gone, and are noted. */
static gboolean send_outputs(CheckpointSender *sender, Session *session, GError **error)
{
    CheckpointPages pages = {sender};

    if (!page_sender_flush(sender->sender, error))
        return FALSE;
    for (guint i = 0; i < sender->output_count; i++) {
        const CheckpointOutput *output = &sender->outputs[i];

        if (output->send && !output->send(session, &pages, output->user, error))
            return FALSE;
    }
    return TRUE;
}

/* A session may end while an epoch is cut: the VMM may wait for a page, which the next one brings. */
static gboolean begin_sending(CheckpointSender *sender, Session *session, gboolean cut)
{
    lock_guard(&sender->lock);

    sender->sending = sender->session == session;
    if (sender->sending && cut)
        sender->cut++;
    return sender->sending;
}

static void end_sending(CheckpointSender *sender)
{
    lock_guard(&sender->lock);

    sender->sending = FALSE;
    g_cond_broadcast(&sender->changed);
}

static gboolean send_epoch(CheckpointSender *sender, Session *session, GBytes *state,
                           GError **error)
{
    return !fault_point("checkpoint.send", error) && push_pages(sender, sender->to_send, error) &&
           send_outputs(sender, session, error) &&
           epoch_sender_add_state(&sender->epochs, state, error) &&
           !fault_point("checkpoint.seal", error) && epoch_sender_seal(&sender->epochs, error);
}

/* FALSE: the session has ended before. */
static gboolean await_applied(CheckpointSender *sender)
{
    lock_guard(&sender->lock);

    while (sender->applied < sender->cut && sender->session)
        g_cond_wait(&sender->changed, &sender->lock);
    return sender->applied == sender->cut;
}

static PageSenderCounts get_sent(CheckpointSender *sender)
{
    PageSenderCounts counts;

    page_sender_get_counts(sender->sender, &counts);
    return counts;
}

static void confirm(CheckpointSender *sender, const PageSenderCounts *before)
{
    PageSenderCounts after = get_sent(sender);

    epoch_pages_confirm(sender->epoch);
    fault_point("checkpoint.release", NULL);
    for (guint i = 0; i < sender->output_count; i++)
        sender->outputs[i].release(sender->outputs[i].user);
    sender->last_pages = after.done_pages - sender->done_pages;
    sender->done_pages = after.done_pages;
    g_mutex_lock(&sender->lock);
    sender->counts.epochs++;
    sender->counts.pages += sender->last_pages;
    sender->counts.bytes += after.body_bytes - before->body_bytes;
    sender->counts.segments += after.pages.segments - before->pages.segments;
    sender->confirmed_ns = sender->cut_ns;
    g_mutex_unlock(&sender->lock);
}

/* FALSE: no more can be taken at all; *ret_session is FALSE where only the session has failed. */
static gboolean run_epoch(CheckpointSender *sender, Session *session, gboolean *ret_session,
                          GError **error)
{
    g_autoptr(GBytes) state = cut(sender, error);
    g_autoptr(GError) problem = NULL;
    PageSenderCounts before = get_sent(sender);

    if (!state)
        return FALSE;
    *ret_session = begin_sending(sender, session, TRUE) &&
                   send_epoch(sender, session, state, &problem) && await_applied(sender);
    end_sending(sender);
    if (*ret_session) {
        confirm(sender, &before);
        return TRUE;
    }
    if (problem) {
        log_debug("checkpoints: %s", problem->message);
        session_fail(session, problem);
    }
    return TRUE;
}

/* ---- sending ahead ---- */

/* Moves up to so many pages from *sets* to *ret*, a new array; FALSE where none is left. */
static gboolean take_piece(GPtrArray *sets, uint64_t most, GPtrArray *ret)
{
    PageSpan run;

    for (guint i = 0; most > 0 && i < sets->len; i++)
        while (most > 0 && page_set_next_run(sets->pdata[i], 0, most, &run.first, &run.count)) {
            page_set_add(ret->pdata[i], run.first, run.count);
            page_set_remove(sets->pdata[i], run.first, run.count);
            most -= run.count;
        }
    return most < AHEAD_PIECE_PAGES;
}

/* Pages without content are zero where they are read. */
static GPtrArray *intersect(const GPtrArray *sets, const GPtrArray *present,
                            const PageRegions *regions)
{
    GPtrArray *both = page_regions_new_sets(regions);

    for (guint i = 0; i < sets->len; i++) {
        g_autoptr(PageSet) absent = page_set_new(regions->pages[i]);

        page_set_add_all(absent, sets->pdata[i]);
        page_set_remove_all(absent, present->pdata[i]);
        page_set_add_all(both->pdata[i], sets->pdata[i]);
        page_set_remove_all(both->pdata[i], absent);
    }
    return both;
}

/* What is captured while the guest runs is of no one moment: what it writes meanwhile is sent again. */
static gboolean send_piece(CheckpointSender *sender, const GPtrArray *piece,
                           const GPtrArray *present, GError **error)
{
    g_autoptr(GPtrArray) content = intersect(piece, present, sender->pages->regions);

    if (!captured_pages_take(sender->captured, content, error) ||
        !push_pages(sender, piece, error) || !page_sender_flush(sender->sender, error))
        return FALSE;
    epoch_pages_note_ahead(sender->epoch, piece);
    g_mutex_lock(&sender->lock);
    for (guint i = 0; i < piece->len; i++)
        sender->counts.ahead += page_set_count(piece->pdata[i]);
    g_mutex_unlock(&sender->lock);
    return TRUE;
}

static gboolean send_pass(CheckpointSender *sender, GPtrArray *pages, const GPtrArray *present,
                          GError **error)
{
    for (;;) {
        g_autoptr(GPtrArray) piece = page_regions_new_sets(sender->pages->regions);

        if (!take_piece(pages, AHEAD_PIECE_PAGES, piece))
            return epoch_sender_add_barrier(&sender->epochs, error);
        if (!send_piece(sender, piece, present, error))
            return FALSE;
    }
}

/* As run_epoch(). */
static gboolean run_pass(CheckpointSender *sender, Session *session, gboolean *ret_session,
                         GError **error)
{
    g_autoptr(GPtrArray) pages = NULL, present = NULL;
    g_autoptr(GError) problem = NULL;

    if (!epoch_pages_begin_pass(sender->epoch, FALSE, &pages, &present, error))
        return FALSE;
    *ret_session =
        begin_sending(sender, session, FALSE) && send_pass(sender, pages, present, &problem);
    end_sending(sender);
    page_sender_set_noting(sender->sender, TRUE);
    if (problem) {
        log_debug("checkpoints: %s", problem->message);
        session_fail(session, problem);
    }
    return TRUE;
}

/* As run_epoch(): before it. */
static gboolean send_ahead(CheckpointSender *sender, Session *session, gboolean *ret_session,
                           GError **error)
{
    CheckpointAheadFacts facts = {.pages = sender->last_pages};

    *ret_session = TRUE;
    /* To look costs as much as a cut. */
    if (sender->ahead_is_vain || !checkpoint_pace_sends_ahead(&facts))
        return TRUE;
    for (; *ret_session; facts.passes++) {
        if (!epoch_pages_collect(sender->epoch, &facts.pages, error))
            return FALSE;
        /* All of the memory would take what is kept for pages that are written again and again. */
        if (!sender->has_noted)
            page_sender_set_noting(sender->sender, facts.pages < FIRST_NOTED_PAGES);
        sender->has_noted = TRUE;
        if (!checkpoint_pace_sends_ahead(&facts)) {
            page_sender_set_noting(sender->sender, TRUE);
            sender->ahead_is_vain = facts.passes == 1 && facts.pages > facts.last_pages / 2;
            return TRUE;
        }
        facts.last_pages = facts.pages;
        if (!run_pass(sender, session, ret_session, error))
            return FALSE;
    }
    return TRUE;
}

/* ---- the thread ---- */

static gboolean may_go_on(const CheckpointSender *sender)
{
    return !sender->ending && !sender->stopped;
}

/* With the lock held: until the next one is due.  FALSE: none is to be taken in this session. */
static gboolean await_due(CheckpointSender *sender, const Session *session)
{
    while (may_go_on(sender) && sender->session == session) {
        CheckpointPaceFacts facts = {sender->interval_ms, sender->last_pause_ms, sender->hurry,
                                     sender->limits};
        double wait_ms =
            checkpoint_pace_decide(&facts) - clock_ns_to_ms(clock_now_ns() - sender->cut_ns);

        if (wait_ms <= 0)
            return TRUE;
        g_cond_wait_until(&sender->changed, &sender->lock,
                          g_get_monotonic_time() + (gint64)(wait_ms * 1000) + 1);
    }
    return FALSE;
}

/* For one session: what a broken one has sent is not known to have arrived. */
static SentStore *make_store(const PageRegions *regions)
{
    uint64_t bytes = 0;

    for (guint i = 0; i < regions->count; i++)
        bytes += regions->pages[i] * PAGE_BYTES / STORE_SHARE;
    return sent_store_new(regions->pages, regions->count, 0,
                          CLAMP(bytes, STORE_LEAST_BYTES, STORE_MOST_BYTES), SENT_STORE_SHADOW);
}

static void open_session(CheckpointSender *sender, Session *session)
{
    Channel *channel = session_get_channel(session, TRAFFIC_CHECKPOINT);
    PageSenderOptions options = {
        .workers = 1, .each_once = TRUE, .store = make_store(sender->pages->regions)};

    options.index = sender->index = page_index_new(sender->pages->regions);
    epoch_pages_forget_ahead(sender->epoch);
    sender->last_pages = UINT64_MAX;
    sender->done_pages = 0;
    sender->ahead_is_vain = FALSE;
    sender->has_noted = FALSE;
    sender->sender =
        page_sender_new(captured_pages_get_source(sender->captured), channel, &options);
    sender->epochs = epoch_sender_make(channel, sender->sender);
}

static gboolean ask_outputs(CheckpointSender *sender, gboolean *ret, GError **error)
{
    *ret = TRUE;
    for (guint i = 0; *ret && i < sender->output_count; i++) {
        const CheckpointOutput *output = &sender->outputs[i];

        if (output->is_ready && !output->is_ready(output->user, ret, error))
            return FALSE;
    }
    return TRUE;
}

static gboolean are_outputs_ready(CheckpointSender *sender, gboolean *ret, GError **error)
{
    gboolean asked;

    *ret = FALSE;
    if (!begin_moment(sender))
        return TRUE;
    asked = ask_outputs(sender, ret, error);
    end_moment_of(sender, sender->output_count);
    return asked;
}

static gboolean prepare_outputs(CheckpointSender *sender, GError **error)
{
    for (guint i = 0; i < sender->output_count; i++) {
        const CheckpointOutput *output = &sender->outputs[i];

        if (output->prepare && !output->prepare(output->user, error))
            return FALSE;
    }
    return TRUE;
}

/* What was to be in an epoch that could not be cut is in the next one.  FALSE: it fails again and
 * again. */
static gboolean bear_failure(CheckpointSender *sender, GError **error)
{
    if (++sender->failures >= MOST_FAILURES)
        return FALSE;
    log_debug("checkpoints: %s", (*error)->message);
    g_clear_error(error);
    clock_sleep_ns(MIN(READY_PAUSE_NS * sender->failures, MOST_PAUSE_NS));
    return TRUE;
}

/* As run_epoch(). */
static gboolean try_epoch(CheckpointSender *sender, Session *session, gboolean *ret_session,
                          GError **error)
{
    gboolean ready;

    if (!are_outputs_ready(sender, &ready, error))
        return bear_failure(sender, error);
    if (!ready) {
        clock_sleep_ns(READY_PAUSE_NS);
        return TRUE;
    }
    if (!send_ahead(sender, session, ret_session, error) ||
        (*ret_session && !prepare_outputs(sender, error)))
        return bear_failure(sender, error);
    if (*ret_session && !begin_moment(sender))
        clock_sleep_ns(READY_PAUSE_NS);
    else if (*ret_session && !run_epoch(sender, session, ret_session, error))
        return bear_failure(sender, error);
    sender->failures = 0;
    return TRUE;
}

static gboolean run_session(CheckpointSender *sender, Session *session, GError **error)
{
    gboolean goes_on = TRUE, due, works = TRUE;

    open_session(sender, session);
    while (goes_on && works) {
        g_mutex_lock(&sender->lock);
        due = await_due(sender, session);
        g_mutex_unlock(&sender->lock);
        if (!due)
            break;
        works = try_epoch(sender, session, &goes_on, error);
    }
    g_clear_pointer(&sender->sender, page_sender_free);
    g_clear_pointer(&sender->index, page_index_free);
    return works;
}

/* A reference to a session that is to be used, or NULL at the end. */
static Session *take_session(CheckpointSender *sender)
{
    lock_guard(&sender->lock);

    while (!sender->ending && (!sender->session || sender->stopped))
        g_cond_wait(&sender->changed, &sender->lock);
    return sender->ending ? NULL : session_ref(sender->session);
}

/* One that has failed is not taken again. */
static void give_session_back(CheckpointSender *sender, Session *session, GError *error)
{
    lock_guard(&sender->lock);

    if (error) {
        sender->stopped = TRUE;
        sender->counts.failed = TRUE;
        sender->error = error;
    }
    if (sender->session == session && !sender->stopped)
        sender->session = NULL;
    g_cond_broadcast(&sender->changed);
}

static gpointer main_thread(gpointer data)
{
    CheckpointSender *sender = data;
    g_autoptr(GError) problem = NULL;
    Session *session;

    if (!captured_pages_prepare(sender->captured, &problem))
        log_debug("checkpoints: %s", problem->message);
    while ((session = take_session(sender))) {
        GError *error = NULL;

        if (!run_session(sender, session, &error))
            log_warning("no more checkpoints are taken: %s", error->message);
        give_session_back(sender, session, error);
        session_unref(session);
    }
    return NULL;
}

/* ---- begin and end ---- */

static CheckpointSender *sender_new(GuestMemory *memory, Userfault *userfault,
                                    const EpochPageFiles *files, GError **error)
{
    CheckpointSender *sender = g_new0(CheckpointSender, 1);

    g_mutex_init(&sender->lock);
    g_cond_init(&sender->changed);
    sender->memory = memory;
    sender->pages = guest_source_new(memory);
    sender->captured = captured_pages_new(sender->pages);
    sender->epoch = epoch_pages_new(memory, sender->pages, userfault, files, error);
    if (sender->epoch)
        return sender;
    checkpoint_sender_free(sender);
    return NULL;
}

CheckpointSender *checkpoint_sender_new(GuestMemory *memory, Userfault *userfault,
                                        const EpochPageFiles *files, GError **error)
{
    CheckpointSender *sender = sender_new(memory, userfault, files, error);

    if (!sender || epoch_pages_skip(sender->epoch, error))
        return sender;
    checkpoint_sender_free(sender);
    return NULL;
}

CheckpointSender *checkpoint_sender_reopen(GuestMemory *memory, Userfault *userfault,
                                           const EpochPageFiles *files, GError **error)
{
    CheckpointSender *sender = sender_new(memory, userfault, files, error);

    if (!sender || !outstanding_is_uncertain(files->lacking) ||
        epoch_pages_add_all(sender->epoch, error))
        return sender;
    checkpoint_sender_free(sender);
    return NULL;
}

void checkpoint_sender_set_limits(CheckpointSender *sender, const CheckpointPaceLimits *limits)
{
    sender->limits = *limits;
}

gboolean checkpoint_sender_start(CheckpointSender *sender, Vmm *vmm, guint interval_ms,
                                 const CheckpointOutput *outputs, guint output_count,
                                 GError **error)
{
    g_assert(output_count <= CHECKPOINT_MOST_OUTPUTS);
    sender->vmm = vmm;
    sender->interval_ms = interval_ms;
    if (output_count > 0)
        memcpy(sender->outputs, outputs, output_count * sizeof *outputs);
    sender->output_count = output_count;
    sender->checkpoint = vmm_open_checkpoint(vmm, error);
    sender->cut_ns = clock_now_ns();
    if (sender->checkpoint)
        sender->thread = thread_start("checkpoints", main_thread, sender, error);
    return sender->thread != NULL;
}

void checkpoint_sender_end(CheckpointSender *sender)
{
    g_mutex_lock(&sender->lock);
    sender->ending = TRUE;
    sender->session = NULL;
    g_cond_broadcast(&sender->changed);
    g_mutex_unlock(&sender->lock);
    if (sender->thread)
        g_thread_join(g_steal_pointer(&sender->thread));
}

void checkpoint_sender_free(CheckpointSender *sender)
{
    if (!sender)
        return;
    checkpoint_sender_end(sender);
    vmm_checkpoint_free(sender->checkpoint);
    epoch_pages_free(sender->epoch);
    captured_pages_free(sender->captured);
    page_source_free(sender->pages);
    g_clear_pointer(&sender->to_send, g_ptr_array_unref);
    g_clear_error(&sender->error);
    g_mutex_clear(&sender->lock);
    g_cond_clear(&sender->changed);
    g_free(sender);
}

void checkpoint_sender_begin_session(CheckpointSender *sender, Session *session)
{
    lock_guard(&sender->lock);

    sender->session = session;
    sender->cut = sender->applied = 0;
    g_cond_broadcast(&sender->changed);
}

void checkpoint_sender_end_session(CheckpointSender *sender)
{
    lock_guard(&sender->lock);

    sender->session = NULL;
    g_cond_broadcast(&sender->changed);
    while (sender->sending)
        g_cond_wait(&sender->changed, &sender->lock);
}

void checkpoint_sender_stop(CheckpointSender *sender)
{
    lock_guard(&sender->lock);

    sender->stopped = TRUE;
    g_cond_broadcast(&sender->changed);
}

/* ---- from other threads ---- */

gboolean checkpoint_sender_take_applied(CheckpointSender *sender, const Frame *frame,
                                        GError **error)
{
    uint32_t number;
    lock_guard(&sender->lock);

    if (!applied_frame_decode(frame->payload, frame->length, &number, error))
        return FALSE;
    if (number != sender->applied || number >= sender->cut) {
        error_set(error, VMFERRY_ERROR_INVALID,
                  "EPOCH_APPLIED %u where %u epochs were cut and %u applied", number, sender->cut,
                  sender->applied);
        return FALSE;
    }
    sender->applied++;
    g_cond_broadcast(&sender->changed);
    return TRUE;
}

void checkpoint_sender_hurry(CheckpointSender *sender)
{
    lock_guard(&sender->lock);

    sender->hurry = TRUE;
    g_cond_broadcast(&sender->changed);
}

void checkpoint_sender_get_counts(CheckpointSender *sender, CheckpointCounts *ret)
{
    lock_guard(&sender->lock);

    *ret = sender->counts;
    ret->p50_pause_ms = fault_latency_get_ms(&sender->pauses, 0.5);
    ret->p99_pause_ms = fault_latency_get_ms(&sender->pauses, 0.99);
    ret->max_pause_ms = clock_ns_to_ms(sender->pauses.max_ns);
    ret->age_ms = sender->confirmed_ns ? clock_ns_to_ms(clock_now_ns() - sender->confirmed_ns) : -1;
}

const GError *checkpoint_sender_get_error(CheckpointSender *sender)
{
    lock_guard(&sender->lock);

    return sender->error;
}
