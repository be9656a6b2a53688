#include "memory/fault_service.h"

#include <errno.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/lock_guard.h"
#include "base/page.h"
#include "base/thread.h"
#include "memory/fault_latency.h"
#include "memory/maps.h"

/* Pages that one call of the kernel puts in: events wait as long to be read. */
#define COPY_RUN_PAGES 16u
#define ZERO_RUN_PAGES 64u

/* How long the kernel's "not now" is waited out, where no event says when to try again. */
#define BUSY_NAP_US 100
#define FIRST_NAP_NS 50000u
#define LONGEST_NAP_NS 10000000u

/* The backing page of a fault: a page, or all pages of a huge one. */
typedef struct {
    guint region;
    PageSpan span;
} Unit;

/* Somebody waits for this unit, which is outstanding. */
typedef struct {
    uint64_t key;
    Unit unit;
    uint64_t since_ns;
} Wait;

/* A huge page that is being gathered. */
typedef struct {
    uint64_t key;
    Unit unit;
    uint8_t *buffer;
    PageSet *have;
    uint64_t count;
    gboolean placing; /* all there; belongs to the thread that puts it in */
} Partial;

/*
 * A page is looked up in the bitmap, put in and cleared there under *order*, shared; events are
 * read and the bits of discarded pages cleared under it, exclusively.  The kernel lets a discard
 * go on as soon as its event is read; between that and the bit, nobody may put in a copy.
 *
 * A wait is noted under *lock* only while the bit is set, and whoever clears a bit looks for waits
 * afterwards, under *lock*: one of the two sees the other, so no wait is left behind for a page
 * that is there already.
 *
 * order before parts_lock before lock.
 */
struct FaultService {
    Userfault *userfault;
    GuestMemory *memory;
    OutstandingPages *pages;
    SharedPages *shared;     /* NULL: nothing is shared */
    OutstandingPages *noted; /* atomic; discarded pages are added to it; NULL: not wanted */
    FaultServiceWant want;
    gpointer user;
    gboolean protect; /* what is put in is not "written" to a tracker */
    uint8_t *zeroes;  /* of the largest backing page; constant */

    pthread_rwlock_t order;

    GMutex parts_lock;
    GHashTable *partials; /* of Partial */

    GMutex lock;
    GCond events_read;
    uint64_t reads;            /* how often events were read */
    GHashTable *waits;         /* of Wait */
    FaultServiceCounts counts; /* less the latencies */
    FaultLatency latency;
    GError *error;

    int stop;
    GThread *thread;
    GArray *deferred; /* of Unit: zeroes that could not be put in yet; the thread's own */
};

static uint64_t unit_pages(const FaultService *service, guint region)
{
    return guest_memory_get_region(service->memory, region)->backing_page_bytes / PAGE_BYTES;
}

static Unit unit_of(const FaultService *service, guint region, uint64_t page)
{
    uint64_t pages = unit_pages(service, region);

    return (Unit){region, {page - page % pages, pages}};
}

static uint64_t address_of(const FaultService *service, const Unit *unit)
{
    return guest_memory_get_region(service->memory, unit->region)->host_address +
           unit->span.first * PAGE_BYTES;
}

/* Pages are below 2^40, and so are regions few. */
static uint64_t key_of(const Unit *unit)
{
    return (uint64_t)unit->region << 40 | unit->span.first;
}

static void partial_free(gpointer data)
{
    Partial *partial = data;

    g_free(partial->buffer);
    page_set_free(partial->have);
    g_free(partial);
}

/* --- putting in -------------------------------------------------------------- */

typedef enum {
    PUT_DONE,
    PUT_THERE,  /* something is there already */
    PUT_BUSY,   /* events are to be read first */
    PUT_STALE,  /* not outstanding any more */
    PUT_FAILED, /* with an error */
} PutResult;

static gboolean is_shared(const FaultService *service, guint region)
{
    return service->shared &&
           guest_memory_get_region(service->memory, region)->backing == GUEST_BACKING_COPY_ON_WRITE;
}

/* It is everybody's then; ours wait for it in their own registration. */
static PutResult put_shared(FaultService *service, const Unit *unit, const uint8_t *content,
                            GError **error)
{
    if (!shared_pages_put(service->shared, unit->region, unit->span, content, error))
        return PUT_FAILED;
    userfault_wake(service->userfault, address_of(service, unit), unit->span.count * PAGE_BYTES,
                   NULL);
    return PUT_DONE;
}

