#include "image/image_writer.h"

#include <inttypes.h>
#include <string.h>

#include "base/error.h"
#include "base/page.h"
#include "image/image_frame.h"
#include "image/image_index.h"
#include "image/image_output.h"
#include "wire/page_frame.h"

/* The writer notes of each page in which extent it was last, by number; the numbers below mean
 * something else. */
enum { PAGE_UNTOLD = 0, PAGE_ZERO = 1, PAGE_FIRST_EXTENT = 2 };

/* A piece of what is noted. */
typedef struct {
    uint32_t extents[GROUP_PAGES];
    uint8_t offsets[GROUP_PAGES]; /* in the extent, in pages */
} PageNotes;

typedef struct {
    ImageExtent stored;
    uint32_t current; /* of its pages, those that did not come again */
} WrittenExtent;

struct ImageWriter {
    ImageOutput *output;
    ImageDigester *digester;
    ImageIndex *index; /* filled at the end, but for regions and order */
    ImageHeader header;
    uint8_t header_bytes[IMAGE_HEADER_BYTES];
    PageNotes ***notes; /* of each region, of each group of its pages; NULL: nothing was told */
    GArray *extents;    /* WrittenExtent */
    ImageWriterTotals totals; /* but for written_bytes */
    PageFrame frame;
    PageSpan runs[PAGE_FRAME_MAX_RUNS];
};

G_STATIC_ASSERT(IMAGE_MAX_EXTENT_PAGES - 1 <= UINT8_MAX);
G_STATIC_ASSERT((uint64_t)IMAGE_MAX_EXTENTS + PAGE_FIRST_EXTENT <= UINT32_MAX);

/* ---- making ---- */

static uint64_t count_groups(uint64_t pages)
{
    return (pages + GROUP_PAGES - 1) / GROUP_PAGES;
}

static gboolean check_head(const ImageHead *head, GError **error)
{
    if (image_id_is_none(&head->id)) {
        error_set(error, VMFERRY_ERROR_INVALID, "a saved image needs an id");
        return FALSE;
    }
    if (head->base_name && image_id_is_none(&head->base)) {
        error_set(error, VMFERRY_ERROR_INVALID, "a base's name needs its id");
        return FALSE;
    }
    return (!head->base_name || image_base_name_check(head->base_name, error)) &&
           image_regions_check(head->regions, error);
}

static gboolean write_header(ImageWriter *writer, const ImageHead *head, GError **error)
{
    writer->header.id = head->id;
    writer->header.base = head->base;
    writer->header.digest = head->key ? IMAGE_DIGEST_HMAC : IMAGE_DIGEST_XXH3;
    image_header_encode(&writer->header, writer->header_bytes);
    return image_output_write(writer->output, writer->header_bytes, IMAGE_HEADER_BYTES, error);
}

/* Takes *output* (NULL: an error is set). */
static ImageWriter *take(ImageOutput *output, const ImageHead *head, GError **error)
{
    g_autoptr(ImageWriter) writer = g_new0(ImageWriter, 1);

    writer->output = output;
    if (!output)
        return NULL;
    writer->digester =
        image_digester_new(head->key ? IMAGE_DIGEST_HMAC : IMAGE_DIGEST_XXH3, head->key, error);
    if (!writer->digester)
        return NULL;
    writer->index = image_index_new(head->regions);
    writer->index->base_name = g_strdup(head->base_name);
    writer->extents = g_array_new(FALSE, FALSE, sizeof(WrittenExtent));
    writer->notes = g_new0(PageNotes **, head->regions->count);
    for (guint i = 0; i < head->regions->count; i++)
        writer->notes[i] = g_new0(PageNotes *, count_groups(head->regions->pages[i]));
    return write_header(writer, head, error) ? g_steal_pointer(&writer) : NULL;
}

ImageWriter *image_writer_create(const char *path, const ImageHead *head, GError **error)
{
    return check_head(head, error) ? take(image_output_create(path, error), head, error) : NULL;
}

ImageWriter *image_writer_on_fd(int fd, const ImageHead *head, GError **error)
{
    return check_head(head, error) ? take(image_output_on_fd(fd), head, error) : NULL;
}

