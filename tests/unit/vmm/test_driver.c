/* Launching and adopting: what goes wrong, and what is said then. */
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/process.h"
#include "vmm/bochs/bochs.h"
#include "vmm/qemu/qemu.h"

static char *folder;

static int make_folder(void **unused)
{
    folder = g_dir_make_tmp("vmferry-test-XXXXXX", NULL);
    return folder ? 0 : -1;
}

static int remove_folder(void **unused)
{
    GDir *dir = g_dir_open(folder, 0, NULL);
    const char *name;

    while ((name = g_dir_read_name(dir))) {
        g_autofree char *path = g_strdup_printf("%s/%s", folder, name);

        remove(path);
    }
    g_dir_close(dir);
    rmdir(folder);
    g_free(folder);
    return 0;
}

/* A shell script that passes for a QEMU by its name. */
static char *make_program(const char *name, const char *script)
{
    char *path = g_strdup_printf("%s/%s", folder, name);
    g_autofree char *text = g_strdup_printf("#!/bin/sh\n%s\n", script);

    assert_true(file_replace(path, text, strlen(text), FALSE, NULL));
    assert_int_equal(chmod(path, 0700), 0);
    return path;
}

static void expect_launch_fails(const char *line, gboolean incoming, VmferryErrorCode code,
                                const char *text)
{
    g_auto(GStrv) argv = g_strsplit(line, " ", -1);
    VmmLaunch launch = {
        .name = "g", .command_line = argv, .directory = folder, .incoming = incoming};
    g_autoptr(GError) error = NULL;

    assert_null(qemu_launch(&launch, &error));
    if (!strstr(error->message, text) || !error_is(error, code))
        fail_msg("\"%s\" (%s) does not hold \"%s\"", error->message,
                 vmferry_error_code_name(error->code), text);
}

static void test_no_program(void **unused)
{
    expect_launch_fails("/opt/nowhere/qemu-system-x86_64 -m 64", FALSE, VMFERRY_ERROR_NOT_FOUND,
                        "there is no program /opt/nowhere/qemu-system-x86_64");
    expect_launch_fails("/opt/nowhere/qemu-system-x86_64 -m 64", TRUE, VMFERRY_ERROR_NOT_FOUND,
                        "destination has no /opt/nowhere/qemu-system-x86_64");
    expect_launch_fails("/bin/sh -c true", TRUE, VMFERRY_ERROR_REFUSED, "/bin/sh is not QEMU");
}

static void test_stderr_of_a_failed_start(void **unused)
{
    g_autofree char *program =
        make_program("qemu-fails", "echo 'noise'\n"
                                   "echo 'qemu-fails: unsupported machine type' >&2; exit 1");

    expect_launch_fails(program, FALSE, VMFERRY_ERROR_FAILED,
                        "QEMU did not start: qemu-fails: unsupported machine type");
    expect_launch_fails(program, TRUE, VMFERRY_ERROR_FAILED, "unsupported machine type");
}

static void test_silent_failure(void **unused)
{
    g_autofree char *program = make_program("qemu-silent", "exit 1");

    expect_launch_fails(program, FALSE, VMFERRY_ERROR_FAILED, "it ended without a message");
}

static void test_what_cannot_start_elsewhere(void **unused)
{
    g_autofree char *program = make_program("qemu-never", "exit 1");
    g_autofree char *tap = g_strdup_printf("%s -netdev tap,fd=3,id=n", program);
    g_autofree char *large = g_strdup_printf("%s -m 900000G", program);

    expect_launch_fails(tap, TRUE, VMFERRY_ERROR_UNSUPPORTED, "open descriptor");
    expect_launch_fails(large, TRUE, VMFERRY_ERROR_NO_SPACE, "not enough memory here");
}

static void expect_adopt_fails(pid_t pid, const char *qmp_path, const char *text)
{
    g_autoptr(GError) error = NULL;

    assert_null(qemu_adopt(pid, qmp_path, &error));
    if (!strstr(error->message, text))
        fail_msg("\"%s\" does not hold \"%s\"", error->message, text);
}

static void test_adopt_of_no_process(void **unused)
{
    expect_adopt_fails(0x3fffff, NULL, "no process with pid 4194303");
}

/* ---- the registry ---- */

