#include "protect/captured_pages.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "base/error.h"
#include "base/page.h"

/* Spans read by one call. */
#define READ_SPANS 1024u
#define HUGE_BYTES ((size_t)2 << 20)
#define LEAST_BYTES ((size_t)32 << 20)
/* What is kept for good; an epoch may have more. */
#define KEPT_BYTES ((size_t)256 << 20)

/* A run of pages in the buffer. */
typedef struct {
    uint64_t first, count;
    size_t at; /* page in the buffer */
} CapturedRun;

struct CapturedPages {
    PageSource head;
    PageSource *source;
    GArray **runs; /* of CapturedRun, ascending; one array a region */
    uint8_t *buffer;
    size_t capacity, used; /* pages */
};

/* ---- taking ---- */

static uint64_t count_all(const GPtrArray *sets)
{
    uint64_t pages = 0;

    for (guint i = 0; i < sets->len; i++)
        pages += page_set_count(sets->pdata[i]);
    return pages;
}

static void release(CapturedPages *captured)
{
    if (captured->buffer)
        munmap(captured->buffer, captured->capacity * PAGE_BYTES);
    captured->buffer = NULL;
    captured->capacity = 0;
}

/* In huge pages, where there are any: of small ones the first touch of each costs more than its copy. */
static gboolean allocate(CapturedPages *captured, size_t pages, GError **error)
{
    size_t bytes = (pages * PAGE_BYTES + HUGE_BYTES - 1) / HUGE_BYTES * HUGE_BYTES;
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (memory == MAP_FAILED) {
        error_set_errno(error, errno, "memory for %zu pages of an epoch", pages);
        return FALSE;
    }
    (void)madvise(memory, bytes, MADV_HUGEPAGE);
    captured->buffer = memory;
    captured->capacity = bytes / PAGE_BYTES;
    return TRUE;
}

static gboolean make_room(CapturedPages *captured, uint64_t wanted, GError **error)
{
    uint64_t pages = MAX(wanted, LEAST_BYTES / PAGE_BYTES);
    size_t keep = MAX((size_t)pages, KEPT_BYTES / PAGE_BYTES);

    if (captured->capacity >= pages && captured->capacity <= keep)
        return TRUE;
    release(captured);
    return allocate(captured, (size_t)pages, error);
}

gboolean captured_pages_prepare(CapturedPages *captured, GError **error)
{
    if (!make_room(captured, 0, error))
        return FALSE;
    for (size_t i = 0; i < LEAST_BYTES; i += PAGE_BYTES)
        captured->buffer[i] = 0;
    return TRUE;
}

static gboolean read_some(CapturedPages *captured, guint region, const PageSpan *spans, guint count,
                          uint64_t pages, GError **error)
{
    uint8_t *to = captured->buffer + captured->used * PAGE_BYTES;

    if (count == 0)
        return TRUE;
    captured->used += pages;
    return page_source_read(captured->source, region, spans, count, to, error);
}

static gboolean take_region(CapturedPages *captured, guint region, const PageSet *set,
                            GError **error)
{
    GArray *runs = captured->runs[region];
    PageSpan spans[READ_SPANS], span;
    uint64_t from = 0, pages = 0;
    guint count = 0;

    while (page_set_next_run(set, from, UINT64_MAX, &span.first, &span.count)) {
        CapturedRun run = {span.first, span.count, captured->used + pages};

        g_array_append_val(runs, run);
        spans[count++] = span;
        pages += span.count;
        from = span.first + span.count;
        if (count < READ_SPANS)
            continue;
        if (!read_some(captured, region, spans, count, pages, error))
            return FALSE;
        count = 0;
        pages = 0;
    }
    return read_some(captured, region, spans, count, pages, error);
}

gboolean captured_pages_take(CapturedPages *captured, const GPtrArray *sets, GError **error)
{
    captured->used = 0;
    if (!make_room(captured, count_all(sets), error))
        return FALSE;
    for (guint i = 0; i < sets->len; i++) {
        g_array_set_size(captured->runs[i], 0);
        if (!take_region(captured, i, sets->pdata[i], error))
            return FALSE;
    }
    return TRUE;
}

uint64_t captured_pages_count(const CapturedPages *captured)
{
    return captured->used;
}

/* ---- reading ---- */

static const CapturedRun *find_run(const GArray *runs, uint64_t page)
{
    guint low = 0, high = runs->len;

    while (low < high) {
        guint middle = low + (high - low) / 2;
        const CapturedRun *run = &g_array_index(runs, CapturedRun, middle);

        if (page < run->first)
            high = middle;
        else if (page >= run->first + run->count)
            low = middle + 1;
        else
            return run;
    }
    return NULL;
}

/* Pages that lie in a run from the first one on, or that one alone as zeroes; returns how many. */
static uint64_t copy_some(const CapturedPages *captured, const GArray *runs, PageSpan span,
                          uint8_t *buffer)
{
    const CapturedRun *run = find_run(runs, span.first);
    uint64_t count;

    if (!run) {
        memset(buffer, 0, PAGE_BYTES);
        return 1;
    }
    count = MIN(span.count, run->first + run->count - span.first);
    memcpy(buffer, captured->buffer + (run->at + span.first - run->first) * PAGE_BYTES,
           count * PAGE_BYTES);
    return count;
}

static uint8_t *copy_span(const CapturedPages *captured, const GArray *runs, PageSpan span,
                          uint8_t *buffer)
{
    for (uint64_t done = 0; done < span.count;) {
        PageSpan rest = {span.first + done, span.count - done};
        uint64_t copied = copy_some(captured, runs, rest, buffer);

        buffer += copied * PAGE_BYTES;
        done += copied;
    }
    return buffer;
}

static gboolean read_spans(PageSource *head, guint region, const PageSpan *spans, guint count,
                           uint8_t *buffer, GError **error G_GNUC_UNUSED)
{
    CapturedPages *captured = (CapturedPages *)head;

    for (guint i = 0; i < count; i++)
        buffer = copy_span(captured, captured->runs[region], spans[i], buffer);
    return TRUE;
}

static gboolean add_populated(PageSource *head, guint region, PageSet *set,
                              GError **error G_GNUC_UNUSED)
{
    const GArray *runs = ((CapturedPages *)head)->runs[region];

    for (guint i = 0; i < runs->len; i++) {
        const CapturedRun *run = &g_array_index(runs, CapturedRun, i);

        page_set_add(set, run->first, run->count);
    }
    return TRUE;
}

static void free_nothing(PageSource *head G_GNUC_UNUSED)
{
}

CapturedPages *captured_pages_new(PageSource *source)
{
    static const PageSourceMethods methods = {read_spans, add_populated, free_nothing};
    CapturedPages *captured = g_new0(CapturedPages, 1);
    guint count = source->regions->count;

    captured->head = (PageSource){&methods, source->regions};
    captured->source = source;
    captured->runs = g_new0(GArray *, count + 1);
    for (guint i = 0; i < count; i++)
        captured->runs[i] = g_array_new(FALSE, FALSE, sizeof(CapturedRun));
    return captured;
}

PageSource *captured_pages_get_source(CapturedPages *captured)
{
    return &captured->head;
}

void captured_pages_free(CapturedPages *captured)
{
    if (!captured)
        return;
    for (guint i = 0; captured->runs[i]; i++)
        g_array_unref(captured->runs[i]);
    g_free(captured->runs);
    release(captured);
    g_free(captured);
}
