#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <string.h>

#include "policy/trace.h"

#define HEADER                                                                                     \
    "{\"trace\":1,\"groups\":3,\"group_pages\":512,\"pages\":[512,512,100],"                       \
    "\"bytes_per_ms\":117000.0,\"guest\":\"web1\"}\n"

static void add_line(GString *text, char *line)
{
    assert_null(strchr(line, '\n'));
    g_string_append_printf(text, "%s\n", line);
    g_free(line);
}

static void test_round_trip(void **state)
{
    static const guint16 pages[] = {512, 512, 100};
    static const TraceDirty first[] = {{0, 5, 5}, {2, 100, 90}};
    static const TraceDirty second[] = {{1, 512, 0}};
    g_autoptr(GString) text = g_string_new(NULL);
    g_autoptr(GError) error = NULL;
    g_autoptr(Trace) trace = NULL;
    TraceSync sync;
    TraceRound round;

    add_line(text, trace_header_line(pages, 3, 117000, "web \"1\""));
    add_line(text, trace_sync_line(100, first, 2));
    add_line(text, trace_sync_line(200.5, NULL, 0));
    add_line(text, trace_round_line(&(TraceRound){250, 0, 4e6, 4104, 1e6}));
    add_line(text, trace_sync_line(300, second, 1));
    add_line(text, trace_end_line(412.25, 30, "converged"));
    trace = trace_parse(text->str, text->len, &error);
    assert_null(error);
    assert_int_equal(trace->group_count, 3);
    assert_memory_equal(trace->pages, pages, sizeof pages);
    assert_string_equal(trace->guest, "web \"1\"");
    assert_int_equal(trace->syncs->len, 3);
    sync = g_array_index(trace->syncs, TraceSync, 1);
    assert_true(sync.ms == 200.5 && sync.count == 0);
    sync = g_array_index(trace->syncs, TraceSync, 2);
    assert_int_equal(sync.first, 2);
    assert_memory_equal(&g_array_index(trace->entries, TraceDirty, 0), first, sizeof first);
    assert_memory_equal(&g_array_index(trace->entries, TraceDirty, 2), second, sizeof second);
    round = g_array_index(trace->rounds, TraceRound, 0);
    assert_true(round.sent_bytes == 4e6 && round.wire_per_page == 4104 && round.left_bytes == 1e6);
    assert_true(trace->ended && trace->total_ms == 412.25 && trace->downtime_ms == 30);
    assert_string_equal(trace->reason, "converged");
}

/* A move that was killed leaves no last line. */
static void test_cut_short(void **state)
{
    const char *text = HEADER "{\"ms\":1,\"dirty\":[]}";
    g_autoptr(Trace) trace = trace_parse(text, strlen(text), NULL);

    assert_non_null(trace);
    assert_int_equal(trace->syncs->len, 1);
    assert_false(trace->ended);
}

static void assert_refused(const char *text, const char *words)
{
    g_autoptr(GError) error = NULL;

    assert_null(trace_parse(text, strlen(text), &error));
    if (!strstr(error->message, words))
        fail_msg("\"%s\" has no \"%s\"", error->message, words);
}

static void test_refused_headers(void **state)
{
    assert_refused("", "empty");
    assert_refused("[]\n", "line 1: JSON is not an object");
    assert_refused("{\"ms\":1,\"dirty\":[]}\n", "line 1: \"trace\"");
    assert_refused("{\"trace\":2,\"group_pages\":512}", "\"trace\" is 2, known is 1 only");
    assert_refused("{\"trace\":1,\"group_pages\":256}", "\"group_pages\" is 256");
    assert_refused("{\"trace\":1,\"group_pages\":512,\"groups\":2,\"pages\":[1],"
                   "\"bytes_per_ms\":1,\"guest\":\"\"}",
                   "1 entries, not one of each group");
    assert_refused("{\"trace\":1,\"group_pages\":512,\"groups\":1,\"pages\":[513],"
                   "\"bytes_per_ms\":1,\"guest\":\"\"}",
                   "entry 0 is no count up to 512");
    assert_refused("{\"trace\":1,\"group_pages\":512,\"groups\":600000,\"pages\":[],"
                   "\"bytes_per_ms\":1,\"guest\":\"\"}",
                   "limit is 524288");
}

static void test_refused_lines(void **state)
{
    assert_refused(HEADER "{\"ms\":-1,\"dirty\":[]}", "line 2: \"ms\"");
    assert_refused(HEADER "{\"ms\":1e99,\"dirty\":[]}", "line 2: \"ms\"");
    assert_refused(HEADER "{\"ms\":2,\"dirty\":[]}\n{\"ms\":1,\"dirty\":[]}", "line 3: \"ms\" is");
    assert_refused(HEADER "{\"ms\":1}", "\"dirty\" is missing");
    assert_refused(HEADER "{\"ms\":1,\"dirty\":[[0,1]]}", "no [group, pages, new]");
    assert_refused(HEADER "{\"ms\":1,\"dirty\":[[0,1,2]]}", "no [group, pages, new]");
    assert_refused(HEADER "{\"ms\":1,\"dirty\":[[0,0,0]]}", "no [group, pages, new]");
    assert_refused(HEADER "{\"ms\":1,\"dirty\":[[0,513,0]]}", "no [group, pages, new]");
    assert_refused(HEADER "{\"ms\":1,\"dirty\":[[3,1,1]]}", "no [group, pages, new]");
    assert_refused(HEADER "{\"ms\":1,\"dirty\":[[\"0\",1,1]]}", "no [group, pages, new]");
    assert_refused(HEADER "{\"ms\":1,\"dirty\":[[1,1,1],[1,1,1]]}", "out of order");
    assert_refused(HEADER "{\"ms\":1,\"dirty\":[[0,1,1],[1,1,1],[2,1,1],[2,1,1]]}",
                   "longer than 3 entries");
    assert_refused(HEADER "{\"ms\":1,\"round\":1,\"sent\":1,\"wire_per_page\":1,\"left\":1}",
                   "\"round\" is 1, known is 0");
    assert_refused(HEADER "{\"ms\":1,\"round\":0,\"sent\":\"1\"}", "\"sent\"");
    assert_refused(HEADER "{\"total_ms\":1,\"downtime_ms\":1,\"reason\":\"x\"}\n{\"ms\":1}",
                   "behind the last");
    assert_refused(HEADER "\n", "line 2: not JSON");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_cut_short),
        cmocka_unit_test(test_refused_headers),
        cmocka_unit_test(test_refused_lines),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
