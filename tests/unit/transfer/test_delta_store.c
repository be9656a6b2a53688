/*
 * The delta store: against a model, across restarts, with a crash at each step, and damaged
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include <glib/gstdio.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/page.h"
#include "transfer/delta_files.h"
#include "transfer/delta_store.h"
#include "transfer/layered_source.h"

#define REGIONS 2u
#define FIRST_PAGES 700u
#define SECOND_PAGES 130u
#define MAX_FILE_BYTES (64u << 20)

static const guint region_pages[REGIONS] = {FIRST_PAGES, SECOND_PAGES};
static const char *const file_names[] = {"head", "contents", "index", "committed"};

/* What memory holds. */
typedef struct {
    uint8_t *pages[REGIONS];
} Content;

typedef struct {
    PageSource head;
    PageRegions regions;
    Content content;
} Base;

typedef struct {
    char *folder, *path, *copy;
    Base base;
    Content committed, staged; /* the model */
    DeltaStore *store;
    uint64_t epoch;
    GRand *random;
} Scene;

/* --- contents -------------------------------------------------------------------------- */

static uint8_t *page_of(const Content *content, guint region, uint64_t page)
{
    return content->pages[region] + page * PAGE_BYTES;
}

static void content_init(Content *content)
{
    for (guint i = 0; i < REGIONS; i++)
        content->pages[i] = g_malloc0(region_pages[i] * PAGE_BYTES);
}

static void content_clear(Content *content)
{
    for (guint i = 0; i < REGIONS; i++)
        g_free(content->pages[i]);
}

static void content_copy(Content *to, const Content *from)
{
    for (guint i = 0; i < REGIONS; i++)
        memcpy(to->pages[i], from->pages[i], region_pages[i] * PAGE_BYTES);
}

static gboolean base_read(PageSource *head, guint region, const PageSpan *spans, guint count,
                          uint8_t *buffer, GError **error)
{
    Base *base = (Base *)head;

    for (guint i = 0; i < count; i++) {
        memcpy(buffer, page_of(&base->content, region, spans[i].first),
               spans[i].count * PAGE_BYTES);
        buffer += spans[i].count * PAGE_BYTES;
    }
    return TRUE;
}

/* Every third page of it is zero. */
static gboolean base_add_populated(PageSource *head, guint region, PageSet *set, GError **error)
{
    for (uint64_t i = 0; i < region_pages[region]; i++)
        if (i % 3 != 0)
            page_set_add(set, i, 1);
    return TRUE;
}

static void base_init(Base *base)
{
    static const PageSourceMethods methods = {base_read, base_add_populated, NULL};
    static uint64_t pages[REGIONS] = {FIRST_PAGES, SECOND_PAGES};
    static char *names[] = {(char *)"pc.ram", (char *)"vga.vram", NULL};

    base->regions = (PageRegions){REGIONS, pages, names};
    base->head = (PageSource){&methods, &base->regions};
    content_init(&base->content);
    for (guint i = 0; i < REGIONS; i++)
        for (uint64_t k = 0; k < region_pages[i]; k++)
            if (k % 3 != 0)
                memset(page_of(&base->content, i, k), (int)(1 + (k + i) % 250), PAGE_BYTES);
}

/* --- scenes ---------------------------------------------------------------------------- */

static void open_store(Scene *scene)
{
    g_autoptr(GError) error = NULL;

    scene->store = delta_store_open(scene->path, &error);
    if (!scene->store)
        fail_msg("%s", error->message);
    assert_true(delta_store_set_bottom(scene->store, &scene->base.head, NULL));
}

