/* A machine in Bochs for who looks into it (vmm_debugger.h): a real one, whose firmware runs. */
#include <fcntl.h>
#include <glib/gstdio.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/error.h"
#include "base/process.h"
#include "real_bochs.h"
#include "vmm/bochs/plan.h"
#include "vmm/vmm_debugger.h"

#define IMAGE_BYTES (1u << 20)
#define WAIT_MS 20000

static char *directory, *image;

static MachineDescription *make_machine(void)
{
    const BochsDisk disk = {.path = image};
    const BochsMachine machine = {.memory_bytes = 16u << 20,
                                  .vcpus = 1,
                                  .cpu_model = "p4_willamette",
                                  .ips = 50000000,
                                  .disks = &disk,
                                  .disk_count = 1};

    return bochs_describe(&machine);
}

static VmmDebugger *open_debugger(void)
{
    g_autoptr(MachineDescription) machine = make_machine();
    g_autoptr(GError) error = NULL;
    VmmDebugger *debugger = vmm_debugger_open(machine, directory, &error);

    if (!debugger)
        fail_msg("%s", error->message);
    return debugger;
}

/* What the command says; *interrupts*: it is asked to end, too. */
static char *execute(VmmDebugger *debugger, const char *command, gboolean interrupts)
{
    gint64 deadline = g_get_monotonic_time() + WAIT_MS * 1000;
    g_autoptr(GError) error = NULL;
    char *answer = NULL;

    if (!vmm_debugger_send(debugger, command, &error))
        fail_msg("%s", error->message);
    while (!vmm_debugger_await(debugger, 50, &answer, &error)) {
        if (!error_is(error, VMFERRY_ERROR_TIMEOUT) || g_get_monotonic_time() > deadline)
            fail_msg("%s", error->message);
        g_clear_error(&error);
        if (interrupts)
            vmm_debugger_interrupt(debugger);
    }
    return answer;
}

static void expect_answer(VmmDebugger *debugger, const char *command, gboolean interrupts,
                          const char *wanted)
{
    g_autofree char *answer = execute(debugger, command, interrupts);

    if (!strstr(answer, wanted))
        fail_msg("%s: %s", command, answer);
}

static void test_commands(void **unused)
{
    g_autoptr(VmmDebugger) debugger = open_debugger();
    g_autofree char *registers = execute(debugger, "r", FALSE);

    /* At its reset; the command itself is not repeated. */
    assert_true(g_str_has_prefix(registers, "CPU0:"));
    expect_answer(debugger, "r", FALSE, "rip: 00000000_0000fff0");
    expect_answer(debugger, "s", FALSE, "Next at t=");
    expect_answer(debugger, "c", TRUE, "Next at t=");
    expect_answer(debugger, "frob", FALSE, "syntax error");
}

/* Longer than a terminal is wide. */
static void test_long_command(void **unused)
{
    g_autoptr(VmmDebugger) debugger = open_debugger();
    g_autofree char *zeros = g_strnfill(150, '0');
    g_autofree char *command = g_strdup_printf("xp /1wx 0x%s", zeros);
    g_autofree char *answer = execute(debugger, command, FALSE);

    assert_true(g_str_has_prefix(answer, "[bochs]:"));
}

static void test_no_command(void **unused)
{
    g_autoptr(VmmDebugger) debugger = open_debugger();
    g_autoptr(GError) error = NULL;

    assert_false(vmm_debugger_send(debugger, "r\nq", &error));
    assert_true(error_is(error, VMFERRY_ERROR_INVALID));
    expect_answer(debugger, "r", FALSE, "CPU0:");
}

static guint count_files(void)
{
    g_autoptr(GDir) dir = g_dir_open(directory, 0, NULL);
    guint count = 0;

    while (g_dir_read_name(dir))
        count++;
    return count;
}

/* All files are gone, and the image was not locked, nor written. */
static void test_leaves_nothing(void **unused)
{
    VmmDebugger *debugger = open_debugger();
    g_autofree char *lock = g_strconcat(image, ".lock", NULL), *content = NULL;
    pid_t pid = vmm_get_pid(vmm_debugger_get_vmm(debugger));
    uint64_t start_time;
    gsize length;

    assert_true(process_get_start_time(pid, &start_time, NULL));
    assert_false(g_file_test(lock, G_FILE_TEST_EXISTS));
    vmm_debugger_free(debugger);
    assert_int_equal(count_files(), 1);
    assert_false(process_is_same(pid, start_time));
    assert_true(g_file_get_contents(image, &content, &length, NULL));
    assert_int_equal(length, IMAGE_BYTES);
    for (gsize i = 0; i < length; i++)
        assert_int_equal(content[i], 0);
}

static void test_refused(void **unused)
{
    g_autoptr(MachineDescription) machine = make_machine();
    g_autoptr(GError) error = NULL;

    machine->vcpus = 9;
    assert_null(vmm_debugger_open(machine, directory, &error));
    assert_true(error_is(error, VMFERRY_ERROR_UNSUPPORTED));
    assert_non_null(strstr(error->message, "9 vCPUs"));
}

static int make_files(void **unused)
{
    int fd;

    directory = g_dir_make_tmp("bochs-debugger-XXXXXX", NULL);
    image = g_build_filename(directory, "disk", NULL);
    fd = open(image, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0 || ftruncate(fd, IMAGE_BYTES) < 0)
        return -1;
    close(fd);
    return 0;
}

static int remove_files(void **unused)
{
    (void)g_unlink(image);
    g_free(image);
    (void)g_rmdir(directory);
    g_free(directory);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_commands),   cmocka_unit_test(test_long_command),
        cmocka_unit_test(test_no_command), cmocka_unit_test(test_leaves_nothing),
        cmocka_unit_test(test_refused),
    };

    return real_bochs_is_there() ? cmocka_run_group_tests(tests, make_files, remove_files)
                                 : SKIP_ALL;
}
