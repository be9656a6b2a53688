/* Pages of a guest that are in a seed: what is named, what is taken, and a seed that lies. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <string.h>

#include "base/error.h"
#include "base/page.h"
#include "transfer/page_applier.h"
#include "transfer/page_encoder.h"
#include "transfer/seed_reader.h"
#include "wire/page_frame.h"

#define KEY 0x1234u
#define REGIONS 2u
#define PAGES 512u /* of each region */
#define NONE UINT64_MAX

/* Some pages, as a source and as a sink. */
typedef struct {
    PageSource source;
    PageSink sink;
    uint8_t *bytes[REGIONS];
    uint64_t broken; /* a page that cannot be read */
} Memory;

static PageRegions regions = {
    .count = REGIONS,
    .pages = (uint64_t[]){PAGES, PAGES},
    .names = (char *[]){(char *)"low", (char *)"high", NULL},
};

static uint8_t *page_of(Memory *memory, guint region, uint64_t page)
{
    return memory->bytes[region] + page * PAGE_BYTES;
}

static gboolean read_pages(PageSource *source, guint region, const PageSpan *spans, guint count,
                           uint8_t *buffer, GError **error)
{
    Memory *memory = (Memory *)source;

    for (guint i = 0; i < count; i++) {
        assert_true(region < REGIONS && spans[i].first + spans[i].count <= PAGES);
        if (memory->broken - spans[i].first < spans[i].count) {
            error_set(error, VMFERRY_ERROR_INVALID, "damaged");
            return FALSE;
        }
        memcpy(buffer, page_of(memory, region, spans[i].first), spans[i].count * PAGE_BYTES);
        buffer += spans[i].count * PAGE_BYTES;
    }
    return TRUE;
}

static gboolean add_populated(PageSource *source, guint region, PageSet *set, GError **error)
{
    page_set_add(set, 0, PAGES);
    return TRUE;
}

static gboolean write_pages(PageSink *sink, guint region, const PageSpan *spans, guint count,
                            const uint8_t *buffer, GError **error)
{
    Memory *memory = (Memory *)((char *)sink - offsetof(Memory, sink));

    for (guint i = 0; i < count; i++) {
        memcpy(page_of(memory, region, spans[i].first), buffer, spans[i].count * PAGE_BYTES);
        buffer += spans[i].count * PAGE_BYTES;
    }
    return TRUE;
}

static const PageSourceMethods source_methods = {.read = read_pages,
                                                 .add_populated = add_populated};
static gboolean zero_pages(PageSink *sink, guint region, PageSpan run, GError **error)
{
    Memory *memory = (Memory *)((char *)sink - offsetof(Memory, sink));

    memset(page_of(memory, region, run.first), 0, run.count * PAGE_BYTES);
    return TRUE;
}

static const PageSinkMethods sink_methods = {.write = write_pages, .zero = zero_pages};

static Memory *memory_new(void)
{
    Memory *memory = g_new0(Memory, 1);

    memory->source = (PageSource){&source_methods, &regions};
    memory->sink = (PageSink){&sink_methods, &regions};
    memory->broken = NONE;
    for (guint i = 0; i < REGIONS; i++)
        memory->bytes[i] = g_malloc0(PAGES * PAGE_BYTES);
    return memory;
}

static void memory_free(Memory *memory)
{
    for (guint i = 0; i < REGIONS; i++)
        g_free(memory->bytes[i]);
    g_free(memory);
}

typedef struct {
    Memory *seed, *guest, *arrived;
    SeedReader *reader;
    PageEncoder encoder;
    EncoderJob *job;
    SeedScratch scratch;
    uint8_t buffer[SEED_FRAME_MAX_PAGES * PAGE_BYTES];
} Fixture;

/* Content *number* is the same wherever it lies. */
static void put(Memory *memory, guint region, uint64_t page, uint32_t number)
{
    g_autoptr(GRand) random = g_rand_new_with_seed(number);

    for (guint i = 0; i < PAGE_BYTES; i += 4)
        *(uint32_t *)(page_of(memory, region, page) + i) = g_rand_int(random);
}