static void free_notes(ImageWriter *writer)
{
    for (guint i = 0; writer->notes && i < writer->index->regions.count; i++) {
        for (uint64_t k = 0; k < count_groups(writer->index->regions.pages[i]); k++)
            g_free(writer->notes[i][k]);
        g_free(writer->notes[i]);
    }
    g_free(writer->notes);
}

void image_writer_free(ImageWriter *writer)
{
    if (!writer)
        return;
    free_notes(writer);
    if (writer->extents)
        g_array_unref(writer->extents);
    image_index_free(writer->index);
    image_digester_free(writer->digester);
    image_output_free(writer->output);
    g_free(writer);
}

/* ---- pages ---- */

static WrittenExtent *written(const ImageWriter *writer, uint32_t note)
{
    return &g_array_index(writer->extents, WrittenExtent, note - PAGE_FIRST_EXTENT);
}

/* One page of the extent came again. */
static void supersede(ImageWriter *writer, uint32_t note)
{
    WrittenExtent *extent = written(writer, note);
    uint64_t end = extent->stored.place + extent->stored.stored_bytes;

    writer->totals.pages--;
    if (--extent->current > 0)
        return;
    writer->totals.extents--;
    end = (end + IMAGE_ALIGNMENT - 1) / IMAGE_ALIGNMENT * IMAGE_ALIGNMENT;
    writer->totals.freed_bytes +=
        image_output_free_range(writer->output, extent->stored.place, end);
}

static void note_page(ImageWriter *writer, guint region, uint64_t page, uint32_t note,
                      uint32_t offset)
{
    PageNotes **notes = &writer->notes[region][page / GROUP_PAGES];
    uint32_t before;

    if (!*notes && note == PAGE_UNTOLD)
        return;
    if (!*notes)
        *notes = g_new0(PageNotes, 1);
    before = (*notes)->extents[page % GROUP_PAGES];
    (*notes)->extents[page % GROUP_PAGES] = note;
    (*notes)->offsets[page % GROUP_PAGES] = (uint8_t)offset;
    if (before >= PAGE_FIRST_EXTENT)
        supersede(writer, before);
}

static gboolean is_inside(const ImageWriter *writer, guint region, PageSpan span, GError **error)
{
    const PageRegions *regions = &writer->index->regions;

    if (region < regions->count && span.first <= regions->pages[region] &&
        span.count <= regions->pages[region] - span.first)
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID,
              "saved image: %" PRIu64 " pages from %" PRIu64 " on are not in RAM block %u",
              span.count, span.first, region);
    return FALSE;
}

static gboolean count_pages(const ImageWriter *writer, guint region, const PageSpan *runs,
                            guint count, uint32_t *ret, GError **error)
{
    uint64_t pages = 0, from = 0;
    gboolean ascending = TRUE;

    for (guint i = 0; i < count && pages <= IMAGE_MAX_EXTENT_PAGES; i++) {
        if (!is_inside(writer, region, runs[i], error))
            return FALSE;
        ascending = ascending && runs[i].first >= from;
        from = runs[i].first + runs[i].count;
        pages += runs[i].count;
    }
    *ret = (uint32_t)pages;
    if (ascending && pages > 0 && pages <= IMAGE_MAX_EXTENT_PAGES)
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID,
              "saved image: an extent has 1 to %u pages, in ascending order",
              IMAGE_MAX_EXTENT_PAGES);
    return FALSE;
}

static gboolean check_length(PackMethod method, uint32_t pages, size_t length, GError **error)
{
    size_t bytes = (size_t)pages * PAGE_BYTES;

    if (method == PACK_NONE ? length == bytes : length > 0 && length <= bytes)
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "saved image: %u pages in %zu bytes (%s)", pages,
              length, pack_method_name(method));
    return FALSE;
}

static gboolean check_room(const ImageWriter *writer, GError **error)
{
    if (writer->extents->len < IMAGE_MAX_EXTENTS)
        return TRUE;
    error_set(error, VMFERRY_ERROR_NO_SPACE, "saved image: more than %u extents",
              IMAGE_MAX_EXTENTS);
    return FALSE;
}

