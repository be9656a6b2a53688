#include "vmm/qemu/machine_compare.h"

#include <string.h>

#include "base/json.h"
#include "vmm/vmm_driver.h"

#define MAX_DIFFERENCES 16u

typedef struct {
    const QemuMachine *first, *second;
    MachineComparison kind;
    const GPtrArray *rules;
    GPtrArray *found;       /* of char * */
    DrivePairVisitor visit; /* NULL: drives are not visited */
    gpointer user;
} Comparison;

static void G_GNUC_PRINTF(2, 3) differ(Comparison *c, const char *format, ...)
{
    va_list arguments;

    if (c->found->len >= MAX_DIFFERENCES)
        return;
    va_start(arguments, format);
    g_ptr_array_add(c->found, g_strdup_vprintf(format, arguments));
    va_end(arguments);
}

static void missing(Comparison *c, const char *what, const char *name)
{
    if (c->kind == MACHINE_COMPARE_LATER)
        differ(c, "%s%s was removed", what, name);
    else
        differ(c, "%s%s is missing there", what, name);
}

static void surplus(Comparison *c, const char *what, const char *name)
{
    if (c->kind == MACHINE_COMPARE_LATER)
        differ(c, "%s%s was added", what, name);
    else
        differ(c, "%s%s is there, but not in the guest", what, name);
}

static void changed(Comparison *c, const char *name, const char *what, const char *first,
                    const char *second)
{
    if (c->kind == MACHINE_COMPARE_LATER)
        differ(c, "%s: %s was %s and is %s now", name, what, first, second);
    else
        differ(c, "%s: %s is %s, and %s there", name, what, first, second);
}

static const char *yes_no(gboolean value)
{
    return value ? "on" : "off";
}

static void compare_flag(Comparison *c, const char *name, const char *what, gboolean first,
                         gboolean second)
{
    if (first != second)
        changed(c, name, what, yes_no(first), yes_no(second));
}

static gboolean equal_text(const Comparison *c, const char *first, const char *second)
{
    g_autofree char *mapped = NULL;

    if (g_strcmp0(first, second) == 0)
        return TRUE;
    if (!first || !second || !c->rules)
        return FALSE;
    mapped = vmm_map_text(first, c->rules);
    return strcmp(mapped, second) == 0;
}

static void compare_text(Comparison *c, const char *name, const char *what, const char *first,
                         const char *second)
{
    if (!equal_text(c, first, second))
        changed(c, name, what, first ? first : "not set", second ? second : "not set");
}

/* ---- drives ---- */

static void compare_size(Comparison *c, const char *name, uint64_t first, uint64_t second)
{
    g_autofree char *here = g_strdup_printf("%" G_GUINT64_FORMAT " bytes", first);
    g_autofree char *there = g_strdup_printf("%" G_GUINT64_FORMAT " bytes", second);

    if (first != second)
        changed(c, name, "its size", here, there);
}

gboolean block_drive_same_throttle(const BlockDrive *first, const BlockDrive *second)
{
    g_autoptr(json_t) one = json_copy(first->throttle), other = json_copy(second->throttle);

    /* A group's name is each QEMU's own affair. */
    json_object_del(one, "group");
    json_object_del(other, "group");
    return one && other ? json_equal(one, other) : one == other;
}

static void compare_throttle(Comparison *c, const char *name, const BlockDrive *first,
                             const BlockDrive *second)
{
    if (!block_drive_same_throttle(first, second))
        differ(c, "%s: its I/O limits %s", name,
               c->kind == MACHINE_COMPARE_LATER ? "were changed" : "are others there");
}

static void compare_roots(Comparison *c, const char *name, const BlockNode *first,
                          const BlockNode *second)
{
    gboolean no_backing = c->kind == MACHINE_COMPARE_RESTORED;
    g_autofree char *here = block_node_describe(c->first->block, first, no_backing);
    g_autofree char *there = block_node_describe(c->second->block, second, no_backing);

    compare_text(c, name, "its image", here, there);
    compare_size(c, name, first->bytes, second->bytes);
    compare_flag(c, name, "cache.direct", first->cache.direct, second->cache.direct);
    compare_flag(c, name, "cache.no-flush", first->cache.no_flush, second->cache.no_flush);
    compare_text(c, name, "detect-zeroes", first->detect_zeroes, second->detect_zeroes);
    compare_flag(c, name, "encryption", first->encrypted, second->encrypted);
    if (c->kind != MACHINE_COMPARE_LATER)
        return;
    compare_text(c, name, "its image file", first->file, second->file);
    compare_text(c, name, "its node", first->name, second->name);
}

