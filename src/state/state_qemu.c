/* Whole streams into trees and back: which section is which device. */
#include "state/state_qemu.h"

#include <string.h>

#include "base/error.h"
#include "state/qemu_map.h"
#include "state/schema.h"

/* Sections of what a guest does not see, or what follows from the rest. */
static const struct {
    const char *kind, *why;
} left_out[] = {
    {"timer", "in the clock"},
    {"kvmclock", "in the clock"},
    {"slirp", "QEMU's user network: connections of the host"},
    {"kvm-tpr-opt", "how QEMU has patched the guest's code for old Windows versions"},
    {"fw_cfg", "the firmware's channel to QEMU, which is read at start"},
    {"acpi_build", "whether the ACPI tables were given to the firmware"},
    {"globalstate", "whether QEMU ran"},
    {"i2c_bus", "nothing is on its way, since a transfer takes no time"},
    {"vmmouse", "QEMU's and VMware's own; guests fall back to the PS/2 mouse"},
    {"PCIBUS", "follows from the levels of the devices' INTx#"},
    {"parallel_isa", "a parallel port without a printer"},
    {"fdc", "a floppy controller; guests try a transfer again"},
};

#define UNKNOWN_TYPE "qemu,"
#define OPAQUE_LEAF "opaque"

const char *qemu_left_out(const char *kind)
{
    for (guint i = 0; i < G_N_ELEMENTS(left_out); i++)
        if (strcmp(left_out[i].kind, kind) == 0)
            return left_out[i].why;
    return NULL;
}

const QemuMap *const *qemu_map_tables(guint *ret_count)
{
    static const QemuMap *const tables[] = {qemu_maps_cpu, qemu_maps_chips, qemu_maps_devices};

    *ret_count = G_N_ELEMENTS(tables);
    return tables;
}

/* ---- which node a section is of ---- */

/* The first *n* of a kind are counted in the stream's order. */
static guint ordinal_of(const QemuForm *form, const QemuSection *section)
{
    guint ordinal = 0;

    for (guint i = 0; form->sections->pdata[i] != section; i++)
        ordinal +=
            strcmp(qemu_section_kind(form->sections->pdata[i]), qemu_section_kind(section)) == 0;
    return ordinal;
}

/* "pci:00:01.1" of "0000:00:01.1/ide"; NULL: it is not on the first PCI bus. */
static char *pci_place(const char *name)
{
    const char *slash = strchr(name, '/');

    if (!g_str_has_prefix(name, "0000:") || !slash || slash - name != 12 || strchr(slash + 1, '/'))
        return NULL;
    return g_strdup_printf("pci:%.7s", name + 5);
}

/* Where the device of a section is; NULL: it has no place that is known. g_free(). */
static char *place_of(const QemuForm *form, const QemuMap *map, const QemuSection *section)
{
    guint ordinal = ordinal_of(form, section);

    if (!map->at[0])
        return pci_place(section->name);
    return ordinal < G_N_ELEMENTS(map->at) ? g_strdup(map->at[ordinal]) : NULL;
}

static const QemuMap *map_of(const QemuForm *form, const QemuSection *section)
{
    guint count;
    const QemuMap *const *tables = qemu_map_tables(&count);

    for (guint i = 0; i < count; i++)
        for (const QemuMap *map = tables[i]; map->section; map++) {
            g_autofree char *place = map->type ? place_of(form, map, section) : g_strdup("");

            if (strcmp(map->section, qemu_section_kind(section)) == 0 && place && section->record)
                return map;
        }
    return NULL;
}

/* The path of the group that a section's fields go to; NULL: the tree has no such device. g_free(). */
static char *path_of(const StateNode *root, const QemuForm *form, const QemuMap *map,
                     const QemuSection *section)
{
    g_autofree char *place = NULL, *above = NULL;
    const StateNode *devices = state_find(root, "devices");

    if (!map->type) {
        above = g_strdup_printf("cpus[%u]", ordinal_of(form, section));
    } else {
        place = place_of(form, map, section);
        for (guint i = 0; !above && devices && i < state_length(devices); i++)
            if (state_child(devices, i) == state_find_device(root, map->type, place))
                above = g_strdup_printf("devices[%u]", i);
    }
    if (!above)
        return NULL;
    return map->group && *map->group ? g_strdup_printf("%s.%s", above, map->group)
                                     : g_steal_pointer(&above);
}

/* ---- reading ---- */

