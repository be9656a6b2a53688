/* Post-copy as a means of convergence: what it costs, and when it is chosen. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <math.h>
#include <string.h>

#include "policy/postcopy_model.h"
#include "policy/precopy_control.h"

#define MB 1e6
#define PAGE 4096.0
#define GROUPS 256u
/* 1 Gbit/s. */
#define LINK 117000.0
#define DEVICE_MS 12.0

/* 134 MB in 64 hot groups, all pending: 1147 ms; the others were sent. */
typedef struct {
    ConvergenceGroup groups[GROUPS];
    ConvergenceWindow windows[8];
    ConvergenceRound rounds[32];
    ConvergenceFacts facts;
} Guest;

#define HOT_GROUPS 64u
#define HOT_BYTES (HOT_GROUPS * GROUP_PAGES * PAGE)

/* Its last round sent *sent_mb*, and left what is hot.  Its windows say nothing. */
static void guest_make(Guest *guest, double dirty_mb_per_s, double sent_mb, guint means)
{
    *guest = (Guest){0};
    for (guint i = 0; i < GROUPS; i++)
        guest->groups[i] = (ConvergenceGroup){
            .pages = GROUP_PAGES, .first_send_per_page = 4096, .resend_per_page = 4096};
    for (guint i = 0; i < HOT_GROUPS; i++) {
        guest->groups[i].pending = guest->groups[i].active = GROUP_PAGES;
        guest->groups[i].dirty_per_ms = (float)(dirty_mb_per_s * 1000 / PAGE / HOT_GROUPS);
    }
    guest->rounds[0] =
        (ConvergenceRound){.sent_bytes = 500 * MB, .left_bytes = sent_mb * MB, .ms = 4000};
    guest->rounds[1] =
        (ConvergenceRound){.sent_bytes = sent_mb * MB, .left_bytes = HOT_BYTES, .ms = 2000};
    guest->facts = (ConvergenceFacts){
        .groups = guest->groups,
        .group_count = GROUPS,
        .windows = guest->windows,
        .window_count = 4,
        .rounds = guest->rounds,
        .round_count = 2,
        .at_round_end = TRUE,
        .cost_known = TRUE,
        .bytes_per_ms = LINK,
        .device_ms = DEVICE_MS,
        .elapsed_ms = 6000,
        .run_share = 1,
        .limits = {.max_downtime_ms = 300, .downtime_cap_ms = 5000, .means = means},
    };
}

static void make_intensive(Guest *guest)
{
    for (guint i = 0; i < 4; i++)
        guest->windows[i] = (ConvergenceWindow){.ms = 250,
                                                .carried_bytes = LINK * 250,
                                                .dirtied_bytes = LINK * 300,
                                                .similarity = 0.95,
                                                .run_share = 1,
                                                .cost_known = TRUE};
}

static void assert_goes_on(const Guest *guest)
{
    assert_int_equal(convergence_decide(&guest->facts).verdict, CONVERGENCE_CONTINUE);
}

static void assert_ends(const Guest *guest, ConvergenceVerdict verdict, const char *reason)
{
    ConvergenceDecision decision = convergence_decide(&guest->facts);

    assert_int_equal(decision.verdict, verdict);
    assert_string_equal(decision.reason, reason);
}

/* --- the model ------------------------------------------------------------------- */

static PostcopyForecast forecast(const ConvergenceGroup *groups, guint count)
{
    return postcopy_model_forecast(groups, count, LINK);
}

/* Pages that nobody writes take nothing from the guest. */
static void test_cold(void **state)
{
    ConvergenceGroup group = {.pages = 512, .pending = 512, .first_send_per_page = 4096};
    PostcopyForecast cold = forecast(&group, 1);

    assert_true(fabs(cold.push_ms - 512 * 4096 / LINK) < 1e-6 && cold.lost_ms == 0);
    assert_true(forecast(NULL, 0).push_ms == 0);
}

/* One bucket: 1 - ln(1 + x) / x of the time to push it. */
static void test_share(void **state)
{
    double fault_ms = postcopy_model_fault_ms(LINK);

    assert_true(fault_ms > 0.8 && fault_ms < 0.9);
    for (double x = 0.01; x < 1000; x *= 10) {
        ConvergenceGroup group = {.pages = 512,
                                  .pending = 512,
                                  .active = 512,
                                  .dirty_per_ms = (float)(x / fault_ms),
                                  .first_send_per_page = 4096};
        PostcopyForecast got = forecast(&group, 1);

        assert_true(fabs(got.lost_ms / got.push_ms - (1 - log1p(x) / x)) < 1e-3);
        /* Half of it is there already. */
        group.pending = 256;
        got = forecast(&group, 1);
        assert_true(fabs(got.lost_ms / got.push_ms - (1 - log1p(x / 2) / (x / 2))) < 1e-3);
    }
}

