/* What people read, and the exit codes scripts read. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "cli/output.h"
#include "cli/progress.h"
#include "cli/report.h"

static void test_times(void **state)
{
    static const struct {
        double ms;
        const char *text;
    } cases[] = {
        {0, "0.0 ms"},   {12.34, "12.3 ms"}, {99.97, "100 ms"},
        {500, "500 ms"}, {1500, "1.5 s"},    {125000, "2 min 5 s"},
    };

    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *text = format_ms(cases[i].ms);

        assert_string_equal(text, cases[i].text);
    }
}

static void test_ages(void **state)
{
    static const struct {
        int64_t seconds;
        const char *text;
    } cases[] = {
        {-5, "0 s"}, {7, "7 s"}, {600, "10 min"}, {3600 * 5, "5 h"}, {86400 * 3, "3 days"},
    };

    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *text = format_age(cases[i].seconds);

        assert_string_equal(text, cases[i].text);
    }
}

static void test_bar(void **state)
{
    g_autofree char *empty = progress_format_bar(0, 10);
    g_autofree char *half = progress_format_bar(0.5, 10);
    g_autofree char *full = progress_format_bar(7, 10);
    g_autofree char *odd = progress_format_bar(-1, 10);

    assert_string_equal(empty, "[          ]   0 %");
    assert_string_equal(half, "[#####     ]  50 %");
    assert_string_equal(full, "[##########] 100 %");
    assert_string_equal(odd, empty);
}

static void assert_exits(const char *text, CliExit migrate, CliExit cancel)
{
    g_autoptr(json_t) report = json_loads(text, 0, NULL);

    assert_non_null(report);
    assert_int_equal(report_get_exit(report), migrate);
    assert_int_equal(report_get_cancel_exit(report), cancel);
}

static void test_exit_codes(void **state)
{
    assert_exits("{\"status\":\"completed\",\"error\":null}", EXIT_DONE, EXIT_LOOK);
    assert_exits("{\"status\":\"completed\",\"error\":\"the old process remains\"}", EXIT_LOOK,
                 EXIT_LOOK);
    assert_exits("{\"status\":\"failed\",\"error\":\"x\"}", EXIT_FAILED, EXIT_FAILED);
    assert_exits("{\"status\":\"cancelled\",\"error\":\"x\"}", EXIT_FAILED, EXIT_DONE);
    assert_exits("{\"status\":\"failed\",\"error\":\"x\",\"in_doubt\":true}", EXIT_LOOK, EXIT_LOOK);
    assert_exits("{}", EXIT_FAILED, EXIT_FAILED);
}

/* A move that never began has all the keys of the contract, too. */
static void test_made_report(void **state)
{
    static const char *const keys[] = {"status",      "mode",       "reason",      "total_ms",
                                       "downtime_ms", "wire_bytes", "ram_bytes",   "rounds",
                                       "verified",    "source",     "destination", "error"};
    g_autoptr(json_t) report = report_make("web1", "hostb", "not-started", "no such \xff guest");

    for (guint i = 0; i < G_N_ELEMENTS(keys); i++)
        assert_non_null(json_object_get(report, keys[i]));
    assert_int_equal(report_get_exit(report), EXIT_FAILED);
    assert_string_equal(json_text_or(report, "guest", ""), "web1");
    assert_non_null(json_text_or(report, "error", NULL));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_times),       cmocka_unit_test(test_ages),
        cmocka_unit_test(test_bar),         cmocka_unit_test(test_exit_codes),
        cmocka_unit_test(test_made_report),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