/* *content* NULL: zeroes. */
static PutResult put(FaultService *service, const Unit *unit, const uint8_t *content,
                     GError **error)
{
    gboolean huge = unit_pages(service, unit->region) > 1;
    uint64_t bytes = unit->span.count * PAGE_BYTES;
    g_autoptr(GError) why = NULL;

    if (content && is_shared(service, unit->region))
        return put_shared(service, unit, content, error);
    if (content || huge
            ? userfault_copy(service->userfault, address_of(service, unit),
                             content ? content : service->zeroes, bytes, service->protect, &why)
            : userfault_zeropage(service->userfault, address_of(service, unit), bytes, &why))
        return PUT_DONE;
    if (error_is(why, VMFERRY_ERROR_EXISTS))
        return PUT_THERE;
    if (error_is(why, VMFERRY_ERROR_BUSY))
        return PUT_BUSY;
    g_propagate_error(error, g_steal_pointer(&why));
    return PUT_FAILED;
}

typedef struct {
    uint64_t placed;
    uint64_t gathered; /* parts of huge pages */
} Tally;

static gboolean all_outstanding(FaultService *service, const Unit *unit)
{
    uint64_t first, count;

    return outstanding_next_run(service->pages, unit->region, unit->span.first, unit->span.count,
                                &first, &count) &&
           first == unit->span.first && count == unit->span.count;
}

/* The bit is looked at anew each time: while the kernel was busy, the page may have been
 * discarded. */
static PutResult try_place(FaultService *service, const Unit *unit, const uint8_t *content,
                           Tally *tally, GError **error)
{
    PutResult result = PUT_STALE;

    pthread_rwlock_rdlock(&service->order);
    if (all_outstanding(service, unit))
        result = put(service, unit, content, error);
    /* Of a run with something there the rest is not. */
    if (result == PUT_DONE ||
        (result == PUT_THERE && unit->span.count == unit_pages(service, unit->region)))
        tally->placed += outstanding_remove(service->pages, unit->region, unit->span);
    pthread_rwlock_unlock(&service->order);
    return result;
}

/* Takes the wait of a unit that is not outstanding any more. */
static gboolean take_wait(FaultService *service, const Unit *unit, gboolean in_place)
{
    uint64_t key = key_of(unit);
    const Wait *wait;

    lock_guard(&service->lock);
    wait = g_hash_table_lookup(service->waits, &key);
    if (!wait)
        return FALSE;
    if (in_place)
        fault_latency_add(&service->latency, clock_now_ns() - wait->since_ns);
    g_hash_table_remove(service->waits, &key);
    return TRUE;
}

static gboolean have_waits(FaultService *service)
{
    lock_guard(&service->lock);
    return g_hash_table_size(service->waits) > 0;
}

/* After the bits of *run*, whole units, are cleared. */
static void settle(FaultService *service, const Unit *run)
{
    uint64_t end = run->span.first + run->span.count;

    if (!have_waits(service))
        return;
    for (uint64_t page = run->span.first; page < end;) {
        Unit unit = unit_of(service, run->region, page);

        /* Who waits was woken by the copy, but for an event that was handled when the page was
         * in and the bit not cleared yet. */
        if (take_wait(service, &unit, TRUE))
            userfault_wake(service->userfault, address_of(service, &unit),
                           unit.span.count * PAGE_BYTES, NULL);
        page = unit.span.first + unit.span.count;
    }
}

static uint64_t get_reads(FaultService *service)
{
    lock_guard(&service->lock);
    return service->reads;
}

/* Until events have been read after *reads*; a moment in any case, because the kernel counts an
 * event as done only when the thread that discards has run again.  FALSE when nobody reads any
 * more. */
static gboolean wait_for_reading(FaultService *service, uint64_t reads, GError **error)
{
    gint64 end = g_get_monotonic_time() + BUSY_NAP_US;

    lock_guard(&service->lock);
    while (service->reads == reads && !service->error &&
           g_cond_wait_until(&service->events_read, &service->lock, end))
        ;
    if (!service->error)
        return TRUE;
    g_propagate_error(error, g_error_copy(service->error));
    return FALSE;
}

static gboolean place_unit(FaultService *service, const Unit *unit, const uint8_t *content,
                           Tally *tally, GError **error)
{
    for (;;) {
        uint64_t reads = get_reads(service);

        switch (try_place(service, unit, content, tally, error)) {
        case PUT_THERE:
            /* By a copy of an agent that died, whose waiters nobody else would wake. */
            userfault_wake(service->userfault, address_of(service, unit),
                           unit->span.count * PAGE_BYTES, NULL);
            G_GNUC_FALLTHROUGH;
        case PUT_DONE:
            settle(service, unit);
            return TRUE;
        case PUT_STALE:
            return TRUE;
        case PUT_FAILED:
            return FALSE;
        case PUT_BUSY:
            if (!wait_for_reading(service, reads, error))
                return FALSE;
        }
    }
}

