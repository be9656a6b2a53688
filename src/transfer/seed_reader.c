#include "transfer/seed_reader.h"

#include <inttypes.h>
#include <openssl/sha.h>
#include <string.h>

#include "base/error.h"
#include "base/lock_guard.h"
#include "base/page.h"
#include "page/zero.h"

G_STATIC_ASSERT(FRAME_SEED_PROOF_BYTES == SHA256_DIGEST_LENGTH);

/* What an extent of an image has, mostly: where one is damaged, no more is left out. */
#define CHUNK_PAGES 64u
/* A place is a region and a page of it, which has 34 bits. */
#define PLACE_BITS 40u

struct SeedReader {
    PageSource *source; /* NULL: closed */
    GPtrArray *populated;
    uint64_t pages;
    SeedIndex *list; /* NULL: dropped */
    GArray *places;  /* uint64_t, by the digests' numbers; NULL: closed */
    guint region;    /* that is read next … */
    uint64_t page;   /* … from there on */
    uint8_t *chunk;
    uint64_t unread;
    GError *why_unread;
    gint complete; /* atomic */
    GMutex lock;   /* protects all below */
    GPtrArray *lacking;
    gint has_lacking; /* atomic: to be looked at without the lock */
};

static gboolean check_size(const PageRegions *regions, GError **error)
{
    uint64_t pages = 0;

    for (guint i = 0; i < regions->count; i++)
        pages += MIN(regions->pages[i], SEED_READER_MOST_PAGES + 1);
    if (pages <= SEED_READER_MOST_PAGES)
        return TRUE;
    error_set(error, VMFERRY_ERROR_UNSUPPORTED, "is of a machine of more than %u GiB",
              (guint)(SEED_READER_MOST_PAGES * PAGE_BYTES >> 30));
    return FALSE;
}

static gboolean find_populated(SeedReader *reader, GError **error)
{
    for (guint i = 0; i < reader->populated->len; i++) {
        PageSet *set = reader->populated->pdata[i];

        if (!page_source_add_populated(reader->source, i, set, error))
            return FALSE;
        reader->pages += page_set_count(set);
    }
    return TRUE;
}

SeedReader *seed_reader_new(PageSource *source, uint32_t most, uint64_t key, GError **error)
{
    g_autoptr(SeedReader) reader = NULL;

    if (!check_size(source->regions, error))
        return NULL;
    reader = g_new0(SeedReader, 1);
    g_mutex_init(&reader->lock);
    reader->source = source;
    reader->populated = page_regions_new_sets(source->regions);
    reader->places = g_array_new(FALSE, FALSE, sizeof(uint64_t));
    reader->chunk = g_malloc(CHUNK_PAGES * PAGE_BYTES);
    if (!find_populated(reader, error))
        return NULL;
    reader->list = seed_index_new((uint32_t)MIN(most, reader->pages), key);
    if (reader->list)
        return g_steal_pointer(&reader);
    error_set(error, VMFERRY_ERROR_NO_SPACE, "no memory for the digests of %" PRIu64 " pages",
              reader->pages);
    return NULL;
}

void seed_reader_free(SeedReader *reader)
{
    if (!reader)
        return;
    seed_index_free(reader->list);
    g_clear_pointer(&reader->places, g_array_unref);
    g_clear_pointer(&reader->populated, g_ptr_array_unref);
    g_clear_pointer(&reader->lacking, g_ptr_array_unref);
    g_clear_error(&reader->why_unread);
    g_free(reader->chunk);
    g_mutex_clear(&reader->lock);
    g_free(reader);
}

uint64_t seed_reader_count_pages(const SeedReader *reader)
{
    return reader->pages;
}

/* ---- the list ---- */

static void list_page(SeedReader *reader, guint region, uint64_t page, const uint8_t *content)
{
    uint64_t place = (uint64_t)region << PLACE_BITS | page;
    uint64_t digest;
    uint32_t found;

    if (zero_is_page(content))
        return;
    digest = seed_index_digest(reader->list, content);
    if (seed_index_find(reader->list, digest, &found))
        return;
    seed_index_add(reader->list, digest);
    g_array_append_val(reader->places, place);
}

static gboolean is_full(const SeedReader *reader)
{
    return seed_index_get_count(reader->list) >= seed_index_get_most(reader->list);
}

static void read_chunk(SeedReader *reader, PageSpan span)
{
    g_autoptr(GError) error = NULL;

    if (!page_source_read(reader->source, reader->region, &span, 1, reader->chunk, &error)) {
        reader->unread += span.count;
        if (!reader->why_unread)
            reader->why_unread = g_steal_pointer(&error);
        return;
    }
    for (uint64_t i = 0; i < span.count && !is_full(reader); i++)
        list_page(reader, reader->region, span.first + i, reader->chunk + i * PAGE_BYTES);
}

gboolean seed_reader_read_some(SeedReader *reader)
{
    uint64_t done = 0;

    while (done < SEED_READER_STEP_PAGES && reader->region < reader->populated->len &&
           !is_full(reader)) {
        const PageSet *set = reader->populated->pdata[reader->region];
        PageSpan span;

        if (!page_set_next_run(set, reader->page, CHUNK_PAGES, &span.first, &span.count)) {
            reader->region++;
            reader->page = 0;
            continue;
        }
        read_chunk(reader, span);
        reader->page = span.first + span.count;
        done += span.count;
    }
    if (reader->region < reader->populated->len && !is_full(reader))
        return TRUE;
    g_clear_pointer(&reader->populated, g_ptr_array_unref);
    g_atomic_int_set(&reader->complete, 1);
    return FALSE;
}

