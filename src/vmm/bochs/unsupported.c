/* What this driver does not do, each by name. */
#include "base/error.h"
#include "vmm/bochs/driver.h"

/* Bochs ends by itself then. */
gboolean bochs_stay_at_shutdown(Vmm *vmm, gboolean stays, GError **error)
{
    if (!stays)
        return TRUE;
    error_set(error, VMFERRY_ERROR_UNSUPPORTED,
              "Bochs: staying when the guest shuts down is not supported");
    return FALSE;
}
