#include "transfer/page_applier.h"

#include "base/error.h"
#include "base/lock_guard.h"
#include "base/page.h"
#include "page/pack.h"
#include "page/pack_window.h"
#include "wire/copy_frame.h"
#include "wire/page_frame.h"
#include "wire/segment_frame.h"

/* A run of zeroes may be of all RAM: between so many pages it is seen whether to go on. */
#define ZERO_STEP_PAGES 4096u
/* Patches handed to the sink at once: as many as a batch of our sender has pages. */
#define PATCH_STEP_PAGES 256u
#define MOST_THREADS 4

G_STATIC_ASSERT(FRAME_SEGMENTS_MAX_BODY_BYTES >= PAGE_FRAME_MAX_RAW_PAGES * PAGE_BYTES);
G_STATIC_ASSERT(FRAME_SEGMENTS_MAX_BODY_BYTES >= SEED_FRAME_MAX_PAGES * PAGE_BYTES);

/* What a thread needs for the frame that it applies. */
typedef struct {
    PackContext *codecs;
    PageFrame pages;
    CopyFrame copies;
    SeedScratch seed;
    PageSpan spans[PAGE_FRAME_MAX_RUNS];
    PagePatch patches[PATCH_STEP_PAGES];
    uint8_t unpacked[FRAME_SEGMENTS_MAX_BODY_BYTES]; /* raw pages are less */
} ApplyScratch;

/* One frame on its way through the pool. */
typedef struct {
    Frame frame;
    gpointer owner;
} ApplyTask;

struct PageApplier {
    PageSink *sink;
    SeedReader *seed; /* NULL: none */
    PageApplierRelease release;
    gpointer user;
    GThreadPool *pool;
    GAsyncQueue *scratches; /* one for each thread */
    gboolean copying;       /* what was pushed last are COPIES */
    UnpackWindow *window;   /* NULL: it takes none */
    gint given_up;          /* atomic: what was pushed is not applied any more */
    GMutex lock;            /* protects all below */
    GCond idle;
    guint under_way;
    GError *failure; /* the first */
};

static gboolean is_given_up(PageApplier *applier, GError **error)
{
    if (!g_atomic_int_get(&applier->given_up))
        return FALSE;
    error_set(error, VMFERRY_ERROR_CANCELLED, "pages that were received are not applied any more");
    return TRUE;
}

static gboolean apply_zero_run(PageApplier *applier, guint region, const PageRun *run,
                               GError **error)
{
    for (uint64_t done = 0; done < run->count; done += ZERO_STEP_PAGES) {
        PageSpan step = {run->first + done, MIN(ZERO_STEP_PAGES, run->count - done)};

        if (is_given_up(applier, error) || !page_sink_zero(applier->sink, region, step, error))
            return FALSE;
        if (applier->seed)
            seed_reader_note_written(applier->seed, region, &step, 1);
    }
    return TRUE;
}

/* The pages of all RAW runs lie one after the other in the frame: one call. */
static gboolean apply_raw_runs(PageApplier *applier, ApplyScratch *scratch, GError **error)
{
    const PageFrame *pages = &scratch->pages;
    guint count = 0;

    for (guint i = 0; i < pages->run_count; i++)
        if (pages->runs[i].kind == PAGE_RUN_RAW)
            scratch->spans[count++] = (PageSpan){pages->runs[i].first, pages->runs[i].count};
    if (count > 0 &&
        !page_sink_write(applier->sink, pages->region, scratch->spans, count, pages->raw, error))
        return FALSE;
    if (applier->seed)
        seed_reader_note_written(applier->seed, pages->region, scratch->spans, count);
    return TRUE;
}

static gboolean decode_window(PageApplier *applier, const Frame *frame, ApplyScratch *scratch,
                              GError **error)
{
    const PageRegions *regions = applier->sink->regions;
    gboolean begins;
    uint32_t raw_pages;
    size_t packed_bytes;

    if (!applier->window) {
        error_set(error, VMFERRY_ERROR_INVALID, "PAGES_WINDOW where none is expected");
        return FALSE;
    }
    if (!page_frame_decode_window(frame->payload, frame->length, regions->pages, regions->count,
                                  &scratch->pages, &begins, &packed_bytes, &raw_pages, error))
        return FALSE;
    if (!unpack_window(applier->window, begins, scratch->pages.raw, packed_bytes, scratch->unpacked,
                       (size_t)raw_pages * PAGE_BYTES, error)) {
        g_prefix_error(error, "PAGES_WINDOW: ");
        return FALSE;
    }
    scratch->pages.raw = scratch->unpacked;
    return TRUE;
}

