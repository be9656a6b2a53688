#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/error.h"
#include "base/json.h"
#include "state/machine_description.h"

static const uint8_t mac[6] = {0x52, 0x54, 0x00, 0x12, 0x34, 0xfe};

static void add_disk(MachineDescription *machine, const char *at, const char *path)
{
    MachineDisk *disk = g_new0(MachineDisk, 1);

    disk->at = g_strdup(at);
    disk->path = g_strdup(path);
    disk->format = path ? g_strdup("raw") : NULL;
    disk->bytes = path ? 1u << 20 : 0;
    disk->cdrom = disk->read_only = !path;
    machine_description_add_disk(machine, disk);
}

static MachineDescription *make_machine(void)
{
    MachineDescription *machine = machine_description_new();
    static const char *const line[] = {"qemu-system-x86_64", "-M", "", NULL};
    MachineCpuid word = {0x80000001, 0, "EDX", 0xfeedbeef};
    const MachineMemory low = {0, 96u << 20}, high = {(uint64_t)4 << 30, 32u << 20};

    machine->architecture = g_strdup("x86-64");
    machine->chipset = g_strdup("intel,440fx");
    machine->ram_bytes = 128u << 20;
    g_array_append_val(machine->memory, low);
    g_array_append_val(machine->memory, high);
    machine->video_bytes = 16u << 20;
    machine->vcpus = 2;
    machine->vcpus_max = 4;
    machine->topology = (MachineTopology){1, 2, 2};
    machine->tsc_hz = 2096000000;
    g_array_append_val(machine->cpuid, word);
    machine_description_add_device(machine, g_strdup("bochs,vbe"), g_strdup("pci:00:02.0"),
                                   g_strdup("VGA at 00:02.0"), NULL);
    machine_description_add_device(machine, g_strdup("intel,82540em"), g_strdup("pci:00:03.0"),
                                   g_strdup("e1000 at 00:03.0"), mac);
    add_disk(machine, "pci:00:01.1/0/0", "/images/a.raw");
    add_disk(machine, "pci:00:01.1/1/0", NULL);
    machine->origin_kind = g_strdup("qemu");
    machine->origin_machine = g_strdup("pc-i440fx-7.2");
    machine->origin_line = g_strdupv((char **)line);
    return machine;
}

static void expect_made(const MachineDescription *machine)
{
    const MachineDevice *card = machine_description_find(machine, "intel,82540em");
    const MachineCpuid *word = &g_array_index(machine->cpuid, MachineCpuid, 0);
    const MachineMemory *part = &g_array_index(machine->memory, MachineMemory, 1);
    const MachineDisk *disk = machine->disks->pdata[0], *drive = machine->disks->pdata[1];

    assert_string_equal(machine->architecture, "x86-64");
    assert_string_equal(machine->chipset, "intel,440fx");
    assert_int_equal(machine->ram_bytes, 128u << 20);
    assert_int_equal(machine->memory->len, 2);
    assert_int_equal(part->base, (uint64_t)4 << 30);
    assert_int_equal(part->bytes, 32u << 20);
    assert_int_equal(machine->video_bytes, 16u << 20);
    assert_int_equal(machine->vcpus, 2);
    assert_int_equal(machine->vcpus_max, 4);
    assert_int_equal(machine->topology.sockets, 1);
    assert_int_equal(machine->topology.cores, 2);
    assert_int_equal(machine->topology.threads, 2);
    assert_int_equal(machine->tsc_hz, 2096000000);
    assert_int_equal(machine->cpuid->len, 1);
    assert_int_equal(word->leaf, 0x80000001);
    assert_int_equal(word->bits, 0xfeedbeef);
    assert_string_equal(word->reg, "EDX");
    assert_int_equal(machine->devices->len, 2);
    assert_string_equal(card->at, "pci:00:03.0");
    assert_string_equal(card->name, "e1000 at 00:03.0");
    assert_true(card->has_mac);
    assert_memory_equal(card->mac, mac, sizeof mac);
    assert_false(machine_description_find(machine, "bochs,vbe")->has_mac);
    assert_null(machine_description_find(machine, "intel,hpet"));
    assert_int_equal(machine->disks->len, 2);
    assert_string_equal(disk->path, "/images/a.raw");
    assert_string_equal(disk->format, "raw");
    assert_int_equal(disk->bytes, 1u << 20);
    assert_false(disk->cdrom || disk->read_only);
    assert_null(drive->path);
    assert_true(drive->cdrom && drive->read_only);
    assert_string_equal(machine->origin_kind, "qemu");
    assert_string_equal(machine->origin_machine, "pc-i440fx-7.2");
    assert_int_equal(g_strv_length(machine->origin_line), 3);
    assert_string_equal(machine->origin_line[2], "");
}

