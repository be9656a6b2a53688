#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/error.h"
#include "vmm/qemu/command_line.h"
#include "vmm/qemu/options.h"
#include "vmm/qemu/qemu.h"
#include "vmm/qemu/qmp_endpoints.h"
#include "vmm/qemu/start_options.h"

static char **split(const char *text)
{
    return g_strsplit(text, " ", -1);
}

static void expect_qmp(const char *line, const char *wanted)
{
    static const char *const kinds[] = {[QMP_AT_PATH] = "path",
                                        [QMP_AT_ABSTRACT] = "abstract",
                                        [QMP_AT_TCP] = "tcp",
                                        [QMP_AT_DESCRIPTOR] = "fd",
                                        [QMP_AT_OTHER] = "other"};
    g_auto(GStrv) argv = split(line);
    g_autoptr(GPtrArray) found = qmp_endpoints_find(argv);
    GString *joined = g_string_new(NULL);

    for (guint i = 0; i < found->len; i++) {
        const QmpEndpoint *endpoint = found->pdata[i];

        g_string_append_printf(joined, "%s%s %s%s", i ? "; " : "", kinds[endpoint->kind],
                               endpoint->text, endpoint->padded ? " padded" : "");
    }
    assert_string_equal(joined->str, wanted);
    g_string_free(joined, TRUE);
}

static void test_finds_qmp_sockets(void **unused)
{
    expect_qmp("qemu -qmp unix:/run/a.qmp,server=on,wait=off", "path /run/a.qmp");
    expect_qmp("qemu --qmp unix:/run/a.qmp,server,nowait -m 1G", "path /run/a.qmp");
    expect_qmp("qemu -qmp-pretty unix:a.qmp,wait=off,server=on", "path a.qmp");
    expect_qmp("qemu -qmp unix:/run/a,,b.qmp,server", "path /run/a,b.qmp");
    expect_qmp("qemu -chardev socket,id=m,path=/q,server=on,wait=off -mon chardev=m,mode=control",
               "path /q");
    expect_qmp("qemu -mon m,mode=control,pretty=on -chardev socket,path=/q,server,nowait,id=m",
               "path /q");
    expect_qmp("qemu -chardev socket,id=m,path=/q,server=on -qmp chardev:m", "path /q");
    expect_qmp("qemu -qmp unix:/a,server -qmp unix:/b,server", "path /a; path /b");
    expect_qmp("qemu -qmp unix:a,server,abstract=on", "abstract a");
    expect_qmp("qemu -qmp unix:a,server,abstract=on,tight=off", "abstract a padded");
    expect_qmp("qemu -chardev socket,id=m,path=a,abstract=on,tight=on,server=on -qmp chardev:m",
               "abstract a");
}

static void test_tells_other_qmp_endpoints(void **unused)
{
    expect_qmp("qemu -qmp tcp:localhost:4444,server", "tcp localhost:4444");
    expect_qmp("qemu -qmp tcp:[::1]:4444,server=on,wait=off", "tcp [::1]:4444");
    expect_qmp("qemu -qmp telnet::4444,server", "tcp :4444");
    expect_qmp("qemu -qmp tcp:h:1 ", "other a socket that QEMU connects to");
    expect_qmp("qemu -chardev socket,id=m,host=h,port=5,server=on -mon m,mode=control", "tcp h:5");
    expect_qmp("qemu -qmp stdio", "other stdio");
    expect_qmp("qemu -chardev pty,id=m -mon chardev=m,mode=control", "other pty");
    expect_qmp("qemu -qmp unix:/run/a.qmp", "other a socket that QEMU connects to");
    expect_qmp("qemu -qmp unix:/a,server=off", "other a socket that QEMU connects to");
    expect_qmp("qemu -chardev socket,id=charmonitor,fd=25,server=on,wait=off "
               "-mon chardev=charmonitor,id=monitor,mode=control",
               "fd 25");
}

static void test_passes_by_what_is_no_qmp(void **unused)
{
    expect_qmp("qemu -monitor unix:/a,server", "");
    expect_qmp("qemu -mon chardev=m -chardev socket,id=m,path=/q,server", "");
    expect_qmp("qemu -mon chardev=other,mode=control -chardev socket,id=m,path=/q,server", "");
    expect_qmp("qemu -append -qmp unix:/a,server", "");
    expect_qmp("qemu -qmp none", "");
    expect_qmp("qemu -qmp", "");
}

