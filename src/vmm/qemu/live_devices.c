/*
 * -device: what is gone, what is still there and where, what was added
 *
 * Devices with an id are found by it.  Those without one are numbered by QEMU
 * in the order in which it makes them: -device lists, then the devices that
 * -drive if=virtio brings along, then -device JSON; a number stays with its
 * device and is given again when that is gone.
 */
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/json.h"
#include "vmm/qemu/device_options.h"
#include "vmm/qemu/live_line_private.h"

#define ANONYMOUS_FOLDER "/machine/peripheral-anon/"
#define NAMED_FOLDER "/machine/peripheral/"
#define MAX_NESTING 32u

typedef struct {
    const char *type;
    char *path;     /* QOM path */
    const char *id; /* NULL for none */
    json_t *settings;
    gboolean written;
} AddedDevice;

static void added_device_free(AddedDevice *added)
{
    g_free(added->path);
    json_decref(added->settings);
    g_free(added);
}

/* ---- values as users write them and as QEMU prints them ---- */

/* "5", "0x5", "05.0" are one place on a PCI bus. */
static gboolean same_pci_place(const char *written, const char *printed)
{
    guint64 slot, function = 0, there, there_function = 0;
    char *end = NULL;

    slot = g_ascii_strtoull(written, &end, 16);
    if (*end == '.')
        function = g_ascii_strtoull(end + 1, NULL, 16);
    there = g_ascii_strtoull(printed, &end, 16);
    if (*end == '.')
        there_function = g_ascii_strtoull(end + 1, NULL, 16);
    return slot == there && function == there_function;
}

static gboolean same_number(const char *written, const char *printed)
{
    char *end = NULL, *printed_end = NULL;
    guint64 one = g_ascii_strtoull(written, &end, 0);
    guint64 other = g_ascii_strtoull(printed, &printed_end, 0);

    return *end == '\0' && *printed_end == '\0' && one == other;
}

static gboolean same_value(const char *key, const char *written, const char *printed)
{
    if (g_ascii_strcasecmp(written, printed) == 0)
        return TRUE;
    return strcmp(key, "addr") == 0 ? same_pci_place(written, printed)
                                    : same_number(written, printed);
}

/* ---- what became of each -device ---- */

/* A device that was unplugged and plugged again under its old id may be quite
 * another one. */
static gboolean contradicts(const LineOption *line, const QemuDevice *device)
{
    static const char *const keys[] = {"addr", "mac",     "serial", "port", "scsi-id",
                                       "lun",  "channel", "unit",   "nr",   "name"};

    for (guint i = 0; i < G_N_ELEMENTS(keys); i++) {
        const char *written = line_option_get(line, keys[i]);
        const char *printed = written ? device_get_property(device, keys[i]) : NULL;

        if (strcmp(keys[i], "port") == 0)
            printed = device->usb_port;
        if (written && printed && !same_value(keys[i], written, printed))
            return TRUE;
    }
    return line_option_get(line, "bus") && device->bus->owner &&
           strcmp(line_option_get(line, "bus"), device->bus->name) != 0 &&
           !strchr(line_option_get(line, "bus"), '/');
}

/* "virtio-net" is short for "virtio-net-pci". */
static gboolean is_of_type(const char *driver, const char *type)
{
    static const struct {
        const char *alias, *type;
    } aliases[] = {
        {"lsi", "lsi53c895a"},
        {"ahci", "ich9-ahci"},
        {"e1000-82540em", "e1000"},
    };

    if (!driver || strcmp(driver, type) == 0)
        return driver != NULL;
    for (guint i = 0; i < G_N_ELEMENTS(aliases); i++)
        if (strcmp(aliases[i].alias, driver) == 0)
            return strcmp(aliases[i].type, type) == 0;
    return g_str_has_prefix(type, driver) && (strcmp(type + strlen(driver), "-pci") == 0 ||
                                              strcmp(type + strlen(driver), "-device") == 0);
}

static gboolean is_device(const LineOption *line)
{
    return line->parameters && line_option_is(line, "device");
}

static void drop_device(LivePlan *plan, LineOption *line)
{
    line->dropped = TRUE;
    plan->rearranged = TRUE;
}

