#include "transfer/delta_store.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/lock_guard.h"
#include "base/page.h"
#include "transfer/delta_files.h"

#define HEAD_NAME "head"
#define CONTENTS_NAME "contents"
#define INDEX_NAME "index"
#define COMMITTED_NAME "committed"
#define MAX_HEAD_BYTES (1u << 20)
/* Pages that a call reads, changes and writes at a time. */
#define BATCH_PAGES COPY_FRAME_MAX_PAGES

/* Where the pages of a region are: DELTA_PLACE_NONE, DELTA_PLACE_ZERO, or a place. */
typedef struct {
    uint64_t pages;
    uint32_t *committed; /* in the mapped index */
    uint32_t *staged;    /* all NONE without a stage */
    PageSet *present;    /* that are committed */
} Region;

/* Pages in places that follow one another. */
typedef struct {
    uint32_t place;
    uint32_t count;
} Places;

typedef struct {
    PageSpan spans[BATCH_PAGES];
    const PagePatch *patches[BATCH_PAGES];
    uint8_t pages[BATCH_PAGES * PAGE_BYTES];
} Scratch;

struct DeltaStore {
    PageSource source; /* of what is committed */
    PageSink sink;     /* of what is staged */
    char *directory;
    DeltaHead *head;
    uint64_t total_pages;
    int contents;
    uint32_t *index; /* mapped */
    Region *regions;
    DeltaRecord *committed; /* without its runs; NULL: none yet */
    PageSource *bottom;     /* borrowed; may be NULL */
    GAsyncQueue *scratches; /* those that no call uses: as many as there were threads */

    GMutex lock;   /* protects all below, and what is staged */
    PageSet *free; /* places, counted from DELTA_PLACE_FIRST, below *made*, that hold nothing */
    uint64_t free_count, made;
    uint64_t cursor;      /* where a search for free ones begins */
    DeltaRecord *stage;   /* NULL: none */
    gboolean stage_holes; /* something of it could not be written */
};

static DeltaStore *store_of_source(PageSource *source)
{
    return (DeltaStore *)((char *)source - G_STRUCT_OFFSET(DeltaStore, source));
}

static DeltaStore *store_of_sink(PageSink *sink)
{
    return (DeltaStore *)((char *)sink - G_STRUCT_OFFSET(DeltaStore, sink));
}

static char *path_of(const char *directory, const char *name)
{
    return g_build_filename(directory, name, NULL);
}

static uint64_t most_places(const DeltaStore *store)
{
    return 2 * store->total_pages;
}

/* --- contents -------------------------------------------------------------------------- */

static off_t offset_of(uint32_t place)
{
    return (off_t)((place - DELTA_PLACE_FIRST) * PAGE_BYTES);
}

static gboolean write_places(DeltaStore *store, Places to, const uint8_t *buffer, GError **error)
{
    size_t left = to.count * PAGE_BYTES;
    off_t at = offset_of(to.place);

    while (left > 0) {
        ssize_t done = pwrite(store->contents, buffer, left, at);

        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0) {
            error_set_errno(error, done < 0 ? errno : ENOSPC, "write pages to %s",
                            store->directory);
            return FALSE;
        }
        buffer += done;
        left -= (size_t)done;
        at += done;
    }
    return TRUE;
}

static gboolean read_places(DeltaStore *store, Places from, uint8_t *buffer, GError **error)
{
    size_t left = from.count * PAGE_BYTES;
    off_t at = offset_of(from.place);

    while (left > 0) {
        ssize_t done = pread(store->contents, buffer, left, at);

        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0) {
            error_set_errno(error, done < 0 ? errno : EIO, "read pages from %s", store->directory);
            return FALSE;
        }
        buffer += done;
        left -= (size_t)done;
        at += done;
    }
    return TRUE;
}

/* Of at most *most* pages: how many from the first one on are in places that follow one another,
 * are zero, or are nowhere. */
