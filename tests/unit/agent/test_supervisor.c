/* Who may start a guest again: command lines, scripts, units. */
#include "scratch.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "agent/shell_text.h"
#include "agent/supervisor.h"
#include "agent/systemd_unit.h"
#include "base/fd.h"
#include "base/process.h"

/* ---- scripts ---- */

static void test_loops(void **state)
{
    static const char *const with[] = {
        "while :; do qemu; done",
        "qemu\nuntil qemu -m 1; do sleep 1; done",
        "for i in 1 2 3; do qemu; done",
        "if true; then while true; do qemu; done; fi",
        "qemu && while true\ndo qemu\ndone",
        "(while :; do qemu; done)",
        "{ until false; do qemu; done; }",
        "x=$(for i in a; do echo $i; done)",
        "# a comment\n  while :; do qemu; done",
        "echo it\\'s; while :; do qemu; done",
        "! while :; do qemu; done",
        "qemu\nexec \"$0\" \"$@\"",
        "qemu; exec sh ${0}",
        "qemu; $0 again",
        "qemu; /opt/run-vm",
        "qemu; exec nice -n 5 ./run-vm",
        "qemu || exec restart-it",
        "qemu ||\n  qemu",
        "cd / || { echo no; exit; }",
        "run() { qemu; run; }; run",
        "function run { qemu\nrun\n}\nrun",
        "run ()\n{\n if :; then qemu; run; fi\n}\n",
    };
    static const char *const without[] = {
        "",
        "qemu -m 1",
        "exec qemu -name while",
        "echo wait for it; qemu",
        "echo 'while :; do'; qemu",
        "echo \"x; while :\"; qemu",
        "# while :; do\nqemu",
        "qemu # for ever",
        "format disk; fortune; whiled=1",
        "qemu 'unclosed ; while",
        "\\",
        "cd \"$(dirname \"$0\")\" || exit 1\nqemu",
        "[ -e x ] || [ -e y ] || exit\nqemu || true",
        "echo usage: $0; qemu -name run-vm",
        "exec qemu -name run-vm",
        "set_up() { mkdir x; }; run() { set_up; qemu; }; run; set_up",
        "function run { qemu; }; run",
        "qemu | tee log",
    };

    for (guint i = 0; i < G_N_ELEMENTS(with); i++)
        if (!shell_text_find_repeat(with[i], "run-vm"))
            fail_msg("no loop seen in: %s", with[i]);
    for (guint i = 0; i < G_N_ELEMENTS(without); i++)
        if (shell_text_find_repeat(without[i], "run-vm"))
            fail_msg("a loop seen in: %s", without[i]);
    /* Of sh -c TEXT NAME, $0 is NAME. */
    assert_null(shell_text_find_repeat("\"$0\" \"$@\"; echo done", NULL));
}

static void test_shells(void **state)
{
    static const struct {
        const char *line;
        ShellKind kind;
        const char *what;
    } cases[] = {
        {"bash", SHELL_INPUT, NULL},
        {"-bash", SHELL_INPUT, NULL},
        {"bash -i", SHELL_INTERACTIVE, NULL},
        {"bash --rcfile x -i", SHELL_INTERACTIVE, NULL},
        {"sh -c TEXT name", SHELL_TEXT, "TEXT"},
        {"bash -ec TEXT", SHELL_TEXT, "TEXT"},
        {"bash -o errexit -c TEXT", SHELL_TEXT, "TEXT"},
        {"sh -c", SHELL_TEXT, NULL},
        {"/bin/sh /run/it a b", SHELL_SCRIPT, "/run/it"},
        {"bash -x -- it", SHELL_SCRIPT, "it"},
        {"sh -s a", SHELL_INPUT, NULL},
        {"bash --norc it", SHELL_SCRIPT, "it"},
    };

    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_auto(GStrv) argv = g_strsplit(cases[i].line, " ", -1);
        const char *what;

        if (shell_kind(argv, &what) != cases[i].kind || g_strcmp0(what, cases[i].what) != 0)
            fail_msg("%s", cases[i].line);
    }
}

/* ---- parents ---- */

