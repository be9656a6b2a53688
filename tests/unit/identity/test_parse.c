/* Texts of /proc: as the kernel writes them, and damaged. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/error.h"
#include "identity/identity_parse.h"

#define STATUS                                                                                     \
    "Name:\tUid:\t7\nUmask:\t0022\nState:\tS (sleeping)\nPid:\t812\nPPid:\t1\n"                    \
    "Uid:\t64055\t64055\t64055\t64055\nGid:\t103\t103\t103\t104\nFDSize:\t64\n"                    \
    "Groups:\t103 104 64055 \nCapInh:\t0000000000001000\nCapPrm:\t0000000000001000\n"              \
    "CapEff:\t0000000000001000\nCapBnd:\t000001ffffffffff\nCapAmb:\t0000000000001000\n"            \
    "NoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t3\n"

static void test_status(void **unused)
{
    g_auto(ProcessStatus) status = {0};

    assert_true(process_status_parse(STATUS, &status, NULL));
    assert_int_equal(status.parent, 1);
    assert_int_equal(status.uids[0], 64055);
    assert_int_equal(status.gids[3], 104);
    assert_int_equal(status.groups->len, 3);
    assert_int_equal(g_array_index(status.groups, uint32_t, 2), 64055);
    assert_int_equal(status.capabilities.ambient, 1 << 12);
    assert_int_equal(status.capabilities.bounding, 0x1ffffffffff);
    assert_true(status.no_new_privs);
    assert_int_equal(status.seccomp, 2);
    assert_int_equal(status.seccomp_filters, 3);
}

static char *replaced(const char *text, const char *from, const char *to)
{
    GString *copy = g_string_new(text);

    assert_int_equal(g_string_replace(copy, from, to, 1), 1);
    return g_string_free(copy, FALSE);
}

static void test_status_of_an_old_kernel(void **unused)
{
    g_autofree char *text = replaced(STATUS, "Seccomp_filters:\t3\n", "");
    g_auto(ProcessStatus) status = {0};

    assert_true(process_status_parse(text, &status, NULL));
    assert_int_equal(status.seccomp_filters, 0);
}

static void test_status_without_groups(void **unused)
{
    g_autofree char *text = replaced(STATUS, "103 104 64055 ", " ");
    g_auto(ProcessStatus) status = {0};

    assert_true(process_status_parse(text, &status, NULL));
    assert_int_equal(status.groups->len, 0);
}

static void test_damaged_status(void **unused)
{
    static const struct {
        const char *from, *to, *words;
    } damages[] = {
        {"\nPPid:\t1", "\nPPid:\t-1", "\"PPid\""},
        {"\nUid:\t64055", "\nUid:\t64055x", "\"Uid\""},
        {"\nUid:\t64055\t", "\nUid:\t", "\"Uid\""},
        {"\nGid:\t103", "\nGid:\t4294967296", "\"Gid\""},
        {"\nGroups:", "\nGrops:", "\"Groups\""},
        {"103 104", "103 x104", "\"Groups\""},
        {"CapBnd:\t0", "CapBnd:\tg", "\"CapBnd\""},
        {"CapAmb", "CapAmx", "\"CapAmb\""},
        {"CapEff:\t0", "CapEff:\t10000", "\"CapEff\""},
        {"NoNewPrivs:\t1", "NoNewPrivs:\t", "\"NoNewPrivs\""},
        {"Seccomp:\t2", "Seccomp:\ttwo", "\"Seccomp\""},
    };

    for (guint i = 0; i < G_N_ELEMENTS(damages); i++) {
        g_autofree char *text = replaced(STATUS, damages[i].from, damages[i].to);
        g_autoptr(GError) error = NULL;
        ProcessStatus status;

        if (process_status_parse(text, &status, &error))
            fail_msg("taken: %s", text);
        assert_true(error_is(error, VMFERRY_ERROR_INVALID));
        assert_non_null(strstr(error->message, damages[i].words));
    }
}

static void test_limits(void **unused)
{
    static const char text[] =
        "Limit                     Soft Limit           Hard Limit           Units     \n"
        "Max cpu time              unlimited            unlimited            seconds   \n"
        "Max open files            1024                 4096                 files     \n"
        "Max nice priority         0                    0                    \n"
        "Max flux capacity         1                    2                    gigawatts \n";
    IdentityLimit limits[RLIM_NLIMITS];

    assert_true(process_limits_parse(text, limits, NULL));
    assert_true(limits[RLIMIT_NOFILE].told);
    assert_int_equal(limits[RLIMIT_NOFILE].soft, 1024);
    assert_int_equal(limits[RLIMIT_NOFILE].hard, 4096);
    assert_true(limits[RLIMIT_CPU].hard == RLIM_INFINITY);
    assert_true(limits[RLIMIT_NICE].told);
    assert_false(limits[RLIMIT_AS].told);
}

static void test_damaged_limits(void **unused)
{
    static const char *const bad[] = {
        "Max open files            ",
        "Max open files            1024",
        "Max open files            1024                 many                 files",
        "Max open files            -1                   4096                 files",
        "Max open files",
    };

    for (guint i = 0; i < G_N_ELEMENTS(bad); i++) {
        IdentityLimit limits[RLIM_NLIMITS];
        g_autoptr(GError) error = NULL;

        assert_false(process_limits_parse(bad[i], limits, &error));
        assert_true(error_is(error, VMFERRY_ERROR_INVALID));
    }
}

static void test_cgroups(void **unused)
{
    g_autoptr(GPtrArray) cgroups = process_cgroups_parse(
        "9:name=systemd:/x\n4:cpu,cpuacct:/machines/a:b\n0::/system.slice/qemu@web1.service\n",
        NULL);
    const IdentityCgroup *first, *second;

    assert_int_equal(cgroups->len, 2);
    first = cgroups->pdata[0];
    second = cgroups->pdata[1];
    assert_string_equal(first->hierarchy, "cpu,cpuacct");
    assert_string_equal(first->path, "/machines/a:b");
    assert_string_equal(second->hierarchy, "");
    assert_string_equal(second->path, "/system.slice/qemu@web1.service");
}

static void test_damaged_cgroups(void **unused)
{
    static const char *const bad[] = {"0:", "0::", "0::x", "nonsense\n", "::\n0::/a\n"};

    for (guint i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autoptr(GError) error = NULL;

        assert_null(process_cgroups_parse(bad[i], &error));
        assert_true(error_is(error, VMFERRY_ERROR_INVALID));
    }
}

static void test_sessions(void **unused)
{
    assert_true(identity_cgroup_is_of_session("/user.slice/user-0.slice/session-3.scope"));
    assert_true(identity_cgroup_is_of_session(
        "/user.slice/user-1000.slice/user@1000.service/app.slice/vte-spawn-1.scope"));
    assert_false(identity_cgroup_is_of_session(
        "/user.slice/user-1000.slice/user@1000.service/app.slice/qemu.service"));
    assert_false(identity_cgroup_is_of_session("/machine.slice/machine-qemu.scope"));
}

static void expect_limit(const char *file, const char *text, const char *wanted)
{
    g_autofree char *limit = identity_cgroup_limit_parse(file, text);

    if (g_strcmp0(limit, wanted) != 0)
        fail_msg("%s of \"%s\" is \"%s\"", file, text, limit ? limit : "(default)");
}

static void test_cgroup_limits(void **unused)
{
    expect_limit("memory.max", "max\n", NULL);
    expect_limit("memory.max", "1073741824\n", "1073741824");
    expect_limit("memory.low", "0\n", NULL);
    expect_limit("memory.low", "max\n", "max");
    expect_limit("cpu.max", "max 100000\n", NULL);
    expect_limit("cpu.max", "50000 100000\n", "50000 100000");
    expect_limit("cpu.weight", "100\n", NULL);
    expect_limit("cpuset.cpus", "\n", NULL);
    expect_limit("cpuset.cpus", "0-1\n", "0-1");
    expect_limit("io.weight", "default 100\n8:0 50\n", NULL);
    expect_limit("io.weight", "default 50\n8:0 20\n", "default 50");
    expect_limit("pids.max", "max", NULL);
}

static void test_nice(void **unused)
{
    static const char good[] = "12 (a) b (c) S 1 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 39 19 1 0 99";
    static const char *const bad[] = {"", "12 (a", "12 (a) S 1",
                                      "12 (a) S 1 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 39 99 1 0 9"};
    int nice;

    assert_true(process_nice_parse(good, &nice, NULL));
    assert_int_equal(nice, 19);
    for (guint i = 0; i < G_N_ELEMENTS(bad); i++)
        assert_false(process_nice_parse(bad[i], &nice, NULL));
}

static void expect_label(const char *text, const char *kind, const char *wanted)
{
    const char *found = NULL;
    g_autofree char *label = process_label_parse(text, &found);

    assert_true(g_strcmp0(label, wanted) == 0);
    assert_true(g_strcmp0(found, kind) == 0);
}

static void test_labels(void **unused)
{
    expect_label("", NULL, NULL);
    expect_label("unconfined\n", NULL, NULL);
    expect_label("libvirt-5d (enforce)\n", "apparmor", "libvirt-5d");
    expect_label("a:b:c d (complain)\n", "apparmor", "a:b:c d");
    expect_label("system_u:system_r:svirt_t:s0:c1,c2", "selinux",
                 "system_u:system_r:svirt_t:s0:c1,c2");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_status),
        cmocka_unit_test(test_status_of_an_old_kernel),
        cmocka_unit_test(test_status_without_groups),
        cmocka_unit_test(test_damaged_status),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_damaged_limits),
        cmocka_unit_test(test_cgroups),
        cmocka_unit_test(test_damaged_cgroups),
        cmocka_unit_test(test_sessions),
        cmocka_unit_test(test_cgroup_limits),
        cmocka_unit_test(test_nice),
        cmocka_unit_test(test_labels),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
