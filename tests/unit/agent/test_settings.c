#include "scratch.h"

#include <string.h>

#include "agent/settings.h"
#include "base/error.h"
#include "identity/confinement.h"

static AgentSettings *parse(const char *text, GError **error)
{
    AgentSettings *settings = agent_settings_new();

    if (agent_settings_parse(settings, text, strlen(text), "agent.conf", error))
        return settings;
    agent_settings_free(settings);
    return NULL;
}

static void test_defaults(void **state)
{
    g_autoptr(AgentSettings) settings = agent_settings_new();

    assert_string_equal(settings->listen, "0.0.0.0:4747");
    assert_string_equal(settings->socket, "/run/vmferry/agent.sock");
    assert_string_equal(settings->state_dir, "/var/lib/vmferry");
    assert_string_equal(settings->runtime_dir, "/run/vmferry");
    assert_string_equal(settings->pki_dir, "/etc/vmferry/pki");
    assert_false(settings->insecure);
    assert_null(settings->allow[0]);
    assert_null(settings->metrics_root);
    assert_int_equal(settings->allow_unconfined, 0);
    assert_true(settings->store_memory == SETTINGS_STORE_AUTO);
    assert_int_equal(settings->moves.bandwidth_bytes_per_second, 0);
    assert_int_equal(settings->moves.max_downtime_ms, 300);
    assert_int_equal(settings->moves.downtime_cap_ms, 2000);
    assert_int_equal(settings->moves.memory_budget_bytes, 0);
    assert_int_equal(settings->moves.streams, 0);
    assert_int_equal(settings->moves.throttle, THROTTLE_AUTO);
    assert_int_equal(settings->moves.tracker, TRACKER_AUTO);
    assert_int_equal(settings->rules->len, 0);
}

static void test_every_key(void **state)
{
    g_autoptr(AgentSettings) settings = parse("# all of it\n"
                                              "[agent]\n"
                                              "listen = [::]:5000\n"
                                              "socket = /tmp/s\n"
                                              "state-dir = /tmp/state\n"
                                              "runtime-dir = /tmp/run\n"
                                              "pki = /tmp/pki\n"
                                              "insecure = true\n"
                                              "allow = hosta, hostb  hostc\n"
                                              "allow-unconfined = cgroup, netns\n"
                                              "store-memory = 8Gi\n"
                                              "alone-after = 60\n"
                                              "launch-ahead = false\n"
                                              "bandwidth = 100mbit\n"
                                              "max-downtime = 50\n"
                                              "downtime-cap = 1.5s\n"
                                              "memory-budget = 64Mi\n"
                                              "streams = 4\n"
                                              "throttle = duty\n"
                                              "tracker = uffd-sync\n"
                                              "api = :4748\n"
                                              "[api]\n"
                                              "read = grafana, hosta\n"
                                              "operate = engine1\n"
                                              "[map]\n"
                                              "disks = /srv/a => /data/b\n"
                                              "tap0 = tap0 => tap7\n"
                                              "[metrics]\n"
                                              "root = /sys/fs/cgroup/a\n",
                                              NULL);
    const SettingsMapRule *rule;

    assert_non_null(settings);
    assert_string_equal(settings->listen, "[::]:5000");
    assert_string_equal(settings->socket, "/tmp/s");
    assert_string_equal(settings->api, ":4748");
    assert_int_equal(g_strv_length(settings->api_read), 2);
    assert_string_equal(settings->api_operate[0], "engine1");
    assert_int_equal(settings->alone_after, 60);
    assert_false(settings->launch_ahead);
    assert_string_equal(settings->metrics_root, "/sys/fs/cgroup/a");
    assert_string_equal(settings->state_dir, "/tmp/state");
    assert_string_equal(settings->runtime_dir, "/tmp/run");
    assert_string_equal(settings->pki_dir, "/tmp/pki");
    assert_true(settings->insecure);
    assert_int_equal(g_strv_length(settings->allow), 3);
    assert_string_equal(settings->allow[2], "hostc");
    assert_int_equal(settings->allow_unconfined, CONFINEMENT_CGROUP | CONFINEMENT_NETNS);
    assert_int_equal(settings->store_memory, (uint64_t)8 << 30);
    assert_int_equal(settings->moves.bandwidth_bytes_per_second, 12500000);
    assert_int_equal(settings->moves.max_downtime_ms, 50);
    assert_int_equal(settings->moves.downtime_cap_ms, 1500);
    assert_int_equal(settings->moves.memory_budget_bytes, 64 << 20);
    assert_int_equal(settings->moves.streams, 4);
    assert_int_equal(settings->moves.throttle, THROTTLE_DUTY);
    assert_int_equal(settings->moves.tracker, TRACKER_UFFD_SYNC);
    assert_int_equal(settings->rules->len, 2);
    rule = settings->rules->pdata[0];
    assert_string_equal(rule->from, "/srv/a");
    assert_string_equal(rule->to, "/data/b");
    rule = settings->rules->pdata[1];
    assert_string_equal(rule->name, "tap0");
}

