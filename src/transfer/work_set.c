#include "transfer/work_set.h"

#include <string.h>

#include "base/page.h"
#include "policy/send_order.h"
#include "policy/watch_plan.h"

#define WORD_BITS 64u
#define GROUP_WORDS (GROUP_PAGES / WORD_BITS)

struct WorkSet {
    GuestMemory *memory;
    Tracker *tracker;
    GroupAccount *account;
    GPtrArray *pending, *next;
    GPtrArray *fresh;      /* scratch: what a collect found */
    GPtrArray *written;    /* borrowed: all of that, for somebody else; NULL: nobody */
    GPtrArray *watched;    /* protected, as far as is known */
    GPtrArray *given;      /* given out at least once */
    GPtrArray *seen_dirty; /* found dirty at least once */
    guint *first_group;    /* of each region, and the end of all */
    guint group_count;
    SendOrder *order;
    WatchPlan plan;
    double faults;
};

WorkSet *work_set_new(GuestMemory *memory, Tracker *tracker)
{
    WorkSet *set = g_new0(WorkSet, 1);
    guint regions = memory->regions->len;

    set->memory = memory;
    set->tracker = tracker;
    set->pending = guest_memory_new_sets(memory);
    set->next = guest_memory_new_sets(memory);
    set->fresh = guest_memory_new_sets(memory);
    set->watched = guest_memory_new_sets(memory);
    set->given = guest_memory_new_sets(memory);
    set->plan = watch_plan_make();
    set->seen_dirty = guest_memory_new_sets(memory);
    set->first_group = g_new0(guint, regions + 1);
    for (guint i = 0; i < regions; i++) {
        uint64_t pages = guest_memory_get_region(memory, i)->pages;

        set->first_group[i + 1] =
            set->first_group[i] + (guint)((pages + GROUP_PAGES - 1) / GROUP_PAGES);
    }
    set->group_count = set->first_group[regions];
    set->account = group_account_new(set->group_count, PAGE_BYTES);
    set->order = send_order_new(set->account, set->group_count);
    return set;
}

void work_set_free(WorkSet *set)
{
    if (!set)
        return;
    g_ptr_array_unref(set->pending);
    g_ptr_array_unref(set->next);
    g_ptr_array_unref(set->fresh);
    g_ptr_array_unref(set->watched);
    g_ptr_array_unref(set->given);
    g_ptr_array_unref(set->seen_dirty);
    send_order_free(set->order);
    group_account_free(set->account);
    g_free(set->first_group);
    g_free(set);
}

guint work_set_get_group_count(const WorkSet *set)
{
    return set->group_count;
}

guint work_set_get_group(const WorkSet *set, guint region, uint64_t page)
{
    return set->first_group[region] + (guint)(page / GROUP_PAGES);
}

GroupAccount *work_set_get_account(WorkSet *set)
{
    return set->account;
}

GPtrArray *work_set_get_pending(WorkSet *set)
{
    return set->pending;
}

GPtrArray *work_set_get_next(WorkSet *set)
{
    return set->next;
}

static guint region_of(const WorkSet *set, guint group)
{
    guint region = 0;

    while (group >= set->first_group[region + 1])
        region++;
    return region;
}

/* The words of one group in a region's set; *ret_count may be fewer at its end. */
static uint64_t *group_words(const WorkSet *set, GPtrArray *sets, guint region, guint group,
                             guint *ret_count)
{
    PageSet *pages = g_ptr_array_index(sets, region);
    uint64_t first = (uint64_t)(group - set->first_group[region]) * GROUP_WORDS;
    uint64_t words = (pages->pages + WORD_BITS - 1) / WORD_BITS;

    *ret_count = (guint)MIN(GROUP_WORDS, words - first);
    return pages->words + first;
}

static guint count_words(const uint64_t *words, guint count)
{
    guint bits = 0;

    for (guint i = 0; i < count; i++)
        bits += (guint)__builtin_popcountll(words[i]);
    return bits;
}

gboolean work_set_add_populated(WorkSet *set, GError **error)
{
    for (guint region = 0; region < set->pending->len; region++) {
        PageSet *pending = g_ptr_array_index(set->pending, region);

        if (!guest_memory_add_populated(set->memory, region, pending, error))
            return FALSE;
        for (guint i = set->first_group[region]; i < set->first_group[region + 1]; i++) {
            guint count;
            const uint64_t *words = group_words(set, set->pending, region, i, &count);

            group_account_set_pages(set->account, i, count_words(words, count));
        }
    }
    return TRUE;
}

