#include "transfer/guest_pages.h"

#include "base/lock_guard.h"
#include "base/page.h"

/* Zeroes written at a time. */
#define ZERO_CHUNK_PAGES 64u
/* Gathered for one write. */
#define BATCH_PIECES 1024u
/* Pages gathered to be read, patched and written back. */
#define BATCH_PAGES 64u
/* Pages of more segments are read and written back whole. */
#define FEW_SEGMENTS 4u

G_STATIC_ASSERT(BATCH_PIECES >= FEW_SEGMENTS);
G_STATIC_ASSERT(COPY_FRAME_MAX_PAGES >= BATCH_PAGES);

static const uint8_t zeroes[ZERO_CHUNK_PAGES * PAGE_BYTES];

/* --- regions ----------------------------------------------------------- */

static void init_regions(PageRegions *regions, const GuestMemory *memory)
{
    regions->count = memory->regions->len;
    regions->pages = g_new0(uint64_t, regions->count);
    regions->names = g_new0(char *, regions->count + 1);
    for (guint i = 0; i < regions->count; i++) {
        regions->pages[i] = guest_memory_get_region(memory, i)->pages;
        regions->names[i] = g_strdup(guest_memory_get_region(memory, i)->name);
    }
}

static void clear_regions(PageRegions *regions)
{
    g_free(regions->pages);
    g_strfreev(regions->names);
}

/* --- the source -------------------------------------------------------- */

typedef struct {
    PageSource head;
    PageRegions regions;
    GuestMemory *memory;
} GuestSource;

static gboolean source_read(PageSource *head, guint region, const PageSpan *spans, guint count,
                            uint8_t *buffer, GError **error)
{
    return guest_memory_read(((GuestSource *)head)->memory, region, spans, count, buffer, error);
}

static gboolean source_add_populated(PageSource *head, guint region, PageSet *set, GError **error)
{
    return guest_memory_add_populated(((GuestSource *)head)->memory, region, set, error);
}

static void source_free(PageSource *head)
{
    GuestSource *source = (GuestSource *)head;

    clear_regions(&source->regions);
    g_free(source);
}

PageSource *guest_source_new(GuestMemory *memory)
{
    static const PageSourceMethods methods = {source_read, source_add_populated, source_free};
    GuestSource *source = g_new0(GuestSource, 1);

    init_regions(&source->regions, memory);
    source->memory = memory;
    source->head = (PageSource){&methods, &source->regions};
    return &source->head;
}

/* --- the sink ---------------------------------------------------------- */

/* What a call needs that cannot lie on a stack; not touched before it is used. */
typedef struct {
    GuestPiece pieces[BATCH_PIECES];
    const PagePatch *patches[BATCH_PAGES];
    PageSpan spans[COPY_FRAME_MAX_PAGES];
    uint8_t pages[COPY_FRAME_MAX_PAGES * PAGE_BYTES];
} Scratch;

typedef struct {
    PageSink head;
    PageRegions regions;
    GuestMemory *memory;
    GAsyncQueue *scratches; /* those that no call uses: as many as there were threads */
    GMutex lock;
    GPtrArray *filled; /* a PageSet for each region: pages that may hold something */
} GuestSink;

static Scratch *take_scratch(GuestSink *sink)
{
    Scratch *scratch = g_async_queue_try_pop(sink->scratches);

    return scratch ? scratch : g_malloc(sizeof *scratch);
}

/* Before they are written: that may fail half-way. */
static void note_filled(GuestSink *sink, guint region, const PageSpan *spans, guint count)
{
    lock_guard(&sink->lock);

    for (guint i = 0; i < count; i++)
        page_set_add(sink->filled->pdata[region], spans[i].first, spans[i].count);
}

/* The next pages in [at, end) that may hold something, which they do no more. */
static gboolean take_filled(GuestSink *sink, guint region, uint64_t at, uint64_t end, PageSpan *ret)
{
    lock_guard(&sink->lock);
    PageSet *filled = sink->filled->pdata[region];
    PageSet until = {end, filled->words};

    if (!page_set_next_run(&until, at, ZERO_CHUNK_PAGES, &ret->first, &ret->count))
        return FALSE;
    page_set_remove(filled, ret->first, ret->count);
    return TRUE;
}

static gboolean sink_write(PageSink *head, guint region, const PageSpan *spans, guint count,
                           const uint8_t *buffer, GError **error)
{
    GuestSink *sink = (GuestSink *)head;

    note_filled(sink, region, spans, count);
    return guest_memory_write(sink->memory, region, spans, count, buffer, error);
}

static gboolean sink_zero(PageSink *head, guint region, PageSpan run, GError **error)
{
    GuestSink *sink = (GuestSink *)head;
    uint64_t end = run.first + run.count;
    PageSpan span;

    for (uint64_t at = run.first; take_filled(sink, region, at, end, &span);
         at = span.first + span.count)
        if (!guest_memory_write(sink->memory, region, &span, 1, zeroes, error))
            return FALSE;
    return TRUE;
}

