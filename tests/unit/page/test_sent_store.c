#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <string.h>

#include "page/sent_memory.h"
#include "page/sent_store.h"
#include "page/zero.h"

#define BYTES 4096u
#define PAGES 300u
#define MIB (1u << 20)

/* A guest's pages, and the destination that all verdicts are applied to. */
typedef struct {
    SentStore *store;
    GRand *random;
    guint pages;
    uint8_t *content, *held;
} World;

static const uint64_t two_regions[] = {7, PAGES - 7};

static World world_make(uint64_t populated, uint64_t budget, SentStoreMode mode)
{
    World world = {sent_store_new(two_regions, 2, populated, budget, mode),
                   g_rand_new_with_seed(17), PAGES, g_malloc0((size_t)PAGES * BYTES),
                   g_malloc0((size_t)PAGES * BYTES)};

    memset(world.held, 0xee, (size_t)PAGES * BYTES); /* unknown to the source */
    return world;
}

static void world_clear(World *world)
{
    sent_store_free(world->store);
    g_rand_free(world->random);
    g_free(world->content);
    g_free(world->held);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(World, world_clear)

static void change_bytes(World *world, guint page, guint count)
{
    for (guint i = 0; i < count; i++)
        world->content[(size_t)page * BYTES + (size_t)g_rand_int_range(world->random, 0, BYTES)] ^=
            (uint8_t)g_rand_int_range(world->random, 1, 256);
}

static void change_all(World *world, guint page)
{
    uint64_t word = (uint64_t)g_rand_int(world->random) << 32 | g_rand_int(world->random);

    for (guint i = 0; i < BYTES; i += 8) {
        word = word * UINT64_C(6364136223846793005) + 1442695040888963407;
        memcpy(world->content + (size_t)page * BYTES + i, &word, 8);
    }
}

/* What the receiver does: through the encoded form. */
static void patch(uint8_t *held, const uint8_t *content, const SegmentList *list)
{
    g_autoptr(GByteArray) out = g_byte_array_new();
    const uint8_t *bytes;
    SegmentList decoded;
    ByteReader reader;

    segments_encode(out, list, content);
    reader = byte_reader_make(out->data, out->len);
    assert_true(segments_decode(&reader, &decoded, &bytes, NULL));
    segments_apply(&decoded, bytes, held);
}

/* Notes a page and does to the destination what the verdict says. */
static PageVerdict send_page(World *world, guint page, guint *ret_bytes)
{
    uint8_t *held = world->held + (size_t)page * BYTES;
    const uint8_t *content = world->content + (size_t)page * BYTES;
    guint region = page >= 7;
    SegmentList list;
    PageVerdict verdict;

    list.count = list.bytes = 0;
    verdict = sent_store_note(world->store, region, region ? page - 7 : page, content, &list);
    if (verdict == PAGE_WHOLE)
        memcpy(held, content, BYTES);
    else if (verdict == PAGE_SEGMENTS)
        patch(held, content, &list);
    assert_memory_equal(held, content, BYTES);
    if (ret_bytes)
        *ret_bytes = list.bytes;
    return verdict;
}

static void send_zero(World *world, guint page)
{
    guint region = page >= 7;

    memset(world->content + (size_t)page * BYTES, 0, BYTES);
    memset(world->held + (size_t)page * BYTES, 0, BYTES);
    sent_store_note_zero(world->store, region, region ? page - 7 : page);
}

static void change_somehow(World *world, guint page)
{
    switch (g_rand_int_range(world->random, 0, 8)) {
    case 0:
        change_all(world, page);
        break;
    case 1:
        memset(world->content + (size_t)page * BYTES, 0, BYTES);
        break;
    case 2:
        change_bytes(world, page, 200);
        break;
    case 3:
        break; /* dirty, and the same */
    default:
        change_bytes(world, page, 3);
    }
}

static void run_model(uint64_t populated, uint64_t budget, SentStoreMode mode)
{
    g_auto(World) world = world_make(populated, budget, mode);
    SentStoreCounts counts;
    uint64_t notes = 0;

    for (int step = 0; step < 3000; step++) {
        guint page = (guint)g_rand_int_range(world.random, 0, PAGES);

        if (step % 11 == 0) {
            send_zero(&world, page);
            continue;
        }
        change_somehow(&world, page);
        send_page(&world, page, NULL);
        notes++;
        assert_true(sent_store_get_bytes(world.store) <= budget);
    }
    sent_store_get_counts(world.store, &counts);
    assert_int_equal(counts.unchanged + counts.by_shadow + counts.by_fingerprint + counts.whole,
                     notes);
    if (mode == SENT_STORE_OFF || budget < PAGES)
        assert_int_equal(counts.whole, notes);
    if (mode == SENT_STORE_FINGERPRINT && budget >= MIB)
        assert_true(counts.by_fingerprint > notes / 5);
    if (mode == SENT_STORE_AUTO && budget == 64 * MIB)
        assert_true(counts.by_shadow > notes / 4);
    if (mode == SENT_STORE_AUTO && budget >= MIB)
        assert_true(counts.by_fingerprint > 0);
}

/* With room for all, for some, for a chunk, and for nothing. */
static void test_model(void **state)
{
    static const uint64_t budgets[] = {0,       100,         PAGES,   4096,    256 * 1024 + 512,
                                       MIB / 2, MIB - 10000, MIB + 1, 2 * MIB, 64 * MIB};

    for (guint i = 0; i < G_N_ELEMENTS(budgets); i++)
        for (SentStoreMode mode = SENT_STORE_AUTO; mode <= SENT_STORE_OFF; mode++)
            for (uint64_t populated = 0; populated <= 100000; populated += 50000)
                run_model(populated, budgets[i], mode);
}

static void test_a_sparse_page(void **state)
{
    g_auto(World) world = world_make(PAGES, 4 * MIB, SENT_STORE_AUTO);
    SentStoreCounts counts;
    guint bytes;

    change_all(&world, 20);
    assert_int_equal(send_page(&world, 20, NULL), PAGE_WHOLE);
    assert_int_equal(send_page(&world, 20, NULL), PAGE_UNCHANGED);
    assert_int_equal(sent_store_get_block_bytes(world.store), 128);
    change_bytes(&world, 20, 1);
    assert_int_equal(send_page(&world, 20, &bytes), PAGE_SEGMENTS);
    assert_int_equal(bytes, 128);
    change_bytes(&world, 20, 1); /* it has a shadow now */
    assert_int_equal(send_page(&world, 20, &bytes), PAGE_SEGMENTS);
    assert_int_equal(bytes, 1);
    assert_int_equal(send_page(&world, 20, NULL), PAGE_UNCHANGED);
    sent_store_get_counts(world.store, &counts);
    assert_int_equal(counts.unchanged, 2);
    assert_int_equal(counts.by_fingerprint, 1);
    assert_int_equal(counts.by_shadow, 1);
    assert_int_equal(counts.whole, 1);
}

/* One whole change keeps the shadow, the second in a row gives it back. */
static void test_a_shadow_is_given_back(void **state)
{
    g_auto(World) world = world_make(PAGES, 4 * MIB, SENT_STORE_AUTO);
    guint bytes;

    send_page(&world, 9, NULL);
    change_bytes(&world, 9, 1);
    send_page(&world, 9, NULL);
    change_all(&world, 9);
    assert_int_equal(send_page(&world, 9, NULL), PAGE_WHOLE);
    change_bytes(&world, 9, 1);
    assert_int_equal(send_page(&world, 9, &bytes), PAGE_SEGMENTS);
    assert_int_equal(bytes, 1);
    change_all(&world, 9);
    assert_int_equal(send_page(&world, 9, NULL), PAGE_WHOLE);
    change_all(&world, 9);
    assert_int_equal(send_page(&world, 9, NULL), PAGE_WHOLE);
    change_bytes(&world, 9, 1);
    assert_int_equal(send_page(&world, 9, &bytes), PAGE_SEGMENTS);
    assert_int_equal(bytes, 128);
}

/* As many shadows as fit; the one given back goes to the next page. */
static void test_shadows_are_limited(void **state)
{
    g_auto(World) world = world_make(PAGES, 256 * 1024 + 4096, SENT_STORE_SHADOW);
    guint exact = 0, whole_page = 0, bytes;

    for (guint page = 0; page < PAGES; page++)
        send_page(&world, page, NULL);
    for (guint page = 0; page < PAGES; page++) {
        change_bytes(&world, page, 1);
        if (send_page(&world, page, &bytes) == PAGE_SEGMENTS)
            exact += bytes == 1;
        else
            whole_page = page;
    }
    assert_in_range(exact, 40, 64);
    send_zero(&world, 0);
    change_bytes(&world, whole_page, 1);
    assert_int_equal(send_page(&world, whole_page, NULL), PAGE_WHOLE);
    change_bytes(&world, whole_page, 1);
    assert_int_equal(send_page(&world, whole_page, &bytes), PAGE_SEGMENTS);
    assert_int_equal(bytes, 1);
}

static void test_zero(void **state)
{
    g_auto(World) world = world_make(PAGES, 4 * MIB, SENT_STORE_AUTO);
    guint bytes;

    send_zero(&world, 3);
    assert_int_equal(send_page(&world, 3, NULL), PAGE_UNCHANGED);
    change_bytes(&world, 3, 1);
    assert_int_equal(send_page(&world, 3, &bytes), PAGE_SEGMENTS);
    assert_int_equal(bytes, 1);
    change_all(&world, 3);
    assert_int_equal(send_page(&world, 3, NULL), PAGE_WHOLE);
    send_zero(&world, 3);
    change_all(&world, 3);
    assert_int_equal(send_page(&world, 3, NULL), PAGE_WHOLE);
}

/* Of a page that did not get there nothing is held, however it was kept; its shadow is for others. */
static void test_forgotten(void **state)
{
    g_auto(World) world = world_make(PAGES, 4 * MIB, SENT_STORE_AUTO);

    send_page(&world, 3, NULL);
    sent_store_forget(world.store, 0, 3);
    assert_int_equal(send_page(&world, 3, NULL), PAGE_WHOLE);
    assert_int_equal(send_page(&world, 3, NULL), PAGE_UNCHANGED);
    change_bytes(&world, 3, 1);
    assert_int_equal(send_page(&world, 3, NULL), PAGE_SEGMENTS);
    sent_store_forget(world.store, 0, 3);
    assert_int_equal(send_page(&world, 3, NULL), PAGE_WHOLE);
    send_zero(&world, 3);
    sent_store_forget(world.store, 0, 3);
    assert_int_equal(send_page(&world, 3, NULL), PAGE_WHOLE);
    sent_store_forget(world.store, 0, 7);
    sent_store_forget(world.store, 2, 0);
}

/* The smallest blocks whose fingerprints fit into three quarters. */
static void test_block_sizes(void **state)
{
    static const struct {
        uint64_t populated, budget;
        guint block_bytes;
    } cases[] = {{0, 16 * MIB, 128},          {47000, 16 * MIB, 128},  {50000, 16 * MIB, 256},
                 {98000, 16 * MIB, 256},      {100000, 16 * MIB, 512}, {200000, 16 * MIB, 1024},
                 {1ULL << 60, 16 * MIB, 1024}};

    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(SentStore) store =
            sent_store_new(two_regions, 2, cases[i].populated, cases[i].budget, SENT_STORE_AUTO);

        assert_int_equal(sent_store_get_block_bytes(store), cases[i].block_bytes);
    }
}

