#include "migrate/local_feeder.h"

#include <sys/resource.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/lock_guard.h"
#include "base/page.h"
#include "base/thread.h"
#include "memory/discard.h"
#include "page/zero.h"
#include "policy/push_order.h"

/* Read and put in place at a time: what an answer may have to wait behind for a processor. */
#define BATCH_PAGES 64u
/* Pages around a wanted one that come with it: each costs a tenth of a fault. */
#define AROUND_PAGES 8u
/* Spans of pages that a source keeps together (an extent of an image). */
#define TOGETHER_SPANS 256u
#define LOOK_MS 20
#define KILL_TIMEOUT_MS 10000
#define FILL_NICENESS 10
/* What is noted of an access. */
#define ACCESS_BLOCK_PAGES UINT64_C(16)

typedef struct {
    guint region;
    PageSpan span;
} Want;

struct LocalFeeder {
    GuestMemory *memory;
    Userfault *userfault; /* NULL once it is whole */
    OutstandingPages *pages;
    FaultService *service; /* NULL once it is whole */
    PageSource *source;
    SharedPages *shared;     /* NULL: nothing is */
    SharedPages *own_shared; /* the same, where it is ours */
    char *path;
    GAsyncQueue *wants; /* of Want; one of no pages ends the answering thread */
    GThread *answering, *filling,
        *helping; /* the third fills, too, where there are processors for it */
    LocalFeederProgress progress;
    gpointer progress_user;
    FaultServiceCounts counts; /* at the end */

    GMutex lock;     /* protects all below */
    GPtrArray *left; /* a PageSet a region: nobody has taken these to place them */
    PushOrder *order;
    GArray *first;    /* of LocalFeederRun: before what *order* says; NULL: nothing … */
    guint first_at;   /* … and how many of them have been brought */
    GArray *accesses; /* of LocalFeederRun: where pages were waited for, in that order … */
    GPtrArray *noted; /* … and the same as a PageSet a region */
    gboolean stopping;
    GError *error; /* the first one of our threads */
};

/* --- sets ------------------------------------------------------------------------------ */

/* A PushOrderNextRun, with the lock held. */
static gboolean next_left(guint region, uint64_t from, uint64_t max, uint64_t *ret_first,
                          uint64_t *ret_count, gpointer user)
{
    LocalFeeder *feeder = user;

    return page_set_next_run(feeder->left->pdata[region], from, max, ret_first, ret_count);
}

static void fill_sets(LocalFeeder *feeder)
{
    uint64_t first, count;

    for (guint i = 0; i < feeder->left->len; i++)
        for (uint64_t from = 0;
             outstanding_next_run(feeder->pages, i, from, UINT64_MAX, &first, &count);
             from = first + count)
            page_set_add(feeder->left->pdata[i], first, count);
}

/* With the lock held.  What is next to it is likely to be used soon, too, in another run at another moment. */
static void note_access(LocalFeeder *feeder, guint region, uint64_t page)
{
    uint64_t first = page - page % ACCESS_BLOCK_PAGES;
    LocalFeederRun run = {
        region, {first, MIN(ACCESS_BLOCK_PAGES, feeder->source->regions->pages[region] - first)}};

    if (page_set_has(feeder->noted->pdata[region], page) ||
        feeder->accesses->len == LOCAL_FEEDER_MOST_ACCESSES)
        return;
    page_set_add(feeder->noted->pdata[region], run.span.first, run.span.count);
    g_array_append_val(feeder->accesses, run);
}

/* The wanted ones, and neighbours that nobody has taken yet; at least the first wanted one.
 * Returns where the taken ones of the wanted span end. */
static uint64_t take_wanted(LocalFeeder *feeder, const Want *want, PageSpan *ret)
{
    lock_guard(&feeder->lock);
    PageSet *left = feeder->left->pdata[want->region];
    uint64_t end = want->span.first + MIN(want->span.count, BATCH_PAGES - AROUND_PAGES);
    uint64_t last = end;

    push_order_note_fault(feeder->order, want->region, want->span.first);
    note_access(feeder, want->region, want->span.first);
    while (last < end + AROUND_PAGES - 1 && page_set_has(left, last))
        last++;
    page_set_remove(left, want->span.first, last - want->span.first);
    *ret = (PageSpan){want->span.first, last - want->span.first};
    return end;
}