/* Pages of few segments, from *at* on, as many as there is room for; returns their end. */
static guint gather_pieces(Scratch *scratch, const PagePatch *patches, guint at, guint count,
                           guint *ret_pieces)
{
    guint pieces = 0;

    for (; at < count; at++) {
        const SegmentList *segments = &patches[at].segments;
        const uint8_t *bytes = patches[at].bytes;

        if (segments->count > FEW_SEGMENTS)
            continue;
        if (pieces + segments->count > BATCH_PIECES)
            break;
        for (guint i = 0; i < segments->count; i++) {
            const Segment *segment = &segments->items[i];

            scratch->pieces[pieces++] = (GuestPiece){
                patches[at].page * PAGE_BYTES + segment->offset, segment->length, bytes};
            bytes += segment->length;
        }
    }
    *ret_pieces = pieces;
    return at;
}

static gboolean patch_few(GuestSink *sink, Scratch *scratch, guint region, const PagePatch *patches,
                          guint count, GError **error)
{
    guint pieces;

    for (guint at = 0; at < count;) {
        at = gather_pieces(scratch, patches, at, count, &pieces);
        if (!guest_memory_write_pieces(sink->memory, region, scratch->pieces, pieces, error))
            return FALSE;
    }
    return TRUE;
}

static gboolean patch_gathered(GuestSink *sink, Scratch *scratch, guint region, guint count,
                               GError **error)
{
    if (!guest_memory_read(sink->memory, region, scratch->spans, count, scratch->pages, error))
        return FALSE;
    for (guint i = 0; i < count; i++)
        segments_apply(&scratch->patches[i]->segments, scratch->patches[i]->bytes,
                       scratch->pages + (size_t)i * PAGE_BYTES);
    return guest_memory_write(sink->memory, region, scratch->spans, count, scratch->pages, error);
}

static gboolean patch_many(GuestSink *sink, Scratch *scratch, guint region,
                           const PagePatch *patches, guint count, GError **error)
{
    guint gathered = 0;

    for (guint i = 0; i < count; i++) {
        if (patches[i].segments.count <= FEW_SEGMENTS)
            continue;
        scratch->spans[gathered] = (PageSpan){patches[i].page, 1};
        scratch->patches[gathered++] = &patches[i];
        if (gathered == BATCH_PAGES) {
            if (!patch_gathered(sink, scratch, region, gathered, error))
                return FALSE;
            gathered = 0;
        }
    }
    return gathered == 0 || patch_gathered(sink, scratch, region, gathered, error);
}

static void note_patched(GuestSink *sink, guint region, const PagePatch *patches, guint count)
{
    lock_guard(&sink->lock);

    for (guint i = 0; i < count; i++)
        page_set_add(sink->filled->pdata[region], patches[i].page, 1);
}

static gboolean sink_patch(PageSink *head, guint region, const PagePatch *patches, guint count,
                           GError **error)
{
    GuestSink *sink = (GuestSink *)head;
    Scratch *scratch = take_scratch(sink);
    gboolean done;

    note_patched(sink, region, patches, count);
    done = patch_few(sink, scratch, region, patches, count, error) &&
           patch_many(sink, scratch, region, patches, count, error);
    g_async_queue_push(sink->scratches, scratch);
    return done;
}

static gboolean copy_pages(GuestSink *sink, Scratch *scratch, guint region, const CopyRun *runs,
                           guint count, GError **error)
{
    uint8_t *at = scratch->pages;

    for (guint i = 0; i < count; i++) {
        PageSpan source = {runs[i].source_first, runs[i].count};

        scratch->spans[i] = (PageSpan){runs[i].first, runs[i].count};
        if (!guest_memory_read(sink->memory, runs[i].source_region, &source, 1, at, error))
            return FALSE;
        at += runs[i].count * (size_t)PAGE_BYTES;
    }
    return sink_write(&sink->head, region, scratch->spans, count, scratch->pages, error);
}

static gboolean sink_copy(PageSink *head, guint region, const CopyRun *runs, guint count,
                          GError **error)
{
    GuestSink *sink = (GuestSink *)head;
    Scratch *scratch = take_scratch(sink);
    gboolean done = copy_pages(sink, scratch, region, runs, count, error);

    g_async_queue_push(sink->scratches, scratch);
    return done;
}

/* All of it is in place already, if there is still a place. */
static gboolean sink_seal(PageSink *head, uint32_t epoch, GError **error)
{
    return guest_memory_check_process(((GuestSink *)head)->memory, error);
}

static void sink_free(PageSink *head)
{
    GuestSink *sink = (GuestSink *)head;

    clear_regions(&sink->regions);
    g_async_queue_unref(sink->scratches);
    g_ptr_array_unref(sink->filled);
    g_mutex_clear(&sink->lock);
    g_free(sink);
}

/* Where that can't be told, all pages may be. */
static GPtrArray *find_filled(GuestMemory *memory)
{
    GPtrArray *filled = guest_memory_new_sets(memory);

    for (guint i = 0; i < filled->len; i++) {
        PageSet *set = filled->pdata[i];

        if (!guest_memory_add_populated(memory, i, set, NULL))
            page_set_add(set, 0, set->pages);
    }
    return filled;
}

PageSink *guest_sink_new(GuestMemory *memory)
{
    static const PageSinkMethods methods = {sink_write, sink_zero, sink_patch,
                                            sink_copy,  sink_seal, sink_free};
    GuestSink *sink = g_new0(GuestSink, 1);

    init_regions(&sink->regions, memory);
    sink->memory = memory;
    sink->scratches = g_async_queue_new_full(g_free);
    sink->filled = find_filled(memory);
    g_mutex_init(&sink->lock);
    sink->head = (PageSink){&methods, &sink->regions};
    return &sink->head;
}
