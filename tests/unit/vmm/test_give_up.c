/*
 * A paused QEMU leaves its place to another with the same command line: sockets, pid file, images
 */
#include "disk_guest.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/process.h"
#include "base/unix_socket.h"
#include "vmm/qemu/give_up.h"

#define OPTIONS                                                                                    \
    " -drive file=@disk,format=qcow2,if=none,id=d -device virtio-blk-pci,drive=d"                  \
    " -pidfile @pid -monitor unix:@monitor,server=on,wait=off"                                     \
    " -chardev socket,id=line,path=@line,server=on,wait=off -serial chardev:line"                  \
    " -vnc unix:@vnc"

static int begin(void **state)
{
    qemu_guest_begin();
    make_image("disk", "qcow2", "");
    return 0;
}

static int clean_up(void **state)
{
    return qemu_guest_clean_up();
}

static Guest start_paused(void)
{
    Guest guest = start(OPTIONS);
    GError *error = NULL;

    guest_writes(&guest, "d", 1, "0 1M");
    must(vmm_pause(guest.vmm, NULL, &error), &error);
    return guest;
}

static void give_up(Guest *guest)
{
    GError *error = NULL;

    assert_false(qemu_has_given_up(vmm_get_pid(guest->vmm)));
    must(vmm_give_up_resources(guest->vmm, &error), &error);
    assert_true(qemu_has_given_up(vmm_get_pid(guest->vmm)));
}

/* Of the same command line. */
static Vmm *launch_another(Guest *guest, GError **error)
{
    g_autofree char *directory = path_of("another");
    VmmLaunch launch = {
        .name = "b", .command_line = guest->identity->command_line, .directory = directory};

    g_mkdir_with_parents(directory, 0700);
    return qemu_launch(&launch, error);
}

static void expect_connects(const char *name)
{
    g_autofree char *path = path_of(name);
    GError *error = NULL;
    autofd int fd = unix_socket_connect(path, &error);

    must(fd >= 0, &error);
}

static void expect_pidfile(pid_t pid)
{
    g_autofree char *path = path_of("pid"), *text = file_read(path, 100, NULL, NULL);

    assert_non_null(text);
    assert_int_equal(atoi(text), pid);
}

static void test_another_takes_the_place(void **state)
{
    Guest guest = start_paused();
    Guest other = {0};
    GError *error = NULL;

    /* The images' locks are its own still. */
    give_up(&guest);
    other.vmm = launch_another(&guest, &error);
    must(other.vmm != NULL, &error);
    other.identity = vmm_get_identity(other.vmm);
    expect_connects("monitor");
    expect_connects("line");
    expect_connects("vnc");
    expect_pidfile(vmm_get_pid(other.vmm));
    /* The old one's end removes nothing and writes nothing. */
    end(&guest);
    expect_pidfile(vmm_get_pid(other.vmm));
    expect_connects("monitor");
    end(&other);
    assert_int_equal(run("qemu-img check -q @disk"), 0);
    assert_int_equal(run("qemu-io -f qcow2 -c 'read -P 1 0 1M' @disk | grep -vq failed"), 0);
}

static void test_without_it_none_can(void **state)
{
    Guest guest = start_paused();
    GError *error = NULL;

    assert_null(launch_another(&guest, &error));
    expect_text(error, VMFERRY_ERROR_BUSY, "in use");
    end(&guest);
}

static double cpu_seconds(pid_t pid)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/stat", (int)pid);
    g_autofree char *text = file_read(path, 4096, NULL, NULL);
    unsigned long user, system;

    assert_int_equal(sscanf(strrchr(text, ')'),
                            ") %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user,
                            &system),
                     2);
    return (double)(user + system) / (double)sysconf(_SC_CLK_TCK);
}

/* Another process that connects to the serial line, and ends with 0 when that is closed. */
static pid_t start_client(void)
{
    g_autofree char *path = path_of("line");
    int connected[2];
    pid_t pid;
    char byte;

    assert_int_equal(pipe(connected), 0);
    pid = fork();
    if (pid == 0) {
        int fd = unix_socket_connect(path, NULL);

        if (fd < 0 || write(connected[1], "c", 1) != 1)
            _exit(1);
        _exit(read(fd, &byte, 1) <= 0 ? 0 : 2);
    }
    assert_int_equal(read(connected[0], &byte, 1), 1);
    close(connected[0]);
    close(connected[1]);
    return pid;
}

static void expect_client_ends(pid_t pid)
{
    int status;

    for (guint i = 0; waitpid(pid, &status, WNOHANG) == 0; i++) {
        if (i == WAIT_MS)
            fail_msg("the connection of a client stays");
        clock_sleep_ns(1000000);
    }
    assert_int_equal(status, 0);
}

/* It answers us, does nothing else, and clients see its sockets close. */
static void test_it_is_quiet(void **state)
{
    Guest guest = start_paused();
    pid_t pid = vmm_get_pid(guest.vmm), client = start_client();
    VmmRunState run_state;
    double spent;

    /* Accepted by its main loop before that answers. */
    assert_true(vmm_get_run_state(guest.vmm, &run_state, NULL));
    give_up(&guest);
    expect_client_ends(client);
    spent = cpu_seconds(pid);
    for (guint i = 0; i < 10; i++) {
        clock_sleep_ns(50000000);
        assert_true(vmm_get_run_state(guest.vmm, &run_state, NULL));
        assert_int_equal(run_state, VMM_RUN_STATE_PAUSED);
    }
    assert_true(cpu_seconds(pid) - spent < 0.2);
    end(&guest);
}

/* Also for an agent that has been started since. */
static void test_it_runs_no_more(void **state)
{
    Guest guest = start_paused();
    GError *error = NULL;
    Vmm *again;

    give_up(&guest);
    must(vmm_give_up_resources(guest.vmm, &error), &error);
    assert_false(vmm_resume(guest.vmm, &error));
    expect_text(error, VMFERRY_ERROR_REFUSED, "cannot run any more");
    error = NULL;
    vmm_free(guest.vmm);
    again = qemu_reattach(guest.identity, &error);
    must(again != NULL, &error);
    assert_false(vmm_resume(again, &error));
    expect_text(error, VMFERRY_ERROR_REFUSED, "cannot run any more");
    guest.vmm = again;
    end(&guest);
}

static void test_not_while_it_runs(void **state)
{
    Guest guest = start(OPTIONS);
    GError *error = NULL;

    assert_false(vmm_give_up_resources(guest.vmm, &error));
    expect_text(error, VMFERRY_ERROR_REFUSED, "only a paused guest");
    assert_false(qemu_has_given_up(vmm_get_pid(guest.vmm)));
    end(&guest);
}

#define QEMU_TEST(name) cmocka_unit_test_setup_teardown(name, begin, clean_up)

int main(void)
{
    const struct CMUnitTest tests[] = {
        QEMU_TEST(test_another_takes_the_place),
        QEMU_TEST(test_without_it_none_can),
        QEMU_TEST(test_it_is_quiet),
        QEMU_TEST(test_it_runs_no_more),
        QEMU_TEST(test_not_while_it_runs),
    };

    if (!qemu_guest_is_there())
        return 77;
    signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
