/* What a Bochs's machine is, who runs it, and what a guard does for it. */
#include <string.h>

#include "base/error.h"
#include "base/json.h"
#include "vmm/bochs/driver.h"

static BochsVmm *from_vmm(Vmm *vmm)
{
    return (BochsVmm *)vmm;
}

/* ---- the machine: nothing of it changes while it lives ---- */

gboolean bochs_check_movable(Vmm *vmm, GError **error)
{
    return TRUE;
}

static json_t *describe_slots(const BochsMachine *machine)
{
    static const char *const names[] = {"", "pcivga", "e1000"};
    json_t *slots = json_array();

    for (guint i = 0; i < BOCHS_MAX_SLOTS; i++)
        json_array_append_new(slots, json_string(names[machine->slots[i]]));
    return slots;
}

/* Without their images: these are compared as such. */
static json_t *describe_disks(const BochsMachine *machine)
{
    json_t *disks = json_object();

    for (guint i = 0; i < machine->disk_count; i++) {
        const BochsDisk *disk = &machine->disks[i];
        g_autofree char *place = g_strdup_printf("%u/%u", disk->channel, disk->unit);

        json_object_set_new(disks, place, json_string(disk->cdrom ? "cdrom" : "disk"));
    }
    return disks;
}

static json_t *describe_machine(const BochsMachine *machine)
{
    const guint8 *mac = machine->mac;
    g_autofree char *address = g_strdup_printf("%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1],
                                               mac[2], mac[3], mac[4], mac[5]);

    return json_pack("{s:I, s:i, s:I, s:s, s:s, s:o, s:o}", "memory_bytes",
                     (json_int_t)machine->memory_bytes, "vcpus", (int)machine->vcpus, "ips",
                     (json_int_t)machine->ips, VMM_MACHINE_CPU, machine->cpu_model, "mac", address,
                     "slots", describe_slots(machine), "disks", describe_disks(machine));
}

json_t *bochs_read_machine(Vmm *vmm, char *const *original, char ***ret_line, GError **error)
{
    *ret_line = g_strdupv((char **)original);
    return describe_machine(&from_vmm(vmm)->line->machine);
}

/* FALSE with the first thing that is not as it was told. */
static gboolean compare(json_t *told, json_t *is, const char *skipped, GError **error)
{
    const char *key;
    json_t *value;

    json_object_foreach(is, key, value)
    {
        if ((!json_object_get(told, key) && g_strcmp0(key, skipped) == 0) ||
            json_equal(value, json_object_get(told, key)))
            continue;
        error_set(error, VMFERRY_ERROR_REFUSED, "the machines differ in \"%s\"", key);
        return FALSE;
    }
    return TRUE;
}

gboolean bochs_check_unchanged(Vmm *vmm, json_t *before, GError **error)
{
    g_autoptr(json_t) is = describe_machine(&from_vmm(vmm)->line->machine);

    return compare(before, is, VMM_MACHINE_CPU, error);
}

/* One that came in the neutral form was planned by its description. */
gboolean bochs_match_machine(Vmm *vmm, const char *type, json_t *machine, GError **error)
{
    const BochsVmm *bochs = from_vmm(vmm);
    g_autoptr(json_t) is = NULL;

    if (bochs->neutral)
        return TRUE;
    if (g_strcmp0(type, BOCHS_MACHINE) != 0) {
        error_set(error, VMFERRY_ERROR_REFUSED, "the machine is a " BOCHS_MACHINE " here, not %s",
                  type ? type : "(none)");
        return FALSE;
    }
    is = describe_machine(&bochs->line->machine);
    return compare(machine, is, VMM_MACHINE_CPU, error);
}

MachineDescription *bochs_describe_neutral(Vmm *vmm, json_t *machine, GError **error)
{
    const BochsVmm *bochs = from_vmm(vmm);

    if (bochs->machine)
        return machine_description_copy(bochs->machine);
    error_set(error, VMFERRY_ERROR_UNSUPPORTED, "this Bochs was not started by a command line");
    return NULL;
}

/* ---- its process ---- */

void bochs_identity_drop_network(ProcessIdentity *identity)
{
    g_clear_pointer(&identity->netns, g_free);
    identity->namespaces &= ~(guint)IDENTITY_NAMESPACE_NET;
}

ProcessIdentity *bochs_get_process(Vmm *vmm, GError **error)
{
    const ProcessHabits habits = {0};
    ProcessIdentity *identity = process_identity_read(from_vmm(vmm)->process->pid, &habits, error);

    if (identity)
        bochs_identity_drop_network(identity);
    return identity;
}

/* Its cards are connected to nothing. */
gboolean bochs_announce(Vmm *vmm, GError **error)
{
    return TRUE;
}

/* ---- when the agent dies ---- */

/* None: a guard could neither take the locks on its images nor bring the VGA's memory into its order (video.h).  It waits for the
 * agent's return. */
gboolean bochs_get_resume_action(Vmm *vmm, GuardAction *ret, GError **error)
{
    guard_action_begin(ret, 1);
    return TRUE;
}

/* A SIGINT may be lost and its end is not told: a guest that runs by a lease is stopped for certain by what a guard does where
 * an action has failed (guard.h), and an empty one has. */
gboolean bochs_get_pause_action(Vmm *vmm, GuardAction *ret, GError **error)
{
    guard_action_begin(ret, 1);
    return TRUE;
}
