/*
 * The work set over a real tracker: a child process writes pages by order
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <math.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "base/page.h"
#include "transfer/work_set.h"

#define GROUPS 6u
#define PAGES (GROUPS * GROUP_PAGES - 100)
#define BYTES ((size_t)PAGES * PAGE_BYTES)
/* The last group is only half there, and stays untouched. */
#define POPULATED (5 * GROUP_PAGES)

typedef struct {
    uint8_t *memory;
    pid_t pid;
    int orders, answers;
    GuestMemory *guest;
    Tracker *tracker;
    WorkSet *set;
    double now_ms;
    guint most; /* pages of a batch */
} Fixture;

static void child_main(Fixture *fixture, int orders, int answers)
{
    uint32_t page;

    for (page = 0; page < POPULATED; page++)
        fixture->memory[(size_t)page * PAGE_BYTES] = 1;
    (void)!write(answers, &page, sizeof page);
    while (read(orders, &page, sizeof page) == sizeof page) {
        fixture->memory[(size_t)page * PAGE_BYTES]++;
        (void)!write(answers, &page, sizeof page);
    }
    _exit(0);
}

static int setup(void **state)
{
    Fixture *fixture = g_new0(Fixture, 1);
    g_autoptr(GPtrArray) regions = g_ptr_array_new_with_free_func((GDestroyNotify)ram_region_free);
    g_autoptr(GError) error = NULL;
    int orders[2], answers[2];
    uint32_t ready;

    fixture->memory = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_int_equal(pipe(orders), 0);
    assert_int_equal(pipe(answers), 0);
    fixture->pid = fork();
    if (fixture->pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        close(orders[1]);
        child_main(fixture, orders[0], answers[1]);
    }
    close(orders[0]);
    close(answers[1]);
    fixture->orders = orders[1];
    fixture->answers = answers[0];
    assert_int_equal(read(fixture->answers, &ready, sizeof ready), sizeof ready);
    g_ptr_array_add(regions, ram_region_new("ram", (uint64_t)(uintptr_t)fixture->memory, BYTES));
    fixture->guest = guest_memory_open(fixture->pid, regions, &error);
    if (!fixture->guest)
        fail_msg("%s", error->message);
    fixture->tracker = tracker_start(fixture->guest, TRACKER_AUTO, &error);
    if (!fixture->tracker)
        fail_msg("%s", error->message);
    fixture->most = WORK_BATCH_PAGES;
    fixture->set = work_set_new(fixture->guest, fixture->tracker);
    *state = fixture;
    return 0;
}

static int teardown(void **state)
{
    Fixture *fixture = *state;

    work_set_free(fixture->set);
    tracker_free(fixture->tracker);
    guest_memory_free(fixture->guest);
    close(fixture->orders);
    close(fixture->answers);
    waitpid(fixture->pid, NULL, 0);
    munmap(fixture->memory, BYTES);
    g_free(fixture);
    return 0;
}

static void write_page(Fixture *fixture, uint32_t page)
{
    assert_int_equal(write(fixture->orders, &page, sizeof page), sizeof page);
    assert_int_equal(read(fixture->answers, &page, sizeof page), sizeof page);
}

static void look(Fixture *fixture)
{
    fixture->now_ms += 100;
    assert_true(work_set_sync(fixture->set, fixture->now_ms, NULL));
}

static void take(Fixture *fixture, gboolean paused, WorkBatch *ret)
{
    fixture->now_ms += 1;
    assert_true(work_set_take(fixture->set, paused, fixture->now_ms, fixture->most, ret, NULL));
}

