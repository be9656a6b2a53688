/* Machines of QEMUs in the neutral form, recorded (shapes/) and live, and command lines made of it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/error.h"
#include "base/tsc.h"
#include "vmm/bochs/plan.h"
#include "vmm/qemu/neutral_machine.h"
#include "vmm/qemu/plan.h"
#include "vmm/qemu/ram_blocks.h"
#include "vmm/vmm_driver.h"

#define MIB G_GUINT64_CONSTANT(0x100000)

static const QemuNeutralFacts facts = {
    .architecture = "x86_64",
    .machine_type = "pc-i440fx-7.2",
    .directory = "/guests/a",
    .ram_bytes = 256 * MIB,
    .vcpus = 1,
    .tsc_hz = 2000000000,
};

static MachineDescription *read_shape(const char *name)
{
    g_autofree char *path = g_strdup_printf("%s/%s.json", SHAPES, name);
    g_autoptr(json_t) object = json_load_file(path, 0, NULL);
    g_autoptr(GError) error = NULL;
    MachineDescription *machine;

    assert_non_null(object);
    machine = qemu_neutral_machine(object, &facts, &error);
    if (!machine)
        fail_msg("%s: %s", name, error->message);
    return machine;
}

static gint compare_texts(gconstpointer a, gconstpointer b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* "TYPE AT NAME, …" in the order of their types and places. */
static char *tell_devices(const MachineDescription *machine)
{
    g_autoptr(GPtrArray) told = g_ptr_array_new_with_free_func(g_free);
    GString *all = g_string_new(NULL);

    for (guint i = 0; i < machine->devices->len; i++) {
        const MachineDevice *device = machine->devices->pdata[i];

        g_ptr_array_add(told,
                        g_strdup_printf("%s %s (%s)", device->type, device->at, device->name));
    }
    g_ptr_array_sort(told, compare_texts);
    for (guint i = 0; i < told->len; i++)
        g_string_append_printf(all, "%s%s", i ? "; " : "", (char *)told->pdata[i]);
    return g_string_free(all, FALSE);
}

static void expect_devices(const MachineDescription *machine, const char *wanted)
{
    g_autofree char *told = tell_devices(machine);

    assert_string_equal(told, wanted);
}

static void test_plain(void **unused)
{
    static const char *const names[] = {"plain-7.2", "plain-10.0"};

    for (guint i = 0; i < G_N_ELEMENTS(names); i++) {
        g_autoptr(MachineDescription) machine = read_shape(names[i]);
        const MachineDisk *disk = machine->disks->pdata[0], *drive = machine->disks->pdata[1];
        const MachineDevice *card = machine_description_find(machine, "intel,82540em");

        assert_string_equal(machine->architecture, "x86-64");
        assert_string_equal(machine->chipset, "intel,440fx");
        assert_int_equal(machine->ram_bytes, 256 * MIB);
        assert_int_equal(machine->video_bytes, 16 * MIB);
        assert_int_equal(machine->vcpus, 1);
        assert_int_equal(machine->tsc_hz, 2000000000);
        assert_string_equal(machine->origin_kind, "qemu");
        assert_string_equal(machine->origin_machine, "pc-i440fx-7.2");
        assert_null(machine->origin_line);
        expect_devices(machine, "bochs,vbe pci:00:02.0 (VGA at 00:02.0); "
                                "intel,82540em pci:00:03.0 (e1000 at 00:03.0); "
                                "intel,hpet mmio:fed00000 (hpet at mmio:fed00000); "
                                "ns,16550a io:3f8 (isa-serial at io:3f8)");
        assert_true(card->has_mac);
        assert_memory_equal(card->mac, "\x52\x54\x00\x12\x34\x56", 6);
        assert_int_equal(machine->disks->len, 2);
        if (drive->at[strlen("pci:00:01.1/")] == '0') {
            drive = machine->disks->pdata[0];
            disk = machine->disks->pdata[1];
        }
        assert_string_equal(disk->at, "pci:00:01.1/0/0");
        assert_string_equal(disk->path, "/guests/a/disk.img");
        assert_string_equal(disk->format, "raw");
        assert_int_equal(disk->bytes, 8 * MIB);
        assert_false(disk->cdrom || disk->read_only);
        assert_string_equal(drive->at, "pci:00:01.1/1/0");
        assert_string_equal(drive->path, "/guests/a/install.iso");
        assert_true(drive->cdrom && drive->read_only);
    }
}

