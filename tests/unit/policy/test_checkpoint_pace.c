#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "policy/checkpoint_pace.h"

static void test_interval(void **state)
{
    CheckpointPaceFacts facts = {.interval_ms = 50, .last_pause_ms = 2};

    assert_float_equal(checkpoint_pace_decide(&facts), 50, 0.01);
}

/* Something waits: sooner, though not so often that the guest stands half of its time. */
static void test_output(void **state)
{
    CheckpointPaceFacts facts = {.interval_ms = 50, .last_pause_ms = 0.1, .output = TRUE};

    assert_float_equal(checkpoint_pace_decide(&facts), 5, 0.01);
    facts.last_pause_ms = 2;
    assert_float_equal(checkpoint_pace_decide(&facts), 40, 0.01);
    facts.limits.most_share = 0.2;
    assert_float_equal(checkpoint_pace_decide(&facts), 10, 0.01);
}

static void test_sync(void **state)
{
    CheckpointPaceFacts facts = {.interval_ms = 50, .last_pause_ms = 0.1, .output = TRUE};
    CheckpointSync sync;

    facts.limits.sync = CHECKPOINT_SYNC_TIMED;
    assert_float_equal(checkpoint_pace_decide(&facts), 50, 0.01);
    facts.limits.sync = CHECKPOINT_SYNC_OUTPUT;
    assert_float_equal(checkpoint_pace_decide(&facts), 5, 0.01);
    facts.output = FALSE;
    assert_float_equal(checkpoint_pace_decide(&facts), 2000, 0.01);
    assert_true(checkpoint_sync_from_name("output", &sync));
    assert_int_equal(sync, CHECKPOINT_SYNC_OUTPUT);
    assert_string_equal(checkpoint_sync_name(CHECKPOINT_SYNC_TIMED), "timed");
    assert_false(checkpoint_sync_from_name("", &sync));
}

static void test_long_pauses(void **state)
{
    CheckpointPaceFacts facts = {.interval_ms = 50, .last_pause_ms = 20};

    assert_float_equal(checkpoint_pace_decide(&facts), 400, 0.01);
    facts.last_pause_ms = 900;
    assert_float_equal(checkpoint_pace_decide(&facts), 2000, 0.01);
    facts.interval_ms = 5000;
    assert_float_equal(checkpoint_pace_decide(&facts), 5000, 0.01);
}

static void test_ahead(void **state)
{
    CheckpointAheadFacts facts = {.pages = 4096};

    assert_false(checkpoint_pace_sends_ahead(&facts));
    facts.pages = 100000;
    assert_true(checkpoint_pace_sends_ahead(&facts));
    facts = (CheckpointAheadFacts){.pages = 60000, .last_pages = 100000, .passes = 1};
    assert_true(checkpoint_pace_sends_ahead(&facts));
    facts.pages = 90000;
    assert_false(checkpoint_pace_sends_ahead(&facts));
    facts = (CheckpointAheadFacts){.pages = 5000, .last_pages = 100000, .passes = 20};
    assert_false(checkpoint_pace_sends_ahead(&facts));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_interval), cmocka_unit_test(test_output),
        cmocka_unit_test(test_sync),     cmocka_unit_test(test_long_pauses),
        cmocka_unit_test(test_ahead),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
