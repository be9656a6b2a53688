#include "vmm/qemu/device_options.h"

#include <glib.h>
#include <string.h>

#include "base/json.h"

/* "/machine/i440fx/pci.0" */
static char *bus_name(json_t *settings)
{
    const char *path = json_text_or(settings, "parent_bus", "");
    const char *slash = strrchr(path, '/');

    return slash && slash[1] ? g_strdup(slash + 1) : NULL;
}

char *qemu_settings_to_options(json_t *settings)
{
    char *bus = bus_name(settings);
    json_t *address = json_object_get(settings, "addr");

    json_object_del(settings, "parent_bus");
    if (!bus)
        return NULL;
    json_object_set_new(settings, "bus", json_string(bus));
    /* A PCI device's number is slot × 8 + function. */
    if (json_is_integer(address)) {
        guint number = (guint)json_integer_value(address) & 0xffu;
        g_autofree char *text = g_strdup_printf("%02x.%x", number >> 3, number & 7);

        json_object_set_new(settings, "addr", json_string(text));
    }
    return bus;
}
