/* The engine's configuration file. */
#include "scratch.h"

#include <string.h>

#include "base/error.h"
#include "engine/settings.h"

static EngineSettings *parse(const char *text, GError **error)
{
    g_autoptr(EngineSettings) settings = engine_settings_new();

    return engine_settings_parse(settings, text, strlen(text), "engine.conf", error)
               ? g_steal_pointer(&settings)
               : NULL;
}

static void refuse(const char *text, const char *words)
{
    GError *error = NULL;

    assert_null(parse(text, &error));
    assert_error_says(error, VMFERRY_ERROR_INVALID, words);
}

static void test_every_key(void **state)
{
    g_autoptr(EngineSettings) s =
        parse("[engine]\nname = e1\nhosts = hosta, b=unix:/run/b.sock\n"
              "listen = [::1]:80\nstore = /x/e.db\npki = /x/pki\n"
              "token-file = /x/token\nallow = ann, bob\nnames = engine.example\n"
              "automatic = false\ninterval = 1s\njudge-after = 2m\n"
              "[store]\netcd = http://e1:1234, http://e2/, e3\nprefix = /mine\nlease = 4s\n"
              "[hot]\nreading = 500ms\nsamples = 4 of 6\ncpu = 90%\ncpu-early = 0\nlink = 0.7\n"
              "swap-out = 2M\nmemory-pressure = 5%\n"
              "[limits]\nmoves = 3\nmoves-per-host = 2\n"
              "moves-per-host-hour = 9\ncool-down = 5m\n"
              "plan-expires = 30s\nleast-profit = 1.5\n"
              "destination-cpu = 60%\ndestination-link = 50%\n"
              "look-ahead = 30m\nmemory-overcommit = 1.5\n"
              "memory-reserve = 10%\nbandwidth-share = 25%\n"
              "quiet-hours = 22:00-06:00, 12:00-13:30\n"
              "[host c]\naddress = 10.0.0.3\nmoves = 10.1.0.3:4747\n",
              NULL);
    const EngineHostSetting *host;

    assert_non_null(s);
    assert_int_equal(s->hosts->len, 3);
    host = s->hosts->pdata[0];
    assert_string_equal(host->name, "hosta");
    host = s->hosts->pdata[1];
    assert_string_equal(host->name, "b");
    assert_string_equal(host->address, "unix:/run/b.sock");
    host = s->hosts->pdata[2];
    assert_string_equal(host->moves, "10.1.0.3:4747");
    assert_false(s->automatic);
    assert_true(s->judge_ms == 120000);
    assert_int_equal(s->thresholds.k, 4);
    assert_int_equal(s->thresholds.n, 6);
    assert_true(s->reading_ms == 500);
    assert_true(s->thresholds.cpu_early == 0);
    assert_true(s->thresholds.cpu == 0.9 && s->thresholds.swap_out == 2e6);
    assert_string_equal(s->etcd, "etcd://e1:1234,e2,e3");
    assert_string_equal(s->etcd_prefix, "/mine/");
    assert_true(s->etcd_lease_ms == 4000);
    assert_int_equal(s->limits.moves, 3);
    assert_true(s->limits.cool_down_ms == 300000 && s->limits.plan_ms == 30000);
    assert_true(s->memory_reserve == 0.1 && s->bandwidth_share == 0.25);
    assert_int_equal(s->quiet_hours->len, 2);
    assert_int_equal(g_array_index(s->quiet_hours, ClusterQuietHours, 0).from_minute, 22 * 60);
    assert_string_equal(s->allow[1], "bob");
    assert_string_equal(s->names[0], "engine.example");
    assert_null(s->names[1]);
}

static void test_refuses(void **state)
{
    refuse("[engine]\nhost = a\n", "unknown key; there are name, hosts");
    refuse("[other]\na = b\n", "unknown group");
    /* A threshold that is left empty is no threshold: it must not pass as one. */
    refuse("[hot]\ncpu =\n", "[hot]: cpu: is empty");
    refuse("[limits]\nmoves-per-host =\n", "is empty");
    refuse("[hot]\ncpu = 140%\n", "is not a share");
    refuse("[hot]\ncpu = -1\n", "is not a share");
    refuse("[hot]\nreading = 5m\n", "100ms to 60s");
    refuse("[hot]\nsamples = 7 of 5\n", "K of N");
    refuse("[limits]\nquiet-hours = 25:00-06:00\n", "22:00-06:00");
    refuse("[limits]\ncool-down = soon\n", "time");
    refuse("[engine]\nhosts = a, a\n", "is there twice");
    refuse("[engine]\nhosts = unix:relative\n", "absolute path");
    refuse("[engine]\nstore = engine.db\n", "absolute path");
    refuse("[engine]\ninterval = 1m\n", "100ms to 5s");
    refuse("[store]\nlease = 1s\n", "2s to 600s, in whole seconds");
    refuse("[store]\nlease = 2500ms\n", "in whole seconds");
    refuse("[store]\netcd = http://\n", "names no member");
    refuse("[store]\netcd = http://a:99999\n", "not a valid address");
    refuse("[store]\netcd = ,\n", "names no member");
    refuse("[store]\netcd = a,b,c,d,e,f,g,h,i\n", "at most 8 members");
    refuse("[store]\npath = /x\n", "there are etcd, prefix, lease");
    refuse("[host x]\nmoves = y\n", "has no address");
    refuse("[host x]\naddress = y\nport = 4\n", "port: unknown key");
}

static void test_etcd_by_http_only(void **state)
{
    g_autoptr(EngineSettings) settings = engine_settings_new();
    GError *error = NULL;

    assert_true(engine_settings_set_etcd(settings, "etcd://a,b:1", NULL));
    assert_string_equal(settings->etcd, "etcd://a,b:1");
    assert_false(engine_settings_set_etcd(settings, "https://a", &error));
    assert_error_says(error, VMFERRY_ERROR_UNSUPPORTED, "http:// only");
    assert_string_equal(settings->etcd, "etcd://a,b:1");
}

static void test_defaults_hold(void **state)
{
    g_autoptr(EngineSettings) settings = parse("", NULL);

    assert_non_null(settings);
    assert_true(settings->automatic);
    assert_string_equal(settings->listen, "127.0.0.1:4750");
    assert_null(settings->etcd);
    assert_true(cluster_thresholds_check(&settings->thresholds, NULL));
    g_clear_pointer(&settings, engine_settings_free);
    /* Lower thresholds do not contradict what was not said. */
    settings = parse("[hot]\ncpu = 50%\n", NULL);
    assert_non_null(settings);
    assert_true(settings->thresholds.cpu_early > 0.4 && settings->thresholds.cpu_early < 0.5);
    assert_true(cluster_limits_check(&settings->limits, NULL));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_key),
        cmocka_unit_test(test_refuses),
        cmocka_unit_test(test_etcd_by_http_only),
        cmocka_unit_test(test_defaults_hold),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
