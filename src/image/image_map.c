#include "image/image_map.h"

static ImageMapRun *run_at(const GArray *map, guint i)
{
    return &g_array_index(map, ImageMapRun, i);
}

/* The pages of *run* from *first* on, which it has. */
static ImageMapRun cut_front(const ImageMapRun *run, uint64_t first)
{
    ImageMapRun rest = *run;

    rest.first = first;
    rest.count -= first - run->first;
    if (run->extent != IMAGE_EXTENT_ZERO)
        rest.offset += (uint32_t)(first - run->first);
    return rest;
}

GArray *image_map_overlay(const GArray *upper, const GArray *lower)
{
    GArray *map = g_array_new(FALSE, FALSE, sizeof(ImageMapRun));
    guint next = 0;

    for (guint i = 0; i < lower->len; i++) {
        ImageMapRun left = *run_at(lower, i);

        /* What lies before it, or over its beginning. */
        while (left.count > 0 && next < upper->len &&
               run_at(upper, next)->first < left.first + left.count) {
            const ImageMapRun *over = run_at(upper, next);
            uint64_t end = left.first + left.count, over_end = over->first + over->count;

            if (over->first > left.first) {
                ImageMapRun before = left;

                before.count = over->first - left.first;
                g_array_append_val(map, before);
                left = cut_front(&left, over->first);
            }
            if (over_end > end) {
                left.count = 0; /* and it may lie over the next ones, too */
                break;
            }
            g_array_append_vals(map, over, 1);
            next++;
            if (over_end > left.first)
                left = cut_front(&left, over_end);
        }
        if (left.count > 0)
            g_array_append_val(map, left);
    }
    if (next < upper->len)
        g_array_append_vals(map, run_at(upper, next), upper->len - next);
    return map;
}

const ImageMapRun *image_map_find(const GArray *map, uint64_t page, uint64_t pages,
                                  PageSpan *ret_hole)
{
    guint low = 0, high = map->len; /* the first run that begins behind the page */
    const ImageMapRun *before;
    uint64_t from, end;

    while (low < high) {
        guint middle = low + (high - low) / 2;

        if (run_at(map, middle)->first > page)
            high = middle;
        else
            low = middle + 1;
    }
    before = low > 0 ? run_at(map, low - 1) : NULL;
    if (before && page - before->first < before->count)
        return before;
    from = before ? before->first + before->count : 0;
    end = low < map->len ? run_at(map, low)->first : pages;
    if (ret_hole)
        *ret_hole = (PageSpan){from, end - from};
    return NULL;
}