/* All at once, or, where something is in the way, each for itself. */
static gboolean place_run(FaultService *service, const Unit *run, const uint8_t *content,
                          Tally *tally, GError **error)
{
    if (try_place(service, run, content, tally, NULL) == PUT_DONE) {
        settle(service, run);
        return TRUE;
    }
    for (uint64_t i = 0; i < run->span.count; i++) {
        Unit unit = {run->region, {run->span.first + i, 1}};

        if (!place_unit(service, &unit, content ? content + i * PAGE_BYTES : NULL, tally, error))
            return FALSE;
    }
    return TRUE;
}

static gboolean place_pages(FaultService *service, guint region, PageSpan span,
                            const uint8_t *content, Tally *tally, GError **error)
{
    uint64_t most = content ? COPY_RUN_PAGES : ZERO_RUN_PAGES, end = span.first + span.count;
    Unit run = {.region = region};

    for (uint64_t at = span.first;
         at < end &&
         outstanding_next_run(service->pages, region, at, MIN(most, end - at), &run.span.first,
                              &run.span.count) &&
         run.span.first < end;
         at = run.span.first + run.span.count) {
        run.span.count = MIN(run.span.count, end - run.span.first);
        if (!place_run(service, &run,
                       content ? content + (run.span.first - span.first) * PAGE_BYTES : NULL, tally,
                       error))
            return FALSE;
    }
    return TRUE;
}

/* --- what guests share ---------------------------------------------------------- */

gboolean fault_service_settle_shared(FaultService *service, guint region, PageSpan span,
                                     PageSpan *ret_lacking)
{
    uint64_t end = span.first + span.count;
    Unit there = {region, span};
    gboolean lacks;

    *ret_lacking = span;
    if (!is_shared(service, region))
        return span.count > 0;
    /* Asked once: what comes meanwhile must be in one of the two. */
    lacks = shared_pages_next_run(service->shared, region, span.first, end, FALSE, ret_lacking);
    if (lacks)
        there.span.count = ret_lacking->first - span.first;
    outstanding_remove(service->pages, region, there.span);
    settle(service, &there);
    return lacks;
}

static void put_zeroes(FaultService *service, const Unit *run)
{
    uint64_t reads = get_reads(service);
    PutResult result;

    while ((result = put(service, run, NULL, NULL)) == PUT_BUSY &&
           wait_for_reading(service, reads, NULL))
        reads = get_reads(service);
    for (uint64_t i = 0; result != PUT_DONE && run->span.count > 1 && i < run->span.count; i++) {
        const Unit unit = {run->region, {run->span.first + i, 1}};

        put_zeroes(service, &unit);
    }
}

void fault_service_fill_zeroes(FaultService *service)
{
    for (guint i = 0; i < service->memory->regions->len; i++) {
        uint64_t pages = guest_memory_get_region(service->memory, i)->pages, from = 0;
        Unit run = {.region = i};

        while (is_shared(service, i) &&
               shared_pages_next_run(service->shared, i, from, pages, FALSE, &run.span)) {
            run.span.count = MIN(run.span.count, ZERO_RUN_PAGES);
            put_zeroes(service, &run);
            from = run.span.first + run.span.count;
        }
    }
}

/* --- huge pages --------------------------------------------------------------- */

static Partial *get_partial(FaultService *service, const Unit *unit)
{
    uint64_t key = key_of(unit);
    Partial *partial = g_hash_table_lookup(service->partials, &key);

    if (partial)
        return partial;
    partial = g_new0(Partial, 1);
    partial->key = key;
    partial->unit = *unit;
    partial->buffer = g_malloc0(unit->span.count * PAGE_BYTES);
    partial->have = page_set_new(unit->span.count);
    g_hash_table_insert(service->partials, &partial->key, partial);
    return partial;
}

/* Adds a part; the whole where that was the last one.  Under *order*, so that parts of a huge page
 * that is discarded meanwhile are not kept. */
static Partial *gather(FaultService *service, const Unit *unit, uint64_t page,
                       const uint8_t *content, Tally *tally)
{
    uint64_t index = page - unit->span.first;
    Partial *partial;

    if (!outstanding_has(service->pages, unit->region, page))
        return NULL;
    lock_guard(&service->parts_lock);
    partial = get_partial(service, unit);
    if (page_set_has(partial->have, index))
        return NULL;
    page_set_add(partial->have, index, 1);
    tally->gathered++;
    if (content)
        memcpy(partial->buffer + index * PAGE_BYTES, content, PAGE_BYTES);
    if (++partial->count < unit->span.count)
        return NULL;
    partial->placing = TRUE;
    return partial;
}

