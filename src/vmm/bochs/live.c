#include "vmm/bochs/live.h"

#include <string.h>

#include "base/error.h"
#include "vmm/bochs/hpet_start.h"
#include "vmm/bochs/parameters.h"

static const char *const cpu_parts[] = {
    "RAX",
    "RBX",
    "RCX",
    "RDX",
    "RSP",
    "RBP",
    "RSI",
    "RDI",
    "R8",
    "R9",
    "R10",
    "R11",
    "R12",
    "R13",
    "R14",
    "R15",
    "RIP",
    "EFLAGS",
    "DR0",
    "DR1",
    "DR2",
    "DR3",
    "DR6",
    "DR7",
    "CR0",
    "CR2",
    "CR3",
    "CR4",
    "XCR0",
    "tsc_adjust",
    "cpu_mode",
    "activity_state",
    "inhibit_mask",
    "inhibit_icount",
    "icount",
    "smbase",
    "pending_event",
    "event_mask",
    "async_event",
    "in_smm",
    "ES",
    "CS",
    "SS",
    "DS",
    "FS",
    "GS",
    "GDTR",
    "IDTR",
    "LDTR",
    "TR",
    "MSR",
    "FPU",
    "SSE",
    "local_apic",
    NULL,
};
static const char *const memory_parts[] = {"memtype", NULL};
static const char *const serial_parts[] = {"0", NULL};

/* Of these devices a part is enough: all of a processor are 500 KB of text, memory has a line for each of
 * its blocks. */
static const struct {
    const char *device;
    const char *const *parts;
} parts_of[] = {{"memory", memory_parts}, {"serial", serial_parts}};

/* NULL: all of it. */
static const char *const *parts_of_device(const char *name)
{
    if (g_str_has_prefix(name, "cpu"))
        return cpu_parts;
    for (guint i = 0; i < G_N_ELEMENTS(parts_of); i++)
        if (strcmp(parts_of[i].device, name) == 0)
            return parts_of[i].parts;
    return NULL;
}

/* What a state is made of, in this order: the processors, and the devices besides.  Borrowed names, NULL behind the last. */
static GPtrArray *list_devices(guint cpus)
{
    GPtrArray *names = g_ptr_array_new();

    for (guint i = 0; i < cpus; i++)
        g_ptr_array_add(names, (gpointer)bochs_form_cpu(i));
    for (const char *const *name = bochs_form_devices(); *name; name++)
        if (!g_str_has_prefix(*name, "cpu"))
            g_ptr_array_add(names, (gpointer)*name);
    g_ptr_array_add(names, NULL);
    return names;
}

/* Their paths, or those of their parts. */
static char **list_paths(const char *const *name)
{
    g_autoptr(GStrvBuilder) paths = g_strv_builder_new();

    for (; *name; name++) {
        const char *const *parts = parts_of_device(*name);

        if (!parts)
            g_strv_builder_add(paths, *name);
        for (; parts && *parts; parts++) {
            g_autofree char *path = g_strconcat(*name, ".", *parts, NULL);

            g_strv_builder_add(paths, path);
        }
    }
    return g_strv_builder_end(paths);
}

/* Takes the next ones of *nodes*, and makes a device of its parts; *ret NULL: it has no such card. */
static gboolean take_device(GPtrArray *nodes, guint *at, const char *name, BochsNode **ret,
                            GError **error)
{
    const char *const *parts = parts_of_device(name);
    g_autoptr(BochsNode) device = parts ? bochs_tree_new(name) : NULL;
    guint count = parts ? g_strv_length((char **)parts) : 1;

    for (guint i = 0; i < count; i++) {
        BochsNode *node = nodes->pdata[*at];

        nodes->pdata[(*at)++] = NULL;

        if (!node && !bochs_form_is_card(name)) {
            error_set(error, VMFERRY_ERROR_NOT_FOUND, "this Bochs has no %s%s%s", name,
                      parts ? "." : "", parts ? parts[i] : "");
            return FALSE;
        }
        if (parts)
            g_ptr_array_add(device->children, node);
        else
            device = node;
    }
    *ret = g_steal_pointer(&device);
    return TRUE;
}

BochsForm *bochs_form_show(BochsProcess *process, const BochsMachine *machine, GError **error)
{
    g_autoptr(BochsForm) form = bochs_form_new(machine->ips);
    g_autoptr(GPtrArray) devices = list_devices(machine->vcpus);
    const char *const *names = (const char *const *)devices->pdata;
    g_auto(GStrv) paths = list_paths(names);
    g_autoptr(GPtrArray) nodes =
        bochs_show_all(process->console, process->state_folder, (const char *const *)paths, error);
    guint at = 0;

    if (!nodes)
        return NULL;
    for (; *names; names++) {
        BochsNode *device;

        if (!take_device(nodes, &at, *names, &device, error))
            return NULL;
        if (device)
            bochs_form_add(form, device);
    }
    return g_steal_pointer(&form);
}

/* One of which nothing is set is left alone. */
static gboolean restore_device(BochsProcess *process, const BochsNode *device, GError **error)
{
    return device->children->len == 0 ||
           bochs_restore(process->console, process->state_folder, device, error);
}

gboolean bochs_form_restore(BochsProcess *process, uint64_t ram, const BochsForm *wanted,
                            GError **error)
{
    for (guint i = 0; i < wanted->devices->len; i++) {
        const BochsNode *device = wanted->devices->pdata[i];

        if (!restore_device(process, device, error))
            return FALSE;
        if (wanted->hpet_start && strcmp(device->name, "hpet") == 0 &&
            !bochs_hpet_start(process, ram, wanted->hpet_start, error))
            return FALSE;
    }
    return TRUE;
}
