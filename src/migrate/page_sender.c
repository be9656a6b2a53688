#include "migrate/page_sender.h"

#include <string.h>

#include "base/clock.h"
#include "page/lz4_block.h"
#include "page/zero.h"
#include "wire/page_frame.h"

#define BATCH_PAGES PAGE_FRAME_MAX_RAW_PAGES

struct PageSender {
    GuestMemory *memory;
    Channel *channel;
    GPtrArray *sent;  /* pages that have content at the destination */
    uint8_t *buffer;  /* BATCH_PAGES pages */
    GByteArray *head; /* frame header: region and runs */
    Packing packing;
    uint8_t *packed; /* NULL until it is needed */
    uint64_t done_bytes, pages;
    /* The batch under construction */
    PageSpan spans[BATCH_PAGES];
    guint span_count;
    PageRun runs[BATCH_PAGES];
    guint run_count;
    struct iovec pieces[BATCH_PAGES + 1];
    int piece_count;
};

PageSender *page_sender_new(GuestMemory *memory, Channel *channel)
{
    PageSender *sender = g_new0(PageSender, 1);

    sender->memory = memory;
    sender->channel = channel;
    sender->sent = guest_memory_new_sets(memory);
    sender->buffer = g_malloc(BATCH_PAGES * GUEST_PAGE_BYTES);
    sender->head = g_byte_array_new();
    sender->packing = packing_make(PACKING_NONE);
    return sender;
}

void page_sender_set_packing(PageSender *sender, PackingMode mode)
{
    sender->packing = packing_make(mode);
    if (mode != PACKING_NONE && !sender->packed)
        sender->packed = g_malloc(lz4_bound(BATCH_PAGES * GUEST_PAGE_BYTES));
}

void page_sender_free(PageSender *sender)
{
    if (!sender)
        return;
    g_ptr_array_unref(sender->sent);
    g_free(sender->buffer);
    g_free(sender->packed);
    g_byte_array_unref(sender->head);
    g_free(sender);
}

/* Takes the next spans, of at most BATCH_PAGES pages, from *at* on; returns
 * the page to go on with. */
static uint64_t gather(PageSender *sender, const PageSet *set, uint64_t at)
{
    uint64_t left = BATCH_PAGES;
    PageSpan span;

    sender->span_count = 0;
    while (left > 0 && page_set_next_run(set, at, left, &span.first, &span.count)) {
        sender->spans[sender->span_count++] = span;
        left -= span.count;
        at = span.first + span.count;
    }
    return at;
}

static void add_run(PageSender *sender, uint64_t page, PageRunKind kind)
{
    PageRun *last = sender->run_count ? &sender->runs[sender->run_count - 1] : NULL;

    if (last && last->kind == kind && last->first + last->count == page) {
        last->count++;
        return;
    }
    sender->runs[sender->run_count++] = (PageRun){.first = page, .count = 1, .kind = kind};
}

static void add_piece(PageSender *sender, uint8_t *content)
{
    struct iovec *last = &sender->pieces[sender->piece_count - 1];

    if (sender->piece_count > 1 && (uint8_t *)last->iov_base + last->iov_len == content) {
        last->iov_len += GUEST_PAGE_BYTES;
        return;
    }
    sender->pieces[sender->piece_count++] = (struct iovec){content, GUEST_PAGE_BYTES};
}

static void classify(PageSender *sender, guint region, uint64_t page, uint8_t *content)
{
    PageSet *sent = g_ptr_array_index(sender->sent, region);

    sender->done_bytes += GUEST_PAGE_BYTES;
    if (!zero_is_page(content)) {
        page_set_add(sent, page, 1);
        add_run(sender, page, PAGE_RUN_RAW);
        add_piece(sender, content);
    } else if (page_set_has(sent, page)) {
        page_set_remove(sent, page, 1);
        add_run(sender, page, PAGE_RUN_ZERO);
    } else {
        return;
    }
    sender->pages++;
}

