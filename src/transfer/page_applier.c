#include "transfer/page_applier.h"

#include "base/error.h"
#include "base/lock_guard.h"
#include "base/page.h"
#include "transfer/page_patcher.h"
#include "page/pack.h"
#include "wire/copy_frame.h"
#include "wire/page_frame.h"
#include "wire/segment_frame.h"

#define ZERO_CHUNK_PAGES 64u
#define MOST_THREADS 4

G_STATIC_ASSERT(FRAME_SEGMENTS_MAX_BODY_BYTES >= PAGE_FRAME_MAX_RAW_PAGES * PAGE_BYTES);
G_STATIC_ASSERT((int)SEGMENT_FRAME_PLAIN == (int)PACK_NONE &&
                (int)SEGMENT_FRAME_LZ4 == (int)PACK_LZ4 &&
                (int)SEGMENT_FRAME_ZSTD == (int)PACK_ZSTD);
G_STATIC_ASSERT(COPY_FRAME_MAX_PAGES <= PAGE_FRAME_MAX_RUNS &&
                COPY_FRAME_MAX_PAGES * PAGE_BYTES <= FRAME_SEGMENTS_MAX_BODY_BYTES);

static const uint8_t zeroes[ZERO_CHUNK_PAGES * PAGE_BYTES];

/* What a thread needs for the frame that it applies. */
typedef struct {
    PackContext *codecs;
    PagePatcher *patcher;
    PageFrame pages;
    CopyFrame copies;
    PageSpan spans[PAGE_FRAME_MAX_RUNS];
    uint8_t unpacked[FRAME_SEGMENTS_MAX_BODY_BYTES]; /* raw pages are less */
} ApplyScratch;

struct PageApplier {
    GuestMemory *memory;
    FrameQueue *queue;
    uint64_t *region_pages;
    GThreadPool *pool;
    GAsyncQueue *benches; /* a ApplyScratch for each thread */
    gboolean copying;     /* what was pushed last are COPIES */
    gint given_up;        /* atomic: what is queued is not applied any more */
    GMutex held_lock;
    GPtrArray *held; /* PageSet a region: pages that may hold something */
    GMutex lock;     /* protects all below */
    GCond idle;
    guint under_way;
    GError *failure; /* the first */
};

static void hold(PageApplier *applier, guint region, const PageSpan *spans, guint count)
{
    lock_guard(&applier->held_lock);

    for (guint i = 0; i < count; i++)
        page_set_add(applier->held->pdata[region], spans[i].first, spans[i].count);
}

/* The next pages in [at, end) that may hold something, which they do no more. */
static gboolean take_deferred(PageApplier *applier, guint region, uint64_t at, uint64_t end,
                              PageSpan *ret)
{
    lock_guard(&applier->held_lock);
    PageSet *held = applier->held->pdata[region];
    PageSet until = {end, held->words};

    if (!page_set_next_run(&until, at, ZERO_CHUNK_PAGES, &ret->first, &ret->count))
        return FALSE;
    page_set_remove(held, ret->first, ret->count);
    return TRUE;
}

static gboolean is_given_up(PageApplier *applier, GError **error)
{
    if (!g_atomic_int_get(&applier->given_up))
        return FALSE;
    error_set(error, VMFERRY_ERROR_CANCELLED, "pages that were received are not applied any more");
    return TRUE;
}

/* A few bytes name as many pages as the guest has: only those are written that
 * have cost the peer something before. */
static gboolean apply_zero_run(PageApplier *applier, guint region, const PageRun *run,
                               GError **error)
{
    uint64_t end = run->first + run->count;
    PageSpan span;

    for (uint64_t at = run->first; take_deferred(applier, region, at, end, &span);
         at = span.first + span.count)
        if (is_given_up(applier, error) ||
            !guest_memory_write(applier->memory, region, &span, 1, zeroes, error))
            return FALSE;
    return TRUE;
}

/* The pages of all RAW runs lie one after the other in the frame: one call. */
static gboolean apply_raw_runs(PageApplier *applier, ApplyScratch *bench, GError **error)
{
    const PageFrame *pages = &bench->pages;
    guint count = 0;

    for (guint i = 0; i < pages->run_count; i++)
        if (pages->runs[i].kind == PAGE_RUN_RAW)
            bench->spans[count++] = (PageSpan){pages->runs[i].first, pages->runs[i].count};
    hold(applier, pages->region, bench->spans, count);
    return count == 0 || guest_memory_write(applier->memory, pages->region, bench->spans, count,
                                            pages->raw, error);
}