/* With the lock held: what comes before all others, of the first so many runs. */
static gboolean take_first(LocalFeeder *feeder, guint runs, PushRun *ret)
{
    while (feeder->first && feeder->first_at < MIN(runs, feeder->first->len)) {
        LocalFeederRun *run = &g_array_index(feeder->first, LocalFeederRun, feeder->first_at);
        uint64_t end = run->span.first + run->span.count, first, count;

        /* Not searched beyond the run: there may be very many. */
        PageSet within = *(const PageSet *)feeder->left->pdata[run->region];

        within.pages = MIN(end, within.pages);
        if (!page_set_next_run(&within, run->span.first, BATCH_PAGES, &first, &count)) {
            feeder->first_at++;
            continue;
        }
        *ret = (PushRun){run->region, first, count};
        return TRUE;
    }
    return FALSE;
}

static gboolean take_next(LocalFeeder *feeder, PushRun *ret)
{
    lock_guard(&feeder->lock);

    if (feeder->stopping || feeder->error ||
        (!take_first(feeder, G_MAXUINT, ret) && !push_order_next(feeder->order, BATCH_PAGES, ret)))
        return FALSE;
    page_set_remove(feeder->left->pdata[ret->region], ret->first, ret->count);
    return TRUE;
}

static void note_error(LocalFeeder *feeder, GError *error)
{
    lock_guard(&feeder->lock);

    if (feeder->error)
        g_error_free(error);
    else
        feeder->error = error;
}

/* --- placing --------------------------------------------------------------------------- */

static uint64_t count_alike(const uint8_t *content, uint64_t count, gboolean zero)
{
    uint64_t i = 1;

    while (i < count && zero_is_page(content + i * PAGE_BYTES) == zero)
        i++;
    return i;
}

/* Zero pages cost no memory. */
static gboolean place(LocalFeeder *feeder, guint region, PageSpan span, const uint8_t *content,
                      GError **error)
{
    while (span.count > 0) {
        gboolean zero = zero_is_page(content);
        PageSpan part = {span.first, count_alike(content, span.count, zero)};

        if (zero ? !fault_service_place_zero(feeder->service, region, part, error)
                 : !fault_service_place(feeder->service, region, &part, 1, content, error))
            return FALSE;
        content += part.count * PAGE_BYTES;
        span = (PageSpan){span.first + part.count, span.count - part.count};
    }
    return TRUE;
}

/* What is shared is there already, as far as another guest has wanted it. */
static gboolean bring(LocalFeeder *feeder, guint region, PageSpan span, uint8_t *buffer,
                      GError **error)
{
    uint64_t end = span.first + span.count;
    PageSpan lacking;

    while (fault_service_settle_shared(feeder->service, region, span, &lacking)) {
        if (!page_source_read(feeder->source, region, &lacking, 1, buffer, error) ||
            !place(feeder, region, lacking, buffer, error))
            return FALSE;
        span.first = lacking.first + lacking.count;
        span.count = end - span.first;
    }
    return TRUE;
}

/* Takes the first run of *span* that nobody has taken; FALSE at its end. */
static gboolean take_within(LocalFeeder *feeder, guint region, PageSpan *span, PageSpan *ret)
{
    lock_guard(&feeder->lock);
    uint64_t end = span->first + span->count, first, count;

    if (feeder->stopping ||
        !page_set_next_run(feeder->left->pdata[region], span->first, BATCH_PAGES, &first, &count) ||
        first >= end)
        return FALSE;
    *ret = (PageSpan){first, MIN(count, end - first)};
    page_set_remove(feeder->left->pdata[region], ret->first, ret->count);
    *span = (PageSpan){ret->first + ret->count, end - ret->first - ret->count};
    return TRUE;
}

