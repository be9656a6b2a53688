#include "migrate/throttle_mode.h"

#include <string.h>

static const char *const names[] = {
    [THROTTLE_AUTO] = "auto",
    [THROTTLE_CGROUP] = "cgroup",
    [THROTTLE_DUTY] = "duty",
    [THROTTLE_OFF] = "off",
};
G_STATIC_ASSERT(G_N_ELEMENTS(names) == THROTTLE_OFF + 1);

const char *throttle_mode_name(ThrottleMode mode)
{
    return names[mode];
}

gboolean throttle_mode_from_name(const char *name, ThrottleMode *ret)
{
    for (guint i = 0; i < G_N_ELEMENTS(names); i++) {
        if (strcmp(name, names[i]) == 0) {
            *ret = (ThrottleMode)i;
            return TRUE;
        }
    }
    return FALSE;
}