static void match_named(LivePlan *plan, LineOption *line, GHashTable *known)
{
    const char *id = line_option_get(line, "id");
    const QemuObject *object = qemu_object_find(plan->machine->named, id);

    line->device = device_tree_find(plan->machine->devices, id);
    if (!object || !is_of_type(line_option_get(line, "driver"), object->type) ||
        (line->device && contradicts(line, line->device)))
        drop_device(plan, line);
    else
        g_hash_table_add(known, g_strconcat(NAMED_FOLDER, id, NULL));
}

typedef struct {
    const LivePlan *plan;
    const LineOption *line;
    const char *type;
    const QemuDevice *found; /* the oldest that fits, which the tree lists last */
} AnonymousSearch;

static gboolean is_taken(const LivePlan *plan, const QemuDevice *device)
{
    for (guint i = 0; i < plan->options->len; i++)
        if (live_plan_option(plan, i)->device == device)
            return TRUE;
    return FALSE;
}

static gboolean shares_wiring(const LineOption *line, const QemuDevice *device)
{
    static const char *const keys[] = {"drive", "netdev", "chardev"};

    for (guint i = 0; i < G_N_ELEMENTS(keys); i++) {
        const char *written = line_option_get(line, keys[i]);
        const char *printed = written ? device_get_property(device, keys[i]) : NULL;

        if (written && printed && *printed && printed[0] != '#' && strcmp(written, printed) != 0)
            return FALSE;
    }
    return TRUE;
}

static void match_anonymous(QemuDevice *device, gpointer user)
{
    AnonymousSearch *search = user;

    if (!*device->id && strcmp(device->driver, search->type) == 0 &&
        !contradicts(search->line, device) && shares_wiring(search->line, device) &&
        !is_taken(search->plan, device))
        search->found = device;
}

/* Number *index* of those without an id. */
static void match_numbered(LivePlan *plan, LineOption *line, guint index, GHashTable *known)
{
    g_autofree char *name = g_strdup_printf("device[%u]", index);
    const QemuObject *object = qemu_object_find(plan->machine->anonymous, name);
    AnonymousSearch search = {.plan = plan, .line = line};

    if (!object || !is_of_type(line_option_get(line, "driver"), object->type)) {
        drop_device(plan, line);
        return;
    }
    search.type = object->type;
    device_tree_visit(plan->machine->devices, match_anonymous, &search);
    line->device = search.found;
    g_hash_table_add(known, g_strconcat(ANONYMOUS_FOLDER, name, NULL));
}

static gboolean takes_number(const LineOption *line, gboolean json)
{
    if (is_device(line))
        return !line_option_get(line, "id") &&
               (qemu_parameters_get_json(line->parameters) != NULL) == json;
    return !json && (line_option_is(line, "virtfs") || line_option_is(line, "watchdog"));
}

static guint match_numbered_lines(LivePlan *plan, gboolean json, guint index, GHashTable *known)
{
    for (guint i = 0; i < plan->options->len; i++) {
        LineOption *line = live_plan_option(plan, i);
        g_autofree char *path = NULL;

        if (!takes_number(line, json))
            continue;
        if (is_device(line)) {
            match_numbered(plan, line, index++, known);
            continue;
        }
        path = g_strdup_printf(ANONYMOUS_FOLDER "device[%u]", index++);
        g_hash_table_add(known, g_steal_pointer(&path));
    }
    return index;
}

/* Where the drive is still there, so is its device. */
static guint match_implied(LivePlan *plan, guint index, GHashTable *known)
{
    for (guint i = 0; i < plan->options->len; i++) {
        LineOption *line = live_plan_option(plan, i);

        if (!line->drive_name || g_strcmp0(line_option_get(line, "if"), "virtio") != 0)
            continue;
        if (line->drive)
            g_hash_table_add(known, g_strdup_printf(ANONYMOUS_FOLDER "device[%u]", index));
        else
            plan->rearranged = TRUE;
        index++;
    }
    return index;
}

