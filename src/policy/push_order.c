#include "policy/push_order.h"

#include <string.h>

/* More than a guest has places that it is busy in at a time. */
#define PIVOTS 8u
/* Windows around a pivot: 128 KiB, 256 KiB, ..., 2 MiB. */
#define FIRST_STEP 32u
#define MOST_STEP 512u
/* What is farther away from a fault (16 MiB) is not near it. */
#define REACH 4096u

typedef struct {
    guint region;
    uint64_t least, most; /* what is near: [least, most) */
    uint64_t low, high;   /* covered by windows so far: [low, high) */
    uint64_t from, to;    /* what is left of the window in hand */
    uint64_t step;        /* of the next windows */
    gboolean behind;      /* so is the next window */
    gboolean trimmed;     /* *least* is the first outstanding page near it */
} Pivot;

struct PushOrder {
    PushOrderNextRun next_run;
    gpointer user;
    guint region_count;
    uint64_t *region_pages;
    guint *first_group; /* of each region; behind the last: how many there are */
    guint group_count;
    /* Of each group: nothing is outstanding from this page of it on.  A page never becomes
     * outstanding again, so what was found empty is not searched again. */
    guint16 *empty_from;
    guint *hot; /* groups, hottest first */
    guint hot_count;
    guint cursor;         /* into *hot*, behind that all groups in ascending order */
    Pivot pivots[PIVOTS]; /* the newest first */
    guint pivot_count;
    guint turn; /* of the pivots */
};

typedef struct {
    float heat;
    guint group;
} HotGroup;

/* --- making ---------------------------------------------------------------------- */

static void lay_out(PushOrder *order, const uint64_t *region_pages)
{
    order->region_pages = g_new0(uint64_t, MAX(order->region_count, 1));
    order->first_group = g_new0(guint, order->region_count + 1);
    for (guint i = 0; i < order->region_count; i++) {
        order->region_pages[i] = region_pages[i];
        order->first_group[i + 1] =
            order->first_group[i] + (guint)((region_pages[i] + GROUP_PAGES - 1) / GROUP_PAGES);
    }
    order->group_count = order->first_group[order->region_count];
    order->empty_from = g_new(guint16, MAX(order->group_count, 1));
    for (guint i = 0; i < order->group_count; i++)
        order->empty_from[i] = GROUP_PAGES;
}

/* As hot as each other: by address. */
static gint compare_heat(gconstpointer left, gconstpointer right)
{
    const HotGroup *a = left, *b = right;

    if (a->heat != b->heat)
        return a->heat > b->heat ? -1 : 1;
    return a->group < b->group ? -1 : a->group > b->group;
}

static void sort_hot(PushOrder *order, const float *heat)
{
    g_autoptr(GArray) hot = g_array_new(FALSE, FALSE, sizeof(HotGroup));

    for (guint i = 0; heat && i < order->group_count; i++) {
        HotGroup group = {heat[i], i};

        if (heat[i] > 0)
            g_array_append_val(hot, group);
    }
    g_array_sort(hot, compare_heat);
    order->hot_count = hot->len;
    order->hot = g_new(guint, MAX(hot->len, 1));
    for (guint i = 0; i < hot->len; i++)
        order->hot[i] = g_array_index(hot, HotGroup, i).group;
}

PushOrder *push_order_new(const uint64_t *region_pages, guint region_count, const float *heat,
                          PushOrderNextRun next_run, gpointer user)
{
    PushOrder *order = g_new0(PushOrder, 1);

    order->next_run = next_run;
    order->user = user;
    order->region_count = region_count;
    lay_out(order, region_pages);
    sort_hot(order, heat);
    return order;
}

void push_order_free(PushOrder *order)
{
    if (!order)
        return;
    g_free(order->region_pages);
    g_free(order->first_group);
    g_free(order->empty_from);
    g_free(order->hot);
    g_free(order);
}

/* --- searching ------------------------------------------------------------------- */

/* Nothing is outstanding in [from, to) of the region.  Costs no more than it took to find out. */
static void note_empty(PushOrder *order, guint region, uint64_t from, uint64_t to)
{
    for (uint64_t page = from; page < to; page = (page / GROUP_PAGES + 1) * GROUP_PAGES) {
        uint64_t end = MIN((page / GROUP_PAGES + 1) * GROUP_PAGES, order->region_pages[region]);
        guint16 *empty = &order->empty_from[order->first_group[region] + page / GROUP_PAGES];

        if (end <= to)
            *empty = MIN(*empty, (guint16)(page % GROUP_PAGES));
    }
}