static int setup(void **state)
{
    Fixture *fixture = g_new0(Fixture, 1);

    fixture->seed = memory_new();
    fixture->guest = memory_new();
    fixture->arrived = memory_new();
    fixture->encoder.source = &fixture->guest->source;
    fixture->encoder.sent = page_regions_new_sets(&regions);
    fixture->job = encoder_job_new();
    *state = fixture;
    return 0;
}

static int teardown(void **state)
{
    Fixture *fixture = *state;

    seed_reader_free(fixture->reader);
    seed_index_free(fixture->encoder.seed);
    page_copies_free(fixture->encoder.copies);
    g_ptr_array_unref(fixture->encoder.sent);
    encoder_job_free(fixture->job);
    memory_free(fixture->seed);
    memory_free(fixture->guest);
    memory_free(fixture->arrived);
    g_free(fixture);
    return 0;
}

/* The seed's list, as the source has it. */
static void list(Fixture *fixture, uint32_t most)
{
    const SeedIndex *list;

    fixture->reader = seed_reader_new(&fixture->seed->source, most, KEY, NULL);
    assert_non_null(fixture->reader);
    while (seed_reader_read_some(fixture->reader))
        ;
    list = seed_reader_get_list(fixture->reader);
    fixture->encoder.seed = seed_index_new(most, KEY);
    for (uint32_t i = 0; i < seed_index_get_count(list); i++)
        seed_index_add(fixture->encoder.seed, seed_index_get(list, i));
}

static void encode(Fixture *fixture, guint region, uint64_t first, uint64_t count)
{
    fixture->job->batch =
        (WorkBatch){.region = region, .span_count = 1, .pages = count, .spans = {{first, count}}};
    page_encoder_run(&fixture->encoder, fixture->job);
    assert_null(fixture->job->error);
}

static Frame get_frame(Fixture *fixture)
{
    const EncodedFrame *encoded = &fixture->job->seeded;

    assert_int_equal(encoded->piece_count, 1);
    assert_int_equal(encoded->type, FRAME_SEED_PAGES);
    return (Frame){.type = encoded->type,
                   .payload = encoded->pieces[0].iov_base,
                   .length = (uint32_t)encoded->pieces[0].iov_len};
}

static gboolean apply(Fixture *fixture, GError **error)
{
    Frame frame = get_frame(fixture);

    return seed_reader_apply(fixture->reader, &fixture->arrived->sink, &frame, &fixture->scratch,
                             fixture->buffer, error);
}

static void test_index(void **state)
{
    g_autoptr(SeedIndex) index = seed_index_new(3000, 1);
    g_autoptr(GRand) random = g_rand_new_with_seed(1);
    uint64_t digests[3000];
    uint32_t found;

    for (guint i = 0; i < 3000; i++) {
        digests[i] = ((uint64_t)g_rand_int(random) << 32 | g_rand_int(random)) & SEED_DIGEST_MASK;
        assert_false(seed_index_find(index, digests[i], &found));
        seed_index_add(index, digests[i]);
    }
    for (guint i = 0; i < 3000; i++) {
        assert_true(seed_index_find(index, digests[i], &found));
        assert_int_equal(found, i);
        assert_true(seed_index_get(index, i) == digests[i]);
    }
    assert_int_equal(seed_index_get_count(index), 3000);
    assert_true(seed_index_get_bytes(index) <= 3000 * 20 + 16384);
    assert_true(seed_index_fit(UINT64_MAX) == SEED_MAX_DIGESTS);
    assert_true(seed_index_fit(100) == 5);
}

/* A peer may say one digest again and again: each has its number, and that costs no time. */
static void test_equal_digests(void **state)
{
    g_autoptr(SeedIndex) index = seed_index_new(SEED_MAX_DIGESTS / 8, 1);
    uint32_t found;

    for (uint32_t i = 0; i < SEED_MAX_DIGESTS / 8; i++)
        seed_index_add(index, 42);
    assert_true(seed_index_find(index, 42, &found));
    assert_int_equal(found, 0);
}

