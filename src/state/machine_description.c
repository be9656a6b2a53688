#include "state/machine_description.h"

#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/json.h"

#define MAX_WORD 255u /* types, places, names */
#define MAX_PATH 4095u
#define MAX_ARGUMENT 131071u /* the kernel's, of an argument */
#define MAX_RAM (G_GUINT64_CONSTANT(1) << 52)
#define MAX_VIDEO (G_GUINT64_CONSTANT(1) << 32)
#define MAX_VCPUS 4096u
#define MAX_TSC_HZ G_GUINT64_CONSTANT(1000000000000)

/* ---- objects ---- */

static void device_free(MachineDevice *device)
{
    g_free(device->type);
    g_free(device->at);
    g_free(device->name);
    g_free(device->file);
    g_free(device);
}

static void disk_free(MachineDisk *disk)
{
    g_free(disk->at);
    g_free(disk->path);
    g_free(disk->format);
    g_free(disk);
}

G_DEFINE_AUTOPTR_CLEANUP_FUNC(MachineDisk, disk_free)

MachineDescription *machine_description_new(void)
{
    MachineDescription *machine = g_new0(MachineDescription, 1);

    machine->cpuid = g_array_new(FALSE, TRUE, sizeof(MachineCpuid));
    machine->memory = g_array_new(FALSE, TRUE, sizeof(MachineMemory));
    machine->devices = g_ptr_array_new_with_free_func((GDestroyNotify)device_free);
    machine->disks = g_ptr_array_new_with_free_func((GDestroyNotify)disk_free);
    return machine;
}

void machine_description_free(MachineDescription *machine)
{
    if (!machine)
        return;
    g_free(machine->architecture);
    g_free(machine->chipset);
    g_array_unref(machine->cpuid);
    g_array_unref(machine->memory);
    g_ptr_array_unref(machine->devices);
    g_ptr_array_unref(machine->disks);
    g_free(machine->origin_kind);
    g_free(machine->origin_machine);
    g_strfreev(machine->origin_line);
    g_free(machine);
}

MachineDevice *machine_description_add_device(MachineDescription *machine, char *type, char *at,
                                              char *name, const uint8_t *mac)
{
    MachineDevice *device = g_new0(MachineDevice, 1);

    device->type = type;
    device->at = at;
    device->name = name;
    device->has_mac = mac != NULL;
    if (mac)
        memcpy(device->mac, mac, sizeof device->mac);
    g_ptr_array_add(machine->devices, device);
    return device;
}

void machine_description_add_disk(MachineDescription *machine, MachineDisk *disk)
{
    g_ptr_array_add(machine->disks, disk);
}

static void copy_disk(MachineDescription *machine, const MachineDisk *disk)
{
    MachineDisk *copy = g_new(MachineDisk, 1);

    *copy = *disk;
    copy->at = g_strdup(disk->at);
    copy->path = g_strdup(disk->path);
    copy->format = g_strdup(disk->format);
    machine_description_add_disk(machine, copy);
}

MachineDescription *machine_description_copy(const MachineDescription *machine)
{
    MachineDescription *copy = machine_description_new();

    copy->architecture = g_strdup(machine->architecture);
    copy->chipset = g_strdup(machine->chipset);
    copy->ram_bytes = machine->ram_bytes;
    copy->video_bytes = machine->video_bytes;
    copy->vcpus = machine->vcpus;
    copy->vcpus_max = machine->vcpus_max;
    copy->topology = machine->topology;
    copy->tsc_hz = machine->tsc_hz;
    if (machine->cpuid->len > 0)
        g_array_append_vals(copy->cpuid, machine->cpuid->data, machine->cpuid->len);
    if (machine->memory->len > 0)
        g_array_append_vals(copy->memory, machine->memory->data, machine->memory->len);
    for (guint i = 0; i < machine->devices->len; i++) {
        const MachineDevice *device = machine->devices->pdata[i];

        machine_description_add_device(copy, g_strdup(device->type), g_strdup(device->at),
                                       g_strdup(device->name), device->has_mac ? device->mac : NULL)
            ->file = g_strdup(device->file);
    }
    for (guint i = 0; i < machine->disks->len; i++)
        copy_disk(copy, machine->disks->pdata[i]);
    copy->origin_kind = g_strdup(machine->origin_kind);
    copy->origin_machine = g_strdup(machine->origin_machine);
    copy->origin_line = g_strdupv(machine->origin_line);
    return copy;
}