static gboolean place_part(FaultService *service, guint region, uint64_t page,
                           const uint8_t *content, Tally *tally, GError **error)
{
    Unit unit = unit_of(service, region, page);
    Partial *whole;
    gboolean ok;

    pthread_rwlock_rdlock(&service->order);
    whole = gather(service, &unit, page, content, tally);
    pthread_rwlock_unlock(&service->order);
    if (!whole)
        return TRUE;
    ok = place_unit(service, &unit, whole->buffer, tally, error);
    lock_guard(&service->parts_lock);
    g_hash_table_remove(service->partials, &whole->key);
    return ok;
}

static gboolean place_parts(FaultService *service, guint region, PageSpan span,
                            const uint8_t *content, Tally *tally, GError **error)
{
    for (uint64_t i = 0; i < span.count; i++)
        if (!place_part(service, region, span.first + i, content ? content + i * PAGE_BYTES : NULL,
                        tally, error))
            return FALSE;
    return TRUE;
}

/* Those of discarded huge pages; what is being put in, its thread finds stale itself. */
static void drop_stale_partials(FaultService *service)
{
    GHashTableIter iter;
    gpointer value;

    lock_guard(&service->parts_lock);
    g_hash_table_iter_init(&iter, service->partials);
    while (g_hash_table_iter_next(&iter, NULL, &value)) {
        const Partial *partial = value;

        if (!partial->placing &&
            !outstanding_has(service->pages, partial->unit.region, partial->unit.span.first))
            g_hash_table_iter_remove(&iter);
    }
}

/* --- placing ------------------------------------------------------------------ */

static gboolean check_span(const FaultService *service, guint region, PageSpan span, GError **error)
{
    uint64_t pages = region < service->memory->regions->len
                         ? guest_memory_get_region(service->memory, region)->pages
                         : 0;

    if (span.first <= pages && span.count <= pages - span.first)
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID,
              "put in place: %" PRIu64 " pages from %" PRIu64 " on are not in RAM block %u",
              span.count, span.first, region);
    return FALSE;
}

static gboolean place_span(FaultService *service, guint region, PageSpan span,
                           const uint8_t *content, GError **error)
{
    gboolean huge = region < service->memory->regions->len && unit_pages(service, region) > 1;
    Tally tally = {0};
    gboolean ok;

    if (!check_span(service, region, span, error))
        return FALSE;
    if (huge)
        ok = place_parts(service, region, span, content, &tally, error);
    else
        ok = place_pages(service, region, span, content, &tally, error);
    lock_guard(&service->lock);
    service->counts.placed += tally.placed;
    if (ok)
        service->counts.dropped += span.count - (huge ? tally.gathered : tally.placed);
    if (!ok)
        g_prefix_error(error,
                       "RAM block %s: ", guest_memory_get_region(service->memory, region)->name);
    return ok;
}

gboolean fault_service_place(FaultService *service, guint region, const PageSpan *spans,
                             guint count, const uint8_t *buffer, GError **error)
{
    for (guint i = 0; i < count; i++) {
        if (!place_span(service, region, spans[i], buffer, error))
            return FALSE;
        buffer += spans[i].count * PAGE_BYTES;
    }
    return TRUE;
}

gboolean fault_service_place_zero(FaultService *service, guint region, PageSpan run, GError **error)
{
    return place_span(service, region, run, NULL, error);
}

/* --- asking ------------------------------------------------------------------- */

/* The runs of a huge page's parts that were not gathered yet. */
static GArray *missing_parts(FaultService *service, const Unit *unit)
{
    GArray *runs = g_array_new(FALSE, FALSE, sizeof(PageSpan));
    g_autoptr(PageSet) missing = page_set_new(unit->span.count);
    uint64_t key = key_of(unit);
    const Partial *partial;
    PageSpan run;

    page_set_add(missing, 0, unit->span.count);
    lock_guard(&service->parts_lock);
    partial = g_hash_table_lookup(service->partials, &key);
    if (partial)
        page_set_remove_all(missing, partial->have);
    for (uint64_t at = 0; page_set_next_run(missing, at, UINT64_MAX, &run.first, &run.count);
         at += run.count) {
        at = run.first;
        g_array_append_vals(runs, &(PageSpan){unit->span.first + run.first, run.count}, 1);
    }
    return runs;
}

static void ask(FaultService *service, const Unit *unit)
{
    g_autoptr(GArray) runs = NULL;

    if (unit->span.count == 1) {
        service->want(unit->region, unit->span, service->user);
        return;
    }
    runs = missing_parts(service, unit);
    for (guint i = 0; i < runs->len; i++)
        service->want(unit->region, g_array_index(runs, PageSpan, i), service->user);
}