static void test_list(void **state)
{
    Fixture *fixture = *state;
    const SeedIndex *list_of;
    uint32_t found;

    put(fixture->seed, 0, 5, 1);
    put(fixture->seed, 0, 6, 2);
    put(fixture->seed, 0, 9, 1); /* a double */
    put(fixture->seed, 1, 0, 3);
    list(fixture, 100);
    list_of = seed_reader_get_list(fixture->reader);
    assert_int_equal(seed_reader_count_pages(fixture->reader), REGIONS * PAGES);
    assert_int_equal(seed_index_get_count(list_of), 3);
    for (guint i = 0; i < 3; i++) {
        const uint8_t *content = page_of(fixture->seed, i / 2, i == 2 ? 0 : 5 + i);

        assert_true(seed_index_find(list_of, seed_index_digest(list_of, content), &found));
        assert_int_equal(found, i);
    }
    assert_false(
        seed_index_find(list_of, seed_index_digest(list_of, page_of(fixture->seed, 0, 0)), &found));
}

static void test_limit(void **state)
{
    Fixture *fixture = *state;

    for (guint i = 0; i < PAGES; i++)
        put(fixture->seed, 0, i, i + 1);
    list(fixture, 100);
    assert_int_equal(seed_index_get_count(fixture->encoder.seed), 100);
}

static void test_unreadable(void **state)
{
    Fixture *fixture = *state;
    const GError *why;

    for (guint i = 0; i < PAGES; i++)
        put(fixture->seed, 0, i, i + 1);
    fixture->seed->broken = 70;
    list(fixture, REGIONS * PAGES);
    assert_int_equal(seed_reader_count_unread(fixture->reader, &why), 2 * 64); /* in both regions */
    assert_string_equal(why->message, "damaged");
    assert_int_equal(seed_index_get_count(fixture->encoder.seed), PAGES - 64);
}

/* Wherever they lie; what is not in it goes as ever. */
static void test_pages(void **state)
{
    Fixture *fixture = *state;

    for (guint i = 0; i < PAGES; i++)
        put(fixture->seed, 0, i, i + 1);
    for (guint i = 0; i < 200; i++)
        put(fixture->guest, 1, i + 3, i + 100);
    put(fixture->guest, 1, 50, 77777);
    list(fixture, REGIONS * PAGES);
    encode(fixture, 1, 0, 256);
    assert_int_equal(fixture->job->counts.seeded, 199);
    assert_int_equal(fixture->job->counts.whole, 1);
    assert_int_equal(fixture->job->counts.zero, 56);
    /* Two runs. */
    assert_true(get_frame(fixture).length < FRAME_SEED_PAGES_HEAD_BYTES + 12);
    assert_true(apply(fixture, NULL));
    assert_int_equal(seed_reader_count_lacking(fixture->reader), 0);
    put(fixture->arrived, 1, 50, 77777);
    assert_memory_equal(fixture->arrived->bytes[1], fixture->guest->bytes[1], PAGES * PAGE_BYTES);
    /* Known to be there with content. */
    assert_true(page_set_has(fixture->encoder.sent->pdata[1], 3));
    /* Sent again they are not looked up. */
    encode(fixture, 1, 0, 64);
    assert_int_equal(fixture->job->counts.seeded, 0);
    assert_int_equal(fixture->job->counts.whole, 61);
}

/* A page that may turn out not to be there is none that others are copies of. */
static void test_copies(void **state)
{
    Fixture *fixture = *state;

    put(fixture->seed, 0, 0, 1);
    put(fixture->guest, 0, 0, 1);
    put(fixture->guest, 0, 1, 2);
    put(fixture->guest, 0, 2, 1);
    put(fixture->guest, 0, 3, 2);
    fixture->encoder.copies = page_copies_new(&regions, 100, 1 << 20);
    list(fixture, 10);
    encode(fixture, 0, 0, 4);
    assert_int_equal(fixture->job->counts.seeded, 2);
    assert_int_equal(fixture->job->counts.whole, 1);
    assert_int_equal(fixture->job->counts.copied, 1);
    assert_int_equal(fixture->job->copies[0].page, 3);
    assert_int_equal(fixture->job->copies[0].source_page, 1);
}

