#include "vmm/qemu/pci_devices.h"

#include <stdio.h>
#include <string.h>

#include "base/json.h"

#define MAX_BRIDGE_DEPTH 8
#define MAX_TREE_DEPTH 32
#define MAX_DEVICES 4096

static gboolean bar_covers(json_t *region, uint64_t address)
{
    uint64_t start = json_count_or(region, "address", G_MAXUINT64);
    uint64_t size = json_count_or(region, "size", 0);

    return start != G_MAXUINT64 && address >= start && address - start < size &&
           g_strcmp0(json_text_or(region, "type", ""), "memory") == 0;
}

static gboolean device_covers(json_t *device, uint64_t address)
{
    json_t *region;
    size_t index;

    json_array_foreach(json_object_get(device, "regions"), index,
                       region) if (bar_covers(region, address)) return TRUE;
    return FALSE;
}

static char *find_among(json_t *devices, const char *prefix, uint64_t address, int depth)
{
    json_t *device;
    size_t index;

    if (depth > MAX_BRIDGE_DEPTH)
        return NULL;
    json_array_foreach(devices, index, device)
    {
        json_t *bridge = json_object_get(device, "pci_bridge");
        g_autofree char *path =
            g_strdup_printf("%s:%02x.%x", prefix, (guint)json_count_or(device, "slot", 0),
                            (guint)json_count_or(device, "function", 0));
        char *below;

        if (device_covers(device, address))
            return g_steal_pointer(&path);
        below = find_among(json_object_get(bridge, "devices"), path, address, depth + 1);
        if (below)
            return below;
    }
    return NULL;
}

char *qemu_pci_find_device(json_t *buses, uint64_t address)
{
    json_t *bus;
    size_t index;

    json_array_foreach(buses, index, bus)
    {
        g_autofree char *prefix = g_strdup_printf("0000:%02x", (guint)json_count_or(bus, "bus", 0));
        char *path = find_among(json_object_get(bus, "devices"), prefix, address, 0);

        if (path)
            return path;
    }
    return NULL;
}

/* A device of the tree and those it is nested in, outermost first. */
typedef struct {
    struct {
        size_t indent;
        guint bus, slot, function; /* bus is 0 behind a bridge that is not set up */
        gboolean is_pci;
    } devices[MAX_TREE_DEPTH];
    guint depth;
} TreePath;

static void enter_device(TreePath *path, size_t indent)
{
    while (path->depth > 0 && path->devices[path->depth - 1].indent >= indent)
        path->depth--;
    if (path->depth == MAX_TREE_DEPTH)
        return;
    memset(&path->devices[path->depth], 0, sizeof path->devices[0]);
    path->devices[path->depth++].indent = indent;
}

static char *path_text(const TreePath *path)
{
    GString *text = g_string_new(NULL);

    for (guint i = 0; i < path->depth; i++) {
        if (!path->devices[i].is_pci)
            continue;
        if (text->len == 0)
            g_string_printf(text, "0000:%02x", path->devices[i].bus);
        g_string_append_printf(text, ":%02x.%x", path->devices[i].slot, path->devices[i].function);
    }
    return g_string_free(text, FALSE);
}

/* "class Ethernet controller, addr 00:03.0, pci id 1af4:1000 (sub …)" */
static void note_ids(TreePath *path, const char *line, GHashTable *ids)
{
    const char *at = strstr(line, ", addr ");
    guint bus, slot, function, vendor, device;

    if (!at || path->depth == 0 ||
        sscanf(at, ", addr %2x:%2x.%1x, pci id %4x:%4x", &bus, &slot, &function, &vendor,
               &device) != 5)
        return;
    path->devices[path->depth - 1].bus = bus;
    path->devices[path->depth - 1].slot = slot;
    path->devices[path->depth - 1].function = function;
    path->devices[path->depth - 1].is_pci = TRUE;
    g_hash_table_replace(ids, path_text(path), GUINT_TO_POINTER(vendor << 16 | device));
}

GHashTable *qemu_parse_pci_ids(const char *device_tree)
{
    GHashTable *ids = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    const char *line = device_tree;
    TreePath path = {0};

    while (*line && g_hash_table_size(ids) < MAX_DEVICES) {
        const char *end = strchrnul(line, '\n');
        g_autofree char *copy = g_strndup(line, (gsize)(end - line));
        size_t indent = strspn(copy, " ");

        if (g_str_has_prefix(copy + indent, "dev: "))
            enter_device(&path, indent);
        else if (g_str_has_prefix(copy + indent, "class "))
            note_ids(&path, copy, ids);
        line = *end ? end + 1 : end;
    }
    return ids;
}
