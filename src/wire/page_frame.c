#include "wire/page_frame.h"

#include "base/bytes.h"
#include "base/error.h"
#include "base/page.h"

G_STATIC_ASSERT(PAGE_FRAME_RUN_BYTES == 8 + 4 + 1 + 3);

void page_frame_encode(GByteArray *out, uint32_t region, const PageRun *runs, uint32_t run_count)
{
    byte_write_le32(out, region);
    byte_write_le32(out, run_count);
    for (uint32_t i = 0; i < run_count; i++) {
        byte_write_le64(out, runs[i].first);
        /* Count, kind and the three zero bytes behind it. */
        byte_write_le32(out, runs[i].count);
        byte_write_le32(out, (uint32_t)runs[i].kind);
    }
}

/* Reads one run that must begin at or behind page *from* of *pages*. */
static gboolean read_run(ByteReader *reader, uint64_t from, uint64_t pages, PageRun *ret,
                         GError **error)
{
    uint64_t first = byte_read_le64(reader);
    uint32_t count = byte_read_le32(reader);
    uint32_t kind = byte_read_le32(reader);

    if (kind != PAGE_RUN_RAW && kind != PAGE_RUN_ZERO) {
        error_set(error, VMFERRY_ERROR_INVALID, "PAGES: run of unknown kind 0x%x", kind);
        return FALSE;
    }
    if (count == 0 || first < from) {
        error_set(error, VMFERRY_ERROR_INVALID, "PAGES: runs are empty, overlap or not in order");
        return FALSE;
    }
    /* Written so that no sum can overflow. */
    if (first >= pages || count > pages - first) {
        error_set(error, VMFERRY_ERROR_INVALID,
                  "PAGES: run of %u pages from page %" G_GUINT64_FORMAT
                  " is outside its region of %" G_GUINT64_FORMAT " pages",
                  count, (guint64)first, (guint64)pages);
        return FALSE;
    }
    *ret = (PageRun){.first = first, .count = count, .kind = (PageRunKind)kind};
    return TRUE;
}

static gboolean read_runs(ByteReader *reader, uint64_t pages, PageFrame *frame,
                          uint64_t *ret_raw_pages, GError **error)
{
    uint64_t from = 0;
    uint64_t raw_pages = 0;

    for (uint32_t i = 0; i < frame->run_count; i++) {
        PageRun *run = &frame->runs[i];

        if (!read_run(reader, from, pages, run, error))
            return FALSE;
        from = run->first + run->count;
        if (run->kind == PAGE_RUN_RAW)
            raw_pages += run->count;
    }
    if (raw_pages > PAGE_FRAME_MAX_RAW_PAGES) {
        error_set(error, VMFERRY_ERROR_INVALID,
                  "PAGES: %" G_GUINT64_FORMAT " pages in one frame, the limit is %u",
                  (guint64)raw_pages, PAGE_FRAME_MAX_RAW_PAGES);
        return FALSE;
    }
    *ret_raw_pages = raw_pages;
    return TRUE;
}

/* Header and runs; what is left in *reader* is the pages. */
static gboolean read_head(ByteReader *reader, const uint64_t *region_pages, size_t region_count,
                          PageFrame *ret, uint64_t *ret_raw_pages, GError **error)
{
    size_t length = reader->left;

    ret->region = byte_read_le32(reader);
    ret->run_count = byte_read_le32(reader);
    if (!byte_reader_ok(reader) || ret->run_count == 0 || ret->run_count > PAGE_FRAME_MAX_RUNS ||
        reader->left < (size_t)ret->run_count * PAGE_FRAME_RUN_BYTES) {
        error_set(error, VMFERRY_ERROR_INVALID, "PAGES: frame of %zu bytes is cut short", length);
        return FALSE;
    }
    if (ret->region >= region_count) {
        error_set(error, VMFERRY_ERROR_INVALID, "PAGES: region %u of %zu", ret->region,
                  region_count);
        return FALSE;
    }
    return read_runs(reader, region_pages[ret->region], ret, ret_raw_pages, error);
}

gboolean page_frame_decode(const uint8_t *payload, size_t length, const uint64_t *region_pages,
                           size_t region_count, PageFrame *ret, GError **error)
{
    ByteReader reader = byte_reader_make(payload, length);
    uint64_t raw_pages;

    if (!read_head(&reader, region_pages, region_count, ret, &raw_pages, error))
        return FALSE;
    if (reader.left != raw_pages * PAGE_BYTES) {
        error_set(error, VMFERRY_ERROR_INVALID,
                  "PAGES: %zu bytes of pages where the runs say %" G_GUINT64_FORMAT " pages",
                  reader.left, (guint64)raw_pages);
        return FALSE;
    }
    ret->raw = reader.at;
    return TRUE;
}

gboolean page_frame_decode_packed(const uint8_t *payload, size_t length,
                                  const uint64_t *region_pages, size_t region_count, PageFrame *ret,
                                  size_t *ret_packed_bytes, uint32_t *ret_raw_pages, GError **error)
{
    ByteReader reader = byte_reader_make(payload, length);
    uint64_t raw_pages;

    if (!read_head(&reader, region_pages, region_count, ret, &raw_pages, error))
        return FALSE;
    if (raw_pages == 0 || reader.left == 0) {
        error_set(error, VMFERRY_ERROR_INVALID, "PAGES: no pages in a packed frame");
        return FALSE;
    }
    ret->raw = reader.at;
    *ret_packed_bytes = reader.left;
    *ret_raw_pages = (uint32_t)raw_pages;
    return TRUE;
}

gboolean page_frame_decode_window(const uint8_t *payload, size_t length,
                                  const uint64_t *region_pages, size_t region_count, PageFrame *ret,
                                  gboolean *ret_begins, size_t *ret_packed_bytes,
                                  uint32_t *ret_raw_pages, GError **error)
{
    if (!page_frame_decode_packed(payload, length, region_pages, region_count, ret,
                                  ret_packed_bytes, ret_raw_pages, error))
        return FALSE;
    if (*ret_packed_bytes < 2 || *ret->raw > 1) {
        error_set(error, VMFERRY_ERROR_INVALID, "PAGES_WINDOW: no piece of a window");
        return FALSE;
    }
    *ret_begins = *ret->raw == 1;
    ret->raw++;
    (*ret_packed_bytes)--;
    return TRUE;
}