static Places find_places(const uint32_t *index, uint64_t most)
{
    uint32_t place = index[0], step = place >= DELTA_PLACE_FIRST;
    uint32_t count = 1;

    most = MIN(most, G_MAXUINT32);
    while (count < most && index[count] == place + step * count)
        count++;
    return (Places){place, count};
}

/* --- places ---------------------------------------------------------------------------- */

static void put_free(DeltaStore *store, uint32_t place)
{
    page_set_add(store->free, place - DELTA_PLACE_FIRST, 1);
    store->free_count++;
}

/* With the lock held: up to *most* places that follow one another. */
static gboolean take_free(DeltaStore *store, uint64_t most, Places *ret, GError **error)
{
    PageSet made = {store->made, store->free->words};
    uint64_t first, count;

    if (store->free_count > 0 && (page_set_next_run(&made, store->cursor, most, &first, &count) ||
                                  page_set_next_run(&made, 0, most, &first, &count))) {
        page_set_remove(store->free, first, count);
        store->free_count -= count;
    } else {
        first = store->made;
        count = MIN(most, most_places(store) - store->made);
        store->made += count;
    }
    store->cursor = first + count;
    *ret = (Places){(uint32_t)(first + DELTA_PLACE_FIRST), (uint32_t)count};
    if (count > 0)
        return TRUE;
    error_set(error, VMFERRY_ERROR_NO_SPACE, "%s: all places are in use", store->directory);
    return FALSE;
}

/* --- the stage ------------------------------------------------------------------------- */

static DeltaRecord *record_new(uint64_t epoch)
{
    DeltaRecord *record = g_new0(DeltaRecord, 1);

    record->epoch = epoch;
    record->runs = g_array_new(FALSE, FALSE, sizeof(DeltaRun));
    return record;
}

/* With the lock held. */
static gboolean add_run(DeltaStore *store, const DeltaRun *run, GError **error)
{
    GArray *runs = store->stage->runs;
    DeltaRun *last = runs->len > 0 ? &g_array_index(runs, DeltaRun, runs->len - 1) : NULL;

    if (last && last->region == run->region && last->first + last->count == run->first &&
        last->place >= DELTA_PLACE_FIRST && last->place + last->count == run->place) {
        last->count += run->count;
        return TRUE;
    }
    if (runs->len == DELTA_MAX_RUNS) {
        error_set(error, VMFERRY_ERROR_NO_SPACE, "%s: the epoch is too large", store->directory);
        return FALSE;
    }
    g_array_append_vals(runs, run, 1);
    return TRUE;
}

static gboolean check_stage(DeltaStore *store, GError **error)
{
    if (store->stage)
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "%s: no epoch is being staged", store->directory);
    return FALSE;
}

/* New places for pages of which none is staged in one. */
static gboolean take_places(DeltaStore *store, guint region, PageSpan span, Places *ret,
                            GError **error)
{
    uint32_t *staged = store->regions[region].staged + span.first;
    uint64_t most = 1;
    DeltaRun run;

    while (most < span.count && staged[most] < DELTA_PLACE_FIRST)
        most++;
    if (!take_free(store, most, ret, error))
        return FALSE;
    run = (DeltaRun){region, ret->place, span.first, ret->count};
    if (!add_run(store, &run, error)) {
        for (uint32_t i = 0; i < ret->count; i++)
            put_free(store, ret->place + i);
        return FALSE;
    }
    for (uint32_t i = 0; i < ret->count; i++)
        staged[i] = ret->place + i;
    return TRUE;
}

/* Where the first pages of *span* are to be written; at least one. */
static gboolean begin_write(DeltaStore *store, guint region, PageSpan span, Places *ret,
                            GError **error)
{
    lock_guard(&store->lock);
    const uint32_t *staged = store->regions[region].staged + span.first;

    if (!check_stage(store, error))
        return FALSE;
    if (staged[0] < DELTA_PLACE_FIRST)
        return take_places(store, region, span, ret, error);
    *ret = find_places(staged, span.count);
    return TRUE;
}

static gboolean note_hole(DeltaStore *store)
{
    lock_guard(&store->lock);
    store->stage_holes = TRUE;
    return FALSE;
}

