#include "vmm/bochs/plan.h"

#include <glib/gstdio.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "vmm/bochs/bochs.h"
#include "vmm/bochs/command_line.h"
#include "vmm/bochs/cpu_models.h"

#define MEBIBYTE (1u << 20)
#define MIN_IPS 1000000u

typedef struct {
    const MachineDescription *from;
    BochsMachine to;
    BochsDisk disks[BOCHS_MAX_DISKS];
    char *serial_file;
    GPtrArray *obstacles; /* of char * */
} Plan;

static void refuse(Plan *plan, const char *format, ...) G_GNUC_PRINTF(2, 3);

static void refuse(Plan *plan, const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    g_ptr_array_add(plan->obstacles, g_strdup_vprintf(format, arguments));
    va_end(arguments);
}

/* ---- chipset, memory, processors ---- */

static void plan_board(Plan *plan)
{
    const MachineDescription *from = plan->from;

    if (strcmp(from->architecture, "x86-64") != 0)
        refuse(plan, "architecture %s", from->architecture);
    if (strcmp(from->chipset, "intel,440fx") != 0)
        refuse(plan, "chipset %s (Bochs has intel,440fx)",
               strcmp(from->chipset, "none") == 0 ? "without PCI" : from->chipset);
    if (from->ram_bytes % MEBIBYTE != 0)
        refuse(plan, "memory that is not of whole MiB");
    else if (from->ram_bytes / MEBIBYTE > BOCHS_MAX_MEMORY_MIB)
        refuse(plan, "%" G_GUINT64_FORMAT " MiB of memory (Bochs takes %u)",
               from->ram_bytes / MEBIBYTE, BOCHS_MAX_MEMORY_MIB);
    for (guint i = 0; i < from->memory->len; i++) {
        const MachineMemory *part = &g_array_index(from->memory, MachineMemory, i);

        if (part->base > 0)
            refuse(plan, "memory at 0x%" G_GINT64_MODIFIER "x (Bochs has all of it from 0 on)",
                   part->base);
    }
    plan->to.memory_bytes = from->ram_bytes;
}

static void plan_model(Plan *plan)
{
    const GArray *cpuid = plan->from->cpuid;
    const BochsCpuModel *model, *closest;
    GPtrArray *missing = NULL;
    g_autofree char *names = NULL;

    if (cpuid->len == 0) {
        refuse(plan, "a CPU whose features are not known");
        return;
    }
    model = bochs_cpu_choose(cpuid, &closest, &missing);
    if (model) {
        plan->to.cpu_model = model->name;
        return;
    }
    g_ptr_array_add(missing, NULL);
    names = g_strjoinv(", ", (char **)missing->pdata);
    refuse(plan, "CPU features that no model of Bochs has (%s, the closest one, lacks %s)",
           closest->name, names);
    g_ptr_array_unref(missing);
}

static gboolean is_power_of_two(guint number)
{
    return (number & (number - 1)) == 0;
}

/* A guest finds its processors by the numbers of their APICs, which have room for each core's threads and each socket's cores in
 * whole bits: Bochs's are numbered one after the other. */
static void plan_topology(Plan *plan)
{
    const MachineTopology *from = &plan->from->topology;

    if ((!is_power_of_two(from->threads) && from->cores * from->sockets > 1) ||
        (!is_power_of_two(from->cores) && from->sockets > 1))
        refuse(plan,
               "sockets of %u cores with %u threads, whose APICs are not numbered one after the "
               "other",
               from->cores, from->threads);
    plan->to.cores = from->cores;
    plan->to.threads = from->threads;
}

static void plan_processors(Plan *plan)
{
    const MachineDescription *from = plan->from;

    if (from->vcpus > BOCHS_MAX_VCPUS)
        refuse(plan, "%u vCPUs (Bochs takes %u)", from->vcpus, BOCHS_MAX_VCPUS);
    if (from->vcpus_max > from->vcpus)
        refuse(plan, "%u of %u vCPUs (none can be plugged in later in Bochs)", from->vcpus,
               from->vcpus_max);
    else
        plan_topology(plan);
    if (from->tsc_hz == 0)
        refuse(plan, "a TSC whose rate is not known");
    else if (from->tsc_hz < MIN_IPS || from->tsc_hz > G_MAXUINT32)
        refuse(plan, "a TSC of %" G_GUINT64_FORMAT " Hz (Bochs takes %u to %u)", from->tsc_hz,
               MIN_IPS, G_MAXUINT32);
    plan->to.vcpus = from->vcpus;
    plan->to.ips = (uint32_t)from->tsc_hz;
    plan_model(plan);
}

/* ---- cards ---- */

