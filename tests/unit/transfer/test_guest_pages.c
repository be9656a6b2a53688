/* Another process's memory as a sink and a source: private and shared memory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/page.h"
#include "transfer/guest_pages.h"
#include "wire/segment_frame.h"

#define PAGES 500u
#define BYTES (PAGES * (size_t)PAGE_BYTES)

typedef struct {
    uint8_t *memory; /* of the child, at the same place here */
    uint8_t *model;  /* what it should hold */
    pid_t pid;
    GuestMemory *guest;
    PageSink *sink;
    PageSource *source;
    PagePatch patches[PAGES];
} Fixture;

static int setup(void **state, int sharing)
{
    g_autoptr(GPtrArray) regions = g_ptr_array_new_with_free_func((GDestroyNotify)ram_region_free);
    g_autoptr(GError) error = NULL;
    Fixture *fixture = g_new0(Fixture, 1);

    fixture->memory = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_ANONYMOUS | sharing, -1, 0);
    assert_true(fixture->memory != MAP_FAILED);
    fixture->model = g_malloc(BYTES);
    for (size_t i = 0; i < BYTES; i++)
        fixture->model[i] = (uint8_t)(i / 16 + i / PAGE_BYTES);
    memcpy(fixture->memory, fixture->model, BYTES);
    fixture->pid = fork();
    if (fixture->pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (;;)
            poll(NULL, 0, -1);
    }
    g_ptr_array_add(regions, ram_region_new("ram", (uint64_t)(uintptr_t)fixture->memory, BYTES));
    fixture->guest = guest_memory_open(fixture->pid, regions, &error);
    if (!fixture->guest)
        fail_msg("%s", error->message);
    fixture->sink = guest_sink_new(fixture->guest);
    fixture->source = guest_source_new(fixture->guest);
    *state = fixture;
    return 0;
}

static int setup_private(void **state)
{
    return setup(state, MAP_PRIVATE);
}

static int setup_shared(void **state)
{
    return setup(state, MAP_SHARED);
}

static void end_child(Fixture *fixture)
{
    kill(fixture->pid, SIGKILL);
    waitpid(fixture->pid, NULL, 0);
}

static int teardown(void **state)
{
    Fixture *fixture = *state;

    page_sink_free(fixture->sink);
    page_source_free(fixture->source);
    guest_memory_free(fixture->guest);
    if (fixture->pid > 0)
        end_child(fixture);
    munmap(fixture->memory, BYTES);
    g_free(fixture->model);
    g_free(fixture);
    return 0;
}

static void assert_like_model(Fixture *fixture)
{
    g_autofree uint8_t *there = g_malloc(BYTES);
    PageSpan all = {0, PAGES};

    assert_true(page_source_read(fixture->source, 0, &all, 1, there, NULL));
    for (guint i = 0; i < PAGES; i++)
        if (memcmp(there + i * PAGE_BYTES, fixture->model + i * PAGE_BYTES, PAGE_BYTES) != 0)
            fail_msg("page %u differs", i);
}

/* Up to *segments* segments of random bytes, all over the page. */
static void make_list(GRand *random, guint segments, SegmentList *list)
{
    guint stride = PAGE_BYTES / segments;

    list->count = list->bytes = 0;
    for (guint i = 0; i < segments; i++) {
        guint offset = (guint)g_rand_int_range(random, 0, (gint32)stride / 2);
        guint length = (guint)g_rand_int_range(random, 1, (gint32)(stride - offset));

        list->items[list->count++] =
            (Segment){(uint16_t)(i * stride + offset), (uint16_t)MIN(length, 16)};
        list->bytes += MIN(length, 16);
    }
    if (g_rand_boolean(random)) { /* up to the page's last byte */
        Segment *last = &list->items[list->count - 1];

        list->bytes -= last->length;
        last->length = (uint16_t)(PAGE_BYTES - last->offset);
        list->bytes += last->length;
    }
}

/* Changes most pages of the model, with 1 to *segments* segments each.  Returns their
 * number; *body* holds the bytes. */
static guint change(Fixture *fixture, GRand *random, guint segments, GByteArray *body)
{
    SegmentFrameHead head = {0};
    SegmentFrameBody walk;
    uint64_t last = UINT64_MAX;

    for (uint64_t page = 0; page < PAGES; page += (uint64_t)g_rand_int_range(random, 1, 3)) {
        uint8_t *content = fixture->model + page * PAGE_BYTES;
        SegmentList list;

        make_list(random, (guint)g_rand_int_range(random, 1, (gint32)segments + 1), &list);
        for (guint i = 0; i < list.count; i++)
            for (guint k = 0; k < list.items[i].length; k++)
                content[list.items[i].offset + k] = (uint8_t)g_rand_int(random);
        segment_frame_append(body, &last, page, &list, content);
        head.page_count++;
    }
    walk = segment_frame_body(&head, body->data, body->len, PAGES);
    for (guint i = 0; i < head.page_count; i++)
        assert_true(segment_frame_next(&walk, &fixture->patches[i].page,
                                       &fixture->patches[i].segments, &fixture->patches[i].bytes,
                                       NULL));
    return head.page_count;
}