/* Spans that get places one behind the other are written at once. */
static gboolean write_spans(DeltaStore *store, guint region, const PageSpan *spans, guint count,
                            const uint8_t *buffer, GError **error)
{
    Places pending = {DELTA_PLACE_FIRST, 0};

    for (guint i = 0; i < count; i++) {
        for (uint64_t done = 0; done < spans[i].count;) {
            PageSpan left = {spans[i].first + done, spans[i].count - done};
            Places next;

            if (!begin_write(store, region, left, &next, error))
                return FALSE;
            done += next.count;
            if (pending.place + pending.count == next.place) {
                pending.count += next.count;
                continue;
            }
            if (!write_places(store, pending, buffer, error))
                return FALSE;
            buffer += pending.count * PAGE_BYTES;
            pending = next;
        }
    }
    return write_places(store, pending, buffer, error);
}

static gboolean stage_write(PageSink *sink, guint region, const PageSpan *spans, guint count,
                            const uint8_t *buffer, GError **error)
{
    DeltaStore *store = store_of_sink(sink);

    return write_spans(store, region, spans, count, buffer, error) || note_hole(store);
}

static gboolean stage_zero(PageSink *sink, guint region, PageSpan span, GError **error)
{
    DeltaStore *store = store_of_sink(sink);
    lock_guard(&store->lock);
    const DeltaRun run = {region, DELTA_PLACE_ZERO, span.first, span.count};
    uint32_t *staged = store->regions[region].staged + span.first;

    if (span.count == 0)
        return TRUE;
    if (!check_stage(store, error) || !add_run(store, &run, error)) {
        store->stage_holes = TRUE;
        return FALSE;
    }
    for (uint64_t i = 0; i < span.count; i++)
        staged[i] = DELTA_PLACE_ZERO;
    return TRUE;
}

/* --- what pages hold before they are changed ------------------------------------------- */

static Scratch *take_scratch(DeltaStore *store)
{
    Scratch *scratch = g_async_queue_try_pop(store->scratches);

    return scratch ? scratch : g_malloc(sizeof *scratch);
}

static Places find_current(DeltaStore *store, guint region, uint64_t page)
{
    lock_guard(&store->lock);
    const Region *at = &store->regions[region];
    uint32_t staged = at->staged[page];

    return (Places){staged != DELTA_PLACE_NONE ? staged : at->committed[page], 1};
}

static gboolean read_bottom(DeltaStore *store, guint region, const PageSpan *spans, guint count,
                            uint8_t *buffer, GError **error)
{
    if (count == 0)
        return TRUE;
    if (store->bottom)
        return page_source_read(store->bottom, region, spans, count, buffer, error);
    error_set(error, VMFERRY_ERROR_INVALID,
              "%s: page %" PRIu64 " of %s is not there, and nothing is below", store->directory,
              spans[0].first, store->head->regions.names[region]);
    return FALSE;
}

static gboolean read_place(DeltaStore *store, Places at, uint8_t *buffer, GError **error)
{
    if (at.place >= DELTA_PLACE_FIRST)
        return read_places(store, at, buffer, error);
    memset(buffer, 0, at.count * PAGE_BYTES);
    return TRUE;
}

/* Puts those of the bottom source first, to read them at once, and the others last; their order is
 * that of scratch->spans and scratch->patches then. */
static gboolean gather_patched(DeltaStore *store, Scratch *scratch, guint region,
                               const PagePatch *patches, guint count, GError **error)
{
    guint from_bottom = 0, behind = count;

    for (guint i = 0; i < count; i++) {
        Places at = find_current(store, region, patches[i].page);
        guint slot = at.place == DELTA_PLACE_NONE ? from_bottom++ : --behind;

        scratch->spans[slot] = (PageSpan){patches[i].page, 1};
        scratch->patches[slot] = &patches[i];
        if (at.place != DELTA_PLACE_NONE &&
            !read_place(store, at, scratch->pages + slot * PAGE_BYTES, error))
            return FALSE;
    }
    return read_bottom(store, region, scratch->spans, from_bottom, scratch->pages, error);
}