/* What is hot comes first: the rest takes little afterwards.  And a page is sent as a new one. */
static void test_hottest_first_is_cheaper(void **state)
{
    ConvergenceGroup even[10], skewed[10];
    double lost;

    for (guint i = 0; i < 10; i++) {
        even[i] = (ConvergenceGroup){.pages = 512,
                                     .pending = 512,
                                     .active = 512,
                                     .dirty_per_ms = 2,
                                     .first_send_per_page = 4096,
                                     .resend_per_page = 140};
        skewed[i] = even[i];
        skewed[i].dirty_per_ms = i == 5 ? 18.2F : 0.2F;
    }
    lost = forecast(even, 10).lost_ms;
    assert_true(forecast(skewed, 10).lost_ms < 0.8 * lost);
    assert_true(forecast(skewed, 10).push_ms == forecast(even, 10).push_ms);
    assert_true(fabs(forecast(even, 10).push_ms - 5120 * 4096 / LINK) < 1e-6);
}

/* --- the rules ------------------------------------------------------------------- */

/* Nothing else is needed, not even the link's rate. */
static void test_at_once(void **state)
{
    ConvergenceFacts facts = {.device_ms = DEVICE_MS,
                              .elapsed_ms = 3,
                              .limits = {.means = CONVERGENCE_MEANS_POSTCOPY_NOW}};
    ConvergenceDecision decision = convergence_decide(&facts);

    assert_int_equal(decision.verdict, CONVERGENCE_SWITCH);
    assert_string_equal(decision.reason, "postcopy");
    assert_true(decision.expected_downtime_ms == DEVICE_MS && decision.run_share == 1);
    assert_true(decision.expected_total_ms == 3 + DEVICE_MS);
}

/* Hybrid: rounds go on while they gain something, and end as pre-copy's within the target. */
static void test_hybrid_rounds(void **state)
{
    Guest guest;

    /* What was left has halved. */
    guest_make(&guest, 20, 300, CONVERGENCE_MEANS_POSTCOPY);
    assert_goes_on(&guest);
    /* It has dirtied nearly as much as was sent. */
    guest_make(&guest, 20, 150, CONVERGENCE_MEANS_POSTCOPY);
    assert_ends(&guest, CONVERGENCE_SWITCH, "switch-not-converging");
    /* The next round would gain nothing, whatever the last one did. */
    guest_make(&guest, 500, 300, CONVERGENCE_MEANS_POSTCOPY);
    assert_ends(&guest, CONVERGENCE_SWITCH, "switch-not-converging");
    make_intensive(&guest);
    assert_ends(&guest, CONVERGENCE_SWITCH, "switch-memory-intensive");
    /* Within the target a pause is better. */
    guest.facts.limits.max_downtime_ms = 1500;
    guest.rounds[0].left_bytes = HOT_BYTES;
    assert_ends(&guest, CONVERGENCE_STOP, "no-gain");
}

/* Within a round, where it is clear; not in the first, nor while resend costs are guessed. */
static void test_hybrid_within_a_round(void **state)
{
    Guest guest;

    guest_make(&guest, 500, 300, CONVERGENCE_MEANS_POSTCOPY);
    guest.facts.at_round_end = FALSE;
    assert_ends(&guest, CONVERGENCE_SWITCH, "switch-not-converging");
    guest.facts.cost_known = FALSE;
    assert_goes_on(&guest);
    guest.facts.cost_known = TRUE;
    guest.facts.round_count = 0;
    assert_goes_on(&guest);
    guest_make(&guest, 20, 150, CONVERGENCE_MEANS_POSTCOPY);
    guest.facts.at_round_end = FALSE;
    assert_goes_on(&guest);
}

/* What seems intensive is not sent while only its probes can tell. */
static void test_probes_alone(void **state)
{
    Guest guest;
    ConvergenceDecision decision;

    guest_make(&guest, 500, 300, CONVERGENCE_MEANS_POSTCOPY);
    guest.facts.cost_known = FALSE;
    decision = convergence_decide(&guest.facts);
    assert_int_equal(decision.verdict, CONVERGENCE_CONTINUE);
    assert_true(decision.probe && decision.probe_alone && !decision.wait);
    assert_true(isfinite(decision.defer_rate));
    /* They have told. */
    guest.facts.cost_known = TRUE;
    assert_false(convergence_decide(&guest.facts).probe_alone);
}