static void read_clock(QemuMapContext *context, StateNode *root)
{
    const QemuSection *kvm = qemu_form_find(context->form, "kvmclock", 0);
    const QemuSection *cpu = qemu_form_find(context->form, "cpu", 0);
    uint64_t mask = cpu && cpu->record ? qemu_map_number(cpu->record, "env.a20_mask") : 0;

    state_set_text(root, "machine.architecture", "x86-64");
    if (qemu_form_find(context->form, "I440FX", 0))
        state_set_text(root, "machine.chipset", "intel,440fx");
    state_set_number(root, "machine.a20", mask >> 20 & 1);
    state_set_number(root, "clock.tsc", 0);
    state_set_time(root, "clock.since_start", (int64_t)context->now);
    if (kvm && kvm->record)
        state_set_time(root, "clock.kvm_clock", (int64_t)qemu_map_number(kvm->record, "clock"));
    state_set_list(root, "cpus");
    state_set_list(root, "devices");
}

static gboolean read_section(QemuMapContext *context, const QemuMap *map,
                             const QemuSection *section, StateNode *root)
{
    g_autofree char *path = path_of(root, context->form, map, section);
    g_autofree char *place = map->type ? place_of(context->form, map, section) : NULL;

    if (!path) {
        (void)state_add_device(root, map->type, place);
        path = path_of(root, context->form, map, section);
    }
    if (qemu_map_read_rows(context, map->rows, section->record, state_set_group(root, path)))
        return TRUE;
    g_prefix_error(context->error, "QEMU section \"%s\": ", section->name);
    return FALSE;
}

static gboolean read_known(QemuMapContext *context, StateNode *root)
{
    guint count;
    const QemuMap *const *tables = qemu_map_tables(&count);

    for (guint i = 0; i < count; i++)
        for (const QemuMap *map = tables[i]; map->section; map++)
            for (guint j = 0; j < context->form->sections->len; j++) {
                const QemuSection *section = context->form->sections->pdata[j];

                if (map_of(context->form, section) == map &&
                    !read_section(context, map, section, root))
                    return FALSE;
            }
    return TRUE;
}

static gboolean is_unknown(const QemuForm *form, const QemuSection *section)
{
    return !qemu_left_out(qemu_section_kind(section)) && !map_of(form, section);
}

static GBytes *content_of(const QemuSection *section)
{
    GByteArray *content;

    if (section->opaque)
        return g_bytes_ref(section->opaque);
    content = g_byte_array_new();
    qemu_section_write_content(section, content);
    return g_byte_array_free_to_bytes(content);
}

static void read_unknown(QemuMapContext *context, StateNode *root)
{
    for (guint i = 0; i < context->form->sections->len; i++) {
        const QemuSection *section = context->form->sections->pdata[i];
        g_autofree char *type = g_strconcat(UNKNOWN_TYPE, qemu_section_kind(section), NULL);
        g_autofree char *place = g_strdup_printf("qemu:%s#%u", section->name, section->instance);
        g_autoptr(GBytes) content = NULL;
        StateNode *device;

        if (!is_unknown(context->form, section))
            continue;
        content = content_of(section);
        device = state_add_device(root, type, place);
        state_set_bytes(device, OPAQUE_LEAF, g_bytes_get_data(content, NULL),
                        g_bytes_get_size(content));
    }
}

static gboolean find_now(QemuMapContext *context)
{
    const QemuSection *timer = qemu_form_find(context->form, "timer", 0);

    if (!timer || !timer->record)
        return qemu_map_refuse(context, "has no clock", "QEMU state");
    context->now = qemu_map_number(timer->record, "cpu_clock_offset");
    return TRUE;
}

static StateNode *from_form(QemuMapContext *context)
{
    g_autoptr(StateNode) root = state_new();

    if (!find_now(context))
        return NULL;
    read_clock(context, root);
    if (!read_known(context, root))
        return NULL;
    read_unknown(context, root);
    state_set_number(root, "clock.tsc", state_number_or(root, "cpus[0].ia32_tsc", 0));
    return g_steal_pointer(&root);
}

StateNode *state_from_qemu(const void *stream, size_t length, GError **error)
{
    g_autoptr(QemuForm) form = qemu_form_read(stream, length, error);
    QemuMapContext context = {.form = form, .error = error};

    return form ? from_form(&context) : NULL;
}

/* ---- writing ---- */

static gboolean put_a20(QemuMapContext *context, const StateNode *root)
{
    uint32_t mask = state_number_or(root, "machine.a20", 1) ? G_MAXUINT32 : ~(1u << 20);

    for (guint i = 0; i < context->form->sections->len; i++) {
        QemuSection *section = context->form->sections->pdata[i];

        if (strcmp(section->name, "cpu") == 0 && section->record &&
            !qemu_map_put(context, section->record, "env.a20_mask", mask))
            return FALSE;
    }
    return TRUE;
}