static void test_start_options(void **unused)
{
    static const struct {
        const char *line;
        gboolean changes_user, filters;
        const char *root, *pidfile;
    } cases[] = {
        {"qemu -m 1", FALSE, FALSE, NULL, NULL},
        {"qemu -runas nobody -pidfile a.pid", TRUE, FALSE, NULL, "a.pid"},
        {"qemu -run-with user=nobody,chroot=/a", TRUE, FALSE, "/a", NULL},
        {"qemu -run-with async-teardown=on -chroot /b", FALSE, FALSE, "/b", NULL},
        {"qemu -sandbox on,spawn=deny", FALSE, TRUE, NULL, NULL},
        {"qemu -sandbox enable=on", FALSE, TRUE, NULL, NULL},
        {"qemu -sandbox off", FALSE, FALSE, NULL, NULL},
        {"qemu -append -runas x", FALSE, FALSE, NULL, NULL},
        {"qemu -runas", FALSE, FALSE, NULL, NULL},
    };

    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_auto(GStrv) argv = split(cases[i].line);
        g_auto(QemuStartOptions) options = {0};

        qemu_start_options_read(argv, &options);
        if (options.changes_user != cases[i].changes_user || options.filters != cases[i].filters ||
            g_strcmp0(options.root, cases[i].root) || g_strcmp0(options.pidfile, cases[i].pidfile))
            fail_msg("%s", cases[i].line);
    }
}

static void expect_line(char **got, const char *wanted)
{
    g_autofree char *joined = g_strjoinv(" ", got);

    assert_string_equal(joined, wanted);
    g_strfreev(got);
}

static void test_cleans(void **unused)
{
    g_auto(GStrv) argv = split(
        "/usr/bin/qemu-system-x86_64 -m 1G -daemonize -incoming defer -S --pidfile /run/x.pid "
        "-loadvm old -append -S -chardev socket,id=vmferry-qmp,path=/x,server=on,wait=off "
        "-mon chardev=vmferry-qmp,mode=control -mon chardev=mine disk.img");

    expect_line(qemu_command_line_clean(argv),
                "/usr/bin/qemu-system-x86_64 -m 1G --pidfile /run/x.pid -append -S "
                "-mon chardev=mine disk.img");
}

static void test_starts_with_own_socket(void **unused)
{
    g_auto(GStrv) argv = split("qemu-system-x86_64 -daemonize -m 1G -S");

    expect_line(qemu_command_line_for_start(argv, "/run/a,b.qmp"),
                "qemu-system-x86_64 -m 1G -S "
                "-chardev socket,id=vmferry-qmp,path=/run/a,,b.qmp,server=on,wait=off "
                "-mon chardev=vmferry-qmp,mode=control");
}

static void test_incoming_is_rewritten(void **unused)
{
    VmmMapRule disks = {"/srv/disks/", "/mnt/"}, tap = {"ifname=tap0", "ifname=tap7"};
    VmmMapRule nothing = {"", "x"};
    g_autoptr(GPtrArray) rules = g_ptr_array_new();
    g_auto(GStrv) argv = split("qemu -netdev tap,ifname=tap0 -drive file=/srv/disks/a -S");

    g_ptr_array_add(rules, &disks);
    g_ptr_array_add(rules, &tap);
    g_ptr_array_add(rules, &nothing);
    expect_line(qemu_command_line_for_incoming(argv, rules, "/q"),
                "qemu -netdev tap,ifname=tap7 -drive file=/mnt/a "
                "-chardev socket,id=vmferry-qmp,path=/q,server=on,wait=off "
                "-mon chardev=vmferry-qmp,mode=control -incoming defer -S");
}

/* A destination's command line, cleaned, gives back the source's. */
static void test_round_trip(void **unused)
{
    static const char line[] = "qemu -m 64 -nodefaults -append a,server=on -device virtio-rng-pci";
    g_auto(GStrv) argv = split(line);
    g_auto(GStrv) incoming = qemu_command_line_for_incoming(argv, NULL, "/q");
    g_auto(GStrv) started = qemu_command_line_for_start(incoming, "/r");

    expect_line(qemu_command_line_clean(incoming), line);
    expect_line(qemu_command_line_clean(started), line);
}

static void expect_mebibytes(const char *line, uint64_t mebibytes)
{
    g_auto(GStrv) argv = split(line);

    assert_true(qemu_command_line_memory(argv) == mebibytes << 20);
}

static void test_memory_size(void **unused)
{
    expect_mebibytes("qemu", 128);
    expect_mebibytes("qemu -m 1024", 1024);
    expect_mebibytes("qemu -m 2G", 2048);
    expect_mebibytes("qemu -m 1.5G", 1536);
    expect_mebibytes("qemu -m size=524288k,slots=2,maxmem=4G", 512);
    expect_mebibytes("qemu -m 1G -m 2048M", 2048);
    expect_mebibytes("qemu -m x", 0);
    expect_mebibytes("qemu -m 1e300", 0);
    expect_mebibytes("qemu -m -5", 0);
    expect_mebibytes("qemu -m 1G -mem-path /dev/hugepages", 0);
    expect_mebibytes("qemu -m 1G -object memory-backend-memfd,id=m,size=1G,hugetlb=on", 0);
}

