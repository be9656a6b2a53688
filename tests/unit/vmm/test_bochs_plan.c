/* Command lines for Bochs: of machines in the neutral form, and what is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/error.h"
#include "vmm/bochs/command_line.h"
#include "vmm/bochs/cpu_models.h"
#include "vmm/bochs/plan.h"

#define MIB G_GUINT64_CONSTANT(0x100000)

typedef struct {
    const char *name;
    const char *model; /* NULL: none has it */
    MachineCpuid words[12];
} RecordedCpu;

/* "feature-words" of QEMU 7.2 with TCG. */
static const RecordedCpu recorded[] = {
    {"qemu64",
     "turion64_tyler",
     {{0x80000001, 0, "ECX", 0x5},
      {0x80000001, 0, "EDX", 0x2193fbfd},
      {1, 0, "ECX", 0x80002001},
      {1, 0, "EDX", 0x078bfbfd}}},
    {"Haswell",
     "corei7_haswell_4770",
     {{0xd, 0, "EAX", 0x7},
      {6, 0, "EAX", 0x4},
      {0xd, 1, "EAX", 0x1},
      {0x80000001, 0, "ECX", 0x21},
      {0x80000001, 0, "EDX", 0x28100800},
      {7, 0, "EBX", 0x3a9},
      {1, 0, "ECX", 0xf6d83203},
      {1, 0, "EDX", 0x078bfbfd}}},
    {"max",
     NULL,
     {{0xd, 0, "EAX", 0x21f},
      {6, 0, "EAX", 0x4},
      {0xd, 1, "EAX", 0x5},
      {0x8000000a, 0, "EDX", 0x10010001},
      {0x80000001, 0, "ECX", 0x75},
      {0x80000001, 0, "EDX", 0xedd3fbfd},
      {7, 0, "ECX", 0x8001020c},
      {7, 0, "EBX", 0x01d843a9},
      {1, 0, "ECX", 0xf6d8320b},
      {1, 0, "EDX", 0x0fcbfbfd}}},
};

static void set_cpu(MachineDescription *machine, const RecordedCpu *cpu)
{
    g_array_set_size(machine->cpuid, 0);
    for (guint i = 0; cpu->words[i].reg[0]; i++)
        g_array_append_val(machine->cpuid, cpu->words[i]);
}

static void add_disk(MachineDescription *machine, const char *at, const char *path,
                     const char *format, gboolean cdrom)
{
    MachineDisk *disk = g_new0(MachineDisk, 1);

    disk->at = g_strdup(at);
    disk->path = g_strdup(path);
    disk->format = g_strdup(format);
    disk->cdrom = disk->read_only = cdrom;
    machine_description_add_disk(machine, disk);
}

static void add_device(MachineDescription *machine, const char *type, const char *at,
                       const char *name, const char *mac)
{
    machine_description_add_device(machine, g_strdup(type), g_strdup(at), g_strdup(name),
                                   (const uint8_t *)mac);
}

static MachineDescription *make_machine(void)
{
    MachineDescription *machine = machine_description_new();

    machine->architecture = g_strdup("x86-64");
    machine->chipset = g_strdup("intel,440fx");
    machine->ram_bytes = 128 * MIB;
    machine->vcpus = 1;
    machine->tsc_hz = 2096000000;
    machine->origin_kind = g_strdup("qemu");
    set_cpu(machine, &recorded[1]);
    return machine;
}

static void expect_words(char *const *words, const char *const *wanted)
{
    for (guint i = 0; wanted[i] || words[i]; i++)
        assert_string_equal(words[i] ? words[i] : "(none)", wanted[i] ? wanted[i] : "(none)");
}

