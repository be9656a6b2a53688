#include "vmm/qemu/device_tree.h"

#include <stdio.h>
#include <string.h>

#include "base/error.h"

#define MAX_NAME_BYTES 256u

/* What is read: the nesting at the current line. */
typedef struct {
    struct {
        size_t indent;
        QemuBus *bus;       /* one of the two */
        QemuDevice *device; /* is set */
    } open[DEVICE_TREE_MAX_DEPTH];
    guint depth;
    guint devices;
    QemuBus *root;
} TreeReader;

static void device_free(QemuDevice *device)
{
    g_free(device->driver);
    g_free(device->id);
    g_free(device->usb_port);
    g_hash_table_unref(device->properties);
    g_ptr_array_unref(device->buses);
    g_free(device);
}

void device_tree_free(QemuBus *root)
{
    if (!root)
        return;
    g_free(root->name);
    g_free(root->type);
    g_ptr_array_unref(root->devices);
    g_free(root);
}

static QemuBus *bus_new(const char *name, QemuDevice *owner)
{
    QemuBus *bus = g_new0(QemuBus, 1);

    bus->name = g_strdup(name);
    bus->type = g_strdup("");
    bus->owner = owner;
    bus->devices = g_ptr_array_new_with_free_func((GDestroyNotify)device_free);
    if (owner)
        g_ptr_array_add(owner->buses, bus);
    return bus;
}

static QemuDevice *device_new(const char *driver, const char *id, QemuBus *bus)
{
    QemuDevice *device = g_new0(QemuDevice, 1);

    device->driver = g_strdup(driver);
    device->id = g_strdup(id);
    device->bus = bus;
    device->properties = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    device->buses = g_ptr_array_new_with_free_func((GDestroyNotify)device_tree_free);
    g_ptr_array_add(bus->devices, device);
    return device;
}

/* Leaves everything that is not above a line of this indent. */
static void close_deeper(TreeReader *reader, size_t indent)
{
    while (reader->depth > 0 && reader->open[reader->depth - 1].indent >= indent)
        reader->depth--;
}

static gboolean enter(TreeReader *reader, size_t indent, QemuBus *bus, QemuDevice *device)
{
    if (reader->depth == DEVICE_TREE_MAX_DEPTH)
        return FALSE;
    reader->open[reader->depth].indent = indent;
    reader->open[reader->depth].bus = bus;
    reader->open[reader->depth].device = device;
    reader->depth++;
    return TRUE;
}

/* "bus: pci.0" */
static gboolean read_bus(TreeReader *reader, size_t indent, const char *name)
{
    QemuDevice *owner;

    close_deeper(reader, indent);
    owner = reader->depth > 0 ? reader->open[reader->depth - 1].device : NULL;
    /* One root, and every other bus belongs to a device. */
    if ((reader->root != NULL) != (owner != NULL) || strlen(name) > MAX_NAME_BYTES)
        return FALSE;
    if (!owner)
        return enter(reader, indent, reader->root = bus_new(name, NULL), NULL);
    return enter(reader, indent, bus_new(name, owner), NULL);
}

/* `dev: virtio-net-pci, id "net1"` */
static gboolean read_device(TreeReader *reader, size_t indent, const char *text)
{
    const char *comma = strstr(text, ", id \"");
    const char *end = strrchr(text, '"');
    g_autofree char *driver = NULL, *id = NULL;
    QemuBus *bus;

    close_deeper(reader, indent);
    bus = reader->depth > 0 ? reader->open[reader->depth - 1].bus : NULL;
    if (!bus || !comma || !end || end < comma + 6 || comma == text ||
        reader->devices++ >= DEVICE_TREE_MAX_DEVICES)
        return FALSE;
    driver = g_strndup(text, (gsize)(comma - text));
    id = g_strndup(comma + 6, (gsize)(end - comma - 6));
    if (strlen(driver) > MAX_NAME_BYTES || strlen(id) > MAX_NAME_BYTES)
        return FALSE;
    return enter(reader, indent, NULL, device_new(driver, id, bus));
}

/* QEMU prints numbers as "512 (512 B)" or "3 (0x3)", texts in quotes. */
static char *clean_value(const char *printed)
{
    gsize length = strlen(printed);
    const char *comment = strstr(printed, " (");

    if (length >= 2 && printed[0] == '"' && printed[length - 1] == '"')
        return g_strndup(printed + 1, length - 2);
    return comment ? g_strndup(printed, (gsize)(comment - printed)) : g_strdup(printed);
}

/* "addr 0.1, port 3, speed 5000, name QEMU USB MSD, attached" */
static void read_usb_line(QemuDevice *device, const char *line)
{
    const char *port = strstr(line, ", port ");

    if (!port || device->usb_port)
        return;
    port += strlen(", port ");
    device->usb_port = g_strndup(port, MIN(strcspn(port, ","), MAX_NAME_BYTES));
}

/* "mac = "52:54:00:12:34:56""; other lines (BARs, interrupts) say nothing here. */
static void read_property(QemuDevice *device, const char *line)
{
    const char *equals = strstr(line, " = ");

    if (g_str_has_prefix(line, "addr ") && !equals) {
        read_usb_line(device, line);
        return;
    }
    if (!equals || equals == line || memchr(line, ' ', (size_t)(equals - line)))
        return;
    g_hash_table_replace(device->properties, g_strndup(line, (gsize)(equals - line)),
                         clean_value(equals + 3));
}