/* Under TCG the machine has one TSC, kept as what its ticks are off by. */
static gboolean write_clock(QemuMapContext *context, const StateNode *root)
{
    QemuSection *timer = qemu_form_find(context->form, "timer", 0);
    QemuSection *kvm = qemu_form_find(context->form, "kvmclock", 0);
    QemuSection *cpu = qemu_form_find(context->form, "cpu", 0);
    int64_t since = 0, kvm_clock = 0;
    uint64_t tsc = 0;

    if (!timer || !timer->record || !cpu || !cpu->record)
        return qemu_map_refuse(context, "has no clock", "QEMU state");
    if (!state_get_time(root, "clock.since_start", &since) ||
        !state_get_number(root, "clock.tsc", &tsc))
        return qemu_map_refuse(context, "is missing", "clock");
    context->moved = (uint64_t)since != qemu_map_number(timer->record, "cpu_clock_offset");
    context->now = (uint64_t)since;
    if (kvm && kvm->record && state_get_time(root, "clock.kvm_clock", &kvm_clock) &&
        !qemu_map_put(context, kvm->record, "clock", (uint64_t)kvm_clock))
        return FALSE;
    if (qemu_map_number(cpu->record, "env.tsc") == 0 &&
        !qemu_map_put(context, timer->record, "cpu_ticks_offset",
                      tsc - qemu_map_number(cpu->record, "env.tsc_offset")))
        return FALSE;
    return qemu_map_put(context, timer->record, "cpu_clock_offset", context->now) &&
           put_a20(context, root);
}

static gboolean lacks(QemuMapContext *context, const char *what, const char *who)
{
    g_autofree char *text = g_strdup_printf("is not in %s", who);

    return qemu_map_refuse(context, text, what);
}

static gboolean write_section(QemuMapContext *context, const QemuMap *map, QemuSection *section,
                              const StateNode *root, GHashTable *written)
{
    g_autofree char *path = path_of(root, context->form, map, section);
    g_autofree char *place = map->type ? place_of(context->form, map, section) : NULL;
    const StateNode *node = path ? state_find(root, path) : NULL;

    if (!node)
        return lacks(context, map->type ? map->type : section->name, "the state");
    g_hash_table_add(written, (gpointer)(map->type ? state_find_device(root, map->type, place)
                                                   : state_find(root, path)));
    if (qemu_map_write_rows(context, map->rows, section->record, node))
        return TRUE;
    g_prefix_error(context->error, "QEMU section \"%s\": ", section->name);
    return FALSE;
}

/* The bytes that came from such a section of another QEMU. */
static gboolean write_unknown(QemuMapContext *context, QemuSection *section, const StateNode *root,
                              GHashTable *written)
{
    g_autofree char *type = g_strconcat(UNKNOWN_TYPE, qemu_section_kind(section), NULL);
    g_autofree char *place = g_strdup_printf("qemu:%s#%u", section->name, section->instance);
    const StateNode *device = state_find_device(root, type, place);
    size_t length = 0;
    const uint8_t *bytes = device ? state_get_bytes(device, OPAQUE_LEAF, &length) : NULL;

    if (!bytes)
        return lacks(context, section->name, "the state");
    g_hash_table_add(written, (gpointer)device);
    qemu_section_set_opaque(section, bytes, length);
    return TRUE;
}

static gboolean write_sections(QemuMapContext *context, const StateNode *root, GHashTable *written)
{
    for (guint i = 0; i < context->form->sections->len; i++) {
        QemuSection *section = context->form->sections->pdata[i];
        const QemuMap *map = map_of(context->form, section);

        if (map && !write_section(context, map, section, root, written))
            return FALSE;
    }
    for (guint i = 0; i < context->form->sections->len; i++) {
        QemuSection *section = context->form->sections->pdata[i];

        if (is_unknown(context->form, section) && !write_unknown(context, section, root, written))
            return FALSE;
    }
    return TRUE;
}

static gboolean all_are_written(QemuMapContext *context, const StateNode *root, const char *list,
                                GHashTable *written)
{
    const StateNode *nodes = state_find(root, list);

    for (guint i = 0; nodes && i < state_length(nodes); i++) {
        const StateNode *node = state_child(nodes, i);
        const char *type = state_get_text(node, "type");

        if (!g_hash_table_contains(written, node) && !(type && state_name_is_optional(type)))
            return lacks(context, type ? type : "a processor", "the QEMU machine");
    }
    return TRUE;
}

GBytes *state_to_qemu(const StateNode *root, const void *template_stream, size_t length,
                      GError **error)
{
    g_autoptr(QemuForm) form = qemu_form_read(template_stream, length, error);
    g_autoptr(GHashTable) written = g_hash_table_new(NULL, NULL);
    QemuMapContext context = {.form = form, .error = error};

    if (!form || !write_clock(&context, root) || !write_sections(&context, root, written) ||
        !all_are_written(&context, root, "cpus", written) ||
        !all_are_written(&context, root, "devices", written))
        return NULL;
    return qemu_form_write(form);
}
