/* Interrupt controllers, ports, serial lines. */
#include "vmm/bochs/form_private.h"

#include <string.h>

#include "base/error.h"

StateNode *bochs_state_device(StateNode *state, const char *type, const char *at)
{
    StateNode *devices = state_find_mutable(state, "devices");

    for (guint i = 0; devices && i < state_length(devices); i++) {
        g_autofree char *path = g_strdup_printf("[%u]", i);
        StateNode *device = state_find_mutable(devices, path);

        if (g_strcmp0(state_get_text(device, "type"), type) == 0 &&
            g_strcmp0(state_get_text(device, "at"), at) == 0)
            return device;
    }
    return state_add_device(state, type, at);
}

/* ---- 8259A ---- */

static const BochsField pic_fields[] = {
    BOCHS_HEX("irr", "irr"),
    BOCHS_HEX("imr", "imr"),
    BOCHS_HEX("isr", "isr"),
    BOCHS_HEX("lines", "IRQ_in"),
    BOCHS_HEX("vector_base", "interrupt_offset"),
    BOCHS_DECIMAL("read_isr", "read_reg_select"),
    BOCHS_FLAG("poll", "polled", 0),
    BOCHS_FLAG("special_mask", "special_mask", 0),
    BOCHS_HEX("auto_eoi", "auto_eoi"),
    BOCHS_FLAG("rotate_on_auto_eoi", "rotate_on_autoeoi", 0),
    BOCHS_FLAG("needs_icw4", "requires_4", 0),
    BOCHS_HEX("elcr", "edge_level"),
    BOCHS_END,
};

static const struct {
    const char *at, *name;
} pics[] = {{"io:20", "master"}, {"io:a0", "slave"}};

/* The input that is to be delivered, or -1 (231468, "fully nested mode"). */
static int pic_request(const StateNode *pic)
{
    uint64_t first = state_number_or(pic, "highest_priority", 0);
    uint64_t asked = state_number_or(pic, "irr", 0) & ~state_number_or(pic, "imr", 0);
    uint64_t served = state_number_or(pic, "isr", 0);
    gboolean special = state_number_or(pic, "special_mask", 0) != 0;

    for (uint64_t i = 0; i < 8; i++) {
        uint64_t bit = (uint64_t)1 << ((first + i) & 7);

        if (served & bit && !special)
            return -1;
        if (asked & bit && !(served & bit))
            return (int)((first + i) & 7);
    }
    return -1;
}

static void set(BochsNode *device, const char *under, const char *name, BochsNodeKind kind,
                uint64_t value)
{
    g_autofree char *path = bochs_path(under, name);

    bochs_tree_set(device, path, kind, value);
}

static void write_pic(const StateNode *state, guint i, BochsForm *wanted)
{
    const StateNode *pic = state_find_device(state, "intel,8259a", pics[i].at);
    uint64_t step = state_number_or(pic, "init_step", 0);
    BochsNode *to = bochs_form_get(wanted, "pic");
    int request;

    request = pic_request(pic);
    bochs_fields_write(pic_fields, pic, to, pics[i].name);
    set(to, pics[i].name, "lowest_priority", BOCHS_NODE_HEX,
        (state_number_or(pic, "highest_priority", 0) + 7) & 7);
    set(to, pics[i].name, "INT", BOCHS_NODE_BOOLEAN, request >= 0);
    set(to, pics[i].name, "irq", BOCHS_NODE_HEX, request >= 0 ? (uint64_t)request : 0);
    bochs_tree_set(bochs_form_get(wanted, "pci2isa"), i ? "elcr2" : "elcr1", BOCHS_NODE_HEX,
                   state_number_or(pic, "elcr", 0));
    set(to, pics[i].name, "in_init", BOCHS_NODE_BOOLEAN, step > 0);
    set(to, pics[i].name, "byte_expected", BOCHS_NODE_DECIMAL, step > 0 ? step + 1 : 0);
}

static gboolean read_pic(const BochsNode *from, guint i, StateNode *state, GError **error)
{
    StateNode *pic = bochs_state_device(state, "intel,8259a", pics[i].at);
    g_autofree char *lowest_path = bochs_path(pics[i].name, "lowest_priority");
    g_autofree char *init_path = bochs_path(pics[i].name, "in_init");
    g_autofree char *byte_path = bochs_path(pics[i].name, "byte_expected");
    uint64_t lowest, init, byte;

    if (!bochs_tree_get(from, lowest_path, &lowest, error) ||
        !bochs_tree_get(from, init_path, &init, error) ||
        !bochs_tree_get(from, byte_path, &byte, error) ||
        !bochs_fields_read(pic_fields, from, pics[i].name, pic, error))
        return FALSE;
    state_set_number(pic, "highest_priority", (lowest + 1) & 7);
    state_set_number(pic, "init_step", init && byte > 1 ? (byte - 1) & 3 : 0);
    state_set_number(pic, "special_fully_nested", 0);
    state_set_number(pic, "single", 0);
    return TRUE;
}

/* ---- I/O APIC ---- */

static const BochsField ioapic_fields[] = {
    BOCHS_HEX("register_select", "ioregsel"),
    BOCHS_HEX("lines", "irr"),
    BOCHS_DERIVED("lines", "intin", 0, 24),
    BOCHS_END,
};