static void test_error_texts(void **state)
{
    static const struct {
        const char *text, *words;
    } bad[] = {
        {"[agent]\nlissten = x\n", "agent.conf: [agent] lissten: unknown key; there are listen, "},
        {"[gent]\n",
         "agent.conf: [gent]: unknown group; there are [agent], [api], [map] and [metrics]"},
        {"[metrics]\nroot = group\n", "[metrics] root: \"group\" is not an absolute path"},
        {"[metrics]\nroots = /g\n", "agent.conf: [metrics] roots: unknown key; there is root"},
        {"[agent]\nsocket = here\n",
         "agent.conf: [agent] socket: \"here\" is not an absolute path"},
        {"[agent]\ninsecure = maybe\n", "[agent] insecure: \"maybe\" is neither true nor false"},
        {"[agent]\napi = x:y\n", "[agent] api: \"x:y\" is not a valid address"},
        {"[api]\nread =\n", "[api] read: names nobody"},
        {"[api]\nallow = x\n", "[api] allow: unknown key; there are read, operate"},
        {"[agent]\nallow =\n", "[agent] allow: names no peer"},
        {"[agent]\nallow = ,\n", "[agent] allow: names no peer"},
        {"[agent]\nallow-unconfined = cgroups\n",
         "[agent] allow-unconfined: \"cgroups\" does not name anything that confines; there are "},
        {"[agent]\nalone-after = 2\n", "[agent] alone-after: the value must be 3 to 86400"},
        {"[agent]\nalone-after = never\n", "[agent] alone-after: "},
        {"[agent]\nlaunch-ahead = 1\n", "[agent] launch-ahead: \"1\" is neither true nor false"},
        {"[agent]\nstore-memory = much\n", "[agent] store-memory: "},
        {"[agent]\nstore-memory = 65Ti\n", "[agent] store-memory: "},
        {"[agent]\nallow-unconfined = ,\n", "[agent] allow-unconfined: names nothing"},
        {"[agent]\nbandwidth = fast\n", "[agent] bandwidth: \"fast\" is not a valid rate: write "},
        {"[agent]\nmax-downtime = 0\n", "[agent] max-downtime: the value must be from 1 ms to 1 h"},
        {"[agent]\nmax-downtime = 1x\n", "[agent] max-downtime: \"1x\" is not a valid time"},
        {"[agent]\ndowntime-cap = 2h\n",
         "[agent] downtime-cap: the value must be from 1 ms to 1 h"},
        {"[agent]\nmax-downtime = 60\ndowntime-cap = 50\n",
         "agent.conf: [agent]: downtime-cap of 50 ms is below max-downtime of 60 ms"},
        {"[agent]\nmemory-budget = 0\n",
         "[agent] memory-budget: the value must be auto, or from 1Mi to 1024Gi bytes"},
        {"[agent]\nmemory-budget = much\n", "[agent] memory-budget: \"much\" is not a valid size"},
        {"[agent]\nstreams = all\n", "[agent] streams: \"all\" is not a valid number"},
        {"[agent]\nstreams = 17\n", "[agent] streams: the value must be auto, or from 1 to 16"},
        {"[agent]\nthrottle = hard\n",
         "[agent] throttle: \"hard\" is not a valid choice; use auto, cgroup, duty or off"},
        {"[agent]\ntracker = best\n",
         "[agent] tracker: \"best\" is not a valid choice; use auto, pagemap-scan or uffd-sync"},
        {"[agent]\nlisten = a:b\n", "[agent] listen: \"a:b\" is not a valid address"},
        {"[map]\nx = a\n", "agent.conf: [map] x: write a rule as FROM => TO"},
        {"[map]\nx = a =>\n", "[map] x: write a rule as FROM => TO"},
        {"[map]\nx = a => b => c\n", "[map] x: write a rule as FROM => TO"},
        {"listen = x\n", "agent.conf: "},
        {"[agent]\nnonsense\n", "agent.conf: "},
        {"[agent]\nsocket = /a\\q\n", "agent.conf: [agent] socket: "},
    };

    for (guint i = 0; i < G_N_ELEMENTS(bad); i++) {
        GError *error = NULL;

        if (parse(bad[i].text, &error))
            fail_msg("was taken: %s", bad[i].text);
        assert_error_says(error, VMFERRY_ERROR_INVALID, bad[i].words);
    }
}

/* One of the two times gives way to the other where only that was written. */
static void test_downtimes_give_way(void **state)
{
    g_autoptr(AgentSettings) low = parse("[agent]\ndowntime-cap = 50\n", NULL);
    g_autoptr(AgentSettings) high = parse("[agent]\nmax-downtime = 1m\n", NULL);
    g_autoptr(AgentSettings) defaults =
        parse("[agent]\nstreams = auto\nmemory-budget = auto\n", NULL);

    assert_int_equal(low->moves.max_downtime_ms, 50);
    assert_int_equal(low->moves.downtime_cap_ms, 50);
    assert_int_equal(high->moves.max_downtime_ms, 60000);
    assert_int_equal(high->moves.downtime_cap_ms, 60000);
    assert_int_equal(defaults->moves.streams, 0);
    assert_int_equal(defaults->moves.memory_budget_bytes, 0);
}

static void test_files(void **state)
{
    char *folder = scratch_new();
    g_autofree char *path = g_build_filename(folder, "agent.conf", NULL);
    g_autoptr(AgentSettings) settings = agent_settings_new();
    GError *error = NULL;

    assert_true(agent_settings_load(settings, path, FALSE, NULL));
    assert_false(agent_settings_load(settings, path, TRUE, &error));
    assert_error_says(error, VMFERRY_ERROR_NOT_FOUND, path);
    scratch_write(folder, "agent.conf", "");
    assert_true(agent_settings_load(settings, path, TRUE, NULL));
    scratch_write(folder, "agent.conf", "# nothing but words\n");
    assert_true(agent_settings_load(settings, path, TRUE, NULL));
    scratch_write(folder, "agent.conf", "[agent]\nmax-downtime = 20\n");
    assert_true(agent_settings_load(settings, path, TRUE, NULL));
    assert_int_equal(settings->moves.max_downtime_ms, 20);
    scratch_remove(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults),    cmocka_unit_test(test_every_key),
        cmocka_unit_test(test_error_texts), cmocka_unit_test(test_downtimes_give_way),
        cmocka_unit_test(test_files),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