static gboolean patch_batch(DeltaStore *store, Scratch *scratch, guint region,
                            const PagePatch *patches, guint count, GError **error)
{
    if (!gather_patched(store, scratch, region, patches, count, error))
        return FALSE;
    for (guint i = 0; i < count; i++)
        segments_apply(&scratch->patches[i]->segments, scratch->patches[i]->bytes,
                       scratch->pages + i * PAGE_BYTES);
    return write_spans(store, region, scratch->spans, count, scratch->pages, error);
}

static gboolean stage_patch(PageSink *sink, guint region, const PagePatch *patches, guint count,
                            GError **error)
{
    DeltaStore *store = store_of_sink(sink);
    Scratch *scratch = take_scratch(store);
    gboolean done = TRUE;

    for (guint at = 0; done && at < count; at += BATCH_PAGES)
        done =
            patch_batch(store, scratch, region, patches + at, MIN(count - at, BATCH_PAGES), error);
    g_async_queue_push(store->scratches, scratch);
    return done || note_hole(store);
}

static gboolean read_current(DeltaStore *store, guint region, uint64_t page, uint8_t *buffer,
                             GError **error)
{
    Places at = find_current(store, region, page);
    PageSpan span = {page, 1};

    return at.place == DELTA_PLACE_NONE ? read_bottom(store, region, &span, 1, buffer, error)
                                        : read_place(store, at, buffer, error);
}

static gboolean copy_runs(DeltaStore *store, Scratch *scratch, guint region, const CopyRun *runs,
                          guint count, GError **error)
{
    uint8_t *at = scratch->pages;

    for (guint i = 0; i < count; i++) {
        scratch->spans[i] = (PageSpan){runs[i].first, runs[i].count};
        for (uint32_t k = 0; k < runs[i].count; k++, at += PAGE_BYTES)
            if (!read_current(store, runs[i].source_region, runs[i].source_first + k, at, error))
                return FALSE;
    }
    return write_spans(store, region, scratch->spans, count, scratch->pages, error);
}

static gboolean stage_copy(PageSink *sink, guint region, const CopyRun *runs, guint count,
                           GError **error)
{
    DeltaStore *store = store_of_sink(sink);
    Scratch *scratch = take_scratch(store);
    gboolean done = copy_runs(store, scratch, region, runs, count, error);

    g_async_queue_push(store->scratches, scratch);
    return done || note_hole(store);
}

static gboolean stage_seal(PageSink *sink, uint32_t epoch, GError **error)
{
    return TRUE;
}

static void sink_free_nothing(PageSink *sink)
{
}

gboolean delta_stage_read(DeltaStore *store, guint region, uint64_t page, uint8_t *buffer,
                          GError **error)
{
    if (region >= store->head->regions.count || page >= store->head->regions.pages[region]) {
        error_set(error, VMFERRY_ERROR_INVALID, "page %" PRIu64 " of region %u is not there", page,
                  region);
        return FALSE;
    }
    if (find_current(store, region, page).place != DELTA_PLACE_NONE || store->bottom)
        return read_current(store, region, page, buffer, error);
    memset(buffer, 0, PAGE_BYTES); /* it was never sent, so it never had content */
    return TRUE;
}

PageSink *delta_stage_get_sink(DeltaStore *store)
{
    return &store->sink;
}

gboolean delta_stage_begin(DeltaStore *store, uint64_t epoch, GError **error)
{
    if (store->stage || (store->committed && epoch <= store->committed->epoch)) {
        error_set(error, VMFERRY_ERROR_INVALID,
                  "%s: epoch %" PRIu64 " cannot follow epoch %" PRIu64 "%s", store->directory,
                  epoch, store->committed ? store->committed->epoch : 0,
                  store->stage ? " while another is being staged" : "");
        return FALSE;
    }
    store->stage = record_new(epoch);
    store->stage_holes = FALSE;
    return TRUE;
}

