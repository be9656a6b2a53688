#include "vmm/qemu/plan.h"

#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "vmm/qemu/driver.h"
#include "vmm/qemu/options.h"

#define PROGRAM "qemu-system-x86_64"
#define KIBIBYTE 1024u
#define MEBIBYTE (1u << 20)
#define MAX_SERIAL 4u
#define HPET "intel,hpet"

/* ---- the CPU ---- */

#define MODEL_WORDS 12u

static const MachineCpuid model_places[MODEL_WORDS] = {
    {0x1, 0, "ECX", 0},        {0x1, 0, "EDX", 0},        {0x6, 0, "EAX", 0},
    {0x7, 0, "EBX", 0},        {0x7, 0, "ECX", 0},        {0x7, 0, "EDX", 0},
    {0xd, 0, "EAX", 0},        {0xd, 1, "EAX", 0},        {0x80000001, 0, "ECX", 0},
    {0x80000001, 0, "EDX", 0}, {0x80000008, 0, "EBX", 0}, {0x8000000a, 0, "EDX", 0},
};

/* Each has more than the one before, as QEMU 7.2 counts its features (feature-words and
 * filtered-features of a CPU under TCG). */
static const struct {
    const char *name;
    uint32_t words[MODEL_WORDS];
} models[] = {
    /* clang-format off */
    {"qemu64",
     {0x80002001, 0x078bfbfd, 0x00000000, 0x00000000, 0x00000000, 0x00000000,
      0x00000000, 0x00000000, 0x00000005, 0x2193fbfd, 0x00000000, 0x00000000}},
    {"Nehalem",
     {0x80982201, 0x078bfbfd, 0x00000000, 0x00000000, 0x00000000, 0x00000000,
      0x00000000, 0x00000000, 0x00000001, 0x20100800, 0x00000000, 0x00000000}},
    {"Westmere",
     {0x82982203, 0x078bfbfd, 0x00000004, 0x00000000, 0x00000000, 0x00000000,
      0x00000000, 0x00000000, 0x00000001, 0x20100800, 0x00000000, 0x00000000}},
    {"SandyBridge",
     {0x97b82203, 0x078bfbfd, 0x00000004, 0x00000000, 0x00000000, 0x00000000,
      0x00000007, 0x00000001, 0x00000001, 0x28100800, 0x00000000, 0x00000000}},
    {"IvyBridge",
     {0xf7b82203, 0x078bfbfd, 0x00000004, 0x00000281, 0x00000000, 0x00000000,
      0x00000007, 0x00000001, 0x00000001, 0x28100800, 0x00000000, 0x00000000}},
    {"Haswell-noTSX",
     {0xf7fa3203, 0x078bfbfd, 0x00000004, 0x000007a9, 0x00000000, 0x00000000,
      0x00000007, 0x00000001, 0x00000021, 0x28100800, 0x00000000, 0x00000000}},
    {"Haswell",
     {0xf7fa3203, 0x078bfbfd, 0x00000004, 0x00000fb9, 0x00000000, 0x00000000,
      0x00000007, 0x00000001, 0x00000021, 0x28100800, 0x00000000, 0x00000000}},
    {"Broadwell-noTSX",
     {0xf7fa3203, 0x078bfbfd, 0x00000004, 0x001c07a9, 0x00000000, 0x00000000,
      0x00000007, 0x00000001, 0x00000121, 0x28100800, 0x00000000, 0x00000000}},
    {"Broadwell",
     {0xf7fa3203, 0x078bfbfd, 0x00000004, 0x001c0fb9, 0x00000000, 0x00000000,
      0x00000007, 0x00000001, 0x00000121, 0x28100800, 0x00000000, 0x00000000}},
    {"Skylake-Client-noTSX-IBRS",
     {0xf7fa3203, 0x078bfbfd, 0x00000004, 0x001c07a9, 0x00000000, 0x04000000,
      0x00000007, 0x00000007, 0x00000121, 0x28100800, 0x00000000, 0x00000000}},
    {"Skylake-Server-noTSX-IBRS",
     {0xf7fa3203, 0x078bfbfd, 0x00000004, 0xd11f07a9, 0x00000008, 0x04000000,
      0x000002e7, 0x00000007, 0x00000121, 0x2c100800, 0x00000000, 0x00000000}},
    {"Icelake-Server-noTSX",
     {0xf7fa3203, 0x078bfbfd, 0x00000004, 0xd19f07a9, 0x00015f4e, 0x84000000,
      0x000002e7, 0x00000007, 0x00000121, 0x2c100800, 0x00000200, 0x00000000}},
    {"EPYC",
     {0xf6d8320b, 0x078bfbfd, 0x00000004, 0x209c01a9, 0x00000000, 0x00000000,
      0x00000007, 0x00000007, 0x004003f5, 0x2fd3fbfd, 0x00000000, 0x00000009}},
    /* clang-format on */
};