static int setup(void **state)
{
    Scene *scene = g_new0(Scene, 1);
    g_autoptr(GError) error = NULL;

    scene->folder = g_dir_make_tmp("delta-XXXXXX", NULL);
    scene->path = g_build_filename(scene->folder, "store", NULL);
    scene->copy = g_build_filename(scene->folder, "copy", NULL);
    scene->random = g_rand_new_with_seed(14);
    base_init(&scene->base);
    content_init(&scene->committed);
    content_init(&scene->staged);
    content_copy(&scene->committed, &scene->base.content);
    content_copy(&scene->staged, &scene->base.content);
    scene->store = delta_store_create(scene->path, "move-1", &scene->base.regions, &error);
    if (!scene->store)
        fail_msg("%s", error->message);
    assert_true(delta_store_set_bottom(scene->store, &scene->base.head, NULL));
    *state = scene;
    return 0;
}

static int teardown(void **state)
{
    Scene *scene = *state;

    delta_store_free(scene->store);
    delta_store_remove(scene->path);
    delta_store_remove(scene->copy);
    assert_int_equal(g_rmdir(scene->folder), 0); /* nothing else is left */
    content_clear(&scene->base.content);
    content_clear(&scene->committed);
    content_clear(&scene->staged);
    g_rand_free(scene->random);
    g_free(scene->folder);
    g_free(scene->path);
    g_free(scene->copy);
    g_free(scene);
    return 0;
}

/* --- changes, to the store and to the model ---------------------------------------------- */

static PageSpan random_span(Scene *scene, guint region, guint longest)
{
    guint first = (guint)g_rand_int_range(scene->random, 0, (gint32)region_pages[region]);
    guint most = MIN(longest, region_pages[region] - first);

    return (PageSpan){first, (guint64)g_rand_int_range(scene->random, 1, (gint32)most + 1)};
}

static void write_span(Scene *scene, guint region, PageSpan span)
{
    g_autoptr(GError) error = NULL;
    uint8_t *at = page_of(&scene->staged, region, span.first);

    for (uint64_t i = 0; i < span.count; i++)
        memset(at + i * PAGE_BYTES, g_rand_int_range(scene->random, 1, 256), PAGE_BYTES);
    if (!page_sink_write(delta_stage_get_sink(scene->store), region, &span, 1, at, &error))
        fail_msg("%s", error->message);
}

/* Several spans in one call; they do not overlap. */
static void write_spans(Scene *scene, guint region)
{
    g_autoptr(GByteArray) buffer = g_byte_array_new();
    PageSpan spans[8];
    uint64_t at = (uint64_t)g_rand_int_range(scene->random, 0, 40);
    guint count = 0;

    for (; count < G_N_ELEMENTS(spans) && at + 8 < region_pages[region]; count++) {
        spans[count] = (PageSpan){at, (uint64_t)g_rand_int_range(scene->random, 1, 5)};
        for (uint64_t i = 0; i < spans[count].count; i++) {
            memset(page_of(&scene->staged, region, at + i), g_rand_int_range(scene->random, 1, 256),
                   PAGE_BYTES);
            g_byte_array_append(buffer, page_of(&scene->staged, region, at + i), PAGE_BYTES);
        }
        at += spans[count].count + (uint64_t)g_rand_int_range(scene->random, 0, 9);
    }
    assert_true(page_sink_write(delta_stage_get_sink(scene->store), region, spans, count,
                                buffer->data, NULL));
}

static void zero_span(Scene *scene, guint region, PageSpan span)
{
    memset(page_of(&scene->staged, region, span.first), 0, span.count * PAGE_BYTES);
    assert_true(page_sink_zero(delta_stage_get_sink(scene->store), region, span, NULL));
}

