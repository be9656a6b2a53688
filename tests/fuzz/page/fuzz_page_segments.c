/*
 * Segment lists
 *
 * What is decoded is well-formed, encodes to the very bytes it came from, and
 * patches a page to something whose difference patches it again.
 */
#include <stdlib.h>
#include <string.h>

#include "base/page.h"
#include "page/segments.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_bounds(const SegmentList *list)
{
    guint end = 0, sum = 0;

    if (list->count == 0 || list->count > SEGMENTS_MAX)
        abort();
    for (guint i = 0; i < list->count; i++) {
        const Segment *item = &list->items[i];

        if (item->length == 0 || (i > 0 && item->offset <= end))
            abort();
        end = (guint)item->offset + item->length;
        sum += item->length;
    }
    if (end > PAGE_BYTES || sum != list->bytes)
        abort();
}

static void check_difference(const uint8_t *patched)
{
    uint8_t page[PAGE_BYTES] = {0};
    g_autoptr(GByteArray) out = g_byte_array_new();
    const uint8_t *bytes;
    ByteReader reader;
    SegmentList list;

    if (!segments_from_difference(page, patched, &list) || list.count == 0)
        return;
    segments_encode(out, &list, patched);
    reader = byte_reader_make(out->data, out->len);
    if (!segments_decode(&reader, &list, &bytes, NULL))
        abort();
    segments_apply(&list, bytes, page);
    if (memcmp(page, patched, sizeof page) != 0)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    ByteReader reader = byte_reader_make(data, size);
    g_autoptr(GByteArray) out = g_byte_array_new();
    uint8_t page[PAGE_BYTES] = {0};
    const uint8_t *bytes;
    SegmentList list;

    if (!segments_decode(&reader, &list, &bytes, NULL)) {
        if (byte_reader_ok(&reader))
            abort();
        return 0;
    }
    check_bounds(&list);
    if (bytes + list.bytes != reader.at)
        abort();
    segments_apply(&list, bytes, page);
    segments_encode(out, &list, page);
    if (out->len != segments_encoded_bytes(&list) || out->len != size - reader.left ||
        memcmp(out->data, data, out->len) != 0)
        abort();
    check_difference(page);
    return 0;
}