/* A snapshot was made, and the medium ejected. */
static void test_changed(void **unused)
{
    g_autoptr(MachineDescription) machine = read_shape("plain-7.2.changed");

    assert_int_equal(machine->disks->len, 2);
    for (guint i = 0; i < 2; i++) {
        const MachineDisk *disk = machine->disks->pdata[i];

        assert_string_equal(disk->path ? disk->path : "none", disk->cdrom ? "none" : "snap.qcow2");
        assert_string_equal(disk->format ? disk->format : "none", disk->cdrom ? "none" : "qcow2");
    }
}

static void test_others(void **unused)
{
    g_autoptr(MachineDescription) proxmox = read_shape("proxmox-7.2"), q35 = read_shape("q35-10.0"),
                                  microvm = read_shape("microvm-7.2");
    g_autofree char *many = tell_devices(q35);

    assert_string_equal(q35->chipset, "qemu,q35");
    assert_non_null(strstr(many, "qemu,virtio-blk-pci"));
    assert_null(strstr(many, "virtio-blk-device"));
    assert_string_equal(microvm->chipset, "none");
    assert_non_null(machine_description_find(microvm, "qemu,virtio-mmio"));
    assert_non_null(machine_description_find(proxmox, "qemu,virtio-scsi-pci"));
    assert_non_null(machine_description_find(proxmox, "qemu,piix3-usb-uhci"));
    assert_null(machine_description_find(proxmox, "qemu,usb-tablet"));
    assert_null(machine_description_find(proxmox, "ns,16550a"));
    assert_int_equal(proxmox->disks->len, 1);
}

/* What such a machine lacks, each by name. */
static void test_refused_by_bochs(void **unused)
{
    g_autoptr(MachineDescription) machine = read_shape("proxmox-7.2");
    g_autoptr(GError) error = NULL;

    assert_null(bochs_plan(machine, &error));
    assert_non_null(strstr(error->message, "virtio-scsi-pci at "));
    assert_non_null(strstr(error->message, "virtio-net-pci"));
    assert_non_null(strstr(error->message, "piix3-usb-uhci"));
    assert_null(strstr(error->message, "vmmouse"));
}

static void test_no_machine(void **unused)
{
    g_autoptr(json_t) object = json_object();
    g_autoptr(GError) error = NULL;

    assert_null(qemu_neutral_machine(object, &facts, &error));
    assert_true(error_is(error, VMFERRY_ERROR_INVALID));
}

/* ---- QEMU's plan ---- */

static void add_cpuid(MachineDescription *machine, uint32_t leaf, const char *reg, uint32_t bits)
{
    MachineCpuid word = {.leaf = leaf, .bits = bits};

    memcpy(word.reg, reg, 4);
    g_array_append_val(machine->cpuid, word);
}

static void expect_plan(const MachineDescription *machine, const char *wanted)
{
    g_autoptr(GError) error = NULL;
    g_auto(GStrv) words = qemu_plan(machine, &error);
    g_autofree char *line = NULL;

    if (!words)
        fail_msg("%s", error->message);
    line = g_strjoinv(" ", words);
    assert_string_equal(line, wanted);
}

static void test_qemu_plan(void **unused)
{
    static const char *const own[] = {"/opt/qemu", "-M", "pc", NULL};
    g_autoptr(MachineDescription) machine = read_shape("plain-7.2");

    /* Not by the order in which QEMU told them. */
    if (g_str_has_suffix(((MachineDisk *)machine->disks->pdata[0])->at, "/1/0"))
        g_ptr_array_insert(machine->disks, 1, g_ptr_array_steal_index(machine->disks, 0));
    add_cpuid(machine, 1, "ECX", 0x80002001);
    add_cpuid(machine, 0x40000001, "EAX", 0xff);
    machine->origin_line = g_strdupv((char **)own);
    expect_plan(machine, "/opt/qemu -M pc");
    g_clear_pointer(&machine->origin_line, g_strfreev);
    g_ptr_array_set_size(machine->devices, 0);
    expect_plan(machine,
                "qemu-system-x86_64 -M pc-i440fx-7.2,hpet=off -cpu qemu64 -m 262144k -smp 1 "
                "-nodefaults -display none "
                "-drive if=none,id=disk0,media=disk,format=raw,file=/guests/a/disk.img "
                "-device ide-hd,drive=disk0,bus=ide.0,unit=0 "
                "-drive if=none,id=disk1,media=cdrom,format=raw,file=/guests/a/install.iso,"
                "readonly=on -device ide-cd,drive=disk1,bus=ide.1,unit=0");
}