static void forget_staged(DeltaStore *store)
{
    const GArray *runs = store->stage->runs;

    for (guint i = 0; i < runs->len; i++) {
        const DeltaRun *run = &g_array_index(runs, DeltaRun, i);

        memset(store->regions[run->region].staged + run->first, 0, run->count * sizeof(uint32_t));
    }
}

void delta_stage_abort(DeltaStore *store)
{
    if (!store->stage)
        return;
    forget_staged(store);
    for (guint i = 0; i < store->stage->runs->len; i++) {
        const DeltaRun *run = &g_array_index(store->stage->runs, DeltaRun, i);

        for (uint64_t k = 0; run->place >= DELTA_PLACE_FIRST && k < run->count; k++)
            put_free(store, (uint32_t)(run->place + k));
    }
    g_clear_pointer(&store->stage, delta_record_free);
}

/* --- the commit ------------------------------------------------------------------------ */

static gboolean check_commit(DeltaStore *store, GError **error)
{
    if (!check_stage(store, error))
        return FALSE;
    if (g_bytes_get_size(store->stage->state) > DELTA_MAX_STATE_BYTES ||
        g_bytes_get_size(store->stage->note) > DELTA_MAX_NOTE_BYTES) {
        error_set(error, VMFERRY_ERROR_INVALID, "%s: the state of the epoch is too large",
                  store->directory);
        return FALSE;
    }
    if (!store->stage_holes)
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "%s: pages of the epoch are missing", store->directory);
    return FALSE;
}

static gboolean write_record(DeltaStore *store, GError **error)
{
    g_autofree char *path = path_of(store->directory, COMMITTED_NAME);
    g_autoptr(GByteArray) bytes = delta_record_encode(store->stage);

    return file_replace(path, bytes->data, bytes->len, FALSE, error);
}

/* What was there is free. */
static void replace_place(DeltaStore *store, uint32_t *index, uint32_t place)
{
    if (*index >= DELTA_PLACE_FIRST)
        put_free(store, *index);
    *index = place;
}

static void fold_in(DeltaStore *store)
{
    const GArray *runs = store->stage->runs;

    for (guint i = 0; i < runs->len; i++) {
        const DeltaRun *run = &g_array_index(runs, DeltaRun, i);
        uint32_t step = run->place >= DELTA_PLACE_FIRST;
        uint32_t *index = store->regions[run->region].committed + run->first;

        for (uint64_t k = 0; k < run->count; k++)
            replace_place(store, &index[k], (uint32_t)(run->place + step * k));
        page_set_add(store->regions[run->region].present, run->first, run->count);
    }
}

static void take_blob(GBytes **to, GBytes *blob)
{
    g_clear_pointer(to, g_bytes_unref);
    *to = blob ? g_bytes_ref(blob) : g_bytes_new(NULL, 0);
}

gboolean delta_stage_commit(DeltaStore *store, GBytes *state, GBytes *note, GError **error)
{
    if (!check_stage(store, error))
        return FALSE;
    take_blob(&store->stage->state, state);
    take_blob(&store->stage->note, note);
    if (!check_commit(store, error) || !write_record(store, error))
        return FALSE;
    fold_in(store);
    forget_staged(store);
    delta_record_free(store->committed);
    store->committed = g_steal_pointer(&store->stage);
    g_clear_pointer(&store->committed->runs, g_array_unref);
    return TRUE;
}

/* --- what is committed ----------------------------------------------------------------- */

static gboolean read_committed(DeltaStore *store, guint region, PageSpan span, uint8_t *buffer,
                               GError **error)
{
    const uint32_t *index = store->regions[region].committed + span.first;

    for (uint64_t done = 0; done < span.count;) {
        Places at = find_places(index + done, span.count - done);

        if (at.place == DELTA_PLACE_NONE) {
            error_set(error, VMFERRY_ERROR_INVALID, "%s: page %" PRIu64 " of %s is not there",
                      store->directory, span.first + done, store->head->regions.names[region]);
            return FALSE;
        }
        if (!read_place(store, at, buffer, error))
            return FALSE;
        buffer += at.count * PAGE_BYTES;
        done += at.count;
    }
    return TRUE;
}