/* The pause is the device state's, the rest takes its time. */
static void test_forecast(void **state)
{
    Guest guest;
    ConvergenceDecision decision;
    double push_ms = HOT_BYTES / LINK;

    guest_make(&guest, 500, 300, CONVERGENCE_MEANS_POSTCOPY);
    decision = convergence_decide(&guest.facts);
    assert_true(decision.expected_downtime_ms == DEVICE_MS);
    assert_true(fabs(decision.expected_total_ms - (6000 + DEVICE_MS + push_ms)) < 1);
    assert_true(fabs(decision.pause_ms - (DEVICE_MS + push_ms)) < 1);
    assert_true(decision.postcopy_lost_ms > 0.9 * push_ms &&
                decision.postcopy_lost_ms < DEVICE_MS + push_ms);
    /* Already before. */
    guest.facts.round_count = 0;
    guest.facts.at_round_end = FALSE;
    assert_true(convergence_decide(&guest.facts).expected_downtime_ms == DEVICE_MS);
}

/* Never slowed, never given up, even where all is guessed. */
static void test_hybrid_never_gives_up(void **state)
{
    Guest guest;

    guest_make(&guest, 500, 1000, CONVERGENCE_MEANS_POSTCOPY | CONVERGENCE_MEANS_THROTTLE);
    guest.facts.limits.downtime_cap_ms = 300;
    guest.facts.cost_known = FALSE;
    for (guint i = 0; i < G_N_ELEMENTS(guest.rounds); i++)
        guest.rounds[i] =
            (ConvergenceRound){.sent_bytes = 1000 * MB, .left_bytes = HOT_BYTES, .ms = 1000};
    for (guint rounds = 1; rounds <= G_N_ELEMENTS(guest.rounds); rounds++) {
        ConvergenceDecision decision;

        guest.facts.round_count = rounds;
        decision = convergence_decide(&guest.facts);
        assert_true(decision.run_share == 1);
        /* The first six are left to probes. */
        assert_int_equal(decision.verdict, rounds >= 6 ? CONVERGENCE_SWITCH : CONVERGENCE_CONTINUE);
        assert_true(decision.probe_alone == (rounds < 6));
    }
    make_intensive(&guest);
    guest.facts.at_round_end = FALSE;
    assert_true(convergence_decide(&guest.facts).run_share == 1);
}

/* In time for all pages to arrive; one that is too late already is not given up. */
static void test_deadline(void **state)
{
    static const guint modes[] = {CONVERGENCE_MEANS_POSTCOPY, CONVERGENCE_MEANS_POSTCOPY_IF_CHEAPER,
                                  CONVERGENCE_MEANS_POSTCOPY_IF_CHEAPER |
                                      CONVERGENCE_MEANS_THROTTLE};

    for (guint i = 0; i < G_N_ELEMENTS(modes); i++) {
        Guest guest;

        guest_make(&guest, 20, 300, modes[i]);
        guest.facts.at_round_end = FALSE;
        guest.facts.limits.downtime_cap_ms = 1000;
        guest.facts.limits.deadline_ms = 6000 + 1147 + 300;
        assert_goes_on(&guest);
        assert_true(convergence_decide(&guest.facts).run_share == 1);
        guest.facts.elapsed_ms += 100;
        assert_ends(&guest, CONVERGENCE_SWITCH, "switch-deadline");
        guest.facts.elapsed_ms += 10000;
        assert_ends(&guest, CONVERGENCE_SWITCH, "switch-deadline");
        guest.facts.limits.max_downtime_ms = guest.facts.limits.downtime_cap_ms = 1500;
        assert_ends(&guest, CONVERGENCE_STOP, "deadline");
    }
}

/* Auto: rounds as in pre-copy; a switchover where that would pause it for longer than the target,
 * slow it or give up. */
static void test_auto(void **state)
{
    Guest guest;

    guest_make(&guest, 500, 150, CONVERGENCE_MEANS_POSTCOPY_IF_CHEAPER);
    assert_goes_on(&guest);
    make_intensive(&guest);
    assert_ends(&guest, CONVERGENCE_SWITCH, "switch-memory-intensive");
    guest.facts.limits.downtime_cap_ms = 300;
    guest.facts.limits.means |= CONVERGENCE_MEANS_THROTTLE;
    assert_ends(&guest, CONVERGENCE_SWITCH, "switch-memory-intensive");
    guest.facts.at_round_end = FALSE;
    assert_true(convergence_decide(&guest.facts).run_share == 1);
    guest.facts.limits.max_downtime_ms = 1500;
    guest.facts.limits.downtime_cap_ms = 5000;
    guest.facts.at_round_end = TRUE;
    guest.rounds[0].left_bytes = HOT_BYTES;
    assert_ends(&guest, CONVERGENCE_STOP, "no-gain");
    guest_make(&guest, 20, 150, CONVERGENCE_MEANS_POSTCOPY_IF_CHEAPER);
    guest.facts.limits.downtime_cap_ms = 500;
    for (guint i = 0; i < G_N_ELEMENTS(guest.rounds); i++)
        guest.rounds[i].left_bytes = HOT_BYTES, guest.rounds[i].ms = 1000;
    guest.facts.round_count = 4;
    assert_goes_on(&guest);
    guest.facts.round_count = 5;
    assert_ends(&guest, CONVERGENCE_SWITCH, "switch-not-converging");
    guest.facts.limits.downtime_cap_ms = 5000;
    assert_ends(&guest, CONVERGENCE_SWITCH, "switch-not-converging");
}

