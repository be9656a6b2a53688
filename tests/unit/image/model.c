#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <glib/gstdio.h>
#include <string.h>

#include "base/page.h"
#include "model.h"
#include "wire/page_frame.h"

/* Not each page is looked at by itself: they are in many extents, which are unpacked for it. */
#define STRIDE 23u

static uint64_t region_pages[MODEL_REGIONS] = {3000, 70};
static char *region_names[] = {(char *)"pc.ram", (char *)"vga.vram", NULL};

/* ---- the model ---- */

int model_setup(void **state)
{
    Model *model = g_new0(Model, 1);

    model->folder = g_dir_make_tmp("vmferry-image-XXXXXX", NULL);
    model->regions = (PageRegions){MODEL_REGIONS, region_pages, region_names};
    for (guint i = 0; i < MODEL_REGIONS; i++)
        model->content[i] = g_malloc0(region_pages[i] * PAGE_BYTES);
    model->random = g_rand_new_with_seed(17);
    model->codec = pack_context_new();
    *state = model;
    return 0;
}

int model_teardown(void **state)
{
    Model *model = *state;
    g_autoptr(GDir) folder = g_dir_open(model->folder, 0, NULL);
    const char *name;

    while ((name = g_dir_read_name(folder))) {
        g_autofree char *path = model_path(model, name);

        g_unlink(path);
    }
    g_rmdir(model->folder);
    g_free(model->folder);
    for (guint i = 0; i < MODEL_REGIONS; i++)
        g_free(model->content[i]);
    g_rand_free(model->random);
    pack_context_free(model->codec);
    g_free(model);
    return 0;
}

char *model_path(const Model *model, const char *name)
{
    return g_build_filename(model->folder, name, NULL);
}

guint model_count_files(const Model *model)
{
    g_autoptr(GDir) folder = g_dir_open(model->folder, 0, NULL);
    guint count = 0;

    while (g_dir_read_name(folder))
        count++;
    return count;
}

uint8_t *model_page(const Model *model, guint region, uint64_t page)
{
    return model->content[region] + page * PAGE_BYTES;
}

/* ---- writing ---- */

ImageHead model_head(const Model *model)
{
    ImageHead head = {.regions = &model->regions};

    assert_true(image_id_make(&head.id, NULL));
    return head;
}

ImageWriter *model_create(const Model *model, const char *name, const ImageId *base,
                          const char *base_name, GBytes *key)
{
    g_autofree char *path = model_path(model, name);
    g_autoptr(GError) error = NULL;
    ImageHead head = model_head(model);
    ImageWriter *writer;

    if (base)
        head.base = *base;
    head.base_name = base_name;
    head.key = key;
    writer = image_writer_create(path, &head, &error);
    if (!writer)
        fail_msg("%s", error->message);
    return writer;
}

static void add_frame(const Model *model, ImageWriter *writer, FrameType type,
                      const GByteArray *payload)
{
    const Frame frame = {type, payload->len, payload->data};
    g_autoptr(GError) error = NULL;

    if (!(model->increment ? image_increment_add_frame(model->increment, &frame, &error)
                           : image_writer_add_frame(writer, &frame, &error)))
        fail_msg("%s", error->message);
}

void model_write_runs(Model *model, ImageWriter *writer, guint region, const PageRun *runs,
                      guint count, PackMethod method)
{
    g_autoptr(GByteArray) payload = g_byte_array_new(), raw = g_byte_array_new();
    g_autofree uint8_t *packed = g_malloc(IMAGE_MAX_EXTENT_BYTES);
    size_t length;

    page_frame_encode(payload, region, runs, count);
    for (guint i = 0; i < count; i++)
        if (runs[i].kind == PAGE_RUN_RAW)
            g_byte_array_append(raw, model_page(model, region, runs[i].first),
                                (guint)(runs[i].count * PAGE_BYTES));
    length = pack(model->codec, method, 0, raw->data, raw->len, packed, IMAGE_MAX_EXTENT_BYTES);
    g_byte_array_append(payload, length > 0 ? packed : raw->data,
                        length > 0 ? (guint)length : raw->len);
    add_frame(model, writer,
              length == 0           ? FRAME_PAGES
              : method == PACK_ZSTD ? FRAME_PAGES_ZSTD
                                    : FRAME_PAGES_LZ4,
              payload);
}

void model_write_span(Model *model, ImageWriter *writer, guint region, PageSpan span,
                      PackMethod method)
{
    const PageRun run = {span.first, (uint32_t)span.count, PAGE_RUN_RAW};

    model_write_runs(model, writer, region, &run, 1, method);
}

static void change_run(Model *model, guint region, const PageRun *run)
{
    for (uint64_t i = 0; i < run->count; i++) {
        uint8_t *page = model_page(model, region, run->first + i);

        memset(page, 0, PAGE_BYTES);
        if (run->kind == PAGE_RUN_ZERO)
            continue;
        /* Some pack well, some do not at all. */
        memset(page, g_rand_int_range(model->random, 1, 250), 700);
        if (g_rand_boolean(model->random))
            for (guint k = 0; k < PAGE_BYTES; k += 4)
                *(uint32_t *)(void *)(page + k) = g_rand_int(model->random);
    }
}