static gboolean source_read(PageSource *source, guint region, const PageSpan *spans, guint count,
                            uint8_t *buffer, GError **error)
{
    for (guint i = 0; i < count; i++) {
        if (!read_committed(store_of_source(source), region, spans[i], buffer, error))
            return FALSE;
        buffer += spans[i].count * PAGE_BYTES;
    }
    return TRUE;
}

/* Those of a run of committed pages that are not zero. */
static void add_populated(const Region *region, PageSpan span, PageSet *set)
{
    while (span.count > 0) {
        Places at = find_places(region->committed + span.first, span.count);

        if (at.place >= DELTA_PLACE_FIRST)
            page_set_add(set, span.first, at.count);
        span = (PageSpan){span.first + at.count, span.count - at.count};
    }
}

static gboolean source_add_populated(PageSource *source, guint region, PageSet *set, GError **error)
{
    const Region *at = &store_of_source(source)->regions[region];
    PageSpan span = {0, 0};

    while (page_set_next_run(at->present, span.first + span.count, UINT64_MAX, &span.first,
                             &span.count))
        add_populated(at, span, set);
    return TRUE;
}

static void source_free_nothing(PageSource *source)
{
}

PageSource *delta_store_get_source(DeltaStore *store)
{
    return &store->source;
}

GPtrArray *delta_store_list_pages(const DeltaStore *store)
{
    GPtrArray *sets = page_regions_new_sets(&store->head->regions);

    for (guint i = 0; i < sets->len; i++)
        page_set_add_all(sets->pdata[i], store->regions[i].present);
    return sets;
}

gboolean delta_store_set_bottom(DeltaStore *store, PageSource *bottom, GError **error)
{
    if (bottom && !page_regions_are_equal(bottom->regions, &store->head->regions, error)) {
        g_prefix_error(error, "%s: ", store->directory);
        return FALSE;
    }
    store->bottom = bottom;
    return TRUE;
}

const char *delta_store_get_transaction(const DeltaStore *store)
{
    return store->head->transaction;
}

const PageRegions *delta_store_get_regions(const DeltaStore *store)
{
    return &store->head->regions;
}

gboolean delta_store_get_epoch(const DeltaStore *store, uint64_t *ret_epoch)
{
    if (ret_epoch)
        *ret_epoch = store->committed ? store->committed->epoch : 0;
    return store->committed != NULL;
}

GBytes *delta_store_get_state(const DeltaStore *store)
{
    return store->committed ? store->committed->state : NULL;
}

GBytes *delta_store_get_note(const DeltaStore *store)
{
    return store->committed ? store->committed->note : NULL;
}

/* --- making, opening, removing --------------------------------------------------------- */

static DeltaStore *store_new(const char *directory, DeltaHead *head)
{
    static const PageSourceMethods source_methods = {source_read, source_add_populated,
                                                     source_free_nothing};
    static const PageSinkMethods sink_methods = {stage_write, stage_zero, stage_patch,
                                                 stage_copy,  stage_seal, sink_free_nothing};
    DeltaStore *store = g_new0(DeltaStore, 1);

    store->source = (PageSource){&source_methods, &head->regions};
    store->sink = (PageSink){&sink_methods, &head->regions};
    store->directory = g_strdup(directory);
    store->head = head;
    store->contents = -1;
    store->regions = g_new0(Region, head->regions.count);
    store->scratches = g_async_queue_new_full(g_free);
    g_mutex_init(&store->lock);
    for (guint i = 0; i < head->regions.count; i++)
        store->total_pages += head->regions.pages[i];
    store->free = page_set_new(most_places(store));
    return store;
}

void delta_store_free(DeltaStore *store)
{
    if (!store)
        return;
    for (guint i = 0; i < store->head->regions.count; i++) {
        g_free(store->regions[i].staged);
        g_clear_pointer(&store->regions[i].present, page_set_free);
    }
    g_free(store->regions);
    if (store->index)
        munmap(store->index, store->total_pages * sizeof *store->index);
    fd_close(&store->contents);
    delta_record_free(store->stage);
    delta_record_free(store->committed);
    page_set_free(store->free);
    g_async_queue_unref(store->scratches);
    g_mutex_clear(&store->lock);
    delta_head_free(store->head);
    g_free(store->directory);
    g_free(store);
}

