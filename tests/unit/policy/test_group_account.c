#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <math.h>

#include "policy/group_account.h"

#define GROUP 512u

static const ConvergenceGroup *group_of(GroupAccount *account, guint group)
{
    ConvergenceFacts facts = {0};

    group_account_fill_facts(account, &facts);
    return &facts.groups[group];
}

/* All of a group is protected: of *asked* pages these were written, and are protected again. */
static void note_part(GroupAccount *account, guint group, double now_ms, guint asked, guint dirty,
                      guint new, guint marked)
{
    group_account_note_dirty(account, group,
                             &(GroupSync){now_ms, asked, MIN(marked, asked), dirty, new});
    group_account_note_watched(account, group, now_ms, dirty);
}

/* From 0 ms on. */
static void watch(GroupAccount *account, guint group)
{
    group_account_set_pages(account, group, GROUP);
    group_account_note_watched(account, group, 0, GROUP);
}

/* The test's own count of what was seen of each group. */
static guint marked[100];

static void note(GroupAccount *account, guint group, double now_ms, guint dirty, guint new)
{
    note_part(account, group, now_ms, GROUP, dirty, new, marked[group]);
    marked[group] = MIN(marked[group] + new, GROUP);
}

static int begin(void **state)
{
    for (guint i = 0; i < G_N_ELEMENTS(marked); i++)
        marked[i] = 0;
    return 0;
}

static void assert_near(double value, double expected, double tolerance)
{
    if (fabs(value - expected) > tolerance * fabs(expected))
        fail_msg("%g is not within %g %% of %g", value, tolerance * 100, expected);
}

/* A known rate, whatever the intervals. */
static void test_rate(void **state)
{
    static const double gaps[] = {100, 3, 250, 40, 100, 17};
    g_autoptr(GroupAccount) account = group_account_new(2, 4096);
    double now = 0, owed = 0;

    watch(account, 0);
    watch(account, 1);
    for (guint i = 0; i < 300; i++) {
        guint dirty;

        now += gaps[i % G_N_ELEMENTS(gaps)];
        owed += 0.1 * gaps[i % G_N_ELEMENTS(gaps)];
        dirty = (guint)owed;
        owed -= dirty;
        note(account, 0, now, dirty, i < 20 ? dirty : 0);
        note(account, 1, now, 0, 0);
    }
    assert_near(group_of(account, 0)->dirty_per_ms, 0.1, 0.1);
    assert_true(group_of(account, 1)->dirty_per_ms == 0);
    assert_true(group_account_get_heat(account, 0) > group_account_get_heat(account, 1));
}

/* Random writes: distinct pages are seen, writes are meant. */
static void test_rate_of_random_writes(void **state)
{
    g_autoptr(GroupAccount) account = group_account_new(1, 4096);
    g_autoptr(GRand) rand = g_rand_new_with_seed(7);
    gboolean seen[GROUP] = {0};

    watch(account, 0);
    for (guint i = 1; i <= 30; i++) {
        gboolean dirty[GROUP] = {0};
        guint count = 0, new = 0;

        /* 300 writes in 100 ms to 256 of the pages. */
        for (guint j = 0; j < 300; j++)
            dirty[g_rand_int_range(rand, 0, 256)] = TRUE;
        for (guint j = 0; j < GROUP; j++) {
            count += dirty[j];
            new += dirty[j] && !seen[j];
            seen[j] |= dirty[j];
        }
        note(account, 0, i * 100, count, new);
    }
    assert_near(group_of(account, 0)->dirty_per_ms, 3, 0.15);
    assert_near(group_of(account, 0)->active, 256, 0.05);
}