static gboolean decode_pages(PageApplier *applier, const Frame *frame, ApplyScratch *scratch,
                             GError **error)
{
    PackMethod method = frame->type == FRAME_PAGES_ZSTD ? PACK_ZSTD : PACK_LZ4;
    const PageRegions *regions = applier->sink->regions;
    uint32_t raw_pages;
    size_t packed_bytes;

    if (frame->type == FRAME_PAGES_WINDOW)
        return decode_window(applier, frame, scratch, error);
    if (frame->type == FRAME_PAGES)
        return page_frame_decode(frame->payload, frame->length, regions->pages, regions->count,
                                 &scratch->pages, error);
    if (!page_frame_decode_packed(frame->payload, frame->length, regions->pages, regions->count,
                                  &scratch->pages, &packed_bytes, &raw_pages, error))
        return FALSE;
    if (!unpack(scratch->codecs, method, scratch->pages.raw, packed_bytes, scratch->unpacked,
                (size_t)raw_pages * PAGE_BYTES, error)) {
        g_prefix_error(error, "PAGES: ");
        return FALSE;
    }
    scratch->pages.raw = scratch->unpacked;
    return TRUE;
}

static gboolean apply_pages(PageApplier *applier, const Frame *frame, ApplyScratch *scratch,
                            GError **error)
{
    const PageFrame *pages = &scratch->pages;

    if (!decode_pages(applier, frame, scratch, error) || !apply_raw_runs(applier, scratch, error))
        return FALSE;
    for (guint i = 0; i < pages->run_count; i++)
        if (pages->runs[i].kind == PAGE_RUN_ZERO &&
            !apply_zero_run(applier, pages->region, &pages->runs[i], error))
            return FALSE;
    return TRUE;
}

/* Walks over an unpacked body.  It was checked only as far as it has been read, so pages
 * before a malformed one are patched. */
static gboolean patch(PageApplier *applier, ApplyScratch *scratch, const SegmentFrameHead *head,
                      const uint8_t *body, GError **error)
{
    SegmentFrameBody walk = segment_frame_body(head, body, head->body_bytes,
                                               applier->sink->regions->pages[head->region]);
    g_autoptr(GError) malformed = NULL;
    gboolean more = TRUE;

    while (more) {
        PagePatch *patches = scratch->patches;
        guint count = 0;

        while (count < PATCH_STEP_PAGES &&
               (more = segment_frame_next(&walk, &patches[count].page, &patches[count].segments,
                                          &patches[count].bytes, &malformed)))
            count++;
        if (count > 0 && !page_sink_patch(applier->sink, head->region, patches, count, error))
            return FALSE;
    }
    if (!malformed)
        return TRUE;
    g_propagate_error(error, g_steal_pointer(&malformed));
    return FALSE;
}

static gboolean apply_segments(PageApplier *applier, const Frame *frame, ApplyScratch *scratch,
                               GError **error)
{
    SegmentFrameHead head;
    const uint8_t *body;
    size_t body_bytes;

    if (!segment_frame_decode_head(frame->payload, frame->length, applier->sink->regions->count,
                                   &head, &body, &body_bytes, error))
        return FALSE;
    if (head.method == PACK_NONE)
        return patch(applier, scratch, &head, body, error);
    if (!unpack(scratch->codecs, head.method, body, body_bytes, scratch->unpacked, head.body_bytes,
                error)) {
        g_prefix_error(error, "SEGMENTS: ");
        return FALSE;
    }
    return patch(applier, scratch, &head, scratch->unpacked, error);
}

static gboolean apply_copies(PageApplier *applier, const Frame *frame, ApplyScratch *scratch,
                             GError **error)
{
    const PageRegions *regions = applier->sink->regions;
    CopyFrame *copies = &scratch->copies;

    return copy_frame_decode(frame->payload, frame->length, regions->pages, regions->count, copies,
                             error) &&
           page_sink_copy(applier->sink, copies->region, copies->runs, copies->run_count, error);
}