static GArray *list_waits(FaultService *service)
{
    GArray *units = g_array_new(FALSE, FALSE, sizeof(Unit));
    GHashTableIter iter;
    gpointer value;

    lock_guard(&service->lock);
    g_hash_table_iter_init(&iter, service->waits);
    while (g_hash_table_iter_next(&iter, NULL, &value))
        g_array_append_val(units, ((Wait *)value)->unit);
    return units;
}

void fault_service_want_again(FaultService *service)
{
    g_autoptr(GArray) units = list_waits(service);

    for (guint i = 0; i < units->len; i++)
        ask(service, &g_array_index(units, Unit, i));
}

/* --- events ------------------------------------------------------------------- */

/* The first error counts; who waits for events to be read learns of it. */
static void fail(FaultService *service, GError *error)
{
    lock_guard(&service->lock);
    if (service->error)
        g_error_free(error);
    else
        service->error = error;
    g_cond_broadcast(&service->events_read);
}

static gboolean find_page(const FaultService *service, uint64_t address, guint *ret_region,
                          uint64_t *ret_page)
{
    for (guint i = 0; i < service->memory->regions->len; i++) {
        const GuestRegion *region = guest_memory_get_region(service->memory, i);

        if (address < region->host_address ||
            (address - region->host_address) / PAGE_BYTES >= region->pages)
            continue;
        *ret_region = i;
        *ret_page = (address - region->host_address) / PAGE_BYTES;
        return TRUE;
    }
    return FALSE;
}

/* The bits of what is discarded; it may reach over several regions. */
static uint64_t clear_discarded(FaultService *service, const UserfaultEvent *event)
{
    uint64_t end = event->address + event->bytes, removed = 0;
    OutstandingPages *noted = g_atomic_pointer_get(&service->noted);

    for (guint i = 0; i < service->memory->regions->len; i++) {
        const GuestRegion *region = guest_memory_get_region(service->memory, i);
        uint64_t start = region->host_address;
        uint64_t from = MAX(start, event->address);
        uint64_t to = MIN(start + region->pages * PAGE_BYTES, end);

        PageSpan span = {(from - start) / PAGE_BYTES, (to - from) / PAGE_BYTES};

        if (from >= to)
            continue;
        /* The guest finds there what the file has, which has to have it for the others. */
        if (!is_shared(service, i))
            removed += outstanding_remove(service->pages, i, span);
        if (noted)
            outstanding_add(noted, i, span, NULL);
    }
    return removed;
}

static void note_reading(FaultService *service, uint64_t discarded)
{
    lock_guard(&service->lock);
    service->counts.discarded += discarded;
    service->reads++;
    g_cond_broadcast(&service->events_read);
}

/* What one read gives; bits of discarded pages are cleared before anyone can put in a copy. */
static guint read_events(FaultService *service, UserfaultEvent *events, gboolean *ret_discards)
{
    uint64_t discarded = 0;
    guint count;

    *ret_discards = FALSE;
    pthread_rwlock_wrlock(&service->order);
    count = userfault_read(service->userfault, events, USERFAULT_MOST_EVENTS);
    for (guint i = 0; i < count; i++) {
        if (events[i].kind != USERFAULT_EVENT_REMOVE)
            continue;
        discarded += clear_discarded(service, &events[i]);
        *ret_discards = TRUE;
    }
    note_reading(service, discarded);
    pthread_rwlock_unlock(&service->order);
    return count;
}

/* Who waited for a page that was discarded faults anew, and gets zeroes. */
static void wake_discarded(FaultService *service)
{
    g_autoptr(GArray) units = list_waits(service);

    for (guint i = 0; i < units->len; i++) {
        const Unit *unit = &g_array_index(units, Unit, i);

        if (!outstanding_has(service->pages, unit->region, unit->span.first) &&
            take_wait(service, unit, FALSE))
            userfault_wake(service->userfault, address_of(service, unit),
                           unit->span.count * PAGE_BYTES, NULL);
    }
}

/* A page that has no content.  FALSE where it is to be tried again.  One that has come to be shared since its
 * fault only has to be faulted anew. */
