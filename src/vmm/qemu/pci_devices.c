#include "vmm/qemu/pci_devices.h"

#include <stdio.h>
#include <string.h>

#include "base/json.h"

#define MAX_BRIDGE_DEPTH 8

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