static gboolean note_added(LivePlan *plan, const char *folder, const QemuObject *object,
                           GHashTable *known, GError **error)
{
    g_autofree char *path = g_strconcat(folder, object->name, NULL);
    gboolean named = strcmp(folder, NAMED_FOLDER) == 0;
    AddedDevice *added;

    if (g_hash_table_contains(known, path) ||
        (named && plan->job->configured &&
         g_hash_table_contains(plan->job->configured, object->name)))
        return TRUE;
    added = g_new0(AddedDevice, 1);
    added->type = object->type;
    added->path = g_steal_pointer(&path);
    added->id = named ? object->name : NULL;
    g_ptr_array_add(plan->added_devices, added);
    plan->rearranged = TRUE;
    if (g_str_has_suffix(object->type, "-cpu"))
        return TRUE;
    added->settings = plan->job->read_settings(added->path, object->type, plan->job->user, error);
    return added->settings != NULL;
}

static gboolean note_all_added(LivePlan *plan, GHashTable *known, GError **error)
{
    const GPtrArray *lists[] = {plan->machine->named, plan->machine->anonymous};
    const char *const folders[] = {NAMED_FOLDER, ANONYMOUS_FOLDER};

    for (guint k = 0; k < G_N_ELEMENTS(lists); k++)
        for (guint i = 0; i < lists[k]->len; i++)
            if (!note_added(plan, folders[k], lists[k]->pdata[i], known, error))
                return FALSE;
    return TRUE;
}

gboolean live_match_devices(LivePlan *plan, GError **error)
{
    g_autoptr(GHashTable) known = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    guint index;

    g_ptr_array_set_free_func(plan->added_devices, (GDestroyNotify)added_device_free);
    for (guint i = 0; i < plan->options->len; i++) {
        LineOption *line = live_plan_option(plan, i);

        if (is_device(line) && line_option_get(line, "id"))
            match_named(plan, line, known);
    }
    index = match_numbered_lines(plan, FALSE, 0, known);
    index = match_implied(plan, index, known);
    match_numbered_lines(plan, TRUE, index, known);
    return note_all_added(plan, known, error);
}

/* ---- options of devices that are still there ---- */

static gboolean is_text_key(const char *key)
{
    return strcmp(key, "addr") == 0 || strcmp(key, "port") == 0;
}

/* JSON options are typed. */
static json_t *place_value(const char *key, const char *value)
{
    guint64 number;

    if (!is_text_key(key) && g_ascii_string_to_unsigned(value, 10, 0, G_MAXINT, &number, NULL))
        return json_integer((json_int_t)number);
    return json_string(value);
}

static void set_place(LineOption *line)
{
    DeviceAddress address[DEVICE_ADDRESS_KEYS];
    guint count = line->device ? device_get_address(line->device, address) : 0;

    for (guint i = 0; i < count; i++) {
        if (line_option_get(line, address[i].key))
            continue;
        line->edited = TRUE;
        qemu_parameters_set(line->parameters, address[i].key,
                            place_value(address[i].key, address[i].value));
    }
    if (count == 0 || line_option_get(line, "bus") || !line->device->bus->owner)
        return;
    line->edited = TRUE;
    qemu_parameters_set(line->parameters, "bus", json_string(line->device->bus->name));
}

static json_t *find_memory_data(const LivePlan *plan, const char *id)
{
    json_t *entry;
    size_t i;

    json_array_foreach(plan->machine->memory, i, entry)
    {
        json_t *data = json_object_get(entry, "data");

        if (id && strcmp(json_text_or(data, "id", ""), id) == 0)
            return data;
    }
    return NULL;
}

static void set_from_memory(LineOption *line, json_t *data, const char *key, gboolean always)
{
    json_t *value = json_object_get(data, key);
    const char *written = line_option_get(line, key);
    g_autofree char *now = NULL;

    if (!json_is_integer(value) || (written && !always))
        return;
    now = g_strdup_printf("%" JSON_INTEGER_FORMAT, json_integer_value(value));
    if (g_strcmp0(now, written) == 0)
        return;
    line->edited = TRUE;
    qemu_parameters_set(line->parameters, key, json_incref(value));
}

