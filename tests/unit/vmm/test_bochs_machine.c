/* The configuration of a Bochs, and what it refuses. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/error.h"
#include "vmm/bochs/machine.h"

#define MIB (1u << 20)

static BochsMachine make_machine(void)
{
    return (BochsMachine){
        .memory_bytes = 64 * MIB,
        .vcpus = 1,
        .cpu_model = "corei7_haswell_4770",
        .ips = 50000000,
        .start_time = 1000,
    };
}

static void expect_line(const char *text, const char *line)
{
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);

    if (!g_strv_contains((const char *const *)lines, line))
        fail_msg("no line \"%s\" in:\n%s", line, text);
}

static void test_plain(void **unused)
{
    BochsMachine machine = make_machine();
    g_autofree char *text = bochs_machine_format(&machine, "log");

    assert_true(bochs_machine_check(&machine, NULL));
    expect_line(text, "megs: 64");
    expect_line(text, "cpu: model=corei7_haswell_4770, count=1, ips=50000000, "
                      "reset_on_triple_fault=0");
    expect_line(text, "clock: sync=none, time0=1000");
    expect_line(text, "log: log");
    expect_line(text, "pci: enabled=1, chipset=i440fx");
    expect_line(text, "com1: enabled=1, mode=null");
    expect_line(text, "romimage: file=\"" BOCHS_BIOS "\"");
    expect_line(text, "vgaromimage: file=\"" BOCHS_VGA_BIOS "\"");
    expect_line(text, "panic: action=report");
    assert_null(strstr(text, "ata0"));
    assert_null(strstr(text, "e1000"));
}

static void test_devices(void **unused)
{
    const BochsDisk disks[] = {{0, 0, "/images/a.raw"}, {1, 1, "/images/b c.raw"}};
    BochsMachine machine = make_machine();
    g_autofree char *text = NULL;

    machine.disks = disks;
    machine.disk_count = 2;
    machine.slots[0] = BOCHS_SLOT_VGA;
    machine.slots[2] = BOCHS_SLOT_E1000;
    memcpy(machine.mac, "\x52\x54\x00\x12\x34\x56", 6);
    machine.serial_file = "/run/serial";
    machine.bios = "/usr/share/seabios/bios.bin";
    assert_true(bochs_machine_check(&machine, NULL));
    text = bochs_machine_format(&machine, "log");
    expect_line(text, "ata0-master: type=disk, path=\"/images/a.raw\", mode=flat");
    expect_line(text, "ata1-slave: type=disk, path=\"/images/b c.raw\", mode=flat");
    expect_line(text, "pci: enabled=1, chipset=i440fx, slot1=pcivga, slot3=e1000");
    expect_line(text, "e1000: enabled=1, mac=52:54:00:12:34:56, ethmod=null");
    expect_line(text, "com1: enabled=1, mode=file, dev=\"/run/serial\"");
    expect_line(text, "romimage: file=\"/usr/share/seabios/bios.bin\"");
}

static void test_drives(void **unused)
{
    const BochsDisk disks[] = {{.path = "/a", .journal = "/run/journal"},
                               {.unit = 1, .path = "/b.iso", .cdrom = TRUE},
                               {.channel = 1, .cdrom = TRUE}};
    BochsMachine machine = make_machine();
    g_autofree char *text = NULL;

    machine.disks = disks;
    machine.disk_count = 3;
    assert_true(bochs_machine_check(&machine, NULL));
    text = bochs_machine_format(&machine, "log");
    expect_line(text, "ata0-master: type=disk, path=\"/a\", mode=volatile, "
                      "journal=\"/run/journal\"");
    expect_line(text, "ata0-slave: type=cdrom, path=\"/b.iso\", status=inserted");
    expect_line(text, "ata1-master: type=cdrom, path=\"\", status=ejected");
    expect_line(text, "boot: disk, cdrom");
}

static void expect_refused(const BochsMachine *machine, VmferryErrorCode code, const char *wanted)
{
    g_autoptr(GError) error = NULL;

    assert_false(bochs_machine_check(machine, &error));
    assert_true(error_is(error, code));
    assert_non_null(strstr(error->message, wanted));
}

static void test_processor_and_memory(void **unused)
{
    BochsMachine machine = make_machine();

    machine.vcpus = 9;
    expect_refused(&machine, VMFERRY_ERROR_UNSUPPORTED, "1 to 8 vCPUs, not 9");
    machine.vcpus = 2;
    machine.cores = 4;
    expect_refused(&machine, VMFERRY_ERROR_INVALID, "2 vCPUs are not sockets of 4 cores");
    machine.cores = 2;
    assert_true(bochs_machine_check(&machine, NULL));
    {
        g_autofree char *text = bochs_machine_format(&machine, "log");

        expect_line(text, "cpu: model=corei7_haswell_4770, count=1:2:1, ips=50000000, "
                          "reset_on_triple_fault=0");
    }
    machine = make_machine();
    machine.cpu_model = "x, count=4";
    expect_refused(&machine, VMFERRY_ERROR_INVALID, "not a CPU model");
    machine.cpu_model = NULL;
    expect_refused(&machine, VMFERRY_ERROR_INVALID, "not a CPU model");
    machine = make_machine();
    machine.ips = 999999;
    expect_refused(&machine, VMFERRY_ERROR_INVALID, "at least 1000000");
    machine = make_machine();
    machine.memory_bytes += 4096;
    expect_refused(&machine, VMFERRY_ERROR_UNSUPPORTED, "whole MiB, not 67112960 bytes");
    machine.memory_bytes = (uint64_t)4096 * MIB;
    expect_refused(&machine, VMFERRY_ERROR_UNSUPPORTED, "1 to 2048 MiB");
    machine = make_machine();
    machine.start_time = 1;
    expect_refused(&machine, VMFERRY_ERROR_INVALID, "not a time");
}

static void test_places(void **unused)
{
    const BochsDisk twice[] = {{0, 1, "/a"}, {0, 1, "/b"}}, far[] = {{2, 0, "/a"}},
                    none[] = {{0, 0, NULL}}, written[] = {{0, 0, "/a", TRUE, "/j"}};
    BochsMachine machine = make_machine();

    machine.disks = twice;
    machine.disk_count = 2;
    expect_refused(&machine, VMFERRY_ERROR_INVALID, "disk 1 has no place of its own");
    machine.disks = far;
    machine.disk_count = 1;
    expect_refused(&machine, VMFERRY_ERROR_INVALID, "disk 0 has no place of its own");
    machine.disks = none;
    expect_refused(&machine, VMFERRY_ERROR_INVALID, "disk 0: it has no image");
    machine.disks = written;
    expect_refused(&machine, VMFERRY_ERROR_INVALID, "disk 0: nothing is written to a CD-ROM");
    machine = make_machine();
    machine.slots[0] = machine.slots[4] = BOCHS_SLOT_E1000;
    expect_refused(&machine, VMFERRY_ERROR_UNSUPPORTED, "one e1000 card only");
}

/* Nothing that comes from a description says a second thing to Bochs. */
static void test_paths(void **unused)
{
    static const char *const bad[] = {"relative", "/a\"", "/a,b", "/a\nmegs: 1",
                                      "/$HOME",   "/a\\", "/#"};
    BochsMachine machine = make_machine();

    for (guint i = 0; i < G_N_ELEMENTS(bad); i++) {
        const BochsDisk disk = {0, 0, bad[i]};

        machine = make_machine();
        machine.disks = &disk;
        machine.disk_count = 1;
        expect_refused(&machine, VMFERRY_ERROR_INVALID, "disk: Bochs cannot be told");
        machine = make_machine();
        machine.serial_file = bad[i];
        expect_refused(&machine, VMFERRY_ERROR_INVALID, "serial line: Bochs cannot be told");
        machine = make_machine();
        machine.bios = bad[i];
        expect_refused(&machine, VMFERRY_ERROR_INVALID, "BIOS: Bochs cannot be told");
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plain),
        cmocka_unit_test(test_devices),
        cmocka_unit_test(test_drives),
        cmocka_unit_test(test_places),
        cmocka_unit_test(test_processor_and_memory),
        cmocka_unit_test(test_paths),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