void work_set_begin_round(WorkSet *set)
{
    for (guint i = 0; i < set->pending->len; i++) {
        PageSet *next = g_ptr_array_index(set->next, i);

        page_set_add_all(g_ptr_array_index(set->pending, i), next);
        page_set_clear(next);
    }
    send_order_rewind(set->order);
}

static uint64_t count_sets(const GPtrArray *sets)
{
    uint64_t pages = 0;

    for (guint i = 0; i < sets->len; i++)
        pages += page_set_count(g_ptr_array_index(sets, i));
    return pages;
}

/* No page is in both. */
uint64_t work_set_count(const WorkSet *set)
{
    return count_sets(set->pending) + count_sets(set->next);
}

uint64_t work_set_count_pending(const WorkSet *set)
{
    return count_sets(set->pending);
}

static uint64_t unit_pages(const WorkSet *set, guint region)
{
    return guest_memory_get_region(set->memory, region)->backing_page_bytes / PAGE_BYTES;
}

/* Takes over what a collect or a peek has found (*fresh*: written since it was protected, or never
 * protected) in some words of a group.  The bookkeeping, bit by bit:
 *
 *   next     |= fresh & ~pending   a page that is still to be given out in this round is read later
 *                                  than now, so what was written goes along; any other page that
 *                                  was written is for the next round.  So no write is lost, and no
 *                                  page is in both sets.
 *   watched   = watched | fresh    after a collect, which protects all that it reports;
 *   watched  &= ~fresh             after a peek, which protects nothing: these pages are not
 *                                  protected any more.
 *   seen     |= fresh & watched    the marks of the capture-recapture estimate of active pages.
 *
 * Only pages that were protected tell of rates: for any other it is not known since when it is
 * dirty.  So the account hears of *watched* pages alone (group_account.c). */
static void absorb(WorkSet *set, guint region, guint group, guint from, guint to,
                   gboolean collected, double now_ms)
{
    guint count, added = 0;
    uint64_t *fresh = group_words(set, set->fresh, region, group, &count);
    const uint64_t *pending = group_words(set, set->pending, region, group, &count);
    uint64_t *next = group_words(set, set->next, region, group, &count);
    uint64_t *seen = group_words(set, set->seen_dirty, region, group, &count);
    uint64_t *watched = group_words(set, set->watched, region, group, &count);
    uint64_t *written = set->written ? group_words(set, set->written, region, group, &count) : NULL;
    GroupSync sync = {.now_ms = now_ms};

    for (guint i = from; i < MIN(to, count); i++) {
        uint64_t dirty = fresh[i] & watched[i];

        sync.pages_asked += (guint)__builtin_popcountll(watched[i]);
        sync.pages_marked += (guint)__builtin_popcountll(watched[i] & seen[i]);
        sync.pages_dirty += (guint)__builtin_popcountll(dirty);
        sync.pages_new += (guint)__builtin_popcountll(dirty & ~seen[i]);
        added += (guint)__builtin_popcountll(fresh[i]);
        seen[i] |= dirty;
        next[i] |= fresh[i] & ~pending[i];
        if (written)
            written[i] |= fresh[i];
        watched[i] = collected ? watched[i] | fresh[i] : watched[i] & ~fresh[i];
        fresh[i] = 0;
    }
    set->faults += (double)sync.pages_dirty / (double)unit_pages(set, region);
    group_account_note_dirty(set->account, group, &sync);
    if (collected)
        group_account_note_watched(set->account, group, now_ms, added);
}

/* Collects a span, of whole words, or more where pages are huge. */
static gboolean collect_span(WorkSet *set, guint region, PageSpan span, double now_ms,
                             GError **error)
{
    uint64_t unit = MAX(unit_pages(set, region), WORD_BITS);
    uint64_t first = span.first / unit * unit;
    uint64_t end = MIN((span.first + span.count + unit - 1) / unit * unit,
                       guest_memory_get_region(set->memory, region)->pages);

    if (!tracker_collect_span(set->tracker, region, span, g_ptr_array_index(set->fresh, region),
                              error))
        return FALSE;
    for (uint64_t at = first; at < end; at = (at / GROUP_PAGES + 1) * GROUP_PAGES) {
        uint64_t start = at / GROUP_PAGES * GROUP_PAGES;
        uint64_t stop = MIN(start + GROUP_PAGES, end);

        absorb(set, region, work_set_get_group(set, region, at), (guint)((at - start) / WORD_BITS),
               (guint)((stop - start + WORD_BITS - 1) / WORD_BITS), TRUE, now_ms);
    }
    return TRUE;
}

