#include "agent/machine_state.h"

#include "agent/registry.h"
#include "agent/watch.h"
#include "state/state_machine.h"
#include "vmm/vmm_driver.h"

/* Before the pause.  NULL: it cannot be told. */
static MachineDescription *describe(Vmm *vmm, const VmmIdentity *identity)
{
    g_auto(GStrv) line = NULL;
    g_autoptr(json_t) machine = NULL;

    if (!vmm->neutral)
        return NULL;
    machine = vmm_read_machine(vmm, identity->command_line, &line, NULL);
    return machine ? vmm_describe_neutral(vmm, machine, NULL) : NULL;
}

/* With the guest claimed. */
static json_t *make_answer(Guest *guest, GError **error)
{
    Vmm *vmm = registry_get_vmm(guest, error);
    g_autoptr(VmmIdentity) identity = vmm ? vmm_get_identity(vmm) : NULL;
    g_autoptr(MachineDescription) machine = vmm ? describe(vmm, identity) : NULL;
    g_autoptr(StateNode) state = NULL;
    g_autoptr(GBytes) bytes = NULL;
    double ms = 0;

    if (!vmm)
        return NULL;
    bytes = vmm_look(vmm, &ms, error);
    state = bytes ? vmm_read_state(identity->kind, bytes, error) : NULL;
    if (!state)
        return NULL;
    /* What has the neutral form only has that in it. */
    if (machine && !vmm->neutral->only)
        state_note_machine(state, machine);
    return json_pack("{s:s, s:s, s:f, s:o*, s:o}", "guest", guest->name, "vmm_kind", identity->kind,
                     "paused_ms", ms, "machine",
                     machine ? machine_description_to_json(machine) : NULL, "state",
                     state_to_json(state));
}

json_t *machine_state_get(AgentContext *context, const char *name, GError **error)
{
    g_autoptr(Guest) guest = registry_find(context->registry, name, error);
    json_t *answer;

    if (!guest || !registry_claim(guest, GUEST_OURS, "state", error))
        return NULL;
    answer = make_answer(guest, error);
    watch_release(context, guest);
    if (!answer)
        g_prefix_error(error, "guest %s: state: ", name);
    return answer;
}