/* "pci:00:03.0"; -1: not a place that Bochs has a slot for. */
static int find_slot(const char *at)
{
    guint device;
    int end = 0;

    if (sscanf(at, "pci:00:%2x.0%n", &device, &end) != 1 || at[end] != '\0' ||
        device < BOCHS_FIRST_SLOT || device >= BOCHS_FIRST_SLOT + BOCHS_MAX_SLOTS)
        return -1;
    return (int)(device - BOCHS_FIRST_SLOT);
}

static void plan_vga(Plan *plan, const MachineDevice *device)
{
    if (plan->from->video_bytes != BOCHS_VIDEO_BYTES)
        refuse(plan, "%s with %" G_GUINT64_FORMAT " MiB of memory (Bochs has %u)", device->name,
               plan->from->video_bytes / MEBIBYTE, BOCHS_VIDEO_BYTES / MEBIBYTE);
}

static void plan_network(Plan *plan, const MachineDevice *device)
{
    if (!device->has_mac)
        refuse(plan, "%s without an address", device->name);
    memcpy(plan->to.mac, device->mac, sizeof plan->to.mac);
}

static const struct {
    const char *type;
    BochsSlot slot;
    void (*plan)(Plan *plan, const MachineDevice *device);
} cards[] = {
    {"bochs,vbe", BOCHS_SLOT_VGA, plan_vga},
    {"intel,82540em", BOCHS_SLOT_E1000, plan_network},
};

static void plan_card(Plan *plan, const MachineDevice *device, guint kind)
{
    int slot = find_slot(device->at);

    for (guint i = 0; i < BOCHS_MAX_SLOTS; i++) {
        if (plan->to.slots[i] == cards[kind].slot) {
            refuse(plan, "%s, the second of its kind", device->name);
            return;
        }
    }
    if (slot < 0) {
        refuse(plan, "%s: the place %s (Bochs has slots at pci:00:%02x.0 to %02x.0)", device->name,
               device->at, BOCHS_FIRST_SLOT, BOCHS_FIRST_SLOT + BOCHS_MAX_SLOTS - 1);
        return;
    }
    if (plan->to.slots[slot] != BOCHS_SLOT_EMPTY) {
        refuse(plan, "%s: another device at %s", device->name, device->at);
        return;
    }
    plan->to.slots[slot] = cards[kind].slot;
    cards[kind].plan(plan, device);
}

/* Each Bochs has it, whether it is looked for or not. */
static gboolean is_in_any(const MachineDevice *device)
{
    return strcmp(device->type, "intel,hpet") == 0 ||
           (strcmp(device->type, "ns,16550a") == 0 && strcmp(device->at, "io:3f8") == 0);
}

/* The name beside a serial line's file, and the file that it is beside. */
#define OWN_FILE ".bochs"

static char *file_of_others(const char *file)
{
    return file && g_str_has_suffix(file, OWN_FILE)
               ? g_strndup(file, strlen(file) - strlen(OWN_FILE))
               : g_strdup(file);
}

/* Bochs begins its files anew: not the one that another VMM appends to. */
static void plan_serial(Plan *plan, const MachineDevice *device)
{
    if (!device->file)
        return;
    g_free(plan->serial_file);
    plan->to.serial_file = plan->serial_file = g_strconcat(device->file, OWN_FILE, NULL);
    if (!bochs_path_is_valid(plan->serial_file))
        refuse(plan, "%s, which writes to %s: Bochs cannot be told that name", device->name,
               device->file);
}

static void plan_device(Plan *plan, const MachineDevice *device)
{
    if (is_in_any(device)) {
        plan_serial(plan, device);
        return;
    }
    for (guint i = 0; i < G_N_ELEMENTS(cards); i++) {
        if (strcmp(cards[i].type, device->type) == 0) {
            plan_card(plan, device, i);
            return;
        }
    }
    refuse(plan, "%s", device->name);
}

/* ---- disks ---- */

static void plan_disk(Plan *plan, const MachineDisk *disk)
{
    BochsDisk *to = &plan->disks[plan->to.disk_count];
    guint channel, unit;
    int end = 0;

    if (sscanf(disk->at, "pci:00:01.1/%1u/%1u%n", &channel, &unit, &end) != 2 ||
        disk->at[end] != '\0' || channel > 1 || unit > 1 ||
        plan->to.disk_count == BOCHS_MAX_DISKS) {
        refuse(plan, "a disk at %s (Bochs has IDE at pci:00:01.1)", disk->at);
        return;
    }
    if (!disk->path && !disk->cdrom)
        refuse(plan, "a disk at %s without an image", disk->at);
    else if (disk->path && g_strcmp0(disk->format, "raw") != 0)
        refuse(plan, "disk %s: format %s (Bochs reads raw images)", disk->path,
               disk->format ? disk->format : "not known");
    else if (disk->path && !bochs_path_is_valid(disk->path))
        refuse(plan,
               "disk %s: Bochs takes absolute paths without quotes, commas, '$', '#' and '\\'",
               disk->path);
    else if (disk->read_only && !disk->cdrom)
        refuse(plan, "disk %s, which is read-only", disk->path);
    *to = (BochsDisk){.channel = channel, .unit = unit, .path = disk->path, .cdrom = disk->cdrom};
    plan->to.disk_count++;
}

