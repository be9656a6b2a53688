#include "page/segments.h"

#include <string.h>

#include "base/error.h"
#include "base/page.h"
#include "page/difference.h"

/* Gaps up to these many bytes are bridged, at first those that cost no more
 * than the header of a short segment (two bytes), then more if the list would
 * be too long otherwise: the gaps in arrays of 8, 16 and 32 byte items. */
static const guint bridges[] = {2, 7, 15, 31};

/* The most that a list's head takes: count, gaps and lengths below 2^14. */
#define HEAD_BYTES_MAX (2 + SEGMENTS_MAX * 4)

static guint head_bytes(const SegmentList *list)
{
    guint length = byte_varint_bytes(list->count), end = 0;

    for (guint i = 0; i < list->count; i++) {
        const Segment *item = &list->items[i];

        length += byte_varint_bytes(item->offset - end) + byte_varint_bytes(item->length - 1u);
        end = (guint)item->offset + item->length;
    }
    return length;
}

guint segments_encoded_bytes(const SegmentList *list)
{
    return head_bytes(list) + list->bytes;
}

/* Adds the run [start, end) to a list; FALSE where there is no room. */
static gboolean add_run(SegmentList *list, guint start, guint end, guint bridge)
{
    Segment *last = list->count > 0 ? &list->items[list->count - 1] : NULL;

    if (last && start - (last->offset + last->length) <= bridge) {
        list->bytes += end - (last->offset + last->length);
        last->length = (uint16_t)(end - last->offset);
        return TRUE;
    }
    if (list->count == SEGMENTS_MAX)
        return FALSE;
    list->items[list->count++] = (Segment){(uint16_t)start, (uint16_t)(end - start)};
    list->bytes += end - start;
    return TRUE;
}

/* Makes a list of the runs of set bits, each bit *unit* bytes. */
static gboolean list_runs(const uint64_t *bits, guint words, guint unit, guint bridge,
                          SegmentList *list)
{
    list->count = 0;
    list->bytes = 0;
    for (guint word = 0; word < words; word++) {
        uint64_t left = bits[word];

        /* A run that goes on in the next word is joined there by add_run(). */
        while (left) {
            guint first = (guint)__builtin_ctzll(left);
            uint64_t clear = ~(left >> first);
            guint count = clear ? (guint)__builtin_ctzll(clear) : 64;

            if (!add_run(list, (64 * word + first) * unit, (64 * word + first + count) * unit,
                         bridge))
                return FALSE;
            left = first + count < 64 ? left >> (first + count) << (first + count) : 0;
        }
    }
    return TRUE;
}

gboolean segments_from_difference(const uint8_t *old_page, const uint8_t *new_page,
                                  SegmentList *ret)
{
    uint64_t bits[DIFFERENCE_WORDS];
    guint dirty_bytes = 0;

    ret->count = 0;
    ret->bytes = 0;
    if (!difference_page(old_page, new_page, bits))
        return TRUE;
    for (guint i = 0; i < DIFFERENCE_WORDS; i++)
        dirty_bytes += (guint)__builtin_popcountll(bits[i]);
    for (guint i = 0; i < G_N_ELEMENTS(bridges) && dirty_bytes < SEGMENTS_WORTH_BYTES; i++)
        if (list_runs(bits, DIFFERENCE_WORDS, 1, bridges[i], ret))
            return segments_encoded_bytes(ret) <= SEGMENTS_WORTH_BYTES;
    return FALSE;
}

gboolean segments_from_blocks(const uint64_t *dirty_blocks, guint block_bytes, SegmentList *ret)
{
    guint blocks = PAGE_BYTES / block_bytes, words = (blocks + 63) / 64;
    uint64_t bits[PAGE_BYTES / 32 / 64] = {0};

    for (guint i = 0; i < words; i++)
        bits[i] = dirty_blocks[i];
    if (blocks < 64)
        bits[0] &= (UINT64_C(1) << blocks) - 1;
    return list_runs(bits, words, block_bytes, 0, ret) &&
           segments_encoded_bytes(ret) <= SEGMENTS_WORTH_BYTES;
}

void segments_encode(GByteArray *out, const SegmentList *list, const uint8_t *page)
{
    uint8_t head[HEAD_BYTES_MAX], *to;
    guint length = byte_put_varint(head, list->count), end = 0, before = out->len;

    for (guint i = 0; i < list->count; i++) {
        const Segment *item = &list->items[i];

        length += byte_put_varint(head + length, item->offset - end);
        length += byte_put_varint(head + length, item->length - 1u);
        end = (guint)item->offset + item->length;
    }
    g_byte_array_set_size(out, before + length + list->bytes);
    to = out->data + before;
    memcpy(to, head, length);
    to += length;
    for (guint i = 0; i < list->count; i++) {
        memcpy(to, page + list->items[i].offset, list->items[i].length);
        to += list->items[i].length;
    }
}

/* Reads one segment behind *end*; FALSE and a reason where it breaks the rules. */
static gboolean decode_segment(ByteReader *reader, SegmentList *list, guint *end,
                               const char **ret_reason)
{
    uint64_t gap = byte_read_varint(reader), more = byte_read_varint(reader);

    if (!byte_reader_ok(reader)) {
        *ret_reason = "its head is cut short or has an over-long number";
        return FALSE;
    }
    if (gap == 0 && list->count > 0) {
        *ret_reason = "two segments touch";
        return FALSE;
    }
    if (gap >= PAGE_BYTES || more >= PAGE_BYTES || *end + gap + more >= PAGE_BYTES) {
        *ret_reason = "a segment leaves the page";
        return FALSE;
    }
    list->items[list->count++] = (Segment){(uint16_t)(*end + gap), (uint16_t)(more + 1)};
    list->bytes += (guint)more + 1;
    *end += (guint)(gap + more + 1);
    return TRUE;
}

gboolean segments_decode(ByteReader *reader, SegmentList *ret, const uint8_t **ret_bytes,
                         GError **error)
{
    uint64_t count = byte_read_varint(reader);
    const char *reason = NULL;
    guint end = 0;

    ret->count = 0;
    ret->bytes = 0;
    if (!byte_reader_ok(reader))
        reason = "it is cut short or has an over-long number";
    else if (count == 0 || count > SEGMENTS_MAX)
        reason = "its count is out of bounds";
    for (uint64_t i = 0; !reason && i < count; i++)
        if (!decode_segment(reader, ret, &end, &reason))
            break;
    *ret_bytes = reason ? NULL : byte_read_span(reader, ret->bytes);
    if (!reason && !*ret_bytes)
        reason = "its data is cut short";
    if (!reason)
        return TRUE;
    reader->failed = TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "a page's segment list is malformed: %s", reason);
    return FALSE;
}

void segments_apply(const SegmentList *list, const uint8_t *bytes, uint8_t *page)
{
    for (guint i = 0; i < list->count; i++) {
        memcpy(page + list->items[i].offset, bytes, list->items[i].length);
        bytes += list->items[i].length;
    }
}
