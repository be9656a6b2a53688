/* Asking a live QEMU for what its machine in the neutral form has beside the devices. */
#include <string.h>

#include "base/json.h"
#include "base/tsc.h"
#include "vmm/qemu/driver.h"
#include "vmm/qemu/neutral_machine.h"

static json_t *get_cpu_property(Qmp *qmp, const char *name)
{
    g_autoptr(json_t) cpus = qmp_execute(qmp, "query-cpus-fast", NULL, QMP_COMMAND_MS, NULL);
    const char *path = json_text_or(json_array_get(cpus, 0), "qom-path", NULL);

    return path ? qmp_execute(qmp, "qom-get",
                              json_pack("{s:s, s:s}", "path", path, "property", name),
                              QMP_COMMAND_MS, NULL)
                : NULL;
}

/* KVM tells it.  TCG has none of its own: the guest reads this host's counter. */
static uint64_t find_tsc_hz(Qmp *qmp, const char *accelerator)
{
    g_autoptr(json_t) told = get_cpu_property(qmp, "tsc-frequency");
    json_int_t hz = told ? json_integer_value(told) : 0;

    if (strcmp(accelerator, "tcg") == 0)
        return tsc_hz();
    return hz > 0 ? (uint64_t)hz : tsc_hz();
}

static char *query_architecture(Qmp *qmp, GError **error)
{
    g_autoptr(json_t) reply = qmp_execute(qmp, "query-target", NULL, QMP_COMMAND_MS, error);
    const char *name;

    return reply && json_get_text(reply, "arch", &name, error) ? g_strdup(name) : NULL;
}

MachineDescription *qemu_describe_neutral(QemuVmm *qemu, json_t *machine, GError **error)
{
    g_autoptr(VmmDescription) description = qemu_describe(qemu, error);
    g_autofree char *architecture = description ? query_architecture(qemu->qmp, error) : NULL;
    QemuNeutralFacts facts = {.architecture = architecture, .directory = qemu->working_directory};

    if (!architecture)
        return NULL;
    facts.machine_type = description->machine;
    facts.ram_bytes = description->memory_bytes;
    facts.vcpus = description->vcpus;
    facts.tsc_hz = find_tsc_hz(qemu->qmp, description->accelerator);
    return qemu_neutral_machine(machine, &facts, error);
}
