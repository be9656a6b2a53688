#include "wire/copy_frame.h"

#include "base/bytes.h"
#include "base/error.h"

G_STATIC_ASSERT(FRAME_COPIES_RUN_BYTES == 8 + 8 + 4 + 4);
G_STATIC_ASSERT(FRAME_COPIES_MAX_RUNS == COPY_FRAME_MAX_PAGES);

void copy_frame_encode(GByteArray *out, uint32_t region, const CopyRun *runs, uint32_t run_count)
{
    byte_write_le32(out, region);
    byte_write_le32(out, run_count);
    for (uint32_t i = 0; i < run_count; i++) {
        byte_write_le64(out, runs[i].first);
        byte_write_le64(out, runs[i].source_first);
        byte_write_le32(out, runs[i].count);
        byte_write_le32(out, runs[i].source_region);
    }
}

/* Written so that no sum can overflow. */
static gboolean is_within(uint64_t first, uint64_t count, uint64_t pages)
{
    return first < pages && count <= pages - first;
}

static gboolean read_run(ByteReader *reader, const uint64_t *region_pages, size_t region_count,
                         uint32_t region, CopyRun *ret, GError **error)
{
    CopyRun run;

    run.first = byte_read_le64(reader);
    run.source_first = byte_read_le64(reader);
    run.count = byte_read_le32(reader);
    run.source_region = byte_read_le32(reader);
    if (run.source_region >= region_count) {
        error_set(error, VMFERRY_ERROR_INVALID, "COPIES: from region %u of %zu", run.source_region,
                  region_count);
        return FALSE;
    }
    if (run.count == 0 || !is_within(run.first, run.count, region_pages[region]) ||
        !is_within(run.source_first, run.count, region_pages[run.source_region])) {
        error_set(error, VMFERRY_ERROR_INVALID,
                  "COPIES: %u pages from page %" G_GUINT64_FORMAT " to page %" G_GUINT64_FORMAT
                  " are none, or outside of their region",
                  run.count, (guint64)run.source_first, (guint64)run.first);
        return FALSE;
    }
    *ret = run;
    return TRUE;
}

static gboolean read_runs(ByteReader *reader, const uint64_t *region_pages, size_t region_count,
                          CopyFrame *ret, GError **error)
{
    uint64_t next = 0, pages = 0;

    for (uint32_t i = 0; i < ret->run_count; i++) {
        CopyRun *run = &ret->runs[i];

        if (!read_run(reader, region_pages, region_count, ret->region, run, error))
            return FALSE;
        if (run->first < next) {
            error_set(error, VMFERRY_ERROR_INVALID, "COPIES: runs overlap or are not in order");
            return FALSE;
        }
        next = run->first + run->count;
        pages += run->count;
    }
    if (pages > COPY_FRAME_MAX_PAGES) {
        error_set(error, VMFERRY_ERROR_INVALID,
                  "COPIES: %" G_GUINT64_FORMAT " pages in one frame, the limit is %u",
                  (guint64)pages, COPY_FRAME_MAX_PAGES);
        return FALSE;
    }
    return TRUE;
}

gboolean copy_frame_decode(const uint8_t *payload, size_t length, const uint64_t *region_pages,
                           size_t region_count, CopyFrame *ret, GError **error)
{
    ByteReader reader = byte_reader_make(payload, length);

    ret->region = byte_read_le32(&reader);
    ret->run_count = byte_read_le32(&reader);
    if (!byte_reader_ok(&reader) || ret->run_count == 0 || ret->run_count > COPY_FRAME_MAX_PAGES ||
        reader.left != (size_t)ret->run_count * FRAME_COPIES_RUN_BYTES) {
        error_set(error, VMFERRY_ERROR_INVALID, "COPIES: frame of %zu bytes with %u runs", length,
                  ret->run_count);
        return FALSE;
    }
    if (ret->region >= region_count) {
        error_set(error, VMFERRY_ERROR_INVALID, "COPIES: region %u of %zu", ret->region,
                  region_count);
        return FALSE;
    }
    return read_runs(&reader, region_pages, region_count, ret, error);
}