static uint32_t model_bits(const uint32_t *words, const MachineCpuid *word)
{
    for (guint i = 0; i < MODEL_WORDS; i++)
        if (model_places[i].leaf == word->leaf && model_places[i].subleaf == word->subleaf &&
            strcmp(model_places[i].reg, word->reg) == 0)
            return words[i];
    return 0;
}

static gboolean model_has_all(const uint32_t *words, const GArray *cpuid)
{
    for (guint i = 0; i < cpuid->len; i++) {
        const MachineCpuid *word = &g_array_index(cpuid, MachineCpuid, i);

        /* What a hypervisor offers is not a model's. */
        if (word->leaf >> 8 != 0x400000 && word->bits & ~model_bits(words, word))
            return FALSE;
    }
    return TRUE;
}

static const char *choose_model(const MachineDescription *machine)
{
    for (guint i = 0; i < G_N_ELEMENTS(models) && machine->cpuid->len > 0; i++)
        if (model_has_all(models[i].words, machine->cpuid))
            return models[i].name;
    return "max";
}

/* ---- the line ---- */

typedef struct {
    const MachineDescription *machine;
    GPtrArray *words;
    GPtrArray *obstacles; /* of char * */
    const MachineDevice *serial[MAX_SERIAL];
} Plan;

static void add(Plan *plan, const char *option, const char *format, ...) G_GNUC_PRINTF(3, 4);

static void add(Plan *plan, const char *option, const char *format, ...)
{
    va_list arguments;

    g_ptr_array_add(plan->words, g_strdup(option));
    va_start(arguments, format);
    g_ptr_array_add(plan->words, g_strdup_vprintf(format, arguments));
    va_end(arguments);
}

static void refuse(Plan *plan, const char *format, ...) G_GNUC_PRINTF(2, 3);

static void refuse(Plan *plan, const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    g_ptr_array_add(plan->obstacles, g_strdup_vprintf(format, arguments));
    va_end(arguments);
}

/* A name that says nothing else to QEMU. */
static gboolean is_name(const char *text)
{
    return *text && text[strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                      "0123456789.-_")] == '\0';
}

/* QEMU's own choice, where it is not known. */
static void add_processors(Plan *plan)
{
    const MachineDescription *machine = plan->machine;
    const MachineTopology *topology = &machine->topology;
    g_autofree char *most = machine->vcpus_max > machine->vcpus
                                ? g_strdup_printf(",maxcpus=%u", machine->vcpus_max)
                                : g_strdup("");

    if (topology->sockets == 0)
        add(plan, "-smp", "%u%s", machine->vcpus, most);
    else
        add(plan, "-smp", "%u%s,sockets=%u,cores=%u,threads=%u", machine->vcpus, most,
            topology->sockets, topology->cores, topology->threads);
}

