/* What this driver does not do, each by name. */
#include "base/error.h"
#include "vmm/bochs/driver.h"

static gboolean refuse(const char *what, GError **error)
{
    error_set(error, VMFERRY_ERROR_UNSUPPORTED, "Bochs: %s is not supported", what);
    return FALSE;
}

gboolean bochs_check_movable(Vmm *vmm, GError **error)
{
    return refuse("moving a guest away", error);
}

json_t *bochs_read_machine(Vmm *vmm, char *const *original, char ***ret_line, GError **error)
{
    refuse("describing the live machine", error);
    return NULL;
}

gboolean bochs_check_unchanged(Vmm *vmm, json_t *before, GError **error)
{
    return refuse("describing the live machine", error);
}

gboolean bochs_match_machine(Vmm *vmm, const char *type, json_t *machine, GError **error)
{
    return refuse("comparing machines", error);
}

/* A guard connects to sockets; Bochs has FIFOs. */
gboolean bochs_get_resume_action(Vmm *vmm, GuardAction *ret, GError **error)
{
    return refuse("being resumed when the agent dies", error);
}

gboolean bochs_get_pause_action(Vmm *vmm, GuardAction *ret, GError **error)
{
    return refuse("being paused when the agent dies", error);
}

gboolean bochs_stay_at_shutdown(Vmm *vmm, gboolean stays, GError **error)
{
    return refuse("staying when the guest shuts down", error);
}

gboolean bochs_announce(Vmm *vmm, GError **error)
{
    return refuse("a network card that is connected to a network", error);
}

ProcessIdentity *bochs_get_process(Vmm *vmm, GError **error)
{
    refuse("telling as whom another host is to run it", error);
    return NULL;
}
