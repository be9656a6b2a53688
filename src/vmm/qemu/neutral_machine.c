#include "vmm/qemu/neutral_machine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/json.h"
#include "vmm/qemu/machine.h"
#include "vmm/qemu/ram_blocks.h"
#include "vmm/vmm.h"

#define MEBIBYTE (1u << 20)
#define MAX_PROCESSORS 4096u

/* ---- what is known of devices ---- */

typedef enum {
    DEVICE_BOARD, /* each machine of the chipset has it, or no guest sees it; what is below it is looked at */
    DEVICE_NEUTRAL, /* it has a neutral form */
    DEVICE_UNKNOWN,
} DeviceKind;

/* Chipset and its parts, and what is left out of a state, too (qemu_left_out()). */
static const char *const board_devices[] = {
    "i440FX-pcihost", "i440FX",    "PIIX3",       "PIIX3-xen",     "piix3-ide",   "PIIX4_PM",
    "smbus-eeprom",   "ioapic",    "kvm-ioapic",  "isa-i8259",     "kvm-i8259",   "isa-pit",
    "kvm-pit",        "i8257",     "mc146818rtc", "isa-pcspk",     "port92",      "i8042",
    "ps2-kbd",        "ps2-mouse", "vmport",      "vmmouse",       "isa-fdc",     "isa-parallel",
    "isa-debugcon",   "fw_cfg_io", "kvmvapic",    "kvmclock",      "q35-pcihost", "mch",
    "ICH9-LPC",       "ICH9-SMB",  "ich9-ahci",   "isabus-bridge",
};

static const struct {
    const char *driver, *type;
    const char *place; /* NULL: where it is on its bus */
} neutral_devices[] = {
    {"VGA", "bochs,vbe", NULL},
    {"e1000", "intel,82540em", NULL},
    {"e1000-82540em", "intel,82540em", NULL},
    {"isa-serial", "ns,16550a", NULL},
    {"hpet", "intel,hpet", "mmio:fed00000"},
};

static gboolean is_board(const QemuDevice *device)
{
    for (guint i = 0; i < G_N_ELEMENTS(board_devices); i++)
        if (strcmp(board_devices[i], device->driver) == 0)
            return TRUE;
    return FALSE;
}

/* "io:3f8", of "1016 (0x3f8)"; NULL where it has no ports of its own. */
static char *find_ports(const QemuDevice *device)
{
    const char *base = device_get_property(device, "iobase");
    guint64 port = base ? g_ascii_strtoull(base, NULL, 0) : 0;

    return port > 0 && port <= G_MAXUINT16 ? g_strdup_printf("io:%x", (guint)port) : NULL;
}

/* "pci:00:03.0", "io:3f8", or where QEMU has it. */
static char *find_place(const QemuDevice *device)
{
    const char *address = device_get_property(device, "addr");
    char *ports;

    if ((strcmp(device->bus->name, "pci.0") == 0 || strcmp(device->bus->name, "pcie.0") == 0) &&
        address)
        return g_strdup_printf("pci:00:%s", address);
    ports = find_ports(device);
    return ports ? ports : g_strdup_printf("qemu:%s", device->bus->name);
}

/* "e1000 at 00:03.0" */
static char *name_device(const QemuDevice *device, const char *at)
{
    const char *address = g_str_has_prefix(at, "pci:") ? at + 4 : at;

    if (g_str_has_prefix(at, "qemu:"))
        return device_describe(device);
    return *device->id ? g_strdup_printf("%s (%s at %s)", device->id, device->driver, address)
                       : g_strdup_printf("%s at %s", device->driver, address);
}

/* ---- devices ---- */

typedef struct {
    const QemuMachine *live;
    const QemuNeutralFacts *facts;
    MachineDescription *machine;
} Describer;

static gboolean read_mac(const char *text, uint8_t *ret)
{
    guint mac[6];
    int end = 0;

    if (!text ||
        sscanf(text, "%2x:%2x:%2x:%2x:%2x:%2x%n", &mac[0], &mac[1], &mac[2], &mac[3], &mac[4],
               &mac[5], &end) != 6 ||
        text[end] != '\0')
        return FALSE;
    for (guint i = 0; i < 6; i++)
        ret[i] = (uint8_t)mac[i];
    return TRUE;
}