typedef gboolean (*Check)(char *const *argv, GError **error);

static void expect_passes(Check check, const char *line)
{
    g_auto(GStrv) argv = split(line);
    g_autoptr(GError) error = NULL;

    if (!check(argv, &error))
        fail_msg("%s", error->message);
}

static void expect_refused(Check check, const char *line, const char *text)
{
    g_auto(GStrv) argv = split(line);
    g_autoptr(GError) error = NULL;

    assert_false(check(argv, &error));
    if (!strstr(error->message, text))
        fail_msg("\"%s\" does not hold \"%s\"", error->message, text);
}

static gboolean check_sockets(char *const *argv, GError **error)
{
    return qemu_command_line_check_sockets(argv, "/tmp", error);
}

static gboolean check_memory_files(char *const *argv, GError **error)
{
    return qemu_command_line_check_memory_files(argv, "/tmp", error);
}

static gboolean check_pidfile(char *const *argv, GError **error)
{
    return qemu_command_line_check_pidfile(argv, "/tmp", error);
}

static void test_inherited_descriptors(void **unused)
{
    Check check = qemu_command_line_check_descriptors;

    expect_refused(check, "qemu -netdev tap,fd=21,id=n", "(-netdev tap,fd=21,id=n)");
    expect_refused(check, "qemu -netdev tap,id=n,fds=3:4,vhostfds=5:6", "map rule");
    expect_refused(check, "qemu -netdev tap,id=n,ifname=t,vhost=on,vhostfd=6", "vhostfd=6");
    expect_refused(check, "qemu -add-fd fd=3,set=1", "-add-fd");
    expect_refused(check, "qemu -drive file=/dev/fdset/1", "/dev/fdset/1");
    expect_refused(check, "qemu -chardev socket,id=charmonitor,fd=25,server=on", "fd=25");
    expect_refused(check,
                   "qemu -netdev {\"type\":\"tap\",\"fd\":\"34\",\"vhost\":true,\"id\":\"n\"}",
                   "open descriptor");
    expect_refused(check, "qemu -blockdev {\"driver\":\"file\",\"x\":[{\"vhostfd\":\"3\"}]}",
                   "open descriptor");
    expect_passes(check, "qemu -append fd=3 -name fd=3 -netdev user,id=n -nic user,hostfwd=fd");
}

static void test_foreign_writers(void **unused)
{
    Check check = qemu_command_line_check_writers;

    expect_refused(check, "qemu -device vfio-pci,host=01:00.0", "a vfio-pci (-device)");
    expect_refused(check, "qemu -device id=x,driver=vhost-user-blk-pci", "vhost-user-blk-pci");
    expect_refused(check, "qemu -device {\"driver\":\"vhost-user-fs-pci\",\"id\":\"fs0\"}",
                   "vhost-user-fs-pci");
    expect_refused(check, "qemu -netdev vhost-user,id=n,chardev=c", "a vhost-user (-netdev)");
    expect_refused(check, "qemu -netdev type=vhost-vdpa,vhostdev=/dev/x,id=n", "vhost-vdpa");
    expect_refused(check, "qemu -device ivshmem-doorbell,chardev=c", "ivshmem-doorbell");
    expect_refused(check, "qemu -drive file=nvme://0000:01:00.0/1,if=none", "nvme");
    expect_refused(check, "qemu -blockdev driver=nvme,device=0000:01:00.0", "nvme");
    expect_passes(check, "qemu -device nvme,drive=d,serial=1 -device virtio-net-pci "
                         "-netdev tap,id=n,vhost=on -device vhost-vsock-pci,guest-cid=3 "
                         "-append vfio-pci -drive file=nvme.img");
}