static void patch_pages(Scene *scene, guint region)
{
    g_autoptr(GError) error = NULL;
    static PagePatch patches[FIRST_PAGES];
    static uint8_t bytes[FIRST_PAGES][8];
    guint count = 0;

    for (uint64_t page = 0; page < region_pages[region];
         page += (uint64_t)g_rand_int_range(scene->random, 1, 5), count++) {
        uint8_t *at = page_of(&scene->staged, region, page);

        memset(bytes[count], g_rand_int_range(scene->random, 0, 256), sizeof bytes[count]);
        patches[count] = (PagePatch){page, {2, 8, {{0, 3}, {4091, 5}}}, bytes[count]};
        memcpy(at, bytes[count], 3);
        memcpy(at + 4091, bytes[count] + 3, 5);
    }
    if (!page_sink_patch(delta_stage_get_sink(scene->store), region, patches, count, &error))
        fail_msg("%s", error->message);
}

/* To the first region from the second. */
static void copy_pages(Scene *scene)
{
    CopyRun runs[3] = {{10, 20, 7, 1}, {30, 50, 1, 1}, {40, 300, 20, 0}};

    for (guint i = 0; i < G_N_ELEMENTS(runs); i++)
        memcpy(page_of(&scene->staged, 0, runs[i].first),
               page_of(&scene->staged, runs[i].source_region, runs[i].source_first),
               runs[i].count * PAGE_BYTES);
    assert_true(
        page_sink_copy(delta_stage_get_sink(scene->store), 0, runs, G_N_ELEMENTS(runs), NULL));
}

static void change(Scene *scene)
{
    guint region = (guint)g_rand_int_range(scene->random, 0, REGIONS);

    switch (g_rand_int_range(scene->random, 0, 6)) {
    case 0:
        write_span(scene, region, random_span(scene, region, 300));
        break;
    case 1:
        zero_span(scene, region, random_span(scene, region, 40));
        break;
    case 2:
        patch_pages(scene, region);
        break;
    case 3:
        copy_pages(scene);
        break;
    case 4:
        write_span(scene, region, random_span(scene, region, 2));
        break;
    default:
        write_spans(scene, region);
        break;
    }
}

static void begin(Scene *scene)
{
    assert_true(delta_stage_begin(scene->store, ++scene->epoch, NULL));
}

static void commit(Scene *scene)
{
    g_autofree char *text = g_strdup_printf("state %u", (guint)scene->epoch);
    g_autoptr(GBytes) state = g_bytes_new(text, strlen(text));
    g_autoptr(GError) error = NULL;

    if (!delta_stage_commit(scene->store, state, NULL, &error))
        fail_msg("%s", error->message);
    content_copy(&scene->committed, &scene->staged);
}

static void abort_stage(Scene *scene)
{
    delta_stage_abort(scene->store);
    content_copy(&scene->staged, &scene->committed);
    scene->epoch--;
}

/* --- checks ---------------------------------------------------------------------------- */

static void assert_content(Scene *scene, DeltaStore *store, const Content *expected)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(PageSource) source = layered_source_new(
        delta_store_get_source(store), delta_store_list_pages(store), &scene->base.head, &error);
    g_autofree uint8_t *there = g_malloc(FIRST_PAGES * PAGE_BYTES);

    assert_non_null(source);
    for (guint i = 0; i < REGIONS; i++) {
        PageSpan spans[2] = {{0, 60}, {60, region_pages[i] - 60}};
        g_autoptr(PageSet) populated = page_set_new(region_pages[i]);
        static const uint8_t zeroes[PAGE_BYTES];

        if (!page_source_read(source, i, spans, 2, there, &error))
            fail_msg("%s", error->message);
        assert_true(page_source_add_populated(source, i, populated, NULL));
        for (uint64_t k = 0; k < region_pages[i]; k++) {
            if (memcmp(there + k * PAGE_BYTES, page_of(expected, i, k), PAGE_BYTES) != 0)
                fail_msg("region %u, page %u differs", i, (guint)k);
            if (!page_set_has(populated, k) &&
                memcmp(page_of(expected, i, k), zeroes, PAGE_BYTES) != 0)
                fail_msg("region %u, page %u has content and is not told", i, (guint)k);
        }
    }
}

