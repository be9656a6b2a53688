#include "transfer/page_sender.h"

#include <math.h>

#include "base/lock_guard.h"

/* Jobs beyond one for each worker: workers run ahead where data does not shrink and
 * the link is what limits, so that it need not wait for them where data does. */
#define SPARE_JOBS 8u
/* Workers run ahead by LINK_RATE_AHEAD_MS; a batch is to take no longer, either. */
/* One being sent, one ready behind it. */
#define LEAST_AHEAD_JOBS 2u
/* As long as nothing is known of the link. */
#define FIRST_PAGES_AHEAD 64.0
/* What a page costs: a job's share in the mean. */
#define COST_WEIGHT 0.25
/* Fewer pages than this, with nothing before them, are not worth a switch to
 * another thread. */
#define INLINE_PAGES 16u

typedef struct {
    EncoderJob *job;
    gboolean done; /* under the lock */
} Slot;

struct PageSender {
    Channel *channel;
    BulkSender *bulk; /* NULL: all goes by the channel */
    PageEncoder encoder;
    SentStore *store; /* the encoder's, where it notes; NULL: none */
    GThreadPool *pool;
    Slot *slots; /* a ring: pushed at *tail*, sent from *head* */
    guint workers, slot_count, head, used;
    guint batch_pages; /* at most */
    GMutex lock;
    GCond encoded;
    Packing packing;
    uint64_t pages_ahead;  /* of the jobs in use */
    double bytes_per_page; /* of late, as sent */
    PageSenderTally tally;
    gpointer tally_user;
    PageSenderCounts counts;
    const LinkRate *link; /* NULL: not known */
};

static uint64_t get_body_bytes(const EncoderJob *job)
{
    return (job->pages.piece_count ? job->pages.packed_bytes : 0) +
           (job->segments.piece_count ? job->segments.packed_bytes : 0) +
           (job->seeded.piece_count ? job->seeded.packed_bytes : 0);
}

static void work(gpointer data, gpointer user)
{
    PageSender *sender = user;
    Slot *slot = data;

    page_encoder_run(&sender->encoder, slot->job);
    g_mutex_lock(&sender->lock);
    slot->done = TRUE;
    g_cond_signal(&sender->encoded);
    g_mutex_unlock(&sender->lock);
}

PageSender *page_sender_new(PageSource *source, Channel *channel, const PageSenderOptions *options)
{
    PageSender *sender = g_new0(PageSender, 1);
    guint workers = CLAMP(options->workers, 1, PAGE_SENDER_MAX_WORKERS);

    sender->channel = channel;
    sender->encoder.source = source;
    if (!options->each_once)
        sender->encoder.sent = page_regions_new_sets(source->regions);
    sender->encoder.store = sender->store = options->store;
    sender->encoder.copies = options->copies;
    sender->encoder.whole_pages = options->whole_pages;
    sender->encoder.index = options->index;
    sender->workers = workers;
    sender->batch_pages = options->batch_pages ? options->batch_pages : WORK_BATCH_PAGES;
    sender->slot_count = workers + SPARE_JOBS;
    sender->slots = g_new0(Slot, sender->slot_count);
    for (guint i = 0; i < sender->slot_count; i++)
        sender->slots[i].job = encoder_job_new();
    g_mutex_init(&sender->lock);
    g_cond_init(&sender->encoded);
    sender->packing = packing_make(PACKING_NONE, FALSE, FALSE, workers);
    sender->pool = g_thread_pool_new(work, sender, (int)workers, FALSE, NULL);
    return sender;
}

void page_sender_set_noting(PageSender *sender, gboolean notes)
{
    sender->encoder.store = notes ? sender->store : NULL;
}

void page_sender_set_packing(PageSender *sender, PackingMode mode, gboolean with_lz4,
                             gboolean with_zstd)
{
    sender->packing = packing_make(mode, with_lz4, with_zstd, sender->workers);
}

void page_sender_allow_windows(PageSender *sender, guint log)
{
    sender->encoder.window = window_turns_new(log);
    packing_allow_links(&sender->packing, TRUE);
}

void page_sender_set_link(PageSender *sender, const LinkRate *link)
{
    sender->link = link;
}

void page_sender_set_bulk(PageSender *sender, BulkSender *bulk)
{
    sender->bulk = bulk;
}