/* What the source has at hand now; unless *waits*, not while somebody waits for something else. */
static gboolean bring_together(LocalFeeder *feeder, guint region, uint64_t page, gboolean waits,
                               uint8_t *buffer, GError **error)
{
    g_autofree PageSpan *spans = g_new(PageSpan, TOGETHER_SPANS);
    guint count = page_source_find_together(feeder->source, region, page, spans, TOGETHER_SPANS);
    PageSpan run;

    for (guint i = 0; i < count; i++)
        while (take_within(feeder, region, &spans[i], &run)) {
            if (!bring(feeder, region, run, buffer, error))
                return FALSE;
            if (!waits && g_async_queue_length(feeder->wants) > 0)
                return TRUE;
        }
    return TRUE;
}

/* --- the threads ----------------------------------------------------------------------- */

/* A FaultServiceWant. */
static void on_want(guint region, PageSpan span, gpointer user)
{
    const Want want = {region, span};

    g_async_queue_push(((LocalFeeder *)user)->wants, g_memdup2(&want, sizeof want));
}

static gboolean answer(LocalFeeder *feeder, Want *want, uint8_t *buffer, GError **error)
{
    uint64_t end = want->span.first + want->span.count;

    while (want->span.first < end) {
        PageSpan span;
        uint64_t next = take_wanted(feeder, want, &span);

        if (!bring(feeder, want->region, span, buffer, error) ||
            !bring_together(feeder, want->region, span.first, FALSE, buffer, error))
            return FALSE;
        want->span = (PageSpan){next, end - next};
    }
    return TRUE;
}

static gpointer answer_main(gpointer data)
{
    LocalFeeder *feeder = data;
    g_autofree uint8_t *buffer = g_malloc(BATCH_PAGES * PAGE_BYTES);
    GError *error = NULL;

    for (;;) {
        g_autofree Want *want = g_async_queue_pop(feeder->wants);

        if (want->span.count == 0)
            return NULL;
        if (!answer(feeder, want, buffer, &error)) {
            note_error(feeder, error);
            return NULL;
        }
    }
}

static void say_progress(LocalFeeder *feeder)
{
    if (feeder->progress)
        feeder->progress(feeder->progress_user);
}

/* Nobody waits for what is filled in; the guest, and who answers it, go before.  (Of a thread: setpriority(2), "C
 * library/kernel differences".) */
static void step_back(void)
{
    (void)setpriority(PRIO_PROCESS, (id_t)gettid(), FILL_NICENESS);
}

static gpointer help_main(gpointer data)
{
    LocalFeeder *feeder = data;
    g_autofree uint8_t *buffer = g_malloc(BATCH_PAGES * PAGE_BYTES);
    GError *error = NULL;
    PushRun run;

    step_back();
    while (take_next(feeder, &run))
        if (!bring(feeder, run.region, (PageSpan){run.first, run.count}, buffer, &error) ||
            !bring_together(feeder, run.region, run.first, TRUE, buffer, &error)) {
            note_error(feeder, error);
            break;
        }
    return NULL;
}

static gpointer fill_main(gpointer data)
{
    LocalFeeder *feeder = data;
    g_autofree uint8_t *buffer = g_malloc(BATCH_PAGES * PAGE_BYTES);
    GError *error = NULL;
    uint64_t filled = 0;
    PushRun run;

    step_back();
    while (take_next(feeder, &run)) {
        if (!bring(feeder, run.region, (PageSpan){run.first, run.count}, buffer, &error) ||
            !bring_together(feeder, run.region, run.first, TRUE, buffer, &error)) {
            note_error(feeder, error);
            return NULL;
        }
        filled += run.count;
        if (filled < LOCAL_FEEDER_CHUNK_PAGES)
            continue;
        filled = 0;
        say_progress(feeder);
    }
    say_progress(feeder);
    return NULL;
}