/* Without a bottom what the store has not is zero. */
static void assert_alone(Scene *scene, PageSpan stored, uint64_t absent)
{
    g_autoptr(PageSource) source = layered_source_new(
        delta_store_get_source(scene->store), delta_store_list_pages(scene->store), NULL, NULL);
    PageSpan spans[2] = {stored, {absent, 1}};
    g_autofree uint8_t *there = g_malloc((stored.count + 1) * PAGE_BYTES);
    g_autoptr(PageSet) populated = page_set_new(region_pages[0]);
    static const uint8_t zeroes[PAGE_BYTES];

    assert_non_null(source);
    assert_true(page_source_read(source, 0, spans, 2, there, NULL));
    assert_memory_equal(there, page_of(&scene->committed, 0, stored.first), PAGE_BYTES);
    assert_memory_equal(there + stored.count * PAGE_BYTES, zeroes, PAGE_BYTES);
    assert_true(page_source_read(source, 0, &spans[1], 1, there, NULL));
    assert_memory_equal(there, zeroes, PAGE_BYTES);
    assert_true(page_source_add_populated(source, 0, populated, NULL));
    assert_true(page_set_has(populated, stored.first) && !page_set_has(populated, absent));
}

static void assert_epoch(DeltaStore *store, uint64_t epoch)
{
    g_autofree char *text = g_strdup_printf("state %u", (guint)epoch);
    g_autoptr(GBytes) expected = g_bytes_new(text, strlen(text));
    uint64_t found;

    assert_int_equal(delta_store_get_epoch(store, &found), epoch > 0);
    assert_int_equal(found, epoch);
    assert_string_equal(delta_store_get_transaction(store), "move-1");
    if (epoch > 0)
        assert_true(g_bytes_equal(delta_store_get_state(store), expected));
    else
        assert_null(delta_store_get_state(store));
}

static uint64_t contents_bytes(Scene *scene)
{
    g_autofree char *path = g_build_filename(scene->path, "contents", NULL);
    GStatBuf file;

    assert_int_equal(g_stat(path, &file), 0);
    return (uint64_t)file.st_size;
}

static void test_model(void **state)
{
    Scene *scene = *state;

    for (guint i = 0; i < 120; i++) {
        guint changes = (guint)g_rand_int_range(scene->random, 0, 7);

        begin(scene);
        for (guint k = 0; k < changes; k++)
            change(scene);
        assert_content(scene, scene->store, &scene->committed);
        if (g_rand_int_range(scene->random, 0, 4) == 0)
            abort_stage(scene);
        else
            commit(scene);
        assert_content(scene, scene->store, &scene->committed);
        if (i % 10 == 9) {
            delta_store_free(scene->store);
            open_store(scene);
            content_copy(&scene->staged, &scene->committed);
        }
        assert_epoch(scene->store, scene->epoch);
        assert_content(scene, scene->store, &scene->committed);
    }
    assert_true(contents_bytes(scene) <= 2 * (FIRST_PAGES + SECOND_PAGES) * PAGE_BYTES);
}

/* Places of replaced content, and of stages that are given up, are used again. */
static void test_places(void **state)
{
    Scene *scene = *state;

    for (guint i = 0; i < 20; i++) {
        begin(scene);
        write_span(scene, 0, (PageSpan){100, 50});
        write_span(scene, 0, (PageSpan){120, 20}); /* what is staged already */
        if (i % 3 == 0)
            abort_stage(scene);
        else
            commit(scene);
    }
    assert_content(scene, scene->store, &scene->committed);
    assert_alone(scene, (PageSpan){100, 50}, 99);
    assert_int_equal(contents_bytes(scene), 2 * 50 * PAGE_BYTES);
}

/* --- crashes --------------------------------------------------------------------------- */

typedef struct {
    char *bytes[G_N_ELEMENTS(file_names)]; /* NULL: it is not there */
    size_t lengths[G_N_ELEMENTS(file_names)];
} Snapshot;

