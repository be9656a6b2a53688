/* Pre-copy's clockwork, step by step. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <math.h>
#include <string.h>

#include "policy/precopy_control.h"
#include "policy/trace.h"

#define GROUPS 4u
#define PAGE 4096.0
/* Wire bytes per ms. */
#define LINK 100000.0
#define PAUSE_MS 300u

typedef struct {
    GroupAccount *account;
    PrecopyControl control;
    GString *lines;
} Fixture;

static void take_line(const char *line, gpointer user)
{
    g_string_append_printf(user, "%s\n", line);
}

static int setup(void **state)
{
    Fixture *fixture = g_new0(Fixture, 1);

    fixture->account = group_account_new(GROUPS, PAGE);
    fixture->lines = g_string_new(NULL);
    precopy_control_init(
        &fixture->control, fixture->account,
        &(PrecopyOptions){.limits = {.max_downtime_ms = PAUSE_MS, .downtime_cap_ms = 2000},
                          .trace = take_line,
                          .user = fixture->lines});
    for (guint i = 0; i < GROUPS; i++)
        group_account_set_pages(fixture->account, i, GROUP_PAGES);
    *state = fixture;
    return 0;
}

static int teardown(void **state)
{
    Fixture *fixture = *state;

    precopy_control_clear(&fixture->control);
    group_account_free(fixture->account);
    g_string_free(fixture->lines, TRUE);
    g_free(fixture);
    return 0;
}

static void set_pending(Fixture *fixture, guint pages_per_group)
{
    for (guint i = 0; i < GROUPS; i++)
        group_account_set_pending(fixture->account, i, pages_per_group, 0);
}

/* All that is pending would take so long. */
static guint pages_for_ms(double ms)
{
    return (guint)(ms * LINK / PAGE / GROUPS);
}

static gboolean decide(Fixture *fixture, double now_ms)
{
    return precopy_control_decide(
        &fixture->control, &(PrecopyFacts){.now_ms = now_ms, .device_ms = 12, .can_pause = TRUE});
}

static void assert_step(const Fixture *fixture, PrecopyStep step)
{
    assert_int_equal(precopy_control_get_step(&fixture->control), step);
}

/* A round of *ms* that sends LINK bytes per ms, with no sync within; the next step is the
 * decision. */
static double play_round(Fixture *fixture, double now_ms, double ms)
{
    uint64_t sent = (uint64_t)(now_ms * LINK);

    assert_step(fixture, PRECOPY_BEGIN_ROUND);
    precopy_control_begin_round(&fixture->control, now_ms, sent);
    assert_step(fixture, PRECOPY_SEND);
    precopy_control_note_batch(&fixture->control, now_ms + ms, 0);
    assert_step(fixture, PRECOPY_END_ROUND);
    precopy_control_note_round(&fixture->control, now_ms + ms, sent + (uint64_t)(ms * LINK), 100);
    precopy_control_note_sync(&fixture->control, now_ms + ms, -1);
    precopy_control_end_round(&fixture->control, now_ms + ms);
    return now_ms + ms;
}

static const ConvergenceRound *get_round(const Fixture *fixture, guint i)
{
    return &g_array_index(fixture->control.rounds, ConvergenceRound, i);
}

/* Dense at first, then every 100 ms; always behind a batch, never for the end of a round. */
static void test_sync_times(void **state)
{
    static const double expected[] = {0, 10, 30, 70, 150, 250, 350, 450};
    Fixture *fixture = *state;
    guint syncs = 0;

    precopy_control_begin_round(&fixture->control, 0, 0);
    for (double now = 0; syncs < G_N_ELEMENTS(expected); now++) {
        assert_step(fixture, PRECOPY_SEND);
        precopy_control_note_batch(&fixture->control, now, 256);
        if (precopy_control_get_step(&fixture->control) != PRECOPY_SYNC)
            continue;
        assert_true(now == expected[syncs++]);
        precopy_control_note_sync(&fixture->control, now, -1);
        decide(fixture, now);
    }
    precopy_control_note_batch(&fixture->control, 10000, 0);
    assert_step(fixture, PRECOPY_END_ROUND);
}

/* What a window could carry is the link's rate, measured over all of it, times its length. */
static void test_windows(void **state)
{
    Fixture *fixture = *state;
    PrecopyControl *control = &fixture->control;
    ConvergenceFacts facts = {0};

    precopy_control_note_sync(control, 250, -1); /* nothing is known of the link */
    for (double now = 250; now <= 290; now += 20)
        precopy_control_note_link(control, now, (uint64_t)((now - 200) * LINK), 1000000, FALSE);
    assert_true(fabs(control->link.bytes_per_ms - LINK) < 1);
    precopy_control_note_sync(control, 300, -1);
    precopy_control_note_sync(control, 499, -1);
    group_account_fill_facts(fixture->account, &facts);
    assert_int_equal(facts.window_count, 1);
    assert_true(facts.windows[0].ms == 300 && facts.windows[0].carried_bytes == 300 * LINK);
    precopy_control_note_sync(control, 500, -1);
    group_account_fill_facts(fixture->account, &facts);
    assert_int_equal(facts.window_count, 2);
    assert_true(facts.windows[1].ms == 200 && facts.windows[1].carried_bytes == 200 * LINK);
}