const MachineDevice *machine_description_find(const MachineDescription *machine, const char *type)
{
    for (guint i = 0; i < machine->devices->len; i++) {
        const MachineDevice *device = machine->devices->pdata[i];

        if (strcmp(device->type, type) == 0)
            return device;
    }
    return NULL;
}

/* ---- writing ---- */

/* Paths and words of a command line are bytes to the kernel, and texts to JSON. */
static json_t *text_to_json(const char *text)
{
    g_autofree char *valid = g_utf8_make_valid(text, -1);

    return json_string(valid);
}

static void set_text(json_t *object, const char *key, const char *text)
{
    if (text)
        json_object_set_new(object, key, text_to_json(text));
}

static void set_count(json_t *object, const char *key, uint64_t count)
{
    json_object_set_new(object, key, json_integer((json_int_t)count));
}

static json_t *device_to_json(const MachineDevice *device)
{
    const uint8_t *mac = device->mac;
    json_t *object = json_object();

    set_text(object, "type", device->type);
    set_text(object, "at", device->at);
    set_text(object, "name", device->name);
    set_text(object, "file", device->file);
    if (device->has_mac)
        json_object_set_new(object, "mac",
                            json_sprintf("%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2],
                                         mac[3], mac[4], mac[5]));
    return object;
}

static json_t *disk_to_json(const MachineDisk *disk)
{
    json_t *object = json_object();

    set_text(object, "at", disk->at);
    set_text(object, "path", disk->path);
    set_text(object, "format", disk->format);
    set_count(object, "bytes", disk->bytes);
    json_object_set_new(object, "cdrom", json_boolean(disk->cdrom));
    json_object_set_new(object, "read_only", json_boolean(disk->read_only));
    return object;
}

static json_t *cpuid_to_json(const GArray *words)
{
    json_t *array = json_array();

    for (guint i = 0; i < words->len; i++) {
        const MachineCpuid *word = &g_array_index(words, MachineCpuid, i);
        json_t *object = json_object();

        set_count(object, "leaf", word->leaf);
        set_count(object, "subleaf", word->subleaf);
        set_text(object, "reg", word->reg);
        set_count(object, "bits", word->bits);
        json_array_append_new(array, object);
    }
    return array;
}

static json_t *memory_to_json(const GArray *memory)
{
    json_t *array = json_array();

    for (guint i = 0; i < memory->len; i++) {
        const MachineMemory *part = &g_array_index(memory, MachineMemory, i);
        json_t *object = json_object();

        set_count(object, "base", part->base);
        set_count(object, "bytes", part->bytes);
        json_array_append_new(array, object);
    }
    return array;
}

static json_t *origin_to_json(const MachineDescription *machine)
{
    json_t *object = json_object();

    set_text(object, "kind", machine->origin_kind);
    set_text(object, "machine", machine->origin_machine);
    if (machine->origin_line) {
        json_t *line = json_array();

        for (char **word = machine->origin_line; *word; word++)
            json_array_append_new(line, text_to_json(*word));
        json_object_set_new(object, "line", line);
    }
    return object;
}

static void set_processors(json_t *object, const MachineDescription *machine)
{
    const MachineTopology *topology = &machine->topology;

    set_count(object, "vcpus", machine->vcpus);
    if (machine->vcpus_max > 0)
        set_count(object, "vcpus_max", machine->vcpus_max);
    if (topology->sockets == 0)
        return;
    json_object_set_new(object, "topology",
                        json_pack("{s:i, s:i, s:i}", "sockets", (int)topology->sockets, "cores",
                                  (int)topology->cores, "threads", (int)topology->threads));
}