static void compare_drives(Comparison *c, const char *name, const BlockDrive *first,
                           const BlockDrive *second)
{
    const BlockNode *here =
        first && first->root ? block_graph_find(c->first->block, first->root) : NULL;
    const BlockNode *there =
        second && second->root ? block_graph_find(c->second->block, second->root) : NULL;

    if (!here || !there) {
        if (here || there)
            changed(c, name, "its medium", here ? here->file : "none",
                    there ? there->file : "none");
        return;
    }
    compare_roots(c, name, here, there);
    compare_flag(c, name, "read-only", first->read_only, second->read_only);
    compare_flag(c, name, "write-back", first->writeback, second->writeback);
    compare_throttle(c, name, first, second);
    if (c->kind == MACHINE_COMPARE_LATER)
        compare_flag(c, name, "open tray", first->tray_open, second->tray_open);
}

/* ---- devices ---- */

/* Board devices come from the machine type alone, and some of what they tell
 * changes while a guest runs (MCFG, smb_io_base).  What a user made is known by
 * its id, or by its type being among the devices without one. */
static gboolean is_user_made(const QemuMachine *machine, const QemuDevice *device)
{
    if (*device->id)
        return TRUE;
    for (guint i = 0; i < machine->anonymous->len; i++)
        if (strcmp(((const QemuObject *)machine->anonymous->pdata[i])->type, device->driver) == 0)
            return TRUE;
    /* The back end of a virtio proxy, the disk inside a USB stick. */
    return device->bus->owner && is_user_made(machine, device->bus->owner) &&
           device->bus->owner->buses->len == 1 && device->bus->devices->len == 1;
}

/* Values that are compared in another way (a USB port as told by the bus), or
 * that are local to a host: a ROM's content is guest memory.  The numbers of buses behind bridges ("busnr", QEMU 10 tells
 * them) come from the guest, when it boots. */
static gboolean is_left_out(const char *property)
{
    static const char *const names[] = {"drive", "romfile", "port", "busnr", NULL};

    return g_strv_contains(names, property);
}

static gboolean is_wiring(const char *property)
{
    static const char *const names[] = {"netdev", "chardev", "mac", "addr", NULL};

    return g_strv_contains(names, property);
}

/* A property that only one of two versions of QEMU has says nothing. */
/* It is told so by a new one. */
static gboolean is_generation(const Comparison *c, const QemuDevice *device, const char *key)
{
    return c->kind == MACHINE_COMPARE_RESTORED && g_strcmp0(device->driver, "vmgenid") == 0 &&
           strcmp(key, "guid") == 0;
}

static void compare_properties(Comparison *c, const QemuDevice *first, const QemuDevice *second)
{
    g_autofree char *name = device_describe(first);
    gboolean all = is_user_made(c->first, first);
    GHashTableIter iter;
    gpointer key, value;

    g_hash_table_iter_init(&iter, first->properties);
    while (g_hash_table_iter_next(&iter, &key, &value)) {
        const char *other = g_hash_table_lookup(second->properties, key);

        if (other && !is_left_out(key) && !is_generation(c, first, key) && (all || is_wiring(key)))
            compare_text(c, name, key, value, other);
    }
}

static BlockDrive *find_drive(const QemuMachine *machine, const QemuDevice *device)
{
    const char *name = g_hash_table_lookup(device->properties, "drive");

    return name ? block_graph_find_drive(machine->block, name) : NULL;
}

static void compare_device_drives(Comparison *c, const QemuDevice *first, const QemuDevice *second)
{
    const BlockDrive *here = find_drive(c->first, first), *there = find_drive(c->second, second);
    g_autofree char *name = device_describe(first);

    if (here || there)
        compare_drives(c, name, here, there);
    if (here && there && c->visit)
        c->visit(first, here, there, c->user);
}

static char *device_key(const QemuDevice *device)
{
    DeviceAddress address[DEVICE_ADDRESS_KEYS];
    guint count = device_get_address(device, address);
    GString *key = g_string_new(device->driver);

    g_string_append_printf(key, "\n%s", device->id);
    for (guint i = 0; i < count; i++)
        g_string_append_printf(key, "\n%s", address[i].value);
    return g_string_free(key, FALSE);
}

static guint find_device(const QemuBus *bus, const char *key, const gboolean *taken)
{
    for (guint i = 0; i < bus->devices->len; i++) {
        g_autofree char *other = taken[i] ? NULL : device_key(bus->devices->pdata[i]);

        if (other && strcmp(other, key) == 0)
            return i;
    }
    return G_MAXUINT;
}

