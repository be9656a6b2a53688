/* The names of the ways to slow a guest, for options and reports. */
#pragma once

#include <glib.h>

typedef enum {
    THROTTLE_AUTO,   /* cgroup where that is possible, else duty */
    THROTTLE_CGROUP, /* CPU limit of the vCPUs' control group (cgroup v2) */
    THROTTLE_DUTY,   /* pausing and resuming in turns */
    THROTTLE_OFF,    /* never */
} ThrottleMode;

/* "auto", "cgroup", "duty", "off" */
const char *throttle_mode_name(ThrottleMode mode);
gboolean throttle_mode_from_name(const char *name, ThrottleMode *ret);
