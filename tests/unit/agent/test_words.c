/* Names, rates, addresses: what users type. */
#include "scratch.h"

#include <string.h>

#include "agent/certificate.h"
#include "base/name.h"
#include "agent/peers.h"
#include "base/quantity.h"
#include "base/rate.h"
#include "agent/settings.h"
#include "base/error.h"

static void test_names(void **state)
{
    static const char *const good[] = {"a", "web1", "Web-1.example_x", "...", "-x", ".hidden"};
    static const char *const bad[] = {"", ".", "..", "a/b", "a b", "a\n", "\xff", "ü", "a;b"};
    g_autofree char *longest = g_strnfill(64, 'x');
    g_autofree char *too_long = g_strnfill(65, 'x');

    for (guint i = 0; i < G_N_ELEMENTS(good); i++)
        assert_true(guest_name_check(good[i], NULL));
    for (guint i = 0; i < G_N_ELEMENTS(bad); i++) {
        GError *error = NULL;

        assert_false(guest_name_check(bad[i], &error));
        assert_error_says(error, VMFERRY_ERROR_INVALID, "is not a valid name for a guest");
    }
    assert_true(guest_name_check(longest, NULL));
    assert_false(guest_name_check(too_long, NULL));
    assert_false(guest_name_check(NULL, NULL));
}

static void test_certificates_are_told_of_in_time(void **state)
{
    assert_int_equal(certificate_judge(-1), CERTIFICATE_EXPIRED);
    assert_int_equal(certificate_judge(0), CERTIFICATE_ENDS_SOON);
    assert_int_equal(certificate_judge(14 * 86400 - 1), CERTIFICATE_ENDS_SOON);
    assert_int_equal(certificate_judge(14 * 86400), CERTIFICATE_GOOD);
}

static void test_transaction_ids(void **state)
{
    assert_true(transaction_id_check("0123456789abcdef0123456789abcdef", NULL));
    assert_false(transaction_id_check("0123456789ABCDEF0123456789abcdef", NULL));
    assert_false(transaction_id_check("0123456789abcdef0123456789abcde", NULL));
    assert_false(transaction_id_check("0123456789abcdef0123456789abcdef0", NULL));
    assert_false(transaction_id_check("../../../../etc/passwd0000000000", NULL));
    assert_false(transaction_id_check(NULL, NULL));
}

static void test_rates(void **state)
{
    static const struct {
        const char *text;
        uint64_t rate;
    } good[] = {
        {"0", 0},
        {"unlimited", 0},
        {"1", 1},
        {"1250000", 1250000},
        {"100M", 100000000},
        {"100m", 100000000},
        {"100MB/s", 100000000},
        {"1.5G", 1500000000},
        {"64Ki", 65536},
        {"1GiB", 1073741824},
        {"100mbit", 12500000},
        {"1gbit", 125000000},
        {"1Gbit/s", 125000000},
        {"8bit", 1},
        {"800k", 800000},
    };
    static const char *const bad[] = {"",       "M",    "-1",   "1X",        "inf",
                                      "nan",    "0x10", "1 2",  "100T000",   "1e300",
                                      "99999T", "0.1",  "1bit", "10 bananas"};

    for (guint i = 0; i < G_N_ELEMENTS(good); i++) {
        uint64_t rate = 42;

        assert_true(rate_parse(good[i].text, &rate, NULL));
        assert_int_equal(rate, good[i].rate);
    }
    for (guint i = 0; i < G_N_ELEMENTS(bad); i++) {
        GError *error = NULL;
        uint64_t rate;

        if (rate_parse(bad[i], &rate, &error))
            fail_msg("\"%s\" was taken for a rate", bad[i]);
        assert_error_says(error, VMFERRY_ERROR_INVALID,
                          "is not a valid rate: write bytes per second as 100M");
    }
}

static void test_durations(void **state)
{
    static const struct {
        const char *text;
        double ms;
    } good[] = {
        {"1", 1},     {"300", 300},  {"500ms", 500},   {"2s", 2000},     {"1.5s", 1500},
        {"2S", 2000}, {"1m", 60000}, {"1min", 60000},  {"60m", 3600000}, {"1h", 3600000},
        {"0", 0},     {"0.5", 0.5},  {"1e300", 1e300},
    };
    static const char *const bad[] = {"", "s", "-1", "soon", "inf", "0x10", "1 s", "1d", "1sec"};

    for (guint i = 0; i < G_N_ELEMENTS(good); i++) {
        double ms = 42;

        assert_true(time_parse(good[i].text, &ms, NULL));
        assert_true(ms == good[i].ms);
    }
    for (guint i = 0; i < G_N_ELEMENTS(bad); i++) {
        GError *error = NULL;
        double ms;

        if (time_parse(bad[i], &ms, &error))
            fail_msg("\"%s\" was taken for a time", bad[i]);
        assert_error_says(error, VMFERRY_ERROR_INVALID, "is not a valid time: write 500ms, 2s, 1m");
    }
}

