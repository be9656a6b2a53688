/*
 * Starting processes as others: what comes out, and what is said where a step
 * fails
 *
 * The program is a shell that waits, so that the test can look at it from
 * outside.  Root is needed for all but the refusals.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/process.h"
#include "identity/identity_cgroup.h"
#include "identity/spawn.h"
#include "identity/spawn_plan_private.h"

#define NOBODY 65534u
#define NET_ADMIN (1ULL << 12)

static char *waiting[] = {(char *)"sleep", (char *)"1000", NULL};

typedef struct {
    ProcessIdentity *identity;
    char **argv;
    const char *program;
    const char *folder;
    guint allowed;
    gboolean as_us;
} Wish;

/* What we are, as a source would tell it, to be changed by a test. */
static ProcessIdentity *our_identity(void)
{
    ProcessIdentity *identity = process_identity_read(getpid(), NULL, NULL);

    assert_non_null(identity);
    return identity;
}

static void become_nobody(ProcessIdentity *identity)
{
    identity->user.id = 1; /* the number counts for nothing where there is a name */
    g_free(identity->user.name);
    identity->user.name = g_strdup("nobody");
    identity->group.id = 1;
    g_free(identity->group.name);
    identity->group.name = g_strdup("nogroup");
    g_ptr_array_set_size(identity->groups, 0);
    identity->capabilities_told = TRUE;
    identity->capabilities.effective = identity->capabilities.permitted = 0;
    identity->capabilities.ambient = identity->capabilities.inheritable = 0;
}

static pid_t start(const Wish *wish, SpawnPlan **ret_plan, GError **error)
{
    autofd int null = open("/dev/null", O_WRONLY | O_CLOEXEC);
    char *environment[] = {(char *)"PATH=/usr/bin:/bin", NULL};
    SpawnPlan *plan = spawn_plan_new(wish->identity, wish->allowed, wish->as_us, error);
    Spawn spawn = {
        .plan = plan,
        .program = wish->program ? wish->program : "/bin/sleep",
        .argv = wish->argv ? wish->argv : waiting,
        .environment = environment,
        .working_directory = wish->folder ? wish->folder : "/",
        .output = null,
    };
    pid_t pid = 0;

    *ret_plan = NULL;
    if (plan && spawn_detached(&spawn, &pid, error)) {
        *ret_plan = plan;
        return pid;
    }
    spawn_plan_free(plan);
    return 0;
}

typedef struct {
    const char *mark; /* what the program makes */
    pid_t pid;
    gboolean leave, seen_early;
} Begun;

static gboolean on_begun(pid_t pid, gpointer user, GError **error)
{
    Begun *begun = user;

    begun->pid = pid;
    usleep(100000); /* time for a program that does not wait */
    begun->seen_early = access(begun->mark, F_OK) == 0;
    if (!begun->leave)
        error_set(error, VMFERRY_ERROR_FAILED, "it could not be written down");
    return begun->leave;
}

/* No process does anything before its pid could be written down, or where it could not. */
static void test_nothing_runs_unknown(void **state)
{
    g_autofree char *folder = g_dir_make_tmp("vmferry-spawn-XXXXXX", NULL);
    g_autofree char *mark = g_build_filename(folder, "mark", NULL);
    char *argv[] = {(char *)"touch", mark, NULL};
    char *environment[] = {(char *)"PATH=/usr/bin:/bin", NULL};
    autofd int null = open("/dev/null", O_WRONLY | O_CLOEXEC);
    g_autoptr(SpawnPlan) plan = spawn_plan_new(NULL, 0, FALSE, NULL);

    for (guint leave = 0; leave < 2; leave++) {
        Begun begun = {.mark = mark, .leave = leave != 0};
        Spawn spawn = {.plan = plan,
                       .program = "/usr/bin/touch",
                       .argv = argv,
                       .environment = environment,
                       .working_directory = "/",
                       .output = null,
                       .begun = on_begun,
                       .user = &begun};
        g_autoptr(GError) error = NULL;
        uint64_t start_time;
        pid_t pid = 0;

        assert_int_equal(spawn_detached(&spawn, &pid, &error), leave);
        assert_true(begun.pid > 0);
        assert_false(begun.seen_early);
        if (process_get_start_time(begun.pid, &start_time, NULL))
            assert_true(process_wait_gone(begun.pid, start_time, 5000));
        assert_int_equal(access(mark, F_OK) == 0, leave);
    }
    unlink(mark);
    rmdir(folder);
}