gboolean work_set_collect(WorkSet *set, guint region, PageSpan span, double now_ms, GError **error)
{
    return collect_span(set, region, span, now_ms, error);
}

void work_set_note_written(WorkSet *set, GPtrArray *sets)
{
    set->written = sets;
}

static void absorb_all(WorkSet *set, gboolean collected, double now_ms)
{
    for (guint region = 0; region < set->fresh->len; region++)
        for (guint i = set->first_group[region]; i < set->first_group[region + 1]; i++)
            absorb(set, region, i, 0, GROUP_WORDS, collected, now_ms);
    send_order_sort(set->order);
}

gboolean work_set_sync(WorkSet *set, double now_ms, GError **error)
{
    if (!tracker_collect(set->tracker, set->fresh, error))
        return FALSE;
    absorb_all(set, TRUE, now_ms);
    return TRUE;
}

/* --- what is protected besides ---------------------------------------------- */

static guint count_watched(const WorkSet *set, guint region, guint group)
{
    guint count;
    const uint64_t *words = group_words(set, set->watched, region, group, &count);

    return count_words(words, count);
}

static PageSpan group_span(const WorkSet *set, guint region, guint group)
{
    uint64_t first = (uint64_t)(group - set->first_group[region]) * GROUP_PAGES;
    uint64_t pages = guest_memory_get_region(set->memory, region)->pages;

    return (PageSpan){first, MIN(GROUP_PAGES, pages - first)};
}

/* What waits for the pause anyway is written at no cost: see watch_plan_releases(). */
static gboolean release_deferred(WorkSet *set, guint region, guint group, GError **error)
{
    guint count;
    uint64_t *watched = group_words(set, set->watched, region, group, &count);

    if (unit_pages(set, region) > 1 ||
        !watch_plan_releases(&set->plan, set->account, group, count_words(watched, count)))
        return TRUE;
    if (!tracker_release_span(set->tracker, region, group_span(set, region, group), error))
        return FALSE;
    memset(watched, 0, count * sizeof *watched);
    group_account_note_released(set->account, group);
    return TRUE;
}

/* The words of a sample's pages may hold others; those are not collected. */
static gboolean add_sample(WorkSet *set, guint region, guint group, double now_ms, GError **error)
{
    PageSpan span = group_span(set, region, group);
    PageSpan sample = watch_plan_get_sample(&set->plan, group, (guint)span.count);

    sample.first += span.first;
    return sample.count == 0 || collect_span(set, region, sample, now_ms, error);
}

static gboolean watch_sample(WorkSet *set, double now_ms, GError **error)
{
    guint visits = MIN(set->plan.groups, set->group_count);

    for (guint i = 0; i < visits; i++) {
        guint group = watch_plan_next(&set->plan, set->group_count);
        guint region = region_of(set, group);

        if (watch_plan_wants(&set->plan, count_watched(set, region, group)) &&
            !add_sample(set, region, group, now_ms, error))
            return FALSE;
    }
    watch_plan_end_sync(&set->plan);
    return TRUE;
}

gboolean work_set_peek(WorkSet *set, double now_ms, GError **error)
{
    if (!tracker_peek(set->tracker, set->fresh, error))
        return FALSE;
    absorb_all(set, FALSE, now_ms);
    for (guint region = 0; region < set->fresh->len; region++)
        for (guint i = set->first_group[region]; i < set->first_group[region + 1]; i++)
            if (!release_deferred(set, region, i, error))
                return FALSE;
    return watch_sample(set, now_ms, error);
}

uint64_t work_set_count_faults(const WorkSet *set)
{
    return (uint64_t)set->faults;
}

void work_set_adjust_sample(WorkSet *set, double fault_share)
{
    watch_plan_adjust(&set->plan, fault_share);
}

/* A batch that no word fits into would end its round. */
G_STATIC_ASSERT(WORK_LEAST_BATCH_PAGES >= WORD_BITS);

/* --- giving out ------------------------------------------------------------ */

/* Moves pending pages of one group to the batch, which may become *most* pages;
 * FALSE where it became full before the group's end.  Whole words only: two batches that are
 * encoded side by side then never share one in any bitmap of pages. */