static gboolean apply_seeded(PageApplier *applier, const Frame *frame, ApplyScratch *scratch,
                             GError **error)
{
    if (applier->seed)
        return seed_reader_apply(applier->seed, applier->sink, frame, &scratch->seed,
                                 scratch->unpacked, error);
    error_set(error, VMFERRY_ERROR_INVALID, "SEED_PAGES frame, and there is no seed");
    return FALSE;
}

static gboolean apply_frame(PageApplier *applier, const Frame *frame, ApplyScratch *scratch,
                            GError **error)
{
    switch (frame->type) {
    case FRAME_SEGMENTS:
        return apply_segments(applier, frame, scratch, error);
    case FRAME_COPIES:
        return apply_copies(applier, frame, scratch, error);
    case FRAME_SEED_PAGES:
        return apply_seeded(applier, frame, scratch, error);
    default:
        return apply_pages(applier, frame, scratch, error);
    }
}

static ApplyScratch *scratch_new(void)
{
    ApplyScratch *scratch = g_malloc(sizeof *scratch); /* not touched before it is used */

    scratch->codecs = pack_context_new();
    return scratch;
}

static void scratch_free(gpointer data)
{
    ApplyScratch *scratch = data;

    pack_context_free(scratch->codecs);
    g_free(scratch);
}

static void apply_task(PageApplier *applier, const ApplyTask *task)
{
    GError *error = NULL;
    ApplyScratch *scratch = g_async_queue_pop(applier->scratches);

    if (!is_given_up(applier, &error))
        apply_frame(applier, &task->frame, scratch, &error);
    if (error)
        g_atomic_int_set(&applier->given_up, 1);
    g_async_queue_push(applier->scratches, scratch);
    applier->release(task->owner, applier->user);
    g_mutex_lock(&applier->lock);
    if (error && !applier->failure)
        applier->failure = g_steal_pointer(&error);
    if (--applier->under_way == 0)
        g_cond_signal(&applier->idle);
    g_mutex_unlock(&applier->lock);
    g_clear_error(&error);
}

static void work(gpointer data, gpointer user)
{
    g_autofree ApplyTask *task = data;

    apply_task(user, task);
}

PageApplier *page_applier_new(PageSink *sink, PageApplierRelease release, gpointer user)
{
    PageApplier *applier = g_new0(PageApplier, 1);
    int threads = CLAMP((int)g_get_num_processors(), 1, MOST_THREADS);

    applier->sink = sink;
    applier->release = release;
    applier->user = user;
    g_mutex_init(&applier->lock);
    g_cond_init(&applier->idle);
    applier->scratches = g_async_queue_new_full(scratch_free);
    for (int i = 0; i < threads; i++)
        g_async_queue_push(applier->scratches, scratch_new());
    applier->pool = g_thread_pool_new(work, applier, threads, FALSE, NULL);
    return applier;
}

void page_applier_take_windows(PageApplier *applier)
{
    if (!applier->window)
        applier->window = unpack_window_new();
}

void page_applier_set_seed(PageApplier *applier, SeedReader *seed)
{
    applier->seed = seed;
}

void page_applier_free(PageApplier *applier)
{
    if (!applier)
        return;
    g_atomic_int_set(&applier->given_up, 1);
    g_thread_pool_free(applier->pool, FALSE, TRUE);
    g_async_queue_unref(applier->scratches);
    unpack_window_free(applier->window);
    g_clear_error(&applier->failure);
    g_cond_clear(&applier->idle);
    g_mutex_clear(&applier->lock);
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

gboolean page_applier_push(PageApplier *applier, const Frame *frame, gpointer owner, GError **error)
{
    ApplyTask *task;

    if (!await_sources(applier, frame->type, error) || !count_in(applier, error)) {
        applier->release(owner, applier->user);
        return FALSE;
    }
    if (frame->type == FRAME_PAGES_WINDOW) {
        apply_task(applier, &(ApplyTask){*frame, owner});
        return TRUE;
    }
    task = g_new(ApplyTask, 1);
    *task = (ApplyTask){*frame, owner};
    g_thread_pool_push(applier->pool, task, NULL);
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