static void end(pid_t pid, SpawnPlan *plan)
{
    uint64_t start_time;

    if (process_get_start_time(pid, &start_time, NULL)) {
        kill(pid, SIGKILL);
        process_wait_gone(pid, start_time, 5000);
    }
    spawn_plan_free(plan);
}

/* Starts, checks by the plan, and gives what is to be seen from outside. */
static ProcessIdentity *start_and_look(const Wish *wish)
{
    g_autoptr(GError) error = NULL;
    SpawnPlan *plan;
    pid_t pid = start(wish, &plan, &error);
    ProcessIdentity *seen;

    if (!pid)
        fail_msg("%s", error->message);
    if (!spawn_plan_check(plan, pid, &error))
        fail_msg("%s", error->message);
    seen = process_identity_read(pid, NULL, &error);
    if (!seen)
        fail_msg("%s", error->message);
    end(pid, plan);
    return seen;
}

static void expect_fails(const Wish *wish, VmferryErrorCode code, const char *words)
{
    g_autoptr(GError) error = NULL;
    SpawnPlan *plan;
    pid_t pid = start(wish, &plan, &error);

    if (pid) {
        end(pid, plan);
        fail_msg("started; expected \"%s\"", words);
    }
    if (!error_is(error, code) || !strstr(error->message, words))
        fail_msg("expected \"%s\", got \"%s\" (%s)", words, error->message,
                 vmferry_error_code_name(error->code));
}

/* ---- what comes out ---- */

static void test_as_we_are(void **unused)
{
    Wish wish = {0};
    g_autoptr(ProcessIdentity) seen = start_and_look(&wish);

    assert_int_equal(seen->user.id, getuid());
    assert_false(seen->capabilities_told);
    assert_int_equal(seen->oom_score_adj, 0);
}

/* Standard input and standard error of its own. */
static void test_streams(void **state)
{
    g_autofree char *folder = g_dir_make_tmp("vmferry-spawn-XXXXXX", NULL);
    g_autofree char *path = g_build_filename(folder, "errors", NULL);
    char *argv[] = {(char *)"sh", (char *)"-c", (char *)"read x; echo out; echo $x >&2", NULL};
    char *environment[] = {NULL};
    g_autoptr(SpawnPlan) plan = spawn_plan_new(NULL, 0, FALSE, NULL);
    autofd int errors = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    int input[2], output[2];
    char text[8] = "", told[8] = "";
    Spawn spawn = {.plan = plan,
                   .program = "/bin/sh",
                   .argv = argv,
                   .environment = environment,
                   .working_directory = "/",
                   .errors = errors};
    pid_t pid;

    assert_int_equal(pipe2(input, O_CLOEXEC), 0);
    assert_int_equal(pipe2(output, O_CLOEXEC), 0);
    spawn.input = input[0];
    spawn.output = output[1];
    assert_true(fd_write_all(input[1], "word\n", 5, NULL));
    assert_true(spawn_detached(&spawn, &pid, NULL));
    fd_close(&output[1]);
    assert_int_equal(read(output[0], text, sizeof text), 4);
    assert_int_equal(read(output[0], text + 4, 1), 0); /* it has ended */
    assert_memory_equal(text, "out\n", 4);
    fd_close(&errors);
    errors = open(path, O_RDONLY | O_CLOEXEC);
    assert_int_equal(read(errors, told, sizeof told), 5);
    assert_memory_equal(told, "word\n", 5);
    close(input[0]);
    close(input[1]);
    close(output[0]);
    unlink(path);
    rmdir(folder);
}

static void test_another_user(void **unused)
{
    g_autoptr(ProcessIdentity) identity = our_identity();
    g_autoptr(ProcessIdentity) seen = NULL;
    Wish wish = {.identity = identity};

    become_nobody(identity);
    g_ptr_array_add(identity->groups, identity_owner_new(7, "daemon"));
    seen = start_and_look(&wish);
    assert_int_equal(seen->user.id, NOBODY);
    assert_string_equal(seen->user.name, "nobody");
    assert_int_equal(seen->groups->len, 1);
    assert_string_equal(((IdentityOwner *)seen->groups->pdata[0])->name, "daemon");
    assert_int_equal(seen->capabilities.permitted, 0);
}