static void note_runs(ImageWriter *writer, guint region, const PageSpan *runs, guint count,
                      uint32_t note)
{
    uint32_t offset = 0;

    for (guint i = 0; i < count; i++)
        for (uint64_t k = 0; k < runs[i].count; k++)
            note_page(writer, region, runs[i].first + k, note, offset++);
}

gboolean image_writer_add_pages(ImageWriter *writer, guint region, const PageSpan *runs,
                                guint count, PackMethod method, const void *stored, size_t length,
                                GError **error)
{
    WrittenExtent extent = {.stored = {.place = image_output_get_place(writer->output),
                                       .stored_bytes = (uint32_t)length,
                                       .method = (uint8_t)method}};
    uint32_t pages;

    if (!count_pages(writer, region, runs, count, &pages, error) ||
        !check_length(method, pages, length, error) || !check_room(writer, error))
        return FALSE;
    extent.current = extent.stored.pages = (uint16_t)pages;
    image_digest_compute(writer->header.digest, stored, length, extent.stored.digest);
    if (!image_output_write(writer->output, stored, length, error) ||
        !image_output_pad(writer->output, IMAGE_ALIGNMENT, error))
        return FALSE;
    g_array_append_val(writer->extents, extent);
    writer->totals.pages += pages;
    writer->totals.extents++;
    note_runs(writer, region, runs, count, writer->extents->len - 1 + PAGE_FIRST_EXTENT);
    return TRUE;
}

gboolean image_writer_add_zero(ImageWriter *writer, guint region, PageSpan span, GError **error)
{
    /* Without a base a page of which nothing is told is zero. */
    uint32_t note = image_id_is_none(&writer->header.base) ? PAGE_UNTOLD : PAGE_ZERO;

    if (!is_inside(writer, region, span, error))
        return FALSE;
    for (uint64_t i = 0; i < span.count; i++)
        note_page(writer, region, span.first + i, note, 0);
    return TRUE;
}

gboolean image_writer_has_page(const ImageWriter *writer, guint region, uint64_t page)
{
    const PageRegions *regions = &writer->index->regions;
    const PageNotes *notes = region < regions->count && page < regions->pages[region]
                                 ? writer->notes[region][page / GROUP_PAGES]
                                 : NULL;

    return notes && notes->extents[page % GROUP_PAGES] != PAGE_UNTOLD;
}

/* ---- frames ---- */

gboolean image_writer_add_frame(ImageWriter *writer, const Frame *frame, GError **error)
{
    const PageFrame *pages = &writer->frame;
    ImageFrameFacts facts;
    guint count = 0;

    if (!image_frame_decode(frame, &writer->index->regions, &writer->frame, &facts, error))
        return FALSE;
    for (guint i = 0; i < pages->run_count; i++) {
        PageSpan span = {pages->runs[i].first, pages->runs[i].count};

        if (pages->runs[i].kind == PAGE_RUN_RAW)
            writer->runs[count++] = span;
        else if (!image_writer_add_zero(writer, pages->region, span, error))
            return FALSE;
    }
    return count == 0 || image_writer_add_pages(writer, pages->region, writer->runs, count,
                                                facts.method, pages->raw, facts.length, error);
}

/* ---- order ---- */

gboolean image_writer_set_order(ImageWriter *writer, const ImageRun *runs, guint count,
                                GError **error)
{
    if (count > IMAGE_MAX_ORDER_RUNS) {
        error_set(error, VMFERRY_ERROR_INVALID, "an order of %u runs; %u is the most", count,
                  IMAGE_MAX_ORDER_RUNS);
        return FALSE;
    }
    for (guint i = 0; i < count; i++) {
        if (!is_inside(writer, runs[i].region, runs[i].span, error))
            return FALSE;
        if (runs[i].span.count == 0) {
            error_set(error, VMFERRY_ERROR_INVALID, "an empty run in the order of accesses");
            return FALSE;
        }
    }
    g_array_set_size(writer->index->order, 0);
    if (count > 0)
        g_array_append_vals(writer->index->order, runs, count);
    return TRUE;
}

/* ---- the end ---- */

