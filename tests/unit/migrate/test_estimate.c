/* How far an estimate is believed; the rate limit of a move that runs. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "migrate/estimate.h"
#include "migrate/move_rate.h"

static void expect(Estimate estimate, gboolean cost_known, double dirtied,
                   EstimateConfidence confidence, const char *words)
{
    const char *why = NULL;

    assert_int_equal(estimate_judge(&estimate, cost_known, dirtied, &why), confidence);
    if (!strstr(why, words))
        fail_msg("\"%s\" does not say \"%s\"", why, words);
}

static void test_confidence(void **state)
{
    Estimate seen = {.look_ms = 2000, .fits = TRUE};
    Estimate brief = {.look_ms = 500, .fits = TRUE};
    Estimate assumed = {.look_ms = 2000, .fits = TRUE, .bandwidth_assumed = TRUE};
    Estimate wild = {.look_ms = 2000};
    Estimate intensive = {.look_ms = 2000, .fits = TRUE, .memory_intensive = TRUE};

    expect(seen, TRUE, 2, ESTIMATE_GOOD, "long enough");
    /* Where next to nothing is written, it does not matter what it costs. */
    expect(seen, FALSE, 0.01, ESTIMATE_GOOD, "long enough");
    expect(seen, FALSE, 0.5, ESTIMATE_POOR, "what sending that again costs");
    expect(brief, TRUE, 0, ESTIMATE_FAIR, "shorter than a second");
    expect(assumed, TRUE, 0, ESTIMATE_FAIR, "assumed");
    expect(intensive, TRUE, 2, ESTIMATE_FAIR, "does not converge");
    expect(wild, TRUE, 2, ESTIMATE_FAIR, "does not converge");
    assert_string_equal(estimate_confidence_name(ESTIMATE_POOR), "poor");
    assert_string_equal(estimate_confidence_name(ESTIMATE_GOOD), "good");
}

static void test_rate(void **state)
{
    MoveRate *rate = move_rate_new(100);

    assert_int_equal(move_rate_get(rate), 100);
    assert_int_equal(move_rate_set(rate, 0), 100);
    assert_int_equal(move_rate_get(rate), 0);
    assert_int_equal(move_rate_set(rate, 7), 0);
    move_rate_attach(rate, NULL);
    assert_int_equal(move_rate_get(rate), 7);
    move_rate_free(rate);
    move_rate_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_confidence),
        cmocka_unit_test(test_rate),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