static void test_ambient_capabilities(void **unused)
{
    g_autoptr(ProcessIdentity) identity = our_identity();
    g_autoptr(ProcessIdentity) seen = NULL;
    Wish wish = {.identity = identity};

    become_nobody(identity);
    identity->capabilities.permitted = identity->capabilities.effective = NET_ADMIN;
    identity->capabilities.inheritable = identity->capabilities.ambient = NET_ADMIN;
    identity->capabilities.bounding = NET_ADMIN;
    identity->no_new_privs = TRUE;
    seen = start_and_look(&wish);
    assert_int_equal(seen->capabilities.ambient, NET_ADMIN);
    assert_int_equal(seen->capabilities.effective, NET_ADMIN);
    assert_int_equal(seen->capabilities.bounding, NET_ADMIN);
    assert_true(seen->no_new_privs);
}

static void test_root_with_less(void **unused)
{
    g_autoptr(ProcessIdentity) identity = our_identity();
    g_autoptr(ProcessIdentity) seen = NULL;
    Wish wish = {.identity = identity};

    identity->capabilities_told = TRUE;
    identity->capabilities.bounding = NET_ADMIN | 1;
    identity->capabilities.permitted = identity->capabilities.effective = NET_ADMIN | 1;
    seen = start_and_look(&wish);
    assert_int_equal(seen->capabilities.permitted, NET_ADMIN | 1);
    assert_int_equal(seen->user.id, 0);
}

static void test_limits_and_priorities(void **unused)
{
    g_autoptr(ProcessIdentity) identity = our_identity();
    g_autoptr(ProcessIdentity) seen = NULL;
    Wish wish = {.identity = identity};

    identity->limits[RLIMIT_NOFILE] = (IdentityLimit){TRUE, 3, 100};
    identity->limits[RLIMIT_CORE] = (IdentityLimit){TRUE, 0, 0};
    identity->nice = 5;
    identity->oom_score_adj = 300;
    seen = start_and_look(&wish);
    assert_int_equal(seen->limits[RLIMIT_NOFILE].soft, 3);
    assert_int_equal(seen->limits[RLIMIT_NOFILE].hard, 100);
    assert_int_equal(seen->nice, 5);
    assert_int_equal(seen->oom_score_adj, 300);
}

static void test_session_and_descriptors(void **unused)
{
    Wish wish = {.folder = "/usr"};
    g_autoptr(GError) error = NULL;
    autofd int held = open("/dev/null", O_RDONLY); /* would be inherited */
    SpawnPlan *plan;
    pid_t pid = start(&wish, &plan, &error);
    g_autofree char *leaked = g_strdup_printf("/proc/%d/fd/%d", (int)pid, held);
    g_autofree char *link = g_strdup_printf("/proc/%d/cwd", (int)pid);
    g_autofree char *folder = g_file_read_link(link, NULL);

    assert_int_equal(getsid(pid), pid);
    assert_string_equal(folder, "/usr");
    assert_true(access(leaked, F_OK) < 0);
    end(pid, plan);
}

/* ---- network namespaces ---- */

static void test_network_namespace(void **unused)
{
    static const char name[] = "vmferry-unit-netns";
    g_autoptr(ProcessIdentity) identity = our_identity();
    g_autoptr(ProcessIdentity) seen = NULL;
    Wish wish = {.identity = identity};

    identity->netns = g_strdup(name);
    expect_fails(&wish, VMFERRY_ERROR_NOT_FOUND,
                 "netns: there is no network namespace \"vmferry-unit-netns\"");
    if (geteuid() != 0) /* no right to make namespaces */
        skip();
    assert_int_equal(system("ip netns add vmferry-unit-netns"), 0);
    seen = start_and_look(&wish);
    assert_int_equal(system("ip netns del vmferry-unit-netns"), 0);
    assert_string_equal(seen->netns, name);
}

static void test_network_namespace_without_a_name(void **unused)
{
    g_autoptr(ProcessIdentity) identity = our_identity();
    Wish wish = {.identity = identity};

    identity->namespaces = IDENTITY_NAMESPACE_NET;
    expect_fails(&wish, VMFERRY_ERROR_UNSUPPORTED, "netns: the guest is in a network namespace");
}

/* ---- what is refused ---- */

static void test_missing_user(void **unused)
{
    g_autoptr(ProcessIdentity) identity = our_identity();
    g_autoptr(ProcessIdentity) seen = NULL;
    Wish wish = {.identity = identity};

    become_nobody(identity);
    g_free(identity->user.name);
    identity->user.name = g_strdup("no-such-user");
    expect_fails(&wish, VMFERRY_ERROR_NOT_FOUND, "user: there is no user \"no-such-user\"");
    wish.allowed = CONFINEMENT_USER | CONFINEMENT_CAPABILITIES;
    seen = start_and_look(&wish);
    assert_int_equal(seen->user.id, getuid());
}