static gboolean put_zero(FaultService *service, const Unit *unit)
{
    GError *error = NULL;

    if (is_shared(service, unit->region) &&
        shared_pages_has(service->shared, unit->region, unit->span.first)) {
        userfault_wake(service->userfault, address_of(service, unit), PAGE_BYTES, NULL);
        return TRUE;
    }
    switch (put(service, unit, NULL, &error)) {
    case PUT_THERE:
        userfault_wake(service->userfault, address_of(service, unit), unit->span.count * PAGE_BYTES,
                       NULL);
        return TRUE;
    case PUT_DONE:
    case PUT_STALE:
        return TRUE;
    case PUT_BUSY:
        return FALSE;
    case PUT_FAILED:
        break;
    }
    /* The host may find memory later; the guest waits for that, as it does elsewhere. */
    if (error_is(error, VMFERRY_ERROR_NO_SPACE)) {
        g_error_free(error);
        return FALSE;
    }
    fail(service, error);
    return TRUE;
}

/* TRUE where it is outstanding: then the wait is noted.  *ret_first: it is the first one. */
static gboolean note_wait(FaultService *service, const Unit *unit, gboolean *ret_first)
{
    Wait wait = {key_of(unit), *unit, clock_now_ns()};
    Wait *kept;

    lock_guard(&service->lock);
    *ret_first = FALSE;
    if (!outstanding_has(service->pages, unit->region, unit->span.first)) {
        service->counts.zero_faults++;
        return FALSE;
    }
    if (g_hash_table_contains(service->waits, &wait.key))
        return TRUE;
    kept = g_memdup2(&wait, sizeof wait);
    g_hash_table_insert(service->waits, &kept->key, kept);
    service->counts.faults++;
    *ret_first = TRUE;
    return TRUE;
}

static void serve_missing(FaultService *service, uint64_t address)
{
    gboolean is_first;
    uint64_t page;
    guint region;
    Unit unit;

    if (!find_page(service, address, &region, &page))
        return;
    unit = unit_of(service, region, page);
    if (!note_wait(service, &unit, &is_first)) {
        if (!put_zero(service, &unit))
            g_array_append_val(service->deferred, unit);
    } else if (is_first) {
        ask(service, &unit);
    }
}

static void serve_events(FaultService *service)
{
    UserfaultEvent events[USERFAULT_MOST_EVENTS];
    gboolean discards;
    guint count = read_events(service, events, &discards);

    if (discards) {
        drop_stale_partials(service);
        wake_discarded(service);
    }
    for (guint i = 0; i < count; i++)
        if (events[i].kind == USERFAULT_EVENT_MISSING)
            serve_missing(service, events[i].address);
}

static void retry_deferred(FaultService *service)
{
    for (guint i = service->deferred->len; i-- > 0;)
        if (put_zero(service, &g_array_index(service->deferred, Unit, i)))
            g_array_remove_index_fast(service->deferred, i);
}

static gboolean has_failed(FaultService *service)
{
    lock_guard(&service->lock);
    return service->error != NULL;
}

/* TRUE with *ret_events where there are some; FALSE when it is over.  *nap_ns*: where zeroes wait
 * to be tried again. */
static gboolean wait_for_events(FaultService *service, uint64_t nap_ns, gboolean *ret_events)
{
    struct pollfd fds[] = {{.fd = userfault_get_fd(service->userfault), .events = POLLIN},
                           {.fd = service->stop, .events = POLLIN},
                           {.fd = service->memory->pidfd, .events = POLLIN}};
    struct timespec nap = {.tv_nsec = (long)nap_ns};
    GError *error = NULL;

    *ret_events = FALSE;
    if (ppoll(fds, G_N_ELEMENTS(fds), service->deferred->len > 0 ? &nap : NULL, NULL) < 0)
        return TRUE; /* EINTR: nothing else is possible */
    if (fds[1].revents)
        return FALSE;
    if (fds[2].revents) {
        if (!guest_memory_check_process(service->memory, &error))
            fail(service, error);
        return FALSE;
    }
    if (fds[0].revents & ~POLLIN) {
        error_set(&error, VMFERRY_ERROR_FAILED, "the userfaultfd gives no events any more");
        fail(service, error);
        return FALSE;
    }
    *ret_events = fds[0].revents != 0;
    return TRUE;
}

static gpointer serve(gpointer data)
{
    FaultService *service = data;
    uint64_t nap_ns = FIRST_NAP_NS;
    gboolean events;

    while (wait_for_events(service, nap_ns, &events)) {
        nap_ns = events ? FIRST_NAP_NS : MIN(nap_ns * 2, LONGEST_NAP_NS);
        if (events)
            serve_events(service);
        retry_deferred(service);
        if (has_failed(service))
            break;
    }
    return NULL;
}

/* --- what can be served -------------------------------------------------------- */

