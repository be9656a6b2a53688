/* Images that have what differs from their base, found by comparing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/page.h"
#include "model.h"

#define FRAME_PAGES_MOST 256u

static const uint8_t zeroes[PAGE_BYTES];

static gboolean is_zero(const Model *model, guint region, uint64_t page)
{
    return memcmp(model_page(model, region, page), zeroes, PAGE_BYTES) == 0;
}

/* ---- a save ---- */

typedef struct {
    Model *model;
    SavedImage *base;
    ImageWriter *writer;
    ImageIncrementCounts counts;
} Save;

static Save begin(Model *model, const char *name, const char *base)
{
    Save save = {.model = model, .base = model_open(model, base)};

    save.writer = model_create(model, name, saved_image_get_id(save.base), base, NULL);
    model->increment = image_increment_new(save.base, save.writer, NULL);
    assert_non_null(model->increment);
    return save;
}

static void end(Save *save)
{
    assert_true(image_increment_finish(save->model->increment, NULL));
    image_increment_get_counts(save->model->increment, &save->counts);
    g_clear_pointer(&save->model->increment, image_increment_free);
    model_commit(save->writer);
    g_clear_pointer(&save->writer, image_writer_free);
    g_clear_pointer(&save->base, saved_image_free);
}

/* The pages of a run of the same kind from *first* on. */
static PageRun next_run(const Model *model, guint region, uint64_t first, uint64_t end_page)
{
    PageRun run = {first, 0, is_zero(model, region, first) ? PAGE_RUN_ZERO : PAGE_RUN_RAW};

    while (first < end_page && is_zero(model, region, first) == (run.kind == PAGE_RUN_ZERO)) {
        run.count++;
        first++;
    }
    return run;
}

/* All of memory, as in the first epoch of a save; *tells_zeroes*: also what is zero, as if it were populated. */
static void send_all(Save *save, gboolean tells_zeroes)
{
    Model *model = save->model;

    for (guint region = 0; region < MODEL_REGIONS; region++)
        for (uint64_t first = 0; first < model->regions.pages[region]; first += FRAME_PAGES_MOST) {
            uint64_t end_page = MIN(first + FRAME_PAGES_MOST, model->regions.pages[region]);
            PageRun runs[FRAME_PAGES_MOST];
            guint count = 0;

            for (uint64_t page = first; page < end_page;) {
                PageRun run = next_run(model, region, page, end_page);

                page += run.count;
                if (tells_zeroes || run.kind == PAGE_RUN_RAW)
                    runs[count++] = run;
            }
            if (count > 0)
                model_write_runs(model, save->writer, region, runs, count,
                                 (PackMethod)(first / FRAME_PAGES_MOST % 3));
        }
}

static void assert_restored(Model *model, const char *name, guint depth)
{
    g_autoptr(SavedImage) image = model_open(model, name);

    assert_int_equal(saved_image_get_depth(image), depth);
    model_assert_content(model, image);
}

static uint64_t count_stored(const Model *model, const char *name)
{
    g_autofree char *path = model_path(model, name);
    const SavedImageOptions alone = {.alone = TRUE};
    g_autoptr(SavedImage) image = saved_image_open(path, &alone, NULL);
    SavedImageTotals totals;

    assert_non_null(image);
    saved_image_get_totals(image, &totals);
    return totals.pages;
}

/* ---- tests ---- */

/* Memory that changes before, between and while it is saved. */
static void test_three(void **state)
{
    Model *model = *state;
    static const char *const names[] = {"a", "b", "c", "d"};

    model_save(model, "a", NULL, NULL, 60);
    for (guint i = 1; i < G_N_ELEMENTS(names); i++) {
        Save save;

        memset(model_page(model, 0, i * 100), (int)i, 7 * PAGE_BYTES);
        memset(model_page(model, 0, i * 200), 0, 20 * PAGE_BYTES);
        save = begin(model, names[i], names[i - 1]);
        send_all(&save, i == 2);
        model_write(model, save.writer, 10);
        end(&save);
        assert_restored(model, names[i], i + 1);
        assert_int_equal(save.counts.compared > save.counts.equal, TRUE);
    }
}

static void test_nothing_has_changed(void **state)
{
    Model *model = *state;
    Save save;

    model_save(model, "a", NULL, NULL, 60);
    save = begin(model, "b", "a");
    send_all(&save, TRUE);
    send_all(&save, FALSE);
    end(&save);
    assert_true(save.counts.compared > 200);
    assert_int_equal(save.counts.equal, save.counts.compared);
    assert_int_equal(save.counts.stored, 0);
    assert_int_equal(save.counts.zeroed, 0);
    assert_int_equal(count_stored(model, "b"), 0);
    assert_restored(model, "b", 2);
}

/* Of a frame, only what differs; a frame that differs all over as it came. */
static void test_what_differs(void **state)
{
    Model *model = *state;
    Save save;

    model_save(model, "a", NULL, NULL, 60);
    memset(model_page(model, 0, 0), 'a', 512 * PAGE_BYTES);
    save = begin(model, "b", "a");
    send_all(&save, FALSE);
    end(&save);
    assert_int_equal(save.counts.compared - save.counts.equal, 512);
    memset(model_page(model, 0, 3), 'b', PAGE_BYTES);
    model_page(model, 0, 255)[PAGE_BYTES - 1] = 'b';
    save = begin(model, "c", "b");
    send_all(&save, FALSE);
    end(&save);
    assert_int_equal(save.counts.compared - save.counts.equal, 2);
    assert_int_equal(save.counts.stored, 2);
    assert_int_equal(count_stored(model, "c"), 2);
    assert_restored(model, "c", 3);
}