static void test_missing_group(void **unused)
{
    g_autoptr(ProcessIdentity) identity = our_identity();
    Wish wish = {.identity = identity};

    g_ptr_array_add(identity->groups, identity_owner_new(7, "no-such-group"));
    expect_fails(&wish, VMFERRY_ERROR_NOT_FOUND, "user: there is no group \"no-such-group\"");
}

static void test_numbers_without_names(void **unused)
{
    g_autoptr(ProcessIdentity) identity = our_identity();
    g_autoptr(ProcessIdentity) seen = NULL;
    Wish wish = {.identity = identity};

    become_nobody(identity);
    g_clear_pointer(&identity->user.name, g_free);
    expect_fails(&wish, VMFERRY_ERROR_REFUSED, "the user 1, which has no name where it is");
    identity->user.id = 3999999999u;
    seen = start_and_look(&wish);
    assert_int_equal(seen->user.id, 3999999999u);
}

static void test_what_can_only_be_refused(void **unused)
{
    g_autoptr(ProcessIdentity) identity = our_identity();
    Wish wish = {.identity = identity};

    identity->mixed_ids = TRUE;
    expect_fails(&wish, VMFERRY_ERROR_UNSUPPORTED, "user: the guest is run with different");
    identity->mixed_ids = FALSE;
    identity->seccomp = TRUE;
    expect_fails(&wish, VMFERRY_ERROR_UNSUPPORTED, "seccomp: a system call filter");
    wish.allowed = CONFINEMENT_SECCOMP;
    identity->namespaces = IDENTITY_NAMESPACE_PID | IDENTITY_NAMESPACE_MNT;
    expect_fails(&wish, VMFERRY_ERROR_UNSUPPORTED, "namespaces: the guest's process is in");
    expect_fails(&wish, VMFERRY_ERROR_UNSUPPORTED, "(mnt, pid)");
}

static void test_labels_where_there_are_none(void **unused)
{
    g_autoptr(ProcessIdentity) identity = our_identity();
    Wish wish = {.identity = identity};

    if (access("/sys/kernel/security/apparmor", F_OK) == 0 ||
        access("/sys/fs/selinux/enforce", F_OK) == 0)
        skip();
    identity->label_kind = g_strdup("apparmor");
    identity->label = g_strdup("libvirt-5d");
    expect_fails(&wish, VMFERRY_ERROR_UNSUPPORTED, "apparmor: the guest is confined by");
    g_free(identity->label_kind);
    identity->label_kind = g_strdup("selinux");
    expect_fails(&wish, VMFERRY_ERROR_UNSUPPORTED, "selinux: the guest runs in");
}

static void test_capabilities_nobody_has(void **unused)
{
    g_autoptr(ProcessIdentity) identity = our_identity();
    Wish wish = {.identity = identity};

    identity->capabilities_told = TRUE;
    identity->capabilities.permitted |= 1ULL << 60;
    expect_fails(&wish, VMFERRY_ERROR_PERMISSION, "capability 60 (permitted)");
}

/* A user with capabilities that it has neither as ambient ones nor by its file. */
static void test_capabilities_that_do_not_come_out(void **unused)
{
    g_autoptr(ProcessIdentity) identity = our_identity();
    g_autoptr(GError) error = NULL;
    Wish wish = {.identity = identity};
    SpawnPlan *plan;
    pid_t pid;

    become_nobody(identity);
    identity->capabilities.permitted = identity->capabilities.effective = NET_ADMIN;
    pid = start(&wish, &plan, &error);
    assert_true(pid > 0);
    assert_false(spawn_plan_check(plan, pid, &error));
    assert_non_null(strstr(error->message, "capabilities: QEMU's permitted capabilities are not "
                                           "what they were: missing CAP_NET_ADMIN"));
    end(pid, plan);
}

/* Starts as we are and has not become somebody else by itself. */
static void test_rights_that_were_not_dropped(void **unused)
{
    g_autoptr(ProcessIdentity) identity = our_identity();
    g_autoptr(GError) error = NULL;
    Wish wish = {.identity = identity, .as_us = TRUE};
    SpawnPlan *plan;
    pid_t pid;

    become_nobody(identity);
    pid = start(&wish, &plan, &error);
    assert_true(pid > 0);
    assert_false(spawn_plan_check(plan, pid, &error));
    assert_non_null(strstr(error->message, "user: QEMU runs here as user 0"));
    end(pid, plan);
}

