#include "transfer/postcopy_sender.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/lock_guard.h"
#include "base/page.h"
#include "base/thread.h"
#include "page/zero.h"
#include "wire/page_frame.h"
#include "wire/postcopy_frame.h"

/* Sent in one frame, where more are wanted: the first ones are in place while the next are read. */
#define ANSWER_PAGES 64u
/* Outstanding pages in the block of so many that a wanted page lies in follow it, ahead of the bulk:
 * what a guest touches next is often near, and the link has nothing better to do until it does. */
#define AROUND_PAGES 8u
/* A batch is what an answer may have to wait behind, on a link that both share. */
#define PUSH_PAGES 64u
/* For the same reason no more is handed to the kernel than keeps the link busy until the next batch
 * comes, … */
#define BACKLOG_MS 0.5
#define LEAST_BACKLOG_BYTES (48u << 10)
/* … unless it stands still: that is for the channel to judge. */
#define LONGEST_WAIT_NS 200000000ULL
#define NAP_NS 200000ULL

G_STATIC_ASSERT(PUSH_PAGES <= WORK_BATCH_PAGES);

struct PostcopySender {
    PageSource *source;
    Session *session;
    PostcopySenderOptions options;
    GThread *answering;
    /* Of the pushing thread. */
    PushRun held;  /* taken, but did not fit in the last batch */
    LinkRate link; /* as the packing is to see it */

    GMutex lock;     /* protects all below */
    GPtrArray *left; /* a PageSet a region: nobody has taken these to send them */
    PushOrder *order;
    PostcopySenderCounts counts;
};

/* ---- the sets ---- */

/* A PushOrderNextRun, with the lock held. */
static gboolean next_left(guint region, uint64_t from, uint64_t max, uint64_t *ret_first,
                          uint64_t *ret_count, gpointer user)
{
    PostcopySender *sender = user;

    return page_set_next_run(sender->left->pdata[region], from, max, ret_first, ret_count);
}

PostcopySender *postcopy_sender_new(PageSource *source, Session *session, GPtrArray *outstanding,
                                    const PostcopySenderOptions *options)
{
    PostcopySender *sender = g_new0(PostcopySender, 1);

    sender->source = source;
    sender->session = session;
    sender->options = *options;
    sender->options.heat = NULL; /* borrowed for this call only */
    sender->left = outstanding;
    g_mutex_init(&sender->lock);
    for (guint i = 0; i < outstanding->len; i++)
        sender->counts.left += page_set_count(outstanding->pdata[i]);
    sender->order = push_order_new(source->regions->pages, source->regions->count, options->heat,
                                   next_left, sender);
    return sender;
}

void postcopy_sender_free(PostcopySender *sender)
{
    if (!sender)
        return;
    if (sender->answering)
        g_thread_join(sender->answering);
    push_order_free(sender->order);
    g_ptr_array_unref(sender->left);
    g_mutex_clear(&sender->lock);
    g_free(sender);
}

/* ---- answering ---- */

/* What the answering thread needs for one frame. */
typedef struct {
    GByteArray *head;
    PageRun runs[ANSWER_PAGES];
    guint run_count;
    size_t raw_bytes;
    uint8_t raw[ANSWER_PAGES * PAGE_BYTES];
} Answer;

/* The wanted pages that nobody has sent are ours to send now; the others are sent again. */
static void take_wanted(PostcopySender *sender, const WantFrame *want)
{
    PageSet *left = sender->left->pdata[want->region];
    uint64_t end = want->first + want->count, fresh = 0;
    lock_guard(&sender->lock);

    for (uint64_t page = want->first; page < end; page++)
        fresh += page_set_has(left, page) ? 1 : 0;
    page_set_remove(left, want->first, want->count);
    push_order_note_fault(sender->order, want->region, want->first);
    sender->counts.left -= fresh;
    sender->counts.answered += want->count;
    sender->counts.again += want->count - fresh;
}

static void add_page(Answer *answer, uint64_t page, PageRunKind kind)
{
    PageRun *last = answer->run_count ? &answer->runs[answer->run_count - 1] : NULL;

    if (last && last->kind == kind && last->first + last->count == page)
        last->count++;
    else
        answer->runs[answer->run_count++] = (PageRun){.first = page, .count = 1, .kind = kind};
}

/* Pages with content are moved together, over those without. */
static void classify_page(Answer *answer, uint64_t page, const uint8_t *content)
{
    uint8_t *end = answer->raw + answer->raw_bytes;

    if (zero_is_page(content)) {
        add_page(answer, page, PAGE_RUN_ZERO);
        return;
    }
    add_page(answer, page, PAGE_RUN_RAW);
    if (content != end)
        memmove(end, content, PAGE_BYTES);
    answer->raw_bytes += PAGE_BYTES;
}