static void test_plan(void **unused)
{
    static const char *const wanted[] = {
        "bochs",
        "memory: guest=128, host=128",
        "cpu: model=corei7_haswell_4770, count=1, ips=2096000000",
        "pci: enabled=1, chipset=i440fx, slot1=pcivga, slot3=e1000",
        "e1000: enabled=1, mac=52:54:00:12:34:fe, ethmod=null",
        "ata0-master: type=disk, mode=flat, path=/images/a.raw",
        "ata0-slave: type=cdrom, path=\"/images/b c.iso\", status=inserted",
        "ata1-master: type=cdrom, status=ejected",
        NULL,
    };
    g_autoptr(MachineDescription) machine = make_machine();
    g_autoptr(BochsCommandLine) line = NULL;
    g_autoptr(GError) error = NULL;
    g_auto(GStrv) words = NULL;

    machine->video_bytes = 16 * MIB;
    add_device(machine, "bochs,vbe", "pci:00:02.0", "VGA at 00:02.0", NULL);
    add_device(machine, "intel,82540em", "pci:00:04.0", "e1000 at 00:04.0", "RT\0\x12\x34\xfe");
    add_device(machine, "intel,hpet", "mmio:fed00000", "hpet", NULL);
    add_device(machine, "ns,16550a", "io:3f8", "isa-serial at io:3f8", NULL);
    add_disk(machine, "pci:00:01.1/0/0", "/images/a.raw", "raw", FALSE);
    add_disk(machine, "pci:00:01.1/0/1", "/images/b c.iso", "raw", TRUE);
    add_disk(machine, "pci:00:01.1/1/0", NULL, NULL, TRUE);
    words = bochs_plan(machine, &error);
    if (!words)
        fail_msg("%s", error->message);
    expect_words(words, wanted);
    line = bochs_command_line_parse(words, &error);
    if (!line)
        fail_msg("%s", error->message);
    assert_int_equal(line->machine.memory_bytes, 128 * MIB);
    assert_int_equal(line->machine.disk_count, 3);
    assert_string_equal(line->disks[1].path, "/images/b c.iso");
    assert_true(line->disks[1].cdrom && line->disks[2].cdrom);
    assert_null(line->disks[2].path);
    assert_int_equal(line->machine.slots[2], BOCHS_SLOT_E1000);
    assert_memory_equal(line->machine.mac, "RT\0\x12\x34\xfe", 6);
}

/* A description of the machine that was planned is planned the same. */
static void test_describe(void **unused)
{
    static const char *const words[] = {
        "bochs",
        "memory: guest=64, host=64",
        "cpu: model=corei7_skylake_x, count=1, ips=1000000000",
        "pci: enabled=1, chipset=i440fx, slot1=pcivga, slot2=e1000",
        "e1000: enabled=1, mac=02:00:00:00:00:01, ethmod=null",
        "ata1-slave: type=disk, mode=flat, path=/a",
        NULL,
    };
    g_autoptr(BochsCommandLine) line = bochs_command_line_parse((char **)words, NULL);
    g_autoptr(MachineDescription) machine = NULL;
    g_auto(GStrv) planned = NULL, own = NULL;

    assert_non_null(line);
    machine = bochs_describe(&line->machine);
    assert_string_equal(machine->origin_kind, "bochs");
    assert_int_equal(machine->video_bytes, 16 * MIB);
    planned = bochs_plan(machine, NULL);
    assert_non_null(planned);
    expect_words(planned, words);
    machine->origin_line = g_strsplit("bochs,megs", ",", -1);
    own = bochs_plan(machine, NULL);
    assert_string_equal(own[1], "megs");
}

static void expect_refused(const MachineDescription *machine, const char *wanted)
{
    g_autoptr(GError) error = NULL;
    g_auto(GStrv) words = bochs_plan(machine, &error);

    assert_null(words);
    assert_true(error_is(error, VMFERRY_ERROR_UNSUPPORTED));
    assert_string_equal(error->message, wanted);
}