static gboolean has_features(uint64_t needed, GError **error)
{
    uint64_t missing = needed & ~userfault_get_kernel_features();

    if (!missing)
        return TRUE;
    error_set(error, VMFERRY_ERROR_UNSUPPORTED,
              "this kernel's userfaultfd lacks features of 0x%" PRIx64, missing);
    return FALSE;
}

/* Of files only those in memory fault as missing. */
static gboolean check_file(pid_t pid, const Mapping *mapping, GError **error)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/map_files/%" PRIx64 "-%" PRIx64, (int)pid,
                                            mapping->start, mapping->end);
    struct statfs disk;

    if (statfs(path, &disk) < 0) {
        error_set_errno(error, errno, "the file system behind it (%s)", path);
        return FALSE;
    }
    if (disk.f_type == TMPFS_MAGIC || disk.f_type == HUGETLBFS_MAGIC)
        return TRUE;
    error_set(error, VMFERRY_ERROR_UNSUPPORTED,
              "it is a file on a disk (%s); missing pages can be served in a memfd, tmpfs or "
              "hugetlbfs only",
              mapping->path);
    return FALSE;
}

static gboolean check_region(const GuestMemory *memory, const GuestRegion *region,
                             const GPtrArray *maps, GError **error)
{
    uint64_t end = region->host_address + region->pages * PAGE_BYTES;

    if (region->backing_page_bytes > PAGE_BYTES)
        return has_features(UFFD_FEATURE_MISSING_HUGETLBFS, error);
    if (region->backing != GUEST_BACKING_SHARED)
        return TRUE;
    for (uint64_t at = region->host_address; at < end;) {
        const Mapping *mapping = maps_find(maps, at);

        if (!mapping) {
            error_set(error, VMFERRY_ERROR_FAILED, "address 0x%" PRIx64 " is not mapped", at);
            return FALSE;
        }
        if (!check_file(memory->pid, mapping, error))
            return FALSE;
        at = mapping->end;
    }
    return TRUE;
}

gboolean fault_service_check(const GuestMemory *memory, GError **error)
{
    g_autoptr(GPtrArray) maps = NULL;

    if (!has_features(userfault_features(FAULT_SERVICE_USES), error))
        return FALSE;
    maps = maps_read(memory->pid, error);
    if (!maps)
        return FALSE;
    for (guint i = 0; i < memory->regions->len; i++) {
        const GuestRegion *region = guest_memory_get_region(memory, i);

        if (!check_region(memory, region, maps, error)) {
            g_prefix_error(error, "RAM block %s: ", region->name);
            return FALSE;
        }
    }
    return TRUE;
}

/* --- starting and ending -------------------------------------------------------- */

static gboolean check_units(const GuestRegion *region, const OutstandingPages *pages, guint index,
                            GError **error)
{
    uint64_t unit = region->backing_page_bytes / PAGE_BYTES, first, count;

    if (region->pages % unit != 0 || region->host_address % region->backing_page_bytes != 0) {
        error_set(error, VMFERRY_ERROR_INVALID, "it is not made of whole huge pages");
        return FALSE;
    }
    for (uint64_t at = 0; outstanding_next_run(pages, index, at, UINT64_MAX, &first, &count);
         at = first + count) {
        if (first % unit == 0 && count % unit == 0)
            continue;
        error_set(error, VMFERRY_ERROR_INVALID,
                  "%" PRIu64 " outstanding pages from %" PRIu64 " on are not whole huge pages",
                  count, first);
        return FALSE;
    }
    return TRUE;
}

static gboolean check_same(const GuestMemory *memory, const OutstandingPages *pages, GError **error)
{
    const GPtrArray *known = outstanding_get_regions(pages);

    if (known->len != memory->regions->len) {
        error_set(error, VMFERRY_ERROR_INVALID, "outstanding pages of %u RAM blocks, not %u",
                  known->len, memory->regions->len);
        return FALSE;
    }
    for (guint i = 0; i < known->len; i++) {
        const GuestRegion *region = guest_memory_get_region(memory, i);
        const RamRegion *ram = g_ptr_array_index(known, i);

        if (ram->host_address != region->host_address || ram->bytes != region->pages * PAGE_BYTES) {
            error_set(error, VMFERRY_ERROR_INVALID,
                      "RAM block %s does not lie where outstanding pages say", region->name);
            return FALSE;
        }
        if (!check_units(region, pages, i, error)) {
            g_prefix_error(error, "RAM block %s: ", region->name);
            return FALSE;
        }
    }
    return TRUE;
}

static gboolean check_uses(Userfault *userfault, GError **error)
{
    if ((userfault_get_uses(userfault) & FAULT_SERVICE_USES) == FAULT_SERVICE_USES)
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "the userfaultfd was not opened for missing pages");
    return FALSE;
}