static const BochsField redirection_fields[] = {
    BOCHS_BITS("", "lo", 0, 32),
    BOCHS_BITS("", "hi", 32, 32),
    BOCHS_END,
};

/* Its entries are numbered in hexadecimal. */
static char *redirection_path(guint i, const char *half)
{
    return g_strdup_printf("ioredtbl.0x%02x.%s", i, half);
}

static void write_ioapic(const StateNode *ioapic, BochsNode *to)
{
    bochs_fields_write(ioapic_fields, ioapic, to, "");
    for (guint i = 0; i < 24; i++) {
        g_autofree char *from = g_strdup_printf("redirection[%u]", i);
        uint64_t entry = state_number_or(ioapic, from, 0x10000);

        for (guint half = 0; half < 2; half++) {
            g_autofree char *path = redirection_path(i, redirection_fields[half].bochs);

            bochs_tree_set(to, path, BOCHS_NODE_HEX,
                           entry >> redirection_fields[half].shift & G_MAXUINT32);
        }
    }
}

static gboolean read_ioapic(const BochsNode *from, StateNode *state, GError **error)
{
    StateNode *ioapic = bochs_state_device(state, "intel,82093aa", "mmio:fec00000");

    /* That is not shown. */
    state_set_number(ioapic, "id", state_number_or(ioapic, "id", 0));
    if (!bochs_fields_read(ioapic_fields, from, "", ioapic, error))
        return FALSE;
    for (guint i = 0; i < 24; i++) {
        g_autofree char *to = g_strdup_printf("redirection[%u]", i);
        g_autofree char *low_path = redirection_path(i, "lo");
        g_autofree char *high_path = redirection_path(i, "hi");
        uint64_t low, high;

        if (!bochs_tree_get(from, low_path, &low, error) ||
            !bochs_tree_get(from, high_path, &high, error))
            return FALSE;
        state_set_number(ioapic, to, low | high << 32);
    }
    return TRUE;
}

/* ---- all ---- */

/* Found by their types in code of their own. */
static const char *const chips[] = {"intel,8259a", "intel,82093aa", "intel,8254", NULL};

static const BochsDevice *find_device(const char *type)
{
    const BochsDevice *const cards[] = {&bochs_vga_device, &bochs_e1000_device};
    const BochsDevice *const tables[] = {bochs_port_devices, bochs_pci_devices};

    for (guint i = 0; i < G_N_ELEMENTS(tables); i++)
        for (const BochsDevice *device = tables[i]; device->type; device++)
            if (strcmp(device->type, type) == 0)
                return device;
    for (guint i = 0; i < G_N_ELEMENTS(cards); i++)
        if (strcmp(cards[i]->type, type) == 0)
            return cards[i];
    return NULL;
}

gboolean bochs_has_device(const char *type)
{
    return g_strv_contains(chips, type) || find_device(type);
}

/* The chips are written already. */
static gboolean write_device(const StateNode *node, const BochsForm *shown, BochsForm *wanted,
                             GError **error)
{
    const BochsDevice *device = find_device(state_get_text(node, "type"));

    return !device || device->write(node, shown, wanted, error);
}

static gboolean write_devices(const StateNode *state, const BochsForm *shown, BochsForm *wanted,
                              GError **error)
{
    const StateNode *devices = state_find(state, "devices");

    for (guint i = 0; devices && i < state_length(devices); i++)
        if (!write_device(state_child(devices, i), shown, wanted, error))
            return FALSE;
    return TRUE;
}

gboolean bochs_chips_write(const StateNode *state, const BochsClock *clock, const BochsForm *shown,
                           BochsForm *wanted, GError **error)
{
    const StateNode *ioapic = state_find_device(state, "intel,82093aa", NULL);
    const StateNode *pit = state_find_device(state, "intel,8254", NULL);

    write_ioapic(ioapic, bochs_form_get(wanted, "ioapic"));
    write_pic(state, 0, wanted);
    write_pic(state, 1, wanted);
    if (!bochs_pit_write(pit, clock, wanted, error) || !write_devices(state, shown, wanted, error))
        return FALSE;
    bochs_interrupts_write(state, wanted);
    return TRUE;
}

/* Of the state that was loaded; what was not there is not told. */
static gboolean read_devices(const BochsForm *shown, const BochsClock *clock, StateNode *state,
                             GError **error)
{
    StateNode *devices = state_find_mutable(state, "devices");

    for (guint i = 0; i < state_length(devices); i++) {
        g_autofree char *path = g_strdup_printf("[%u]", i);
        StateNode *node = state_find_mutable(devices, path);
        const BochsDevice *device = find_device(state_get_text(node, "type"));

        if (device && !device->read(shown, clock, node, error))
            return FALSE;
    }
    return TRUE;
}

gboolean bochs_chips_read(const BochsForm *shown, const BochsClock *clock, StateNode *state,
                          GError **error)
{
    const BochsNode *pic = bochs_form_find(shown, "pic");

    return read_pic(pic, 0, state, error) && read_pic(pic, 1, state, error) &&
           read_ioapic(bochs_form_find(shown, "ioapic"), state, error) &&
           bochs_pit_read(shown, clock, state, error) && read_devices(shown, clock, state, error) &&
           bochs_interrupts_read(shown, state, error);
}