/* What only fills a buffer says nothing; where a round was too short, its mean is taken. */
static void test_link(void **state)
{
    Fixture *fixture = *state;
    PrecopyControl *control = &fixture->control;

    for (double now = 0; now < 100; now += 25)
        precopy_control_note_link(control, now, (uint64_t)(now * 100 * LINK), 0, TRUE);
    assert_true(control->link.bytes_per_ms == 0 && !control->link.started);
    play_round(fixture, 100, 5);
    assert_true(control->link.bytes_per_ms == LINK);
}

/* Without a link's rate, or a destination, nothing is decided, and rounds go on. */
static void test_not_asked(void **state)
{
    Fixture *fixture = *state;
    PrecopyFacts facts = {.now_ms = 1, .device_ms = 12, .can_pause = TRUE};

    set_pending(fixture, 0);
    precopy_control_begin_round(&fixture->control, 0, 0);
    precopy_control_note_batch(&fixture->control, 1, 256);
    assert_false(precopy_control_decide(&fixture->control, &facts));
    assert_step(fixture, PRECOPY_SEND);
    precopy_control_note_batch(&fixture->control, 2, 0);
    precopy_control_note_round(&fixture->control, 2, 1000, 1);
    set_pending(fixture, 10);
    precopy_control_end_round(&fixture->control, 2);
    facts.can_pause = FALSE;
    assert_false(precopy_control_decide(&fixture->control, &facts));
    assert_step(fixture, PRECOPY_BEGIN_ROUND);
    assert_int_equal(fixture->control.decision.verdict, CONVERGENCE_CONTINUE);
    assert_true(fixture->control.decision.run_share == 1);
}

/* What was left is an estimate until the next round has told what it cost. */
static void test_left_is_corrected(void **state)
{
    Fixture *fixture = *state;
    double now;

    set_pending(fixture, pages_for_ms(100));
    now = play_round(fixture, 0, 1000);
    assert_true(get_round(fixture, 0)->sent_bytes == 1000 * LINK);
    assert_true(get_round(fixture, 0)->ms == 1000);
    assert_true(fabs(get_round(fixture, 0)->left_bytes - 100 * LINK) < 4 * PAGE);
    assert_true(decide(fixture, now));
    set_pending(fixture, pages_for_ms(50));
    now = play_round(fixture, now, 40);
    assert_true(get_round(fixture, 0)->left_bytes == 40 * LINK);
    assert_true(fabs(get_round(fixture, 1)->left_bytes - 50 * LINK) < 4 * PAGE);
    /* Where groups are deferred, no round sends what was left. */
    fixture->control.deferred_bytes = 1;
    precopy_control_begin_round(&fixture->control, now, 0);
    precopy_control_note_round(&fixture->control, now + 10, 1000, 1);
    precopy_control_end_round(&fixture->control, now + 10);
    assert_true(fabs(get_round(fixture, 1)->left_bytes - 50 * LINK) < 4 * PAGE);
}

/* Within a round it only ends the round: what was read is to be sent, and then it is asked
 * again. */
static void test_stop_within_a_round(void **state)
{
    Fixture *fixture = *state;
    double now;

    fixture->control.options.limits.deadline_ms = 5000;
    set_pending(fixture, pages_for_ms(1000));
    now = play_round(fixture, 0, 3500);
    decide(fixture, now);
    assert_step(fixture, PRECOPY_BEGIN_ROUND);
    precopy_control_begin_round(&fixture->control, now, 0);
    decide(fixture, 3600);
    assert_step(fixture, PRECOPY_SEND);
    decide(fixture, 3900);
    assert_int_equal(fixture->control.decision.verdict, CONVERGENCE_STOP);
    assert_step(fixture, PRECOPY_END_ROUND);
    precopy_control_note_round(&fixture->control, 3950, 1000000, 1);
    precopy_control_end_round(&fixture->control, 3950);
    /* Meanwhile the guest has written more than fits. */
    set_pending(fixture, GROUP_PAGES * 100);
    decide(fixture, 3950);
    assert_step(fixture, PRECOPY_BEGIN_ROUND);
    set_pending(fixture, pages_for_ms(900));
    decide(fixture, 4000);
    assert_step(fixture, PRECOPY_STOP);
    assert_string_equal(fixture->control.decision.reason, "deadline");
}

