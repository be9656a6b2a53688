#include "transfer/page_copies.h"

#include "page/content_index.h"
#include "wire/copy_frame.h"

struct PageCopies {
    ContentIndex *index;
    uint64_t *first_places; /* of each region: the index numbers the pages of all */
    guint region_count;
    GArray *found; /* of PageCopy */
};

PageCopies *page_copies_new(const PageRegions *regions, uint64_t pages, uint64_t most_bytes)
{
    ContentIndex *index = content_index_new(pages, most_bytes);
    PageCopies *copies;
    uint64_t place = 0;

    if (!index)
        return NULL;
    copies = g_new0(PageCopies, 1);
    copies->index = index;
    copies->region_count = regions->count;
    copies->first_places = g_new0(uint64_t, copies->region_count);
    for (guint i = 0; i < copies->region_count; i++) {
        copies->first_places[i] = place;
        place += regions->pages[i];
    }
    copies->found = g_array_new(FALSE, FALSE, sizeof(PageCopy));
    return copies;
}

void page_copies_free(PageCopies *copies)
{
    if (!copies)
        return;
    content_index_free(copies->index);
    g_array_unref(copies->found);
    g_free(copies->first_places);
    g_free(copies);
}

uint64_t page_copies_get_bytes(const PageCopies *copies)
{
    return content_index_get_bytes(copies->index);
}

gboolean page_copies_find(PageCopies *copies, guint region, uint64_t page, const uint8_t *content,
                          PageCopy *ret)
{
    uint64_t place = copies->first_places[region] + page;
    guint source = copies->region_count - 1;
    uint32_t found;

    /* Of more than 16 TiB the first are dealt with. */
    if (place >= UINT32_MAX ||
        !content_index_find_or_add(copies->index, content, (uint32_t)place, &found))
        return FALSE;
    while (copies->first_places[source] > found)
        source--;
    *ret = (PageCopy){region, source, page, found - copies->first_places[source]};
    return TRUE;
}

void page_copies_add(PageCopies *copies, const PageCopy *found, guint count)
{
    g_array_append_vals(copies->found, found, count);
}

static int compare(gconstpointer left, gconstpointer right)
{
    const PageCopy *a = left, *b = right;

    if (a->region != b->region)
        return a->region < b->region ? -1 : 1;
    return a->page < b->page ? -1 : a->page > b->page;
}

static void add_to_runs(CopyRun *runs, uint32_t *count, const PageCopy *copy)
{
    CopyRun *last = *count ? &runs[*count - 1] : NULL;

    if (last && last->first + last->count == copy->page &&
        last->source_region == copy->source_region &&
        last->source_first + last->count == copy->source_page)
        last->count++;
    else
        runs[(*count)++] = (CopyRun){copy->page, copy->source_page, 1, copy->source_region};
}

/* The next frame's worth, from *at* on: pages of one region.  Returns their end. */
static guint collect_runs(const GArray *found, guint at, CopyRun *runs, uint32_t *ret_count)
{
    uint32_t region = g_array_index(found, PageCopy, at).region;
    guint end = MIN(found->len, at + COPY_FRAME_MAX_PAGES);

    *ret_count = 0;
    while (at < end && g_array_index(found, PageCopy, at).region == region)
        add_to_runs(runs, ret_count, &g_array_index(found, PageCopy, at++));
    return at;
}

gboolean page_copies_send(PageCopies *copies, Channel *channel, uint64_t *ret_body_bytes,
                          GError **error)
{
    g_autoptr(GByteArray) body = g_byte_array_new();
    CopyRun runs[COPY_FRAME_MAX_PAGES];
    uint32_t count;

    g_array_sort(copies->found, compare);
    *ret_body_bytes = 0;
    for (guint at = 0; at < copies->found->len;) {
        uint32_t region = g_array_index(copies->found, PageCopy, at).region;

        at = collect_runs(copies->found, at, runs, &count);
        g_byte_array_set_size(body, 0);
        copy_frame_encode(body, region, runs, count);
        if (!channel_send_bytes(channel, FRAME_COPIES, body->data, body->len, error))
            return FALSE;
        *ret_body_bytes += body->len;
    }
    g_array_set_size(copies->found, 0);
    return TRUE;
}