static void compare_buses(Comparison *c, const QemuBus *first, const QemuBus *second);

static const QemuBus *find_bus(const QemuDevice *device, const char *name)
{
    for (guint i = 0; i < device->buses->len; i++)
        if (strcmp(((const QemuBus *)device->buses->pdata[i])->name, name) == 0)
            return device->buses->pdata[i];
    return NULL;
}

static void compare_devices(Comparison *c, const QemuDevice *first, const QemuDevice *second)
{
    compare_properties(c, first, second);
    compare_device_drives(c, first, second);
    for (guint i = 0; i < first->buses->len; i++) {
        const QemuBus *bus = first->buses->pdata[i];
        const QemuBus *other = find_bus(second, bus->name);

        /* Buses without a name of their own are numbered by each QEMU. */
        if (!other && first->buses->len == second->buses->len)
            other = second->buses->pdata[i];
        if (other)
            compare_buses(c, bus, other);
        else
            missing(c, "bus ", bus->name);
    }
}

static void compare_buses(Comparison *c, const QemuBus *first, const QemuBus *second)
{
    g_autofree gboolean *taken = g_new0(gboolean, second->devices->len + 1);

    for (guint i = 0; i < first->devices->len; i++) {
        const QemuDevice *device = first->devices->pdata[i];
        g_autofree char *key = device_key(device), *name = device_describe(device);
        guint at = find_device(second, key, taken);

        if (at == G_MAXUINT) {
            missing(c, "device ", name);
            continue;
        }
        taken[at] = TRUE;
        compare_devices(c, device, second->devices->pdata[at]);
    }
    for (guint i = 0; i < second->devices->len; i++) {
        g_autofree char *name = taken[i] ? NULL : device_describe(second->devices->pdata[i]);

        if (name)
            surplus(c, "device ", name);
    }
}

/* ---- vCPUs, memory, objects, networks ---- */

static char *describe_cpu(const QemuCpu *cpu)
{
    GString *text = g_string_new("vCPU");
    const char *key;
    json_t *value;

    json_object_foreach(cpu->place, key, value)
    {
        if (json_is_integer(value))
            g_string_append_printf(text, " %s=%" JSON_INTEGER_FORMAT, key,
                                   json_integer_value(value));
    }
    return g_string_free(text, FALSE);
}

static const QemuCpu *find_cpu(const QemuMachine *machine, const QemuCpu *wanted)
{
    for (guint i = 0; i < machine->cpus->len; i++) {
        const QemuCpu *cpu = machine->cpus->pdata[i];

        if (json_equal(cpu->place, wanted->place))
            return cpu;
    }
    return NULL;
}

static void compare_cpus(Comparison *c)
{
    for (guint i = 0; i < c->first->cpus->len; i++) {
        const QemuCpu *cpu = c->first->cpus->pdata[i];
        const QemuCpu *other = find_cpu(c->second, cpu);
        g_autofree char *name = describe_cpu(cpu);

        if (!other || (cpu->path && !other->path))
            missing(c, "", name);
        else if (!cpu->path && other->path)
            surplus(c, "", name);
        else
            compare_text(c, name, "its type", cpu->type, other->type);
    }
}

static json_t *find_memory(json_t *list, const char *id)
{
    json_t *entry;
    size_t i;

    json_array_foreach(list, i, entry)
    {
        if (strcmp(json_text_or(json_object_get(entry, "data"), "id", ""), id) == 0)
            return entry;
    }
    return NULL;
}

static void compare_memory_device(Comparison *c, const char *id, json_t *first, json_t *second)
{
    static const char *const keys[] = {"addr", "memaddr",        "slot",
                                       "size", "requested-size", "max-size",
                                       "node", "memdev",         "block-size"};
    gboolean resizes = json_object_get(first, "requested-size") != NULL;

    for (guint i = 0; i < G_N_ELEMENTS(keys); i++) {
        json_t *here = json_object_get(first, keys[i]), *there = json_object_get(second, keys[i]);

        /* What a virtio-mem holds just now is part of its state. */
        if (resizes && strcmp(keys[i], "size") == 0)
            continue;
        if (here && !json_equal(here, there))
            differ(c, "memory device %s: its %s %s", id, keys[i],
                   c->kind == MACHINE_COMPARE_LATER ? "was changed" : "is another there");
    }
}

