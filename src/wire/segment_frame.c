#include "wire/segment_frame.h"

#include "base/error.h"

/* Page delta of 10 bytes, count of 2, a gap and a length of 2 for each segment. */
G_STATIC_ASSERT(10 + 2 + 4 * SEGMENTS_MAX + 4096 <= SEGMENT_FRAME_PAGE_MAX_BYTES);

void segment_frame_encode_head(GByteArray *out, const SegmentFrameHead *head)
{
    byte_write_le32(out, head->region);
    byte_write_le32(out, head->page_count);
    byte_write_le32(out, (uint32_t)head->method);
    byte_write_le32(out, head->body_bytes);
}

/* Numbers of the head that no frame can have. */
static gboolean check_head(const SegmentFrameHead *head, size_t region_count, GError **error)
{
    if (head->region >= region_count) {
        error_set(error, VMFERRY_ERROR_INVALID, "SEGMENTS: region %u of %zu", head->region,
                  region_count);
        return FALSE;
    }
    if (head->page_count == 0 || head->page_count > SEGMENT_FRAME_MAX_PAGES) {
        error_set(error, VMFERRY_ERROR_INVALID, "SEGMENTS: %u pages; from 1 to %u are allowed",
                  head->page_count, SEGMENT_FRAME_MAX_PAGES);
        return FALSE;
    }
    if ((uint32_t)head->method > PACK_ZSTD) {
        error_set(error, VMFERRY_ERROR_INVALID, "SEGMENTS: packed by unknown method %u",
                  (guint)head->method);
        return FALSE;
    }
    if (head->body_bytes < head->page_count * SEGMENT_FRAME_PAGE_MIN_BYTES ||
        head->body_bytes > FRAME_SEGMENTS_MAX_BODY_BYTES) {
        error_set(error, VMFERRY_ERROR_INVALID,
                  "SEGMENTS: body of %u bytes for %u pages; from %u to %u are allowed",
                  head->body_bytes, head->page_count,
                  head->page_count * SEGMENT_FRAME_PAGE_MIN_BYTES, FRAME_SEGMENTS_MAX_BODY_BYTES);
        return FALSE;
    }
    return TRUE;
}

gboolean segment_frame_decode_head(const uint8_t *payload, size_t length, size_t region_count,
                                   SegmentFrameHead *ret, const uint8_t **ret_body,
                                   size_t *ret_body_length, GError **error)
{
    ByteReader reader = byte_reader_make(payload, length);
    SegmentFrameHead head;

    head.region = byte_read_le32(&reader);
    head.page_count = byte_read_le32(&reader);
    head.method = (PackMethod)byte_read_le32(&reader);
    head.body_bytes = byte_read_le32(&reader);
    if (!byte_reader_ok(&reader) || reader.left == 0) {
        error_set(error, VMFERRY_ERROR_INVALID, "SEGMENTS: frame of %zu bytes is cut short",
                  length);
        return FALSE;
    }
    if (!check_head(&head, region_count, error))
        return FALSE;
    if (head.method == PACK_NONE && reader.left != head.body_bytes) {
        error_set(error, VMFERRY_ERROR_INVALID,
                  "SEGMENTS: body of %zu bytes where the head says %u", reader.left,
                  head.body_bytes);
        return FALSE;
    }
    *ret = head;
    *ret_body = reader.at;
    *ret_body_length = reader.left;
    return TRUE;
}

SegmentFrameBody segment_frame_body(const SegmentFrameHead *head, const uint8_t *body, size_t bytes,
                                    uint64_t region_pages)
{
    return (SegmentFrameBody){.reader = byte_reader_make(body, bytes),
                              .region_pages = region_pages,
                              .left = head->page_count};
}

/* No bytes may follow the last page. */
static void check_end(const SegmentFrameBody *body, GError **error)
{
    if (body->reader.left > 0)
        error_set(error, VMFERRY_ERROR_INVALID, "SEGMENTS: %zu bytes behind the last page",
                  body->reader.left);
}

static gboolean read_page(SegmentFrameBody *body, uint64_t *ret_page, GError **error)
{
    uint64_t delta = byte_read_varint(&body->reader);

    if (!byte_reader_ok(&body->reader)) {
        error_set(error, VMFERRY_ERROR_INVALID,
                  "SEGMENTS: a page number is cut short or malformed");
        return FALSE;
    }
    /* Written so that no sum can overflow: next_page is at most region_pages. */
    if (delta >= body->region_pages - body->next_page) {
        error_set(error, VMFERRY_ERROR_INVALID,
                  "SEGMENTS: page %" G_GUINT64_FORMAT " behind page %" G_GUINT64_FORMAT
                  " is outside its region of %" G_GUINT64_FORMAT " pages",
                  (guint64)delta, (guint64)body->next_page, (guint64)body->region_pages);
        return FALSE;
    }
    *ret_page = body->next_page + delta;
    return TRUE;
}

gboolean segment_frame_next(SegmentFrameBody *body, uint64_t *ret_page, SegmentList *ret,
                            const uint8_t **ret_bytes, GError **error)
{
    uint64_t page;

    if (body->left == 0) {
        check_end(body, error);
        return FALSE;
    }
    if (!read_page(body, &page, error))
        return FALSE;
    if (!segments_decode(&body->reader, ret, ret_bytes, error)) {
        g_prefix_error(error, "SEGMENTS: page %" G_GUINT64_FORMAT ": ", (guint64)page);
        return FALSE;
    }
    body->next_page = page + 1;
    body->left--;
    *ret_page = page;
    return TRUE;
}

void segment_frame_append(GByteArray *body, uint64_t *last_page, uint64_t page,
                          const SegmentList *list, const uint8_t *content)
{
    /* Before the first page *last_page* + 1 is 0. */
    byte_write_varint(body, page - (*last_page + 1));
    segments_encode(body, list, content);
    *last_page = page;
}
