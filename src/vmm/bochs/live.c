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

static BochsNode *show_parts(BochsProcess *process, const char *name, const char *const *parts,
                             GError **error)
{
    g_autoptr(BochsNode) device = bochs_tree_new(name);

    for (; *parts; parts++) {
        g_autofree char *path = g_strconcat(name, ".", *parts, NULL);
        BochsNode *part = bochs_show(process->console, path, error);

        if (!part)
            return NULL;
        g_ptr_array_add(device->children, part);
    }
    return g_steal_pointer(&device);
}

static BochsNode *show_device(BochsProcess *process, const char *name, GError **error)
{
    for (guint i = 0; i < G_N_ELEMENTS(parts_of); i++)
        if (strcmp(parts_of[i].device, name) == 0)
            return show_parts(process, name, parts_of[i].parts, error);
    return bochs_show(process->console, name, error);
}

static gboolean show_cpus(BochsProcess *process, guint count, BochsForm *form, GError **error)
{
    for (guint i = 0; i < count; i++) {
        BochsNode *cpu = show_parts(process, bochs_form_cpu(i), cpu_parts, error);

        if (!cpu)
            return FALSE;
        bochs_form_add(form, cpu);
    }
    return TRUE;
}

BochsForm *bochs_form_show(BochsProcess *process, const BochsMachine *machine, GError **error)
{
    g_autoptr(BochsForm) form = bochs_form_new(machine->ips);

    if (!show_cpus(process, machine->vcpus, form, error))
        return NULL;
    for (const char *const *name = bochs_form_devices(); *name; name++) {
        g_autoptr(GError) failure = NULL;
        BochsNode *device;

        if (bochs_form_find(form, *name))
            continue;
        device = show_device(process, *name, &failure);

        if (device)
            bochs_form_add(form, device);
        if (device || (bochs_form_is_card(*name) && error_is(failure, VMFERRY_ERROR_NOT_FOUND)))
            continue;
        g_propagate_error(error, g_steal_pointer(&failure));
        return NULL;
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
