#include "scratch.h"

#include <string.h>

#include "agent/trace_queue.h"
#include "base/json.h"

static void test_lines_in_order(void **state)
{
    g_autoptr(TraceQueue) queue = trace_queue_new(1000);
    g_autofree char *text = NULL;

    assert_null(trace_queue_take(queue));
    trace_queue_add(queue, "{\"a\":\"x\"}");
    trace_queue_add(queue, "second");
    text = trace_queue_take(queue);
    assert_string_equal(text, "{\"type\":\"trace\",\"line\":\"{\\\"a\\\":\\\"x\\\"}\"}\n"
                              "{\"type\":\"trace\",\"line\":\"second\"}\n");
    assert_null(trace_queue_take(queue));
}

/* Dropped lines are counted where they are missing, and at the end. */
static void test_slow_reader(void **state)
{
    g_autoptr(TraceQueue) queue = trace_queue_new(70);
    g_autofree char *first = NULL, *second = NULL, *third = NULL;

    trace_queue_add(queue, "1");
    trace_queue_add(queue, "2");
    trace_queue_add(queue, "3");
    trace_queue_add(queue, "4");
    first = trace_queue_take(queue);
    assert_string_equal(first, "{\"type\":\"trace\",\"line\":\"1\"}\n"
                               "{\"type\":\"trace\",\"line\":\"2\"}\n");
    trace_queue_add(queue, "5");
    second = trace_queue_take(queue);
    assert_string_equal(second, "{\"type\":\"trace\",\"dropped\":2}\n"
                                "{\"type\":\"trace\",\"line\":\"5\"}\n");
    trace_queue_add(queue, "\xff");
    third = trace_queue_take(queue);
    assert_string_equal(third, "{\"type\":\"trace\",\"dropped\":1}\n");
}

static void test_pieces(void **state)
{
    g_autoptr(TraceQueue) queue = trace_queue_new(64 << 20);
    g_autofree char *line = g_strnfill(1000, 'x');
    guint pieces = 0, lines = 0;
    char *text;

    for (guint i = 0; i < 1000; i++)
        trace_queue_add(queue, line);
    while ((text = trace_queue_take(queue))) {
        assert_true(strlen(text) < (300 << 10));
        for (const char *at = text; (at = strchr(at, '\n')); at++)
            lines++;
        pieces++;
        g_free(text);
    }
    assert_int_equal(lines, 1000);
    assert_int_equal(pieces, 4);
}

static void test_closed(void **state)
{
    g_autoptr(TraceQueue) queue = trace_queue_new(30);

    trace_queue_add(queue, "1");
    trace_queue_add(queue, "2");
    trace_queue_close(queue);
    assert_null(trace_queue_take(queue));
    trace_queue_add(queue, "3");
    assert_null(trace_queue_take(queue));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lines_in_order),
        cmocka_unit_test(test_slow_reader),
        cmocka_unit_test(test_pieces),
        cmocka_unit_test(test_closed),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