static void plan_board(Plan *plan)
{
    const MachineDescription *machine = plan->machine;
    gboolean own = g_strcmp0(machine->origin_kind, QEMU_KIND) == 0 && machine->origin_machine;

    if (own && !is_name(machine->origin_machine))
        refuse(plan, "machine type \"%s\"", machine->origin_machine);
    if (strcmp(machine->architecture, "x86-64") != 0)
        refuse(plan, "architecture %s", machine->architecture);
    if (strcmp(machine->chipset, "intel,440fx") != 0)
        refuse(plan, "chipset %s, of which no command line is known", machine->chipset);
    if (machine->ram_bytes % KIBIBYTE != 0)
        refuse(plan, "memory that is not of whole KiB");
    g_ptr_array_add(plan->words, g_strdup(PROGRAM));
    add(plan, "-M", "%s%s", own ? machine->origin_machine : "pc",
        machine_description_find(machine, HPET) ? "" : ",hpet=off");
    add(plan, "-cpu", "%s", choose_model(machine));
    add(plan, "-m", "%" G_GUINT64_FORMAT "k", machine->ram_bytes / KIBIBYTE);
    add_processors(plan);
    g_ptr_array_add(plan->words, g_strdup("-nodefaults"));
    add(plan, "-display", "none");
}

/* The place on the bus, of "pci:00:03.0"; NULL where it is another bus. */
static const char *find_address(Plan *plan, const MachineDevice *device)
{
    static const char prefix[] = "pci:00:";
    guint slot, function;
    int end = 0;

    if (sscanf(device->at, "pci:00:%2x.%1u%n", &slot, &function, &end) == 2 &&
        device->at[end] == '\0')
        return device->at + strlen(prefix);
    refuse(plan, "%s: the place %s", device->name, device->at);
    return NULL;
}

static void plan_vga(Plan *plan, const MachineDevice *device)
{
    const char *address = find_address(plan, device);

    if (plan->machine->video_bytes == 0 || plan->machine->video_bytes % MEBIBYTE != 0)
        refuse(plan, "%s without memory in whole MiB", device->name);
    else if (address)
        add(plan, "-device", "VGA,addr=%s,vgamem_mb=%u", address,
            (guint)(plan->machine->video_bytes / MEBIBYTE));
}

static void plan_e1000(Plan *plan, const MachineDevice *device)
{
    const char *address = find_address(plan, device);
    const uint8_t *mac = device->mac;

    if (!device->has_mac)
        refuse(plan, "%s without an address", device->name);
    else if (address)
        add(plan, "-device", "e1000,addr=%s,mac=%02x:%02x:%02x:%02x:%02x:%02x", address, mac[0],
            mac[1], mac[2], mac[3], mac[4], mac[5]);
}

/* In the order of their ports, behind all others. */
static void plan_serial(Plan *plan, const MachineDevice *device)
{
    static const char *const places[MAX_SERIAL] = {"io:3f8", "io:2f8", "io:3e8", "io:2e8"};

    for (guint i = 0; i < MAX_SERIAL; i++) {
        if (strcmp(places[i], device->at) == 0) {
            plan->serial[i] = device;
            return;
        }
    }
    refuse(plan, "%s: the place %s", device->name, device->at);
}

/* By -M. */
static void plan_hpet(Plan *plan, const MachineDevice *device)
{
}

static void add_serial(Plan *plan)
{
    for (guint i = 0; i < MAX_SERIAL; i++) {
        g_autofree char *file = plan->serial[i] && plan->serial[i]->file
                                    ? qemu_escape_commas(plan->serial[i]->file)
                                    : NULL;

        if (!plan->serial[i])
            continue;
        if (file)
            add(plan, "-chardev", "file,id=serial%u,path=%s,append=on", i, file);
        else
            add(plan, "-chardev", "null,id=serial%u", i);
        add(plan, "-device", "isa-serial,chardev=serial%u,index=%u", i, i);
    }
}

typedef struct {
    const char *type;
    void (*plan)(Plan *plan, const MachineDevice *device);
} DeviceKind;