static void read_detail(TreeReader *reader, size_t indent, const char *line)
{
    close_deeper(reader, indent);
    if (reader->depth == 0)
        return;
    if (reader->open[reader->depth - 1].device) {
        read_property(reader->open[reader->depth - 1].device, line);
    } else if (g_str_has_prefix(line, "type ")) {
        QemuBus *bus = reader->open[reader->depth - 1].bus;

        g_free(bus->type);
        bus->type = g_strndup(line + 5, MAX_NAME_BYTES);
    }
}

static gboolean read_line(TreeReader *reader, const char *line)
{
    size_t indent = strspn(line, " ");
    const char *text = line + indent;

    if (g_str_has_prefix(text, "bus: "))
        return read_bus(reader, indent, text + 5);
    if (g_str_has_prefix(text, "dev: "))
        return read_device(reader, indent, text + 5);
    read_detail(reader, indent, text);
    return TRUE;
}

QemuBus *device_tree_parse(const char *text, GError **error)
{
    TreeReader reader = {0};
    const char *line = text;
    gboolean readable = strlen(text) <= DEVICE_TREE_MAX_BYTES;

    while (readable && *line) {
        const char *end = strchrnul(line, '\n');
        g_autofree char *copy = g_strndup(line, (gsize)(end - line));

        readable = read_line(&reader, g_strchomp(copy));
        if (!readable)
            error_set(error, VMFERRY_ERROR_INVALID, "info qtree: cannot read \"%.100s\"", copy);
        line = *end ? end + 1 : end;
    }
    if (readable && reader.root)
        return reader.root;
    if (readable || strlen(text) > DEVICE_TREE_MAX_BYTES)
        error_set(error, VMFERRY_ERROR_INVALID, "info qtree: unexpected text");
    device_tree_free(reader.root);
    return NULL;
}

static void visit_device(QemuDevice *device, DeviceVisitor visit, gpointer user)
{
    visit(device, user);
    for (guint i = 0; i < device->buses->len; i++)
        device_tree_visit(device->buses->pdata[i], visit, user);
}

void device_tree_visit(const QemuBus *root, DeviceVisitor visit, gpointer user)
{
    for (guint i = 0; i < root->devices->len; i++)
        visit_device(root->devices->pdata[i], visit, user);
}

typedef struct {
    const char *id;
    QemuDevice *found;
} Search;

static void match_id(QemuDevice *device, gpointer user)
{
    Search *search = user;

    if (!search->found && strcmp(device->id, search->id) == 0)
        search->found = device;
}

QemuDevice *device_tree_find(const QemuBus *root, const char *id)
{
    Search search = {.id = id};

    if (*id)
        device_tree_visit(root, match_id, &search);
    return search.found;
}

/* "virtio-blk-pci" carries a "virtio-blk-device" on a bus of its own. */
static const QemuDevice *get_backend(const QemuDevice *device)
{
    for (guint i = 0; i < device->buses->len; i++) {
        const QemuBus *bus = device->buses->pdata[i];

        if (strcmp(bus->name, "virtio-bus") == 0 && bus->devices->len == 1)
            return bus->devices->pdata[0];
    }
    return NULL;
}

const char *device_get_property(const QemuDevice *device, const char *name)
{
    const char *value = g_hash_table_lookup(device->properties, name);
    const QemuDevice *backend = value ? NULL : get_backend(device);

    return backend ? g_hash_table_lookup(backend->properties, name) : value;
}

/* The options that place a device on a bus of each type. */
static const struct {
    const char *bus_type;
    const char *keys[DEVICE_ADDRESS_KEYS];
} address_keys[] = {
    {"PCI", {"addr"}},
    {"PCIE", {"addr"}},
    {"SCSI", {"channel", "scsi-id", "lun"}},
    {"IDE", {"unit"}},
    {"virtio-serial-bus", {"nr"}},
    {"HDA", {"cad"}},
    {"floppy-bus", {"unit"}},
    {"ccid-bus", {"slot"}},
    {"i2c-bus", {"address"}},
    {"nvme-bus", {"nsid"}},
    {"ISA", {"iobase"}},
};

guint device_get_address(const QemuDevice *device, DeviceAddress ret[DEVICE_ADDRESS_KEYS])
{
    guint count = 0;

    if (device->usb_port) {
        ret[0] = (DeviceAddress){"port", device->usb_port};
        return 1;
    }
    for (guint i = 0; i < G_N_ELEMENTS(address_keys); i++) {
        if (strcmp(address_keys[i].bus_type, device->bus->type) != 0)
            continue;
        for (guint k = 0; k < DEVICE_ADDRESS_KEYS && address_keys[i].keys[k]; k++) {
            const char *value = g_hash_table_lookup(device->properties, address_keys[i].keys[k]);

            if (value)
                ret[count++] = (DeviceAddress){address_keys[i].keys[k], value};
        }
    }
    return count;
}

char *device_describe(const QemuDevice *device)
{
    DeviceAddress address[DEVICE_ADDRESS_KEYS];
    guint count = device_get_address(device, address);
    GString *text;

    /* Users know the card, not the back end inside of it. */
    if (strcmp(device->bus->name, "virtio-bus") == 0 && device->bus->owner)
        return device_describe(device->bus->owner);
    if (*device->id)
        return g_strdup_printf("%s (%s)", device->id, device->driver);
    text = g_string_new(device->driver);
    g_string_append_printf(text, " at %s", device->bus->name);
    for (guint i = 0; i < count; i++)
        g_string_append_printf(text, "%c%s", i == 0 ? ' ' : ':', address[i].value);
    return g_string_free(text, FALSE);
}