static void test_out_of_range(void **state)
{
    static const uint64_t too_many[] = {UINT64_MAX, UINT64_MAX};
    g_autoptr(SentStore) store = sent_store_new(two_regions, 2, 10, MIB, SENT_STORE_AUTO);
    g_autoptr(SentStore) none = sent_store_new(NULL, 0, 10, MIB, SENT_STORE_AUTO);
    g_autoptr(SentStore) huge = sent_store_new(too_many, 2, 10, MIB, SENT_STORE_AUTO);
    const uint8_t content[BYTES] = {0};
    SegmentList list;

    sent_store_note_zero(store, 0, 7);
    sent_store_note_zero(store, 2, 0);
    assert_int_equal(sent_store_note(store, 0, 7, content, &list), PAGE_WHOLE);
    assert_int_equal(sent_store_note(store, 2, 0, content, &list), PAGE_WHOLE);
    assert_int_equal(sent_store_note(none, 0, 0, content, &list), PAGE_WHOLE);
    assert_int_equal(sent_store_note(huge, 0, 0, content, &list), PAGE_WHOLE);
}

/* Memory: one answer for a slot, for ever, and no byte beyond the budget. */
static void test_memory(void **state)
{
    g_autoptr(SentMemory) memory = sent_memory_new(2 * SENT_MEMORY_CHUNK_BYTES, 8192);
    gpointer slots[40] = {NULL};
    uint8_t *one, *two;

    one = sent_memory_take_page(memory);
    two = sent_memory_take_page(memory);
    assert_non_null(one);
    assert_non_null(two);
    assert_null(sent_memory_take_page(memory));
    sent_memory_give_page(memory, one);
    assert_ptr_equal(sent_memory_take_page(memory), one);
    for (guint i = 0; i < G_N_ELEMENTS(slots); i++) {
        uint8_t *piece = sent_memory_ensure(memory, &slots[i], 16384);

        assert_int_equal(piece != NULL, i < 31);
        assert_ptr_equal(sent_memory_ensure(memory, &slots[i], 16384), piece);
        for (guint at = 0; piece && at < 16384; at++)
            assert_int_equal(piece[at], 0);
    }
    assert_int_equal(sent_memory_get_bytes(memory), 2 * SENT_MEMORY_CHUNK_BYTES);
}

