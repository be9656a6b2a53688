/* One batch of this process's own memory, encoded. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/page.h"
#include "transfer/guest_pages.h"
#include "transfer/page_encoder.h"
#include "wire/page_frame.h"

#define PAGES WORK_BATCH_PAGES
#define BYTES (PAGES * (size_t)PAGE_BYTES)

typedef struct {
    uint8_t *memory;
    GuestMemory *guest;
    PageEncoder encoder;
    EncoderJob *job;
} Fixture;

static int setup(void **state)
{
    g_autoptr(GPtrArray) regions = g_ptr_array_new_with_free_func((GDestroyNotify)ram_region_free);
    Fixture *fixture = g_new0(Fixture, 1);

    fixture->memory = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    g_ptr_array_add(regions, ram_region_new("ram", (uint64_t)(uintptr_t)fixture->memory, BYTES));
    fixture->guest = guest_memory_open(getpid(), regions, NULL);
    assert_non_null(fixture->guest);
    fixture->encoder.source = guest_source_new(fixture->guest);
    fixture->encoder.sent = g_ptr_array_new_with_free_func((GDestroyNotify)page_set_free);
    g_ptr_array_add(fixture->encoder.sent, page_set_new(PAGES));
    fixture->job = encoder_job_new();
    fixture->job->batch = (WorkBatch){.span_count = 1, .pages = PAGES, .spans = {{0, PAGES}}};
    *state = fixture;
    return 0;
}

static int teardown(void **state)
{
    Fixture *fixture = *state;

    encoder_job_free(fixture->job);
    g_ptr_array_unref(fixture->encoder.sent);
    page_source_free(fixture->encoder.source);
    guest_memory_free(fixture->guest);
    munmap(fixture->memory, BYTES);
    g_free(fixture);
    return 0;
}

/* Lines that differ by a number: each level of zstd makes something else of them. */
static void fill_text(uint8_t *memory)
{
    g_autoptr(GRand) random = g_rand_new_with_seed(7);
    size_t at = 0;

    while (at < BYTES) {
        g_autofree char *line = g_strdup_printf("%08x GET /%d HTTP/1.1\n", g_rand_int(random),
                                                g_rand_int_range(random, 0, 5000));
        size_t length = MIN(strlen(line), BYTES - at);

        memcpy(memory + at, line, length);
        at += length;
    }
}

static void fill_random(uint8_t *memory)
{
    g_autoptr(GRand) random = g_rand_new_with_seed(7);

    for (size_t i = 0; i < BYTES; i += sizeof(guint32)) {
        guint32 word = g_rand_int(random);

        memcpy(memory + i, &word, sizeof word);
    }
}

static size_t packed_length(const uint8_t *memory, PackWay way)
{
    g_autoptr(PackContext) context = pack_context_new();
    size_t bound = pack_bound(way.method, BYTES);
    g_autofree uint8_t *out = g_malloc(bound);

    return pack(context, way.method, way.level, memory, BYTES, out, bound);
}

static void run(Fixture *fixture, PackWay way, PackWay beside)
{
    fixture->job->choice = (PackingChoice){way, beside};
    page_encoder_run(&fixture->encoder, fixture->job);
    assert_null(fixture->job->error);
    assert_int_equal(fixture->job->pages.raw_bytes, BYTES);
}

/* What is sent is what was packed as chosen, whatever was packed beside it. */
static void test_comparison(void **state)
{
    Fixture *fixture = *state;
    EncoderJob *job = fixture->job;
    PackWay fast = {PACK_ZSTD, 1}, dear = {PACK_ZSTD, 6}, lz4 = {PACK_LZ4, 0};

    fill_text(fixture->memory);
    run(fixture, dear, fast);
    assert_int_equal(job->compared.bytes, packed_length(fixture->memory, dear));
    assert_int_equal(job->compared.baseline_bytes, packed_length(fixture->memory, fast));
    assert_int_not_equal(job->compared.bytes, job->compared.baseline_bytes);
    assert_int_equal(job->pages.packed_bytes, job->compared.bytes);
    assert_int_equal(job->pages.type, FRAME_PAGES_ZSTD);
    assert_true(job->compared.ms > 0 && job->compared.baseline_ms > 0);
    assert_true(job->pack_ms >= job->compared.ms);

    run(fixture, lz4, fast);
    assert_int_equal(job->pages.packed_bytes, packed_length(fixture->memory, lz4));
    assert_int_equal(job->pages.type, FRAME_PAGES_LZ4);
    assert_true(job->compared.baseline_bytes > 0);

    run(fixture, fast, (PackWay){PACK_NONE, 0});
    assert_int_equal(job->pages.packed_bytes, packed_length(fixture->memory, fast));
    assert_int_equal(job->compared.bytes, 0);
    assert_int_equal(job->compared.baseline_bytes, 0);
}

/* A batch that is not packed is not compared either. */
static void test_no_comparison(void **state)
{
    Fixture *fixture = *state;
    PackWay fast = {PACK_ZSTD, 1}, dear = {PACK_ZSTD, 6};

    fill_random(fixture->memory);
    run(fixture, dear, fast);
    assert_true(fixture->job->skipped);
    assert_int_equal(fixture->job->compared.bytes, 0);
    assert_int_equal(fixture->job->pages.type, FRAME_PAGES);
    assert_int_equal(fixture->job->pages.packed_bytes, BYTES);
}

/* Where it is not known what the destination holds, every page is sent, and a zero one is named;
 * nothing is remembered. */
static void test_unknown(void **state)
{
    Fixture *fixture = *state;
    PageEncoder encoder = {.source = fixture->encoder.source};
    EncoderJob *job = fixture->job;
    PageFrame *frame = g_new(PageFrame, 1);
    g_autoptr(GByteArray) bytes = g_byte_array_new();
    const uint64_t pages = PAGES;

    fill_random(fixture->memory);
    memset(fixture->memory, 0, 3 * PAGE_BYTES);
    for (guint i = 0; i < 2; i++) {
        page_encoder_run(&encoder, job);
        assert_null(job->error);
        assert_int_equal(job->counts.zero, 3);
        assert_int_equal(job->counts.whole, PAGES - 3);
        g_byte_array_set_size(bytes, 0);
        for (int k = 0; k < job->pages.piece_count; k++)
            g_byte_array_append(bytes, job->pages.pieces[k].iov_base,
                                (guint)job->pages.pieces[k].iov_len);
        assert_true(page_frame_decode(bytes->data, bytes->len, &pages, 1, frame, NULL));
        assert_int_equal(frame->run_count, 2);
        assert_int_equal(frame->runs[0].kind, PAGE_RUN_ZERO);
        assert_int_equal(frame->runs[0].count, 3);
        assert_memory_equal(frame->raw, fixture->memory + 3 * PAGE_BYTES, BYTES - 3 * PAGE_BYTES);
    }
    g_free(frame);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_comparison, setup, teardown),
        cmocka_unit_test_setup_teardown(test_no_comparison, setup, teardown),
        cmocka_unit_test_setup_teardown(test_unknown, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