static gboolean decode_pages(PageApplier *applier, const Frame *frame, ApplyScratch *bench,
                             GError **error)
{
    PackMethod method = frame->type == FRAME_PAGES_ZSTD ? PACK_ZSTD : PACK_LZ4;
    uint32_t raw_pages;
    size_t packed_bytes;

    if (frame->type == FRAME_PAGES)
        return page_frame_decode(frame->payload, frame->length, applier->region_pages,
                                 applier->memory->regions->len, &bench->pages, error);
    if (!page_frame_decode_packed(frame->payload, frame->length, applier->region_pages,
                                  applier->memory->regions->len, &bench->pages, &packed_bytes,
                                  &raw_pages, error))
        return FALSE;
    if (!unpack(bench->codecs, method, bench->pages.raw, packed_bytes, bench->unpacked,
                (size_t)raw_pages * PAGE_BYTES, error)) {
        g_prefix_error(error, "PAGES: ");
        return FALSE;
    }
    bench->pages.raw = bench->unpacked;
    return TRUE;
}

static gboolean apply_pages(PageApplier *applier, const Frame *frame, ApplyScratch *bench,
                            GError **error)
{
    const PageFrame *pages = &bench->pages;

    if (!decode_pages(applier, frame, bench, error) || !apply_raw_runs(applier, bench, error))
        return FALSE;
    for (guint i = 0; i < pages->run_count; i++)
        if (pages->runs[i].kind == PAGE_RUN_ZERO &&
            !apply_zero_run(applier, pages->region, &pages->runs[i], error))
            return FALSE;
    return TRUE;
}

static gboolean patch(PageApplier *applier, PagePatcher *patcher, const SegmentFrameHead *head,
                      const uint8_t *body, GError **error)
{
    gboolean done = page_patcher_apply(patcher, head, body, error);
    guint count;
    const uint64_t *pages = page_patcher_get_pages(patcher, &count);
    lock_guard(&applier->held_lock);

    for (guint i = 0; i < count; i++)
        page_set_add(applier->held->pdata[head->region], pages[i], 1);
    return done;
}

static gboolean apply_segments(PageApplier *applier, const Frame *frame, ApplyScratch *bench,
                               GError **error)
{
    SegmentFrameHead head;
    const uint8_t *body;
    size_t body_bytes;

    if (!segment_frame_decode_head(frame->payload, frame->length, applier->memory->regions->len,
                                   &head, &body, &body_bytes, error))
        return FALSE;
    if (head.method == SEGMENT_FRAME_PLAIN)
        return patch(applier, bench->patcher, &head, body, error);
    if (!unpack(bench->codecs, (PackMethod)head.method, body, body_bytes, bench->unpacked,
                head.body_bytes, error)) {
        g_prefix_error(error, "SEGMENTS: ");
        return FALSE;
    }
    return patch(applier, bench->patcher, &head, bench->unpacked, error);
}

static gboolean apply_copies(PageApplier *applier, const Frame *frame, ApplyScratch *bench,
                             GError **error)
{
    const CopyFrame *copies = &bench->copies;
    uint8_t *at = bench->unpacked;

    if (!copy_frame_decode(frame->payload, frame->length, applier->region_pages,
                           applier->memory->regions->len, &bench->copies, error))
        return FALSE;
    for (guint i = 0; i < copies->run_count; i++) {
        const CopyRun *run = &copies->runs[i];
        PageSpan source = {run->source_first, run->count};

        bench->spans[i] = (PageSpan){run->first, run->count};
        if (!guest_memory_read(applier->memory, run->source_region, &source, 1, at, error))
            return FALSE;
        at += run->count * (size_t)PAGE_BYTES;
    }
    hold(applier, copies->region, bench->spans, copies->run_count);
    return guest_memory_write(applier->memory, copies->region, bench->spans, copies->run_count,
                              bench->unpacked, error);
}

static gboolean apply_frame(PageApplier *applier, const Frame *frame, ApplyScratch *bench,
                            GError **error)
{
    switch (frame->type) {
    case FRAME_SEGMENTS:
        return apply_segments(applier, frame, bench, error);
    case FRAME_COPIES:
        return apply_copies(applier, frame, bench, error);
    default:
        return apply_pages(applier, frame, bench, error);
    }
}