static void fill(Fixture *fixture)
{
    for (guint i = 0; i < 100; i++) {
        put(fixture->seed, 0, i, i + 1);
        put(fixture->guest, 0, i, i + 1);
    }
    list(fixture, 1000);
    encode(fixture, 0, 0, 100);
    assert_int_equal(fixture->job->counts.seeded, 100);
}

static void assert_lacking(Fixture *fixture)
{
    GPtrArray *lacking;

    assert_true(apply(fixture, NULL));
    assert_int_equal(seed_reader_count_lacking(fixture->reader), 100);
    lacking = seed_reader_get_lacking(fixture->reader);
    assert_int_equal(page_set_count(lacking->pdata[0]), 100);
    assert_true(page_set_has(lacking->pdata[0], 0) && page_set_has(lacking->pdata[0], 99));
    for (guint i = 0; i < PAGES * PAGE_BYTES; i++)
        assert_int_equal(fixture->arrived->bytes[0][i], 0);
}

static void test_one_byte_changed(void **state)
{
    Fixture *fixture = *state;

    fill(fixture);
    page_of(fixture->seed, 0, 57)[4095] ^= 1;
    assert_lacking(fixture);
    seed_reader_note_written(fixture->reader, 0, &(PageSpan){0, 57}, 1);
    assert_int_equal(seed_reader_count_lacking(fixture->reader), 43);
    seed_reader_note_written(fixture->reader, 1, &(PageSpan){57, 43}, 1);
    assert_int_equal(seed_reader_count_lacking(fixture->reader), 43);
    seed_reader_close(fixture->reader);
    seed_reader_note_written(fixture->reader, 0, &(PageSpan){57, 43}, 1);
    assert_int_equal(seed_reader_count_lacking(fixture->reader), 0);
}

static void test_not_read_any_more(void **state)
{
    Fixture *fixture = *state;

    fill(fixture);
    fixture->seed->broken = 99;
    assert_lacking(fixture);
}

/* As if two contents had one digest: the number is that of another page. */
static void test_false_digest(void **state)
{
    Fixture *fixture = *state;
    SeedIndex *wrong = seed_index_new(1000, KEY);

    fill(fixture);
    seed_index_add(wrong, 0);
    for (guint i = 0; i < 99; i++)
        seed_index_add(wrong, seed_index_get(fixture->encoder.seed, i));
    seed_index_add(wrong, seed_index_get(fixture->encoder.seed, 99));
    seed_index_free(fixture->encoder.seed);
    fixture->encoder.seed = wrong;
    for (guint i = 0; i < REGIONS; i++)
        page_set_clear(fixture->encoder.sent->pdata[i]);
    encode(fixture, 0, 0, 99);
    assert_int_equal(fixture->job->counts.seeded, 99);
    assert_true(apply(fixture, NULL));
    assert_int_equal(seed_reader_count_lacking(fixture->reader), 99);
}

static void test_huge_machine(void **state)
{
    Memory *memory = memory_new();
    PageRegions huge = {.count = 2, .pages = (uint64_t[]){SEED_READER_MOST_PAGES, 1}};
    g_autoptr(GError) error = NULL;

    memory->source.regions = &huge;
    assert_null(seed_reader_new(&memory->source, 10, KEY, &error));
    assert_true(error_is(error, VMFERRY_ERROR_UNSUPPORTED));
    assert_non_null(strstr(error->message, "more than 4096 GiB"));
    memory_free(memory);
}

static void release(gpointer owner, gpointer user)
{
}