/* Everything that a round gives out, as a set; batches are what frames can hold. */
static PageSet *take_round(Fixture *fixture, gboolean paused)
{
    PageSet *all = page_set_new(PAGES);
    WorkBatch batch;

    for (take(fixture, paused, &batch); batch.pages > 0; take(fixture, paused, &batch)) {
        uint64_t pages = 0, end = 0;

        assert_true(batch.pages <= fixture->most);
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

static PageSet *first_round(Fixture *fixture)
{
    assert_true(work_set_add_populated(fixture->set, NULL));
    return take_round(fixture, FALSE);
}

static void test_first_round(void **state)
{
    Fixture *fixture = *state;
    g_autoptr(PageSet) all = NULL;

    assert_int_equal(work_set_get_group_count(fixture->set), GROUPS);
    assert_true(work_set_add_populated(fixture->set, NULL));
    assert_int_equal(work_set_count_pending(fixture->set), POPULATED);
    all = take_round(fixture, FALSE);
    assert_int_equal(page_set_count(all), POPULATED);
    assert_int_equal(work_set_count(fixture->set), 0);
}

/* A write before a page's turn is carried with it, one after it is not. */
static void test_writes(void **state)
{
    Fixture *fixture = *state;
    g_autoptr(PageSet) rest = NULL;
    g_autoptr(PageSet) second = NULL;
    WorkBatch batch;

    assert_true(work_set_add_populated(fixture->set, NULL));
    write_page(fixture, 3);
    write_page(fixture, 2000);
    take(fixture, FALSE, &batch); /* pages 0 to 255 */
    assert_int_equal(batch.spans[0].first, 0);
    write_page(fixture, 7);
    write_page(fixture, 300);
    write_page(fixture, PAGES - 1); /* was never there */
    look(fixture);
    write_page(fixture, 2001);
    rest = take_round(fixture, FALSE);
    assert_int_equal(page_set_count(rest), POPULATED - 256);
    look(fixture);
    assert_int_equal(work_set_count(fixture->set), 2);
    work_set_begin_round(fixture->set);
    second = take_round(fixture, FALSE);
    assert_true(page_set_has(second, 7) && page_set_has(second, PAGES - 1));
    assert_int_equal(page_set_count(second), 2);
}

/* Coldest groups first, once it is known how they are written. */
static void test_order(void **state)
{
    Fixture *fixture = *state;
    WorkBatch batch;

    assert_true(work_set_add_populated(fixture->set, NULL));
    for (int i = 0; i < 5; i++) {
        for (uint32_t page = 0; page < 100; page++)
            write_page(fixture, page);
        look(fixture);
    }
    for (guint i = 0; i < POPULATED / WORK_BATCH_PAGES; i++) {
        gboolean hot;

        take(fixture, FALSE, &batch);
        hot = batch.spans[0].first < GROUP_PAGES;
        assert_int_equal(hot, i >= POPULATED / WORK_BATCH_PAGES - 2);
    }
}

/* What is held stays, and goes out once the guest is paused. */
static void test_held(void **state)
{
    Fixture *fixture = *state;
    ConvergenceDecision decision = {.run_share = 1};
    g_autoptr(PageSet) cold = NULL;
    g_autoptr(PageSet) rest = NULL;

    assert_true(work_set_add_populated(fixture->set, NULL));
    for (int i = 0; i < 20; i++) {
        for (uint32_t page = 512; page < 612; page++)
            write_page(fixture, page);
        look(fixture);
    }
    work_set_update_account(fixture->set);
    decision.defer_rate = 1e-4;
    group_account_apply(work_set_get_account(fixture->set), &decision);
    assert_true(group_account_is_deferred(work_set_get_account(fixture->set), 1));
    cold = take_round(fixture, FALSE);
    assert_int_equal(page_set_count(cold), POPULATED - GROUP_PAGES);
    assert_false(page_set_has(cold, 512));
    look(fixture);
    work_set_begin_round(fixture->set);
    work_set_update_account(fixture->set);
    assert_true(group_account_is_all_deferred(work_set_get_account(fixture->set)));
    rest = take_round(fixture, TRUE);
    assert_int_equal(page_set_count(rest), GROUP_PAGES);
    assert_int_equal(work_set_count(fixture->set), 0);
}

/* Some pages of a probe come next, held or not, and only once. */
static void test_probes(void **state)
{
    Fixture *fixture = *state;
    static const guint groups[] = {1, 3};
    g_autoptr(PageSet) rest = NULL;
    WorkBatch batch;

    assert_true(work_set_add_populated(fixture->set, NULL));
    work_set_set_probes(fixture->set, groups, 2);
    take(fixture, FALSE, &batch);
    assert_int_equal(batch.spans[0].first, 3 * GROUP_PAGES);
    assert_int_equal(batch.pages, GROUP_ACCOUNT_PROBE_PAGES);
    take(fixture, FALSE, &batch);
    assert_int_equal(batch.spans[0].first, GROUP_PAGES);
    take(fixture, FALSE, &batch);
    assert_int_equal(batch.spans[0].first, 0);
    rest = take_round(fixture, FALSE);
    assert_int_equal(page_set_count(rest),
                     POPULATED - WORK_BATCH_PAGES - 2 * GROUP_ACCOUNT_PROBE_PAGES);
}

/* Sparse pages: many groups in a batch, never half of a word of 64. */
static void test_sparse(void **state)
{
    Fixture *fixture = *state;
    g_autoptr(PageSet) first = first_round(fixture);
    WorkBatch batch;

    for (uint32_t page = 0; page < POPULATED; page += 7)
        write_page(fixture, page);
    look(fixture);
    work_set_begin_round(fixture->set);
    take(fixture, FALSE, &batch);
    assert_true(batch.pages > WORK_BATCH_PAGES - 64);
    assert_true(batch.spans[batch.span_count - 1].first > 2 * GROUP_PAGES);
    for (uint64_t last = batch.spans[batch.span_count - 1].first; batch.pages > 0;) {
        take(fixture, FALSE, &batch);
        assert_true(batch.pages == 0 || batch.spans[0].first / 64 > last / 64);
        last = batch.pages ? batch.spans[batch.span_count - 1].first : 0;
    }
}

/* Small batches: all pages all the same, and dirty ones after their turn. */
static void test_small_batches(void **state)
{
    Fixture *fixture = *state;
    g_autoptr(PageSet) all = NULL;
    g_autoptr(PageSet) second = NULL;
    WorkBatch batch;

    fixture->most = WORK_LEAST_BATCH_PAGES;
    assert_true(work_set_add_populated(fixture->set, NULL));
    take(fixture, FALSE, &batch);
    assert_int_equal(batch.pages, WORK_LEAST_BATCH_PAGES);
    write_page(fixture, 3);
    write_page(fixture, 100);
    all = take_round(fixture, FALSE);
    assert_int_equal(page_set_count(all), POPULATED - WORK_LEAST_BATCH_PAGES);
    look(fixture);
    work_set_begin_round(fixture->set);
    second = take_round(fixture, FALSE);
    assert_int_equal(page_set_count(second), 1);
    assert_true(page_set_has(second, 3));
}

static void peek(Fixture *fixture)
{
    fixture->now_ms += 100;
    assert_true(work_set_peek(fixture->set, fixture->now_ms, NULL));
}

/* What was not sent yet is written at no cost, but for the sample; what was sent costs a fault for
 * each page, whatever the number of looks, and no write is lost. */
static void test_peeks_protect_little(void **state)
{
    Fixture *fixture = *state;
    g_autoptr(PageSet) first = NULL;
    g_autoptr(PageSet) second = NULL;

    assert_true(work_set_add_populated(fixture->set, NULL));
    peek(fixture);
    for (int i = 0; i < 5; i++) {
        for (uint32_t page = 0; page < POPULATED; page++)
            write_page(fixture, page);
        peek(fixture);
    }
    assert_true(work_set_count_faults(fixture->set) < POPULATED);
    first = take_round(fixture, FALSE);
    assert_int_equal(page_set_count(first), POPULATED);
    peek(fixture);
    for (int i = 0; i < 5; i++) {
        uint64_t before = work_set_count_faults(fixture->set);

        for (uint32_t page = 100; page < 120; page++)
            write_page(fixture, page);
        peek(fixture);
        assert_int_equal(work_set_count_faults(fixture->set) - before, i == 0 ? 20 : 0);
    }
    assert_int_equal(work_set_count(fixture->set), 20);
    work_set_begin_round(fixture->set);
    second = take_round(fixture, FALSE);
    assert_int_equal(page_set_count(second), 20);
}

/* A held group is let go: it costs nothing any more, and all of it waits for the pause. */
static void test_held_is_released(void **state)
{
    Fixture *fixture = *state;
    ConvergenceDecision decision = {.run_share = 1, .defer_rate = 1e-5};
    g_autoptr(PageSet) first = first_round(fixture);
    g_autoptr(PageSet) rest = NULL;
    uint64_t before;

    work_set_adjust_sample(fixture->set, 1);
    for (uint32_t page = 512; page < 612; page++)
        write_page(fixture, page);
    peek(fixture);
    group_account_apply(work_set_get_account(fixture->set), &decision);
    assert_true(group_account_is_deferred(work_set_get_account(fixture->set), 1));
    peek(fixture);
    before = work_set_count_faults(fixture->set);
    for (uint32_t page = 700; page < 900; page++)
        write_page(fixture, page);
    peek(fixture);
    assert_true(work_set_count_faults(fixture->set) - before <= 2);
    look(fixture);
    work_set_begin_round(fixture->set);
    rest = take_round(fixture, TRUE);
    assert_int_equal(page_set_count(rest), GROUP_PAGES);
}

/* Collected for another purpose: a page that is still pending is found again where it is written. */
static void test_written_is_noted(void **state)
{
    Fixture *fixture = *state;
    g_autoptr(GPtrArray) written = guest_memory_new_sets(fixture->guest);
    const PageSet *noted = written->pdata[0];
    uint64_t pending;

    assert_true(work_set_add_populated(fixture->set, NULL));
    pending = work_set_count_pending(fixture->set);
    work_set_note_written(fixture->set, written);
    peek(fixture);
    assert_true(page_set_has(noted, 5)); /* never collected: it counts as written */
    assert_true(work_set_collect(fixture->set, 0, (PageSpan){0, 128}, fixture->now_ms, NULL));
    page_set_clear(written->pdata[0]);
    write_page(fixture, 5);
    write_page(fixture, 64);
    peek(fixture);
    assert_true(page_set_has(noted, 5) && page_set_has(noted, 64));
    assert_false(page_set_has(noted, 6) || page_set_has(noted, 63));
    page_set_clear(written->pdata[0]);
    write_page(fixture, 7);
    look(fixture);
    assert_true(page_set_has(noted, 7) && page_set_has(noted, 5));
    assert_int_equal(work_set_count_pending(fixture->set), pending);
    work_set_note_written(fixture->set, NULL);
    page_set_clear(written->pdata[0]);
    write_page(fixture, 7);
    look(fixture);
    assert_int_equal(page_set_count(noted), 0);
}

#define WORK_TEST(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WORK_TEST(test_written_is_noted),
        WORK_TEST(test_first_round),
        WORK_TEST(test_writes),
        WORK_TEST(test_order),
        WORK_TEST(test_held),
        WORK_TEST(test_probes),
        WORK_TEST(test_sparse),
        WORK_TEST(test_small_batches),
        WORK_TEST(test_peeks_protect_little),
        WORK_TEST(test_held_is_released),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
