/* What users read, and the exit codes scripts read. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/output.h"
#include "cli/progress.h"
#include "cli/recording.h"
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
    assert_exits("{\"status\":\"completed\",\"error\":null}", EXIT_DONE, EXIT_ATTENTION);
    assert_exits("{\"status\":\"completed\",\"error\":\"the old process remains\"}", EXIT_ATTENTION,
                 EXIT_ATTENTION);
    assert_exits("{\"status\":\"failed\",\"error\":\"x\"}", EXIT_FAILED, EXIT_FAILED);
    assert_exits("{\"status\":\"cancelled\",\"error\":\"x\"}", EXIT_FAILED, EXIT_DONE);
    assert_exits("{\"status\":\"failed\",\"error\":\"x\",\"in_doubt\":true}", EXIT_ATTENTION,
                 EXIT_ATTENTION);
    assert_exits("{}", EXIT_FAILED, EXIT_FAILED);
}

static void test_what_was_cancelled(void **state)
{
    static const struct {
        const char *report, *text;
    } cases[] = {
        {"{\"status\":\"cancelled\"}", "The move of web1 is cancelled; it runs on here."},
        {"{\"kind\":\"migrate\",\"status\":\"completed\",\"destination\":\"hostb\"}",
         "Too late: web1 has moved to hostb."},
        {"{\"kind\":\"save\",\"status\":\"cancelled\"}",
         "The save of web1 is cancelled; it runs on here."},
        {"{\"kind\":\"save\",\"status\":\"completed\",\"destination\":\"/srv/web1.image\"}",
         "Too late: the save of web1 is complete."},
        {"{\"kind\":\"save\",\"status\":\"failed\",\"error\":\"no space\"}",
         "The save of web1 ended by itself: no space"},
        {"{\"kind\":\"protect\",\"status\":\"cancelled\"}",
         "The protection of web1 is cancelled; it runs on here."},
    };

    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(json_t) report = json_loads(cases[i].report, 0, NULL);
        g_autofree char *text = report_describe_cancel(report, "web1");

        assert_string_equal(text, cases[i].text);
    }
}

/* A move that never began has all the keys of the contract, too. */
static void test_made_report(void **state)
{
    static const char *const keys[] = {"status",      "mode",       "reason",      "total_ms",
                                       "downtime_ms", "wire_bytes", "ram_bytes",   "rounds",
                                       "verified",    "source",     "destination", "error",
                                       "disks",       "copies",     "files"};
    g_autoptr(json_t) report = report_make("web1", "hostb", "not-started", "no such \xff guest");

    for (guint i = 0; i < G_N_ELEMENTS(keys); i++)
        assert_non_null(json_object_get(report, keys[i]));
    assert_int_equal(report_get_exit(report), EXIT_FAILED);
    assert_string_equal(json_text_or(report, "guest", ""), "web1");
    assert_non_null(json_text_or(report, "error", NULL));
}

static void assert_progress(const char *fields, const char *words)
{
    g_autofree char *text = g_strdup_printf("{\"phase\":\"precopy\",\"round\":1,\"wire_bytes\":"
                                            "117000000,\"bytes_per_second\":1000000%s}",
                                            fields);
    g_autoptr(json_t) object = json_loads(text, 0, NULL);
    g_autofree char *shown = progress_describe(object);

    assert_string_equal(shown, words);
}

static void test_progress(void **state)
{
    assert_progress("", "copying, round 2, 117 MB, 1.0 MB/s");
    assert_progress(",\"eta_ms\":1200.0,\"run_share\":1.0,\"deferred_bytes\":0",
                    "copying, round 2, 117 MB, 1.0 MB/s, left 1.2 s");
    assert_progress(",\"run_share\":0.25,\"deferred_bytes\":512000000",
                    "copying, round 2, 117 MB, 1.0 MB/s, guest slowed to 25 %, 512 MB deferred");
}

static void test_progress_of_disks(void **state)
{
    g_autoptr(json_t) object =
        json_loads("{\"phase\":\"disks\",\"round\":0,\"round_bytes\":0,\"wire_bytes\":117000000,"
                   "\"bytes_per_second\":1000000,\"eta_ms\":null,\"disk_bytes\":2000000000,"
                   "\"disk_bytes_done\":500000000}",
                   0, NULL);
    g_autofree char *shown = progress_describe(object);

    assert_string_equal(shown, "copying disks, 500 MB of 2.0 GB, 117 MB, 1.0 MB/s");
}

/* What report_print() writes to standard output.  Free with g_free(). */
static char *capture_report(const char *text)
{
    g_autoptr(json_t) report = json_loads(text, 0, NULL);
    FILE *file = tmpfile();
    int before;
    GString *all = g_string_new(NULL);
    char line[512];

    assert_non_null(report);
    assert_non_null(file);
    fflush(stdout);
    before = dup(STDOUT_FILENO);
    dup2(fileno(file), STDOUT_FILENO);
    report_print(report, "web1");
    fflush(stdout);
    dup2(before, STDOUT_FILENO);
    close(before);
    rewind(file);
    while (fgets(line, sizeof line, file))
        g_string_append(all, line);
    fclose(file);
    return g_string_free(all, FALSE);
}

static void assert_says(const char *text, const char *words)
{
    if (!strstr(text, words))
        fail_msg("\"%s\" is missing in: %s", words, text);
}