/* As long as something else must be done first, the guest runs, and is looked at now and then. */
static void test_must_run(void **state)
{
    Fixture *fixture = *state;
    double now = play_round(fixture, 0, 100);
    PrecopyFacts facts = {.now_ms = now, .device_ms = 12, .can_pause = TRUE, .must_run = TRUE};

    assert_true(precopy_control_decide(&fixture->control, &facts));
    assert_step(fixture, PRECOPY_WAIT);
    assert_true(fixture->control.next_sync_ms == now + PRECOPY_SYNC_MS);
    assert_int_equal(fixture->control.decision.verdict, CONVERGENCE_CONTINUE);
    facts.must_run = FALSE;
    facts.now_ms += PRECOPY_SYNC_MS;
    precopy_control_note_sync(&fixture->control, facts.now_ms, -1);
    assert_true(precopy_control_decide(&fixture->control, &facts));
    assert_step(fixture, PRECOPY_STOP);
    assert_string_equal(fixture->control.decision.reason, "converged");
    precopy_control_postpone(&fixture->control, 1000);
    assert_step(fixture, PRECOPY_WAIT);
    assert_true(fixture->control.next_sync_ms == 1000 + PRECOPY_SYNC_MS);
}

/* Group 1 is written all the time, and deferred. */
static void defer_a_group(Fixture *fixture)
{
    ConvergenceDecision decision = {.defer_rate = 1e-6};

    group_account_note_watched(fixture->account, 1, 0, GROUP_PAGES);
    group_account_note_dirty(
        fixture->account, 1,
        &(GroupSync){
            .now_ms = 100, .pages_asked = GROUP_PAGES, .pages_dirty = 200, .pages_new = 200});
    group_account_apply(fixture->account, &decision);
    assert_true(group_account_is_deferred(fixture->account, 1));
}

/* Only deferred groups are left: nothing to send until the next sync. */
static void test_all_deferred(void **state)
{
    Fixture *fixture = *state;
    PrecopyFacts facts = {.now_ms = 200};

    defer_a_group(fixture);
    group_account_set_pending(fixture->account, 1, 100, 0);
    assert_true(group_account_is_all_deferred(fixture->account));
    precopy_control_decide(&fixture->control, &facts);
    assert_step(fixture, PRECOPY_WAIT);
    assert_true(fixture->control.next_sync_ms == 300);
    group_account_set_pending(fixture->account, 2, 1, 0);
    precopy_control_decide(&fixture->control, &facts);
    assert_step(fixture, PRECOPY_BEGIN_ROUND);
}

/* The share of faults goes to the account's clock: the same writes in half the time. */
static void test_fault_share(void **state)
{
    Fixture *fixture = *state;
    double rates[2];

    for (guint i = 0; i < 2; i++) {
        ConvergenceFacts facts = {0};
        g_autoptr(GroupAccount) account = group_account_new(1, PAGE);

        group_account_set_pages(account, 0, GROUP_PAGES);
        fixture->control.account = account;
        precopy_control_note_sync(&fixture->control, 0, i == 0 ? -1 : 0.5);
        group_account_note_watched(account, 0, 0, GROUP_PAGES);
        group_account_note_dirty(
            account, 0,
            &(GroupSync){
                .now_ms = 100, .pages_asked = GROUP_PAGES, .pages_dirty = 50, .pages_new = 50});
        group_account_fill_facts(account, &facts);
        rates[i] = facts.groups[0].dirty_per_ms;
    }
    assert_true(fabs(rates[1] - 2 * rates[0]) < 1e-3 * rates[0]);
}

static void test_trace(void **state)
{
    Fixture *fixture = *state;
    g_autoptr(Trace) trace = NULL;
    double now;

    precopy_control_trace_begin(&fixture->control, LINK, "web1");
    set_pending(fixture, pages_for_ms(100));
    now = play_round(fixture, 0, 100);
    decide(fixture, now);
    play_round(fixture, now, 50);
    precopy_control_trace_end(&fixture->control, 200, 20, "converged");
    trace = trace_parse(fixture->lines->str, fixture->lines->len, NULL);
    assert_non_null(trace);
    assert_true(trace->ended && trace->total_ms == 200 && trace->group_count == GROUPS);
    assert_int_equal(trace->syncs->len, 2);
    assert_int_equal(trace->rounds->len, 2);
    assert_int_equal(g_array_index(trace->rounds, TraceRound, 1).round, 1);
    assert_true(g_array_index(trace->rounds, TraceRound, 0).wire_per_page == LINK);
}

/* Nothing is written of a trace that nobody has begun. */
static void test_no_trace(void **state)
{
    Fixture *fixture = *state;

    play_round(fixture, 0, 100);
    precopy_control_trace_end(&fixture->control, 200, 20, NULL);
    assert_int_equal(fixture->lines->len, 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_sync_times), TEST(test_windows),           TEST(test_link),
        TEST(test_not_asked),  TEST(test_left_is_corrected), TEST(test_stop_within_a_round),
        TEST(test_must_run),   TEST(test_all_deferred),      TEST(test_fault_share),
        TEST(test_trace),      TEST(test_no_trace),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