static const char *find_serial_file(const QemuNeutralFacts *facts, const char *index)
{
    guint64 number = g_ascii_strtoull(index, NULL, 0);

    return number < G_N_ELEMENTS(facts->serial_files) ? facts->serial_files[number] : NULL;
}

static void add_device(Describer *describer, const QemuDevice *device, const char *type,
                       const char *place)
{
    g_autofree char *at = place ? g_strdup(place) : find_place(device);
    const char *memory = device_get_property(device, "vgamem_mb");
    const char *index = device_get_property(device, "index");
    MachineDevice *added;
    uint8_t mac[6];
    gboolean has_mac = read_mac(device_get_property(device, "mac"), mac);

    if (describer->machine->devices->len >= MACHINE_MAX_DEVICES)
        return;
    if (strcmp(type, "bochs,vbe") == 0)
        describer->machine->video_bytes = memory ? g_ascii_strtoull(memory, NULL, 0) * MEBIBYTE : 0;
    added = machine_description_add_device(describer->machine, g_strdup(type), g_strdup(at),
                                           name_device(device, at), has_mac ? mac : NULL);
    if (strcmp(type, "ns,16550a") == 0 && index)
        added->file = g_strdup(find_serial_file(describer->facts, index));
}

static void add_unknown(Describer *describer, const QemuDevice *device)
{
    g_autofree char *type = g_strdup_printf("qemu,%s", device->driver);

    add_device(describer, device, type, NULL);
}

/* ---- disks ---- */

/* The file that a drive's content is in as it stands, or its format's; the format of that. */
static void find_image(const Describer *describer, const BlockDrive *drive, MachineDisk *disk)
{
    const BlockNode *root = block_graph_find(describer->live->block, drive->root);
    const BlockNode *below =
        root ? block_node_get_child(describer->live->block, root, "file") : NULL;
    const BlockNode *storage = below ? below : root;
    gboolean plain =
        root && (strcmp(root->driver, "raw") == 0 || !below) &&
        (strcmp(storage->driver, "file") == 0 || strcmp(storage->driver, "host_device") == 0) &&
        storage->bytes == root->bytes;

    if (!root)
        return;
    disk->bytes = root->bytes;
    disk->read_only = drive->read_only;
    disk->format = g_strdup(plain ? "raw" : root->driver);
    disk->path = plain && !g_path_is_absolute(storage->file) && describer->facts->directory &&
                         !g_str_has_prefix(storage->file, "json:")
                     ? g_build_filename(describer->facts->directory, storage->file, NULL)
                     : g_strdup(storage->file);
}

/* "ide.1" is the second channel. */
static void add_drive(Describer *describer, const QemuDevice *device)
{
    const char *name = device_get_property(device, "drive"),
               *unit = device_get_property(device, "unit");
    const BlockDrive *drive =
        name && *name ? block_graph_find_drive(describer->live->block, name) : NULL;
    MachineDisk *disk;

    if (describer->machine->disks->len >= MACHINE_MAX_DISKS)
        return;
    disk = g_new0(MachineDisk, 1);
    disk->at = g_strdup_printf("pci:00:01.1/%c/%u", device->bus->name[strlen("ide.")],
                               unit ? (guint)g_ascii_strtoull(unit, NULL, 0) : 0);
    disk->cdrom = disk->read_only = strcmp(device->driver, "ide-cd") == 0;
    if (drive && drive->root)
        find_image(describer, drive, disk);
    machine_description_add_disk(describer->machine, disk);
}

static gboolean is_ide_drive(const QemuDevice *device)
{
    const QemuDevice *owner = device->bus->owner;

    return owner && strcmp(owner->driver, "piix3-ide") == 0 &&
           (strcmp(device->bus->name, "ide.0") == 0 || strcmp(device->bus->name, "ide.1") == 0) &&
           (strcmp(device->driver, "ide-hd") == 0 || strcmp(device->driver, "ide-cd") == 0);
}