static void test_report_of_copies(void **state)
{
    g_autofree char *shown = capture_report(
        "{\"status\":\"completed\",\"destination\":\"hostb\",\"verified\":true,\"error\":null,"
        "\"copies\":[{\"id\":\"virtio0\",\"device\":\"virtio-disk0\",\"mode\":\"copy\","
        "\"source\":\"/srv/web1.qcow2\",\"destination\":\"/data/web1.qcow2\","
        "\"copied_bytes\":2000000000,\"zero_bytes\":5000000,\"wire_bytes\":900000000,"
        "\"copy_ms\":9000.0,\"in_sync_ms\":1200.0,\"verified\":true},"
        "{\"id\":\"data\",\"destination\":\"/data/d.raw\",\"copied_bytes\":1000000,"
        "\"zero_bytes\":0,\"same_bytes\":7000000,\"wire_bytes\":1000000,\"verified\":null}],"
        "\"disks\":[{\"device\":\"virtio-disk0\",\"source\":\"/srv/web1.qcow2\","
        "\"destination\":\"/data/web1.qcow2\",\"same_by\":\"copied\"}]}");

    assert_says(shown, "virtio0 copied to /data/web1.qcow2: 2.0 GB (900 MB sent), 5.0 MB of zeros "
                       "left out; verified\n");
    assert_says(shown, "data copied to /data/d.raw: 1.0 MB (1.0 MB sent), 0 B of zeros left out, "
                       "7.0 MB were there already\n");
    assert_says(shown, "made there");
}

static void test_hard_guests(void **state)
{
    g_autoptr(json_t) easy = json_loads("{\"memory_intensive\":false,\"throttle\":null}", 0, NULL);
    g_autoptr(json_t) hard =
        json_loads("{\"memory_intensive\":true,\"deferred_bytes\":512000000,"
                   "\"throttle\":{\"means\":\"duty\",\"least_run_share\":0.2,\"ms\":3200.0}}",
                   0, NULL);
    g_auto(GStrv) nothing = report_describe_guest(easy);
    g_auto(GStrv) sentences = report_describe_guest(hard);

    assert_null(nothing[0]);
    assert_int_equal(g_strv_length(sentences), 2);
    assert_string_equal(sentences[0], "writes its memory faster than it can be sent "
                                      "(memory-intensive); 512 MB of it waited for the pause");
    assert_string_equal(sentences[1],
                        "was slowed for 3.2 s, to 20 % of its time at the least (duty)");
}

static void take(Recording *recording, const char *text, gboolean taken)
{
    g_autoptr(json_t) object = json_loads(text, 0, NULL);

    assert_non_null(object);
    assert_int_equal(recording_take(recording, object), taken);
}

static void test_recording(void **state)
{
    g_autofree char *folder = g_dir_make_tmp("vmferry-XXXXXX", NULL);
    g_autofree char *path = g_build_filename(folder, "trace", NULL);
    g_autofree char *text = NULL;
    g_autoptr(GError) error = NULL;
    Recording recording;
    struct stat status;

    assert_true(g_file_set_contents(path, "older and longer than what comes", -1, NULL));
    assert_true(recording_open(&recording, path, NULL));
    take(&recording, "{\"phase\":\"precopy\",\"round\":1}", FALSE);
    take(&recording, "{\"type\":\"trace\",\"line\":\"{\\\"ms\\\":1}\"}", TRUE);
    take(&recording, "{\"type\":\"trace\",\"line\":\"{}\"}", TRUE);
    assert_true(recording_close(&recording, NULL));
    assert_true(g_file_get_contents(path, &text, NULL, NULL));
    assert_string_equal(text, "{\"ms\":1}\n{}\n");
    unlink(path);
    assert_true(recording_open(&recording, path, NULL));
    assert_int_equal(stat(path, &status), 0);
    assert_int_equal(status.st_mode & 07777, 0600);
    take(&recording, "{\"type\":\"trace\",\"dropped\":3}", TRUE);
    assert_false(recording_close(&recording, &error));
    assert_non_null(strstr(error->message, "trace is not whole: this side was too slow"));
    unlink(path);
    rmdir(folder);
}

/* A full disk ends the recording, not the move. */
static void test_recording_without_space(void **state)
{
    g_autoptr(GError) error = NULL;
    Recording recording;

    assert_true(recording_open(&recording, "/dev/full", NULL));
    take(&recording, "{\"type\":\"trace\",\"line\":\"x\"}", TRUE);
    take(&recording, "{\"type\":\"trace\",\"line\":\"x\"}", TRUE);
    assert_false(recording_close(&recording, &error));
    assert_non_null(strstr(error->message, "No space left"));
    assert_true(recording_open(&recording, NULL, NULL));
    take(&recording, "{\"type\":\"trace\",\"line\":\"x\"}", TRUE);
    assert_true(recording_close(&recording, NULL));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_times),
        cmocka_unit_test(test_ages),
        cmocka_unit_test(test_bar),
        cmocka_unit_test(test_exit_codes),
        cmocka_unit_test(test_what_was_cancelled),
        cmocka_unit_test(test_made_report),
        cmocka_unit_test(test_recording),
        cmocka_unit_test(test_progress),
        cmocka_unit_test(test_progress_of_disks),
        cmocka_unit_test(test_report_of_copies),
        cmocka_unit_test(test_hard_guests),
        cmocka_unit_test(test_recording_without_space),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