/* Moves the pieces together; returns their bytes. */
static size_t join_pieces(PageSender *sender)
{
    uint8_t *at = sender->buffer;

    for (int i = 1; i < sender->piece_count; i++) {
        if (sender->pieces[i].iov_base != at)
            memmove(at, sender->pieces[i].iov_base, sender->pieces[i].iov_len);
        at += sender->pieces[i].iov_len;
    }
    return (size_t)(at - sender->buffer);
}

/* Replaces the pieces by one LZ4 block, where that is smaller. */
static FrameType pack(PageSender *sender)
{
    size_t raw, packed;

    if (!sender->packing.on || sender->piece_count < 2)
        return FRAME_PAGES;
    raw = join_pieces(sender);
    packed = lz4_pack(sender->buffer, raw, sender->packed);
    sender->piece_count = 2;
    sender->pieces[1] =
        packed > 0 ? (struct iovec){sender->packed, packed} : (struct iovec){sender->buffer, raw};
    return packed > 0 ? FRAME_PAGES_LZ4 : FRAME_PAGES;
}

static size_t count_piece_bytes(const PageSender *sender)
{
    size_t bytes = 0;

    for (int i = 1; i < sender->piece_count; i++)
        bytes += sender->pieces[i].iov_len;
    return bytes;
}

static gboolean send_frame(PageSender *sender, GError **error)
{
    size_t raw = count_piece_bytes(sender);
    FrameType type = pack(sender);
    uint64_t start = clock_now_ns();

    if (!channel_send(sender->channel, type, sender->pieces, sender->piece_count, error))
        return FALSE;
    packing_note(&sender->packing, raw, count_piece_bytes(sender),
                 clock_ns_to_ms(clock_now_ns() - start));
    return TRUE;
}

static gboolean send_batch(PageSender *sender, guint region, GError **error)
{
    uint8_t *content = sender->buffer;

    if (!guest_memory_read(sender->memory, region, sender->spans, sender->span_count,
                           sender->buffer, error))
        return FALSE;
    sender->run_count = 0;
    sender->piece_count = 1; /* the first is the head */
    for (guint i = 0; i < sender->span_count; i++)
        for (uint64_t k = 0; k < sender->spans[i].count; k++, content += GUEST_PAGE_BYTES)
            classify(sender, region, sender->spans[i].first + k, content);
    if (sender->run_count == 0)
        return TRUE;
    g_byte_array_set_size(sender->head, 0);
    page_frame_encode(sender->head, region, sender->runs, sender->run_count);
    sender->pieces[0] = (struct iovec){sender->head->data, sender->head->len};
    return send_frame(sender, error);
}

static gboolean call_hooks(PageSender *sender, const PageSenderHooks *hooks, guint region,
                           GError **error)
{
    return (!hooks->check || hooks->check(sender->done_bytes, hooks->user, error)) &&
           (!hooks->refresh ||
            hooks->refresh(region, sender->spans, sender->span_count, hooks->user, error));
}

gboolean page_sender_send(PageSender *sender, GPtrArray *sets, const PageSenderHooks *hooks,
                          uint64_t *ret_pages, GError **error)
{
    sender->done_bytes = 0;
    sender->pages = 0;
    for (guint region = 0; region < sets->len; region++) {
        const PageSet *set = g_ptr_array_index(sets, region);

        for (uint64_t at = 0;;) {
            at = gather(sender, set, at);
            if (sender->span_count == 0)
                break;
            if (!call_hooks(sender, hooks, region, error) || !send_batch(sender, region, error))
                return FALSE;
        }
    }
    if (ret_pages)
        *ret_pages = sender->pages;
    return TRUE;
}

gboolean page_sender_add_discarded(PageSender *sender, GPtrArray *sets, GError **error)
{
    for (guint i = 0; i < sets->len; i++) {
        const PageSet *sent = g_ptr_array_index(sender->sent, i);
        g_autoptr(PageSet) gone = page_set_new(sent->pages);
        g_autoptr(PageSet) populated = page_set_new(sent->pages);

        if (!guest_memory_add_populated(sender->memory, i, populated, error))
            return FALSE;
        page_set_add_all(gone, sent);
        page_set_remove_all(gone, populated);
        page_set_add_all(g_ptr_array_index(sets, i), gone);
    }
    return TRUE;
}