/* Everything at once, by name. */
static void test_refusals(void **unused)
{
    g_autoptr(MachineDescription) machine = make_machine();

    g_free(machine->chipset);
    machine->chipset = g_strdup("qemu,q35");
    machine->ram_bytes = 4096 * MIB;
    machine->vcpus = 9;
    machine->tsc_hz = 5000000000;
    machine->video_bytes = 32 * MIB;
    add_device(machine, "bochs,vbe", "pci:00:02.0", "VGA at 00:02.0", NULL);
    add_device(machine, "qemu,virtio-blk-pci", "pci:00:03.0", "virtio-blk-pci at 00:03.0", NULL);
    add_device(machine, "intel,82540em", "pci:00:09.0", "e1000 at 00:09.0", "RT\0\x12\x34\xfe");
    add_device(machine, "ns,16550a", "io:2f8", "isa-serial at io:2f8", NULL);
    add_disk(machine, "pci:00:01.1/0/0", "/a.qcow2", "qcow2", FALSE);
    add_disk(machine, "pci:00:01.1/0/1", "relative", "raw", FALSE);
    add_disk(machine, "pci:00:01.1/1/0", "/a,b", "raw", FALSE);
    add_disk(machine, "qemu:virtio0", "/c", "raw", FALSE);
    expect_refused(
        machine,
        "Bochs cannot be this machine: it has chipset qemu,q35 (Bochs has intel,440fx); "
        "4096 MiB of memory (Bochs takes 2048); 9 vCPUs (Bochs takes 8); "
        "a TSC of 5000000000 Hz (Bochs takes 1000000 to 4294967295); "
        "VGA at 00:02.0 with 32 MiB of memory (Bochs has 16); virtio-blk-pci at 00:03.0; "
        "e1000 at 00:09.0: the place pci:00:09.0 (Bochs has slots at pci:00:02.0 to 06.0); "
        "isa-serial at io:2f8; disk /a.qcow2: format qcow2 (Bochs reads raw images); "
        "disk relative: Bochs takes absolute paths without quotes, commas, '$', '#' and '\\'; "
        "disk /a,b: Bochs takes absolute paths without quotes, commas, '$', '#' and '\\'; "
        "a disk at qemu:virtio0 (Bochs has IDE at pci:00:01.1)");
}

/* The arrangement of the processors goes along, where their APICs are numbered as Bochs's. */
static void test_processors(void **unused)
{
    static const struct {
        guint vcpus, vcpus_max;
        MachineTopology topology;
        const char *count, *refused;
    } cases[] = {
        {2, 0, {0}, "count=2,", NULL},
        {2, 0, {2, 1, 1}, "count=2,", NULL},
        {2, 0, {1, 2, 1}, "count=1:2:1,", NULL},
        {8, 0, {2, 2, 2}, "count=2:2:2,", NULL},
        {3, 0, {1, 3, 1}, "count=1:3:1,", NULL},
        {6,
         0,
         {2, 3, 1},
         NULL,
         "sockets of 3 cores with 1 threads, whose APICs are not numbered one after the other"},
        {6,
         0,
         {1, 2, 3},
         NULL,
         "sockets of 2 cores with 3 threads, whose APICs are not numbered one after the other"},
        {2, 4, {1, 4, 1}, NULL, "2 of 4 vCPUs (none can be plugged in later in Bochs)"},
    };

    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(MachineDescription) machine = make_machine();

        machine->vcpus = cases[i].vcpus;
        machine->vcpus_max = cases[i].vcpus_max;
        machine->topology = cases[i].topology;
        if (cases[i].refused) {
            g_autofree char *wanted =
                g_strconcat("Bochs cannot be this machine: it has ", cases[i].refused, NULL);

            expect_refused(machine, wanted);
        } else {
            g_autoptr(GError) error = NULL;
            g_auto(GStrv) words = bochs_plan(machine, &error);
            g_autoptr(BochsCommandLine) line = NULL;

            if (!words)
                fail_msg("%s", error->message);
            assert_non_null(strstr(words[2], cases[i].count));
            line = bochs_command_line_parse(words, NULL);
            assert_int_equal(line->machine.vcpus, cases[i].vcpus);
            assert_int_equal(line->machine.cores, MAX(1, cases[i].topology.cores));
            assert_int_equal(line->machine.threads, MAX(1, cases[i].topology.threads));
        }
    }
}