static void take_snapshot(Scene *scene, Snapshot *ret)
{
    for (guint i = 0; i < G_N_ELEMENTS(file_names); i++) {
        g_autofree char *path = g_build_filename(scene->path, file_names[i], NULL);

        ret->bytes[i] = file_read(path, MAX_FILE_BYTES, &ret->lengths[i], NULL);
    }
}

static void clear_snapshot(Snapshot *snapshot)
{
    for (guint i = 0; i < G_N_ELEMENTS(file_names); i++)
        g_free(snapshot->bytes[i]);
}

static void put_file(Scene *scene, const char *name, const char *bytes, size_t length)
{
    g_autofree char *path = g_build_filename(scene->copy, name, NULL);

    if (bytes)
        assert_true(file_replace(path, bytes, length, FALSE, NULL));
}

/* A store as a crash leaves it: contents, index and committed each from before or after the commit,
 * the first *index_bytes* of the index from after. */
static DeltaStore *crash(Scene *scene, const Snapshot *contents, const Snapshot *committed,
                         const Snapshot *before, const Snapshot *after, size_t index_bytes)
{
    g_autofree char *index = g_memdup2(before->bytes[2], before->lengths[2]);
    g_autoptr(GError) error = NULL;
    DeltaStore *store;

    delta_store_remove(scene->copy);
    assert_int_equal(g_mkdir(scene->copy, 0700), 0);
    memcpy(index, after->bytes[2], index_bytes);
    put_file(scene, "head", before->bytes[0], before->lengths[0]);
    put_file(scene, "contents", contents->bytes[1], contents->lengths[1]);
    put_file(scene, "index", index, before->lengths[2]);
    put_file(scene, "committed", committed->bytes[3], committed->lengths[3]);
    put_file(scene, "committed.new", after->bytes[3], after->lengths[3] / 2);
    store = delta_store_open(scene->copy, &error);
    if (!store)
        fail_msg("%s", error->message);
    assert_true(delta_store_set_bottom(store, &scene->base.head, NULL));
    return store;
}

/* It goes on from there: all that is free is used, nothing that is not. */
static void go_on(Scene *scene, DeltaStore *store, uint64_t epoch, const Content *expected)
{
    g_autofree uint8_t *pages = g_malloc(FIRST_PAGES * PAGE_BYTES);
    PageSpan all = {0, FIRST_PAGES}, first = {0, 1}, rest = {1, FIRST_PAGES - 1};
    g_autoptr(GError) error = NULL;

    memset(pages, 77, FIRST_PAGES * PAGE_BYTES);
    assert_true(delta_stage_begin(store, epoch + 1, NULL));
    if (!page_sink_write(delta_stage_get_sink(store), 0, &all, 1, pages, &error))
        fail_msg("%s", error->message);
    assert_content(scene, store, expected);
    assert_true(delta_stage_commit(store, NULL, NULL, NULL));
    assert_true(page_source_read(delta_store_get_source(store), 0, &all, 1, pages, NULL));
    assert_int_equal(pages[0], 77);
    assert_memory_equal(pages, pages + 1, FIRST_PAGES * PAGE_BYTES - 1);
    assert_true(page_source_read(delta_store_get_source(store), 0, &first, 1, pages, NULL));
    assert_true(page_source_read(delta_store_get_source(store), 0, &rest, 1, pages, NULL));
}

static void check_crash(Scene *scene, const char *what, uint64_t epoch, const Content *expected,
                        DeltaStore *store)
{
    print_message("crash %s: epoch %u\n", what, (guint)epoch);
    assert_epoch(store, epoch);
    assert_content(scene, store, expected);
    go_on(scene, store, epoch, expected);
    delta_store_free(store);
}

