#include "vmm/bochs/form.h"

#include <string.h>

#include "base/error.h"
#include "vmm/bochs/bochs.h"
#include "vmm/bochs/form_private.h"

/* The processors after what interrupts them, the ISA bridge last: each `restore` makes all devices look at
 * their state anew, and a bridge that enters its interrupt routes twice ends Bochs. */
static const char *const device_names[] = {
    "pc_system", "virt_timer", "memory",     "pic",     "ioapic",     "pit",  "cmos",
    "hpet",      "dma",        "pci_bridge", "pci_ide", "hard_drive", "acpi", "keyboard",
    "serial",    "vga",        "e1000",      "cpu0",    "pci2isa",    NULL,
};

static const char *const cpu_names[BOCHS_MAX_VCPUS] = {"cpu0", "cpu1", "cpu2", "cpu3",
                                                       "cpu4", "cpu5", "cpu6", "cpu7"};

/* Of cards that not every machine has. */
static const char *const card_names[] = {"vga", "e1000", NULL};

gboolean bochs_form_is_card(const char *name)
{
    return g_strv_contains(card_names, name);
}

const char *const *bochs_form_devices(void)
{
    return device_names;
}

const char *bochs_form_cpu(guint number)
{
    return cpu_names[number];
}

guint bochs_form_count_cpus(const BochsForm *shown)
{
    guint count = 0;

    while (count < BOCHS_MAX_VCPUS && bochs_form_find(shown, cpu_names[count]))
        count++;
    return count;
}

static void free_node(gpointer node)
{
    bochs_node_free(node);
}

static void free_bytes(gpointer data)
{
    BochsBytes *bytes = data;

    g_free(bytes->name);
    g_bytes_unref(bytes->bytes);
    g_free(bytes);
}

BochsForm *bochs_form_new(uint32_t ips)
{
    BochsForm *form = g_new0(BochsForm, 1);

    form->devices = g_ptr_array_new_with_free_func(free_node);
    form->bytes = g_ptr_array_new_with_free_func(free_bytes);
    form->ips = ips;
    return form;
}

void bochs_form_free(BochsForm *form)
{
    if (!form)
        return;
    g_ptr_array_unref(form->devices);
    g_ptr_array_unref(form->bytes);
    g_free(form);
}

BochsNode *bochs_form_find(const BochsForm *form, const char *name)
{
    for (guint i = 0; i < form->devices->len; i++) {
        BochsNode *device = form->devices->pdata[i];

        if (strcmp(device->name, name) == 0)
            return device;
    }
    return NULL;
}

void bochs_form_add(BochsForm *form, BochsNode *device)
{
    g_ptr_array_add(form->devices, device);
}

BochsNode *bochs_form_get(BochsForm *form, const char *name)
{
    BochsNode *device = bochs_form_find(form, name);

    if (device)
        return device;
    device = bochs_tree_new(name);
    bochs_form_add(form, device);
    return device;
}

/* As `restore` reads an array: "[", numbers with blanks between, "]". */
static char *format_bytes(const uint8_t *bytes, size_t length)
{
    GString *text = g_string_new("[");

    for (size_t i = 0; i < length; i++)
        g_string_append_printf(text, "%s0x%02x", i % 16 ? " " : "\n    ", bytes[i]);
    g_string_append(text, "\n  ]");
    return g_string_free(text, FALSE);
}

void bochs_form_add_bytes(BochsForm *form, const char *device, const char *path, const void *bytes,
                          size_t length)
{
    BochsBytes *entry = g_new0(BochsBytes, 1);

    entry->name = g_strconcat(device, ".", path, NULL);
    entry->bytes = g_bytes_new(bytes, length);
    g_ptr_array_add(form->bytes, entry);
}

void bochs_form_set_bytes(BochsForm *form, const char *device, const char *path, const void *bytes,
                          size_t length)
{
    g_autofree char *text = format_bytes(bytes, length);

    bochs_form_add_bytes(form, device, path, bytes, length);
    bochs_tree_set_text(bochs_form_get(form, device), path, text);
}

const uint8_t *bochs_form_get_bytes(const BochsForm *form, const char *device, const char *path,
                                    size_t length)
{
    g_autofree char *name = g_strconcat(device, ".", path, NULL);

    for (guint i = 0; i < form->bytes->len; i++) {
        const BochsBytes *entry = form->bytes->pdata[i];

        if (strcmp(entry->name, name) == 0 && g_bytes_get_size(entry->bytes) == length)
            return g_bytes_get_data(entry->bytes, NULL);
    }
    return NULL;
}

static gboolean check_complete(const BochsForm *shown, GError **error)
{
    for (const char *const *name = device_names; *name; name++)
        if (!bochs_form_find(shown, *name) && !bochs_form_is_card(*name)) {
            error_set(error, VMFERRY_ERROR_UNSUPPORTED, "Bochs shows no %s", *name);
            return FALSE;
        }
    return TRUE;
}