/* A floppy drive is seen by its medium only. */
static gboolean is_empty_floppy(const Describer *describer, const QemuDevice *device)
{
    const char *name = device_get_property(device, "drive");
    const BlockDrive *drive =
        name && *name ? block_graph_find_drive(describer->live->block, name) : NULL;

    return strcmp(device->driver, "floppy") == 0 && (!drive || !drive->root);
}

/* ---- the tree ---- */

static void describe_bus(Describer *describer, const QemuBus *bus);

static void describe_device(Describer *describer, const QemuDevice *device)
{
    for (guint i = 0; i < G_N_ELEMENTS(neutral_devices); i++) {
        if (strcmp(neutral_devices[i].driver, device->driver) == 0) {
            add_device(describer, device, neutral_devices[i].type, neutral_devices[i].place);
            return;
        }
    }
    if (is_ide_drive(device)) {
        add_drive(describer, device);
        return;
    }
    if (is_empty_floppy(describer, device))
        return;
    if (!is_board(device)) {
        add_unknown(describer, device);
        return;
    }
    for (guint i = 0; i < device->buses->len; i++)
        describe_bus(describer, device->buses->pdata[i]);
}

/* The oldest first. */
static void describe_bus(Describer *describer, const QemuBus *bus)
{
    for (guint i = bus->devices->len; i-- > 0;)
        describe_device(describer, bus->devices->pdata[i]);
}

static void find_chipset(QemuDevice *device, gpointer user)
{
    static const struct {
        const char *driver, *chipset;
    } chipsets[] = {{"i440FX-pcihost", "intel,440fx"},
                    {"q35-pcihost", "qemu,q35"},
                    {"gpex-pcihost", "qemu,gpex"}};
    MachineDescription *machine = user;

    for (guint i = 0; i < G_N_ELEMENTS(chipsets); i++) {
        if (strcmp(chipsets[i].driver, device->driver) != 0)
            continue;
        g_free(machine->chipset);
        machine->chipset = g_strdup(chipsets[i].chipset);
    }
}

/* ---- processors ---- */

static gboolean read_cpuid(json_t *object, MachineDescription *machine, GError **error)
{
    static const char *const registers[] = {"EAX", "EBX", "ECX", "EDX", NULL};
    json_t *words = json_object_get(json_object_get(object, VMM_MACHINE_CPU), "words"), *entry;
    size_t i;

    json_array_foreach(words, i, entry)
    {
        uint64_t leaf, bits;
        const char *reg;
        MachineCpuid word = {0};

        if (!json_get_count(entry, "cpuid-input-eax", G_MAXUINT32, &leaf, error) ||
            !json_get_count(entry, "features", G_MAXUINT32, &bits, error) ||
            !json_get_text(entry, "cpuid-register", &reg, error))
            return FALSE;
        if (!g_strv_contains(registers, reg) || machine->cpuid->len >= MACHINE_MAX_CPUID_WORDS) {
            error_set(error, VMFERRY_ERROR_INVALID, "feature word %zu cannot be read", i);
            return FALSE;
        }
        word.leaf = (uint32_t)leaf;
        word.subleaf = (uint32_t)json_count_or(entry, "cpuid-input-ecx", 0);
        word.bits = (uint32_t)bits;
        memcpy(word.reg, reg, sizeof word.reg);
        if (bits)
            g_array_append_val(machine->cpuid, word);
    }
    return TRUE;
}

/* ---- memory ---- */

/* The chipset lays smaller views of the same bytes, at the same addresses, over main RAM. */
static gboolean is_view(const GPtrArray *ranges, guint index)
{
    const QemuTreeRange *range = ranges->pdata[index];

    for (guint i = 0; i < ranges->len; i++) {
        const QemuTreeRange *other = ranges->pdata[i];

        if (i == index || strcmp(other->region, range->region) != 0 ||
            range->address < other->address ||
            range->address - range->offset != other->address - other->offset ||
            range->bytes > other->bytes ||
            range->address - other->address > other->bytes - range->bytes)
            continue;
        if (range->bytes < other->bytes || i < index)
            return TRUE;
    }
    return FALSE;
}