static int open_file(const char *directory, const char *name, int flags, GError **error)
{
    g_autofree char *path = path_of(directory, name);
    int fd = open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK | flags, 0600);

    if (fd < 0)
        error_set_errno(error, errno, "open %s", path);
    return fd;
}

/* Its blocks are reserved: storage that fills up later must not be a SIGBUS in a commit. */
static gboolean reserve_index(DeltaStore *store, int fd, GError **error)
{
    uint64_t bytes = store->total_pages * sizeof(uint32_t);
    int result = bytes > 0 ? posix_fallocate(fd, 0, (off_t)bytes) : 0;

    if (result != 0)
        error_set_errno(error, result, "%s: an index of %" PRIu64 " bytes", store->directory,
                        bytes);
    return result == 0;
}

static gboolean check_index_size(DeltaStore *store, int fd, GError **error)
{
    struct stat file;

    if (fstat(fd, &file) == 0 && S_ISREG(file.st_mode) &&
        (uint64_t)file.st_size == store->total_pages * sizeof(uint32_t))
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "%s: the index is damaged: its size", store->directory);
    return FALSE;
}

static gboolean map_index(DeltaStore *store, int fd, GError **error)
{
    size_t bytes = store->total_pages * sizeof(uint32_t);
    uint32_t *at;

    if (bytes == 0)
        return TRUE;
    at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
    if (at == MAP_FAILED) {
        error_set_errno(error, errno, "%s: map the index", store->directory);
        return FALSE;
    }
    store->index = at;
    for (guint i = 0; i < store->head->regions.count; i++) {
        uint64_t pages = store->head->regions.pages[i];

        store->regions[i] = (Region){pages, at, g_new0(uint32_t, pages), page_set_new(pages)};
        at += pages;
    }
    return TRUE;
}

static gboolean make_files(DeltaStore *store, GError **error)
{
    g_autofree char *path = path_of(store->directory, HEAD_NAME);
    g_autoptr(GByteArray) bytes = delta_head_encode(store->head);
    autofd int index = open_file(store->directory, INDEX_NAME, O_CREAT | O_TRUNC, error);

    if (index < 0 || !reserve_index(store, index, error) || !map_index(store, index, error))
        return FALSE;
    store->contents = open_file(store->directory, CONTENTS_NAME, O_CREAT | O_TRUNC, error);
    return store->contents >= 0 && file_replace(path, bytes->data, bytes->len, FALSE, error);
}

DeltaStore *delta_store_create(const char *directory, const char *transaction,
                               const PageRegions *regions, GError **error)
{
    DeltaHead *head = delta_head_new(transaction, regions, error);
    g_autoptr(DeltaStore) store = head ? store_new(directory, head) : NULL;

    if (!store)
        return NULL;
    delta_store_remove(directory);
    if (mkdir(directory, 0700) < 0 && errno != EEXIST) {
        error_set_errno(error, errno, "make %s", directory);
        return NULL;
    }
    if (make_files(store, error))
        return g_steal_pointer(&store);
    delta_store_remove(directory);
    return NULL;
}

static DeltaHead *read_head(const char *directory, GError **error)
{
    g_autofree char *path = path_of(directory, HEAD_NAME);
    size_t length;
    g_autofree char *bytes = file_read(path, MAX_HEAD_BYTES, &length, error);
    DeltaHead *head = bytes ? delta_head_decode(bytes, length, error) : NULL;

    if (bytes && !head)
        g_prefix_error(error, "%s: ", path);
    return head;
}

