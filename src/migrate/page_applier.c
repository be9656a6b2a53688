#include "migrate/page_applier.h"

#include "base/error.h"
#include "base/lock_guard.h"
#include "page/lz4_block.h"
#include "wire/page_frame.h"

#define ZERO_CHUNK_PAGES 64u
#define MOST_THREADS 4

static const uint8_t zeroes[ZERO_CHUNK_PAGES * GUEST_PAGE_BYTES];

struct PageApplier {
    GuestMemory *memory;
    FrameQueue *queue;
    uint64_t *region_pages;
    GThreadPool *pool;
    GAsyncQueue *scratch; /* a buffer for unpacked pages for each thread */
    GMutex lock;          /* protects all below */
    GCond idle;
    guint under_way;
    GError *failure; /* the first */
};

static gboolean apply_zero_run(PageApplier *applier, guint region, const PageRun *run,
                               GError **error)
{
    for (uint64_t done = 0; done < run->count;) {
        PageSpan span = {run->first + done, MIN(ZERO_CHUNK_PAGES, run->count - done)};

        if (!guest_memory_write(applier->memory, region, &span, 1, zeroes, error))
            return FALSE;
        done += span.count;
    }
    return TRUE;
}

/* The pages of all RAW runs lie one after the other in the frame: one call. */
static gboolean apply_raw_runs(PageApplier *applier, const PageFrame *pages, GError **error)
{
    g_autofree PageSpan *spans = g_new(PageSpan, pages->run_count);
    guint count = 0;

    for (guint i = 0; i < pages->run_count; i++)
        if (pages->runs[i].kind == PAGE_RUN_RAW)
            spans[count++] = (PageSpan){pages->runs[i].first, pages->runs[i].count};
    return count == 0 ||
           guest_memory_write(applier->memory, pages->region, spans, count, pages->raw, error);
}

static gboolean decode(PageApplier *applier, const Frame *frame, uint8_t *scratch, PageFrame *pages,
                       GError **error)
{
    uint32_t raw_pages;
    size_t packed_bytes;

    if (frame->type == FRAME_PAGES)
        return page_frame_decode(frame->payload, frame->length, applier->region_pages,
                                 applier->memory->regions->len, pages, error);
    if (!page_frame_decode_packed(frame->payload, frame->length, applier->region_pages,
                                  applier->memory->regions->len, pages, &packed_bytes, &raw_pages,
                                  error) ||
        !lz4_unpack(pages->raw, packed_bytes, scratch, (size_t)raw_pages * WIRE_PAGE_BYTES, error))
        return FALSE;
    pages->raw = scratch;
    return TRUE;
}

static gboolean apply_frame(PageApplier *applier, const Frame *frame, uint8_t *scratch,
                            GError **error)
{
    g_autofree PageFrame *pages = g_new(PageFrame, 1);

    if (!decode(applier, frame, scratch, pages, error) || !apply_raw_runs(applier, pages, error))
        return FALSE;
    for (guint i = 0; i < pages->run_count; i++)
        if (pages->runs[i].kind == PAGE_RUN_ZERO &&
            !apply_zero_run(applier, pages->region, &pages->runs[i], error))
            return FALSE;
    return TRUE;
}

static void work(gpointer data, gpointer user)
{
    PageApplier *applier = user;
    FrameSlot *slot = data;
    GError *error = NULL;
    uint8_t *scratch = g_async_queue_pop(applier->scratch);

    apply_frame(applier, &slot->frame, scratch, &error);
    g_async_queue_push(applier->scratch, scratch);
    frame_queue_release(applier->queue, slot);
    g_mutex_lock(&applier->lock);
    if (error && !applier->failure)
        applier->failure = g_steal_pointer(&error);
    if (--applier->under_way == 0)
        g_cond_signal(&applier->idle);
    g_mutex_unlock(&applier->lock);
    g_clear_error(&error);
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
    g_mutex_init(&applier->lock);
    g_cond_init(&applier->idle);
    applier->scratch = g_async_queue_new_full(g_free);
    for (int i = 0; i < threads; i++)
        g_async_queue_push(applier->scratch, g_malloc(PAGE_FRAME_MAX_RAW_PAGES * WIRE_PAGE_BYTES));
    applier->pool = g_thread_pool_new(work, applier, threads, FALSE, NULL);
    return applier;
}

void page_applier_free(PageApplier *applier)
{
    if (!applier)
        return;
    g_thread_pool_free(applier->pool, FALSE, TRUE);
    g_async_queue_unref(applier->scratch);
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

gboolean page_applier_push(PageApplier *applier, FrameSlot *slot, GError **error)
{
    if (!count_in(applier, error)) {
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
