/*
 * SEGMENTS payloads: the head and the unpacked body
 *
 * What is accepted lies in its region and encodes to the very bytes it came
 * from; a packed body is walked over as if it were plain.
 */
#include <stdlib.h>
#include <string.h>

#include "base/page.h"
#include "wire/segment_frame.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const uint64_t regions[] = {16, 1ULL << 34, 0, 300};

static void check_page(const SegmentFrameHead *head, uint64_t page, const SegmentList *list,
                       const uint8_t *bytes, GByteArray *again, uint64_t *last_page)
{
    uint8_t content[PAGE_BYTES] = {0};

    if (page >= regions[head->region] || (*last_page != UINT64_MAX && page <= *last_page))
        abort();
    segments_apply(list, bytes, content);
    segment_frame_append(again, last_page, page, list, content);
}

static void check_body(const SegmentFrameHead *head, const uint8_t *data, size_t length)
{
    SegmentFrameBody walk = segment_frame_body(head, data, length, regions[head->region]);
    g_autoptr(GByteArray) again = g_byte_array_new();
    g_autoptr(GError) error = NULL;
    uint64_t page, last_page = UINT64_MAX;
    const uint8_t *bytes;
    SegmentList list;
    uint32_t pages = 0;

    while (segment_frame_next(&walk, &page, &list, &bytes, &error)) {
        check_page(head, page, &list, bytes, again, &last_page);
        pages++;
    }
    /* Also of a malformed body that which was accepted is the same. */
    if (again->len > length || (again->len > 0 && memcmp(again->data, data, again->len) != 0))
        abort();
    if (!error && (pages != head->page_count || again->len != length))
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autoptr(GByteArray) again = g_byte_array_new();
    SegmentFrameHead head;
    const uint8_t *body;
    size_t length;

    if (!segment_frame_decode_head(data, size, G_N_ELEMENTS(regions), &head, &body, &length, NULL))
        return 0;
    segment_frame_encode_head(again, &head);
    if (again->len != FRAME_SEGMENTS_HEAD_BYTES || memcmp(again->data, data, again->len) != 0 ||
        body + length != data + size)
        abort();
    check_body(&head, body, length);
    return 0;
}