/* What waits stays waiting. */
static void stop_threads(LocalFeeder *feeder)
{
    g_mutex_lock(&feeder->lock);
    feeder->stopping = TRUE;
    g_mutex_unlock(&feeder->lock);
    if (feeder->answering)
        on_want(0, (PageSpan){0, 0}, feeder);
    g_clear_pointer(&feeder->answering, g_thread_join);
    g_clear_pointer(&feeder->filling, g_thread_join);
    g_clear_pointer(&feeder->helping, g_thread_join);
}

/* --- starting -------------------------------------------------------------------------- */

static LocalFeeder *feeder_new(GuestMemory *memory, Userfault *userfault, OutstandingPages *pages,
                               const char *path, PageSource *source, SharedPages *shared)
{
    LocalFeeder *feeder = g_new0(LocalFeeder, 1);

    feeder->memory = memory;
    feeder->userfault = userfault;
    feeder->pages = pages;
    feeder->source = source;
    feeder->shared = shared;
    feeder->accesses = g_array_new(FALSE, FALSE, sizeof(LocalFeederRun));
    feeder->path = g_strdup(path);
    feeder->wants = g_async_queue_new_full(g_free);
    g_mutex_init(&feeder->lock);
    feeder->left = guest_memory_new_sets(memory);
    feeder->noted = guest_memory_new_sets(memory);
    feeder->order =
        push_order_new(source->regions->pages, source->regions->count, NULL, next_left, feeder);
    fill_sets(feeder);
    return feeder;
}

static gboolean check_regions(const GuestMemory *memory, const PageSource *source, GError **error)
{
    gboolean same = memory->regions->len == source->regions->count;

    for (guint i = 0; same && i < memory->regions->len; i++)
        same = guest_memory_get_region(memory, i)->pages == source->regions->pages[i];
    if (!same)
        error_set(error, VMFERRY_ERROR_INVALID,
                  "pages come from other RAM blocks than the VMM has");
    return same;
}

/* From the service's start on nothing comes unseen, and nothing was put in by us yet. */
static gboolean start(LocalFeeder *feeder, gboolean resumed, GError **error)
{
    if (!check_regions(feeder->memory, feeder->source, error))
        return FALSE;
    feeder->service = fault_service_start(feeder->userfault, feeder->memory, feeder->pages,
                                          feeder->shared, resumed, on_want, feeder, error);
    if (!feeder->service ||
        (!resumed && !guest_memory_check_missing(feeder->memory, feeder->pages, error)))
        return FALSE;
    feeder->answering = thread_start("answer", answer_main, feeder, error);
    return feeder->answering != NULL;
}

LocalFeeder *local_feeder_start(GuestMemory *memory, Userfault *userfault, OutstandingPages *pages,
                                const char *path, PageSource *source, SharedPages *shared,
                                gboolean resumed, GError **error)
{
    LocalFeeder *feeder = feeder_new(memory, userfault, pages, path, source, shared);

    if (start(feeder, resumed, error))
        return feeder;
    if (resumed)
        local_feeder_free(feeder);
    else
        local_feeder_discard(feeder);
    return NULL;
}

/* The file goes after the userfaultfd. */
static gboolean check_whole(const char *path, gboolean *ret, GError **error)
{
    g_autoptr(GError) problem = NULL;
    g_autoptr(OutstandingPages) pages = outstanding_open(path, &problem);

    *ret = pages ? outstanding_count(pages) == 0 : error_is(problem, VMFERRY_ERROR_NOT_FOUND);
    if (pages || *ret)
        return TRUE;
    g_propagate_error(error, g_steal_pointer(&problem));
    return FALSE;
}

gboolean local_feeder_was_whole(pid_t pid, const char *path, gboolean *ret, GError **error)
{
    g_autoptr(GError) problem = NULL;
    Userfault *userfault = userfault_fetch(pid, &problem);

    *ret = FALSE;
    if (userfault) {
        userfault_leave(userfault);
        return TRUE;
    }
    if (error_is(problem, VMFERRY_ERROR_NOT_FOUND) && check_whole(path, ret, error) && *ret) {
        unlink(path);
        return TRUE;
    }
    if (error && !*error)
        g_propagate_error(error, g_steal_pointer(&problem));
    return FALSE;
}

