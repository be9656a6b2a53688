#include "state/state_machine.h"

#include <string.h>

#include "base/error.h"

#define MEBIBYTE ((uint64_t)1 << 20)

/* Of a PCI device's configuration space. */
#define CONFIG_COMMAND 0x04u
#define CONFIG_BAR0 0x10u
#define COMMAND_MEMORY 2u /* it answers to accesses of memory */
#define BAR_FLAGS 0xfu

static void add_memory(StateNode *state, uint64_t base, uint64_t bytes, const char *kind)
{
    StateNode *part = state_append_group(state, "memory");

    state_set_number(part, "base", base);
    state_set_number(part, "bytes", bytes);
    state_set_text(part, "kind", kind);
}

/* Where the guest sees the VGA's memory; 0: nowhere. */
static uint64_t find_video(const StateNode *state)
{
    const StateNode *card = state_find_device(state, "bochs,vbe", NULL);
    size_t length = 0;
    const uint8_t *config = card ? state_get_bytes(card, "config", &length) : NULL;

    if (!config || length < CONFIG_BAR0 + 4 || !(config[CONFIG_COMMAND] & COMMAND_MEMORY))
        return 0;
    return ((uint64_t)config[CONFIG_BAR0 + 3] << 24 | (uint64_t)config[CONFIG_BAR0 + 2] << 16 |
            (uint64_t)config[CONFIG_BAR0 + 1] << 8 | config[CONFIG_BAR0]) &
           ~(uint64_t)BAR_FLAGS;
}

/* In the order of their addresses, but for the VGA's. */
static void note_memory(StateNode *state, const MachineDescription *machine)
{
    uint64_t video = machine->video_bytes > 0 ? find_video(state) : 0;

    for (guint i = 0; i < machine->memory->len; i++) {
        const MachineMemory *part = &g_array_index(machine->memory, MachineMemory, i);

        add_memory(state, part->base, part->bytes, "ram");
    }
    if (machine->memory->len > 0 && video > 0)
        add_memory(state, video, machine->video_bytes, "video");
}

static int compare_places(gconstpointer a, gconstpointer b)
{
    const MachineDisk *left = *(MachineDisk *const *)a, *right = *(MachineDisk *const *)b;

    return strcmp(left->at, right->at);
}

static void note_disks(StateNode *state, const MachineDescription *machine)
{
    g_autoptr(GPtrArray) disks = g_ptr_array_new();

    for (guint i = 0; i < machine->disks->len; i++)
        g_ptr_array_add(disks, machine->disks->pdata[i]);
    g_ptr_array_sort(disks, compare_places);
    for (guint i = 0; i < disks->len; i++) {
        const MachineDisk *disk = disks->pdata[i];
        StateNode *noted = state_append_group(state, "disks");

        state_set_text(noted, "at", disk->at);
        if (disk->bytes > 0)
            state_set_number(noted, "bytes", disk->bytes);
        state_set_text(noted, "kind", disk->cdrom ? "cdrom" : "disk");
    }
}

/* May be not known, each; what it means then is "not known", and not "none". */
static const char *const unknown[] = {"memory", "disks", "machine.ram_bytes", "machine.chipset",
                                      "clock.tsc_hz"};

void state_note_machine(StateNode *state, const MachineDescription *machine)
{
    if (!machine)
        return;
    state_remove(state, "memory");
    state_remove(state, "disks");
    if (machine->ram_bytes > 0)
        state_set_number(state, "machine.ram_bytes", machine->ram_bytes);
    if (g_strcmp0(machine->chipset, "none") != 0)
        state_set_text(state, "machine.chipset", machine->chipset);
    note_memory(state, machine);
    note_disks(state, machine);
}

void state_drop_unknown(StateNode *left, StateNode *right)
{
    for (guint i = 0; i < G_N_ELEMENTS(unknown); i++) {
        if (!state_find(left, unknown[i]))
            state_remove(right, unknown[i]);
        if (!state_find(right, unknown[i]))
            state_remove(left, unknown[i]);
    }
}

/* FALSE where it is not known, or is more than there can be. */
static gboolean sum_ram(const StateNode *state, uint64_t *ret)
{
    const StateNode *memory = state_find(state, "memory");
    uint64_t bytes;

    *ret = 0;
    for (guint i = 0; memory && i < state_length(memory); i++) {
        const StateNode *part = state_child(memory, i);

        if (g_strcmp0(state_get_text(part, "kind"), "ram") != 0)
            continue;
        bytes = state_number_or(part, "bytes", 0);
        if (bytes > G_MAXUINT64 - *ret)
            *ret = G_MAXUINT64;
        else
            *ret += bytes;
    }
    return memory != NULL;
}

static gboolean check_bytes(uint64_t told, uint64_t ram_bytes, const char *what, const char *vmm,
                            GError **error)
{
    if (told == ram_bytes)
        return TRUE;
    error_set(error, VMFERRY_ERROR_REFUSED,
              "%s: the guest has %.*f MiB of RAM, and this %s has %.*f MiB", what,
              told % MEBIBYTE ? 3 : 0, (double)told / MEBIBYTE, vmm, ram_bytes % MEBIBYTE ? 3 : 0,
              (double)ram_bytes / MEBIBYTE);
    return FALSE;
}

gboolean state_check_ram(const StateNode *state, uint64_t ram_bytes, const char *vmm,
                         GError **error)
{
    uint64_t told;

    if (state_get_number(state, "machine.ram_bytes", &told) &&
        !check_bytes(told, ram_bytes, "machine.ram_bytes", vmm, error))
        return FALSE;
    return !sum_ram(state, &told) || check_bytes(told, ram_bytes, "memory", vmm, error);
}