char **bochs_plan(const MachineDescription *machine, GError **error)
{
    g_autoptr(GPtrArray) obstacles = g_ptr_array_new_with_free_func(g_free);
    Plan plan = {.from = machine, .obstacles = obstacles};
    g_autofree char *all = NULL;
    char **line;

    if (g_strcmp0(machine->origin_kind, BOCHS_KIND) == 0 && machine->origin_line)
        return g_strdupv(machine->origin_line);
    plan.to.disks = plan.disks;
    plan_board(&plan);
    plan_processors(&plan);
    for (guint i = 0; i < machine->devices->len; i++)
        plan_device(&plan, machine->devices->pdata[i]);
    for (guint i = 0; i < machine->disks->len; i++)
        plan_disk(&plan, machine->disks->pdata[i]);
    line = obstacles->len == 0 ? bochs_command_line_format("bochs", &plan.to) : NULL;
    g_free(plan.serial_file);
    if (line)
        return line;
    g_ptr_array_add(obstacles, NULL);
    all = g_strjoinv("; ", (char **)obstacles->pdata);
    error_set(error, VMFERRY_ERROR_UNSUPPORTED, "Bochs cannot be this machine: it has %s", all);
    return NULL;
}

/* ---- the other way ---- */

static void describe_disk(const BochsDisk *disk, MachineDescription *machine)
{
    MachineDisk *to = g_new0(MachineDisk, 1);
    GStatBuf status;

    to->at = g_strdup_printf("pci:00:01.1/%u/%u", disk->channel, disk->unit);
    to->path = g_strdup(disk->path);
    to->format = disk->path ? g_strdup("raw") : NULL;
    to->bytes = disk->path && g_stat(disk->path, &status) == 0 ? (uint64_t)status.st_size : 0;
    to->cdrom = to->read_only = disk->cdrom;
    machine_description_add_disk(machine, to);
}

static void describe_card(const BochsMachine *from, guint slot, MachineDescription *machine)
{
    guint device = BOCHS_FIRST_SLOT + slot;
    char *at = g_strdup_printf("pci:00:%02x.0", device);

    if (from->slots[slot] == BOCHS_SLOT_VGA)
        machine_description_add_device(machine, g_strdup("bochs,vbe"), at,
                                       g_strdup_printf("pcivga at 00:%02x.0", device), NULL);
    else
        machine_description_add_device(machine, g_strdup("intel,82540em"), at,
                                       g_strdup_printf("e1000 at 00:%02x.0", device), from->mac);
    if (from->slots[slot] == BOCHS_SLOT_VGA)
        machine->video_bytes = BOCHS_VIDEO_BYTES;
}

MachineDescription *bochs_describe(const BochsMachine *from)
{
    MachineDescription *machine = machine_description_new();
    const BochsCpuModel *model = bochs_cpu_find(from->cpu_model);
    const MachineMemory memory = {0, from->memory_bytes};

    machine->architecture = g_strdup("x86-64");
    machine->chipset = g_strdup("intel,440fx");
    machine->ram_bytes = from->memory_bytes;
    g_array_append_val(machine->memory, memory);
    machine->vcpus = from->vcpus;
    machine->topology.cores = MAX(1, from->cores);
    machine->topology.threads = MAX(1, from->threads);
    machine->topology.sockets = from->vcpus / (machine->topology.cores * machine->topology.threads);
    machine->tsc_hz = from->ips;
    if (model)
        bochs_cpu_describe(model, machine->cpuid);
    for (guint i = 0; i < BOCHS_MAX_SLOTS; i++)
        if (from->slots[i] != BOCHS_SLOT_EMPTY)
            describe_card(from, i, machine);
    machine_description_add_device(machine, g_strdup("intel,hpet"), g_strdup("mmio:fed00000"),
                                   g_strdup("hpet"), NULL);
    machine_description_add_device(machine, g_strdup("ns,16550a"), g_strdup("io:3f8"),
                                   g_strdup("com1"), NULL)
        ->file = file_of_others(from->serial_file);
    for (guint i = 0; i < from->disk_count; i++)
        describe_disk(&from->disks[i], machine);
    machine->origin_kind = g_strdup(BOCHS_KIND);
    machine->origin_machine = g_strdup("pc-i440fx");
    return machine;
}