static void classify(Answer *answer, const PageSpan *spans, guint count)
{
    const uint8_t *content = answer->raw;

    answer->run_count = 0;
    answer->raw_bytes = 0;
    for (guint i = 0; i < count; i++)
        for (uint64_t j = 0; j < spans[i].count; j++, content += PAGE_BYTES)
            classify_page(answer, spans[i].first + j, content);
}

/* At most ANSWER_PAGES. */
static gboolean send_spans(PostcopySender *sender, Answer *answer, guint region,
                           const PageSpan *spans, guint count, GError **error)
{
    struct iovec pieces[2];

    if (!page_source_read(sender->source, region, spans, count, answer->raw, error))
        return FALSE;
    classify(answer, spans, count);
    g_byte_array_set_size(answer->head, 0);
    page_frame_encode(answer->head, region, answer->runs, answer->run_count);
    pieces[0] = (struct iovec){answer->head->data, answer->head->len};
    pieces[1] = (struct iovec){answer->raw, answer->raw_bytes};
    return session_send_as(sender->session, TRAFFIC_FAULT, FRAME_PAGES, pieces,
                           answer->raw_bytes > 0 ? 2 : 1, error);
}

/* Takes them, as the pushing thread would. */
static guint take_around(PostcopySender *sender, const WantFrame *want, PageSpan *spans)
{
    PageSet *left = sender->left->pdata[want->region];
    uint64_t from = want->first - want->first % AROUND_PAGES, end = from + AROUND_PAGES;
    guint count = 0;
    lock_guard(&sender->lock);

    while (from < end && page_set_next_run(left, from, end - from, &from, &spans[count].count) &&
           from < end) {
        PageSpan *span = &spans[count++];

        *span = (PageSpan){from, MIN(span->count, end - from)};
        from += span->count;
        page_set_remove(left, span->first, span->count);
        sender->counts.left -= span->count;
        sender->counts.pushed += span->count;
    }
    return count;
}

static gboolean send_around(PostcopySender *sender, Answer *answer, const WantFrame *want,
                            GError **error)
{
    PageSpan spans[AROUND_PAGES];
    guint count = take_around(sender, want, spans);

    return count == 0 || send_spans(sender, answer, want->region, spans, count, error);
}

static gboolean answer_run(PostcopySender *sender, Answer *answer, const WantFrame *want,
                           GError **error)
{
    take_wanted(sender, want);
    for (uint64_t done = 0; done < want->count; done += ANSWER_PAGES) {
        PageSpan span = {want->first + done, MIN(want->count - done, ANSWER_PAGES)};

        if (!send_spans(sender, answer, want->region, &span, 1, error))
            return FALSE;
    }
    return send_around(sender, answer, want, error);
}

static gboolean answer_want(PostcopySender *sender, Answer *answer, const WantFrame *want,
                            GError **error)
{
    const GPtrArray *available = sender->options.available;
    uint64_t from = want->first, end = want->first + want->count, first, count;

    if (!available)
        return answer_run(sender, answer, want, error);
    while (from < end &&
           page_set_next_run(available->pdata[want->region], from, end - from, &first, &count) &&
           first < end) {
        WantFrame run = {want->region, (uint32_t)MIN(count, end - first), first};

        if (!answer_run(sender, answer, &run, error))
            return FALSE;
        from = first + run.count;
    }
    return TRUE;
}

static gboolean take_frame(PostcopySender *sender, Answer *answer, const Frame *frame,
                           GError **error)
{
    const PageRegions *regions = sender->source->regions;
    WantFrame want;

    if (frame->type != FRAME_WANT) {
        error_set(error, VMFERRY_ERROR_INVALID, "%s sent %s where WANT was expected",
                  session_get_peer_name(sender->session), frame_type_name(frame->type));
        return FALSE;
    }
    return want_frame_decode(frame->payload, frame->length, regions->pages, regions->count, &want,
                             error) &&
           answer_want(sender, answer, &want, error);
}

/* NOT_FOUND would say that the guest's memory here is lost: whoever looked for its process says that. */
static void tell_failure(PostcopySender *sender, const GError *failure)
{
    g_autoptr(GError) told = g_error_copy(failure);

    if (error_is(told, VMFERRY_ERROR_NOT_FOUND))
        told->code = VMFERRY_ERROR_FAILED;
    session_send_error(sender->session, told);
}

/* Whatever ends it ends the session: threads of the guest would wait for ever otherwise. */
static gpointer answer_main(gpointer data)
{
    PostcopySender *sender = data;
    g_autofree Answer *answer = g_malloc(sizeof *answer); /* not touched before it is used */
    g_autoptr(GError) failure = NULL;
    Frame frame;

    answer->head = g_byte_array_new();
    while (!failure && session_receive(sender->session, TRAFFIC_FAULT, -1, &frame, &failure)) {
        if (frame.type == FRAME_ERROR || frame.type == FRAME_ABORT)
            session_error_from_frame(sender->session, &frame, &failure);
        else if (!take_frame(sender, answer, &frame, &failure))
            tell_failure(sender, failure);
    }
    session_fail(sender->session, failure);
    g_byte_array_unref(answer->head);
    return NULL;
}