json_t *machine_description_to_json(const MachineDescription *machine)
{
    json_t *object = json_object(), *devices = json_array(), *disks = json_array();

    for (guint i = 0; i < machine->devices->len; i++)
        json_array_append_new(devices, device_to_json(machine->devices->pdata[i]));
    for (guint i = 0; i < machine->disks->len; i++)
        json_array_append_new(disks, disk_to_json(machine->disks->pdata[i]));
    set_text(object, "architecture", machine->architecture);
    set_text(object, "chipset", machine->chipset);
    set_count(object, "ram_bytes", machine->ram_bytes);
    if (machine->memory->len > 0)
        json_object_set_new(object, "memory", memory_to_json(machine->memory));
    set_count(object, "video_bytes", machine->video_bytes);
    set_processors(object, machine);
    set_count(object, "tsc_hz", machine->tsc_hz);
    json_object_set_new(object, "cpuid", cpuid_to_json(machine->cpuid));
    json_object_set_new(object, "devices", devices);
    json_object_set_new(object, "disks", disks);
    if (machine->origin_kind)
        json_object_set_new(object, "origin", origin_to_json(machine));
    return object;
}

/* ---- reading ---- */

static gboolean is_plain(const char *text)
{
    for (; *text; text++)
        if (g_ascii_iscntrl(*text))
            return FALSE;
    return TRUE;
}

/* A copy of the text; *required* FALSE: NULL where there is none. */
static gboolean read_text(json_t *object, const char *key, gboolean required, size_t max,
                          char **ret, GError **error)
{
    const char *text;

    if (!required && !json_object_get(object, key))
        return TRUE;
    if (!json_get_text(object, key, &text, error))
        return FALSE;
    if (!*text || strlen(text) > max || !is_plain(text)) {
        error_set(error, VMFERRY_ERROR_INVALID,
                  "\"%s\" is empty, longer than %zu bytes or has control characters", key, max);
        return FALSE;
    }
    *ret = g_strdup(text);
    return TRUE;
}

static gboolean read_word(json_t *object, const char *key, char **ret, GError **error)
{
    return read_text(object, key, TRUE, MAX_WORD, ret, error);
}

static gboolean read_flag(json_t *object, const char *key, gboolean *ret, GError **error)
{
    json_t *value = json_object_get(object, key);

    if (!json_is_boolean(value)) {
        error_set(error, VMFERRY_ERROR_INVALID, "\"%s\" is missing or no boolean", key);
        return FALSE;
    }
    *ret = json_is_true(value);
    return TRUE;
}

static gboolean read_u32(json_t *object, const char *key, uint32_t *ret, GError **error)
{
    uint64_t value;

    if (!json_get_count(object, key, G_MAXUINT32, &value, error))
        return FALSE;
    *ret = (uint32_t)value;
    return TRUE;
}

static gboolean read_mac(json_t *object, MachineDevice *device, GError **error)
{
    const char *text;

    if (!json_object_get(object, "mac"))
        return TRUE;
    if (!json_get_text(object, "mac", &text, error))
        return FALSE;
    device->has_mac = strlen(text) == 17;
    for (guint i = 0; device->has_mac && i < 6; i++) {
        int high = g_ascii_xdigit_value(text[3 * i]), low = g_ascii_xdigit_value(text[3 * i + 1]);

        if (high < 0 || low < 0 || (i < 5 && text[3 * i + 2] != ':'))
            device->has_mac = FALSE;
        else
            device->mac[i] = (uint8_t)(high << 4 | low);
    }
    if (device->has_mac)
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "\"mac\" is no address of a network card");
    return FALSE;
}

static gboolean read_device(MachineDescription *machine, json_t *entry, GError **error)
{
    MachineDevice *device = g_new0(MachineDevice, 1);

    g_ptr_array_add(machine->devices, device);
    return read_word(entry, "type", &device->type, error) &&
           read_word(entry, "at", &device->at, error) &&
           read_word(entry, "name", &device->name, error) && read_mac(entry, device, error) &&
           read_text(entry, "file", FALSE, MAX_PATH, &device->file, error);
}

static gboolean has_disk_at(const MachineDescription *machine, const char *at)
{
    for (guint i = 0; i < machine->disks->len; i++)
        if (strcmp(((const MachineDisk *)machine->disks->pdata[i])->at, at) == 0)
            return TRUE;
    return FALSE;
}