static void test_finding_a_driver(void **unused)
{
    char *kvm[] = {(char *)"/usr/bin/kvm", NULL}, *shell[] = {(char *)"/bin/sh", NULL};
    char *nothing[] = {NULL};
    g_autoptr(GError) error = NULL;

    assert_ptr_equal(vmm_driver_find("qemu", NULL), &qemu_driver);
    assert_ptr_equal(vmm_driver_find("bochs", NULL), &bochs_driver);
    assert_null(vmm_driver_find("xen", &error));
    assert_true(error_is(error, VMFERRY_ERROR_UNSUPPORTED));
    assert_non_null(strstr(error->message, "no driver for guests of kind \"xen\""));
    g_clear_error(&error);
    assert_null(vmm_driver_find(NULL, NULL));
    assert_ptr_equal(vmm_driver_find_for_command_line(kvm, NULL), &qemu_driver);
    assert_null(vmm_driver_find_for_command_line(shell, &error));
    assert_true(error_is(error, VMFERRY_ERROR_REFUSED));
    assert_non_null(strstr(error->message, "/bin/sh is not QEMU"));
    g_clear_error(&error);
    assert_null(vmm_driver_find_for_command_line(nothing, &error));
    assert_non_null(strstr(error->message, "command line is empty"));
    g_clear_error(&error);
    assert_null(vmm_driver_find_for_process(getpid(), &error));
    assert_true(error_is(error, VMFERRY_ERROR_INVALID));
    assert_non_null(strstr(error->message, ", not QEMU"));
}

/* ---- a driver without the optional tables ---- */

static void test_missing_tables(void **unused)
{
    static const VmmOps core = {.kind = "bare"};
    Vmm vmm = {.ops = &core};
    g_autoptr(GError) error = NULL;
    uint64_t bytes;

    assert_false(vmm_get_balloon(&vmm, &bytes, &error));
    assert_true(error_is(error, VMFERRY_ERROR_UNSUPPORTED));
    assert_string_equal(error->message, "a VMM of kind \"bare\" offers no control of its balloon");
    g_clear_error(&error);
    assert_null(vmm_list_images(&vmm, NULL, &error));
    assert_string_equal(error->message, "a VMM of kind \"bare\" offers no control of its disks");
}

/* A process that passes for a QEMU by its name, but opens no socket. */
static pid_t start_sleeper(void)
{
    g_autofree char *program = g_strdup_printf("%s/qemu-sleeps", folder);
    g_autofree char *sleep_data = NULL;
    size_t length;
    pid_t pid;

    sleep_data = file_read("/bin/sleep", 16u << 20, &length, NULL);
    assert_true(file_replace(program, sleep_data, length, FALSE, NULL));
    assert_int_equal(chmod(program, 0700), 0);
    pid = fork();
    if (pid == 0) {
        execl(program, program, "60", NULL);
        _exit(127);
    }
    /* Until exec is through, it is still this test. */
    for (guint i = 0; i < 5000; i++) {
        g_auto(GStrv) argv = process_get_command_line(pid, NULL);

        if (argv && argv[0] && strcmp(argv[0], program) == 0)
            return pid;
        g_usleep(1000);
    }
    fail_msg("%s does not start", program);
    return -1;
}

static void test_adopt_without_socket(void **unused)
{
    pid_t pid = start_sleeper();

    expect_adopt_fails(pid, NULL, "name one with --qmp PATH");
    expect_adopt_fails(pid, "/nonexistent/q", "QMP: connect to /nonexistent/q: No such file");
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
}

static void test_reattach_to_what_is_gone(void **unused)
{
    VmmIdentity identity = {.pid = getpid(), .start_time = 1};
    g_autoptr(GError) error = NULL;

    assert_null(qemu_reattach(&identity, &error));
    assert_non_null(strstr(error->message, "has ended"));
    assert_true(error_is(error, VMFERRY_ERROR_NOT_FOUND));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_no_program),
        cmocka_unit_test(test_stderr_of_a_failed_start),
        cmocka_unit_test(test_silent_failure),
        cmocka_unit_test(test_what_cannot_start_elsewhere),
        cmocka_unit_test(test_adopt_of_no_process),
        cmocka_unit_test(test_finding_a_driver),
        cmocka_unit_test(test_missing_tables),
        cmocka_unit_test(test_adopt_without_socket),
        cmocka_unit_test(test_reattach_to_what_is_gone),
    };

    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
