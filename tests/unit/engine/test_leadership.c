/* When an engine is sure to lead, and when it is not. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "engine/leadership.h"

#define SECOND UINT64_C(1000000000)
#define LEASE 7
#define LENGTH_MS 10000
/* One in a hundred for clocks that differ, and 50 ms for what is under way. */
#define CERTAIN_MS (LENGTH_MS - 150)

static Leadership leading(uint64_t sent_ns)
{
    Leadership l = {0};

    leadership_note_granted(&l, LEASE, LENGTH_MS, sent_ns);
    leadership_note_key(&l, 100, LEASE);
    return l;
}

static void test_by_its_key_and_its_lease(void **state)
{
    Leadership l = {0};

    assert_false(leadership_is_held(&l, 1));
    leadership_note_granted(&l, LEASE, LENGTH_MS, 5 * SECOND);
    /* A lease is no leadership. */
    assert_false(leadership_is_held(&l, 5 * SECOND));
    leadership_note_key(&l, 0, 0);
    assert_int_equal(l.term, 0);
    leadership_note_key(&l, 90, LEASE + 1);
    assert_int_equal(l.term, 0);
    leadership_note_key(&l, 100, LEASE);
    assert_int_equal(l.term, 100);
    assert_true(leadership_is_held(&l, 5 * SECOND));
    /* Somebody else has made the key anew. */
    leadership_note_key(&l, 120, LEASE + 1);
    assert_int_equal(l.term, 0);
    assert_false(leadership_is_held(&l, 5 * SECOND));
}

/* A key without a lease is not ours, also while we have none. */
static void test_a_key_without_a_lease(void **state)
{
    Leadership l = {0};

    leadership_note_key(&l, 100, 0);
    assert_int_equal(l.term, 0);
}

static void test_counts_from_before_it_asked(void **state)
{
    Leadership l = leading(5 * SECOND);
    uint64_t end = 5 * SECOND + CERTAIN_MS * (SECOND / 1000);

    assert_true(leadership_is_held(&l, end - 1));
    assert_int_equal(leadership_left_ms(&l, end - 1), 1);
    assert_false(leadership_is_held(&l, end));
    assert_int_equal(leadership_left_ms(&l, 60 * SECOND), 0);
    /* It is still its term: whoever keeps the lease alive in time goes on. */
    assert_int_equal(l.term, 100);
    leadership_note_kept(&l, LENGTH_MS, 20 * SECOND);
    assert_true(leadership_is_held(&l, 29 * SECOND));
    /* An answer that comes out of order takes nothing away. */
    leadership_note_kept(&l, LENGTH_MS, 12 * SECOND);
    assert_true(leadership_is_held(&l, 29 * SECOND));
    assert_false(leadership_is_held(&l, 30 * SECOND));
}

static void test_a_lease_that_is_over(void **state)
{
    Leadership l = leading(5 * SECOND);

    leadership_note_kept(&l, 0, 6 * SECOND);
    assert_int_equal(l.term, 0);
    assert_int_equal(l.lease, 0);
    assert_false(leadership_is_held(&l, 6 * SECOND));
}

/* Shorter than what is taken off: never certain. */
static void test_a_tiny_lease(void **state)
{
    Leadership l = {0};

    leadership_note_granted(&l, LEASE, 10, 5 * SECOND);
    leadership_note_key(&l, 100, LEASE);
    assert_false(leadership_is_held(&l, 5 * SECOND));
}

static void test_several_looks_fit_in(void **state)
{
    assert_in_range(leadership_interval_ms(2000), 1, 2000 / 4);
    assert_in_range(leadership_interval_ms(10000), 1, 10000 / 4);
    assert_in_range(leadership_interval_ms(600000), 1, 2000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_by_its_key_and_its_lease),
        cmocka_unit_test(test_a_key_without_a_lease),
        cmocka_unit_test(test_counts_from_before_it_asked),
        cmocka_unit_test(test_a_lease_that_is_over),
        cmocka_unit_test(test_a_tiny_lease),
        cmocka_unit_test(test_several_looks_fit_in),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
