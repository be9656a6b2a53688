/*
 * Resuming a guest of libvirt's after the agent's death
 *
 * A guard (guard/action.h) runs a helper: it connects to libvirt, and resumes the domain where it is paused.  One that has ended,
 * that runs, or that QEMU's own migration has taken elsewhere, is left as it is: nothing is to be done then.
 */
#pragma once

#include "guard/action.h"

/* Adds that to *action*; *address*: address.h. */
void libvirt_add_resume(GuardAction *action, const char *address);