static void expect_topology(const char *text, const MachineTopology *wanted, guint max)
{
    json_t *answer = json_loads(text, 0, NULL);
    MachineTopology topology;
    guint found;

    qemu_neutral_topology(answer, &topology, &found);
    json_decref(answer);
    assert_memory_equal(&topology, wanted, sizeof topology);
    assert_int_equal(found, max);
}

/* What QEMU 7.2 answers, and what it should not. */
static void test_topology(void **unused)
{
    static const MachineTopology cores = {1, 2, 1}, four = {2, 2, 1}, dies = {1, 4, 1}, none;

    expect_topology("[{\"props\": {\"core-id\": 1, \"thread-id\": 0, \"socket-id\": 0},"
                    "  \"vcpus-count\": 1, \"qom-path\": \"/b\", \"type\": \"c\"},"
                    " {\"props\": {\"core-id\": 0, \"thread-id\": 0, \"socket-id\": 0},"
                    "  \"vcpus-count\": 1, \"qom-path\": \"/a\", \"type\": \"c\"}]",
                    &cores, 2);
    expect_topology("[{\"props\": {\"core-id\": 1, \"thread-id\": 0, \"socket-id\": 1}},"
                    " {\"props\": {\"core-id\": 0, \"thread-id\": 0, \"socket-id\": 1}},"
                    " {\"props\": {\"core-id\": 1, \"thread-id\": 0, \"socket-id\": 0}},"
                    " {\"props\": {\"core-id\": 0, \"thread-id\": 0, \"socket-id\": 0}}]",
                    &four, 4);
    expect_topology("[{\"props\": {\"core-id\": 0, \"die-id\": 0}},"
                    " {\"props\": {\"core-id\": 1, \"die-id\": 0}},"
                    " {\"props\": {\"core-id\": 0, \"die-id\": 1}},"
                    " {\"props\": {\"core-id\": 1, \"die-id\": 1}}]",
                    &dies, 4);
    expect_topology("[]", &none, 0);
    expect_topology("{}", &none, 0);
    expect_topology("[{\"props\": {\"core-id\": 3}}]", &none, 0);
    expect_topology("[{\"props\": {\"core-id\": -1}}]", &none, 0);
    expect_topology("[{\"props\": {\"core-id\": \"0\"}}]", &none, 0);
}

static void test_qemu_plan_of_other(void **unused)
{
    g_autoptr(MachineDescription) machine = machine_description_new();
    MachineDisk *disk = g_new0(MachineDisk, 1), *drive = g_new0(MachineDisk, 1);

    machine->architecture = g_strdup("x86-64");
    machine->chipset = g_strdup("intel,440fx");
    machine->ram_bytes = 64 * MIB;
    machine->video_bytes = 16 * MIB;
    machine->vcpus = 2;
    machine->origin_kind = g_strdup("bochs");
    machine->origin_machine = g_strdup("pc-i440fx");
    add_cpuid(machine, 7, "EBX", 1u << 31);
    machine_description_add_device(machine, g_strdup("ns,16550a"), g_strdup("io:3f8"),
                                   g_strdup("com1"), NULL);
    machine_description_add_device(machine, g_strdup("intel,hpet"), g_strdup("mmio:fed00000"),
                                   g_strdup("hpet"), NULL);
    machine_description_add_device(machine, g_strdup("bochs,vbe"), g_strdup("pci:00:02.0"),
                                   g_strdup("pcivga"), NULL);
    machine_description_add_device(machine, g_strdup("intel,82540em"), g_strdup("pci:00:06.0"),
                                   g_strdup("e1000"), (const uint8_t *)"RT\0\0\0\xfe");
    disk->at = g_strdup("pci:00:01.1/0/1");
    disk->path = g_strdup("/a,b");
    disk->format = g_strdup("raw");
    machine_description_add_disk(machine, disk);
    drive->at = g_strdup("pci:00:01.1/1/0");
    drive->cdrom = drive->read_only = TRUE;
    machine_description_add_disk(machine, drive);
    expect_plan(machine,
                "qemu-system-x86_64 -M pc -cpu Skylake-Server-noTSX-IBRS -m 65536k -smp 2 "
                "-nodefaults -display none -device VGA,addr=02.0,vgamem_mb=16 "
                "-device e1000,addr=06.0,mac=52:54:00:00:00:fe "
                "-chardev null,id=serial0 -device isa-serial,chardev=serial0,index=0 "
                "-drive if=none,id=disk0,media=disk,format=raw,file=/a,,b "
                "-device ide-hd,drive=disk0,bus=ide.0,unit=1 "
                "-drive if=none,id=disk1,media=cdrom -device ide-cd,drive=disk1,bus=ide.1,unit=0");
    add_cpuid(machine, 7, "ECX", 0xffffffff);
    machine->topology = (MachineTopology){1, 2, 2};
    machine->vcpus_max = 4;
    {
        g_auto(GStrv) words = qemu_plan(machine, NULL);

        assert_string_equal(words[4], "max");
        assert_string_equal(words[8], "2,maxcpus=4,sockets=1,cores=2,threads=2");
    }
}