static void test_cards(void **unused)
{
    g_autoptr(MachineDescription) machine = make_machine();

    add_device(machine, "intel,82540em", "pci:00:03.0", "e1000 at 00:03.0", "RT\0\x12\x34\xfe");
    add_device(machine, "intel,82540em", "pci:00:04.0", "e1000 at 00:04.0", "RT\0\x12\x34\xff");
    expect_refused(machine,
                   "Bochs cannot be this machine: it has e1000 at 00:04.0, the second of its kind");
}

static void test_memory_elsewhere(void **unused)
{
    g_autoptr(MachineDescription) machine = make_machine();
    const MachineMemory parts[] = {{0, machine->ram_bytes / 2},
                                   {(uint64_t)4 << 30, machine->ram_bytes / 2}};

    g_array_append_vals(machine->memory, parts, G_N_ELEMENTS(parts));
    expect_refused(machine, "Bochs cannot be this machine: it has memory at 0x100000000 (Bochs has "
                            "all of it from 0 on)");
}

static void test_unknown(void **unused)
{
    g_autoptr(MachineDescription) machine = make_machine();

    machine->tsc_hz = 0;
    g_array_set_size(machine->cpuid, 0);
    expect_refused(machine, "Bochs cannot be this machine: it has a TSC whose rate is not known; "
                            "a CPU whose features are not known");
}

static void test_cpu(void **unused)
{
    for (guint i = 0; i < G_N_ELEMENTS(recorded); i++) {
        g_autoptr(MachineDescription) machine = make_machine();
        const BochsCpuModel *model, *closest;
        g_autoptr(GPtrArray) missing = NULL;

        set_cpu(machine, &recorded[i]);
        model = bochs_cpu_choose(machine->cpuid, &closest, &missing);
        assert_string_equal(model ? model->name : "none",
                            recorded[i].model ? recorded[i].model : "none");
    }
}

static void test_cpu_missing(void **unused)
{
    g_autoptr(MachineDescription) machine = make_machine();
    MachineCpuid more[] = {{7, 0, "ECX", 1u << 16},
                           {7, 1, "EDX", 1u << 4 | 1u << 31},
                           {0x40000001, 0, "EAX", 0xffff},
                           {7, 0, "EDX", 0xfc000400}};

    g_array_append_vals(machine->cpuid, more, G_N_ELEMENTS(more));
    expect_refused(machine,
                   "Bochs cannot be this machine: it has CPU features that no model of Bochs has "
                   "(corei7_haswell_4770, the closest one, lacks la57, avx-vnni-int8, "
                   "bit 31 of CPUID 0x7/1 EDX)");
}

/* Each model is chosen for what it has itself. */
static void test_cpu_models(void **unused)
{
    guint count = 0;

    for (const BochsCpuModel *model = bochs_cpu_models; model->name; model++, count++) {
        g_autoptr(GArray) cpuid = g_array_new(FALSE, TRUE, sizeof(MachineCpuid));
        const BochsCpuModel *closest, *found;
        GPtrArray *missing;

        bochs_cpu_describe(model, cpuid);
        found = bochs_cpu_choose(cpuid, &closest, &missing);
        assert_non_null(found);
        assert_string_equal(found->name, model->name);
        assert_ptr_equal(bochs_cpu_find(model->name), model);
    }
    assert_int_equal(count, 28);
    assert_null(bochs_cpu_find("host"));
}

/* ---- command lines ---- */

