#include "transfer/digest.h"

#include <inttypes.h>
#include <xxhash.h>

#include "base/bytes.h"
#include "base/error.h"
#include "base/page.h"
#include "page/zero.h"

#define CHUNK_PAGES 256u

struct DigestCheck {
    GuestMemory *memory;
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

/* One run of pages, in frames of at most DIGEST_FRAME_PAGES. */
static gboolean send_run(GuestMemory *memory, Channel *channel, guint region, PageSpan run,
                         uint8_t *buffer, GError **error)
{
    g_autoptr(GByteArray) frame = g_byte_array_new();

    for (uint64_t done = 0; done < run.count;) {
        PageSpan span = {run.first + done, MIN(CHUNK_PAGES, run.count - done)};

        if (!guest_memory_read(memory, region, &span, 1, buffer, error))
            return FALSE;
        if (frame->len == 0) {
            byte_write_le32(frame, region);
            byte_write_le64(frame, span.first);
        }
        for (uint64_t i = 0; i < span.count; i++)
            byte_write_le64(frame, XXH3_64bits(buffer + i * PAGE_BYTES, PAGE_BYTES));
        done += span.count;
        if ((done == run.count || frame->len >= 12 + 8 * (DIGEST_FRAME_PAGES - CHUNK_PAGES)) &&
            !send_frame(channel, frame, error))
            return FALSE;
    }
    return TRUE;
}

gboolean digest_send_all(GuestMemory *memory, Channel *channel, GError **error)
{
    g_autoptr(GPtrArray) sets = guest_memory_new_sets(memory);
    g_autofree uint8_t *buffer = g_malloc(CHUNK_PAGES * PAGE_BYTES);

    for (guint i = 0; i < sets->len; i++) {
        PageSet *set = g_ptr_array_index(sets, i);
        PageSpan run;

        if (!guest_memory_add_populated(memory, i, set, error))
            return FALSE;
        for (uint64_t at = 0; page_set_next_run(set, at, UINT64_MAX, &run.first, &run.count);
             at = run.first + run.count)
            if (!send_run(memory, channel, i, run, buffer, error))
                return FALSE;
    }
    return TRUE;
}

DigestCheck *digest_check_new(GuestMemory *memory)
{
    DigestCheck *check = g_new0(DigestCheck, 1);

    check->memory = memory;
    check->checked = guest_memory_new_sets(memory);
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
    ByteReader reader = byte_reader_make(payload, length);
    uint32_t region = byte_read_le32(&reader);
    uint64_t first = byte_read_le64(&reader);
    uint64_t count = reader.left / 8;
    PageSet *set;

    if (!byte_reader_ok(&reader) || region >= check->checked->len || reader.left % 8) {
        error_set(error, VMFERRY_ERROR_INVALID, "malformed DIGESTS frame");
        return FALSE;
    }
    set = g_ptr_array_index(check->checked, region);
    if (first > set->pages || count > set->pages - first) {
        error_set(error, VMFERRY_ERROR_INVALID, "DIGESTS frame goes beyond region %u", region);
        return FALSE;
    }
    for (uint64_t done = 0; done < count;) {
        PageSpan span = {first + done, MIN(CHUNK_PAGES, count - done)};

        if (!guest_memory_read(check->memory, region, &span, 1, check->buffer, error))
            return FALSE;
        for (uint64_t i = 0; i < span.count; i++)
            if (XXH3_64bits(check->buffer + i * PAGE_BYTES, PAGE_BYTES) != byte_read_le64(&reader))
                note_difference(check, region, span.first + i);
        done += span.count;
    }
    page_set_add(set, first, count);
    return TRUE;
}

static gboolean check_zero_run(DigestCheck *check, guint region, PageSpan span, GError **error)
{
    if (!guest_memory_read(check->memory, region, &span, 1, check->buffer, error))
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

    if (!guest_memory_add_populated(check->memory, region, others, error))
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
                  guest_memory_get_region(check->memory, check->first_region)->name);
        return FALSE;
    }
    return TRUE;
}