/* All that is set is something that is shown. */
static gboolean check_known(const BochsForm *wanted, const BochsForm *shown, GError **error)
{
    for (guint i = 0; i < wanted->devices->len; i++) {
        const BochsNode *device = wanted->devices->pdata[i];
        const BochsNode *known = bochs_form_find(shown, device->name);

        if ((known || device->children->len > 0) && !bochs_tree_check_known(device, known, error))
            return FALSE;
    }
    return TRUE;
}

/* In the order of the names: the processors after what interrupts them. */
static BochsForm *new_wanted(const BochsForm *shown)
{
    BochsForm *wanted = bochs_form_new(shown->ips);
    guint cpus = bochs_form_count_cpus(shown);

    for (const char *const *name = device_names; *name; name++) {
        if (strcmp(*name, cpu_names[0]) != 0) {
            bochs_form_add(wanted, bochs_tree_new(*name));
            continue;
        }
        for (guint i = 0; i < cpus; i++)
            bochs_form_add(wanted, bochs_tree_new(cpu_names[i]));
    }
    return wanted;
}

static gboolean check_count(const StateNode *state, const BochsForm *shown, GError **error)
{
    guint wanted = state_length(state_find(state, "cpus")), has = bochs_form_count_cpus(shown);

    if (wanted == has)
        return TRUE;
    error_set(error, VMFERRY_ERROR_UNSUPPORTED,
              "cpus: the state is of %u processors, this Bochs was started with %u", wanted, has);
    return FALSE;
}

static gboolean write_cpus(const StateNode *state, const BochsClock *clock, const BochsForm *shown,
                           BochsForm *wanted, GError **error)
{
    const StateNode *cpus = state_find(state, "cpus");

    for (guint i = 0; i < clock->cpus; i++)
        if (!bochs_cpu_write(state_child(cpus, i), i, clock, shown, wanted, error)) {
            g_prefix_error(error, "cpus[%u].", i);
            return FALSE;
        }
    return TRUE;
}

BochsForm *bochs_form_from_state(const StateNode *state, const BochsForm *shown, GError **error)
{
    g_autoptr(BochsForm) wanted = new_wanted(shown);
    BochsClock clock;

    if (!check_complete(shown, error) || !bochs_check_state(state, error) ||
        !check_count(state, shown, error) ||
        !bochs_clock_choose(state, shown->ips, &clock, error) ||
        !bochs_clock_write(&clock, shown, wanted, error) ||
        !bochs_chips_write(state, &clock, shown, wanted, error) ||
        !write_cpus(state, &clock, shown, wanted, error) ||
        !bochs_clock_finish(&clock, shown, wanted, error) || !check_known(wanted, shown, error))
        return NULL;
    return g_steal_pointer(&wanted);
}

/* The first of them, whose TSC is the clock's. */
static const StateNode *read_cpus(const BochsForm *shown, const BochsClock *clock, StateNode *state,
                                  GError **error)
{
    for (guint i = 0; i < clock->cpus; i++) {
        g_autofree char *path = g_strdup_printf("cpus[%u]", i);

        if (!bochs_cpu_read(shown, i, clock, state_set_group(state, path), error)) {
            g_prefix_error(error, "%s: ", cpu_names[i]);
            return NULL;
        }
    }
    return state_find(state, "cpus[0]");
}

static void read_clock(const BochsClock *clock, const StateNode *cpu, StateNode *state)
{
    state_set_text(state, "machine.architecture", "x86-64");
    state_set_number(state, "machine.a20", 1);
    state_set_number(state, "clock.tsc", state_number_or(cpu, "ia32_tsc", 0));
    state_set_number(state, "clock.tsc_hz", clock->ips);
    state_set_time(state, "clock.since_start", bochs_clock_ns(clock, clock->now));
}

static gboolean check_shown_machine(const BochsForm *shown, GError **error)
{
    uint64_t a20;

    if (!bochs_tree_get(bochs_form_find(shown, "pc_system"), "enable_a20", &a20, error))
        return FALSE;
    if (a20)
        return TRUE;
    error_set(error, VMFERRY_ERROR_UNSUPPORTED, "address line 20 is masked");
    return FALSE;
}

StateNode *bochs_form_to_state(const BochsForm *shown, const StateNode *loaded, GError **error)
{
    g_autoptr(StateNode) state = loaded ? state_copy(loaded) : state_new();
    BochsClock clock;
    const StateNode *cpu;

    if (!check_complete(shown, error) || !check_shown_machine(shown, error) ||
        !bochs_clock_read(shown, &clock, error))
        return NULL;
    cpu = read_cpus(shown, &clock, state, error);
    if (!cpu || !bochs_chips_read(shown, &clock, state, error))
        return NULL;
    read_clock(&clock, cpu, state);
    return bochs_check_told(state, error) ? g_steal_pointer(&state) : NULL;
}