/* What the seed did not have counts as lacking until it comes as a whole, or as zero. */
static void test_applier(void **state)
{
    static const PageRun runs[] = {{0, 40, PAGE_RUN_RAW}, {40, 59, PAGE_RUN_ZERO}};
    Fixture *fixture = *state;
    g_autoptr(PageApplier) applier = page_applier_new(&fixture->arrived->sink, release, NULL);
    g_autoptr(GByteArray) payload = g_byte_array_new();
    Frame frame, pages;

    fill(fixture);
    page_applier_set_seed(applier, fixture->reader);
    page_of(fixture->seed, 0, 57)[0] ^= 1;
    frame = get_frame(fixture);
    assert_true(page_applier_push(applier, &frame, NULL, NULL));
    assert_true(page_applier_drain(applier, NULL));
    assert_int_equal(seed_reader_count_lacking(fixture->reader), 100);
    page_frame_encode(payload, 0, runs, 2);
    g_byte_array_append(payload, fixture->guest->bytes[0], 40 * PAGE_BYTES);
    pages = (Frame){.type = FRAME_PAGES, .payload = payload->data, .length = payload->len};
    assert_true(page_applier_push(applier, &pages, NULL, NULL));
    assert_true(page_applier_drain(applier, NULL));
    assert_int_equal(seed_reader_count_lacking(fixture->reader), 1);
    assert_memory_equal(fixture->arrived->bytes[0], fixture->guest->bytes[0], 40 * PAGE_BYTES);
}

static void test_no_seed(void **state)
{
    Fixture *fixture = *state;
    g_autoptr(PageApplier) applier = page_applier_new(&fixture->arrived->sink, release, NULL);
    g_autoptr(GError) error = NULL;
    Frame frame;

    fill(fixture);
    frame = get_frame(fixture);
    assert_true(page_applier_push(applier, &frame, NULL, NULL));
    assert_false(page_applier_drain(applier, &error));
    assert_true(error_is(error, VMFERRY_ERROR_INVALID));
    assert_non_null(strstr(error->message, "there is no seed"));
}

static void assert_refused(Fixture *fixture, const char *words)
{
    g_autoptr(GError) error = NULL;

    assert_false(apply(fixture, &error));
    assert_true(error_is(error, VMFERRY_ERROR_INVALID));
    assert_non_null(strstr(error->message, words));
}

static void test_too_early_and_too_late(void **state)
{
    Fixture *fixture = *state;
    SeedReader *complete;

    fill(fixture);
    complete = fixture->reader;
    fixture->reader = seed_reader_new(&fixture->seed->source, 1000, KEY, NULL);
    assert_refused(fixture, "before the last SEED_DIGESTS");
    seed_reader_free(fixture->reader);
    fixture->reader = complete;
    seed_reader_drop_list(fixture->reader);
    assert_true(apply(fixture, NULL));
    seed_reader_close(fixture->reader);
    assert_refused(fixture, "behind the first epoch");
}

static void test_number_beyond_the_list(void **state)
{
    Fixture *fixture = *state;

    fill(fixture);
    fixture->job->seeded_body->data[FRAME_SEED_PAGES_HEAD_BYTES + 2] = 1;
    assert_refused(fixture, "of 100");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_index),
        cmocka_unit_test(test_equal_digests),
        cmocka_unit_test(test_huge_machine),
        cmocka_unit_test_setup_teardown(test_list, setup, teardown),
        cmocka_unit_test_setup_teardown(test_limit, setup, teardown),
        cmocka_unit_test_setup_teardown(test_unreadable, setup, teardown),
        cmocka_unit_test_setup_teardown(test_pages, setup, teardown),
        cmocka_unit_test_setup_teardown(test_copies, setup, teardown),
        cmocka_unit_test_setup_teardown(test_one_byte_changed, setup, teardown),
        cmocka_unit_test_setup_teardown(test_not_read_any_more, setup, teardown),
        cmocka_unit_test_setup_teardown(test_false_digest, setup, teardown),
        cmocka_unit_test_setup_teardown(test_too_early_and_too_late, setup, teardown),
        cmocka_unit_test_setup_teardown(test_applier, setup, teardown),
        cmocka_unit_test_setup_teardown(test_no_seed, setup, teardown),
        cmocka_unit_test_setup_teardown(test_number_beyond_the_list, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