uint64_t seed_reader_count_unread(const SeedReader *reader, const GError **ret_why)
{
    *ret_why = reader->why_unread;
    return reader->unread;
}

const SeedIndex *seed_reader_get_list(const SeedReader *reader)
{
    return reader->list;
}

void seed_reader_drop_list(SeedReader *reader)
{
    g_clear_pointer(&reader->list, seed_index_free);
}

/* ---- pages out of it ---- */

/* The longest run of *count* places from *number* on that lies in one piece. */
static uint32_t cut_piece(const SeedReader *reader, uint32_t number, uint32_t count)
{
    const uint64_t *places = &g_array_index(reader->places, uint64_t, number);
    uint32_t length = 1;

    while (length < count && places[length] == places[0] + length)
        length++;
    return length;
}

static gboolean read_run(SeedReader *reader, const SeedRun *run, uint8_t *buffer, GError **error)
{
    for (uint32_t done = 0; done < run->count;) {
        uint32_t length = cut_piece(reader, run->number + done, run->count - done);
        uint64_t place = g_array_index(reader->places, uint64_t, run->number + done);
        PageSpan span = {place & ((UINT64_C(1) << PLACE_BITS) - 1), length};

        if (!page_source_read(reader->source, (guint)(place >> PLACE_BITS), &span, 1,
                              buffer + (size_t)done * PAGE_BYTES, error))
            return FALSE;
        done += length;
    }
    return TRUE;
}

/* What it takes from the seed is what the source has. */
static gboolean read_proven(SeedReader *reader, const SeedPagesFrame *frame, uint8_t *buffer,
                            GError **error)
{
    uint8_t digest[SHA256_DIGEST_LENGTH];
    size_t bytes = 0;

    for (uint32_t i = 0; i < frame->run_count; i++) {
        if (!read_run(reader, &frame->runs[i], buffer + bytes, error))
            return FALSE;
        bytes += (size_t)frame->runs[i].count * PAGE_BYTES;
    }
    SHA256(buffer, bytes, digest);
    if (memcmp(digest, frame->proof, sizeof digest) == 0)
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "its pages are not what they were");
    return FALSE;
}

static void note_lacking(SeedReader *reader, const PageRegions *regions,
                         const SeedPagesFrame *frame)
{
    PageSet *set;
    lock_guard(&reader->lock);

    if (!reader->lacking)
        reader->lacking = page_regions_new_sets(regions);
    set = reader->lacking->pdata[frame->region];
    for (uint32_t i = 0; i < frame->run_count; i++)
        page_set_add(set, frame->runs[i].first, frame->runs[i].count);
    g_atomic_int_set(&reader->has_lacking, 1);
}

gboolean seed_reader_apply(SeedReader *reader, PageSink *sink, const Frame *frame,
                           SeedScratch *scratch, uint8_t *buffer, GError **error)
{
    SeedPagesFrame *pages = &scratch->frame;
    g_autoptr(GError) failure = NULL;

    if (!g_atomic_int_get(&reader->complete) || !reader->source) {
        error_set(error, VMFERRY_ERROR_INVALID, "SEED_PAGES %s",
                  reader->source ? "before the last SEED_DIGESTS" : "behind the first epoch");
        return FALSE;
    }
    if (!seed_pages_decode(frame->payload, frame->length, sink->regions->pages,
                           sink->regions->count, reader->places->len, pages, error))
        return FALSE;
    if (!read_proven(reader, pages, buffer, &failure)) {
        note_lacking(reader, sink->regions, pages);
        return TRUE;
    }
    for (uint32_t i = 0; i < pages->run_count; i++)
        scratch->spans[i] = (PageSpan){pages->runs[i].first, pages->runs[i].count};
    return page_sink_write(sink, pages->region, scratch->spans, pages->run_count, buffer, error);
}

void seed_reader_close(SeedReader *reader)
{
    reader->source = NULL;
    g_clear_pointer(&reader->places, g_array_unref);
    seed_reader_drop_list(reader);
}

/* ---- what is lacking ---- */

void seed_reader_note_written(SeedReader *reader, guint region, const PageSpan *spans, guint count)
{
    if (!g_atomic_int_get(&reader->has_lacking))
        return;
    g_mutex_lock(&reader->lock);
    for (guint i = 0; i < count; i++)
        page_set_remove(reader->lacking->pdata[region], spans[i].first, spans[i].count);
    g_mutex_unlock(&reader->lock);
}

uint64_t seed_reader_count_lacking(SeedReader *reader)
{
    uint64_t count = 0;
    lock_guard(&reader->lock);

    for (guint i = 0; reader->lacking && i < reader->lacking->len; i++)
        count += page_set_count(reader->lacking->pdata[i]);
    return count;
}

GPtrArray *seed_reader_get_lacking(SeedReader *reader)
{
    lock_guard(&reader->lock);
    return reader->lacking;
}