/* The pages in use are estimated long before all were seen. */
static void test_touched_from_few(void **state)
{
    g_autoptr(GroupAccount) account = group_account_new(1, 4096);

    watch(account, 0);
    note(account, 0, 100, 100, 100);
    assert_int_equal(group_of(account, 0)->active, GROUP);
    /* 40 of 100 had been seen: about 250 are in use. */
    note(account, 0, 200, 100, 60);
    assert_near(group_of(account, 0)->active, 245, 0.05);
    /* The same few, again and again: no more than those. */
    for (guint i = 3; i < 400; i++)
        note(account, 0, i * 100, 5, 0);
    assert_int_equal(group_of(account, 0)->active, 160);
}

/* A slowed guest's rates are those of a free one. */
static void test_run_share(void **state)
{
    g_autoptr(GroupAccount) account = group_account_new(1, 4096);
    ConvergenceFacts facts = {0};

    watch(account, 0);
    note(account, 0, 100, 10, 10);
    group_account_set_run_share(account, 100, 0.1);
    for (guint i = 2; i < 40; i++)
        note(account, 0, i * 100, 1, 0);
    assert_near(group_of(account, 0)->dirty_per_ms, 0.1, 0.1);
    group_account_end_window(account, 200, 1000);
    group_account_fill_facts(account, &facts);
    assert_true(facts.run_share == 0.1);
    assert_near(facts.windows[0].run_share, 0.55, 0.001);
}

/* Half of a group collected: its time goes on, the other half's does not. */
static void test_parts(void **state)
{
    g_autoptr(GroupAccount) account = group_account_new(1, 4096);

    watch(account, 0);
    for (guint i = 1; i < 100; i++)
        note_part(account, 0, i * 50, GROUP / 2, 5, i < 60 ? 5 : 0, MIN(i * 5, 300) / 2);
    /* Each half every 100 ms, 5 pages: 0.1 a ms in all. */
    assert_near(group_of(account, 0)->dirty_per_ms, 0.1, 0.2);
}

static gboolean cost_known(GroupAccount *account)
{
    ConvergenceFacts facts = {0};

    group_account_fill_facts(account, &facts);
    return facts.cost_known;
}

static void test_costs(void **state)
{
    g_autoptr(GroupAccount) account = group_account_new(3, 4096);

    for (guint i = 0; i < 3; i++) {
        watch(account, i);
        note(account, i, 100, 10, 10);
    }
    assert_near(group_of(account, 0)->resend_per_page, 4096, 0.001);
    /* First sendings halve by compression: the others' probably, too. */
    group_account_note_sent(account, 0, GROUP, GROUP * 2048.0, FALSE);
    assert_near(group_of(account, 1)->first_send_per_page, 2048, 0.001);
    assert_near(group_of(account, 1)->resend_per_page, 2048, 0.001);
    /* One of three groups tells nothing of the others, two do. */
    group_account_note_sent(account, 0, 400, 400 * 140.0, TRUE);
    assert_false(cost_known(account));
    assert_near(group_of(account, 2)->resend_per_page, 2048, 0.001);
    group_account_note_sent(account, 1, 400, 400 * 140.0, TRUE);
    assert_true(cost_known(account));
    assert_near(group_of(account, 2)->resend_per_page, 140, 0.01);
    assert_near(group_of(account, 2)->first_send_per_page, 2048, 0.001);
    /* A group's own counts more than the others'. */
    group_account_note_sent(account, 2, 400, 400 * 4096.0, TRUE);
    assert_true(group_of(account, 2)->resend_per_page > 3500);
    assert_true(group_of(account, 0)->resend_per_page < 400);
}