static gint compare_bases(gconstpointer a, gconstpointer b)
{
    const MachineMemory *left = a, *right = b;

    return left->base < right->base ? -1 : left->base > right->base;
}

static gboolean are_side_by_side(const GArray *memory, uint64_t bytes)
{
    uint64_t sum = 0, end = 0;

    for (guint i = 0; i < memory->len; i++) {
        const MachineMemory *part = &g_array_index(memory, MachineMemory, i);

        if (part->base < end || part->bytes > bytes - sum)
            return FALSE;
        sum += part->bytes;
        end = part->base + part->bytes;
    }
    return sum == bytes;
}

GArray *qemu_neutral_memory(const GPtrArray *ranges, const char *main, uint64_t ram_bytes)
{
    GArray *memory = g_array_new(FALSE, FALSE, sizeof(MachineMemory));

    for (guint i = 0; i < ranges->len; i++) {
        const QemuTreeRange *range = ranges->pdata[i];
        const MachineMemory part = {range->address, range->bytes};

        if (strcmp(range->region, main) == 0 && !is_view(ranges, i) &&
            memory->len < MACHINE_MAX_MEMORY)
            g_array_append_val(memory, part);
    }
    g_array_sort(memory, compare_bases);
    if (!are_side_by_side(memory, ram_bytes))
        g_array_set_size(memory, 0);
    return memory;
}

/* How many there are of one kind, by the highest number. */
static gboolean count_kind(json_t *places, const char *kind, guint *ret)
{
    json_t *place;
    size_t i;

    *ret = 0;
    json_array_foreach(places, i, place)
    {
        json_t *number = json_object_get(json_object_get(place, "props"), kind);
        json_int_t value = json_integer_value(number);

        if ((number && !json_is_integer(number)) || value < 0 || value >= MAX_PROCESSORS)
            return FALSE;
        *ret = MAX(*ret, (guint)value + 1);
    }
    return *ret > 0;
}

void qemu_neutral_topology(json_t *answer, MachineTopology *ret, guint *ret_max)
{
    size_t count = json_is_array(answer) ? json_array_size(answer) : 0;
    guint sockets, dies, cores, threads;

    *ret = (MachineTopology){0};
    *ret_max = 0;
    if (count == 0 || count > MAX_PROCESSORS || !count_kind(answer, "socket-id", &sockets) ||
        !count_kind(answer, "die-id", &dies) || !count_kind(answer, "core-id", &cores) ||
        !count_kind(answer, "thread-id", &threads) ||
        (uint64_t)sockets * dies * cores * threads != count)
        return;
    *ret = (MachineTopology){sockets, dies * cores, threads};
    *ret_max = (guint)count;
}

MachineDescription *qemu_neutral_machine(json_t *object, const QemuNeutralFacts *facts,
                                         GError **error)
{
    g_autoptr(QemuMachine) live = qemu_machine_parse(object, error);
    g_autoptr(MachineDescription) machine = machine_description_new();
    Describer describer = {.live = live, .facts = facts, .machine = machine};

    if (!live || !read_cpuid(object, machine, error))
        return NULL;
    machine->architecture =
        g_strdup(strcmp(facts->architecture, "x86_64") == 0 ? "x86-64" : facts->architecture);
    machine->chipset = g_strdup("none");
    device_tree_visit(live->devices, find_chipset, machine);
    machine->ram_bytes = facts->ram_bytes;
    if (facts->memory && facts->memory->len > 0)
        g_array_append_vals(machine->memory, facts->memory->data, facts->memory->len);
    machine->vcpus = facts->vcpus;
    machine->vcpus_max = facts->vcpus_max > facts->vcpus ? facts->vcpus_max : 0;
    if (facts->vcpus_max >= facts->vcpus)
        machine->topology = facts->topology;
    machine->tsc_hz = facts->tsc_hz;
    machine->origin_kind = g_strdup("qemu");
    machine->origin_machine = g_strdup(facts->machine_type);
    describe_bus(&describer, live->devices);
    return g_steal_pointer(&machine);
}