static ApplyScratch *bench_new(GuestMemory *memory)
{
    ApplyScratch *bench = g_malloc(sizeof *bench); /* not touched before it is used */

    bench->codecs = pack_context_new();
    bench->patcher = page_patcher_new(memory);
    return bench;
}

static void bench_free(gpointer data)
{
    ApplyScratch *bench = data;

    pack_context_free(bench->codecs);
    page_patcher_free(bench->patcher);
    g_free(bench);
}

static void work(gpointer data, gpointer user)
{
    PageApplier *applier = user;
    FrameSlot *slot = data;
    GError *error = NULL;
    ApplyScratch *bench = g_async_queue_pop(applier->benches);

    if (!is_given_up(applier, &error))
        apply_frame(applier, &slot->frame, bench, &error);
    if (error)
        g_atomic_int_set(&applier->given_up, 1);
    g_async_queue_push(applier->benches, bench);
    frame_queue_release(applier->queue, slot);
    g_mutex_lock(&applier->lock);
    if (error && !applier->failure)
        applier->failure = g_steal_pointer(&error);
    if (--applier->under_way == 0)
        g_cond_signal(&applier->idle);
    g_mutex_unlock(&applier->lock);
    g_clear_error(&error);
}

/* Where that can't be told, all pages may. */
static GPtrArray *find_deferred(GuestMemory *memory)
{
    GPtrArray *held = guest_memory_new_sets(memory);

    for (guint i = 0; i < held->len; i++) {
        PageSet *set = held->pdata[i];

        if (!guest_memory_add_populated(memory, i, set, NULL))
            page_set_add(set, 0, set->pages);
    }
    return held;
}

PageApplier *page_applier_new(GuestMemory *memory, FrameQueue *queue)
{
    PageApplier *applier = g_new0(PageApplier, 1);
    int threads = CLAMP((int)g_get_num_processors(), 1, MOST_THREADS);

    applier->memory = memory;
    applier->queue = queue;
    applier->region_pages = g_new0(uint64_t, memory->regions->len);
    for (guint i = 0; i < memory->regions->len; i++)
        applier->region_pages[i] = guest_memory_get_region(memory, i)->pages;
    applier->held = find_deferred(memory);
    g_mutex_init(&applier->held_lock);
    g_mutex_init(&applier->lock);
    g_cond_init(&applier->idle);
    applier->benches = g_async_queue_new_full(bench_free);
    for (int i = 0; i < threads; i++)
        g_async_queue_push(applier->benches, bench_new(memory));
    applier->pool = g_thread_pool_new(work, applier, threads, FALSE, NULL);
    return applier;
}

void page_applier_free(PageApplier *applier)
{
    if (!applier)
        return;
    g_atomic_int_set(&applier->given_up, 1);
    g_thread_pool_free(applier->pool, FALSE, TRUE);
    g_ptr_array_unref(applier->held);
    g_mutex_clear(&applier->held_lock);
    g_async_queue_unref(applier->benches);
    g_clear_error(&applier->failure);
    g_cond_clear(&applier->idle);
    g_mutex_clear(&applier->lock);
    g_free(applier->region_pages);
    g_free(applier);
}

/* FALSE where something has failed already. */
static gboolean count_in(PageApplier *applier, GError **error)
{
    lock_guard(&applier->lock);

    if (applier->failure) {
        g_propagate_error(error, g_error_copy(applier->failure));
        return FALSE;
    }
    applier->under_way++;
    return TRUE;
}

/* Copies are made of pages that are in place. */
static gboolean await_sources(PageApplier *applier, FrameType type, GError **error)
{
    gboolean copying = type == FRAME_COPIES;

    if (copying == applier->copying)
        return TRUE;
    applier->copying = copying;
    return page_applier_drain(applier, error);
}

gboolean page_applier_push(PageApplier *applier, FrameSlot *slot, GError **error)
{
    if (!await_sources(applier, slot->frame.type, error) || !count_in(applier, error)) {
        frame_queue_release(applier->queue, slot);
        return FALSE;
    }
    g_thread_pool_push(applier->pool, slot, NULL);
    return TRUE;
}

gboolean page_applier_drain(PageApplier *applier, GError **error)
{
    lock_guard(&applier->lock);

    while (applier->under_way > 0)
        g_cond_wait(&applier->idle, &applier->lock);
    if (!applier->failure)
        return TRUE;
    g_propagate_error(error, g_error_copy(applier->failure));
    return FALSE;
}