/* Up to eight runs, 32 pages each. */
void model_write(Model *model, ImageWriter *writer, guint count)
{
    for (guint i = 0; i < count; i++) {
        guint region = g_rand_int_range(model->random, 0, 8) == 0;
        uint64_t pages = region_pages[region], from = 0;
        PageRun runs[8];
        guint used = 0;

        while (used < 8 && pages - from > 1) {
            PageRun *run = &runs[used++];

            run->first =
                from + (uint64_t)g_rand_int_range(model->random, 0, (gint)MIN(pages - from, 1000));
            run->count = (uint32_t)g_rand_int_range(model->random, 1, 33);
            run->count = (uint32_t)MIN(run->count, pages - run->first);
            run->kind = g_rand_int_range(model->random, 0, 4) == 0 ? PAGE_RUN_ZERO : PAGE_RUN_RAW;
            change_run(model, region, run);
            from = run->first + run->count;
        }
        model_write_runs(model, writer, region, runs, used,
                         (PackMethod)g_rand_int_range(model->random, 0, 3));
    }
}

void model_commit(ImageWriter *writer)
{
    g_autoptr(GBytes) device_state = g_bytes_new(MODEL_STATE, strlen(MODEL_STATE));
    const ImageTail tail = {MODEL_MACHINE, MODEL_NOTE, device_state};
    const ImageRun order[] = {{1, {5, 10}}, {0, {2999, 1}}};
    g_autoptr(GError) error = NULL;

    assert_true(image_writer_set_order(writer, order, 2, NULL));
    if (!image_writer_commit(writer, &tail, FALSE, &error))
        fail_msg("%s", error->message);
}

void model_save(Model *model, const char *name, const ImageId *base, const char *base_name,
                guint frames)
{
    g_autoptr(ImageWriter) writer = model_create(model, name, base, base_name, NULL);

    model_write(model, writer, frames);
    model_commit(writer);
}

/* ---- reading ---- */

SavedImage *model_open(const Model *model, const char *name)
{
    g_autofree char *path = model_path(model, name);
    g_autoptr(GError) error = NULL;
    SavedImage *image = saved_image_open(path, NULL, &error);

    if (!image)
        fail_msg("%s", error->message);
    return image;
}

void model_assert_refused(const Model *model, const char *name, const SavedImageOptions *options,
                          VmferryErrorCode code, const char *words)
{
    g_autofree char *path = model_path(model, name);
    g_autoptr(GError) error = NULL;
    g_autoptr(SavedImage) image = saved_image_open(path, options, &error);

    assert_null(image);
    if (!error_is(error, code) || !strstr(error->message, words) || !strstr(error->message, path))
        fail_msg("error %d: \"%s\"; wanted %d, \"%s\" and the file's name", error->code,
                 error->message, code, words);
}

static void assert_span(const Model *model, SavedImage *image, guint region, const PageSpan *spans,
                        guint count)
{
    uint64_t pages = 0;
    g_autofree uint8_t *buffer = NULL;
    g_autoptr(GError) error = NULL;
    const uint8_t *at;

    for (guint i = 0; i < count; i++)
        pages += spans[i].count;
    at = buffer = g_malloc(pages * PAGE_BYTES);
    if (!page_source_read(saved_image_get_source(image), region, spans, count, buffer, &error))
        fail_msg("%s", error->message);
    for (guint i = 0; i < count; i++) {
        assert_memory_equal(at, model_page(model, region, spans[i].first),
                            spans[i].count * PAGE_BYTES);
        at += spans[i].count * PAGE_BYTES;
    }
}

/* All pages of its extent come with a page, it is among them, and they are right. */
static void assert_neighbours(const Model *model, SavedImage *image, guint region)
{
    g_autofree ImageNeighbours *found = g_new(ImageNeighbours, 1);

    for (uint64_t page = 0; page < region_pages[region]; page += STRIDE) {
        gboolean has_page = FALSE;

        assert_true(saved_image_find_neighbours(image, region, page, found, NULL));
        for (guint i = 0; i < found->count; i++)
            if (page >= found->spans[i].first &&
                page < found->spans[i].first + found->spans[i].count)
                has_page = TRUE;
        assert_true(has_page);
        if (found->stored)
            assert_span(model, image, region, found->spans, found->count);
        else
            assert_true(model_page(model, region, page)[0] == 0);
    }
}

static void assert_populated(const Model *model, SavedImage *image, guint region)
{
    g_autoptr(PageSet) set = page_set_new(region_pages[region]);
    static const uint8_t zeroes[PAGE_BYTES];

    assert_true(page_source_add_populated(saved_image_get_source(image), region, set, NULL));
    for (uint64_t page = 0; page < region_pages[region]; page++)
        assert_int_equal(page_set_has(set, page),
                         memcmp(model_page(model, region, page), zeroes, PAGE_BYTES) != 0);
}

void model_assert_content(const Model *model, SavedImage *image)
{
    for (guint i = 0; i < MODEL_REGIONS; i++) {
        const PageSpan all = {0, region_pages[i]}, two[] = {{region_pages[i] - 30, 30}, {1, 20}};

        assert_span(model, image, i, &all, 1);
        assert_span(model, image, i, two, 2);
        for (uint64_t page = 0; page < region_pages[i]; page += STRIDE)
            assert_span(model, image, i, &(PageSpan){page, 1}, 1);
        assert_neighbours(model, image, i);
        assert_populated(model, image, i);
    }
}