static const char *const whole_line[] = {
    "/usr/bin/bochs-bin",
    "memory: guest=64, host=64",
    "cpu: model=ryzen, count=2, ips=50000000",
    "clock: sync=none, time0=1000",
    "pci: enabled=1, chipset=i440fx, slot5=e1000",
    "e1000: enabled=1, mac=02:00:00:00:00:01, ethmod=null",
    "ata0-master: type=disk, mode=volatile, path=\"/a b\", journal=/run/j",
    "ata0-slave: type=disk, mode=flat, path=/c",
    "ata1-master: type=cdrom, path=/d.iso, status=inserted",
    "ata1-slave: type=cdrom, status=ejected",
    "com1: enabled=1, mode=file, dev=/run/serial",
    "romimage: file=/bios",
    "vgaromimage: file=/vga",
    NULL,
};

static void test_line(void **unused)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(BochsCommandLine) line = bochs_command_line_parse((char **)whole_line, &error);
    g_auto(GStrv) again = NULL;

    if (!line)
        fail_msg("%s", error->message);
    assert_int_equal(line->machine.vcpus, 2);
    assert_int_equal(line->machine.start_time, 1000);
    assert_string_equal(line->disks[0].journal, "/run/j");
    assert_string_equal(line->machine.serial_file, "/run/serial");
    again = bochs_command_line_format(line->program, &line->machine);
    expect_words(again, whole_line);
}

/* Blanks, quotes and order as Bochs takes them. */
static void test_line_spelling(void **unused)
{
    static const char *const words[] = {
        "bochs",
        "ata0-master:path=\"/a\" ,mode=flat,type=disk",
        "cpu: ips=50000000 , model=ryzen",
        "memory:host=64,guest=64",
        "com1: enabled=1, mode=null",
        NULL,
    };
    g_autoptr(GError) error = NULL;
    g_autoptr(BochsCommandLine) line = bochs_command_line_parse((char **)words, &error);

    if (!line)
        fail_msg("%s", error->message);
    assert_string_equal(line->disks[0].path, "/a");
    assert_int_equal(line->machine.vcpus, 1);
    assert_true(line->machine.start_time > 1000000000);
    assert_null(line->machine.serial_file);
}

static void expect_line_refused(const char *instead, const char *by, VmferryErrorCode code,
                                const char *wanted)
{
    g_auto(GStrv) words = g_strdupv((char **)whole_line);
    g_autoptr(BochsCommandLine) line = NULL;
    g_autoptr(GError) error = NULL;

    for (guint i = 0; words[i]; i++) {
        if (g_str_has_prefix(words[i], instead)) {
            g_free(words[i]);
            words[i] = g_strdup(by);
        }
    }
    line = bochs_command_line_parse(words, &error);
    assert_null(line);
    if (!error_is(error, code) || !strstr(error->message, wanted))
        fail_msg("%s", error->message);
}