/* With what the userfaultfd was opened for: a tracker may come later, a mode may not. */
static gboolean register_all(Userfault *userfault, const GuestMemory *memory, gboolean wp,
                             gboolean resumed, GError **error)
{
    UserfaultModes modes = USERFAULT_MODE_MISSING | (wp ? USERFAULT_MODE_WP : 0);

    for (guint i = 0; i < memory->regions->len; i++) {
        const GuestRegion *region = guest_memory_get_region(memory, i);
        uint64_t bytes = region->pages * PAGE_BYTES;

        if ((!userfault_is_registered(userfault, region->host_address, bytes, modes) &&
             !userfault_register(userfault, region->host_address, bytes, modes, error)) ||
            (resumed && !userfault_wake(userfault, region->host_address, bytes, error))) {
            g_prefix_error(error, "RAM block %s: ", region->name);
            return FALSE;
        }
    }
    return TRUE;
}

/* Events come before pages: those who place never keep the reader waiting for long. */
static void init_order(pthread_rwlock_t *order)
{
    pthread_rwlockattr_t attributes;

    pthread_rwlockattr_init(&attributes);
    pthread_rwlockattr_setkind_np(&attributes, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
    pthread_rwlock_init(order, &attributes);
    pthread_rwlockattr_destroy(&attributes);
}

static uint64_t largest_unit(const GuestMemory *memory)
{
    uint64_t bytes = PAGE_BYTES;

    for (guint i = 0; i < memory->regions->len; i++)
        bytes = MAX(bytes, guest_memory_get_region(memory, i)->backing_page_bytes);
    return bytes;
}

static FaultService *service_new(Userfault *userfault, GuestMemory *memory, OutstandingPages *pages)
{
    FaultService *service = g_new0(FaultService, 1);

    service->userfault = userfault;
    service->memory = memory;
    service->pages = pages;
    service->protect = (userfault_get_uses(userfault) & USERFAULT_WP_ASYNC) != 0;
    service->zeroes = g_malloc0(largest_unit(memory));
    service->stop = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    init_order(&service->order);
    g_mutex_init(&service->parts_lock);
    g_mutex_init(&service->lock);
    g_cond_init(&service->events_read);
    service->partials = g_hash_table_new_full(g_int64_hash, g_int64_equal, NULL, partial_free);
    service->waits = g_hash_table_new_full(g_int64_hash, g_int64_equal, NULL, g_free);
    service->deferred = g_array_new(FALSE, FALSE, sizeof(Unit));
    return service;
}

FaultService *fault_service_start(Userfault *userfault, GuestMemory *memory,
                                  OutstandingPages *pages, SharedPages *shared, gboolean resumed,
                                  FaultServiceWant want, gpointer user, GError **error)
{
    g_autoptr(FaultService) service = NULL;

    if (!check_uses(userfault, error) || !check_same(memory, pages, error))
        return NULL;
    service = service_new(userfault, memory, pages);
    service->shared = shared;
    service->want = want;
    service->user = user;
    if (service->stop < 0) {
        error_set_errno(error, errno, "eventfd");
        return NULL;
    }
    if (!register_all(userfault, memory, service->protect, resumed, error))
        return NULL;
    service->thread = thread_start("faults", serve, service, error);
    return service->thread ? g_steal_pointer(&service) : NULL;
}

void fault_service_note_discarded(FaultService *service, OutstandingPages *noted)
{
    g_atomic_pointer_set(&service->noted, noted);
}

void fault_service_free(FaultService *service)
{
    if (!service)
        return;
    if (service->thread) {
        (void)!write(service->stop, &(uint64_t){1}, sizeof(uint64_t));
        g_thread_join(service->thread);
    }
    fd_close(&service->stop);
    pthread_rwlock_destroy(&service->order);
    g_mutex_clear(&service->parts_lock);
    g_mutex_clear(&service->lock);
    g_cond_clear(&service->events_read);
    g_hash_table_unref(service->partials);
    g_hash_table_unref(service->waits);
    g_array_unref(service->deferred);
    g_clear_error(&service->error);
    g_free(service->zeroes);
    g_free(service);
}

const GError *fault_service_get_error(FaultService *service)
{
    lock_guard(&service->lock);
    return service->error;
}

void fault_service_get_counts(FaultService *service, FaultServiceCounts *ret)
{
    lock_guard(&service->lock);
    *ret = service->counts;
    ret->p50_ms = fault_latency_get_ms(&service->latency, 0.5);
    ret->p99_ms = fault_latency_get_ms(&service->latency, 0.99);
    ret->max_ms = clock_ns_to_ms(service->latency.max_ns);
}