/* Few segments, many, and both mixed; more pages than one call takes. */
static void test_patches(void **state)
{
    static const guint segments[] = {1, 4, 5, 128, 8, 30};
    Fixture *fixture = *state;
    g_autoptr(GRand) random = g_rand_new_with_seed(8);

    for (guint i = 0; i < G_N_ELEMENTS(segments); i++) {
        g_autoptr(GByteArray) body = g_byte_array_new();
        guint count = change(fixture, random, segments[i], body);
        g_autoptr(GError) error = NULL;

        if (!page_sink_patch(fixture->sink, 0, fixture->patches, count, &error))
            fail_msg("%s", error->message);
        assert_like_model(fixture);
    }
}

/* Also what was patched or written after it had become zero. */
static void test_zeroes(void **state)
{
    Fixture *fixture = *state;
    g_autofree uint8_t *content = g_malloc(BYTES);
    PageSpan three = {77, 3};
    PagePatch patch = {90, {1, 2, {{100, 2}}}, (const uint8_t *)"ab"};

    memset(content, 0x11, BYTES);
    for (int round = 0; round < 2; round++) {
        assert_true(page_sink_zero(fixture->sink, 0, (PageSpan){1, PAGES - 2}, NULL));
        memset(fixture->model + PAGE_BYTES, 0, BYTES - 2 * PAGE_BYTES);
        assert_like_model(fixture);
        assert_true(page_sink_write(fixture->sink, 0, &three, 1, content, NULL));
        assert_true(page_sink_patch(fixture->sink, 0, &patch, 1, NULL));
        memset(fixture->model + 77 * PAGE_BYTES, 0x11, 3 * PAGE_BYTES);
        memcpy(fixture->model + 90 * PAGE_BYTES + 100, "ab", 2);
        assert_like_model(fixture);
    }
}

/* The third copies what the first and the second overwrite. */
static void test_copies(void **state)
{
    Fixture *fixture = *state;
    const CopyRun runs[] = {{10, 300, 4, 0}, {20, 10, 1, 0}, {30, 12, 250, 0}};
    g_autofree uint8_t *before = g_memdup2(fixture->model, BYTES);

    for (guint i = 0; i < G_N_ELEMENTS(runs); i++)
        memcpy(fixture->model + runs[i].first * PAGE_BYTES,
               before + runs[i].source_first * PAGE_BYTES, runs[i].count * (size_t)PAGE_BYTES);
    assert_true(page_sink_copy(fixture->sink, 0, runs, G_N_ELEMENTS(runs), NULL));
    assert_like_model(fixture);
    assert_true(page_sink_seal(fixture->sink, 0, NULL));
}

static void test_regions(void **state)
{
    Fixture *fixture = *state;
    const PageRegions *regions = fixture->source->regions;
    g_autoptr(GPtrArray) sets = page_regions_new_sets(regions);

    assert_int_equal(regions->count, 1);
    assert_int_equal(regions->pages[0], PAGES);
    assert_string_equal(regions->names[0], "ram");
    assert_int_equal(sets->len, 1);
    assert_true(page_source_add_populated(fixture->source, 0, sets->pdata[0], NULL));
    assert_int_equal(page_set_count(sets->pdata[0]), PAGES);
}

static void test_process_gone(void **state)
{
    static const guint segments[] = {1, 100};
    Fixture *fixture = *state;
    g_autoptr(GRand) random = g_rand_new_with_seed(10);
    g_autoptr(GError) gone = NULL;

    end_child(fixture);
    fixture->pid = 0;
    for (guint i = 0; i < G_N_ELEMENTS(segments); i++) {
        g_autoptr(GByteArray) body = g_byte_array_new();
        guint count = change(fixture, random, segments[i], body);
        g_autoptr(GError) error = NULL;

        assert_false(page_sink_patch(fixture->sink, 0, fixture->patches, count, &error));
        assert_non_null(strstr(error->message, "its process has ended"));
    }
    assert_false(page_sink_seal(fixture->sink, 0, &gone)); /* whatever was written before */
    assert_non_null(strstr(gone->message, "has ended"));
}

#define BOTH(function)                                                                             \
    cmocka_unit_test_setup_teardown(function, setup_private, teardown),                            \
        cmocka_unit_test_setup_teardown(function, setup_shared, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        BOTH(test_patches),
        BOTH(test_zeroes),
        BOTH(test_copies),
        BOTH(test_regions),
        cmocka_unit_test_setup_teardown(test_process_gone, setup_private, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