static gboolean read_disk(MachineDescription *machine, json_t *entry, GError **error)
{
    g_autoptr(MachineDisk) disk = g_new0(MachineDisk, 1);

    if (!read_word(entry, "at", &disk->at, error) ||
        !read_text(entry, "path", FALSE, MAX_PATH, &disk->path, error) ||
        !read_text(entry, "format", FALSE, MAX_WORD, &disk->format, error) ||
        !json_get_count(entry, "bytes", G_MAXINT64, &disk->bytes, error) ||
        !read_flag(entry, "cdrom", &disk->cdrom, error) ||
        !read_flag(entry, "read_only", &disk->read_only, error))
        return FALSE;
    if (has_disk_at(machine, disk->at)) {
        error_set(error, VMFERRY_ERROR_INVALID, "\"at\": another disk is at %s", disk->at);
        return FALSE;
    }
    machine_description_add_disk(machine, g_steal_pointer(&disk));
    return TRUE;
}

static gboolean read_cpuid(MachineDescription *machine, json_t *entry, GError **error)
{
    static const char *const registers[] = {"EAX", "EBX", "ECX", "EDX", NULL};
    MachineCpuid word = {0};
    const char *reg;

    if (!read_u32(entry, "leaf", &word.leaf, error) ||
        !read_u32(entry, "subleaf", &word.subleaf, error) ||
        !json_get_text(entry, "reg", &reg, error) || !read_u32(entry, "bits", &word.bits, error))
        return FALSE;
    if (!g_strv_contains(registers, reg)) {
        error_set(error, VMFERRY_ERROR_INVALID, "\"reg\" is none of EAX, EBX, ECX, EDX");
        return FALSE;
    }
    memcpy(word.reg, reg, sizeof word.reg);
    g_array_append_val(machine->cpuid, word);
    return TRUE;
}

/* Ascending, and none over another. */
static gboolean read_memory_part(MachineDescription *machine, json_t *entry, GError **error)
{
    const GArray *memory = machine->memory;
    const MachineMemory *last =
        memory->len > 0 ? &g_array_index(memory, MachineMemory, memory->len - 1) : NULL;
    MachineMemory part;

    if (!json_get_count(entry, "base", MAX_RAM, &part.base, error) ||
        !json_get_count(entry, "bytes", MAX_RAM, &part.bytes, error))
        return FALSE;
    if (part.bytes == 0 || (last && part.base < last->base + last->bytes)) {
        error_set(error, VMFERRY_ERROR_INVALID, "%s",
                  part.bytes == 0 ? "\"bytes\" is 0" : "\"base\" is within what is before it");
        return FALSE;
    }
    g_array_append_val(machine->memory, part);
    return TRUE;
}

typedef gboolean (*EntryReader)(MachineDescription *machine, json_t *entry, GError **error);

static gboolean read_list(MachineDescription *machine, json_t *object, const char *key, size_t max,
                          EntryReader reader, GError **error)
{
    json_t *array, *entry;
    size_t i;

    if (!json_get_array(object, key, max, &array, error))
        return FALSE;
    json_array_foreach(array, i, entry)
    {
        if (!reader(machine, entry, error)) {
            g_prefix_error(error, "%s[%zu]: ", key, i);
            return FALSE;
        }
    }
    return TRUE;
}

/* Peers of before do not tell it. */
static gboolean read_memory(MachineDescription *machine, json_t *object, GError **error)
{
    uint64_t bytes = 0;

    if (!json_object_get(object, "memory"))
        return TRUE;
    if (!read_list(machine, object, "memory", MACHINE_MAX_MEMORY, read_memory_part, error))
        return FALSE;
    for (guint i = 0; i < machine->memory->len; i++)
        bytes += g_array_index(machine->memory, MachineMemory, i).bytes;
    if (bytes == machine->ram_bytes || machine->memory->len == 0)
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID,
              "\"memory\" has %" G_GUINT64_FORMAT " bytes, \"ram_bytes\" says %" G_GUINT64_FORMAT,
              bytes, machine->ram_bytes);
    return FALSE;
}

static gboolean read_line(MachineDescription *machine, json_t *origin, GError **error)
{
    json_t *array, *entry;
    size_t i;

    if (!json_object_get(origin, "line"))
        return TRUE;
    if (!json_get_array(origin, "line", MACHINE_MAX_ARGUMENTS, &array, error))
        return FALSE;
    if (json_array_size(array) == 0) {
        error_set(error, VMFERRY_ERROR_INVALID, "\"line\" is empty");
        return FALSE;
    }
    machine->origin_line = g_new0(char *, json_array_size(array) + 1);
    json_array_foreach(array, i, entry)
    {
        const char *word = json_string_value(entry);

        if (!word || strlen(word) > MAX_ARGUMENT) {
            error_set(error, VMFERRY_ERROR_INVALID, "line[%zu] is no text, or too long", i);
            return FALSE;
        }
        machine->origin_line[i] = g_strdup(word);
    }
    return TRUE;
}