static void test_parents(void **state)
{
    static const struct {
        const char *line;
        ParentKind kind;
    } cases[] = {
        {"runsv web1", PARENT_SUPERVISES},
        {"/usr/bin/python3 /usr/bin/supervisord -c x", PARENT_SUPERVISES},
        {"/usr/bin/python3 -u /usr/local/bin/circusd", PARENT_SUPERVISES},
        {"/usr/bin/containerd-shim-runc-v2 -namespace moby", PARENT_SUPERVISES},
        {"PM2 v5.3.0: God Daemon (/root/.pm2)", PARENT_SUPERVISES},
        {"busybox supervise x", PARENT_SUPERVISES},
        {"sudo qemu", PARENT_PASSES},
        {"/usr/bin/setpriv --reuid=1 qemu", PARENT_PASSES},
        {"strace -f qemu", PARENT_PASSES},
        {"sshd: root@pts/0", PARENT_FINE},
        {"tmux: server", PARENT_FINE},
        {"-bash", PARENT_SHELL},
        {"/bin/busybox sh x", PARENT_SHELL},
        {"python3 my-manager.py", PARENT_UNKNOWN},
        {"python3", PARENT_UNKNOWN},
        {"/opt/cloud/launcher", PARENT_UNKNOWN},
        {"", PARENT_UNKNOWN},
    };

    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_auto(GStrv) argv =
            g_strsplit(cases[i].line, g_str_has_prefix(cases[i].line, "PM2") ? "|" : " ", -1);

        if (cases[i].line[0] && supervisor_judge_parent(argv) != cases[i].kind)
            fail_msg("%s", cases[i].line);
    }
}

/* The process that this shell starts; the shell goes on. */
static pid_t start_shell(const char *text, pid_t *ret_shell)
{
    g_autofree char *children = NULL;

    *ret_shell = fork();
    if (*ret_shell == 0) {
        execl("/bin/sh", "sh", "-c", text, (char *)NULL);
        _exit(127);
    }
    children = g_strdup_printf("/proc/%d/task/%d/children", (int)*ret_shell, (int)*ret_shell);
    for (guint i = 0; i < 5000; i++) {
        g_autofree char *list = file_read(children, 4096, NULL, NULL);
        guint64 pid = list ? g_ascii_strtoull(list, NULL, 10) : 0;
        g_auto(GStrv) argv = pid > 0 ? process_get_command_line((pid_t)pid, NULL) : NULL;

        if (argv && argv[0] && strcmp(argv[0], "sleep") == 0)
            return (pid_t)pid;
        g_usleep(1000);
    }
    fail_msg("the shell starts nothing");
    return 0;
}

static void test_living_loop(void **state)
{
    pid_t shell, pid = start_shell("while :; do sleep 100; done", &shell);
    g_autofree char *found = supervisor_find(pid);

    assert_non_null(found);
    assert_non_null(strstr(found, "(sh -c while :; do sleep 100; done), a shell that runs it in a "
                                  "loop"));
    kill(shell, SIGKILL);
    kill(pid, SIGKILL);
    waitpid(shell, NULL, 0);
}

/* Its shell has no loop; then what started that counts, which is this test. */
static void test_living_parent_of_a_shell(void **state)
{
    pid_t shell, pid = start_shell("sleep 100; echo", &shell);
    g_autofree char *found = supervisor_find(pid);

    assert_non_null(found);
    assert_non_null(strstr(found, "a program that waits for it, may start it again"));
    kill(shell, SIGKILL);
    kill(pid, SIGKILL);
    waitpid(shell, NULL, 0);
}

static void test_inits(void **state)
{
    assert_true(supervisor_init_restarts("init"));
    assert_true(supervisor_init_restarts("dinit"));
    assert_true(supervisor_init_restarts("what-is-yet-to-come"));
    assert_false(supervisor_init_restarts("systemd"));
    assert_false(supervisor_init_restarts("tini"));
}

/* What is found of an orphan that *text* starts. */
static char *find_orphan(const char *text)
{
    g_autofree char *output = NULL;
    g_autofree char *path = g_strdup("/tmp/vmferry-orphan-XXXXXX");
    g_autofree char *line = NULL;
    char *found = NULL;
    int fd = g_mkstemp(path);
    pid_t pid = 0;

    assert_true(fd >= 0);
    close(fd);
    line = g_strdup_printf("%s sh -c 'echo $$ >%s; exec sleep 100' &", text, path);
    assert_int_equal(system(line), 0);
    for (guint i = 0; i < 5000 && pid == 0; i++) {
        g_clear_pointer(&output, g_free);
        if (g_file_get_contents(path, &output, NULL, NULL) && strchr(output, '\n'))
            pid = (pid_t)g_ascii_strtoull(output, NULL, 10);
        g_usleep(1000);
    }
    assert_true(pid > 0);
    found = supervisor_find(pid);
    kill(pid, SIGKILL);
    unlink(path);
    return found;
}