/* What others share has to have all content by the end: lacking pages do not become this one's own. */
static LocalFeeder *reopen(GuestMemory *memory, Userfault *userfault, OutstandingPages *pages,
                           const char *path, PageSource *source, GError **error)
{
    SharedPages *shared = NULL;
    LocalFeeder *feeder;

    if (guest_memory_has_shared_pages(memory)) {
        shared = shared_pages_of(memory, error);
        if (!shared) {
            userfault_leave(userfault);
            outstanding_free(pages);
            guest_memory_free(memory);
            return NULL;
        }
    }
    feeder = local_feeder_start(memory, userfault, pages, path, source, shared, TRUE, error);
    if (feeder)
        feeder->own_shared = shared;
    else
        shared_pages_free(shared);
    return feeder;
}

LocalFeeder *local_feeder_reopen(pid_t pid, const char *path, PageSource *source, GError **error)
{
    g_autoptr(OutstandingPages) pages = outstanding_open(path, error);
    g_autoptr(GuestMemory) memory =
        pages ? guest_memory_open(pid, outstanding_get_regions(pages), error) : NULL;
    Userfault *userfault = memory ? userfault_fetch(pid, error) : NULL;

    if (!userfault)
        return NULL;
    return reopen(g_steal_pointer(&memory), userfault, g_steal_pointer(&pages), path, source,
                  error);
}

void local_feeder_set_first(LocalFeeder *feeder, const LocalFeederRun *runs, guint count)
{
    lock_guard(&feeder->lock);

    g_clear_pointer(&feeder->first, g_array_unref);
    feeder->first = g_array_sized_new(FALSE, FALSE, sizeof(LocalFeederRun), count);
    feeder->first_at = 0;
    for (guint i = 0; i < count; i++)
        if (runs[i].region < feeder->left->len)
            g_array_append_val(feeder->first, runs[i]);
}

/* Takes one of the first *count* ones, if the time for them is not over. */
static gboolean take_one_first(LocalFeeder *feeder, guint count, uint64_t until_ns, PushRun *ret)
{
    lock_guard(&feeder->lock);

    if (clock_now_ns() >= until_ns || !take_first(feeder, count, ret))
        return FALSE;
    page_set_remove(feeder->left->pdata[ret->region], ret->first, ret->count);
    return TRUE;
}

gboolean local_feeder_bring_first(LocalFeeder *feeder, guint count, guint budget_ms, GError **error)
{
    g_autofree uint8_t *buffer = g_malloc(BATCH_PAGES * PAGE_BYTES);
    uint64_t until_ns = clock_now_ns() + budget_ms * UINT64_C(1000000);
    PushRun run;

    while (take_one_first(feeder, count, until_ns, &run))
        if (!bring(feeder, run.region, (PageSpan){run.first, run.count}, buffer, error))
            return FALSE;
    return TRUE;
}

GArray *local_feeder_list_accesses(LocalFeeder *feeder)
{
    lock_guard(&feeder->lock);

    return g_array_copy(feeder->accesses);
}

gboolean local_feeder_fill(LocalFeeder *feeder, LocalFeederProgress progress, gpointer user,
                           GError **error)
{
    feeder->progress = progress;
    feeder->progress_user = user;
    feeder->filling = thread_start("fill", fill_main, feeder, error);
    if (feeder->filling && g_get_num_processors() > 1)
        feeder->helping = thread_start("fill-too", help_main, feeder, NULL);
    return feeder->filling != NULL;
}

/* --- ending ---------------------------------------------------------------------------- */

/* No thread may be left waiting for its discard to be read: the descriptor's end, which would free
 * it, may need that thread. */