/* Zero now: pages that are told, and those that are not there any more. */
static void test_zero_now(void **state)
{
    Model *model = *state;

    memset(model_page(model, 0, 0), 'a', 600 * PAGE_BYTES);
    for (guint tells = 0; tells < 2; tells++) {
        g_autofree char *base = g_strdup_printf("base%u", tells);
        g_autofree char *name = g_strdup_printf("image%u", tells);
        ImageWriter *writer = model_create(model, base, NULL, NULL, NULL);
        Save save;

        memset(model_page(model, 0, 100), 'b', 300 * PAGE_BYTES);
        model_write_span(model, writer, 0, (PageSpan){0, 200}, PACK_ZSTD);
        model_write_span(model, writer, 0, (PageSpan){200, 200}, PACK_ZSTD);
        model_write_span(model, writer, 0, (PageSpan){400, 200}, PACK_ZSTD);
        model_commit(writer);
        image_writer_free(writer);
        memset(model_page(model, 0, 100), 0, 300 * PAGE_BYTES);
        save = begin(model, name, base);
        send_all(&save, tells);
        end(&save);
        assert_int_equal(save.counts.zeroed, 300);
        assert_int_equal(count_stored(model, name), 0);
        assert_restored(model, name, 2);
    }
}

/* What this image tells of a page counts, not what the base has. */
static void test_comes_again(void **state)
{
    Model *model = *state;
    const PageRun zero = {10, 5, PAGE_RUN_ZERO}, again = {12, 2, PAGE_RUN_RAW};
    Save save;

    model_save(model, "a", NULL, NULL, 60);
    memset(model_page(model, 0, 10), 'a', 5 * PAGE_BYTES);
    save = begin(model, "b", "a");
    send_all(&save, FALSE);
    end(&save);
    save = begin(model, "c", "b");
    /* Zero for a moment, and then as it was in the base; another one: another content, and back. */
    model_write_runs(model, save.writer, 0, &zero, 1, PACK_NONE);
    model_write_runs(model, save.writer, 0, &again, 1, PACK_LZ4);
    memset(model_page(model, 0, 10), 'x', PAGE_BYTES);
    send_all(&save, FALSE);
    memset(model_page(model, 0, 10), 'a', PAGE_BYTES);
    model_write_span(model, save.writer, 0, (PageSpan){10, 1}, PACK_ZSTD);
    end(&save);
    assert_restored(model, "c", 3);
}

/* ---- what is wrong ---- */

static void damage(const Model *model, const char *name)
{
    g_autofree char *path = model_path(model, name);
    autofd int fd = open(path, O_RDWR | O_CLOEXEC);
    uint8_t byte;

    assert_int_equal(pread(fd, &byte, 1, IMAGE_HEADER_BYTES), 1);
    byte ^= 1;
    assert_int_equal(pwrite(fd, &byte, 1, IMAGE_HEADER_BYTES), 1);
}

static gboolean add(Model *model, FrameType type, const PageRun *run, size_t length, GError **error)
{
    g_autoptr(GByteArray) payload = g_byte_array_new();
    g_autofree uint8_t *bytes = g_malloc0(length);
    Frame frame = {.type = type};

    page_frame_encode(payload, 0, run, 1);
    g_byte_array_append(payload, bytes, (guint)length);
    frame.payload = payload->data;
    frame.length = payload->len;
    return image_increment_add_frame(model->increment, &frame, error);
}

static void assert_refused(Model *model, FrameType type, const PageRun *run, size_t length,
                           const char *words)
{
    g_autoptr(GError) error = NULL;

    assert_false(add(model, type, run, length, &error));
    assert_true(error_is(error, VMFERRY_ERROR_INVALID));
    if (!strstr(error->message, words))
        fail_msg("\"%s\" lacks \"%s\"", error->message, words);
}

static void test_damaged_base(void **state)
{
    Model *model = *state;
    const PageRun run = {100, 4, PAGE_RUN_RAW};
    ImageWriter *writer = model_create(model, "a", NULL, NULL, NULL);
    Save save;

    memset(model_page(model, 0, 100), 'a', 4 * PAGE_BYTES);
    model_write_span(model, writer, 0, (PageSpan){100, 4}, PACK_ZSTD);
    model_commit(writer);
    image_writer_free(writer);
    damage(model, "a");
    save = begin(model, "b", "a");
    assert_refused(model, FRAME_PAGES, &run, 4 * PAGE_BYTES, "page 100 of pc.ram: ");
    g_clear_pointer(&model->increment, image_increment_free);
    image_writer_free(save.writer);
    saved_image_free(save.base);
}

static void test_bad_frames(void **state)
{
    Model *model = *state;
    const PageRun run = {100, 4, PAGE_RUN_RAW}, outside = {2999, 2, PAGE_RUN_RAW};
    Save save;

    model_save(model, "a", NULL, NULL, 5);
    save = begin(model, "b", "a");
    assert_refused(model, FRAME_PAGES, &run, 3 * PAGE_BYTES, "PAGES");
    assert_refused(model, FRAME_PAGES, &outside, 2 * PAGE_BYTES, "outside");
    assert_refused(model, FRAME_PAGES_ZSTD, &run, 100, "");
    assert_refused(model, FRAME_PAGES_LZ4, &run, 100, "");
    assert_refused(model, FRAME_SEGMENTS, &run, 100, "takes no SEGMENTS");
    g_clear_pointer(&model->increment, image_increment_free);
    image_writer_free(save.writer);
    saved_image_free(save.base);
}

int main(void)
{
#define scene(function) cmocka_unit_test_setup_teardown(function, model_setup, model_teardown)
    const struct CMUnitTest tests[] = {
        scene(test_three),      scene(test_nothing_has_changed), scene(test_what_differs),
        scene(test_zero_now),   scene(test_comes_again),         scene(test_damaged_base),
        scene(test_bad_frames),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