static void test_orphans(void **state)
{
    g_autofree char *comm = file_read("/proc/1/comm", 64, NULL, NULL);
    g_autofree char *ordinary = NULL, *leader = NULL;

    if (!comm || !supervisor_init_restarts(g_strchomp(comm)))
        skip();
    ordinary = find_orphan("nohup");
    leader = find_orphan("setsid");
    if (ordinary)
        fail_msg("%s", ordinary);
    assert_non_null(leader);
    assert_non_null(strstr(leader, "as if init had started it, may start it again"));
}

/* ---- units ---- */

static void expect_unit(const char *cgroups, const char *name, gboolean users)
{
    g_auto(SystemdUnit) unit = {0};

    if (systemd_unit_parse(cgroups, &unit) != (name != NULL) || g_strcmp0(unit.name, name) != 0 ||
        unit.users != users)
        fail_msg("%s", cgroups);
}

static void test_units(void **state)
{
    expect_unit("0::/system.slice/qemu@web1.service\n", "qemu@web1.service", FALSE);
    expect_unit("0::/system.slice/system-qemu.slice/qemu@web1.service/payload\n",
                "qemu@web1.service", FALSE);
    expect_unit("4:memory:/x\n1:name=systemd:/system.slice/a.service\n0::/\n", "a.service", FALSE);
    expect_unit("0::/user.slice/user-1000.slice/user@1000.service/app.slice/vm.service\n",
                "vm.service", TRUE);
    expect_unit("0::/user.slice/user-1000.slice/session-3.scope\n", NULL, FALSE);
    expect_unit("0::/user.slice/user-1000.slice/user@1000.service/a.scope\n", NULL, TRUE);
    expect_unit("0::/machine.slice/machine-qemu.scope\n", NULL, FALSE);
    expect_unit("", NULL, FALSE);
}

/* A systemd with one unit, at the other end of a socket. */
typedef struct {
    sd_bus *bus;
    GThread *thread;
    gint stop; /* atomic */
    const char *restart;
    guint32 main;
    gint32 prevented[2]; /* exit codes */
    gint32 signal;
} FakeSystemd;

static int get_unit(sd_bus_message *message, void *user, sd_bus_error *error)
{
    const char *name;

    if (sd_bus_message_read(message, "s", &name) < 0 || strcmp(name, "vm.service") != 0)
        return sd_bus_error_set(error, "org.freedesktop.systemd1.NoSuchUnit", "none");
    return sd_bus_reply_method_return(message, "o", "/unit/vm");
}

static int get_restart(sd_bus *bus, const char *path, const char *interface, const char *property,
                       sd_bus_message *reply, void *user, sd_bus_error *error)
{
    return sd_bus_message_append(reply, "s", ((FakeSystemd *)user)->restart);
}

static int get_main(sd_bus *bus, const char *path, const char *interface, const char *property,
                    sd_bus_message *reply, void *user, sd_bus_error *error)
{
    return sd_bus_message_append(reply, "u", ((FakeSystemd *)user)->main);
}

static int get_prevented(sd_bus *bus, const char *path, const char *interface, const char *property,
                         sd_bus_message *reply, void *user, sd_bus_error *error)
{
    const FakeSystemd *fake = user;

    return sd_bus_message_append(reply, "(aiai)", 2, fake->prevented[0], fake->prevented[1], 1,
                                 fake->signal);
}