#define THREADS 4u

typedef struct {
    World *world;
    guint number;
    guint wrong;
} Worker;

/* Each thread has every fourth page, so that all meet in every group. */
static gpointer note_own_pages(gpointer data)
{
    Worker *worker = data;
    g_autoptr(GRand) random = g_rand_new_with_seed(worker->number);
    const World *world = worker->world;

    for (int step = 0; step < 8000; step++) {
        guint page = 8 + worker->number +
                     THREADS * (guint)g_rand_int_range(random, 0, (PAGES - 8) / THREADS);
        uint8_t *content = world->content + (size_t)page * BYTES;
        uint8_t *held = world->held + (size_t)page * BYTES;
        gint changes = step % 16 == 0 ? 5000 : 2;
        PageVerdict verdict;
        SegmentList list;

        for (gint i = 0; i < changes; i++)
            content[g_rand_int_range(random, 0, BYTES)] ^=
                (uint8_t)g_rand_int_range(random, 1, 256);
        verdict = sent_store_note(world->store, 1, page - 7, content, &list);
        if (verdict == PAGE_WHOLE)
            memcpy(held, content, BYTES);
        /* Not by a GByteArray: thread sanitizers don't see the lock of GLib's slices. */
        for (guint i = 0; verdict == PAGE_SEGMENTS && i < list.count; i++)
            memcpy(held + list.items[i].offset, content + list.items[i].offset,
                   list.items[i].length);
        worker->wrong += memcmp(held, content, BYTES) != 0;
    }
    return NULL;
}

