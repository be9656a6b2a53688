/* A look as JSON and as metrics: what is not known is null, and has no sample. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "collect/load_report.h"

static void test_nothing_known(void **state)
{
    g_autoptr(LoadReport) report = load_report_new();
    g_autoptr(json_t) object = NULL;
    g_autoptr(GString) text = g_string_new(NULL);
    static const char *const keys[] = {"interval_ms",
                                       "cpus",
                                       "cpu_used",
                                       "run_queue",
                                       "memory_bytes",
                                       "memory_available_bytes",
                                       "swap_bytes",
                                       "swap_free_bytes",
                                       "swap_in_bytes_per_s",
                                       "swap_out_bytes_per_s",
                                       "links"};
    LoadGuest *guest = load_report_add_guest(report);
    json_t *entry;

    host_figures_find(NULL, &report->host, &report->figures);
    guest->facts.name = g_strdup("web1");
    object = load_report_to_json(report);
    for (guint i = 0; i < G_N_ELEMENTS(keys); i++) {
        assert_non_null(json_object_get(object, keys[i]));
        assert_true(json_is_null(json_object_get(object, keys[i])));
    }
    assert_true(json_is_null(
        json_object_get(json_object_get(json_object_get(object, "pressure"), "io"), "full")));
    entry = json_array_get(json_object_get(object, "guests"), 0);
    assert_string_equal(json_string_value(json_object_get(entry, "name")), "web1");
    assert_true(json_is_null(json_object_get(entry, "vcpus")));
    assert_true(json_is_null(json_object_get(entry, "cpu_wait")));
    assert_true(json_is_null(json_object_get(json_object_get(entry, "disk"), "flushes_per_s")));
    assert_true(json_is_null(json_object_get(json_object_get(entry, "network"), "backlog_bytes")));
    load_report_write_metrics(report, text);
    assert_string_equal(text->str, "");
}

static LoadReport *make_report(void)
{
    LoadReport *report = load_report_new();
    Link link = {.name = "e\"0\\",
                 .index = 2,
                 .kind = LINK_PHYSICAL,
                 .up = TRUE,
                 .received_bytes = 5,
                 .sent_bytes = 6,
                 .speed = 125e6};
    LoadGuest *guest;

    report->wall = 1790000000.123;
    report->host.time = (LookTime){UINT64_C(123456789000), UINT64_C(123456789000)};
    report->host.cpus = 1.5;
    report->host.cpu_ns = UINT64_C(2500000000);
    report->host.memory_bytes = 1 << 20;
    report->host.pressure.cpu_some_us = 1500000;
    report->host.links = g_array_new(FALSE, FALSE, sizeof link);
    g_array_append_val(report->host.links, link);
    host_figures_find(NULL, &report->host, &report->figures);
    report->figures.cpu_used = 1.0 / 3;
    report->figures.moves.sent = 1234.6;
    g_ptr_array_add(report->problems, g_strdup("no PSI"));
    guest = load_report_add_guest(report);
    guest->facts = (LoadGuestFacts){.name = g_strdup("web1"),
                                    .id = g_strdup("17"),
                                    .role = g_strdup("ours"),
                                    .state = g_strdup("running"),
                                    .term = 3,
                                    .vcpus = 2,
                                    .memory_bytes = 4096};
    guest->reading.resident_bytes = 2048;
    guest->reading.taps = g_array_new(FALSE, FALSE, sizeof(TapReading));
    for (guint i = 1; i <= 2; i++) {
        TapReading tap = {.index = i, .received_bytes = 10 * i, .sent_bytes = 100 * i};

        g_array_append_val(guest->reading.taps, tap);
    }
    guest->figures.cpu_wait = 0.25;
    return report;
}

static void test_json(void **state)
{
    g_autoptr(LoadReport) report = make_report();
    g_autoptr(json_t) object = load_report_to_json(report);
    char *text = json_dumps(object, JSON_LINE);

    assert_non_null(strstr(text, "\"time_ms\":123456,"));
    assert_non_null(strstr(text, "\"wall\":1790000000.123,"));
    assert_non_null(strstr(text, "\"cpus\":1.5,\"cpu_used\":0.333333,"));
    assert_non_null(strstr(text, "\"sent_bytes_per_s\":1235,"));
    assert_non_null(strstr(text, "\"name\":\"e\\\"0\\\\\",\"speed_bytes_per_s\":125000000,"));
    assert_non_null(strstr(text, "\"problems\":[\"no PSI\"]"));
    assert_non_null(strstr(text, "\"name\":\"web1\",\"id\":\"17\",\"term\":3,\"role\":\"ours\","
                                 "\"state\":\"running\",\"vcpus\":2,\"memory_bytes\":4096,"));
    assert_non_null(strstr(text, "\"cpu_wait\":0.25,\"resident_bytes\":2048,"
                                 "\"swapped_bytes\":null,"));
    free(text);
}

static void test_metrics(void **state)
{
    g_autoptr(LoadReport) report = make_report();
    g_autoptr(GString) text = g_string_new(NULL);

    load_report_write_metrics(report, text);
    assert_non_null(strstr(text->str, "# TYPE vmferry_host_cpu_seconds_total counter\n"
                                      "vmferry_host_cpu_seconds_total 2.5\n"));
    assert_non_null(strstr(text->str, "\nvmferry_host_memory_bytes 1048576\n"));
    assert_non_null(strstr(
        text->str, "\nvmferry_host_pressure_seconds_total{resource=\"cpu\",tasks=\"some\"} 1.5\n"));
    assert_null(strstr(text->str, "resource=\"io\""));
    assert_non_null(
        strstr(text->str, "\nvmferry_host_link_sent_bytes_total{link=\"e\\\"0\\\\\"} 6\n"));
    /* What taps receive is sent by the guest. */
    assert_non_null(
        strstr(text->str, "\nvmferry_guest_network_sent_bytes_total{guest=\"web1\"} 30\n"));
    assert_non_null(
        strstr(text->str, "\nvmferry_guest_network_received_bytes_total{guest=\"web1\"} 300\n"));
    assert_non_null(strstr(text->str, "\nvmferry_guest_cpu_wait_ratio{guest=\"web1\"} 0.25\n"));
    assert_null(strstr(text->str, "vmferry_guest_disk"));
    assert_null(strstr(text->str, "vmferry_host_swap"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nothing_known),
        cmocka_unit_test(test_json),
        cmocka_unit_test(test_metrics),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
