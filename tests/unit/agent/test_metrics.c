/* The text that a Prometheus reads. */
#include "scratch.h"

#include <string.h>

#include "agent/metrics.h"

static void test_no_guest(void **state)
{
    g_autoptr(json_t) guests = json_array();
    g_autofree char *text = metrics_write(guests, NULL);

    assert_non_null(strstr(text, "\nvmferry_guests 0\n"));
    assert_null(strstr(text, "vmferry_epochs_total"));
}

static void test_load(void **state)
{
    g_autoptr(json_t) guests = json_array();
    g_autoptr(LoadReport) load = load_report_new();
    g_autofree char *text = NULL;

    load->host.memory_bytes = 4096;
    text = metrics_write(guests, load);
    assert_non_null(strstr(text, "\nvmferry_guests 0\n"));
    assert_non_null(strstr(text, "\nvmferry_host_memory_bytes 4096\n"));
}

static void test_protected(void **state)
{
    g_autoptr(json_t) guests = json_pack(
        "[{s:s, s:s, s:s, s:n}, {s:s, s:s, s:s, s:{s:{s:b, s:{s:I, s:f, s:I}}}}]", "name", "web1",
        "state", "running", "role", "ours", "activity", "name", "web2", "state", "protected",
        "role", "postcopy", "activity", "progress", "standby_connected", 1, "checkpoints", "epochs",
        (json_int_t)9007199254740993, "pause_p99_ms", 12.5, "age_ms", (json_int_t)250);
    g_autofree char *text = metrics_write(guests, NULL);

    assert_non_null(guests);
    assert_non_null(strstr(text, "\nvmferry_guests 2\n"));
    assert_non_null(
        strstr(text, "\nvmferry_guest_info{guest=\"web1\",state=\"running\",role=\"ours\"} 1\n"));
    assert_non_null(strstr(text, "\nvmferry_standby_connected{guest=\"web2\"} 1\n"));
    assert_non_null(strstr(text, "# TYPE vmferry_epochs_total counter\n"
                                 "vmferry_epochs_total{guest=\"web2\"} 9007199254740993\n"));
    assert_non_null(strstr(text, "\nvmferry_epoch_pause_p99_seconds{guest=\"web2\"} 0.0125"));
    assert_non_null(strstr(text, "\nvmferry_epoch_age_seconds{guest=\"web2\"} 0.25\n"));
    assert_null(strstr(text, "{guest=\"web1\"}"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_no_guest),
        cmocka_unit_test(test_load),
        cmocka_unit_test(test_protected),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
