#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "policy/send_order.h"

#define GROUPS 5u

/* Groups 1 and 3 are written, 3 far more often; 4 as often as 3, within a factor of two. */
static GroupAccount *make_account(void)
{
    static const guint dirty[GROUPS] = {0, 2, 0, 200, 190};
    GroupAccount *account = group_account_new(GROUPS, 4096);

    for (guint i = 0; i < GROUPS; i++) {
        group_account_set_pages(account, i, GROUP_PAGES);
        group_account_note_watched(account, i, 0, GROUP_PAGES);
        group_account_note_dirty(account, i,
                                 &(GroupSync){.now_ms = 100,
                                              .pages_asked = GROUP_PAGES,
                                              .pages_dirty = dirty[i],
                                              .pages_new = dirty[i]});
    }
    return account;
}

static void assert_order(SendOrder *order, gboolean paused, const guint *expected, guint count)
{
    guint group;

    for (guint i = 0; i < count; i++) {
        assert_true(send_order_get_next(order, paused, &group));
        assert_int_equal(group, expected[i]);
        assert_true(send_order_get_next(order, paused, &group));
        assert_int_equal(group, expected[i]);
        send_order_pass(order);
    }
    assert_false(send_order_get_next(order, paused, &group));
}

/* Colder classes first, within a class by address. */
static void test_cold_first(void **state)
{
    g_autoptr(GroupAccount) account = make_account();
    g_autoptr(SendOrder) order = send_order_new(account, GROUPS);

    assert_order(order, FALSE, (guint[]){0, 1, 2, 3, 4}, GROUPS);
    send_order_sort(order);
    assert_order(order, FALSE, (guint[]){0, 2, 1, 3, 4}, GROUPS);
    send_order_rewind(order);
    assert_order(order, FALSE, (guint[]){0, 2, 1, 3, 4}, GROUPS);
}

/* Deferred groups are for the pause. */
static void test_deferred(void **state)
{
    g_autoptr(GroupAccount) account = make_account();
    g_autoptr(SendOrder) order = send_order_new(account, GROUPS);
    ConvergenceDecision decision = {.defer_rate = group_account_get_heat(account, 4)};

    group_account_apply(account, &decision);
    assert_true(group_account_is_deferred(account, 3) && !group_account_is_deferred(account, 1));
    send_order_sort(order);
    assert_order(order, FALSE, (guint[]){0, 2, 1}, 3);
    send_order_rewind(order);
    assert_order(order, TRUE, (guint[]){0, 2, 1, 3, 4}, GROUPS);
}

static void test_probes(void **state)
{
    g_autoptr(GroupAccount) account = make_account();
    g_autoptr(SendOrder) order = send_order_new(account, GROUPS);
    guint group;

    assert_false(send_order_take_probe(order, &group));
    send_order_set_probes(order, (guint[]){1, 2}, 2);
    send_order_set_probes(order, (guint[]){3, 4}, 2);
    assert_true(send_order_take_probe(order, &group));
    assert_int_equal(group, 4);
    assert_true(send_order_take_probe(order, &group));
    assert_int_equal(group, 3);
    assert_false(send_order_take_probe(order, &group));
    assert_order(order, FALSE, (guint[]){0, 1, 2, 3, 4}, GROUPS);
}

static void test_empty(void **state)
{
    g_autoptr(GroupAccount) account = group_account_new(0, 4096);
    g_autoptr(SendOrder) order = send_order_new(account, 0);
    guint group;

    send_order_sort(order);
    assert_false(send_order_get_next(order, TRUE, &group));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cold_first),
        cmocka_unit_test(test_deferred),
        cmocka_unit_test(test_probes),
        cmocka_unit_test(test_empty),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
