/* What the image of a guest of QEMU tells of its machine. */
#include <string.h>

#include "base/tsc.h"
#include "vmm/qemu/driver.h"
#include "vmm/qemu/neutral_machine.h"

MachineDescription *qemu_describe_saved(const VmmSavedMachine *saved, GError **error)
{
    const QemuNeutralFacts facts = {
        .architecture = "x86_64",
        .machine_type = saved->machine_type,
        .directory = saved->directory,
        .ram_bytes = saved->memory_bytes,
        .vcpus = saved->vcpus,
        .tsc_hz = tsc_hz(),
    };

    return qemu_neutral_machine(saved->machine, &facts, error);
}

/* Main RAM is of the machine, or a back end of its user's. */
const char *qemu_find_neutral_region(const VmmSavedMachine *saved, const char *name, uint64_t bytes)
{
    if (g_str_has_suffix(name, "vga.vram"))
        return VMM_NEUTRAL_VIDEO;
    return strcmp(name, "pc.ram") == 0 || bytes == saved->memory_bytes ? VMM_NEUTRAL_RAM : NULL;
}