static void test_qemu_plan_refusals(void **unused)
{
    g_autoptr(MachineDescription) machine = read_shape("plain-7.2");
    g_autoptr(GError) error = NULL;

    g_free(machine->chipset);
    machine->chipset = g_strdup("intel,q35");
    machine_description_add_device(machine, g_strdup("xen,platform"), g_strdup("pci:00:07.0"),
                                   g_strdup("xen-platform at 00:07.0"), NULL);
    machine_description_add_device(machine, g_strdup("ns,16550a"), g_strdup("io:100"),
                                   g_strdup("uart"), NULL);
    assert_null(qemu_plan(machine, &error));
    assert_true(error_is(error, VMFERRY_ERROR_UNSUPPORTED));
    assert_string_equal(error->message,
                        "QEMU cannot be this machine: it has chipset intel,q35, of which no "
                        "command line is known; xen-platform at 00:07.0; uart: the place io:100");
}

/* What a peer tells is never another option. */
static void test_qemu_plan_injection(void **unused)
{
    g_autoptr(MachineDescription) machine = read_shape("plain-7.2");
    MachineDisk *disk = machine->disks->pdata[0];
    g_autoptr(GError) error = NULL;

    g_free(machine->origin_machine);
    machine->origin_machine = g_strdup("pc,accel=x");
    g_free(disk->format);
    disk->format = g_strdup("raw,file=/etc/shadow");
    assert_null(qemu_plan(machine, &error));
    assert_non_null(strstr(error->message, "machine type \"pc,accel=x\""));
    assert_non_null(strstr(error->message, "without a known format"));
}

/* ---- live ---- */

static char *directory;

static Vmm *launch(char *const *words, const char *name)
{
    const VmmLaunch launch = {.name = name, .command_line = (char **)words, .directory = directory};
    g_autoptr(GError) error = NULL;
    const VmmDriver *driver = vmm_driver_find("qemu", NULL);
    Vmm *vmm = driver->launch(&launch, &error);

    if (!vmm)
        fail_msg("%s", error->message);
    return vmm;
}

/* It is ended. */
static MachineDescription *describe(Vmm *vmm)
{
    g_auto(GStrv) line = NULL;
    g_autoptr(GError) error = NULL;
    g_autoptr(json_t) machine = vmm_read_machine(vmm, NULL, &line, &error);
    MachineDescription *description = machine ? vmm_describe_neutral(vmm, machine, &error) : NULL;

    if (!description)
        fail_msg("%s", error->message);
    (void)vmm_quit(vmm, NULL);
    vmm_free(vmm);
    return description;
}

static void expect_model(const MachineDescription *machine, const char *model)
{
    g_autoptr(GError) error = NULL;
    g_auto(GStrv) words = bochs_plan(machine, &error);

    if (!words)
        fail_msg("%s", error->message);
    if (!strstr(words[2], model))
        fail_msg("%s", words[2]);
}

/* What QEMU's own plan makes is the same machine. */
static void expect_planned_again(const MachineDescription *machine)
{
    g_autoptr(GError) error = NULL;
    g_auto(GStrv) words = qemu_plan(machine, &error);
    g_autoptr(MachineDescription) again = NULL;
    g_autofree char *first = tell_devices(machine), *second = NULL;

    if (!words)
        fail_msg("%s", error->message);
    again = describe(launch(words, "again"));
    second = tell_devices(again);
    assert_string_equal(first, second);
    assert_int_equal(again->video_bytes, machine->video_bytes);
    assert_int_equal(again->ram_bytes, machine->ram_bytes);
    assert_int_equal(again->disks->len, machine->disks->len);
    assert_int_equal(again->cpuid->len, machine->cpuid->len);
    assert_memory_equal(again->cpuid->data, machine->cpuid->data,
                        machine->cpuid->len * sizeof(MachineCpuid));
}