static void test_sockets_in_use(void **unused)
{
    g_autofree char *folder = g_dir_make_tmp("vmferry-test-XXXXXX", NULL);
    g_autofree char *path = g_strdup_printf("%s/s", folder);
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    static const char *const forms[] = {
        "qemu -serial unix:%s,server=on,wait=off",
        "qemu -monitor mon:unix:%s,server,nowait",
        "qemu -chardev socket,id=c,path=%s,server=on",
        "qemu -vnc unix:%s",
    };
    int listener = socket(AF_UNIX, SOCK_STREAM, 0);

    g_strlcpy(address.sun_path, path, sizeof address.sun_path);
    assert_int_equal(bind(listener, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(listen(listener, 8), 0);
    for (guint i = 0; i < G_N_ELEMENTS(forms); i++) {
        GString *line = g_string_new(forms[i]);

        g_string_replace(line, "%s", path, 0);
        expect_refused(check_sockets, line->str, "is in use on this host");
        g_string_free(line, TRUE);
    }
    close(listener);
    expect_passes(check_sockets, "qemu -serial unix:/nonexistent/x,server");
    unlink(path);
    rmdir(folder);
}

static void test_snapshots(void **unused)
{
    Check check = qemu_command_line_check_snapshots;

    expect_refused(check, "qemu -snapshot -m 64", "temporary files (-snapshot)");
    expect_refused(check, "qemu -drive file=a,snapshot=on", "temporary files (-drive)");
    expect_passes(check, "qemu -drive file=snapshot,snapshot=off -append snapshot=on");
}

static void test_memory_file_in_use(void **unused)
{
    char path[] = "/tmp/vmferry-test-XXXXXX";
    int fd = mkstemp(path);
    g_autofree char *line =
        g_strdup_printf("qemu -object memory-backend-file,id=m,size=1M,share=on,mem-path=%s", path);
    g_autofree char *own =
        g_strdup_printf("qemu -object memory-backend-file,id=m,size=1M,mem-path=%s", path);
    Check check = check_memory_files;

    assert_true(fd >= 0);
    expect_refused(check, line, "which is in use on this host");
    expect_passes(check, own);
    close(fd);
    expect_passes(check, line);
    unlink(path);
    expect_passes(check, line);
}

/* Locked by another process, as QEMU does it; our own locks do not count. */
static void test_pidfile_in_use(void **unused)
{
    char path[] = "/tmp/vmferry-test-XXXXXX";
    int fd = mkstemp(path), ends[2];
    g_autofree char *line = g_strdup_printf("qemu -pidfile %s", path);
    g_autofree char *relative = g_strdup_printf("qemu -pidfile %s", path + strlen("/tmp/"));
    char nothing;
    pid_t owner;

    assert_true(fd >= 0 && pipe(ends) == 0);
    expect_passes(check_pidfile, line);
    owner = fork();
    if (owner == 0) {
        struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};

        if (fcntl(fd, F_SETLK, &lock) < 0)
            _exit(1);
        (void)!write(ends[1], "x", 1);
        pause();
    }
    assert_int_equal(read(ends[0], &nothing, 1), 1);
    expect_refused(check_pidfile, line, "on this host has locked");
    expect_refused(check_pidfile, relative, "map rule");
    kill(owner, SIGKILL);
    waitpid(owner, NULL, 0);
    expect_passes(check_pidfile, line);
    expect_passes(check_pidfile, "qemu -pidfile /nonexistent/a.pid");
    close(fd);
    unlink(path);
}

static void test_program_names(void **unused)
{
    assert_true(qemu_is_program("/usr/bin/qemu-system-x86_64"));
    assert_true(qemu_is_program("/usr/libexec/qemu-kvm"));
    assert_true(qemu_is_program("kvm"));
    assert_false(qemu_is_program("/home/qemu/bash"));
    assert_false(qemu_is_program(""));
}

static void test_parameters(void **unused)
{
    g_autoptr(QemuParameters) list = qemu_parameters_parse("first,a=1,,2,b,a=3,c=off", "type");
    g_autoptr(QemuParameters) json =
        qemu_parameters_parse("{\"a\": {\"b\": [1, {\"c\": true}]}, \"d\": \"x\"}", NULL);

    assert_string_equal(qemu_parameters_get(list, "type"), "first");
    assert_string_equal(qemu_parameters_get(list, "a"), "3");
    assert_true(qemu_parameters_flag(list, "b"));
    assert_false(qemu_parameters_flag(list, "c"));
    assert_null(qemu_parameters_get(list, "d"));
    assert_string_equal(qemu_parameters_get(json, "a.b"), "1");
    assert_true(qemu_parameters_flag(json, "a.b.c"));
    assert_true(qemu_parameters_has_leaf(json, "c"));
    assert_string_equal(qemu_parameters_get(json, "d"), "x");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_finds_qmp_sockets),
        cmocka_unit_test(test_tells_other_qmp_endpoints),
        cmocka_unit_test(test_passes_by_what_is_no_qmp),
        cmocka_unit_test(test_start_options),
        cmocka_unit_test(test_cleans),
        cmocka_unit_test(test_starts_with_own_socket),
        cmocka_unit_test(test_incoming_is_rewritten),
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_memory_size),
        cmocka_unit_test(test_inherited_descriptors),
        cmocka_unit_test(test_foreign_writers),
        cmocka_unit_test(test_sockets_in_use),
        cmocka_unit_test(test_snapshots),
        cmocka_unit_test(test_memory_file_in_use),
        cmocka_unit_test(test_pidfile_in_use),
        cmocka_unit_test(test_program_names),
        cmocka_unit_test(test_parameters),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