/* Little is written in each page: the pause takes less than pages that come whole, one by one. */
static void test_auto_stops_where_that_is_cheaper(void **state)
{
    Guest guest;

    guest_make(&guest, 500, 150, CONVERGENCE_MEANS_POSTCOPY_IF_CHEAPER);
    for (guint i = 0; i < GROUPS; i++)
        guest.groups[i].resend_per_page = 2000;
    for (guint i = 0; i < G_N_ELEMENTS(guest.rounds); i++)
        guest.rounds[i].left_bytes = HOT_BYTES, guest.rounds[i].ms = 1000;
    guest.facts.round_count = 5;
    assert_ends(&guest, CONVERGENCE_STOP, "within-cap");
    /* The throttle as before; the last resort is not to give up. */
    guest.facts.limits.downtime_cap_ms = 310;
    assert_goes_on(&guest);
    guest.facts.limits.means |= CONVERGENCE_MEANS_THROTTLE;
    assert_true(convergence_decide(&guest.facts).run_share < 1);
    guest.facts.limits.means = CONVERGENCE_MEANS_POSTCOPY_IF_CHEAPER;
    guest.facts.round_count = 25;
    assert_ends(&guest, CONVERGENCE_SWITCH, "switch-not-converging");
    guest.facts.limits.means = 0;
    assert_ends(&guest, CONVERGENCE_GIVE_UP, "not-converging");
}

/* Slowed already: it stays so until it is paused. */
static void test_slowed_until_the_pause(void **state)
{
    Guest guest;

    guest_make(&guest, 500, 150, CONVERGENCE_MEANS_POSTCOPY_IF_CHEAPER);
    make_intensive(&guest);
    guest.facts.run_share = 0.3;
    assert_int_equal(convergence_decide(&guest.facts).verdict, CONVERGENCE_SWITCH);
    assert_true(convergence_decide(&guest.facts).run_share == 0.3);
}

/* --- the clockwork --------------------------------------------------------------- */

/* At the first decision with a destination: the round ends, then it switches. */
static void test_steps(void **state)
{
    g_autoptr(GroupAccount) account = group_account_new(4, PAGE);
    PrecopyControl control;
    PrecopyFacts facts = {.now_ms = 1, .device_ms = DEVICE_MS};

    precopy_control_init(
        &control, account,
        &(PrecopyOptions){.limits = {300, 2000, 0, CONVERGENCE_MEANS_POSTCOPY_NOW}});
    precopy_control_begin_round(&control, 0, 0);
    precopy_control_note_batch(&control, 1, 256);
    precopy_control_note_sync(&control, 1, -1);
    assert_false(precopy_control_decide(&control, &facts));
    assert_int_equal(precopy_control_get_step(&control), PRECOPY_SEND);
    facts.can_pause = TRUE;
    assert_true(precopy_control_decide(&control, &facts));
    assert_int_equal(precopy_control_get_step(&control), PRECOPY_END_ROUND);
    precopy_control_note_round(&control, 2, 1000000, 256);
    precopy_control_end_round(&control, 2);
    /* Something is to be done before any pause. */
    facts = (PrecopyFacts){.now_ms = 2, .device_ms = 12, .can_pause = TRUE, .must_run = TRUE};
    assert_true(precopy_control_decide(&control, &facts));
    assert_int_equal(precopy_control_get_step(&control), PRECOPY_WAIT);
    facts.must_run = FALSE;
    assert_true(precopy_control_decide(&control, &facts));
    assert_int_equal(precopy_control_get_step(&control), PRECOPY_SWITCH);
    assert_string_equal(control.decision.reason, "postcopy");
    precopy_control_clear(&control);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cold),
        cmocka_unit_test(test_share),
        cmocka_unit_test(test_hottest_first_is_cheaper),
        cmocka_unit_test(test_at_once),
        cmocka_unit_test(test_hybrid_rounds),
        cmocka_unit_test(test_hybrid_within_a_round),
        cmocka_unit_test(test_probes_alone),
        cmocka_unit_test(test_forecast),
        cmocka_unit_test(test_hybrid_never_gives_up),
        cmocka_unit_test(test_deadline),
        cmocka_unit_test(test_auto),
        cmocka_unit_test(test_auto_stops_where_that_is_cheaper),
        cmocka_unit_test(test_slowed_until_the_pause),
        cmocka_unit_test(test_steps),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