static void stop_service(LocalFeeder *feeder)
{
    UserfaultEvent events[USERFAULT_MOST_EVENTS];
    FaultService *service = feeder->service;

    if (!service)
        return;
    stop_threads(feeder);
    fault_service_fill_zeroes(service);
    userfault_unregister(feeder->userfault);
    g_mutex_lock(&feeder->lock);
    fault_service_get_counts(service, &feeder->counts);
    feeder->service = NULL;
    g_mutex_unlock(&feeder->lock);
    fault_service_free(service);
    while (userfault_read(feeder->userfault, events, USERFAULT_MOST_EVENTS) > 0)
        ;
}

/* FALSE: a VMM that is stopped by a signal, say, keeps the userfaultfd; that is tried again. */
static gboolean make_whole(LocalFeeder *feeder)
{
    if (!feeder->userfault)
        return TRUE;
    stop_service(feeder);
    if (!userfault_end(feeder->userfault, NULL) && guest_memory_check_process(feeder->memory, NULL))
        return FALSE;
    g_clear_pointer(&feeder->userfault, userfault_free);
    unlink(feeder->path);
    return TRUE;
}

/* Of the service, or of our threads. */
static gboolean check(LocalFeeder *feeder, GError **error)
{
    const GError *failure = feeder->service ? fault_service_get_error(feeder->service) : NULL;
    lock_guard(&feeder->lock);

    if (!failure)
        failure = feeder->error;
    if (failure)
        g_propagate_error(error, g_error_copy(failure));
    return failure == NULL;
}

LocalFeederState local_feeder_await(LocalFeeder *feeder, guint timeout_ms, GError **error)
{
    gint64 until = g_get_monotonic_time() + timeout_ms * G_TIME_SPAN_MILLISECOND;

    for (;;) {
        gint64 left;

        if (outstanding_count(feeder->pages) == 0 && make_whole(feeder))
            return LOCAL_FEEDER_WHOLE;
        if (outstanding_count(feeder->pages) > 0 && !check(feeder, error))
            return LOCAL_FEEDER_FAILED;
        left = until - g_get_monotonic_time();
        if (left <= 0)
            return LOCAL_FEEDER_FEEDING;
        g_usleep((gulong)MIN(left, LOOK_MS * G_TIME_SPAN_MILLISECOND));
    }
}

static void free_with(LocalFeeder *feeder, void (*end)(Userfault *userfault))
{
    stop_threads(feeder);
    g_clear_pointer(&feeder->service, fault_service_free);
    g_clear_pointer(&feeder->userfault, end);
    push_order_free(feeder->order);
    g_clear_pointer(&feeder->first, g_array_unref);
    shared_pages_free(feeder->own_shared);
    g_array_unref(feeder->accesses);
    g_ptr_array_unref(feeder->noted);
    g_ptr_array_unref(feeder->left);
    g_async_queue_unref(feeder->wants);
    g_clear_error(&feeder->error);
    g_mutex_clear(&feeder->lock);
    outstanding_free(feeder->pages);
    guest_memory_free(feeder->memory);
    g_free(feeder->path);
    g_free(feeder);
}

void local_feeder_free(LocalFeeder *feeder)
{
    if (feeder)
        free_with(feeder, userfault_leave);
}

/* What is let go reads holes of what others share, and makes zeroes of them for all: so it ends first, or waits for good. */
void local_feeder_discard(LocalFeeder *feeder)
{
    gboolean shares = feeder->shared != NULL;

    if (shares)
        (void)guest_memory_kill(feeder->memory, KILL_TIMEOUT_MS);
    unlink(feeder->path);
    free_with(feeder, shares ? userfault_leave : userfault_free);
}

uint64_t local_feeder_count_outstanding(LocalFeeder *feeder)
{
    return outstanding_count(feeder->pages);
}

const OutstandingPages *local_feeder_get_outstanding(const LocalFeeder *feeder)
{
    return feeder->pages;
}

void local_feeder_get_counts(LocalFeeder *feeder, FaultServiceCounts *ret)
{
    lock_guard(&feeder->lock);

    if (feeder->service)
        fault_service_get_counts(feeder->service, ret);
    else
        *ret = feeder->counts;
}
