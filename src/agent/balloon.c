#include "agent/balloon.h"

#include "agent/registry.h"
#include "base/log.h"

gboolean balloon_note(Guest *guest, uint64_t bytes, GError **error)
{
    GuestRecord *record = registry_get_record(guest);

    record->balloon_bytes = bytes;
    return registry_journal_record(guest, record, error);
}

void balloon_let_go(AgentContext *context, Guest *guest)
{
    g_autoptr(GuestRecord) record = registry_get_record(guest);
    g_autoptr(GError) problem = NULL;
    Vmm *vmm = registry_get_vmm(guest, NULL);

    if (record->balloon_bytes == 0 || !vmm)
        return;
    if (vmm_set_balloon(vmm, record->balloon_bytes, &problem) && balloon_note(guest, 0, &problem))
        return;
    log_warning("guest %s: its balloon: %s", guest->name, problem->message);
    event_log_add(context->events, guest->name, "balloon-not-released", NULL,
                  "does not get the memory back that a move took by its balloon: %s",
                  problem->message);
}