/* DIMMs have a slot and an address; a virtio-mem the size it is asked for. */
static void update_memory_device(LivePlan *plan, LineOption *line)
{
    json_t *data = find_memory_data(plan, line_option_get(line, "id"));
    gboolean resizes = data && json_object_get(data, "requested-size");

    if (!data)
        return;
    if (resizes)
        set_from_memory(line, data, "requested-size", TRUE);
    if (!plan->rearranged)
        return;
    set_from_memory(line, data, resizes ? "memaddr" : "addr", FALSE);
    if (!resizes)
        set_from_memory(line, data, "slot", FALSE);
}

/* The disk inside of a USB stick has the drive. */
static const char *get_drive(const QemuDevice *device)
{
    const char *drive = device_get_property(device, "drive");

    if (drive && !*drive && device->buses->len == 1) {
        const QemuBus *bus = device->buses->pdata[0];

        if (bus->devices->len == 1)
            return device_get_property(bus->devices->pdata[0], "drive");
    }
    return drive;
}

/* A CD-ROM drive may have begun without a medium. */
static gboolean update_drive(LivePlan *plan, LineOption *line, GError **error)
{
    const char *written = line_option_get(line, "drive");
    const char *now = line->device ? get_drive(line->device) : NULL;

    if (!now || strcmp(now, written ? written : "") == 0)
        return TRUE;
    now = live_need_drive(plan, now, error);
    if (!now)
        return FALSE;
    line->edited = TRUE;
    if (*now)
        qemu_parameters_set(line->parameters, "drive", json_string(now));
    else
        qemu_parameters_remove(line->parameters, "drive");
    return TRUE;
}

/* A back end can be deleted under its card, and another one take its place. */
static gboolean update_wire(LivePlan *plan, LineOption *line, const char *key, GError **error)
{
    const char *written = line_option_get(line, key);
    const char *now = line->device && written ? device_get_property(line->device, key) : NULL;

    if (!now || strcmp(now, written) == 0)
        return TRUE;
    line->edited = TRUE;
    if (*now)
        qemu_parameters_set(line->parameters, key, json_string(now));
    else
        qemu_parameters_remove(line->parameters, key);
    return live_need_network(plan, now, error) && live_need_chardev(plan, now, error);
}

static gboolean update_device(LivePlan *plan, LineOption *line, GError **error)
{
    update_memory_device(plan, line);
    if (!update_wire(plan, line, "netdev", error) || !update_wire(plan, line, "chardev", error) ||
        !update_drive(plan, line, error))
        return FALSE;
    if (plan->rearranged)
        set_place(line);
    return TRUE;
}

/* ---- devices that were added ---- */

static json_t *cpu_options(const LivePlan *plan, const AddedDevice *added, GError **error)
{
    for (guint i = 0; i < plan->machine->cpus->len; i++) {
        const QemuCpu *cpu = plan->machine->cpus->pdata[i];
        json_t *options;

        if (g_strcmp0(cpu->path, added->path) != 0)
            continue;
        options = json_deep_copy(cpu->place);
        /* QEMU works it out, and takes no other. */
        json_object_del(options, "node-id");
        return options;
    }
    error_set(error, VMFERRY_ERROR_UNSUPPORTED,
              "vCPU %s was added since the start, and QEMU does not tell its place",
              added->id ? added->id : added->path);
    return NULL;
}

typedef struct {
    const AddedDevice *added;
    const char *bus;
    const char *port;
    guint count;
} PortSearch;

static void match_port(QemuDevice *device, gpointer user)
{
    PortSearch *search = user;

    if (!device->usb_port || strcmp(device->driver, search->added->type) != 0 ||
        strcmp(device->bus->name, search->bus) != 0 ||
        strcmp(device->id, search->added->id ? search->added->id : "") != 0)
        return;
    search->port = device->usb_port;
    search->count++;
}

/* A USB port is told by the tree alone. */
static gboolean set_port(const LivePlan *plan, const AddedDevice *added, const char *bus,
                         json_t *options, GError **error)
{
    PortSearch search = {.added = added, .bus = bus};

    device_tree_visit(plan->machine->devices, match_port, &search);
    if (search.count == 1)
        json_object_set_new(options, "port", json_string(search.port));
    if (search.count < 2)
        return TRUE;
    error_set(error, VMFERRY_ERROR_UNSUPPORTED,
              "several %s without an id were added to bus %s: cannot tell which is at which port "
              "(give such devices an id)",
              added->type, bus);
    return FALSE;
}