static void compare_memory(Comparison *c)
{
    json_t *entry;
    size_t i;

    json_array_foreach(c->first->memory, i, entry)
    {
        json_t *data = json_object_get(entry, "data");
        const char *id = json_text_or(data, "id", "");
        json_t *other = find_memory(c->second->memory, id);

        if (other)
            compare_memory_device(c, id, data, json_object_get(other, "data"));
        else
            missing(c, "memory device ", id);
    }
    json_array_foreach(c->second->memory, i, entry)
    {
        const char *id = json_text_or(json_object_get(entry, "data"), "id", "");

        if (!find_memory(c->first->memory, id))
            surplus(c, "memory device ", id);
    }
}

/* What only one side tells, the other's version of QEMU does not know. */
static void compare_object(Comparison *c, const QemuObject *first, const QemuObject *second)
{
    const char *key;
    json_t *value;

    compare_text(c, first->name, "its type", first->type, second->type);
    json_object_foreach(first->settings, key, value)
    {
        json_t *other = json_object_get(second->settings, key);
        g_autofree char *here = json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY);
        g_autofree char *there = other ? json_dumps(other, JSON_COMPACT | JSON_ENCODE_ANY) : NULL;

        if (other && !json_equal(value, other))
            changed(c, first->name, key, here, there);
    }
}

static void compare_objects(Comparison *c, const char *what, const GPtrArray *first,
                            const GPtrArray *second)
{
    for (guint i = 0; i < first->len; i++) {
        const QemuObject *object = first->pdata[i];
        const QemuObject *other = qemu_object_find(second, object->name);

        if (!other)
            missing(c, what, object->name);
        else
            compare_object(c, object, other);
    }
    for (guint i = 0; i < second->len; i++) {
        const QemuObject *object = second->pdata[i];

        if (!qemu_object_find(first, object->name))
            surplus(c, what, object->name);
    }
}

/* Devices that sit on no bus are only in the list of those with an id; vCPUs
 * and memory have lists of their own. */
static GPtrArray *list_without_bus(const QemuMachine *machine)
{
    GPtrArray *list = g_ptr_array_new();

    for (guint i = 0; i < machine->named->len; i++) {
        QemuObject *object = machine->named->pdata[i];

        if (!g_str_has_suffix(object->type, "-cpu") &&
            !find_memory(machine->memory, object->name) &&
            !device_tree_find(machine->devices, object->name))
            g_ptr_array_add(list, object);
    }
    return list;
}

/* "#net123": QEMU's own name for what an option (or the default) did not name,
 * another one at each start. */
static gboolean has_generated_id(const QemuNetwork *network)
{
    return strstr(network->id, "#net") != NULL;
}

static void compare_networks(Comparison *c)
{
    for (guint i = 0; i < c->first->networks->len; i++) {
        const QemuNetwork *network = c->first->networks->pdata[i];
        const QemuNetwork *other = qemu_network_find(c->second, network->id);

        if (has_generated_id(network) && c->kind != MACHINE_COMPARE_LATER)
            continue;
        if (!other) {
            missing(c, "network back end ", network->id);
        } else if (c->kind == MACHINE_COMPARE_LATER) {
            compare_text(c, network->id, "its type", network->type, other->type);
            compare_text(c, network->id, "its settings", network->detail, other->detail);
        }
    }
}

GPtrArray *qemu_machine_compare(const QemuMachine *first, const QemuMachine *second,
                                MachineComparison kind, const GPtrArray *rules)
{
    Comparison c = {first, second, kind, rules, g_ptr_array_new_with_free_func(g_free), NULL, NULL};
    g_autoptr(GPtrArray) here = list_without_bus(first), there = list_without_bus(second);

    compare_objects(&c, "device ", here, there);
    compare_buses(&c, first->devices, second->devices);
    compare_cpus(&c);
    compare_memory(&c);
    compare_objects(&c, "object ", first->objects, second->objects);
    compare_networks(&c);
    return c.found;
}

void qemu_machine_visit_drives(const QemuMachine *first, const QemuMachine *second,
                               DrivePairVisitor visit, gpointer user)
{
    g_autoptr(GPtrArray) found = g_ptr_array_new_with_free_func(g_free);
    Comparison c = {first, second, MACHINE_COMPARE_DESTINATION, NULL, found, visit, user};

    compare_buses(&c, first->devices, second->devices);
}

char *qemu_machine_join(const GPtrArray *differences)
{
    GString *text = g_string_new(NULL);

    for (guint i = 0; i < differences->len; i++)
        g_string_append_printf(text, "%s%s", i ? "; " : "", (const char *)differences->pdata[i]);
    return g_string_free(text, FALSE);
}