static void test_crashes(void **state)
{
    Scene *scene = *state;
    Snapshot before, staged, after;
    Content old;

    content_init(&old);
    for (guint epoch = 0; epoch < 6; epoch++) {
        content_copy(&old, &scene->committed);
        take_snapshot(scene, &before);
        begin(scene);
        change(scene);
        write_span(scene, 0, (PageSpan){3, 200});
        zero_span(scene, 0, (PageSpan){50, 30});
        patch_pages(scene, 1);
        take_snapshot(scene, &staged);
        commit(scene);
        take_snapshot(scene, &after);
        check_crash(scene, "while staging", epoch, &old,
                    crash(scene, &staged, &before, &before, &after, 0));
        check_crash(scene, "before the rename", epoch, &old,
                    crash(scene, &after, &before, &before, &after, 0));
        check_crash(scene, "before folding", epoch + 1, &scene->committed,
                    crash(scene, &after, &after, &before, &after, 0));
        for (size_t bytes = 400; bytes < after.lengths[2]; bytes += 700)
            check_crash(scene, "while folding", epoch + 1, &scene->committed,
                        crash(scene, &after, &after, &before, &after, bytes / 4 * 4));
        check_crash(scene, "after the commit", epoch + 1, &scene->committed,
                    crash(scene, &after, &after, &before, &after, after.lengths[2]));
        clear_snapshot(&before);
        clear_snapshot(&staged);
        clear_snapshot(&after);
    }
    content_clear(&old);
}

/* A store that was not wholly made is none; an old one is forgotten first. */
static void test_making(void **state)
{
    Scene *scene = *state;
    g_autofree char *head = g_build_filename(scene->path, "head", NULL);
    g_autoptr(GError) error = NULL;

    begin(scene);
    write_span(scene, 0, (PageSpan){0, 10});
    commit(scene);
    delta_store_free(scene->store);
    g_unlink(head);
    assert_null(delta_store_open(scene->path, &error));
    assert_true(error_is(error, VMFERRY_ERROR_NOT_FOUND));
    scene->store = delta_store_create(scene->path, "move-2", &scene->base.regions, NULL);
    assert_false(delta_store_get_epoch(scene->store, NULL));
    assert_content(scene, scene->store, &scene->base.content);
}

/* --- what it refuses --------------------------------------------------------------------- */

static void test_order(void **state)
{
    Scene *scene = *state;
    PageSpan span = {0, 1};
    uint8_t page[PAGE_BYTES] = {0};
    g_autoptr(GError) error = NULL;

    assert_false(page_sink_write(delta_stage_get_sink(scene->store), 0, &span, 1, page, NULL));
    assert_false(page_sink_zero(delta_stage_get_sink(scene->store), 0, span, NULL));
    assert_false(delta_stage_commit(scene->store, NULL, NULL, &error));
    assert_true(error_is(error, VMFERRY_ERROR_INVALID));
    assert_true(delta_stage_begin(scene->store, 5, NULL));
    assert_false(delta_stage_begin(scene->store, 6, NULL));
    assert_true(delta_stage_commit(scene->store, NULL, NULL, NULL));
    assert_false(delta_stage_begin(scene->store, 5, NULL));
    assert_false(page_source_read(delta_store_get_source(scene->store), 0, &span, 1, page, NULL));
    assert_true(delta_stage_begin(scene->store, 6, NULL));
    delta_stage_abort(scene->store);
    delta_stage_abort(scene->store);
    assert_true(delta_stage_begin(scene->store, 6, NULL));
}