static const DeviceKind *find_device(const char *type)
{
    static const DeviceKind kinds[] = {
        {"bochs,vbe", plan_vga},
        {"intel,82540em", plan_e1000},
        {"ns,16550a", plan_serial},
        {HPET, plan_hpet},
    };

    for (guint i = 0; i < G_N_ELEMENTS(kinds); i++)
        if (strcmp(kinds[i].type, type) == 0)
            return &kinds[i];
    return NULL;
}

static void plan_device(Plan *plan, const MachineDevice *device)
{
    const DeviceKind *kind = find_device(device->type);

    if (kind)
        kind->plan(plan, device);
    else
        refuse(plan, "%s", device->name);
}

/* A comma in a value is doubled. */
static char *escape(const char *value)
{
    GString *text = g_string_new(value);

    g_string_replace(text, ",", ",,", 0);
    return g_string_free(text, FALSE);
}

static void plan_disk(Plan *plan, guint number, const MachineDisk *disk)
{
    g_autofree char *path = disk->path ? escape(disk->path) : NULL;
    const char *media = disk->cdrom ? "cdrom" : "disk";
    guint channel, unit;
    int end = 0;

    if (sscanf(disk->at, "pci:00:01.1/%1u/%1u%n", &channel, &unit, &end) != 2 ||
        disk->at[end] != '\0' || channel > 1 || unit > 1) {
        refuse(plan, "a disk at %s", disk->at);
        return;
    }
    if ((!path && !disk->cdrom) || (path && !(disk->format && is_name(disk->format)))) {
        refuse(plan, "a disk at %s without %s", disk->at, path ? "a known format" : "an image");
        return;
    }
    if (path)
        add(plan, "-drive", "if=none,id=disk%u,media=%s,format=%s,file=%s%s", number, media,
            disk->format, path, disk->read_only ? ",readonly=on" : "");
    else
        add(plan, "-drive", "if=none,id=disk%u,media=cdrom", number);
    add(plan, "-device", "%s,drive=disk%u,bus=ide.%u,unit=%u", disk->cdrom ? "ide-cd" : "ide-hd",
        number, channel, unit);
}

static char **end_plan(Plan *plan, GError **error)
{
    g_autofree char *all = NULL;

    if (plan->obstacles->len == 0) {
        g_ptr_array_add(plan->words, NULL);
        return g_strdupv((char **)plan->words->pdata);
    }
    g_ptr_array_add(plan->obstacles, NULL);
    all = g_strjoinv("; ", (char **)plan->obstacles->pdata);
    error_set(error, VMFERRY_ERROR_UNSUPPORTED, "QEMU cannot be this machine: it has %s", all);
    return NULL;
}

/* Its own line again; the state of other devices has no neutral form. */
static char **plan_origin(Plan *plan, GError **error)
{
    for (guint i = 0; i < plan->machine->devices->len; i++) {
        const MachineDevice *device = plan->machine->devices->pdata[i];

        if (!find_device(device->type))
            refuse(plan, "%s", device->name);
    }
    for (char **word = plan->machine->origin_line; *word; word++)
        g_ptr_array_add(plan->words, g_strdup(*word));
    return end_plan(plan, error);
}

char **qemu_plan(const MachineDescription *machine, GError **error)
{
    g_autoptr(GPtrArray) words = g_ptr_array_new_with_free_func(g_free),
                         obstacles = g_ptr_array_new_with_free_func(g_free);
    Plan plan = {.machine = machine, .words = words, .obstacles = obstacles};

    if (g_strcmp0(machine->origin_kind, QEMU_KIND) == 0 && machine->origin_line)
        return plan_origin(&plan, error);
    plan_board(&plan);
    for (guint i = 0; i < machine->devices->len; i++)
        plan_device(&plan, machine->devices->pdata[i]);
    add_serial(&plan);
    for (guint i = 0; i < machine->disks->len; i++)
        plan_disk(&plan, i, machine->disks->pdata[i]);
    return end_plan(&plan, error);
}
