#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "policy/link_rate.h"

#define RATE 117000u /* bytes a ms */

static gboolean near(double value, double wanted)
{
    return value > 0.98 * wanted && value < 1.02 * wanted;
}

/* A burst into socket buffers does not make a fast link. */
static void test_burst(void **state)
{
    LinkRate rate = {0};
    uint64_t sent = 6000000;

    link_rate_start(&rate, 0, 0, 0);
    link_rate_note(&rate, 20, sent, sent - 20 * RATE);
    assert_true(near(rate.bytes_per_ms, RATE));
    assert_false(link_rate_is_clear(&rate)); /* not busy, for all that is known */
    link_rate_note(&rate, 40, sent, sent - 40 * RATE);
    assert_true(rate.busy);
    assert_true(link_rate_is_clear(&rate));
    assert_true(near(rate.bytes_per_ms, RATE));
}

static void test_busy(void **state)
{
    LinkRate rate = {0};
    uint64_t carried = 0;

    link_rate_start(&rate, 0, 1000000, 1000000);
    for (int i = 1; i < 50; i++) {
        carried += 25 * (i < 25 ? RATE : RATE / 2); /* the link gets slower */
        link_rate_note(&rate, 25.0 * i, 1000000 + carried, 1000000);
        if (i == 24)
            assert_true(near(rate.bytes_per_ms, RATE));
    }
    assert_true(near(rate.bytes_per_ms, RATE / 2.0));
}

/* A sender with little to send says nothing against the link. */
static void test_idle(void **state)
{
    LinkRate rate = {0};

    link_rate_start(&rate, 0, 1000000, 1000000);
    link_rate_note(&rate, 50, 1000000 + 50 * RATE, 1000000);
    for (int i = 0; i < 20; i++) {
        link_rate_note(&rate, 100 + 50 * i, 7000000 + (uint64_t)i * 1000, 0);
        assert_true(rate.bytes_per_ms >= RATE);
        assert_true(!rate.busy && link_rate_is_clear(&rate));
    }
}

/* What was measured before a new begin does not tell how that went. */
static void test_new_begin(void **state)
{
    LinkRate rate = {0};

    link_rate_start(&rate, 0, 0, 0);
    link_rate_note(&rate, 20, 1000, 0);
    link_rate_note(&rate, 40, 2000, 0);
    assert_true(link_rate_is_clear(&rate));
    rate.started = FALSE;
    link_rate_start(&rate, 60, 2000, 0);
    link_rate_note(&rate, 80, 6000000, 3000000);
    assert_false(link_rate_is_clear(&rate));
}

/* A frame that was just handed over is no backlog: the link is free between two. */
static void test_frames(void **state)
{
    LinkRate rate = {0};
    uint64_t sent = 0;

    link_rate_start(&rate, 0, 0, 0);
    link_rate_note(&rate, 20, 10000000, 10000000 - 20 * RATE);
    for (int i = 2; i < 50; i++) {
        sent = 10000000 + (uint64_t)i * 800000; /* 40,000 bytes a ms */
        link_rate_note(&rate, 20 * i, sent, 150000);
        assert_true(!rate.busy);
        assert_true(rate.bytes_per_ms >= RATE);
    }
}

/* Where our own limit is what limits, nothing ever waits. */
static void test_own_limit(void **state)
{
    LinkRate rate = {.limit = 1000};

    link_rate_start(&rate, 0, 0, 0);
    link_rate_note(&rate, 100, 98000, 0);
    assert_true(rate.busy);
    link_rate_note(&rate, 200, 138000, 0);
    assert_true(!rate.busy);
}

static void test_limits(void **state)
{
    LinkRate rate = {.limit = 1000};

    link_rate_note(&rate, 10, 1000, 0); /* not started */
    assert_true(rate.bytes_per_ms <= 0);
    link_rate_start(&rate, 0, 0, 0);
    link_rate_note(&rate, 5, 100000, 0); /* too short to say anything */
    assert_true(rate.bytes_per_ms <= 0);
    link_rate_note(&rate, 50, 500000, 0);
    assert_true(near(rate.bytes_per_ms, 1000));
    link_rate_note(&rate, 100, 400000, 0); /* never less than nothing */
    assert_true(near(rate.bytes_per_ms, 1000));
}

/* The user's limit changes on the way. */
static void test_new_limit(void **state)
{
    LinkRate rate = {.limit = 1000};

    link_rate_start(&rate, 0, 0, 0);
    link_rate_note(&rate, 100, 100000, 0);
    assert_true(near(rate.bytes_per_ms, 1000));
    link_rate_set_limit(&rate, 400);
    assert_true(near(rate.bytes_per_ms, 400));
    link_rate_set_limit(&rate, 0); /* none: nothing is known of more */
    assert_true(near(rate.bytes_per_ms, 400));
    link_rate_note(&rate, 200, 300000, 0);
    assert_true(near(rate.bytes_per_ms, 2000));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_burst),  cmocka_unit_test(test_busy),
        cmocka_unit_test(test_idle),   cmocka_unit_test(test_new_begin),
        cmocka_unit_test(test_frames), cmocka_unit_test(test_own_limit),
        cmocka_unit_test(test_limits), cmocka_unit_test(test_new_limit),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