static void test_threads(void **state)
{
    static const uint64_t budgets[] = {512 * 1024, 64 * MIB};

    for (guint i = 0; i < G_N_ELEMENTS(budgets); i++) {
        g_auto(World) world = world_make(PAGES, budgets[i], SENT_STORE_AUTO);
        Worker workers[THREADS];
        GThread *threads[THREADS];
        SentStoreCounts counts;

        for (guint t = 0; t < THREADS; t++) {
            workers[t] = (Worker){&world, t, 0};
            threads[t] = g_thread_new("noter", note_own_pages, &workers[t]);
        }
        for (guint t = 0; t < THREADS; t++) {
            g_thread_join(threads[t]);
            assert_int_equal(workers[t].wrong, 0);
        }
        sent_store_get_counts(world.store, &counts);
        assert_int_equal(counts.unchanged + counts.by_shadow + counts.by_fingerprint + counts.whole,
                         THREADS * 8000);
        assert_true(sent_store_get_bytes(world.store) <= budgets[i]);
    }
}

static void test_mode_names(void **state)
{
    SentStoreMode mode;

    for (SentStoreMode i = SENT_STORE_AUTO; i <= SENT_STORE_OFF; i++) {
        assert_true(sent_store_mode_from_name(sent_store_mode_name(i), &mode));
        assert_int_equal(mode, i);
    }
    assert_string_equal(sent_store_mode_name(SENT_STORE_FINGERPRINT), "fingerprint");
    assert_false(sent_store_mode_from_name("on", &mode));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_model),
        cmocka_unit_test(test_a_sparse_page),
        cmocka_unit_test(test_zero),
        cmocka_unit_test(test_forgotten),
        cmocka_unit_test(test_a_shadow_is_given_back),
        cmocka_unit_test(test_block_sizes),
        cmocka_unit_test(test_shadows_are_limited),
        cmocka_unit_test(test_out_of_range),
        cmocka_unit_test(test_memory),
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_mode_names),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