gboolean postcopy_sender_answer(PostcopySender *sender, GError **error)
{
    sender->answering = thread_start("answer", answer_main, sender, error);
    return sender->answering != NULL;
}

/* ---- pushing ---- */

/* Takes the next run, for the batch or the one after it. */
static gboolean take_next(PostcopySender *sender, uint64_t most)
{
    PushRun *run = &sender->held;
    lock_guard(&sender->lock);

    if (!push_order_next(sender->order, most, run))
        return FALSE;
    page_set_remove(sender->left->pdata[run->region], run->first, run->count);
    sender->counts.left -= run->count;
    sender->counts.pushed += run->count;
    return TRUE;
}

static int compare_spans(const void *a, const void *b)
{
    const PageSpan *first = a, *second = b;

    return first->first < second->first ? -1 : first->first > second->first;
}

/* The order of pushing is not that of pages. */
static void put_in_order(WorkBatch *batch)
{
    guint count = 1;

    qsort(batch->spans, batch->span_count, sizeof *batch->spans, compare_spans);
    for (guint i = 1; i < batch->span_count; i++) {
        PageSpan *last = &batch->spans[count - 1];

        if (last->first + last->count == batch->spans[i].first)
            last->count += batch->spans[i].count;
        else
            batch->spans[count++] = batch->spans[i];
    }
    batch->span_count = count;
}

/* Pages of one region; FALSE at the end. */
static gboolean gather(PostcopySender *sender, WorkBatch *batch)
{
    PushRun *held = &sender->held;

    if (held->count == 0 && !take_next(sender, PUSH_PAGES))
        return FALSE;
    batch->region = held->region;
    batch->span_count = 0;
    batch->pages = 0;
    do {
        batch->spans[batch->span_count++] = (PageSpan){held->first, held->count};
        batch->pages += held->count;
        held->count = 0;
    } while (batch->pages < PUSH_PAGES && take_next(sender, PUSH_PAGES - batch->pages) &&
             held->region == batch->region);
    put_in_order(batch);
    return TRUE;
}

/* On its way, and BACKLOG_MS of what waits behind that. */
static uint64_t get_most_backlog(const PostcopySender *sender, Channel *bulk)
{
    const LinkRate *link = sender->options.link;
    double bytes;

    if (!link || link->bytes_per_ms <= 0)
        return UINT64_MAX;
    bytes = link->bytes_per_ms * (BACKLOG_MS + clock_ns_to_ms(channel_get_round_trip_ns(bulk)));
    return MAX((uint64_t)bytes, LEAST_BACKLOG_BYTES);
}

/* A backlog that is kept short looks like a link that is not busy: but where we had to wait, it is
 * what limits. */
static void await_room(PostcopySender *sender, Channel *bulk)
{
    uint64_t most = get_most_backlog(sender, bulk);
    uint64_t end = clock_now_ns() + LONGEST_WAIT_NS;
    gboolean waited = FALSE;

    while (channel_get_backlog_bytes(bulk) > most && clock_now_ns() < end) {
        clock_sleep_ns(NAP_NS);
        waited = TRUE;
    }
    if (!sender->options.link)
        return;
    sender->link = *sender->options.link;
    sender->link.busy = sender->link.busy || waited;
}

static PageSender *make_page_sender(PostcopySender *sender, Channel *bulk)
{
    const PostcopySenderOptions *options = &sender->options;
    PageSender *pages = page_sender_new(
        sender->source, bulk, &(PageSenderOptions){.workers = options->workers, .each_once = TRUE});

    page_sender_set_packing(pages, options->packing, options->with_lz4, options->with_zstd);
    if (options->link)
        page_sender_set_link(pages, &sender->link);
    return pages;
}

gboolean postcopy_sender_push(PostcopySender *sender, PostcopyBetween between, gpointer user,
                              GError **error)
{
    Channel *bulk = session_get_channel(sender->session, TRAFFIC_BULK);
    g_autoptr(PageSender) pages = make_page_sender(sender, bulk);
    g_autofree WorkBatch *batch = g_new(WorkBatch, 1);

    for (;;) {
        await_room(sender, bulk);
        if (between && !between(user, error))
            return FALSE;
        if (!gather(sender, batch))
            return page_sender_flush(pages, error);
        if (!page_sender_push(pages, batch, error))
            return FALSE;
    }
}

void postcopy_sender_get_counts(PostcopySender *sender, PostcopySenderCounts *ret)
{
    lock_guard(&sender->lock);

    *ret = sender->counts;
}

void postcopy_sender_copy_left(PostcopySender *sender, GPtrArray *sets)
{
    lock_guard(&sender->lock);

    for (guint i = 0; i < sets->len; i++) {
        page_set_clear(sets->pdata[i]);
        page_set_add_all(sets->pdata[i], sender->left->pdata[i]);
    }
}