static void test_no_bottom(void **state)
{
    Scene *scene = *state;
    PagePatch patch = {9, {1, 1, {{0, 1}}}, (const uint8_t *)"x"};
    uint64_t pages = 3;
    char *names[] = {(char *)"pc.ram", NULL};
    PageRegions others = {1, &pages, names};
    PageSource other = {scene->base.head.methods, &others};
    g_autoptr(GError) error = NULL;

    assert_false(delta_store_set_bottom(scene->store, &other, &error));
    assert_true(error_is(error, VMFERRY_ERROR_INVALID));
    assert_null(layered_source_new(delta_store_get_source(scene->store),
                                   delta_store_list_pages(scene->store), &other, NULL));
    assert_true(delta_store_set_bottom(scene->store, NULL, NULL));
    begin(scene);
    assert_false(page_sink_patch(delta_stage_get_sink(scene->store), 0, &patch, 1, NULL));
    /* What is not whole is not committed. */
    assert_false(delta_stage_commit(scene->store, NULL, NULL, NULL));
    abort_stage(scene);
    begin(scene);
    write_span(scene, 0, (PageSpan){9, 1});
    page_of(&scene->staged, 0, 9)[0] = 'x';
    assert_true(page_sink_patch(delta_stage_get_sink(scene->store), 0, &patch, 1, NULL));
    commit(scene);
    assert_content(scene, scene->store, &scene->committed);
}

/* The storage is full. */
static void test_no_space(void **state)
{
    Scene *scene = *state;
    const PageSpan span = {0, 300};
    struct rlimit old, less;

    begin(scene);
    write_span(scene, 1, (PageSpan){0, 100});
    commit(scene);
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    less = (struct rlimit){150 * PAGE_BYTES, old.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &less), 0);
    begin(scene);
    assert_false(page_sink_write(delta_stage_get_sink(scene->store), 0, &span, 1,
                                 scene->staged.pages[0], NULL));
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    assert_false(delta_stage_commit(scene->store, NULL, NULL, NULL));
    abort_stage(scene);
    begin(scene);
    write_span(scene, 0, (PageSpan){0, 300});
    commit(scene);
    assert_content(scene, scene->store, &scene->committed);
    assert_int_equal(contents_bytes(scene), 400 * PAGE_BYTES);
}

static void damage(Scene *scene, const char *name, size_t offset, uint8_t byte)
{
    g_autofree char *path = g_build_filename(scene->path, name, NULL);
    g_autoptr(GError) error = NULL;
    size_t length;
    g_autofree char *good = file_read(path, MAX_FILE_BYTES, &length, NULL);
    g_autofree char *bad = g_memdup2(good, length);

    assert_true(offset < length);
    bad[offset] = (char)byte;
    assert_true(file_replace(path, bad, length, FALSE, NULL));
    assert_null(delta_store_open(scene->path, &error));
    assert_true(error_is(error, VMFERRY_ERROR_INVALID));
    g_clear_error(&error);
    assert_true(file_replace(path, good, length - 1, FALSE, NULL));
    assert_null(delta_store_open(scene->path, &error));
    assert_true(error_is(error, VMFERRY_ERROR_INVALID));
    assert_true(file_replace(path, good, length, FALSE, NULL));
}

static void test_damaged(void **state)
{
    Scene *scene = *state;

    begin(scene);
    write_span(scene, 0, (PageSpan){5, 5});
    commit(scene);
    begin(scene);
    write_span(scene, 0, (PageSpan){30, 1});
    commit(scene);
    g_clear_pointer(&scene->store, delta_store_free);
    damage(scene, "head", 0, 'x');
    damage(scene, "head", 8, 2);         /* version */
    damage(scene, "head", 12, 3);        /* regions */
    damage(scene, "head", 144 + 263, 1); /* pages */
    damage(scene, "committed", 0, 'x');
    damage(scene, "committed", 24, 9);      /* runs */
    damage(scene, "committed", 40 + 0, 2);  /* region */
    damage(scene, "committed", 40 + 4, 0);  /* place: none */
    damage(scene, "committed", 40 + 4, 9);  /* behind the contents */
    damage(scene, "committed", 40 + 9, 5);  /* first */
    damage(scene, "committed", 40 + 16, 0); /* count */
    damage(scene, "index", 0, 9);           /* behind the contents */
    damage(scene, "index", 0, 2);           /* in use twice */
    open_store(scene);
    assert_content(scene, scene->store, &scene->committed);
}