void page_sender_set_tally(PageSender *sender, PageSenderTally tally, gpointer user)
{
    sender->tally = tally;
    sender->tally_user = user;
}

void page_sender_set_seed(PageSender *sender, SeedIndex *seed)
{
    seed_index_free(sender->encoder.seed);
    sender->encoder.seed = seed;
}

void page_sender_free(PageSender *sender)
{
    if (!sender)
        return;
    g_thread_pool_free(sender->pool, FALSE, TRUE);
    for (guint i = 0; i < sender->slot_count; i++)
        encoder_job_free(sender->slots[i].job);
    g_free(sender->slots);
    g_clear_pointer(&sender->encoder.sent, g_ptr_array_unref);
    sent_store_free(sender->store);
    page_copies_free(sender->encoder.copies);
    window_turns_free(sender->encoder.window);
    seed_index_free(sender->encoder.seed);
    g_mutex_clear(&sender->lock);
    g_cond_clear(&sender->encoded);
    g_free(sender);
}

static gboolean send_frame(PageSender *sender, const EncodedFrame *frame, GError **error)
{
    if (frame->piece_count == 0)
        return TRUE;
    for (int i = 0; i < frame->piece_count; i++)
        sender->counts.body_bytes += frame->pieces[i].iov_len;
    if (sender->bulk)
        return bulk_sender_send(sender->bulk, frame->type, frame->pieces, frame->piece_count,
                                error);
    return channel_send(sender->channel, frame->type, frame->pieces, frame->piece_count, error);
}

static void note_cost(PageSender *sender, const EncoderJob *job)
{
    double cost = (double)get_body_bytes(job) / (double)MAX(job->batch.pages, 1);

    sender->bytes_per_page += COST_WEIGHT * (cost - sender->bytes_per_page);
}

static void count(PageSender *sender, const EncoderJob *job)
{
    PageCounts *pages = &sender->counts.pages;
    const LinkRate *link = sender->link;
    gboolean is_clear = link && link_rate_is_clear(link);

    pages->unchanged += job->counts.unchanged;
    pages->zero += job->counts.zero;
    pages->segments += job->counts.segments;
    pages->copied += job->counts.copied;
    pages->seeded += job->counts.seeded;
    pages->whole += job->counts.whole;
    if (job->copy_count > 0)
        page_copies_add(sender->encoder.copies, job->copies, job->copy_count);
    note_cost(sender, job);
    sender->counts.done_pages += job->batch.pages;
    for (guint i = 0; sender->tally && i < job->cost_count; i++)
        sender->tally(job->batch.region, &job->costs[i], sender->tally_user);
    packing_note(
        &sender->packing,
        &(PackingSample){.way = job->choice.way,
                         .skipped = job->skipped,
                         .raw_bytes = job->pages.raw_bytes + job->segments.raw_bytes,
                         .packed_bytes = job->pages.packed_bytes + job->segments.packed_bytes,
                         .pack_ms = job->pack_ms,
                         .compared = job->compared,
                         .link_bytes_per_ms = link && is_clear ? link->bytes_per_ms : 0,
                         .link_busy = link && link->busy,
                         .link_limited = link && link_rate_is_limited(link)});
}

static gboolean send_job(PageSender *sender, EncoderJob *job, GError **error)
{
    if (job->error) {
        g_propagate_error(error, g_steal_pointer(&job->error));
        return FALSE;
    }
    if (!send_frame(sender, &job->pages, error) || !send_frame(sender, &job->segments, error) ||
        !send_frame(sender, &job->seeded, error))
        return FALSE;
    count(sender, job);
    return TRUE;
}

static void await_done(PageSender *sender, Slot *slot)
{
    lock_guard(&sender->lock);

    while (!slot->done)
        g_cond_wait(&sender->encoded, &sender->lock);
}

static double get_most_pages_ahead(const PageSender *sender)
{
    if (!sender->link)
        return INFINITY;
    /* On a slow link a pipeline that was filled before that is known keeps the caller for a minute. */
    return sender->link->bytes_per_ms > 0
               ? link_rate_count_pages_ahead(sender->link, sender->bytes_per_page)
               : FIRST_PAGES_AHEAD;
}

/* Enough is read for now: what was read has to be sent first.  Jobs that wait for a worker
 * count, too: where workers get little of the CPU, that is most of them. */