static void test_line_refusals(void **unused)
{
    static const char *const wrong[][2] = {
        {"memory", "memory: guest=64, host=32"},
        {"memory", "memory: guest=64, block_size=4"},
        {"memory", "memory: guest=-1"},
        {"cpu", "cpu: model=ryzen"},
        {"cpu", "cpu: model=ryzen, ips=50000000, reset_on_triple_fault=1"},
        {"cpu", "cpu: model=ryzen, ips=50000000, ips=50000000"},
        {"cpu", "cpu: model=ryzen, count=2:2, ips=50000000"},
        {"cpu", "cpu: model=ryzen, count=1:0:2, ips=50000000"},
        {"cpu", "cpu: model=ryzen, count=1:2:2:1, ips=50000000"},
        {"cpu", "cpu: model=ryzen, count=, ips=50000000"},
        {"clock", "clock: sync=realtime, time0=1000"},
        {"pci", "pci: enabled=1, chipset=i440fx, slot1=ne2k"},
        {"pci", "pci: enabled=1, chipset=i440fx, slot6=e1000"},
        {"e1000", "e1000: enabled=1, mac=02:00:00:00:00:01, ethmod=tuntap"},
        {"e1000", "e1000: enabled=1, mac=02:00:00:00:00, ethmod=null"},
        {"ata0-slave", "ata0-slave: type=disk, mode=undoable, path=/c"},
        {"ata0-slave", "ata0-slave: type=disk, mode=flat, path=/c d"},
        {"ata0-slave", "ata0-slave: type=disk, mode=flat, path=\"/c\"\"d\""},
        {"ata0-slave", "ata0-slave: type=disk, mode=flat"},
        {"ata0-slave", "ata0-slave: type=disk, mode=volatile, path=/c"},
        {"ata1-master", "ata1-master: type=cdrom, path=/d.iso, status=ejected"},
        {"com1", "com1: enabled=1, mode=socket-server, dev=localhost:8888"},
        {"com1", "com1: enabled=1, mode=file"},
        {"romimage", "romimage: file=/bios, options=fastboot"},
    };

    for (guint i = 0; i < G_N_ELEMENTS(wrong); i++)
        expect_line_refused(wrong[i][0], wrong[i][1], VMFERRY_ERROR_INVALID, wrong[i][1]);
    expect_line_refused("romimage", "usb_uhci: enabled=1", VMFERRY_ERROR_UNSUPPORTED,
                        "\"usb_uhci: enabled=1\"");
    expect_line_refused("romimage", "-q", VMFERRY_ERROR_UNSUPPORTED, "\"-q\"");
    expect_line_refused("romimage", "romimage:", VMFERRY_ERROR_INVALID, "\"romimage:\"");
    expect_line_refused("romimage", "ata2-master: type=disk, mode=flat, path=/x",
                        VMFERRY_ERROR_UNSUPPORTED, "ata2-master");
    expect_line_refused("romimage", "com1: enabled=1, mode=null", VMFERRY_ERROR_INVALID,
                        "two of it");
    expect_line_refused("memory", "romimage: file=/bios", VMFERRY_ERROR_INVALID, "two of it");
    expect_line_refused("e1000", "ata0-slave: type=disk, mode=flat, path=/c", VMFERRY_ERROR_INVALID,
                        "two of it");
    expect_line_refused("pci", "pci: enabled=1, chipset=i440fx", VMFERRY_ERROR_INVALID,
                        "a slot that has it");
    expect_line_refused("cpu", "cpu: model=ryzen, ips=7", VMFERRY_ERROR_INVALID, "at least");
    expect_line_refused("cpu", "cpu: model=ryzen, count=2:4:2, ips=50000000",
                        VMFERRY_ERROR_UNSUPPORTED, "1 to 8 vCPUs, not 16");
    expect_line_refused("ata0-slave", "ata0-slave: type=disk, mode=flat, path=c",
                        VMFERRY_ERROR_INVALID, "disk: Bochs cannot be told");
}

static void test_line_missing(void **unused)
{
    static const char *const no_memory[] = {"bochs", "cpu: model=ryzen, ips=50000000", NULL};
    static const char *const nothing[] = {NULL};
    g_autoptr(GError) error = NULL;

    assert_null(bochs_command_line_parse((char **)no_memory, &error));
    assert_string_equal(error->message, "\"memory: …\" is missing");
    assert_null(bochs_command_line_parse((char **)nothing, NULL));
}

static void test_programs(void **unused)
{
    assert_true(bochs_is_program("bochs"));
    assert_true(bochs_is_program("/usr/bin/bochs-bin"));
    assert_false(bochs_is_program("/bochs/qemu-system-x86_64"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plan),
        cmocka_unit_test(test_describe),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_cards),
        cmocka_unit_test(test_memory_elsewhere),
        cmocka_unit_test(test_unknown),
        cmocka_unit_test(test_cpu),
        cmocka_unit_test(test_cpu_missing),
        cmocka_unit_test(test_cpu_models),
        cmocka_unit_test(test_line),
        cmocka_unit_test(test_line_spelling),
        cmocka_unit_test(test_line_refusals),
        cmocka_unit_test(test_line_missing),
        cmocka_unit_test(test_programs),
        cmocka_unit_test(test_processors),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
