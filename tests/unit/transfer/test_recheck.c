/* Which pages are to be read again, and when */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/page.h"
#include "transfer/recheck.h"

#define PAGES 1000u
#define BYTES ((size_t)PAGES * PAGE_BYTES)

typedef struct {
    uint8_t *memory;
    GuestMemory *guest;
    Recheck *recheck;
    GPtrArray *pending, *next;
} Fixture;

/* Pages 100 to 899 have content. */
static int setup(void **state)
{
    Fixture *fixture = g_new0(Fixture, 1);
    g_autoptr(GPtrArray) regions = g_ptr_array_new_with_free_func((GDestroyNotify)ram_region_free);

    fixture->memory = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    madvise(fixture->memory, BYTES, MADV_NOHUGEPAGE);
    memset(fixture->memory + 100 * PAGE_BYTES, 1, (size_t)800 * PAGE_BYTES);
    g_ptr_array_add(regions, ram_region_new("ram", (uint64_t)(uintptr_t)fixture->memory, BYTES));
    fixture->guest = guest_memory_open(getpid(), regions, NULL);
    fixture->recheck = recheck_new(fixture->guest, NULL);
    fixture->pending = guest_memory_new_sets(fixture->guest);
    fixture->next = guest_memory_new_sets(fixture->guest);
    *state = fixture;
    return fixture->recheck ? 0 : -1;
}

static int teardown(void **state)
{
    Fixture *fixture = *state;

    recheck_free(fixture->recheck);
    g_ptr_array_unref(fixture->pending);
    g_ptr_array_unref(fixture->next);
    guest_memory_free(fixture->guest);
    munmap(fixture->memory, BYTES);
    g_free(fixture);
    return 0;
}

static PageSet *set_of(GPtrArray *sets)
{
    return g_ptr_array_index(sets, 0);
}

/* All that is to be read, in batches that a frame can hold. */
static PageSet *take_all(Fixture *fixture, guint most)
{
    PageSet *all = page_set_new(PAGES);
    WorkBatch batch;

    for (recheck_take(fixture->recheck, most, &batch); batch.pages > 0;
         recheck_take(fixture->recheck, most, &batch)) {
        uint64_t pages = 0, end = 0;

        assert_true(batch.pages <= most);
        assert_int_equal(batch.region, 0);
        for (guint i = 0; i < batch.span_count; i++) {
            assert_true(batch.spans[i].first >= end);
            end = batch.spans[i].first + batch.spans[i].count;
            pages += batch.spans[i].count;
            for (uint64_t page = batch.spans[i].first; page < end; page++)
                assert_false(page_set_has(all, page));
            page_set_add(all, batch.spans[i].first, batch.spans[i].count);
        }
        assert_int_equal(pages, batch.pages);
    }
    return all;
}

/* A page that was there when the tracker started may be pinned already. */
static void test_all_is_unsettled_at_first(void **state)
{
    Fixture *fixture = *state;

    assert_true(recheck_count(fixture->recheck, NULL, NULL) >= 800);
    recheck_settle(fixture->recheck, NULL, NULL);
    {
        g_autoptr(PageSet) all = take_all(fixture, WORK_BATCH_PAGES);

        for (uint64_t page = 100; page < 900; page++)
            assert_true(page_set_has(all, page));
    }
    assert_int_equal(recheck_count(fixture->recheck, NULL, NULL), 0);
}

/* Nothing is to be read before a drain, and each page once after it. */
static void test_a_drain_settles(void **state)
{
    Fixture *fixture = *state;

    recheck_settle(fixture->recheck, recheck_get_unsettled(fixture->recheck), NULL);
    page_set_add(set_of(recheck_get_unsettled(fixture->recheck)), 60, 300);
    {
        g_autoptr(PageSet) none = take_all(fixture, WORK_BATCH_PAGES);

        assert_int_equal(page_set_count(none), 0);
    }
    recheck_settle(fixture->recheck, NULL, NULL);
    {
        g_autoptr(PageSet) all = take_all(fixture, WORK_LEAST_BATCH_PAGES);

        assert_int_equal(page_set_count(all), 300);
        assert_true(page_set_has(all, 60) && page_set_has(all, 359));
    }
    {
        g_autoptr(PageSet) none = take_all(fixture, WORK_BATCH_PAGES);

        assert_int_equal(page_set_count(none), 0);
    }
}

/* What will be sent anyway is not read twice; what was watched after the drain is
 * unsettled again. */
static void test_what_is_pending_is_left_out(void **state)
{
    Fixture *fixture = *state;
    PageSet *unsettled = set_of(recheck_get_unsettled(fixture->recheck));

    page_set_clear(unsettled);
    page_set_add(unsettled, 0, 30);
    page_set_add(set_of(fixture->pending), 0, 10);
    page_set_add(set_of(fixture->next), 20, 10);
    assert_int_equal(recheck_count(fixture->recheck, fixture->pending, fixture->next), 10);
    recheck_settle(fixture->recheck, fixture->pending, fixture->next);
    page_set_add(unsettled, 5, 1);
    assert_int_equal(recheck_count(fixture->recheck, NULL, NULL), 1);
    {
        g_autoptr(PageSet) all = take_all(fixture, WORK_BATCH_PAGES);

        assert_int_equal(page_set_count(all), 10);
        assert_true(page_set_has(all, 10) && page_set_has(all, 19));
    }
}

/* What is read later, with other pages, is not to be read here any more. */
static void test_all_can_be_left_to_another(void **state)
{
    Fixture *fixture = *state;
    PageSet *unsettled = set_of(recheck_get_unsettled(fixture->recheck));

    page_set_clear(unsettled);
    page_set_add(unsettled, 30, 20);
    page_set_add(set_of(fixture->pending), 0, 40);
    recheck_settle(fixture->recheck, fixture->pending, fixture->next);
    recheck_move_to(fixture->recheck, fixture->pending);
    assert_int_equal(page_set_count(set_of(fixture->pending)), 50);
    {
        g_autoptr(PageSet) none = take_all(fixture, WORK_BATCH_PAGES);

        assert_int_equal(page_set_count(none), 0);
    }
}

static void test_a_drain_must_be_worth_it(void **state)
{
    assert_true(recheck_is_drain_worth(500, 1));
    assert_false(recheck_is_drain_worth(500, 501));
    assert_false(recheck_is_drain_worth(RECHECK_LEAST_MS, 0));
}

#define RECHECK_TEST(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        RECHECK_TEST(test_all_is_unsettled_at_first),
        RECHECK_TEST(test_a_drain_settles),
        RECHECK_TEST(test_what_is_pending_is_left_out),
        RECHECK_TEST(test_all_can_be_left_to_another),
        cmocka_unit_test(test_a_drain_must_be_worth_it),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