static gboolean read_origin(MachineDescription *machine, json_t *object, GError **error)
{
    json_t *origin = json_object_get(object, "origin");

    if (!origin)
        return TRUE;
    if (read_word(origin, "kind", &machine->origin_kind, error) &&
        read_text(origin, "machine", FALSE, MAX_WORD, &machine->origin_machine, error) &&
        read_line(machine, origin, error))
        return TRUE;
    g_prefix_error(error, "origin: ");
    return FALSE;
}

static gboolean read_topology(MachineDescription *machine, json_t *object, GError **error)
{
    json_t *topology = json_object_get(object, "topology");
    uint64_t sockets, cores, threads, all = MAX(machine->vcpus, machine->vcpus_max);

    if (!topology)
        return TRUE;
    if (!json_get_count(topology, "sockets", MAX_VCPUS, &sockets, error) ||
        !json_get_count(topology, "cores", MAX_VCPUS, &cores, error) ||
        !json_get_count(topology, "threads", MAX_VCPUS, &threads, error)) {
        g_prefix_error(error, "topology: ");
        return FALSE;
    }
    machine->topology = (MachineTopology){(guint)sockets, (guint)cores, (guint)threads};
    if (sockets * cores * threads == all)
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "\"topology\" is not of %" G_GUINT64_FORMAT " vCPUs",
              all);
    return FALSE;
}

static gboolean read_processors(MachineDescription *machine, json_t *object, GError **error)
{
    uint64_t vcpus, most = 0;

    if (!json_get_count(object, "vcpus", MAX_VCPUS, &vcpus, error) ||
        (json_object_get(object, "vcpus_max") &&
         !json_get_count(object, "vcpus_max", MAX_VCPUS, &most, error)))
        return FALSE;
    machine->vcpus = (guint)vcpus;
    machine->vcpus_max = (guint)most;
    if (vcpus > 0 && (most == 0 || most >= vcpus))
        return read_topology(machine, object, error);
    error_set(error, VMFERRY_ERROR_INVALID, "%s",
              vcpus == 0 ? "\"vcpus\" is 0" : "\"vcpus_max\" is less than \"vcpus\"");
    return FALSE;
}

static gboolean read_sizes(MachineDescription *machine, json_t *object, GError **error)
{
    if (!json_get_count(object, "ram_bytes", MAX_RAM, &machine->ram_bytes, error) ||
        !json_get_count(object, "video_bytes", MAX_VIDEO, &machine->video_bytes, error) ||
        !read_processors(machine, object, error) ||
        !json_get_count(object, "tsc_hz", MAX_TSC_HZ, &machine->tsc_hz, error))
        return FALSE;
    if (machine->ram_bytes > 0 && machine->ram_bytes % 4096 == 0 &&
        machine->video_bytes % 4096 == 0)
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "%s",
              machine->ram_bytes == 0     ? "\"ram_bytes\" is 0"
              : machine->ram_bytes % 4096 ? "\"ram_bytes\" is not of whole pages"
                                          : "\"video_bytes\" is not of whole pages");
    return FALSE;
}

MachineDescription *machine_description_from_json(json_t *object, GError **error)
{
    g_autoptr(MachineDescription) machine = machine_description_new();

    if (read_word(object, "architecture", &machine->architecture, error) &&
        read_word(object, "chipset", &machine->chipset, error) &&
        read_sizes(machine, object, error) && read_memory(machine, object, error) &&
        read_list(machine, object, "cpuid", MACHINE_MAX_CPUID_WORDS, read_cpuid, error) &&
        read_list(machine, object, "devices", MACHINE_MAX_DEVICES, read_device, error) &&
        read_list(machine, object, "disks", MACHINE_MAX_DISKS, read_disk, error) &&
        read_origin(machine, object, error))
        return g_steal_pointer(&machine);
    g_prefix_error(error, "machine: ");
    return NULL;
}