static void test_sizes(void **state)
{
    static const struct {
        const char *text;
        double bytes;
    } good[] = {
        {"1024", 1024},   {"1M", 1000000},  {"1.5g", 1500000000},
        {"64Ki", 65536},  {"64KiB", 65536}, {"1GiB", 1073741824},
        {"2MB", 2000000}, {"5000b", 5000},  {"1T", 1000000000000},
    };
    static const char *const bad[] = {"", "M", "-1", "all", "inf", "0x10", "1 M", "1Mbit", "1M/s"};

    for (guint i = 0; i < G_N_ELEMENTS(good); i++) {
        double bytes = 42;

        assert_true(size_parse(good[i].text, &bytes, NULL));
        assert_true(bytes == good[i].bytes);
    }
    for (guint i = 0; i < G_N_ELEMENTS(bad); i++) {
        GError *error = NULL;
        double bytes;

        if (size_parse(bad[i], &bytes, &error))
            fail_msg("\"%s\" was taken for a size", bad[i]);
        assert_error_says(error, VMFERRY_ERROR_INVALID, "is not a valid size: write 500M, 64Mi");
    }
}

static void assert_text(char *text, const char *wanted)
{
    assert_string_equal(text, wanted);
    g_free(text);
}

static void test_amounts_in_words(void **state)
{
    assert_text(time_format(1), "1 ms");
    assert_text(time_format(1500), "1500 ms");
    assert_text(time_format(90000), "90 s");
    assert_text(time_format(86400000), "24 h");
    assert_text(size_format(1000), "1000");
    assert_text(size_format(1 << 20), "1Mi");
    assert_text(size_format((uint64_t)1 << 40), "1024Gi");
}

static void test_rates_in_words(void **state)
{
    g_autofree char *small = bytes_format(17);
    g_autofree char *middle = bytes_format(12345678);
    g_autofree char *rate = rate_format(117400000);

    assert_string_equal(small, "17 B");
    assert_string_equal(middle, "12.3 MB");
    assert_string_equal(rate, "117 MB/s");
}

static void assert_split(const char *address, const char *host, guint16 port)
{
    g_autofree char *got_host = NULL;
    guint16 got_port;

    assert_true(settings_split_address(address, CHANNEL_DEFAULT_PORT, &got_host, &got_port, NULL));
    assert_string_equal(got_host, host);
    assert_int_equal(got_port, port);
}

static void test_addresses(void **state)
{
    static const char *const bad[] = {"", "a:b", "a:70000", "a:-1", "a:"};

    assert_split("10.0.0.1:5000", "10.0.0.1", 5000);
    assert_split("10.0.0.1", "10.0.0.1", 4747);
    assert_split(":5000", "0.0.0.0", 5000);
    assert_split("[::1]:5000", "::1", 5000);
    assert_split("[::1]", "::1", 4747);
    assert_split("fe80::1", "fe80::1", 4747);
    for (guint i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autofree char *host = NULL;
        guint16 port;
        GError *error = NULL;

        assert_false(settings_split_address(bad[i], CHANNEL_DEFAULT_PORT, &host, &port, &error));
        assert_error_says(error, VMFERRY_ERROR_INVALID, "is not a valid address");
    }
}

static void test_allow_list(void **state)
{
    char *two[] = {(char *)"hosta", (char *)"HostB.example", NULL};
    char *none[] = {NULL};

    assert_true(peers_is_allowed(none, "anybody"));
    assert_true(peers_is_allowed(two, "hosta"));
    assert_true(peers_is_allowed(two, "hostb.example"));
    assert_false(peers_is_allowed(two, "hostb"));
    assert_false(peers_is_allowed(two, ""));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_certificates_are_told_of_in_time),
        cmocka_unit_test(test_transaction_ids),
        cmocka_unit_test(test_durations),
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_amounts_in_words),
        cmocka_unit_test(test_rates),
        cmocka_unit_test(test_rates_in_words),
        cmocka_unit_test(test_addresses),
        cmocka_unit_test(test_allow_list),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
