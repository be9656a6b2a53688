#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "agent/arrivals.h"
#include "base/error.h"

static void test_one_at_a_time(void **state)
{
    Arrivals *arrivals = arrivals_new();
    g_autoptr(GError) error = NULL;

    assert_true(arrivals_begin(arrivals, "web1", NULL, 0, NULL));
    assert_true(arrivals_begin(arrivals, "web2", NULL, 0, NULL));
    assert_false(arrivals_begin(arrivals, "web1", NULL, 10, &error));
    assert_true(error_is(error, VMFERRY_ERROR_BUSY));
    arrivals_end(arrivals, "web1");
    assert_true(arrivals_begin(arrivals, "web1", NULL, 0, NULL));
    arrivals_end(arrivals, "web1");
    arrivals_end(arrivals, "web2");
    arrivals_free(arrivals);
}

static gpointer end_later(gpointer arrivals)
{
    g_usleep(20000);
    arrivals_end(arrivals, "web1");
    return NULL;
}

static void test_the_next_one_waits(void **state)
{
    Arrivals *arrivals = arrivals_new();
    GThread *first;

    assert_true(arrivals_begin(arrivals, "web1", NULL, 0, NULL));
    first = g_thread_new("first", end_later, arrivals);
    assert_true(arrivals_begin(arrivals, "web1", NULL, 10000, NULL));
    g_thread_join(first);
    arrivals_end(arrivals, "web1");
    arrivals_free(arrivals);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_at_a_time),
        cmocka_unit_test(test_the_next_one_waits),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