static void test_live(void **unused)
{
    static const struct {
        const char *cpu, *model;
    } cpus[] = {{"qemu64", "model=turion64_tyler,"}, {"Haswell", "model=corei7_haswell_4770,"}};

    for (guint i = 0; i < G_N_ELEMENTS(cpus); i++) {
        char *const words[] = {
            "qemu-system-x86_64", "-M", "pc", "-m", "64", "-S", "-display", "none", "-cpu",
            (char *)cpus[i].cpu,  NULL};
        g_autoptr(MachineDescription) machine = describe(launch(words, "live"));

        assert_int_equal(machine->ram_bytes, 64 * MIB);
        assert_int_equal(machine->memory->len, 1);
        assert_int_equal(g_array_index(machine->memory, MachineMemory, 0).bytes, 64 * MIB);
        assert_int_equal(machine->tsc_hz, tsc_hz());
        assert_int_equal(machine->disks->len, 1);
        expect_model(machine, cpus[i].model);
        expect_planned_again(machine);
    }
}

/* Five-level page tables are in no model of Bochs. */
static void test_live_max(void **unused)
{
    char *const words[] = {"qemu-system-x86_64", "-S", "-display", "none", "-cpu", "max", NULL};
    g_autoptr(MachineDescription) machine = describe(launch(words, "max"));
    g_autoptr(GError) error = NULL;

    assert_null(bochs_plan(machine, &error));
    assert_non_null(strstr(error->message, "la57"));
}

/* ---- memory ---- */

/* Of `info mtree`, QEMU 7.2 and 10.0; views of the chipset among it. */
#define TREE                                                                                       \
    "address-space: memory\r\n"                                                                    \
    "  0000000000000000-ffffffffffffffff (prio 0, i/o): system\r\n"                                \
    "    0000000000000000-0000000003ffffff (prio 0, ram): alias ram-below-4g @pc.ram "             \
    "0000000000000000-0000000003ffffff\r\n"                                                        \
    "      00000000000c0000-00000000000c3fff (prio 1, ram): alias pam-ram @pc.ram "                \
    "00000000000c0000-00000000000c3fff\r\n"                                                        \
    "      00000000000f0000-00000000000fffff (prio 1, ram): alias pam-rom @pc.ram "                \
    "00000000000f0000-00000000000fffff [disabled]\r\n"                                             \
    "    00000000fd000000-00000000fdffffff (prio 1, ram): vga.vram\r\n"                            \
    "    0000000100000000-0000000101ffffff (prio 0, ram): alias ram-above-4g @pc.ram "             \
    "0000000004000000-0000000005ffffff\r\n"                                                        \
    "\r\n"                                                                                         \
    "memory-region: pc.ram\r\n"                                                                    \
    "  0000000000000000-0000000005ffffff (prio 0, ram): pc.ram\r\n"

static void test_memory(void **unused)
{
    g_autoptr(GPtrArray) ranges = qemu_parse_memory_tree(TREE, NULL);
    g_autoptr(GArray) memory = qemu_neutral_memory(ranges, "pc.ram", 96 * MIB);
    g_autoptr(GArray) other = qemu_neutral_memory(ranges, "pc.ram", 97 * MIB);
    g_autoptr(GArray) none = qemu_neutral_memory(ranges, "ram0", 96 * MIB);
    const MachineMemory *high = &g_array_index(memory, MachineMemory, 1);

    assert_int_equal(memory->len, 2);
    assert_int_equal(g_array_index(memory, MachineMemory, 0).base, 0);
    assert_int_equal(g_array_index(memory, MachineMemory, 0).bytes, 64 * MIB);
    assert_int_equal(high->base, (uint64_t)4 << 30);
    assert_int_equal(high->bytes, 32 * MIB);
    assert_int_equal(other->len, 0);
    assert_int_equal(none->len, 0);
}

static int make_directory(void **unused)
{
    directory = g_dir_make_tmp("neutral-machine-XXXXXX", NULL);
    return directory ? 0 : -1;
}

static int remove_directory(void **unused)
{
    g_autofree char *command = g_strdup_printf("rm -rf '%s'", directory);

    return system(command);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plain),
        cmocka_unit_test(test_changed),
        cmocka_unit_test(test_others),
        cmocka_unit_test(test_refused_by_bochs),
        cmocka_unit_test(test_no_machine),
        cmocka_unit_test(test_qemu_plan),
        cmocka_unit_test(test_qemu_plan_of_other),
        cmocka_unit_test(test_topology),
        cmocka_unit_test(test_qemu_plan_refusals),
        cmocka_unit_test(test_qemu_plan_injection),
        cmocka_unit_test(test_memory),
        cmocka_unit_test(test_live),
        cmocka_unit_test(test_live_max),
    };

    return cmocka_run_group_tests(tests, make_directory, remove_directory);
}
