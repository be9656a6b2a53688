#include "wire/seed_frame.h"

#include <inttypes.h>
#include <string.h>

#include "base/error.h"

G_STATIC_ASSERT(FRAME_SEED_PAGES_MAX_RUNS == SEED_FRAME_MAX_PAGES);
/* A gap of 34 bits, 256 pages, a number of 24 bits. */
G_STATIC_ASSERT(FRAME_SEED_PAGES_MAX_RUN_BYTES >= 5 + 2 + 4);

/* ---- SEED_DIGESTS ---- */

void seed_digests_encode_head(GByteArray *out, uint32_t first, gboolean last)
{
    byte_write_le32(out, first);
    byte_write_u8(out, last ? 1 : 0);
}

void seed_digests_append(GByteArray *out, uint64_t digest)
{
    uint64_t little = GUINT64_TO_LE(digest);

    byte_write_span(out, &little, FRAME_SEED_DIGEST_BYTES);
}

gboolean seed_digests_decode(const uint8_t *payload, size_t length, uint32_t have, uint32_t most,
                             SeedDigestsFrame *ret, GError **error)
{
    ByteReader reader = byte_reader_make(payload, length);
    uint32_t first = byte_read_le32(&reader);
    uint8_t last = byte_read_u8(&reader);
    size_t count = reader.left / FRAME_SEED_DIGEST_BYTES;

    if (!byte_reader_ok(&reader) || last > 1 || reader.left % FRAME_SEED_DIGEST_BYTES != 0 ||
        count > FRAME_SEED_DIGESTS_MOST) {
        error_set(error, VMFERRY_ERROR_INVALID, "malformed SEED_DIGESTS frame of %zu bytes",
                  length);
        return FALSE;
    }
    if (first != have || have > most || count > most - have) {
        error_set(error, VMFERRY_ERROR_INVALID,
                  "SEED_DIGESTS: %zu from number %u on, where %u have come and %u may", count,
                  first, have, most);
        return FALSE;
    }
    *ret = (SeedDigestsFrame){(uint32_t)count, last == 1, reader};
    return TRUE;
}

uint64_t seed_digests_next(SeedDigestsFrame *frame)
{
    const uint8_t *bytes = byte_read_span(&frame->reader, FRAME_SEED_DIGEST_BYTES);
    uint64_t little = 0;

    if (bytes)
        memcpy(&little, bytes, FRAME_SEED_DIGEST_BYTES);
    return GUINT64_FROM_LE(little);
}

/* ---- SEED_PAGES ---- */

void seed_pages_encode(GByteArray *out, uint32_t region, const SeedRun *runs, uint32_t run_count,
                       const uint8_t proof[FRAME_SEED_PROOF_BYTES])
{
    uint64_t end = 0;

    byte_write_le32(out, region);
    byte_write_le32(out, run_count);
    byte_write_span(out, proof, FRAME_SEED_PROOF_BYTES);
    for (uint32_t i = 0; i < run_count; i++) {
        byte_write_varint(out, runs[i].first - end);
        byte_write_varint(out, runs[i].count);
        byte_write_varint(out, runs[i].number);
        end = runs[i].first + runs[i].count;
    }
}

/* Written so that no sum can overflow.  *end*: of the run before. */
static gboolean read_run(ByteReader *reader, uint64_t end, uint64_t region_pages, uint32_t digests,
                         SeedRun *ret, GError **error)
{
    uint64_t gap = byte_read_varint(reader);
    uint64_t count = byte_read_varint(reader);
    uint64_t number = byte_read_varint(reader);

    if (!byte_reader_ok(reader)) {
        error_set(error, VMFERRY_ERROR_INVALID, "SEED_PAGES: a run is cut off");
        return FALSE;
    }
    if (count == 0 || count > SEED_FRAME_MAX_PAGES || end > region_pages ||
        gap > region_pages - end || count > region_pages - end - gap) {
        error_set(error, VMFERRY_ERROR_INVALID,
                  "SEED_PAGES: %" PRIu64 " pages, %" PRIu64 " behind page %" PRIu64
                  ", are none or outside of their region",
                  count, gap, end);
        return FALSE;
    }
    if (number >= digests || count > digests - number) {
        error_set(error, VMFERRY_ERROR_INVALID,
                  "SEED_PAGES: %" PRIu64 " pages from number %" PRIu64 " on, of %u", count, number,
                  digests);
        return FALSE;
    }
    *ret = (SeedRun){end + gap, (uint32_t)count, (uint32_t)number};
    return TRUE;
}

static gboolean read_runs(ByteReader *reader, uint64_t region_pages, uint32_t digests,
                          SeedPagesFrame *ret, GError **error)
{
    uint64_t end = 0;

    ret->pages = 0;
    for (uint32_t i = 0; i < ret->run_count; i++) {
        SeedRun *run = &ret->runs[i];

        if (!read_run(reader, end, region_pages, digests, run, error))
            return FALSE;
        end = run->first + run->count;
        ret->pages += run->count;
    }
    if (ret->pages <= SEED_FRAME_MAX_PAGES && reader->left == 0)
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "SEED_PAGES: %u pages, and %zu bytes behind them",
              ret->pages, reader->left);
    return FALSE;
}

gboolean seed_pages_decode(const uint8_t *payload, size_t length, const uint64_t *region_pages,
                           size_t region_count, uint32_t digests, SeedPagesFrame *ret,
                           GError **error)
{
    ByteReader reader = byte_reader_make(payload, length);
    const uint8_t *proof;

    ret->region = byte_read_le32(&reader);
    ret->run_count = byte_read_le32(&reader);
    proof = byte_read_span(&reader, FRAME_SEED_PROOF_BYTES);
    if (!proof || ret->run_count == 0 || ret->run_count > SEED_FRAME_MAX_PAGES ||
        ret->region >= region_count) {
        error_set(error, VMFERRY_ERROR_INVALID,
                  "SEED_PAGES: frame of %zu bytes with %u runs, of region %u of %zu", length,
                  ret->run_count, ret->region, region_count);
        return FALSE;
    }
    memcpy(ret->proof, proof, FRAME_SEED_PROOF_BYTES);
    return read_runs(&reader, region_pages[ret->region], digests, ret, error);
}