/* The first run within [from, to) of the region. */
static gboolean find_run(PushOrder *order, guint region, uint64_t from, uint64_t to, uint64_t max,
                         PushRun *ret)
{
    uint64_t first, count;

    while (from < to &&
           from % GROUP_PAGES >= order->empty_from[order->first_group[region] + from / GROUP_PAGES])
        from = (from / GROUP_PAGES + 1) * GROUP_PAGES;
    if (from >= to)
        return FALSE;
    if (!order->next_run(region, from, max, &first, &count, order->user))
        first = order->region_pages[region];
    note_empty(order, region, from, first);
    if (first >= to)
        return FALSE;
    *ret = (PushRun){.region = region, .first = first, .count = MIN(count, to - first)};
    return TRUE;
}

/* --- around faults --------------------------------------------------------------- */

/* A search goes on to the next outstanding page, however far ahead.  So where nothing is left
 * behind, that is found out by one search, not by one a window. */
static void trim_behind(PushOrder *order, Pivot *pivot)
{
    PushRun run;

    pivot->trimmed = TRUE;
    pivot->least =
        find_run(order, pivot->region, pivot->least, pivot->low, 1, &run) ? run.first : pivot->low;
}

/* Windows ahead and behind by turns; behind one of each they grow. */
static void open_window(PushOrder *order, Pivot *pivot)
{
    if (pivot->behind && !pivot->trimmed)
        trim_behind(order, pivot);
    if (!pivot->behind) {
        pivot->from = pivot->high;
        pivot->to = pivot->high = MIN(pivot->high + pivot->step, pivot->most);
    } else {
        pivot->to = pivot->low;
        pivot->from = pivot->low -= MIN(pivot->step, pivot->low - pivot->least);
        pivot->step = MIN(2 * pivot->step, MOST_STEP);
    }
    pivot->behind = !pivot->behind;
}

/* FALSE: nothing is left near it. */
static gboolean next_of_pivot(PushOrder *order, Pivot *pivot, uint64_t max, PushRun *ret)
{
    for (;;) {
        if (find_run(order, pivot->region, pivot->from, pivot->to, max, ret)) {
            pivot->from = ret->first + ret->count;
            return TRUE;
        }
        if (pivot->low == pivot->least && pivot->high == pivot->most)
            return FALSE;
        open_window(order, pivot);
    }
}

static void remove_pivot(PushOrder *order, guint index)
{
    order->pivot_count--;
    memmove(&order->pivots[index], &order->pivots[index + 1],
            (order->pivot_count - index) * sizeof(Pivot));
}

/* The guest has gone on from there: that pivot's turns are the new one's. */
static gboolean is_continued(const Pivot *pivot, guint region, uint64_t page)
{
    return pivot->region == region && page >= pivot->low && page < pivot->high + MOST_STEP;
}

void push_order_note_fault(PushOrder *order, guint region, uint64_t page)
{
    guint replaced = 0;

    if (region >= order->region_count || page >= order->region_pages[region])
        return;
    while (replaced < order->pivot_count && !is_continued(&order->pivots[replaced], region, page))
        replaced++;
    if (replaced < order->pivot_count)
        remove_pivot(order, replaced);
    order->pivot_count = MIN(order->pivot_count, PIVOTS - 1);
    memmove(&order->pivots[1], &order->pivots[0], order->pivot_count * sizeof(Pivot));
    order->pivots[0] = (Pivot){
        .region = region,
        .least = page - MIN(page, REACH),
        .most = page + MIN(order->region_pages[region] - page, REACH),
        .low = page,
        .high = page,
        .step = FIRST_STEP,
    };
    order->pivot_count++;
    order->turn = 0;
}

/* Each pivot has one run in its turn. */
static gboolean next_around_faults(PushOrder *order, uint64_t max, PushRun *ret)
{
    while (order->pivot_count > 0) {
        if (order->turn >= order->pivot_count)
            order->turn = 0;
        if (next_of_pivot(order, &order->pivots[order->turn], max, ret)) {
            order->turn++;
            return TRUE;
        }
        remove_pivot(order, order->turn);
    }
    return FALSE;
}

/* --- the others ------------------------------------------------------------------ */

static gboolean next_of_group(PushOrder *order, guint group, uint64_t max, PushRun *ret)
{
    guint region = 0;
    uint64_t first;

    if (order->empty_from[group] == 0)
        return FALSE;
    while (order->first_group[region + 1] <= group)
        region++;
    first = (uint64_t)(group - order->first_group[region]) * GROUP_PAGES;
    return find_run(order, region, first, MIN(first + GROUP_PAGES, order->region_pages[region]),
                    max, ret);
}

gboolean push_order_next(PushOrder *order, uint64_t max, PushRun *ret)
{
    if (next_around_faults(order, max, ret))
        return TRUE;
    for (; order->cursor < order->hot_count + order->group_count; order->cursor++) {
        guint cursor = order->cursor;
        guint group = cursor < order->hot_count ? order->hot[cursor] : cursor - order->hot_count;

        if (next_of_group(order, group, max, ret))
            return TRUE;
    }
    return FALSE;
}