static void test_both_ways(void **state)
{
    g_autoptr(MachineDescription) machine = make_machine();
    g_autoptr(json_t) json = machine_description_to_json(machine);
    g_autoptr(GError) error = NULL;
    g_autoptr(MachineDescription) again = machine_description_from_json(json, &error);
    g_autoptr(MachineDescription) copy = NULL;

    (void)state;
    assert_null(error);
    expect_made(again);
    copy = machine_description_copy(again);
    expect_made(copy);
}

static void test_least(void **state)
{
    g_autoptr(MachineDescription) machine = machine_description_new();
    g_autoptr(MachineDescription) again = NULL;
    g_autoptr(json_t) json = NULL;

    (void)state;
    machine->architecture = g_strdup("x86-64");
    machine->chipset = g_strdup("none");
    machine->ram_bytes = 4096;
    machine->vcpus = 1;
    json = machine_description_to_json(machine);
    again = machine_description_from_json(json, NULL);
    assert_non_null(again);
    assert_null(again->origin_kind);
    assert_null(again->origin_line);
    assert_int_equal(again->devices->len + again->disks->len + again->cpuid->len, 0);
    assert_int_equal(again->memory->len, 0);
}

/* A file's name that is not UTF-8 is told as far as it can be. */
static void test_bytes_in_path(void **state)
{
    g_autoptr(MachineDescription) machine = make_machine();
    g_autoptr(MachineDescription) again = NULL;
    g_autoptr(json_t) json = NULL;

    (void)state;
    add_disk(machine, "pci:00:01.1/0/1", "/a\xff");
    json = machine_description_to_json(machine);
    again = machine_description_from_json(json, NULL);
    assert_non_null(again);
    assert_string_equal(((MachineDisk *)again->disks->pdata[2])->path, "/a\xef\xbf\xbd");
}