static gboolean take_tail(ImageIndex *index, const ImageTail *tail, GError **error)
{
    if (!image_text_check("machine", tail->machine, strlen(tail->machine), IMAGE_MAX_MACHINE_BYTES,
                          error) ||
        (tail->note &&
         !image_text_check("note", tail->note, strlen(tail->note), IMAGE_MAX_NOTE_BYTES, error)))
        return FALSE;
    if (g_bytes_get_size(tail->state) > IMAGE_MAX_STATE_BYTES) {
        error_set(error, VMFERRY_ERROR_INVALID, "a device state of %zu bytes; %u is the most",
                  g_bytes_get_size(tail->state), IMAGE_MAX_STATE_BYTES);
        return FALSE;
    }
    index->machine = g_strdup(tail->machine);
    index->note = g_strdup(tail->note);
    index->state = g_bytes_ref(tail->state);
    return TRUE;
}

/* Extents of which all pages came again are left out.  Returns the new numbers of the others. */
static uint32_t *number_extents(ImageWriter *writer)
{
    uint32_t *numbers = g_new(uint32_t, writer->extents->len + 1);

    for (guint i = 0; i < writer->extents->len; i++) {
        const WrittenExtent *extent = &g_array_index(writer->extents, WrittenExtent, i);

        numbers[i] = writer->index->extents->len;
        if (extent->current > 0)
            g_array_append_val(writer->index->extents, extent->stored);
    }
    return numbers;
}

/* One more page behind what the map has: at the end of its last run, where that can be. */
static void map_page(GArray *map, uint64_t page, uint32_t extent, uint32_t offset)
{
    const ImageMapRun run = {page, 1, extent, offset};

    if (map->len > 0) {
        ImageMapRun *last = &g_array_index(map, ImageMapRun, map->len - 1);

        if (last->extent == extent && last->first + last->count == page &&
            (extent == IMAGE_EXTENT_ZERO || last->offset + last->count == offset)) {
            last->count++;
            return;
        }
    }
    g_array_append_val(map, run);
}

static void map_group(GArray *map, const PageNotes *notes, uint64_t first, const uint32_t *numbers)
{
    for (guint i = 0; i < GROUP_PAGES; i++) {
        uint32_t note = notes->extents[i];

        if (note == PAGE_ZERO)
            map_page(map, first + i, IMAGE_EXTENT_ZERO, 0);
        else if (note != PAGE_UNTOLD)
            map_page(map, first + i, numbers[note - PAGE_FIRST_EXTENT], notes->offsets[i]);
    }
}

static void make_maps(ImageWriter *writer)
{
    const PageRegions *regions = &writer->index->regions;
    g_autofree uint32_t *numbers = number_extents(writer);

    for (guint i = 0; i < regions->count; i++)
        for (uint64_t k = 0; k < count_groups(regions->pages[i]); k++)
            if (writer->notes[i][k])
                map_group(writer->index->maps->pdata[i], writer->notes[i][k], k * GROUP_PAGES,
                          numbers);
}

static gboolean write_end(ImageWriter *writer, GError **error)
{
    ImageFooter footer = {.index_place = image_output_get_place(writer->output),
                          .id = writer->header.id};
    g_autoptr(GByteArray) index = image_index_encode(writer->index, writer->header.digest, error);
    uint8_t footer_bytes[IMAGE_FOOTER_BYTES];

    if (!index || !image_digester_seal(writer->digester, writer->header_bytes, index->data,
                                       index->len, footer.digest, error))
        return FALSE;
    footer.index_bytes = index->len;
    footer.place = footer.index_place + index->len;
    image_footer_encode(&footer, footer_bytes);
    return image_output_write(writer->output, index->data, index->len, error) &&
           image_output_write(writer->output, footer_bytes, sizeof footer_bytes, error);
}

gboolean image_writer_commit(ImageWriter *writer, const ImageTail *tail, gboolean replace,
                             GError **error)
{
    if (!take_tail(writer->index, tail, error))
        return FALSE;
    make_maps(writer);
    return write_end(writer, error) && image_output_publish(writer->output, replace, error);
}

void image_writer_get_totals(const ImageWriter *writer, ImageWriterTotals *ret)
{
    *ret = writer->totals;
    ret->written_bytes = image_output_get_place(writer->output);
}
