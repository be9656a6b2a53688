#include "wire/postcopy_frame.h"

#include "base/error.h"

G_STATIC_ASSERT(FRAME_OUTSTANDING_HEAD_BYTES == 4 + 4);
G_STATIC_ASSERT(FRAME_OUTSTANDING_RUN_BYTES == 8 + 8);
G_STATIC_ASSERT(FRAME_WANT_BYTES == 4 + 4 + 8);

static gboolean check_region(const char *name, uint32_t region, size_t region_count, GError **error)
{
    if (region < region_count)
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "%s: region %u of %zu", name, region, region_count);
    return FALSE;
}

/* Written so that no sum can overflow. */
static gboolean check_span(const char *name, uint64_t first, uint64_t count, uint64_t pages,
                           GError **error)
{
    if (count > 0 && first < pages && count <= pages - first)
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID,
              "%s: %" G_GUINT64_FORMAT " pages from page %" G_GUINT64_FORMAT
              " are none, or outside their region of %" G_GUINT64_FORMAT " pages",
              name, (guint64)count, (guint64)first, (guint64)pages);
    return FALSE;
}

/* ---- OUTSTANDING ---- */

void outstanding_frame_encode_head(GByteArray *out, uint32_t region, uint32_t runs)
{
    byte_write_le32(out, region);
    byte_write_le32(out, runs);
}

void outstanding_frame_append(GByteArray *out, uint64_t first, uint64_t pages)
{
    byte_write_le64(out, first);
    byte_write_le64(out, pages);
}

/* *walk* is a copy: the frame's own begins with the first run. */
static gboolean check_runs(OutstandingFrame walk, uint64_t region_pages, GError **error)
{
    uint64_t next = 0, first, pages;

    for (uint32_t i = 0; i < walk.runs; i++) {
        outstanding_frame_next(&walk, &first, &pages);
        if (!check_span("OUTSTANDING", first, pages, region_pages, error))
            return FALSE;
        if (first < next) {
            error_set(error, VMFERRY_ERROR_INVALID,
                      "OUTSTANDING: runs overlap or are not in order");
            return FALSE;
        }
        next = first + pages;
    }
    return TRUE;
}

gboolean outstanding_frame_decode(const uint8_t *payload, size_t length,
                                  const uint64_t *region_pages, size_t region_count,
                                  OutstandingFrame *ret, GError **error)
{
    OutstandingFrame frame = {.reader = byte_reader_make(payload, length)};

    frame.region = byte_read_le32(&frame.reader);
    frame.runs = byte_read_le32(&frame.reader);
    if (!byte_reader_ok(&frame.reader) || frame.runs == 0 ||
        frame.runs > FRAME_OUTSTANDING_MAX_RUNS ||
        frame.reader.left != (size_t)frame.runs * FRAME_OUTSTANDING_RUN_BYTES) {
        error_set(error, VMFERRY_ERROR_INVALID, "OUTSTANDING: frame of %zu bytes with %u runs",
                  length, frame.runs);
        return FALSE;
    }
    if (!check_region("OUTSTANDING", frame.region, region_count, error) ||
        !check_runs(frame, region_pages[frame.region], error))
        return FALSE;
    *ret = frame;
    return TRUE;
}

void outstanding_frame_next(OutstandingFrame *frame, uint64_t *ret_first, uint64_t *ret_pages)
{
    *ret_first = byte_read_le64(&frame->reader);
    *ret_pages = byte_read_le64(&frame->reader);
}

/* ---- WANT ---- */

static void put_little(uint8_t *out, uint64_t value, guint bytes)
{
    for (guint i = 0; i < bytes; i++)
        out[i] = (uint8_t)(value >> (8 * i));
}

void want_frame_encode(const WantFrame *want, uint8_t out[FRAME_WANT_BYTES])
{
    put_little(out, want->region, 4);
    put_little(out + 4, want->count, 4);
    put_little(out + 8, want->first, 8);
}

gboolean want_frame_decode(const uint8_t *payload, size_t length, const uint64_t *region_pages,
                           size_t region_count, WantFrame *ret, GError **error)
{
    ByteReader reader = byte_reader_make(payload, length);
    WantFrame want;

    want.region = byte_read_le32(&reader);
    want.count = byte_read_le32(&reader);
    want.first = byte_read_le64(&reader);
    if (!byte_reader_ok(&reader) || reader.left > 0 || want.count > FRAME_WANT_MAX_PAGES) {
        error_set(error, VMFERRY_ERROR_INVALID, "WANT: frame of %zu bytes for %u pages", length,
                  want.count);
        return FALSE;
    }
    if (!check_region("WANT", want.region, region_count, error) ||
        !check_span("WANT", want.first, want.count, region_pages[want.region], error))
        return FALSE;
    *ret = want;
    return TRUE;
}