static gboolean open_files(DeltaStore *store, GError **error)
{
    autofd int index = open_file(store->directory, INDEX_NAME, 0, error);
    struct stat contents;

    if (index < 0 || !check_index_size(store, index, error) || !map_index(store, index, error))
        return FALSE;
    store->contents = open_file(store->directory, CONTENTS_NAME, 0, error);
    if (store->contents < 0)
        return FALSE;
    if (fstat(store->contents, &contents) < 0 || !S_ISREG(contents.st_mode)) {
        error_set(error, VMFERRY_ERROR_INVALID, "%s: the contents are damaged", store->directory);
        return FALSE;
    }
    store->made = MIN((uint64_t)contents.st_size / PAGE_BYTES, most_places(store));
    return TRUE;
}

/* No error where there is none. */
static gboolean read_record(DeltaStore *store, DeltaRecord **ret, GError **error)
{
    g_autofree char *path = path_of(store->directory, COMMITTED_NAME);
    g_autofree char *bytes = NULL;
    size_t length;

    *ret = NULL;
    if (access(path, F_OK) < 0 && errno == ENOENT)
        return TRUE;
    bytes = file_read(path, DELTA_MAX_RECORD_BYTES, &length, error);
    if (!bytes)
        return FALSE;
    *ret = delta_record_decode(bytes, length, &store->head->regions,
                               store->made + DELTA_PLACE_FIRST, error);
    if (!*ret)
        g_prefix_error(error, "%s: ", path);
    return *ret != NULL;
}

/* Nothing is free or in use yet. */
static void fold_in_again(DeltaStore *store, const DeltaRecord *record)
{
    for (guint i = 0; i < record->runs->len; i++) {
        const DeltaRun *run = &g_array_index(record->runs, DeltaRun, i);
        uint32_t step = run->place >= DELTA_PLACE_FIRST;
        uint32_t *index = store->regions[run->region].committed + run->first;

        for (uint64_t k = 0; k < run->count; k++)
            index[k] = (uint32_t)(run->place + step * k);
    }
}

/* Each place is in use once at most. */
static gboolean use_place(DeltaStore *store, uint32_t place)
{
    uint64_t index = (uint64_t)place - DELTA_PLACE_FIRST;

    if (place < DELTA_PLACE_FIRST)
        return TRUE;
    if (index >= store->made || !page_set_has(store->free, index))
        return FALSE;
    page_set_remove(store->free, index, 1);
    store->free_count--;
    return TRUE;
}

static gboolean use_places(DeltaStore *store, Region *region)
{
    for (uint64_t i = 0; i < region->pages; i++) {
        if (region->committed[i] == DELTA_PLACE_NONE)
            continue;
        page_set_add(region->present, i, 1);
        if (!use_place(store, region->committed[i]))
            return FALSE;
    }
    return TRUE;
}

static gboolean read_index(DeltaStore *store, GError **error)
{
    page_set_add(store->free, 0, store->made);
    store->free_count = store->made;
    for (guint i = 0; i < store->head->regions.count; i++) {
        if (use_places(store, &store->regions[i]))
            continue;
        error_set(error, VMFERRY_ERROR_INVALID, "%s: the index is damaged", store->directory);
        return FALSE;
    }
    return TRUE;
}

DeltaStore *delta_store_open(const char *directory, GError **error)
{
    DeltaHead *head = read_head(directory, error);
    g_autoptr(DeltaStore) store = head ? store_new(directory, head) : NULL;

    if (!store || !open_files(store, error) || !read_record(store, &store->committed, error))
        return NULL;
    if (store->committed) {
        fold_in_again(store, store->committed);
        g_clear_pointer(&store->committed->runs, g_array_unref);
    }
    return read_index(store, error) ? g_steal_pointer(&store) : NULL;
}

void delta_store_remove(const char *directory)
{
    static const char *const names[] = {HEAD_NAME,  HEAD_NAME ".new",      COMMITTED_NAME,
                                        INDEX_NAME, COMMITTED_NAME ".new", CONTENTS_NAME};

    for (guint i = 0; i < G_N_ELEMENTS(names); i++) {
        g_autofree char *path = path_of(directory, names[i]);

        unlink(path);
    }
    rmdir(directory);
}