/* Groups that dirty much are probed; what they cost counts for all. */
static void test_probes(void **state)
{
    g_autoptr(GroupAccount) account = group_account_new(100, 4096);
    ConvergenceDecision decision = {.probe = TRUE, .defer_rate = INFINITY};
    guint probes[GROUP_ACCOUNT_PROBES];

    for (guint i = 0; i < 100; i++) {
        watch(account, i);
        note(account, i, 100, i >= 60 ? 50 : 1, 1);
    }
    assert_int_equal(group_account_get_probes(account, probes), 0);
    group_account_apply(account, &decision);
    assert_int_equal(group_account_get_probes(account, probes), GROUP_ACCOUNT_PROBES);
    for (guint i = 0; i < GROUP_ACCOUNT_PROBES; i++) {
        assert_true(probes[i] >= 60 && (i == 0 || probes[i] > probes[i - 1]));
        group_account_note_sent(account, probes[i], 128, 128 * 4096.0, FALSE);
    }
    /* A cold group's cost is not theirs. */
    group_account_note_sent(account, 0, 100, 100 * 50.0, TRUE);
    assert_false(cost_known(account));
    for (guint i = 0; i < GROUP_ACCOUNT_PROBES; i++)
        group_account_note_sent(account, probes[i], 10, 10 * 300.0, TRUE);
    assert_true(cost_known(account));
    assert_near(group_of(account, 99)->resend_per_page, 300, 0.01);
    group_account_note_sent(account, 0, 5000, 5000 * 50.0, TRUE);
    assert_near(group_of(account, 99)->resend_per_page, 300, 0.01);
    decision.probe = FALSE;
    group_account_apply(account, &decision);
    assert_int_equal(group_account_get_probes(account, probes), 0);
}

/* Draws a probe of each of four groups. */
static void make_probes(GroupAccount *account, guint probes[GROUP_ACCOUNT_PROBES])
{
    ConvergenceDecision decision = {.probe = TRUE, .defer_rate = INFINITY};

    group_account_apply(account, &decision);
    assert_int_equal(group_account_get_probes(account, probes), GROUP_ACCOUNT_PROBES);
}

/* A few cheap pages that are written all the time do not speak for the others: each probe counts
 * as much, and what is known of most of the dirtying more than probes. */
static void test_cheap_pages_do_not_speak_for_all(void **state)
{
    g_autoptr(GroupAccount) account = group_account_new(40, 4096);
    guint probes[GROUP_ACCOUNT_PROBES];

    for (guint i = 0; i < 40; i++) {
        watch(account, i);
        note(account, i, 100, i == 0 ? 120 : 10, 10);
    }
    make_probes(account, probes);
    assert_int_equal(probes[0], 0);
    group_account_note_sent(account, 0, 1000, 1000 * 60.0, TRUE);
    for (guint i = 1; i < GROUP_ACCOUNT_PROBES; i++)
        group_account_note_sent(account, probes[i], 10, 10 * 4096.0, TRUE);
    assert_true(cost_known(account));
    assert_near(group_of(account, 39)->resend_per_page, (60 + 3 * 4096) / 4.0, 0.01);
    /* All but a few were sent again. */
    for (guint i = 1; i < 35; i++)
        group_account_note_sent(account, i, 10, 10 * 4096.0, TRUE);
    assert_near(group_of(account, 39)->resend_per_page, (120 * 60 + 340 * 4096) / 460.0, 0.05);
}

/* Every collect's pages are in one sync, spans' too. */
static void test_take_dirty(void **state)
{
    g_autoptr(GroupAccount) account = group_account_new(3, 4096);
    g_autoptr(GArray) dirty = g_array_new(FALSE, FALSE, sizeof(TraceDirty));

    for (guint i = 0; i < 3; i++)
        watch(account, i);
    note(account, 1, 50, 7, 7);
    note(account, 1, 100, 5, 2);
    note(account, 2, 100, 0, 0);
    group_account_take_dirty(account, dirty);
    assert_int_equal(dirty->len, 1);
    assert_int_equal(g_array_index(dirty, TraceDirty, 0).group, 1);
    assert_int_equal(g_array_index(dirty, TraceDirty, 0).pages, 12);
    assert_int_equal(g_array_index(dirty, TraceDirty, 0).fresh, 9);
    group_account_take_dirty(account, dirty);
    assert_int_equal(dirty->len, 1);
}