/* ---- steps that fail in the child ---- */

static void test_failing_steps(void **unused)
{
    g_autoptr(ProcessIdentity) identity = our_identity();
    Wish nowhere = {.folder = "/no/such/folder"};
    Wish nothing = {.program = "/no/such/program"};
    Wish unlimited = {.identity = identity};

    expect_fails(&nowhere, VMFERRY_ERROR_NOT_FOUND,
                 "enter its working folder /no/such/folder: No such file");
    expect_fails(&nothing, VMFERRY_ERROR_NOT_FOUND, "execute /no/such/program: No such file");
    /* More than any kernel allows (fs.nr_open), so it fails for root too. */
    identity->limits[RLIMIT_NOFILE] = (IdentityLimit){TRUE, 1ULL << 40, 1ULL << 40};
    expect_fails(&unlimited, VMFERRY_ERROR_PERMISSION, "\"nofile\"");
}

static void test_step_that_fails_late(void **unused)
{
    g_autoptr(ProcessIdentity) identity = our_identity();
    g_autoptr(SpawnPlan) plan = spawn_plan_new(identity, 0, FALSE, NULL);
    autofd int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    Spawn spawn = {plan, "/bin/true", waiting, waiting, "/", null};
    g_autoptr(GError) error = NULL;
    pid_t pid;

    plan->netns_fd = dup(null);
    assert_false(spawn_detached(&spawn, &pid, &error));
    assert_non_null(strstr(error->message, "enter its network namespace: Invalid argument"));
    g_clear_error(&error);
    close(plan->netns_fd);
    plan->netns_fd = -1;
    plan->label_file = g_strdup("/no/such/label");
    plan->label_text = g_strdup("x");
    assert_false(spawn_detached(&spawn, &pid, &error));
    assert_non_null(strstr(error->message, "set its security label: No such file"));
}

/* ---- control groups, in a folder that looks like a hierarchy ---- */

static IdentityCgroup *make_cgroup(const char *limit)
{
    IdentityCgroup *cgroup = identity_cgroup_new("", "/a/web1");

    g_ptr_array_add(cgroup->limits, identity_cgroup_limit_new("memory.max", limit));
    return cgroup;
}

static void write_text(const char *folder, const char *name, const char *text)
{
    g_autofree char *path = g_build_filename(folder, name, NULL);

    assert_true(g_file_set_contents(path, text, -1, NULL));
}

static void test_cgroup_folders(void **unused)
{
    g_autofree char *root = g_dir_make_tmp("vmferry-cgroup-XXXXXX", NULL);
    g_autofree char *proc = g_build_filename(root, "proc/self", NULL);
    g_autofree char *group = g_build_filename(root, "cg/web1", NULL);
    g_autofree char *remove = g_strdup_printf("rm -r %s", root);
    g_autofree char *mount = NULL, *first = NULL;
    IdentityCgroup *cgroup = make_cgroup("1000");
    g_autoptr(GError) error = NULL;
    gboolean created;

    g_mkdir_with_parents(proc, 0755);
    write_text(proc, "mountinfo",
               "30 1 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n"
               "31 30 0:29 / /cpu rw shared:1 - cgroup cgroup rw,cpu,cpuacct\n"
               "32 30 0:30 /x /bound rw - cgroup2 cgroup2 rw\n"
               "33 30 0:31 / /c\\040g rw - cgroup2 cgroup2 rw\n");
    mount = identity_cgroup_mount(root, "");
    first = identity_cgroup_mount(root, "cpu,cpuacct");
    assert_true(g_str_has_suffix(mount, "/c g"));
    assert_true(g_str_has_suffix(first, "/cpu"));
    assert_null(identity_cgroup_mount(root, "memory"));

    assert_false(identity_cgroup_prepare(cgroup, group, &created, &error));
    assert_non_null(strstr(error->message, "the one above it must be there"));
    g_clear_error(&error);
    g_mkdir_with_parents(group, 0755);
    assert_false(identity_cgroup_prepare(cgroup, group, &created, &error));
    assert_non_null(strstr(error->message, "cgroup.subtree_control"));
    g_clear_error(&error);

    /* Empty: written.  With somebody in it: compared. */
    write_text(group, "memory.max", "max\n");
    assert_true(identity_cgroup_prepare(cgroup, group, &created, &error));
    assert_false(created);
    write_text(group, "cgroup.procs", "1\n");
    write_text(group, "memory.max", "1000\n");
    assert_true(identity_cgroup_prepare(cgroup, group, &created, &error));
    write_text(group, "memory.max", "2000\n");
    assert_false(identity_cgroup_prepare(cgroup, group, &created, &error));
    assert_non_null(strstr(error->message, "is \"2000\" here and should be \"1000\""));
    identity_cgroup_free(cgroup);
    assert_int_equal(system(remove), 0);
}

