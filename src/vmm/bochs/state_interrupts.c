/*
 * The interrupt lines of PCI cards
 *
 * The neutral state has the levels of a device's INTA# to INTD#, and which of the chipset's inputs (PIRQA# to
 * PIRQD#) are asserted.  Bochs notes for each of these, and for each interrupt that it leads to, which
 * devices assert it.  It leads them to the I/O APIC's inputs 16 to 19 as well, which QEMU's chipset
 * does not: those are not told.
 */
#include "vmm/bochs/form_private.h"

#include <stdio.h>
#include <string.h>

#define LINES 4u
#define INTERRUPTS 16u
#define ROUTES_AT 0x60u
#define IOAPIC_PCI_INPUTS ((uint64_t)0xf0000)

/* A device in the first slot is the chipset. */
static gboolean card_of(const StateNode *device, guint *ret_slot)
{
    const char *at = state_get_text(device, "at");

    return at && sscanf(at, "pci:00:%x.", ret_slot) == 1 && *ret_slot >= 2 && *ret_slot < 32;
}

/* Each slot is wired one input further. */
static guint input_of(guint slot, guint line)
{
    return (slot - 1 + line) % LINES;
}

static char *level_path(guint input, guint interrupt)
{
    return g_strdup_printf("irq_level.%u_%u", input, interrupt);
}

static void write_card(const StateNode *device, guint slot, const uint8_t *routes, BochsNode *to)
{
    for (guint line = 0; line < LINES; line++) {
        g_autofree char *from = g_strdup_printf("intx[%u]", line);
        guint input = input_of(slot, line);
        g_autofree char *path = level_path(input, routes[input]);
        uint64_t level = 0;

        if (!state_number_or(device, from, 0) || routes[input] >= INTERRUPTS)
            continue;
        (void)bochs_tree_get(to, path, &level, NULL);
        bochs_tree_set(to, path, BOCHS_NODE_DECIMAL, level | (uint64_t)1 << slot);
    }
}

void bochs_interrupts_write(const StateNode *state, BochsForm *wanted)
{
    const StateNode *bridge = state_find_device(state, "intel,piix3", NULL);
    const StateNode *devices = state_find(state, "devices");
    size_t length = 0;
    const uint8_t *config = bridge ? state_get_bytes(bridge, "config", &length) : NULL;
    guint slot;

    if (!config || length < ROUTES_AT + LINES)
        return;
    for (guint i = 0; i < state_length(devices); i++)
        if (card_of(state_child(devices, i), &slot))
            write_card(state_child(devices, i), slot, config + ROUTES_AT,
                       bochs_form_get(wanted, "pci2isa"));
}

/* Which slots assert each input. */
static gboolean read_levels(const BochsNode *from, uint64_t levels[LINES], GError **error)
{
    memset(levels, 0, LINES * sizeof levels[0]);
    for (guint input = 0; input < LINES; input++)
        for (guint interrupt = 0; interrupt < INTERRUPTS; interrupt++) {
            g_autofree char *path = level_path(input, interrupt);
            uint64_t slots;

            if (!bochs_tree_get(from, path, &slots, error))
                return FALSE;
            levels[input] |= slots;
        }
    return TRUE;
}

static void read_card(StateNode *device, guint slot, const uint64_t levels[LINES])
{
    /* Of one that has no line it is not told. */
    if (!state_find(device, "config"))
        return;
    for (guint line = 0; line < LINES; line++) {
        g_autofree char *path = g_strdup_printf("intx[%u]", line);

        state_set_number(device, path, levels[input_of(slot, line)] >> slot & 1);
    }
}

gboolean bochs_interrupts_read(const BochsForm *shown, StateNode *state, GError **error)
{
    StateNode *devices = state_find_mutable(state, "devices");
    StateNode *bridge = (StateNode *)state_find_device(state, "intel,piix3", NULL);
    StateNode *ioapic = (StateNode *)state_find_device(state, "intel,82093aa", NULL);
    uint64_t levels[LINES];
    guint slot;

    if (!read_levels(bochs_form_find(shown, "pci2isa"), levels, error))
        return FALSE;
    for (guint i = 0; i < state_length(devices); i++) {
        g_autofree char *path = g_strdup_printf("[%u]", i);
        StateNode *device = state_find_mutable(devices, path);

        if (card_of(device, &slot))
            read_card(device, slot, levels);
    }
    for (guint i = 0; bridge && i < LINES; i++) {
        g_autofree char *path = g_strdup_printf("pirq_levels[%u]", i);

        state_set_number(bridge, path, levels[i] != 0);
    }
    if (ioapic)
        state_set_number(ioapic, "lines", state_number_or(ioapic, "lines", 0) & ~IOAPIC_PCI_INPUTS);
    return TRUE;
}
