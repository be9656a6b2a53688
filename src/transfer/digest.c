#include "transfer/digest.h"

#include <inttypes.h>
#include <xxhash.h>

#include "base/error.h"
#include "base/page.h"
#include "page/zero.h"
#include "wire/epoch_frame.h"

#define CHUNK_PAGES 256u
/* There may be no room for another chunk. */
#define FULL_FRAME_BYTES (FRAME_DIGESTS_HEADER_BYTES + 8 * (FRAME_DIGESTS_MAX_PAGES - CHUNK_PAGES))

struct DigestCheck {
    PageSource *source;
    GPtrArray *checked;
    uint8_t *buffer;
    uint64_t differing;
    guint first_region;
    uint64_t first_page;
};

static gboolean send_frame(Channel *channel, GByteArray *frame, GError **error)
{
    gboolean done = channel_send_bytes(channel, FRAME_DIGESTS, frame->data, frame->len, error);

    g_byte_array_set_size(frame, 0);
    return done;
}

/* One run of pages, in frames of at most FRAME_DIGESTS_MAX_PAGES. */
static gboolean send_run(PageSource *source, Channel *channel, guint region, PageSpan run,
                         uint8_t *buffer, GError **error)
{
    g_autoptr(GByteArray) frame = g_byte_array_new();

    for (uint64_t done = 0; done < run.count;) {
        PageSpan span = {run.first + done, MIN(CHUNK_PAGES, run.count - done)};

        if (!page_source_read(source, region, &span, 1, buffer, error))
            return FALSE;
        if (frame->len == 0)
            digest_frame_encode_head(frame, region, span.first);
        for (uint64_t i = 0; i < span.count; i++)
            digest_frame_append(frame, XXH3_64bits(buffer + i * PAGE_BYTES, PAGE_BYTES));
        done += span.count;
        if ((done == run.count || frame->len >= FULL_FRAME_BYTES) &&
            !send_frame(channel, frame, error))
            return FALSE;
    }
    return TRUE;
}

gboolean digest_send_all(PageSource *source, Channel *channel, GError **error)
{
    g_autoptr(GPtrArray) sets = page_regions_new_sets(source->regions);
    g_autofree uint8_t *buffer = g_malloc(CHUNK_PAGES * PAGE_BYTES);

    for (guint i = 0; i < sets->len; i++) {
        PageSet *set = g_ptr_array_index(sets, i);
        PageSpan run;

        if (!page_source_add_populated(source, i, set, error))
            return FALSE;
        for (uint64_t at = 0; page_set_next_run(set, at, UINT64_MAX, &run.first, &run.count);
             at = run.first + run.count)
            if (!send_run(source, channel, i, run, buffer, error))
                return FALSE;
    }
    return TRUE;
}

DigestCheck *digest_check_new(PageSource *source)
{
    DigestCheck *check = g_new0(DigestCheck, 1);

    check->source = source;
    check->checked = page_regions_new_sets(source->regions);
    check->buffer = g_malloc(CHUNK_PAGES * PAGE_BYTES);
    return check;
}

void digest_check_free(DigestCheck *check)
{
    if (!check)
        return;
    g_ptr_array_unref(check->checked);
    g_free(check->buffer);
    g_free(check);
}

static void note_difference(DigestCheck *check, guint region, uint64_t page)
{
    if (check->differing++ == 0) {
        check->first_region = region;
        check->first_page = page;
    }
}

gboolean digest_check_frame(DigestCheck *check, const uint8_t *payload, size_t length,
                            GError **error)
{
    const PageRegions *regions = check->source->regions;
    DigestFrame frame;

    if (!digest_frame_decode(payload, length, regions->pages, regions->count, &frame, error))
        return FALSE;
    for (uint64_t done = 0; done < frame.count;) {
        PageSpan span = {frame.first + done, MIN(CHUNK_PAGES, frame.count - done)};

        if (!page_source_read(check->source, frame.region, &span, 1, check->buffer, error))
            return FALSE;
        for (uint64_t i = 0; i < span.count; i++)
            if (XXH3_64bits(check->buffer + i * PAGE_BYTES, PAGE_BYTES) !=
                digest_frame_next(&frame))
                note_difference(check, frame.region, span.first + i);
        done += span.count;
    }
    page_set_add(check->checked->pdata[frame.region], frame.first, frame.count);
    return TRUE;
}

static gboolean check_zero_run(DigestCheck *check, guint region, PageSpan span, GError **error)
{
    if (!page_source_read(check->source, region, &span, 1, check->buffer, error))
        return FALSE;
    for (uint64_t i = 0; i < span.count; i++)
        if (!zero_is_page(check->buffer + i * PAGE_BYTES))
            note_difference(check, region, span.first + i);
    return TRUE;
}

static gboolean check_others(DigestCheck *check, guint region, GError **error)
{
    const PageSet *checked = g_ptr_array_index(check->checked, region);
    g_autoptr(PageSet) others = page_set_new(checked->pages);
    PageSpan span;

    if (!page_source_add_populated(check->source, region, others, error))
        return FALSE;
    page_set_remove_all(others, checked);
    for (uint64_t at = 0; page_set_next_run(others, at, CHUNK_PAGES, &span.first, &span.count);
         at = span.first + span.count)
        if (!check_zero_run(check, region, span, error))
            return FALSE;
    return TRUE;
}

gboolean digest_check_finish(DigestCheck *check, GError **error)
{
    for (guint i = 0; i < check->checked->len; i++)
        if (!check_others(check, i, error))
            return FALSE;
    if (check->differing > 0) {
        error_set(error, VMFERRY_ERROR_FAILED,
                  "verification failed: %" PRIu64 " pages differ, the first is page %" PRIu64
                  " of %s",
                  check->differing, check->first_page,
                  check->source->regions->names[check->first_region]);
        return FALSE;
    }
    return TRUE;
}