static gboolean is_ahead(const PageSender *sender)
{
    return sender->used == sender->slot_count ||
           (sender->used >= LEAST_AHEAD_JOBS &&
            (double)sender->pages_ahead > get_most_pages_ahead(sender));
}

guint page_sender_get_batch_pages(const PageSender *sender)
{
    return (guint)CLAMP(get_most_pages_ahead(sender), WORK_LEAST_BATCH_PAGES, sender->batch_pages);
}

static gboolean send_oldest(PageSender *sender, GError **error)
{
    Slot *slot = &sender->slots[sender->head];

    await_done(sender, slot);
    sender->head = (sender->head + 1) % sender->slot_count;
    sender->used--;
    sender->pages_ahead -= slot->job->batch.pages;
    return send_job(sender, slot->job, error);
}

/* What is in a window goes by one connection: where others help, it is of less use than they are. */
static PackingChoice choose_packing(PageSender *sender)
{
    guint connections = 1, most;

    if (sender->bulk)
        bulk_sender_get_counts(sender->bulk, &connections, &most);
    packing_allow_links(&sender->packing, sender->encoder.window && connections == 1);
    return packing_choose(&sender->packing);
}

gboolean page_sender_push(PageSender *sender, const WorkBatch *batch, GError **error)
{
    Slot *slot;

    while (is_ahead(sender))
        if (!send_oldest(sender, error))
            return FALSE;
    slot = &sender->slots[(sender->head + sender->used) % sender->slot_count];
    slot->done = FALSE;
    slot->job->batch = *batch;
    slot->job->choice = choose_packing(sender);
    if (slot->job->choice.way.linked)
        slot->job->turn = window_turns_take(sender->encoder.window);
    if (sender->used == 0 && batch->pages < INLINE_PAGES) {
        page_encoder_run(&sender->encoder, slot->job);
        return send_job(sender, slot->job, error);
    }
    sender->used++;
    sender->pages_ahead += batch->pages;
    g_thread_pool_push(sender->pool, slot, NULL);
    return TRUE;
}

/* The first pass ends. */
static gboolean end_copies(PageSender *sender, GError **error)
{
    uint64_t bytes = 0;

    g_clear_pointer(&sender->encoder.seed, seed_index_free);
    if (!sender->encoder.copies)
        return TRUE;
    if (!page_copies_send(sender->encoder.copies, sender->channel, &bytes, error))
        return FALSE;
    sender->counts.body_bytes += bytes;
    g_clear_pointer(&sender->encoder.copies, page_copies_free);
    return TRUE;
}

gboolean page_sender_flush(PageSender *sender, GError **error)
{
    while (sender->used > 0)
        if (!send_oldest(sender, error))
            return FALSE;
    return (!sender->bulk || bulk_sender_flush(sender->bulk, error)) && end_copies(sender, error);
}

void page_sender_forget(PageSender *sender, guint region, PageSpan span)
{
    for (uint64_t i = 0; sender->store && i < span.count; i++)
        sent_store_forget(sender->store, region, span.first + i);
}

gboolean page_sender_add_discarded(PageSender *sender, GPtrArray *sets, GError **error)
{
    for (guint i = 0; i < sets->len; i++) {
        const PageSet *sent = g_ptr_array_index(sender->encoder.sent, i);
        g_autoptr(PageSet) gone = page_set_new(sent->pages);
        g_autoptr(PageSet) populated = page_set_new(sent->pages);

        if (!page_source_add_populated(sender->encoder.source, i, populated, error))
            return FALSE;
        page_set_add_all(gone, sent);
        page_set_remove_all(gone, populated);
        page_set_add_all(g_ptr_array_index(sets, i), gone);
    }
    return TRUE;
}

void page_sender_get_counts(const PageSender *sender, PageSenderCounts *ret)
{
    *ret = sender->counts;
    ret->packing = sender->packing.totals;
    ret->way = packing_get_way(&sender->packing);
    ret->store_bytes = sender->store ? sent_store_get_bytes(sender->store) : 0;
    if (sender->encoder.copies)
        ret->store_bytes += page_copies_get_bytes(sender->encoder.copies);
    if (sender->encoder.seed)
        ret->store_bytes += seed_index_get_bytes(sender->encoder.seed);
}