/* --- threads, and time --------------------------------------------------------------------- */

#define THREADS 4u

typedef struct {
    Scene *scene;
    guint number;
} Writer;

static gpointer write_some(gpointer data)
{
    Writer *writer = data;
    PageSink *sink = delta_stage_get_sink(writer->scene->store);
    const Content *content = &writer->scene->staged;

    for (uint64_t page = writer->number; page < FIRST_PAGES; page += THREADS) {
        PageSpan span = {page, 1};
        PagePatch patch = {page, {1, 1, {{7, 1}}}, page_of(content, 0, page) + 7};

        if (page % 3 == 0 ? !page_sink_patch(sink, 0, &patch, 1, NULL)
                          : !page_sink_write(sink, 0, &span, 1, page_of(content, 0, page), NULL))
            return NULL;
    }
    return writer;
}

static void test_threads(void **state)
{
    Scene *scene = *state;
    GThread *threads[THREADS];
    Writer writers[THREADS];

    for (guint round = 0; round < 5; round++) {
        begin(scene);
        for (uint64_t page = 0; page < FIRST_PAGES; page++)
            page_of(&scene->staged, 0, page)[7] = (uint8_t)(page + round);
        for (guint i = 0; i < THREADS; i++) {
            writers[i] = (Writer){scene, i};
            threads[i] = g_thread_new("writer", write_some, &writers[i]);
        }
        for (guint i = 0; i < THREADS; i++)
            assert_non_null(g_thread_join(threads[i]));
        commit(scene);
        assert_content(scene, scene->store, &scene->committed);
    }
}

#define LARGE_PAGES 131072u
#define LARGE_EPOCH_PAGES 20000u

static uint64_t stage_large(DeltaStore *store, uint64_t epoch, const uint8_t *pages)
{
    uint64_t start = clock_now_ns();

    assert_true(delta_stage_begin(store, epoch, NULL));
    for (uint64_t i = 0; i < LARGE_EPOCH_PAGES / 2; i++) {
        PageSpan spans[2] = {{6 * i, 1}, {6 * i + 3, 1}};

        assert_true(page_sink_write(delta_stage_get_sink(store), 0, spans, 2, pages, NULL));
    }
    return clock_now_ns() - start;
}

static void test_large_epoch(void **state)
{
    Scene *scene = *state;
    uint64_t region = LARGE_PAGES, start, staged;
    char *names[] = {(char *)"pc.ram", NULL};
    PageRegions regions = {1, &region, names};
    g_autoptr(DeltaStore) store = delta_store_create(scene->copy, "move-3", &regions, NULL);
    g_autoptr(GBytes) device = g_bytes_new_take(g_malloc0(100000), 100000);
    g_autofree uint8_t *pages = g_malloc0(2 * PAGE_BYTES);

    for (uint64_t epoch = 1; epoch < 5; epoch++) {
        staged = stage_large(store, epoch, pages);
        start = clock_now_ns();
        assert_true(delta_stage_commit(store, device, NULL, NULL));
        print_message("%u pages: staged in %.1f ms, committed in %.1f ms\n", LARGE_EPOCH_PAGES,
                      clock_ns_to_ms(staged), clock_ns_to_ms(clock_now_ns() - start));
    }
    g_clear_pointer(&store, delta_store_free);
    start = clock_now_ns();
    store = delta_store_open(scene->copy, NULL);
    assert_non_null(store);
    print_message("opened in %.1f ms\n", clock_ns_to_ms(clock_now_ns() - start));
}

#define scene_test(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        scene_test(test_model),       scene_test(test_places),  scene_test(test_crashes),
        scene_test(test_making),      scene_test(test_order),   scene_test(test_no_bottom),
        scene_test(test_no_space),    scene_test(test_damaged), scene_test(test_threads),
        scene_test(test_large_epoch),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
