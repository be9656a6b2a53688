/* Finding layouts, and what types are. */
#include "state/qemu_layout.h"

#include <string.h>

#include "state/qemu_layout_tables.h"

static const struct {
    const char *name;
    guint bytes;
} types[] = {
    [QEMU_UINT8] = {"uint8", 1},
    [QEMU_UINT8_EQUAL] = {"uint8 equal", 1},
    [QEMU_UINT16] = {"uint16", 2},
    [QEMU_UINT32] = {"uint32", 4},
    [QEMU_UINT64] = {"uint64", 8},
    [QEMU_INT8] = {"int8", 1},
    [QEMU_INT32] = {"int32", 4},
    [QEMU_INT32_EQUAL] = {"int32 equal", 4},
    [QEMU_INT32_LE] = {"int32 le", 4},
    [QEMU_INT64] = {"int64", 8},
    [QEMU_BOOL] = {"bool", 1},
    [QEMU_TIMER] = {"timer", 8},
    [QEMU_BUFFER] = {"buffer", 1},
    [QEMU_UNUSED] = {"unused_buffer", 1},
    [QEMU_PCI_CONFIG] = {"pci config", 256},
    [QEMU_PCI_IRQ] = {"pci irq state", 16},
    [QEMU_STRUCT] = {"struct", 0},
    [QEMU_TEMPORARY] = {"tmp", 0},
};

static const QemuLayoutEntry *const tables[] = {qemu_layouts_cpu, qemu_layouts_chips,
                                                qemu_layouts_devices, qemu_layouts_virtio};

#define MMIO_TRANSPORT "virtio-mmio"

size_t qemu_type_bytes(QemuFieldType type)
{
    return types[type].bytes;
}

const char *qemu_type_name(QemuFieldType type)
{
    return types[type].name;
}

gboolean qemu_field_has_name(const QemuField *field, const char *name, size_t length)
{
    for (const char *at = field->name; at; at = strchr(at, ',')) {
        at += *at == ',';
        if (*at == *name && strncmp(at, name, length) == 0 &&
            (at[length] == '\0' || at[length] == ','))
            return TRUE;
    }
    return FALSE;
}

/* The kind is behind the last "/"; of virtio, the transport is before it. */
static gboolean entry_is_of(const QemuLayoutEntry *entry, const char *name)
{
    const char *slash = strrchr(name, '/'), *kind = slash ? slash + 1 : name;
    gboolean mmio = slash && g_str_has_prefix(name, MMIO_TRANSPORT);

    if (!mmio)
        return strcmp(entry->kind, kind) == 0;
    return g_str_has_prefix(entry->kind, MMIO_TRANSPORT " ") &&
           strcmp(entry->kind + strlen(MMIO_TRANSPORT " "), kind) == 0;
}

const QemuLayout *const *qemu_layouts_of_section(const char *name)
{
    for (guint i = 0; i < G_N_ELEMENTS(tables); i++)
        for (const QemuLayoutEntry *entry = tables[i]; entry->kind; entry++)
            if (entry_is_of(entry, name))
                return entry->layouts;
    return NULL;
}

void qemu_layouts_foreach(QemuLayoutVisit visit, void *context)
{
    for (guint i = 0; i < G_N_ELEMENTS(tables); i++)
        for (const QemuLayoutEntry *entry = tables[i]; entry->kind; entry++)
            for (guint j = 0; entry->layouts[j]; j++)
                visit(entry->kind, entry->layouts[j], context);
}