static gboolean give(WorkSet *set, guint region, guint group, guint most, WorkBatch *batch)
{
    PageSet *pending = g_ptr_array_index(set->pending, region);
    PageSet *given = g_ptr_array_index(set->given, region);
    uint64_t first = (uint64_t)(group - set->first_group[region]) * GROUP_PAGES;
    guint words;
    uint64_t *bits = group_words(set, set->pending, region, group, &words);

    for (guint i = 0; i < words; i++) {
        uint64_t at = first + (uint64_t)i * WORD_BITS;
        PageSpan span;

        if (batch->pages + (guint)__builtin_popcountll(bits[i]) > most)
            return FALSE;
        while (bits[i] && page_set_next_run(pending, at, WORD_BITS, &span.first, &span.count)) {
            span.count = MIN(span.count, first + (i + 1) * WORD_BITS - span.first);
            page_set_remove(pending, span.first, span.count);
            page_set_add(given, span.first, span.count);
            batch->spans[batch->span_count++] = span;
            batch->pages += span.count;
        }
    }
    return TRUE;
}

/* Collects what give() is about to give: from its first page's word to its last one's. */
static gboolean collect_turn(WorkSet *set, guint region, guint group, guint most,
                             const WorkBatch *batch, double now_ms, GError **error)
{
    guint words, from = GROUP_WORDS, to = 0, pages = batch->pages;
    const uint64_t *bits = group_words(set, set->pending, region, group, &words);
    PageSpan span = group_span(set, region, group);

    for (guint i = 0; i < words; i++) {
        pages += (guint)__builtin_popcountll(bits[i]);
        if (pages > most)
            break;
        if (bits[i]) {
            from = MIN(from, i);
            to = i + 1;
        }
    }
    if (from >= to)
        return TRUE;
    span.count = MIN((uint64_t)(to - from) * WORD_BITS, span.count - from * WORD_BITS);
    span.first += from * WORD_BITS;
    return collect_span(set, region, span, now_ms, error);
}

static guint count_pending(const WorkSet *set, guint region, guint group)
{
    guint count;
    const uint64_t *words = group_words(set, set->pending, region, group, &count);

    return count_words(words, count);
}

gboolean work_set_take(WorkSet *set, gboolean paused, double now_ms, guint most, WorkBatch *ret,
                       GError **error)
{
    guint group, last_group = 0;

    ret->span_count = 0;
    ret->pages = 0;
    /* Each probe alone makes a batch. */
    while (!paused && send_order_take_probe(set->order, &group)) {
        ret->region = region_of(set, group);
        if (!collect_turn(set, ret->region, group, GROUP_ACCOUNT_PROBE_PAGES, ret, now_ms, error))
            return FALSE;
        give(set, ret->region, group, GROUP_ACCOUNT_PROBE_PAGES, ret);
        if (ret->pages > 0)
            return TRUE;
    }
    while (ret->pages < most && send_order_get_next(set->order, paused, &group)) {
        guint region = region_of(set, group);

        if (count_pending(set, region, group) > 0) {
            /* One region and ascending pages: what a frame can hold. */
            if (ret->pages > 0 && (region != ret->region || group < last_group))
                break;
            if (!paused && !collect_turn(set, region, group, most, ret, now_ms, error))
                return FALSE;
            ret->region = region;
            last_group = group;
            if (!give(set, region, group, most, ret))
                break; /* full; the group goes on with the next one */
        }
        send_order_pass(set->order);
    }
    return TRUE;
}

void work_set_set_probes(WorkSet *set, const guint *groups, guint count)
{
    send_order_set_probes(set->order, groups, count);
}

void work_set_update_account(WorkSet *set)
{
    for (guint region = 0; region < set->pending->len; region++) {
        for (guint i = set->first_group[region]; i < set->first_group[region + 1]; i++) {
            guint count, pages = 0, unsent = 0;
            const uint64_t *pending = group_words(set, set->pending, region, i, &count);
            const uint64_t *next = group_words(set, set->next, region, i, &count);
            const uint64_t *given = group_words(set, set->given, region, i, &count);

            for (guint k = 0; k < count; k++) {
                pages += (guint)__builtin_popcountll(pending[k] | next[k]);
                unsent += (guint)__builtin_popcountll((pending[k] | next[k]) & ~given[k]);
            }
            group_account_set_pending(set->account, i, pages, unsent);
        }
    }
}