/* One change of a machine's JSON each, and what is said. */
static const struct {
    const char *list; /* key of a list whose first entry is changed; NULL: the machine; "origin" */
    const char *key, *value, *told;
} mistakes[] = {
    {NULL, "architecture", "7", "machine: \"architecture\" is missing or no text"},
    {NULL, "architecture", "\"\"",
     "machine: \"architecture\" is empty, longer than 255 bytes or has control characters"},
    {NULL, "chipset", "\"a\\nb\"",
     "machine: \"chipset\" is empty, longer than 255 bytes or has control characters"},
    {NULL, "ram_bytes", "0", "machine: \"ram_bytes\" is 0"},
    {NULL, "ram_bytes", "4097", "machine: \"ram_bytes\" is not of whole pages"},
    {NULL, "ram_bytes", "-1", "machine: \"ram_bytes\" is missing or no count"},
    {NULL, "ram_bytes", "9223372036854775807",
     "machine: \"ram_bytes\" is 9223372036854775807, the limit is 4503599627370496"},
    {NULL, "video_bytes", "1", "machine: \"video_bytes\" is not of whole pages"},
    {NULL, "vcpus", "0", "machine: \"vcpus\" is 0"},
    {NULL, "vcpus", "5000", "machine: \"vcpus\" is 5000, the limit is 4096"},
    {NULL, "vcpus_max", "1", "machine: \"vcpus_max\" is less than \"vcpus\""},
    {NULL, "topology", "{\"sockets\": 2, \"cores\": 4, \"threads\": 1}",
     "machine: \"topology\" is not of 4 vCPUs"},
    {NULL, "topology", "{\"sockets\": 4, \"cores\": 1}",
     "machine: topology: \"threads\" is missing or no count"},
    {NULL, "tsc_hz", "null", "machine: \"tsc_hz\" is missing or no count"},
    {NULL, "cpuid", "{}", "machine: \"cpuid\" is missing, no array or longer than 256 entries"},
    {NULL, "devices", "[7]", "machine: devices[0]: \"type\" is missing or no text"},
    {NULL, "origin", "[]", "machine: origin: \"kind\" is missing or no text"},
    {"cpuid", "reg", "\"EBP\"", "machine: cpuid[0]: \"reg\" is none of EAX, EBX, ECX, EDX"},
    {"cpuid", "leaf", "4294967296",
     "machine: cpuid[0]: \"leaf\" is 4294967296, the limit is 4294967295"},
    {"devices", "mac", "\"52:54:00:12:34\"",
     "machine: devices[0]: \"mac\" is no address of a network card"},
    {"devices", "mac", "\"52:54:00:12:34-56\"",
     "machine: devices[0]: \"mac\" is no address of a network card"},
    {"devices", "mac", "7", "machine: devices[0]: \"mac\" is missing or no text"},
    {"devices", "at", "null", "machine: devices[0]: \"at\" is missing or no text"},
    {"memory", "bytes", "0", "machine: memory[0]: \"bytes\" is 0"},
    {"memory", "bytes", "4294971392", "machine: memory[1]: \"base\" is within what is before it"},
    {"memory", "bytes", "4096",
     "machine: \"memory\" has 33558528 bytes, \"ram_bytes\" says 134217728"},
    {"memory", "base", "-1", "machine: memory[0]: \"base\" is missing or no count"},
    {"disks", "cdrom", "0", "machine: disks[0]: \"cdrom\" is missing or no boolean"},
    {"disks", "path", "\"\"",
     "machine: disks[0]: \"path\" is empty, longer than 4095 bytes or has control characters"},
    {"disks", "at", "\"pci:00:01.1/1/0\"",
     "machine: disks[1]: \"at\": another disk is at pci:00:01.1/1/0"},
    {"origin", "line", "[]", "machine: origin: \"line\" is empty"},
    {"origin", "line", "[\"qemu\", 7]", "machine: origin: line[1] is no text, or too long"},
};

static json_t *find_place(json_t *json, const char *list)
{
    json_t *value = list ? json_object_get(json, list) : json;

    return json_is_array(value) ? json_array_get(value, 0) : value;
}

static void test_mistakes(void **state)
{
    (void)state;
    for (guint i = 0; i < G_N_ELEMENTS(mistakes); i++) {
        g_autoptr(MachineDescription) machine = make_machine();
        g_autoptr(json_t) json = machine_description_to_json(machine);
        g_autoptr(MachineDescription) again = NULL;
        g_autoptr(GError) error = NULL;

        json_object_set_new(find_place(json, mistakes[i].list), mistakes[i].key,
                            json_loads(mistakes[i].value, JSON_DECODE_ANY, NULL));
        again = machine_description_from_json(json, &error);
        assert_null(again);
        assert_true(error_is(error, VMFERRY_ERROR_INVALID));
        assert_string_equal(error->message, mistakes[i].told);
    }
}

/* No more than the header's limits. */
static void test_limits(void **state)
{
    g_autoptr(MachineDescription) machine = make_machine();
    g_autoptr(MachineDescription) again = NULL;
    g_autoptr(json_t) json = NULL;
    g_autoptr(GError) error = NULL;

    (void)state;
    while (machine->devices->len < MACHINE_MAX_DEVICES)
        machine_description_add_device(machine, g_strdup("qemu,x"), g_strdup("x"), g_strdup("x"),
                                       NULL);
    json = machine_description_to_json(machine);
    again = machine_description_from_json(json, &error);
    assert_non_null(again);
    json_array_append(json_object_get(json, "devices"),
                      json_array_get(json_object_get(json, "devices"), 0));
    assert_null(machine_description_from_json(json, &error));
    assert_string_equal(error->message,
                        "machine: \"devices\" is missing, no array or longer than 256 entries");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_both_ways),     cmocka_unit_test(test_least),
        cmocka_unit_test(test_bytes_in_path), cmocka_unit_test(test_mistakes),
        cmocka_unit_test(test_limits),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
