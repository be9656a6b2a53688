/* Whole streams into trees and back: which section is which device. */
#include "state/state_qemu.h"

#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "state/qemu_form_private.h"
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

/* What is found out once of each section. */
typedef struct {
    QemuSection *section;
    const QemuMap *map; /* NULL: it is left out, or not known */
    guint ordinal;      /* the first one of its kind in the stream is 0 */
    char *place;        /* of its device; NULL: a processor's */
} Placed;

static void clear_placed(gpointer data)
{
    Placed *placed = data;

    g_free(placed->place);
}

static guint ordinal_of(const QemuForm *form, const QemuSection *section)
{
    const char *kind = qemu_section_kind(section);
    guint ordinal = 0;

    for (guint i = 0; form->sections->pdata[i] != section; i++)
        ordinal += strcmp(qemu_section_kind(form->sections->pdata[i]), kind) == 0;
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

static char *place_of(const QemuMap *map, const char *name, guint ordinal)
{
    if (!map->at[0])
        return pci_place(name);
    return ordinal < G_N_ELEMENTS(map->at) ? g_strdup(map->at[ordinal]) : NULL;
}

static const QemuMap *map_of_kind(const char *kind)
{
    guint count;
    const QemuMap *const *tables = qemu_map_tables(&count);

    for (guint i = 0; i < count; i++)
        for (const QemuMap *map = tables[i]; map->section; map++)
            if (strcmp(map->section, kind) == 0)
                return map;
    return NULL;
}

/* One at a place that no table has is not known. */
static Placed place_section(const QemuForm *form, QemuSection *section)
{
    Placed placed = {.section = section, .ordinal = ordinal_of(form, section)};

    if (section->record)
        placed.map = map_of_kind(qemu_section_kind(section));
    if (placed.map && placed.map->type)
        placed.place = place_of(placed.map, section->name, placed.ordinal);
    if (placed.map && placed.map->type && !placed.place)
        placed.map = NULL;
    return placed;
}

static GArray *place_sections(const QemuForm *form)
{
    GArray *all = g_array_new(FALSE, FALSE, sizeof(Placed));

    g_array_set_clear_func(all, clear_placed);
    for (guint i = 0; i < form->sections->len; i++) {
        Placed placed = place_section(form, form->sections->pdata[i]);

        g_array_append_val(all, placed);
    }
    return all;
}

static gboolean is_unknown(const Placed *placed)
{
    return !placed->map && !qemu_left_out(qemu_section_kind(placed->section));
}

/* The device or the processor that a section is of; NULL: the tree has none. */
static const StateNode *whole_of(const StateNode *root, const Placed *placed)
{
    const StateNode *cpus = state_find(root, "cpus");

    if (placed->map->type)
        return state_find_device(root, placed->map->type, placed->place);
    return cpus ? state_child(cpus, placed->ordinal) : NULL;
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

typedef struct {
    StateNode *root;
    const QemuSection *section;
} Unmapped;

/* What no table translates: a device of an unknown type, for which the whole state is refused. */
static void add_unknown(const Unmapped *unmapped, const char *what, const GByteArray *content)
{
    g_autofree char *type = g_strconcat(UNKNOWN_TYPE, what, NULL);
    g_autofree char *place =
        g_strdup_printf("qemu:%s#%u", unmapped->section->name, unmapped->section->instance);
    StateNode *device = state_add_device(unmapped->root, type, place);

    state_set_bytes(device, OPAQUE_LEAF, content->data, content->len);
}

static void add_unmapped(const QemuRecord *subsection, void *context)
{
    g_autoptr(GByteArray) content = g_byte_array_new();

    qemu_record_write(content, subsection);
    add_unknown(context, subsection->layout->name, content);
}

static StateNode *make_whole(StateNode *root, const Placed *placed)
{
    StateNode *whole = (StateNode *)whole_of(root, placed);

    if (whole)
        return whole;
    return placed->map->type ? state_add_device(root, placed->map->type, placed->place)
                             : state_append_group(root, "cpus");
}

static gboolean read_section(QemuMapContext *context, const Placed *placed, StateNode *root)
{
    StateNode *node = make_whole(root, placed);

    if (placed->map->group)
        node = state_set_group(node, placed->map->group);
    if (qemu_map_read_rows(context, placed->map->rows, placed->section->record, node))
        return TRUE;
    g_prefix_error(context->error, "QEMU section \"%s\": ", placed->section->name);
    return FALSE;
}

/* In the order of the tables, whatever the stream's is. */
static gboolean read_known(QemuMapContext *context, const GArray *all, StateNode *root)
{
    guint count;
    const QemuMap *const *tables = qemu_map_tables(&count);

    for (guint i = 0; i < count; i++)
        for (const QemuMap *map = tables[i]; map->section; map++)
            for (guint j = 0; j < all->len; j++) {
                const Placed *placed = &g_array_index(all, Placed, j);

                if (placed->map == map && !read_section(context, placed, root))
                    return FALSE;
            }
    return TRUE;
}

static void read_unknown(const GArray *all, StateNode *root)
{
    for (guint i = 0; i < all->len; i++) {
        const Placed *placed = &g_array_index(all, Placed, i);
        Unmapped unmapped = {root, placed->section};
        g_autoptr(GByteArray) content = g_byte_array_new();

        if (placed->map) {
            qemu_map_visit_unmapped(placed->map->rows, placed->section->record, add_unmapped,
                                    &unmapped);
        } else if (is_unknown(placed)) {
            qemu_section_write_content(placed->section, content);
            add_unknown(&unmapped, qemu_section_kind(placed->section), content);
        }
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
    g_autoptr(GArray) all = place_sections(context->form);

    if (!find_now(context))
        return NULL;
    read_clock(context, root);
    if (!read_known(context, all, root))
        return NULL;
    read_unknown(all, root);
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

static gboolean write_section(QemuMapContext *context, const Placed *placed, const StateNode *root,
                              GHashTable *written)
{
    const QemuMap *map = placed->map;
    const StateNode *whole = whole_of(root, placed), *node = whole;

    if (whole && map->group)
        node = state_find(whole, map->group);
    if (!node)
        return lacks(context, map->type ? map->type : placed->section->name, "the state");
    g_hash_table_add(written, (gpointer)whole);
    if (qemu_map_write_rows(context, map->rows, placed->section->record, node))
        return TRUE;
    g_prefix_error(context->error, "QEMU section \"%s\": ", placed->section->name);
    return FALSE;
}

typedef struct {
    const StateNode *root;
    const QemuSection *section;
    GHashTable *written;
} Unwritten;

static const StateNode *find_unknown(const StateNode *root, const QemuSection *section,
                                     const char *what)
{
    g_autofree char *type = g_strconcat(UNKNOWN_TYPE, what, NULL);
    g_autofree char *place = g_strdup_printf("qemu:%s#%u", section->name, section->instance);

    return state_find_device(root, type, place);
}

/* A subsection that the template has just so is as good as written. */
static void accept_unmapped(const QemuRecord *subsection, void *context)
{
    const Unwritten *unwritten = context;
    const StateNode *device =
        find_unknown(unwritten->root, unwritten->section, subsection->layout->name);
    g_autoptr(GByteArray) content = g_byte_array_new();
    size_t length = 0;
    const uint8_t *bytes = device ? state_get_bytes(device, OPAQUE_LEAF, &length) : NULL;

    qemu_record_write(content, subsection);
    if (bytes && length == content->len && memcmp(bytes, content->data, length) == 0)
        g_hash_table_add(unwritten->written, (gpointer)device);
}

/* The bytes that came from such a section of another QEMU. */
static gboolean write_unknown(QemuMapContext *context, QemuSection *section, const StateNode *root,
                              GHashTable *written)
{
    const StateNode *device = find_unknown(root, section, qemu_section_kind(section));
    size_t length = 0;
    const uint8_t *bytes = device ? state_get_bytes(device, OPAQUE_LEAF, &length) : NULL;

    if (!bytes)
        return lacks(context, section->name, "the state");
    g_hash_table_add(written, (gpointer)device);
    qemu_section_set_opaque(section, bytes, length);
    return TRUE;
}

static gboolean write_one(QemuMapContext *context, const Placed *placed, const StateNode *root,
                          GHashTable *written)
{
    Unwritten unwritten = {root, placed->section, written};

    if (is_unknown(placed))
        return write_unknown(context, placed->section, root, written);
    if (!placed->map)
        return TRUE;
    if (!write_section(context, placed, root, written))
        return FALSE;
    qemu_map_visit_unmapped(placed->map->rows, placed->section->record, accept_unmapped,
                            &unwritten);
    return TRUE;
}

#define CHIPSET_INPUTS 4u

/* Adds how many devices assert each of the chipset's inputs: each slot is wired one further (290550, 4.1). */
static void count_levels(const GArray *all, int64_t weight, int64_t counts[CHIPSET_INPUTS])
{
    for (guint i = 0; i < all->len; i++) {
        const Placed *placed = &g_array_index(all, Placed, i);
        const QemuMapRow *row = placed->map ? placed->map->rows : NULL;
        guint slot = 0;

        while (row && row->own && row->kind != QEMU_MAP_INTX)
            row++;
        if (!row || !row->own || !placed->place || sscanf(placed->place, "pci:00:%x.", &slot) != 1)
            continue;
        for (guint line = 0; line < CHIPSET_INPUTS; line++)
            counts[(slot - 1 + line) % CHIPSET_INPUTS] +=
                qemu_map_intx(placed->section->record, row, line) ? weight : 0;
    }
}

/* QEMU counts them once more; what the template's devices assert is in its count. */
static gboolean put_levels(QemuMapContext *context, const int64_t counts[CHIPSET_INPUTS])
{
    QemuSection *bus = qemu_form_find(context->form, "PCIBUS", 0);

    for (guint i = 0; bus && bus->record && i < CHIPSET_INPUTS; i++) {
        g_autofree char *path = g_strdup_printf("irq_count[%u]", i);
        uint64_t before = qemu_map_number(bus->record, path);

        if (counts[i] &&
            !qemu_map_put(context, bus->record, path, (uint32_t)(before + (uint64_t)counts[i])))
            return FALSE;
    }
    return TRUE;
}

static gboolean write_sections(QemuMapContext *context, const StateNode *root, GHashTable *written)
{
    g_autoptr(GArray) all = place_sections(context->form);
    int64_t counts[CHIPSET_INPUTS] = {0};

    count_levels(all, -1, counts);
    for (guint i = 0; i < all->len; i++)
        if (!write_one(context, &g_array_index(all, Placed, i), root, written))
            return FALSE;
    count_levels(all, 1, counts);
    return put_levels(context, counts);
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
