#include "transfer/page_patcher.h"

#include "base/error.h"
#include "base/page.h"

/* Gathered for one write. */
#define BATCH_PIECES 1024u
/* Pages gathered to be read, patched and written back. */
#define BATCH_PAGES 64u
/* Pages of more segments are read and written back whole. */
#define FEW_SEGMENTS 4u

G_STATIC_ASSERT(BATCH_PIECES >= SEGMENTS_MAX);

typedef struct {
    SegmentList list;
    const uint8_t *bytes; /* borrowed from the body */
} Patch;

struct PagePatcher {
    GuestMemory *memory;
    guint region;
    GuestPiece pieces[BATCH_PIECES];
    guint piece_count;
    PageSpan spans[BATCH_PAGES]; /* one page each */
    Patch patches[BATCH_PAGES];
    guint patch_count;
    uint64_t numbers[SEGMENT_FRAME_MAX_PAGES]; /* of the whole frame */
    guint number_count;
    uint8_t pages[BATCH_PAGES * PAGE_BYTES];
};

PagePatcher *page_patcher_new(GuestMemory *memory)
{
    PagePatcher *patcher = g_malloc(sizeof *patcher); /* not touched before it is used */

    patcher->memory = memory;
    patcher->piece_count = patcher->patch_count = patcher->number_count = 0;
    return patcher;
}

void page_patcher_free(PagePatcher *patcher)
{
    g_free(patcher);
}

static gboolean write_pieces(PagePatcher *patcher, GError **error)
{
    guint count = patcher->piece_count;

    patcher->piece_count = 0;
    return guest_memory_write_pieces(patcher->memory, patcher->region, patcher->pieces, count,
                                     error);
}

static gboolean add_pieces(PagePatcher *patcher, uint64_t page, const SegmentList *list,
                           const uint8_t *bytes, GError **error)
{
    if (patcher->piece_count + list->count > BATCH_PIECES && !write_pieces(patcher, error))
        return FALSE;
    for (guint i = 0; i < list->count; i++) {
        const Segment *segment = &list->items[i];

        patcher->pieces[patcher->piece_count++] =
            (GuestPiece){page * PAGE_BYTES + segment->offset, segment->length, bytes};
        bytes += segment->length;
    }
    return TRUE;
}

static gboolean patch_pages(PagePatcher *patcher, GError **error)
{
    guint count = patcher->patch_count;

    patcher->patch_count = 0;
    if (!guest_memory_read(patcher->memory, patcher->region, patcher->spans, count, patcher->pages,
                           error))
        return FALSE;
    for (guint i = 0; i < count; i++)
        segments_apply(&patcher->patches[i].list, patcher->patches[i].bytes,
                       patcher->pages + i * PAGE_BYTES);
    return guest_memory_write(patcher->memory, patcher->region, patcher->spans, count,
                              patcher->pages, error);
}

static gboolean add_patch(PagePatcher *patcher, uint64_t page, const SegmentList *list,
                          const uint8_t *bytes, GError **error)
{
    if (patcher->patch_count == BATCH_PAGES && !patch_pages(patcher, error))
        return FALSE;
    patcher->spans[patcher->patch_count] = (PageSpan){page, 1};
    patcher->patches[patcher->patch_count++] = (Patch){*list, bytes};
    return TRUE;
}

const uint64_t *page_patcher_get_pages(const PagePatcher *patcher, guint *ret_count)
{
    *ret_count = patcher->number_count;
    return patcher->numbers;
}

gboolean page_patcher_apply(PagePatcher *patcher, const SegmentFrameHead *head, const uint8_t *body,
                            GError **error)
{
    const GuestRegion *region = guest_memory_get_region(patcher->memory, head->region);
    SegmentFrameBody walk = segment_frame_body(head, body, head->body_bytes, region->pages);
    g_autoptr(GError) malformed = NULL;
    SegmentList list;
    const uint8_t *bytes;
    uint64_t page;

    patcher->region = head->region;
    patcher->piece_count = patcher->patch_count = patcher->number_count = 0;
    while (segment_frame_next(&walk, &page, &list, &bytes, &malformed)) {
        gboolean few = list.count <= FEW_SEGMENTS;

        patcher->numbers[patcher->number_count++] = page;
        if (!(few ? add_pieces : add_patch)(patcher, page, &list, bytes, error))
            return FALSE;
    }
    if (malformed) {
        g_propagate_error(error, g_steal_pointer(&malformed));
        return FALSE;
    }
    return write_pieces(patcher, error) && patch_pages(patcher, error);
}