static ConvergenceWindow last_window(GroupAccount *account)
{
    ConvergenceFacts facts = {0};

    group_account_fill_facts(account, &facts);
    return facts.windows[facts.window_count - 1];
}

/* The same groups again: similar; others: not. */
static void test_similarity(void **state)
{
    g_autoptr(GroupAccount) account = group_account_new(40, 4096);

    for (guint i = 0; i < 40; i++)
        watch(account, i);
    for (guint window = 0; window < 4; window++) {
        for (guint i = 0; i < 40; i++)
            note(account, i, window * 250 + 250, i < 10 ? 100 : 0,
                 i >= 10       ? 0
                 : window == 0 ? 100
                               : 20);
        group_account_end_window(account, window * 250 + 250, 1e6);
    }
    assert_true(last_window(account).similarity > 0.99);
    for (guint i = 0; i < 40; i++)
        note(account, i, 1250, i >= 20 && i < 30 ? 100 : 0, i >= 20 && i < 30 ? 100 : 0);
    group_account_end_window(account, 1250, 1e6);
    assert_true(last_window(account).similarity < 0.01);
    assert_near(last_window(account).ms, 250, 0.001);
}

/* A cyclic writer comes back, though two windows in a row have nothing in common. */
static void test_similarity_of_a_cycle(void **state)
{
    g_autoptr(GroupAccount) account = group_account_new(40, 4096);

    for (guint i = 0; i < 40; i++)
        watch(account, i);
    for (guint window = 0; window < 12; window++) {
        for (guint i = 0; i < 40; i++) {
            gboolean turn = i / 10 == window % 4;

            note(account, i, window * 250 + 250, turn ? GROUP : 0, turn && window < 4 ? GROUP : 0);
        }
        group_account_end_window(account, window * 250 + 250, 1e6);
        assert_true((last_window(account).similarity > 0.8) == (window >= 4));
    }
}

/* Several syncs in a window see the same pages: to be sent once. */
static void test_dirtied_once(void **state)
{
    g_autoptr(GroupAccount) account = group_account_new(1, 4096);

    watch(account, 0);
    for (guint i = 1; i <= 40; i++)
        note(account, 0, i * 10, 50, i == 1 ? 50 : 0);
    group_account_end_window(account, 400, 1e6);
    assert_near(last_window(account).dirtied_bytes, 50 * 4096, 0.05);
}

static void test_odd_input(void **state)
{
    g_autoptr(GroupAccount) account = group_account_new(1, 4096);

    note(account, 0, 100, 5, 5); /* no populated pages */
    assert_true(group_of(account, 0)->dirty_per_ms == 0);
    watch(account, 0);
    note(account, 0, 0, 5, 5); /* no time has passed */
    note(account, 0, 100, 5, 50);
    assert_true(isfinite(group_of(account, 0)->dirty_per_ms));
    group_account_end_window(account, 0, 1);
    group_account_note_sent(account, 0, 0, 100, FALSE);
    group_account_set_pending(account, 0, 5, 9);
    assert_int_equal(group_of(account, 0)->unsent, 5);
    assert_near(group_of(account, 0)->first_send_per_page, 4096, 0.001);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_rate, begin),
        cmocka_unit_test_setup(test_rate_of_random_writes, begin),
        cmocka_unit_test_setup(test_touched_from_few, begin),
        cmocka_unit_test_setup(test_run_share, begin),
        cmocka_unit_test_setup(test_parts, begin),
        cmocka_unit_test_setup(test_costs, begin),
        cmocka_unit_test_setup(test_probes, begin),
        cmocka_unit_test_setup(test_cheap_pages_do_not_speak_for_all, begin),
        cmocka_unit_test_setup(test_take_dirty, begin),
        cmocka_unit_test_setup(test_similarity, begin),
        cmocka_unit_test_setup(test_similarity_of_a_cycle, begin),
        cmocka_unit_test_setup(test_dirtied_once, begin),
        cmocka_unit_test_setup(test_odd_input, begin),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