static const sd_bus_vtable manager_table[] = {
    SD_BUS_VTABLE_START(0),
    SD_BUS_METHOD("GetUnit", "s", "o", get_unit, SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_VTABLE_END,
};

static const sd_bus_vtable unit_table[] = {
    SD_BUS_VTABLE_START(0),
    SD_BUS_PROPERTY("Restart", "s", get_restart, 0, 0),
    SD_BUS_PROPERTY("MainPID", "u", get_main, 0, 0),
    SD_BUS_PROPERTY("RestartPreventExitStatus", "(aiai)", get_prevented, 0, 0),
    SD_BUS_VTABLE_END,
};

static gpointer serve(gpointer data)
{
    FakeSystemd *fake = data;

    while (!g_atomic_int_get(&fake->stop) && sd_bus_process(fake->bus, NULL) >= 0)
        sd_bus_wait(fake->bus, 10000);
    return NULL;
}

static sd_bus *fake_start(FakeSystemd *fake)
{
    sd_id128_t id = {.bytes = {1}};
    sd_bus *client = NULL;
    int pair[2];

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    assert_true(sd_bus_new(&fake->bus) >= 0);
    assert_true(sd_bus_set_fd(fake->bus, pair[0], pair[0]) >= 0);
    assert_true(sd_bus_set_server(fake->bus, 1, id) >= 0);
    assert_true(sd_bus_add_object_vtable(fake->bus, NULL, "/org/freedesktop/systemd1",
                                         "org.freedesktop.systemd1.Manager", manager_table,
                                         fake) >= 0);
    assert_true(sd_bus_add_object_vtable(fake->bus, NULL, "/unit/vm",
                                         "org.freedesktop.systemd1.Service", unit_table,
                                         fake) >= 0);
    assert_true(sd_bus_start(fake->bus) >= 0);
    fake->thread = g_thread_new("systemd", serve, fake);
    assert_true(sd_bus_new(&client) >= 0);
    assert_true(sd_bus_set_fd(client, pair[1], pair[1]) >= 0);
    assert_true(sd_bus_start(client) >= 0);
    return client;
}

static void expect_asked(FakeSystemd fake, const char *unit, pid_t pid, const char *wanted)
{
    sd_bus *client = fake_start(&fake);
    g_autofree char *found = systemd_unit_ask(client, unit, pid);

    if (wanted ? !found || !strstr(found, wanted) : found != NULL)
        fail_msg("%s, %s: \"%s\"", unit, fake.restart, found ? found : "nothing");
    g_atomic_int_set(&fake.stop, 1);
    g_thread_join(fake.thread);
    sd_bus_close_unref(client);
    sd_bus_close_unref(fake.bus);
}

static void test_asked_units(void **state)
{
    static const struct {
        const char *restart;
        gint32 codes[2], signal;
        gboolean found;
    } cases[] = {
        {"no", {1, 1}, 1, FALSE},
        {"on-watchdog", {1, 1}, 1, FALSE},
        {"always", {1, 1}, 1, TRUE},
        {"always", {109, 109}, 1, TRUE}, /* it may end otherwise */
        {"always", {109, 109}, SIGKILL, TRUE},
        {"always", {109, 0}, 1, TRUE},
        {"always", {109, 0}, SIGKILL, FALSE},
        {"on-success", {109, 109}, SIGKILL, TRUE},
        {"on-success", {0, 109}, 1, FALSE},
        {"on-failure", {3, 3}, SIGKILL, TRUE},
        {"on-failure", {109, 109}, 1, TRUE},
        {"on-failure", {109, 109}, SIGKILL, FALSE},
        {"on-abort", {109, 0}, 1, TRUE}, /* a signal is one */
        {"on-abort", {1, 1}, SIGKILL, FALSE},
        {"on-abnormal", {109, 0}, 1, TRUE},
        {"what-is-yet-to-come", {109, 109}, SIGKILL, TRUE},
    };

    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        FakeSystemd fake = {.restart = cases[i].restart,
                            .main = 7,
                            .prevented = {cases[i].codes[0], cases[i].codes[1]},
                            .signal = cases[i].signal};
        g_autofree char *words =
            g_strdup_printf("unit vm.service, which has Restart=%s", cases[i].restart);

        expect_asked(fake, "vm.service", 7, cases[i].found ? words : NULL);
        /* Its main process is another one, whose exit code is its own. */
        fake.main = 6;
        expect_asked(fake, "vm.service", 7,
                     strcmp(cases[i].restart, "no") && strcmp(cases[i].restart, "on-watchdog")
                         ? words
                         : NULL);
    }
    /* A unit that cannot be read may have anything. */
    expect_asked((FakeSystemd){.restart = "no", .main = 7}, "other.service", 7,
                 "unit other.service, whose Restart= systemd does not report, may");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_loops),
        cmocka_unit_test(test_shells),
        cmocka_unit_test(test_parents),
        cmocka_unit_test(test_living_loop),
        cmocka_unit_test(test_living_parent_of_a_shell),
        cmocka_unit_test(test_inits),
        cmocka_unit_test(test_orphans),
        cmocka_unit_test(test_units),
        cmocka_unit_test(test_asked_units),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