static gboolean set_bus(const LivePlan *plan, const AddedDevice *added, json_t *options,
                        GError **error)
{
    g_autofree char *bus = qemu_settings_to_options(options);

    return !bus || set_port(plan, added, bus, options, error);
}

/* Makes sure that what the options refer to is made before. */
static gboolean need_references(LivePlan *plan, json_t *options, GError **error)
{
    static const char objects[] = "/objects/";
    const char *key;
    json_t *value;
    const char *drive = json_text_or(options, "drive", NULL);

    if (!live_need_network(plan, json_text_or(options, "netdev", ""), error) ||
        !live_need_chardev(plan, json_text_or(options, "chardev", ""), error))
        return FALSE;
    json_object_foreach(options, key, value)
    {
        const char *text = json_string_value(value);

        if (text && g_str_has_prefix(text, objects) &&
            !live_need_object(plan, text + strlen(objects), error))
            return FALSE;
    }
    if (!drive)
        return TRUE;
    drive = live_need_drive(plan, drive, error);
    if (!drive)
        return FALSE;
    if (*drive)
        json_object_set_new(options, "drive", json_string(drive));
    else
        json_object_del(options, "drive");
    return TRUE;
}

static json_t *device_options(LivePlan *plan, const AddedDevice *added, GError **error)
{
    g_autoptr(json_t) options = json_deep_copy(added->settings);
    const QemuDevice *device =
        added->id ? device_tree_find(plan->machine->devices, added->id) : NULL;
    const char *drive = device ? get_drive(device) : NULL;

    if (drive && *drive && !json_object_get(options, "drive"))
        json_object_set_new(options, "drive", json_string(drive));
    /* Of a DIMM it is its memory's, of a virtio-mem what is plugged just now. */
    if (json_object_get(options, "memdev"))
        json_object_del(options, "size");
    if (!set_bus(plan, added, options, error) || !need_references(plan, options, error))
        return NULL;
    return g_steal_pointer(&options);
}

static gboolean write_added(LivePlan *plan, AddedDevice *added, guint depth, GError **error);

/* The one that carries this one's bus comes first. */
static gboolean write_parent(LivePlan *plan, const AddedDevice *added, guint depth, GError **error)
{
    const char *bus = json_text_or(added->settings, "parent_bus", "");

    for (guint i = 0; i < plan->added_devices->len; i++) {
        AddedDevice *other = plan->added_devices->pdata[i];
        g_autofree char *prefix = g_strconcat(other->path, "/", NULL);

        if (other != added && g_str_has_prefix(bus, prefix) &&
            !write_added(plan, other, depth + 1, error))
            return FALSE;
    }
    return TRUE;
}

static gboolean write_added(LivePlan *plan, AddedDevice *added, guint depth, GError **error)
{
    gboolean cpu = g_str_has_suffix(added->type, "-cpu");
    json_t *options;

    if (added->written || depth > MAX_NESTING)
        return TRUE;
    added->written = TRUE;
    if (!write_parent(plan, added, depth, error))
        return FALSE;
    options = cpu ? cpu_options(plan, added, error) : device_options(plan, added, error);
    if (!options) {
        g_prefix_error(error, "device %s (%s): ", added->id ? added->id : added->path, added->type);
        return FALSE;
    }
    json_object_set_new(options, "driver", json_string(added->type));
    if (added->id)
        json_object_set_new(options, "id", json_string(added->id));
    live_plan_add_json(plan, "device", options);
    return TRUE;
}

gboolean live_write_devices(LivePlan *plan, GError **error)
{
    for (guint i = 0; i < plan->options->len; i++) {
        LineOption *line = live_plan_option(plan, i);

        if (is_device(line) && !line->dropped && !update_device(plan, line, error))
            return FALSE;
    }
    for (guint i = 0; i < plan->added_devices->len; i++)
        if (!write_added(plan, plan->added_devices->pdata[i], 0, error))
            return FALSE;
    return TRUE;
}