static void assert_holds(const char *folder, const char *name, const char *text)
{
    g_autofree char *path = g_build_filename(folder, name, NULL);
    g_autofree char *got = NULL;

    assert_true(g_file_get_contents(path, &got, NULL, NULL));
    assert_string_equal(got, text);
}

/* What the source did not name has no limit there, and has none here. */
static void test_cgroup_limits_of_its_own(void **unused)
{
    g_autofree char *group = g_dir_make_tmp("vmferry-cgroup-XXXXXX", NULL);
    g_autofree char *remove = g_strdup_printf("rm -r %s", group);
    IdentityCgroup *cgroup = make_cgroup("1000");
    g_autoptr(GError) error = NULL;
    gboolean created;

    write_text(group, "memory.max", "max\n");
    write_text(group, "memory.high", "268435456\n");
    write_text(group, "cpu.max", "5000 100000\n");
    write_text(group, "cpuset.cpus", "3\n");
    write_text(group, "io.weight", "default 50\n8:0 7\n");
    write_text(group, "pids.max", "max\n");
    assert_true(identity_cgroup_prepare(cgroup, group, &created, &error));
    assert_holds(group, "memory.high", "max");
    assert_holds(group, "cpu.max", "max 100000");
    assert_holds(group, "cpuset.cpus", "\n");
    assert_holds(group, "io.weight", "default 100");
    assert_holds(group, "pids.max", "max\n"); /* as it was */

    /* With somebody in it, or below it: refused by name. */
    write_text(group, "memory.max", "1000\n");
    write_text(group, "memory.high", "268435456\n");
    write_text(group, "cgroup.procs", "1\n");
    assert_false(identity_cgroup_prepare(cgroup, group, &created, &error));
    assert_non_null(strstr(error->message, "memory.high is \"268435456\" here and should be "
                                           "\"max\""));
    g_clear_error(&error);
    write_text(group, "cgroup.procs", "");
    write_text(group, "cgroup.events", "populated 1\nfrozen 0\n");
    assert_false(identity_cgroup_prepare(cgroup, group, &created, &error));
    assert_holds(group, "memory.high", "268435456\n");
    write_text(group, "memory.high", "max\n");
    g_clear_error(&error);
    assert_true(identity_cgroup_prepare(cgroup, group, &created, &error));
    identity_cgroup_free(cgroup);
    assert_int_equal(system(remove), 0);
}

static void test_cgroup_that_is_not_mounted(void **unused)
{
    g_autoptr(ProcessIdentity) identity = our_identity();
    Wish wish = {.identity = identity};

    g_ptr_array_add(identity->cgroups, identity_cgroup_new("nonsense", "/x"));
    expect_fails(&wish, VMFERRY_ERROR_UNSUPPORTED, "cgroup: the guest is in the control group");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_as_we_are),
        cmocka_unit_test(test_nothing_runs_unknown),
        cmocka_unit_test(test_streams),
        cmocka_unit_test(test_another_user),
        cmocka_unit_test(test_ambient_capabilities),
        cmocka_unit_test(test_root_with_less),
        cmocka_unit_test(test_limits_and_priorities),
        cmocka_unit_test(test_session_and_descriptors),
        cmocka_unit_test(test_network_namespace),
        cmocka_unit_test(test_network_namespace_without_a_name),
        cmocka_unit_test(test_missing_user),
        cmocka_unit_test(test_missing_group),
        cmocka_unit_test(test_numbers_without_names),
        cmocka_unit_test(test_what_can_only_be_refused),
        cmocka_unit_test(test_labels_where_there_are_none),
        cmocka_unit_test(test_capabilities_nobody_has),
        cmocka_unit_test(test_capabilities_that_do_not_come_out),
        cmocka_unit_test(test_rights_that_were_not_dropped),
        cmocka_unit_test(test_failing_steps),
        cmocka_unit_test(test_step_that_fails_late),
        cmocka_unit_test(test_cgroup_folders),
        cmocka_unit_test(test_cgroup_limits_of_its_own),
        cmocka_unit_test(test_cgroup_that_is_not_mounted),
    };

    if (geteuid() != 0)
        return 77; /* skipped */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
